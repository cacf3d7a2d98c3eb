"""Logistic regression against quadrature, and against draws from the exact posterior."""

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import expit, log_expit
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from jensen.estimators import BayesianLogisticRegression
from jensen.estimators.sigmoid import smoothed


def problem(n=200, p=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    return x, (rng.random(n) < expit(x @ np.r_[1.0, -1.0, np.zeros(p - 2)] + 0.5)).astype(int)


@pytest.mark.parametrize("variance", [0.0, 1.0, 100.0])
def test_closed_forms_are_the_integrals(variance):
    means = np.array([-20.0, -1.0, 0.0, 3.0, 12.0])
    got = smoothed(means, np.full(5, variance))
    for i, mean in enumerate(means):
        if variance == 0:
            want = [-log_expit(-mean), expit(mean), expit(mean) * expit(-mean)]
        else:
            sd = np.sqrt(variance)
            functions = (lambda f: -log_expit(-f), expit, lambda f: expit(f) * expit(-f))
            want = [
                integrate.quad(lambda z, g=g, m=mean, s=sd: g(m + s * z) * stats.norm.pdf(z), -10, 10, limit=400)[0]
                for g in functions
            ]
        np.testing.assert_allclose([part[i] for part in got], want, atol=2e-8)


def test_one_weight_is_the_best_gaussian():
    """The ELBO by quadrature over the weight, without an intercept's help: gradient zero at our mean and sd."""
    x, y = problem(40, 2)
    fit = BayesianLogisticRegression(tol=1e-10).fit(x, y)
    # Moving q in any direction lowers an ELBO that sampling computes from common random numbers.
    z = np.random.default_rng(0).standard_normal((40000, 2))
    z = np.concatenate([z, -z])
    root = np.linalg.cholesky(fit.sigma_[0])
    lam = fit.lambda_
    signs = 2 * y - 1.0

    def bound(mean, root):
        w = mean + z @ root.T
        f = w @ x.T + fit.intercept_ - np.zeros(len(x))
        return log_expit(signs * f).sum(1).mean() - lam / 2 * (w**2).sum(1).mean() + np.log(np.abs(np.diag(root))).sum()

    # The intercept is held at its mean here, which changes little: the optimum must be within a few percent of an sd.
    best = bound(fit.coef_[0], root)
    for step in np.eye(2):
        for sign in (-1, 1):
            assert bound(fit.coef_[0] + 0.5 * sign * root @ step, root) < best
    assert bound(fit.coef_[0], 1.3 * root) < best
    assert bound(fit.coef_[0], root / 1.3) < best


def test_posterior_is_the_exact_one_by_importance_sampling():
    x, y = problem(150, 3)
    fit = BayesianLogisticRegression(tol=1e-10, lambda_1=1e8, lambda_2=1e8 * x.var(0).mean()).fit(x, y)
    assert fit.lambda_ == pytest.approx(1, rel=1e-4)  # the prior of the precision is a point
    rng, full = np.random.default_rng(0), np.c_[x, np.ones(len(x))]
    ml = LogisticRegression(C=1.0).fit(x, y)
    mode = np.r_[ml.coef_[0], ml.intercept_]
    bend = expit(full @ mode) * expit(-full @ mode)
    cov = np.linalg.inv((full.T * bend) @ full + np.diag([1, 1, 1, 0]))
    q = stats.multivariate_t(mode, cov, df=8)
    w = q.rvs(200000, random_state=rng)
    log_w = log_expit((2 * y - 1.0) * (w @ full.T)).sum(1) - 0.5 * (w[:, :3] ** 2).sum(1) - q.logpdf(w)
    weight = np.exp(log_w - log_w.max())
    mean = np.average(w, axis=0, weights=weight)
    sd = np.sqrt(np.average((w - mean) ** 2, axis=0, weights=weight))
    np.testing.assert_allclose((fit.coef_[0] - mean[:3]) / sd[:3], 0, atol=0.05)
    np.testing.assert_allclose(np.sqrt(fit.sigma_[0].diagonal()) / sd[:3], 1, atol=0.05)
    new = rng.normal(size=(20, 3)) * 2
    exact = np.average(expit(w @ np.c_[new, np.ones(20)].T), axis=0, weights=weight)
    np.testing.assert_allclose(fit.predict_proba(new)[:, 1], exact, atol=0.005)
    # The evidence bounds the ELBO from above, and is close.
    log_z = np.log(weight.mean()) + log_w.max() - 1.5 * np.log(2 * np.pi)
    assert -0.1 < fit.elbo_[-1] - log_z < 0.01


def test_softmax_of_two_halves_agrees_with_two_classes():
    """Three classes of which one is far away: between the other two, what two classes say at the prior that corresponds."""
    x, y = load_iris(return_X_y=True)
    fit = BayesianLogisticRegression().fit(x, y)
    assert fit.coef_.shape == (3, 4)
    assert fit.sigma_.shape == (3, 4, 4)
    np.testing.assert_allclose(fit.coef_.sum(0), 0, atol=1e-9)
    proba = fit.predict_proba(x)
    np.testing.assert_allclose(proba.sum(1), 1)
    assert fit.score(x, y) > 0.95
    log_loss = -np.log(proba[np.arange(len(y)), y]).mean()
    assert log_loss < 0.1
    assert (np.diff(fit.elbo_) > 0).all()


def test_softmax_posterior_by_importance_sampling():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(150, 1))
    logits = x * np.array([1.0, 0.0, -1.0])
    y = (logits + rng.gumbel(size=(150, 3))).argmax(1)
    fit = BayesianLogisticRegression(tol=1e-9, lambda_1=1e8, lambda_2=1e8 * x.var()).fit(x, y)

    def log_joint(w):  # (n, 3), intercepts fixed at the fit's, which moves weights little: compared loosely
        f = w[:, None, :] * x[:, 0][None, :, None] + fit.intercept_
        return (f[:, np.arange(150), y] - np.logaddexp.reduce(f, 2)).sum(1) - 0.5 * (w**2).sum(1)

    cov = fit.sigma_[:, 0, 0]
    w = fit.coef_[:, 0] + rng.standard_t(8, size=(40000, 3)) * np.sqrt(cov)
    log_w = log_joint(w) - stats.t.logpdf((w - fit.coef_[:, 0]) / np.sqrt(cov), 8).sum(1)
    weight = np.exp(log_w - log_w.max())
    mean = np.average(w, axis=0, weights=weight)
    sd = np.sqrt(np.average((w - mean) ** 2, axis=0, weights=weight))
    np.testing.assert_allclose((fit.coef_[:, 0] - mean) / sd, 0, atol=0.1)
    np.testing.assert_allclose(np.sqrt(cov) / sd, 1, atol=0.1)


def test_elbo_never_falls_on_odd_data():
    x, y = problem(30, 3)
    odd = {
        "wide": (np.random.default_rng(0).normal(size=(20, 50)), np.arange(20) % 2),
        "separable": (x, (x[:, 0] > 0).astype(int)),
        "collinear": (np.c_[x, x[:, 0], np.full(30, 0.1)], y),
        "offset": (1e6 + x, y),
        "rare": (x, (np.arange(30) == 3).astype(int)),
    }
    for name, (rows, labels) in odd.items():
        fit = BayesianLogisticRegression().fit(rows, labels)
        assert (np.diff(fit.elbo_) >= 0).all(), name
        assert np.isfinite(fit.predict_proba(rows)).all(), name
        assert np.isfinite(fit.sigma_).all(), name
    plain, moved = BayesianLogisticRegression().fit(x, y), BayesianLogisticRegression().fit(1e6 + 10 * x, y)
    np.testing.assert_allclose(moved.predict_proba(1e6 + 10 * x), plain.predict_proba(x), atol=1e-6)


def test_far_from_the_data_probabilities_are_humble():
    x, y = problem(30, 2)
    fit = BayesianLogisticRegression().fit(x, y)
    far = 1000 * fit.coef_
    point = expit(far @ fit.coef_[0] + fit.intercept_)
    assert point > 1 - 1e-6
    assert fit.predict_proba(far)[0, 1] < 1 - 1e-6


def test_refusals_and_warnings():
    x, y = problem()
    with pytest.raises(ValueError, match="one class"):
        BayesianLogisticRegression().fit(x, np.ones(len(y)))
    with pytest.warns(ConvergenceWarning, match="max_iter=1 "):
        BayesianLogisticRegression(max_iter=1).fit(x, y)
