"""Stein variational gradient descent: its kernel, its annealing, its answers, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.errors import NonFiniteError, OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.core.records import decode, encode
from jensen.engines import stein_steps, tempering
from jensen.engines.stein import Stein
from jensen.families.particles import Particles
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


def _mixture(p):
    x = p["x"]
    return jnp.logaddexp(jnp.log(0.2) - 0.5 * ((x + 0.3) / 0.1) ** 2, jnp.log(0.8) - 0.5 * ((x - 0.5) / 0.1) ** 2)


def _ring(p):
    angles = jnp.arange(8) * jnp.pi / 4
    centers = jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)
    return jax.nn.logsumexp(-0.5 * ((p["x"] - centers) ** 2).sum(1) / 0.1**2)


_ROTATION = np.linalg.qr(np.random.default_rng(3).standard_normal((10, 10)))[0]
_SDS = np.logspace(-2, 2, 10)


def _gaussian(p):
    return -0.5 * (((p["x"] - 1) @ _ROTATION / _SDS) ** 2).sum()


def _banana(p):
    x = p["x"]
    return -0.5 * (x[0] ** 2 + ((x[1] - x[0] ** 2) / 0.2) ** 2)


def target_of(density, start):
    return Target(read(jn.density(density, {"x": start})))


def fitted(engine, density, start, seed=0, **more):
    with scope():
        return run(engine, target_of(density, start), seed=seed, progress=False, **more)


@pytest.mark.parametrize(("n", "dim", "limit"), [(40, 1, 2**22), (40, 5, 2**22), (37, 2, 200)])
def test_drift_and_discrepancy_are_those_of_the_definition(n, dim, limit, monkeypatch):
    """Against automatic differentiation of the kernel; with blocks of rows that do not divide n, too."""
    monkeypatch.setattr(stein_steps, "_KERNEL", limit)
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((n, dim)), rng.standard_normal((n, dim))
    h = 0.8 * dim
    kernel = lambda a, b: jnp.exp(-((a - b) ** 2).sum() / h)  # noqa: E731
    pairs = lambda f: jax.vmap(jax.vmap(f, (None, 0)), (0, None))(x, x)  # noqa: E731
    parts = lambda: (  # noqa: E731
        pairs(kernel),
        pairs(jax.grad(kernel)),
        pairs(jax.grad(kernel, 1)),
        pairs(lambda a, b: jnp.trace(jax.jacfwd(jax.grad(kernel, 1))(a, b))),
    )
    with scope():
        k, to_a, to_b, trace = map(np.asarray, jax.jit(parts)())
        phi, ksd = jax.jit(stein_steps._drift)(x, g, h)
        phi, ksd = np.asarray(phi), float(ksd)
    np.testing.assert_allclose(phi, (k @ g + to_b.sum(1)) / k.sum(1)[:, None], atol=2e-5)
    stein = k * (g @ g.T) + (to_b * g[:, None]).sum(2) + (to_a * g[None]).sum(2) + trace
    assert ksd == pytest.approx(np.sqrt(stein.mean()), rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bimodal_mixture_has_its_masses(seed):
    from scipy.stats import norm

    q, record = fitted(Stein(), _mixture, 0.0, seed)
    grid = np.linspace(-1, 1.3, 100_001)
    below = 0.2 * norm.cdf(grid, -0.3, 0.1) + 0.8 * norm.cdf(grid, 0.5, 0.1)
    truth = np.interp((np.arange(1000) + 0.5) / 1000, below, grid)
    assert record.status == "converged"
    assert np.abs(np.sort(q.points[:, 0]) - truth).mean() < 0.015  # 0.002 to 0.007 was seen; 0.03 is asked for
    assert (q.points < 0.1).mean() == pytest.approx(0.2, abs=0.018)


def test_eight_modes_on_a_ring_have_equal_masses():
    q, _ = fitted(Stein(), _ring, np.zeros(2))
    mode = np.round(np.arctan2(q.points[:, 1], q.points[:, 0]) / (np.pi / 4)).astype(int) % 8
    np.testing.assert_allclose(np.bincount(mode, minlength=8) / 1000, 1 / 8, atol=0.035)
    assert np.linalg.norm(q.points, axis=1).std() == pytest.approx(0.1, rel=0.08)


def test_sds_do_not_collapse_in_ten_dimensions():
    q, record = fitted(Stein(), _gaussian, np.zeros(10))
    white = (q.points - 1) @ _ROTATION / _SDS
    assert record.status == "converged"
    assert np.abs(white.mean(0)).max() < 0.02
    np.testing.assert_allclose(white.std(0), 1, atol=0.03)  # 0.985 was seen; 0.81 with the usual bandwidth


def test_a_cloud_wider_than_the_gaussian_is_annealed_again_in_its_own_coordinates():
    q, _ = fitted(Stein(), _banana, np.zeros(2))
    np.testing.assert_allclose(q.mean, [0, 1], atol=0.12)
    np.testing.assert_allclose(q.sd, [1, np.sqrt(2.04)], rtol=0.1)  # one annealing alone gives 0.92 and 1.07


def test_without_annealing_particles_stay_in_the_mode_of_the_gaussian():
    start = jn.FullRank().start(np.array([0.5]), 0.1)
    q, record = fitted(Stein(annealing=False, start=start), _mixture, 0.0)
    assert record.status == "converged"
    assert (q.points > 0.1).all()
    assert q.sd[0] == pytest.approx(0.1, rel=0.02)


def test_a_start_far_away_is_flowed_from():
    start = jn.FullRank().start(np.full(2, 5.0), 1.0)
    density = lambda p: -0.5 * (p["x"] ** 2).sum()  # noqa: E731
    q, _ = fitted(Stein(annealing=False, start=start), density, np.zeros(2))
    np.testing.assert_allclose(q.mean, 0, atol=0.02)
    np.testing.assert_allclose(q.sd, 1, rtol=0.03)


def test_steps_are_kept_to_and_gradients_counted():
    with scope():
        target = target_of(_gaussian, np.zeros(10))
        engine = Stein(particles=50, annealing=False, steps=30)
        before = engine.init(target, 0)
        spent = target.gradients
        q, record = run(engine, target, seed=0, state=before, progress=False)
    assert (record.status, record.steps) == ("stopped", 30)
    assert q.points.shape == (50, 10)
    assert target.gradients - spent == 30 * 50
    assert np.isfinite(record.history["loss"]).all()


def test_bit_for_bit_the_same_again_and_valid_at_every_chunk():
    with scope():
        target, engine = target_of(_mixture, 0.0), Stein(particles=60, steps=50)
        states = [engine.init(target, 4)]
        done = False
        while not done:
            new, ticks = engine.advance(states[-1], target)
            states.append(new)
            done = ticks.done
        assert all(engine.finish(state).points.shape == (60, 1) for state in states)
        for middle in (1, len(states) - 2):  # of the annealing, and of the flow: through a checkpoint, and on
            again, _ = engine.advance(decode(*encode(states[middle])), target)
            np.testing.assert_array_equal(engine.finish(again).points, engine.finish(states[middle + 1]).points)


def test_particles_walk_around_a_region_without_density():
    density = lambda p: jnp.where(p["x"] > 2, jnp.nan, -0.5 * p["x"] ** 2)  # noqa: E731
    q, _ = fitted(Stein(particles=200), density, 0.0)
    assert np.isfinite(q.points).all()
    assert (q.points <= 2).all()


def test_refusals():
    for options in ({"particles": 1}, {"particles": 2.5}, {"particles": True}, {"steps": 0}):
        with pytest.raises(OptionError, match="whole number"):
            Stein(**options)
    with pytest.raises(OptionError, match=r"particles=1,000,000,000,000 in 2 dimensions need about .* GB.* or fewer"):
        fitted(Stein(particles=10**12), _banana, np.zeros(2))
    start = jn.FullRank().start(np.zeros(1), 1.0)
    with pytest.raises(NonFiniteError, match="not finite at any of the particles' starts"):
        fitted(Stein(start=start), lambda p: jnp.log(-1 - p["x"] ** 2), 0.0)


def test_resampling_rounds_counts():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(50))
    counts = np.bincount(tempering._resample(rng, rng.standard_normal((50, 3)), weights), minlength=50)
    assert np.abs(counts - 50 * weights).max() < 1


def test_annealing_of_a_gaussian_gives_a_gaussian():
    from scipy.stats import kstest

    density = lambda x: (-0.5 * ((x - 3) ** 2).sum(1), 3 - x)  # noqa: E731
    rng = np.random.default_rng(1)
    cloud = tempering.wide(density, rng, 4000, 2)
    while cloud.t < 1:
        cloud = tempering.anneal(density, rng, cloud)
    # Copies of points are not independent; a distance of 0.03 is far below what a wrong weight makes.
    assert kstest(cloud.x[:, 0] - 3, "norm").statistic < 0.03
    assert kstest(cloud.x[:, 1] - 3, "norm").statistic < 0.03
    few = tempering.thinned(cloud, 500)
    assert few.x.shape == (500, 2)


def test_particles_are_their_points():
    points = np.random.default_rng(0).standard_normal((30, 3)) @ np.diag([1, 2, 3])
    q = Particles(points)
    np.testing.assert_allclose(q.mean, points.mean(0))
    np.testing.assert_allclose(q.cov, np.cov(points.T, ddof=0))
    np.testing.assert_allclose(q.sd, np.sqrt(np.diagonal(q.cov)))
    np.testing.assert_allclose(q.scale @ q.scale.T, q.cov, atol=1e-12)
    np.testing.assert_array_equal(q.scale, np.tril(q.scale))
    draws = q.sample(np.random.default_rng(1), 75)
    _, counts = np.unique(draws, axis=0, return_counts=True)
    assert counts.sum() == 75
    assert set(counts) == {2, 3}
    leaves, structure = jax.tree.flatten(q)
    np.testing.assert_array_equal(jax.tree.unflatten(structure, leaves).points, points)
    np.testing.assert_array_equal(type(q)(**q.params).points, points)
    with pytest.raises(UnsupportedError, match="particles have none"):
        q.log_prob(points)
    with pytest.raises(UnsupportedError, match="singular"):
        Particles(points[:3]).scale  # noqa: B018
