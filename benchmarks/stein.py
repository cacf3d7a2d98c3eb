"""Stein variational gradient descent on a bimodal mixture, beside PyMC's, BlackJAX's, and NumPyro's AutoNormal.

The lecture's example: x ~ 0.2 N(-0.3, 0.1) + 0.8 N(0.5, 0.1), 1,000 particles. Every method is a process of its own; its CPU
seconds run from the start of Python to its end, imports and compilation included. Iterations per CPU second are those of
steps made after the fit, when everything is compiled. W1 is the Wasserstein distance to the mixture's own quantiles.

    python -m benchmarks.stein [METHOD ...]
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.process import measure

MASS, MEANS, SD = (0.2, 0.8), (-0.3, 0.5), 0.1
PARTICLES = 1000
SEEDS = 5
ADAM_STEPS = 30_000
SPEED_SECONDS = 2.0
"""CPU seconds spent on measuring the speed, which are taken off the process again."""


def truth(count: int) -> np.ndarray:
    """Quantiles of the mixture."""
    from scipy.stats import norm

    grid = np.linspace(-1.0, 1.3, 400_001)
    below = sum(mass * norm.cdf(grid, mean, SD) for mass, mean in zip(MASS, MEANS, strict=True))
    return np.interp((np.arange(count) + 0.5) / count, below, grid)


def log_density(x: Any) -> Any:
    """The mixture's log density, in JAX."""
    import jax.numpy as jnp

    parts = [jnp.log(mass) - 0.5 * ((x - mean) / SD) ** 2 for mass, mean in zip(MASS, MEANS, strict=True)]
    return jnp.logaddexp(*parts)


def speed(more: Callable[[], int]) -> float:
    """Steps a CPU second; `more` makes some, all compiled by now, and says how many."""
    steps, start = 0, time.process_time()
    while time.process_time() < start + SPEED_SECONDS:
        steps += more()
    return steps / (time.process_time() - start)


def jensen(seed: int) -> dict[str, Any]:
    """Default settings."""
    import jensen as jn
    from jensen.core.precision import scope
    from jensen.engines.stein import Stein
    from jensen.models.read import read
    from jensen.models.target import Target
    from jensen.run import run

    engine = Stein(PARTICLES)
    with scope():
        target = Target(read(jn.density(lambda p: log_density(p["x"]), {"x": 0.0})))
        q, record = run(engine, target, seed=seed, progress=False)
        gradients, state = target.gradients, record.state

        def more() -> int:
            nonlocal state
            state, ticks = engine.advance(state, target)
            return len(ticks.loss)

        return {"x": q.points[:, 0], "steps": record.steps, "gradients": gradients, "speed": speed(more)}


def pymc(seed: int) -> dict[str, Any]:
    """As in the lecture: 300 steps with sgd(0.01)."""
    import pymc as pm

    with pm.Model():
        pm.NormalMixture("x", w=list(MASS), mu=list(MEANS), sigma=SD)
        inference = pm.SVGD(n_particles=PARTICLES, random_seed=seed)
        step = inference.objective.step_function(obj_optimizer=pm.sgd(learning_rate=0.01))

    def more() -> int:
        step()
        return 1

    for _ in range(300):
        more()
    x = inference.approx.histogram.eval()[:, 0]
    return {"x": x, "steps": 300, "gradients": 300 * PARTICLES, "speed": speed(more)}


def blackjax(seed: int) -> dict[str, Any]:
    """Its defaults: RBF kernel with the median heuristic after every step; Adam(0.01), 300 steps from N(0, 1)."""
    import blackjax as bj
    import jax
    import optax
    from blackjax.vi.svgd import update_median_heuristic

    algorithm = bj.svgd(jax.grad(log_density), optax.adam(0.01), update_kernel_parameters=update_median_heuristic)
    step = jax.jit(algorithm.step)
    state = algorithm.init(jax.random.normal(jax.random.key(seed), (PARTICLES,)))
    for _ in range(300):
        state = step(state)

    def more() -> int:
        jax.block_until_ready(step(state))
        return 1

    return {"x": np.asarray(state.particles), "steps": 300, "gradients": 300 * PARTICLES, "speed": speed(more)}


def numpyro(seed: int) -> dict[str, Any]:
    """AutoNormal with Adam: the price of a fit as its users make it, and no multimodal answer."""
    import jax
    import numpyro as npy
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    def model() -> None:
        parts = dist.Normal(np.array(MEANS), SD)
        npy.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=np.array(MASS)), parts))

    guide = AutoNormal(model)
    svi = SVI(model, guide, npy.optim.Adam(1e-2), Trace_ELBO())
    result = svi.run(jax.random.key(seed), ADAM_STEPS, progress_bar=False)
    x = guide.sample_posterior(jax.random.key(1), result.params, sample_shape=(PARTICLES,))["x"]
    return {"x": np.asarray(x), "steps": ADAM_STEPS, "gradients": ADAM_STEPS, "speed": None}


METHODS = {"jensen": jensen, "PyMC": pymc, "BlackJAX": blackjax, "AutoNormal": numpyro}


def worker(method: str, seed: str) -> None:
    """One fit; prints JSON."""
    found = METHODS[method](int(seed))
    x = np.sort(np.asarray(found.pop("x"), float))
    found["w1"] = float(np.abs(x - truth(len(x))).mean())
    found["left"] = float((x < 0.1).mean())
    print(json.dumps(found))


def main(chosen: list[str] | None = None) -> None:
    """Run everything and print the table."""
    print("| method | seed | steps | gradients | its / CPU s | W1 | mass of the left mode (0.2) | cold CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for method in chosen or METHODS:
        for seed in range(SEEDS if method == "jensen" else 1):
            found = measure("benchmarks.stein", "--worker", method, str(seed))
            result = found.result
            cold = found.cpu - (SPEED_SECONDS if result["speed"] else 0.0)
            print(
                f"| {method} | {seed} | {result['steps']:,} | {result['gradients']:,} | {result['speed'] or float('nan'):.0f} | "
                f"{result['w1']:.4f} | {result['left']:.3f} | {cold:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main(sys.argv[1:])
