"""Changes of order and sign are found from values of the density, and answers spread over all copies are those of quadrature."""

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import jax.scipy.stats as stats
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.diagnostics import modes
from jensen.diagnostics.symmetries import find
from jensen.models.read import read
from jensen.models.target import Target

RNG = np.random.default_rng(3)


def found(model, data=None, precision="float64"):
    """What is said of each symmetry."""
    with scope(precision):
        target = Target(read(model, data, precision), precision)
        rng = np.random.default_rng(0)
        return [str(one) for one in find(target, 0.5 * rng.normal(size=(32, target.dim)), rng)]


def mixture(y, K):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([K]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(2).expand([K]).to_event(1))
    kinds = dist.Normal(mu, s)
    numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(w), kinds).expand([len(y)]).to_event(1), obs=y)


def test_components_of_a_mixture_change_places():
    data = {"y": RNG.normal(size=20), "K": 3}
    assert found(mixture, data) == ["the 3 elements along w, mu and s change places"]
    assert found(mixture, data, "float32") == []


def test_simplexes_of_pymc_change_places_too():
    pm = pytest.importorskip("pymc")
    with pm.Model() as model:
        w, mu = pm.Dirichlet("w", np.ones(3)), pm.Normal("mu", 0, 5, shape=3)
        pm.NormalMixture("y", w, mu, sigma=1, observed=RNG.normal(size=20))
    assert found(model) == ["the 3 elements along w and mu change places"]


def test_states_of_a_chain_change_places_along_rows_and_columns():
    def chain(y):
        moves = numpyro.sample("moves", dist.Dirichlet(jnp.ones((3, 3))).to_event(1))
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([3]).to_event(1))
        levels = stats.norm.logpdf(y[:, None], mu)
        log_p = levels[0]
        for level in levels[1:]:
            log_p = special.logsumexp(log_p[:, None] + jnp.log(moves), 0) + level
        numpyro.factor("y", special.logsumexp(log_p))

    said = found(chain, {"y": RNG.normal(size=6)})
    assert said == ["the 3 elements along axis 0 of moves, axis 1 of moves and mu change places"]


def test_units_of_a_network_change_places_and_signs():
    def network(X, y):
        inner = numpyro.sample("inner", dist.Normal(0, 1).expand([2, 4]).to_event(2))
        outer = numpyro.sample("outer", dist.Normal(0, 1).expand([4]).to_event(1))
        numpyro.sample("y", dist.Normal(jnp.tanh(X @ inner) @ outer, 0.5).to_event(1), obs=y)

    assert found(network, {"X": RNG.normal(size=(9, 2)), "y": RNG.normal(size=9)}) == [
        "the 4 elements along axis 1 of inner and outer change places",
        "elements along axis 1 of inner and outer change sign",
    ]


def test_regressions_and_groups_with_data_have_none():
    def line(x, y):
        b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
        group = numpyro.sample("group", dist.Normal(0, 1).expand([5]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ b + group, 1).to_event(1), obs=y)

    assert found(line, {"x": RNG.normal(size=(5, 2)), "y": RNG.normal(size=5)}) == []


Y = np.concatenate([RNG.normal(-1.5, 1, 15), RNG.normal(2, 1, 25)])


def two_means(p):
    rows = jnp.logaddexp(stats.norm.logpdf(Y, p["mu"][0]), stats.norm.logpdf(Y, p["mu"][1]))
    return stats.norm.logpdf(p["mu"], 0, 5).sum() + rows.sum()


def a_product(p):
    prior = stats.norm.logpdf(p["a"], 0, 2) + stats.norm.logpdf(p["b"], 0, 1)
    return prior + stats.norm.logpdf(2.0, p["a"] * p["b"], 0.3)


def quadrature(density, names):
    """Means and sds of two coordinates."""
    axis = np.linspace(-9, 9, 271)
    a, b = (side.ravel() for side in np.meshgrid(axis, axis, indexing="ij"))
    points = {"mu": np.stack([a, b], 1)} if names == ["mu"] else dict(zip(names, (a, b), strict=True))
    log_p = np.asarray(jax.jit(jax.vmap(density))(points))
    p = np.exp(log_p - log_p.max())
    mean = [(p * side).sum() / p.sum() for side in (a, b)]
    return np.array(mean), np.sqrt(
        [(p * (side - m) ** 2).sum() / p.sum() for side, m in zip((a, b), mean, strict=True)]
    )


@pytest.mark.parametrize(
    ("density", "start", "said"),
    [
        (two_means, {"mu": np.array([-1.0, 1.0])}, "the 2 elements along mu change places"),
        (a_product, {"a": 1.0, "b": 1.0}, "a and b change sign"),
    ],
)
def test_answers_are_spread_over_all_copies(density, start, said, monkeypatch):
    monkeypatch.setattr(modes, "worth_searching", lambda *_: False)
    posterior = jn.fit(jn.density(density, start), progress=False)
    with scope():
        mean, sd = quadrature(density, list(start))
    np.testing.assert_allclose(
        np.concatenate([np.ravel(x) for x in posterior.mean.values()]), mean, atol=0.05 * sd.max()
    )
    np.testing.assert_allclose(np.concatenate([np.ravel(x) for x in posterior.sd.values()]), sd, rtol=0.05)
    assert posterior.verdict.overall == "trusted"
    assert said in str(posterior.verdict)
    assert posterior.answer == "corrected"


def test_a_named_method_is_told_that_it_describes_one_copy():
    with pytest.warns(jn.FitWarning, match="describes some of these copies only"):
        posterior = jn.fit(jn.density(two_means, {"mu": np.array([-1.0, 1.0])}), "fullrank", progress=False)
    assert abs(np.diff(posterior.mean["mu"])[0]) > 2
    assert set(posterior.verdict.words) == {"do not use"}


def test_without_correction_q_is_judged_and_not_spread():
    with pytest.warns(jn.FitWarning, match="describes some of these copies only"):
        posterior = jn.fit(jn.density(two_means, {"mu": np.array([-1.0, 1.0])}), correct=False, progress=False)
    assert posterior.answer == "q"


def test_answers_that_are_the_same_already_stay_as_they_are():
    """Coordinates without data change places and signs, and nothing is made of it."""

    def apart(x):
        numpyro.sample("z", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("x", dist.Normal(numpyro.sample("mu", dist.Normal(0, 1)), 1), obs=x)

    assert len(found(apart, {"x": 1.0})) == 2
    posterior = jn.fit(apart, data={"x": 1.0}, progress=False)
    assert posterior.answer == "q"
    assert "change" not in str(posterior.verdict)
