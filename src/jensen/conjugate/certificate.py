"""The certificate: a numerical proof that the energy is E_q[log p].

If a function E of the mean parameters mu_1 .. mu_K satisfies

    (i)  E(t_1(z_1), .., t_K(z_K)) = log p(z, data) at all z,  and  (ii)  E is affine in every mu_k,

then E(mu) is the expectation of log p under any product of q_k with these moments, log p is conditionally conjugate, and the
coordinate update is the gradient. (i) is tested node by node against the densities of the model's own distributions at
random z, (ii) at midpoints of random moments. Both hold or fail by orders of magnitude, so few points suffice; and a
wrong rule, a discrete site read at the wrong place, or a term left out cannot pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate import blocks
from jensen.conjugate.charts import CHARTS
from jensen.conjugate.coordinates import coordinate
from jensen.conjugate.free import Free
from jensen.conjugate.leveled import Leveled
from jensen.conjugate.pieces import known
from jensen.conjugate.plan import Plan
from jensen.conjugate.special import Predictor
from jensen.conjugate.tables import IMPOSSIBLE
from jensen.core import keys
from jensen.core.compilation import FAST_COMPILE, LARGE_ARRAYS, on_device, signature
from jensen.families.gaussian import Gaussian
from jensen.models.graph import Node

MANY = 1_000_000
"""Values of which the densities are taken, from which on the program runs longer than it is compiled; a matrix of data runs no
faster with any options."""
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
    assert plan.energy is not None
    whole = plan.energy
    rng = keys.generator(seed, "certificate")
    latents = blocks.nodes(plan)
    families = blocks.start(plan, rng)
    points = [{name: draw(node, rng) for name, node in latents.items()} for _ in range(2)]
    wide = _wide(latents, rng)
    if any(table.excluding for table in whole.tables.values()):
        points = _possible(plan, families, points + wide, seed)
        points, wide = points[:2], points[2:]
    spread = {block: _covariances(families[block], block in plan.damped, rng) for block in plan.blocks}
    changing, back, shape = known(plan.energy)
    inputs = on_device(dict(data))
    rest = (changing, families, *points, _zeros(spread), _share(plan, 0.0), np.array(True), inputs)

    def build() -> Any:
        large = sum(prod(node.shape) for node in plan.graph.nodes) > MANY
        return _program(plan, back).lower(*rest).compile(compiler_options=LARGE_ARRAYS if large else FAST_COMPILE)

    compiled = plan.graph.remember(("certificate", shape, signature(rest), tuple(plan.blocks.items())), build)

    def nodes(first: Any, second: Any, spread: Any, share: Any, compare: bool = True) -> Any:
        found = compiled(changing, families, first, second, spread, share, np.array(compare), inputs)
        return jax.tree.map(float, jax.device_get(found))

    density: dict[str, float] = {}
    some = [*whole.sums.items(), *((name, table.parts) for name, table in whole.tables.items())]
    saturated = {name for name, pieces in some if any(isinstance(p, Predictor | Free | Leveled) for p in pieces)}
    for pair, far_out in ((points, False), (points[::-1], False), (wide, True), (wide[::-1], True)):
        first, second = pair
        found, truth, _ = nodes(first, second, _zeros(spread), _share(plan, 0.0))
        for name, value in found.items():
            total, size = truth[name]
            if far_out and (name in saturated or not np.isfinite(total)):
                continue  # far out, log(1 - p) of a link has no digits left, and exponentials overflow
            error = abs(value - total) / (1.0 + size)
            density[name] = max(density.get(name, 0.0), error if np.isfinite(error) else np.inf)

    def energy(share: Any) -> tuple[float, dict[str, float]]:
        found, _, parts = nodes(points[0], points[1], spread, share, compare=False)
        return sum(found.values()), parts

    auxiliary = {finding.site for finding in plan.findings if finding.update == "exact" and finding.reason}
    affine, (here, before) = {}, energy(_share(plan, 0.0))
    for block, sites in plan.blocks.items():
        if block in plan.damped or auxiliary & set(sites):
            continue
        between, _ = energy(_share(plan, 0.0) | {block: 0.5})
        there, after = energy(_share(plan, 0.0) | {block: 1.0})
        error = abs(between - 0.5 * (here + there))
        if block in after:  # natural parameters that were summed up beforehand say the same as the energy
            error = max(error, abs(after[block] - before[block] - (there - here)))
        error = error / (1.0 + abs(here) + abs(there))
        affine[block] = error if np.isfinite(error) else np.inf
    return Certificate(density, affine)


def _share(plan: Plan, share: float) -> dict[str, float]:
    return dict.fromkeys(plan.blocks, share)


def _zeros(spread: Any) -> Any:
    return {block: np.zeros_like(cov) for block, cov in spread.items()}


def _covariances(family: Any, damped: bool, rng: np.random.Generator) -> np.ndarray:
    """Any numbers will do where the energy is affine, a legal covariance where it is not."""
    if not isinstance(family, Gaussian):
        return np.zeros(0)
    n = family.pattern.diagonal
    cov = rng.uniform(0.1, 1.0, family.pattern.size)
    return np.where(np.arange(len(cov)) < n, cov, 0.0 if damped else cov)


def _program(plan: Plan, back: Any) -> Any:
    """Node energies at moments between those of two points, and the densities at the first.

    Every block has its own share of the way from the first point's statistics to the second's, and Gaussian blocks get a
    covariance on top: one program serves both conditions.
    """
    graph, plan = plan.graph, replace(plan, energy=None)  # which holds data

    def both(
        changing: Any, families: Any, first: Any, second: Any, spread: Any, share: Any, compare: Any, data: Any
    ) -> tuple[Any, Any, Any]:
        energy = back(changing)
        here, there = (blocks.statistics(plan, families, values) for values in (first, second))
        moments = {block: _between(families[block], here[block], there[block], share[block]) for block in here}
        for block, own in moments.items():
            if isinstance(families[block], Gaussian):
                own["cov"] = own["cov"] + spread[block]
        found = energy.nodes(moments)
        names = tuple(found)

        def truth(data: Any) -> dict[str, tuple[Any, Any]]:
            rows = graph.densities(first, data)
            more = blocks.volume(plan, first)
            sums = {name: _sums(rows[name]) for name in names}
            return {name: (total + more.get(name, 0.0), size) for name, (total, size) in sums.items()}

        def nothing(data: Any) -> dict[str, tuple[Any, Any]]:
            return dict.fromkeys(names, (jnp.zeros(()), jnp.zeros(())))

        parts = {block: own.value(moments, block) for block, own in energy.naturals.items()}
        return found, jax.lax.cond(compare, truth, nothing, data), parts

    return jax.jit(both)


def _sums(rows: Any) -> tuple[Any, Any]:
    """Sums of numbers and of their sizes, in one pass that does not store them: millions of rows take longer to store."""
    rows = jnp.asarray(rows, float)
    zero = jnp.zeros((), rows.dtype)
    return tuple(
        jax.lax.reduce(
            (rows, jnp.abs(rows)), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), tuple(range(rows.ndim))
        )
    )


def _between(family: Any, a: dict[str, Any], b: dict[str, Any], share: Any) -> dict[str, Any]:
    """Moments part of the way from a to b; for Gaussians those of E[x] and E[xx'], not of the covariances."""
    found = jax.tree.map(lambda x, y: (1 - share) * x + share * y, a, b)
    if isinstance(family, Gaussian):
        apart = (a["mean"] - b["mean"])[None]
        found["cov"] = found["cov"] + share * (1 - share) * family.pattern.outer(apart, apart)
    return found


def draw(node: Node, rng: np.random.Generator) -> np.ndarray:
    """A random value inside the node's support."""
    if node.levels is not None:
        return rng.integers(0, node.levels, node.shape)
    if node.bounds is not None:
        return node.bounds[0] + (node.bounds[1] - node.bounds[0]) * rng.uniform(0.2, 0.8, node.shape)
    where = coordinate(node)
    if where == "matrix":
        dim = node.shape[-1]
        root = rng.standard_normal((*node.shape[:-1], dim + 2))
        return root @ np.swapaxes(root, -1, -2) / dim
    if node.support == "simplex":
        return rng.dirichlet(np.ones(node.shape[-1]) * 3, node.shape[:-1])
    if node.support in CHARTS:
        chart = CHARTS[node.support]
        return chart.value(0.4 * rng.standard_normal(chart.shape(node.shape)))
    if where == "unit":
        return rng.uniform(0.2, 0.8, node.shape)
    return 0.4 * rng.standard_normal(node.shape) if where == "real" else np.exp(0.5 * rng.standard_normal(node.shape))


def _wide(known: Mapping[str, Node], rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    """Two points far out, the second the mirror image of the first: kinks away from the origin lie before one of them."""
    sides: list[dict[str, np.ndarray]] = [{}, {}]
    for name, node in known.items():
        where = coordinate(node) if node.levels is None else None
        sign = rng.choice([-1.0, 1.0], node.shape)
        if where == "real":
            x = sign * rng.uniform(3.0, 5.0, node.shape)
            sides[0][name], sides[1][name] = x, -x
        elif where == "log" and node.support == "positive":
            x = sign * rng.uniform(5.0, 6.0, node.shape)
            sides[0][name], sides[1][name] = np.exp(x), np.exp(-x)
        elif where == "unit":
            x = 0.5 + 0.5 * sign * rng.uniform(0.8, 0.98, node.shape)
            sides[0][name], sides[1][name] = x, 1.0 - x
        else:
            sides[0][name], sides[1][name] = draw(node, rng), draw(node, rng)
    return sides


def _possible(plan: Plan, families: Any, points: list[Any], seed: int) -> list[dict[str, Any]]:
    """The points with levels that are not excluded given all else: a Gibbs sweep with equal odds for what is possible."""
    discrete = plan.energy.discrete  # type: ignore[union-attr]

    def levels(energy: Any, values: Any, noise: Any) -> dict[str, Any]:
        moments = blocks.statistics(plan, families, values)
        own = {name: moments[name] for name in discrete}
        potentials = jax.tree.map(
            lambda slope: jnp.where(slope > 0.1 * IMPOSSIBLE, 0.0, IMPOSSIBLE),
            jax.grad(lambda own: energy(moments | own))(own),
        )
        drawn = {name: families[name].from_gradient(potentials[name], own[name]).at(noise[name]) for name in discrete}
        return {name: blocks.unflat(plan, name, x)[name][0] for name, x in drawn.items()}

    rng = keys.generator(seed, "possible levels")
    noise = {name: families[name].noise(rng, 1) for name in discrete}
    compiled = jax.jit(levels).lower(plan.energy, points[0], noise).compile(compiler_options=FAST_COMPILE)
    found = []
    for point in points:
        for name in discrete * 2:
            drawn = compiled(plan.energy, point, {name: families[name].noise(rng, 1) for name in discrete})
            point = point | {name: np.asarray(drawn[name], points[0][name].dtype)}
        found.append(point)
    return found
