"""Weighted rows and their correction, against NumPy."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from tests.models.large_models import density, likelihood, rows

from jensen.core.precision import scope
from jensen.models import weighted
from jensen.models.plates import find
from jensen.models.read import read
from jensen.models.target import Target

N, KEPT = 300, 40
X, Y = rows(N)
RNG = np.random.default_rng(1)
SOME = RNG.choice(N, KEPT, replace=False)
WEIGHTS = RNG.uniform(-1, 20, KEPT)
POINT, SLOPE = RNG.normal(size=3), RNG.normal(size=3)
CURVATURE = np.diag([3.0, -1.0, 0.5])


def log_prior(z):
    return -((z / 2.0) ** 2).sum(1) / 2


@pytest.fixture
def model():
    with scope():
        record = read(density(X, Y))
        yield weighted.weighted(record, find(record)[0], {"X": X[SOME], "y": Y[SOME]}, WEIGHTS)


def test_rows_count_as_often_as_they_weigh(model):
    z = RNG.normal(size=(5, 3))
    value, gradient = Target(model)(z)
    wanted = [likelihood(X[SOME], Y[SOME], point, WEIGHTS) for point in z]
    np.testing.assert_allclose(value, log_prior(z) + [one[0] for one in wanted], rtol=1e-12)
    np.testing.assert_allclose(gradient, -z / 4 + [one[1] for one in wanted], rtol=1e-10)


def test_weights_reach_each_factor_along_its_own_axis():
    parts = {"y": np.arange(6.0).reshape(2, 3), "prior": np.ones(2), "z": np.arange(3.0)}
    call = weighted.weighted_factors(
        lambda free, data: weighted.Factors(dict(parts), {"y": 10.0}, {}), (("y", 1), ("z", 0))
    )
    scale = call({}, {weighted.WEIGHTS: np.array([1.0, 2.0, 3.0])}).scale
    np.testing.assert_array_equal(scale["y"] * np.ones((2, 3)), [[10, 20, 30]] * 2)
    np.testing.assert_array_equal(scale["z"], [1, 2, 3])
    assert "prior" not in scale


@pytest.mark.parametrize("curvature", [None, CURVATURE])
def test_a_correction_is_a_parabola_around_its_point(model, curvature):
    plain, found = Target(model), weighted.anchor(POINT, 7.0, SLOPE, curvature)
    near = Target(weighted.anchored(model)).with_data(found)
    z = RNG.normal(size=(6, 3))
    step = z - POINT
    wanted = 7 + step @ SLOPE + (0 if curvature is None else 0.5 * np.einsum("ki,ij,kj->k", step, curvature, step))
    np.testing.assert_allclose(near(z)[0] - plain(z)[0], wanted, rtol=1e-9)
    np.testing.assert_allclose(weighted.correction(found, z), wanted, rtol=1e-12)
    numeric = approx_fprime(z[0], lambda x: near(x[None])[0][0], 1e-6)
    np.testing.assert_allclose(near(z)[1][0], numeric, rtol=1e-3, atol=1e-3)


def test_without_a_point_nothing_is_corrected(model):
    z = RNG.normal(size=(4, 3))
    np.testing.assert_array_equal(Target(weighted.anchored(model))(z)[0], Target(model)(z)[0])
    np.testing.assert_array_equal(weighted.correction({weighted.WEIGHTS: WEIGHTS}, z), 0)


def test_another_point_compiles_nothing(model):
    near = Target(weighted.anchored(model))
    near(np.zeros((1, 3)))
    traces = near._program.traces
    near.with_data(weighted.anchor(POINT, 1.0, SLOPE, CURVATURE))(np.zeros((1, 3)))
    assert near._program.traces == traces


def test_the_users_functions_do_not_see_the_weights(model):
    values, _ = model.constrain({"b": np.ones(3)}, weighted.anchored(model).data)
    np.testing.assert_array_equal(values["b"], 1)
