"""What the loop costs: steps per second of one compiled scan, and of the loop with progress and callbacks around the same steps.

The steps are those of tests/scan_engine.py: Adam with averaging on minibatches of a logistic regression (20,000 rows, 50
columns), 50 steps a chunk. The progress line goes to a terminal that is not there (a file that says it is one). The ways take
turns; the ratio is of the fastest times, because other work on the machine can only slow them; beside it that of median CPU
seconds. Below, what the loop itself costs a chunk: an engine that does nothing.

    python -m benchmarks.loop [repeats]
"""

import io
import sys
import time
from typing import Any

import jax
import numpy as np

from jensen.engines.engine import Ticks

STEPS = 20_000
CHUNK = 50


class _Idle:
    """An engine that does nothing, so many times."""

    chunks = 20_000
    ticks = Ticks(np.zeros(CHUNK))

    def init(self, target: Any, seed: int) -> int:
        return 0

    def advance(self, state: int, target: Any) -> tuple[int, Ticks]:
        return state + 1, self.ticks._replace(done=state + 1 == self.chunks)

    def finish(self, state: int) -> int:
        return state

    def converged(self, state: int) -> bool:
        return True


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def main(repeats: int = 15) -> None:
    """Print the table."""
    from tests.scan_engine import ScanEngine, data, scan

    from jensen.callbacks import Tracker
    from jensen.run import run

    rows = tuple(map(jax.numpy.asarray, data()))
    print(
        "| batch | bare scan, steps / s | loop | loop, progress, callback on the loss | loop, progress, callback on q | ratios |"
    )
    print("|---|---|---|---|---|---|")
    for batch in (100, 1000):
        steps = STEPS if batch == 100 else STEPS // 4
        engine = ScanEngine(total=steps, chunk=CHUNK, batch=batch)
        first = engine.init(rows, 0)["scan"]

        def bare(steps: int = steps, batch: int = batch, first: Any = first) -> None:
            jax.block_until_ready(scan(batch, steps, rows, first))

        def loop(engine: Any = engine, first: Any = first, **options: Any) -> None:
            standard, sys.stderr = sys.stderr, _Terminal()
            try:
                run(engine, rows, seed=0, state={"scan": first, "taken": 0}, **options)
            finally:
                sys.stderr = standard

        ways = {
            "bare": bare,
            "loop": lambda loop=loop: loop(progress=False),
            "loss": lambda loop=loop: loop(progress=True, callbacks=[lambda s: bool(s.loss[-1] < -1)]),
            "q": lambda loop=loop: loop(progress=True, callbacks=[Tracker(mean=lambda s: s.q.mean)]),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        cpu: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats + 1):
            for name, way in ways.items():
                begun, busy = time.perf_counter(), time.process_time()
                way()
                cpu[name].append(time.process_time() - busy)
                seconds[name].append(time.perf_counter() - begun)
        pace = {name: steps / min(found[1:]) for name, found in seconds.items()}  # the first compiles
        middle = {name: float(np.median(found[1:])) for name, found in cpu.items()}
        ratios = ", ".join(
            f"{pace[n] / pace['bare']:.2f} ({middle['bare'] / middle[n]:.2f})" for n in ("loop", "loss", "q")
        )
        numbers = " | ".join(f"{pace[name]:,.0f}" for name in ways)
        print(f"| {batch} | {numbers} | {ratios} |", flush=True)
    print("\nratios to the bare scan: of the fastest times, in brackets of median CPU seconds")
    idle = []
    for _ in range(5):
        busy, (standard, sys.stderr) = time.process_time(), (sys.stderr, _Terminal())
        run(_Idle(), None, seed=0, progress=True, callbacks=[lambda s: bool(s.loss[-1] < -1)])
        sys.stderr = standard
        idle.append(time.process_time() - busy)
    print(
        f"the loop itself, with progress and a callback: {min(idle) / _Idle.chunks * 1e6:.1f} microseconds of CPU a chunk"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
