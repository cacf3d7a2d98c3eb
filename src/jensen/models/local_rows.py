"""Latent variables with a value a row: a batch of rows reads its own values out of all of them.

A model whose site z has the rows as an axis changes its sites with its rows. Seen through row numbers it does not: with all of z
as the variable and the numbers r of a batch's rows among its data,

    l_i(theta, z) = l(row i | theta, z[r_i])        prior and transform of z[r_i] included, as factors with one value a row

is a model with rows like any other, whose gradient reaches the values of z that the batch has and no others. q keeps a part for
every row.

Requires: transforms of such a site that act on each row by itself.
Reference: Hoffman, Blei, Wang, Paisley (2013), Stochastic variational inference, JMLR 14 (local and global variables).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from jensen.core.errors import UnsupportedError
from jensen.models.model import Factors, Model
from jensen.models.plates import Axes, Plate, factor_shapes

ROW = "row number"
"""Name of the data that say which rows a batch has; names with a space cannot be those of a model's arguments."""


def by_number(model: Model, plate: Plate, row: str = ROW, own: tuple[str, ...] = ()) -> tuple[Model, Plate]:
    """The model and its plate with the sites of the plate read by row number.

    Parameters
    ----------
    model, plate
        A record that holds all rows, and a plate.
    row
        Name of the row numbers, another one for each axis that is read by number.
    own
        Of `own_numbers`, those that index such sites and not only stand beside them: a batch has its own, from 0.

    Raises
    ------
    UnsupportedError
        When the transform of such a site mixes rows.
    """
    factors, jacobian = factor_shapes(model)
    transforms = tuple((name, axis) for name, axis in plate.sites if name in jacobian)
    for name, axis in transforms:
        if len(jacobian[name]) <= axis or jacobian[name][axis] != plate.size:
            raise UnsupportedError(
                f"the transform of site {name} mixes the rows of {plate.name}, so that a batch of them cannot be taken; fit the "
                "full data (leave batch_size out)."
            )
    # Another axis may have made a transform a factor before.
    more = tuple(
        (_transform(name), axis) for name, axis in plate.sites if name in jacobian or _transform(name) in factors
    )
    numbers = np.arange(plate.size)
    seen = replace(plate, data=(*plate.data, (row, 0)), factors=(*plate.factors, *more), sites=())
    return _wrapped(model, {**model.data, row: numbers}, plate.sites, transforms, row, own), seen


def own_numbers(model: Model, plate: Plate) -> tuple[str, ...]:
    """Data that are row numbers themselves, 0, 1, ..., N - 1, as in ``z[rows]``."""
    some = [name for name, axis in plate.data if plate.sites and model.data[name].ndim == 1 + axis == 1]
    return tuple(name for name in some if np.array_equal(model.data[name], np.arange(plate.size)))


def _wrapped(
    model: Model, data: dict[str, np.ndarray], sites: Axes, transforms: Axes, row: str, own: tuple[str, ...]
) -> Model:
    def resized(data: Mapping[str, np.ndarray], lengths: Mapping[int, int]) -> Model:
        small = model.resized({name: value for name, value in data.items() if name != row}, lengths)  # type: ignore[misc]
        # Sites stay those of all rows.
        whole = _wrapped(small, {**small.data, row: data[row]}, sites, transforms, row, own)
        return replace(whole, sites=model.sites)

    factors = _factors(model.factors, sites, tuple(name for name, _ in transforms), row, own)
    return replace(model, data=data, factors=factors, resized=resized)


def _transform(name: str) -> str:
    return f"transform of {name}"


@lru_cache(maxsize=64)
def _factors(factors: Any, sites: Axes, transforms: tuple[str, ...], row: str, own: tuple[str, ...]) -> Any:
    def call(free: Any, data: Any) -> Factors:
        rows = data[row]
        values = {**free, **{name: jnp.take(free[name], rows, axis) for name, axis in sites}}
        given = {name: value for name, value in data.items() if name != row}
        given |= {name: jnp.arange(len(rows)).astype(data[name].dtype) for name in own}
        parts = factors(values, given)
        found = {_transform(name): parts.jacobian[name] for name in transforms}
        rest = {name: value for name, value in parts.jacobian.items() if name not in transforms}
        return Factors({**parts.log_prob, **found}, parts.scale, rest)

    return call
