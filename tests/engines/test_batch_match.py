"""What is special to batch and match; what every engine obeys is in tests/laws."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.engines.batch_match import BatchMatch, _matched, _State
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


def fitted(model, data=None, engine=None, seed=0):
    with scope():
        target = Target(read(model, data))
        q, record = run(engine or BatchMatch(), target, seed=seed, progress=False)
    return q, record, target


def _gaussian(p, data):
    centered = p["x"] - data["mean"]
    return -0.5 * centered @ data["precision"] @ centered


def _skew(p):
    return (2 * p["x"] - jnp.exp(p["x"])).sum()


@pytest.fixture(scope="module")
def gaussian():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    variances, mean = np.logspace(-4, 4, 6), 10 * rng.standard_normal(6)
    data = {"mean": mean, "precision": (rotation / variances) @ rotation.T}
    return jn.density(_gaussian, {"x": np.zeros(6)}, data=data), mean, (rotation * variances) @ rotation.T


@pytest.fixture(scope="module")
def skew():
    return jn.density(_skew, {"x": np.zeros(3)})


def _step_of_the_paper(mean, cov, z, g, weights, lam):
    """The update as it is written in the paper, by dense matrix functions."""
    from scipy.linalg import sqrtm

    z_mean, g_mean = weights @ z, weights @ g
    c, gamma = (((a - m).T * weights) @ (a - m) for a, m in ((z, z_mean), (g, g_mean)))
    u = lam * gamma + lam / (1 + lam) * np.outer(g_mean, g_mean)
    v = cov + lam * c + lam / (1 + lam) * np.outer(mean - z_mean, mean - z_mean)
    eye = np.eye(len(mean))
    new = 2 * v @ np.linalg.inv(eye + np.real(sqrtm(eye + 4 * u @ v)))
    return mean / (1 + lam) + lam / (1 + lam) * (new @ g_mean + z_mean), new, u, v


@pytest.mark.parametrize("lam", [0.1, 1.0, 50.0])
def test_a_step_is_the_one_of_the_paper(lam):
    rng = np.random.default_rng(3)
    dim, draws = 4, 11
    mean, factor = rng.standard_normal(dim), rng.standard_normal((dim, dim)) + 2 * np.eye(dim)
    noise, g = rng.standard_normal((draws, dim)), rng.standard_normal((draws, dim))
    weights = rng.uniform(0.5, 1, draws)
    weights /= weights.sum()
    nothing = np.zeros(dim), np.zeros((dim, dim))
    state = _State(mean, factor, noise, weights, g @ factor, np.zeros(1), nothing, None, 0)
    new_mean, new_factor = _matched(state, lam)
    wanted_mean, wanted, u, v = _step_of_the_paper(mean, factor @ factor.T, mean + noise @ factor.T, g, weights, lam)
    cov = new_factor @ new_factor.T
    np.testing.assert_allclose(cov @ u @ cov + cov, v, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(cov, wanted, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(new_mean, wanted_mean, rtol=1e-8, atol=1e-9)


def test_a_gaussian_is_recovered(gaussian):
    model, mean, cov = gaussian
    sd = np.sqrt(np.diagonal(cov))
    q, record, target = fitted(model)
    assert record.status == "converged"
    assert np.abs((q.mean - mean) / sd).max() < 1e-6
    assert np.abs((q.cov - cov) / np.outer(sd, sd)).max() < 1e-6
    assert target._program.traces == 1


def test_the_answer_matches_scores_in_quadrature(skew):
    """log Gamma(2, 1) in each of three coordinates: the q with the least divergence, by one-dimensional quadrature.

    With z = m + s e the divergence is E (e + s g(z))^2 with its covariance weight held: the fixed point of the steps has
    E g = 0 and Var(s g) = 1.
    """
    from scipy.optimize import fsolve

    nodes, shares = np.polynomial.hermite_e.hermegauss(80)
    shares = shares / shares.sum()

    def gaps(parameters):
        s = np.exp(parameters[1])
        g = s * (2 - np.exp(parameters[0] + s * nodes))
        return shares @ g, shares @ g**2 - (shares @ g) ** 2 - 1

    m, log_s = fsolve(gaps, [0.4, -0.4])
    q, record, _ = fitted(skew)
    assert record.status == "converged"
    np.testing.assert_allclose(q.mean, m, atol=0.05)
    np.testing.assert_allclose(q.sd, np.exp(log_s), rtol=0.08)


def test_same_seed_same_bits_and_another_seed_another_path(skew):
    one, first, _ = fitted(skew)
    same, again, _ = fitted(skew)
    other, _, _ = fitted(skew, seed=1)
    np.testing.assert_array_equal(one.mean, same.mean)
    np.testing.assert_array_equal(one.scale, same.scale)
    np.testing.assert_array_equal(first.history["loss"], again.history["loss"])
    assert 0 < np.abs((one.mean - other.mean) / one.sd).max() < 0.1


def test_a_good_start_is_kept(skew):
    q, _, target = fitted(skew)
    again, record, _ = fitted(skew, engine=BatchMatch(start=q))
    assert record.status == "converged"
    assert np.abs((again.mean - q.mean) / q.sd).max() < 0.1
    assert target.gradients > 0


def test_steps_are_a_limit_and_say_that_it_is_not_done(gaussian):
    _, record, _ = fitted(gaussian[0], engine=BatchMatch(steps=2))
    assert (record.steps, record.status) == (2, "stuck")


def test_a_far_start_arrives():
    """Log sd 0 for data of sd 50 around 1,000: scores of 10^5 and more, all of one sign, must not make q collapse."""
    y = 1000 + 50 * np.random.default_rng(5).standard_normal(20)

    def normal(p, data):
        e = (data["y"] - p["mu"]) * jnp.exp(-p["log_sd"])
        return -0.5 * (e**2).sum() - 20 * p["log_sd"] - 0.5 * (p["mu"] / 1e4) ** 2 - 0.5 * (p["log_sd"] / 10) ** 2

    q, record, _ = fitted(jn.density(normal, {"mu": 0.0, "log_sd": 0.0}, data={"y": y}))
    assert record.status == "converged"
    assert abs(q.mean[0] - y.mean()) < 2
    assert q.sd[0] == pytest.approx(y.std() / 20**0.5, rel=0.15)
    assert q.mean[1] == pytest.approx(np.log(y.std()), abs=0.1)


def test_a_q_that_matches_nothing_is_not_converged(skew):
    _, record, _ = fitted(skew)
    assert BatchMatch().converged(record.state)
    unmatched = replace(record.state, fisher=np.full(50, 0.9 * 3))
    assert not BatchMatch().converged(unmatched)


def test_flat_and_nowhere_finite_are_refused():
    flat = jn.density(lambda p: -0.5 * p["a"] ** 2 + 0 * p["b"], {"a": 0.0, "b": 0.0})
    with pytest.raises(jn.ImproperError, match="site b"):
        fitted(flat)
    nowhere = jn.density(lambda p: jnp.log(-1 - p["a"] ** 2), {"a": 0.0})
    with pytest.raises(jn.NonFiniteError, match="not finite at the start"):
        fitted(nowhere)


def test_what_is_not_finite_is_walked_around():
    def walled(p):
        x = p["x"]
        return jnp.where((x > -0.25).all() & (x < 6).all(), -0.5 * ((x - 3) ** 2).sum() / 0.25, jnp.nan)

    q, record, _ = fitted(jn.density(walled, {"x": np.zeros(2)}))
    assert record.status == "converged"
    np.testing.assert_allclose(q.mean, 3, atol=1e-6)
    np.testing.assert_allclose(q.sd, 0.5, atol=1e-6)


def test_the_state_is_a_q_at_every_step(skew):
    engine = replace(BatchMatch(), steps=30)
    with scope():
        target = Target(read(skew))
        state = engine.init(target, 0)
        for _ in range(25):
            q = engine.finish(state)
            assert np.isfinite(q.log_prob(q.sample(np.random.default_rng(0), 5))).all()
            state, _ = engine.advance(state, target)
