"""Odd and illegal data, and models with known faults: finite and rising where legal, a `DataError` or no pass where not."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import plate, sample
from numpyro.contrib.control_flow import scan
from tests.conjugacy.checks import all_moments, make, passes, start, sweeps
from tests.conjugacy.sites import G, N, R, X, Y, gamma, levels, normal, seen
from tests.tiers import quick

from jensen.core.errors import DataError

# -- odd data -------------------------------------------------------------------------------------------------------------


def mixture(y, K):
    pi, mu, tau = sample("pi", dist.Dirichlet(jnp.ones(K))), normal("mu", K), gamma("tau", K)
    with plate("rows", len(y)):
        z = sample("z", dist.Categorical(pi))
        seen(y, mu[z], tau[z] ** -0.5)


def sparse_mixture(y, K):
    pi, mu = sample("pi", dist.Dirichlet(jnp.full(K, 1e-3))), normal("mu", K)
    with plate("rows", len(y)):
        z = sample("z", dist.Categorical(pi))
    seen(y, mu[z])


def groups(y, g):
    tau = gamma("tau")
    seen(y, sample("x", dist.Normal(0.0, tau**-0.5).expand([9]))[g])


def regression(X, y):
    b, tau = sample("b", dist.Normal(0.0, 5.0).expand([X.shape[1]])), gamma("tau")
    seen(y, X @ b, tau**-0.5)


ODD = {
    "more clusters than rows": (mixture, {"y": Y[:3]}, {"K": 7}),
    "one cluster": (mixture, {"y": Y}, {"K": 1}),
    "one row": (mixture, {"y": Y[:1]}, {"K": 3}),
    "all equal": (mixture, {"y": np.ones(N)}, {"K": 3}),
    "outlier": (mixture, {"y": np.append(Y, 1e6)}, {"K": 3}),
    "clusters empty out": (sparse_mixture, {"y": Y}, {"K": 5}),
    "empty groups": (groups, {"y": Y, "g": G}, {}),
    "one row in one group": (groups, {"y": Y[:1], "g": G[:1]}, {}),
    "no rows": (groups, {"y": Y[:0], "g": G[:0]}, {}),
    "one column": (regression, {"X": X[:, :1], "y": R}, {}),
    "zero column": (regression, {"X": X * [1, 0, 1], "y": R}, {}),
    "all zero": (regression, {"X": 0 * X, "y": R}, {}),
    "same column twice": (regression, {"X": X[:, [0, 0, 1]], "y": R}, {}),
    "more columns than rows": (regression, {"X": X.reshape(12, 10)[:4], "y": R[:4]}, {}),
    "scales": (regression, {"X": X * [1e-3, 1.0, 1e4], "y": R}, {}),
    "tiny column": (regression, {"X": X * [1e-10, 1.0, 1.0], "y": R}, {}),
    "integers": (regression, {"X": np.rint(X).astype(int), "y": np.rint(R).astype(int)}, {}),
    "float32": (regression, {"X": X.astype(np.float32), "y": R.astype(np.float32)}, {}),
}


SLOW = {"one cluster", "one column", "more columns than rows", "all equal", "outlier"}


@pytest.mark.parametrize("name", quick(ODD, *(name for name in ODD if name not in SLOW)))
def test_odd_data(name):
    model, data, static = ODD[name]
    found = make(model, data, **static)
    assert passes(found, data)
    _, elbos = sweeps(found, start(found), 6)
    assert np.isfinite(elbos).all()
    assert np.diff(elbos).min() >= -1e-11 * np.abs(elbos).max()


def test_million_rows_do_not_hide_the_prior():
    def model(y):
        seen(y, 1.0, sample("tau", dist.HalfNormal(1.0)) ** -0.5)

    y = np.tile(Y, 80_000)
    found = make(model, {"y": y})
    assert found.findings[0].update == "free"
    assert "HalfNormal" in found.findings[0].reason
    assert passes(found, {"y": y})


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_offset_of_a_column_costs_few_digits(offset):
    """Coefficients against least squares on the rows themselves (no normal equations)."""

    def model(X, y):
        a, b = sample("a", dist.Normal(0.0, 5.0)), sample("b", dist.Normal(0.0, 5.0).expand([3]))
        seen(y, a + X @ b, 0.3)

    data = {"X": X + offset, "y": R}
    found = make(model, data)
    q, _ = sweeps(found, start(found), 3)
    design = np.column_stack([np.ones(40), data["X"]])
    rows = np.vstack([design / 0.3, np.eye(4) / 5.0])
    wanted = np.linalg.lstsq(rows, np.concatenate([R / 0.3, np.zeros(4)]), rcond=None)[0]
    got = np.asarray(all_moments(q)["a + b"]["mean"])
    np.testing.assert_allclose(got[1:], wanted[1:], atol=1e-7 if offset < 1e6 else 1e-2)


# -- illegal data ---------------------------------------------------------------------------------------------------------


def precise(y):
    seen(y, normal("x"), gamma("t") ** -0.5)


def poisson(y):
    sample("y", dist.Poisson(gamma("a")), obs=y)


def categorical(y):
    sample("y", dist.Categorical(sample("p", dist.Dirichlet(jnp.ones(3)))), obs=y)


def bernoulli(y):
    sample("y", dist.Bernoulli(sample("p", dist.Beta(1.0, 1.0))), obs=y)


def binomial(y):
    sample("y", dist.Binomial(5, sample("p", dist.Beta(1.0, 1.0))), obs=y)


def multinomial(y):
    sample("y", dist.Multinomial(6, sample("p", dist.Dirichlet(jnp.ones(3)))), obs=y)


def gamma_data(y):
    sample("y", dist.Gamma(3.0, gamma("b")), obs=y)


def beta_data(y):
    normal("x")
    sample("y", dist.Beta(2.0, 3.0), obs=y)


def dirichlet_data(y):
    normal("x")
    sample("y", dist.Dirichlet(jnp.ones(3)), obs=y)


ILLEGAL = {
    "negative count": (poisson, [1.0, -1.0, 2.0]),
    "no integer": (poisson, [1.0, 1.5, 2.0]),
    "category too large": (categorical, [0, 1, 3]),
    "negative category": (categorical, [0, -1, 2]),
    "half a success": (bernoulli, [0.0, 0.5, 1.0]),
    "negative cell": (multinomial, [[1, 2, 3], [8, -2, 0]]),
    "two successes": (bernoulli, [0, 1, 2]),
    "more successes than trials": (binomial, [1, 6, 2]),
    "wrong total": (multinomial, [[1, 2, 3], [1, 1, 1]]),
    "negative": (gamma_data, [1.0, -2.0]),
    "zero": (gamma_data, [1.0, 0.0]),
    "missing count": (poisson, [1.0, np.nan, 2.0]),
    "missing": (precise, [1.0, np.nan]),
    "infinite": (precise, [1.0, np.inf]),
    "probability of one": (beta_data, [0.5, 1.0]),
    "off the simplex": (dirichlet_data, [[0.2, 0.3, 0.5], [0.2, 0.3, 0.6]]),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal_data_is_a_data_error(name):
    model, y = ILLEGAL[name]
    with pytest.raises(DataError, match="^y "):
        make(model, {"y": np.array(y)})


def test_message_names_the_bad_value():
    with pytest.raises(DataError, match=r"^y \(Poisson\) has the value 1.5, .*whole number"):
        make(poisson, {"y": np.array([1.0, 1.5, 2.0])})


def test_missing_values_outside_of_the_arguments_are_named():
    def closed():
        sample("y", dist.Normal(normal("x"), 1.0), obs=jnp.array([1.0, np.nan]))

    with pytest.raises(DataError, match="^y .*NaN"):
        make(closed, {})


def test_totals_may_differ_between_rows():
    def model(y):
        p = sample("p", dist.Dirichlet(jnp.ones(3)))
        sample("y", dist.Multinomial(jnp.array([6, 3]), p), obs=y)

    assert passes(make(model, {"y": np.array([[1, 2, 3], [1, 1, 1]])}), {"y": np.array([[1, 2, 3], [1, 1, 1]])})
    with pytest.raises(DataError, match="row of sum 4"):
        make(model, {"y": np.array([[1, 2, 3], [1, 2, 1]])})


# -- levels that are impossible, latent Bernoullis, slices, kinks --------------------------------------------------------------


def impossible_level(y):
    mu = normal("mu", 3)
    seen(y, mu[levels("z", N, 0.5, 0.5, 0.0)])


def left_to_right(y):
    A, mu = jnp.array([[0.8, 0.2, 0.0], [0.0, 0.8, 0.2], [0.0, 0.0, 1.0]]), normal("mu", 3)

    def step(before, y_t):
        z = sample("z", dist.Categorical(A[before]))
        seen(y_t, mu[z])
        return z, None

    scan(step, 0, y)


def latent_bernoulli(y):
    mu, p = normal("mu", 2), sample("p", dist.Beta(1.0, 1.0))
    with plate("rows", N):
        z = sample("z", dist.Bernoulli(p))
    seen(y, mu[z])


def shifted_slices(y):
    mu, z = normal("mu", 2), levels("z", N, 0.3, 0.7)
    seen(y[1:], mu[z[1:]] + mu[z[:-1]])


def clipped_precision(y):
    seen(y, 0.0, jnp.maximum(gamma("t"), 1e-2) ** -0.5)


def bent_mean(y):
    x = normal("x")
    seen(y, jnp.where(x > 2.5, 2 * x - 2.5, x))


@pytest.mark.parametrize("model", [impossible_level, left_to_right])
def test_impossible_levels(model):
    found = make(model, {"y": Y})
    assert passes(found, {"y": Y})
    q, elbos = sweeps(found, start(found), 4)
    assert np.isfinite(elbos).all()
    assert np.diff(elbos).min() >= -1e-11 * np.abs(elbos).max()
    probs = np.asarray(all_moments(q)["z"]["probs"])
    assert (probs[0 if model is left_to_right else slice(None), 2] == 0).all()


def test_wrong_level_under_impossible_ones_is_still_caught():
    def model(y):
        seen(y, normal("mu", 3)[levels("z", N, 0.5, 0.5, 0.0)[::-1]])

    assert not passes(make(model, {"y": Y}), {"y": Y})


def test_latent_bernoulli():
    assert passes(make(latent_bernoulli, {"y": Y}), {"y": Y})


def test_slices_of_levels():
    assert not passes(make(shifted_slices, {"y": Y}), {"y": Y})


@pytest.mark.parametrize("model", [clipped_precision, bent_mean])
def test_kink_away_from_the_origin(model):
    assert not passes(make(model, {"y": Y}), {"y": Y})
