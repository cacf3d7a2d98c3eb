"""Which parts of a model are rows: conditionally independent, so that some of them can stand for all.

A plate is found from shapes, for every front end alike: an axis of a likelihood that arrays of the data share. That alone
proves nothing (two axes may have equal lengths by chance), so a plate is *proved* before it is used: the log densities of rows
taken out of the data must be those rows' log densities in any company, and nothing else may change with the rows. What
depends on the rows without having them as an axis, such as a potential that sums over them, would be counted wrongly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from jensen.core import keys
from jensen.core.errors import UnsupportedError
from jensen.core.layout import unflatten
from jensen.models.model import Model

Axes = tuple[tuple[str, int], ...]
_ALIKE = 1e-9
"""Relative difference of log densities that is rounding."""


@dataclass(frozen=True)
class Plate:
    """Rows of a model.

    Attributes
    ----------
    name
        The plate's or dimension's name in the model, or ``"rows"``.
    size
        Number of rows N.
    data, factors, sites
        What has the rows as an axis, and which axis: arrays of the data, log densities, latent variables.
    held
        Number of rows that the record holds: N, or fewer of streamed data.
    """

    name: str
    size: int
    data: Axes
    factors: Axes
    sites: Axes = ()
    held: int = 0


def find(model: Model) -> tuple[Plate, ...]:
    """Plates of the likelihoods by their shapes, the longest first; not yet proved.

    Parameters
    ----------
    model
        Its `resized` must be there; otherwise there are none.
    """
    if model.resized is None:
        return ()
    shapes = _factor_shapes(model)
    names: dict[int, str] = {}
    for name in model.likelihoods:
        for axis, length in enumerate(shapes[name]):
            dims = model.dims.get(name, ())
            names.setdefault(length, dims[axis] if axis < len(dims) else "rows")
    plates = []
    for length in sorted(names, reverse=True):
        data = _axes({name: value.shape for name, value in model.data.items()}, length)
        if length > 1 and data:
            sites = _axes({site.name: site.free_shape for site in model.sites}, length)
            plates.append(Plate(names[length], length, data, _axes(shapes, length), sites, length))
    return tuple(plates)


def _factor_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    data = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in model.data.items()}
    free = {site.name: jax.ShapeDtypeStruct(site.free_shape, float) for site in model.sites}
    parts = jax.eval_shape(model.factors, free, data).log_prob
    return {name: part.shape for name, part in parts.items()}


def _axes(shapes: Mapping[str, tuple[int, ...]], length: int) -> Axes:
    return tuple((name, shape.index(length)) for name, shape in shapes.items() if length in shape)


def rows_of(data: Mapping[str, np.ndarray], plate: Plate, rows: np.ndarray | slice) -> dict[str, np.ndarray]:
    """The arrays of a plate, cut to some of its rows; the others are left out."""
    return {name: data[name][(slice(None),) * axis + (rows,)] for name, axis in plate.data}


def at_rows(model: Model, plate: Plate, rows: Mapping[str, np.ndarray]) -> Model:
    """The model with other rows: arrays of the plate, all of one length."""
    name, axis = plate.data[0]
    length = rows[name].shape[axis]
    lengths = {old: length for old in (plate.size, plate.held) if old != length}
    return model.resized({**model.data, **rows}, lengths)


@lru_cache(maxsize=64)
def _densities_program(factors: Any) -> Any:
    return jax.jit(lambda free, data: factors(free, data).log_prob)


def prove(model: Model, plate: Plate, rows: Mapping[str, np.ndarray], seed: int = 0) -> None:
    """Make sure that rows can be taken out of the model and weighted.

    Parameters
    ----------
    model, plate
        As found.
    rows
        Arrays of the plate with n >= 3 of the rows.
    seed
        Of the point at which densities are compared.

    Raises
    ------
    UnsupportedError
        Naming the factor that is not a sum over the rows.

    Notes
    -----
    A first half of the rows is evaluated in the company of a second one, and in another order. One program of the size that
    minibatches and blocks have anyway.
    """
    name, axis = plate.data[0]
    n = rows[name].shape[axis]
    order = np.arange(n)[::-1]
    order[n // 2 :] = order[n // 2]  # the company changes, and the place
    other = {name: np.take(rows[name], order, axis) for name, axis in plate.data}
    try:
        small = at_rows(model, plate, rows)
        free = unflatten(small.sites, keys.generator(seed, "plate").normal(0, 0.1, small.dim))
        moved = {**free, **{name: np.take(free[name], order, axis) for name, axis in plate.sites}}
        call = _densities_program(small.factors)
        first, second = call(free, small.data), call(moved, {**small.data, **other})
    except (TypeError, ValueError, IndexError) as error:
        raise UnsupportedError(
            f"the model cannot be evaluated on {n} of its {plate.size} rows ({plate.name}): {str(error).splitlines()[0]}"
        ) from error
    axes = dict(plate.factors)
    for name, value in first.items():
        a, b = np.asarray(value), np.asarray(second[name])
        if name in axes:
            a = np.take(a, order, axes[name])
        if a.shape != b.shape or not _alike(a, b):
            raise UnsupportedError(_why(name, name in axes, plate))


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    finite = np.isfinite(a)
    if not (finite == np.isfinite(b)).all():
        return False
    eps = np.finfo(a.dtype).eps if a.dtype.kind == "f" else 0.0
    scale = 1 + np.abs(a[finite]).max(initial=0.0)
    return bool((np.abs(a - b)[finite] <= max(_ALIKE, 100 * eps) * scale).all())


def _why(name: str, has_rows: bool, plate: Plate) -> str:
    if has_rows:
        return (
            f"the rows of {name} depend on each other along {plate.name}, so a part of them cannot stand for all; fit the full "
            "data."
        )
    return (
        f"{name} depends on the rows of {plate.name} without having one value a row, so it cannot be scaled when rows are left "
        "out; write it with one value a row, or as an observed variable."
    )
