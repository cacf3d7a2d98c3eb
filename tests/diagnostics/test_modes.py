"""The search for other modes, on mixtures whose weights are known; and what it must not find."""

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.diagnostics import mixture, modes
from jensen.diagnostics.mixture import mix, within
from jensen.families.fullrank import DenseGaussian
from jensen.models.read import read
from jensen.models.target import Target


def _mixture(p, data):
    """N(0, I) with weight 1 - w, and N(apart, I) with weight w."""
    one = jnp.log1p(-data["w"]) - 0.5 * (p["x"] ** 2).sum()
    other = jnp.log(data["w"]) - 0.5 * ((p["x"] - data["apart"]) ** 2).sum()
    return jnp.logaddexp(one, other)


MIXTURES = {}


def search(weight, apart, seed=0):
    """Search from a q that describes the first mode exactly."""
    dim = len(apart)
    if dim not in MIXTURES:
        MIXTURES[dim] = jn.density(_mixture, {"x": np.zeros(dim)}, data={"w": np.array(0.5), "apart": np.zeros(dim)})
    with scope():
        target = Target(read(MIXTURES[dim], {"w": np.array(weight), "apart": np.asarray(apart, float)}))
        q = DenseGaussian(np.zeros(dim), np.eye(dim))
        return modes.search(target, q, np.random.default_rng(seed))


def along(dim, distance):
    """A second mode at `distance` sds in the direction of all coordinates together."""
    return np.full(dim, distance / np.sqrt(dim))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("dim", "distance"), [(1, 6), (1, 12), (1, 30), (2, 8), (5, 10)])
def test_finds_the_second_mode_with_its_weight(dim, distance, seed):
    (found,) = search(0.3, along(dim, distance), seed)
    np.testing.assert_allclose(found.q.mean, along(dim, distance), atol=0.1)
    assert found.weight == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("dim", [10, 30])
def test_modes_apart_in_no_single_coordinate_are_still_apart(dim):
    """Six sds along the diagonal are less than two sds in every coordinate."""
    (found,) = search(0.3, along(dim, 6))
    assert found.weight == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dim", [1, 3, 10, 40])
def test_finds_none_on_a_gaussian(dim, seed):
    assert search(1e-300, np.zeros(dim), seed) == ()


def test_a_negligible_mode_is_left_out():
    assert search(1e-4, [12.0]) == ()


SKEWED = {
    "student": lambda p: -2.5 * jnp.log1p((p["x"] ** 2).sum() / 3),
    "gumbel": lambda p: (-p["x"] - jnp.exp(-p["x"])).sum(),
    "banana": lambda p: -0.5 * p["x"][0] ** 2 - 2 * (p["x"][1] - 0.3 * p["x"][0] ** 2) ** 2,
}


@pytest.mark.parametrize("name", SKEWED)
def test_finds_none_where_there_is_one_odd_mode(name):
    with scope():
        target = Target(read(jn.density(SKEWED[name], {"x": np.zeros(2)})))
        q = DenseGaussian(np.zeros(2), np.eye(2))
        assert modes.search(target, q, np.random.default_rng(0)) == ()


def test_three_modes():
    def three(p):
        return jnp.logaddexp(jnp.logaddexp(-0.5 * p["x"] ** 2, -0.5 * (p["x"] - 10) ** 2), -0.5 * (p["x"] + 15) ** 2)

    with scope():
        target = Target(read(jn.density(three, {"x": 0.0})))
        found = modes.search(target, DenseGaussian(np.zeros(1), np.eye(1)), np.random.default_rng(0))
    assert sorted(round(float(mode.q.mean[0])) for mode in found) == [-15, 10]
    np.testing.assert_allclose([mode.weight for mode in found], 1 / 3, atol=0.05)


def test_non_finite_regions_harm_nobody():
    with scope():
        model = jn.density(lambda p: jnp.where(p["x"] > -4, -0.5 * p["x"] ** 2, jnp.nan), {"x": 0.0})
        q = DenseGaussian(np.zeros(1), np.eye(1))
        assert modes.search(Target(read(model)), q, np.random.default_rng(0)) == ()


def test_the_search_is_worth_it_in_low_dimension_or_on_good_fits_only():
    assert modes.worth_searching(5, 1e6)
    assert modes.worth_searching(500, 1.0)
    assert not modes.worth_searching(500, 100.0)


def test_modes_that_the_chains_visit_are_corners_of_one():
    near = modes.Mode(DenseGaussian(np.full(2, 1.0), np.eye(2)), 0.3)
    far = modes.Mode(DenseGaussian(np.full(2, 30.0), np.eye(2)), 0.3)
    z = np.random.default_rng(0).standard_normal((2000, 2))
    assert modes.unvisited((near, far), z) == (far,)
    assert modes.unvisited((near, far), np.concatenate([z, z + 30])) == ()


def _unequal(p, data):
    """N(0, I) with weight 1 - w, and N(apart, s^2 I) with weight w."""
    dim = len(data["apart"])
    one = jnp.log1p(-data["w"]) - 0.5 * (p["x"] ** 2).sum()
    other = jnp.log(data["w"]) - 0.5 * ((p["x"] - data["apart"]) ** 2).sum() / data["s"] ** 2 - dim * jnp.log(data["s"])
    return jnp.logaddexp(one, other)


@pytest.mark.parametrize(
    ("dim", "distance", "weight", "width"), [(10, 8, 0.02, 0.7), (20, 6, 0.1, 1.3), (3, 4, 0.1, 1.0)]
)
def test_finds_small_modes_that_are_narrow_or_low(dim, distance, weight, width):
    data = {"w": np.array(weight), "apart": along(dim, distance), "s": np.array(width)}
    with scope():
        target = Target(read(jn.density(_unequal, {"x": np.zeros(dim)}, data=data)))
        q = DenseGaussian(np.zeros(dim), np.eye(dim))
        found = modes.search(target, q, np.random.default_rng(0))
        mixed = mix(target, q, found, 0)
    assert len(found) == 1
    assert mixed.share > 0.8
    np.testing.assert_allclose(mixed.weights @ mixed.draws.z, weight * along(dim, distance), atol=0.05)
    assert mixed.q.weights[1] == pytest.approx(weight, abs=0.04)


def _ring(p):
    return -0.5 * ((jnp.sqrt((p["x"] ** 2).sum() + 1e-12) - 5) / 0.2) ** 2


@pytest.mark.parametrize("seed", range(2))
def test_a_ring_is_one_mode(seed):
    """From a q on one side of it."""
    with scope():
        target = Target(read(jn.density(_ring, {"x": np.zeros(2)})))
        q = DenseGaussian(np.array([4.8, 0.0]), np.diag([0.3, 1.2]))
        assert modes.search(target, q, np.random.default_rng(seed)) == ()


def test_chains_within_modes_that_are_no_gaussians():
    """Two Gumbel modes: the bridge has their masses, the chains their means."""

    def two(p):
        one = lambda x: (-x - jnp.exp(-x)).sum()  # noqa: E731
        return jnp.logaddexp(jnp.log(0.7) + one(p["x"]), jnp.log(0.3) + one(p["x"] - 15 * jnp.array([1.0, 0, 0, 0, 0])))

    with scope():
        target = Target(read(jn.density(two, {"x": np.zeros(5)})))
        q = DenseGaussian(np.full(5, 0.4), 1.1 * np.eye(5))
        found = modes.search(target, q, np.random.default_rng(0))
        mixed = mix(target, q, found, 0)
        chains = within(target, mixed, 0)
    np.testing.assert_allclose(sorted(chains.masses), [0.3, 0.7], atol=0.02)
    assert chains.weights.sum() == pytest.approx(1)
    mean, sd = np.euler_gamma, np.pi / np.sqrt(6)
    np.testing.assert_allclose(chains.weights @ chains.draws.z[:, 1:], mean, atol=0.1 * sd)
    np.testing.assert_allclose(chains.weights @ chains.draws.z[:, 0], mean + 0.3 * 15, atol=0.35)


def test_the_bridge_is_exact_between_normals():
    """Mass of 7 N(1, 1) from draws of N(0, 2^2) and of N(1, 1)."""
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    log_ratio = lambda z: np.log(7) + norm.logpdf(z, 1, 1) - norm.logpdf(z, 0, 2)  # noqa: E731
    of_q, of_p = log_ratio(2 * rng.standard_normal(4000)), log_ratio(1 + rng.standard_normal(3000))
    assert mixture._bridge(of_q, of_p) == pytest.approx(np.log(7), abs=0.03)


def test_pieces_of_a_curve_that_q_describes_are_no_modes_and_others_are():
    """On a banana whose q is right; and a q that leaves out a fifth of the mass has left it out."""

    def banana(p):
        return -0.5 * p["a"] ** 2 - 0.5 * (p["b"] - 1.5 * p["a"] ** 2) ** 2

    posterior = jn.fit(jn.density(banana, {"a": 0.0, "b": 0.0}), "layered", progress=False)
    assert posterior.verdict.overall == "trusted"
    assert posterior.sd["b"] == pytest.approx(np.sqrt(1 + 2 * 1.5**2), rel=0.05)
    one, other = DenseGaussian(np.zeros(1), np.eye(1)), DenseGaussian(np.full(1, 5.0), np.eye(1))
    with scope():
        target = Target(
            read(
                MIXTURES.setdefault(
                    1, jn.density(_mixture, {"x": np.zeros(1)}, data={"w": np.array(0.5), "apart": np.zeros(1)})
                ),
                {"w": np.array(0.2), "apart": np.full(1, 5.0)},
            )
        )
        level = float(target(np.zeros((1, 1)))[0][0] - one.log_prob(np.zeros((1, 1)))[0])
        found = (modes.Mode(other, 0.2), modes.Mode(one, 0.5))
        assert modes.undescribed(target, one, found, level, np.random.default_rng(0)) == found[:1]
