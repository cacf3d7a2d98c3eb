"""Which parts of a model are rows: conditionally independent, so that some of them can stand for all.

A plate is found from shapes, for every front end alike: an axis of a likelihood that arrays of the data share. That alone
proves nothing (two axes may have equal lengths by chance), so a plate is *proved* before it is used: the log densities of rows
taken out of the data must be those rows' log densities in any company, and nothing else may change with the rows. What
depends on the rows without having them as an axis, such as a potential that sums over them, would be counted wrongly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from jensen.core import keys
from jensen.core.compilation import FAST_COMPILE, once
from jensen.core.errors import DataError, OptionError, UnsupportedError
from jensen.core.layout import unflatten
from jensen.models.model import Model

Axes = tuple[tuple[str, int], ...]
_UNNAMED = ("rows", "columns", "layers")
_ALIKE = 1e-9
"""Relative difference of log densities that is rounding."""


@dataclass(frozen=True)
class Plate:
    """Rows of a model.

    Attributes
    ----------
    name
        The plate's or dimension's name in the model, or ``"rows"``, ``"columns"`` by its place in the likelihood.
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
    shapes = factor_shapes(model)[0]
    names: dict[int, str] = {}
    for name in model.likelihoods:
        for axis, length in enumerate(shapes[name]):
            dims = model.dims.get(name, ())
            names.setdefault(length, dims[axis] if axis < len(dims) else _UNNAMED[min(axis, 2)])
    plates = []
    for length in sorted(names, reverse=True):
        data = _axes({name: value.shape for name, value in model.data.items()}, length)
        if length > 1 and data:
            sites = _axes({site.name: site.free_shape for site in model.sites}, length)
            plates.append(Plate(names[length], length, data, _axes(shapes, length), sites, length))
    return tuple(plates)


def factor_shapes(model: Model) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes of the log densities of all factors, and of the log Jacobians of the sites."""
    data = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in model.data.items()}
    free = {site.name: jax.ShapeDtypeStruct(site.free_shape, float) for site in model.sites}
    parts = jax.eval_shape(once(model.factors), free, data)
    log_prob, jacobian = parts.log_prob, parts.jacobian
    return {name: part.shape for name, part in log_prob.items()}, {name: part.shape for name, part in jacobian.items()}


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
    assert model.resized is not None  # else `find` gives no plate
    return model.resized({**model.data, **rows}, lengths)


def with_rows(model: Model, data: Mapping[str, np.ndarray], total: int | None = None) -> Model:
    """The model with new arrays in place of those of the same name, also longer or shorter ones.

    Parameters
    ----------
    model
        Any.
    data
        Name -> array, with the rows as first axis.
    total
        Number of rows written in the model, where its record holds fewer.

    Raises
    ------
    UnsupportedError
        When the front end cannot change lengths.
    """
    if model.resized is None:
        raise UnsupportedError(f"{model.name} cannot be evaluated on other rows; fit it again with data= for that.")
    lengths = {len(model.data[name]): len(array) for name, array in data.items() if array.ndim}
    if total is not None and lengths:
        lengths[total] = next(iter(lengths.values()))
    return model.resized({**model.data, **data}, {old: new for old, new in lengths.items() if old != new})


def without_rows(model: Model, plate: Plate, other: Mapping[str, np.ndarray] | None) -> Model:
    """The model without its deterministics that have one value a row, or need rows that are not in memory.

    Parameters
    ----------
    model, plate
        As found.
    other
        As many rows as the record holds, but others; None where it holds all.
    """
    left_out = {some.name for some in model.derived if plate.held in some.shape}
    if other is not None and model.derived:
        free = unflatten(model.sites, np.zeros(model.dim))
        first, second = model.constrain(free, model.data)[1], model.constrain(free, {**model.data, **other})[1]
        left_out |= {name for name in first if not np.array_equal(first[name], second[name])}
    if not left_out:
        return model
    note = f"left out, because they have one value a row or need all rows: {', '.join(sorted(left_out))}."
    kept = tuple(some for some in model.derived if some.name not in left_out)
    constrain = _constrain_only(model.constrain, tuple(some.name for some in kept))
    return replace(model, derived=kept, constrain=constrain, notes=(*model.notes, note))


def not_in_memory(model: Model, total: int, method: str) -> OptionError:
    """The refusal of a method of a posterior that needs rows which are streamed."""
    return OptionError(
        f"the {total:,} rows of {model.name} are streamed and not in memory; take them block by block, as in "
        f"posterior.{method}(data=table.read(0, 10_000))."
    )


@lru_cache(maxsize=16)
def _constrain_only(constrain: Any, names: tuple[str, ...]) -> Any:
    def call(free: Any, data: Any) -> Any:
        values, derived = constrain(free, data)
        return values, {name: derived[name] for name in names}

    return call


@lru_cache(maxsize=64)
def _both_program(first: Any, second: Any) -> Any:
    return jax.jit(lambda one, other: (once(first)(*one), once(second)(*other)), compiler_options=FAST_COMPILE)


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
    A first half of the rows is evaluated with the second one, and without it in another order: a density that knows the other
    rows, its place, or how many rows there are (``len(X)``) is not the same.
    """
    name, axis = plate.data[0]
    n = rows[name].shape[axis]
    order = np.arange(n // 2 + 1)[::-1]
    other = {name: np.take(rows[name], order, axis) for name, axis in plate.data}
    try:
        small, smaller = at_rows(model, plate, rows), at_rows(model, plate, other)
        free = unflatten(small.sites, keys.generator(seed, "plate").normal(0, 0.1, small.dim))
        cut = {**free, **{name: np.take(free[name], order, axis) for name, axis in plate.sites}}
        first, second = _both_program(small.factors, smaller.factors)((free, small.data), (cut, smaller.data))
    except (DataError, TypeError, ValueError, IndexError) as error:
        raise UnsupportedError(
            f"the model cannot be evaluated on {n} of its {plate.size} rows ({plate.name}): {str(error).splitlines()[0]}"
        ) from error
    axes = dict(plate.factors)
    for kind in ("log_prob", "scale", "jacobian"):
        for name, value in getattr(first, kind).items():
            a, b = np.asarray(value), np.asarray(getattr(second, kind)[name])
            if kind == "jacobian" and name in dict(plate.sites):
                continue  # of the rows' own variables
            has_rows = kind == "log_prob" and name in axes
            a = np.take(a, order, axes[name]) if has_rows else a
            if a.shape != b.shape or not _alike(a, b):
                raise UnsupportedError(_why(name, has_rows, plate))


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    finite = np.isfinite(a)
    if not (finite == np.isfinite(b)).all():
        return False
    a, b = a[finite], b[finite]
    eps = np.finfo(a.dtype).eps if a.dtype.kind == "f" else 0.0
    # One by one: beside a row of huge density a change of the others must not pass for rounding.
    rounding = max(_ALIKE, 100 * eps) * (1 + np.abs(a)) + 100 * eps * np.abs(a).max(initial=0.0)
    return bool((np.abs(a - b) <= rounding).all())


def _why(name: str, has_rows: bool, plate: Plate) -> str:
    if has_rows:
        return (
            f"the rows of {name} depend on each other along {plate.name}, or on how many there are, so a part of them cannot "
            "stand for all; fit the full data."
        )
    return (
        f"{name} depends on the rows of {plate.name}, or on how many there are, without having one value a row, so it cannot be "
        "scaled when rows are left out; write it with one value a row, and numbers of rows as constants."
    )
