"""Conjugacy of plain log densities: the same as of the same models in NumPyro, and what is more than distributions is refused."""

import threading

import jax
import jax.numpy as jnp
import jax.scipy.stats as stats
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal

import jensen as jn
from jensen.core.errors import UnsupportedError
from jensen.models.harvest import sown
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


def _prior(p):
    return dist.Gamma(2, 1).log_prob(p["tau"]) + dist.Normal(0, 10).log_prob(p["b"]).sum()


def _by_rows(p, data):
    return jax.vmap(lambda x, y: dist.Normal(x @ p["b"], p["tau"] ** -0.5).log_prob(y))(data["X"], data["y"]).sum()


def _by_steps(p, data):
    def step(total, row):
        return total + stats.norm.logpdf(row[1], row[0] @ p["b"], scale=p["tau"] ** -0.5), None

    return jax.lax.scan(step, 0.0, (data["X"], data["y"]))[0]


def _graph(model, **data):
    found = read(model, **data).graph
    assert found is not None
    return found()


def _everything(graph):
    return jax.jit(lambda values, data: (graph.leaves(values, data), graph.densities(values, data)))


@pytest.mark.parametrize("rows", [_by_rows, jax.jit(_by_rows), jax.checkpoint(_by_rows), jax.jit(_by_steps)])
def test_rows_within_transformations_are_those_of_numpyro(rows):
    """Also where JAX has traced the rows before without looking at them."""
    data, values = _regression_data(), {"b": np.array([0.5, 1.0, -2.0]), "tau": 0.7}
    jax.eval_shape(rows, values, data)
    graph, twin = _graph(described(lambda p, d: _prior(p) + rows(p, d))), _graph(regression, data=data)
    names = [[(node.name, node.kind, node.shape, node.latent) for node in one.nodes] for one in (graph, twin)]
    assert names[0] == names[1]
    (leaves, densities), (others, same) = (_everything(one)(values, data) for one in (graph, twin))
    for name, leaf in others["y"].items():
        np.testing.assert_allclose(np.broadcast_to(leaves["y"][name], (200,)), np.broadcast_to(leaf, (200,)), rtol=1e-6)
    np.testing.assert_allclose(densities["y"], same["y"], rtol=1e-6)


@pytest.mark.slow
def test_a_state_space_model_in_a_scan_is_its_joint_gaussian():
    """Half of its terms are steps of a scan; mean and evidence are those of linear algebra."""
    y = np.array([1.0, -0.5, 2.0, 0.3])

    def walk(p, data):
        def step(carry, now):
            before, total = carry
            x, y = now
            total = total + dist.Normal(before, 1.0).log_prob(x) + stats.norm.logpdf(y, x, 0.5)
            return (x, total), None

        start = dist.Normal(0.0, 2.0).log_prob(p["x"][0]) + dist.Normal(p["x"][0], 0.5).log_prob(data["y"][0])
        return jax.lax.scan(step, (p["x"][0], start), (p["x"][1:], data["y"][1:]))[0][1]

    posterior = jn.fit(jn.density(walk, {"x": np.zeros(4)}, data={"y": y}), "cavi", correct=False)
    steps = np.diff(np.eye(4), axis=0)
    prior = steps.T @ steps + np.diag([0.25, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(posterior.mean["x"], np.linalg.solve(prior + 4.0 * np.eye(4), 4.0 * y), atol=1e-8)
    evidence = multivariate_normal.logpdf(y, np.zeros(4), np.linalg.inv(prior) + 0.25 * np.eye(4))  # type: ignore[arg-type]
    assert posterior.run.history["elbo"][-1] == pytest.approx(evidence, rel=1e-8)


def test_batches_of_every_kind_have_the_rows_of_the_whole():
    """Parameters with fewer axes than the value, of every length under two vmaps, beside the same call on whole arrays."""
    rng = np.random.default_rng(0)
    cov, y = np.array([[2.0, 0.5], [0.5, 1.0]]), rng.normal(size=(5, 4, 2))
    counts = rng.multinomial(6, [0.2, 0.3, 0.5], size=(5, 4))

    def parts(p, data):
        def row(m, t, y, c):
            return (
                dist.MultivariateNormal(m, covariance_matrix=cov).log_prob(y)
                + dist.Normal(m, t**-0.5).to_event(1).log_prob(y)
                + dist.Multinomial(6, p["w"]).log_prob(c)
                + dist.StudentT(3.0, m[0], t).log_prob(y).sum()
            )

        return jax.vmap(lambda m, y, c: jax.vmap(row, (None, 0, 1, 0))(m, p["t"], y.T, c))(p["m"], data["y"], data["c"])

    def whole(p, data):
        m, t = p["m"][:, None], p["t"]
        return (
            dist.MultivariateNormal(m, covariance_matrix=cov).log_prob(data["y"])
            + dist.Normal(m, t[:, None] ** -0.5).to_event(1).log_prob(data["y"])
            + dist.Multinomial(6, p["w"]).log_prob(data["c"])
            + dist.StudentT(3.0, m[..., :1], t[:, None]).log_prob(data["y"]).sum(-1)
        )

    def prior(p):
        return (
            dist.Normal(0.0, 1.0).log_prob(p["m"]).sum()
            + dist.Gamma(2.0, 1.0).log_prob(p["t"]).sum()
            + dist.Dirichlet(np.ones(3)).log_prob(p["w"])
        )

    init, support = {"m": np.zeros((5, 2)), "t": np.ones(4), "w": np.full(3, 1 / 3)}, {"t": "positive", "w": "simplex"}
    graphs = [
        _graph(
            jn.density(lambda p, d, f=f: prior(p) + f(p, d).sum(), init, support=support, data={"y": y, "c": counts})
        )
        for f in (parts, whole)
    ]
    some, other = ([node for node in graph.nodes if not node.latent] for graph in graphs)
    assert [(a.kind, a.shape, a.event_dim) for a in some] == [(b.kind, b.shape, b.event_dim) for b in other]
    values = {"m": rng.normal(size=(5, 2)), "t": np.arange(1.0, 5.0), "w": np.array([0.2, 0.3, 0.5])}
    data = {"y": y, "c": counts}
    found = [_everything(graph)(values, data) for graph in graphs]
    for a, b in zip(some, other, strict=True):
        np.testing.assert_allclose(found[0][1][a.name], found[1][1][b.name], rtol=1e-5)
        for name in found[1][0][b.name]:
            one, two = found[0][0][a.name][name], found[1][0][b.name][name]
            np.testing.assert_allclose(*np.broadcast_arrays(one, two), rtol=1e-5)


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
    "once a row": (
        lambda p, d: scipy_density(p, d) + jax.vmap(lambda _: dist.Gamma(2, 1).log_prob(p["tau"]))(d["y"]).sum(),
        r"tau \(term 4\) \(Gamma\) 200 times",
    ),
    "within a branch": (
        lambda p, d: jax.lax.cond(p["tau"] > 1.0, lambda: scipy_density(p, d), lambda: 0.0),
        "inside of a lax.cond",
    ),
    "slope": (
        lambda p, d: scipy_density(p, d) + jax.grad(lambda t: stats.norm.logpdf(t, p["b"][0]))(p["tau"]),
        "outside of distributions",
    ),
    "states summed out": (
        lambda p, d: (
            _prior(p)
            + jax.nn.logsumexp(
                jax.lax.scan(
                    lambda a, y: (jax.nn.logsumexp(a) + dist.Normal(p["b"], 1.0).log_prob(y), None),
                    jnp.zeros(3),
                    d["y"],
                )[0]
            )
        ),
        "states that are summed out",
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

    def terms(function):
        return sown(jax.make_jaxpr(function)(1.0).jaxpr)

    def other():
        seen.append(terms(normal.log_prob))

    def broken():
        with recording():
            seen.append(terms(normal.log_prob))
            threads[0].start()
            threads[0].join()
            stats.norm.logpdf(jnp.ones(2), jnp.ones(3))

    threads = [threading.Thread(target=other)]
    with pytest.raises(TypeError):
        broken()
    assert [*seen, terms(normal.log_prob)] == [1, 0, 0]
    assert (dist.Normal.log_prob, stats.norm.logpdf) == before


def test_a_density_by_hand_has_no_graph():
    assert read(described(lambda p, d: -(p["b"] ** 2).sum() - p["tau"])).graph is None
