"""What the loop costs: steps per second of one compiled scan, and of the loop with progress and callbacks around the same steps.

The steps are those of tests/scan_engine.py: Adam with averaging on minibatches of a logistic regression (20,000 rows, 50
columns), 200 steps a chunk, as in the package's own engine. The progress line goes to a terminal that is not there (a file
that says it is one). The ways take turns; the ratio is of the fastest times, because other work on the machine can only slow
them; beside it that of median CPU seconds. Below, what the loop itself costs a chunk: an engine that does nothing. Last, the
package's own engine: its compiled loop in one call, and in the chunks that are made of it, with progress and two callbacks.

    python -m benchmarks.loop [repeats]
"""

import io
import sys
import time
from typing import Any

import jax
import numpy as np
import optax

from jensen.engines.engine import Ticks

STEPS = 20_000
CHUNK = 200


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


def own_engine(repeats: int) -> None:
    """Print the table of the package's own engine: its compiled loop in one call, and in the chunks that `run` makes of it."""
    from tests.scan_engine import data

    import jensen as jn
    from jensen.core.precision import scope
    from jensen.data.build import table
    from jensen.engines import gradient
    from jensen.models import minibatch, plates
    from jensen.models.large import LargeTarget
    from jensen.models.read import read
    from jensen.run import run

    x, y = data()
    rows = {"x": x, "y": y}

    def log_rows(p: Any, d: Any) -> Any:
        logits = d["x"] @ p["b"]
        return d["y"] * logits - jax.numpy.logaddexp(0.0, logits)

    model = jn.density(
        lambda p: -0.5 * (p["b"] ** 2).sum(), {"b": np.zeros(x.shape[1])}, log_likelihood=log_rows, data=rows
    )
    print("\n| batch | draws | one call, steps / s | loop, progress, two callbacks | ratio (of CPU seconds) |")
    print("|---|---|---|---|---|")
    with scope("float64"):
        record = read(model)
        target = LargeTarget(record, plates.find(record)[0], table(**rows), seed=0)
        for batch, draws in ((100, 2), (1000, 1), (1000, 2)):
            steps = 20_000 if batch == 100 else 5_000
            engine = jn.Gradient(optimizer=optax.adam(0.01), batch_size=batch, draws=draws, steps=steps)
            before = gradient.CHUNK, gradient._KEEP, minibatch._EPOCHS
            seconds: dict[str, list[float]] = {"one call": [], "loop": []}

            def whole(engine: Any = engine, steps: int = steps) -> None:
                gradient.CHUNK = gradient._KEEP = steps
                minibatch._EPOCHS = steps
                state = engine.init(target, 0)
                state, ticks = engine.advance(state, target)
                assert len(ticks.loss) == steps

            def chunks(engine: Any = engine, steps: int = steps, before: Any = before) -> None:
                gradient.CHUNK, gradient._KEEP, minibatch._EPOCHS = before
                callbacks = [jn.Tracker(mean=lambda s: s.q.mean), lambda s: bool(s.loss[-1] < -1e9)]
                standard, sys.stderr = sys.stderr, _Terminal()
                try:
                    run(engine, target, seed=0, steps=steps, callbacks=callbacks, progress=True)
                finally:
                    sys.stderr = standard

            cpu: dict[str, list[float]] = {"one call": [], "loop": []}
            for _ in range(repeats + 1):
                for name, way in (("one call", whole), ("loop", chunks)):
                    begun, busy = time.perf_counter(), time.process_time()
                    way()
                    cpu[name].append(time.process_time() - busy)
                    seconds[name].append(time.perf_counter() - begun)
            bare, loop = (steps / min(seconds[name][1:]) for name in ("one call", "loop"))
            middle = {name: float(np.median(found[1:])) for name, found in cpu.items()}
            ratios = f"{loop / bare:.2f} ({middle['one call'] / middle['loop']:.2f})"
            print(f"| {batch} | {draws} | {bare:,.0f} | {loop:,.0f} | {ratios} |", flush=True)


def main(repeats: int = 15) -> None:
    """Print the tables."""
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
    own_engine(repeats)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
