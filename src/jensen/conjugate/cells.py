"""From terms to pieces, on the host: rows with the same reads are summed up into cells, rows under discrete sites into tables.

A term is taken apart into a scale, columns whose products are its stats, and index arrays. Index arrays decide which rows are
alike; only the first row of each cell keeps its indices, and the stats are added up.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jensen.conjugate.layout import Layout
from jensen.conjugate.pieces import Moments2, Psi, Read, Rows, Sum
from jensen.conjugate.slots import Slot, fit
from jensen.conjugate.terms import Entries, Log, MatrixQuadratic, MeanLog, Quadratic, Term

MOST_STATS = 60_000_000
"""Numbers a term's stats may hold."""


def sums(term: Term, shape: tuple[int, ...], layout: Layout) -> Sum:
    """Sum up a term without discrete parents over the rows of a node.

    Parameters
    ----------
    term
        Its arrays have a leading axis of length one.
    shape
        Of the node's rows.
    layout
        Where the sites are.
    """
    draft = _Draft(term, layout)
    rows = draft.rows(shape)
    keys = [fit(key, len(rows))[0] for key in draft.keys]
    varying = np.broadcast_shapes((1,) * len(rows), *(key.shape for key in keys))
    first, cell, count = _cells([np.broadcast_to(key, varying).reshape(-1) for key in keys])
    place = np.zeros(1, int)
    if first is not None:
        place = np.ravel_multi_index(np.unravel_index(first, varying), rows)
    stat = _gram(draft, rows, varying, cell, count)
    take = _taker(rows, place)
    return Sum(stat, draft.psi(take))


def table(term: Term, shape: tuple[int, ...], levels: int, parents: int, axes: Sequence[int], layout: Layout) -> Rows:
    """A term under discrete sites, with its rows split into those of the site (axes) and the rest.

    Parameters
    ----------
    term
        Its arrays have the levels of the parents as leading axis; with `levels`, the node's own levels as last one.
    shape
        Of the node's rows.
    levels
        Number of the node's own levels when it is a discrete site itself, else 0.
    parents
        Number of combinations of levels of its discrete parents.
    axes
        Row axes that belong to the discrete site.
    layout
        Where the sites are.
    """
    draft = _Draft(term, layout)
    own = levels > 0
    rows = shape if own else draft.rows(shape)

    def take(array: np.ndarray) -> np.ndarray:
        return arrange(array, (*rows, levels) if own else rows, parents if own else 0, axes)

    columns = [take(column) for column in draft.columns]
    pairs = [factor * columns[i] * columns[j] for (i, j), factor in zip(draft.pairs, draft.times, strict=True)]
    scale = take(draft.scale)
    lead = np.broadcast_shapes(scale.shape, *(pair.shape for pair in pairs))
    if int(np.prod(lead)) * len(pairs) > MOST_STATS:
        raise MemoryError(lead)
    stat = np.stack([np.broadcast_to(scale * pair, lead) for pair in pairs], -1)
    return Rows(stat, draft.psi(take), _alike(stat))


def _alike(stat: np.ndarray) -> int | None:
    """A stat that is one number in all rows, not zero, where others change from row to row."""
    flat = stat[0].reshape(stat.shape[1], -1)
    some = np.flatnonzero((flat[0] == flat[-1]) & (flat[0] != 0)) if len(stat) == 1 and len(flat) > 1 else ()
    return next((int(place) for place in some if (flat[:, place] == flat[0, place]).all()), None)


def arrange(array: np.ndarray, rows: tuple[int, ...], parents: int, axes: Sequence[int]) -> np.ndarray:
    """Axes (levels, *rows) -> (levels, n or 1, rest or 1): an axis group stays 1 where nothing depends on it.

    With `parents` (their number of combinations), the last row axis is the node's own level, and joins the levels.
    """
    array = fit(array, len(rows))
    if parents:
        array = np.broadcast_to(array, (parents, *array.shape[1:-1], rows[-1]))
        array = np.moveaxis(array, -1, 1)
        array = array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
        rows = rows[:-1]
    inside = [axis for axis in range(len(rows)) if axis in axes]
    outside = [axis for axis in range(len(rows)) if axis not in axes]
    array = np.transpose(array, (0, *(1 + axis for axis in inside), *(1 + axis for axis in outside)))
    lengths = []
    for group, start in ((inside, 1), (outside, 1 + len(inside))):
        part = array.shape[start : start + len(group)]
        full = tuple(rows[axis] for axis in group)
        if any(length > 1 for length in part):
            array = np.broadcast_to(array, (*array.shape[:start], *full, *array.shape[start + len(group) :]))
            lengths.append(int(np.prod(full)))
        else:
            lengths.append(1)
    return np.ascontiguousarray(array).reshape(array.shape[0], *lengths)


class _Draft:
    """A term taken apart: a scale, columns whose products are the stats, and index arrays, all (levels, *rows)."""

    def __init__(self, term: Term, layout: Layout):
        self.layout = layout
        self.columns: list[np.ndarray] = [np.ones((1, 1))]
        self.pairs, self.times = [(0, 0)], [1.0]
        self.reads: tuple[Slot, ...] = ()
        self.groups: dict[str, list[np.ndarray]] = {}
        self.index: list[np.ndarray] = []
        self.block, self.selected, self.scale, self.means = "", (), np.ones((1, 1)), 0
        if isinstance(term, Entries):
            self.kind, self.scale, self.index, self.block = term.which, term.stat, [term.index], term.site
            self.shape = term.rows
        elif isinstance(term, MatrixQuadratic):
            self.kind, self.block = "matrix", term.site
            self._matrix(term)
        elif isinstance(term, Quadratic):
            self.kind, self.scale, self.reads = "quadratic", -0.5 * term.stat, term.reads
            self._quadratic(term)
        elif isinstance(term, MeanLog):
            self.kind, self.scale, self.reads = "mean log", term.stat, term.reads + term.logs
            self.means = len(term.reads)
        else:
            self.kind, self.scale, self.reads = "log" if isinstance(term, Log) else "mean", term.stat, term.reads  # type: ignore[union-attr]

    def _group(self, slots: Sequence[Slot]) -> tuple[list[Slot], list[tuple[int, int]]]:
        """Slots ordered by block, and the pairs of u = (1, slots) in the order of `Moments2`."""
        by_block: dict[str, list[Slot]] = {}
        for slot in slots:
            by_block.setdefault(self.layout.block[slot.site], []).append(slot)
        inside, place, ordered = [], 1, []
        for block, some in by_block.items():
            self.groups[block] = [slot.index + self.layout.offset[slot.site] for slot in some]
            numbers = range(place, place + len(some))
            inside += [(i, j) for i in numbers for j in numbers if i <= j]
            place += len(some)
            ordered += some
        known = set(inside)
        return ordered, inside + [(i, j) for j in range(place) for i in range(j + 1) if (i, j) not in known]

    def _quadratic(self, term: Quadratic) -> None:
        ordered, self.pairs = self._group(term.residual.slots)
        self.columns = [np.asarray(term.residual.constant, float), *(slot.weight for slot in ordered)]
        self.second = self.pairs
        self.times = [1.0 if i == j else 2.0 for i, j in self.pairs]

    def _matrix(self, term: MatrixQuadratic) -> None:
        """Columns (a, b, u, v): entry M_ab times E[u v], where u is the constant of r_a or one of its slots, v of r_b."""
        dim = term.index.shape[-1]
        slots, owner = [], []
        for slot in term.residual.slots:
            index, weight = (np.broadcast_to(x, (*x.shape[:-1], dim)) for x in (slot.index, slot.weight))
            slots += [Slot(slot.site, index[..., a], weight[..., a]) for a in range(dim)]
            owner += list(range(dim))
        ordered, self.second = self._group(slots)
        owners = [owner[next(n for n, slot in enumerate(slots) if slot is one)] for one in ordered]
        constant = np.broadcast_to(term.residual.constant, (*term.residual.constant.shape[:-1], dim))
        self.columns = [constant[..., a] for a in range(dim)] + [slot.weight for slot in ordered]
        self.pairs, self.times, selected, self.index = [], [], [], []
        for number, (u, v) in enumerate(self.second):
            for a in range(dim) if u == 0 else (owners[u - 1],):
                for b in range(dim) if v == 0 else (owners[v - 1],):
                    self.pairs.append((a if u == 0 else dim + u - 1, b if v == 0 else dim + v - 1))
                    self.times.append(-0.5 if u == v else -1.0)
                    self.index.append(term.index[..., a, b])
                    selected.append(number)
        self.selected = tuple(selected)

    @property
    def keys(self) -> list[np.ndarray]:
        """What rows of one cell have in common."""
        found = [slot.index for slot in self.reads] + [array for some in self.groups.values() for array in some]
        for slot in self.reads:
            if slot.weight.size > 1:
                found.append(np.unique(slot.weight, return_inverse=True)[1].reshape(slot.weight.shape))
        return found + self.index

    def rows(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The rows' shape: the node's, without the last axis where a matrix joins its elements."""
        if self.kind in ("value", "logdet"):
            return self.shape
        return shape[:-1] if self.kind == "matrix" else shape

    def psi(self, take: Any) -> Psi:
        """The expectations, with every index array passed through `take`."""
        reads = tuple(self._read(slot, take) for slot in self.reads)
        if self.kind in ("log", "mean", "mean log"):
            return Psi(self.kind, reads, means=self.means)
        block = self.layout.block.get(self.block, "")
        if self.kind in ("value", "logdet"):
            return Psi(self.kind, index=take(self.index[0]), block=block)
        index, position = [], []
        for name, arrays in self.groups.items():
            stacked = _stack([take(array) for array in arrays])
            i, j = np.array([(i, j) for i in range(len(arrays)) for j in range(len(arrays)) if i <= j]).T
            index.append(stacked)
            position.append(self.layout.position(name, stacked[..., i], stacked[..., j]))
        first, second = zip(*self.second, strict=True)
        moments = Moments2(tuple(index), tuple(position), tuple(self.groups), first, second)
        if self.kind == "matrix":
            entries = _stack([take(array) for array in self.index])
            return Psi("matrix", (), moments, entries, block, self.selected)
        return Psi("quadratic", reads, moments)

    def _read(self, slot: Slot, take: Any) -> Read:
        return self.layout.read(slot._replace(index=take(slot.index), weight=take(slot.weight)))


def _stack(arrays: list[np.ndarray]) -> np.ndarray:
    lead = np.broadcast_shapes(*(array.shape for array in arrays))
    return np.stack([np.broadcast_to(array, lead) for array in arrays], -1)


def _cells(keys: list[np.ndarray]) -> tuple[np.ndarray | None, np.ndarray | None, int]:
    """First row of every cell, the cell of every row, and their number; (None, None, 1) when there is only one."""
    varying = [key for key in keys if key.size and (key != key[0]).any()]
    if not varying:
        return None, None, 1
    code = varying[0] - varying[0].min()
    for key in varying[1:]:
        key = key - key.min()
        span = int(key.max()) + 1
        if int(code.max()) > 2**62 // span:
            code = np.unique(code, return_inverse=True)[1]
        code = code * span + key
    _, first, cell = np.unique(code, return_index=True, return_inverse=True)
    return first, cell.reshape(-1), len(first)


def _gram(
    draft: _Draft, rows: tuple[int, ...], varying: tuple[int, ...], cell: np.ndarray | None, count: int
) -> np.ndarray:
    """Sums of scale * column_i * column_j over the rows of every cell: (cells, pairs).

    Axes along which cells do not vary are summed over first, by products of the arrays as they are, without spreading them.
    """
    if count * len(draft.pairs) > MOST_STATS:
        raise MemoryError(count)
    columns, scale = [fit(column, len(rows))[0] for column in draft.columns], fit(draft.scale, len(rows))[0]
    double = np.array(draft.times)
    if len(draft.pairs) > 60:
        total = int(np.prod(rows))
        whole = None if cell is None else np.broadcast_to(cell.reshape(varying), rows).reshape(-1)
        stacked = np.stack([np.broadcast_to(column, rows).reshape(-1) for column in columns], 1)
        weight = np.broadcast_to(scale, rows).reshape(-1)
        order = np.arange(total) if whole is None else np.argsort(whole, kind="stable")
        ends = np.cumsum(np.bincount(whole, minlength=count)) if whole is not None else np.array([total])
        i, j = np.array(draft.pairs).T
        found, start = np.empty((count, len(draft.pairs))), 0
        for number, end in enumerate(ends):
            some = stacked[order[start:end]] if whole is not None else stacked
            found[number] = ((some * weight[order[start:end], None]).T @ some)[i, j]
            start = end
        return found * double
    sums = [_summed(rows, varying, scale, columns[i], columns[j]) for i, j in draft.pairs]
    if cell is None:
        return double * np.array([[part.sum() for part in sums]])
    spread = (np.broadcast_to(part, varying).reshape(-1) for part in sums)
    return double * np.stack([np.bincount(cell, part, minlength=count) for part in spread], 1)


def _summed(
    rows: tuple[int, ...], varying: tuple[int, ...], scale: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Product of three compact arrays, summed over the axes of the rows along which cells do not vary."""
    gone = [axis for axis, length in enumerate(varying) if length == 1 and rows[axis] > 1]
    times = np.prod([rows[axis] for axis in gone if scale.shape[axis] == left.shape[axis] == right.shape[axis] == 1])
    if not gone:
        return scale * left * right
    letters = "abcdefgh"[: len(rows)]
    operands = [
        ("".join(word for word, n in zip(letters, part.shape, strict=True) if n > 1), part.squeeze())
        for part in (scale, left, right)
        if part.size > 1
    ]
    number = float(np.prod([part.item() for part in (scale, left, right) if part.size == 1])) * float(times)
    kept = "".join(
        word for axis, word in enumerate(letters) if axis not in gone and any(word in name for name, _ in operands)
    )
    if not operands:
        return np.full((1,) * len(rows), number)
    found = np.einsum(",".join(name for name, _ in operands) + "->" + kept, *(part for _, part in operands))
    return number * found.reshape([rows[axis] if word in kept else 1 for axis, word in enumerate(letters)])


def _taker(rows: tuple[int, ...], first: np.ndarray) -> Any:
    """Pick the cells' first rows out of an array (1, *rows), which is not spread over the rows: there may be millions."""

    def take(array: np.ndarray) -> np.ndarray:
        if array.size == 1:
            return np.asarray(array).reshape(1)
        array, place = fit(array, len(rows))[0], np.unravel_index(first, rows)
        return array[tuple(at if length > 1 else 0 for at, length in zip(place, array.shape, strict=True))]

    return take
