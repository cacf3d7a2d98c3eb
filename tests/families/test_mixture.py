"""Gaussian mixtures against SciPy, quadrature and NumPyro; the laws of all families are in tests/laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from jensen.families.fullrank import DenseGaussian, from_factor
from jensen.families.mixture import GaussianMixture, mixture_of


def made(dim, number=3, seed=0):
    rng = np.random.default_rng(seed)
    parts = [
        from_factor(3 * rng.standard_normal(dim), rng.standard_normal((dim, dim)) + 2 * np.eye(dim))
        for _ in range(number)
    ]
    return mixture_of(parts, rng.uniform(0.2, 1, number))


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_log_prob_is_that_of_scipy(dim):
    q = made(dim)
    z = 3 * np.random.default_rng(1).standard_normal((30, dim))
    parts = [
        np.log(w) + multivariate_normal(each.mean, each.cov).logpdf(z)
        for w, each in zip(q.weights, q.components, strict=True)
    ]
    np.testing.assert_allclose(q.log_prob(z), logsumexp(parts, axis=0), rtol=1e-9)
    np.testing.assert_allclose(q.responsibilities(z), np.exp(parts - logsumexp(parts, axis=0)).T, rtol=1e-7, atol=1e-12)


def test_log_prob_is_that_of_numpyro():
    import numpyro.distributions as dist

    q = made(3)
    z = np.random.default_rng(1).standard_normal((10, 3))
    with jax.enable_x64(True):
        parts = dist.MultivariateNormal(jnp.asarray(q.means), scale_tril=jnp.asarray(q.scales))
        theirs = dist.MixtureSameFamily(dist.Categorical(logits=jnp.asarray(q.log_weights)), parts).log_prob(z)
        np.testing.assert_allclose(q.log_prob(z), theirs, rtol=1e-9)


@pytest.mark.parametrize("dim", [1, 3])
def test_moments_are_those_of_many_draws(dim):
    q = made(dim)
    z = q.sample(np.random.default_rng(2), 200_000)
    np.testing.assert_allclose((z.mean(0) - q.mean) / q.sd, 0, atol=0.012)
    unit = np.outer(q.sd, q.sd)
    np.testing.assert_allclose(np.atleast_2d(np.cov(z.T)) / unit, q.cov / unit, atol=0.02)
    np.testing.assert_allclose(q.scale @ q.scale.T, q.cov, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(q.scale, np.tril(q.scale))


def test_density_integrates_to_one():
    q = mixture_of([DenseGaussian(np.array([m]), np.array([[s]])) for m, s in ((-0.3, 0.1), (0.5, 0.3))], [1, 4])
    grid = np.linspace(-4, 4, 20_001)[:, None]
    assert np.trapezoid(np.exp(q.log_prob(grid)), grid[:, 0]) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3, 17, 128, 4096])
def test_rows_go_to_components_in_proportion_and_in_antithetic_pairs(n):
    q = made(2, number=4)
    which = q.assigned(n)
    assert np.abs(np.bincount(which, minlength=4) - n * q.weights).max() <= 2
    half = n // 2
    if n % 2 == 0:
        np.testing.assert_array_equal(which[:half], which[half:])
    # Every stretch of rows holds a fair share: checks give different widths to different stretches.
    if n == 4096:
        for stretch in np.split(which, 16):
            assert np.abs(np.bincount(stretch, minlength=4) / 256 - q.weights).max() < 0.02


def test_antithetic_noise_keeps_every_component_centered():
    q = made(3)
    noise = np.random.default_rng(0).standard_normal((500, 3))
    z, _ = q.transport(np.concatenate([noise, -noise]))
    which = q.assigned(1000)
    for k, each in enumerate(q.components):
        np.testing.assert_allclose(z[which == k].mean(0), each.mean, atol=1e-12)


def test_transport_is_unbiased_for_importance_sampling():
    """The mean of p / q over stratified rows estimates the mass of p without the noise of the components' counts."""
    q = made(2)
    p = mixture_of(q.components, [0.6, 0.3, 0.1])
    z, log_q = q.transport(np.random.default_rng(0).standard_normal((20_000, 2)))
    w = np.exp(p.log_prob(z) - log_q)
    assert w.mean() == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose((w @ z) / w.sum(), p.mean, atol=0.03 * p.sd.max())


def test_wider_scales_every_component():
    q = made(2)
    wide = q.wider(3.0)
    np.testing.assert_array_equal(wide.means, q.means)
    for one, other in zip(q.components, wide.components, strict=True):
        np.testing.assert_allclose(other.cov, 9 * one.cov, rtol=1e-12)


def test_one_component_is_a_gaussian():
    q = made(3, number=1)
    (only,) = q.components
    noise = np.random.default_rng(0).standard_normal((10, 3))
    np.testing.assert_allclose(q.transport(noise)[0], only.transport(noise)[0], rtol=1e-12)
    np.testing.assert_allclose(q.transport(noise)[1], only.transport(noise)[1], rtol=1e-10)
    np.testing.assert_allclose(q.scale, only.scale, rtol=1e-10)


def test_weight_zero_and_points_far_out_are_finite():
    q = mixture_of(made(2).components, [1.0, 0.0, 1.0])
    assert np.isfinite(q.log_prob(np.array([[1e6, -1e6], [0.0, 0.0]]))).all()
    assert 1 not in q.assigned(100)


def test_log_weights_need_not_be_normalized():
    q = made(2)
    shifted = GaussianMixture(q.log_weights + 7, q.means, q.scales)
    z = np.random.default_rng(0).standard_normal((5, 2))
    np.testing.assert_allclose(shifted.log_prob(z), q.log_prob(z), rtol=1e-12)


def _numbers(q, noise):
    z, log_q = q.transport(noise)
    return {"z": z, "log q": log_q, "mean": q.mean, "sd": q.sd, "cov": q.cov, "scale": q.scale, "which": q.assigned(5)}


def test_numpy_and_jit_give_the_same_numbers_in_either_precision():
    q = made(3)
    noise = np.random.default_rng(0).standard_normal((9, 3))
    here = _numbers(q, noise)
    with jax.enable_x64(True):
        there = jax.jit(_numbers)(jax.tree.map(jnp.asarray, q), noise)
        narrow = jax.jit(_numbers)(jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), q), noise.astype("float32"))
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, rtol=1e-10, atol=1e-10, err_msg=name)
        assert name == "which" or narrow[name].dtype == np.float32
