"""Elements of flat arrays, and sums of them: where their places are known and lie regularly, slices and shapes tell them.

Gathers and scatters are slow beside a slice, and the gradient of one is the other.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def static(**kwargs: Any) -> Any:
    """A field that is part of the program."""
    return field(metadata={"static": True}, **kwargs)


def take(array: Any, index: Any) -> Any:
    """The elements of a flat array; where they are known and lie regularly, a slice, whose gradient needs no scatter."""
    if not isinstance(index, np.ndarray) or not index.size:
        return array[index]
    strides = regular(index)
    if strides is not None:
        return _view(array, int(index.flat[0]), index.shape, strides)
    flat = index.reshape(-1)
    grid = _grid(flat)
    if grid is not None:
        return take(array, grid).reshape(index.shape)
    if not beside(flat):
        return array[index]
    rest = jax.lax.slice(array, (int(flat[1]),), (int(flat[-1]) + 1,))
    return jnp.concatenate([array[int(flat[0]) : int(flat[0]) + 1], rest]).reshape(index.shape)


def _grid(flat: np.ndarray) -> np.ndarray | None:
    """A flat index as a table that lies regularly, such as 0, 1, 2, 0, 1, 2 or 0, 2, 4, 1, 3, 5; None where it is none."""
    breaks = np.flatnonzero(np.diff(flat, 2))
    if not len(breaks) or len(flat) % (length := int(breaks[0]) + 2):
        return None
    grid = flat.reshape(-1, length)
    return grid if regular(grid) is not None else None


def regular(index: np.ndarray) -> tuple[int, ...] | None:
    """Strides s with index = first + sum_a s_a i_a that meets each element of a range once, but for axes with s = 0."""
    first = index[(slice(0, 1),) * index.ndim]
    strides, found = [], first
    for axis, length in enumerate(index.shape):
        step = 0
        if length > 1:
            one, two = (index[tuple(n if a == axis else 0 for a in range(index.ndim))] for n in (0, 1))
            step = int(two - one)
        strides.append(step)
        found = found + step * np.arange(length).reshape([-1 if a == axis else 1 for a in range(index.ndim)])
    met = 1
    for step, length in sorted(zip(strides, index.shape, strict=True)):
        if step and (step != met or step < 0):
            return None
        met *= length if step else 1
    return tuple(strides) if (found == index).all() else None


def _view(array: Any, first: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    order = sorted((axis for axis, step in enumerate(strides) if step), key=lambda axis: -strides[axis])
    lengths = [shape[axis] for axis in order]
    size = int(np.prod(lengths))
    part = array if first == 0 and size == len(array) else jax.lax.slice(array, (first,), (first + size,))
    kept = sorted(order)
    part = jnp.transpose(part.reshape(lengths), [order.index(axis) for axis in kept])
    some = part.reshape([n if axis in kept else 1 for axis, n in enumerate(shape)])
    return jnp.broadcast_to(some, shape)


def beside(flat: np.ndarray) -> bool:
    """Whether all elements but the first, which may be any, follow each other."""
    return bool((np.diff(flat[1:]) == 1).all())


def simple(flat: np.ndarray) -> bool:
    """Whether the elements are easy to say: all the same one, or side by side."""
    return beside(flat) or bool((flat == flat[0]).all())


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Totals:
    """Sums (M,) of elements of a flat array over the second axis of an index (M, N).

    Attributes
    ----------
    index
        Of the elements; only the first row's (M,) where all `rows` have the same; None where there are ranges.
    ranges
        Where rows of the index have strides, and rows with one stride fill ranges: (first, count, step) of those, `count` times N
        times `step` elements, which are summed up as they lie.
    place
        Of every row's sum among theirs.
    rows
        N.
    """

    index: Any
    ranges: tuple[tuple[int, int, int], ...] = static(default=())
    place: tuple[int, ...] = static(default=())
    rows: int = static(default=0)

    def __call__(self, array: Any) -> Any:
        """The sums."""
        if self.rows and not self.ranges:  # a product, whose gradient needs no scatter
            return float(self.rows) * (jax.nn.one_hot(self.index, len(array), dtype=array.dtype) @ array)
        if not self.ranges:
            return array[self.index].sum(1)
        n, parts = self.rows, []
        for first, count, step in self.ranges:
            part = jax.lax.slice(array, (first,), (first + count * n * step,)).reshape(count, n, step)
            parts.append(part.sum(1).reshape(-1))
        return jnp.concatenate(parts)[np.array(self.place)]


def totals(index: np.ndarray, size: int) -> Totals:
    """Sums of elements of an array of a size."""
    n = index.shape[1]
    if (index == index[:, :1]).all():
        return Totals(index[:, 0], rows=n)
    step = index[:, 1] - index[:, 0] if n > 1 else np.ones(len(index), int)
    if (step < 1).any() or (index != index[:, :1] + step[:, None] * np.arange(n)).any():
        return Totals(index)
    found: list[tuple[int, int, int]] = []
    place: dict[tuple[int, int], int] = {}
    before = 0  # sums of the ranges but the last
    for s, first in np.unique(np.stack([step, index[:, 0]], 1), axis=0).tolist():
        begin, count, known = found[-1] if found else (0, 0, 0)
        last = begin + (count - 1) * n * known
        if known == s and first == last + n * s:
            found[-1], last = (begin, count + 1, s), first
        elif known != s or first >= last + s:
            before, last = before + count * known, first
            found.append((first, 1, s))
        place[s, first] = before + (found[-1][1] - 1) * s + first - last
    if any(first + count * n * s > size for first, count, s in found):
        return Totals(index)
    rows = zip(step.tolist(), index[:, 0].tolist(), strict=True)
    return Totals(None, tuple(found), tuple(place[row] for row in rows), n)
