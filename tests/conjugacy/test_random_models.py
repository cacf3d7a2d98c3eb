"""Random small models: an energy that passes the certificate is E_q[log p], by Monte Carlo over random q."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpyro import plate, sample
from tests.conjugacy.checks import expectation, make, monte_carlo, passes, random_start

ROWS = 7

MEANS = ("gather", "matmul", "sum", "plain", "product", "square", "exp")
SPREADS = ("fixed", "precision", "variance", "gathered", "scaled", "product", "sd")
LIKELIHOODS = ("normal", "poisson", "bernoulli", "gamma")


@st.composite
def recipes(draw):
    """What a model is made of: for each Normal site its mean and spread, whether there are levels, and the likelihood."""
    sites = draw(st.lists(st.tuples(st.sampled_from(MEANS), st.sampled_from(SPREADS)), min_size=1, max_size=2))
    return {
        "seed": draw(st.integers(0, 1000)),
        "sites": sites,
        "levels": draw(st.sampled_from(("none", "mean", "precision"))),
        "likelihood": draw(st.sampled_from(LIKELIHOODS)),
        "observed": (draw(st.sampled_from(MEANS)), draw(st.sampled_from(SPREADS))),
    }


def build(recipe):
    """The NumPyro model and its data."""
    rng = np.random.default_rng(recipe["seed"])
    gathers = rng.integers(0, 3, (8, ROWS))
    matrices = rng.standard_normal((8, ROWS, 3))

    def mean(word, site, number, size):
        if site is None:
            return 0.3 * number
        if word == "gather":
            return 2.0 * site[gathers[number, :size]] - 0.5
        if word == "matmul":
            return matrices[number, :size] @ site
        if word == "sum":
            return site.sum() + site[gathers[number, :size]]
        if word == "product":
            return site[0] * site[1]
        if word == "square":
            return site[gathers[number, :size]] ** 2
        return jnp.exp(site[0]) if word == "exp" else site[0]

    def scale(word, name, size):
        if word == "fixed":
            return 0.7
        if word == "variance":
            return jnp.sqrt(2.0 * sample(name, dist.InverseGamma(3.0, 1.5)))
        tau = sample(name, dist.Gamma(3.0, 2.0).expand([3]))
        if word == "precision":
            return tau[0] ** -0.5
        if word == "gathered":
            return 1 / jnp.sqrt(tau[gathers[7, :size]])
        if word == "scaled":
            return (tau[1] * jnp.arange(1.0, size + 1)) ** -0.5
        return (tau[0] * tau[1]) ** -0.5 if word == "product" else tau[2]

    def model(y):
        site = None
        for number, (loc, spread) in enumerate(recipe["sites"]):
            means = mean(loc, site, number, 3)
            site = sample(f"x{number}", dist.Normal(means, scale(spread, f"s{number}", 3)).expand([3]))
        z = None
        if recipe["levels"] != "none":
            p = sample("p", dist.Dirichlet(jnp.array([1.0, 2.0])))
            with plate("rows", ROWS):
                z = sample("z", dist.Categorical(p))
        word, spread = recipe["observed"]
        loc, likelihood = mean(word, site, 5, ROWS), recipe["likelihood"]
        if likelihood == "normal":
            sd = scale(spread, "s", ROWS)
            if recipe["levels"] == "mean":
                loc = loc + sample("m", dist.Normal(0.0, 1.0).expand([2]))[z]
            elif recipe["levels"] == "precision":
                sd = sample("t", dist.Gamma(2.0, 1.0).expand([2]))[z] ** -0.5
            sample("y", dist.Normal(loc, sd), obs=y)
            return
        sample("link", dist.Normal(loc, 1.0), obs=0.3 * jnp.ones(ROWS))
        size = [2] if z is not None else [3]
        pick = z if z is not None else gathers[6]
        if likelihood == "bernoulli":
            sample("y", dist.Bernoulli(sample("r", dist.Beta(2.0, 1.0).expand(size))[pick]), obs=y)
        else:
            rate = sample("r", dist.Gamma(2.0, sample("h", dist.Gamma(2.0, 1.0))).expand(size))[pick]
            sample("y", dist.Poisson(rate) if likelihood == "poisson" else dist.Gamma(3.0, 2.0 * rate), obs=y)

    y = {
        "normal": rng.standard_normal(ROWS),
        "poisson": rng.poisson(2.0, ROWS),
        "bernoulli": rng.integers(0, 2, ROWS),
        "gamma": rng.gamma(2.0, 1.0, ROWS),
    }[recipe["likelihood"]]
    return model, {"y": y}


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(recipes())
def test_energy_is_the_expectation(recipe):
    model, data = build(recipe)
    found = make(model, data)
    if found.energy is None:
        assert found.refusal
        return
    bent = {"product", "sd"} & {spread for _, spread in (*recipe["sites"], recipe["observed"])}
    assert passes(found, data) or bent or "product" in {loc for loc, _ in recipe["sites"]}
    if not passes(found, data):
        return
    q = random_start(found, recipe["seed"])
    mean, error = monte_carlo(found, data, q)
    assert abs(expectation(found, q) - mean) < 5 * error
