"""Stochastic gradients with default settings on three data sets of 40,000 to 200,000 rows, and the cost of the compiled loop.

    python -m benchmarks.minibatch [NAME ...]

Error is the largest difference of a mean from the optimum of the same family, in posterior sds; optima are closed forms, or
Newton's method on all rows and a third-order correction. A pass is N gradients of a row's log density, however many draws
share a batch; CPU seconds are those of a second fit, after compilation.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jensen as jn
from benchmarks.large_data import correlated


class Case(NamedTuple):
    """A model with its data, the size of batches, and means and sds of the optimum by site (unconstrained)."""

    model: Any
    data: dict[str, np.ndarray]
    batch: int
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]


def normals() -> Case:
    """40,000 x 100 numbers: a flat mean and a half-normal sd a column."""
    import numpyro
    import numpyro.distributions as dist

    n, d = 40_000, 100
    rng = np.random.default_rng(6)
    x = rng.random((n, d)) * rng.integers(1, 10, size=d) + rng.random(d) * 10

    def model(x):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), (d,)))
        sd = numpyro.sample("sd", dist.HalfNormal(jnp.ones(d)).to_event(1))
        with numpyro.plate("N", x.shape[0]):
            numpyro.sample("like", dist.Normal(mu, sd).to_event(1), obs=x)

    # With t = log sd ~ N(m, v): E F = n m + (S / 2) exp(2 v - 2 m) + exp(2 m + 2 v) / 2 - m, S the squares with mu's variance.
    square, m, v = ((x - x.mean(0)) ** 2).sum(0), np.log(x.std(0)), np.full(d, 0.5 / n)
    for _ in range(50):
        var = np.exp(2 * m - 2 * v) / n  # of mu: 1 / E[n exp(-2 t)]
        tail, prior = (square + n * var) * np.exp(2 * v - 2 * m), np.exp(2 * m + 2 * v)
        m -= (n - 1 - tail + prior) / (2 * tail + 2 * prior)
        v = 1 / (2 * tail + 2 * prior)
    return Case(
        model, {"x": x}, 500, {"mu": x.mean(0), "sd": m}, {"mu": np.sqrt(np.exp(2 * m - 2 * v) / n), "sd": np.sqrt(v)}
    )


def logistic() -> Case:
    """Logistic regression, 200,000 x 50, neighboring columns correlated."""
    import numpyro
    import numpyro.distributions as dist

    X, y = correlated()
    n, k = X.shape

    def model(X, y):
        b0 = numpyro.sample("b0", dist.Normal(0.0, 4.0))
        b = numpyro.sample("b", dist.Normal(0.0, 4.0).expand([k]).to_event(1))
        with numpyro.plate("N", X.shape[0]):
            numpyro.sample("y", dist.Bernoulli(logits=b0 + X @ b), obs=y)

    # Mean-field optimum: E grad = 0 with Gaussian predictors eta_i ~ N(m_i, s_i^2), by 20 Gauss-Hermite nodes.
    A = np.column_stack([np.ones(n), X])
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    m, sd = np.zeros(k + 1), np.full(k + 1, 1e-3)
    for _ in range(12):
        center, spread = A @ m, np.sqrt(A**2 @ sd**2)
        p, slope = np.zeros(n), np.zeros(n)
        for node, weight in zip(nodes, weights, strict=True):
            one = 1 / (1 + np.exp(-(center + spread * node)))
            p += weight * one
            slope += weight * one * (1 - one)
        hessian = (A * slope[:, None]).T @ A + np.eye(k + 1) / 16
        m = m + np.linalg.solve(hessian, A.T @ (y - p) - m / 16)
        sd = 1 / np.sqrt(np.diagonal(hessian))
    posterior = np.sqrt(np.diagonal(np.linalg.inv(hessian)))
    return Case(model, {"X": X, "y": y}, 1000, {"b0": m[:1], "b": m[1:]}, {"b0": posterior[:1], "b": posterior[1:]})


def line() -> Case:
    """A straight line through 50,000 points, sorted in x; half-Cauchy noise sd."""
    import numpyro
    import numpyro.distributions as dist

    n = 50_000
    rng = np.random.default_rng(8)
    x = np.linspace(0, 1, n)
    y = 1 + 2 * x + rng.normal(scale=0.5, size=n)

    def model(x, y):
        sigma = numpyro.sample("sigma", dist.HalfCauchy(10.0))
        a = numpyro.sample("Intercept", dist.Normal(0.0, 20.0))
        b = numpyro.sample("x", dist.Normal(0.0, 20.0))
        with numpyro.plate("N", x.shape[0]):
            numpyro.sample("y", dist.Normal(a + b * x, sigma), obs=y)

    # t = log sigma ~ N(m, v), coefficients given E exp(-2 t); the prior of t is smooth to 1e-5 sds over q's width.
    X = np.column_stack([np.ones(n), x])
    m, v = 0.0, 0.5 / n
    for _ in range(50):
        precision = X.T @ X * np.exp(2 * v - 2 * m) + np.eye(2) / 400
        beta = np.linalg.solve(precision, X.T @ y * np.exp(2 * v - 2 * m))
        var = 1 / np.diagonal(precision)
        square = ((y - X @ beta) ** 2).sum() + (np.diagonal(X.T @ X) * var).sum()
        tail, ratio = square * np.exp(2 * v - 2 * m), np.exp(2 * m) / 100
        m -= (n - 1 - tail + 2 * ratio / (1 + ratio)) / (2 * tail)
        v = 1 / (2 * tail)
    posterior = np.sqrt(np.diagonal(np.linalg.inv(precision)))
    mean = {"Intercept": beta[:1], "x": beta[1:], "sigma": np.array([m])}
    sd = {"Intercept": posterior[:1], "x": posterior[1:], "sigma": np.array([np.sqrt(v)])}
    return Case(model, {"x": x, "y": y}, 500, mean, sd)


CASES: dict[str, Callable[[], Case]] = {"normals": normals, "logistic": logistic, "line": line}


def target_of(case: Case, seed: int) -> Any:
    """The model with its rows."""
    from jensen.data.build import table
    from jensen.models import plates
    from jensen.models.large import LargeTarget
    from jensen.models.read import read

    record = read(case.model, case.data)
    plate = plates.find(record)[0]
    return LargeTarget(record, plate, table(**{name: record.data[name] for name, _ in plate.data}), seed=seed)


def one_case(name: str) -> None:
    """Fits with two seeds after a first one that compiles."""
    from jensen.core.layout import unflatten
    from jensen.core.precision import scope
    from jensen.core.threads import one_blas_thread
    from jensen.engines.gradient import Gradient
    from jensen.models.minibatch import batches
    from jensen.run import run

    case = CASES[name]()
    with scope(), one_blas_thread():
        for seed in (0, 1, 2):
            begun = time.process_time()
            target = target_of(case, seed)
            engine = Gradient(jn.MeanField(), batch_size=case.batch)
            q, record = run(engine, target, seed=seed, progress=False)
            seconds = time.process_time() - begun
            if seed == 0:
                continue
            mean, sd = unflatten(target.model.sites, q.mean), unflatten(target.model.sites, q.sd)
            error = max(float(np.abs((mean[s] - case.mean[s]) / case.sd[s]).max()) for s in case.mean)
            steps = record.state.step
            per_step = (engine.draws + 1) / batches(target, case.batch).epoch
            passes = steps * per_step + target.gradients
            print(
                f"| {name} | {seed} | {record.status} | {error:.3f} | {passes:.1f} | {steps} | {seconds:.2f} | "
                f"{record.notes[-1]} |",
                flush=True,
            )
            del sd


def loop() -> None:
    """Steps per CPU second of a user's optimizer on batches, beside a bare scan of the same step."""
    import optax

    from jensen.core.precision import scope
    from jensen.core.threads import one_blas_thread
    from jensen.engines import gradient_steps
    from jensen.engines.gradient import Gradient
    from jensen.models.minibatch import batches
    from jensen.run import run

    case, steps, adam = logistic(), 4000, optax.adam(1e-3)

    class Quiet:
        """A callback that looks at q now and then."""

        def __call__(self, snapshot):
            return snapshot.step % 1000 == 0 and bool(np.isnan(snapshot.q.mean).any())

    with scope(), one_blas_thread():
        target = target_of(case, 0)
        for size in (100, 1000):
            engine = Gradient(optimizer=adam, draws=1, batch_size=size, steps=steps)
            rows = batches(target, size)
            q = jn.MeanField().start(np.zeros(target.dim), 0.1)
            params = gradient_steps.params_of(q)
            blocks = rows.part(0, 0, 50).blocks
            order = np.concatenate([rows.part(0, step, 50).index for step in range(0, steps, 50)])

            def density(z, block, rows=rows):
                from jensen.core.layout import unflatten
                from jensen.models.model import total

                return total(rows.factors(unflatten(target.model.sites, z), {**rows.rest, **block}))

            def step(carry, number, blocks, density=density):
                params, memory, key = carry
                key, own = jax.random.split(key)
                eps = jax.random.normal(own, params["mean"].shape)
                block = {name: jax.lax.dynamic_index_in_dim(v, number, 0, False) for name, v in blocks.items()}

                def loss(p):
                    return -density(p["mean"] + jnp.exp(p["log_sd"]) * eps, block) - p["log_sd"].sum()

                value, slope = jax.value_and_grad(loss)(params)
                updates, memory = adam.update(slope, memory, params)
                return (optax.apply_updates(params, updates), memory, key), value

            @jax.jit
            def bare(params, blocks, order, step=step):
                carry = (params, adam.init(params), jax.random.key(0))
                return jax.lax.scan(lambda c, i: step(c, i, blocks), carry, order)

            def ours(engine=engine):
                return run(engine, target, seed=0, progress=False, callbacks=[Quiet()])

            def theirs(params=params, blocks=blocks, order=order, bare=bare):
                return jax.block_until_ready(bare(params, blocks, order))

            best = dict.fromkeys((ours, theirs), np.inf)
            for _ in range(5):
                for call in best:
                    begun = time.process_time()
                    call()
                    best[call] = min(best[call], time.process_time() - begun)
            print(
                f"| {size} | {steps / best[ours]:,.0f} | {steps / best[theirs]:,.0f} | {best[theirs] / best[ours]:.2f} |",
                flush=True,
            )


def main(chosen: list[str] | None = None) -> None:
    """Print both tables."""
    if chosen != ["loop"]:
        print("| data | seed | status | error, sds | passes | steps | CPU s | |")
        print("|---|---|---|---|---|---|---|---|")
        for name in chosen or CASES:
            one_case(name)
    if not chosen or chosen == ["loop"]:
        print("\n| rows a batch | steps a CPU second, with a callback | bare scan | ratio |")
        print("|---|---|---|---|")
        loop()


if __name__ == "__main__":
    main(sys.argv[1:])
