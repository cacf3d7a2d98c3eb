"""Minibatches of the rows of a model: blocks on the device for compiled loops, each one an unbiased stand-in for all rows.

    E_block[ prior(z) + w sum_{i in block} l_i(z) ] = prior(z) + sum_{i=1}^N l_i(z)

Rows that fit are permuted on the host, once for many epochs (gathering rows in every step takes five times longer), and cut into
K blocks that differ by one row at most, in a new order every epoch: w = K, no row is left out, and an epoch sums to exactly the
whole. Rows that do not fit come in batches of one size from a source that shuffles them: w = N / B, and what is left over at the
end of an epoch is other rows every time.

Everything is a function of (seed, step): nothing remembers where an epoch was begun.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core import keys
from jensen.core.compilation import on_device
from jensen.core.errors import OptionError, UnsupportedError
from jensen.core.layout import Site, unflatten
from jensen.models.large import LargeTarget
from jensen.models.model import Model, total
from jensen.models.plates import Plate
from jensen.models.rows import Source
from jensen.models.weighted import WEIGHTS, weighted

RESIDENT = 2**28
"""Bytes up to which all rows are kept on the device."""
_EPOCHS, _STEPS = 100, 100
"""Rows are permuted anew after so many epochs that make at least so many steps; in between only the order of blocks changes."""


class Shuffled(Source, Protocol):
    """A source of rows that do not fit into memory."""

    def shuffled(self, rng: np.random.Generator, size: int) -> Iterator[Mapping[str, np.ndarray]]:
        """One epoch of batches of `size` rows in random order; the same for the same generator."""
        ...


class Part(NamedTuple):
    """Batches of the next steps: step i takes ``blocks[lane][name][index[i, lane]]``, for i < `count`."""

    blocks: tuple[dict[str, Any], ...]
    index: np.ndarray
    count: int


class Batches:
    """Batches of the rows of a model.

    Parameters
    ----------
    model, plate
        The model and its proved plate; sites must not have the rows as an axis.
    source
        Reads all rows; with `shuffled` where they take more than 256 MB.
    size
        Rows a batch, at most.
    precision
        Of what is not in rows; batches have the precision of their data.

    Attributes
    ----------
    epoch
        Steps of an epoch.
    size
        Rows a batch B, padding included.
    factors, rest
        The density of a batch, and the data that are not in rows; a batch is the other data, weights included.

    Raises
    ------
    OptionError
        When `size` is no number of rows of the plate.
    UnsupportedError
        When sites have a value a row.
    """

    def __init__(self, model: Model, plate: Plate, source: Source, size: int, precision: str = "float64"):
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 1 <= size <= plate.size:
            raise OptionError(f"batch_size must be a number of rows, 1 to {plate.size}; got {size!r}; for example 256.")
        if plate.sites:
            raise UnsupportedError(
                f"site {plate.sites[0][0]} has a value for every row of {plate.name}, which minibatches leave behind; "
                "fit the full data (batch_size=None)."
            )
        self._plate, self._source = plate, source
        first = _first(source, plate)
        self.resident = plate.size * _bytes(first, plate) <= RESIDENT or not hasattr(source, "shuffled")
        self.epoch = -(-plate.size // size) if self.resident else plate.size // size
        self.size = -(-plate.size // self.epoch) if self.resident else int(size)
        rows = {
            name: _take(first[name], np.arange(self.size) % _length(first, plate), axis) for name, axis in plate.data
        }
        small = weighted(model, plate, rows, np.ones(self.size))
        self.factors, self._dtype = small.factors, np.dtype(precision)
        self._sites, self._some = model.sites, rows
        names = {WEIGHTS, *(name for name, _ in plate.data)}
        self.rest = on_device({name: self._cast(value) for name, value in small.data.items() if name not in names})
        self._rows: dict[str, np.ndarray] | None = None
        self._blocks: tuple[tuple[int, int], dict[str, Any]] | None = None
        self._ahead: tuple[tuple[int, int, int], Iterator[Mapping[str, np.ndarray]]] | None = None

    def part(self, seed: int, step: int, most: int) -> Part:
        """Batches of steps `step`, `step` + 1, ...: at most `most` of them, fewer where rows are permuted anew."""
        return self._resident(seed, step, most) if self.resident else self._streamed(seed, step, most)

    def prior(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """What is not in rows of the log density, and its gradient (D,), at z (D,)."""
        data = {**self.rest, **self._some, WEIGHTS: np.zeros(self.size)}  # rows that count for nothing
        value, slope = _gradient_program(self.factors, self._sites)(z, data)
        return float(value), np.asarray(slope, float)

    def _resident(self, seed: int, step: int, most: int) -> Part:
        number, index, count = turns(self.epoch, seed, step, most)
        if self._blocks is None or self._blocks[0] != (seed, number):
            self._blocks = None  # before the next ones are made: not twice in memory
            self._blocks = (seed, number), self._permuted(keys.generator(seed, "rows of batches", number))
        return Part((self._blocks[1],), index[:, None], count)

    def _permuted(self, rng: np.random.Generator) -> dict[str, Any]:
        """All rows, permuted, in blocks (K, B, ...); where a block is one row short, a row with weight zero."""
        if self._rows is None:
            parts = [
                {name: np.array(arrays[name]) for name, _ in self._plate.data}
                for _, arrays in self._source.blocks(8192)
            ]
            self._rows = {
                name: np.moveaxis(np.concatenate([part[name] for part in parts], axis), axis, 0)
                for name, axis in self._plate.data
            }
        start = np.arange(self.epoch + 1) * self._plate.size // self.epoch
        places = start[:-1, None] + np.arange(self.size)
        inside = places < start[1:, None]
        rows = rng.permutation(self._plate.size)[np.minimum(places, start[1:, None] - 1)]
        blocks = {name: on_device(np.moveaxis(self._rows[name][rows], 1, axis + 1)) for name, axis in self._plate.data}
        return {**blocks, WEIGHTS: on_device(inside * float(self.epoch))}

    def _streamed(self, seed: int, step: int, most: int) -> Part:
        number, at = divmod(step, self.epoch)
        count = min(most, self.epoch - at)
        if self._ahead is None or self._ahead[0] != (seed, number, at):
            batches = iter(self._source.shuffled(keys.generator(seed, "epoch", number), self.size))  # type: ignore[attr-defined]
            for _ in range(at):
                next(batches)
        else:
            batches = self._ahead[1]
        taken = [next(batches) for _ in range(count)]
        self._ahead = (seed, number, at + count), batches
        taken += [taken[0]] * (most - count)
        blocks = {name: np.stack([batch[name] for batch in taken]) for name, _ in self._plate.data}
        weights = np.full((most, self.size), self._plate.size / self.size)
        return Part(({**blocks, WEIGHTS: weights},), np.arange(most, dtype=np.int32)[:, None], count)

    def _cast(self, value: Any) -> np.ndarray:
        value = np.asarray(value)
        return value.astype(self._dtype) if value.dtype.kind == "f" else value


_BATCHES: "WeakKeyDictionary[LargeTarget, dict[int, Batches]]" = WeakKeyDictionary()


def batches(target: LargeTarget, size: int) -> Batches:
    """Batches of the rows of a target; the same object for the same target and size."""
    kept = _BATCHES.setdefault(target, {})
    if size not in kept:
        kept.clear()
        kept[size] = Batches(target.model, target.plate, target.source, size, target.precision)
    return kept[size]


def turns(epoch: int, seed: int, step: int, most: int) -> tuple[int, np.ndarray, int]:
    """The permutation of rows in use, the batches (most,) of steps `step`, `step` + 1, ..., and how many of them count.

    Fewer than `most` count where rows are permuted anew.
    """
    cycle = epoch * max(_EPOCHS, -(-_STEPS // epoch))
    number, at = divmod(step, cycle)
    count = min(most, cycle - at)
    epochs = range(step // epoch, (step + count - 1) // epoch + 1)
    order = np.concatenate([keys.generator(seed, "epoch", e).permutation(epoch) for e in epochs])
    index = np.zeros(most, np.int32)
    index[:count] = order[step % epoch :][:count]
    return number, index, count


@lru_cache(maxsize=16)
def _gradient_program(factors: Any, sites: tuple[Site, ...]) -> Any:
    return jax.jit(jax.value_and_grad(lambda z, data: total(factors(unflatten(sites, z), data))))


def working_precision(batch: Mapping[str, Any]) -> Any:
    """Precision of a batch: float32 where all of its real numbers are, as in passes over all rows."""
    kinds = {np.dtype(value.dtype) for name, value in batch.items() if name != WEIGHTS and value.dtype.kind == "f"}
    return jnp.float32 if kinds == {np.dtype("float32")} else jnp.result_type(float)


def block_of(rest: Any, blocks: Any, number: Any) -> Any:
    """Data of a batch: what is not in rows, and of each lane the block with its number."""
    picked = {
        name: jax.lax.dynamic_index_in_dim(value, number[lane], 0, False)
        for lane, some in enumerate(blocks)
        for name, value in some.items()
    }
    return rest, picked


def _first(source: Source, plate: Plate) -> dict[str, np.ndarray]:
    _, arrays = next(iter(source.blocks(min(plate.size, 8192))))
    return {name: np.array(arrays[name]) for name, _ in plate.data}


def _length(rows: Mapping[str, np.ndarray], plate: Plate) -> int:
    name, axis = plate.data[0]
    return rows[name].shape[axis]


def _bytes(rows: Mapping[str, np.ndarray], plate: Plate) -> int:
    """Bytes of one row."""
    return sum(rows[name].nbytes for name, _ in plate.data) // _length(rows, plate)


def _take(array: np.ndarray, rows: np.ndarray, axis: int) -> np.ndarray:
    return np.take(array, rows, axis)
