"""Slots: affine arrays are read back from tangents, and arrays that are not sparse are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jensen.conjugate.slots import Affine, Slot, compact, decode, decode_pairs, fit, partitions, tangents

SIZE = 12


def _matrix(index, weight, rows):
    """The matrix of an affine map: row n has weight[j, n] at index[j, n]."""
    matrix = np.zeros((rows, SIZE))
    for i, w in zip(index, weight, strict=True):
        np.add.at(matrix, (np.arange(rows), i), w)
    return matrix


def _read(matrix, shape, rng):
    splits = partitions(shape)
    stack, direction = tangents(splits, rng)
    return decode("x", splits, stack @ matrix.T, direction)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([(12,), (3, 4), (2, 2, 3)]), st.integers(1, 3))
def test_small_sites_are_always_read(seed, shape, reads):
    """Up to 64 elements there is a class for every element."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 9))
    matrix = _matrix(rng.integers(0, SIZE, (reads, rows)), rng.standard_normal((reads, rows)), rows)
    slots = _read(matrix, shape, rng)
    x = rng.standard_normal(SIZE)
    assert slots is not None
    np.testing.assert_allclose(
        np.broadcast_to(Affine(np.zeros(1), tuple(slots)).at({"x": x}), rows), matrix @ x, atol=1e-10
    )


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_gather_is_one_slot(scale):
    rng = np.random.default_rng(0)
    index = rng.integers(0, SIZE, 40)
    (slot,) = _read(_matrix(index[None], np.full((1, 40), scale), 40), (SIZE,), rng)
    np.testing.assert_array_equal(slot.index, index)
    np.testing.assert_allclose(slot.weight, scale)
    assert slot.weight.shape == (1,)


def test_rows_without_a_read_have_weight_zero():
    rng = np.random.default_rng(1)
    matrix = _matrix(np.zeros((1, 4), int), np.array([[0.0, 1.0, 0.0, 2.0]]), 4)
    (slot,) = _read(matrix, (SIZE,), rng)
    np.testing.assert_array_equal(slot.weight, [0.0, 1.0, 0.0, 2.0])


def test_same_element_twice_adds_up():
    rng = np.random.default_rng(2)
    index = np.repeat(np.arange(4)[None], 2, 0)
    (slot,) = _read(_matrix(index, np.array([[1.0] * 4, [2.0] * 4]), 4), (SIZE,), rng)
    np.testing.assert_allclose(np.broadcast_to(slot.weight, 4), 3.0)


@pytest.mark.parametrize("shape", [(12,), (3, 4)])
def test_dense_rows_read_every_element(shape):
    """With a class for every element one tangent a class is enough; zeros in the matrix are no reads of another element."""
    rng = np.random.default_rng(5)
    matrix = rng.standard_normal((20, SIZE)) * (rng.random((20, SIZE)) < 0.8)
    assert len(tangents([np.arange(SIZE)[::-1]], rng)[0]) == SIZE
    slots = _read(matrix, shape, rng)
    found = np.zeros_like(matrix)
    for slot in slots:
        np.add.at(found, (np.arange(20), np.broadcast_to(slot.index, 20)), np.broadcast_to(slot.weight, 20))
    np.testing.assert_array_equal(found, matrix)


def test_elements_in_another_order_than_their_classes():
    rng = np.random.default_rng(6)
    matrix = rng.standard_normal((20, SIZE))
    classes = rng.permutation(SIZE)
    stack, direction = tangents([classes], rng)
    slots = decode("x", [classes], stack @ matrix.T, direction)
    x = rng.standard_normal(SIZE)
    np.testing.assert_allclose(Affine(np.zeros(1), tuple(slots)).at({"x": x}), matrix @ x)


def test_cancelling_reads_are_no_read():
    rng = np.random.default_rng(3)
    index = np.repeat(np.arange(4)[None], 2, 0)
    slots = _read(_matrix(index, np.array([[1.0] * 4, [-1.0] * 4]), 4), (SIZE,), rng)
    assert all(not slot.weight.any() for slot in slots)


def test_large_sites_with_scattered_reads_are_not_guessed():
    """Two arbitrary elements a row of a site with more elements than classes: None, and not something wrong."""
    rng = np.random.default_rng(4)
    size, rows = 500, 50
    splits = partitions((size,))
    stack, direction = tangents(splits, rng)
    matrix = np.zeros((rows, size))
    for n in range(rows):
        matrix[n, rng.choice(size, 2, replace=False)] = 1.0, -2.0
    assert decode("x", splits, stack @ matrix.T, direction) is None


def test_chain_of_a_large_site_is_read():
    rng = np.random.default_rng(5)
    size = 500
    splits = partitions((size,))
    stack, direction = tangents(splits, rng)
    matrix = np.eye(size)[1:] - 0.5 * np.eye(size)[:-1]
    slots = decode("x", splits, stack @ matrix.T, direction)
    x = rng.standard_normal(size)
    assert len(slots) == 2
    np.testing.assert_allclose(Affine(np.zeros(1), tuple(slots)).at({"x": x}), matrix @ x, atol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_not_read(bad):
    matrix = np.eye(SIZE)
    matrix[3, 3] = bad
    with np.errstate(invalid="ignore"):
        assert _read(matrix, (SIZE,), np.random.default_rng(6)) is None


def test_products_are_read():
    """sum_k w_n x[i_nk] y[j_nk], from the tangents of x at three values of y."""
    rng = np.random.default_rng(7)
    N, K, D = 5, 2, 3
    splits = partitions((N, K))
    stack, along = tangents(splits, rng)
    _, direction = tangents(partitions((D, K)), rng)
    direction = np.abs(direction)

    def at(y):
        return np.einsum("tnk,dk->tnd", stack.reshape(-1, N, K), y.reshape(D, K)) * 1.5

    pushed = [at(y) for y in (direction, np.ones(D * K), 1.0 + np.arange(D * K))]
    pairs = decode_pairs("x", "y", splits, pushed, along, direction)
    x, y = rng.standard_normal(N * K), rng.standard_normal(D * K)
    wanted = 1.5 * x.reshape(N, K) @ y.reshape(D, K).T
    np.testing.assert_allclose(sum(pair.at({"x": x, "y": y}) for pair in pairs), wanted, atol=1e-10)


@given(st.lists(st.integers(1, 9), min_size=0, max_size=3))
def test_partitions_are_partitions(shape):
    size = int(np.prod(shape, dtype=int))
    found = partitions(tuple(shape))
    for classes in found:
        assert classes.shape == (size,)
        assert set(classes.tolist()) == set(range(int(classes.max()) + 1))
    assert [int(classes.max()) for classes in found] == sorted(int(classes.max()) for classes in found)


def test_arithmetic_of_affine():
    x = {"x": np.array([1.0, 10.0])}
    one = Affine(np.array([1.0]), (Slot("x", np.array([0]), np.array([2.0])),))
    two = Affine(np.array([5.0]), (Slot("x", np.array([1]), np.array([1.0])),))
    assert (one + -two).at(x) == 3.0 - 15.0
    assert one.times(-2.0).at(x) == -6.0
    assert one.sites == {"x"}
    assert (one + two).shape == (1,)


def test_compact_and_fit():
    assert compact(np.ones((4, 3))).shape == (1, 1)
    assert compact(np.arange(3.0)[None] + np.zeros((4, 1))).shape == (1, 3)
    assert compact(np.array([1.0, 2.0, 1.0])).shape == (3,)
    assert fit(np.zeros((2, 5)), 3).shape == (2, 1, 1, 5)
    assert fit(np.zeros(()), 2).shape == (1, 1, 1)
    assert fit(np.zeros((2, 1, 1, 5)), 1).shape == (2, 5)
