"""How an array of the model reads the elements of its sites, found by a few tangents.

In suitable coordinates x of the sites (the value itself, or its logarithm for positive sites) an array A of the model is, when
conjugacy is possible at all, affine:

    A_n = c_n + sum_j w_nj x_{s_j}[i_nj]          (a "slot" j: site s_j, element i_nj, weight w_nj)

with few slots a row, whatever the model's code looks like: gathers, matrix products, scans. The elements of a site are split
into classes such that a row reads at most one element of each class; three tangents a class (1, 1 + element, random)
give weight and element, and the third proves it. Classes are tried from the cheapest on: all elements; every third
along an axis (chains); the positions along some axes (blocks); every element by itself, for which one tangent says all.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import prod
from typing import NamedTuple

import numpy as np

SMALL = 64
"""Class partitions of up to this many classes are tried in the first round."""
LARGE = 512
"""Sites of up to this many elements may be read element by element."""
_TOLERANCE = 1e-7
_NOTHING = 1e-9
"""Weights this much smaller than the largest are zeros with rounding."""


class Slot(NamedTuple):
    """One read of a site by every row of an array.

    Attributes
    ----------
    site
        Name of the site.
    index
        Element of the flattened site, int array that broadcasts against the rows.
    weight
        Factor (or, in logarithmic coordinates, power), an array that broadcasts against the rows.
    """

    site: str
    index: np.ndarray
    weight: np.ndarray


class Affine(NamedTuple):
    """An array as a constant and its slots; all broadcast against each other."""

    constant: np.ndarray
    slots: tuple[Slot, ...]

    @property
    def sites(self) -> frozenset[str]:
        """Names of the sites it reads."""
        return frozenset(slot.site for slot in self.slots)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rows."""
        return np.broadcast_shapes(np.shape(self.constant), *(slot.index.shape for slot in self.slots))

    def __neg__(self) -> "Affine":
        return Affine(-self.constant, tuple(slot._replace(weight=-slot.weight) for slot in self.slots))

    def __add__(self, other: "Affine") -> "Affine":  # type: ignore[override]
        here, there = self.constant, other.constant
        # Millions of rows are not copied for a zero.
        same = there.size == 1 and there.ndim <= here.ndim and there.dtype == here.dtype and not there.any()
        return Affine(here if same else here + there, self.slots + other.slots)

    def times(self, factor: float) -> "Affine":
        """The array multiplied by a number."""
        slots = tuple(slot._replace(weight=factor * slot.weight) for slot in self.slots)
        return Affine(factor * self.constant, slots)

    def at(self, coordinates: dict[str, np.ndarray]) -> np.ndarray:
        """The array's value when the sites have these (flat) coordinates."""
        total = np.asarray(self.constant, float)
        for slot in self.slots:
            total = total + slot.weight * coordinates[slot.site][slot.index]
        return total


class Pair(NamedTuple):
    """A product of two reads in every row: weight * x[x.index] * y[y.index], with the weight kept in `x`."""

    x: Slot
    y: Slot

    def at(self, coordinates: dict[str, np.ndarray]) -> np.ndarray:
        """Its value when the sites have these (flat) coordinates."""
        x, y = coordinates[self.x.site][self.x.index], coordinates[self.y.site][self.y.index]
        return self.x.weight * x * y


def partitions(shape: tuple[int, ...], largest: int = SMALL) -> list[np.ndarray]:
    """Class of every element of a flattened site, for each way to split it into at most `largest` classes."""
    size = prod(shape)
    found = [np.zeros(size, int)]
    if size == 1:
        return found
    grid = np.indices(shape).reshape(len(shape), size)
    found += [grid[axis] % 3 for axis in range(len(shape)) if shape[axis] > 6]
    axes = [axis for axis, length in enumerate(shape) if length > 1]
    for count in range(1, len(axes) + 1):
        for some in combinations(axes, count):
            lengths = [shape[axis] for axis in some]
            if prod(lengths) <= largest:
                found.append(np.asarray(np.ravel_multi_index([grid[axis] for axis in some], lengths)))
    found = [
        classes for n, classes in enumerate(found) if not any(np.array_equal(classes, other) for other in found[:n])
    ]
    return sorted(found, key=lambda classes: int(classes.max()))


def tangents(splits: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Stack of tangents (T, size), `per_class` a class of each split, and the random direction (size,) among them."""
    size = len(splits[0])
    direction = rng.uniform(0.5, 1.5, size) * rng.choice([-1.0, 1.0], size)
    rows = []
    for classes in splits:
        if per_class(classes) == 1:
            rows += list(np.eye(size)[np.argsort(classes)])
            continue
        for number in range(int(classes.max()) + 1):
            inside = classes == number
            rows += [inside * 1.0, inside * (1.0 + np.arange(size)), inside * direction]
    return np.array(rows), direction


def per_class(classes: np.ndarray) -> int:
    """Number of tangents for every class: which element a class of one stands for is known."""
    return 1 if int(classes.max()) + 1 == len(classes) else 3


def _by_split(splits: Sequence[np.ndarray], pushed: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The splits, and of each its tangents (classes, per class, *rows)."""
    start = 0
    for classes in splits:
        count, some = int(classes.max()) + 1, per_class(classes)
        yield classes, pushed[start : start + count * some].reshape(count, some, *pushed.shape[1:])
        start += count * some


def decode(site: str, splits: Sequence[np.ndarray], pushed: np.ndarray, direction: np.ndarray) -> list[Slot] | None:
    """Slots of one site from the pushed-forward tangents (T, *rows), by the first split that explains them; else None."""
    for classes, stack in _by_split(splits, pushed):
        found = _elements(classes, stack, direction)
        if found is not None:
            return _packed(site, *found)
    return None


def decode_pairs(
    x: str, y: str, splits: Sequence[np.ndarray], pushed: Sequence[np.ndarray], along: np.ndarray, direction: np.ndarray
) -> list[Pair] | None:
    """Products of two sites, from the tangents of x at y = (direction, 1, 1 + element); None when there are others."""
    for parts in zip(*(_by_split(splits, some) for some in pushed), strict=True):
        at = [stack for _, stack in parts]
        first = _elements(parts[0][0], at[0], along)
        second = _read(at[1][:, 0], at[2][:, 0], at[0][:, 0], direction)
        if first is None or second is None:
            continue
        index_x, weight_x = first
        index_y, weight = second
        kept = [n for n in range(len(weight)) if weight[n].any() or weight_x[n].any()]
        return [
            Pair(
                Slot(x, compact(index_x[n]), compact(weight[n])),
                Slot(y, compact(index_y[n]), np.ones((1,) * index_y[n].ndim)),
            )
            for n in kept
        ]
    return None


def _elements(classes: np.ndarray, stack: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Element and weight of every class and row from its tangents; elements that are known broadcast."""
    if stack.shape[1] == 3:
        return _read(stack[:, 0], stack[:, 1], stack[:, 2], direction)
    weight = stack[:, 0]
    largest = np.abs(weight).max(initial=0.0)
    if not np.isfinite(largest):
        return None
    index = np.argsort(classes).reshape(-1, *(1,) * (weight.ndim - 1))
    return index, _snapped(np.where(np.abs(weight) > _NOTHING * largest, weight, 0.0))


def _read(
    weight: np.ndarray, ramp: np.ndarray, probe: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Element and weight of every class and row from the tangents (1, 1 + element, direction); None if a row reads more."""
    size = len(direction)
    if not (np.isfinite(weight).all() and np.isfinite(ramp).all() and np.isfinite(probe).all()):
        return None
    scale = max(np.abs(weight).max(initial=0.0), np.abs(probe).max(initial=0.0))
    reads = np.abs(weight) > _NOTHING * scale
    place = np.where(reads, ramp, 1.0) / np.where(reads, weight, 1.0) - 1.0
    index = np.rint(place).astype(np.int64)
    legal = (index >= 0) & (index < size) & (np.abs(place - index) < 1e-4)
    if not legal[reads].all():
        return None
    index = np.where(reads, index, 0)
    weight = _snapped(np.where(reads, weight, 0.0))
    if not (np.abs(probe - weight * direction[index]) <= _TOLERANCE * scale).all():
        return None
    return index, weight


def _snapped(weight: np.ndarray) -> np.ndarray:
    """Weights without the rounding of a model's own arithmetic: the power of s in exposure * s is 1, not 1 - 1e-16."""
    half = np.rint(2 * weight) / 2
    return np.where(np.abs(weight - half) <= 1e-14, half, weight)


def _packed(site: str, index: np.ndarray, weight: np.ndarray) -> list[Slot]:
    """Slots without the zero weights that every row has many of, when rows read few of many classes."""
    reads = weight != 0
    most = int(reads.sum(0).max(initial=0))
    if most < len(weight):
        order = np.argsort(~reads, axis=0, kind="stable")[:most]
        weight = np.take_along_axis(weight, order, 0)
        index = np.where(weight != 0, np.take_along_axis(np.broadcast_to(index, reads.shape), order, 0), 0)
    return [Slot(site, compact(index[n]), compact(weight[n])) for n in range(len(index))]


def compact(array: np.ndarray) -> np.ndarray:
    """The array with every axis along which nothing changes reduced to length one."""
    for axis, length in enumerate(array.shape):
        if length > 1:
            first, last = np.take(array, [0], axis), np.take(array, [-1], axis)
            if (last == first).all() and (array == first).all():
                array = first
    return array


def agree(predicted: np.ndarray, seen: np.ndarray) -> bool:
    """Whether an array is what was predicted, but for rounding."""
    seen = compact(seen)  # millions of rows are mostly alike
    scale = 1.0 + np.abs(seen).max(initial=0.0)
    return bool(np.isfinite(seen).all() and (np.abs(predicted - seen) <= _TOLERANCE * scale).all())


def fit(array: np.ndarray, axes: int) -> np.ndarray:
    """The array with its leading axis and exactly `axes` more, by axes of length one after the leading one."""
    array = np.asarray(array)
    array = array.reshape((1,) * (array.ndim == 0) + array.shape)
    missing = axes + 1 - array.ndim
    rest = (1,) * missing + array.shape[1:] if missing >= 0 else array.shape[1 - missing :]
    return array.reshape(array.shape[0], *rest)


def like(array: np.ndarray, affine: Affine) -> np.ndarray:
    """An array with as many axes as the affine reading's rows."""
    array = np.asarray(array, float)
    return array.reshape((1,) * (len(affine.shape) - array.ndim) + array.shape)
