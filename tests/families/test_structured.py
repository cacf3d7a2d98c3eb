"""Arrow Gaussians against dense linear algebra; laws that need a `start` of D coordinates alone are in tests/laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jensen.families.structured import Arrow, ArrowGaussian, from_blocks, join, plates_of, split


def made(p=2, groups=4, own=2, seed=0):
    rng = np.random.default_rng(seed)
    dim = p + groups * own
    order = rng.permutation(dim)
    plates = plates_of(order[:p], order[p:].reshape(groups, own))
    head, tails = rng.standard_normal((p, p)), rng.standard_normal((groups, own, own))
    return (
        from_blocks(plates, rng.standard_normal(dim), head, rng.standard_normal((groups, own, p)), tails),
        head,
        tails,
    )


SHAPES = [(2, 4, 2), (1, 3, 1), (0, 3, 2), (3, 1, 4)]
by_shape = pytest.mark.parametrize("shape", SHAPES)


@by_shape
def test_density_is_that_of_the_dense_normal(shape):
    q, _, _ = made(*shape)
    z = q.sample(np.random.default_rng(1), 30)
    moved, log_q = q.transport(q.noise(np.random.default_rng(1), 30))
    np.testing.assert_array_equal(moved, z)
    expected = multivariate_normal(q.mean, q.cov)
    np.testing.assert_allclose(q.log_prob(z), expected.logpdf(z), rtol=1e-8)
    np.testing.assert_allclose(log_q, q.log_prob(z), rtol=1e-8)
    np.testing.assert_allclose(q.entropy(), expected.entropy(), rtol=1e-10)
    np.testing.assert_allclose(q.sd, np.sqrt(np.diagonal(q.cov)), rtol=1e-12)
    np.testing.assert_allclose(q.scale @ q.scale.T, q.cov, atol=1e-12)
    np.testing.assert_array_equal(q.scale, np.tril(q.scale))
    assert (np.diagonal(q.scale) > 0).all()


@by_shape
def test_the_precision_is_an_arrow(shape):
    q, _, _ = made(*shape)
    precision = np.linalg.inv(q.cov)
    for i, one in enumerate(q.plates.own):
        for other in q.plates.own[i + 1 :]:
            block = precision[np.ix_(one, other)]
            assert np.abs(block).max() < 1e-9 * np.abs(precision).max()


@by_shape
def test_any_square_factors_make_the_same_gaussian(shape):
    q, head, tails = made(*shape)
    g = list(q.plates.shared)
    np.testing.assert_allclose(q.cov[np.ix_(g, g)], head @ head.T, atol=1e-12)
    np.testing.assert_array_equal(q.tails, np.tril(q.tails))
    conditional = q.tails @ np.swapaxes(q.tails, 1, 2)
    np.testing.assert_allclose(conditional, tails @ np.swapaxes(tails, 1, 2), atol=1e-12)


def test_slopes_are_the_regression_on_the_globals():
    q, _, _ = made()
    g = list(q.plates.shared)
    for group, slope in zip(q.plates.own, q.slopes, strict=True):
        expected = q.cov[np.ix_(group, g)] @ np.linalg.inv(q.cov[np.ix_(g, g)])
        np.testing.assert_allclose(slope, expected, atol=1e-10)


def test_samples_have_the_moments_that_q_states():
    q, _, _ = made()
    z = q.sample(np.random.default_rng(2), 40_000)
    assert (np.abs(z.mean(0) - q.mean) < 5 * q.sd / 200).all()
    np.testing.assert_allclose(np.cov(z.T) / np.outer(q.sd, q.sd), q.cov / np.outer(q.sd, q.sd), atol=0.03)


def test_params_are_enough():
    q, _, _ = made()
    again = ArrowGaussian.from_params(q.params)
    assert again.plates == q.plates
    np.testing.assert_array_equal(again.cov, q.cov)
    leaves, structure = jax.tree.flatten(q)
    assert len(leaves) == 4
    np.testing.assert_array_equal(jax.tree.unflatten(structure, leaves).cov, q.cov)


def test_compiled_code_gives_the_same_numbers():
    q, _, _ = made()
    rng = np.random.default_rng(3)
    noise, z = rng.standard_normal((5, q.dim)), rng.standard_normal((6, q.dim))

    def numbers(q, noise, z):
        return (*q.transport(noise), q.log_prob(z), q.entropy(), q.sd, q.cov, q.scale, q.slopes)

    with jax.enable_x64(True):
        compiled = jax.jit(numbers)(jax.tree.map(jnp.asarray, q), jnp.asarray(noise), jnp.asarray(z))
    for one, other in zip(compiled, numbers(q, noise, z), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)
    small = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), q)
    with jax.enable_x64(True):
        narrow = jax.jit(numbers)(small, jnp.asarray(noise, "float32"), jnp.asarray(z, "float32"))
    assert {value.dtype.name for value in narrow} == {"float32"}


def test_split_and_join():
    q, _, _ = made()
    x = np.arange(3.0 * q.dim).reshape(3, q.dim)
    head, own = split(q.plates, x)
    np.testing.assert_array_equal(own[1], x[1][np.array(q.plates.own)])
    np.testing.assert_array_equal(join(q.plates, head, own), x)


def test_start_is_where_it_was_asked_for():
    plates = plates_of([1], [[0], [2]])
    q = Arrow(plates).start(np.array([1.0, -2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(q.mean, [1, -2, 3])
    np.testing.assert_allclose(q.cov, np.diag([1.0, 4.0, 9.0]), rtol=1e-14)
    assert Arrow(plates) == Arrow(plates_of([1], [[0], [2]]))


def test_draws_of_many_groups_need_little_memory():
    groups = 20_000
    plates = plates_of([0], np.arange(1, groups + 1)[:, None])
    q = Arrow(plates).start(np.zeros(groups + 1), 1.0)
    z = q.sample(np.random.default_rng(0), 2)
    assert z.shape == (2, groups + 1)
    expected = -0.5 * (z**2).sum(1) - 0.5 * q.dim * np.log(2 * np.pi)
    np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-12)
