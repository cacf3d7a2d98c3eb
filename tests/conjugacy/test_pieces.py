"""Elements and sums of elements of flat arrays are NumPy's, whether their places are regular or not."""

import jax
import numpy as np
import pytest

from jensen.conjugate.places import regular, take, totals
from jensen.core.precision import scope

N, K = 5, 3
GRID = np.arange(N * K).reshape(N, K)
INDEX = {
    "table": GRID[:, :, None],
    "transposed, from an element on, spread": np.broadcast_to((GRID.T + 7)[:, None], (K, 2, N)),
    "every other": 2 * np.arange(4),
    "backwards": np.arange(4)[::-1],
    "one": np.full((3, 2), 4),
    "in turn": np.tile(np.arange(K), N)[:, None],
    "a table by its columns": GRID.T.reshape(-1) + 2,
    "every element twice": np.repeat(np.arange(4), 2),
    "almost in turn": np.array([0, 1, 2, 0, 1, 3]),
    "any": np.array([[3, 1], [4, 1]]),
    "any, then side by side": np.array([0, 0, 1, 2]),
}


@pytest.fixture(scope="module")
def array():
    return np.random.default_rng(0).standard_normal(40)


def test_elements(array):
    with scope("float64"):
        found = jax.jit(lambda x: {name: take(x, index) for name, index in INDEX.items()})(array)
    for name, index in INDEX.items():
        np.testing.assert_array_equal(found[name], array[index], err_msg=name)
    assert [name for name, index in INDEX.items() if regular(index) is not None] == [
        "table",
        "transposed, from an element on, spread",
        "one",
    ]


def test_sums(array):
    diagonal, beside = GRID.T, N * K + np.arange(3 * N).reshape(3, N)
    index = {
        "blocks": (np.concatenate([diagonal[:1], beside[1:2], beside, diagonal]), True),
        "part of a range": (diagonal[:1] + 39 - 4 * K, False),  # which would end beyond the array
        "any": (np.array([[3, 1], [4, 4]]), False),
    }
    pieces = {name: totals(some, len(array)) for name, (some, _) in index.items()}
    with scope("float64"):
        found = jax.jit(lambda x, pieces: {name: piece(x) for name, piece in pieces.items()})(array, pieces)
    for name, (some, ranges) in index.items():
        np.testing.assert_allclose(found[name], array[some].sum(1), rtol=1e-13, err_msg=name)
        assert bool(pieces[name].ranges) == ranges
