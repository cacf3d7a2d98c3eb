"""Rows of arrays that are indexed: NumPy arrays in memory, and whatever reads ``[start:stop]`` from elsewhere.

A NumPy array that lies in memory as it is handed on is not copied: blocks are read-only views of it. Everything else is
copied into buffers. Storage in chunks (an attribute ``chunks``, as Zarr and HDF5 have) is read chunk by chunk when rows
are gathered, because a chunk is decoded whole however little of it is asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.core.errors import DataError
from jensen.data.source import Column, Read, Rows, Source, copy_rows, empty, room


@dataclass(frozen=True, eq=False)
class Memory(Source):
    """NumPy arrays; `pick` is already applied to each `Column`.

    Attributes
    ----------
    columns
        What to read.
    """

    columns: tuple[Column, ...]

    @property
    def in_memory(self) -> bool:
        """True."""
        return True

    @contextmanager
    def reads(self) -> Iterator[Read]:
        """As `Source.reads`; names without a buffer are returned as views."""

        def read(start: int, stop: int, out: Rows) -> Rows:
            found = {}
            for column in self.columns:
                rows = column.array[start:stop]
                if column.name in out:
                    copy_rows(room(out, column, stop - start), rows)
                    found[column.name] = out[column.name][: stop - start]
                else:
                    found[column.name] = rows.view()
                    found[column.name].flags.writeable = False
            return found

        yield read

    def buffers(self, n: int) -> Rows:
        """Buffers for what cannot be handed on as it lies in memory."""
        plain = {column.name for column in self.columns if _plain(column)}
        return {name: empty(n, spec) for name, spec in self.specs.items() if name not in plain}

    def take(self, rows: np.ndarray) -> Rows:
        """The given rows (n,) in any order; new arrays."""
        out = {name: empty(len(rows), spec) for name, spec in self.specs.items()}
        for column in self.columns:
            room(out, column, len(rows))[...] = np.take(column.array, rows, axis=0)
        return out


@dataclass(frozen=True, eq=False)
class Blocks(Source):
    """Objects with ``.shape``, ``.dtype`` and ``[start:stop]``.

    Attributes
    ----------
    columns
        What to read; columns of the same object are cut out of one read.
    """

    columns: tuple[Column, ...]

    @property
    def threaded(self) -> bool:
        """Zarr decompresses beside Python; other objects are not called from a thread they do not know."""
        return all(type(column.array).__module__.partition(".")[0] == "zarr" for column in self.columns)

    @property
    def gap(self) -> int:
        """Length of the longest chunks, or rows that make up about 16 kB."""
        chunk = max(_chunk(column.array) for column in self.columns)
        return max(1, chunk, 16384 // max(1, sum(spec.nbytes for spec in self.specs.values())))

    @property
    def edges(self) -> np.ndarray | None:
        """First rows of the longest chunks."""
        chunk = max(_chunk(column.array) for column in self.columns)
        return np.arange(0, self.size, chunk) if chunk else None

    @contextmanager
    def reads(self) -> Iterator[Read]:
        """As `Source.reads`."""
        by_array: dict[int, list[Column]] = {}
        for column in self.columns:
            by_array.setdefault(id(column.array), []).append(column)

        # What was decoded and not yet asked for, so that blocks in order decode every chunk once: first row, rows.
        held: dict[int, tuple[int, np.ndarray]] = {}

        def read(start: int, stop: int, out: Rows) -> Rows:
            for key, columns in by_array.items():
                first, rows = held.get(key, (0, np.empty(0)))
                done = start
                while done < stop:
                    if not first <= done < first + len(rows):
                        first, rows = done, self._decoded(columns[0], done, stop)
                        held[key] = first, rows
                    end = min(stop, first + len(rows))
                    part = rows[done - first : end - first]
                    for column in columns:
                        target = room(out, column, stop - start)[done - start : end - start]
                        copy_rows(target, part if column.pick is None else part[:, column.pick])
                    done = end
            return {name: values[: stop - start] for name, values in out.items()}

        yield read

    def _decoded(self, column: Column, start: int, stop: int) -> np.ndarray:
        """Rows of a column's array from `start` to the end of the chunk that `stop` is in."""
        array, chunk = column.array, max(1, _chunk(column.array))
        stop = min(self.size, -(-stop // chunk) * chunk)
        rows = np.asarray(array[start:stop])
        if rows.shape != (stop - start, *array.shape[1:]):
            raise DataError(
                f"{column.label} must give rows as its shape {tuple(array.shape)} says; asked for rows {start} to {stop}, it "
                f"gave shape {rows.shape}; write it anew, or correct its shape."
            )
        return rows


def _plain(column: Column) -> bool:
    """Whether slices of the array can be handed on as they are."""
    array = column.array
    return column.place is None and array.flags.c_contiguous and array.dtype.isnative


def _chunk(array: Any) -> int:
    """Rows that are decoded together; 0 where unknown."""
    chunks = getattr(array, "chunks", None)
    return int(chunks[0]) if isinstance(chunks, tuple) and chunks and isinstance(chunks[0], int) else 0
