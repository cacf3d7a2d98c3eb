"""Passes over all rows of a model: the sum of their log densities, its gradient and curvature, in blocks of bounded memory.

Rows are read in blocks of one size, the last one filled up with rows of weight zero, so that one program serves all. Rows are
computed with in the precision of the data (float32 rows halve the cost of a pass) and summed in float64.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.layout import Site, unflatten
from jensen.models.model import Factors, Model, total
from jensen.models.plates import Axes, Plate, at_rows
from jensen.models.weighted import WEIGHTS, weighted_factors

BLOCK = 8192
"""Rows a block: larger ones fall out of the cache, smaller ones are dispatch."""
_POINTS = 16
"""Points a call of the programs that take many."""
_RESIDENT = 2**28
"""Bytes up to which all blocks are kept where the program reads them."""


class Source(Protocol):
    """Where rows come from: see `jensen.data`."""

    size: int

    def blocks(self, size: int) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
        """All rows in order: number of the first row, and the arrays; only the last block may have less than `size` rows.

        A block must stay as it is until the next but one is asked for.
        """
        ...


class Rows:
    """All rows of a plate.

    Parameters
    ----------
    model, plate
        The model, and its proved plate.
    source
        Reads the arrays of the plate.
    first
        Arrays of some of the rows, as many as a block has, for their shapes.

    Attributes
    ----------
    block
        Rows a block.
    passes
        Number of passes over the data so far; a pass with K points counts once.
    """

    def __init__(self, model: Model, plate: Plate, source: Source, first: Mapping[str, np.ndarray]):
        self.source, self.passes = source, 0
        name, axis = plate.data[0]
        self.block = first[name].shape[axis]
        small = at_rows(model, plate, first)
        names = {name for name, _ in plate.data}
        self._rest = {name: jnp.asarray(value) for name, value in small.data.items() if name not in names}
        self._programs = _programs(small.factors, plate.factors, small.sites)
        self._kept: list[Any] | None = None

    def gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Sum of the log densities of all rows, scaled as the model says, and its gradient (D,), at z (D,)."""
        value, gradient = self._over_all(partial(self._programs["gradient"], z))
        return float(value), gradient

    def gradient_of(self, arrays: Mapping[str, np.ndarray], weights: np.ndarray, z: np.ndarray) -> tuple[float, np.ndarray]:
        """The same of given rows with weights (n,): a subsample, by the program and in the precision of a pass."""
        value, gradient = self._sum(partial(self._programs["gradient"], z), self._cut(arrays, weights))
        return float(value), gradient

    def hessian(self, z: np.ndarray) -> np.ndarray:
        """Hessian (D, D) of the sum over all rows at z (D,)."""
        return self._over_all(partial(self._programs["hessian"], z))

    def hessian_of(self, arrays: Mapping[str, np.ndarray], weights: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The same of given rows with weights (n,)."""
        return self._sum(partial(self._programs["hessian"], z), self._cut(arrays, weights))

    def values(self, z: np.ndarray) -> np.ndarray:
        """Sums of the log densities of all rows (K,) at points z (K, D)."""
        return np.concatenate(self._over_all(self._at(z, "values")))[: len(z)]

    def values_of(self, arrays: Mapping[str, np.ndarray], weights: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The same of given rows with weights (n,)."""
        return np.concatenate(self._sum(self._at(z, "values"), self._cut(arrays, weights)))[: len(z)]

    def densities_of(self, arrays: Mapping[str, np.ndarray], z: np.ndarray) -> np.ndarray:
        """Log densities (n, K) of given rows at points z (K, D)."""
        n = len(next(iter(arrays.values())))
        call = self._at(z, "densities")
        blocks = [np.concatenate(call({**self._rest, **block})) for block in self._cut(arrays, np.ones(n))]
        return np.concatenate(blocks, 1)[: len(z), :n].T

    def _at(self, z: np.ndarray, what: str) -> Callable[[Any], list[Any]]:
        """A program at points z (K, D), always `_POINTS` of them a call, whatever K."""
        z = np.concatenate([z, np.repeat(z[:1], -len(z) % _POINTS, 0)])
        groups = np.split(z, len(z) // _POINTS)
        return lambda data: [self._programs[what](group, data) for group in groups]

    def _over_all(self, call: Callable[[Any], Any]) -> Any:
        self.passes += 1
        return self._sum(call, self._blocks())

    def _sum(self, call: Callable[[Any], Any], blocks: Iterator[Mapping[str, Any]]) -> Any:
        found, pending = None, None
        for block in blocks:
            part = call({**self._rest, **block})
            found = _added(found, pending)  # while the next block is at work
            pending = part
        return _added(found, pending)

    def _blocks(self) -> Iterator[Mapping[str, Any]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, number = [], -(-self.source.size // self.block)
        for _, arrays in self.source.blocks(self.block):
            block = self._padded(arrays, np.ones(len(next(iter(arrays.values())))))
            if number * sum(array.nbytes for array in block.values()) <= _RESIDENT:
                # Copies: a source may fill its buffers anew.
                block = {name: jnp.array(array) for name, array in block.items()}
                kept.append(block)
            yield block
        if len(kept) == number:
            self._kept = kept

    def _cut(self, arrays: Mapping[str, np.ndarray], weights: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(weights), self.block):
            stop = start + self.block
            yield self._padded({name: array[start:stop] for name, array in arrays.items()}, weights[start:stop])

    def _padded(self, arrays: Mapping[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
        """A block of full length: rows beyond the last one repeat the first, with weight zero."""
        missing = self.block - len(weights)
        if missing:
            arrays = {name: np.concatenate([a, np.repeat(a[:1], missing, 0)]) for name, a in arrays.items()}
            weights = np.concatenate([weights, np.zeros(missing)])
        return {**arrays, WEIGHTS: weights}


def _added(total: Any, part: Any) -> Any:
    if part is None:
        return total
    part = jax.tree.map(lambda leaf: np.asarray(leaf, float), part)
    return part if total is None else jax.tree.map(np.add, total, part)


@lru_cache(maxsize=16)
def _programs(factors: Any, axes: Axes, sites: tuple[Site, ...]) -> dict[str, Any]:
    """The sum over a block of rows at one point with its gradient, at many points, and row by row."""
    weigh = weighted_factors(factors, axes)

    def parts(z: jax.Array, data: Any) -> Factors:
        dtype = _precision(data)
        exact = jnp.result_type(float)
        given = {n: value.astype(dtype) if value.dtype.kind == "f" and n != WEIGHTS else value for n, value in data.items()}
        found = weigh(unflatten(sites, z.astype(dtype)), given)
        # Rows are summed in full precision: a weighted sum of thousands in float32 is off by tenths of a nat.
        return Factors({name: found.log_prob[name].astype(exact) for name, _ in axes}, found.scale, {})

    def summed(z: jax.Array, data: Any) -> jax.Array:
        return total(parts(z, data))

    def by_row(z: jax.Array, data: Any) -> jax.Array:
        found = parts(z, data)
        rows = 0.0
        for name, axis in axes:
            values = found.log_prob[name]
            scale = jnp.broadcast_to(found.scale[name], values.shape)
            rows = rows + (values * scale).sum(tuple(other for other in range(values.ndim) if other != axis))
        return rows

    return {
        "gradient": jax.jit(jax.value_and_grad(summed)),
        "hessian": jax.jit(jax.hessian(summed)),
        "values": jax.jit(jax.vmap(summed, in_axes=(0, None))),
        "densities": jax.jit(jax.vmap(by_row, in_axes=(0, None))),
    }


def _precision(data: Mapping[str, Any]) -> Any:
    """Precision of the rows: float32 where all of their real numbers are."""
    kinds = {np.dtype(value.dtype) for name, value in data.items() if name != WEIGHTS and value.dtype.kind == "f"}
    return jnp.float32 if kinds == {np.dtype("float32")} else jnp.result_type(float)
