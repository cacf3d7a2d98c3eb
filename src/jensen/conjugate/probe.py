"""The probe: how every leaf of a model's graph reads the model's sites.

A leaf (the scale of a Normal, the probabilities of a Categorical, ...) is looked at in the coordinates in which a conjugate
model makes it affine: real and matrix sites as they are, positive sites and simplexes through their logarithm, positive leaves
through theirs. Discrete sites are enumerated, one leading axis for all combinations of their levels. One compiled program
gives values and tangents of the cheap class partitions; a second one is made only for sites that must be read element by
element. Products of two sites (factor models) need no program of their own: the tangents of one are affine in the other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate.coordinates import base, coordinate, value
from jensen.conjugate.dependence import dependence
from jensen.conjugate.scaled import Scaled, decode_scaled
from jensen.conjugate.slots import LARGE, Affine, Pair, Slot, agree, compact, decode, decode_pairs, partitions, tangents
from jensen.core import keys
from jensen.core.compilation import FAST_COMPILE, signature
from jensen.models.graph import Graph, Node

TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "id": lambda x: x,
    "log": jnp.log,
    "logit": lambda x: jnp.log(x) - jnp.log1p(-x),
    "probit": jax.scipy.special.ndtri,
}
MANY, MOST_NUMBERS = 100_000, 10_000_000
"""Numbers in the data, and rows times tangents, from which on the cheapest partitions are tried by themselves first."""


class View(NamedTuple):
    """A leaf of a node through a transform."""

    node: str
    leaf: str
    transform: str


class Reading(NamedTuple):
    """What the probe found about a view.

    Attributes
    ----------
    parents
        Names of all latent nodes the leaf depends on, by the structure of the program.
    levels
        The discrete ones among them, in the order of the leading axis of combinations (last fastest).
    affine
        Constant and slots, with the leading axis of combinations; None when the view is not affine.
    pairs
        Products of two sites beside the affine part (or, of positive sites, alone: a sum of products).
    held
        Where the view is not affine: whether it is affine in the real sites when the others are held.
    scaled
        Then, with scalars among the others, the affine parts.
    shape
        Of the view, with the leading axis; the arrays of `affine` are compact.
    """

    parents: frozenset[str]
    levels: tuple[str, ...]
    affine: Affine | None
    pairs: tuple[Pair, ...] = ()
    held: bool = False
    scaled: Scaled | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Probe:
    """All readings of a graph.

    Attributes
    ----------
    coordinate
        Site -> ``"real"``, ``"log"``, ``"unit"``, ``"matrix"``; other continuous sites are not probed.
    parents
        Node -> leaf -> names of the latent nodes it depends on.
    spread
        Discrete sites enumerated at full shape (they depend on themselves: chains).
    readings
        View -> what was found.
    """

    coordinate: dict[str, str]
    parents: dict[str, dict[str, frozenset[str]]]
    spread: frozenset[str]
    readings: dict[View, Reading]


def rank(node: Node, leaf: str) -> int:
    """Number of axes a leaf is padded to, so that its rows line up with the node's shape."""
    axes = len(node.shape)
    if node.kind == "Categorical" and leaf in ("probs", "logits"):
        return axes + 1
    if node.kind == "MultivariateNormal" and leaf not in ("loc", "value"):
        return axes + 1
    return axes


def probe(graph: Graph, data: Mapping[str, Any], seed: int = 0) -> Probe:
    """Read all leaves of a graph.

    Parameters
    ----------
    graph
        From a front end.
    data
        Name -> array, the inputs of its functions.
    seed
        Of the random directions and points.

    Notes
    -----
    Use it in float64: non-conjugate models differ from conjugate ones by as little as 1e-4 relative.
    """
    latents = {node.name: node for node in graph.nodes if node.latent}
    sites = {name: word for name, node in latents.items() if node.levels is None and (word := coordinate(node))}
    points = {name: base(node) if node.levels is None else np.zeros(node.shape, int) for name, node in latents.items()}
    parents = dependence(graph.leaves, points, dict(data))
    discrete = [name for name, node in latents.items() if node.levels is not None]
    spread = frozenset(
        name for name in discrete if any(name in reads for leaf, reads in parents[name].items() if leaf != "value")
    )
    jobs = {
        view: parents[node.name][view.leaf]
        for node in graph.nodes
        for view in _views(node, parents[node.name], sites, latents)
    }
    tangled = _Tangents(graph, dict(data), latents, sites, points, spread, jobs, keys.generator(seed, "probe"))
    readings = tangled.read()
    for name, word in sites.items():
        readings[View(name, "value", "log" if word == "log" else "id")] = Reading(
            frozenset({name}), (), _own(latents[name])
        )
    return Probe(sites, parents, spread, readings)


def _own(node: Node) -> Affine:
    """A site's value as an affine function of its own coordinates."""
    index = np.arange(prod(node.shape)).reshape(1, *node.shape)
    zero = base(node)[None] if coordinate(node) in ("matrix", "unit") else np.zeros((1,) * index.ndim)
    return Affine(zero, (Slot(node.name, index, np.ones((1,) * index.ndim)),))


def _views(
    node: Node, leaves: Mapping[str, frozenset[str]], sites: Mapping[str, str], latents: Mapping[str, Node]
) -> list[View]:
    """The views of a node worth probing."""
    found = []
    for leaf, names in leaves.items():
        words = {sites.get(name, "other") for name in names if latents[name].levels is None}
        if leaf == "log_prob" or (leaf == "value" and node.latent):
            continue
        if leaf == "probs":
            transforms = ["log"] * ("log" in words) + ["logit", "probit"] * ("real" in words)
            transforms += ["id"] * ("unit" in words or not words)
        elif leaf in ("scale", "rate") and node.kind not in ("Wishart", "InverseWishart"):
            transforms = ["log", "id"] if node.kind == "Poisson" and words == {"log"} else ["log"]
        elif leaf == "concentration" and words == {"log"}:
            transforms = ["log"]
        else:
            transforms = ["id"]
        found += [View(node.name, leaf, transform) for transform in transforms]
    return found


class _Tangents:
    """Runs the probing programs of one graph."""

    def __init__(self, graph, data, latents, sites, points, spread, jobs, rng):
        self.graph, self.data, self.latents, self.sites = graph, data, latents, sites
        self.nodes = {node.name: node for node in graph.nodes}
        self.points, self.spread, self.jobs, self.rng = points, spread, jobs, rng
        self.levels = {
            view: tuple(n for n, node in latents.items() if node.levels is not None and n in names)
            for view, names in jobs.items()
        }
        self.reads = {view: tuple(name for name in sites if name in names) for view, names in jobs.items()}
        self.zero = {name: np.zeros(prod(latents[name].shape)) for name in sites}
        self.random = {name: rng.uniform(-0.4, 0.4, len(zero)) for name, zero in self.zero.items()}

    def read(self) -> dict[View, Reading]:
        splits = {name: partitions(self.latents[name].shape) for name in self.sites}
        rows = max(prod(node.shape) for node in self.nodes.values())
        stacks = {name: tangents(split, self.rng) for name, split in splits.items()}
        count = sum(len(stack) for stack, _ in stacks.values())
        if sum(np.size(array) for array in self.data.values()) > MANY and rows * count > MOST_NUMBERS:
            found = self._simply({name: split[:1] for name, split in splits.items()})
            if found is not None:
                return found
        program = self._program(self.reads, {name: stack for name, (stack, _) in stacks.items()})
        constant, checked, pushed = program(self.zero)
        slots = {
            view: {name: decode(name, splits[name], pushed[view][name], stacks[name][1]) for name in names}
            for view, names in self.reads.items()
        }
        self._one_by_one(slots)
        found, crooked = {}, {}
        for view, names in self.jobs.items():
            found[view] = Reading(names, self.levels[view], None, shape=constant[view].shape)
            unread = any(self.latents[name].levels is None and name not in self.sites for name in names)
            if unread or any(some is None for some in slots[view].values()):
                continue
            affine = Affine(
                compact(constant[view]), tuple(slot for some in slots[view].values() for slot in some or ())
            )
            if self._proved(view, affine, checked[view]):
                found[view] = found[view]._replace(affine=affine)
            elif view.transform == "id" and checked[view] is not None:
                crooked[view] = affine
        if not crooked:
            return found
        real = {name: x if self.sites[name] == "real" else 0.0 * x for name, x in self.random.items()}
        held, beside = program(real)[0], program({name: self.random[name] - x for name, x in real.items()})
        for view, affine in crooked.items():
            # Also with the others elsewhere: shares of equal coefficients seem not to be read.
            some = [
                decode(n, splits[n], beside[2][view][n], stacks[n][1])
                for n in self.reads[view]
                if self.sites[n] == "real"
            ]
            slots_there = tuple(slot for slots in some for slot in slots or ())
            there = None in some or agree(Affine(beside[0][view], slots_there).at(real), checked[view])
            found[view] = found[view]._replace(held=there and agree(affine.at(real), held[view]))
            if found[view].held and not self.levels[view]:
                tried = decode_scaled(view, self, program, splits, stacks, checked[view])
                found[view] = found[view]._replace(scaled=tried)
        for words in ("real", "log"):
            some = {
                view: a for view, a in crooked.items() if {self.sites[name] for name in self.reads[view]} == {words}
            }
            found |= self._products(words, some, found, checked, program, splits, stacks, pushed)
        return found

    def _simply(self, splits: dict[str, list[np.ndarray]]) -> dict[View, Reading] | None:
        """All readings by the cheapest partition of every site, which spares most of the memory; None when one needs another."""
        stacks = {name: tangents(split, self.rng) for name, split in splits.items()}
        constant, checked, pushed = self._program(self.reads, {name: s for name, (s, _) in stacks.items()})(self.zero)
        found = {}
        for view, names in self.jobs.items():
            found[view] = Reading(names, self.levels[view], None, shape=constant[view].shape)
            if any(self.latents[name].levels is None and name not in self.sites for name in names):
                continue
            slots = [decode(name, splits[name], pushed[view][name], stacks[name][1]) for name in self.reads[view]]
            affine = Affine(compact(constant[view]), tuple(slot for some in slots for slot in some or ()))
            if None in slots or not self._proved(view, affine, checked[view]):
                return None
            found[view] = found[view]._replace(affine=affine)
        return found

    def _proved(self, view: View, affine: Affine, seen: np.ndarray | None) -> bool:
        """Whether a reading holds at the random point; what reads no site by the structure of the program is not looked at."""
        return bool(np.isfinite(affine.constant).all()) if seen is None else agree(affine.at(self.random), seen)

    def _one_by_one(self, slots: dict[View, dict[str, list[Slot] | None]]) -> None:
        """Second round, for sites whose elements meet in ways that no class partition takes apart."""
        missing = {
            view: tuple(name for name, some in parts.items() if some is None and len(self.zero[name]) <= LARGE)
            for view, parts in slots.items()
        }
        missing = {view: names for view, names in missing.items() if names}
        if not missing:
            return
        splits = {name: [np.arange(len(self.zero[name]))] for names in missing.values() for name in names}
        stacks = {name: tangents(split, self.rng) for name, split in splits.items()}
        program = self._program(missing, {name: stack for name, (stack, _) in stacks.items()})
        pushed = program(self.zero)[2]
        for view, names in missing.items():
            for name in names:
                slots[view][name] = decode(name, splits[name], pushed[view][name], stacks[name][1])

    def _products(self, words, crooked, found, checked, program, splits, stacks, pushed) -> dict[View, Reading]:
        """Readings with products of two sites: the tangents of one site at three values of the other."""
        done = {}
        sites = [name for name, word in self.sites.items() if word == words]
        for x, y in ((x, y) for n, x in enumerate(sites) for y in sites[n + 1 :]):
            views = [view for view in crooked if {x, y} <= set(self.reads[view]) and view not in done]
            if not views:
                continue
            direction = np.abs(stacks[y][1])
            values = (direction, np.ones(len(direction)), 1.0 + np.arange(len(direction)))
            at = []
            for v in values:
                at.append(program(self.zero | {y: v if words == "real" else np.log(v)})[2])
                views = [view for view in views if not np.array_equal(at[0][view][x], pushed[view][x])]
                if not views:
                    break
            for view in views:
                # At zero a real y leaves the affine part of x; positive sites have values one there, and no affine part.
                linear = pushed[view][x] if words == "real" else 0.0
                moved = [some[view][x] - linear for some in at]
                pairs = decode_pairs(x, y, splits[x], moved, stacks[x][1], direction)
                affine = crooked[view] if words == "real" else Affine(np.zeros((1,) * checked[view].ndim), ())
                points = self.random if words == "real" else {name: np.exp(v) for name, v in self.random.items()}
                if pairs and agree(affine.at(self.random) + sum(pair.at(points) for pair in pairs), checked[view]):
                    done[view] = found[view]._replace(affine=affine, pairs=tuple(pairs))
        return done

    def _combinations(self, levels: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Values of discrete sites: all combinations of their levels along a new first axis."""
        grid = np.array(list(product(*(range(self.latents[name].levels) for name in levels))), int)
        found = {}
        for column, name in enumerate(levels):
            shape = self.latents[name].shape
            shape = shape if name in self.spread else (1,) * len(shape)
            found[name] = np.array(
                np.broadcast_to(grid[:, column].reshape(-1, *(1,) * len(shape)), (len(grid), *shape))
            )
        return found

    def _program(self, reads: Mapping[View, tuple[str, ...]], stacks: Mapping[str, np.ndarray]) -> Callable[..., Any]:
        """Compile: coordinates -> (views there, at the random point those that read sites, views' tangents a site)."""
        groups: dict[tuple[str, ...], list[View]] = {}
        for view in reads:
            groups.setdefault(self.levels[view], []).append(view)
        rest = (self.random, dict(stacks), [self._combinations(levels) for levels in groups], self.data)
        run = _Run(self.graph, self.nodes, self.latents, self.sites, self.points, dict(reads), groups)

        def build() -> Any:
            return jax.jit(run).lower(self.zero, *rest).compile(compiler_options=FAST_COMPILE)

        key = ("probe", tuple(reads.items()), tuple(groups), signature((self.zero, *rest)))
        compiled = self.graph.remember(key, build)

        def call(zero):
            results = jax.tree.map(np.asarray, compiled(zero, *rest))
            return tuple(dict(zip(reads, part, strict=True)) for part in results)

        return call


@dataclass(frozen=True, eq=False)
class _Run:
    """The function that is compiled: it holds what belongs to the graph, and no data."""

    graph: Graph
    nodes: dict[str, Node]
    latents: Mapping[str, Node]
    sites: Mapping[str, str]
    points: dict[str, np.ndarray]
    reads: dict[View, tuple[str, ...]]
    groups: dict[tuple[str, ...], list[View]]

    def __call__(self, zero, random, stacks, combos, data):
        constant, checked, pushed = {}, {}, {view: {} for view in self.reads}
        for (levels, views), combo in zip(self.groups.items(), combos, strict=True):
            # Jitted, so that the model is traced once and not for every use.
            arrays = jax.jit(partial(self._evaluate, views))

            def over(function, levels=levels, combo=combo):
                return jax.vmap(function)(combo) if levels else jax.tree.map(lambda x: x[None], function({}))

            constant |= zip(views, over(lambda z, f=arrays: f(zero, z, data)), strict=True)
            moving = zip(views, over(lambda z, f=arrays: f(random, z, data)), strict=True)
            checked |= {view: array if self.reads[view] else None for view, array in moving}
            for site, stack in stacks.items():
                some = [view for view in views if site in self.reads[view]]
                if not some:
                    continue

                def moved(tangent, site=site, arrays=arrays, over=over):
                    def along(z):
                        return jax.jvp(lambda x: arrays(zero | {site: x}, z, data), (zero[site],), (tangent,))[1]

                    return over(along)

                for view, array in zip(views, jax.vmap(moved)(stack), strict=True):
                    if view in some:
                        pushed[view][site] = array
        return [constant[v] for v in self.reads], [checked[v] for v in self.reads], [pushed[v] for v in self.reads]

    def _evaluate(self, views, coordinates, discrete, data):
        values = {n: value(self.sites[n], x, self.latents[n].shape) for n, x in coordinates.items()}
        leaves = self.graph.leaves(self.points | values | discrete, data)
        arrays = []
        for view in views:
            array = TRANSFORMS[view.transform](jnp.asarray(leaves[view.node][view.leaf], float))
            axes = max(rank(self.nodes[view.node], view.leaf), array.ndim)
            arrays.append(array.reshape((1,) * (axes - array.ndim) + array.shape))
        return arrays
