"""Diagonal plus low rank: the family against dense linear algebra, the engine against Gaussians of the family."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import jensen as jn
from jensen.core.precision import scope
from jensen.engines.lowrank import LowRankDraws
from jensen.families.lowrank import LowRank, LowRankGaussian
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


def made(dim, rank, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((dim, rank)))[0] if rank else np.zeros((dim, 0))
    return LowRankGaussian(
        3 * rng.standard_normal(dim), rng.standard_normal(dim), directions, spread * rng.standard_normal(rank)
    )


@pytest.mark.parametrize(("dim", "rank"), [(1, 1), (5, 0), (5, 2), (6, 6)])
def test_density_is_that_of_the_dense_normal(dim, rank):
    q = made(dim, rank)
    s = np.exp(q.log_diagonal)
    inner = np.eye(dim) + q.directions @ np.diag(np.exp(2 * q.log_stretch) - 1) @ q.directions.T
    np.testing.assert_allclose(q.cov, s[:, None] * inner * s, atol=1e-12)
    z, log_q = q.transport(q.noise(np.random.default_rng(1), 20))
    expected = multivariate_normal(q.mean, q.cov)
    np.testing.assert_allclose(q.log_prob(z), expected.logpdf(z), rtol=1e-8)
    np.testing.assert_allclose(log_q, expected.logpdf(z), rtol=1e-8)
    np.testing.assert_allclose(q.entropy(), expected.entropy(), rtol=1e-10)
    np.testing.assert_allclose(q.scale @ q.scale.T, q.cov, atol=1e-12)
    np.testing.assert_array_equal(q.scale, np.tril(q.scale))


def _normal(p, data):
    z = p["x"] - data["mean"]
    return -0.5 * z @ data["precision"] @ z


def fitted(model, engine=None, data=None, precision="float64"):
    with scope(precision):
        target = Target(read(model, data), precision)
        q, record = run(engine or LowRankDraws(), target, seed=0, progress=False)
    return q, record, target


@pytest.mark.parametrize("rank", [3, None])
def test_a_gaussian_of_the_family_is_found(rank):
    truth = made(60, 3, seed=1)
    model = jn.density(_normal, {"x": np.zeros(60)}, data={"mean": truth.mean, "precision": np.linalg.inv(truth.cov)})
    q, record, _ = fitted(model, LowRankDraws(LowRank(rank)))
    assert record.status == "converged"
    assert np.abs((q.mean - truth.mean) / truth.sd).max() < 0.01
    np.testing.assert_allclose(q.sd, truth.sd, rtol=0.1)
    ratio = np.linalg.solve(truth.cov, q.cov)
    divergence = 0.5 * (np.trace(ratio) - 60 - np.linalg.slogdet(ratio)[1])
    assert divergence < 0.1
    again, _, _ = fitted(model, LowRankDraws(LowRank(rank)))
    for name, value in q.params.items():
        np.testing.assert_array_equal(again.params[name], value)


def test_independent_coordinates_are_left_to_mean_field():
    model = jn.density(lambda p: -0.5 * ((p["x"] - 2) ** 2).sum(), {"x": np.zeros(30)})
    q, record, _ = fitted(model)
    assert record.status == "converged"
    assert q.directions.shape[1] == 0
    np.testing.assert_allclose(q.mean, 2, atol=1e-6)
    np.testing.assert_allclose(q.sd, 1, atol=1e-6)


def test_elbo_between_mean_field_and_full_rank():
    rng = np.random.default_rng(0)
    common = rng.standard_normal((150, 2)) @ rng.standard_normal((2, 60))
    X = common + 0.5 * rng.standard_normal((150, 60))
    y = (rng.uniform(size=150) < 1 / (1 + np.exp(-X @ rng.standard_normal(60) / 8))).astype(float)

    def log_density(p, data):
        eta = data["X"] @ p["beta"]
        return (data["y"] * eta - jnp.logaddexp(0, eta)).sum() - 0.5 * (p["beta"] ** 2).sum()

    model = jn.density(log_density, {"beta": np.zeros(60)}, data={"X": X, "y": y})

    def fresh(engine):
        q, _, target = fitted(model, engine)
        with scope():
            z, log_q = q.transport(q.noise(np.random.default_rng(5), 1000))
            return float((target(z)[0] - log_q).mean())

    field, few, full = (
        fresh(engine)
        for engine in (jn.FixedDraws(jn.MeanField()), LowRankDraws(LowRank(5)), jn.FixedDraws(large=False))
    )
    assert field + 1 < few < full + 0.3


def test_bad_ranks_are_refused():
    model = jn.density(lambda p: -0.5 * (p["x"] ** 2).sum(), {"x": np.zeros(4)})
    for rank in (0, 5, 1.5):
        with pytest.raises(jn.OptionError, match="rank must be between 1 and the dimension 4"):
            fitted(model, LowRankDraws(LowRank(rank)))


def test_start_is_where_it_was_asked_for():
    q = LowRank(2).start(np.array([1.0, -2.0, 3.0]), 0.25)
    np.testing.assert_array_equal(q.mean, [1, -2, 3])
    np.testing.assert_allclose(q.cov, 0.0625 * np.eye(3), rtol=1e-14)
    assert LowRank(2) == LowRank(2)
