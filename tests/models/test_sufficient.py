"""Sufficient statistics by weights: exact where SciPy's families have them, refused where they have none."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, log_expit

from jensen.models import sufficient

N, KEPT = 6000, 500
RNG = np.random.default_rng(11)
X, X3 = RNG.normal(size=N), np.column_stack([np.ones(N), RNG.normal(size=(N, 2))])
GROUP, OTHER = RNG.integers(0, 3, N), RNG.integers(0, 2, N)
COV = np.array([[1.0, 0.4, 0.0], [0.4, 2.0, -0.3], [0.0, -0.3, 0.5]])
VECTORS = RNG.multivariate_normal([1.0, 0.0, -1.0], COV, N)
LINE = 1 + 2 * X + RNG.normal(size=N)


def vectors(z):
    """Log density of VECTORS with mean and log Cholesky factor z (9,)."""
    factor = np.diag(np.exp(z[3:6]))
    factor[np.tril_indices(3, -1)] = z[6:]
    return stats.multivariate_normal(z[:3], factor @ factor.T).logpdf(VECTORS)


def bernoulli(y, eta):
    return log_expit(np.where(y == 1, eta, -eta))


def on(y, density):
    return lambda z: density(z, y)


# Name -> (log densities of all rows at z, center, sds); the sds are about those of the posterior.
S = 1 / np.sqrt(N)
EXACT = {
    "line": (lambda z: stats.norm.logpdf(LINE, z[0] + z[1] * X, np.exp(z[2])), [1, 2, 0], [S, S, S], 6),
    "normal, offset 1e6": (on(1e6 + X, lambda z, y: stats.norm.logpdf(y, 1e6 + z[0], np.exp(z[1]))), [0, 0], [S, S], 3),
    "normal, sd known": (lambda z: stats.norm.logpdf(LINE, z[0] + z[1] * X, 1.5), [1, 2], [S, S], 6),
    "regression": (lambda z: stats.norm.logpdf(LINE, X3 @ z[:3], np.exp(z[3])), [1, 0, 0, 0.5], [S] * 4, 10),
    "gamma": (
        on(RNG.gamma(2, 1, N), lambda z, y: stats.gamma.logpdf(y, np.exp(z[0]), scale=np.exp(-z[1]))), [0.7, 0], [S, S], 3,
    ),
    "beta": (on(RNG.beta(2, 3, N), lambda z, y: stats.beta.logpdf(y, *np.exp(z))), [0.7, 1.1], [S, S], 3),
    "exponential": (on(RNG.exponential(1, N), lambda z, y: stats.expon.logpdf(y, scale=np.exp(z[0]))), [0], [S], 2),
    "poisson": (on(RNG.poisson(3, N), lambda z, y: stats.poisson.logpmf(y, np.exp(z[0]))), [1.1], [S], 3),
    "bernoulli": (on(RNG.integers(0, 2, N), lambda z, y: bernoulli(y, z[0])), [0.0], [2 * S], 2),
    "binomial": (on(RNG.binomial(9, 0.3, N), lambda z, y: stats.binom.logpmf(y, 9, expit(z[0]))), [-0.8], [S], 3),
    "geometric": (on(RNG.geometric(0.3, N), lambda z, y: stats.geom.logpmf(y, expit(z[0]))), [-0.8], [S], 2),
    "lognormal": (
        on(np.exp(X), lambda z, y: stats.lognorm.logpdf(y, np.exp(z[1]), scale=np.exp(z[0]))), [0, 0], [S, S], 3,
    ),
    "weibull, shape known": (
        on(RNG.weibull(1.5, N), lambda z, y: stats.weibull_min.logpdf(y, 1.5, scale=np.exp(z[0]))), [0], [S], 3,
    ),
    "vectors": (vectors, [1, 0, -1, 0, 0.3, -0.4, 0.4, 0, -0.3], [S] * 9, 10),
    "logistic on categories": (
        on(RNG.integers(0, 2, N), lambda z, y: bernoulli(y, z[GROUP] + z[2 + OTHER] * (OTHER > 0))),
        [0.0] * 4, [3 * S] * 4, 10,
    ),
}  # fmt: skip
REFUSED = {
    "student": (on(RNG.standard_t(4, N), lambda z, y: stats.t.logpdf(y, 4, z[0], np.exp(z[1]))), [0, 0], [S, S]),
    "cauchy": (on(RNG.standard_cauchy(N), lambda z, y: stats.cauchy.logpdf(y, z[0], np.exp(z[1]))), [0, 0], [S, S]),
    "logistic": (on(RNG.integers(0, 2, N), lambda z, y: bernoulli(y, z[0] + z[1] * X)), [0, 0], [2 * S, 2 * S]),
    "poisson regression": (
        on(RNG.poisson(np.exp(0.3 * X)), lambda z, y: stats.poisson.logpmf(y, np.exp(z[0] + z[1] * X))), [0, 0.3], [S, S],
    ),
    "mixture": (
        on(np.where(OTHER, -2, 2) + X, lambda z, y: np.logaddexp(stats.norm.logpdf(y, z[0]), stats.norm.logpdf(y, z[1]))),
        [-2, 2], [S, S],
    ),
    "weibull": (
        on(RNG.weibull(1.5, N), lambda z, y: stats.weibull_min.logpdf(y, np.exp(z[1]), scale=np.exp(z[0]))), [0, 0.4], [S, S],
    ),
}  # fmt: skip


def look(rows, center, sds, kept=None):
    """`find` on a random subsample, or the given one."""
    kept = np.sort(RNG.choice(N, KEPT, replace=False)) if kept is None else kept
    found = sufficient.find(
        lambda z: np.stack([rows(point)[kept] for point in z], 1),
        lambda z: np.array([rows(point).sum() for point in z]),
        np.full(len(kept), N / len(kept)),
        float(N),
        np.array(center, float),
        np.diag(sds),
        seed=0,
    )
    return found, kept


@pytest.mark.parametrize("name", EXACT)
def test_weights_are_exact_near_and_far(name):
    rows, center, sds, rank = EXACT[name]
    found, kept = look(rows, center, sds)
    assert found is not None
    assert found.rank == rank
    assert found.error < 1e-8
    assert found.weights.sum() == pytest.approx(N, rel=1e-9)
    for reach in (0.0, 3.0, 40.0):  # farther out than any probe
        z = np.array(center) + reach * np.array(sds) * RNG.normal(size=len(sds))
        assert found.weights @ rows(z)[kept] == pytest.approx(rows(z).sum(), abs=1e-7, rel=1e-10)


@pytest.mark.parametrize("name", sorted(EXACT.keys() - {"beta"}))  # of which rounding leaves too little around zero
def test_a_subsample_is_condensed_before_anything_is_fitted(name):
    rows, center, sds, rank = EXACT[name]
    kept = np.sort(RNG.choice(N, KEPT, replace=False))
    weights = RNG.uniform(1, 20, KEPT)
    found = sufficient.condense(lambda z: np.stack([rows(point)[kept] for point in z], 1), weights, len(sds), seed=0)
    assert found is not None
    few, own = found
    assert rank <= len(few) <= KEPT / 2
    for z in (np.zeros(len(sds)), np.array(center), np.array(center) + 10 * np.array(sds) * RNG.normal(size=len(sds))):
        assert own @ rows(z)[kept[few]] == pytest.approx(weights @ rows(z)[kept], rel=1e-8, abs=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_families_without_few_statistics_are_refused(name):
    assert look(*REFUSED[name])[0] is None
    rows, center, _ = REFUSED[name]
    assert (
        sufficient.condense(lambda z: np.stack([rows(p)[:KEPT] for p in z], 1), np.ones(KEPT), len(center), 0) is None
    )


def test_a_row_unlike_any_of_the_subsample_is_refused():
    dummy = np.zeros(N)
    dummy[17] = 1.0

    def rows(z):
        return stats.norm.logpdf(LINE, z[0] + z[1] * X + z[2] * dummy, 1.0)

    center, sds = [1, 2, 0], [S, S, 1.0]
    without = np.arange(100, 100 + KEPT)
    assert look(rows, center, sds, without)[0] is None
    assert look(rows, center, sds, np.append(17, without))[0] is not None


def test_equal_rows_have_one_statistic():
    found, kept = look(lambda z: np.full(N, stats.norm.logpdf(0.3, z[0], 1.0)), [0.3], [S])
    assert found is not None
    assert found.rank == 1
    np.testing.assert_allclose(found.weights, N / len(kept))


def test_densities_that_are_not_finite_are_refused():
    assert look(lambda z: np.where(z[0] < X, 0.0, -np.inf), [0.0], [S])[0] is None
