"""Rows that stand for all: unbiased weights, and rare values more than their share."""

import numpy as np
import pytest

from jensen.data.build import table
from jensen.data.subsample import choose

N = 40_000


def rng(seed=0):
    return np.random.default_rng(seed)


def rare(positives, total=N):
    y = np.zeros(total)
    y[rng(5).choice(total, positives, replace=False)] = 1
    return y


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": rng(1).normal(size=N)},
        {"x": rng(1).normal(size=(N, 3)), "y": rare(4)},
        {"y": rare(3000)},
        {"g": rng(2).integers(0, 15, N), "z": np.zeros((N, 2, 2))},
        {"c": np.zeros(N)},
    ],
)
@pytest.mark.parametrize("n", [10, 1000, N])
def test_rows_are_different_in_order_and_weigh_as_much_as_all(arrays, n):
    rows, weights = choose(rng(), arrays, n)
    assert rows.shape == weights.shape == (n,)
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < N
    assert (weights > 0).all()
    assert weights.sum() == pytest.approx(N)


@pytest.mark.parametrize("positives", [1, 5, 20, 200])
def test_few_rare_rows_are_all_taken_and_count_once(positives):
    y = rare(positives)
    rows, weights = choose(rng(), {"x": rng(1).normal(size=(N, 2)), "y": y}, 1000)
    assert y[rows].sum() == positives
    np.testing.assert_allclose(weights[y[rows] == 1], 1.0)


def test_rare_rows_take_a_quarter_at_most():
    y = rare(1500)
    rows, weights = choose(rng(), {"y": y}, 1000)
    assert y[rows].sum() == 250
    np.testing.assert_allclose(weights[y[rows] == 1], 6.0)


@pytest.mark.parametrize("column", ["dummy", "level", "mostly zero"])
def test_what_is_rare_is_found_in_one_column_of_many(column):
    x = rng(1).normal(size=(N, 3))
    at = np.array([7, 20_000, N - 1])
    x[:, 1] = {"dummy": 0.0, "level": rng(3).integers(0, 4, N), "mostly zero": 0.0}[column]
    x[at, 1] = {"dummy": 1.0, "level": 9.0, "mostly zero": [0.123, -4.5, 17.0]}[column]
    rows, _ = choose(rng(), {"x": x}, 1000)
    assert np.isin(at, rows).all()


def test_sums_are_unbiased():
    y = rare(1500)
    x = rng(1).normal(size=N) + 3 * y
    sums = []
    for seed in range(200):
        rows, weights = choose(rng(seed), {"x": x, "y": y}, 400)
        sums.append(weights @ x[rows])
    error = np.std(sums, ddof=1) / np.sqrt(len(sums))
    assert np.mean(sums) == pytest.approx(x.sum(), abs=4 * error)


def test_tables_in_memory_weigh_the_rows_they_take():
    y = rare(5)
    arrays, weights = table(x=np.arange(N), y=y).subsample(rng(), 1000)
    np.testing.assert_array_equal(arrays["y"], y[arrays["x"]])
    assert arrays["y"].sum() == 5
    assert weights.sum() == pytest.approx(N)


def test_the_same_seed_takes_the_same_rows():
    arrays = {"x": rng(1).normal(size=N), "y": rare(50)}
    first, second, other = choose(rng(3), arrays, 500), choose(rng(3), arrays, 500), choose(rng(4), arrays, 500)
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[0], other[0])


def test_rows_without_rare_values_weigh_the_same():
    weights = choose(rng(), {"x": rng(1).normal(size=(N, 5))}, 1000)[1]
    np.testing.assert_allclose(weights, N / 1000)
