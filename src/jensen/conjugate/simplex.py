"""Sites on a simplex that take no exact update: Gaussian on logs of ratios to the last element (a logistic normal).

    theta = softmax(u_1, .., u_{K-1}, 0),      log |dtheta / du| = sum_k log theta_k

To the rest of conjugacy u is a real site of K - 1 columns, whose prior is one density a row with the volume in it: `loosened`
makes the graph in which it is. Outside of it, all values are those of theta.

Reference: Aitchison and Shen (1980), Logistic-normal distributions: some properties and uses, Biometrika 67.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jensen.conjugate.hermite import standard
from jensen.models.graph import Graph, Leaves


def value(u: Any) -> Any:
    """Theta (..., K) from u (..., K - 1); NumPy from NumPy."""
    xp = np if isinstance(u, np.ndarray) else jnp
    whole = xp.concatenate([u, xp.zeros_like(u[..., :1])], -1)
    whole = xp.exp(whole - whole.max(-1, keepdims=True))
    return whole / whole.sum(-1, keepdims=True)


def own(theta: Any) -> Any:
    """U (..., K - 1) from theta (..., K); NumPy from NumPy."""
    log = (np if isinstance(theta, np.ndarray) else jnp).log(theta)
    return log[..., :-1] - log[..., -1:]


def volume(theta: Any) -> Any:
    """Log |dtheta / du|, (...)."""
    return (np if isinstance(theta, np.ndarray) else jnp).log(theta).sum(-1)


def moments(mean: Any, cov: Any) -> tuple[Any, Any]:
    """Means and sds (n, K) of theta from means (n, K - 1) and covariances (n, K - 1, K - 1) of u."""
    nodes, weights = standard(mean.shape[-1])
    root = jnp.linalg.cholesky(cov + 1e-300 * jnp.eye(cov.shape[-1]))
    theta = value(mean[:, None] + jnp.asarray(nodes) @ jnp.swapaxes(root, -1, -2))
    first = jnp.asarray(weights) @ theta
    return first, jnp.sqrt(jnp.asarray(weights) @ (theta - first[:, None]) ** 2)


def loosened(graph: Graph, names: frozenset[str]) -> Graph:
    """The graph with u in the place of some sites on simplexes; the same one for the same sites."""
    return graph.remember(("loosened", names), lambda: _loosened(graph, names)) if names else graph


def _loosened(graph: Graph, names: frozenset[str]) -> Graph:
    def values_at(values: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, **{name: value(jnp.asarray(values[name])) for name in names}}

    def leaves(values: Mapping[str, Any], data: Mapping[str, Any]) -> Leaves:
        inner = values_at(values)
        found, log_prob = graph.leaves(inner, data), densities(values, data)
        own_leaves = {name: {"value": jnp.asarray(values[name]), "log_prob": log_prob[name]} for name in names}
        return {**found, **own_leaves}

    def densities(values: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        inner = values_at(values)
        found = dict(graph.densities(inner, data))
        return {**found, **{name: found[name] + volume(inner[name]) for name in names}}

    nodes = (
        replace(node, kind="whole", support="real", shape=(*node.shape[:-1], node.shape[-1] - 1), bounds=None)
        if node.name in names
        else node
        for node in graph.nodes
    )
    return Graph(tuple(nodes), leaves, densities)
