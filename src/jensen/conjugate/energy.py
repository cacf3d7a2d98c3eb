"""The energy E_q[log p] as a function of mean parameters, node by node, and what turns a model's factors into it.

    energy(mu) = sum over nodes of  sums  +  sum_n sum_k phi_nk e_nk   (tables, under discrete sites)  +  constants

It is affine in the mean parameters of every conjugate block, so that one gradient is the block's coordinate ascent update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate.cells import arrange, sums, table
from jensen.conjugate.columns import Columns, columns
from jensen.conjugate.free import Free, free
from jensen.conjugate.layout import POSITIVE, Layout
from jensen.conjugate.leveled import Leveled, leveled
from jensen.conjugate.naturals import Form, Naturals, form, naturals
from jensen.conjugate.pieces import Read, Sum, features
from jensen.conjugate.places import static
from jensen.conjugate.priors import Prior, prior
from jensen.conjugate.products import Products, products
from jensen.conjugate.shapes import LogGammas, log_gammas
from jensen.conjugate.slots import fit
from jensen.conjugate.special import PoissonSum, Predictor, poisson_sum, predictor
from jensen.conjugate.tables import IMPOSSIBLE, Constant, Tables, expectations, names
from jensen.conjugate.terms import Curved, Drawn, Factor, NotConjugate, Predicted, Quadratic, Sampled
from jensen.conjugate.ways import Moved, Way
from jensen.models.graph import Graph, Node


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Energy:
    """E_q[log p] of a model.

    Attributes
    ----------
    sums
        Node -> pieces without discrete parents.
    tables
        Node -> `Tables`.
    constant
        Node -> number.
    chains
        Discrete sites that are Markov chains (their probabilities come with the batch in front).
    moved
        Elements of Gaussian blocks that hold the logarithm or logit of their site.
    alone
        Blocks of one positive site, which is read in powers of it.
    naturals
        Gaussian block -> its natural parameters, where their parts are known.
    """

    sums: dict[str, tuple[Any, ...]]
    tables: dict[str, Tables]
    constant: dict[str, Any]
    discrete: tuple[str, ...] = static()
    chains: tuple[str, ...] = static()
    moved: tuple[Moved, ...] = static()
    alone: tuple[str, ...] = static()
    naturals: dict[str, Naturals] = field(default_factory=dict)

    def nodes(self, moments: Mapping[str, Any]) -> dict[str, Any]:
        """Expected log density of every node."""
        probs = {name: self._probs(moments, name) for name in self.discrete}
        tables, found = expectations(self.tables, moments, probs), {}
        for name, constant in self.constant.items():
            total = jnp.asarray(constant, float)
            for piece in self.sums.get(name, ()):
                total = total + piece(moments)
            if name in self.tables:
                total = total + tables[name]
            found[name] = total
        return found

    def __call__(self, moments: Mapping[str, Any]) -> Any:
        """Their sum."""
        return reduce(jnp.add, self.nodes(moments).values(), jnp.zeros(()))

    def about(self, block: str) -> "Energy":
        """The part that may depend on a block, which is all that its update has to trace."""
        sums = {name: tuple(piece for piece in pieces if block in names(piece)) for name, pieces in self.sums.items()}
        under = {table.sites for table in self.tables.values() if table.about(block).parts}
        tables = {name: table.about(block, table.sites in under) for name, table in self.tables.items()}
        constant = {name: np.zeros(()) for name in self.constant if sums.get(name) or name in tables}
        return replace(self, sums=sums, tables=tables, constant=constant)

    def powers(self, block: str) -> tuple[float, ...] | None:
        """The powers with which a block of those `alone` is read; None where the rest of the energy is not affine in them."""
        found: set[float] = set()
        kinds = (Read, PoissonSum, Free, Leveled)
        for piece in jax.tree.leaves((self.sums, self.tables), is_leaf=lambda leaf: isinstance(leaf, kinds)):
            if isinstance(piece, PoissonSum) and block in (piece.a.block, piece.b.block):
                return None
            if isinstance(piece, Free | Leveled):
                return None
            if isinstance(piece, Read) and piece.block == block:
                if piece.powers is None:
                    return None
                found |= set(piece.powers)
        return tuple(sorted(found))

    def given(self, moments: Mapping[str, Any], block: str) -> "Given | None":
        """The energy as a function of one block of those `alone`, all others at their moments; None where `powers` is."""
        powers = self.powers(block) if block in self.alone else None
        if powers is None:
            return None
        own, (way,) = moments[block], (each.way for each in self.moved if each.block == block)
        slope = jax.grad(lambda some: self({**moments, block: own | some}))(features(own, powers, way))
        pieces = (piece for some in self.sums.values() for piece in some)
        own_pieces = (piece for piece in pieces if isinstance(piece, Prior | LogGammas) and piece.block == block)
        return Given(slope, tuple(own_pieces), powers, way)

    def volume(self, block: str, own: Any) -> Any:
        """What the entropy of the block's sites has more than that of the block, at its moments; E[log ds/dx] of moved ones."""
        return sum((each.volume(own) for each in self.moved if each.block == block), jnp.zeros(()))

    def log_slope(self, block: str, x: Any) -> Any:
        """Log ds/dx of every element (n,) of a block of those `alone`."""
        return next(each.way.log_slope(x) for each in self.moved if each.block == block)

    def quadratic(self, block: str) -> bool:
        """Whether the energy is known to be a quadratic function of a Gaussian block, from what it is made of."""
        pieces = (piece for some in self.sums.values() for piece in some)
        return (
            block not in {each.block for each in self.moved}
            and all(isinstance(piece, Sum | Columns | Form | Products | PoissonSum) for piece in pieces)
            and not any(isinstance(part, Leveled) for table in self.tables.values() for part in table.parts)
        )

    @property
    def averaged(self) -> bool:
        """Whether nodes are averaged over draws of free sites."""
        some = [*self.sums.values(), *(table.parts for table in self.tables.values())]
        return any(isinstance(piece, Free | Leveled) for pieces in some for piece in pieces)

    def at_points(self) -> "Energy":
        """The energy at moments of point masses, where all draws of free sites are one: the log joint, and conditionals."""

        def one(piece: Any) -> Any:
            return replace(piece, draws=piece.draws.at_points()) if isinstance(piece, Free | Leveled) else piece

        return jax.tree.map(one, self, is_leaf=lambda piece: isinstance(piece, Free | Leveled))

    @property
    def predictors(self) -> list[Predictor]:
        """Likelihoods of which nothing is summed up: every sweep goes through all rows."""
        return [piece for pieces in self.sums.values() for piece in pieces if isinstance(piece, Predictor)]

    def _probs(self, moments: Mapping[str, Any], name: str) -> Any:
        probs = moments[name]["probs"]
        if name in self.chains:  # (*batch, time, K) -> (time, *batch, K), the order of the site's own axes
            probs = jnp.moveaxis(probs, -2, 0)
        return probs.reshape(-1, probs.shape[-1])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Given:
    """What the energy is, up to a constant, as a function of a positive site x whose block holds its logarithm or logit.

    Every term but the site's own prior and log gammas of it is affine in E[log x_i] and in E[x_i^p] for the powers p with which
    the site is read, so that one gradient of the energy says all about them: what it costs to look at other values does not
    depend on the model.

    Attributes
    ----------
    slope
        Of these expectations, as `features` has them.
    others
        The terms that are not affine.
    powers, way
        With which it is read; what the block holds.
    """

    slope: dict[Any, Any]
    others: tuple[Prior | LogGammas, ...]
    powers: tuple[float, ...] = static()
    way: Way = static()

    def __call__(self, own: Any) -> Any:
        """At the block's moments, a scalar."""
        parts = jax.tree.map(lambda a, b: (a * b).sum(), self.slope, features(own, self.powers, self.way))
        return sum((piece({piece.block: own}) for piece in self.others), sum(jax.tree.leaves(parts)))

    def at(self, x: Any) -> Any:
        """At a point x (n,) of the block's own variable, element by element (n,)."""
        parts = jax.tree.map(
            lambda a, b: a * b, self.slope, features({"mean": x, "cov": 0.0 * x}, self.powers, self.way)
        )
        return sum((piece.at(x) for piece in self.others), sum(jax.tree.leaves(parts)))


def assemble(
    factors: Sequence[Factor], graph: Graph, data: Mapping[str, Any], layout: Layout, points: Mapping[str, Any]
) -> Energy:
    """The energy of a model from its factors.

    Parameters
    ----------
    factors
        One a node.
    graph, data
        For priors of other kinds, which are evaluated themselves.
    layout
        Where the sites are.
    points
        Latent node -> any value, for the latents that such a prior does not depend on.
    """
    latents = {node.name: node for node in graph.nodes if node.latent}
    plain: dict[str, tuple[Any, ...]] = {}
    tables: dict[str, Tables] = {}
    constant: dict[str, Any] = {}
    for factor in factors:
        name = factor.node.name
        try:
            if factor.levels or factor.own:
                tables[name], constant[name] = _tabled(factor, graph, data, layout, points)
            else:
                plain[name] = _summed(factor, graph, data, layout, points)
                shape, rows = factor.node.shape, fit(factor.constant, len(factor.node.shape))
                constant[name] = rows.sum() * (np.prod(shape) / max(rows.size, 1))
        except MemoryError as error:
            raise NotConjugate(
                frozenset(), f"the sufficient statistics of {name} would take {error} numbers and more"
            ) from error
    discrete = tuple(name for name, node in latents.items() if node.levels is not None)
    chains = tuple(name for name in discrete if layout.role[name] == "chain")
    alone = tuple(name for name, role in layout.role.items() if role in POSITIVE)
    moved = tuple(
        Moved(layout.block[name], start, start + int(np.prod(latents[name].shape)), layout.way(name))
        for name, start in layout.offset.items()
        if layout.way(name).moves
    )
    plain = {name: tuple(form(piece, layout.pattern) for piece in pieces) for name, pieces in plain.items()}
    known = naturals(plain, tables, {b: p for b, p in layout.pattern.items() if b not in alone})
    plain = {name: tuple(map(columns, pieces)) for name, pieces in plain.items()}
    return Energy(plain, tables, constant, discrete, chains, moved, alone, known)


def _summed(factor: Factor, graph: Graph, data: Any, layout: Layout, points: Any) -> tuple[Any, ...]:
    node, pieces = factor.node, []
    for term in factor.terms:
        if isinstance(term, Sampled):
            index, block = layout.offset[node.name] + np.arange(int(np.prod(node.shape))), layout.block[node.name]
            pieces.append(prior(graph, node, data, points, index, block, layout.way(node.name)))
        elif isinstance(term, Drawn):
            pieces.append(free(term, graph, node, data, points, layout))
        elif isinstance(term, Predicted) and term.rule == "poisson sum":
            pieces.append(poisson_sum(term.data["y"], term.data["pairs"], node.shape, layout))  # type: ignore[arg-type]
        elif isinstance(term, Predicted):
            pieces.append(predictor(term, node.shape, layout))
        elif isinstance(term, Curved):
            pieces.append(log_gammas(term, node.shape, layout))
        else:
            pieces.append(sums(term, node.shape, layout))
            if isinstance(term, Quadratic) and term.pairs:
                pieces.append(products(term, node.shape, layout))
    return tuple(pieces)


def _tabled(factor: Factor, graph: Graph, data: Any, layout: Layout, points: Any) -> tuple[Tables, Any]:
    node, latents = factor.node, {node.name: node for node in graph.nodes if node.latent}
    sites = (*factor.levels, node.name) if factor.own else factor.levels
    counts = tuple(latents[name].levels or 1 for name in sites)
    shapes = [latents[name].shape for name in sites]
    largest = max(shapes, key=lambda shape: int(np.prod(shape)))
    for shape in shapes:
        if int(np.prod(shape)) not in (1, int(np.prod(largest))):
            raise NotConjugate(set(sites), f"{node.name} reads discrete sites of different shapes")
    axes = _axes(node, largest, factor.own)
    parts: list[Any] = []
    parents = int(np.prod(counts[:-1])) if factor.own else 0
    for term in factor.terms:
        if isinstance(term, Drawn):
            parts.append(leveled(term, graph, node, data, points, layout, sites, axes))
            continue
        if isinstance(term, Sampled | Predicted | Curved) or (isinstance(term, Quadratic) and term.pairs):
            raise NotConjugate(
                set(sites), f"{node.name} has no exact expectation under the discrete sites {', '.join(sites)}"
            )
        parts.append(table(term, node.shape, counts[-1] if factor.own else 0, parents, axes, layout))
    rows = (*node.shape, counts[-1]) if factor.own else node.shape
    constant = np.maximum(fit(np.asarray(factor.constant, float), len(rows)), IMPOSSIBLE)
    fixed = 0.0
    if len(constant) > 1 or not parts or (factor.own and np.ptp(constant, -1).max() > 0):
        constant = np.broadcast_to(constant, (len(constant), *rows))
        parts.append(Constant(arrange(constant, rows, parents, axes).sum(-1).T))
    else:
        values = constant[..., 0] if factor.own else constant
        fixed = np.broadcast_to(values, (1, *node.shape)).sum()
    if not (factor.own and layout.role[node.name] == "chain"):
        return Tables(tuple(parts), sites, counts), fixed
    alike = _alike(parts, node.shape) if len(sites) == 2 else None
    return Tables(tuple(alike or parts), sites, counts, True, alike is not None), fixed


def _alike(parts: Sequence[Any], shape: tuple[int, ...]) -> list[Any] | None:
    """A chain's tables with one row for the start and one for all steps; None where steps or sequences differ.

    The rows are (time, *batch).
    """
    if shape[0] < 3:
        return None
    starts = int(np.prod(shape[1:]))
    found = []
    for part in parts:
        axis = 0 if isinstance(part, Constant) else 1
        leaves, tree = jax.tree.flatten(part)
        some = []
        for leaf in leaves:
            if np.ndim(leaf) <= axis or leaf.shape[axis] == 1:
                some.append(leaf)
                continue
            start, later = np.split(leaf, [starts], axis)
            rows = np.concatenate([np.take(start, [0], axis), np.take(later, [0], axis)], axis)
            if not ((start == rows.take([0], axis)).all() and (later == rows.take([1], axis)).all()):
                return None
            some.append(rows)
        found.append(jax.tree.unflatten(tree, some))
    return found


def _axes(node: Node, shape: tuple[int, ...], own: bool) -> list[int]:
    """Axes of a node's rows along which a discrete parent of a shape varies."""
    batch = len(node.shape) if own else len(node.shape) - node.event_dim
    padded = (1,) * (batch - len(shape)) + shape
    if len(padded) > batch:
        raise NotConjugate(frozenset(), f"{node.name} has fewer axes than its discrete parent")
    axes = [axis for axis, length in enumerate(padded) if length > 1]
    if not own and any(node.shape[axis] != padded[axis] for axis in axes):
        raise NotConjugate(frozenset(), f"the rows of {node.name} do not line up with its discrete parent")
    return axes
