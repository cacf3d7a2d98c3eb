"""The certificate: a numerical proof that the energy is E_q[log p].

If a function E of the mean parameters mu_1 .. mu_K satisfies

    (i)  E(t_1(z_1), .., t_K(z_K)) = log p(z, data) at all z,  and  (ii)  E is affine in every mu_k,

then E(mu) is the expectation of log p under any product of q_k with these moments, log p is conditionally conjugate, and the
coordinate update is the gradient. (i) is tested node by node against the densities of the model's own distributions at
random z, (ii) at midpoints of random moments. Both hold or fail by orders of magnitude, so few points suffice; and a
wrong rule, a discrete site read at the wrong place, or a term left out cannot pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugacy import blocks
from jensen.conjugacy.plan import Plan
from jensen.conjugacy.probe import FAST_COMPILE, coordinate
from jensen.core import keys
from jensen.models.graph import Node

POINTS = 2
LIMIT = 1e-7
"""Relative; what is right is below 1e-10, and the weakest wrong rule met so far gives 7e-5."""


@dataclass(frozen=True)
class Certificate:
    """Relative errors: of every node's density (i), of every block's affinity (ii)."""

    density: dict[str, float]
    affine: dict[str, float]

    @property
    def failed(self) -> tuple[str, ...]:
        """Nodes whose density is not matched."""
        return tuple(name for name, error in self.density.items() if not error < LIMIT)

    @property
    def bent(self) -> tuple[str, ...]:
        """Blocks in which the energy is not affine."""
        return tuple(name for name, error in self.affine.items() if not error < LIMIT)


def certify(plan: Plan, data: Mapping[str, Any], seed: int = 0) -> Certificate:
    """Test both conditions.

    Parameters
    ----------
    plan
        With an energy.
    data
        The model's arrays.
    seed
        Of the random points.
    """
    rng = keys.generator(seed, "certificate")
    known = blocks.nodes(plan)
    families = blocks.start(plan, rng)
    points = [{name: _draw(node, rng) for name, node in known.items()} for _ in range(POINTS)]

    def both(energy: Any, values: Any, data: Any) -> Any:
        moments = blocks.statistics(plan, families, values)
        found = energy.nodes(moments)
        rows = plan.graph.densities(values, data)
        return found, {name: (rows[name].sum(), jnp.abs(rows[name]).sum()) for name in found}

    first = jax.jit(both).lower(plan.energy, points[0], dict(data)).compile(compiler_options=FAST_COMPILE)
    density: dict[str, float] = {}
    for values in points:
        found, truth = first(plan.energy, values, dict(data))
        for name, value in found.items():
            total, size = (float(x) for x in truth[name])
            error = abs(float(value) - total) / (1.0 + size)
            density[name] = max(density.get(name, 0.0), error if np.isfinite(error) else np.inf)
    return Certificate(density, _affine(plan, families, points, rng))


def _affine(plan: Plan, families: Any, points: Any, rng: np.random.Generator) -> dict[str, float]:
    """How far the energy at the midpoint is from the mean of its ends, for every block that claims to be exact."""
    assert plan.energy is not None
    auxiliary = {finding.site for finding in plan.findings if finding.update == "exact" and finding.reason}
    exact = [b for b, sites in plan.blocks.items() if b not in plan.damped and not auxiliary & set(sites)]
    ends = []
    for values in points:
        moments = blocks.statistics(plan, families, values)
        for block, own in moments.items():
            if "cov" in own:  # any numbers will do where the energy is affine, a legal covariance where it is not
                n = len(own["mean"])
                cov = rng.uniform(0.1, 1.0, own["cov"].shape)
                own["cov"] = jnp.asarray(np.where(np.arange(len(cov)) < n, cov, cov * (block in exact)))
        ends.append(moments)
    program = jax.jit(lambda energy, moments: energy(moments)).lower(plan.energy, ends[0])
    energy = program.compile(compiler_options=FAST_COMPILE)
    found = {}
    here = float(energy(plan.energy, ends[0]))
    for block in exact:
        there = ends[0] | {block: ends[1][block]}
        middle = ends[0] | {block: _middle(families[block], ends[0][block], ends[1][block])}
        other, between = float(energy(plan.energy, there)), float(energy(plan.energy, middle))
        error = abs(between - 0.5 * (here + other)) / (1.0 + abs(here) + abs(other))
        found[block] = error if np.isfinite(error) else np.inf
    return found


def _middle(family: Any, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The midpoint of two moments; for Gaussians that of E[x] and E[xx'], not of the covariances."""
    middle = jax.tree.map(lambda x, y: 0.5 * (x + y), a, b)
    if "cov" in middle:
        half = 0.5 * (a["mean"] - b["mean"])
        middle["cov"] = middle["cov"] + family.pattern.outer(half[None], half[None])
    return middle


def _draw(node: Node, rng: np.random.Generator) -> np.ndarray:
    """A random value inside the node's support."""
    if node.levels is not None:
        return rng.integers(0, node.levels, node.shape)
    where = coordinate(node)
    if where == "matrix":
        dim = node.shape[-1]
        root = rng.standard_normal((*node.shape[:-1], dim + 2))
        return root @ np.swapaxes(root, -1, -2) / dim
    if node.support == "simplex":
        return rng.dirichlet(np.ones(node.shape[-1]) * 3, node.shape[:-1])
    if where == "unit":
        return rng.uniform(0.2, 0.8, node.shape)
    return 0.4 * rng.standard_normal(node.shape) if where == "real" else np.exp(0.5 * rng.standard_normal(node.shape))
