"""Passes over all rows in blocks: the sums NumPy gets from all of them at once."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from tests.models.large_models import density, likelihood, rows

from jensen.core.precision import scope
from jensen.data.build import table
from jensen.models.plates import find
from jensen.models.read import read
from jensen.models.rows import Rows

RNG = np.random.default_rng(2)
B = np.array([0.3, -0.8, 1.1])


def made(n, block, dtype="float64", source=None):
    X, y = rows(n, seed=n)
    X, y = X.astype(dtype), y.astype(dtype)
    record = read(density(X, y))
    arrays = {"X": X, "y": y}
    first = {name: array[np.arange(block) % n] for name, array in arrays.items()}
    return Rows(record, find(record)[0], source or table(**arrays), first), X, y


@pytest.mark.parametrize(("n", "block"), [(30, 32), (32, 32), (33, 32), (200, 32), (64, 32), (5, 32), (200, 1)])
def test_gradients_are_those_of_all_rows_however_they_are_cut(n, block):
    with scope():
        found, X, y = made(n, block)
        for _ in range(2):  # the second pass reads what the first one kept
            value, gradient = found.gradient(B)
            wanted = likelihood(X, y, B)
            np.testing.assert_allclose(value, wanted[0], rtol=1e-12)
            np.testing.assert_allclose(gradient, wanted[1], rtol=1e-9, atol=1e-11)
    assert found.passes == 2


def test_the_model_is_traced_once_for_all_programs():
    X, y = rows(32, 3, seed=0)
    traced = []

    def model(X, y):
        traced.append(len(y))
        b = numpyro.sample("b", dist.Normal(0, 1).expand([3]))
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)

    with scope():
        record = read(model, {"X": X, "y": y})
        found = Rows(record, find(record)[0], table(X=X, y=y), {"X": X, "y": y})
        traced.clear()
        found.gradient(B)
        found.hessian(B)
        found.values(B[None])
    assert len(traced) <= 1


@pytest.fixture(scope="module")
def ragged():
    with scope():
        yield made(203, 32)


def test_hessians_and_values(ragged):
    found, X, y = ragged
    with scope():
        for one, wanted in zip(found.hessian(B), likelihood(X, y, B), strict=True):
            np.testing.assert_allclose(one, wanted, rtol=1e-10)
        z = RNG.normal(size=(19, 3))  # more points than one call has, and not a multiple
        np.testing.assert_allclose(found.values(z), [likelihood(X, y, one)[0] for one in z], rtol=1e-12)


def test_rows_one_by_one(ragged):
    found, X, y = ragged
    some = RNG.choice(203, 70, replace=False)
    z = RNG.normal(size=(3, 3))
    with scope():
        densities = found.densities_of({"X": X[some], "y": y[some]}, z)
    eta = X[some] @ z.T
    np.testing.assert_allclose(densities, y[some, None] * eta - np.logaddexp(0, eta), rtol=1e-12)


@pytest.mark.parametrize("kept", [70, 32, 3])
def test_some_rows_with_weights(ragged, kept):
    found, X, y = ragged
    some, weights = RNG.choice(203, kept, replace=False), RNG.uniform(-2, 9, kept)
    arrays, passes = {"X": X[some], "y": y[some]}, found.passes
    wanted = likelihood(X[some], y[some], B, weights)
    with scope():
        value, gradient = found.gradient_of(arrays, weights, B)
        np.testing.assert_allclose(value, wanted[0], rtol=1e-11)
        np.testing.assert_allclose(gradient, wanted[1], rtol=1e-9)
        for one, right in zip(found.hessian_of(arrays, weights, B), wanted, strict=True):
            np.testing.assert_allclose(one, right, rtol=1e-9)
        np.testing.assert_allclose(found.values_of(arrays, weights, B[None]), wanted[0], rtol=1e-11)
    assert found.passes == passes, "a look at some rows is no pass"


def test_float32_rows_are_summed_in_float64():
    with scope():
        found, X, y = made(50_000, 1024, "float32")
        value, gradient = found.gradient(B)
    wanted = likelihood(X, y, B)
    # One rounding a row, averaged out: a float32 sum of 50,000 rows would be off by 1e-2 and more.
    assert value == pytest.approx(wanted[0], abs=5e-3)
    np.testing.assert_allclose(gradient, wanted[1], atol=5e-3)
    assert gradient.dtype == np.float64


def test_a_source_may_fill_its_buffers_anew():
    X, y = rows(203, seed=203)

    class Reused:
        size, shape, dtype = 203, (203, 3), np.dtype(float)
        buffers = [np.empty((32, 3)) for _ in range(3)], [np.empty(32) for _ in range(3)]

        def blocks(self, size):
            for number, start in enumerate(range(0, 203, size)):
                stop = min(203, start + size)
                block = {"X": self.buffers[0][number % 3], "y": self.buffers[1][number % 3]}
                block["X"][:] = block["y"][:] = np.nan
                block["X"][: stop - start], block["y"][: stop - start] = X[start:stop], y[start:stop]
                yield start, {name: array[: stop - start] for name, array in block.items()}

    with scope():
        found, _, _ = made(203, 32, source=Reused())
        for _ in range(2):
            np.testing.assert_allclose(found.gradient(B)[1], likelihood(X, y, B)[1], rtol=1e-9)


def test_what_is_no_row_is_the_same_for_every_block():
    import jensen as jn

    X, y = rows(100)
    shift = np.array([0.5, -0.25, 0.0])
    model = jn.density(
        lambda p: -(p["b"] ** 2).sum(),
        {"b": np.zeros(3)},
        data={"X": X, "y": y, "shift": shift},
        log_likelihood=lambda p, data: -0.5 * (data["y"] - data["X"] @ (p["b"] + data["shift"])) ** 2,
    )
    with scope():
        record = read(model)
        found = Rows(record, find(record)[0], table(X=X, y=y), {"X": X[:16], "y": y[:16]})
        value, gradient = found.gradient(B)
    residual = y - X @ (B + shift)
    assert value == pytest.approx(-0.5 * residual @ residual, rel=1e-12)
    np.testing.assert_allclose(gradient, X.T @ residual, rtol=1e-10)
