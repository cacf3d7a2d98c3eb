"""One-dimensional fits against quadrature: the Gaussian closest in KL, found by integrating KL itself."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize

import jensen as jn


def best_gaussian(log_p, start):
    """(mean, sd) that minimize KL(N(mean, sd) || p), for an unnormalized log density on the real line."""

    def kl(parameters):
        mean, sd = parameters[0], np.exp(parameters[1])

        def integrand(x):
            return np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) * log_p(mean + sd * x)

        return -parameters[1] - quad(integrand, -12, 12, epsabs=1e-12, epsrel=1e-12, limit=200)[0]

    found = minimize(kl, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 4000})
    return found.x[0], np.exp(found.x[1]), -found.fun + 0.5 * (1 + np.log(2 * np.pi))


CASES = {
    # name: log density of the model, support, the same on the real line in NumPy, start of the optimization
    "Student-t(3)": (
        lambda p: -2 * jnp.log1p(p["x"] ** 2 / 3),
        "real",
        lambda z: -2 * np.log1p(z**2 / 3),
        (0.1, 0.0),
    ),
    "Beta(1001, 2)": (
        lambda p: 1000 * jnp.log(p["x"]) + jnp.log1p(-p["x"]),
        "unit_interval",
        lambda z: -1001 * np.logaddexp(0, -z) - 2 * np.logaddexp(0, z),
        (6.0, 0.0),
    ),
    "Gamma(3)": (
        lambda p: 2 * jnp.log(p["x"]) - p["x"],
        "positive",
        lambda z: 3 * z - np.exp(z),
        (1.0, -0.5),
    ),
    "skewed": (
        lambda p: -p["x"] - jnp.exp(-p["x"]) - 0.05 * p["x"] ** 2,
        "real",
        lambda z: -z - np.exp(-z) - 0.05 * z**2,
        (0.5, 0.0),
    ),
    "logistic on an interval": (
        lambda p: 3 * p["x"],
        (-1.0, 2.0),
        lambda z: -3 + 9 / (1 + np.exp(-z)) - np.logaddexp(0, -z) - np.logaddexp(0, z),
        (1.0, 0.0),
    ),
}


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", ["fullrank", "meanfield"])
@pytest.mark.parametrize("name", CASES)
def test_the_gaussian_closest_in_kl(name, method):
    log_density, support, log_p, start = CASES[name]
    model = jn.density(log_density, {"x": 0.5}, support={"x": support})
    posterior = jn.fit(model, method)
    mean, sd, elbo = best_gaussian(log_p, start)
    assert posterior.run.status == "converged"
    assert (posterior.q.mean[0] - mean) / sd == pytest.approx(0, abs=1e-3)
    assert posterior.q.sd[0] / sd == pytest.approx(1, abs=1e-3)
    # The interval's constant log(width) is the transform's.
    width = np.log(support[1] - support[0]) if isinstance(support, tuple) else 0.0
    assert posterior.elbo.value == pytest.approx(elbo + width, abs=5 * posterior.elbo.error + 1e-6)


def test_the_lectures_density_through_the_logit_has_the_right_moments():
    """Beta(1001, 2): q itself is a little too wide, the corrected answer is within Monte-Carlo error."""
    from scipy.stats import beta

    log_density, support, *_ = CASES["Beta(1001, 2)"]
    model = jn.density(log_density, {"x": 0.5}, support={"x": support})
    posterior = jn.fit(model)
    exact = beta(1001, 2)
    assert (posterior.mean["x"] - exact.mean()) / exact.std() == pytest.approx(0, abs=0.1)
    if posterior.verdict.overall == "trusted":
        assert 0.8 < posterior.sd["x"] / exact.std() < 1.25
    assert (posterior.draws(500)["x"] > 0).all()
    assert (posterior.draws(500)["x"] < 1).all()


@pytest.mark.parametrize(
    ("shape", "rate"), [(1.0, 1.0), (0.5, 2.0), (0.2, 1.0), (30.0, 0.1)], ids=["exponential", "half", "spike", "tame"]
)
def test_corrected_gamma(shape, rate):
    model = jn.density(lambda p: (shape - 1) * jnp.log(p["x"]) - rate * p["x"], {"x": 1.0}, support={"x": "positive"})
    posterior = jn.fit(model)
    mean, sd = shape / rate, np.sqrt(shape) / rate
    assert (posterior.mean["x"] - mean) / sd == pytest.approx(0, abs=0.1)
    assert posterior.sd["x"] / sd == pytest.approx(1, abs=0.1)


HEAVY = {
    "Student-t(3)": (lambda p: -2 * jnp.log1p(p["x"] ** 2 / 3), "real", np.sqrt(3.0)),
    "inverse gamma(3)": (lambda p: -4 * jnp.log(p["x"]) - 1 / p["x"], "positive", 0.5),
}


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", ["auto", "fullrank"])
@pytest.mark.parametrize("name", HEAVY)
def test_the_sd_of_a_heavy_tail_is_right_or_not_trusted(name, method):
    """Constant weights over q say nothing of a tail that q does not reach."""
    log_density, support, sd = HEAVY[name]
    posterior = jn.fit(jn.density(log_density, {"x": 0.5}, support={"x": support}), method)
    assert posterior.verdict.words[0] != "trusted" or 0.8 < posterior.sd["x"] / sd < 1.25


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("cut", [1.0, 2.0])
def test_a_density_that_is_cut_off_is_right_or_not_trusted(cut):
    """N(0, I) restricted to x[0] > -cut by an indicator, as `numpyro.factor` with -inf does it."""
    from scipy.stats import truncnorm

    model = jn.density(lambda p: jnp.where(p["x"][0] > -cut, -0.5 * (p["x"] ** 2).sum(), -jnp.inf), {"x": np.zeros(3)})
    posterior = jn.fit(model)
    exact = truncnorm(-cut, np.inf)
    if posterior.verdict.words[0] == "trusted":
        assert (posterior.mean["x"][0] - exact.mean()) / exact.std() == pytest.approx(0, abs=0.1)
        assert posterior.sd["x"][0] / exact.std() == pytest.approx(1, abs=0.1)
    for word, mean, sd in zip(posterior.verdict.words[1:], posterior.mean["x"][1:], posterior.sd["x"][1:], strict=True):
        assert word != "trusted" or (abs(mean) < 0.1 and abs(sd - 1) < 0.1)
