"""Sites on an interval that take no exact update: Gaussian on the logit of their place in it.

    s = low + (high - low) / (1 + e^-u),     log p(u) = log p(s) + log (high - low) - |u| - 2 log (1 + e^-|u|)

To the rest of conjugacy u is a real site, whose prior is no Normal: `unbounded` makes the graph in which it is. Outside of it,
all values are those of s.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln

from jensen.conjugate.priors import NODES, WEIGHTS
from jensen.models.graph import Graph, Leaves

Bounds = Mapping[str, tuple[float, float]]


def inside(u: Any, bounds: tuple[float, float]) -> Any:
    """The value s of a site from its logit u; NumPy from NumPy."""
    xp, (low, high) = np if isinstance(u, np.ndarray) else jnp, bounds
    # Of the nearer end, so that neither loses digits.
    tail = xp.exp(-xp.abs(u)) / (1.0 + xp.exp(-xp.abs(u)))
    return xp.where(u < 0, low + (high - low) * tail, high - (high - low) * tail)


def logit(s: Any, bounds: tuple[float, float]) -> Any:
    """The logit u of a value s."""
    xp, (low, high) = np if isinstance(s, np.ndarray) else jnp, bounds
    return xp.log(s - low) - xp.log(high - s)


def log_slope(u: Any, bounds: tuple[float, float]) -> Any:
    """Log ds/du at u, by element."""
    return jnp.log(bounds[1] - bounds[0]) - jnp.abs(u) - 2.0 * jnp.log1p(jnp.exp(-jnp.abs(u)))


def moments(mean: Any, sd: Any, bounds: tuple[float, float]) -> tuple[Any, Any]:
    """Mean and sd of s for u of this mean and sd, by Gauss-Hermite quadrature."""
    s = inside(mean + sd * jnp.asarray(NODES).reshape(-1, *(1,) * jnp.ndim(mean)), bounds)
    first = jnp.tensordot(jnp.asarray(WEIGHTS), s, 1)
    return first, jnp.sqrt(jnp.tensordot(jnp.asarray(WEIGHTS), (s - first) ** 2, 1))


def volume(bounds: Bounds, values: Mapping[str, Any]) -> Any:
    """The sum of log ds/du over the bounded ones among values of sites."""
    some = (log_slope(logit(values[n], ends), ends).sum() for n, ends in bounds.items() if n in values)
    return sum(some, jnp.zeros(()))


def unbounded(graph: Graph, bounds: Bounds) -> Graph:
    """The graph with the logits of some sites in their place; the same one for the same sites."""
    return graph.remember(("unbounded", tuple(bounds.items())), lambda: _unbounded(graph, dict(bounds)))


def _unbounded(graph: Graph, bounds: dict[str, tuple[float, float]]) -> Graph:
    events = {node.name: node.event_dim for node in graph.nodes}
    own = {node.name: node.kind for node in graph.nodes if node.name in bounds}

    def values_at(values: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, **{name: inside(jnp.asarray(values[name]), ends) for name, ends in bounds.items()}}

    def leaves(values: Mapping[str, Any], data: Mapping[str, Any]) -> Leaves:
        found = graph.leaves(values_at(values), data)
        for name, kind in own.items():
            u, leaf = jnp.asarray(values[name]), found[name]
            log_prob = _beta(u, leaf["a"], leaf["b"]) if kind == "Beta" else leaf["log_prob"]
            log_prob = log_prob + _fitting(log_slope(u, bounds[name]), jnp.ndim(log_prob))
            found = {**found, name: {"value": u, "log_prob": log_prob}}
        return found

    def densities(values: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(graph.densities(values_at(values), data))
        for name, ends in bounds.items():
            slope = log_slope(jnp.asarray(values[name]), ends)
            found[name] = found[name] + slope.sum(tuple(range(-events[name], 0)))
        return found

    nodes = (
        replace(node, kind="other", support="real", bounds=None) if node.name in bounds else node
        for node in graph.nodes
    )
    return Graph(tuple(nodes), leaves, densities)


def _beta(u: Any, a: Any, b: Any) -> Any:
    """Beta's log density at the place 1 / (1 + e^-u)."""
    return (a - 1.0) * jax.nn.log_sigmoid(u) + (b - 1.0) * jax.nn.log_sigmoid(-u) - betaln(a, b)


def _fitting(slope: Any, axes: int) -> Any:
    """By element as the density is, which has no event axes where these are not independent."""
    return slope.sum(tuple(range(axes - slope.ndim, 0))) if slope.ndim > axes else slope
