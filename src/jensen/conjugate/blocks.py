"""Blocks of q: from a plan to families, from the values of sites to a block's statistics, and back.

A block of Gaussian sites is one flat vector; every other block is one site in its own shape. Markov chains have their batch of
sequences in front, while the site has time first.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jensen.conjugate.layout import GAUSSIAN
from jensen.conjugate.plan import Plan
from jensen.families.discrete import Categorical
from jensen.families.exponential import Beta, Dirichlet, Gamma, InverseGamma
from jensen.families.gaussian import Gaussian
from jensen.families.markov import MarkovChain
from jensen.families.wishart import InverseWishart, Wishart
from jensen.models.graph import Node

Families = dict[str, Any]


def nodes(plan: Plan) -> dict[str, Node]:
    """Latent nodes by name."""
    return {node.name: node for node in plan.graph.nodes if node.latent}


def flat(plan: Plan, block: str, values: Mapping[str, Any]) -> Any:
    """A block's own variable from the values of its sites."""
    names = plan.blocks[block]
    roles = plan.layout.role  # type: ignore[union-attr]
    if roles[names[0]] in GAUSSIAN:
        return jnp.concatenate([own(plan, name, jnp.asarray(values[name])).reshape(-1) for name in names])
    value = jnp.asarray(values[names[0]])
    return jnp.moveaxis(value, 0, -1) if roles[names[0]] == "chain" else value


def unflat(plan: Plan, block: str, x: Any) -> dict[str, Any]:
    """Values of a block's sites from its own variable (..., *shape), any leading axes; NumPy from NumPy."""
    names, known, xp = plan.blocks[block], nodes(plan), np if isinstance(x, np.ndarray) else jnp
    roles = plan.layout.role  # type: ignore[union-attr]
    if roles[names[0]] not in GAUSSIAN:
        rank = len(known[names[0]].shape)
        return {names[0]: xp.moveaxis(x, -1, np.ndim(x) - rank) if roles[names[0]] == "chain" else x}
    found, start = {}, 0
    for name in names:
        shape = own_shape(plan, known[name])
        size = int(np.prod(shape))
        part = x[..., start : start + size].reshape(*x.shape[:-1], *shape)
        found[name] = plan.charts[name].value(part) if name in plan.charts else plan.layout.way(name).value(part)  # type: ignore[union-attr]
        start += size
    return found


def own(plan: Plan, name: str, value: Any) -> Any:
    """What a Gaussian block holds of a site's value; NumPy from NumPy."""
    return plan.charts[name].own(value) if name in plan.charts else plan.layout.way(name).own(value)  # type: ignore[union-attr]


def own_shape(plan: Plan, node: Node) -> tuple[int, ...]:
    """Its shape."""
    return plan.charts[node.name].shape(node.shape) if node.name in plan.charts else node.shape


def volume(plan: Plan, values: Mapping[str, Any]) -> dict[str, Any]:
    """Log volumes by which the energy's densities of sites with charts are more than the model's, at their values."""
    return {name: chart.volume(values[name]).sum() for name, chart in plan.charts.items() if name in values}


def statistics(plan: Plan, families: Families, values: Mapping[str, Any]) -> dict[str, Any]:
    """Moments of the point mass at the values of all sites."""
    return {block: families[block].statistics(flat(plan, block, values)) for block in plan.blocks}


def start(plan: Plan, rng: np.random.Generator) -> Families:
    """Families to start from: centered and wide enough to be told by the data, with random levels and small random means."""
    known, families = nodes(plan), {}
    layout = plan.layout
    assert layout is not None
    for block, names in plan.blocks.items():
        role, shape = layout.role[names[0]], known[names[0]].shape
        if role in GAUSSIAN:
            pattern = layout.pattern[block]
            # Narrow where exponentials of the block are read: far out, probabilities are zero.
            variance = np.full(pattern.n, 0.1 if role != "gaussian" else 1.0)
            for name in plan.charts.keys() & set(names):
                size = int(np.prod(own_shape(plan, known[name])))
                variance[layout.offset[name] : layout.offset[name] + size] = 0.1
            # Products of two sites have a stationary point at zero: random means leave it.
            families[block] = Gaussian.point(pattern, 0.1 * rng.standard_normal(pattern.n), variance)
        elif role in ("gamma", "inverse gamma"):
            family = Gamma if role == "gamma" else InverseGamma
            spread = 1.0 + 0.2 * rng.uniform(-1, 1, shape)
            families[block] = family(2.0 * spread, 2.0 * np.ones(shape))
        elif role == "beta":
            families[block] = Beta(np.ones(shape), np.ones(shape))
        elif role == "dirichlet":
            families[block] = Dirichlet(rng.gamma(100.0, 0.01, shape) * 10)
        elif role in ("wishart", "inverse wishart"):
            dim = shape[-1]
            scale = np.array(np.broadcast_to(np.eye(dim), shape))
            df = np.full(shape[:-2], dim + 2.0)
            families[block] = Wishart(df, scale * (dim + 2.0)) if role == "wishart" else InverseWishart(df, scale)
        elif role == "categorical":
            levels = known[names[0]].levels or 2
            families[block] = Categorical(np.log(rng.dirichlet(np.ones(levels), shape)))
        else:
            levels, shape = known[names[0]].levels or 2, (*shape[1:], shape[0])
            unary = np.log(rng.dirichlet(np.ones(levels), shape))
            steps = 1 if plan.energy is not None and plan.energy.tables[block].steady else shape[-1] - 1
            families[block] = MarkovChain(unary, np.zeros((*shape[:-1], steps, levels, levels)))
    return families
