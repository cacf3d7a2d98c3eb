"""Passes over all rows of a model: the sum of their log densities, its gradient and curvature, in blocks of bounded memory.

Rows are read in blocks of one size, the last one filled up with rows of weight zero, so that one program serves all. Rows are
computed with in the precision of the data and summed in float64.

Where a process has several devices, a block is that many times as long, and each device sums its part of it. Where there are
several processes, each reads its part of the rows (see `jensen.core.processes`).
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jensen.core import processes
from jensen.core.compilation import FAST_COMPILE, on_device, once
from jensen.core.layout import Site, unflatten
from jensen.models.model import Factors, Model, total
from jensen.models.plates import Axes, Plate, at_rows
from jensen.models.weighted import WEIGHTS, weighted_factors

POINTS = 8
"""Points a call of the programs that take many."""
_RESIDENT = 2**27
"""Bytes up to which all blocks are kept where the program reads them."""


class Source(Protocol):
    """Where rows come from: see `jensen.data`."""

    @property
    def size(self) -> int:
        """Number of rows."""
        ...

    def blocks(self, size: int) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
        """All rows in order: number of the first row, and the arrays; only the last block may have less than `size` rows.

        A block must stay as it is until the next but one is asked for.
        """
        ...

    def shard(self, index: int, count: int) -> "Source":
        """Part `index` of `count` parts, in order; asked for only where there are several processes."""
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
        Arrays of some of the rows, as many as a device is given at a time, for their shapes.

    Attributes
    ----------
    source, begin
        Reads the rows of this process, and the number of the first of them.
    block, share
        Rows a block, and those of one device.
    passes
        Number of passes over the data so far; a pass with K points counts once.
    precision
        In which rows are computed with: ``"float32"`` or ``"float64"``.

    Raises
    ------
    DataError
        When several processes were not given the same rows.
    """

    def __init__(self, model: Model, plate: Plate, source: Source, first: Mapping[str, np.ndarray]):
        several = processes.count()
        processes.check_same_rows(source.size, first)
        self._model, self._plate = model, plate
        self.begin = source.size * processes.index() // several
        self.source, self.passes = source.shard(processes.index(), several) if several > 1 else source, 0
        name, axis = plate.data[0]
        self._devices = _local_devices()
        self.share = first[name].shape[axis]
        self.block = self.share * (self._devices.size if self._devices else 1)
        small = at_rows(model, plate, first)
        names = {name for name, _ in plate.data}
        rest = on_device({name: value for name, value in small.data.items() if name not in names})
        self._axes = (*plate.data, (WEIGHTS, 0))
        self._rest = _placed(rest, (), self._devices)
        self._programs = _programs(small.factors, plate.factors, small.sites, self._axes, tuple(rest), self._devices)
        self._kept: list[Any] | None = None
        self.precision = np.dtype(_precision(first)).name

    def gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Sum of the log densities of all rows, scaled as the model says, and its gradient (D,), at z (D,)."""
        value, gradient = self._over_all("gradient", z, partial(self._programs["gradient"], z))
        return float(value), gradient

    def gradient_of(
        self, arrays: Mapping[str, np.ndarray], weights: np.ndarray, z: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """The same of given rows with weights (n,): a subsample, by the program and in the precision of a pass."""
        value, gradient = self._sum(partial(self._programs["gradient"], z), self._cut(arrays, weights))
        return float(value), gradient

    def gradients(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the log densities of all rows (K,) and their gradients (K, D), at points z (K, D), in one pass."""
        return _joined(self._over_all("gradients", z, self._at(z, "gradients")), len(z))

    def gradients_of(
        self, arrays: Mapping[str, np.ndarray], weights: np.ndarray, z: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of given rows with weights (n,)."""
        return _joined(self._sum(self._at(z, "gradients"), self._cut(arrays, weights)), len(z))

    def hessian(self, z: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Sum of the log densities of all rows, its gradient (D,) and its Hessian (D, D), at z (D,), in one pass."""
        value, gradient, hessian = self._over_all("hessian", z, partial(self._programs["hessian"], z))
        return float(value), gradient, hessian

    def hessian_of(
        self, arrays: Mapping[str, np.ndarray], weights: np.ndarray, z: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """The same of given rows with weights (n,)."""
        value, gradient, hessian = self._sum(partial(self._programs["hessian"], z), self._cut(arrays, weights))
        return float(value), gradient, hessian

    def values(self, z: np.ndarray) -> np.ndarray:
        """Sums of the log densities of all rows (K,) at points z (K, D)."""
        return np.concatenate(self._over_all("values", z, self._at(z, "values")))[: len(z)]

    def values_of(self, arrays: Mapping[str, np.ndarray], weights: np.ndarray, z: np.ndarray) -> np.ndarray:
        """The same of given rows with weights (n,)."""
        return np.concatenate(self._sum(self._at(z, "values"), self._cut(arrays, weights)))[: len(z)]

    def densities_of(self, arrays: Mapping[str, np.ndarray], z: np.ndarray) -> np.ndarray:
        """Log densities (n, K) of given rows at points z (K, D)."""
        n = len(next(iter(arrays.values())))
        call = self._at(z, "densities")
        if self._devices is None and 2 * n <= self.block:  # a block of a few rows would be mostly filling
            small = at_rows(self._model, self._plate, arrays)
            programs = _programs(small.factors, self._plate.factors, small.sites, self._axes, tuple(self._rest), None)
            return np.concatenate(self._at(z, "densities", programs)({**self._rest, **arrays, WEIGHTS: np.ones(n)}))[
                : len(z)
            ].T
        blocks = [np.concatenate(call({**self._rest, **self._dealt(block)})) for block in self._cut(arrays, np.ones(n))]
        return np.concatenate(blocks, 1)[: len(z), :n].T

    def _at(self, z: np.ndarray, what: str, programs: Any = None) -> Callable[[Any], list[Any]]:
        """A program at points z (K, D), always `POINTS` of them a call, whatever K."""
        z = np.concatenate([z, np.repeat(z[:1], -len(z) % POINTS, 0)])
        groups = np.split(z, len(z) // POINTS)
        program = (programs or self._programs)[what]
        return lambda data: [program(group, data) for group in groups]

    def _over_all(self, what: str, z: np.ndarray, call: Callable[[Any], Any]) -> Any:
        self.passes += 1
        return processes.total(lambda: self._sum(call, self._blocks()), f"{what}, pass {self.passes}", z)

    def _sum(self, call: Callable[[Any], Any], blocks: Iterator[Mapping[str, Any]]) -> Any:
        found, pending = None, None
        for block in blocks:
            part = call({**self._rest, **self._dealt(block)})
            found = self._added(found, pending)  # while the next block is at work
            pending = part
        return self._added(found, pending)

    def _added(self, total: Any, part: Any) -> Any:
        if part is None:
            return total
        part = jax.tree.map(lambda leaf: np.asarray(leaf, float), part)
        if self._devices:
            part = jax.tree.map(lambda leaf: leaf.sum(0), part)  # devices first
        return part if total is None else jax.tree.map(np.add, total, part)

    def _dealt(self, block: Mapping[str, Any]) -> Mapping[str, Any]:
        """A block as the program wants it: a part of its rows on each device."""
        return _placed(block, self._axes, self._devices)

    def _blocks(self) -> Iterator[Mapping[str, Any]]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, number = [], -(-self.source.size // self.block)
        for _, arrays in self.source.blocks(self.block):
            block = self._padded(arrays, np.ones(len(next(iter(arrays.values())))))
            if number * sum(array.nbytes for array in block.values()) <= _RESIDENT:
                # Copies: a source may fill its buffers anew.
                block = self._dealt(on_device(block))
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


def _joined(parts: list[tuple[np.ndarray, np.ndarray]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) and gradients (n, D) of calls with a few points each."""
    values, gradients = (np.concatenate(several)[:n] for several in zip(*parts, strict=True))
    return values, gradients


def _local_devices() -> Mesh | None:
    """The devices of this process; None where it is one."""
    found = jax.local_devices()
    return Mesh(np.array(found), ("rows",)) if len(found) > 1 else None


def _spec(name: str, axes: Axes) -> PartitionSpec:
    """Which axis of an array the devices share."""
    found = dict(axes)
    return PartitionSpec(*(None,) * found[name], "rows") if name in found else PartitionSpec()


def _placed(arrays: Mapping[str, Any], axes: Axes, devices: Mesh | None) -> Mapping[str, Any]:
    if devices is None:
        return arrays
    return {name: jax.device_put(array, NamedSharding(devices, _spec(name, axes))) for name, array in arrays.items()}


@lru_cache(maxsize=16)
def _programs(
    factors: Any, axes: Axes, sites: tuple[Site, ...], data: Axes, rest: tuple[str, ...], devices: Mesh | None
) -> dict[str, Any]:
    """The sum over a block of rows at one point with its gradient, at many points, and row by row.

    With several devices, each of them runs the program on its rows: sums get the devices as their first axis.
    """
    weigh = weighted_factors(factors, axes)

    @once
    def parts(z: jax.Array, data: Any) -> Factors:
        dtype = _precision(data)
        exact = jnp.result_type(float)
        given = {
            n: value.astype(dtype) if value.dtype.kind == "f" and n != WEIGHTS else value for n, value in data.items()
        }
        found = weigh(unflatten(sites, z.astype(dtype)), given)
        # Rows are summed in full precision: a weighted sum of thousands in float32 is off by tenths of a nat.
        return Factors({name: found.log_prob[name].astype(exact) for name, _ in axes}, found.scale, {})

    def summed(z: jax.Array, data: Any) -> jax.Array:
        return total(parts(z, data))

    def by_row(z: jax.Array, data: Any) -> Any:
        found = parts(z, data)
        rows = 0.0
        for name, axis in axes:
            values = found.log_prob[name]
            scale = jnp.broadcast_to(found.scale[name], values.shape)
            rows = rows + (values * scale).sum(tuple(other for other in range(values.ndim) if other != axis))
        return rows

    def compiled(function: Any, *, sums: bool = True) -> Any:
        options = None if sums else FAST_COMPILE  # what is not summed is not of all rows
        if devices is None:
            return jax.jit(function, compiler_options=options)
        specs = {name: _spec(name, data) for name in (*rest, *dict(data))}
        return jax.jit(
            jax.shard_map(
                (lambda z, data: jax.tree.map(lambda leaf: leaf[None], function(z, data))) if sums else function,
                mesh=devices,
                in_specs=(PartitionSpec(), specs),
                out_specs=PartitionSpec("rows") if sums else PartitionSpec(None, "rows"),
                check_vma=False,  # models are not written for it
            ),
            compiler_options=options,
        )

    def one_by_one(z: jax.Array, data: Any) -> Any:
        # All points at once would need memory for rows times points, and gathers and sums along groups are slower that way.
        return jax.lax.map(lambda point: jax.value_and_grad(summed)(point, data), z)

    def expanded(z: jax.Array, data: Any) -> Any:
        def slope(z: jax.Array) -> Any:
            value, gradient = jax.value_and_grad(summed)(z, data)
            return gradient, (value, gradient)

        hessian, (value, gradient) = jax.jacfwd(slope, has_aux=True)(z)
        return value, gradient, hessian

    return {
        "gradient": compiled(jax.value_and_grad(summed)),
        "gradients": compiled(one_by_one),
        "hessian": compiled(expanded),
        "values": compiled(jax.vmap(summed, in_axes=(0, None))),
        "densities": compiled(jax.vmap(by_row, in_axes=(0, None)), sums=False),
    }


def _precision(data: Mapping[str, Any]) -> Any:
    """Precision of the rows: float32 where all of their real numbers are."""
    kinds = {np.dtype(value.dtype) for name, value in data.items() if name != WEIGHTS and value.dtype.kind == "f"}
    return jnp.float32 if kinds == {np.dtype("float32")} else jnp.result_type(float)
