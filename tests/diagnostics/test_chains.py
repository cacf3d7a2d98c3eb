"""Short parallel chains: they leave the target invariant, whatever metric and map they run in."""

import numpy as np
import pytest

from jensen.diagnostics import chains, straighten
from jensen.diagnostics.chains import CHAINS, KEPT, Metric, relearn, stage
from jensen.families.maps import layer

DIM = 3
FACTOR = np.array([[1.0, 0, 0], [1.5, 0.5, 0], [0.0, -0.3, 4.0]])
MEAN = np.array([5.0, -1.0, 0.0])
PRECISION = np.linalg.inv(FACTOR @ FACTOR.T)


def gaussian(z):
    force = -(z - MEAN) @ PRECISION
    return 0.5 * (force * (z - MEAN)).sum(1), force


def half_gaussian(z):
    """N(0, I) where the first coordinate is positive, NaN elsewhere."""
    log_p, gradient = -0.5 * (z**2).sum(1), -z
    outside = z[:, 0] <= 0
    return np.where(outside, np.nan, log_p), np.where(outside[:, None], np.nan, gradient)


@np.errstate(over="ignore", invalid="ignore")
def funnel(z):
    v, x = z[:, :1], z[:, 1:]
    squares = (x**2 * np.exp(-v)).sum(1)
    log_p = -0.5 * (v[:, 0] / 1.5) ** 2 - 0.5 * squares - 0.5 * x.shape[1] * v[:, 0]
    to_v = -v / 1.5**2 + 0.5 * squares[:, None] - 0.5 * x.shape[1]
    return log_p, np.concatenate([to_v, -x * np.exp(-v)], axis=1)


def exact(seed, n=CHAINS):
    return MEAN + np.random.default_rng(seed).standard_normal((n, DIM)) @ FACTOR.T


METRICS = {
    "own": Metric(MEAN, FACTOR),
    "diagonal": Metric(MEAN, np.sqrt(np.diagonal(FACTOR @ FACTOR.T))),
    "off": Metric(np.zeros(DIM), np.array([[2.0, 0, 0], [0, 1, 0], [1, 0, 2]])),
}


def _pooled(metric, target=gaussian, starts=exact, seeds=8, **options):
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(100 + seed)
        found.append(stage(target, starts(seed), metric, rng, **({"leapfrogs": 8, "step": 0.4} | options)))
    return found


@pytest.mark.parametrize("metric", METRICS)
def test_a_gaussian_stays_the_gaussian(metric):
    z = np.concatenate([one.z.reshape(-1, DIM) for one in _pooled(METRICS[metric])])
    white = np.linalg.solve(FACTOR, (z - MEAN).T).T
    np.testing.assert_allclose(white.mean(0), 0, atol=0.08)
    np.testing.assert_allclose(np.cov(white.T), np.eye(DIM), atol=0.12)


def test_shapes_and_that_density_and_gradient_belong_to_the_positions():
    one = _pooled(METRICS["own"], seeds=1)[0]
    assert one.z.shape == (KEPT, CHAINS, DIM)
    assert one.log_p.shape == (KEPT, CHAINS)
    log_p, gradient = gaussian(one.z.reshape(-1, DIM))
    np.testing.assert_allclose(one.log_p.ravel(), log_p)
    np.testing.assert_allclose(one.gradient.reshape(-1, DIM), gradient)
    assert 0.5 < one.acceptance <= 1
    assert one.step > 0


def test_the_step_moves_towards_the_acceptance_asked_for():
    for step in (1e-3, 2.0):
        one = stage(gaussian, exact(0), METRICS["own"], np.random.default_rng(0), leapfrogs=8, step=step)
        assert abs(np.log(one.step)) < abs(np.log(step))
    assert _pooled(METRICS["own"], seeds=1, goal=0.9)[0].step < _pooled(METRICS["own"], seeds=1, goal=0.6)[0].step


def test_starts_too_narrow_spread_out():
    narrow = lambda seed: MEAN + 0.1 * (exact(seed) - MEAN)  # noqa: E731
    z = _pooled(METRICS["own"], starts=narrow, seeds=1)[0].z
    white = np.linalg.solve(FACTOR, (z.reshape(-1, DIM) - MEAN).T).T
    assert white.std(0).min() > 0.8


def test_non_finite_regions_are_never_entered():
    start = lambda seed: np.abs(np.random.default_rng(seed).standard_normal((CHAINS, DIM)))  # noqa: E731
    found = _pooled(Metric(np.zeros(DIM), np.eye(DIM)), half_gaussian, start, step=0.3)
    z = np.concatenate([one.z.reshape(-1, DIM) for one in found])
    assert (z[:, 0] > 0).all()
    assert all(np.isfinite(one.log_p).all() and np.isfinite(one.gradient).all() for one in found)
    # Half normal: mean sqrt(2 / pi).
    assert z[:, 0].mean() == pytest.approx(np.sqrt(2 / np.pi), abs=0.06)
    assert z[:, 1].mean() == pytest.approx(0, abs=0.08)


def test_a_chain_that_starts_outside_comes_in_or_stays_and_harms_nobody():
    start = np.random.default_rng(0).standard_normal((CHAINS, DIM))
    start[:, 0] = np.abs(start[:, 0])
    start[3, 0] = -5.0
    one = stage(
        half_gaussian, start, Metric(np.zeros(DIM), np.eye(DIM)), np.random.default_rng(1), leapfrogs=4, step=0.4
    )
    others = np.delete(one.z, 3, axis=1)
    assert np.isfinite(others).all()
    assert (others[..., 0] > 0).all()


def test_the_same_generator_gives_the_same_chains():
    one, other = (_pooled(METRICS["own"], seeds=1)[0] for _ in range(2))
    np.testing.assert_array_equal(one.z, other.z)
    assert one.step == other.step


@pytest.mark.parametrize("metric", METRICS)
def test_metric_out_and_whiten_are_inverse_and_back_is_the_chain_rule(metric):
    metric = METRICS[metric]
    x = np.random.default_rng(0).standard_normal((5, DIM))
    np.testing.assert_allclose(metric.whiten(metric.out(x)), x, atol=1e-12)
    bump = 1e-6 * np.eye(DIM)
    for row in range(DIM):
        ends = [gaussian(metric.out(x + sign * bump[row]))[0] for sign in (1, -1)]
        force = metric.back(gaussian(metric.out(x))[1])[:, row]
        np.testing.assert_allclose(force, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-6)


def test_relearn_finds_the_covariance():
    start = Metric(np.zeros(DIM), np.eye(DIM))
    one = chains.Stage(exact(0, KEPT * CHAINS).reshape(KEPT, CHAINS, DIM), np.zeros(0), np.zeros(0), 0.8, 0.4)
    metric = relearn(start, one)
    white = np.linalg.solve(FACTOR, metric.factor)
    np.testing.assert_allclose(white @ white.T, np.eye(DIM), atol=0.15)
    np.testing.assert_allclose((metric.center - MEAN) / FACTOR.std(0), 0, atol=0.2)


def test_relearn_keeps_a_diagonal_metric_diagonal():
    start = Metric(np.zeros(DIM), np.ones(DIM))
    one = chains.Stage(exact(0, KEPT * CHAINS).reshape(KEPT, CHAINS, DIM), np.zeros(0), np.zeros(0), 0.8, 0.4)
    metric = relearn(start, one)
    assert metric.factor.shape == (DIM,)
    np.testing.assert_allclose(metric.factor, np.sqrt(np.diagonal(FACTOR @ FACTOR.T)), rtol=0.1)


def _funnel_draws(seed, shape=(KEPT, CHAINS)):
    rng = np.random.default_rng(seed)
    v = 1.5 * rng.standard_normal((*shape, 1))
    return np.concatenate([v, np.exp(v / 2) * rng.standard_normal((*shape, 3))], axis=-1)


@pytest.fixture(scope="module")
def bends():
    found = straighten.learn(_funnel_draws(0))
    assert found is not None
    return found


def test_a_funnel_is_straightened(bends):
    assert bends.parents.tolist() == [0]
    y = bends.into(_funnel_draws(1).reshape(-1, 4))
    v = y[:, 0]
    widths = [y[part, 1:].std(0) for part in (v < -1, np.abs(v) < 0.5, v > 1)]
    np.testing.assert_allclose(widths[0] / widths[1], 1, atol=0.25)
    np.testing.assert_allclose(widths[2] / widths[1], 1, atol=0.25)


def test_a_gaussian_needs_no_map():
    for seed in range(5):
        draws = MEAN + np.random.default_rng(seed).standard_normal((KEPT, CHAINS, DIM)) @ FACTOR.T
        assert straighten.learn(draws) is None


def test_one_dimension_has_nothing_to_bend():
    assert straighten.learn(np.random.default_rng(0).gamma(1.0, size=(KEPT, CHAINS, 1))) is None


def test_the_map_is_a_bijection(bends):
    z = _funnel_draws(2, (4, 8)).reshape(-1, 4)
    np.testing.assert_allclose(bends.out(bends.into(z))[0], z, rtol=1e-9, atol=1e-9)
    far = 30 * np.random.default_rng(0).standard_normal((20, 4))
    np.testing.assert_allclose(bends.into(bends.out(far)[0]), far, rtol=1e-6, atol=1e-6)


def test_volume_and_pullback_are_the_derivatives_of_the_map(bends):
    y = bends.into(_funnel_draws(3, (1, 6)).reshape(-1, 4))
    eye = 1e-6 * np.eye(4)
    jacobian = np.stack([(bends.out(y + e)[0] - bends.out(y - e)[0]) / 2e-6 for e in eye], axis=-1)
    _, volume, _ = bends.out(y)
    exact_volume = np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(volume - volume[0], exact_volume - exact_volume[0], atol=1e-6)  # up to a constant

    def density(y):
        z, volume, _ = bends.out(y)
        return funnel(z)[0] + volume

    z, _, tape = bends.out(y)
    pulled = bends.back(y, tape, funnel(z)[1])
    numeric = np.stack([(density(y + e) - density(y - e)) / 2e-6 for e in eye], axis=-1)
    np.testing.assert_allclose(pulled, numeric, rtol=1e-5, atol=1e-6)


def test_chains_in_the_map_leave_the_funnel_invariant(bends):
    first = chains.Stage(_funnel_draws(0), np.zeros(0), np.zeros(0), 0.8, 0.4)
    metric = relearn(Metric(np.zeros(4), np.eye(4)), first, bends)
    found = _pooled(metric, funnel, lambda seed: _funnel_draws(10 + seed, (CHAINS,)), step=0.3)
    z = np.concatenate([one.z.reshape(-1, 4) for one in found])
    assert z[:, 0].mean() == pytest.approx(0, abs=0.12)
    assert z[:, 0].std() == pytest.approx(1.5, abs=0.12)
    scaled = z[:, 1:] * np.exp(-z[:, :1] / 2)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=0.06)
    np.testing.assert_allclose(scaled.std(0), 1, atol=0.06)
    log_p, gradient = funnel(z)
    np.testing.assert_allclose(np.concatenate([one.log_p.ravel() for one in found]), log_p)
    np.testing.assert_allclose(np.concatenate([one.gradient.reshape(-1, 4) for one in found]), gradient)


def test_a_point_far_outside_of_a_map_has_no_density_and_no_warning():
    """Trajectories that diverge pass there: warnings are errors here, and the place must be one that is rejected."""
    bent = layer(np.zeros(2), np.eye(2), 3.0, np.zeros(2), np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    metric = Metric(np.zeros(2), np.eye(2), bent)
    far = metric.evaluate(lambda z: (-0.5 * (z**2).sum(1), -z), np.array([[2.0, 1e200], [0.0, 0.0]]))
    assert not np.isfinite(far.density[0])
    assert np.isfinite(far.density[1])
    assert np.isfinite(far.force[1]).all()
