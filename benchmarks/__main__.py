"""Run benchmarks by name: ``python -m benchmarks NAME [its arguments] ...``; all of them without a name.

What follows a name and is none itself is an argument of that benchmark, as in ``python -m benchmarks large w08 --rows 2000000``.
"""

import sys
from runpy import run_module

NAMES = (
    "posteriors",
    "nuts_cost",
    "ladder",
    "record",
    "blind",
    "stein",
    "structured",
    "grouped",
    "nearly",
    "warm_nuts",
    "cold_start",
    "dimension",
    "conjugacy",
    "conjugacy_hand",
    "mixture_large",
    "topics",
    "large",
    "minibatch",
    "stop_rates",
    "loop",
    "crash",
    "distributed",
    "estimators_topics",
)

if __name__ == "__main__":
    wanted: list[list[str]] = []
    for word in sys.argv[1:]:
        if word in NAMES:
            wanted.append([word])
        elif wanted:
            wanted[-1].append(word)
        else:
            sys.exit(f"no benchmark {word!r}; there are {', '.join(NAMES)}")
    for name, *arguments in wanted or [[name] for name in NAMES]:
        print(f"\n== {name}\n", flush=True)
        sys.argv = [name, *arguments]
        run_module(f"benchmarks.{name}", run_name="__main__")
