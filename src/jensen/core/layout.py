"""The flat vector: which coordinates of z in R^D belong to which site.

Engines, families and checks see only z. Names, shapes and constraints are met at the two ends, through the layout.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Site:
    """One latent variable.

    Attributes
    ----------
    name
        As in the user's model.
    shape
        In the model's own (constrained) space.
    free_shape
        In the unconstrained space; differs from `shape` for simplexes, Cholesky factors, ...
    support
        In words: ``"real"``, ``"positive"``, ``"simplex"``, ...
    dims
        One name an axis of `shape`; empty where the model names none.
    """

    name: str
    shape: tuple[int, ...]
    free_shape: tuple[int, ...]
    support: str = "real"
    dims: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of unconstrained coordinates."""
        return prod(self.free_shape)


@dataclass(frozen=True, slots=True)
class Derived:
    """A deterministic quantity of the model: name, shape and dims in its own space."""

    name: str
    shape: tuple[int, ...]
    dims: tuple[str, ...] = ()


def dim(sites: tuple[Site, ...]) -> int:
    """Total number D of unconstrained coordinates."""
    return sum(site.size for site in sites)


def unflatten(sites: tuple[Site, ...], z: Any) -> dict[str, Any]:
    """Split `z` (..., D) into one array (..., *free_shape) a site; works on NumPy and JAX arrays."""
    parts, start = {}, 0
    for site in sites:
        parts[site.name] = z[..., start : start + site.size].reshape((*z.shape[:-1], *site.free_shape))
        start += site.size
    return parts


def flatten(sites: tuple[Site, ...], parts: Mapping[str, Any]) -> np.ndarray:
    """Inverse of `unflatten` on NumPy arrays without leading axes."""
    if not sites:
        return np.zeros(0)
    return np.concatenate([np.asarray(parts[site.name], float).reshape(site.size) for site in sites])


def scalar_names(variable: Site | Derived, coords: Mapping[str, Any]) -> list[str]:
    """Names of a variable's scalars: ``x``, or ``x[0, 1]``, with coordinate labels where its dims have them."""
    if not variable.shape:
        return [variable.name]
    return [f"{variable.name}[{', '.join(index)}]" for index in product(*axis_labels(variable, coords))]


def axis_labels(variable: Site | Derived, coords: Mapping[str, Any]) -> list[list[str]]:
    """Labels along each axis of a variable: coordinates where its dims have them, else 0, 1, ..."""
    dims = variable.dims or (None,) * len(variable.shape)
    return [_labels(coords.get(dim) if dim else None, length) for dim, length in zip(dims, variable.shape, strict=True)]


def _labels(values: Any, length: int) -> list[str]:
    return list(map(str, range(length) if values is None or len(values) != length else values))


def coordinate_site(sites: tuple[Site, ...], coordinate: int) -> Site:
    """The site that owns a flat coordinate."""
    for site in sites:
        if coordinate < site.size:
            return site
        coordinate -= site.size
    raise IndexError(coordinate)
