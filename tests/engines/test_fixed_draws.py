"""What is special to smoothed Newton on fixed draws; what every engine obeys is in tests/laws."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.families.fullrank import DenseGaussian
from jensen.families.meanfield import DiagonalGaussian
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


def fitted(engine, model, data=None, **loop):
    with scope():
        target = Target(read(model, data))
        q, record = run(engine, target, seed=0, progress=False, **loop)
    return q, record, target


def _normal(p, data):
    return -0.5 * (((p["x"] - data["mean"]) / data["sd"]) ** 2).sum()


@pytest.fixture(scope="module")
def normal():
    return jn.density(_normal, {"x": np.zeros(2)}, data={"mean": np.zeros(2), "sd": np.ones(2)})


@pytest.mark.parametrize("family", [jn.FullRank(), jn.MeanField()])
@pytest.mark.parametrize(("mean", "sd"), [(0.0, 1.0), (1e6, 1.0), (-1e3, 1e-3), (3.0, 1e6), (1.0, 1e-6)])
def test_location_and_scale_do_not_matter(normal, family, mean, sd):
    q, record, _ = fitted(jn.FixedDraws(family), normal, {"mean": np.array([mean, 0]), "sd": np.array([sd, 1])})
    assert record.status == "converged"
    assert abs(q.mean[0] - mean) / sd < 1e-6
    assert q.sd[0] / sd == pytest.approx(1, abs=1e-6)
    assert q.sd[1] == pytest.approx(1, abs=1e-6)


def test_steps_of_the_engine_are_a_limit(normal):
    data = {"mean": np.full(2, 1e9), "sd": np.ones(2)}
    _, record, _ = fitted(jn.FixedDraws(steps=2), normal, data)
    assert record.steps == 2
    assert record.status == "stuck"  # told by the engine: it gave up


def test_the_small_design_is_cheaper(normal):
    _, _, large = fitted(jn.FixedDraws(), normal)
    _, _, small = fitted(jn.FixedDraws(large=False), normal)
    assert small.gradients < large.gradients


def test_start_far_out_comes_home():
    """A start at -40 in a density that is flat there: saddle-free steps do not run the wrong way."""
    model = jn.density(lambda p: -jnp.log1p((p["x"] ** 2).sum()) * 3, {"x": np.zeros(2)})
    q, record, _ = fitted(jn.FixedDraws(start=jn.FullRank().start(np.full(2, -40.0), 0.1)), model)
    assert record.status == "converged"
    assert np.abs(q.mean).max() < 0.01


def test_a_start_that_is_not_finite_is_shrunk():
    model = jn.density(lambda p: jnp.log(p["x"]) * 9 - p["x"], {"x": 1.0})
    engine = jn.FixedDraws(start=jn.FullRank().start(np.array([10.0]), 100.0), large=False)
    with scope():
        target = Target(read(model))
        state = engine.init(target, 0)
    assert np.isfinite(state.point.loss)
    assert state.point.factor[0, 0] < 1.0


def test_the_broken_factor_is_named():
    def model(y):
        rate = numpyro.sample("rate", dist.HalfNormal(1))
        numpyro.sample("fine", dist.Normal(rate, 1), obs=0.0)
        numpyro.sample("counts", dist.Gamma(2.0, rate), obs=y)

    with pytest.raises(jn.NonFiniteError, match="log density of counts is not finite at the start"):
        fitted(jn.FixedDraws(), model, {"y": np.array([1.0, -2.0])})


def test_a_broken_gradient_is_named():
    # sqrt(0) under a norm: the value is finite everywhere, its gradient is not.
    model = jn.density(lambda p: -jnp.sqrt(0.0 * p["x"] ** 2) - p["x"] ** 2, {"x": 1.0})
    with pytest.raises(jn.NonFiniteError, match="gradient of log_density"):
        fitted(jn.FixedDraws(), model)


@pytest.mark.parametrize("family", [jn.FullRank(), jn.MeanField()])
def test_flat_combinations_are_named(family):
    model = jn.density(
        lambda p: -0.5 * ((p["a"] + p["b"] - 1) ** 2 + p["c"] ** 2).sum(), {"a": 0.0, "b": np.zeros(1), "c": 0.0}
    )
    with pytest.raises(jn.ImproperError, match="combination of the sites a, b") as caught:
        fitted(jn.FixedDraws(family), model)
    assert "c" not in str(caught.value).split("combination of the sites")[1].split(";")[0].replace("cannot", "")


def test_a_runaway_names_its_site():
    model = jn.density(lambda p: p["up"] - 0.5 * p["x"] ** 2, {"x": 0.0, "up": 0.0})
    with pytest.raises(jn.ImproperError, match="site up"):
        fitted(jn.FixedDraws(), model)


@pytest.mark.parametrize(
    ("family", "start"),
    [
        (jn.MeanField(), DenseGaussian(np.zeros(2), np.eye(2))),
        (jn.FullRank(), DiagonalGaussian(np.zeros(2), np.zeros(2))),
    ],
    ids=["mean-field from full rank", "full rank from mean-field"],
)
def test_the_family_decides_what_comes_out_not_the_start(normal, family, start):
    q, _, _ = fitted(jn.FixedDraws(family, start=start), normal)
    assert type(q) is type(family.start(np.zeros(2), 1.0))


def test_mean_field_beyond_the_dense_limit():
    """D = 1,600: designs of fewer points than dimensions; means and sds of independent coordinates stay exact."""
    dim = 1600
    data = {"mean": np.linspace(-3, 3, dim), "sd": np.linspace(0.5, 2, dim)}
    model = jn.density(_normal, {"x": np.zeros(dim)}, data=data)
    q, record, _ = fitted(jn.FixedDraws(jn.MeanField()), model, steps=20)
    assert record.status == "converged"
    assert np.abs((q.mean - data["mean"]) / data["sd"]).max() < 1e-3
    np.testing.assert_allclose(q.sd / data["sd"], 1, atol=2e-3)


def test_options_are_values():
    engine = jn.FixedDraws(jn.MeanField(), steps=7)
    assert replace(engine, steps=8) != engine
    assert engine == jn.FixedDraws(jn.MeanField(), steps=7)


def test_a_walk_down_a_curved_valley_converges():
    """A banana: full rank finds the optimum of the fixed-draw objective, from the usual start, without radius switches."""
    model = jn.density(
        lambda p: -0.5 * p["x"][0] ** 2 - 0.5 * ((p["x"][1] - p["x"][0] ** 2) / 0.5) ** 2, {"x": np.zeros(2)}
    )
    q, record, target = fitted(jn.FixedDraws(), model)
    assert record.status == "converged"
    noise = np.random.default_rng(0).standard_normal((100_000, 2))
    with scope():
        u = target(q.mean + noise @ q.scale.T)[1] @ q.scale
    error = u.std(0) / np.sqrt(len(noise))
    assert (np.abs(u.mean(0)) < 0.02 + 4 * error).all()


def test_a_density_that_is_straight_around_the_start_is_not_called_improper():
    """Around 0 the gradient of -|x - 1| / 2 is the same everywhere; E|x - 1| / 2 - log s is least at s = sqrt(2 pi)."""
    model = jn.density(lambda p: -0.5 * jnp.abs(p["x"] - 1).sum(), {"x": np.zeros(3)})
    q, _, _ = fitted(jn.FixedDraws(jn.MeanField()), model)
    np.testing.assert_allclose(q.mean, 1, atol=0.2)
    np.testing.assert_allclose(q.sd, np.sqrt(2 * np.pi), rtol=0.05)
