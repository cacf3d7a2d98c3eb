"""The piece of a node with free sites: quadrature or reparameterized draws of them, times what the other sites enter with.

The formulas, sum_m w_m [a(f_m) + sum_j c_j(f_m) E[s_j]], are in `jensen.conjugate.drawn`. Nodes eps_m are those of Gauss and
Hermite for one or two free elements, else points of Sobol in pairs +-eps, whose mean is 0 and covariance 1 exactly; they are the
same in every sweep, so that the ELBO is one function.

Reference: Kingma & Welling (2014), Auto-encoding variational Bayes, for the reparameterization.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln, gammaln

from jensen.conjugate.hermite import standard
from jensen.conjugate.layout import Layout
from jensen.conjugate.pieces import Read
from jensen.conjugate.places import static
from jensen.conjugate.priors import trimmed
from jensen.conjugate.slots import Affine, fit
from jensen.conjugate.special import Linear, linear
from jensen.conjugate.terms import Drawn
from jensen.conjugate.ways import Way
from jensen.models.graph import Graph, Node

# -- what the free parts are, at draws of the free sites: a, (c_1, c_2, ...) ----------------------------------------------------


class _Parts(NamedTuple):
    leaves: tuple[str, ...]
    at: Callable[..., tuple[Any, tuple[Any, ...]]]


def _loc(value: Any, loc: Any) -> Any:
    return 0.0, (-0.5 * (value - loc) ** 2, 1.0)


def _scale(scale: Any) -> Any:
    return -jnp.log(scale), (-0.5 / scale**2,)


def _shape(concentration: Any) -> Any:
    return -gammaln(concentration), (concentration, -1.0, -1.0)


def _shape_and_rate(concentration: Any, rate: Any) -> Any:
    return concentration * jnp.log(rate) - gammaln(concentration), (concentration, -1.0, -rate)


def _shapes(a: Any, b: Any) -> Any:
    return -betaln(a, b), (a - 1.0, b - 1.0)


def _concentrations(concentration: Any) -> Any:
    total = concentration.sum(-1, keepdims=True)
    return gammaln(total) / concentration.shape[-1] - gammaln(concentration), (concentration - 1.0,)


PARTS = {
    "loc": _Parts(("value", "loc"), _loc),
    "scale": _Parts(("scale",), _scale),
    "shape": _Parts(("concentration",), _shape),
    "shape and rate": _Parts(("concentration", "rate"), _shape_and_rate),
    "beta": _Parts(("a", "b"), _shapes),
    "dirichlet": _Parts(("concentration",), _concentrations),
    "density": _Parts(("density",), lambda density: (density, ())),
}
"""The gamma rules' second factor, log x, has no free coefficient: it is the base measure; so has the log precision's half."""


# -- the piece ------------------------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Held:
    """The expectation s_j of what the free sites do not enter: "log" and "mean" of reads with a constant, or "square" of rows."""

    constant: Any
    reads: tuple[Read, ...] = ()
    rows: Linear | None = None
    kind: str = static(default="log")

    def __call__(self, moments: Any) -> Any:
        """It, compact (*rows)."""
        if self.rows is not None:
            mean, variance = self.rows(moments)
            return mean**2 + variance
        if self.kind == "log":
            return sum((read.log(moments) for read in self.reads), self.constant)
        total = self.constant
        for read in self.reads:
            total = total * read.mean(moments)
        return total


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Draws:
    """Nodes (M, d) and weights (M,) of the free elements; for each of their blocks the elements and the covariances' places.

    Without nodes (None) there is one draw, the mean, which is all there is to a point mass.
    """

    nodes: Any
    weights: Any
    index: tuple[Any, ...]
    position: tuple[Any, ...]
    blocks: tuple[str, ...] = static()

    def __call__(self, moments: Any) -> Any:
        """(M, d): the blocks' own variables."""
        if self.nodes is None:
            return jnp.concatenate(
                [moments[block]["mean"][i] for block, i in zip(self.blocks, self.index, strict=True)]
            )[None]
        parts, start = [], 0
        for block, index, position in zip(self.blocks, self.index, self.position, strict=True):
            mean, cov = moments[block]["mean"][index], moments[block]["cov"][position]
            noise, start = self.nodes[:, start : start + len(index)], start + len(index)
            # A point mass has draws too; its root must have a derivative.
            cov = cov + 1e-300 * jnp.eye(len(index))
            root = jnp.sqrt(cov) if len(index) == 1 else jnp.linalg.cholesky(cov)
            parts.append(mean + noise @ root.T)
        return jnp.concatenate(parts, 1)

    def at_points(self) -> "Draws":
        """The draw of point masses."""
        return replace(self, nodes=None, weights=np.ones(1))

    @staticmethod
    def values(x: Any, sites: Sequence[tuple[str, tuple[int, ...], Way]]) -> list[Any]:
        """Values of sites of these shapes from one draw x (d,) of their elements."""
        values, start = [], 0
        for _, shape, way in sites:
            size = int(np.prod(shape))
            values.append(way.value(x[start : start + size].reshape(shape)))
            start += size
        return values


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Free:
    """The expected log density of a node with free sites."""

    draws: Draws
    inputs: tuple[Any, ...]
    held: tuple[Held, ...]
    leaves: Callable[..., Any] = static()
    rule: str = static()
    shape: tuple[int, ...] = static()
    sites: tuple[tuple[str, tuple[int, ...], Way], ...] = static()

    @property
    def blocks(self) -> tuple[str, ...]:
        """Of the free sites."""
        return self.draws.blocks

    def __call__(self, moments: Any) -> Any:
        """The sum over rows, a scalar."""
        free, coefficients = jax.vmap(self._parts)(self.draws(moments))
        weights = jnp.asarray(self.draws.weights)
        total = (weights @ free.reshape(len(free), -1)).sum()
        for coefficient, held in zip(coefficients, self.held, strict=True):
            mean = jnp.tensordot(weights, coefficient, 1)
            total = total + (mean * jnp.broadcast_to(held(moments), self.shape)).sum()
        return total

    def _parts(self, x: Any) -> Any:
        values = self.draws.values(x, self.sites)
        free, coefficients = PARTS[self.rule].at(*self.leaves(*values, *self.inputs))
        full = self.shape if self.rule != "density" else jnp.shape(free)
        spread = tuple(jnp.broadcast_to(jnp.asarray(c, float), self.shape) for c in coefficients)
        return jnp.broadcast_to(jnp.asarray(free, float), full), spread


def draws_of(term: Drawn, latents: Mapping[str, Node], layout: Layout) -> tuple[list[str], Draws]:
    """The free sites of a term in the order of their elements, and their draws."""
    order = sorted(term.sites, key=lambda name: (layout.block[name], layout.offset[name]))
    by_block: dict[str, list[np.ndarray]] = {}
    for name in order:
        index = layout.offset[name] + np.arange(int(np.prod(latents[name].shape)))
        by_block.setdefault(layout.block[name], []).append(index)
    index = tuple(np.concatenate(some) for some in by_block.values())
    position = tuple(layout.position(b, i[:, None], i[None]) for b, i in zip(by_block, index, strict=True))
    return order, Draws(*standard(sum(map(len, index))), index, position, tuple(by_block))


def free(
    term: Drawn, graph: Graph, node: Node, data: Mapping[str, Any], points: Mapping[str, Any], layout: Layout
) -> Free:
    """The piece of a drawn term.

    Parameters
    ----------
    term, node
        The node's.
    graph, data
        The model, and its arrays.
    points
        Latent node -> any value, for those that the free parameters do not depend on.
    layout
        Where the sites are.
    """
    latents = {one.name: one for one in graph.nodes if one.latent}
    order, draws = draws_of(term, latents, layout)
    key = ("free", node.name, term.rule, tuple(order))
    leaves, reads, fixed = graph.remember(
        key, lambda: _traced(graph, node.name, PARTS[term.rule].leaves, order, dict(data), dict(points))
    )
    flat = jax.tree.leaves(dict(data))
    sites = tuple((name, latents[name].shape, layout.way(name)) for name in order)
    held = tuple(_held(kind, affine, node.shape, layout) for kind, affine in term.factors)
    return Free(draws, (*fixed, *(flat[n] for n in reads)), held, leaves, term.rule, node.shape, sites)


def _held(kind: str, affine: Affine, shape: tuple[int, ...], layout: Layout) -> Held:
    axes = len(shape)
    if kind == "square":
        rows = Affine(
            np.broadcast_to(fit(affine.constant, axes), (1, *shape))[0],
            tuple(
                slot._replace(index=fit(slot.index, axes)[0], weight=fit(slot.weight, axes)[0]) for slot in affine.slots
            ),
        )
        return Held(np.zeros(()), (), linear(rows, layout), "square")
    reads = []
    for slot in affine.slots:
        reads.append(layout.read(slot._replace(index=fit(slot.index, axes)[0], weight=fit(slot.weight, axes)[0])))
    constant = fit(np.asarray(affine.constant, float), axes)[0]
    return Held(np.exp(constant) if kind == "mean" else constant, tuple(reads), None, kind)


def _traced(
    graph: Graph, name: str, leaves: Sequence[str], sites: Sequence[str], data: Any, points: Any
) -> tuple[Callable[..., Any], list[int], tuple[Any, ...]]:
    """Leaves as functions (*values, *inputs); which leaves of the data the inputs are, after constants of the model's own."""

    def evaluate(*given: Any) -> Any:
        *values, data = given
        whole = {**points, **dict(zip(sites, values, strict=True))}
        if leaves == ("density",):
            return [jnp.asarray(graph.densities(whole, data)[name], float)]
        found = graph.leaves(whole, data)[name]
        return [jnp.asarray(found[leaf], float) if leaf in found else whole[name] for leaf in leaves]

    return trimmed(evaluate, [jnp.asarray(points[site], float) for site in sites], data)
