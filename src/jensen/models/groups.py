"""Which coordinates are groups: independent of each other given the rest, found from gradients alone.

Sites that share an axis of length G are candidates for G groups. They are groups when

    log p(z) = f_0(g) + sum_i f_i(g, z_i),      that is  d^2 log p / dz_i dz_j = 0 for groups i != j,

which is asked of the gradients: the groups are numbered at random, and for every binary digit of the number those with digit 1
are moved; gradients of those with digit 0 may not change. Any two groups differ in a digit, so log2 G moves look at all
pairs. Where the candidates fail together each site is moved by itself, which tells the sites that couple groups; they stay
global. No front end is asked, so plain densities have groups too.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jensen.core import keys
from jensen.core.errors import NonFiniteError, UnsupportedError

FEWEST = 20
"""Fewer groups are not worth a family of their own."""
LARGEST_GLOBAL = 300
"""Largest number of global coordinates for which arrow algebra is worth while."""
_ALIKE = {"float64": 1e-9, "float32": 1e-3}
"""Change of a gradient, relative to the site's largest one, that is rounding."""


class Groups(NamedTuple):
    """Coordinates of the flat vector.

    Attributes
    ----------
    shared
        (p,), what all groups may depend on.
    own
        (G, d), the coordinates of every group.
    sites
        Names of the sites that are made of groups.
    """

    shared: np.ndarray
    own: np.ndarray
    sites: tuple[str, ...]


def find(target: Any, seed: int = 0) -> Groups:
    """Groups of a target; of several candidates the one with most coordinates.

    Parameters
    ----------
    target
        The log density; about log2 G gradients are taken, and as many a site where not all candidates are groups.
    seed
        Of the point and of the moves.

    Raises
    ------
    UnsupportedError
        When there are no groups, or when what is left global has more than `LARGEST_GLOBAL` coordinates.
    NonFiniteError
        When no point with finite gradients was found near zero.
    """
    rng = keys.generator(seed, "groups")
    center, gradient = _point(target, rng)
    best: tuple[tuple[str, np.ndarray], ...] = ()
    for candidates in by_length(target.model.sites):
        if sum(own.size for _, own in candidates) <= sum(own.size for _, own in best):
            continue
        found = _separable(target, rng, center, gradient, candidates)
        if sum(own.size for _, own in found) > sum(own.size for _, own in best):
            best = found
    if not best:
        raise UnsupportedError(
            f"no groups were found: none of the sites {_few([site.name for site in target.model.sites])} has an axis whose "
            "elements are independent given all other sites; use 'fullrank', 'lowrank' or 'meanfield'."
        )
    own = np.concatenate([coordinates for _, coordinates in best], axis=1)
    shared = np.setdiff1d(np.arange(target.dim), own)
    names = tuple(name for name, _ in best)
    if len(shared) > LARGEST_GLOBAL:
        others = [site.name for site in target.model.sites if site.name not in names]
        raise UnsupportedError(
            f"the global block is too large for a structured Gaussian: besides the groups of {_few(names)} it has "
            f"{len(shared)} coordinates ({_few(others)}), and at most {LARGEST_GLOBAL} make sense; use 'lowrank' or 'meanfield'."
        )
    return Groups(shared, own, names)


def _few(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def by_length(sites: Any) -> list[list[tuple[str, np.ndarray]]]:
    """For every length of an axis, the sites that have it and their coordinates (G, size / G); largest total first."""
    ends = np.cumsum([0] + [site.size for site in sites])
    found: dict[int, list[tuple[str, np.ndarray]]] = {}
    for site, (start, stop) in zip(sites, pairwise(ends), strict=True):
        coordinates = np.arange(start, stop).reshape(site.free_shape)
        for length in dict.fromkeys(site.free_shape):
            if length > 1:
                axis = site.free_shape.index(length)
                found.setdefault(length, []).append((site.name, np.moveaxis(coordinates, axis, 0).reshape(length, -1)))
    return sorted(found.values(), key=lambda several: -sum(own.size for _, own in several))


def _point(target: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random point near zero with finite gradients, and its gradient."""
    direction = rng.standard_normal(target.dim)
    for width in (0.5, 0.1, 0.01, 0.0):
        center = width * direction
        log_p, gradient = target(center[None])
        if np.isfinite(log_p).all() and np.isfinite(gradient).all():
            return center, gradient[0]
    raise NonFiniteError(
        f"{target.blame(np.zeros((1, target.dim)))} is not finite at zero, where groups were looked for; check data and supports."
    )


def _separable(
    target: Any,
    rng: np.random.Generator,
    center: np.ndarray,
    gradient: np.ndarray,
    candidates: list[tuple[str, np.ndarray]],
) -> tuple[tuple[str, np.ndarray], ...]:
    """The candidates without coupling between groups: all of them, or the largest ones that go together."""
    every = np.concatenate([own for _, own in candidates], axis=1)
    digits = _digits(rng, len(every))
    alone = len(candidates) == 1
    if not _coupled(target, rng, center, gradient, every, [every], digits)[0]:
        return tuple(candidates)
    if alone:
        return ()
    sites = [own for _, own in candidates]
    coupled = np.array([_coupled(target, rng, center, gradient, own, sites, digits) for own in sites])
    coupled |= coupled.T
    taken: list[int] = []
    for number in sorted(range(len(sites)), key=lambda number: -sites[number].size):
        if not coupled[number, number] and not coupled[number, taken].any():
            taken.append(number)
    return tuple(candidates[number] for number in sorted(taken))


def _digits(rng: np.random.Generator, groups: int) -> np.ndarray:
    """Binary digits (B, G) of a random numbering: any two groups differ in one."""
    numbers = rng.permutation(groups)
    return (numbers >> np.arange(max(1, (groups - 1).bit_length()))[:, None]) & 1 == 1


def _coupled(
    target: Any,
    rng: np.random.Generator,
    center: np.ndarray,
    gradient: np.ndarray,
    moved: np.ndarray,
    seen: list[np.ndarray],
    digits: np.ndarray,
) -> list[bool]:
    """For each of `seen` (G, k), whether its gradients change with other groups' coordinates among `moved` (G, k)."""
    tolerance = _ALIKE[str(jnp.result_type(float))]
    for width in (0.5, 0.05, 0.005):
        points = np.repeat(center[None], len(digits), 0)
        for point, digit in zip(points, digits, strict=True):
            point[moved[digit]] += width * rng.standard_normal(moved[digit].shape)
        _, there = target(points)
        if np.isfinite(there).all():
            break
    else:
        return [True] * len(seen)
    result = []
    for own in seen:
        change = np.abs(there - gradient)[:, own].max(-1)
        size = tolerance * max(np.abs(gradient[own]).max(), np.abs(there[:, own]).max(), 1e-300)
        result.append(bool((change[~digits] > size).any()))
    return result
