"""Linear regressions against closed forms, scikit-learn, Monte Carlo of the ELBO, and a fixed point written anew."""

import numpy as np
import pytest
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import BayesianRidge

from jensen.core.errors import FitWarning
from jensen.estimators import ARDRegression, BayesianLinearRegression

BOTH = pytest.mark.parametrize("kind", [ARDRegression, BayesianLinearRegression])


def problem(n=200, p=5, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) @ rng.normal(size=(p, p)) + 3
    w = np.where(np.arange(p) < 2, 1.0, 0.0)
    return x, 4 + x @ w + noise * rng.normal(size=n)


def naive(x, y, ard, sweeps=1000, flat=1e-6):
    """Coordinate ascent as in Bishop's 10.3, with the intercept integrated out; rates in the units the docstring says."""
    xc, yc = x - x.mean(0), y - y.mean()
    n, p = x.shape
    a, size = flat + (n - 1) / 2, xc.var(0)
    own = yc.var() / (size if ard else np.full(p, size.mean()))
    lam, alpha = np.ones(p), 1.0
    for _ in range(sweeps):
        s = np.linalg.inv(alpha * xc.T @ xc + np.diag(lam))
        m = alpha * s @ xc.T @ yc
        square = m**2 + s.diagonal()
        if ard:
            lam = (flat + 0.5) / (1e-10 * own + square / 2)
        else:
            lam = np.full(p, (flat + p / 2) / (1e-10 * own[0] + square.sum() / 2))
        alpha = a / (1e-6 * yc.var() + (((yc - xc @ m) ** 2).sum() + np.trace(s @ xc.T @ xc)) / 2)
    return m, s, alpha, lam


@BOTH
def test_fixed_point_is_that_of_plain_sweeps(kind):
    x, y = problem(n=60)
    y = y + x[:, 2:].sum(1)  # weights that are nearly zero take plain sweeps ten thousands of rounds
    m, s, alpha, lam = naive(x, y, kind is ARDRegression)
    fit = kind(tol=1e-12, max_iter=20000).fit(x, y)
    np.testing.assert_allclose(fit.coef_, m, atol=1e-5)
    np.testing.assert_allclose(fit.alpha_, alpha, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(fit.sigma_.diagonal()), np.sqrt(s.diagonal()), rtol=2e-3)


def test_many_rows_give_scikit_learns_ridge():
    x, y = problem(n=20000)
    ours, theirs = BayesianLinearRegression().fit(x, y), BayesianRidge(tol=1e-9).fit(x, y)
    sds = np.sqrt(theirs.sigma_.diagonal())
    np.testing.assert_allclose((ours.coef_ - theirs.coef_) / sds, 0, atol=1e-4)
    np.testing.assert_allclose(np.sqrt(ours.sigma_.diagonal()), sds, rtol=1e-3)
    np.testing.assert_allclose(
        ours.predict(x[:50], return_std=True)[1], theirs.predict(x[:50], return_std=True)[1], rtol=1e-3
    )


@BOTH
@pytest.mark.parametrize("intercept", [True, False])
def test_elbo_is_what_sampling_says(kind, intercept):
    x, y = problem(n=20, p=3)
    one = {"alpha_1": 1.0, "alpha_2": 1.0, "lambda_1": 1.0, "lambda_2": 1.0}
    fit = kind(fit_intercept=intercept, tol=1e-10, **one).fit(x, y)
    n, p = x.shape
    groups = p if kind is ARDRegression else 1
    size = x.var(0)
    rate0 = y.var() / (size if groups == p else size.mean(keepdims=True))
    shape_l, shape_a = 1 + p / groups / 2, 1 + (n - intercept) / 2
    lam_mean = np.atleast_1d(fit.lambda_)
    rng, draws = np.random.default_rng(1), 20000
    q_w = stats.multivariate_normal(fit.coef_, fit.sigma_)
    w = q_w.rvs(draws, random_state=rng)
    q_l, q_a = stats.gamma(shape_l, scale=lam_mean / shape_l), stats.gamma(shape_a, scale=fit.alpha_ / shape_a)
    lam, alpha = q_l.rvs((draws, groups), random_state=rng), q_a.rvs(draws, random_state=rng)
    left = (y - y.mean()) - w @ (x - x.mean(0)).T if intercept else y - w @ x.T
    nu = n - intercept
    log_p = nu / 2 * np.log(alpha / (2 * np.pi)) - alpha / 2 * (left**2).sum(1) - 0.5 * intercept * np.log(n)
    log_p += stats.norm.logpdf(w, 0, lam**-0.5).sum(1) + stats.gamma.logpdf(lam, 1, scale=1 / rate0).sum(1)
    log_p += stats.gamma.logpdf(alpha, 1, scale=1 / y.var())
    terms = log_p - q_w.logpdf(w) - q_l.logpdf(lam).sum(1) - q_a.logpdf(alpha)
    assert abs(terms.mean() - fit.elbo_[-1]) < 5 * terms.std() / np.sqrt(draws)


@BOTH
@pytest.mark.filterwarnings(
    "ignore::jensen.core.errors.FitWarning"
)  # wide rows interpolate; that they say so is tested below
@pytest.mark.parametrize("shape", [(200, 5), (30, 60), (50, 50)])
def test_elbo_never_falls(kind, shape):
    x, y = problem(*shape)
    fit = kind(tol=1e-3).fit(x, y)
    assert (np.diff(fit.elbo_) >= 0).all()
    assert len(fit.elbo_) > 2


@BOTH
def test_units_and_offsets_do_not_matter(kind):
    x, y = problem()
    a = kind().fit(x, y)
    b = kind().fit(1e3 * x + 1e6, 1e-2 * y + 1e6)
    np.testing.assert_allclose(1e5 * b.coef_, a.coef_, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(1e2 * b.predict(1e3 * x + 1e6, True)[1], a.predict(x, True)[1], rtol=1e-5)


@BOTH
def test_batches_weights_and_repeats_are_one(kind):
    x, y = problem()
    whole = kind().fit(x, y)
    parts = kind().partial_fit(x[:7], y[:7]).partial_fit(x[7:90], y[7:90]).partial_fit(x[90:], y[90:])
    np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=1e-6, atol=1e-8)
    weight = np.arange(len(y)) % 3
    weighted = kind().fit(x, y, sample_weight=weight)
    repeated = kind().fit(x.repeat(weight, 0), y.repeat(weight))
    np.testing.assert_allclose(weighted.sigma_, repeated.sigma_, rtol=1e-6, atol=1e-12)
    assert weighted.elbo_[-1] == pytest.approx(repeated.elbo_[-1], abs=1e-5)


@BOTH
def test_wide_rows_agree_with_the_gram_matrix(kind):
    x, y = problem(30, 45)
    with pytest.warns(FitWarning, match="interpolates"):
        wide, gram = kind().fit(x, y), kind().partial_fit(x[:10], y[:10]).partial_fit(x[10:], y[10:])
    assert wide.elbo_[-1] == pytest.approx(gram.elbo_[-1], abs=0.2)
    np.testing.assert_allclose(wide.predict(x), gram.predict(x), atol=1e-3)


@BOTH
def test_constant_and_collinear_columns_and_a_constant_target(kind):
    x, y = problem()
    odd = np.c_[x, x[:, 0], np.full(len(x), 0.1), np.zeros(len(x))]
    fit, plain = kind().fit(odd, y), kind().fit(x, y)
    assert fit.coef_[-2:].tolist() == [0.0, 0.0]
    assert np.isfinite(fit.sigma_).all()
    np.testing.assert_allclose(fit.predict(odd), plain.predict(x), atol=0.05)
    flat = kind().fit(x, np.full(len(x), 7.0))
    np.testing.assert_allclose(flat.predict(x), 7)


@BOTH
def test_noise_free_targets(kind):
    x, _ = problem()
    fit = kind().fit(x, x @ np.arange(5.0))
    np.testing.assert_allclose(fit.coef_, np.arange(5.0), atol=1e-6)
    assert (np.diff(fit.elbo_) >= 0).all()


def test_refusals_and_warnings():
    x, y = problem()
    with pytest.raises(ValueError, match="scale the weights"):
        ARDRegression().fit(x, y, sample_weight=np.full(len(y), 1 / len(y)))
    with pytest.raises(ValueError, match="zero"):
        ARDRegression().fit(x, y, sample_weight=np.zeros(len(y)))
    with pytest.raises(ValueError, match="'tol' parameter"):
        ARDRegression(tol=-1).fit(x, y)
    with pytest.warns(ConvergenceWarning, match="max_iter=1 "):
        ARDRegression(max_iter=1).fit(x, y)
    assert np.isinf(BayesianLinearRegression().fit(x[:1], y[:1]).noise_variance_)


def test_ard_switches_columns_off_and_keeps_the_others():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 20))
    y = 2 * x[:, 3] - x[:, 7] + rng.normal(size=500)
    fit = ARDRegression().fit(x, y)
    np.testing.assert_allclose(fit.coef_[[3, 7]], [2, -1], atol=0.15)
    assert np.abs(np.delete(fit.coef_, [3, 7])).max() < 0.15
    assert 2 <= fit.n_effective_ < 8
