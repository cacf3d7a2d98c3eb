"""The table of a node with free sites under discrete sites: ordered means of a mixture, shares that have levels beneath.

    e_nk = sum_m w_m [a(f_m, k) + sum_j c_j(f_m, k) E[s_j]_nk]

with the draws f_m of `jensen.conjugate.free`, and k every combination of levels, or the node's own. It is evaluated at every
level for all rows, so that its cost is rows times levels times draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate.free import PARTS, Draws, Held, draws_of
from jensen.conjugate.layout import Layout
from jensen.conjugate.places import static
from jensen.conjugate.priors import trimmed
from jensen.conjugate.slots import Affine, fit
from jensen.conjugate.terms import Drawn, NotConjugate
from jensen.conjugate.ways import Way
from jensen.models.graph import Graph, Node

MOST_NUMBERS = 20_000_000
"""Rows times levels times draws of a table."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Leveled:
    """The table.

    Attributes
    ----------
    draws
        Of the free sites.
    levels
        Combinations (C, discrete sites).
    inputs
        Arrays that the leaves read.
    held
        What the free sites do not enter.
    value
        Observed numbers of the rows (n, columns), for starts; None where there are none.
    axes
        Of the node's shape along which the discrete sites vary; over the others the table is summed up.
    """

    draws: Draws
    levels: Any
    inputs: tuple[Any, ...]
    held: tuple[Held, ...]
    value: Any
    leaves: Callable[..., Any] = static()
    rule: str = static()
    shape: tuple[int, ...] = static()
    sites: tuple[tuple[str, tuple[int, ...], Way], ...] = static()
    axes: tuple[int, ...] = static()

    hoisted = False
    alike = None

    def table(self, moments: Any, levels: int) -> Any:
        """Of all rows and levels, (n, C)."""
        x, weights = self.draws(moments), jnp.asarray(self.draws.weights)

        def at(k: Any) -> Any:
            parts = jax.vmap(lambda one: self._parts(one, k))(x)
            return jax.tree.map(lambda part: jnp.tensordot(weights, part, 1), parts)

        total, coefficients = jax.vmap(at)(jnp.asarray(self.levels))
        for coefficient, held in zip(coefficients, self.held, strict=True):
            total = total + coefficient * held(moments)
        others = tuple(1 + axis for axis in range(len(self.shape)) if axis not in self.axes)
        return total.sum(others).reshape(levels, -1).T

    def _parts(self, x: Any, k: Any) -> Any:
        values = [*self.draws.values(x, self.sites), *(k[n] for n in range(self.levels.shape[1]))]
        free, coefficients = PARTS[self.rule].at(*self.leaves(*values, *self.inputs))
        parts = (jnp.broadcast_to(jnp.asarray(part, float), self.shape) for part in (free, *coefficients))
        free, *coefficients = parts
        return free, tuple(coefficients)


def leveled(
    term: Drawn,
    graph: Graph,
    node: Node,
    data: Mapping[str, Any],
    points: Mapping[str, Any],
    layout: Layout,
    discrete: Sequence[str],
    axes: Sequence[int],
) -> Leveled:
    """The table of a drawn term.

    Parameters
    ----------
    term, graph, node, data, points, layout
        As in `jensen.conjugate.free.free`.
    discrete
        The discrete sites in the order of the levels; the node itself last, if it is one.
    axes
        Of the node's shape along which they vary.
    """
    latents = {one.name: one for one in graph.nodes if one.latent}
    order, draws = draws_of(term, latents, layout)
    counts = [latents[name].levels or 1 for name in discrete]
    levels = np.stack(np.unravel_index(np.arange(int(np.prod(counts))), counts), 1)
    if len(levels) * int(np.prod(node.shape)) * len(draws.nodes) > MOST_NUMBERS:
        raise NotConjugate(
            set(term.sites), f"{node.name} would be averaged over draws at every level of {', '.join(discrete)}"
        )
    names = PARTS[term.rule].leaves
    leaves, reads, fixed = graph.remember(
        ("leveled", node.name, term.rule, tuple(order), tuple(discrete)),
        lambda: _traced(graph, node.name, names, order, discrete, dict(data), dict(points)),
    )
    flat = jax.tree.leaves(dict(data))
    sites = tuple((name, latents[name].shape, layout.way(name)) for name in order)
    held = tuple(_held(kind, affine, node.shape, layout) for kind, affine in term.factors)
    value = None
    if term.value is not None:
        whole = np.broadcast_to(fit(np.asarray(term.value, float), len(node.shape)), (1, *node.shape))[0]
        value = np.moveaxis(whole, axes, range(len(axes))).reshape(int(np.prod([node.shape[a] for a in axes])), -1)
    inputs = (*fixed, *(flat[n] for n in reads))
    return Leveled(draws, levels, inputs, held, value, leaves, term.rule, node.shape, sites, tuple(axes))


def _held(kind: str, affine: Affine, shape: tuple[int, ...], layout: Layout) -> Held:
    axes = len(shape)
    reads = tuple(
        layout.read(slot._replace(index=fit(slot.index, axes), weight=fit(slot.weight, axes))) for slot in affine.slots
    )
    constant = fit(np.asarray(affine.constant, float), axes)
    return Held(np.exp(constant) if kind == "mean" else constant, reads, None, kind)


def _traced(
    graph: Graph,
    name: str,
    leaves: Sequence[str],
    sites: Sequence[str],
    discrete: Sequence[str],
    data: Any,
    points: Any,
) -> tuple[Callable[..., Any], list[int], tuple[Any, ...]]:
    """Leaves as functions (*values, *levels, *inputs); which leaves of the data the inputs are, after constants."""

    def evaluate(*given: Any) -> Any:
        *values, rest = given
        levels = {
            one: jnp.full(np.shape(points[one]), level)
            for one, level in zip(discrete, values[len(sites) :], strict=True)
        }
        whole = {**points, **dict(zip(sites, values, strict=False)), **levels}
        if leaves == ("density",):
            return [jnp.asarray(graph.densities(whole, rest)[name], float)]
        found = graph.leaves(whole, rest)[name]
        return [jnp.asarray(found[leaf], float) for leaf in leaves]

    values = [jnp.asarray(points[site], float) for site in sites]
    return trimmed(evaluate, [*values, *(np.zeros((), np.int64) for _ in discrete)], data)
