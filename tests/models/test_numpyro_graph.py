"""The graph of NumPyro models: parameters as the model computes them, and the density that they stand for.

Two references: NumPyro's own log_density for the sum of the densities, and SciPy's densities of the leaves for each node.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers, sample
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density, potential_energy
from scipy import special, stats
from tests.models.numpyro_models import (
    MODELS,
    TOKENS,
    X,
    Y,
    counts,
    diagonal_mixture,
    factorial,
    full_mixture,
    hidden_markov,
    hidden_markov_rows,
    mixture,
    multilevel,
    others,
    topics,
)

import jensen as jn
from jensen.core.layout import flatten
from jensen.core.precision import scope
from jensen.models.model import total
from jensen.models.numpyro import read
from jensen.models.numpyro_graph import graph
from jensen.models.target import Target

RNG = np.random.default_rng(0)


def a_value(node):
    """Some value in the support of a latent node."""
    shape = node.shape
    if node.levels:
        return RNG.integers(0, node.levels, shape)
    if node.support == "simplex":
        return RNG.dirichlet(np.ones(shape[-1]), shape[:-1])
    if node.support == "positive definite":
        root = RNG.normal(size=shape)
        return np.eye(shape[-1]) + root @ root.swapaxes(-1, -2)
    if node.support.startswith("real"):
        return RNG.normal(size=shape)
    return RNG.uniform(0.1, 0.9, shape)


@cache
def evaluated(model):
    """Graph, latent values, leaves, densities, NumPyro's log density; one program."""
    data = MODELS[model][0]
    with scope("float64"):
        found = graph(model, data, {})
        values = {node.name: a_value(node) for node in found.nodes if node.latent}

        def everything(values, data):
            values = jax.tree.map(jnp.asarray, values)
            reference = log_density(model, (), data, values)[0]
            return found.leaves(values, data), found.densities(values, data), reference

        return found, values, *jax.tree.map(np.asarray, jax.jit(everything)(values, data))


def from_leaves(kind, leaf):
    """Log density of a node by SciPy, as a number."""
    leaf = dict(leaf)
    x = leaf.pop("value")
    if kind == "other":
        return leaf["log_prob"].sum()
    if kind in ("Bernoulli", "Binomial", "Categorical", "Multinomial") and "logits" in leaf:
        logits = leaf.pop("logits")
        leaf["probs"] = special.expit(logits) if kind in ("Bernoulli", "Binomial") else special.softmax(logits, -1)
    if kind == "Categorical":
        probs = np.broadcast_to(leaf["probs"], (*x.shape, leaf["probs"].shape[-1]))
        return np.log(np.take_along_axis(probs, x[..., None], -1)).sum()
    elementwise = {
        "Normal": lambda loc, scale: stats.norm.logpdf(x, loc, scale),
        "Gamma": lambda concentration, rate: stats.gamma.logpdf(x, concentration, scale=1 / rate),
        "InverseGamma": lambda concentration, rate: stats.invgamma.logpdf(x, concentration, scale=rate),
        "Beta": lambda a, b: stats.beta.logpdf(x, a, b),
        "Bernoulli": lambda probs: stats.bernoulli.logpmf(x, probs),
        "Binomial": lambda total_count, probs: stats.binom.logpmf(x, total_count, probs),
        "Poisson": lambda rate: stats.poisson.logpmf(x, rate),
        "Multinomial": lambda total_count, probs: stats.multinomial.logpmf(x, total_count, probs),
    }
    if kind in elementwise:
        return elementwise[kind](**leaf).sum()
    events = {
        "Dirichlet": (1, lambda x, concentration: stats.dirichlet.logpdf(x, concentration)),
        "Wishart": (2, lambda x, df, rate: stats.wishart.logpdf(x, df, np.linalg.inv(rate))),
        "InverseWishart": (2, lambda x, df, scale: stats.invwishart.logpdf(x, df, scale)),
        "MultivariateNormal": (1, multivariate_normal),
    }
    ndim, density = events[kind]
    batch, sum_ = x.shape[: x.ndim - ndim], 0.0
    for index in np.ndindex(batch):
        row = {}
        for name, value in leaf.items():
            own = {"df": 0, "concentration": 1, "loc": 1}.get(name, 2)
            row[name] = np.broadcast_to(value, (*batch, *value.shape[value.ndim - own :]))[index]
        sum_ += density(x[index], **row)
    return sum_


def multivariate_normal(x, loc, precision=None, covariance=None, scale_tril=None):
    if precision is not None:
        covariance = np.linalg.inv(precision)
    elif covariance is None:
        covariance = scale_tril @ scale_tril.T
    return stats.multivariate_normal.logpdf(x, loc, covariance)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_leaves_and_densities_are_those_of_the_model(model):
    _, kinds = MODELS[model]
    found, values, leaves, densities, reference = evaluated(model)
    assert " | ".join(f"{node.name} {node.kind}" for node in found.nodes) == kinds
    np.testing.assert_allclose(sum(density.sum() for density in densities.values()), reference, rtol=1e-11)
    for node in found.nodes:
        np.testing.assert_allclose(
            from_leaves(node.kind, leaves[node.name]),
            densities[node.name].sum(),
            rtol=1e-9,
            atol=1e-12,
            err_msg=node.name,
        )
        if node.distribution != "factor":
            assert np.shape(leaves[node.name]["value"]) == node.shape
        if node.latent:
            assert np.shape(values[node.name]) == node.shape


@pytest.mark.parametrize(
    "model",
    [mixture, diagonal_mixture, full_mixture, topics, hidden_markov, hidden_markov_rows, factorial, counts],
    ids=lambda model: model.__name__,
)
def test_collapsed_discrete_values_keep_their_axes_of_length_one(model):
    data, _ = MODELS[model]
    found, values, _, _, _ = evaluated(model)
    discrete = [node for node in found.nodes if node.levels]

    def at(values, level, shape):
        return found.leaves(values | {node.name: np.full(shape(node), level) for node in discrete}, data)

    with scope("float64"):
        collapsed, whole = jax.jit(
            lambda values: (
                at(values, 1, lambda node: (1,) * len(node.shape)),
                at(values, 1, lambda node: node.shape),
            )
        )(values)
    for node in found.nodes:
        for leaf, value in collapsed[node.name].items():
            np.testing.assert_allclose(np.broadcast_to(value, whole[node.name][leaf].shape), whole[node.name][leaf])
    if model in (mixture, diagonal_mixture):
        observed = found.nodes[-1].name
        assert {leaf: value.shape[0] for leaf, value in collapsed[observed].items()} == {
            "value": 7,
            "loc": 1,
            "scale": 1,
        }
    if model is topics:
        assert collapsed["word"]["probs"].shape == (1, 5)
        assert collapsed["z"]["probs"].shape == (7, 3)
        assert collapsed["z"]["value"].shape == (1,)


def test_what_a_node_says():
    with scope("float64"):
        nodes = {node.name: node for node in graph(counts, MODELS[counts][0], {}).nodes}
        nodes |= {node.name: node for node in graph(full_mixture, {"x": X}, {}).nodes}
        nodes |= {node.name: node for node in graph(others, {"X": X, "y": Y}, {}).nodes}
    assert {name: node.levels for name, node in nodes.items() if node.levels} == {"on": 2, "how_many": 5, "z": 3}
    said = {name: (node.distribution, node.support, node.event_dim, node.latent) for name, node in nodes.items()}
    assert said["q"] == ("Uniform", "unit interval", 0, True)
    assert said["count"] == ("Poisson", "discrete", 0, False)
    assert said["rate"] == ("Gamma", "positive", 0, True)
    assert said["theta"] == ("Dirichlet", "simplex", 1, True)
    assert said["precision"] == ("Wishart", "positive definite", 2, True)
    assert said["sigma"] == ("HalfNormal", "positive", 0, True)
    assert said["interval"] == ("Uniform", "interval", 1, True)
    assert said["masked"] == ("Normal", "real", 0, False)
    assert said["penalty"][0] == "factor"
    assert nodes["penalty"].shape == (2,)


def test_leaves_are_not_spread_over_plates():
    _, _, leaves, _, _ = evaluated(multilevel)
    assert {name: leaves["a"][name].shape for name in leaves["a"]} == {"value": (3,), "loc": (), "scale": ()}
    assert leaves["y"]["scale"].size == 1


def test_plug_in_points_outside_of_the_support_are_taken_as_they_are():
    """exp(E log theta) sums to less than one, and must not be refused, warned about or normalized."""
    with scope("float64"):
        values = {"phi": np.full((3, 5), 0.1), "theta": np.full((3, 3), 0.2), "z": np.zeros(1, int)}
        leaves = graph(topics, TOKENS, {}).leaves(values, TOKENS)
    np.testing.assert_array_equal(leaves["word"]["probs"], np.full((1, 5), 0.1))
    np.testing.assert_array_equal(leaves["z"]["probs"], np.full((7, 3), 0.2))


def test_observations_outside_of_the_support_have_density_zero():
    """A uniform density says where its observations can be by nothing else."""

    def model(y):
        sample("y", dist.Uniform(0, sample("limit", dist.Pareto(1.0, 2.0))), obs=y)

    y = np.array([0.5, 1.5, 2.5])
    with scope("float64"):
        found = graph(model, {"y": y}, {})
        values = {"limit": np.array(2.0)}
        expected = stats.uniform.logpdf(y, 0, 2)
        np.testing.assert_allclose(found.leaves(values, {"y": y})["y"]["log_prob"], expected)
        np.testing.assert_allclose(found.densities(values, {"y": y})["y"], expected)


def test_a_scaled_site_is_refused():
    def model(y):
        mu = sample("mu", dist.Normal(0, 1))
        with handlers.scale(scale=2.0):
            sample("y", dist.Normal(mu, 1), obs=y)

    with scope("float64"), pytest.raises(jn.UnsupportedError, match="site y is scaled"):
        graph(model, {"y": Y}, {})

    def unscaled(y):
        with handlers.scale(scale=1.0):
            sample("mu", dist.Normal(0, 1), obs=y)

    with scope("float64"):
        assert graph(unscaled, {"y": Y}, {}).nodes[0].kind == "Normal"


def test_a_distribution_of_the_users_own_is_other():
    class Normal(dist.Normal):
        def log_prob(self, value):
            return 2 * super().log_prob(value)

    def model(y):
        sample("y", Normal(sample("mu", dist.Normal(0, 1)), 1), obs=y)

    with scope("float64"):
        assert [node.kind for node in graph(model, {"y": Y}, {}).nodes] == ["Normal", "other"]


# The model record


def test_discrete_sites_have_no_place_in_the_flat_vector():
    def model(y):
        with numpyro.plate("component", 2):
            mu = sample("mu", dist.Normal(0, 10))
        with numpyro.plate("row", len(y)):
            z = sample("z", dist.Bernoulli(0.4))
            numpyro.deterministic("level", mu[z])
            sample("y", dist.Normal(mu[z], 1), obs=y)

    with scope("float64"):
        record = read(model, {"y": Y})
        assert [site.name for site in record.sites] == ["mu"]
        assert (record.dim, record.discrete) == (2, ("z",))
        assert record.dims["z"] == ("row",)
        assert list(record.coords["row"]) == list(range(7))
        assert record.graph() is record.graph()
        assert [node.name for node in record.graph().nodes] == ["mu", "z", "y"]
        free = {"mu": np.array([1.0, 2.0])}
        z = np.array([0, 1, 1, 0, 0, 1, 0])
        assert list(record.constrain(free | {"z": z}, record.data)[1]["level"]) == [1, 2, 2, 1, 1, 2, 1]
        values, derived = record.constrain(free, record.data)
        assert list(derived["level"]) == [1.0] * 7
        assert list(record.unconstrain(values | {"z": z}, record.data)) == ["mu"]
        with pytest.raises(jn.UnsupportedError, match=r"site z is discrete \(Bernoulli\)"):
            Target(record)


def test_a_statements_sample_shape_adds_to_the_distributions():
    def model(y):
        a = sample("a", dist.Dirichlet(jnp.ones(2)), sample_shape=(3,))
        z = sample("z", dist.Bernoulli(0.4), sample_shape=(3,))
        sample("y", dist.Normal((a[:, 0] * z).sum(), 1), obs=y)

    with scope("float64"):
        record = read(model, {"y": Y})
        assert [(site.shape, site.free_shape) for site in record.sites] == [((3, 2), (3, 1))]
        assert [node.shape for node in record.graph().nodes] == [(3, 2), (3,), (7,)]


def test_infinitely_many_values_are_refused_when_the_model_is_read():
    def model(y):
        sample("y", dist.Normal(sample("n", dist.Poisson(2.0)), 1), obs=y)

    with scope("float64"), pytest.raises(jn.UnsupportedError, match=r"site n is discrete \(Poisson\).*sum it out"):
        read(model, {"y": Y})


def test_a_scan_over_continuous_sites_has_numpyros_density():
    """Sites of a scan have a time axis in the flat vector, and one Jacobian a step."""

    def model(y):
        def step(before, y_t):
            x = sample("x", dist.Normal(before, 1))
            s = sample("s", dist.Gamma(2, 1))
            p = sample("p", dist.Dirichlet(jnp.ones(3)))
            sample("y", dist.Normal(x * p[0], s), obs=y_t)
            return x, None

        scan(step, 0.0, y)

    with scope("float64"):
        record = read(model, {"y": Y})
        assert [(site.shape, site.free_shape) for site in record.sites] == [
            ((7,), (7,)),
            ((7,), (7,)),
            ((7, 3), (7, 2)),
        ]
        free = {site.name: jnp.asarray(RNG.normal(size=site.free_shape)) for site in record.sites}
        ours = jax.jit(lambda free, data: total(record.factors(free, data)))(free, record.data)
        theirs = -potential_energy(model, (), {"y": Y}, free)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        values, _ = record.constrain(free, record.data)
        back = record.unconstrain(values, record.data)
        np.testing.assert_allclose(flatten(record.sites, back), flatten(record.sites, free), rtol=1e-9)
