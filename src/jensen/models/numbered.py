"""Which array of the data says to which group a row belongs, found from gradients alone; rows of all groups counted.

A row that belongs to group k of a site z has a log density whose gradient in z is zero but at z[k]. The array whose numbers are
those k, on every row that is looked at, numbers the groups. No front end is asked. Whether groups are independent given the rest
is another question (models/groups.py).
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jensen.core import keys, processes
from jensen.core.errors import DataError, UnsupportedError
from jensen.models.groups import FEWEST, by_length
from jensen.models.model import Model
from jensen.models.plates import Axes, Plate
from jensen.models.rows import Rows

_GLANCE = 997
"""Rows at which arrays are looked at first."""
_LOOKED_AT, _SEVERAL = 4, 4
"""Rows that are looked at one by one, and values of a site that a row of crossed groups reads, at most."""


class Numbers(NamedTuple):
    """Which array numbers groups.

    Attributes
    ----------
    name
        Of the array.
    count
        Number of groups G.
    sites
        Site -> axis of the groups, for the sites that have them.
    """

    name: str
    count: int
    sites: Axes

    def __str__(self) -> str:
        return ", ".join(name for name, _ in self.sites)


def possible(record: Model, plate: Plate) -> bool:
    """Whether an array of the rows in memory looks as if it could number groups; nothing is evaluated."""
    step = max(1, plate.held // _GLANCE)
    some = {name: np.asarray(record.data[name])[::step] for name, axis in plate.data if axis == 0}
    lengths = {len(own) for several in by_length(record.sites) for _, own in several}
    return any(
        len({k for _, k in numbers}) >= FEWEST // 2
        for count in lengths
        if count >= FEWEST
        for _, numbers in _numbers(plate, some, count)
    )


def find(record: Model, plate: Plate, rows: Rows, first: Mapping[str, np.ndarray], seed: int) -> Numbers | None:
    """The array that numbers groups, and their sites, those with most coordinates where several have groups; None where none has.

    Parameters
    ----------
    record, plate, rows
        The model and its rows.
    first
        Arrays of some of the rows.
    seed
        Of the points at which gradients are taken.

    Raises
    ------
    UnsupportedError
        When a row reads a few values of a site (crossed groups), or no array has the numbers of those that rows read.
    """
    z = keys.generator(seed, "numbered").normal(0, 0.3, (2, record.dim))

    def read(some: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Which groups with coordinates `own` (G, k) some of the rows read."""
        arrays = {name: array[some] for name, array in first.items()}
        gradient = rows.gradients_of(arrays, np.ones(len(some)), z)[1]
        return np.flatnonzero((gradient[:, own] != 0).any((0, 2)))

    for several in by_length(record.sites):
        names = ", ".join(name for name, _ in several)
        own = np.concatenate([each for _, each in several], axis=1)
        if len(own) < FEWEST:
            continue
        seen = [len(read(np.array([row]), own)) for row in range(_LOOKED_AT)]
        if max(seen) > _SEVERAL or not any(seen):
            continue
        for name, numbers in _numbers(plate, first, len(own)):
            looked = numbers[:_LOOKED_AT]
            alone = all(set(read(np.array([row]), own)) <= {k} for row, k in looked)
            if alone and set(read(np.array([row for row, _ in numbers]), own)) == {k for _, k in numbers}:
                free = {site.name: site.free_shape for site in record.sites}
                return Numbers(name, len(own), tuple((site, free[site].index(len(own))) for site, _ in several))
        likelihoods = ", ".join(name for name, _ in plate.factors)
        if max(seen) > 1:
            raise UnsupportedError(
                f"each row of {likelihoods} reads {max(seen)} values of {names}, whose groups are crossed: they are not "
                "independent given all other sites, and neither rows nor groups can be left out; pass the rows as arrays, then "
                "all of them are used at once."
            )
        raise UnsupportedError(
            f"each row of {likelihoods} reads one value of {names}, and no array of the rows ({', '.join(first)}) has its "
            "number; add the numbers of the groups to the rows as an integer array."
        )
    return None


def _numbers(plate: Plate, first: Mapping[str, np.ndarray], count: int) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Arrays that may number `count` groups, each with rows and their numbers; bad numbers are told when all are counted."""
    for name, _ in plate.data:
        values = first[name]
        if values.ndim == 1 and values.dtype.kind in "iuf":
            good = np.flatnonzero((values >= 0) & (values < count) & (values == np.floor(values)))
            if len(good):
                yield name, list(zip(good.tolist(), values[good].astype(int).tolist(), strict=True))


def counted(rows: Rows, numbers: Numbers) -> np.ndarray:
    """Rows of every group (G,), by one reading of all rows, of which each process does its part.

    Raises
    ------
    DataError
        When a number is not whole, or of no group.
    """
    found = processes.total(lambda: _counted(rows, numbers), f"rows by {numbers.name}", np.zeros(0))
    return found.astype(int)


def _counted(rows: Rows, numbers: Numbers) -> np.ndarray:
    found = np.zeros(numbers.count, int)
    for start, arrays in rows.source.blocks(rows.block):
        values = arrays[numbers.name]
        good = (values >= 0) & (values < numbers.count)
        if values.dtype.kind == "f":
            good &= values == np.floor(values)
        if not good.all():
            row = int(np.argmin(good))
            raise DataError(
                f"{numbers.name} must hold whole numbers from 0 to {numbers.count - 1:,}, one for each of the "
                f"{numbers.count:,} groups of {numbers}; it is {values[row]} in row {rows.begin + start + row:,}; correct it, or "
                f"make {numbers} longer."
            )
        found += np.bincount(values.astype(np.int64), minlength=numbers.count)
    return found


def chosen(counts: np.ndarray, rng: np.random.Generator, groups: int, rows: int) -> np.ndarray:
    """Random groups, at most so many, that have so many rows together at the most; in ascending order."""
    order = rng.permutation(len(counts))
    order = order[counts[order] <= rows]
    return np.sort(order[np.cumsum(counts[order]) <= rows][:groups])


def collected(rows: Rows, numbers: Numbers, some: np.ndarray) -> dict[str, np.ndarray]:
    """All rows of some groups (n,), by another reading."""
    wanted, several, this = np.zeros(numbers.count, bool), processes.count(), processes.index()
    wanted[some] = True
    found: dict[str, np.ndarray] = {}

    def read() -> np.ndarray:
        """Number of them in the part of every process (P,)."""
        parts: list[dict[str, Any]] = []
        for _, arrays in rows.source.blocks(rows.block):
            here = wanted[arrays[numbers.name].astype(np.int64)]
            parts.append({name: array[here] for name, array in arrays.items()})
        found.update({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        return len(found[numbers.name]) * np.eye(several)[this]

    what = f"rows of some groups by {numbers.name}"
    sizes = processes.total(read, what, some).astype(int)
    if several == 1:
        return found
    begin = int(sizes[:this].sum())

    def placed(own: np.ndarray) -> np.ndarray:
        """Those of this process among all of them; the others are zero, so that a sum puts them together."""
        every = np.zeros((sizes.sum(), *own.shape[1:]))
        every[begin : begin + len(own)] = own
        return every

    every = processes.total(lambda: {name: placed(own) for name, own in found.items()}, what, some)
    return {name: every[name].astype(own.dtype) for name, own in found.items()}
