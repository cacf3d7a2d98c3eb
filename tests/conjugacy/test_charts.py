"""Sites whose elements bind each other: coordinates against NumPyro's transforms, fits against integrals on grids."""

from types import FunctionType

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import plate, sample
from numpyro.distributions import transforms
from scipy import stats
from tests.conjugacy.checks import make, passes, start, sweeps
from tests.tiers import quick

import jensen as jn
from jensen.conjugate.charts import CHARTS
from jensen.conjugate.plan import make_plan
from jensen.conjugate.product import Product
from jensen.core.errors import OptionError
from jensen.core.precision import scope
from jensen.models.read import read

pm = pytest.importorskip("pymc")

RNG = np.random.default_rng(0)
RANKS = RNG.choice(3, 40, p=[0.2, 0.5, 0.3])
PAIRS = RNG.normal(size=(40, 2)) @ np.array([[1.0, 0.7], [0.0, 0.7]])


@pytest.mark.parametrize(
    ("support", "twin"),
    [
        ("simplex", None),
        ("ordered vector", transforms.OrderedTransform()),
        ("corr cholesky", transforms.CorrCholeskyTransform()),
        (
            "corr matrix",
            transforms.ComposeTransform(
                [transforms.CorrCholeskyTransform(), transforms.CorrMatrixCholeskyTransform().inv]
            ),
        ),
        ("cholesky factor", None),
    ],
)
def test_coordinates_and_volumes(support, twin):
    chart, u = CHARTS[support], RNG.normal(size=(3, 6))

    def by_jax(u):
        values = chart.value(u)
        if twin is not None:
            return values, twin(u), twin.log_abs_det_jacobian(u, twin(u))
        slopes = jax.vmap(jax.jacobian(lambda u: chart.value(u)[: len(u)]))(u)
        return values, values, jnp.linalg.slogdet(slopes)[1]

    values = chart.value(u)
    with scope("float64"):
        same, expected, volume = jax.jit(by_jax)(u)
    np.testing.assert_allclose(same, values, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(expected, values, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(chart.volume(values), volume, rtol=1e-6)
    np.testing.assert_allclose(chart.own(values), u, rtol=1e-9, atol=1e-11)
    assert chart.shape(values.shape) == u.shape
    assert chart.holds(values)
    assert not chart.holds(values[..., ::-1] - 0.9)


def cutpoints(y):
    base = dist.Normal(0.0, 2.0).expand([2]).to_event(1)
    c = sample("c", dist.TransformedDistribution(base, transforms.OrderedTransform()))
    sample("y", dist.OrderedLogistic(0.5, c), obs=y)


def pymc_cutpoints(y):
    with pm.Model() as model:
        c = pm.Normal("c", 0.0, 2.0, shape=2, transform=pm.distributions.transforms.ordered, initval=[-1.0, 1.0])
        pm.OrderedLogistic("y", eta=0.5, cutpoints=c, observed=y, compute_p=False)
    return model


def _ranks(c):
    """Log likelihood of cutpoints (..., 2)."""
    below = stats.logistic.cdf(c - 0.5)
    probs = np.stack([below[..., 0], below[..., 1] - below[..., 0], 1 - below[..., 1]], -1)
    return np.log(probs) @ np.bincount(RANKS)


def correlation(x):
    c = sample("C", dist.LKJ(2, 2.0))
    sample("x", dist.MultivariateNormal(jnp.zeros(2), c), obs=x)


def factor_of_correlation(x):
    factor = sample("L", dist.LKJCholesky(2, 2.0))
    tau = sample("tau", dist.Gamma(2.0, 2.0))
    mu = sample("mu", dist.Normal(0.0, 1 / jnp.sqrt(tau)))
    sample("x", dist.MultivariateNormal(jnp.zeros(2), scale_tril=factor), obs=x)
    sample("m", dist.Normal(mu, 1.0), obs=1.0)


def pymc_factor(x):
    with pm.Model() as model:
        sd = pm.HalfNormal.dist(2.0, shape=2)
        factor, _, _ = pm.LKJCholeskyCov("L", n=2, eta=2.0, sd_dist=sd, compute_corr=True)
        pm.MvNormal("x", np.zeros(2), chol=factor, observed=x)
    return model


def _moments(log_density, *values):
    """Means and sds of arrays on a grid under a log density there."""
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    means = np.array([(weight * value).sum() for value in values])
    return means, np.sqrt([(weight * (value - mean) ** 2).sum() for value, mean in zip(values, means, strict=True)])


def _fitted(model, data, exact=()):
    if isinstance(model, FunctionType):
        found = make(model, data)
    else:
        with scope("float64"):
            record = read(model, {})
            found, data = make_plan(record.graph(), record.data), record.data
    assert {one.site for one in found.findings if one.update == "exact"} == set(exact), found.refusal
    assert passes(found, data)
    families, elbos = sweeps(found, start(found), 30)
    assert np.diff(elbos).min() >= -1e-10 * np.abs(elbos).max()
    with scope("float64"):
        q = Product(families, found, None)  # type: ignore[arg-type]
        return q.means, q.sds


def _near(found, truth):
    for (mean, width), one, other in zip(np.transpose(truth), *found, strict=True):
        assert abs(one - mean) < 0.06 * width
        assert abs(other / width - 1) < 0.06


@pytest.mark.parametrize("front", quick([cutpoints, pymc_cutpoints], cutpoints))
def test_cutpoints_against_a_grid(front):
    data = {"y": RANKS}
    means, sds = _fitted(front if front is cutpoints else front(RANKS), data)
    first, gap = np.meshgrid(np.linspace(-4, 2, 400), np.linspace(1e-3, 8, 800), indexing="ij")
    c = np.stack([first, first + gap], -1)
    if front is cutpoints:  # the prior is normal on the first cutpoint and on the log of the gap
        prior = stats.norm.logpdf(first, 0, 2) + stats.norm.logpdf(np.log(gap), 0, 2) - np.log(gap)
    else:
        prior = stats.norm.logpdf(c, 0, 2).sum(-1)
    _near((means["c"], sds["c"]), _moments(_ranks(c) + prior, c[..., 0], c[..., 1]))


def _log_pairs(r, a, b):
    """Log likelihood of PAIRS with correlation r and sds a, b; arrays."""
    xx, xy, yy = (PAIRS[:, 0] ** 2).sum(), PAIRS.prod(1).sum(), (PAIRS[:, 1] ** 2).sum()
    square = (xx / a**2 - 2 * r * xy / (a * b) + yy / b**2) / (1 - r**2)
    return -0.5 * square - len(PAIRS) * (np.log(a * b) + 0.5 * np.log1p(-(r**2)))


@pytest.mark.parametrize("model", quick([correlation, factor_of_correlation], correlation))
def test_a_correlation_against_a_grid(model):
    means, sds = _fitted(model, {"x": PAIRS}, () if model is correlation else ("tau", "mu"))
    name = "C" if model is correlation else "L"
    r = np.linspace(-1, 1, 4002)[1:-1]
    truth = _moments(np.log1p(-(r**2)) + _log_pairs(r, 1.0, 1.0), r)
    _near(([means[name][1, 0]], [sds[name][1, 0]]), truth)


@pytest.mark.slow
def test_a_packed_factor_of_pymc_against_a_grid():
    means, sds = _fitted(pymc_factor(PAIRS), {})
    r, a, b = np.meshgrid(np.linspace(-0.1, 0.99, 80), np.linspace(0.4, 2, 80), np.linspace(0.4, 2, 80), indexing="ij")
    density = np.log1p(-(r**2)) + _log_pairs(r, a, b) - (a**2 + b**2) / 8
    truth = _moments(density, a, b * r, b * np.sqrt(1 - r**2))  # rows of the factor, one after the other
    _near((means["L"], sds["L"]), truth)


def test_starts_out_of_order_are_refused():
    with pytest.raises(OptionError, match="outside of its support, which is ordered vector"):
        jn.fit(cutpoints, "cavi", data={"y": RANKS}, start={"c": [1.0, 0.0]}, progress=False)


# -- under discrete sites -----------------------------------------------------------------------------------------------

GROUPS = RNG.normal(np.repeat([-3.0, 3.0], [12, 18]), 1.0)


def ordered_means(x):
    base = dist.Normal(0.0, 3.0).expand([2]).to_event(1)
    mu = sample("mu", dist.TransformedDistribution(base, transforms.OrderedTransform()))
    with plate("rows", len(x)):
        z = sample("z", dist.Categorical(jnp.array([0.4, 0.6])))
        sample("x", dist.Normal(mu[z], 1.0), obs=x)


def pymc_ordered_means(x):
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 3.0, shape=2, transform=pm.distributions.transforms.ordered, initval=[-1.0, 1.0])
        z = pm.Categorical("z", [0.4, 0.6], shape=len(x))
        pm.Normal("x", mu[z], 1.0, observed=x)
    return model


@pytest.mark.parametrize("front", quick([ordered_means, pymc_ordered_means], ordered_means))
def test_ordered_means_of_a_mixture_against_a_grid(front):
    data = {"x": GROUPS}
    means, sds = _fitted(front if front is ordered_means else front(GROUPS), data, ("z",))
    first, gap = np.meshgrid(np.linspace(-5, -1, 300), np.linspace(3, 9, 300), indexing="ij")
    mu = np.stack([first, first + gap], -1)
    each = stats.norm.logpdf(GROUPS[:, None, None, None], mu, 1.0) + np.log([0.4, 0.6])
    density = np.logaddexp(each[..., 0], each[..., 1]).sum(0)
    if front is ordered_means:
        density += stats.norm.logpdf(first, 0, 3) + stats.norm.logpdf(np.log(gap), 0, 3) - np.log(gap)
    else:
        density += stats.norm.logpdf(mu, 0, 3).sum(-1)
    _near((means["mu"], sds["mu"]), _moments(density, mu[..., 0], mu[..., 1]))


def test_shares_with_levels_beneath_that_are_read_in_a_mean_against_a_grid():
    def model(x, w):
        theta = sample("theta", dist.Dirichlet(jnp.ones(2)))
        with plate("rows", len(x)):
            z = sample("z", dist.Categorical(theta))
            sample("x", dist.Normal(jnp.array([-3.0, 3.0])[z], 1.0), obs=x)
        sample("w", dist.Normal(4 * theta[1], 0.5), obs=w)

    means, sds = _fitted(model, {"x": GROUPS, "w": np.array(2.0)}, ("z",))
    p = np.linspace(0, 1, 2002)[1:-1]
    each = stats.norm.logpdf(GROUPS[:, None, None], np.array([-3.0, 3.0]), 1.0) + np.log(np.stack([1 - p, p], -1))
    density = np.logaddexp(each[..., 0], each[..., 1]).sum(0) + stats.norm.logpdf(2.0, 4 * p, 0.5)
    _near(([means["theta"][1]], [sds["theta"][1]]), _moments(density, p))
