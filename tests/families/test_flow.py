"""Coupling flows: densities, moments and maps against quadrature, autodiff and dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flowjax")

from jensen.core import precision
from jensen.families.flow import Flow, FlowMap, programs, whitened_flow
from jensen.families.fullrank import from_factor

DIMS = (1, 2, 5)
by_dim = pytest.mark.parametrize("dim", DIMS)


def gaussian(dim, seed=0):
    rng = np.random.default_rng(seed)
    return from_factor(3 * rng.standard_normal(dim), rng.standard_normal((dim, dim)) + 2 * np.eye(dim))


def flow(dim, bent=0.3, seed=0):
    start = whitened_flow(gaussian(dim), 4, 6, np.random.default_rng(seed))
    params = start.params
    noise = np.random.default_rng(seed + 1).standard_normal(params["weights"].shape)
    return Flow.from_params(params | {"weights": params["weights"] + bent * noise})


@by_dim
def test_it_begins_as_the_gaussian(dim):
    from scipy.stats import multivariate_normal

    q, base = flow(dim, bent=0), gaussian(dim)
    noise = q.noise(np.random.default_rng(0), 20)
    z, log_q = q.transport(noise)
    np.testing.assert_allclose(z, base.transport(noise)[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log_q, multivariate_normal(base.mean, base.cov).logpdf(z), rtol=1e-9)
    np.testing.assert_allclose(q.mean, base.mean, atol=1e-9)
    np.testing.assert_allclose(q.sd, base.sd, rtol=0.05)


@by_dim
def test_log_prob_agrees_with_transport_and_the_map_with_its_inverse(dim):
    q = flow(dim)
    noise = 2 * q.noise(np.random.default_rng(1), 150)  # more rows than one call takes, and some far out
    z, log_q = q.transport(noise)
    assert z.shape == (150, dim)
    assert log_q.shape == (150,)
    assert not np.allclose(z, gaussian(dim).transport(noise)[0], atol=0.1)
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(q.map.into(z), noise, atol=1e-8)
    np.testing.assert_allclose(q.transport(noise[:3])[0], z[:3], rtol=1e-13)


def test_the_volume_is_the_determinant_of_the_jacobian():
    q = flow(5)
    noise = q.noise(np.random.default_rng(2), 3)
    _, volume, _ = q.map.out(noise)
    step = 1e-6
    for row in range(3):
        ends = [q.map.out(noise[row] + sign * step * np.eye(5))[0] for sign in (1, -1)]
        jacobian = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], volume[row], atol=1e-7)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_density_integrates_to_one(dim):
    q = flow(dim)
    grid = q.mean[:, None] + 9 * q.sd[:, None] * np.linspace(-1, 1, 401 if dim == 2 else 20_001)
    points = np.stack([axis.ravel() for axis in np.meshgrid(*grid, indexing="ij")], 1)
    cell = np.prod(grid[:, 1] - grid[:, 0])
    assert np.exp(q.log_prob(points)).sum() * cell == pytest.approx(1, abs=3e-3)


@by_dim
def test_back_is_the_gradient_of_density_and_volume(dim):
    q = flow(dim)
    y = q.noise(np.random.default_rng(3), 4)
    along = np.random.default_rng(4).standard_normal(dim)

    def value(y):
        z, volume, _ = q.map.out(y)
        return -0.5 * (z**2).sum(1) + volume

    z, _, tape = q.map.out(y)
    slope = q.map.back(y, tape, -z)
    assert slope.shape == (4, dim)
    ends = [value(y + sign * 1e-5 * along) for sign in (1, -1)]
    np.testing.assert_allclose(slope @ along, (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-6)


@by_dim
def test_samples_have_the_moments_that_q_states(dim):
    q = flow(dim, bent=0.1)
    z = q.sample(np.random.default_rng(5), 20_000)
    assert (np.abs(z.mean(0) - q.mean) < 0.08 * q.sd).all()
    np.testing.assert_allclose(np.diagonal(q.cov) ** 0.5, q.sd, rtol=1e-12)
    np.testing.assert_allclose(q.scale @ q.scale.T, q.cov, rtol=1e-12)
    np.testing.assert_array_equal(q.scale, np.tril(q.scale))
    np.testing.assert_allclose(z.std(0), q.sd, rtol=0.12)


def test_tails_are_linear():
    q = flow(5, bent=1.0)
    noise = np.random.default_rng(6).standard_normal((64, 5))
    near, far = (np.abs(q.map.out(size * noise)[0]).max() for size in (1e3, 1e6))
    assert np.isfinite(far)
    assert far < 2e3 * near


@by_dim
def test_params_are_numbers_and_bring_q_back(dim):
    q = flow(dim)
    assert all(isinstance(value, np.ndarray) and value.dtype.kind in "fi" for value in q.params.values())
    z = q.sample(np.random.default_rng(7), 5)
    again = Flow.from_params(q.params)
    np.testing.assert_array_equal(again.log_prob(z), q.log_prob(z))
    leaves, structure = jax.tree.flatten(q)
    assert sorted(map(id, leaves)) == sorted(map(id, q.params.values()))
    assert isinstance(jax.tree.unflatten(structure, leaves).map, FlowMap)


def test_seeds_make_different_splits_and_every_coordinate_moves():
    orders = [whitened_flow(gaussian(5), 4, 6, np.random.default_rng(seed)).params["order"] for seed in (0, 1)]
    assert not np.array_equal(*orders)
    for order in orders:
        assert set(order[0, 2:]) | set(order[1, 2:]) == set(range(5))
        side = np.array([np.argsort(row) < 2 for row in order]).T
        assert len({tuple(code) for code in side}) > 2


def test_the_path_gradient_is_unbiased_and_vanishes_at_the_target():
    """Along itself it is the slope of the reparameterized ELBO; when log p is log q it is zero for every draw."""
    q = flow(2)
    params = q.params
    with precision.scope():
        compiled = programs(2, 4, 6)
        weights, order = jnp.asarray(params["weights"]), jnp.asarray(params["order"])
        eps = np.random.default_rng(8).standard_normal((20_000, 2))

        def log_q(x):
            noise, volume = compiled.inverse(weights, order, x)
            return (volume - 0.5 * (noise**2).sum(1)).sum()

        def loss(weights):
            x, volume = compiled.forward(weights, order, eps)
            return -(volume - 0.5 * (x**2).sum(1)).mean()

        x, _ = compiled.forward(weights, order, eps)
        zero = compiled.path(weights, order, eps, jax.grad(log_q)(x))
        path = np.asarray(compiled.path(weights, order, eps, -x))
        along = path / np.linalg.norm(path)
        plain = (loss(weights + 1e-4 * along) - loss(weights - 1e-4 * along)) / 2e-4
    assert np.abs(zero).max() < 1e-10
    assert path @ along == pytest.approx(float(plain), rel=0.06)
