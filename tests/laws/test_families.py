"""Laws that every approximation on the flat vector obeys, and those of Gaussians; a new family is one more line in a table."""

from dataclasses import replace
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.families.flat import approximation
from jensen.families.fullrank import DenseGaussian, from_factor
from jensen.families.layered import Layered
from jensen.families.lowrank import LowRank, LowRankGaussian
from jensen.families.maps import layer, unbent
from jensen.families.meanfield import DiagonalGaussian
from jensen.families.mixture import mixture_of
from jensen.families.structured import Arrow, from_blocks, plates_of


def dense(rng, dim):
    return from_factor(3 * rng.standard_normal(dim), rng.standard_normal((dim, dim)) + 2 * np.eye(dim))


def diagonal(rng, dim):
    return DiagonalGaussian(3 * rng.standard_normal(dim), rng.standard_normal(dim))


def lowrank(rng, dim):
    rank = min(dim, 3)
    directions = np.linalg.qr(rng.standard_normal((dim, dim)))[0][:, :rank]
    return LowRankGaussian(
        3 * rng.standard_normal(dim), 0.5 * rng.standard_normal(dim), directions, rng.standard_normal(rank)
    )


def _plates(dim):
    """One global coordinate, the last one, and groups of one or two."""
    return plates_of([dim - 1], np.arange(dim - 1).reshape(-1, 1 if dim % 2 == 0 else 2))


def arrow(rng, dim):
    plates = _plates(dim)
    count, own = len(plates.own), len(plates.own[0])
    tails = rng.standard_normal((count, own, own)) + 2 * np.eye(own)
    return from_blocks(
        plates, 3 * rng.standard_normal(dim), np.full((1, 1), 1.7), rng.standard_normal((count, own, 1)), tails
    )


def mixture(rng, dim):
    return mixture_of([dense(rng, dim) for _ in range(3)], [0.5, 0.3, 0.2])


def layered(rng, dim):
    """One layer where there is a coordinate to bend, and skew."""
    bent = unbent(dim)
    if dim > 1:
        rest = np.r_[0, np.ones(dim - 1)]
        factor = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
        slope, bend, exponents = (0.3 * rest * rng.standard_normal(dim) for _ in range(3))
        bent = layer(rng.standard_normal(dim), factor, 3.0, slope, bend, exponents)
    bent = replace(bent, width=np.full(dim, 1.5), skew=0.3 * rng.standard_normal(dim))
    return Layered(bent, dense(rng, dim))


def flow(rng, dim):
    """A flow whose weights are not those of the identity."""
    from jensen.families.flow import Flow, FlowMap, whitened_flow

    start = whitened_flow(dense(rng, dim), 2, 4, rng).params
    return Flow(FlowMap(**start | {"weights": start["weights"] + 0.3 * rng.standard_normal(start["weights"].shape)}))


GAUSSIANS = {"fullrank": dense, "meanfield": diagonal, "lowrank": lowrank, "structured": arrow}
OTHERS = {"mixture": mixture, "layered": layered} | ({"flow": flow} if find_spec("flowjax") else {})
FAMILIES = GAUSSIANS | OTHERS
DIMS = {"structured": (2, 7), "flow": (2,)}
"""Dimensions looked at, where they are not 1, 2 and 7: an arrow needs a group, and every flow is three programs to compile."""
BY_DRAWS = ("layered", "flow")
"""Families without closed moments: theirs are those of fixed draws."""

by_family = pytest.mark.parametrize("family", FAMILIES)
by_gaussian = pytest.mark.parametrize("family", GAUSSIANS)
by_jax = pytest.mark.parametrize("family", [*GAUSSIANS, "mixture"])  # maps and flows are NumPy in and out
by_dim = pytest.mark.parametrize("dim", [1, 2, 7])


def _cases(families):
    return pytest.mark.parametrize(
        ("family", "dim"), [(name, dim) for name in families for dim in DIMS.get(name, (1, 2, 7))]
    )


by_case, by_gaussian_case = _cases(FAMILIES), _cases(GAUSSIANS)


def made(family, dim, seed=0):
    return FAMILIES[family](np.random.default_rng(seed), dim)


def some(family, least=3):
    """One of several dimensions."""
    return made(family, next((dim for dim in DIMS.get(family, (1, 2, 7)) if dim >= least), 2))


# Laws of every approximation


@by_case
def test_log_prob_agrees_with_transport(family, dim):
    q = made(family, dim)
    noise = q.noise(np.random.default_rng(1), 50)
    assert q.dim == dim
    z, log_q = q.transport(noise)
    assert z.shape == (50, dim)
    assert log_q.shape == (50,)
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-8, atol=1e-8)


@by_family
@pytest.mark.parametrize("how", ["clipped", "widened", "whitened"])
def test_log_q_is_the_density_there_whatever_was_done_to_the_noise(family, how):
    """Checks widen, clip and whiten noise: log q stays the density of q at the points, not that of the changed noise."""
    q = some(family)
    noise = q.noise(np.random.default_rng(2), 64)
    white = np.linalg.solve(np.linalg.cholesky(noise.T @ noise / 64), noise.T).T
    z, log_q = q.transport({"clipped": np.clip(noise, -1, 1), "widened": 1.7 * noise, "whitened": white}[how])
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-8, atol=1e-8)


@by_family
def test_the_density_integrates_to_one(family):
    """On a lattice, as wide as fifteen sds."""
    q = made(family, 2)
    side = np.linspace(-15, 15, 301)
    white = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    mean, scale = np.asarray(q.mean), np.asarray(q.scale)
    log_q = q.log_prob(mean + white @ scale.T)
    cell = (side[1] - side[0]) ** 2 * np.linalg.det(scale)
    assert np.exp(log_q).sum() * cell == pytest.approx(1, abs=2e-3)


@by_case
def test_samples_have_the_moments_that_q_states(family, dim):
    q = made(family, dim)
    z = q.sample(np.random.default_rng(3), 40_000)
    error = 1 / np.sqrt(40_000) + (1 / np.sqrt(4096) if family in BY_DRAWS else 0)
    assert (np.abs(z.mean(0) - q.mean) < 5 * q.sd * error).all()
    units = np.outer(q.sd, q.sd)
    np.testing.assert_allclose(
        np.atleast_2d(np.cov(z.T)) / units, q.cov / units, atol=0.2 if family in BY_DRAWS else 0.03
    )


@by_case
def test_sd_cov_and_scale_tell_the_same(family, dim):
    q = made(family, dim)
    assert q.mean.shape == q.sd.shape == (dim,)
    np.testing.assert_allclose(np.diagonal(q.cov) ** 0.5, q.sd, rtol=1e-10)
    np.testing.assert_allclose(q.scale @ q.scale.T, q.cov, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(q.scale, np.tril(q.scale))
    assert (np.diagonal(q.scale) > 0).all()


@by_family
def test_the_way_from_parameters_to_q(family):
    q = some(family)
    same = approximation(type(q).__name__, q.params)
    assert type(same) is type(q)
    for name, value in q.params.items():
        assert isinstance(value, np.ndarray)
        np.testing.assert_array_equal(same.params[name], value)
    z = q.sample(np.random.default_rng(0), 5)
    np.testing.assert_array_equal(same.log_prob(z), q.log_prob(z))
    np.testing.assert_array_equal(same.sample(np.random.default_rng(0), 5), z)
    np.testing.assert_array_equal(same.cov, q.cov)


@by_family
def test_the_array_leaves_are_the_parameters(family):
    q = some(family)
    leaves, structure = jax.tree.flatten(q)
    assert {id(leaf) for leaf in leaves} <= {id(value) for value in q.params.values()}
    again = jax.tree.unflatten(structure, leaves)
    assert type(again) is type(q)
    z = q.sample(np.random.default_rng(0), 3)
    np.testing.assert_array_equal(again.log_prob(z), q.log_prob(z))


@pytest.fixture(scope="module")
def fits():
    """Fits of any kind, by dimension, whose q is put in the place of another one."""
    density = lambda p: -0.5 * ((p["x"] - 1) ** 2 / 4).sum()  # noqa: E731
    return {dim: jn.fit(jn.density(density, {"x": np.zeros(dim)}), "meanfield", correct=False) for dim in (2, 7)}


@by_family
def test_save_and_load_keep_q_bit_for_bit(family, fits, tmp_path):
    q = some(family)
    fits[q.dim].replace(q=q).save(tmp_path / "fit.nc")
    loaded = jn.load(tmp_path / "fit.nc").q
    assert type(loaded) is type(q)
    assert loaded.params.keys() == q.params.keys()
    for name, value in q.params.items():
        np.testing.assert_array_equal(loaded.params[name], value)
    z = q.sample(np.random.default_rng(0), 4)
    np.testing.assert_array_equal(loaded.log_prob(z), q.log_prob(z))
    np.testing.assert_array_equal(loaded.sample(np.random.default_rng(0), 4), z)


def test_an_approximation_of_ones_own_is_loaded_by_its_class(fits, tmp_path):
    class Elsewhere(diagonal(np.random.default_rng(0), 2).__class__):
        """Not one of jensen's: a file must not say what is imported."""

    q = Elsewhere(np.zeros(2), np.ones(2))
    fits[2].replace(q=q).save(tmp_path / "fit.nc")
    with pytest.raises(jn.FileError, match="Elsewhere, which is not one of jensen's; import that class"):
        jn.load(tmp_path / "fit.nc")
    with pytest.raises(jn.FileError, match="Elsewhere"):
        jn.load(tmp_path / "fit.nc", approximation=DenseGaussian)
    loaded = jn.load(tmp_path / "fit.nc", approximation=Elsewhere).q
    assert type(loaded) is Elsewhere
    np.testing.assert_array_equal(loaded.log_sd, q.log_sd)


@by_family
def test_moments_and_draws_are_the_same_when_asked_again(family):
    one, other = some(family), some(family)
    for name in ("mean", "sd", "cov", "scale"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(getattr(one, name), getattr(one, name))
    np.testing.assert_array_equal(*(q.sample(np.random.default_rng(4), 6) for q in (one, other)))


# Laws of what is the image of a Gaussian: chains run in its coordinates


@pytest.mark.parametrize("family", [name for name in BY_DRAWS if name in FAMILIES])
def test_the_map_goes_both_ways_and_its_pullback_is_the_gradient(family):
    q = made(family, 2)
    y, log_base = q.base.transport(np.random.default_rng(5).standard_normal((6, 2)))
    z, volume, tape = q.map.out(y)
    np.testing.assert_allclose(q.map.into(z), y, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(q.log_prob(z), log_base - volume, rtol=1e-8, atol=1e-8)
    pull = q.map.back(y, tape, -z)  # of log density -|z|^2 / 2
    value = lambda y: -0.5 * (q.map.out(y)[0] ** 2).sum(1) + q.map.out(y)[1]  # noqa: E731
    for i, step in enumerate(1e-6 * np.eye(2)):
        np.testing.assert_allclose(pull[:, i], (value(y + step) - value(y - step)) / 2e-6, rtol=1e-5, atol=1e-6)


# Laws of Gaussians


@by_gaussian_case
def test_log_prob_is_that_of_a_normal(family, dim):
    from scipy.stats import multivariate_normal

    q = made(family, dim)
    z = q.sample(np.random.default_rng(1), 20)
    np.testing.assert_allclose(q.log_prob(z), multivariate_normal(q.mean, q.cov).logpdf(z), rtol=1e-8)
    np.testing.assert_allclose(q.entropy(), multivariate_normal(q.mean, q.cov).entropy(), rtol=1e-10)


@by_gaussian_case
def test_entropy_is_minus_the_mean_of_log_q(family, dim):
    q = made(family, dim)
    _, log_q = q.transport(q.noise(np.random.default_rng(2), 40_000))
    # The variance of log q is D / 2.
    assert abs(q.entropy() + log_q.mean()) < 5 * np.sqrt(dim / 2 / 40_000)


def _numbers(q, noise, z):
    moved, log_q = q.transport(noise)
    entropy = {"entropy": q.entropy()} if hasattr(q, "entropy") else {}
    return entropy | {
        "z": moved,
        "log q": log_q,
        "log_prob": q.log_prob(z),
        "sd": q.sd,
        "cov": q.cov,
        "scale": q.scale,
    }


def _wide(family):
    return some(family).dim


RECIPES = {
    "fullrank": jn.FullRank(),
    "meanfield": jn.MeanField(),
    "lowrank": LowRank(),
    "structured": Arrow(plates_of([1], [[2], [0]])),
}


@by_jax
def test_numpy_jit_and_vmap_give_the_same_numbers(family):
    rng = np.random.default_rng(4)
    several = [made(family, _wide(family), seed) for seed in range(4)]
    noise, z = rng.standard_normal((5, _wide(family))), rng.standard_normal((6, _wide(family)))
    here = [_numbers(q, noise, z) for q in several]
    with jax.enable_x64(True):
        noise, z = jnp.asarray(noise), jnp.asarray(z)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
        compiled = jax.jit(_numbers)(jax.tree.map(jnp.asarray, several[0]), noise, z)
        mapped = jax.vmap(_numbers, in_axes=(0, None, None))(stacked, noise, z)
        for name, value in here[0].items():
            np.testing.assert_allclose(compiled[name], value, rtol=1e-12, atol=1e-12, err_msg=name)
            wanted = np.stack([numbers[name] for numbers in here])
            np.testing.assert_allclose(mapped[name], wanted, rtol=1e-12, atol=1e-12, err_msg=name)


@by_jax
def test_float32_stays_float32_under_jax(family):
    q = jax.tree.map(lambda leaf: jnp.asarray(leaf, "float32"), some(family))
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((5, q.dim)), "float32")
    # Also where the caller has 64-bit JAX: no constant of the family may widen its result.
    with jax.enable_x64(True):
        numbers = jax.jit(_numbers)(q, noise, noise)
    assert {name: value.dtype.name for name, value in numbers.items()} == dict.fromkeys(numbers, "float32")


@by_gaussian
def test_gradients_flow_through_transport_and_entropy(family):
    q = some(family)
    noise = np.random.default_rng(0).standard_normal((3, _wide(family)))
    with jax.enable_x64(True):
        noise = jnp.asarray(noise)
        loss = lambda q: (q.transport(noise)[0] ** 2).sum() - q.entropy()  # noqa: E731
        leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, q))
        slopes = jax.tree.leaves(jax.grad(loss)(jax.tree.unflatten(structure, leaves)))
        for place, (leaf, slope) in enumerate(zip(leaves, slopes, strict=True)):
            bump = np.zeros(leaf.shape)
            last = (-1,) * bump.ndim
            bump[last] = 1e-6
            ends = [
                loss(jax.tree.unflatten(structure, [*leaves[:place], leaf + sign * bump, *leaves[place + 1 :]]))
                for sign in (1, -1)
            ]
            np.testing.assert_allclose(slope[last], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("family", RECIPES)
def test_start_is_where_it_was_asked_for(family):
    q = RECIPES[family].start(np.array([1.0, -2.0, 3.0]), 0.25)
    np.testing.assert_array_equal(q.mean, [1, -2, 3])
    np.testing.assert_allclose(q.cov, 0.0625 * np.eye(3), atol=1e-14)


@pytest.mark.parametrize("recipe", [jn.FullRank, jn.MeanField, LowRank, lambda: Arrow(plates_of([1], [[2], [0]]))])
def test_recipes_without_arrays_compare_and_hash(recipe):
    assert recipe() == recipe()
    assert len({recipe(), recipe()}) == 1


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
