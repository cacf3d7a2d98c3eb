"""Linear response: the covariance that mean-field leaves out."""

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.diagnostics.linear_response import linear_response
from jensen.families.fullrank import DenseGaussian
from jensen.families.meanfield import DiagonalGaussian
from jensen.models.read import read
from jensen.models.target import Target

pytestmark = pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")


def _gaussian(p, data):
    centered = p["x"] - data["mean"]
    return -0.5 * centered @ data["precision"] @ centered


@pytest.mark.parametrize("dim", [1, 2, 10, 220])
def test_covariance_of_a_gaussian_is_exact(dim):
    rng = np.random.default_rng(dim)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    variances = np.logspace(-2, 2, dim)
    mean, precision = rng.standard_normal(dim), (rotation / variances) @ rotation.T
    model = jn.density(_gaussian, {"x": np.zeros(dim)}, data={"mean": mean, "precision": precision})
    q = DiagonalGaussian(mean, -0.5 * np.log(np.diagonal(precision)))  # the mean-field optimum
    with scope():
        found = linear_response(Target(read(model)), q, seed=0)
    assert isinstance(found, DenseGaussian)
    np.testing.assert_array_equal(found.mean, mean)
    cov = (rotation * variances) @ rotation.T
    sd = np.sqrt(np.diagonal(cov))
    np.testing.assert_allclose(found.cov / np.outer(sd, sd), cov / np.outer(sd, sd), atol=1e-6)


def test_no_minimum_no_answer():
    saddle = jn.density(lambda p: -0.5 * (p["x"] ** 2).sum() - 2 * p["x"][0] * p["x"][1], {"x": np.zeros(2)})
    with scope(), pytest.raises(jn.ModelError, match="not positive definite"):
        linear_response(Target(read(saddle)), DiagonalGaussian(np.zeros(2), np.zeros(2)), seed=0)


def test_only_for_mean_field():
    model = jn.density(lambda p: -0.5 * (p["x"] ** 2).sum(), {"x": np.zeros(2)})
    with scope(), pytest.raises(jn.OptionError, match="full covariance already"):
        linear_response(Target(read(model)), DenseGaussian(np.zeros(2), np.eye(2)), seed=0)


def test_widths_that_respond_to_the_mean_are_counted():
    """Log density of (log s, x) with x ~ N(0, s): the Schur complement over the widths, against finite differences."""
    strength = 0.3

    def model(p):
        x, y = p["x"]
        return -0.5 * x**2 - 0.5 * y**2 - strength * jnp.exp(0.5 * x) * y

    def tilted(p, data):
        return model(p) + data["tilt"] @ p["x"]

    described = jn.density(tilted, {"x": np.zeros(2)}, data={"tilt": np.zeros(2)})
    found = jn.fit(described, "meanfield", correct=False).linear_response().q.cov
    # Tilting the log density by t * x_i moves the optimal mean by t * Cov[i, :].
    for i in range(2):
        ends = []
        for tilt in (0.02, -0.02):
            ends.append(jn.fit(described, "meanfield", data={"tilt": tilt * np.eye(2)[i]}, correct=False).q.mean)
        np.testing.assert_allclose((ends[0] - ends[1]) / 0.04, found[i], atol=0.02)


def test_does_not_depend_on_units():
    def model(p, data):
        z = p["x"] / data["unit"]
        return -0.5 * (z**2).sum() - 0.7 * z[0] * z[1] - 0.1 * jnp.exp(z[0])

    described = jn.density(model, {"x": np.zeros(2)}, data={"unit": np.ones(2)})
    covs = []
    for unit in (np.ones(2), np.array([1e4, 1e-4])):
        posterior = jn.fit(described, "meanfield", data={"unit": unit}, correct=False)
        covs.append(posterior.linear_response().q.cov / np.outer(unit, unit))
    np.testing.assert_allclose(covs[0], covs[1], rtol=1e-3)
