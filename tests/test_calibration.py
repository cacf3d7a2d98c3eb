"""Simulation-based calibration: it finds sds that are too small, and nothing where there is nothing."""

import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import jensen as jn
from jensen.calibration import Calibration, calibrate
from jensen.core.precision import scope
from jensen.diagnostics.examine_many import ManyFits
from jensen.models.many import _density
from jensen.models.read import read
from jensen.models.simulate import simulate
from jensen.models.target import _density_program

X = np.random.default_rng(0).standard_normal((30, 2))
X[:, 1] = 0.95 * X[:, 0] + 0.3 * X[:, 1]


def linear(X, y):
    beta = numpyro.sample("beta", dist.Normal(0, 2).expand([2]).to_event(1))
    numpyro.deterministic("sum", beta.sum())
    numpyro.sample("obs", dist.Normal(X @ beta, 1.0), obs=y)


DATA = {"X": X, "y": np.zeros(30)}


def test_prior_simulation_of_numpyro_has_the_moments_of_the_model():
    record = read(linear, DATA)
    with scope():
        parameters, data = simulate(record, 4000, 0)
    assert set(parameters) == {"beta", "sum"}
    assert set(data) == {"y"}
    np.testing.assert_allclose(parameters["sum"], parameters["beta"].sum(-1))
    np.testing.assert_allclose(np.cov(parameters["beta"].T), 4 * np.eye(2), atol=0.3)
    np.testing.assert_allclose(np.cov(data["y"].T), 4 * X @ X.T + np.eye(30), atol=2.0)
    residual = data["y"] - parameters["beta"] @ X.T
    assert stats.kstest(residual.ravel()[:5000], "norm").pvalue > 1e-3


def test_an_exact_fit_is_calibrated_and_only_the_first_one_compiles():
    record = read(linear, DATA)
    found = calibrate(linear, "fullrank", data=DATA, n=100, correct=False)
    # One program a shape: the design's points, and the draws of the weights.
    assert _density(record.factors, record.sites, ("y",), ("X", "y")).traces == 2
    assert found.calibrated
    assert "no sign of miscalibration" in repr(found)
    assert found.names == ("beta[0]", "beta[1]", "sum")
    assert found.ranks.shape == found.z.shape == (100, 3)
    # Against the posterior of linear regression in closed form.
    with scope():
        truth, data = simulate(record, 100, 0)
    cov = np.linalg.inv(X.T @ X + np.eye(2) / 4)
    z = (truth["beta"] - data["y"] @ X @ cov) / np.sqrt(np.diagonal(cov))
    np.testing.assert_allclose(found.z[:, :2], z, atol=1e-5)
    np.testing.assert_allclose(found.ranks[:, :2], stats.norm.cdf(z), atol=0.03)
    assert "s for all fits at once" in repr(found)


def test_fits_at_once_are_those_one_by_one(monkeypatch):
    """On a logistic regression, whose posterior is no Gaussian; and only the first of those one by one compiles."""

    def logistic(X, y):
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("obs", dist.Bernoulli(logits=X @ beta), obs=y)

    at_once = calibrate(logistic, "fullrank", data=DATA, n=20, correct=False)
    monkeypatch.setattr("jensen.calibration.fit_many", lambda *_: ManyFits(np.zeros(0, int), np.zeros(0, bool), {}, {}))
    one_by_one = calibrate(logistic, "fullrank", data=DATA, n=20, correct=False)
    np.testing.assert_allclose(at_once.z, one_by_one.z, atol=0.03, rtol=0.03)
    np.testing.assert_allclose(at_once.ranks, one_by_one.ranks, atol=0.05)
    record = read(logistic, DATA)
    assert _density_program(record.factors, record.sites).traces == 1


def test_mean_field_sds_are_found_too_small():
    found = calibrate(linear, "meanfield", data=DATA, n=100, correct=False)
    assert not found.calibrated
    cov = np.linalg.inv(X.T @ X + np.eye(2) / 4)
    expected = np.sqrt(np.diagonal(cov) * np.diagonal(np.linalg.inv(cov)))
    table = found.table
    assert (np.abs(table["spread"].values[:2] - expected) < 4 * table["spread error"].values[:2]).all()
    assert "sds too small by" in found.sentence
    figure = found.plot()
    figure.canvas.draw()
    assert len(figure.axes[0].lines) == 4


def test_p_values_are_uniform_for_uniform_ranks_and_shifts_are_named():
    rng = np.random.default_rng(1)
    names = tuple(f"x[{i}]" for i in range(400))
    z = rng.standard_normal((100, 400))
    fair = Calibration(names, stats.norm.cdf(z), z, np.ones(z.shape, bool), "fullrank", (), (1.0, 0.1))
    assert 0.005 < (fair.table["p"] < 0.05).mean() < 0.06  # three tests and Bonferroni: conservative
    assert fair.calibrated
    moved = Calibration(names, stats.norm.cdf(z + 1), z + 1, np.ones(z.shape, bool), "fullrank", ("bad",), (1.0, 0.1))
    assert "means too low by" in moved.sentence
    assert "1 fits failed" in repr(moved)
    assert "390 more" in repr(moved)


def test_a_density_needs_a_simulator():
    model = jn.density(
        lambda p, data: -0.5 * p["x"] ** 2 - 0.5 * ((data["y"] - p["x"]) ** 2).sum(),
        {"x": 0.0},
        data={"y": np.zeros(4)},
    )

    def both(rng):
        x = rng.standard_normal()
        return {"x": x}, {"y": x + rng.standard_normal(4)}

    assert calibrate(model, "fullrank", n=40, simulate=both).calibrated
    with pytest.raises(jn.UnsupportedError, match="give simulate="):
        calibrate(model)
    with pytest.raises(jn.OptionError, match="all parameters"):
        calibrate(model, simulate=lambda rng: ({}, {"y": np.zeros(4)}))
    with pytest.raises(jn.OptionError, match="two dicts"):
        calibrate(model, simulate=lambda rng: 1)
    with pytest.raises(jn.UnsupportedError, match="same shape"):
        calibrate(model, simulate=lambda rng: ({"x": 0.0}, {"y": np.zeros(5)}))


def test_pymc_models_are_simulated_by_pymc():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pymc as pm

    with pm.Model() as model:
        y = pm.Data("y", np.zeros(20))
        mu = pm.Normal("mu", 1.0, 2.0)
        sigma = pm.HalfNormal("sigma", 1.0)
        pm.Deterministic("ratio", mu / sigma)
        pm.Normal("obs", mu, sigma, observed=y)
    record = read(model)
    with scope():
        parameters, data = simulate(record, 500, 0)
    assert set(parameters) == {"mu", "sigma", "ratio"}
    np.testing.assert_allclose(parameters["ratio"], parameters["mu"] / parameters["sigma"])
    assert parameters["mu"].mean() == pytest.approx(1.0, abs=0.4)
    standard = (data["y"] - parameters["mu"][:, None]) / parameters["sigma"][:, None]
    assert stats.kstest(standard.ravel()[:5000], "norm").pvalue > 1e-3
    assert (model["y"].get_value() == 0).all()
    found = calibrate(model, "fullrank", n=20, correct=False)
    assert found.names == ("mu", "sigma", "ratio")


def flat(y):
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


def factored(y):
    x = numpyro.sample("x", dist.Normal())
    numpyro.factor("more", -(x**2))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


def hidden(y):
    x = numpyro.sample("x", dist.Normal())
    numpyro.sample("obs", dist.Normal(x, 1.0), obs=jnp.log(y))


@pytest.mark.parametrize(
    ("model", "message"), [(flat, "nothing can be drawn"), (factored, "more is a factor"), (hidden, "an argument")]
)
def test_models_that_cannot_be_simulated(model, message):
    with pytest.raises(jn.UnsupportedError, match=message):
        calibrate(model, data={"y": np.full(3, 2.0)})


def test_too_few_refits():
    with pytest.raises(jn.OptionError, match="at least 20"):
        calibrate(linear, data=DATA, n=5)
