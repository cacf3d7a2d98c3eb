"""The model as boxes in plates, and where they go: parents above children, every plate a rectangle with nothing else in it.

rank      longest path from a root, and then as low as the children allow
cluster   boxes that share plates, or a single box; inside of a cluster every set of plates has columns of its own
place     clusters from left to right, each as far left as its ranks are free, then pulled towards what it is joined with
order     of the clusters: swaps, as long as edges get shorter or run through fewer boxes
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import jax
import numpy as np

from jensen.conjugate.dependence import dependence
from jensen.core.precision import scope
from jensen.models.model import Model

MOST = 30
"""Boxes of a diagram that a person can still read."""
_PULLS, _SWAPS = 8, 6


@dataclass(frozen=True)
class Box:
    """A random variable or a factor of the model.

    Attributes
    ----------
    name, law
        Of the variable and of its distribution.
    kind
        ``"latent"``, ``"observed"`` or ``"factor"``.
    plates
        What it is repeated over: ``"school (8)"``, or the length alone where the axis has no name.
    parents
        Names of the latent variables its distribution reads.
    """

    name: str
    law: str
    kind: str
    plates: tuple[str, ...]
    parents: tuple[str, ...]


def boxes(model: Model, precision: str) -> tuple[Box, ...]:
    """Every node of a model's graph, with the latent variables that its leaves depend on.

    Raises
    ------
    ModelError
        When the front end cannot look at the distributions.
    """
    assert model.graph is not None
    with scope(precision), np.errstate(all="ignore"):
        graph = model.graph()
        real = jax.dtypes.canonicalize_dtype(np.float64)
        values = {
            node.name: jax.ShapeDtypeStruct(node.shape, real if node.levels is None else np.int32)
            for node in graph.nodes
            if node.latent
        }
        reads = dependence(graph.leaves, values, dict(model.data))
    found = []
    for node in graph.nodes:
        read = frozenset().union(*reads[node.name].values()) - {node.name}
        factor = node.kind == "other" and node.distribution in ("factor", "Potential")
        kind = "latent" if node.latent else "factor" if factor else "observed"
        plates = () if factor else _plates(node, model)
        order = tuple(other.name for other in graph.nodes if other.name in read)
        found.append(Box(node.name, node.distribution, kind, plates, order))
    return tuple(found)


def _plates(node: Any, model: Model) -> tuple[str, ...]:
    batch = node.shape[: len(node.shape) - node.event_dim]
    names = model.dims.get(node.name) or ()
    named = len(names) == len(node.shape)
    labels = [f"{names[i]} ({n:,})" if named and names[i] else f"{n:,}" for i, n in enumerate(batch)]
    return tuple(dict.fromkeys(label for label, n in zip(labels, batch, strict=True) if n > 1 or named))


def arranged(found: Sequence[Box]) -> dict[str, tuple[float, int]]:
    """Column and rank of every box."""
    rank = _ranks(found)
    clusters = [_Cluster(group, rank) for group in _groups(found)]
    home = {name: number for number, cluster in enumerate(clusters) for name in cluster.columns}
    edges = [(parent, box.name) for box in found for parent in box.parents]
    links = [(home[a], clusters[home[a]].columns[a], home[b], clusters[home[b]].columns[b]) for a, b in edges]

    def cost(order: list[int]) -> tuple[float, list[float]]:
        x = _placed(order, clusters, links)
        place = {name: x[home[name]] + clusters[home[name]].columns[name] for name in home}
        return _ugliness(edges, place, rank), x

    order = list(range(len(clusters)))
    best, x = cost(order)
    for _ in range(_SWAPS):
        before = best
        for i, j in combinations(range(len(order)), 2):
            if len(order) > 12 and j > i + 1:
                continue
            other = order.copy()
            other[i], other[j] = other[j], other[i]
            value, places = cost(other)
            if value < best - 1e-9:
                best, x, order = value, places, other
        if best > before - 1e-9:
            break
    place = {name: x[home[name]] + clusters[home[name]].columns[name] for name in home}
    leftmost = min(place.values(), default=0.0)
    return {box.name: (place[box.name] - leftmost, rank[box.name]) for box in found}


def _ranks(found: Sequence[Box]) -> dict[str, int]:
    """Rows; a parent that comes later in the model (two chains that read each other) does not count."""
    rank: dict[str, int] = {}
    for box in found:
        rank[box.name] = max((rank[parent] + 1 for parent in box.parents if parent in rank), default=0)
    for box in reversed(found):
        below = [rank[other.name] for other in found if box.name in other.parents and rank[other.name] > rank[box.name]]
        rank[box.name] = min(below, default=rank[box.name] + 1) - 1
    return rank


def _groups(found: Sequence[Box]) -> list[list[Box]]:
    """Boxes that share plates, directly or through others; those without plates are alone."""
    groups: list[list[Box]] = []
    for box in found:
        mine = set(box.plates)
        near = [group for group in groups if any(mine & set(other.plates) for other in group)]
        groups = [group for group in groups if group not in near] + [[*(b for group in near for b in group), box]]
    return groups


class _Cluster:
    """Boxes that move together: their columns, the width in columns, the ranks they cover."""

    def __init__(self, group: list[Box], rank: dict[str, int]):
        lanes: dict[tuple[str, ...], list[Box]] = {}
        for box in group:
            lanes.setdefault(tuple(sorted(box.plates)), []).append(box)
        self.columns: dict[str, float] = {}
        start = 0
        for plates in _lane_order(list(lanes)):
            rows: dict[int, list[Box]] = {}
            for box in lanes[plates]:
                rows.setdefault(rank[box.name], []).append(box)
            width = max(map(len, rows.values()))
            for row in rows.values():
                for number, box in enumerate(row):
                    self.columns[box.name] = start + number + (width - len(row)) / 2
            start += width
        self.width = start
        covered = [rank[box.name] for box in group]
        self.ranks = frozenset(range(min(covered), max(covered) + 1))


def _lane_order(lanes: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The order in which most plates are contiguous."""

    def gaps(order: Sequence[tuple[str, ...]]) -> int:
        total = 0
        for plate in {plate for lane in order for plate in lane}:
            at = [number for number, lane in enumerate(order) if plate in lane]
            total += at[-1] - at[0] + 1 - len(at)
        return total

    return list(min(permutations(lanes), key=gaps)) if len(lanes) <= 6 else lanes


def _placed(order: list[int], clusters: list[_Cluster], links: Sequence[tuple[int, float, int, float]]) -> list[float]:
    """Left end of every cluster."""
    x, free = [0.0] * len(clusters), dict.fromkeys((rank for cluster in clusters for rank in cluster.ranks), 0.0)
    for number in order:
        cluster = clusters[number]
        x[number] = max(free[rank] for rank in cluster.ranks)
        free.update(dict.fromkeys(cluster.ranks, x[number] + cluster.width))
    for _ in range(_PULLS):
        for at, number in enumerate(order):
            own = clusters[number]
            pulls = [x[b] + v - (x[a] + u) for a, u, b, v in links if a == number != b]
            pulls += [x[a] + u - (x[b] + v) for a, u, b, v in links if b == number != a]
            if not pulls:
                continue
            left = [x[other] + clusters[other].width for other in order[:at] if clusters[other].ranks & own.ranks]
            right = [x[other] - own.width for other in order[at + 1 :] if clusters[other].ranks & own.ranks]
            wanted = x[number] + sum(pulls) / len(pulls)
            x[number] = min(max(wanted, max(left, default=-np.inf)), min(right, default=np.inf))
    return x


def _ugliness(edges: Sequence[tuple[str, str]], place: dict[str, float], rank: dict[str, int]) -> float:
    """Length of the edges across, boxes they run through, and how often two of them cross."""
    total = 0.0
    for a, b in edges:
        total += abs(place[a] - place[b])
        for name, row in rank.items():
            if rank[a] < row < rank[b]:
                at = place[a] + (place[b] - place[a]) * (row - rank[a]) / (rank[b] - rank[a])
                total += 3.0 * (abs(at - place[name]) < 0.6)
    for (a, b), (c, d) in combinations(edges, 2):
        if rank[a] == rank[c] and rank[b] == rank[d]:
            total += 0.7 * ((place[a] - place[c]) * (place[b] - place[d]) < 0)
    return total
