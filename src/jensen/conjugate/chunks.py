"""From the tables of a plan to the chunks of `jensen.conjugate.local`, on the host.

Columns of stats that are the same in all rows are kept apart from those that are not, rows with equal reads become cells, and
rows that are equal altogether are merged, with a multiplicity. Whether that is worth a try is seen from a sample: of m different
rows, s random ones hold about s^2 / 2m equal pairs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jensen.conjugate import documents
from jensen.conjugate.cells import _cells
from jensen.conjugate.energy import Energy
from jensen.conjugate.leveled import Leveled
from jensen.conjugate.local import FOLD, Known, Local, Part, sizes
from jensen.conjugate.pieces import Rows
from jensen.conjugate.plan import Plan
from jensen.conjugate.tables import Constant

SMALLEST = 50_000
"""Sites with fewer rows keep their probabilities."""
SMALLEST_GATHERED = 2000
"""The same where rows read different elements of a site: gathers cost more than matrix products, and cells save most of them."""
ROWS = 4096
"""Most of a chunk: larger ones leave the cache, and are split up between threads, whose start costs more than they save."""
_SAMPLE = 4096


def split(
    plan: Plan, smallest: int | None = None, rows: int = ROWS, shuffle: np.random.Generator | None = None
) -> tuple[Energy, tuple[Local, ...], tuple[np.ndarray, ...]]:
    """The energy without the tables of its large discrete sites, and these sites.

    Parameters
    ----------
    plan
        With an energy.
    smallest
        Sites with fewer rows are left in the energy; None: as suits their tables.
    rows
        Of a chunk.
    shuffle
        Makes the order of the rows random. None: it is kept.

    Returns
    -------
    Energy
    tuple of Local
    tuple of arrays
        The rows of each, in the order of the chunks; of rows that are merged the first one.
    """
    assert plan.energy is not None
    energy, found, orders = plan.energy, [], []
    for name in candidates(plan, smallest):
        one = local(plan, name, rows, shuffle)
        if one is not None:
            found.append(one[0])
            orders.append(one[1])
    gone = {one.site for one in found}
    tables = {node: tables for node, tables in energy.tables.items() if not gone & set(tables.sites)}
    discrete = tuple(name for name in energy.discrete if name not in gone)
    return replace(energy, tables=tables, discrete=discrete), tuple(found), tuple(orders)


def candidates(plan: Plan, smallest: int | None = None) -> tuple[str, ...]:
    """Independent discrete sites with many rows that meet no other discrete site in a node, in the order of the model."""
    energy, found = plan.energy, []
    assert energy is not None
    for node in plan.graph.nodes:
        if node.name not in energy.discrete or node.name in energy.chains:
            continue
        own = [tables for tables in energy.tables.values() if node.name in tables.sites]
        gathered = any(
            isinstance(part, Rows) and not part.hoisted and len(part.stat) == 1 for t in own for part in t.parts
        )
        least = smallest if smallest is not None else SMALLEST_GATHERED if gathered else SMALLEST
        drawn = any(isinstance(part, Leveled) for tables in own for part in tables.parts)
        if int(np.prod(node.shape)) >= least and not drawn and all(tables.sites == (node.name,) for tables in own):
            found.append(node.name)
    return tuple(found)


def local(
    plan: Plan, site: str, rows: int = ROWS, shuffle: np.random.Generator | None = None
) -> tuple[Local, np.ndarray] | None:
    """One of the `candidates` as chunks, and its rows in their order; None when its tables have too many cells."""
    energy, size = plan.energy, int(np.prod(next(node.shape for node in plan.graph.nodes if node.name == site)))
    nodes = {node: tables for node, tables in energy.tables.items() if site in tables.sites}  # type: ignore[union-attr]
    parts: list[Part] = []
    columns: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    levels = next(iter(nodes.values())).count
    for node, tables in nodes.items():
        for table in tables.parts:
            part = _part(node, table, size, levels, columns, codes)
            if part is None:
                return None
            parts.append(part)
    weights, kept = _merged(columns, codes, size)
    kept = np.arange(size) if kept is None else kept
    grouped = None if shuffle is None else documents.own(parts, site)
    starts = None
    if shuffle is not None:
        code = None if grouped is None else codes[parts[grouped].code][kept]
        order = shuffle.permutation(len(kept)) if code is None else documents.order(code, shuffle)
        if code is not None:  # whole groups in every chunk: chunks are of different sizes, which weights say
            starts = documents.bounds(code[order], rows)
            weights = np.ones(len(kept)) if weights is None else weights
        kept = kept[order]
        weights = None if weights is None else weights[order]
    count = len(kept)
    if starts is None:
        starts = np.concatenate([[0], np.cumsum(sizes(count, -(-count // rows)))])
    found = Local(
        tuple(parts),
        _chunked([column[kept] for column in columns], starts, float),
        _chunked([code[kept] for code in codes], starts, np.int32),
        None if weights is None else _chunked([weights], starts, float)[:, 0],
        count,
        site,
        levels,
    )
    return found, kept


def _part(node: str, table: Any, size: int, levels: int, columns: list[Any], codes: list[Any]) -> Part | None:
    """A table's part, with its columns and codes appended."""
    if isinstance(table, Constant):
        values = np.asarray(table.values)
        if len(values) == 1:
            return Part(Known(values.T.reshape(-1, 1, 1, 1)), np.ones((1, 1)), node, (), (), -1, 1)
        stat, psi = values[None, :, None], Known(np.eye(levels).reshape(levels, 1, 1, levels))
    elif isinstance(table, Rows):
        stat, psi = np.asarray(table.stat), table.psi
    else:
        return None
    if stat.shape[0] > 1 and stat.shape[1] > 1:
        return None
    flat = [leaf for leaf in jax.tree.leaves(psi) if np.ndim(leaf) >= 3 and leaf.shape[1] == size > 1]
    code, cells = -1, 1
    leaves = jax.tree.leaves(psi)
    lead = [np.shape(leaf)[2] for leaf in leaves if np.ndim(leaf) >= 3]
    rest = max([stat.shape[2], *lead])
    if flat and not isinstance(psi, Known):
        first, cell, cells = _cells(_keys(flat, size))
        if 2 * cells * rest > size:
            return None
        if first is not None:
            psi = jax.tree.map(
                lambda leaf: np.asarray(leaf)[:, first] if np.ndim(leaf) >= 3 and leaf.shape[1] == size else leaf, psi
            )
            code = len(codes)
            codes.append(cell)
        else:
            psi = jax.tree.map(lambda leaf: leaf[:, :1] if np.ndim(leaf) >= 3 else leaf, psi)
    stat = np.broadcast_to(stat, (*stat.shape[:2], rest, stat.shape[3])).reshape(*stat.shape[:2], -1)
    moving = [j for j in range(stat.shape[-1]) if stat.shape[1] > 1 and (stat[0, :, j] != stat[0, 0, j]).any()]
    fixed = np.array(stat[:, 0])
    fixed[:, moving] = 0.0
    places = range(len(columns), len(columns) + len(moving))
    columns += [stat[0, :, j] for j in moving]
    return Part(psi, fixed, node, tuple(moving), tuple(places), code, cells)


def _keys(leaves: Sequence[Any], size: int) -> list[np.ndarray]:
    """Integer columns (size,) that tell rows with different index arrays apart."""
    keys: list[np.ndarray] = []
    for leaf in leaves:
        for column in np.moveaxis(np.asarray(leaf), 1, 0).reshape(size, -1).T:
            if column.dtype.kind == "f":
                column = np.unique(column, return_inverse=True)[1]
            shifted = column - column[0]
            if shifted.any() and not any(np.array_equal(shifted, key - key[0]) for key in keys):
                keys.append(column)
    return keys


def _merged(columns: Sequence[Any], codes: Sequence[Any], size: int) -> tuple[Any, Any]:
    """Multiplicities and first rows of the sets of equal rows; (None, None) when a sample has no two equal ones."""
    few = np.random.default_rng(0).choice(size, min(size, _SAMPLE), replace=False)

    def keys(rows: Any) -> list[np.ndarray]:
        whole = [np.unique(column[rows], return_inverse=True)[1] for column in columns]
        return whole + [code[rows] for code in codes]

    if _cells(keys(few))[2] == len(few):
        return None, None
    first, cell, count = _cells(keys(slice(None)))
    if first is None:
        return np.array([float(size)]), np.zeros(1, int)
    if 2 * count > size * 1.8:
        return None, None
    return np.bincount(cell, minlength=count).astype(float), first  # type: ignore[arg-type]


def _chunked(arrays: Sequence[Any], starts: np.ndarray, dtype: Any) -> np.ndarray:
    """(chunks, arrays, rows), every chunk padded with zeros; chunk c has the rows from starts[c] to starts[c + 1]."""
    longest = int(np.diff(starts).max())
    found = np.zeros((len(starts) - 1, len(arrays), -(-longest // FOLD) * FOLD), dtype)
    for chunk, (low, high) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        for place, array in enumerate(arrays):
            found[chunk, place, : high - low] = array[low:high]
    return found
