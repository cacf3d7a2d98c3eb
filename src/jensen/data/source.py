"""What a storage of rows has to offer, and the buffers rows are read into.

Buffers are C-contiguous, start at multiples of 64 bytes (JAX then takes them on a CPU without a copy) and belong to
the reader of one pass, never to the source: sources hold no open file, so they may be read by many passes at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from jensen.core.errors import DataError

ALIGNMENT = 64
WINDOW = 1 << 24  # bytes that are read at most to gather rows, unless the storage cannot be read in smaller parts

Rows = dict[str, np.ndarray]
Read = Callable[[int, int, Rows], Rows]


class Spec(NamedTuple):
    """Shape of one row and dtype of a named array."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return prod(self.shape) * self.dtype.itemsize


class Column(NamedTuple):
    """Where one named array, or one column of it, comes from.

    Attributes
    ----------
    name
        Of the array that is made.
    array
        Anything with ``.shape``, ``.dtype`` and ``[start:stop]``.
    label
        What people call `array`, for messages.
    pick
        The column or columns of the 2-D `array` that are meant; None for all of it.
    place
        Which column of the named array it becomes; None where it is all of it.
    """

    name: str
    array: Any
    label: str
    pick: int | slice | None = None
    place: int | None = None

    @property
    def spec(self) -> Spec:
        """Row shape and dtype of this part, in native byte order; `DataError` where it is not numeric."""
        shape = tuple(self.array.shape)[1:]
        if isinstance(self.pick, int):
            shape = shape[1:]
        elif self.pick is not None:
            shape = (len(range(*self.pick.indices(shape[0]))), *shape[1:])
        return Spec(shape, numeric(self.array.dtype, self.label))


@dataclass(frozen=True, eq=False)
class Source(ABC):
    """Rows of several named arrays in one kind of storage.

    Attributes
    ----------
    size
        Number of rows.
    specs
        Name -> row shape and dtype.
    """

    size: int
    specs: dict[str, Spec]

    @property
    def in_memory(self) -> bool:
        """Whether single rows cost no more than contiguous ones."""
        return False

    @property
    def threaded(self) -> bool:
        """Whether decoding is worth a thread that works ahead."""
        return False

    @property
    def gap(self) -> int:
        """Rows that are rather read over than skipped when rows are gathered."""
        return 1

    @property
    def edges(self) -> np.ndarray | None:
        """First rows of the parts that can only be decoded whole; None where rows can be read from anywhere."""
        return None

    @abstractmethod
    def reads(self) -> AbstractContextManager[Read]:
        """Open the storage for one pass.

        Yields a function ``read(start, stop, out)`` that fills the first ``stop - start`` rows of the arrays in `out`
        and returns all names, each with ``stop - start`` rows.
        """

    def buffers(self, n: int) -> Rows:
        """What `read` needs as `out` for up to `n` rows."""
        return {name: empty(n, spec) for name, spec in self.specs.items()}

    def take(self, rows: np.ndarray) -> Rows:
        """The given rows (n,), in any order, by reads in ascending order; new arrays."""
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        out = {name: empty(len(rows), spec) for name, spec in self.specs.items()}
        with self.reads() as read:
            space: Rows = {}
            for low, high in self._runs(ascending):
                start, stop = int(ascending[low]), int(ascending[high - 1]) + 1
                if not space or stop - start > len(next(iter(space.values()))):
                    space = {name: empty(stop - start, spec) for name, spec in self.specs.items()}
                for name, values in read(start, stop, space).items():
                    out[name][order[low:high]] = values[ascending[low:high] - start]
        return out

    def _runs(self, ascending: np.ndarray) -> Iterator[tuple[int, int]]:
        """Slices of ascending row numbers that are worth one read each."""
        if not len(ascending):
            return
        wanted = WINDOW // max(1, sum(spec.nbytes for spec in self.specs.values()))
        window = self.gap * max(1, wanted // self.gap)
        cut = (np.diff(ascending) > self.gap) | (np.diff(ascending // window) > 0)
        bounds = [0, *(np.flatnonzero(cut) + 1).tolist(), len(ascending)]
        yield from zip(bounds[:-1], bounds[1:], strict=True)


def empty(n: int, spec: Spec) -> np.ndarray:
    """An aligned buffer for `n` rows."""
    nbytes = n * spec.nbytes
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    skip = -raw.__array_interface__["data"][0] % ALIGNMENT
    return raw[skip : skip + nbytes].view(spec.dtype).reshape(n, *spec.shape)


def numeric(dtype: Any, label: str) -> np.dtype:
    """`dtype` in native byte order, or `DataError` where JAX has no such numbers."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found.kind not in "fiub" or found.itemsize > 8:
        raise DataError(
            f"{label} must hold numbers (floats, integers or booleans); its type is {dtype}; convert it, or leave it out."
        )
    return found.newbyteorder("=")


def merged(columns: list[Column]) -> dict[str, Spec]:
    """Name -> row shape and dtype of the arrays that `columns` make; columns side by side take their common dtype."""
    parts: dict[str, list[Column]] = {}
    for column in columns:
        parts.setdefault(column.name, []).append(column)
    specs = {}
    for name, mine in parts.items():
        if mine[0].place is None:
            specs[name] = mine[0].spec
        else:
            specs[name] = Spec((len(mine),), np.result_type(*(column.spec.dtype for column in mine)))
    return specs


def room(out: Rows, column: Column, n: int) -> np.ndarray:
    """Where in the buffers the first `n` rows of `column` go."""
    target = out[column.name][:n]
    return target if column.place is None else target[:, column.place]


def copy_rows(target: np.ndarray, rows: np.ndarray) -> None:
    """``target[...] = rows``; rows of a 2-D array as single lumps of bytes, which NumPy copies two to three times faster."""
    alike = rows.ndim == 2 and rows.shape == target.shape and rows.dtype == target.dtype
    if alike and rows.strides[1] == target.strides[1] == rows.itemsize:
        lump = np.dtype((np.void, rows.shape[1] * rows.itemsize))
        target.view(lump)[...] = rows.view(lump)
    else:
        target[...] = rows
