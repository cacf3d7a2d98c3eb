"""The batched program: values, gradients, padding, counting, blame."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.models.read import read
from jensen.models.target import BATCH, Target


def _log_density(p, data):
    return -0.5 * (((p["x"] - data["y"]) / 2) ** 2).sum() + p["s"].sum()


@pytest.fixture
def target():
    model = jn.density(
        _log_density, {"x": np.zeros(2), "s": 1.0}, support={"s": "positive"}, data={"y": np.array([1.0, -1.0])}
    )
    with scope():
        yield Target(read(model))


def by_hand(z):
    x, log_s = z[:, :2], z[:, 2]
    value = -0.5 * (((x - [1.0, -1.0]) / 2) ** 2).sum(1) + np.exp(log_s) + log_s
    return value, np.concatenate([-(x - [1.0, -1.0]) / 4, np.exp(log_s)[:, None] + 1], axis=1)


@pytest.mark.parametrize("n", [1, 2, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH])
def test_values_and_gradients_whatever_the_batch(target, n):
    z = np.random.default_rng(n).standard_normal((n, 3))
    value, gradient = target(z)
    wanted = by_hand(z)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-12)
    np.testing.assert_allclose(gradient, wanted[1], rtol=1e-12)
    assert (value.dtype, gradient.dtype) == (np.float64, np.float64)
    assert isinstance(value, np.ndarray)


def test_a_point_is_worth_the_same_in_any_company(target):
    z = np.random.default_rng(0).standard_normal((BATCH + 5, 3))
    together = target(z)[0]
    alone = np.array([target(row[None])[0][0] for row in z[-5:]])
    np.testing.assert_array_equal(together[-5:], alone)


def test_a_broken_neighbor_harms_nobody(target):
    z = np.random.default_rng(0).standard_normal((10, 3))
    z[0, 2] = 1e6  # overflows
    value, gradient = target(z)
    assert not np.isfinite(value[0])
    np.testing.assert_allclose(value[1:], by_hand(z[1:])[0], rtol=1e-12)
    assert np.isfinite(gradient[1:]).all()


def test_padding_is_not_counted(target):
    before = target.gradients
    target(np.zeros((3, 3)))
    target(np.zeros((BATCH + 1, 3)))
    assert target.gradients == before + BATCH + 4


def test_constrain(target):
    z = np.random.default_rng(0).standard_normal((BATCH + 3, 3))
    values, derived = target.constrain(z)
    np.testing.assert_allclose(values["x"], z[:, :2])
    np.testing.assert_allclose(values["s"], np.exp(z[:, 2]))
    assert derived == {}


def test_one_trace_for_all_batches(target):
    for n in (1, 5, BATCH, 300):
        target(np.zeros((n, 3)))
    assert target._program.traces == 1


def test_float32_runs_in_float32_and_returns_float64():
    model = jn.density(_log_density, {"x": np.zeros(2), "s": 1.0}, data={"y": np.array([1.0, -1.0])})
    with scope("float32"):
        target = Target(read(model), "float32")
        value, _ = target(np.full((1, 3), 1 / 3))
    assert value.dtype == np.float64
    assert value[0] == np.float32(value[0])  # nothing beyond single precision in it
    with scope("float32"):
        jaxpr = str(jax.make_jaxpr(lambda z: target._program(z, target.data))(np.zeros((target.batch, 3), "float32")))
    assert "f64" not in jaxpr


def test_large_models_run_in_smaller_batches():
    model = jn.density(lambda p, d: -((p["x"] - d["y"]) ** 2).sum(), {"x": 0.0}, data={"y": np.zeros(10)})

    def rows(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    with scope():
        assert Target(read(model)).batch == BATCH
        assert Target(read(rows, {"y": np.zeros(200_000)})).batch < BATCH
        assert Target(read(rows, {"y": np.zeros(200_000)})).batch * 200_000 <= 2**22


def test_calls_on_many_rows_are_filled_with_fewer_points():
    y, points = np.arange(300.0), []
    model = jn.density(lambda p, d: -0.5 * ((p["x"] - d["y"]) ** 2).sum(), {"x": 0.0}, data={"y": y})
    with scope():
        target = Target(read(model))
        inner = target._program
        target._program = lambda z, data: points.append(len(z)) or inner(z, data)
        z = np.linspace(-1, 1, BATCH)[:, None]
        value, gradient = target(z)
        target(z[:36])
    np.testing.assert_allclose(value, -0.5 * ((z - y) ** 2).sum(1), rtol=1e-12)
    np.testing.assert_allclose(gradient, (y - z).sum(1)[:, None], rtol=1e-12)
    assert (target.batch, points) == (BATCH, [43] * 4)


def test_factors_by_name():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    with scope():
        factors = Target(read(model, {"y": np.array([0.5, 1.5])})).factors(np.array([[0.0], [1.0], [2.0]]))
    assert set(factors) == {"mu", "y"}
    assert factors["mu"].shape == (3,)
    assert factors["y"].shape == (3, 2)
    by_hand = -0.5 * (np.array([0.5, 1.5]) - np.array([[0.0], [1], [2]])) ** 2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(factors["y"], by_hand)


def test_blame_names_what_is_not_finite():
    def model(y):
        rate = numpyro.sample("rate", dist.HalfNormal(1))
        numpyro.sample("good", dist.Normal(rate, 1), obs=0.0)
        numpyro.sample("bad", dist.Gamma(2.0, rate), obs=y)

    with scope():
        target = Target(read(model, {"y": np.array([1.0, -1.0])}))
        assert target.blame(np.zeros(1)) == "the log density of bad"
        assert target.blame(np.zeros((3, 1))) == "the log density of bad"


def test_blame_names_a_transform_that_overflows():
    def model():
        numpyro.sample("rate", dist.ImproperUniform(dist.constraints.positive, (), ()))
        numpyro.sample("unit", dist.Beta(1, 1))

    with scope():
        text = Target(read(model)).blame(np.array([np.inf, 0.0]))
    assert "rate" in text
    assert "unit" not in text


def test_blame_names_a_broken_gradient():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.factor("root", -jnp.sqrt(jnp.abs(x)) * 0)

    with scope():
        assert Target(read(model)).blame(np.zeros(1)) == "the gradient of root"


def test_programs_belong_to_the_model_not_to_a_fit(target):
    model = target.model
    assert Target(model)._program is target._program
