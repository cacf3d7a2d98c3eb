"""Stacked Gaussians on mixtures whose weights are known, and where there is one mode; the search's and EM's own tests."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax

import jensen as jn
from jensen.core import records
from jensen.core.precision import scope
from jensen.diagnostics.starts import fit_from_starts, fresh_elbo
from jensen.engines.population import improve
from jensen.engines.quench import distinct, frame_of, joined, quench
from jensen.engines.stacked import Stacked, stack
from jensen.families.fullrank import DenseGaussian
from jensen.families.mixture import GaussianMixture, mixture_of
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


def _mixture(p, data):
    squared = ((p["x"] - data["m"]) ** 2).sum(1) / data["s"] ** 2
    log_p = jnp.log(data["w"]) - 0.5 * squared - data["m"].shape[1] * jnp.log(data["s"])
    return jnp.logaddexp.reduce(log_p) - 0.5 * data["m"].shape[1] * jnp.log(2 * jnp.pi)


MODELS = {}


def target_of(weights, means, sds):
    means = np.asarray(means, float).reshape(len(weights), -1)
    data = {"w": np.asarray(weights, float), "m": means, "s": np.asarray(sds, float)}
    shape = means.shape
    if shape not in MODELS:  # models, and with them compiled programs, are shared by the tests
        MODELS[shape] = jn.density(_mixture, {"x": np.zeros(shape[1])}, data=data)
    with scope():
        return Target(read(MODELS[shape], data))


def two(dim, weight, distance, width=1.0):
    apart = np.full(dim, distance / np.sqrt(dim))
    return target_of([1 - weight, weight], [0.5 * np.ones(dim), 0.5 + apart], [1.0, width])


def fitted(target, seed=0, **options):
    with scope():
        return run(Stacked(**options), target, seed=seed, progress=False)


def w05():
    return target_of([0.2, 0.8], [[-0.3], [0.5]], [0.1, 0.1])


@pytest.mark.parametrize("seed", range(10))
def test_two_modes_of_the_lecture(seed):
    """Mass of the left mode 0.20 +- 0.01, and Wasserstein-1 to the truth at most 0.01."""
    from scipy.stats import norm

    q, record = fitted(w05(), seed)
    assert record.status == "converged"
    assert q.weights[q.means[:, 0] < 0.1].sum() == pytest.approx(0.2, abs=0.01)
    grid = np.linspace(-1, 1.2, 4001)
    truth = 0.2 * norm.cdf(grid, -0.3, 0.1) + 0.8 * norm.cdf(grid, 0.5, 0.1)
    parts = norm.cdf(grid[:, None], q.means[:, 0], q.scales[:, 0, 0]) @ q.weights
    assert np.trapezoid(np.abs(parts - truth), grid) < 0.01
    draws = q.sample(np.random.default_rng(seed), 20_000)[:, 0]
    assert np.trapezoid(np.abs(np.searchsorted(np.sort(draws), grid) / len(draws) - truth), grid) < 0.01


@pytest.mark.parametrize("weight", [0.1, 0.5])
@pytest.mark.parametrize(("dim", "distance"), [(1, 5), (1, 9), (2, 5), (5, 5), (5, 8), (20, 7)])
def test_two_modes_with_their_weights(dim, distance, weight):
    q, _ = fitted(two(dim, weight, distance))
    far = (q.means.mean(1) - 0.5) * np.sqrt(dim) > distance / 2
    assert q.weights[far].sum() == pytest.approx(weight, abs=0.03)


def test_a_narrow_small_mode():
    q, _ = fitted(two(10, 0.02, 8, 0.7))
    assert sorted(np.round(q.weights, 2)) == [0.02, 0.98]


def test_ring_of_eight_modes():
    angles = np.arange(8) * np.pi / 4
    target = target_of(np.ones(8) / 8, 8 * np.stack([np.cos(angles), np.sin(angles)], 1), np.full(8, 0.5))
    q, _ = fitted(target)
    np.testing.assert_allclose(q.weights, np.full(8, 1 / 8), atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(q.means, axis=1), 8, atol=0.05)


def test_modes_that_overlap_are_fitted_together():
    """At four sds the smaller mode has no optimum of reverse KL of its own: its peak and EM on weighted draws find it."""
    target = two(2, 0.1, 4)
    q, _ = fitted(target)
    assert len(q.weights) == 2
    with scope():
        z, log_q = q.transport(q.noise(np.random.default_rng(0), 2000))
        w = softmax(target(z)[0] - log_q)
    assert 1 / (w**2).sum() / len(w) > 0.9
    np.testing.assert_allclose(w @ z, 0.5 + 0.1 * 4 / np.sqrt(2), atol=0.05)


def test_one_gaussian_stays_one():
    q, record = fitted(two(2, 0.5, 0.0))
    assert record.status == "converged"
    assert q.weights.tolist() == [1.0]
    np.testing.assert_allclose(q.mean, 0.5, atol=1e-6)
    np.testing.assert_allclose(q.cov, np.eye(2), atol=1e-6)


def test_several_gaussians_along_a_ridge_have_a_higher_elbo_than_one():
    model = jn.density(lambda p: -0.5 * ((jnp.sqrt((p["x"] ** 2).sum() + 1e-12) - 3) / 0.3) ** 2, {"x": np.zeros(2)})
    with scope():
        target = Target(read(model))
        one, _ = fit_from_starts(target, jn.FixedDraws(), seed=0, progress=False)
        q, _ = run(Stacked(), target, seed=0, progress=False)
        assert len(q.weights) > 2
        assert fresh_elbo(target, q, 0).value > fresh_elbo(target, one, 0).value + 0.5


def test_the_start_is_where_the_first_fit_begins():
    start = DenseGaussian(np.array([0.5]), np.array([[0.1]]))
    _, with_start = fitted(w05(), start=start, starts=0)
    _, without = fitted(w05(), starts=0)
    assert with_start.steps <= without.steps


def test_states_are_stored_and_gone_on_from_bit_for_bit():
    with scope():
        target, engine = w05(), Stacked()
        state = engine.init(target, 0)
        for _ in range(12):
            assert np.isfinite(engine.finish(state).log_prob(np.zeros((1, 1)))).all()
            state, _ = engine.advance(state, target)
        again = records.decode(*records.encode(state))
        while not state.ended:
            state, _ = engine.advance(state, target)
            again, _ = engine.advance(again, target)
    for name, value in engine.finish(state).params.items():
        np.testing.assert_array_equal(engine.finish(again).params[name], value)


@pytest.mark.parametrize("starts", [-1, 2.5, True, "many"])
def test_refuses_starts_that_are_no_number(starts):
    with pytest.raises(jn.OptionError, match="starts must be a whole number"):
        fitted(w05(), starts=starts)


def test_refuses_a_flat_site_and_a_density_that_is_nowhere_finite():
    with scope():
        flat = Target(read(jn.density(lambda p: -0.5 * p["a"] ** 2 + 0 * p["b"], {"a": 0.0, "b": 0.0})))
        with pytest.raises(jn.ImproperError, match="site b"):
            run(Stacked(), flat, seed=0, progress=False)
        nowhere = Target(read(jn.density(lambda p: jnp.log(-1 - p["a"] ** 2), {"a": 0.0})))
        with pytest.raises(jn.NonFiniteError, match="not finite at the start"):
            run(Stacked(), nowhere, seed=0, progress=False)


def test_weights_are_those_of_a_general_optimizer():
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    components = tuple(DenseGaussian(np.array([m]), np.array([[s]])) for m, s in ((0.0, 1.0), (1.5, 0.7), (-2.0, 1.2)))
    draws = np.stack([each.sample(rng, 400) for each in components])
    log_p = np.stack([np.logaddexp(-0.5 * z[:, 0] ** 2, -1 - (z[:, 0] - 2) ** 2) for z in draws])
    weights, elbo = stack(components, draws, log_p, 5000)

    log_q = np.stack([each.log_prob(draws.reshape(-1, 1)) for each in components]).reshape(3, 3, 400)

    def negative(free):
        logs = np.append(free, 0) - logsumexp(np.append(free, 0))
        return -np.exp(logs) @ (log_p - logsumexp(logs[:, None, None] + log_q, axis=0)).mean(1)

    assert elbo == pytest.approx(-minimize(negative, np.zeros(2)).fun, abs=2e-3)
    assert weights.sum() == pytest.approx(1)


def test_em_on_weighted_draws_finds_the_mixture():
    truth = mixture_of([DenseGaussian(np.array([m]), np.array([[s]])) for m, s in ((0, 1), (4, 1))], [0.7, 0.3])
    rough = mixture_of([DenseGaussian(np.array([m]), np.array([[s]])) for m, s in ((0.5, 0.8), (3, 0.8))], [0.5, 0.5])
    target = lambda z: (truth.log_prob(z), None)  # noqa: E731
    found = improve(target, rough, np.random.default_rng(0), 4096, 6)
    assert found.share > 0.95
    np.testing.assert_allclose(found.q.weights, [0.7, 0.3], atol=0.03)
    assert found.weights @ found.z[:, 0] == pytest.approx(1.2, abs=0.03)
    assert isinstance(found.q, GaussianMixture)


def test_em_on_a_density_that_is_nowhere_finite_changes_nothing():
    q = mixture_of([DenseGaussian(np.zeros(2), np.eye(2))], [1.0])
    found = improve(lambda z: (np.full(len(z), np.nan), None), q, np.random.default_rng(0), 64, 3)
    assert found.q is q
    assert found.share == 0


def test_climbs_that_come_home_cost_one_gradient_each():
    """On the Gaussian that q describes there is no climb at all, and the starts use up the budget."""
    with scope():
        target = two(5, 0.5, 0.0)
        q = DenseGaussian(np.full(5, 0.5), np.eye(5))
        ends = quench(target, q, np.random.default_rng(0))
    assert len(ends) == 0
    assert target.gradients < 4700


def test_paths_join_points_of_a_ring_and_not_two_modes():
    ring = lambda z: (-0.5 * ((np.linalg.norm(z, axis=1) - 5) / 0.2) ** 2, _ring_slope(z))  # noqa: E731
    frame = frame_of(DenseGaussian(np.zeros(2), 3.0 * np.eye(2)))
    one, other = np.array([[5.0, 0.0], [5.0, 0.0]]), np.array([[0.0, 5.0], [-4.0, 3.0]])
    assert joined(ring, frame, one, other).all()
    with scope():
        target = two(2, 0.5, 8)
        ends = np.asarray(target.data["m"], float)
        assert not joined(target, frame_of(DenseGaussian(ends.mean(0), 3 * np.eye(2))), ends[:1], ends[1:]).any()
        assert len(distinct(target, DenseGaussian(ends[0], np.eye(2)), ends, 5)) == 1


def _ring_slope(z):
    radius = np.linalg.norm(z, axis=1, keepdims=True)
    return -(radius - 5) / 0.04 * z / np.maximum(radius, 1e-12)
