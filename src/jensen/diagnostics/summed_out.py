"""The posterior of a mixture's continuous sites, its levels summed out: an ordinary target for gradient chains.

Given the continuous sites x, the levels of the rows are independent, and the energy is affine in their probabilities phi. So

    log p(x, data) = E(x, phi = 0) + sum_n log sum_k exp(dE / dphi_nk),

with E at point masses, where all draws of free sites are one. It needs no complete conditionals: free sites are coordinates like
others, and chains on it move where those that draw levels in turn would stay. Levels are drawn at the end, given x.

Requires: discrete sites that are no chains and meet no other one in a node; deterministics that read none.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate import blocks
from jensen.conjugate.dependence import dependence
from jensen.conjugate.energy import Energy
from jensen.conjugate.pieces import known
from jensen.conjugate.plan import Plan
from jensen.conjugate.product import Product
from jensen.core import keys
from jensen.core.compilation import FAST_COMPILE
from jensen.diagnostics.correct import Correction
from jensen.diagnostics.quantities import Draws
from jensen.families.discrete import levels_at
from jensen.models.model import Factors, Model

MOST_ROWS = 50_000
"""Rows times levels of a point; each chain passes through them hundreds of times."""
MOST_NUMBERS = 30_000_000
"""Levels of all draws."""
_BATCH = 128


def possible(q: Product) -> str:
    """Why the levels cannot be summed out, row by row; empty when they can."""
    energy, nodes = q.plan.energy, blocks.nodes(q.plan)
    assert energy is not None
    if energy.chains or any(len(table.sites) > 1 for table in energy.tables.values()):
        return "its discrete sites depend on each other"
    if any(finding.update == "exact" and finding.reason for finding in q.plan.findings):
        return "it has auxiliary variables"
    rows = sum(int(np.prod(nodes[name].shape)) * (nodes[name].levels or 1) for name in energy.discrete)
    if rows > MOST_ROWS or set(q.families) != set(q.plan.blocks):
        return "there are too many rows for chains"
    return "a deterministic reads its levels" if q.model.derived and _reads_levels(q) else ""


def _reads_levels(q: Product) -> bool:
    model, nodes = q.model, blocks.nodes(q.plan)
    free = {site.name: np.zeros(site.free_shape) for site in model.sites}
    free |= {name: np.zeros(nodes[name].shape, int) for name in model.discrete}
    found = dependence(lambda free: model.constrain(free, model.data)[1], free)
    return any(
        reads & set(model.discrete) for reads in jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, frozenset))
    )


def summed_out(q: Product) -> Model:
    """The model without its discrete sites; its data are the energy's arrays beside the user's."""
    assert q.plan.energy is not None
    changing, back, shape = known(q.plan.energy.at_points())
    names = tuple(f"energy {number}" for number in range(len(changing)))
    model, remember = q.model, q.plan.graph.remember
    factors = remember(
        ("summed out", shape, tuple(q.plan.blocks.items()), model.sites),
        lambda: _factors(_shapes(q), back, names, model.constrain, model.factors),
    )
    constrain = remember(("summed out, sites", names, model.sites), lambda: _without(model.constrain, names))
    data = model.data | dict(zip(names, map(np.asarray, changing), strict=True))
    return replace(
        model, discrete=(), factors=factors, constrain=constrain, data=data, likelihoods=(), graph=None, predict=None
    )


class _Shapes(NamedTuple):
    """What the programs keep of a q, which are no data: plan, families by block, discrete sites."""

    plan: Plan
    families: dict[str, Any]
    discrete: tuple[str, ...]


def _shapes(q: Product) -> _Shapes:
    assert q.plan.energy is not None
    empty = {
        block: jax.tree.map(lambda x: np.zeros_like(x) if np.issubdtype(x.dtype, np.floating) else x, family)
        for block, family in q.families.items()
    }
    return _Shapes(replace(q.plan, energy=None), empty, q.plan.energy.discrete)


def _factors(shapes: _Shapes, back: Any, names: tuple[str, ...], constrain: Any, factors: Any) -> Any:
    def summed(free: Mapping[str, Any], data: Mapping[str, Any]) -> Factors:
        own = {name: value for name, value in data.items() if name not in names}
        values, _ = constrain(free, own)
        rest, logits = _apart(shapes, back([data[name] for name in names]), values)
        rows = {name: jax.nn.logsumexp(each, -1) for name, each in logits.items()}
        return Factors(rows | {"all else": rest}, {}, factors(free, own).jacobian)

    return summed


def _apart(shapes: _Shapes, energy: Energy, values: Any) -> tuple[Any, dict[str, Any]]:
    """The log density without the terms of levels, and of every discrete site the log odds of its levels (..., K)."""
    plan, families, discrete = shapes
    continuous = (block for block in plan.blocks if block not in discrete)
    moments = {block: families[block].statistics(blocks.flat(plan, block, values)) for block in continuous}
    none = {name: {"probs": jnp.zeros(families[name].logits.shape)} for name in discrete}
    rest, slopes = jax.value_and_grad(lambda some: energy(moments | some))(none)
    volume = sum(blocks.volume(plan, values).values(), jnp.zeros(()))
    return rest - volume, {name: slopes[name]["probs"] for name in discrete}


def _without(constrain: Any, names: tuple[str, ...]) -> Any:
    def values(free: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        return constrain(free, {name: value for name, value in data.items() if name not in names})

    return values


def with_levels(q: Product, found: Correction, seed: int) -> Correction:
    """The chains' draws with levels given all else, where these are not too many."""
    nodes, energy = blocks.nodes(q.plan), q.plan.energy
    assert energy is not None
    n = len(found.weights)
    if n * sum(int(np.prod(nodes[name].shape)) for name in energy.discrete) > MOST_NUMBERS:
        return found
    changing, back, shape = known(energy.at_points())
    rng = keys.generator(seed, "levels")

    def build() -> Any:
        shapes = _shapes(q)

        def one(changing: Any, values: Any, chance: Any) -> Any:
            logits = _apart(shapes, back(changing), values)[1]
            return {name: levels_at(each, chance[name]) for name, each in logits.items()}

        return jax.jit(jax.vmap(one, (None, 0, 0)), compiler_options=FAST_COMPILE)

    call = q.plan.graph.remember(("levels given all else", shape, tuple(q.plan.blocks.items())), build)
    parts = []
    for start in range(0, n, _BATCH):
        rows = np.minimum(np.arange(start, start + _BATCH), n - 1)
        values = {site.name: found.draws.values[site.name][rows] for site in q.model.sites}
        chance = {name: 1.0 - rng.random((_BATCH, *nodes[name].shape)) for name in energy.discrete}
        parts.append(jax.tree.map(np.asarray, call(changing, values, chance)))
    drawn = {name: np.concatenate([part[name] for part in parts])[:n] for name in energy.discrete}
    draws = Draws(found.draws.z, np.full(n, np.nan), found.draws.values | drawn, found.draws.derived)
    return replace(found, draws=draws)
