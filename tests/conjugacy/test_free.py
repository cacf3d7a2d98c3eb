"""Free sites: the certificate holds for all others, and fits are the best of their families by quadrature over the posterior."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import sample
from scipy import stats
from tests.conjugacy.checks import make, passes, start, sweeps
from tests.conjugacy.zoo_controls import exp_mean, noncentered
from tests.tiers import quick

from jensen.conjugate.free import _nodes
from jensen.conjugate.product import Product

RNG = np.random.default_rng(0)
Y = RNG.normal(2.0, 1.0, 60)
SHARES = RNG.beta(4.0, 8.0, 60)


def shapes(y):
    a = sample("a", dist.Gamma(2.0, 0.5))
    b = sample("b", dist.HalfNormal(10.0))
    sample("y", dist.Beta(a, b), obs=y)


def shape_sum(y):
    a = sample("a", dist.Gamma(2.0, 1.0))
    c = sample("c", dist.Gamma(2.0, 1.0))
    rate = sample("rate", dist.Gamma(2.0, 1.0))
    sample("y", dist.Gamma(a + c, rate), obs=y)


def latent_shares(n, k):
    a = sample("a", dist.Gamma(2.0, 0.5))
    b = sample("b", dist.Gamma(2.0, 0.5))
    share = sample("share", dist.Beta(a, b).expand([len(n)]))
    sample("k", dist.Binomial(n, share), obs=k)


def latent_probabilities(k):
    base = sample("base", dist.Normal(0.0, 1.0).expand([3]))
    p = sample("p", dist.Dirichlet(jnp.exp(base)).expand([len(k)]))
    sample("k", dist.Multinomial(10, p), obs=k)


def student(y):
    location = sample("location", dist.Normal(0.0, 5.0).expand([3]))
    sample("y", dist.StudentT(4.0, location[jnp.arange(60) % 3], 1.0), obs=y)


def sum_of_precisions(y):
    mu = sample("mu", dist.Normal(0.0, 10.0))
    one = sample("one", dist.Gamma(2.0, 1.0))
    two = sample("two", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(mu, 1 / jnp.sqrt(one + two)), obs=y)


CASES = {
    exp_mean: ({"y": Y}, {"b": "natural gradient", "tau": "exact"}),
    shapes: ({"y": SHARES}, {"a": "free", "b": "free"}),
    shape_sum: ({"y": np.exp(0.3 * Y)}, {"a": "free", "c": "free", "rate": "exact"}),
    latent_shares: (
        {"n": np.full(20, 9.0), "k": RNG.binomial(9, SHARES[:20]) * 1.0},
        {"a": "free", "b": "free", "share": "exact"},
    ),
    latent_probabilities: (
        {"k": RNG.multinomial(10, [0.2, 0.3, 0.5], 5) * 1.0},
        {"base": "natural gradient", "p": "exact"},
    ),
    student: ({"y": Y}, {"location": "natural gradient"}),
    sum_of_precisions: ({"y": Y}, {"mu": "exact", "one": "free", "two": "free"}),
}


@pytest.mark.parametrize("model", quick(CASES, exp_mean, latent_shares), ids=lambda model: model.__name__)
def test_the_rest_stays_exact(model):
    data, words = CASES[model]
    found = make(model, data)
    assert {finding.site: finding.update for finding in found.findings} == words
    assert passes(found, data)


def _best(model, data):
    found = make(model, data)
    families, elbos = sweeps(found, start(found), 40)
    assert np.diff(elbos).min() >= -1e-10 * np.abs(elbos).max()
    return Product(families, found, None), elbos[-1]  # type: ignore[arg-type]


def test_a_free_mean_against_quadrature():
    """q(b) q(tau) with the means of the posterior on a grid, tau integrated out."""
    q, elbo = _best(exp_mean, {"y": Y})
    b = np.linspace(0.2, 1.2, 4001)
    square = ((Y - np.exp(b)[:, None]) ** 2).sum(1)
    log_p = stats.norm.logpdf(b) - (2.0 + 30.0) * np.log(1.0 + 0.5 * square)
    p = np.exp(log_p - log_p.max())
    mean = (p * b).sum() / p.sum()
    sd = np.sqrt((p * (b - mean) ** 2).sum() / p.sum())
    assert abs(q.means["b"] - mean) < 0.02 * sd
    assert abs(q.sds["b"] / sd - 1) < 0.03


def test_a_student_likelihood_against_quadrature():
    """Three locations, each with a posterior of its own on a grid."""
    q, _ = _best(student, {"y": Y})
    x = np.linspace(-2.0, 6.0, 8001)
    for group in range(3):
        log_p = stats.norm.logpdf(x, 0, 5) + stats.t.logpdf(Y[group::3, None] - x, 4).sum(0)
        p = np.exp(log_p - log_p.max())
        mean = (p * x).sum() / p.sum()
        sd = np.sqrt((p * (x - mean) ** 2).sum() / p.sum())
        assert abs(q.means["location"][group] - mean) < 0.05 * sd
        assert abs(q.sds["location"][group] / sd - 1) < 0.05


def test_nodes_have_the_moments_of_a_normal():
    for size in (1, 2, 3, 20):
        x, w = _nodes(size)
        np.testing.assert_allclose(w @ x, 0.0, atol=1e-12)
        np.testing.assert_allclose((w[:, None] * x).T @ x, np.eye(size), atol=1e-12)


@pytest.mark.parametrize("count", [70])
def test_too_many_elements_and_what_is_affine_given_the_rest_are_refused(count):
    def many(y):
        sample("y", dist.StudentT(4.0, sample("x", dist.Normal(0.0, 1.0).expand([count])), 1.0), obs=y)

    assert "at most 64" in make(many, {"y": np.zeros(count)}).refusal
    groups = np.repeat(np.arange(5), 4)
    assert "tau_a" in make(partial(noncentered, groups=5), {"y": Y[:20], "g": groups}).refusal
