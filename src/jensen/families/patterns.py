"""`find_pattern`: the cheapest pattern for a Gaussian, from the pairs of elements that interact.

The graph of the pairs falls into connected components. A component of d elements is, whichever costs least,

    dense        d^3                              (d up to 2,000)
    banded       d w^2, in d sequential steps     in natural order, or in the order of Cuthill and McKee (w up to 16)
    bordered     (n - p) p^2 + p^3 + the rest     the p elements of highest degree taken out, the rest as above

where candidates for p are the largest falls in the sorted degrees. Equal components are put side by side. Costs are in
floating-point operations of one core and need be right only within a factor of a few.

Reference: Cuthill and McKee (1969), Reducing the bandwidth of sparse symmetric matrices.
"""

from dataclasses import dataclass

import numpy as np

from jensen.core.errors import OptionError, UnsupportedError
from jensen.families.patterns_arrow import Arrow
from jensen.families.patterns_band import Band
from jensen.families.patterns_base import Parts, Pattern, arrange
from jensen.families.patterns_blocks import UNROLLED, Blocks

__all__ = ["Arrow", "Band", "Blocks", "Parts", "Pattern", "find_pattern"]

DENSE_LIMIT = 2000  # elements of one dense block
SMALL = 64  # up to here one dense block is never worth a second look
SHORT = 16  # up to here a chain is a dense block
WIDEST = 16  # half-bandwidth: a monthly season has 12
NARROW = 3  # half-bandwidth up to which one chain is a loop over scalars; a local linear trend has 3
BORDER_LIMIT = 300
COUPLINGS = 30_000_000  # numbers between border and leaves
CANDIDATES = 12
PER_PART = 20_000.0  # a handful of operations to dispatch
FEW_PARTS = 3
PER_FURTHER_PART = 1e7  # each is a program of its own to compile: a third of a second, shared by some hundred sweeps


def find_pattern(n: int, pairs: np.ndarray) -> Pattern:
    """The cheapest pattern over n elements that has all the given pairs, and possibly more.

    Parameters
    ----------
    n
        Number of elements, at least 1.
    pairs
        Interacting elements (K, 2), integers in 0 .. n - 1, in any order; repeats and pairs (i, i) are allowed.

    Returns
    -------
    Pattern
        `Blocks`, `Band`, `Arrow`, or `Parts` made of them.

    Raises
    ------
    OptionError
        If n is not positive or a pair is outside 0 .. n - 1.
    UnsupportedError
        If more than 2,000 elements interact and are neither banded nor bordered.
    """
    pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
    if n < 1 or (pairs.size and (pairs.min() < 0 or pairs.max() >= n)):
        raise OptionError(f"pairs must be within 0 .. n - 1; got n = {n} and {pairs.tolist()[:3]} ...; renumber them.")
    keys = np.unique(pairs.max(1) * n + pairs.min(1)) if len(pairs) else np.zeros(0, np.int64)
    edges = np.stack([keys // n, keys % n], 1)
    plan = _components(n, edges[edges[:, 0] > edges[:, 1]], True)
    if not np.isfinite(plan.cost):
        raise UnsupportedError(
            f"one Gaussian block couples {plan.largest:,} elements in no chain and no border, and dense algebra ends at "
            f"{DENSE_LIMIT:,}; split it with jn.Blocks."
        )
    return arrange([(part, elements) for part, elements in plan.parts if len(elements)])


@dataclass(frozen=True)
class _Plan:
    """Patterns with the elements each stands for; cost, and the size of the largest component that has no pattern."""

    parts: list[tuple[Pattern, np.ndarray]]
    cost: float
    largest: int = 0


def _components(n: int, edges: np.ndarray, bordered: bool) -> _Plan:
    """Every connected component on its own, equal ones together; with `bordered`, large ones may be arrows."""
    label, sizes, rank, members = _label(n, edges)
    bandwidth = np.zeros(len(sizes), np.int64)
    np.maximum.at(bandwidth, label[edges[:, 0]], np.abs(rank[edges[:, 0]] - rank[edges[:, 1]]))
    banded = (sizes > SHORT) & (bandwidth <= NARROW)
    chains = {int(c): members(c) for c in np.flatnonzero(banded)}
    widths = {c: int(bandwidth[c]) for c in chains}
    parts, cost, largest, small = [], 0.0, 0, (sizes <= SMALL) & ~banded
    for c in np.flatnonzero(~banded & ~small):
        inside = edges[label[edges[:, 0]] == c]
        local = rank[inside]
        plan = _dense(int(sizes[c]))
        order, width = _narrowest(int(sizes[c]), local, int(bandwidth[c]))
        if width > NARROW and bordered:
            plan = min([plan, *_arrows(int(sizes[c]), local)], key=lambda one: one.cost)
        if width <= WIDEST and _band_cost(1, int(sizes[c]), width) <= plan.cost:
            chains[int(c)], widths[int(c)] = members(c)[order], width
            continue
        parts += [(pattern, members(c)[elements]) for pattern, elements in plan.parts]
        cost, largest = cost + plan.cost, max(largest, plan.largest)
    blocks = []
    for size in np.unique(sizes[small]):
        same = np.flatnonzero(small & (sizes == size))
        elements = np.flatnonzero(np.isin(label, same))
        elements = elements[np.argsort(label[elements], kind="stable")]
        blocks.append((Blocks(len(same), int(size)), elements))
        cost += _block_cost(len(same), int(size))
    for width in sorted(set(widths.values())):
        pattern, elements = _chain([chains[c] for c in sorted(chains) if widths[c] == width], width)
        blocks.append((pattern, elements))
        cost += _band_cost(pattern.chains, pattern.length, width)
    number = len(blocks) + len(parts)
    cost += PER_PART * len(blocks) + PER_FURTHER_PART * max(0, number - FEW_PARTS)
    plan = _Plan([*blocks, *parts], cost, largest)
    if bordered and number > FEW_PARTS:
        plan = min([plan, *_arrows(n, edges)], key=lambda one: one.cost)
    return plan


def _arrows(n: int, edges: np.ndarray) -> list[_Plan]:
    """Plans with a border of the elements of highest degree."""
    degree = np.bincount(edges.ravel(), minlength=n)
    order = np.argsort(-degree, kind="stable")
    ranked = degree[order]
    most = min(BORDER_LIMIT, n // 2, COUPLINGS // n)
    if most < 1:
        return []
    falls = (ranked[:most] + 1.0) / (ranked[1 : most + 1] + 1.0)
    sizes = 1 + np.argsort(-falls, kind="stable")[:CANDIDATES]
    plans = []
    for p in sizes[falls[sizes - 1] > 1].tolist():
        border = np.sort(order[:p])
        rest = np.sort(order[p:])
        place = np.full(n, -1)
        place[rest] = np.arange(len(rest))
        local = place[edges]
        inner = _components(len(rest), local[(local >= 0).all(1)], False)
        if not np.isfinite(inner.cost):
            continue
        cost = inner.cost + 2.0 * len(rest) * p * p + 2.0 * p**3 + PER_PART
        plans.append(_Plan([(Arrow(p, arrange(inner.parts)), np.concatenate([border, rest]))], cost))
    return plans


def _dense(size: int) -> _Plan:
    if size > DENSE_LIMIT:
        return _Plan([], np.inf, size)
    return _Plan([(Blocks(1, size), np.arange(size))], _block_cost(1, size) + PER_PART)


def _block_cost(count: int, size: int) -> float:
    """Factorization and inverse; past the written-out sizes every block is also two library calls."""
    if size <= UNROLLED:
        return float(count * size**3)
    return count * (2.0 * size**3 + 3000.0)


def _band_cost(chains: int, length: int, width: int) -> float:
    """Measured: a loop over scalars costs the arithmetic, any other some 1.5 microseconds a step for each coupling."""
    step = 60.0 if chains == 1 and width <= NARROW else 4500.0 * width
    return length * (step + 2.0 * chains * (width**2 + 3 * width))


def _chain(chains: list[np.ndarray], width: int) -> tuple[Band, np.ndarray]:
    """Equally long chains beside each other, others one after the other: a coupling may be zero."""
    elements = np.concatenate(chains)
    if len({len(chain) for chain in chains}) == 1:
        return Band(len(chains), len(chains[0]), width), elements
    return Band(1, len(elements), width), elements


def _narrowest(n: int, edges: np.ndarray, natural: int) -> tuple[np.ndarray, int]:
    """The natural order or that of Cuthill and McKee, and the half-bandwidth."""
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    order = reverse_cuthill_mckee(_matrix(n, edges), symmetric_mode=True)
    place = np.argsort(order)
    width = int(np.abs(place[edges[:, 0]] - place[edges[:, 1]]).max())
    return (np.arange(n), natural) if natural <= width else (order, width)


def _label(n: int, edges: np.ndarray):
    """Component of each element, sizes, place within the component, and ``members(c)``, in natural order."""
    from scipy.sparse.csgraph import connected_components

    number, label = connected_components(_matrix(n, edges), directed=False)
    # components are counted by their first element, so that parts come out in natural order where they can
    first = np.full(number, n)
    np.minimum.at(first, label, np.arange(n))
    label = np.argsort(np.argsort(first))[label]
    sizes = np.bincount(label, minlength=number)
    order = np.argsort(label, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n) - starts[label[order]]
    return label, sizes, rank, lambda c: order[starts[c] : starts[c + 1]]


def _matrix(n: int, edges: np.ndarray):
    """The symmetric adjacency matrix, in compressed rows."""
    from scipy.sparse import csr_array

    ends, starts = np.concatenate([edges, edges[:, ::-1]]).T
    return csr_array((np.ones(len(ends), np.int8), (ends, starts)), shape=(n, n))
