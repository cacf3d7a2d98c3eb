"""Rows of a Parquet file, or of a folder of them in the order of their names, through pyarrow.

Row groups are decoded in batches that stay in the cache of a core, one after the other; only the columns asked for. A
reader keeps its place: contiguous reads, and reads further on in the same row group, decode nothing twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jensen.core.errors import DataError
from jensen.data.source import Read, Rows, Source, Spec

BATCH = 1 << 19  # bytes decoded at a time
BUFFER = 1 << 16  # bytes of a column read at a time


@dataclass(frozen=True, eq=False)
class Parquet(Source):
    """Columns of Parquet files.

    Attributes
    ----------
    files
        In order.
    firsts
        First row of each row group and, last, the number of rows.
    groups
        (index of the file, index of the row group in it) for each row group.
    columns
        Name of a made array -> columns of the file, one for each of its columns, or the one it is.
    """

    files: tuple[Path, ...]
    firsts: np.ndarray
    groups: tuple[tuple[int, int], ...]
    columns: dict[str, tuple[str, ...]]

    @property
    def threaded(self) -> bool:
        """True: decoding costs more than most passes do with the rows."""
        return True

    @property
    def gap(self) -> int:
        """Rows that are decoded together anyway."""
        return 1024

    @property
    def edges(self) -> np.ndarray | None:
        """First rows of the row groups."""
        return self.firsts[:-1]

    @contextmanager
    def reads(self) -> Iterator[Read]:
        """As `Source.reads`; one file is open at a time."""
        cursor = _Cursor(self)
        try:

            def read(start: int, stop: int, out: Rows) -> Rows:
                cursor.seek(start)
                done = 0
                while done < stop - start:
                    done += cursor.copy(out, done, stop - start - done)
                return {name: values[: stop - start] for name, values in out.items()}

            yield read
        finally:
            cursor.close()


class _Cursor:
    """The place of one reader: batches not yet decoded, and what is left of the last one."""

    def __init__(self, source: Parquet):
        self._source = source
        self._names = list(dict.fromkeys(name for names in source.columns.values() for name in names))
        row = sum(spec.nbytes for spec in source.specs.values())
        self._batch_size = max(256, BATCH // row)
        self._file: Any = None
        self._batches: Iterator[tuple[Rows, int, int]] = iter(())
        self._batch: Rows = {}
        self._start = self._stop = 0  # rows of the batch
        self._row = -1  # row that comes next; -1 before the first

    def seek(self, row: int) -> None:
        """Go to `row`: forward within the row group, otherwise to the beginning of its group."""
        firsts = self._source.firsts
        group = int(np.searchsorted(firsts, row, side="right")) - 1
        if not firsts[group] <= self._row <= row:
            self.close()
            self._batches = self._decoded(group)
            self._row = self._start = self._stop = int(firsts[group])
        while self._row < row:
            self._advance()
            self._row = min(row, self._stop)

    def copy(self, out: Rows, done: int, wanted: int) -> int:
        """Copy at most `wanted` rows to `out` from its row `done` on; returns how many."""
        self._advance()
        n = min(wanted, self._stop - self._row)
        here = slice(self._row - self._start, self._row - self._start + n)
        for name, columns in self._source.columns.items():
            target = out[name][done : done + n]
            if target.ndim == 1:
                target[...] = self._batch[columns[0]][here]
            else:
                for k, column in enumerate(columns):
                    target[:, k] = self._batch[column][here]
        self._row += n
        return n

    def close(self) -> None:
        """Close the open file and let go of what was decoded, which would wait for the garbage collector otherwise."""
        self._batches, self._batch = iter(()), {}
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _advance(self) -> None:
        """Decode the next batch when the last one is used up."""
        if self._row < self._stop:
            return
        found = next(self._batches, None)
        if found is None:
            raise DataError(
                f"The Parquet files must have {self._source.size} rows as they did when they were opened; they end after "
                f"{self._row}; open them again."
            )
        self._batch, self._start, self._stop = found

    def _decoded(self, group: int) -> Iterator[tuple[Rows, int, int]]:
        """Batches from the beginning of `group` on: columns, first row, row after the last."""
        import pyarrow.parquet as pq

        source = self._source
        row = int(source.firsts[group])
        first_file, first_group = source.groups[group]
        for number in range(first_file, len(source.files)):
            # Read ahead by default, pyarrow would keep all columns of all row groups in memory.
            self._file = pq.ParquetFile(source.files[number], pre_buffer=False, buffer_size=BUFFER)
            begin = first_group if number == first_file else 0
            chosen = list(range(begin, self._file.num_row_groups))
            # One thread: the caller's other core is busy with the rows.
            for batch in self._file.iter_batches(self._batch_size, chosen, self._names, use_threads=False):
                if batch.num_rows:
                    yield _numbers(batch, row), row, row + batch.num_rows
                    row += batch.num_rows
            self._close_file()


def _numbers(batch: Any, row: int) -> Rows:
    """The columns of a batch that begins at `row`, not copied."""
    found = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count:
            row += int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise DataError(
                f"column {name!r} must have a number in every row; row {row} is null; remove such rows or fill them in."
            )
        found[name] = _array(column)
    return found


def _array(column: Any) -> np.ndarray:
    """A view of a column without nulls; pyarrow's own `to_numpy` would import pandas, which takes 50 MB."""
    if column.type.bit_width == 1:
        packed = np.frombuffer(column.buffers()[1], np.uint8)
        return np.unpackbits(packed, count=column.offset + len(column), bitorder="little")[column.offset :].astype(bool)
    dtype = np.dtype(column.type.to_pandas_dtype())
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)


def parquet(path: Path, columns: dict[str, tuple[str, ...]], single: set[str]) -> Parquet:
    """The source for `columns` of the file or folder `path`; arrays named in `single` are one column each, 1-D.

    Raises
    ------
    DataError
        When a column is missing or not numeric, or files of a folder differ in their columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = (path,) if path.is_file() else tuple(sorted(path.rglob("*.parquet")))
    wanted = list(dict.fromkeys(name for names in columns.values() for name in names))
    types: dict[str, Any] = {}
    groups, lengths = [], []
    for number, file in enumerate(files):
        try:
            with pq.ParquetFile(file) as opened:
                schema, metadata = opened.schema_arrow, opened.metadata
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{str(file)!r} must be a Parquet file; reading its footer failed ({error}); write it anew."
            ) from None
        for name in wanted:
            if name not in schema.names:
                raise DataError(
                    f"{str(file)!r} has no column {name!r}; it has {listed(schema.names)}; name one of these."
                )
            kind = schema.field(name).type
            if types.setdefault(name, kind) != kind:
                raise DataError(
                    f"column {name!r} must have one type in all files; it is {types[name]} in {str(files[0])!r} and {kind} in "
                    f"{str(file)!r}; write the files with one schema."
                )
        for group in range(metadata.num_row_groups):
            if metadata.row_group(group).num_rows:
                groups.append((number, group))
                lengths.append(metadata.row_group(group).num_rows)
    dtypes = {}
    for name, kind in types.items():
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise DataError(
                f"column {name!r} must hold numbers (floats, integers or booleans); its type is {kind}; convert it, or "
                f"leave it out."
            )
        dtypes[name] = np.dtype(kind.to_pandas_dtype())
    specs = {}
    for name, names in columns.items():
        common = np.result_type(*(dtypes[column] for column in names))
        specs[name] = Spec(() if name in single else (len(names),), common)
    firsts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    return Parquet(int(firsts[-1]), specs, files, firsts, tuple(groups), columns)


def listed(names: Any) -> str:
    """Names for a message, not more than ten."""
    names = [repr(name) for name in names]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
