"""A mixture of three Normals with many rows: passes of coordinate ascent and stochastic variational inference, side by side.

    python -m benchmarks.mixture_large [rows ...]

Ours is the ordinary NumPyro model. The hand-written passes do the same update of the same q, without the ELBO: NumPy on whole
arrays, and a JAX scan over blocks. CPU milliseconds a pass are the smallest of several calls, taken in turn; passes of a loop
count together.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import digamma, softmax
from tests.conjugacy.zoo_data import mixture
from tests.conjugacy.zoo_models import gmm

from jensen.conjugate.plan import make_plan
from jensen.core.precision import scope
from jensen.core.threads import one_blas_thread
from jensen.engines import large
from jensen.engines.large import LargeCoordinateAscent
from jensen.engines.natural import NaturalGradient
from jensen.models.numpyro_graph import graph
from jensen.run import run

SIZES = (100_000, 1_000_000)
BLOCK = 4096
PASSES = 8

Globals = tuple[Any, Any, Any, Any, Any]


def natural(q: Globals, xp: Any, psi: Any) -> Any:
    """Coefficients (3, K) of (x^2, x, 1) in the log densities."""
    weights, mean, var, a, b = q
    tau, log_tau = a / b, psi(a) - xp.log(b)
    constant = psi(weights) - psi(weights.sum()) + 0.5 * (log_tau - tau * (mean**2 + var))
    return xp.stack([-0.5 * tau, tau * mean, constant])


def update(q: Globals, square: Any, total: Any, count: Any) -> Globals:
    """Every block once, given the moments of the responsibilities."""
    _, _, _, a, b = q
    tau = a / b
    var = 1 / (0.01 + tau * count)
    mean = tau * total * var
    return 1 + count, mean, var, 2 + 0.5 * count, 1 + 0.5 * (square - 2 * mean * total + count * (mean**2 + var))


def by_numpy(x: np.ndarray, q: Globals) -> Globals:
    """One pass on whole arrays."""
    coefficients = natural(q, np, digamma)
    phi = softmax(x[:, None] ** 2 * coefficients[0] + x[:, None] * coefficients[1] + coefficients[2], 1)
    return update(q, x**2 @ phi, x @ phi, phi.sum(0))


@jax.jit
def by_scan(blocks: Any, inside: Any, q: Globals) -> Globals:
    """Passes over blocks (blocks, BLOCK) of padded rows."""

    def one(_: Any, q: Globals) -> Globals:
        coefficients = natural(q, jnp, jax.scipy.special.digamma)

        def add(carry: Any, block: Any) -> Any:
            x, w = block
            rows = jnp.stack([x**2, x, jnp.ones_like(x)])
            table = coefficients.T @ rows
            odds = jnp.exp(table - table.max(0))
            return carry + (odds * (w / odds.sum(0))) @ rows.T, None

        sums, _ = jax.lax.scan(add, jnp.zeros((len(q[0]), 3)), (blocks, inside))
        return update(q, sums[:, 0], sums[:, 1], sums[:, 2])

    return jax.lax.fori_loop(0, PASSES, one, q)


def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds and the result."""
    begun = time.process_time()
    found = jax.block_until_ready(call())
    return time.process_time() - begun, found


def one_size(rows: int) -> None:
    """Print the lines of a table."""
    arguments = mixture(N=rows)
    x, levels = arguments["x"], arguments["K"]
    building, plan = cpu(lambda: make_plan(graph(gmm, {"x": x}, {"K": levels}), {"x": x}))
    starting, state = cpu(lambda: LargeCoordinateAscent().init(plan, 0))
    # The same q for all, in the parameters of the hand-written passes.
    mu, tau = state.families["mu"], state.families["tau"]
    own = mu.moments()
    start = (state.families["pi"].concentration, own["mean"], own["cov"], tau.concentration, tau.rate)
    start = tuple(np.asarray(value) for value in start)
    padded = np.pad(x, (0, -rows % BLOCK)).reshape(-1, BLOCK)
    inside = np.pad(np.ones(rows), (0, -rows % BLOCK)).reshape(-1, BLOCK)
    padded, inside = jnp.asarray(padded), jnp.asarray(inside)
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "ours, a pass": (PASSES, lambda: large.steps(state, plan, large.full(state.locals), PASSES)[0].families),
        "JAX scan by hand, a pass": (PASSES, partial(by_scan, padded, inside, start)),
        "NumPy by hand, a pass": (1, partial(by_numpy, x, start)),
    }
    best: dict[str, float] = dict.fromkeys(calls, np.inf)
    for number in range(4):
        for name, (passes, call) in calls.items():
            if number == 3 and passes == 1:
                continue
            best[name] = min(best[name], cpu(call)[0] / passes)
    for name, seconds in best.items():
        print(
            f"| {rows} | {name} | {1e3 * seconds:.2f} | {seconds / best['JAX scan by hand, a pass']:.2f} |", flush=True
        )
    ours = calls["ours, a pass"][1]()
    hand = by_scan(padded, inside, start)
    gap = float(jnp.abs(ours["mu"].moments()["mean"] - hand[1]).max())
    print(f"| {rows} | difference of means from the scan's, after {PASSES} passes | {gap:.1e} | |")
    print(f"| {rows} | plan | {1e3 * building:.0f} | |")
    print(f"| {rows} | start and compilation | {1e3 * starting:.0f} | |")
    whole, (_, exact) = cpu(lambda: run(LargeCoordinateAscent(), plan, seed=0, progress=False))
    stochastic, (_, record) = cpu(lambda: run(NaturalGradient(), plan, seed=0, progress=False))
    bound = exact.history["elbo"][-1]
    short = (bound - record.history["elbo"][-1]) / abs(bound)
    print(f"| {rows} | coordinate ascent to convergence, {exact.steps} passes | {1e3 * whole:.0f} | |")
    print(f"| {rows} | stochastic, 4 passes and a whole one | {1e3 * stochastic:.0f} | relative gap {short:.1e} |")


def main(sizes: tuple[int, ...] = SIZES) -> None:
    """Print the table."""
    print("| rows | what | CPU ms | ratio to the scan |")
    print("|---|---|---|---|")
    with scope("float64"), one_blas_thread():
        for rows in sizes:
            one_size(rows)


if __name__ == "__main__":
    main(tuple(int(word) for word in sys.argv[1:]) or SIZES)
