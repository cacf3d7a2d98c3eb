"""NUTS that begins where a fit has ended: metric, engine, and the posterior it returns."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import jensen as jn
from jensen.core.precision import scope
from jensen.core.records import decode, encode
from jensen.diagnostics import straighten
from jensen.diagnostics.nuts import sample_nuts
from jensen.engines.nuts import Begin, Nuts, frame_of
from jensen.engines.nuts_metric import RANK, fisher
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run

DIM = 6
RNG = np.random.default_rng(0)
ROTATION = np.linalg.qr(RNG.standard_normal((DIM, DIM)))[0]
COV = (ROTATION * np.logspace(-2, 2, DIM)) @ ROTATION.T
MEAN = 10 * RNG.standard_normal(DIM)


def _gaussian(p, data):
    centered = p["x"] - data["mean"]
    return -0.5 * centered @ data["precision"] @ centered


@pytest.fixture(scope="module")
def gaussian():
    return jn.density(_gaussian, {"x": np.zeros(DIM)}, data={"mean": MEAN, "precision": np.linalg.inv(COV)})


def covariance(frame):
    """Covariance of z where x is standard normal."""
    root = frame.out(np.eye(len(frame.center))) - frame.center
    return root.T @ root


def test_frames_go_out_and_back():
    frame = frame_of(MEAN, COV)
    x = RNG.standard_normal((5, DIM))
    np.testing.assert_allclose(frame.into(frame.out(x)), x, atol=1e-9)
    np.testing.assert_allclose(covariance(frame), COV, atol=1e-9 * COV.max())
    np.testing.assert_allclose(covariance(frame_of(MEAN, np.diag(COV))), np.diag(np.diag(COV)))


def test_metric_of_a_gaussian_is_exact_from_few_draws():
    z = RNG.multivariate_normal(MEAN, COV, 3 * DIM)
    frame = fisher(z, (MEAN - z) @ np.linalg.inv(COV))
    w = np.linalg.eigvals(np.linalg.solve(COV, covariance(frame))).real
    assert w.min() > 0.45  # eigenvalues of the scaled covariance between 1/2 and 2 are left alone
    assert w.max() < 2.2


def test_metric_of_many_dimensions_is_low_rank():
    dim = 2 * RANK + 60
    sd = np.exp(RNG.uniform(-3, 3, dim))
    direction = np.linalg.qr(RNG.standard_normal((dim, 2)))[0]
    root = np.diag(sd) @ (np.eye(dim) + direction @ np.diag([20.0, 9.0]) @ direction.T)
    cov = root @ root.T
    z = RNG.standard_normal((400, dim)) @ root.T
    frame = fisher(z, -np.linalg.solve(cov, z.T).T)
    assert frame.directions.shape == (dim, 2 * RANK)
    condition = np.linalg.cond(np.linalg.inv(np.linalg.cholesky(covariance(frame))) @ root) ** 2
    assert condition < 20 < np.linalg.cond(root / sd[:, None]) ** 2 / 10


@pytest.mark.slow
def test_chains_draw_from_a_correlated_gaussian(gaussian):
    with scope():
        target = Target(read(gaussian))
        start = Begin(frame_of(MEAN, np.diag(np.diag(COV))), MEAN + 0.1 * RNG.standard_normal((4, DIM)))
        found, record = run(Nuts(1000, 4, 100, start), target, seed=0, progress=False)
        again, _ = run(Nuts(120, 4, 100, start), Target(read(gaussian)), seed=0, progress=False)
    assert record.status == "converged"
    assert found.z.shape == (1000, 4, DIM)
    assert target.gradients == found.warm + found.leapfrogs.sum() + 8
    np.testing.assert_array_equal(again.z, found.z[:120])  # neither length nor chunks change a draw
    white = (found.z - MEAN) @ np.linalg.inv(np.linalg.cholesky(COV)).T
    flat = white.reshape(-1, DIM)
    assert np.abs(flat.mean(0)).max() < 0.1
    np.testing.assert_allclose(np.cov(flat.T), np.eye(DIM), atol=0.12)
    centered = found.z - MEAN
    np.testing.assert_allclose(
        found.log_p, -0.5 * np.einsum("tci,ij,tcj->tc", centered, np.linalg.inv(COV), centered), atol=1e-8
    )
    assert 0.7 < found.acceptance < 0.95
    with scope():
        state = Nuts(10, 2, 10, start).init(Target(read(gaussian)), 0)
        back = decode(*encode(state))
    np.testing.assert_array_equal(back.place.x, state.place.x)


@pytest.mark.slow
def test_chains_in_straightened_coordinates_draw_from_the_funnel():
    funnel = jn.density(
        lambda p: -0.5 * p["v"] ** 2 / 2.25 - 0.5 * (p["x"] ** 2).sum() * jnp.exp(-p["v"]) - 1.5 * p["v"],
        {"v": 0.0, "x": np.zeros(3)},
    )
    rng = np.random.default_rng(1)
    v = 1.5 * rng.standard_normal(4096)
    z = np.column_stack([v, np.exp(v / 2)[:, None] * rng.standard_normal((4096, 3))])
    bent = straighten.learn(z.reshape(-1, 128, 4))
    assert bent is not None
    with scope():
        target = Target(read(funnel))
        y = bent.into(z)
        found, _ = run(
            Nuts(1000, 4, 100, Begin(frame_of(y.mean(0), np.cov(y.T)), z[:4], bent)), target, seed=0, progress=False
        )
        log_p, _ = target(found.z[::100].reshape(-1, 4))
    np.testing.assert_allclose(found.log_p[::100].ravel(), log_p, rtol=1e-8, atol=1e-8)
    assert stats.kstest(found.z[::4, :, 0].ravel() / 1.5, "norm").pvalue > 1e-3
    standard = found.z[::4, :, 1] * np.exp(-0.5 * found.z[::4, :, 0])
    assert stats.kstest(standard.ravel(), "norm").pvalue > 1e-3


def logistic(X, y):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([3]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.deterministic("double", 2 * beta)
    numpyro.sample("obs", dist.Normal(X @ beta, scale), obs=y)


@pytest.fixture(scope="module")
def fitted():
    X = np.random.default_rng(2).standard_normal((40, 3))
    y = X @ [1.0, -1.0, 0.5] + 0.7 * np.random.default_rng(3).standard_normal(40)
    return jn.fit(logistic, "fullrank", data={"X": X, "y": y}, correct=False)


def test_a_posterior_by_nuts(fitted):
    posterior = sample_nuts(fitted, draws=500, chains=4)
    assert posterior.q is fitted.q
    assert posterior.answer == "corrected"
    assert posterior.verdict.about == "the NUTS chains"
    assert posterior.kept.z.shape == (2000, 4)
    assert posterior.cost.gradients > fitted.cost.gradients
    assert set(posterior.verdict.columns) == {"r-hat", "bulk ess", "tail ess"}
    assert posterior.verdict.overall == "trusted"
    for name in ("beta", "scale", "double"):
        assert np.abs((posterior.mean[name] - fitted.mean[name]) / fitted.sd[name]).max() < 0.25
        assert np.abs(np.log(posterior.sd[name] / fitted.sd[name])).max() < 0.2
    again = sample_nuts(fitted, draws=500, chains=4)
    np.testing.assert_array_equal(posterior.kept.z, again.kept.z)
    assert "NUTS chains" in repr(posterior)
    assert posterior.draws(100)["double"].shape == (100, 3)


def test_refusals(fitted, tmp_path):
    with pytest.raises(jn.OptionError, match="draws must be at least 1"):
        sample_nuts(fitted, draws=0)
    with pytest.raises(jn.OptionError, match="chains must be at least 1"):
        sample_nuts(fitted, chains=2.5)
    fitted.save(tmp_path / "fit.nc")
    with pytest.raises(jn.OptionError, match="fit the model again"):
        sample_nuts(jn.load(tmp_path / "fit.nc"))
    broken = Begin(frame_of(np.zeros(1), np.ones(1)), np.array([[np.nan]]))
    with scope(), pytest.raises(jn.NonFiniteError, match="cannot begin"):
        Nuts(10, 2, 10, broken).init(Target(read(jn.density(lambda p: -(p["x"] ** 2), {"x": 0.0}))), 0)


def test_precision_of_the_caller_is_left_alone(fitted):
    assert not jax.config.jax_enable_x64
