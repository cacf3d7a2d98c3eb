"""Run benchmarks by name: ``python -m benchmarks NAME ...``; all of them without a name."""

import sys
from importlib import import_module

NAMES = ("posteriors", "record", "cold_start", "dimension", "conjugacy", "conjugacy_hand", "mixture_large")

if __name__ == "__main__":
    wanted = sys.argv[1:] or NAMES
    for name in wanted:
        if name not in NAMES:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(NAMES)}")
        print(f"\n== {name}\n")
        import_module(f"benchmarks.{name}").main()
