"""Regressions and time series of the blind set: models and data.

Data are simulated with fixed seeds, but for the Puromycin rates (Treloar 1974; Bates and Watts 1988, Nonlinear Regression
Analysis and Its Applications, appendix A1.3).
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import sample

CONCENTRATION = np.array([0.02, 0.02, 0.06, 0.06, 0.11, 0.11, 0.22, 0.22, 0.56, 0.56, 1.10, 1.10])
RATE = np.array([76.0, 47.0, 97.0, 107.0, 123.0, 139.0, 159.0, 152.0, 191.0, 201.0, 207.0, 200.0])


def lm_plain(X, y):
    beta = sample("beta", dist.Normal(0.0, 3.0).expand([X.shape[1]]).to_event(1))
    sigma = sample("sigma", dist.HalfNormal(2.0))
    sample("y", dist.Normal(X @ beta, sigma), obs=y)


def lm_collinear(X, y):
    beta = sample("beta", dist.Normal(0.0, 5.0).expand([X.shape[1]]).to_event(1))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    sample("y", dist.Normal(X @ beta, sigma), obs=y)


def lm_scales(X, y, width):
    beta = sample("beta", dist.Normal(0.0, width).to_event(1))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    sample("y", dist.Normal(X @ beta, sigma), obs=y)


def ridge(X, y):
    tau = sample("tau", dist.HalfNormal(1.0))
    sigma = sample("sigma", dist.Exponential(1.0))
    beta = sample("beta", dist.Normal(0.0, tau).expand([X.shape[1]]).to_event(1))
    sample("y", dist.Normal(X @ beta, sigma), obs=y)


def sparse(X, y):
    tau = sample("tau", dist.HalfNormal(0.5))
    local = sample("local", dist.HalfNormal(2.0).expand([X.shape[1]]).to_event(1))
    raw = sample("raw", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    sigma = sample("sigma", dist.Exponential(1.0))
    sample("y", dist.Normal(X @ (raw * local * tau), sigma), obs=y)


def logit_separated(x, y):
    a = sample("a", dist.Normal(0.0, 4.0))
    b = sample("b", dist.Normal(0.0, 4.0))
    sample("y", dist.Bernoulli(logits=a + b * x), obs=y)


def logit_near(X, y):
    alpha = sample("alpha", dist.Normal(0.0, 5.0))
    beta = sample("beta", dist.Normal(0.0, 5.0).expand([X.shape[1]]).to_event(1))
    sample("y", dist.Bernoulli(logits=alpha + X @ beta), obs=y)


def probit(X, y):
    beta = sample("beta", dist.Normal(0.0, 2.0).expand([X.shape[1]]).to_event(1))
    eta = X @ beta
    numpyro.factor("y", jnp.where(y == 1, jax.scipy.stats.norm.logcdf(eta), jax.scipy.stats.norm.logcdf(-eta)).sum())


def poisson_exposure(x, exposure, y):
    a = sample("a", dist.Normal(0.0, 3.0))
    b = sample("b", dist.Normal(0.0, 1.0))
    c = sample("c", dist.Normal(0.0, 1.0))
    sample("y", dist.Poisson(exposure * jnp.exp(a + b * x + c * x**2)), obs=y)


def negbin(X, y):
    beta = sample("beta", dist.Normal(0.0, 2.0).expand([X.shape[1]]).to_event(1))
    shape = sample("shape", dist.Gamma(2.0, 0.5))
    sample("y", dist.NegativeBinomial2(jnp.exp(X @ beta), shape), obs=y)


def robust(x, y):
    a = sample("a", dist.Normal(0.0, 5.0))
    b = sample("b", dist.Normal(0.0, 5.0))
    sigma = sample("sigma", dist.HalfNormal(2.0))
    nu = sample("nu", dist.Gamma(2.0, 0.2))
    sample("y", dist.StudentT(nu, a + b * x, sigma), obs=y)


def ordinal(X, y):
    slope = sample("slope", dist.Normal(0.0, 2.0).expand([X.shape[1]]).to_event(1))
    base = dist.Normal(0.0, 2.0).expand([3]).to_event(1)
    cuts = sample("cuts", dist.TransformedDistribution(base, dist.transforms.OrderedTransform()))
    sample("y", dist.OrderedLogistic(X @ slope, cuts), obs=y)


def heteroscedastic(x, y):
    a = sample("a", dist.Normal(0.0, 5.0))
    b = sample("b", dist.Normal(0.0, 5.0))
    c = sample("c", dist.Normal(0.0, 2.0))
    d = sample("d", dist.Normal(0.0, 2.0))
    sample("y", dist.Normal(a + b * x, jnp.exp(c + d * x)), obs=y)


def gp_hyper(x, y):
    height = sample("height", dist.HalfNormal(2.0))
    length = sample("length", dist.LogNormal(0.0, 0.7))
    noise = sample("noise", dist.HalfNormal(0.5))
    squares = (x[:, None] - x[None, :]) ** 2
    cov = height**2 * jnp.exp(-0.5 * squares / length**2) + (noise**2 + 1e-8) * jnp.eye(len(x))
    sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance_matrix=cov), obs=y)


def michaelis_menten_twin(x, y):
    """What `michaelis_menten` says, in NumPyro; for the truth."""
    top = sample("top", dist.Normal(200.0, 50.0))
    half = sample("half", dist.LogNormal(-2.5, 1.0))
    sigma = sample("sigma", dist.HalfNormal(30.0))
    sample("y", dist.Normal(top * x / (half + x), sigma), obs=y)


def michaelis_menten():
    import pymc as pm

    with pm.Model() as model:
        top = pm.Normal("top", 200.0, 50.0)
        half = pm.LogNormal("half", -2.5, 1.0)
        sigma = pm.HalfNormal("sigma", 30.0)
        pm.Normal("y", top * CONCENTRATION / (half + CONCENTRATION), sigma, observed=RATE)
    return model


def ar1(y):
    mu = sample("mu", dist.Normal(0.0, 2.0))
    phi = sample("phi", dist.Uniform(-1.0, 1.0))
    sigma = sample("sigma", dist.HalfNormal(2.0))
    sample("first", dist.Normal(mu, sigma / jnp.sqrt(1.0 - phi**2)), obs=y[0])
    sample("rest", dist.Normal(mu + phi * (y[:-1] - mu), sigma), obs=y[1:])


def local_level(y):
    tau = sample("tau", dist.HalfNormal(1.0))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    level = sample("level", dist.GaussianRandomWalk(tau, num_steps=y.shape[0]))
    sample("y", dist.Normal(level, sigma), obs=y)


def volatility(y):
    mu = sample("mu", dist.Normal(-1.0, 1.0))
    tau = sample("tau", dist.HalfNormal(0.4))
    walk = sample("walk", dist.GaussianRandomWalk(tau, num_steps=y.shape[0]))
    sample("y", dist.Normal(0.0, jnp.exp(0.5 * (mu + walk))), obs=y)


def volatility_twin(y):
    """`volatility` with the steps of the walk standardized."""
    mu = sample("mu", dist.Normal(-1.0, 1.0))
    tau = sample("tau", dist.HalfNormal(0.4))
    step = sample("step", dist.Normal(0.0, 1.0).expand([y.shape[0]]).to_event(1))
    walk = numpyro.deterministic("walk", tau * jnp.cumsum(step))
    sample("y", dist.Normal(0.0, jnp.exp(0.5 * (mu + walk))), obs=y)


def count_walk(y):
    start = sample("start", dist.Normal(1.0, 1.5))
    tau = sample("tau", dist.Exponential(4.0))
    step = sample("step", dist.Normal(0.0, 1.0).expand([y.shape[0] - 1]).to_event(1))
    log_rate = start + tau * jnp.concatenate([jnp.zeros(1), jnp.cumsum(step)])
    sample("y", dist.Poisson(jnp.exp(log_rate)), obs=y)


def change_point(y):
    """Poisson counts whose rate changes once; the time of the change is summed out."""
    early = sample("early", dist.Gamma(2.0, 0.5))
    late = sample("late", dist.Gamma(2.0, 0.5))
    before = jnp.cumsum(y * jnp.log(early) - early)[:-1]
    after = jnp.cumsum((y * jnp.log(late) - late)[::-1])[::-1][1:]
    numpyro.factor("y", jax.scipy.special.logsumexp(before + after))


def _design(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return np.column_stack([np.ones(rows), rng.normal(size=(rows, columns - 1))])


def regressions() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, model and data of each."""
    rng = np.random.default_rng(71001)
    X = _design(rng, 40, 4)
    yield "lm_plain", lm_plain, {"X": X, "y": X @ [1.0, -0.5, 2.0, 0.0] + 0.8 * rng.normal(size=40)}

    rng = np.random.default_rng(71002)
    u = rng.normal(size=60)
    X = np.column_stack([np.ones(60), u, u + 0.02 * rng.normal(size=60)])
    yield "lm_collinear", lm_collinear, {"X": X, "y": X @ [0.3, 1.0, 0.5] + 0.5 * rng.normal(size=60)}

    rng = np.random.default_rng(71003)
    size = np.array([1e-4, 1e-2, 1.0, 1e2, 1e4])
    X = rng.normal(size=(50, 5)) * size
    y = X @ (np.array([1.0, -1.0, 0.5, 2.0, -0.2]) / size) + 0.6 * rng.normal(size=50)
    yield "lm_scales", lm_scales, {"X": X, "y": y, "width": 4.0 / size}

    rng = np.random.default_rng(71004)
    X = rng.normal(size=(30, 10))
    yield "ridge", ridge, {"X": X, "y": X @ (0.4 * rng.normal(size=10)) + rng.normal(size=30)}

    rng = np.random.default_rng(71005)
    X = rng.normal(size=(40, 7))
    y = X @ [1.5, 0.0, 0.0, -0.7, 0.0, 0.0, 0.1] + 0.8 * rng.normal(size=40)
    yield "sparse", sparse, {"X": X, "y": y}

    x = np.concatenate([np.linspace(-2.0, -0.3, 9), np.linspace(0.1, 1.8, 7)])
    yield "logit_separated", logit_separated, {"x": x, "y": (x > 0).astype(int)}

    rng = np.random.default_rng(71006)
    X = rng.normal(size=(30, 2))
    y = (X @ [2.5, -1.5] + 0.5 + 0.7 * rng.logistic(size=30) > 0).astype(int)
    yield "logit_near", logit_near, {"X": X, "y": y}

    rng = np.random.default_rng(71007)
    X = _design(rng, 50, 3)
    yield "probit", probit, {"X": X, "y": (X @ [0.2, 0.8, -0.5] + rng.normal(size=50) > 0).astype(float)}

    rng = np.random.default_rng(71008)
    x, exposure = rng.uniform(-1.5, 1.5, size=35), rng.uniform(0.5, 6.0, size=35)
    y = rng.poisson(exposure * np.exp(0.4 + 0.7 * x - 0.3 * x**2))
    yield "poisson_exposure", poisson_exposure, {"x": x, "exposure": exposure, "y": y}

    rng = np.random.default_rng(71009)
    X = _design(rng, 60, 3)
    mean = np.exp(X @ [1.0, 0.5, -0.3])
    yield "negbin", negbin, {"X": X, "y": rng.poisson(mean * rng.gamma(1.3, 1 / 1.3, size=60))}

    rng = np.random.default_rng(71010)
    x = rng.uniform(-2.0, 2.0, size=45)
    yield "robust", robust, {"x": x, "y": 0.5 - 1.2 * x + 0.5 * rng.standard_t(2.5, size=45)}

    rng = np.random.default_rng(71011)
    X = rng.normal(size=(70, 2))
    latent = X @ [1.1, -0.6] + rng.logistic(size=70)
    yield "ordinal", ordinal, {"X": X, "y": np.digitize(latent, [-1.5, 0.2, 2.6])}

    rng = np.random.default_rng(71012)
    x = rng.uniform(-1.0, 1.0, size=50)
    y = 1.0 + 2.0 * x + np.exp(-0.5 + 1.0 * x) * rng.normal(size=50)
    yield "heteroscedastic", heteroscedastic, {"x": x, "y": y}

    rng = np.random.default_rng(71013)
    x = np.sort(rng.uniform(0.0, 5.0, size=15))
    yield "gp_hyper", gp_hyper, {"x": x, "y": np.sin(1.3 * x) + 0.25 * rng.normal(size=15)}

    yield "michaelis_menten", michaelis_menten(), {}


def series() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, model and data of each."""
    rng = np.random.default_rng(72001)
    y = np.zeros(60)
    for t in range(1, 60):
        y[t] = 0.85 * y[t - 1] + 0.7 * rng.normal()
    yield "ar1", ar1, {"y": y + 2.0}

    rng = np.random.default_rng(72002)
    yield "local_level", local_level, {"y": np.cumsum(0.3 * rng.normal(size=40)) + 0.6 * rng.normal(size=40)}

    rng = np.random.default_rng(72003)
    walk = np.cumsum(0.25 * rng.normal(size=60))
    yield "volatility", volatility, {"y": np.exp(0.5 * (walk - 1.0)) * rng.normal(size=60)}

    rng = np.random.default_rng(72004)
    y = rng.poisson(np.exp(1.2 + np.cumsum(0.2 * rng.normal(size=30))))
    yield "count_walk", count_walk, {"y": y}

    rng = np.random.default_rng(72005)
    yield "change_point", change_point, {"y": rng.poisson(np.repeat([3.6, 1.7], [11, 15])).astype(float)}
