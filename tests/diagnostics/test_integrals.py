"""Integrals over few globals, groups and Gaussian blocks inside of them: values, answers and words against quadrature by hand."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy.special import digamma, polygamma
from scipy.stats import multivariate_normal

import jensen as jn
from benchmarks.structured import conditional
from jensen.core.precision import scope
from jensen.diagnostics import few, quantities
from jensen.diagnostics.collapsed import _Collapsed, _gaussian, integrate_scales
from jensen.diagnostics.integrated import judge_against, judge_integrated
from jensen.diagnostics.nested import Nested, integrate_globals
from jensen.engines.structured import Structured
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


def grid(center, factor, nodes):
    """Points of a product of Gauss-Hermite rules around a center, and log weights without the normal density."""
    e, w = hermegauss(nodes)
    p = len(center)
    points = np.stack(np.meshgrid(*[e] * p, indexing="ij"), -1).reshape(-1, p)
    logs = sum(np.meshgrid(*[np.log(w) + 0.5 * e**2] * p, indexing="ij")).reshape(-1)
    return center + points @ factor.T, logs


def averages(log_p, points):
    w = np.exp(log_p - log_p.max())
    w /= w.sum()
    mean = w @ points
    return mean, np.sqrt(w @ (points - mean) ** 2)


@pytest.mark.parametrize("p", [1, 4])
def test_a_log_gamma_density_is_found_from_a_rough_start_and_its_errors_are_bounded(p):
    turn, k = np.eye(p) + 0.5, 30.0
    inverse = np.linalg.inv(turn)
    mean = inverse @ np.full(p, digamma(k) - np.log(k))
    cov = polygamma(1, k) * inverse @ inverse.T

    def density(x):
        y = x @ turn.T
        return (k * y - k * np.exp(y)).sum(1), {}

    root = np.linalg.cholesky(cov)
    found = few.integrate(density, mean + root.sum(1), 0.6 * root, np.random.default_rng(0))
    center, sd, se, sel = few.weighted(found, found.points, np.zeros_like(found.points))
    true = np.sqrt(np.diag(cov))
    assert found.enough
    assert (np.abs(center - mean) / true < 3 * se + 0.01).all()
    assert (np.abs(np.log(sd / true)) < 3 * sel + 0.01).all()
    assert se.max() < 0.08
    assert sel.max() < 0.12


def test_a_density_that_is_not_finite_anywhere_has_no_integral():
    assert (
        few.integrate(lambda x: (np.full(len(x), -np.inf), {}), np.zeros(2), np.eye(2), np.random.default_rng(0))
        is None
    )


def test_points_without_weight_may_have_no_moments():
    def density(x):
        far = np.abs(x[:, 0]) > 1
        return np.where(far, np.nan, -50 * x[:, 0] ** 2), {"mean": np.where(far, np.inf, 1.0)[:, None]}

    found = few.integrate(density, np.zeros(1), 0.4 * np.eye(1), np.random.default_rng(0))
    assert found.weights @ found.more["mean"] == pytest.approx(1.0)


def test_bernoulli_groups_are_integrated_as_by_quadrature_over_their_rows(bernoulli):
    inputs, target, q = bernoulli
    names = quantities.names(target.model)
    order, own = [names.index(name) for name in ("mu_a", "sigma_a", "b")], np.array(q.plates.own)[:, 0]
    # The scale is nearly twice as wide as in q.
    points, logs = grid(q.mean[order], np.diag(q.sd[order] * [1.0, 1.8, 1.0]), 7)
    known = [conditional("bernoulli", inputs, g) for g in points]
    marginal = np.array([log_p for log_p, _, _ in known])
    with scope():
        nested = Nested(target, q)
        assert nested.settle(np.random.default_rng(0))
        place = [list(q.plates.shared).index(i) for i in order]
        near = np.flatnonzero((np.abs(points - q.mean[order]) < 2.5 * q.sd[order]).all(1))[::9]
        log_p, _ = nested(points[near][:, np.argsort(place)])
        found = integrate_globals(target, q, 0)
    error = log_p - marginal[near]
    np.testing.assert_allclose(error, error.mean(), atol=0.2)
    mean, sd = averages(marginal + logs, points)
    z = found.draws.z
    got = found.weights @ z
    spread = np.sqrt(found.weights @ (z - got) ** 2)
    assert sd[1] > 1.6 * q.sd[order][1]
    assert (np.abs(got[order] - mean) / sd < 0.1).all()
    np.testing.assert_allclose(spread[order] / sd, 1.0, atol=0.1)
    w = np.exp(marginal + logs - (marginal + logs).max())
    w /= w.sum()
    means, variances = np.array([m for _, m, _ in known]), np.array([v for _, _, v in known])
    center = w @ means
    true = np.sqrt(w @ (variances + (means - center) ** 2))
    assert (np.abs(got[own] - center) / true).max() < 0.05
    assert np.abs(spread[own] / true - 1).max() < 0.05

    judged = judge_integrated(names, found, np.zeros(1))
    assert judged.overall == "trusted"
    # q itself has a scale that is too narrow, and is judged by these.
    with scope():
        values, derived = target.constrain(np.asarray(q.sample(np.random.default_rng(0), 4000)))
    x = quantities.matrix(target.model, values, derived)
    words = dict(zip(names, judge_against(names, x.mean(0), x.std(0), found, np.zeros(1)).words, strict=True))
    assert words["sigma_a"] != "trusted"
    assert words["b"] == words["a[0]"] == "trusted"


def test_groups_of_two_coordinates_are_integrated_in_closed_form_where_they_are_gaussian():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, 4)), rng.normal(size=(12, 4))

    def density(p, data):
        a = p["mu"] + p["a"] * jnp.exp(p["log_s"])
        rest = data["y"] - a[:, :1] - a[:, 1:] * data["x"]
        return -0.5 * ((rest**2).sum() + (p["a"] ** 2).sum() + (p["mu"] ** 2).sum() + (p["log_s"] ** 2).sum())

    model = jn.density(
        density, {"mu": np.zeros(2), "log_s": np.zeros(2), "a": np.zeros((12, 2))}, data={"x": x, "y": y}
    )
    with scope():
        target = Target(read(model))
        q, _ = run(Structured(), target, seed=0, progress=False)
        nested = Nested(target, q)
        g = nested.center + 0.5 * rng.standard_normal((6, 4)) @ np.asarray(q.head).T
        g[3:, 2:] += [-2.5, -1.0]  # the neck of a funnel
        log_p, given = nested(g)
    assert [site.name for site in target.model.sites][:2] == ["mu", "log_s"]
    mu, log_s = g[:, :2], g[:, 2:]
    true = -0.5 * (mu**2).sum(1) - 0.5 * (log_s**2).sum(1)
    for row in range(12):
        design = np.stack([np.ones(4), x[row]], 1)
        for k in range(6):
            cov = np.eye(4) + (design * np.exp(2 * log_s[k])) @ design.T
            true[k] += multivariate_normal(design @ mu[k], cov).logpdf(y[row])
    np.testing.assert_allclose(log_p - log_p[0], true - true[0], atol=1e-8)
    np.testing.assert_allclose(given["gap"], 0.0, atol=1e-9)


def test_a_regression_whose_precision_is_integrated_is_exact():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(12, 2))
    y = x @ np.array([1.0, -0.5]) + rng.normal(size=12)

    def model(x, y):
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
        b = numpyro.sample("b", dist.Normal(0, 2).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ b, tau**-0.5), obs=y)

    posterior = jn.fit(model, "cavi", data={"x": x, "y": y}, progress=False)
    assert "exactly Gaussian" in posterior.verdict.reasons[1]
    assert posterior.chains is None
    assert dict(zip(posterior.verdict.names, posterior.verdict.words, strict=True))["b[0]"] != "do not use"

    log_tau = np.linspace(-3, 3, 601)
    log_p, means, variances = np.empty(601), np.empty((601, 2)), np.empty((601, 2))
    for k, tau in enumerate(np.exp(log_tau)):
        cov = np.eye(12) / tau + 4.0 * x @ x.T
        log_p[k] = multivariate_normal(np.zeros(12), cov).logpdf(y) + 2 * np.log(tau) - tau
        inside = np.linalg.inv(tau * x.T @ x + np.eye(2) / 4)
        means[k], variances[k] = inside @ (tau * x.T @ y), np.diag(inside)
    w = np.exp(log_p - log_p.max())
    w /= w.sum()
    with scope():
        found = integrate_scales(posterior.q, 0)
    x = found.draws.values
    center = w @ means
    sd = np.sqrt(w @ (variances + (means - center) ** 2))
    got = found.weights @ x["b"]
    np.testing.assert_allclose(got, center, atol=0.02 * sd.min())
    np.testing.assert_allclose(np.sqrt(found.weights @ (x["b"] - got) ** 2), sd, rtol=0.02)
    tau = w @ np.exp(log_tau)
    np.testing.assert_allclose(found.weights @ x["tau"], tau, rtol=0.02)
    true = np.sqrt(w @ (np.exp(log_tau) - tau) ** 2)
    np.testing.assert_allclose(np.sqrt(found.weights @ (x["tau"] - found.weights @ x["tau"]) ** 2), true, rtol=0.05)


@pytest.mark.parametrize("kind", ["interval", "non-centered"])
def test_scales_that_are_integrated_have_the_density_of_the_rows_marginal_normal(kind):
    rng = np.random.default_rng(3)
    group, x = np.arange(24) % 4, rng.normal(size=24)
    y = rng.normal(size=4)[group] + x + rng.normal(size=24)

    def model(group, x, y):
        tau = numpyro.sample("tau", dist.HalfNormal(1.0) if kind != "interval" else dist.Uniform(0.0, 5.0))
        b = numpyro.sample("b", dist.Normal(0.0, 2.0))
        e = numpyro.sample("e", dist.Normal(0.0, 1.0 if kind != "interval" else tau).expand([4]).to_event(1))
        effect = e[group] if kind == "interval" else tau * e[group]
        numpyro.sample("y", dist.Normal(b * x + effect, 0.8), obs=y)

    data = {"group": group, "x": x, "y": y}
    posterior = jn.fit(model, "cavi", data=data, correct=False, progress=False)
    with scope():
        collapsed = _Collapsed(posterior.q, _gaussian(posterior.q), np.random.default_rng(0))
        s = np.array([[0.1], [-0.5], [-2.0]])
        log_p, given = collapsed(s)
    assert collapsed.names == ("tau",)
    tau = 5 / (1 + np.exp(-s[:, 0])) if kind == "interval" else np.exp(s[:, 0])
    true = np.log(tau * (5 - tau)) if kind == "interval" else s[:, 0] - 0.5 * tau**2
    for k in range(3):
        cov = 0.64 * np.eye(24) + tau[k] ** 2 * (group[:, None] == group) + 4.0 * x[:, None] * x
        true[k] += multivariate_normal(np.zeros(24), cov).logpdf(y)
    np.testing.assert_allclose(log_p - log_p[0], true - true[0], atol=1e-8)
    assert given["mean"].shape == (3, 5)


def test_a_scale_of_four_groups_without_a_prior_has_no_sd():
    """Its density falls like tau^-3: the mean exists, the variance does not."""

    def model(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
        tau = numpyro.sample("tau", dist.ImproperUniform(dist.constraints.positive, (), ()))
        with numpyro.plate("groups", len(y)):
            each = numpyro.sample("each", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(each, 10.0), obs=y)

    posterior = jn.fit(model, data={"y": np.array([28.0, 8, -3, 7])}, progress=False)
    assert "integral" in posterior.verdict.reasons[0]
    assert dict(zip(posterior.verdict.names, posterior.verdict.words, strict=True))["tau"] == "means only"
