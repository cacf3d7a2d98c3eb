"""Generalized linear and hierarchical models against long, independent computations in NumPy."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import jensen as jn


def importance_moments(log_p, center, cov, n=400_000, seed=0):
    """Mean and sd of an unnormalized log density (vectorized), by importance sampling from a wide Student-t(5)."""
    rng = np.random.default_rng(seed)
    dim = len(center)
    factor = np.linalg.cholesky(1.3 * cov)
    noise = rng.standard_normal((n, dim)) / np.sqrt(rng.chisquare(5, size=(n, 1)) / 5)
    z = center + noise @ factor.T
    log_w = log_p(z) + 0.5 * (5 + dim) * np.log1p((noise**2).sum(1) / 5)
    weights = np.exp(log_w - log_w.max())
    weights /= weights.sum()
    assert 1 / (weights**2).sum() > 20_000  # effective draws: the reference is good to 0.01 sd
    mean = weights @ z
    return mean, np.sqrt(weights @ (z - mean) ** 2)


@pytest.fixture(scope="module")
def logistic():
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(50), rng.standard_normal((50, 2))])
    y = (rng.uniform(size=50) < 1 / (1 + np.exp(-X @ [-1.0, 2.0, 0.5]))).astype(int)

    def model(X, y=None):
        beta = numpyro.sample("beta", dist.Normal(0, 3).expand([X.shape[1]]).to_event(1))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Bernoulli(logits=X @ beta), obs=y)

    def log_p(z):
        logits = z @ X.T
        return (y * logits - np.logaddexp(0, logits)).sum(1) - 0.5 * (z**2).sum(1) / 9

    return model, {"X": X, "y": y}, log_p


@pytest.mark.parametrize("seed", [0, 1])
def test_logistic_regression(logistic, seed):
    model, data, log_p = logistic
    posterior = jn.fit(model, data=data, seed=seed)
    mean, sd = importance_moments(log_p, posterior.q.mean, np.asarray(posterior.q.cov))
    assert posterior.verdict.overall == "trusted"
    np.testing.assert_allclose((posterior.mean["beta"] - mean) / sd, 0, atol=0.06)
    np.testing.assert_allclose(posterior.sd["beta"] / sd, 1, atol=0.1)  # what "trusted" promises, and a little


def test_elbo_is_below_the_evidence_and_close(logistic):
    model, data, log_p = logistic
    posterior = jn.fit(model, "fullrank", data=data)
    rng = np.random.default_rng(0)
    z = posterior.q.sample(rng, 200_000)
    norm = -1.5 * np.log(2 * np.pi * 9)
    log_w = log_p(z) + norm - posterior.q.log_prob(z)
    evidence = log_w.max() + np.log(np.exp(log_w - log_w.max()).mean())
    assert posterior.elbo.value < evidence + 3 * posterior.elbo.error
    assert posterior.elbo.value > evidence - 0.3


def test_new_data_of_the_same_shape_gets_the_right_answer(logistic):
    """Swapped labels mirror the answer: nothing of the first fit is left in the program."""
    model, data, _ = logistic
    one = jn.fit(model, "fullrank", data=data)
    other = jn.fit(model, "fullrank", data={"X": data["X"], "y": 1 - data["y"]})
    np.testing.assert_allclose(other.q.mean, -one.q.mean, atol=0.02 * one.q.sd.max())
    np.testing.assert_allclose(other.q.sd, one.q.sd, rtol=0.02)


def test_poisson_regression_with_an_offset():
    rng = np.random.default_rng(5)
    x, exposure = rng.standard_normal(40), rng.uniform(1, 5, 40)
    y = rng.poisson(exposure * np.exp(0.3 + 0.8 * x))

    def model(x, exposure, y):
        a = numpyro.sample("a", dist.Normal(0, 2))
        b = numpyro.sample("b", dist.Normal(0, 2))
        numpyro.sample("y", dist.Poisson(exposure * jnp_exp(a + b * x)), obs=y)

    def jnp_exp(value):
        import jax.numpy as jnp

        return jnp.exp(value)

    def log_p(z):
        logits = z[:, :1] + z[:, 1:] * x
        return (y * logits - exposure * np.exp(logits)).sum(1) - 0.5 * (z**2).sum(1) / 4

    posterior = jn.fit(model, data={"x": x, "exposure": exposure, "y": y})
    mean, sd = importance_moments(log_p, posterior.q.mean, np.asarray(posterior.q.cov))
    got = np.array([posterior.mean["a"], posterior.mean["b"]])
    np.testing.assert_allclose((got - mean) / sd, 0, atol=0.06)
    np.testing.assert_allclose(np.array([posterior.sd["a"], posterior.sd["b"]]) / sd, 1, atol=0.06)


def test_normal_with_unknown_mean_and_scale_pointwise():
    """Pointwise log-likelihood equals the hand-computed one, at the posterior's own draws."""
    y = np.array([1.0, 2.5, -0.5, 3.0])

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        sigma = numpyro.sample("sigma", dist.HalfNormal(2))
        with numpyro.plate("rows", len(y)), numpyro.handlers.scale(scale=2.5):
            numpyro.sample("y", dist.Normal(mu, sigma), obs=y)

    posterior = jn.fit(model, data={"y": y})
    draws = posterior.draws(300)
    mu, sigma = draws["mu"][:, None], draws["sigma"][:, None]
    by_hand = -0.5 * ((y - mu) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)
    # Unscaled, although the model multiplies the likelihood by 2.5.
    np.testing.assert_allclose(posterior.log_likelihood(300)["y"], by_hand, rtol=1e-10, atol=1e-10)


def test_scaled_likelihoods_count_as_often_as_they_say():
    y = np.array([1.0, 2.0, 0.5])

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.handlers.scale(scale=3.0):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    posterior = jn.fit(model, data={"y": y})
    precision = 1 / 25 + 3 * len(y)
    assert posterior.mean["mu"] == pytest.approx(3 * y.sum() / precision, abs=1e-6)
    assert posterior.sd["mu"] == pytest.approx(precision**-0.5, rel=1e-6)


def test_masked_rows_do_not_count():
    y = np.array([1.0, 99.0, 2.0])

    def model(y, keep):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.handlers.mask(mask=keep):
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    posterior = jn.fit(model, data={"y": y, "keep": np.array([True, False, True])})
    precision = 1 / 25 + 2
    assert posterior.mean["mu"] == pytest.approx(3 / precision, abs=1e-6)
    assert posterior.sd["mu"] == pytest.approx(precision**-0.5, rel=1e-6)


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
def test_non_centered_eight_schools_agrees_with_the_reference():
    from posteriors.load import load
    from posteriors.score import score

    _, data, reference = load("eight_schools_centered")

    def model(y, sigma):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        tau = numpyro.sample("tau", dist.HalfCauchy(5))
        with numpyro.plate("school", len(y)):
            raw = numpyro.sample("raw", dist.Normal(0, 1))
            theta = numpyro.deterministic("theta", mu + tau * raw)
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

    posterior = jn.fit(model, data=data)
    scored = score(posterior.mean, posterior.sd, reference)
    by_name = dict(zip(posterior.verdict.names, posterior.verdict.words, strict=True))
    trusted = np.array([by_name[column] == "trusted" for column in scored.columns])
    assert trusted.mean() >= 0.8
    assert np.abs(scored.mean_error[trusted]).max() <= 0.10
    assert (np.abs(np.log(scored.sd_ratio[trusted])) <= 0.12).all()
