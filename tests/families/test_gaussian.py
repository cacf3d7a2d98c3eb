"""Sparse Gaussians against dense linear algebra, SciPy's banded solver and SciPy's multivariate normal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solveh_banded
from scipy.stats import multivariate_normal
from tests.tiers import quick

from jensen.core.errors import OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.families import patterns_tridiagonal
from jensen.families.gaussian import Gaussian
from jensen.families.patterns import Arrow, Band, Blocks, Parts, find_pattern


@pytest.fixture(autouse=True)
def float64():
    with scope("float64"):
        yield


def chain(length, start=0, reach=1):
    t = np.arange(length)
    return np.concatenate([np.stack([t[:-k], t[k:]], 1) for k in range(1, reach + 1)]) + start


def clique(elements):
    return np.array([(i, j) for i in elements for j in elements])


def bordered(border, leaves):
    return np.array([(i, j) for i in border for j in [*border, *leaves]])


def trend(length):
    """Level and slope at each time, interleaved: blocks of two, a block tridiagonal precision."""
    return np.concatenate([clique(range(2 * t, 2 * t + 4)) for t in range(length - 1)])


NONE = np.zeros((0, 2), int)
MODELS = {
    "mean field": (9, NONE),
    "small regression and pairs": (9, np.concatenate([clique([8, 1, 4]), [[0, 7], [2, 3]]])),
    "rows of four": (24, np.concatenate([clique(range(4 * g, 4 * g + 4)) for g in range(6)])),
    "random walk": (80, chain(80)),
    "local linear trend": (60, trend(30)),
    "several walks": (90, np.concatenate([chain(30, 30 * c) for c in range(3)])),
    "walks of different lengths": (120, np.concatenate([chain(50), chain(70, 50)])),
    "walk and scalars": (75, chain(70, 3)),
    "multilevel, border last": (130, bordered(range(126, 130), range(126))),
    "varying slopes": (
        127,
        np.concatenate([bordered(range(7), range(7, 127)), [[7 + 2 * g, 8 + 2 * g] for g in range(60)]]),
    ),
    "walk with a mean": (90, np.concatenate([chain(89), bordered([89], range(89))])),
    "dense": (70, clique(range(70))),
}


def matrix(pattern, seed=0):
    """A precision with every entry of the pattern in use, dense and as entries."""
    rng = np.random.default_rng(seed)
    pairs = pattern.pairs
    off = rng.normal(size=len(pairs))
    dense = np.zeros((pattern.n, pattern.n))
    dense[pairs[:, 0], pairs[:, 1]] = off
    dense = dense + dense.T
    diagonal = np.abs(dense).sum(1) + rng.uniform(0.1, 1, pattern.n)
    return dense + np.diag(diagonal), jnp.asarray(np.concatenate([diagonal, off]))


def entries_of(pattern, dense):
    i, j = pattern.pairs.T
    return np.concatenate([np.diag(dense), dense[i, j]])


@jax.jit
def everything(pattern, h, entries, x, noise):
    """One program for each pattern: compiling is what these tests cost."""
    q = Gaussian(h, entries, pattern)
    broken = entries.at[pattern.n // 2].set(-1.0)
    return {
        "moments": pattern.moments(h, entries),
        "broken": pattern.moments(h, broken),
        "valid": (q.valid(), Gaussian(h, broken, pattern).valid()),
        "covariance": q.covariance(),
        "multiply": (pattern.multiply(entries, x), pattern.multiply(entries, x[0])),
        "outer": pattern.outer(x, x),
        "dense": pattern.dense(entries),
        "root": pattern.spread(jnp.eye(pattern.n), entries),
        "draws": q.at(noise),
    }


@pytest.mark.parametrize(
    "name", quick(MODELS, "rows of four", "local linear trend", "several walks", "varying slopes", "walk with a mean")
)
def test_against_dense_algebra(name):
    n, pairs = MODELS[name]
    pattern = find_pattern(n, pairs)
    dense, entries = matrix(pattern)
    rng = np.random.default_rng(1)
    h, x = rng.normal(size=n), rng.normal(size=(3, n))
    noise = rng.normal(size=(4, n))
    done = everything(pattern, jnp.asarray(h), entries, jnp.asarray(x), noise)
    inverse = np.linalg.inv(dense)

    # the pattern holds the pairs
    found = pattern.pairs
    assert pattern.size == pattern.n + len(found) == len(entries)
    assert (found[:, 0] > found[:, 1]).all()
    assert len(np.unique(found, axis=0)) == len(found)
    places = pattern.position(pairs[:, 0], pairs[:, 1])
    np.testing.assert_array_equal(entries[places], dense[pairs[:, 0], pairs[:, 1]])
    np.testing.assert_array_equal(done["dense"], dense)

    mean, cov, logdet = done["moments"]
    np.testing.assert_allclose(mean, inverse @ h, rtol=0, atol=1e-12)
    np.testing.assert_allclose(cov, entries_of(pattern, inverse), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(logdet, np.linalg.slogdet(dense)[1], rtol=1e-12)
    np.testing.assert_allclose(done["covariance"], inverse, rtol=0, atol=1e-12)

    np.testing.assert_allclose(done["multiply"][0], x @ dense, atol=1e-10)
    np.testing.assert_allclose(done["multiply"][1], x[0] @ dense, atol=1e-10)
    np.testing.assert_allclose(done["outer"], entries_of(pattern, x.T @ x), atol=1e-12)

    # draws are linear in the noise, so the matrix of the map says everything without Monte Carlo error
    root = done["root"]
    np.testing.assert_allclose(root.T @ root, inverse, rtol=0, atol=1e-12)
    np.testing.assert_allclose(done["draws"], inverse @ h + noise @ root, atol=1e-12)

    # a matrix that is not positive definite
    assert np.isnan(done["broken"][2])
    assert np.isnan(done["broken"][0]).any()
    assert tuple(bool(ok) for ok in done["valid"]) == (True, False)


@pytest.mark.parametrize("name", quick(["local linear trend", "varying slopes"], "local linear trend"))
def test_density_entropy_and_draws(name):
    pattern = find_pattern(*MODELS[name])
    dense, entries = matrix(pattern)
    h = jnp.asarray(np.random.default_rng(1).normal(size=pattern.n))
    q = Gaussian(h, entries, pattern)
    truth = multivariate_normal(np.linalg.solve(dense, h), np.linalg.inv(dense))
    x = truth.rvs(3, random_state=0)

    @jax.jit
    def of(q, x, noise):
        return q.log_prob(x), q.log_prob(x[0]), q.entropy(), q.sd(), q.at(noise)

    rows, row, entropy, sd, draws = of(q, x, q.noise(np.random.default_rng(0), 20_000))
    np.testing.assert_allclose(rows, truth.logpdf(x), rtol=1e-10)
    np.testing.assert_allclose(row, truth.logpdf(x[0]), rtol=1e-10)
    np.testing.assert_allclose(entropy, truth.entropy(), rtol=1e-12)
    np.testing.assert_allclose(sd, np.sqrt(np.diag(truth.cov)), rtol=1e-12)
    error = (np.mean(draws, 0) - truth.mean) / sd * np.sqrt(20_000)
    assert np.abs(error).max() < 4.5
    np.testing.assert_allclose(np.std(draws, 0), sd, rtol=0.03)


@pytest.mark.parametrize("name", ["small regression and pairs", "walk with a mean"])
def test_coordinate_ascent_finds_the_gaussian(name):
    """From the energy of a known Gaussian, one update from any moments gives that Gaussian."""
    pattern = find_pattern(*MODELS[name])
    dense, entries = matrix(pattern)
    h = jnp.asarray(np.random.default_rng(1).normal(size=pattern.n))

    def energy(moments):
        covariance = pattern.dense(moments["cov"])
        return h @ moments["mean"] - 0.5 * (moments["mean"] @ dense @ moments["mean"] + (dense * covariance).sum())

    start = Gaussian.point(pattern, 0.3, jnp.full(pattern.n, 2.0))
    moments = jax.jit(Gaussian.moments)(start)
    np.testing.assert_allclose(moments["mean"], 0.3, rtol=1e-12)
    np.testing.assert_allclose(moments["cov"][: pattern.n], 2.0, rtol=1e-12)
    new = jax.jit(lambda q, moments: q.from_gradient(jax.grad(energy)(moments), moments))(start, moments)
    np.testing.assert_allclose(new.precision, entries, atol=1e-10)
    np.testing.assert_allclose(new.h, h, atol=1e-10)
    point = new.statistics(moments["mean"])
    assert jax.tree.structure(point) == jax.tree.structure(moments)
    assert not point["cov"].any()


@pytest.mark.parametrize("name", quick(["varying slopes", "several walks", "dense"], "several walks"))
def test_the_gradient_of_the_log_partition_is_the_moments(name):
    """Under grad and vmap: d/dh of A = h'mean/2 - logdet/2 is the mean, d/dP_ii is -E x_i^2 / 2."""
    pattern = find_pattern(*MODELS[name])
    dense, entries = matrix(pattern)
    h = np.random.default_rng(1).normal(size=(2, pattern.n))

    def partition(h, entries):
        mean, _, logdet = pattern.moments(h, entries)
        return 0.5 * (h @ mean - logdet)

    by_h, by_entries = jax.jit(jax.vmap(jax.grad(partition, (0, 1)), (0, None)))(h, entries)
    for k in range(2):
        mean = np.linalg.solve(dense, h[k])
        second = entries_of(pattern, np.linalg.inv(dense) + np.outer(mean, mean))
        second[: pattern.n] /= 2
        np.testing.assert_allclose(by_h[k], mean, atol=1e-11)
        np.testing.assert_allclose(by_entries[k], -second, atol=1e-10)


def shape(pattern):
    """The classes and sizes, without the permutations."""
    if isinstance(pattern, Parts):
        return [shape(part) for part in pattern.parts]
    if isinstance(pattern, Arrow):
        return ("arrow", pattern.border, shape(pattern.inner))
    if isinstance(pattern, Band):
        return ("band", pattern.chains, pattern.length, pattern.width)
    return ("blocks", pattern.count, pattern.width)


GROUPS = [(6 + 2 * g, 7 + 2 * g) for g in range(500)]
BIG = {
    "random walk": (2000, chain(2000), ("band", 1, 2000, 1)),
    "local linear trend": (4000, trend(2000), ("band", 1, 4000, 3)),
    "level and slope as two sites": (
        400,
        (lambda t: t // 2 + 200 * (t % 2))(trend(200)),
        [("band", 1, 400, 3)],
    ),
    "multilevel": (506, bordered(range(6), range(6, 506)), ("arrow", 6, ("blocks", 500, 1))),
    "varying slopes": (
        1006,
        np.concatenate([bordered(range(6), range(6, 1006)), GROUPS]),
        ("arrow", 6, ("blocks", 500, 2)),
    ),
    "regression and singles": (520, clique(range(20)), [("blocks", 500, 1), ("blocks", 1, 20)]),
    "chain and singles": (1500, chain(1000, 500), [("blocks", 500, 1), ("band", 1, 1000, 1)]),
    "rows of four": (400, np.concatenate([clique(range(4 * g, 4 * g + 4)) for g in range(100)]), ("blocks", 100, 4)),
    "several chains": (3000, np.concatenate([chain(1000, 1000 * c) for c in range(3)]), ("band", 3, 1000, 1)),
    "walk with regressors": (
        505,
        np.concatenate([bordered(range(5), range(5, 505)), chain(500, 5)]),
        ("arrow", 5, ("band", 1, 500, 1)),
    ),
    "monthly season": (3000, np.stack([np.arange(2988), np.arange(12, 3000)], 1), [("band", 12, 250, 1)]),
    "autoregression of order twelve": (3000, chain(3000, reach=12), ("band", 1, 3000, 12)),
    "autoregression of order six, short": (80, chain(80, reach=6), ("blocks", 1, 80)),
    "crossed effects, few": (45, bordered(range(5), range(5, 45)), ("blocks", 1, 45)),
    "crossed effects, many": (620, bordered(range(600, 620), range(600)), [("arrow", 20, ("blocks", 600, 1))]),
    "one dense block": (300, clique(range(300)), ("blocks", 1, 300)),
}


@pytest.mark.parametrize("name", BIG)
def test_the_cheapest_class_is_found(name):
    n, pairs, expected = BIG[name]
    rng = np.random.default_rng(0)
    pairs = np.concatenate([pairs, pairs[: len(pairs) // 2, ::-1]])  # repeats, and in either order
    pattern = find_pattern(n, rng.permutation(pairs))
    assert shape(pattern) == expected
    pattern.position(pairs[:, 0], pairs[:, 1])


def test_ragged_regions_go_into_the_border():
    """Schools in 80 regions of different sizes, and a common mean: few parts, not one for each size."""
    rng = np.random.default_rng(0)
    region = rng.integers(1, 81, 3000)
    schools = np.arange(81, 3081)
    pairs = np.concatenate([np.stack([schools, region], 1), bordered([0], range(1, 3081))])
    pattern = find_pattern(3081, pairs)
    inner = pattern.parts[0].inner if isinstance(pattern, Parts) else pattern.inner
    assert len(inner.parts) <= 3 if isinstance(inner, Parts) else isinstance(inner, Blocks)
    pattern.position(pairs[:, 0], pairs[:, 1])


def test_what_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(UnsupportedError, match="couples 2,500 elements"):
        find_pattern(2500, np.stack([rng.integers(0, 2500, 60_000), rng.integers(0, 2500, 60_000)], 1))
    with pytest.raises(OptionError, match="within 0"):
        find_pattern(3, np.array([[0, 3]]))
    pattern = find_pattern(6, clique(range(3)))
    for pair in ((0, 5), (6, 6), (-1, 2), (3, 4)):
        with pytest.raises(OptionError, match="not in a pattern"):
            pattern.position(*pair)
    with pytest.raises(OptionError, match="not in a pattern"):
        find_pattern(6, NONE).position([0, 1], [0, 2])


def test_the_permutation_is_an_argument_of_the_program():
    pattern = find_pattern(300, np.concatenate([chain(200, 50), [[0, 299]]]))
    leaves = jax.tree.leaves(pattern)
    assert [leaf.shape for leaf in leaves] == [(300,), (300,)]
    assert all(leaf.dtype == jnp.int32 for leaf in leaves)
    assert not jax.tree.leaves(find_pattern(300, NONE))


def test_a_long_walk_against_a_kalman_smoother_and_a_banded_solver():
    """y_t = x_t + noise, x a random walk: T = 100,000."""
    length, noise, drift = 100_000, 0.5, 0.1
    rng = np.random.default_rng(0)
    y = np.cumsum(rng.normal(size=length)) * np.sqrt(drift) + rng.normal(size=length) * np.sqrt(noise)
    diagonal = np.full(length, 1 / noise + 2 / drift)
    diagonal[0] = 1 / noise + 1 / drift + 1  # x_0 ~ N(0, 1)
    diagonal[-1] -= 1 / drift
    pattern = find_pattern(length, chain(length))
    entries = jnp.asarray(np.concatenate([diagonal, np.full(length - 1, -1 / drift)]))
    q = Gaussian(jnp.asarray(y / noise), entries, pattern)
    moments = jax.jit(Gaussian.moments)(q)

    mean, variance, mean_ahead, variance_ahead = (np.zeros(length) for _ in range(4))
    m, v = 0.0, 1.0
    for t in range(length):
        mean_ahead[t], variance_ahead[t] = m, v
        gain = v / (v + noise)
        m, v = m + gain * (y[t] - m), v * (1 - gain)
        mean[t], variance[t] = m, v
        v = v + drift
    covariance = np.zeros(length - 1)
    for t in reversed(range(length - 1)):
        back = variance[t] / variance_ahead[t + 1]
        covariance[t] = back * variance[t + 1]
        mean[t] += back * (mean[t + 1] - mean_ahead[t + 1])
        variance[t] += back**2 * (variance[t + 1] - variance_ahead[t + 1])
    np.testing.assert_allclose(moments["mean"], mean, rtol=0, atol=1e-8)
    np.testing.assert_allclose(moments["cov"], np.concatenate([variance, covariance]), rtol=1e-8)

    banded = np.stack([np.concatenate([[0.0], np.full(length - 1, -1 / drift)]), diagonal])
    np.testing.assert_allclose(moments["mean"], solveh_banded(banded, y / noise), rtol=0, atol=1e-8)


@pytest.mark.parametrize("n", [4, 7])
def test_a_chain_eliminated_from_both_ends(n):
    rng = np.random.default_rng(n)
    diagonal, off, h = 2 + rng.random(n), rng.standard_normal(n - 1), rng.standard_normal(n)
    inverse = np.linalg.inv(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    entries = np.concatenate([diagonal, off])
    mean, cov, logdet = jax.jit(patterns_tridiagonal.solve)(h, entries)
    np.testing.assert_allclose(mean, inverse @ h, rtol=1e-12)
    np.testing.assert_allclose(cov, np.concatenate([np.diagonal(inverse), np.diagonal(inverse, -1)]), rtol=1e-12)
    np.testing.assert_allclose(logdet, -np.linalg.slogdet(inverse)[1], rtol=1e-12)


def test_single_precision():
    with scope("float32"):
        pattern = find_pattern(*MODELS["varying slopes"])
        q = Gaussian.point(pattern, 1.0, 4.0)
        moments, entropy, sd = jax.jit(lambda q: (q.moments(), q.entropy(), q.sd()))(q)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((moments, entropy)))
        np.testing.assert_allclose(sd, 2.0, rtol=1e-6)


@settings(max_examples=5)
@given(st.integers(1, 30), st.data())
def test_any_small_pattern(n, data):
    element = st.integers(0, n - 1)
    pairs = np.array(data.draw(st.lists(st.tuples(element, element), max_size=n)), int).reshape(-1, 2)
    with scope("float64"):
        pattern = find_pattern(n, pairs)
        pattern.position(pairs[:, 0], pairs[:, 1])
        dense, entries = matrix(pattern)
        mean, cov, logdet = jax.jit(lambda pattern, h, entries: pattern.moments(h, entries))(
            pattern, jnp.ones(n), entries
        )
        inverse = np.linalg.inv(dense)
        np.testing.assert_allclose(mean, inverse.sum(1), atol=1e-10)
        np.testing.assert_allclose(cov, entries_of(pattern, inverse), atol=1e-10)
        np.testing.assert_allclose(logdet, np.linalg.slogdet(dense)[1], atol=1e-9)
