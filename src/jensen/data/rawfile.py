"""Rows of a memory-mapped array, read through its file.

Pages of a map that were touched count as resident memory of the process until the system takes them back: a pass over a
map of 20 GB looks like a process of 20 GB. Reading into buffers costs the same and keeps a few blocks.

The map is only asked where its numbers lie: row i of a part begins at byte offset + i * stride. Parts of the same rows
(``matrix[:, :20]`` and ``matrix[:, 20]``) are cut out of one read. An array whose rows overlap in the file
(column-major order) is taken apart into columns.
"""

import mmap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import Any, NamedTuple

import numpy as np

from jensen.core.errors import DataError
from jensen.data.source import Column, Read, Rows, Source, Spec, copy_rows

SCRATCH = 1 << 20  # bytes that are read before they are cut into parts: in the cache of a core, and few calls


class Piece(NamedTuple):
    """A strided part of the rows of a file: `index` is its place in the row of array `name`."""

    name: str
    index: tuple[Any, ...]
    path: str
    offset: int
    stride: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @property
    def extent(self) -> int:
        """Bytes from the beginning of a row to its end."""
        return sum((k - 1) * step for k, step in zip(self.shape, self.strides, strict=True)) + self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class RawFile(Source):
    """Memory-mapped arrays.

    Attributes
    ----------
    groups
        Pieces that are read together: same file, same stride, within one row of each other.
    """

    groups: tuple[tuple[Piece, ...], ...]

    @property
    def gap(self) -> int:
        """Rows that make up about 16 kB."""
        return max(1, 16384 // max(group[0].stride for group in self.groups))

    @contextmanager
    def reads(self) -> Iterator[Read]:
        """As `Source.reads`; the files are open for the pass."""
        with ExitStack() as stack:
            files = {}
            for path in {group[0].path for group in self.groups}:
                try:
                    files[path] = stack.enter_context(open(path, "rb", buffering=0))
                except OSError as error:
                    raise DataError(
                        f"The file {path!r} behind a memory map cannot be read ({error.strerror}); open the map anew."
                    ) from None

            scratch = np.empty(max(SCRATCH, *(group[0].stride for group in self.groups)), np.uint8)

            def read(start: int, stop: int, out: Rows) -> Rows:
                for group in self.groups:
                    _read_group(files[group[0].path], group, start, stop, out, scratch)
                return {name: values[: stop - start] for name, values in out.items()}

            yield read


def raw_file(size: int, specs: dict[str, Spec], columns: list[Column]) -> RawFile:
    """The source for columns of memory-mapped arrays; `pick` is already applied to each."""
    pieces = [piece for column in columns for piece in _pieces(column)]
    pieces.sort(key=lambda piece: (piece.path, piece.stride, piece.offset))
    groups: list[list[Piece]] = []
    for piece in pieces:
        first = groups[-1][0] if groups else None
        together = (
            first is not None
            and (first.path, first.stride) == (piece.path, piece.stride)
            and piece.offset + piece.extent - first.offset <= piece.stride
        )
        if together:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return RawFile(size, specs, tuple(tuple(group) for group in groups))


def root(array: np.ndarray) -> np.memmap | None:
    """The memory map that `array` is (a view of), where the numbers in its file are the numbers of the array."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
            # Mode "c" keeps what is assigned in memory and not in the file.
            return array if array.filename is not None and array.mode != "c" else None
        array = array.base  # pyright: ignore[reportAssignmentType]
    return None


def _pieces(column: Column) -> list[Piece]:
    array = column.array
    origin = root(array)
    assert origin is not None  # only such columns come here
    offset = origin.offset + array.ctypes.data - origin.ctypes.data
    index = () if column.place is None else (column.place,)
    piece = Piece(
        column.name,
        index,
        str(origin.filename),
        offset,
        array.strides[0],
        array.shape[1:],
        array.strides[1:],
        array.dtype,
    )
    return _by_rows(piece)


def _by_rows(piece: Piece) -> list[Piece]:
    """Pieces whose rows do not overlap."""
    if piece.extent <= piece.stride or not piece.shape:
        return [piece]
    found = []
    for k in range(piece.shape[0]):
        found += _by_rows(
            piece._replace(
                index=(*piece.index, k),
                offset=piece.offset + k * piece.strides[0],
                shape=piece.shape[1:],
                strides=piece.strides[1:],
            )
        )
    return found


def _read_group(file: FileIO, group: tuple[Piece, ...], start: int, stop: int, out: Rows, scratch: np.ndarray) -> None:
    first = group[0]
    target = out[first.name][: stop - start]
    whole = len(group) == 1 and not first.index and first.dtype == target.dtype
    if whole and first.stride == first.extent and first.strides == target.strides[1:]:
        _fill(file, first.offset + start * first.stride, target.reshape(-1).view(np.uint8))
        return
    width = max(piece.offset + piece.extent for piece in group) - first.offset
    step = max(1, SCRATCH // first.stride)
    for low in range(start, stop, step):
        n = min(step, stop - low)
        _fill(file, first.offset + low * first.stride, scratch[: (n - 1) * first.stride + width])
        for piece in group:
            skip = piece.offset - first.offset
            rows = np.ndarray((n, *piece.shape), piece.dtype, scratch, skip, (first.stride, *piece.strides))
            copy_rows(out[piece.name][(slice(low - start, low - start + n), *piece.index)], rows)


def _fill(file: FileIO, offset: int, target: np.ndarray) -> None:
    """Fill `target` (bytes) from `offset`; one read returns at most 2 GB."""
    file.seek(offset)
    done = 0
    while done < len(target):
        got = file.readinto(target[done:].data)
        if not got:
            raise DataError(
                f"The file {file.name!r} must have at least {offset + len(target)} bytes for the shape of its array; "
                f"it ends after {offset + done}; write it anew or correct the shape."
            )
        done += got
