"""Some rows for all: a model whose rows have weights, and a correction that makes it right at one point.

With weights w_i = N / n, n random rows have the log density of all N in expectation,

    prior(z) + sum_i w_i l_i(z).

Anchored at a point m, with value v and gradient g of the sum over ALL rows there, the surrogate

    prior(z) + sum_i w_i l_i(z) + (v - v_w) + (g - g_w)'(z - m) + (z - m)'(H - H_w)(z - m) / 2

is exact to first order at m, or to second with the last term. It is an ordinary `Model`, so that every engine and every check
runs on it unchanged. Weights, point, slope and curvature are data: moving the anchor compiles nothing.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from jensen.core.compilation import once
from jensen.core.layout import Site
from jensen.models.model import Factors, Model
from jensen.models.plates import Axes, Plate, at_rows

WEIGHTS = "row weights"
POINT, OFFSET, SLOPE, CURVATURE = "anchor point", "anchor offset", "anchor slope", "anchor curvature"
OWN = (WEIGHTS, POINT, OFFSET, SLOPE, CURVATURE)
"""Names of data with a space cannot be those of a model's arguments."""
_CURVED = 64


def weighted(model: Model, plate: Plate, rows: Mapping[str, np.ndarray], weights: np.ndarray) -> Model:
    """The model on some rows, each counted `weights` (n,) times.

    Parameters
    ----------
    model, plate
        As proved by `jensen.models.plates.prove`.
    rows
        Arrays of the plate, n rows each.
    weights
        (n,), any sign; their sum is the number of rows that they stand for.
    """
    small = at_rows(model, plate, rows)
    data = {**small.data, WEIGHTS: np.asarray(weights, float)}
    return replace(
        small,
        data=data,
        factors=weighted_factors(small.factors, plate.factors),
        constrain=_without_own(small.constrain),
        unconstrain=_without_own(small.unconstrain),
    )


def anchored(model: Model) -> Model:
    """A weighted model with a correction, zero at first; see `anchor`."""
    zero = np.zeros(model.dim)
    data = {**model.data, **anchor(zero, 0.0, zero, np.zeros((model.dim, model.dim)) if curved(model.dim) else None)}
    return replace(model, data=data, factors=_anchored_factors(model.factors, model.sites))


def curved(dim: int) -> bool:
    """Whether corrections have a curvature: up to D = 64, beyond which it costs too much to find."""
    return dim <= _CURVED


def anchor(
    point: np.ndarray, offset: float, slope: np.ndarray, curvature: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The data of a correction: what to add at `point` (D,), with which slope (D,) and curvature (D, D) around it."""
    found = {POINT: np.asarray(point), OFFSET: np.asarray(offset, float), SLOPE: np.asarray(slope)}
    return found if curvature is None else {**found, CURVATURE: np.asarray(curvature)}


def correction(anchor: Mapping[str, Any], z: np.ndarray) -> np.ndarray:
    """What an anchor adds to the log density (K,) at points z (K, D); zero without a point."""
    if POINT not in anchor:
        return np.zeros(len(z))
    step = z - anchor[POINT]
    found = anchor[OFFSET] + step @ anchor[SLOPE]
    return found + 0.5 * (step @ anchor[CURVATURE] * step).sum(1) if CURVATURE in anchor else found


@lru_cache(maxsize=64)
def weighted_factors(factors: Any, axes: Axes) -> Any:
    """`factors` with one more array in their data, the weights of the rows."""
    factors = once(factors)

    def call(free: Any, data: Any) -> Factors:
        parts = factors(free, _users(data))
        scale = dict(parts.scale)
        for name, axis in axes:
            weights = data[WEIGHTS].reshape((-1,) + (1,) * (parts.log_prob[name].ndim - axis - 1))
            scale[name] = weights * scale[name] if name in scale else weights
        return parts._replace(scale=scale)

    return call


def _users(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in OWN}


@lru_cache(maxsize=64)
def _without_own(function: Any) -> Any:
    return lambda values, data: function(values, _users(data))


@lru_cache(maxsize=64)
def _anchored_factors(factors: Any, sites: tuple[Site, ...]) -> Any:
    def call(free: Any, data: Any) -> Factors:
        parts = factors(free, data)
        z = jnp.concatenate([jnp.ravel(free[site.name]) for site in sites])
        step = z - data[POINT]
        correction = data[OFFSET] + data[SLOPE] @ step
        if CURVATURE in data:
            correction = correction + 0.5 * step @ (data[CURVATURE] @ step)
        return parts._replace(log_prob={**parts.log_prob, "anchor": correction})

    return call
