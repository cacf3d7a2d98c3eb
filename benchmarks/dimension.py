"""High dimension: a correlated logistic regression, N = 5,000, by full rank at D = 300 and by mean-field at D = 1,000.

At D = 300 the answer of ``method="auto"`` is compared with long NUTS runs (NumPyro, 4 chains of 2,000 draws); at D = 1,000 the
sds of mean-field and of its linear response with the curvature of a Newton-Laplace fit.

    python -m benchmarks.dimension
"""

import time
import warnings
from typing import Any

import numpy as np


def model(X: Any, y: Any) -> None:
    """Logistic regression with standard normal coefficients."""
    import numpyro
    import numpyro.distributions as dist

    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=X @ beta), obs=y)


def data(dim: int, rows: int = 5000, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns that share a common factor and random rotations of it."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dim, dim)) / np.sqrt(dim) + np.eye(dim)
    X = rng.normal(size=(rows, dim)) @ mixing + 0.7 * rng.normal(size=(rows, 1))
    X /= np.sqrt(dim)
    beta = rng.normal(size=dim)
    return {"X": X, "y": (rng.uniform(size=rows) < 1 / (1 + np.exp(-X @ beta))).astype(int)}


def timed(call: Any) -> tuple[Any, float, float]:
    """Result, wall seconds, CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = call()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def nuts(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Draws (n, D) of the coefficients."""
    import jax
    from numpyro.infer import MCMC, NUTS

    with jax.enable_x64(True):
        sampler = MCMC(NUTS(model), num_warmup=1000, num_samples=2000, num_chains=4, progress_bar=False)
        sampler.run(jax.random.key(0), **inputs)
        return np.asarray(sampler.get_samples()["beta"])


def laplace_sd(inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Sds of the Laplace approximation, by Newton's method."""
    X, y = inputs["X"], inputs["y"]
    beta = np.zeros(X.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-X @ beta))
        hessian = (X * (p * (1 - p))[:, None]).T @ X + np.eye(len(beta))
        beta = beta + np.linalg.solve(hessian, X.T @ (y - p) - beta)
    return np.sqrt(np.diagonal(np.linalg.inv(hessian)))


def main() -> None:
    """Print the table."""
    import jensen as jn

    inputs = data(300)
    posterior, wall, cpu = timed(lambda: jn.fit(model, data=inputs))
    print(f"D = 300, auto: {wall:.1f} s wall, {cpu:.1f} s CPU, {posterior.cost.gradients:,} gradients")
    print(f"         {posterior.verdict.counts}")
    draws, wall, cpu = timed(lambda: nuts(inputs))
    print(f"D = 300, NUTS: {wall:.1f} s wall, {cpu:.1f} s CPU")
    error = np.abs(posterior.mean["beta"] - draws.mean(0)) / draws.std(0)
    ratio = posterior.sd["beta"] / draws.std(0)
    print(f"         largest mean error {error.max():.3f} sd, median {np.median(error):.3f}")
    print(f"         sd ratios {ratio.min():.2f} to {ratio.max():.2f}")

    inputs = data(1000)
    posterior, wall, cpu = timed(lambda: jn.fit(model, "meanfield", data=inputs))
    print(f"D = 1000, mean-field: {wall:.1f} s wall, {cpu:.1f} s CPU, {posterior.cost.gradients:,} gradients")
    print(f"         {posterior.verdict.counts}")
    response, more, more_cpu = timed(posterior.linear_response)
    print(f"D = 1000, linear response: {more:.1f} s wall, {more_cpu:.1f} s CPU more; {response.verdict.counts}")
    exact = laplace_sd(inputs)
    print(
        f"         sds over Laplace's: mean-field {np.median(posterior.sd['beta'] / exact):.3f}, "
        f"linear response {np.median(response.sd['beta'] / exact):.3f} (medians)"
    )


if __name__ == "__main__":
    main()
