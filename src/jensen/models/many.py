"""One model with many data sets of one shape: log p(z | data_b) for all b at once, by one compiled program.

    (B, M, D) points and B data sets  ->  (B, M) log densities and (B, M, D) gradients

vmap over data sets around the vmap over points; arrays that are the same for all data sets are passed once. A call of the program
holds as many data sets as its memory allows; the last one is padded.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from jensen.core.compilation import on_device
from jensen.core.layout import Site, unflatten
from jensen.models.model import Model, total
from jensen.models.target import BATCH, Program, Target

_POINTS = 4096
"""Points a call of the program, over all its data sets."""


@lru_cache(maxsize=16)
def _constrain(constrain: Any, sites: tuple[Site, ...], changing: tuple[str, ...], names: tuple[str, ...]) -> Program:
    return _twice(lambda z, data: constrain(unflatten(sites, z), data), changing, names)


@lru_cache(maxsize=16)
def _density(factors: Any, sites: tuple[Site, ...], changing: tuple[str, ...], names: tuple[str, ...]) -> Program:
    def log_density(z: jax.Array, data: Any) -> jax.Array:
        return total(factors(unflatten(sites, z), data))

    return _twice(jax.value_and_grad(log_density), changing, names)


def _twice(function: Any, changing: tuple[str, ...], names: tuple[str, ...]) -> Program:
    """A function of (z, data), over points and over data sets."""
    axes = {name: 0 if name in changing else None for name in names}
    return Program(jax.vmap(jax.vmap(function, (0, None)), (0, axes)))


class Many:
    """log p(z) of a model under each of n data sets.

    Parameters
    ----------
    model
        What is inferred; its own data are those that do not change.
    arrays
        Name in `Model.data` -> (n, *shape).
    precision
        As for `Target`.
    """

    def __init__(self, model: Model, arrays: Mapping[str, np.ndarray], precision: str = "float64"):
        self.model, self.dim = model, model.dim
        self.number = len(next(iter(arrays.values())))
        self._one = Target(model, precision)
        self._dtype = np.dtype(precision)
        floats = {name: np.issubdtype(value.dtype, np.floating) for name, value in arrays.items()}
        self._arrays = {name: value.astype(precision) if floats[name] else value for name, value in arrays.items()}
        self._key = (model.sites, tuple(sorted(arrays)), tuple(sorted(model.data)))

    def __call__(self, rows: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log densities (B, M) and gradients (B, M, D) of data sets `rows` (B,) at points z (B, M, D)."""
        value, gradient = self._called(_density(self.model.factors, *self._key), rows, z)
        return np.asarray(value, float), np.asarray(gradient, float)

    def constrain(self, rows: np.ndarray, z: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Sites and deterministics in the model's own space, (B, M, *shape)."""
        return self._called(_constrain(self.model.constrain, *self._key), rows, z)

    def _called(self, program: Program, rows: np.ndarray, z: np.ndarray) -> Any:
        z = np.asarray(z, self._dtype)
        each = max(1, _POINTS * self._one.batch // (BATCH * z.shape[1]))
        parts = []
        for begin in range(0, len(rows), each):
            some = np.arange(begin, min(begin + each, len(rows)))
            padded = np.concatenate([some, np.repeat(some[:1], each - len(some))])
            data = self._one.data | on_device({name: value[rows[padded]] for name, value in self._arrays.items()})
            n = len(some)
            parts.append(jax.tree.map(lambda part, n=n: np.asarray(part)[:n], program(z[padded], data)))
        return jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)
