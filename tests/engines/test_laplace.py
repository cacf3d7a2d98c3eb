"""What is special to Laplace's approximation; what every engine obeys is in tests/laws."""

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.engines.laplace import Laplace
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


def fitted(model, data=None, engine=None, precision="float64"):
    with scope(precision):
        target = Target(read(model, data), precision)
        q, record = run(engine or Laplace(), target, seed=0, progress=False)
    return q, record, target


def _gaussian(p, data):
    centered = p["x"] - data["mean"]
    return -0.5 * centered @ data["precision"] @ centered


def _logistic(p, data):
    logits = data["X"] @ p["beta"]
    return (data["y"] * logits - jnp.logaddexp(0, logits)).sum() - 0.5 * (p["beta"] ** 2).sum() / 4


def test_a_gaussian_is_recovered():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    variances, mean = np.logspace(-4, 4, 6), 10 * rng.standard_normal(6)
    data = {"mean": mean, "precision": (rotation / variances) @ rotation.T}
    cov, sd = (rotation * variances) @ rotation.T, np.sqrt(np.diagonal((rotation * variances) @ rotation.T))
    q, record, target = fitted(jn.density(_gaussian, {"x": np.zeros(6)}), data)
    assert record.status == "converged"
    assert np.abs((q.mean - mean) / sd).max() < 1e-6
    assert np.abs((q.cov - cov) / np.outer(sd, sd)).max() < 1e-6
    assert target._program.traces == 1


def test_mode_and_hessian_are_those_of_scipy():
    """A logistic regression, against scipy's minimizer and the Hessian in closed form."""
    from scipy.optimize import minimize
    from scipy.special import expit

    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 5))
    y = (rng.uniform(size=60) < expit(X @ [1, -1, 0.5, 0, 2])).astype(float)

    def loss(beta):
        return -(y * (X @ beta) - np.logaddexp(0, X @ beta)).sum() + (beta**2).sum() / 8

    mode = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9}).x
    p = expit(X @ mode)
    cov = np.linalg.inv((X.T * (p * (1 - p))) @ X + np.eye(5) / 4)
    q, _, _ = fitted(jn.density(_logistic, {"beta": np.zeros(5)}, data={"X": X, "y": y}))
    np.testing.assert_allclose(q.mean, mode, atol=1e-6)
    np.testing.assert_allclose(q.cov, cov, rtol=1e-5)


def test_gamma_in_closed_form():
    """log Gamma(a, 1): mode log a, curvature -a; skewed, so the third derivative is there."""
    q, _, _ = fitted(jn.density(lambda p: 7 * p["x"] - jnp.exp(p["x"]), {"x": 0.0}))
    assert q.mean[0] == pytest.approx(np.log(7), abs=1e-7)
    assert q.sd[0] == pytest.approx(7**-0.5, rel=1e-6)


def test_float32_finds_the_mode_as_far_as_it_can():
    q, record, _ = fitted(jn.density(lambda p: 7 * p["x"] - jnp.exp(p["x"]), {"x": 0.0}), precision="float32")
    assert record.status == "converged"
    assert q.mean[0] == pytest.approx(np.log(7), abs=0.01)
    assert q.sd[0] == pytest.approx(7**-0.5, rel=0.02)


def test_a_symmetric_saddle_at_the_start_is_left():
    """Between two modes the gradient is exactly zero."""

    def two(p):
        return jnp.logaddexp(-0.5 * ((p["x"] - 3) ** 2).sum(), -0.5 * ((p["x"] + 3) ** 2).sum())

    q, record, _ = fitted(jn.density(two, {"x": np.zeros(2)}))
    assert record.status == "converged"
    np.testing.assert_allclose(np.abs(q.mean), 3, atol=1e-3)
    np.testing.assert_allclose(q.sd, 1, atol=1e-3)


def test_start_chooses_the_mode():
    def two(p):
        return jnp.logaddexp(-0.5 * ((p["x"] - 3) ** 2).sum(), -0.5 * ((p["x"] + 3) ** 2).sum())

    engine = Laplace(start=jn.FullRank().start(np.full(2, -2.0), 0.3))
    q, _, _ = fitted(jn.density(two, {"x": np.zeros(2)}), engine=engine)
    np.testing.assert_allclose(q.mean, -3, atol=1e-3)


def test_a_funnel_without_a_mode_is_refused_with_what_was_seen():
    def eight(p, data):
        centered = (p["theta"] - p["mu"]) / jnp.exp(p["log_tau"])
        prior = -0.5 * (p["mu"] / 5) ** 2 - 0.5 * (centered**2).sum() - 7 * p["log_tau"]
        return prior - jnp.log1p((jnp.exp(p["log_tau"]) / 5) ** 2) - 0.5 * (((data["y"] - p["theta"]) / 10) ** 2).sum()

    model = jn.density(
        eight, {"mu": 0.0, "log_tau": 0.0, "theta": np.zeros(8)}, data={"y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12])}
    )
    with pytest.raises(jn.UnsupportedError, match="no mode: after .* along site log_tau"):
        fitted(model)


def test_flat_and_nowhere_finite_are_refused():
    flat = jn.density(lambda p: -0.5 * p["a"] ** 2 + 0 * p["b"], {"a": 0.0, "b": 0.0})
    with pytest.raises(jn.ImproperError, match="site b"):
        fitted(flat)
    nowhere = jn.density(lambda p: jnp.log(-1 - p["a"] ** 2), {"a": 0.0})
    with pytest.raises(jn.NonFiniteError, match="not finite at the start"):
        fitted(nowhere)
    plateau = jn.density(lambda p: -jnp.exp(-p["a"]), {"a": 0.0})
    with pytest.raises(jn.ModelError, match="site a"):
        fitted(plateau)


def test_what_is_not_finite_is_walked_around():
    def walled(p):
        x = p["x"]
        return jnp.where((x > -0.25).all() & (x < 6).all(), -0.5 * ((x - 3) ** 2).sum() / 0.25, jnp.nan)

    q, record, _ = fitted(jn.density(walled, {"x": np.zeros(2)}))
    assert record.status == "converged"
    np.testing.assert_allclose(q.mean, 3, atol=1e-6)
    np.testing.assert_allclose(q.sd, 0.5, atol=1e-6)


def test_the_state_is_a_q_at_every_step():
    with scope():
        target = Target(read(jn.density(lambda p: 7 * p["x"] - jnp.exp(p["x"]), {"x": 0.0})))
        state = Laplace().init(target, 0)
        for _ in range(3):
            q = Laplace().finish(state)
            assert np.isfinite(q.log_prob(q.sample(np.random.default_rng(0), 5))).all()
            state, _ = Laplace().advance(state, target)
