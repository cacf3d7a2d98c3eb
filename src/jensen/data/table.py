"""A table of rows: blocks in order, random rows, shuffled minibatches, shards; bounded memory whatever the size.

Passes over all rows read blocks into a ring of three buffers: one is being computed with, one may be in flight (JAX
works asynchronously and may read NumPy memory without a copy), one is being filled. A thread fills it where decoding
costs something.

Minibatches without loading everything are block-shuffled: blocks of contiguous rows in random order, many of them mixed
in a buffer, whose rows are permuted. What is correlated in the order of the file is spread over as many places of it as
a buffer has blocks. Reference: Xu et al. (2022), In-database machine learning with CorgiPile: stochastic gradient
descent without full data shuffle, SIGMOD.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from jensen.core.errors import DataError, OptionError
from jensen.data.arrays import Memory
from jensen.data.source import Read, Rows, Source, Spec, empty
from jensen.data.subsample import choose

RING = 3
SHORT = 10  # rows per random block of a sample from a file
BLOCK = 1 << 16  # bytes of a block that is shuffled as one
MIXED = 64  # blocks that are mixed in one buffer
BUFFER = 1 << 26  # bytes of that buffer, unless two blocks or two minibatches need more

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Table:
    """Equally many rows of several named arrays, read in blocks; `jensen.table` makes one.

    All arrays that are handed out are C-contiguous, in the dtype of the source and native byte order. Every float that
    is read is checked: a NaN or an infinite number raises `DataError` with its name and row.

    Attributes
    ----------
    sources
        Where the rows are; each array is in one of them.
    start
        First row of the sources that belongs to this table.
    size
        Number N of rows.
    """

    sources: tuple[Source, ...]
    start: int
    size: int

    @property
    def specs(self) -> dict[str, Spec]:
        """Name -> (shape of one row, dtype)."""
        return {name: spec for source in self.sources for name, spec in source.specs.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(self.specs)

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name} {spec.dtype}{list(spec.shape)}" for name, spec in self.specs.items())
        return f"Table({self.size} rows: {arrays})"

    def read(self, start: int, stop: int) -> Rows:
        """Contiguous rows ``start`` to ``stop`` (exclusive).

        Returns
        -------
        dict
            Name -> (stop - start, ...). Read-only views where the source is a contiguous NumPy array, otherwise new arrays;
            nobody overwrites either.

        Raises
        ------
        OptionError
            When the rows are not within 0 and N.
        """
        if not 0 <= start <= stop <= self.size:
            raise OptionError(f"rows must lie between 0 and {self.size}; got {start} to {stop}; ask for fewer.")
        with self._reads() as read:
            return read(self.start + start, self.start + stop, self._buffers(stop - start))

    def take(self, rows: np.ndarray) -> Rows:
        """The rows with the given numbers, in the order given; numbers may repeat.

        Files are read in ascending order, in short reads; chunks and row groups that are touched are decoded once.

        Returns
        -------
        dict
            Name -> new array (len(rows), ...).
        """
        rows = np.asarray(rows)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise OptionError(
                f"rows must be a 1-D array of row numbers; got {rows.dtype} of shape {rows.shape}; of a mask take np.flatnonzero."
            )
        if rows.size and not 0 <= rows.min() <= rows.max() < self.size:
            raise OptionError(
                f"row numbers must be 0 to {self.size - 1}; got {rows.min()} to {rows.max()}; correct them."
            )
        numbers = rows.astype(np.int64) + self.start
        out: Rows = {}
        for source in self.sources:
            out |= source.take(numbers)
        _check(out, numbers)
        return out

    def sample(self, rng: np.random.Generator, n: int) -> Rows:
        """`n` random rows without replacement, in random order: the first m of them are a random sample too.

        In memory, and from chunks and row groups of which all are needed anyway, every set of rows is equally likely.
        From other files it is blocks of ten contiguous rows at random places: each row is equally likely, neighbors come
        together.

        Returns
        -------
        dict
            Name -> new array (n, ...).

        Raises
        ------
        OptionError
            When `n` is not within 1 and N.
        """
        if not 1 <= n <= self.size:
            raise OptionError(f"a sample must have between 1 and {self.size} rows; got {n}; ask for fewer.")
        short = 1 if self._singles(n) else SHORT
        blocks = -(-self.size // short)
        # The last block may be shorter than the others.
        wanted = min(blocks, -(-n // short) + (self.size % short > 0))
        starts = np.sort(rng.choice(blocks, wanted, replace=False, shuffle=False)) * short
        rows = (starts[:, None] + np.arange(short)).reshape(-1)
        return self.take(rng.permutation(rows[rows < self.size])[:n])

    def subsample(self, rng: np.random.Generator, n: int) -> tuple[Rows, np.ndarray]:
        """`n` rows that stand for all, and their weights (n,), which sum to N.

        In memory, rows with rare values are more than their share; see `jensen.data.subsample`. Elsewhere looking for them
        would cost a pass, and the rows are those of `sample`.
        """
        if all(isinstance(source, Memory) for source in self.sources):
            with self._reads(check=False) as read:  # those that are taken are looked at, and all in a pass
                arrays = read(self.start, self.start + self.size, self._buffers(self.size))
            rows, weights = choose(rng, arrays, n)
            return self.take(rows), weights
        return self.sample(rng, n), np.full(n, self.size / n)

    def blocks(self, size: int) -> Iterator[tuple[int, Rows]]:
        """All rows in order, in blocks of `size` rows; only the last one may be shorter.

        A block is valid until the next but one is asked for, then its buffers are filled anew: whoever hands it to JAX
        waits for the result of block k before asking for block k + 2, and who keeps it copies it. Contiguous NumPy arrays
        come as read-only views.

        Yields
        ------
        tuple
            Row number of the first row, and name -> (size, ...).
        """
        _check_size(size)
        return self._blocks(size)

    def shuffled(self, rng: np.random.Generator, size: int) -> Iterator[Rows]:
        """One epoch of minibatches of `size` rows, each row at most once.

        In memory a random permutation of all rows; on files blocks are shuffled, see the head of this file. The last N modulo
        `size` rows of the random order are dropped, others in every epoch.

        Yields
        ------
        dict
            Name -> new array (size, ...).

        Raises
        ------
        OptionError
            When `size` is not within 1 and N.
        """
        if _check_size(size) > self.size:
            raise OptionError(f"minibatches must have at most {self.size} rows, all there are; got {size}; take fewer.")
        return self._permuted(rng, size) if self._in_memory else self._mixed(rng, size)

    def shard(self, index: int, count: int) -> "Table":
        """The contiguous part `index` of `count` parts, which differ by one row at most."""
        if not 0 <= index < count <= self.size:
            raise OptionError(
                f"a shard needs 0 <= index < count <= {self.size}; got index {index} of {count}; correct them."
            )
        low, high = (self.size * k // count for k in (index, index + 1))
        return Table(self.sources, self.start + low, high - low)

    @property
    def in_parts(self) -> bool:
        """Whether rows are decoded in parts, such as row groups, so that reading some at random costs as much as all."""
        return any(not source.in_memory and source.edges is not None for source in self.sources)

    @property
    def _in_memory(self) -> bool:
        return all(source.in_memory for source in self.sources)

    @property
    def _row_bytes(self) -> int:
        return max(1, sum(spec.nbytes for spec in self.specs.values()))

    def _singles(self, n: int) -> bool:
        """Whether `n` single rows cost no more than as many in short blocks."""
        edges = [source.edges for source in self.sources if not source.in_memory]
        return all(at is not None and len(at) <= n // SHORT for at in edges)

    def _buffers(self, n: int) -> Rows:
        return {name: buffer for source in self.sources for name, buffer in source.buffers(n).items()}

    @contextmanager
    def _reads(self, *, check: bool = True) -> Iterator[Read]:
        """All sources as one, in rows of the sources, checked for numbers that are not finite."""
        with ExitStack() as stack:
            parts = [(stack.enter_context(source.reads()), source.specs) for source in self.sources]

            def read(start: int, stop: int, out: Rows) -> Rows:
                found: Rows = {}
                for part, specs in parts:
                    found |= part(start, stop, {name: out[name] for name in specs if name in out})
                if check:
                    _check(found, range(start, stop))
                return found

            yield read

    def _ahead(self, work: Callable[[int], T], count: int) -> Iterator[T]:
        """``work(0), work(1), ...``, one ahead in a thread where a source is worth it."""
        if not any(source.threaded for source in self.sources):
            yield from map(work, range(count))
            return
        with ThreadPoolExecutor(1, "jensen-rows") as pool:
            ahead = pool.submit(work, 0)
            for number in range(1, count + 1):
                done = ahead.result()
                if number < count:
                    ahead = pool.submit(work, number)
                yield done

    def _blocks(self, size: int) -> Iterator[tuple[int, Rows]]:
        size = min(size, self.size)
        ring = [self._buffers(size) for _ in range(RING)]
        with self._reads() as read:

            def work(number: int) -> tuple[int, Rows]:
                start = number * size
                stop = min(self.size, start + size)
                return start, read(self.start + start, self.start + stop, ring[number % RING])

            yield from self._ahead(work, -(-self.size // size))

    def _permuted(self, rng: np.random.Generator, size: int) -> Iterator[Rows]:
        order = rng.permutation(self.size)
        for low in range(0, self.size - size + 1, size):
            yield self.take(order[low : low + size])

    def _mixed(self, rng: np.random.Generator, size: int) -> Iterator[Rows]:
        bounds = self._shuffle_bounds()
        spans = np.stack([bounds[:-1], bounds[1:]], 1)[rng.permutation(len(bounds) - 1)]
        longest = int((spans[:, 1] - spans[:, 0]).max())
        mixed = max(2, -(-2 * size // longest), min(MIXED, BUFFER // (longest * self._row_bytes)))
        loads = [spans[low : low + mixed] for low in range(0, len(spans), mixed)]
        capacity = size + min(mixed, len(spans)) * longest
        # Two, so that one can be filled ahead; the first `size` rows are for what the last one left over.
        rings = [{name: empty(capacity, spec) for name, spec in self.specs.items()} for _ in range(2)]
        with self._reads() as read:

            def work(number: int) -> tuple[Rows, int]:
                buffer, end = rings[number % 2], size
                for start, stop in loads[number].tolist():
                    part = {name: values[end : end + stop - start] for name, values in buffer.items()}
                    read(start, stop, part)
                    end += stop - start
                return buffer, end

            left: Rows = {name: values[:0] for name, values in rings[0].items()}
            for buffer, end in self._ahead(work, len(loads)):
                begin = size - len(next(iter(left.values())))
                for name, values in left.items():
                    buffer[name][begin:size] = values
                order = begin + rng.permutation(end - begin)
                whole = len(order) - len(order) % size
                for low in range(0, whole, size):
                    yield {name: np.take(values, order[low : low + size], axis=0) for name, values in buffer.items()}
                left = {name: values[order[whole:]] for name, values in buffer.items()}

    def _shuffle_bounds(self) -> np.ndarray:
        """Rows of the sources at which this table is cut into the blocks that are shuffled."""
        rows = max(1, BLOCK // self._row_bytes)
        stop = self.start + self.size
        known = [source.edges for source in self.sources if source.edges is not None]
        # What can only be decoded whole decides; where several sources are cut, the one with the longest parts.
        edges = min(known, key=len) if known else np.arange(0, stop, rows)
        edges = edges[np.unique(edges // rows, return_index=True)[1]]
        inner = edges[(edges > self.start) & (edges < stop)]
        return np.concatenate([[self.start], inner, [stop]])


def _check_size(size: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise OptionError(f"size must be a positive number of rows; got {size!r}; for example size=8192.")
    return int(size)


def _check(rows: Rows, numbers: np.ndarray | range) -> None:
    """Raise `DataError` at the first number that is not finite; `numbers` are those of the rows."""
    for name, values in rows.items():
        if values.dtype.kind != "f" or not values.size:
            continue
        # NaN is passed on by both; two to three times as fast as a sum, and no huge finite number overflows.
        if np.isfinite(values.max()) and np.isfinite(values.min()):
            continue
        where = np.argwhere(~np.isfinite(values))[0].tolist()
        column = f"{name}[:, {', '.join(str(k) for k in where[1:])}]" if len(where) > 1 else name
        raise DataError(
            f"{column} must be finite in every row; it is {float(values[tuple(where)])} in row {int(numbers[where[0]])}; remove "
            f"such rows or fill them in."
        )
