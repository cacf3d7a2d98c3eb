"""Sites on an interval that take no exact update: Gaussian on the logit u of their place in it.

    s = low + (high - low) / (1 + e^-u),     log ds/du = log (high - low) - |u| - 2 log (1 + e^-|u|)

Where the interval is positive the site is read as positive sites are, in powers of s, whose expectations are those of one
dimension, by quadrature; else the nodes that read it are averaged over it (`jensen.conjugate.drawn`).

A Beta that is read in other ways than its conjugate likelihoods do is such a site on (0, 1): `freed` makes the graph that says
so.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln

from jensen.conjugate.hermite import expected
from jensen.models.graph import Graph, Leaves

Bounds = tuple[float, float]


def inside(u: Any, bounds: Bounds) -> Any:
    """The value s of a site from its logit u; NumPy from NumPy."""
    xp, (low, high) = np if isinstance(u, np.ndarray) else jnp, bounds
    # Of the nearer end, so that neither loses digits.
    tail = xp.exp(-xp.abs(u)) / (1.0 + xp.exp(-xp.abs(u)))
    return xp.where(u < 0, low + (high - low) * tail, high - (high - low) * tail)


def logit(s: Any, bounds: Bounds) -> Any:
    """The logit u of a value s."""
    xp, (low, high) = np if isinstance(s, np.ndarray) else jnp, bounds
    return xp.log(s - low) - xp.log(high - s)


def log_slope(u: Any, bounds: Bounds) -> Any:
    """Log ds/du at u, by element; NumPy from NumPy."""
    xp = np if isinstance(u, np.ndarray) else jnp
    return np.log(bounds[1] - bounds[0]) - xp.abs(u) - 2.0 * xp.log1p(xp.exp(-xp.abs(u)))


def moments(mean: Any, sd: Any, bounds: Bounds) -> tuple[Any, Any]:
    """Mean and sd of s for u of this mean and sd."""
    first = expected(lambda u: inside(u, bounds), mean, sd**2)
    return first, jnp.sqrt(expected(lambda u: (inside(u, bounds) - first) ** 2, mean, sd**2))


def freed(graph: Graph, names: frozenset[str]) -> Graph:
    """The graph in which some Beta sites are on an interval and of no known kind; the same one for the same sites."""
    return graph.remember(("freed", names), lambda: _freed(graph, names)) if names else graph


def _freed(graph: Graph, names: frozenset[str]) -> Graph:
    def leaves(values: Mapping[str, Any], data: Mapping[str, Any]) -> Leaves:
        found = graph.leaves(values, data)
        for name in names:
            s, leaf = jnp.asarray(values[name]), found[name]
            log_prob = (leaf["a"] - 1.0) * jnp.log(s) + (leaf["b"] - 1.0) * jnp.log1p(-s) - betaln(leaf["a"], leaf["b"])
            found = {**found, name: {"value": s, "log_prob": log_prob}}
        return found

    nodes = (
        replace(node, kind="other", support="interval", bounds=(0.0, 1.0)) if node.name in names else node
        for node in graph.nodes
    )
    return Graph(tuple(nodes), leaves, graph.densities)
