"""Laws of fixed designs: the moments of a standard normal, exactly."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jensen.engines.designs import block_size, columnwise, orthogonal

dims = st.integers(1, 24)
sizes = st.integers(1, 400)
seeds = st.integers(0, 2**32 - 1)


def normal_moment(power: int) -> float:
    """E x^power of a standard normal."""
    return 0.0 if power % 2 else float(prod(range(power - 1, 0, -2)))


@given(dims, sizes, seeds)
def test_orthogonal_designs_have_the_moments_of_a_normal(dim, size, seed):
    points, weights = orthogonal(np.random.default_rng(seed), dim, size)
    assert points.shape == (len(weights), dim)
    assert len(weights) >= min(size, block_size(dim))
    assert len(weights) % block_size(dim) == 0
    assert len(weights) < size + 2 * block_size(dim)
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-13)
    np.testing.assert_allclose(weights @ points, 0, atol=1e-13)
    np.testing.assert_allclose((points * weights[:, None]).T @ points, np.eye(dim), atol=1e-11)


@given(dims, sizes, seeds)
def test_orthogonal_designs_are_antithetic(dim, size, seed):
    points, weights = orthogonal(np.random.default_rng(seed), dim, size)
    # Every point has its mirror image with the same weight: all odd moments vanish, whatever the order.
    order, mirrored = np.lexsort(points.T), np.lexsort(-points.T)
    np.testing.assert_array_equal(points[order], -points[mirrored])
    np.testing.assert_allclose(weights[order], weights[mirrored], rtol=1e-13)


@given(st.integers(2, 24), st.integers(2, 12), seeds)
def test_two_radii_make_the_fourth_radial_moment_exact(dim, blocks, seed):
    points, weights = orthogonal(np.random.default_rng(seed), dim, blocks * block_size(dim))
    squares = (points**2).sum(1)
    assert weights @ squares == pytest.approx(dim, rel=1e-11)
    assert weights @ squares**2 == pytest.approx(dim * (dim + 2), rel=1e-11)


@given(st.integers(6, 40), st.integers(2, 24), seeds)
def test_three_radii_make_the_sixth_radial_moment_exact(blocks, dim, seed):
    points, weights = orthogonal(np.random.default_rng(seed), dim, blocks * block_size(dim))
    squares = (points**2).sum(1)
    assert weights @ squares**3 == pytest.approx(dim * (dim + 2) * (dim + 4), rel=1e-10)


@pytest.mark.parametrize("nodes", [2, 4, 8, 16, 32])
def test_in_one_dimension_it_is_gauss_hermite(nodes):
    points, weights = orthogonal(np.random.default_rng(0), 1, nodes)
    nodes_, shares = np.polynomial.hermite_e.hermegauss(nodes)
    # Nodes that count for nothing are left out: where a density is not finite they could only do harm.
    counts = shares / shares.sum() > 1e-15
    nodes_, shares = nodes_[counts], shares[counts]
    order = np.argsort(points[:, 0])
    np.testing.assert_allclose(points[order, 0], nodes_, atol=1e-10)
    np.testing.assert_allclose(weights[order], shares / shares.sum(), atol=1e-12)


@given(st.integers(3, 20), st.lists(st.floats(-2, 2), min_size=1, max_size=6), seeds)
def test_in_one_dimension_polynomials_up_to_degree_five_are_exact(half, coefficients, seed):
    points, weights = orthogonal(np.random.default_rng(seed), 1, 2 * half)
    exact = sum(c * normal_moment(power) for power, c in enumerate(coefficients))
    assert weights @ np.polyval(coefficients[::-1], points[:, 0]) == pytest.approx(exact, abs=1e-9)


@given(dims, seeds)
def test_the_same_generator_gives_the_same_design(dim, seed):
    one, other = (orthogonal(np.random.default_rng(seed), dim, 50) for _ in range(2))
    np.testing.assert_array_equal(one.points, other.points)
    np.testing.assert_array_equal(one.weights, other.weights)


def test_another_generator_gives_another_rotation():
    one, other = (orthogonal(np.random.default_rng(seed), 3, 50) for seed in range(2))
    assert np.abs(one.points - other.points).max() > 0.1


def test_rotations_are_uniform():
    # First coordinates of a Haar rotation have mean square 1 / D in every direction, and no preferred sign.
    rows = np.array([orthogonal(np.random.default_rng(seed), 4, 8).points[0] / 2 for seed in range(2000)])
    np.testing.assert_allclose(rows.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(rows.T @ rows / len(rows), np.eye(4) / 4, atol=0.03)


@given(st.integers(1, 300), st.integers(4, 128), seeds)
def test_columnwise_designs_have_exact_means_and_variances(dim, size, seed):
    points, weights = columnwise(np.random.default_rng(seed), dim, size)
    assert points.shape == (2 * (size // 2), dim)
    assert weights.sum() == pytest.approx(1, abs=1e-13)
    np.testing.assert_allclose(weights @ points, 0, atol=1e-13)
    np.testing.assert_allclose(weights @ points**2, 1, atol=1e-12)
