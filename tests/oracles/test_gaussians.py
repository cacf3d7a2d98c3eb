"""Gaussian posteriors: means, sds and correlations exact, through the public `fit`."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import jensen as jn

CONDITION = 1e6


def _log_density(p, data):
    white = data["whitener"] @ (p["x"] - data["mean"])
    return -0.5 * white @ white


def ill_conditioned(dim):
    rng = np.random.default_rng(dim)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    sds = np.logspace(0, np.log10(CONDITION) / 2, dim)
    mean = 3 * rng.standard_normal(dim) * np.sqrt(rotation**2 @ sds**2)
    model = jn.density(_log_density, {"x": np.zeros(dim)}, data={"mean": mean, "whitener": (rotation / sds).T.copy()})
    return model, mean, (rotation * sds**2) @ rotation.T


def check(posterior, mean, cov, tolerance=1e-6):
    sd = np.sqrt(np.diagonal(cov))
    assert np.abs((posterior.mean["x"] - mean) / sd).max() < tolerance
    assert np.abs(posterior.sd["x"] / sd - 1).max() < tolerance
    assert np.abs((posterior.cov - cov) / np.outer(sd, sd)).max() < tolerance


@pytest.fixture(scope="module", params=[2, 50, 300])
def target(request):
    return ill_conditioned(request.param)


@pytest.mark.parametrize("method", ["fullrank", "auto"])
def test_means_sds_and_correlations_are_exact(target, method):
    model, mean, cov = target
    assert np.linalg.cond(cov) == pytest.approx(CONDITION, rel=1e-3)
    posterior = jn.fit(model, method)
    check(posterior, mean, cov)
    assert posterior.verdict.overall == "trusted"
    assert posterior.answer == "q"
    assert posterior.run.status == "converged"
    assert posterior.elbo.error < 1e-6  # the weights are constant
    dim = len(mean)
    evidence = 0.5 * (dim * np.log(2 * np.pi) + np.linalg.slogdet(cov)[1])
    assert posterior.elbo.value == pytest.approx(evidence, abs=1e-6 * dim)


def test_quantiles_are_those_of_normals(target):
    model, mean, cov = target
    table = jn.fit(model, "fullrank").summary()
    sd = np.sqrt(np.diagonal(cov))
    # From 4,096 antithetic draws: exact in the middle, Monte-Carlo error of 0.03 sd at 5% and 95%.
    np.testing.assert_allclose((table["50%"] - mean) / sd, 0, atol=0.1)
    np.testing.assert_allclose((table["95%"] - mean) / sd, 1.645, atol=0.15)
    np.testing.assert_allclose((table["5%"] - mean) / sd, -1.645, atol=0.15)


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("dim", [2, 50])
def test_mean_field_has_the_mean_and_linear_response_the_rest(dim):
    model, mean, cov = ill_conditioned(dim)
    posterior = jn.fit(model, "meanfield")
    assert "trusted" not in posterior.verdict.words
    assert np.abs((posterior.q.mean - mean) / np.sqrt(np.diagonal(cov))).max() < 1e-3
    conditional = 1 / np.sqrt(np.diagonal(np.linalg.inv(cov)))
    np.testing.assert_allclose(posterior.q.sd, conditional, rtol=1e-6)
    repaired = posterior.linear_response()
    sd = np.sqrt(np.diagonal(cov))
    assert np.abs((repaired.cov - cov) / np.outer(sd, sd)).max() < 1e-6
    assert repaired.verdict.overall == "trusted"


def test_float32_keeps_four_digits():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    sds = np.logspace(0, 1, 5)
    mean, cov = rng.standard_normal(5), (rotation * sds**2) @ rotation.T
    data = {"mean": mean, "whitener": (rotation / sds).T.copy()}
    model = jn.density(_log_density, {"x": np.zeros(5)}, data=data)
    check(jn.fit(model, "fullrank", precision="float32"), mean, cov, 1e-4)


def test_linear_regression_with_a_conjugate_answer():
    """y ~ N(X beta, sd known), beta ~ N(0, 10): posterior precision X'X / sd^2 + I / 100."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 4)) + np.array([5.0, 0, 0, 0])  # an uncentered column, nearly an intercept
    X[:, 3] = 1
    y = X @ [1.0, -2.0, 0.5, 3.0] + 0.7 * rng.standard_normal(80)

    def model(X, y):
        beta = numpyro.sample("beta", dist.Normal(0, 10).expand([4]).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(X @ beta, 0.7), obs=y)

    cov = np.linalg.inv(X.T @ X / 0.49 + np.eye(4) / 100)
    mean, sd = cov @ X.T @ y / 0.49, np.sqrt(np.diagonal(cov))
    posterior = jn.fit(model, data={"X": X, "y": y})
    np.testing.assert_allclose((posterior.mean["beta"] - mean) / sd, 0, atol=1e-6)
    np.testing.assert_allclose(posterior.cov / np.outer(sd, sd), cov / np.outer(sd, sd), atol=1e-6)
    marginal = np.eye(80) * 0.49 + 100 * X @ X.T
    evidence = -0.5 * (y @ np.linalg.solve(marginal, y) + np.linalg.slogdet(2 * np.pi * marginal)[1])
    assert posterior.elbo.value == pytest.approx(evidence, abs=1e-6)


def test_regression_with_unknown_scale_has_student_margins():
    """Flat coefficients and p(log s) flat: beta is Student-t with N - 3 degrees, s^2 inverse gamma."""
    rng = np.random.default_rng(1)
    X = np.column_stack([np.ones(30), rng.standard_normal((30, 2))])
    y = X @ [1.0, 2.0, -1.0] + rng.standard_normal(30)

    def log_density(p, data):
        residual = data["y"] - data["X"] @ p["beta"]
        return -0.5 * (residual**2).sum() / p["s"] ** 2 - (len(data["y"]) + 1) * jnp.log(p["s"])

    model = jn.density(log_density, {"beta": np.zeros(3), "s": 1.0}, support={"s": "positive"}, data={"X": X, "y": y})
    posterior = jn.fit(model)
    beta, (sum_of_squares,), *_ = np.linalg.lstsq(X, y, rcond=None)
    free = 27
    cov = np.linalg.inv(X.T @ X) * sum_of_squares / (free - 2)
    sd = np.sqrt(np.diagonal(cov))
    np.testing.assert_allclose((posterior.mean["beta"] - beta) / sd, 0, atol=0.05)
    np.testing.assert_allclose(posterior.sd["beta"] / sd, 1, atol=0.05)
    from scipy.stats import invgamma

    variance = invgamma(free / 2, scale=sum_of_squares / 2)
    scales = np.sqrt(variance.rvs(200_000, random_state=0))
    assert (posterior.mean["s"] - scales.mean()) / scales.std() == pytest.approx(0, abs=0.05)
    assert posterior.sd["s"] / scales.std() == pytest.approx(1, abs=0.05)
    assert posterior.verdict.overall == "trusted"
