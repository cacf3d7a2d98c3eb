"""Each exponential family against SciPy; the laws they share are in tests/laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jensen.core import precision
from jensen.families.discrete import Categorical
from jensen.families.exponential import Beta, Dirichlet, Gamma, InverseGamma
from jensen.families.special import digamma, fall, gamma_entropy, gammaln, peak
from jensen.families.wishart import InverseWishart, Wishart

A, B = np.array([0.3, 1.0, 2.5, 40.0, 3000.0]), np.array([2.0, 0.1, 7.0, 3.0, 500.0])


def gamma(a, b):
    return stats.gamma(a, scale=1 / b)


def inverse_gamma(a, b):
    return stats.invgamma(a, scale=b)


# Name: (family, SciPy's, {moment key: (SciPy's distribution of u, statistic as a function of u)}).
UNIVARIATE = {
    "gamma": (Gamma, gamma, {"value": (gamma, np.positive), "log": (gamma, np.log)}),
    "inverse gamma": (
        InverseGamma,
        inverse_gamma,
        {"inverse": (inverse_gamma, np.reciprocal), "log": (inverse_gamma, np.log)},
    ),
    "beta": (Beta, stats.beta, {"log": (stats.beta, np.log), "log1m": (lambda a, b: stats.beta(b, a), np.log)}),
}
by_family = pytest.mark.parametrize("family", UNIVARIATE)


@pytest.fixture(autouse=True)
def float64():
    with precision.scope("float64"):
        yield


@jax.jit
def _at(q, noise):
    return q.at(noise)


def draws(q, n):
    return np.asarray(_at(q, q.noise(np.random.default_rng(0), n)))


@by_family
def test_log_prob_and_entropy_are_scipys(family):
    make, theirs, _ = UNIVARIATE[family]
    for u in (1e-3, 0.2, 0.5, 0.99):
        x = np.clip(theirs(A, B).ppf(u), 1e-300, 1 - 1e-12 if family == "beta" else np.inf)
        np.testing.assert_allclose(make(A, B).log_prob(x), theirs(A, B).logpdf(x).sum(), rtol=1e-9)
    np.testing.assert_allclose(make(A, B).entropy(), theirs(A, B).entropy().sum(), rtol=1e-10)


def test_digamma_and_log_gamma_are_scipys():
    a = np.concatenate([10.0 ** np.linspace(-300, 300, 400), np.linspace(0.01, 20, 400)])
    got = jax.jit(lambda a: (digamma(a), gammaln(a)))(a)
    for value, expected in zip(got, (special.digamma(a), special.gammaln(a)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-14)


def by_quantiles(theirs, statistic):
    """E statistic(u), elementwise, integrated over the quantiles of u: there is no peak to miss."""
    grid, weights = np.polynomial.legendre.leggauss(400)
    # u = t^4 (35 - 84 t + 70 t^2 - 20 t^3) is flat at both ends, where a quantile may have a logarithmic singularity.
    t, dt = (grid + 1) / 2, weights / 2
    u, du = t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3), 140 * (t * (1 - t)) ** 3 * dt
    return du @ statistic(theirs.ppf(np.clip(u, 0, 1 - 1e-16)[:, None]))


@by_family
def test_moments_are_integrals_against_scipys_density(family):
    make, _, keys = UNIVARIATE[family]
    a, b = A[1:], B[1:]
    moments = make(a, b).moments()
    assert moments.keys() == keys.keys()
    for key, (theirs, statistic) in keys.items():
        np.testing.assert_allclose(moments[key], by_quantiles(theirs(a, b), statistic), rtol=1e-8)


@by_family
def test_mean_and_sd_are_scipys(family):
    make, theirs, _ = UNIVARIATE[family]
    np.testing.assert_allclose(make(A, B).mean, theirs(A, B).mean(), rtol=1e-12)
    finite = A > 2 if family == "inverse gamma" else A > 0
    np.testing.assert_allclose(make(A, B).sd[finite], theirs(A, B).std()[finite], rtol=1e-12)
    if family == "inverse gamma":
        assert np.isinf(make(A, B).sd[A <= 2]).all()


def test_gamma_draws_have_the_distribution():
    """Also below concentration 1 and where the first candidate of a draw often fails."""
    a = np.array([0.05, 0.7, 1.0, 1.3, 5.0, 1e6])
    found = draws(Gamma(a, np.ones(6)), 20_000)
    for column, shape in enumerate(a):
        assert stats.kstest(found[:, column], stats.gamma(shape).cdf).pvalue > 1e-3, shape


@by_family
def test_parameters_broadcast(family):
    make, _, _ = UNIVARIATE[family]
    one, full = make(2.5, B), make(np.full(5, 2.5), B)
    np.testing.assert_allclose(one.entropy(), full.entropy())
    for key, value in one.moments().items():
        assert value.shape == (5,)
        np.testing.assert_allclose(value, full.moments()[key])
    assert draws(one, 3).shape == (3, 5)


@by_family
@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_illegal_parameters_are_not_valid(family, bad):
    make, _, _ = UNIVARIATE[family]
    assert make(A, B).valid()
    assert not make(np.array([1.0, bad]), np.ones(2)).valid()
    assert not make(np.ones(2), np.array([bad, 1.0])).valid()


@by_family
def test_tiny_concentrations_draw_inside_the_support(family):
    make, _, _ = UNIVARIATE[family]
    found = draws(make(np.array([1e-6, 1e-6, 5.0]), np.array([1.0, 1e-6, 1e-6])), 200)
    statistics = make.statistics(found)
    assert all(jnp.isfinite(value).all() for value in statistics.values())


def test_dirichlet_is_scipys():
    a = np.array([[0.4, 2.0, 30.0], [1.0, 1.0, 1.0]])
    x = np.array([[0.1, 0.3, 0.6], [0.01, 0.98, 0.01]])
    q, theirs = Dirichlet(a), [stats.dirichlet(row) for row in a]
    expected = sum(one.logpdf(row) for one, row in zip(theirs, x, strict=True))
    np.testing.assert_allclose(q.log_prob(x), expected, rtol=1e-11)
    np.testing.assert_allclose(q.entropy(), sum(one.entropy() for one in theirs), rtol=1e-11)
    np.testing.assert_allclose(q.mean, [one.mean() for one in theirs], rtol=1e-12)
    np.testing.assert_allclose(q.sd**2, [one.var() for one in theirs], rtol=1e-12)
    share = stats.beta(a[:, 0], a[:, 1:].sum(1))
    np.testing.assert_allclose(q.moments()["log"][:, 0], by_quantiles(share, np.log), rtol=1e-6)
    assert not Dirichlet(np.array([1.0, 0.0])).valid()


def test_categorical_is_scipys_with_unnormalized_and_impossible_levels():
    logits = np.array([[1.0, -2.0, 5.0], [0.0, -np.inf, 0.0]]) + 700
    q = Categorical(logits)
    probs = special.softmax(logits, -1)
    theirs = [stats.rv_discrete(values=(range(3), row)) for row in probs]
    np.testing.assert_allclose(q.moments()["probs"], probs)
    np.testing.assert_allclose(q.entropy(), sum(stats.entropy(row) for row in probs))
    np.testing.assert_allclose(q.log_prob(np.array([1, 2])), theirs[0].logpmf(1) + theirs[1].logpmf(2))
    np.testing.assert_allclose(q.mean, [one.mean() for one in theirs])
    np.testing.assert_allclose(q.sd, [one.std() for one in theirs])
    assert q.valid()
    assert not Categorical(np.full((2, 3), -np.inf)).valid()
    assert (draws(q, 500)[:, 1] != 1).all()


DF, P = np.array([3.5, 20.0]), 3
RATE = np.array([[[2.0, 0.3, -0.5], [0.3, 1.0, 0.2], [-0.5, 0.2, 3.0]], 10 * np.eye(3)])
X = np.array([[[1.0, 0.2, 0.1], [0.2, 2.0, -0.4], [0.1, -0.4, 0.5]], np.eye(3)])


def test_wishart_is_scipys():
    q = Wishart(DF, RATE)
    theirs = [stats.wishart(df, np.linalg.inv(rate)) for df, rate in zip(DF, RATE, strict=True)]
    np.testing.assert_allclose(q.log_prob(X), sum(one.logpdf(x) for one, x in zip(theirs, X, strict=True)), rtol=1e-12)
    np.testing.assert_allclose(q.entropy(), sum(one.entropy() for one in theirs), rtol=1e-12)
    np.testing.assert_allclose(q.mean, [one.mean() for one in theirs], rtol=1e-12)
    np.testing.assert_allclose(q.sd**2, [one.var() for one in theirs], rtol=1e-12)


def test_inverse_wishart_is_scipys():
    df = DF + 4
    q = InverseWishart(df, RATE)
    theirs = [stats.invwishart(one, scale) for one, scale in zip(df, RATE, strict=True)]
    np.testing.assert_allclose(q.log_prob(X), sum(one.logpdf(x) for one, x in zip(theirs, X, strict=True)), rtol=1e-12)
    # Not SciPy's entropy: it counts log 2 once and not p times.
    surprise = -sum(one.logpdf(np.moveaxis(one.rvs(20_000, random_state=1), 0, -1)) for one in theirs)
    assert abs(q.entropy() - surprise.mean()) < 5 * surprise.std() / np.sqrt(20_000)
    np.testing.assert_allclose(q.mean, [one.mean() for one in theirs], rtol=1e-12)
    np.testing.assert_allclose(q.sd**2, [one.var() for one in theirs], rtol=1e-12)
    assert np.isnan(InverseWishart(DF, RATE).sd[0]).all()


def test_one_by_one_matrices_are_gammas():
    df, rate = np.array([3.0, 11.0]), np.array([2.0, 0.5])
    for matrix, number in ((Wishart, Gamma), (InverseWishart, InverseGamma)):
        q, theirs = matrix(df, rate[:, None, None]), number(df / 2, rate / 2)
        np.testing.assert_allclose(q.entropy(), theirs.entropy(), rtol=1e-12)
        np.testing.assert_allclose(q.log_prob(np.ones((2, 1, 1))), theirs.log_prob(np.ones(2)), rtol=1e-12)
        for value, other in zip(q.moments().values(), theirs.moments().values(), strict=True):
            np.testing.assert_allclose(value.ravel(), other, rtol=1e-12)


@pytest.mark.parametrize("family", [Wishart, InverseWishart])
def test_matrix_families_know_illegal_parameters(family):
    assert family(DF, RATE).valid()
    assert not family(np.array([2.0, 20.0]), RATE).valid()
    assert not family(DF, -RATE).valid()
    assert not family(DF, np.ones((2, 3, 3))).valid()


@pytest.mark.parametrize("family", [Wishart, InverseWishart])
def test_only_the_symmetric_part_of_a_matrix_gradient_matters(family):
    q = family(DF, RATE)
    matrix = "value" if family is Wishart else "inverse"
    sign = 1 if family is Wishart else -1
    skew = np.triu(np.ones((3, 3)), 1)
    gradient = {"logdet": sign * (DF - sign * 4) / 2, matrix: -RATE / 2 + skew - skew.T}
    made = q.from_gradient(gradient, q.moments())
    for one, other in zip(jax.tree.leaves(made), (DF, RATE), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


def test_large_concentrations_keep_their_digits():
    # Next to a = 1e8 these are Gaussians; the first corrections are 1 / (3 a) and the like.
    a = 1e8
    gaussian = 0.5 * np.log(2 * np.pi * np.e * a)
    np.testing.assert_allclose(gamma_entropy(a), gaussian - 1 / (3 * a), rtol=1e-15)
    np.testing.assert_allclose(Gamma(a, 2.0).entropy(), gaussian - np.log(2), rtol=1e-9)
    np.testing.assert_allclose(Beta(a, a).entropy(), 0.5 * np.log(2 * np.pi * np.e / (8 * a)), rtol=1e-8)
    x = a * (1 + 3e-4)
    exact = a * (np.log1p(3e-4) - 3e-4) - np.log(x) + 0.5 * np.log(a / (2 * np.pi)) - 1 / (12 * a)
    np.testing.assert_allclose(Gamma(a, 1.0).log_prob(x), exact, rtol=1e-12)


def test_special_functions_are_smooth_across_the_switch_and_exact_below():
    a = np.array([1e-6, 1e-3, 0.5, 1.0, 3.0, 15.999999, 16.0, 16.000001, 40.0, 200.0])
    np.testing.assert_allclose(gamma_entropy(a), a + special.gammaln(a) + (1 - a) * special.digamma(a), rtol=1e-12)
    np.testing.assert_allclose(peak(a), special.xlogy(a, a) - a - special.gammaln(a), rtol=1e-12, atol=1e-12)
    slope = jax.vmap(jax.grad(gamma_entropy))(a)
    np.testing.assert_allclose(slope, 1 + (1 - a) * special.polygamma(1, a), rtol=1e-9, atol=1e-11)
    ratio = np.array([0.0, 1e-300, 0.4, 1.0, 1.4, 30.0])
    np.testing.assert_allclose(fall(ratio)[1:], np.log(ratio[1:]) - ratio[1:] + 1, rtol=1e-14)
    assert fall(ratio)[0] == -np.inf
    np.testing.assert_allclose(fall(1 + 1e-7), -0.5e-14, rtol=1e-6)
