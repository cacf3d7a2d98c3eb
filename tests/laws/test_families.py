"""Laws that every family obeys; a new family is one more line in `FAMILIES`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.families.fullrank import DenseGaussian, from_factor
from jensen.families.meanfield import DiagonalGaussian


def dense(rng, dim):
    return from_factor(3 * rng.standard_normal(dim), rng.standard_normal((dim, dim)) + 2 * np.eye(dim))


def diagonal(rng, dim):
    return DiagonalGaussian(3 * rng.standard_normal(dim), rng.standard_normal(dim))


FAMILIES = {"fullrank": dense, "meanfield": diagonal}
RECIPES = {"fullrank": jn.FullRank, "meanfield": jn.MeanField}
by_family = pytest.mark.parametrize("family", FAMILIES)
by_dim = pytest.mark.parametrize("dim", [1, 2, 7])


def made(family, dim, seed=0):
    return FAMILIES[family](np.random.default_rng(seed), dim)


@by_family
@by_dim
def test_log_prob_agrees_with_transport(family, dim):
    q = made(family, dim)
    z, log_q = q.transport(q.noise(np.random.default_rng(1), 50))
    assert z.shape == (50, dim)
    assert log_q.shape == (50,)
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-10, atol=1e-10)


@by_family
@by_dim
def test_log_prob_is_that_of_a_normal(family, dim):
    from scipy.stats import multivariate_normal

    q = made(family, dim)
    z = q.sample(np.random.default_rng(1), 20)
    np.testing.assert_allclose(q.log_prob(z), multivariate_normal(q.mean, q.cov).logpdf(z), rtol=1e-8)
    np.testing.assert_allclose(q.entropy(), multivariate_normal(q.mean, q.cov).entropy(), rtol=1e-10)


@by_family
@by_dim
def test_entropy_is_minus_the_mean_of_log_q(family, dim):
    q = made(family, dim)
    _, log_q = q.transport(q.noise(np.random.default_rng(2), 40_000))
    # The variance of log q is D / 2.
    assert abs(q.entropy() + log_q.mean()) < 5 * np.sqrt(dim / 2 / 40_000)


@by_family
@by_dim
def test_samples_have_the_moments_that_q_states(family, dim):
    q = made(family, dim)
    z = q.sample(np.random.default_rng(3), 40_000)
    assert (np.abs(z.mean(0) - q.mean) < 5 * q.sd / np.sqrt(40_000)).all()
    np.testing.assert_allclose(
        np.atleast_2d(np.cov(z.T)) / np.outer(q.sd, q.sd), q.cov / np.outer(q.sd, q.sd), atol=0.03
    )


@by_family
@by_dim
def test_sd_cov_and_scale_tell_the_same(family, dim):
    q = made(family, dim)
    assert q.dim == dim
    np.testing.assert_allclose(np.diagonal(q.cov) ** 0.5, q.sd, rtol=1e-12)
    np.testing.assert_allclose(q.scale @ q.scale.T, q.cov, rtol=1e-12, atol=1e-12)


@by_family
def test_the_array_leaves_are_the_parameters(family):
    q = made(family, 4)
    leaves, structure = jax.tree.flatten(q)
    assert sorted(map(id, leaves)) == sorted(map(id, q.params.values()))
    again = jax.tree.unflatten(structure, leaves)
    assert type(again) is type(q)
    z = q.sample(np.random.default_rng(0), 3)
    np.testing.assert_array_equal(again.log_prob(z), q.log_prob(z))
    same = type(q)(**q.params)
    np.testing.assert_array_equal(same.cov, q.cov)


def _numbers(q, noise, z):
    moved, log_q = q.transport(noise)
    return {
        "z": moved,
        "log q": log_q,
        "log_prob": q.log_prob(z),
        "entropy": q.entropy(),
        "sd": q.sd,
        "cov": q.cov,
        "scale": q.scale,
    }


@by_family
def test_numpy_jit_and_vmap_give_the_same_numbers(family):
    rng = np.random.default_rng(4)
    several = [made(family, 3, seed) for seed in range(4)]
    noise, z = rng.standard_normal((5, 3)), rng.standard_normal((6, 3))
    here = [_numbers(q, noise, z) for q in several]
    with jax.enable_x64(True):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
        compiled = jax.jit(_numbers)(jax.tree.map(jnp.asarray, several[0]), noise, z)
        mapped = jax.vmap(_numbers, in_axes=(0, None, None))(stacked, noise, z)
        for name, value in here[0].items():
            np.testing.assert_allclose(compiled[name], value, rtol=1e-12, atol=1e-12, err_msg=name)
            wanted = np.stack([numbers[name] for numbers in here])
            np.testing.assert_allclose(mapped[name], wanted, rtol=1e-12, atol=1e-12, err_msg=name)


@by_family
def test_float32_stays_float32_under_jax(family):
    q = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), made(family, 3))
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((5, 3)), "float32")
    # Also where the caller has 64-bit JAX: no constant of the family may widen its result.
    with jax.enable_x64(True):
        numbers = jax.jit(_numbers)(q, noise, noise)
    assert {name: value.dtype.name for name, value in numbers.items()} == dict.fromkeys(numbers, "float32")


@by_family
def test_gradients_flow_through_transport_and_entropy(family):
    q = made(family, 2)
    noise = np.random.default_rng(0).standard_normal((3, 2))
    with jax.enable_x64(True):
        loss = lambda q: (q.transport(noise)[0] ** 2).sum() - q.entropy()  # noqa: E731
        slope = jax.grad(loss)(jax.tree.map(jnp.asarray, q))
        for name, value in slope.params.items():
            bump = np.zeros(np.shape(value))
            index = (1,) * bump.ndim
            bump[index] = 1e-6
            ends = [loss(type(q)(**{**q.params, name: q.params[name] + sign * bump})) for sign in (1, -1)]
            np.testing.assert_allclose(value[index], (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("family", RECIPES)
def test_start_is_where_it_was_asked_for(family):
    q = RECIPES[family]().start(np.array([1.0, -2.0, 3.0]), 0.25)
    np.testing.assert_array_equal(q.mean, [1, -2, 3])
    np.testing.assert_allclose(q.cov, 0.0625 * np.eye(3), rtol=1e-14)


@pytest.mark.parametrize("family", RECIPES)
def test_recipes_without_arrays_compare_and_hash(family):
    assert RECIPES[family]() == RECIPES[family]()
    assert len({RECIPES[family](), RECIPES[family]()}) == 1


@by_dim
def test_from_factor_keeps_the_covariance_and_is_triangular(dim):
    factor = np.random.default_rng(5).standard_normal((dim, dim))
    q = from_factor(np.zeros(dim), factor)
    assert isinstance(q, DenseGaussian)
    np.testing.assert_array_equal(q.scale, np.tril(q.scale))
    assert (np.diagonal(q.scale) > 0).all()
    np.testing.assert_allclose(q.cov, factor @ factor.T, atol=1e-13)


def test_from_factor_does_not_square_the_condition_number():
    rotation = np.linalg.qr(np.random.default_rng(6).standard_normal((20, 20)))[0]
    sds = np.logspace(-6, 6, 20)  # a covariance of condition number 1e24 has no Cholesky factor in float64
    q = from_factor(np.zeros(20), rotation * sds)
    white = np.linalg.solve(q.scale, rotation * sds)
    np.testing.assert_allclose(white @ white.T, np.eye(20), atol=1e-3)


@by_family
def test_save_and_load_keep_q_bit_for_bit(family, tmp_path):
    model = jn.density(lambda p: -0.5 * ((p["x"] - 1) ** 2 / 4).sum(), {"x": np.zeros(2)})
    fitted = jn.fit(model, family)
    fitted.save(tmp_path / "fit.nc")
    q = jn.load(tmp_path / "fit.nc").q
    assert type(q) is type(fitted.q)
    for name, value in fitted.q.params.items():
        np.testing.assert_array_equal(q.params[name], value)
    z = q.sample(np.random.default_rng(0), 4)
    np.testing.assert_array_equal(q.log_prob(z), fitted.q.log_prob(z))
