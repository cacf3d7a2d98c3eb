"""Rows are found by shapes and proved by densities; what is no sum over rows is refused."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import jensen as jn
from jensen.core.errors import UnsupportedError
from jensen.core.precision import scope
from jensen.models import plates
from jensen.models.read import read

N, D = 61, 2
RNG = np.random.default_rng(4)
X = RNG.normal(size=(N, D))
Y = X @ [1.0, -1.0] + RNG.normal(size=N)


def coefficients():
    return numpyro.sample("b", dist.Normal(0, 3).expand([D]))


def plain(X, y):
    numpyro.sample("y", dist.Normal(X @ coefficients(), 1.0), obs=y)


def written_length(X, y):
    b = coefficients()
    with numpyro.plate("people", N):
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def subsampled(X, y):
    b = coefficients()
    with numpyro.plate("people", len(y), subsample_size=7) as rows:
        numpyro.sample("y", dist.Normal(X[rows] @ b, 1.0), obs=y[rows])


def row_potential(X, y):
    b = coefficients()
    numpyro.factor("penalty", -((X @ b) ** 2))
    numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def scaled(X, y):
    b = coefficients()
    with handlers.scale(scale=0.5):
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def standardizes(X, y):
    numpyro.sample("y", dist.Normal((X - X.mean(0)) @ coefficients(), 1.0), obs=y)


def scalar_potential(X, y):
    b = coefficients()
    numpyro.factor("penalty", -((X @ b) ** 2).sum())
    numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def numbered(X, y):
    numpyro.sample("y", dist.Normal(X @ coefficients() * jnp.arange(len(y)), 1.0), obs=y)


def neighbors(X, y):
    b = coefficients()
    numpyro.sample("y", dist.Normal(X @ b + jnp.roll(y, 1), 1.0), obs=y)


def length_in_likelihood(X, y):
    numpyro.sample("y", dist.Normal(X @ coefficients(), len(X) ** 0.5), obs=y)


def length_in_prior(X, y):
    b = numpyro.sample("b", dist.Normal(0, len(X) ** -0.5).expand([D]))
    numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def length_in_scale(X, y):
    b = coefficients()
    with handlers.scale(scale=1000 / len(X)):
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def length_in_support(X, y):
    b = numpyro.sample("b", dist.Uniform(-len(X), len(X)).expand([D]))
    numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def rows_in_prior(X, y):
    b = numpyro.sample("b", dist.MultivariateNormal(jnp.zeros(D), precision_matrix=X.T @ X + jnp.eye(D)))
    numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def look(model, X=X, y=Y, n=9):
    """The longest plate of a model, and what is said about n of its rows, or None where it is proved."""
    with scope():
        record = read(model, {"X": X, "y": y})
        plate = plates.find(record)[0]
        rows = plates.rows_of(record.data, plate, np.arange(0, len(y), len(y) // n)[:n])
        try:
            return plate, plates.prove(record, plate, rows, seed=0)
        except UnsupportedError as error:
            return plate, str(error)


@pytest.mark.parametrize("model", [plain, written_length, subsampled, row_potential, scaled])
def test_independent_rows_are_proved(model):
    plate, said = look(model)
    assert said is None
    assert (plate.size, plate.held, plate.sites) == (N, N, ())
    assert set(plate.data) == {("X", 0), ("y", 0)}
    assert ("y", 0) in plate.factors


@pytest.mark.parametrize("n", [3, 4, 60])
def test_any_number_of_rows_will_do(n):
    assert look(plain, n=n)[1] is None


@pytest.mark.parametrize("model", [standardizes, numbered, neighbors, length_in_likelihood])
def test_rows_that_depend_on_each_other_are_refused(model):
    said = look(model)[1]
    assert said.startswith("the rows of y depend on each other")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (scalar_potential, "penalty"),
        (length_in_prior, "b"),
        (length_in_scale, "y"),
        (length_in_support, "b"),
        (rows_in_prior, "b"),
    ],
)
def test_what_has_no_value_a_row_must_not_know_the_rows(model, name):
    assert look(model)[1].startswith(f"{name} depends on the rows")


def test_a_huge_row_hides_no_dependence():
    far = X.copy()
    far[0] = 1e8

    def trims(X, y):
        numpyro.sample("y", dist.Normal((X - jnp.median(X, 0)) @ coefficients(), 1.0), obs=y)

    assert look(plain, far)[1] is None
    assert look(trims, far)[1] is not None


def test_axes_are_found_wherever_they_are():
    def transposed(X, y):
        numpyro.sample("y", dist.Normal(coefficients() @ X, 1.0), obs=y)

    plate, said = look(transposed, X.T.copy())
    assert said is None
    assert set(plate.data) == {("X", 1), ("y", 0)}


def test_variables_of_the_rows_are_named():
    def local(X, y):
        with numpyro.plate("people", len(y)):
            z = numpyro.sample("z", dist.HalfNormal(1))
            numpyro.sample("y", dist.Normal(z + X[:, 0], 1.0), obs=y)

    plate, said = look(local)
    assert (plate.name, plate.sites, said) == ("people", (("z", 0),), None)


def test_the_longest_plate_comes_first():
    def two(X, y):
        numpyro.sample("y", dist.Normal(jnp.outer(X[:, 0], coefficients()), 1.0), obs=y)

    with scope():
        found = plates.find(read(two, {"X": X, "y": np.stack([Y, Y], 1)}))
    assert [plate.size for plate in found] == [N, D]


def test_a_density_with_one_value_a_row_has_a_plate():
    model = jn.density(
        lambda p: -(p["b"] ** 2).sum(),
        {"b": np.zeros(D)},
        data={"X": X, "y": Y},
        log_likelihood=lambda p, data: -0.5 * (data["y"] - data["X"] @ p["b"]) ** 2,
    )
    with scope():
        record = read(model)
        (plate,) = plates.find(record)
        plates.prove(record, plate, plates.rows_of(record.data, plate, slice(0, 9)))
    assert (plate.name, plate.factors) == ("rows", (("log_likelihood", 0),))


def test_a_density_without_rows_has_none():
    with scope():
        assert plates.find(read(jn.density(lambda p: -(p["b"] ** 2), {"b": 0.0}))) == ()


def test_rows_are_cut_out_along_their_axes():
    plate = plates.Plate("rows", N, (("X", 1), ("y", 0)), ())
    cut = plates.rows_of({"X": X.T, "y": Y, "other": Y}, plate, np.array([5, 2]))
    assert set(cut) == {"X", "y"}
    np.testing.assert_array_equal(cut["X"], X[[5, 2]].T)
    np.testing.assert_array_equal(cut["y"], Y[[5, 2]])
