"""Hierarchies, counts, survival times and bounded supports of the blind set: models and data.

Data are simulated with fixed seeds, but for the pumps (Gaver and O'Muircheartaigh 1987, Technometrics 29) and the remission
times of leukemia (Freireich et al. 1963, Blood 21).
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import plate, sample

import jensen as jn

HOURS = np.array([94.3, 15.7, 62.9, 126.0, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5])
FAILURES = np.array([5, 1, 5, 14, 3, 19, 1, 1, 4, 22])
TREATED = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"
RISING = {"y": np.array([0.2, 1.1, 0.9, 2.4]), "error": np.array([0.5, 0.6, 0.4, 0.8])}


def groups_centred(y, error, width):
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfNormal(width))
    with plate("groups", y.shape[0]):
        theta = sample("theta", dist.Normal(mu, tau))
        sample("y", dist.Normal(theta, error), obs=y)


def groups_noncentred(y, error, width):
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfNormal(width))
    with plate("groups", y.shape[0]):
        raw = sample("raw", dist.Normal(0.0, 1.0))
        sample("y", dist.Normal(mu + tau * raw, error), obs=y)


def groups_noncentred_pymc(y, error, width):
    import pymc as pm

    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfNormal("tau", width)
        raw = pm.Normal("raw", 0.0, 1.0, shape=len(y))
        pm.Normal("y", mu + tau * raw, error, observed=y)
    return model


def many_strong(y):
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfNormal(2.0))
    sigma = sample("sigma", dist.HalfNormal(2.0))
    with plate("groups", y.shape[1]):
        theta = sample("theta", dist.Normal(mu, tau))
        with plate("rows", y.shape[0]):
            sample("y", dist.Normal(theta, sigma), obs=y)


def crossed(y):
    mu = sample("mu", dist.Normal(0.0, 3.0))
    tau_a = sample("tau_a", dist.HalfNormal(1.0))
    tau_b = sample("tau_b", dist.HalfNormal(1.0))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    a = sample("a", dist.Normal(0.0, tau_a).expand([y.shape[0]]).to_event(1))
    b = sample("b", dist.Normal(0.0, tau_b).expand([y.shape[1]]).to_event(1))
    sample("y", dist.Normal(mu + a[:, None] + b[None, :], sigma), obs=y)


def slopes(x, y):
    """Intercepts and slopes of J groups with a correlation; `x` and `y` are (J, rows)."""
    center = sample("center", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    scale = sample("scale", dist.HalfNormal(1.0).expand([2]).to_event(1))
    corr = sample("corr", dist.LKJCholesky(2, concentration=2.0))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    with plate("groups", y.shape[0]):
        line = sample("line", dist.MultivariateNormal(center, scale_tril=scale[:, None] * corr))
    sample("y", dist.Normal(line[:, :1] + line[:, 1:] * x, sigma), obs=y)


def slopes_twin(x, y):
    """`slopes` with standardized lines."""
    center = sample("center", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    scale = sample("scale", dist.HalfNormal(1.0).expand([2]).to_event(1))
    corr = sample("corr", dist.LKJCholesky(2, concentration=2.0))
    sigma = sample("sigma", dist.HalfNormal(1.0))
    raw = sample("raw", dist.Normal(0.0, 1.0).expand([y.shape[0], 2]).to_event(2))
    line = numpyro.deterministic("line", center + raw @ (scale[:, None] * corr).T)
    sample("y", dist.Normal(line[:, :1] + line[:, 1:] * x, sigma), obs=y)


def hospitals_twin(n, y):
    """What `hospitals` says, in NumPyro; for the truth."""
    mu = sample("mu", dist.Normal(-2.0, 1.5))
    tau = sample("tau", dist.HalfNormal(1.0))
    raw = sample("raw", dist.Normal(0.0, 1.0).expand([y.shape[0]]).to_event(1))
    sample("y", dist.Binomial(n, logits=mu + tau * raw), obs=y)


def hospitals(n, y):
    import pymc as pm

    with pm.Model() as model:
        mu = pm.Normal("mu", -2.0, 1.5)
        tau = pm.HalfNormal("tau", 1.0)
        raw = pm.Normal("raw", 0.0, 1.0, shape=len(y))
        pm.Binomial("y", n, logit_p=mu + tau * raw, observed=y)
    return model


def pumps(hours, y):
    a = sample("a", dist.Exponential(1.0))
    b = sample("b", dist.Gamma(1.0, 1.0))
    with plate("pumps", y.shape[0]):
        rate = sample("rate", dist.Gamma(a, b))
        sample("y", dist.Poisson(rate * hours), obs=y)


def many_counts(y):
    mu = sample("mu", dist.Normal(0.0, 2.0))
    tau = sample("tau", dist.HalfNormal(1.0))
    with plate("groups", y.shape[0]):
        log_rate = sample("log_rate", dist.Normal(mu, tau))
        sample("y", dist.Poisson(jnp.exp(log_rate)), obs=y)


def many_counts_twin(y):
    """`many_counts` with standardized groups."""
    mu = sample("mu", dist.Normal(0.0, 2.0))
    tau = sample("tau", dist.HalfNormal(1.0))
    raw = sample("raw", dist.Normal(0.0, 1.0).expand([y.shape[0]]).to_event(1))
    log_rate = numpyro.deterministic("log_rate", mu + tau * raw)
    sample("y", dist.Poisson(jnp.exp(log_rate)), obs=y)


def weibull(time, died, treated):
    """Log times in weeks; a censored row tells that it is longer."""
    a = sample("a", dist.Normal(2.0, 2.0))
    b = sample("b", dist.Normal(0.0, 2.0))
    shape = sample("shape", dist.Gamma(2.0, 1.0))
    hazard = shape * (jnp.log(time) - a - b * treated)
    numpyro.factor("time", (died * (jnp.log(shape) - jnp.log(time) + hazard) - jnp.exp(hazard)).sum())


def zero_inflated(y):
    empty = sample("empty", dist.Beta(1.0, 1.0))
    rate = sample("rate", dist.Gamma(1.0, 0.5))
    with plate("rows", y.shape[0]):
        sample("y", dist.ZeroInflatedPoisson(empty, rate), obs=y)


def mixture_ordered(y):
    center = sample("center", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
    numpyro.factor("ordered", dist.Normal(0.0, 3.0).log_prob(center).sum())
    sigma = sample("sigma", dist.HalfNormal(2.0))
    weight = sample("weight", dist.Beta(2.0, 2.0))
    parts = dist.Normal(center, sigma).log_prob(y[:, None]) + jnp.log(jnp.stack([1.0 - weight, weight]))
    numpyro.factor("y", jnp.logaddexp(parts[:, 0], parts[:, 1]).sum())


def mixture_labels(y):
    """Both components alike: the posterior has two modes of equal mass."""
    center = sample("center", dist.Normal(0.0, 4.0).expand([2]).to_event(1))
    parts = dist.Normal(center, 0.8).log_prob(y[:, None])
    numpyro.factor("y", jnp.logaddexp(parts[:, 0], parts[:, 1]).sum())


def cure_twin(time, died):
    """What `cure` says, in NumPyro; for the truth."""
    cured = sample("cured", dist.Beta(1.5, 1.5))
    rate = sample("rate", dist.LogNormal(0.0, 1.0))
    dead = jnp.log(1.0 - cured) + jnp.log(rate) - rate * time
    alive = jnp.log(cured + (1.0 - cured) * jnp.exp(-rate * time))
    numpyro.factor("time", (died * dead + (1.0 - died) * alive).sum())


def cure(time, died):
    """A part of the patients never dies of it; PyMC."""
    import pymc as pm

    with pm.Model() as model:
        cured = pm.Beta("cured", 1.5, 1.5)
        rate = pm.LogNormal("rate", 0.0, 1.0)
        dead = pm.math.log(1.0 - cured) + pm.math.log(rate) - rate * time
        alive = pm.math.log(cured + (1.0 - cured) * pm.math.exp(-rate * time))
        pm.Potential("time", (died * dead + (1.0 - died) * alive).sum())
    return model


def overdispersed_twin(n, y):
    """What `overdispersed` says, in NumPyro; for the truth."""
    p = sample("p", dist.Beta(1.0, 1.0))
    kappa = sample("kappa", dist.LogNormal(2.0, 1.0))
    sample("y", dist.BetaBinomial(p * kappa, (1.0 - p) * kappa, n), obs=y)


def overdispersed(n, y):
    import pymc as pm

    with pm.Model() as model:
        p = pm.Beta("p", 1.0, 1.0)
        kappa = pm.LogNormal("kappa", 2.0, 1.0)
        pm.BetaBinomial("y", n=n, alpha=p * kappa, beta=(1.0 - p) * kappa, observed=y)
    return model


def shares(y):
    p = sample("p", dist.Dirichlet(0.7 * jnp.ones(y.shape[0])))
    sample("y", dist.Multinomial(total_count=19, probs=p), obs=y)


def piled_up(y, error):
    """Data beyond the bounds of a uniform prior: mass piles up at them."""
    with plate("rows", y.shape[0]):
        level = sample("level", dist.Uniform(0.0, 1.0))
        sample("y", dist.Normal(level, error), obs=y)


def truncated(y):
    mu = sample("mu", dist.Normal(0.0, 1.5))
    sigma = sample("sigma", dist.HalfNormal(1.5))
    with plate("rows", y.shape[0]):
        sample("y", dist.TruncatedNormal(mu, sigma, low=0.0), obs=y)


def correlation(x, y):
    rho = sample("rho", dist.Uniform(-1.0, 1.0))
    numpyro.factor("y", (-0.5 * jnp.log1p(-(rho**2)) - 0.5 * (y - rho * x) ** 2 / (1.0 - rho**2)).sum())


def rising(params, data):
    """Four levels known to rise, each measured once."""
    return -0.5 * (((data["y"] - params["level"]) / data["error"]) ** 2).sum()


def few_weak() -> dict[str, Any]:
    return {"y": np.array([0.7, -1.4, 2.0, 0.1, -0.3]), "error": np.array([1.5, 1.2, 2.0, 1.0, 1.8]), "width": 2.0}


def hospital_data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(73007)
    n = rng.integers(15, 160, size=12)
    return {"n": n, "y": rng.binomial(n, 1 / (1 + np.exp(2.2 - 0.5 * rng.normal(size=12))))}


def cure_data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(74004)
    time = np.where(rng.uniform(size=30) < 0.4, np.inf, rng.exponential(1 / 0.8, size=30))
    return {"time": np.minimum(time, 2.5), "died": (time < 2.5).astype(float)}


def overdispersed_data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(74005)
    n = rng.integers(5, 25, size=18)
    return {"n": n, "y": rng.binomial(n, rng.beta(1.2, 2.8, size=18))}


def hierarchies() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, model and data of each."""
    few = {"y": np.array([1.9, -0.6, 3.4, 0.8, 2.5]), "error": np.array([0.5, 0.7, 0.6, 0.9, 0.4]), "width": 2.0}
    yield "few_centred", groups_centred, few
    yield "few_noncentred_pymc", groups_noncentred_pymc(**few_weak()), {}

    rng = np.random.default_rng(73001)
    theta = 1.0 + 1.2 * rng.normal(size=50)
    yield "many_strong", many_strong, {"y": theta + 0.9 * rng.normal(size=(8, 50))}

    rng = np.random.default_rng(73002)
    error = rng.uniform(2.5, 4.0, size=9)
    yield "weak_centred", groups_centred, {"y": 1.0 + error * rng.normal(size=9), "error": error, "width": 5.0}

    rng = np.random.default_rng(73003)
    y = 2.0 + 0.4 * rng.normal(size=12)
    yield "no_variance", groups_centred, {"y": y, "error": np.full(12, 1.0), "width": 2.0}

    rng = np.random.default_rng(73004)
    strong = {"y": 3.0 + 1.5 * rng.normal(size=8), "error": np.full(8, 0.15), "width": 3.0}
    yield "strong_noncentred", groups_noncentred, strong

    rng = np.random.default_rng(73005)
    y = 1.0 + 0.8 * rng.normal(size=(6, 1)) + 0.3 * rng.normal(size=(1, 7)) + 0.6 * rng.normal(size=(6, 7))
    yield "crossed", crossed, {"y": y}

    rng = np.random.default_rng(73006)
    x = rng.uniform(-1.0, 1.0, size=(14, 6))
    line = rng.multivariate_normal([1.0, -0.5], [[0.6, -0.35], [-0.35, 0.5]], size=14)
    yield "slopes", slopes, {"x": x, "y": line[:, :1] + line[:, 1:] * x + 0.5 * rng.normal(size=(14, 6))}

    yield "hospitals_pymc", hospitals(**hospital_data()), {}

    yield "pumps", pumps, {"hours": HOURS, "y": FAILURES}

    rng = np.random.default_rng(73008)
    yield "many_counts", many_counts, {"y": rng.poisson(np.exp(0.2 + 0.7 * rng.normal(size=80)))}


def counts_and_times() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, model and data of each."""
    words = TREATED.split() + PLACEBO.split()
    yield (
        "weibull",
        weibull,
        {
            "time": np.array([float(word.rstrip("+")) for word in words]),
            "died": np.array([float(not word.endswith("+")) for word in words]),
            "treated": np.repeat([1.0, 0.0], [len(TREATED.split()), len(PLACEBO.split())]),
        },
    )
    rng = np.random.default_rng(74001)
    yield "zero_inflated", zero_inflated, {"y": rng.poisson(1.8, size=40) * (rng.uniform(size=40) > 0.4)}

    rng = np.random.default_rng(74002)
    y = np.where(rng.uniform(size=60) < 0.35, -1.3, 1.9) + 0.7 * rng.normal(size=60)
    yield "mixture_ordered", mixture_ordered, {"y": y}

    rng = np.random.default_rng(74003)
    yield "mixture_labels", mixture_labels, {"y": np.repeat([-1.2, 1.4], [8, 12]) + 0.8 * rng.normal(size=20)}

    yield "cure_pymc", cure(**cure_data()), {}
    yield "overdispersed_pymc", overdispersed(**overdispersed_data()), {}


def bounded() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, model and data of each."""
    yield "shares", shares, {"y": np.array([0, 2, 11, 1, 5])}
    yield "piled_up", piled_up, {"y": np.array([1.25, -0.1, 0.4]), "error": np.array([0.2, 0.3, 0.15])}

    rng = np.random.default_rng(75001)
    draws = 0.5 + 1.0 * rng.normal(size=80)
    yield "truncated", truncated, {"y": draws[draws > 0][:30]}

    rng = np.random.default_rng(75002)
    x = rng.normal(size=8)
    yield "correlation", correlation, {"x": x, "y": 0.97 * x + np.sqrt(1 - 0.97**2) * rng.normal(size=8)}

    yield "rising", jn.density(rising, {"level": np.arange(4.0)}, support={"level": "ordered_vector"}, data=RISING), {}
