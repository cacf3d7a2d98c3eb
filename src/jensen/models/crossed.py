"""Batches along several axes at once, and of rows that have latent variables of their own.

A matrix y of users and items has two axes that can be cut. With block a of K rows' blocks and block b of L columns' blocks,

    prior(z) + sum_f w_f sum_(block a, block b) l_f        w_f = K, L or K L, for what has rows, columns, or both

is unbiased for the log density of all data: its mean over the K L pairs of blocks is exact. Latent variables with one of the
axes (a factor of every user) are read by row number (local_rows.py); their priors are factors with that axis. Both hold only if
every factor is a sum over its rows, which is checked before the first step: over all pairs of blocks, each factor's scaled sums
must average to what it is on all data.

The reach of a batch is which coordinates it is the turn of (1 for what is shared and for the values of its rows, 0 for those of
others), and by which weight its gradient there is too large (K for a value of a row, of which it tells everything).
"""

from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core import keys
from jensen.core.compilation import on_device
from jensen.core.errors import OptionError, UnsupportedError
from jensen.core.layout import Site, unflatten
from jensen.models.local_rows import ROW, by_number, own_numbers
from jensen.models.minibatch import Part, block_of, turns, working_precision
from jensen.models.model import Factors, Model, total
from jensen.models.plates import Axes, Plate, find
from jensen.models.target import Target

_CHUNK = 200
"""Blocks a call of the programs that go through all of them."""
_PROBED, _RANDOM = 64, 32
"""Shared coordinates up to which each has a probe of its own, and random probes of more."""
_SOME = 8
"""Batches whose curvature stands for that of all, where no row has values of its own."""
_DRAWS = 8
"""Of q, at which curvature is averaged."""


def named(model: Model, sizes: Mapping[str, int]) -> tuple[Plate, ...]:
    """The plates that a dict of batch sizes names.

    Raises
    ------
    OptionError
        For no names, one that is no axis of an observed variable which its data share, and a size that is not 1 to its length.
    """
    if not sizes:
        raise OptionError("batch_size names no axis; give a number of rows, or a dict such as {'rows': 256}.")
    found = {plate.name: plate for plate in find(model)}
    for name, size in sizes.items():
        if name not in found:
            raise OptionError(
                f"batch_size names {name!r}, which is no axis of rows of {model.name}; there are {', '.join(found) or 'none'}. "
                "Axes of equal length cannot be told apart."
            )
        check_size(size, found[name])
    return tuple(found[name] for name in sizes)


def check_size(size: Any, plate: Plate) -> None:
    """Refuse what is no number of rows of a plate."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 1 <= size <= plate.size:
        raise OptionError(
            f"batch_size along {plate.name} must be a number of rows, 1 to {plate.size}; got {size!r}; for example "
            f"{min(256, plate.size)}."
        )


class Crossed:
    """Batches of a model along one or more plates, as target and batches of jensen.engines.gradient.Gradient.

    Parameters
    ----------
    record, plates, sizes
        A model that holds all its data, and rows a batch along each plate.
    seed
        Of the point at which unbiasedness is checked.
    precision
        Of what is not in batches.

    Attributes
    ----------
    model, dim, plates, epoch
        The model with its rows read by number; batches of an epoch: all pairs of blocks.
    factors, rest, reach
        The density of a batch, the data that are not in rows, and the reach of a batch: ``reach(data)`` is two (D,).
    local
        (D,), True for values of rows.

    Raises
    ------
    UnsupportedError
        When batches are not unbiased, naming the factor.
    """

    def __init__(
        self, record: Model, plates: tuple[Plate, ...], sizes: tuple[int, ...], *, seed: int, precision: str = "float64"
    ):
        for size, plate in zip(sizes, plates, strict=True):
            check_size(size, plate)
        self.plates, self.dim, self._dtype, self._record = plates, record.dim, np.dtype(precision), record
        self._counts = tuple(-(-plate.size // size) for size, plate in zip(sizes, plates, strict=True))
        self._sizes = tuple(-(-plate.size // count) for plate, count in zip(plates, self._counts, strict=True))
        self.epoch = prod(self._counts)
        own = tuple(own_numbers(record, plate) for plate in plates)
        self.passes = 0
        try:
            self._read(((),) * len(plates), seed)
        except UnsupportedError:
            if not any(own):
                raise
            self._read(own, seed)

    def _read(self, own: tuple[tuple[str, ...], ...], seed: int) -> None:
        """The model by row numbers, and its batches; `own` are row numbers among its data."""
        numbered, axes, data = self._record, [], []
        for number, (plate, names) in enumerate(zip(self.plates, own, strict=True)):
            numbered, seen = by_number(numbered, plate, _name(ROW, number), names)
            axes.append(seen.factors)
            data.append((*seen.data, (_weights(number), 0)))
        self.model = numbered
        names = dict.fromkeys(name for some in data for name, _ in some)
        self._axes = {name: tuple((p, dict(d)[name]) for p, d in enumerate(data) if name in dict(d)) for name in names}
        self._lanes = tuple(dict.fromkeys(tuple(p for p, _ in found) for found in self._axes.values()))
        small = self._resized(numbered)
        self.factors = _weighted(small.factors, tuple(axes))
        self.rest = on_device({name: self._cast(value) for name, value in small.data.items() if name not in self._axes})
        sites = tuple(plate.sites for plate in self.plates)
        names = {name for some in sites for name, _ in some}
        self.local = np.concatenate([np.full(prod(site.free_shape), site.name in names) for site in self._record.sites])
        self.reach = _reach(self._record.sites, sites, tuple(plate.size for plate in self.plates))
        self._blocks: tuple[tuple[int, int], tuple[dict[str, Any], ...]] | None = None
        self._check(seed)

    def _resized(self, numbered: Model) -> Model:
        """The model at the length of a batch, along every plate."""
        data = dict(numbered.data)
        for name, axes in self._axes.items():
            for plate, axis in axes if name in data else ():
                data[name] = np.take(data[name], np.arange(self._sizes[plate]), axis)
        pairs = zip(self.plates, self._sizes, strict=True)
        assert numbered.resized is not None  # else there are no plates
        return numbered.resized(data, {plate.size: size for plate, size in pairs if plate.size != size})

    def batches(self, size: Any) -> "Crossed":
        """Itself: the batches are those it was made for."""
        del size
        return self

    def part(self, seed: int, step: int, most: int) -> Part:
        """Batches of steps `step`, `step` + 1, ...: at most `most` of them, fewer where rows are permuted anew."""
        number, pairs, count = turns(self.epoch, seed, step, most)
        if self._blocks is None or self._blocks[0] != (seed, number):
            self._blocks = None  # before the next ones are made: not twice in memory
            self._blocks = (seed, number), self._permuted(keys.generator(seed, "rows of batches", number))
        return Part(self._blocks[1], self._index(pairs), count)

    def _index(self, pairs: np.ndarray) -> np.ndarray:
        """Number of the block of each lane (n, lanes), of batches by their number in the epoch."""
        each = np.unravel_index(pairs, self._counts)
        lanes = [np.ravel_multi_index([each[p] for p in lane], [self._counts[p] for p in lane]) for lane in self._lanes]
        return np.stack(lanes, 1).astype(np.int32)

    def _permuted(self, rng: np.random.Generator) -> tuple[dict[str, Any], ...]:
        """All data in blocks, those of the same axes together; where a block is one row short, a row with weight zero."""
        rows, weights = [], {}
        for number, (plate, count, size) in enumerate(zip(self.plates, self._counts, self._sizes, strict=True)):
            start = np.arange(count + 1) * plate.size // count
            places = start[:-1, None] + np.arange(size)
            rows.append(rng.permutation(plate.size)[np.minimum(places, start[1:, None] - 1)])
            weights[_weights(number)] = (places < start[1:, None]) * float(count)
        found: list[dict[str, Any]] = [{} for _ in self._lanes]
        for name, axes in self._axes.items():
            lane = self._lanes.index(tuple(plate for plate, _ in axes))
            blocks = weights[name] if name in weights else _cut(np.asarray(self.model.data[name]), axes, rows)
            found[lane][name] = on_device(blocks)
        return tuple(found)

    def gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density of all data and its gradient (D,) at z (D,), batch by batch."""
        value, slope = self._over_all(_gradient(self.factors, self.model.sites), z)
        return float(value), np.asarray(slope, float)

    def curvature(self, q: Any, seed: int) -> np.ndarray:
        """Minus the diagonal (D,) of the Hessian of the log density, averaged over draws of q; batch by batch.

        Rows of a plate do not meet in the Hessian, so that one product with a vector tells the diagonal of a site in all rows.
        """
        rng = keys.generator(seed, "curvature")
        probes, own = self._probes(rng)
        eps = rng.standard_normal((_DRAWS // 2, self.dim))
        z = np.asarray(q.transport(np.concatenate([eps, -eps]))[0])
        most = None if self.local.any() else _SOME  # every row's own, or the shape of what is shared
        products = self._over_all(_products(self.factors, self.model.sites), z, probes, most=most)
        return -np.asarray((np.asarray(products) * probes * own).sum(0), float)

    def _probes(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Probes (P, D), and the weight of each in the diagonal."""
        local = {name: axis for plate in self.plates for name, axis in plate.sites}
        axes = {name: {axis for plate in self.plates for site, axis in plate.sites if site == name} for name in local}
        number, shared, start = np.full(self.dim, -1), [], 0
        color = 0
        for site in self._record.sites:
            size = prod(site.free_shape)
            if site.name in local:
                inner = [1 if axis in axes[site.name] else length for axis, length in enumerate(site.free_shape)]
                colors = np.broadcast_to(np.arange(prod(inner)).reshape(inner), site.free_shape)
                number[start : start + size] = color + colors.ravel()
                color += prod(inner)
            else:
                shared += range(start, start + size)
            start += size
        probes = [(number == c).astype(float) for c in range(color)]
        scales = [1.0] * color
        if len(shared) <= _PROBED:
            probes += list(np.eye(self.dim)[shared])
            scales += [1.0] * len(shared)
        else:
            for _ in range(_RANDOM):
                probe = np.zeros(self.dim)
                probe[shared] = rng.choice([-1.0, 1.0], len(shared))
                probes.append(probe)
                scales.append(1.0 / _RANDOM)
        return np.stack(probes), np.array(scales)[:, None]

    def _over_all(self, program: Any, *at: Any, most: int | None = None) -> Any:
        """The mean over all batches of an epoch, or the first `most` of them, of what a program finds in each."""
        self.passes, count = self.passes + 1, min(self.epoch, most or self.epoch)
        blocks = (self._blocks or (None, self._permuted(keys.generator(0, "rows of batches", 0))))[1]
        found = None
        for first in range(0, count, _CHUNK):
            pairs = np.arange(first, min(first + _CHUNK, count))
            index = self._index(np.concatenate([pairs, np.repeat(pairs[:1], _CHUNK - len(pairs))]))
            part = program(len(pairs), index, self.rest, blocks, *at)
            found = part if found is None else jax.tree.map(jnp.add, found, part)
        return jax.tree.map(lambda leaf: leaf / count, found)

    def _check(self, seed: int) -> None:
        """Make sure that batches are unbiased, factor by factor."""
        z = keys.generator(seed, "plate").normal(0, 0.1, self.dim)
        where = " and ".join(plate.name for plate in self.plates)
        try:
            found = self._over_all(_sums(self.factors, self.model.sites), z)
        except (TypeError, ValueError, IndexError) as error:
            sizes = " x ".join(map(str, self._sizes))
            raise UnsupportedError(
                f"the model cannot be evaluated on a batch of {sizes} along {where}: {str(error).splitlines()[0]}"
            ) from error
        data = on_device({name: self._cast(value) for name, value in self.model.data.items()})
        whole = jax.jit(_scaled(self.model.factors, self.model.sites))(z, data)
        for name, (value, size) in whole.items():
            average, eps = float(found[name][0]), np.finfo(self._working()).eps
            if not abs(average - float(value)) <= max(1e-8, 1e3 * eps) * (1 + float(size)):
                raise UnsupportedError(
                    f"batches along {where} are not unbiased for {name}: scaled, they average to {average:.6g}, and all data "
                    f"give {float(value):.6g}; it must be a sum over its rows, with one value for each of them, or not depend "
                    "on them; fit the full data (leave batch_size out)."
                )

    def _working(self) -> Any:
        kinds = {name: value for name, value in self.model.data.items() if name in self._axes}
        return working_precision(kinds)

    def blame(self, z: np.ndarray) -> str:
        """Name the factors that are not finite at (some of) the points z."""
        return Target(self._record, self._dtype.name).blame(z)

    def _cast(self, value: Any) -> np.ndarray:
        value = np.asarray(value)
        return value.astype(self._dtype) if value.dtype.kind == "f" else value


def _name(what: str, number: int) -> str:
    return f"{what} {number}"


def _weights(number: int) -> str:
    return _name("row weights", number)


def _cut(array: np.ndarray, axes: tuple[tuple[int, int], ...], rows: list[np.ndarray]) -> np.ndarray:
    """An array in blocks (blocks, ...) of the rows (K, B) along each of its axes."""
    for position, (plate, axis) in enumerate(axes):
        count, size = rows[plate].shape
        at = axis + position  # axes of blocks are first
        array = np.take(array, rows[plate].ravel(), at)
        array = array.reshape(*array.shape[:at], count, size, *array.shape[at + 1 :])
        array = np.moveaxis(array, at, position)
    return array.reshape(-1, *array.shape[len(axes) :])


@lru_cache(maxsize=16)
def _weighted(factors: Any, axes: tuple[Axes, ...]) -> Any:
    """`factors` of a batch, with the weights of each axis among its data."""

    def call(free: Any, data: Any) -> Factors:
        parts = factors(free, {name: value for name, value in data.items() if not name.startswith("row weights ")})
        scale = dict(parts.scale)
        for number, factors_ in enumerate(axes):
            for name, axis in factors_:
                weights = data[_weights(number)].reshape((-1,) + (1,) * (parts.log_prob[name].ndim - axis - 1))
                scale[name] = weights * scale[name] if name in scale else weights
        return parts._replace(scale=scale)

    return call


@lru_cache(maxsize=16)
def _reach(sites: tuple[Site, ...], local: tuple[Axes, ...], sizes: tuple[int, ...]) -> Any:
    """Program of the reach of a batch's data: turn and weight, both (D,)."""

    def call(data: Any) -> tuple[jax.Array, jax.Array]:
        turns, weights = [], []
        for site in sites:
            turn, weight = jnp.ones(site.free_shape), 1.0
            for number, axes in enumerate(local):
                if site.name in dict(axes):
                    count = data[_weights(number)].max()
                    along = jnp.zeros(sizes[number]).at[data[_name(ROW, number)]].add(data[_weights(number)] / count)
                    turn = turn * along.reshape((-1,) + (1,) * (turn.ndim - dict(axes)[site.name] - 1))
                    weight = weight * count
            turns.append(turn.ravel())
            weights.append(jnp.full(turn.size, weight))
        return jnp.concatenate(turns), jnp.concatenate(weights)

    return call


def _scaled(factors: Any, sites: tuple[Site, ...]) -> Any:
    """Program of each factor's scaled sum, and of what its size is."""

    def call(z: jax.Array, data: Any) -> dict[str, tuple[jax.Array, jax.Array]]:
        parts = factors(unflatten(sites, z), data)
        values = {name: value * parts.scale.get(name, 1.0) for name, value in parts.log_prob.items()}
        values |= {f"the transform of {name}": value for name, value in parts.jacobian.items()}
        return {name: (value.sum(), jnp.abs(value).sum()) for name, value in values.items()}

    return call


def _summed(one: Any) -> Any:
    """Program that sums what `one` finds in each of the first `count` batches of `index`."""

    def program(count: Any, index: Any, rest: Any, blocks: Any, *at: Any) -> Any:
        def body(i: Any, sums: Any) -> Any:
            fixed, picked = block_of(rest, blocks, index[i])
            return jax.tree.map(jnp.add, sums, one(*at, {**fixed, **picked}))

        first = jax.eval_shape(one, *at, {**rest, **{n: _first(v) for some in blocks for n, v in some.items()}})
        return jax.lax.fori_loop(0, count, body, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first))

    return jax.jit(program)


def _first(blocks: Any) -> Any:
    return jax.ShapeDtypeStruct(blocks.shape[1:], blocks.dtype)


@lru_cache(maxsize=16)
def _gradient(factors: Any, sites: tuple[Site, ...]) -> Any:
    return _summed(jax.value_and_grad(lambda z, data: total(factors(unflatten(sites, z), data))))


@lru_cache(maxsize=16)
def _sums(factors: Any, sites: tuple[Site, ...]) -> Any:
    return _summed(_scaled(factors, sites))


@lru_cache(maxsize=16)
def _products(factors: Any, sites: tuple[Site, ...]) -> Any:
    """Products (P, D) of the Hessian with probes, averaged over points z (M, D)."""

    def one(z: jax.Array, probes: jax.Array, data: Any) -> jax.Array:
        slope = jax.grad(lambda z: total(factors(unflatten(sites, z), data)))

        def product(probe: jax.Array) -> jax.Array:
            return jax.lax.map(lambda point: jax.jvp(slope, (point,), (probe,))[1], z).mean(0)

        return jax.lax.map(product, probes)

    return _summed(one)
