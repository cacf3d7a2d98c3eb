"""Conjugacy of plain log densities: the same as of the same models in NumPyro, and what is more than distributions is refused."""

import threading

import jax
import jax.numpy as jnp
import jax.scipy.stats as stats
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import jensen as jn
from jensen.core.errors import UnsupportedError
from jensen.models.read import read
from jensen.models.recorded import recording


def _regression_data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    return {"X": X, "y": X @ np.array([1.0, 0.0, -1.0]) + rng.normal(size=200)}


def regression(X, y):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([3]).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(2, 1))
    numpyro.sample("y", dist.Normal(X @ b, tau**-0.5), obs=y)


def regression_density(p, data):
    return (
        dist.Normal(0, 10).log_prob(p["b"]).sum()
        + dist.Gamma(2, 1).log_prob(p["tau"])
        + dist.Normal(data["X"] @ p["b"], p["tau"] ** -0.5).log_prob(data["y"]).sum()
    )


def scipy_density(p, data):
    return (
        stats.norm.logpdf(p["b"], 0, 10).sum()
        + stats.gamma.logpdf(p["tau"], 2)
        + stats.norm.logpdf(data["y"], data["X"] @ p["b"], scale=1 / jnp.sqrt(p["tau"])).sum()
        + 2.5
    )


def described(function, **support):
    init = {"b": np.zeros(3), "tau": 1.0}
    return jn.density(function, init, support=support or {"tau": "positive"}, data=_regression_data())


def multilevel(g, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    between = numpyro.sample("between", dist.Gamma(2.0, 1.0))
    within = numpyro.sample("within", dist.Gamma(2.0, 1.0))
    a = numpyro.sample("a", dist.Normal(mu, between**-0.5).expand([8]).to_event(1))
    numpyro.sample("y", dist.Normal(jnp.take(a, g), within**-0.5), obs=y)


def multilevel_prior(p):
    return (
        dist.Normal(p["mu"], p["between"] ** -0.5).expand([8]).to_event(1).log_prob(p["a"])
        + dist.Normal(0.0, 5.0).log_prob(p["mu"])
        + sum(dist.Gamma(2.0, 1.0).log_prob(p[name]) for name in ("between", "within"))
    )


def multilevel_rows(p, data):
    return dist.Normal(p["a"][data["g"]], p["within"] ** -0.5).log_prob(data["y"])


def _elbo(model, **data):
    return jn.fit(model, "cavi", correct=False, **data).run.history["elbo"][-1]


def test_regression_is_that_of_numpyro_and_a_constant_is_added():
    twin = _elbo(regression, data=_regression_data())
    assert _elbo(described(jax.jit(scipy_density))) == pytest.approx(twin + 2.5, rel=1e-8)
    found = jn.conjugacy(described(regression_density))
    assert [(f.site, f.update, f.family) for f in found.findings] == [
        ("b", "exact", "Gaussian"),
        ("tau", "exact", "Gamma"),
    ]


def test_multilevel_model_with_its_rows_apart_is_that_of_numpyro():
    rng = np.random.default_rng(1)
    g = np.arange(80) % 8
    data = {"g": g, "y": 1.0 + rng.normal(size=8)[g] + 0.5 * rng.normal(size=80)}
    init = {"mu": 0.0, "between": 1.0, "within": 1.0, "a": np.zeros(8)}
    positive = {"between": "positive", "within": "positive"}
    model = jn.density(multilevel_prior, init, support=positive, data=data, log_likelihood=multilevel_rows)
    assert _elbo(model) == pytest.approx(_elbo(multilevel, data=data), rel=1e-8)


@pytest.mark.slow
def test_a_prior_by_parts_and_none_are_flat_with_factors():
    """A random walk's slices are no parameter; the posterior mean is that of the joint Gaussian by linear algebra."""
    y = np.array([1.0, -0.5, 2.0, 0.3])

    def walk(p, data):
        x = p["x"]
        steps = dist.Normal(x[:-1], 1.0).log_prob(x[1:]).sum()
        return steps + dist.Normal(0.0, 2.0).log_prob(x[0]) + dist.Normal(x, 0.5).log_prob(data["y"]).sum()

    posterior = jn.fit(jn.density(walk, {"x": np.zeros(4)}, data={"y": y}), "cavi", correct=False)
    steps = np.diff(np.eye(4), axis=0)
    precision = steps.T @ steps + np.diag([0.25, 0.0, 0.0, 0.0]) + 4.0 * np.eye(4)
    np.testing.assert_allclose(posterior.mean["x"], np.linalg.solve(precision, 4.0 * y), atol=1e-8)


REFUSED = {
    "own term": (lambda p, d: regression_density(p, d) - 1e-6 * p["b"][0] ** 2, "terms in b outside of distributions"),
    "own step": (lambda p, d: regression_density(p, d) + jnp.where(p["tau"] > 0.9, 1.0, 0.0), "outside of"),
    "tempered": (lambda p, d: 0.5 * regression_density(p, d), "0.5 times"),
    "added as arrays": (
        lambda p, d: (dist.Normal(0, 10).log_prob(p["b"]) + dist.Gamma(2, 1).log_prob(p["tau"])).sum(),
        r"tau \(Gamma\) 3 times",
    ),
    "mixture by hand": (
        lambda p, d: jnp.logaddexp(regression_density(p, d), stats.norm.logpdf(p["b"]).sum()),
        "in another way than by a sum",
    ),
    "within vmap": (
        lambda p, d: (
            scipy_density(p, d) + jax.vmap(lambda x, y: stats.norm.logpdf(y, x @ p["b"]))(d["X"], d["y"]).sum()
        ),
        "inside of a jax.vmap",
    ),
    "no prior": (lambda p, d: stats.norm.logpdf(p["b"]).sum(), "tau is declared positive, and no distribution"),
    "by hand": (lambda p, d: -(p["b"] ** 2).sum() - p["tau"], "calls no distributions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_a_sum_of_distributions_is_refused(name):
    function, words = REFUSED[name]
    with pytest.raises(UnsupportedError, match=words):
        jn.fit(described(function), "cavi")


@pytest.mark.parametrize(
    ("support", "words"),
    [
        ({"b": "real"}, "tau is declared real, but its prior Gamma is on the support positive"),
        ({"tau": "positive", "b": "positive"}, "b is declared positive, but its prior Normal is on the support real"),
        ({"tau": (0.0, 3.0)}, r"tau is declared \(0.0, 3.0\), but its prior Gamma"),
    ],
)
def test_supports_that_disagree_are_refused(support, words):
    with pytest.raises(UnsupportedError, match=words):
        jn.conjugacy(described(regression_density, **support))


def test_recording_ends_with_its_block_and_is_the_thread_s_own():
    before = dist.Normal.log_prob, stats.norm.logpdf
    normal, seen = dist.Normal(0.0, 1.0), []

    def other():
        with recording() as calls:
            normal.log_prob(1.0)
        seen.append(len(calls))

    def broken():
        with recording():
            threads[0].start()
            threads[0].join()
            stats.norm.logpdf(jnp.ones(2), jnp.ones(3))

    threads = [threading.Thread(target=other)]
    with pytest.raises(TypeError):
        broken()
    assert seen == [1]
    assert (dist.Normal.log_prob, stats.norm.logpdf) == before


def test_a_density_by_hand_has_no_graph():
    assert read(described(lambda p, d: -(p["b"] ** 2).sum() - p["tau"])).graph is None
