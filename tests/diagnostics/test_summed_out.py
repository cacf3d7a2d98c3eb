"""Mixtures with free sites: the density with levels summed out, and what chains on it say, against SciPy and a grid."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import deterministic, plate, sample
from numpyro.distributions import transforms
from scipy import special, stats

import jensen as jn
from jensen.conjugate import blocks
from jensen.conjugate.plan import make_plan
from jensen.conjugate.product import Product
from jensen.core.layout import unflatten
from jensen.core.precision import scope
from jensen.diagnostics.summed_out import possible, summed_out
from jensen.models.read import read
from jensen.models.target import Target

RNG = np.random.default_rng(0)
X = RNG.normal(np.repeat([-1.3, 1.3], [12, 18]), 1.0)
SHARES = np.array([0.4, 0.6])


def _ordered(first, spread):
    base = dist.Normal(jnp.array([first, 0.5]), spread).to_event(1)
    return sample("mu", dist.TransformedDistribution(base, transforms.OrderedTransform()))


def means(x):
    mu = _ordered(0.0, 1.0)
    with plate("rows", len(x)):
        z = sample("z", dist.Categorical(SHARES))
        sample("x", dist.Normal(mu[z], 1.0), obs=x)


def everything(x, y):
    """Two discrete sites, a site that is updated exactly, and scales."""
    mu, pi = _ordered(0.0, 2.0), sample("pi", dist.Dirichlet(jnp.array([2.0, 3.0])))
    with plate("levels", 2):
        s = sample("s", dist.HalfNormal(2.0))
    with plate("rows", len(x)):
        z = sample("z", dist.Categorical(pi))
        sample("x", dist.Normal(mu[z], s[z]), obs=x)
    with plate("others", len(y)):
        w = sample("w", dist.Bernoulli(0.3))
        sample("y", dist.Poisson(jnp.exp(mu[w])), obs=y)


def told(x):
    mu = _ordered(0.0, 1.0)
    with plate("rows", len(x)):
        z = sample("z", dist.Categorical(SHARES))
        deterministic("mean", mu[z])
        sample("x", dist.Normal(mu[z], 1.0), obs=x)


def test_the_density_is_scipys():
    y = np.array([0, 2, 1, 5, 3])
    with scope("float64"):
        model = read(everything, {"x": X, "y": y})
        plan = make_plan(model.graph(), model.data)
        q = Product(blocks.start(plan, RNG), plan, model)
        assert possible(q) == ""
        z = 0.5 * RNG.standard_normal((4, q.dim))
        target = Target(summed_out(q))
        found, values = target(z)[0], target.constrain(z)[0]
        jacobian = np.array([sum(np.sum(j) for j in _jacobian(target, one).values()) for one in z])
    for row, density in enumerate(found - jacobian):
        mu, pi, s = (np.asarray(values[name][row], float) for name in ("mu", "pi", "s"))
        gap = np.log(mu[1] - mu[0])
        prior = stats.norm.logpdf([mu[0], gap], [0.0, 0.5], 2.0).sum() - gap
        prior += stats.dirichlet.logpdf(pi, [2.0, 3.0]) + stats.halfnorm.logpdf(s, scale=2.0).sum()
        rows = np.log(pi) + stats.norm.logpdf(X[:, None], mu, s)
        others = np.log([0.7, 0.3]) + stats.poisson.logpmf(y[:, None], np.exp(mu))
        truth = prior + special.logsumexp(rows, 1).sum() + special.logsumexp(others, 1).sum()
        np.testing.assert_allclose(density, truth, rtol=1e-6)  # JAX's log Gamma, of factorials, has seven digits


def _jacobian(target, z):
    return target.model.factors(unflatten(target.model.sites, z), target.data).jacobian


def test_chains_correct_overlapping_levels_to_a_grid():
    posterior = jn.fit(means, data={"x": X})
    first, gap = np.meshgrid(np.linspace(-4, 1.5, 250), np.geomspace(0.02, 8, 250), indexing="ij")
    mu = np.stack([first, first + gap], -1)
    each = stats.norm.logpdf(X[:, None, None, None], mu, 1.0) + np.log(SHARES)
    # On the grid of log gaps, whose volume the prior has.
    density = (
        special.logsumexp(each, -1).sum(0) + stats.norm.logpdf(first, 0, 1) + stats.norm.logpdf(np.log(gap), 0.5, 1)
    )
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    mean = np.tensordot(weight, mu, 2)
    sd = np.sqrt(np.tensordot(weight, (mu - mean) ** 2, 2))
    upper = (special.softmax(each, -1)[..., 1] * weight).sum((1, 2))
    assert posterior.verdict.overall == "trusted"
    assert (posterior.q.sds["mu"] < 0.9 * sd).all()
    np.testing.assert_array_less(np.abs(posterior.mean["mu"] - mean), 0.1 * sd)
    np.testing.assert_allclose(posterior.sd["mu"], sd, rtol=0.1)
    np.testing.assert_allclose(posterior.draws(4000)["z"].mean(0), upper, atol=0.05)


def test_deterministics_that_read_levels_are_not_judged():
    posterior = jn.fit(told, "cavi", data={"x": X})
    assert posterior.verdict.overall == "means only"
    assert "a deterministic reads its levels" in posterior.verdict.reasons[0]
