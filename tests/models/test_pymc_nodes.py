"""Parameters and log densities of the nodes of PyMC models, against PyMC's compiled log density, NumPyro and SciPy."""

import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pymc as pm
import pytensor.tensor as pt
import pytest
from pymc.model.transform.conditioning import remove_value_transforms
from scipy import stats

import jensen as jn
from jensen.core.errors import ModelError, UnsupportedError
from jensen.core.precision import scope
from jensen.models.pymc import read

RNG = np.random.default_rng(5)
N, K, G = 24, 3, 4
X = RNG.normal(size=(N, 2))
Y = RNG.normal(size=N)
COUNTS = RNG.poisson(3, size=N)
GROUP = np.arange(N) % G
COV = np.array([[2.0, 0.3], [0.3, 1.0]])


def mixture():
    """Gaussian mixture with precisions; every latent variable is conjugate."""
    with pm.Model() as model:
        weights = pm.Dirichlet("weights", np.ones(K))
        mu = pm.Normal("mu", 0.5, 10, shape=K)
        tau = pm.Gamma("tau", 2.0, 3, shape=K)
        z = pm.Categorical("z", weights, shape=N)
        pm.Normal("y", mu[z], tau=tau[z], observed=Y)
        pm.Deterministic("center", mu[z])
    return model


def variances():
    """Mixture in two dimensions with variances; the assignments are Bernoulli."""
    with pm.Model() as model:
        share = pm.Beta("share", 2, 3)
        mu = pm.Normal("mu", 0, 3, shape=(2, 2))
        v = pm.InverseGamma("v", 3, 2.5, shape=(2, 1))
        z = pm.Bernoulli("z", share, shape=N)
        pm.Normal("y", mu[z], sigma=pt.sqrt(v[z]), observed=X)
    return model


def regression():
    """Groups beside covariates in a container; gamma precision, half-normal spread, a potential."""
    with pm.Model() as model:
        x = pm.Data("x", X)
        tau = pm.Gamma("tau", mu=2, sigma=0.7)
        spread = pm.HalfNormal("spread", 2)
        b = pm.MvNormal("b", [0.0, 0.5], cov=COV)
        a = pm.Normal("a", 0, spread, shape=G)
        pm.Normal("y", pm.math.dot(x, b) + a[GROUP], tau=tau, observed=Y)
        pm.Potential("penalty", -((a.sum() - 1) ** 2))
    return model


def counts():
    """Gamma-Poisson groups, beta-Bernoulli and binomial coins, a Dirichlet-multinomial."""
    with pm.Model() as model:
        beta = pm.Exponential("beta", 2.0)
        lam = pm.Gamma("lam", 2, beta, shape=G)
        pm.Poisson("y", lam[GROUP], observed=COUNTS)
        p = pm.Uniform("p")
        pm.Bernoulli("coin", p, observed=COUNTS > 3)
        pm.Binomial("coins", 9, p, observed=COUNTS[:5])
        theta = pm.Dirichlet("theta", [1, 2, 3])
        pm.Multinomial("table", [4, 6], theta, observed=[[1, 2, 1], [0, 6, 0]])
        pm.ChiSquared("chi", 3)
    return model


def links():
    """Logits, a precision matrix with a Wishart prior, and distributions whose parameters are not read."""
    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        b = pm.Normal("b", 0, 1, shape=(2, 3))
        precision = pm.Wishart("precision", 4, np.linalg.inv(COV))
        pm.MvNormal("x", b[:, 0], tau=precision, observed=X)
        pm.Bernoulli("yes", logit_p=X @ b[:, 0], observed=COUNTS > 3)
        pm.Categorical("which", logit_p=X @ b, observed=COUNTS % 3)
        pm.StudentT("t", 4, mu=b[0, 0], sigma=1, observed=Y[:3])
        pm.NormalMixture("mixed", [0.3, 0.7], b[0, :2], 1.0, observed=Y[:4])
        pm.Normal("ordered", 0, 1, shape=2, transform=pm.distributions.transforms.ordered)
        pm.Uniform("wide", -1, 1)
    return model


VALUES = {
    mixture: {
        "weights": np.array([0.2, 0.5, 0.3]),
        "mu": np.array([-1.0, 0.3, 2.0]),
        "tau": np.array([0.7, 1.3, 2.0]),
        "z": RNG.integers(0, K, N),
    },
    variances: {
        "share": np.array(0.3),
        "mu": RNG.normal(size=(2, 2)),
        "v": np.array([[0.8], [1.7]]),
        "z": RNG.integers(0, 2, N),
    },
    regression: {
        "tau": np.array(1.3),
        "spread": np.array(0.6),
        "b": np.array([0.4, -1.0]),
        "a": RNG.normal(size=G),
    },
    counts: {
        "beta": np.array(0.8),
        "lam": RNG.gamma(3, size=G),
        "p": np.array(0.35),
        "theta": np.array([0.3, 0.6, 0.1]),
        "chi": np.array(2.2),
    },
    links: {
        "b": RNG.normal(size=(2, 3)),
        "precision": np.array([[1.5, 0.2], [0.2, 0.8]]),
        "ordered": np.array([-0.3, 1.0]),
        "wide": np.array(0.4),
    },
}
EVERY = pytest.mark.parametrize("build", VALUES, ids=lambda build: build.__name__)


@cache
def record(build):
    return read(build())


def evaluate(build, collapsed=()):
    """Nodes, leaves and log densities, all as NumPy arrays."""
    values = VALUES[build] | dict.fromkeys(collapsed, np.ones(1, int))
    with scope("float64"):
        graph = record(build).graph()
        leaves = jax.jit(graph.leaves)(values, record(build).data)
        densities = {} if collapsed else jax.jit(graph.densities)(values, record(build).data)
        return {node.name: node for node in graph.nodes}, *jax.tree.map(np.asarray, (leaves, densities))


def numpyro_density(kind, leaves):
    """The log density of a node from its leaves alone, by NumPyro."""
    leaves = {name: jnp.asarray(leaf) for name, leaf in leaves.items()}
    value = leaves.pop("value")
    if kind == "other":
        return leaves["log_prob"]
    if kind == "Wishart":
        return stats.wishart.logpdf(value, int(leaves["df"]), np.linalg.inv(leaves["rate"]))
    names = {
        "MultivariateNormal": {"precision": "precision_matrix", "covariance": "covariance_matrix"},
        "Beta": {"a": "concentration1", "b": "concentration0"},
    }.get(kind, {})
    if kind in ("Binomial", "Multinomial"):
        leaves["total_count"] = leaves["total_count"].astype(int)
    return getattr(dist, kind)(**{names.get(name, name): leaf for name, leaf in leaves.items()}).log_prob(value)


@EVERY
def test_leaves_are_the_parameters_of_the_densities(build):
    nodes, leaves, densities = evaluate(build)
    assert set(leaves) == set(densities) == set(nodes)
    for name, node in nodes.items():
        with scope("float64"):
            expected = np.asarray(numpyro_density(node.kind, leaves[name]))
        np.testing.assert_allclose(
            densities[name], np.broadcast_to(expected, densities[name].shape), rtol=1e-11, atol=1e-14
        )
        if node.distribution != "Potential":
            assert leaves[name]["value"].shape == node.shape
            assert densities[name].shape == node.shape[: len(node.shape) - node.event_dim]


@EVERY
def test_densities_are_those_of_pymc(build):
    _, _, densities = evaluate(build)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = remove_value_transforms(build())
        terms = [*model.basic_RVs, *model.potentials]
        expected = model.compile_logp(terms, sum=False, mode="FAST_COMPILE")(VALUES[build])
    for term, value in zip(terms, expected, strict=True):
        # PyMC keeps literal constants in float32.
        np.testing.assert_allclose(densities[term.name], value, rtol=1e-6, err_msg=term.name)


KINDS = {
    mixture: "weights Dirichlet, mu Normal, tau Gamma, z Categorical, y Normal",
    variances: "share Beta, mu Normal, v InverseGamma, z Bernoulli, y Normal",
    regression: "tau Gamma, spread other, b MultivariateNormal, a Normal, y Normal, penalty other",
    counts: "beta Gamma, lam Gamma, p Beta, theta Dirichlet, chi Gamma, y Poisson, coin Bernoulli, coins Binomial, "
    "table Multinomial",
    links: "b Normal, precision Wishart, ordered other, wide other, x MultivariateNormal, yes Bernoulli, "
    "which Categorical, t other, mixed other",
}


@EVERY
def test_kinds(build):
    nodes = record(build).graph().nodes
    assert ", ".join(f"{node.name} {node.kind}" for node in nodes) == KINDS[build]


def test_nodes():
    nodes = {node.name: node for node in record(mixture).graph().nodes}
    z, weights = nodes["z"], nodes["weights"]
    assert (z.latent, z.shape, z.event_dim, z.support, z.levels) == (True, (N,), 0, "discrete", K)
    assert (weights.shape, weights.event_dim, weights.support, weights.levels) == ((K,), 1, "simplex", None)
    nodes = {node.name: node for node in record(regression).graph().nodes}
    with pm.Model() as model:
        pm.LKJCholeskyCov("factor", n=2, eta=2, sd_dist=pm.HalfNormal.dist(1))
    assert [(node.kind, node.distribution) for node in read(model).graph().nodes] == [("other", "LKJCholeskyCov")]
    assert nodes["spread"].distribution == "HalfNormal"
    assert nodes["spread"].support == "positive"
    assert (nodes["penalty"].distribution, nodes["penalty"].latent) == ("Potential", False)
    assert {node.name: node.support for node in record(links).graph().nodes if node.latent} == {
        "b": "real",
        "precision": "positive definite",
        "ordered": "ordered",
        "wide": "interval",
    }


def test_leaves_keep_the_shape_in_which_the_model_computes_them():
    leaves = evaluate(mixture)[1]
    assert {leaf: array.shape for leaf, array in leaves["mu"].items()} == {"value": (K,), "loc": (), "scale": ()}
    assert leaves["z"]["probs"].shape == (K,)
    assert leaves["tau"]["rate"] == 3
    leaves = evaluate(links)[1]
    assert leaves["x"]["loc"].shape == (2,)
    np.testing.assert_array_equal(leaves["x"]["precision"], VALUES[links]["precision"])
    np.testing.assert_allclose(leaves["which"]["logits"], X @ VALUES[links]["b"])


def test_densities_are_exact():
    values, densities = VALUES[mixture], evaluate(mixture)[2]
    z = values["z"]
    exact = {
        "weights": stats.dirichlet.logpdf(values["weights"], np.ones(K)),
        "mu": stats.norm.logpdf(values["mu"], 0.5, 10),
        "tau": stats.gamma.logpdf(values["tau"], 2, scale=1 / 3),
        "z": np.log(values["weights"][z]),
        "y": stats.norm.logpdf(Y, values["mu"][z], values["tau"][z] ** -0.5),
    }
    for name, expected in exact.items():
        np.testing.assert_allclose(densities[name], expected, rtol=1e-13, err_msg=name)


@pytest.mark.parametrize(("build", "shape"), [(mixture, (1,)), (variances, (1, 2))])
def test_collapsed_values_keep_one_row(build, shape):
    full = evaluate(build)[1]
    leaves = evaluate(build, ["z"])[1]
    assert leaves["z"]["value"].shape == (1,)
    assert leaves["y"]["loc"].shape == shape
    assert leaves["y"]["value"].shape == full["y"]["value"].shape
    rows = VALUES[build]["z"] == 1
    for leaf in ("loc", "scale"):
        expected = full["y"][leaf][rows]
        np.testing.assert_array_equal(np.broadcast_to(leaves["y"][leaf], expected.shape), expected)


def test_collapsed_values_of_a_model_that_mixes_its_rows():
    with pm.Model() as model:
        z = pm.Bernoulli("z", 0.4, shape=6)
        pm.Normal("y", z.reshape((2, 3)), 1, observed=np.zeros((2, 3)))
    graph = read(model).graph()
    with scope("float64"):
        assert graph.leaves({"z": np.arange(6) % 2}, {})["y"]["loc"].shape == (2, 3)
        with pytest.raises(UnsupportedError, match="the discrete sites z cannot be enumerated with one row for all"):
            graph.leaves({"z": np.zeros(1, int)}, {})


def test_data_are_arguments():
    build, values = regression, VALUES[regression]
    first = record(build)
    with scope("float64"):
        leaves = first.graph().leaves(values, first.data | {"x": 2 * X})
        np.testing.assert_allclose(leaves["y"]["loc"], 2 * X @ values["b"] + values["a"][GROUP])
    model = build()
    assert read(model, {"x": X + 1}).graph() is read(model).graph()


def test_discrete_variables_are_no_sites():
    model = record(mixture)
    assert model.discrete == ("z",)
    assert [site.name for site in model.sites] == ["weights", "mu", "tau"]
    assert model.dim == 2 * K + K - 1
    with scope("float64"):
        free = model.unconstrain(VALUES[mixture], model.data)
        values, derived = model.constrain({**free, "z": VALUES[mixture]["z"]}, model.data)
        log_prob = model.factors({**free, "z": VALUES[mixture]["z"]}, model.data).log_prob
        np.testing.assert_allclose(log_prob["y"], evaluate(mixture)[2]["y"])
    assert list(values) == list(free) == ["weights", "mu", "tau"]
    np.testing.assert_allclose(derived["center"], VALUES[mixture]["mu"][VALUES[mixture]["z"]])


def test_a_fit_refuses_discrete_variables_by_name():
    with pytest.raises(UnsupportedError, match=r"site z is discrete \(Categorical\)"):
        jn.fit(mixture(), "fullrank")


def test_values_that_are_missing():
    values = {name: value for name, value in VALUES[mixture].items() if name != "z"}
    graph, data = record(mixture).graph(), record(mixture).data
    with scope("float64"), pytest.raises(ModelError, match="site z has no value"):
        graph.leaves(values, data)


def test_rows_that_stand_for_more_are_refused():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu"), 1, observed=Y, total_size=10 * N)
    with pytest.raises(UnsupportedError, match="variable y has a total_size"):
        read(model).graph()


@pytest.mark.slow
def test_single_precision():
    model = read(mixture())
    with scope("float32"):
        graph = model.graph()
        leaves = graph.leaves(VALUES[mixture], model.data)
        assert {leaf.dtype for node in leaves.values() for leaf in node.values()} == {
            jnp.dtype("float32"),
            jnp.dtype("int32"),
        }
        assert graph.densities(VALUES[mixture], model.data)["y"].dtype == jnp.float32
