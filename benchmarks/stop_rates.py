"""How often stochastic gradients with default settings stop wrongly, or never, on the fifteen reference posteriors.

    python -m benchmarks.stop_rates [NAME ...] [--seeds 2]

Full data, two families. The error is the distance of the mean from the optimum of the same family that is next to it, in the
posterior's sds: smoothed Newton from there on a design of 8,192 points, which has nothing in common with the steps. A stop
is wrong where that is above 0.1. Where Newton finds no optimum there is no error, and the fit should not stop.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np

import jensen as jn
from jensen.core import keys
from jensen.core.precision import scope
from jensen.core.threads import one_blas_thread
from jensen.engines import fixed_draws
from jensen.engines.designs import orthogonal
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.gradient import Gradient
from jensen.engines.gradient_states import Natural
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run
from posteriors.load import load, names

POINTS, WRONG = 8192, 0.1
FAMILIES = {"meanfield": jn.MeanField(), "fullrank": jn.FullRank()}


def optimum(target: Any, family: Any, q: Any) -> tuple[Any, np.ndarray] | None:
    """The family's optimum next to q, and the posterior's sds there by the smoothed curvature; None where Newton finds none."""
    engine = FixedDraws(family, q, large=False)
    state = engine.init(target, 0)
    fine = orthogonal(keys.generator(1, "reference"), target.dim, POINTS)
    point = fixed_draws._evaluate(target, fine, state.point.mean, state.point.factor)
    if point is None:
        return None
    state = replace(state, designs=(fine,), point=point)
    for _ in range(engine.steps):
        state, ticks = engine.advance(state, target)
        if ticks.done:
            break
    if not engine.converged(state):
        return None
    w, v = np.linalg.eigh(-state.point.curvature)
    factor = state.point.factor
    white = factor @ v if factor.ndim == 2 else factor[:, None] * v
    return engine.finish(state), np.sqrt((white**2 / np.maximum(w, 1e-8)).sum(1))


def one(name: str, kind: str, seed: int) -> tuple[str, float | None]:
    """Status and error of one fit; prints its row."""
    model, data, _ = load(name)
    with scope(), one_blas_thread():
        target = Target(read(model, data))
        begun = time.process_time()
        q, record = run(Gradient(FAMILIES[kind]), target, seed=seed, progress=False)
        seconds = time.process_time() - begun
        found = optimum(target, FAMILIES[kind], q)
    error = None if found is None else float((np.abs(np.asarray(q.mean) - found[0].mean) / found[1]).max())
    state = record.state
    last = "warm-up"
    if isinstance(state, Natural):
        last = f"{state.stages} stages, rho {state.stage.rho:.2g}, error {state.error:.2g}"
    shown = "none" if error is None else f"{error:.3f}"
    print(
        f"| {name} | {kind} | {seed} | {record.status} | {shown} | {record.steps:,} | {last} | {seconds:.1f} |",
        flush=True,
    )
    return record.status, error


def main() -> None:
    """Print a row a fit, and the rates."""
    parser = argparse.ArgumentParser("python -m benchmarks.stop_rates")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=2)
    asked = parser.parse_args()
    print("| posterior | family | seed | status | error, sds | steps | last stage | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    found = [one(n, kind, seed) for n in asked.names or names() for kind in FAMILIES for seed in range(asked.seeds)]
    stopped = [error for status, error in found if status == "converged"]
    wrong = sum(error is None or error > WRONG for error in stopped)
    worst = max((error for error in stopped if error is not None), default=np.nan)
    print(
        f"\n{len(found)} fits: {len(stopped)} stopped by themselves, {wrong} of them wrongly (largest error {worst:.3f} sds); "
        f"{len(found) - len(stopped)} did not stop"
    )


if __name__ == "__main__":
    main()
