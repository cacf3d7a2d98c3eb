"""Flat priors against least squares and quadrature; improper posteriors are refused; naturals and remembered programs."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import integrate
from tests.conjugacy.checks import all_moments

import jensen as jn
from jensen.conjugate import blocks
from jensen.conjugate.explain import certified
from jensen.core.errors import ImproperError, OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.models.read import read


def flat(name, *shape):
    return numpyro.sample(name, dist.ImproperUniform(constraints.real, (), shape))


def line(X, y):
    b = flat("b", X.shape[1])
    s = numpyro.sample("s", dist.HalfNormal(2.0))
    numpyro.sample("y", dist.Normal(X @ b, s), obs=y)


def columns(x):
    mu = flat("mu", x.shape[1])
    sd = numpyro.sample("sd", dist.HalfNormal(np.ones(x.shape[1])).to_event(1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("x", dist.Normal(mu, sd).to_event(1), obs=x)


def multilevel(g, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    s = numpyro.sample("s", dist.HalfCauchy(5.0))
    a = numpyro.sample("a", dist.Normal(mu, tau).expand([30]).to_event(1))
    numpyro.sample("y", dist.Normal(a[g], s), obs=y)


def _line(seed=0):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(300), rng.normal(size=(300, 2))])
    return dict(X=X, y=X @ [1.0, -2.0, 0.5] + 0.7 * rng.normal(size=300))


def _groups(seed=0):
    rng = np.random.default_rng(seed)
    g = np.arange(300) % 30
    return dict(g=g, y=1.0 + 0.5 * rng.normal(size=30)[g] + rng.normal(size=300))


def test_regression_is_least_squares():
    data = _line()
    q = jn.fit(line, "cavi", data=data, correct=False).q
    X, y = data["X"], data["y"]
    best = np.linalg.lstsq(X, y, rcond=None)[0]
    np.testing.assert_allclose(q.means["b"], best, rtol=1e-8)
    # b integrated out: p(s | y) is 2 HalfNormal(s) s^-(n - p) exp(-S / 2 s^2)
    S, free = ((y - X @ best) ** 2).sum(), len(y) - X.shape[1]
    s = np.linspace(0.5, 1.0, 4001)
    log = -free * np.log(s) - 0.5 * S / s**2 - s**2 / 8
    p = np.exp(log - log.max())
    variance = integrate.trapezoid(p * s**2, s) / integrate.trapezoid(p, s)
    exact = np.sqrt(variance * np.diag(np.linalg.inv(X.T @ X)))
    np.testing.assert_allclose(q.sds["b"], exact, rtol=0.02)


def test_columns_with_vector_scales():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 5)) * np.arange(1, 6) * 0.3 + np.arange(5)
    posterior = jn.fit(columns, "cavi", data=dict(x=x))
    np.testing.assert_allclose(posterior.q.means["mu"], x.mean(0), rtol=1e-10)
    for d in range(5):
        S, s = ((x[:, d] - x[:, d].mean()) ** 2).sum(), x[:, d].std() * np.linspace(0.7, 1.4, 4001)
        log = -(len(x) - 1) * np.log(s) - 0.5 * S / s**2 - 0.5 * s**2
        p = np.exp(log - log.max())
        mean = integrate.trapezoid(p * s, s) / integrate.trapezoid(p, s)
        np.testing.assert_allclose(posterior.q.means["sd"][d], mean, rtol=2e-3)
    assert posterior.verdict.overall == "trusted"


def test_pymc_flat():
    pm = pytest.importorskip("pymc")
    data = _line()
    with pm.Model() as model:
        b = pm.Flat("b", shape=3)
        s = pm.HalfNormal("s", 2.0)
        pm.Normal("y", pm.math.dot(data["X"], b), s, observed=data["y"])
    q = jn.fit(model, "cavi", correct=False).q
    np.testing.assert_allclose(q.means["b"], np.linalg.lstsq(data["X"], data["y"], rcond=None)[0], rtol=1e-8)


def two(y):
    a, b, s = flat("a"), flat("b"), numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(a + b, s), obs=y)


def unread(y):
    a, s = flat("a", 3), numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(a[0] + 2 * a[1], s), obs=y)


def read_by_nothing(y):
    flat("a", 3)
    numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0), obs=y)


def hierarchy(y):
    """The mean of effects without data."""
    mu = flat("mu")
    a = numpyro.sample("a", dist.Normal(mu, 1.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(b + 0.0 * a, s), obs=y)


@pytest.mark.parametrize("model", [two, unread, read_by_nothing, hierarchy])
def test_improper_posteriors_are_refused(model):
    with pytest.raises(ImproperError, match="improper"):
        jn.fit(model, "cavi", data=dict(y=np.random.default_rng(0).normal(size=50)))


def test_flat_sites_are_not_split():
    with pytest.raises(OptionError, match="a has a flat prior"):
        jn.fit(two, data=dict(y=np.arange(9.0)), method="cavi", family=jn.Blocks(("a",), ("b",)))


def mixture(y):
    mu = flat("mu", 2)
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(np.array([0.4, 0.6])))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def logistic(y):
    b = flat("b")
    numpyro.sample("y", dist.Bernoulli(logits=b * np.ones(len(y))), obs=y)


@pytest.mark.parametrize("model", [mixture, logistic])
def test_flat_where_nothing_is_proved(model):
    with pytest.raises(UnsupportedError, match="flat prior"):
        jn.fit(model, "cavi", data=dict(y=(np.arange(20) % 2).astype(float)))


def test_naturals_are_the_gradient():
    with scope("float64"):
        plan, _ = certified(read(multilevel, _groups()))
        block = plan.layout.block["a"]
        assert set(plan.energy.naturals) == {block}
        families = blocks.start(plan, np.random.default_rng(3))
        moments = all_moments(families)

        @jax.jit
        def both(energy, moments):
            gradient = jax.grad(lambda own: energy(moments | {block: own}))(moments[block])
            return families[block].from_gradient(gradient, moments[block]), energy.naturals[block](moments)

        slow, natural = both(plan.energy, moments)
        fast = families[block].from_natural(*natural)
    np.testing.assert_allclose(fast.precision, slow.precision, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(fast.h, slow.h, rtol=1e-9, atol=1e-9)


def test_given_is_the_energy_of_a_scale():
    with scope("float64"):
        plan, _ = certified(read(multilevel, _groups()))
        families = blocks.start(plan, np.random.default_rng(3))
        moments = all_moments(families)
        given, own = plan.energy.given(moments, "tau"), moments["tau"]
        other = {"mean": own["mean"] + 0.3, "cov": own["cov"] * 1.7}
        exact = plan.energy(moments | {"tau": other}) - plan.energy(moments)
        np.testing.assert_allclose(given(other) - given(own), exact, rtol=1e-9)
        point = {"mean": own["mean"] - 0.2, "cov": 0.0 * own["cov"]}
        np.testing.assert_allclose(given.at(point["mean"]).sum(), given(point), rtol=1e-9)


def test_second_fit_compiles_nothing_and_proves_everything():
    record = read(multilevel, _groups())
    first = jn.fit(multilevel, "cavi", data=_groups())
    programs = dict(record.graph().programs)
    second = jn.fit(multilevel, "cavi", data=_groups(1))
    assert dict(record.graph().programs) == programs
    fresh = jn.fit(lambda g, y: multilevel(g, y), "cavi", data=_groups(1))
    np.testing.assert_allclose(second.mean["a"], fresh.mean["a"], atol=1e-4)
    assert not np.allclose(first.mean["a"], second.mean["a"])
