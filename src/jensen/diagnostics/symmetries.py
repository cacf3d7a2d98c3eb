"""Is the posterior the same under changes of order or sign, and the answer not? Then it is spread over all the copies.

Components of a mixture, factors, and units of a network can change places, and some of them signs, without a change of the
density: the posterior has K!, 2^K or both times as many copies of every mode, all with the same mass. Searches and chains see
few of these, and each of them looks settled. But that a density is invariant is known from a handful of its values:

    log p(S z) = log p(z)      at some points z, for random changes S that preserve volume

and then the average over the copies is exact: every draw is moved to a copy drawn at random. Tried are changes of order along
axes of one length, of the sites that have it, and changes of sign, of whole sites or along such an axis, in the smallest sets
of sites that do. Answers that are invariant already, as most, stay as they are.

Reference: Jasra, Holmes, Stephens (2005), Markov chain Monte Carlo methods and the label switching problem in Bayesian mixture
modeling, Statistical Science 20.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from typing import Any, NamedTuple

import jax
import numpy as np

from jensen.core import keys
from jensen.core.compilation import FAST_COMPILE
from jensen.core.layout import Site, unflatten
from jensen.diagnostics import quantities, verdict
from jensen.diagnostics.quantities import Draws
from jensen.models.target import Target

_EXACT = 1e-9
"""Error of a log density, relative to its size, that rounding makes."""
_LOOKS, _FEW = 256, 8
_MOST = 5
"""Axes of one length of which all sets are tried; of more only single ones and all together."""
_MATTERS = 0.1
"""Change of a mean in sds, or of a log sd, by which an answer is not invariant."""
_AT_ONCE = 256

Axis = tuple[Site, int]
"""A site and one of its axes; changes of length 1 are the same along any."""


class Symmetry(NamedTuple):
    """A change of signs, or of order, along axes of one length (1 for signs of whole sites)."""

    axes: tuple[Axis, ...]
    length: int
    signs: bool

    def one(self) -> np.ndarray:
        """A change (1, K) that moves everything, or the sign of the first."""
        return (
            np.where(np.arange(self.length) == 0, -1, 1)[None]
            if self.signs
            else np.roll(np.arange(self.length), 1)[None]
        )

    def some(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Changes (n, K), drawn uniformly."""
        if self.signs:
            return rng.choice([-1, 1], (n, self.length))
        return rng.permuted(np.tile(np.arange(self.length), (n, 1)), axis=1)

    def __str__(self) -> str:
        names = [
            site.name if self.length == 1 or len(site.shape) == 1 else f"axis {axis} of {site.name}"
            for site, axis in self.axes
        ]
        named = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        if not self.signs:
            return f"the {self.length} elements along {named} change places"
        return (
            f"elements along {named} change sign"
            if self.length > 1
            else f"{named} change{'s' * (len(names) == 1)} sign"
        )

    def within(self, other: "Symmetry") -> bool:
        """Whether the other one says this, too: of fewer axes, or of the same sites element by element."""
        if self.signs != other.signs:
            return False
        if self.length == other.length:
            return set(other.axes) <= set(self.axes)
        return self.length == 1 and {site for site, _ in self.axes} == {site for site, _ in other.axes}


def spread(target: Any, answer: Any, seed: int, report_q: bool) -> Any:
    """The `Examination` of the posterior where that of an answer describes some of its copies; otherwise the answer.

    Parameters
    ----------
    target
        The log density; of many rows, which stands for them around q only, nothing is asked.
    answer
        What was found out.
    seed
        Randomness.
    report_q
        Judge the answer itself instead, which is q.
    """
    if not isinstance(target, Target):
        return answer
    rng, old = keys.generator(seed, "symmetries"), answer.kept
    found = find(target, old.z[rng.choice(len(old.z), min(_LOOKS, len(old.z)), replace=False)], rng)
    if not found:
        return answer
    z = old.z
    for symmetry in found:
        z = _moved(target, z, symmetry, symmetry.some(rng, len(z)))
    new = Draws(z, old.log_p, *target.constrain(z))
    x, y = (quantities.matrix(target.model, draws.values, draws.derived) for draws in (old, new))
    (mean, sd), (all_mean, all_sd) = (
        (answer.weights @ v, np.sqrt(answer.weights @ (v - answer.weights @ v) ** 2)) for v in (x, y)
    )
    unit = np.where(all_sd > 0, all_sd, 1.0)
    moved, widened = np.abs(all_mean - mean) / unit, np.abs(np.log(np.where(sd > 0, sd, 1.0) / unit)) * (sd > 0)
    if max(moved.max(), widened.max()) < _MATTERS:
        return answer
    why = f"the posterior stays the same when {', or '.join(map(str, found))}"
    judged = verdict.of_copies(answer.verdict, moved, widened, why, report_q)
    return replace(answer, verdict=judged) if report_q else replace(answer, kept=new, verdict=judged, corrected=True)


def find(target: Target, z: np.ndarray, rng: np.random.Generator) -> list[Symmetry]:
    """Changes under which the density is the same, by its values at points z (n, D) from all of the posterior."""
    if target.precision != "float64":  # whose rounding leaves no room for a proof
        return []
    candidates, found = list(_candidates(target.model.sites)), []
    if not candidates:
        return []
    first = target(z[:1])[0]
    moved = target(np.concatenate([_moved(target, z[:1], each, each.one()) for each in candidates]))[0]
    for each, value in zip(candidates, moved, strict=True):
        if _same(value, first) and not any(map(each.within, found)):
            # In a few places first, as a symmetry of one mode may be none of the others.
            found += [each] * all(
                _same(target(_moved(target, some, each, each.some(rng, len(some))))[0], target(some)[0])
                for some in (z[:_FEW], z[_FEW:])
            )
    return found


def _same(log_p: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.abs(log_p - other) < _EXACT * (1 + np.abs(other))).all())


def _candidates(sites: tuple[Site, ...]) -> Iterator[Symmetry]:
    """Changes that preserve volume, of few sites first."""
    plain = [site for site in sites if site.shape == site.free_shape]
    real = [site for site in plain if site.support == "real"]
    axes = [
        (site, axis) for site in sites for axis in range(len(site.shape)) if site in plain or site.support == "simplex"
    ]
    for length in sorted({site.shape[axis] for site, axis in axes} - {0, 1}):
        here = [(site, axis) for site, axis in axes if site.shape[axis] == length]
        yield from (Symmetry(some, length, False) for some in _sets(here))
        yield from (Symmetry(some, length, True) for some in _sets([each for each in here if each[0] in real]))
    yield from (Symmetry(some, 1, True) for some in _sets([(site, 0) for site in real]))


def _sets(axes: list[Axis]) -> Iterator[tuple[Axis, ...]]:
    """Subsets, small ones first."""
    sizes = range(1, len(axes) + 1) if len(axes) <= _MOST else (1, len(axes))
    return (some for size in sizes for some in combinations(axes, size))


def _moved(target: Target, z: np.ndarray, symmetry: Symmetry, changes: np.ndarray) -> np.ndarray:
    """Points (n, D), each after its change (n, K)."""
    # Both front ends' maps to a simplex have as Jacobian the product of its elements, which no order changes.
    inside = any(site.shape != site.free_shape for site, _ in symmetry.axes)
    sites = target.model.sites
    arrays = dict(target.constrain(z)[0]) if inside else unflatten(sites, z)
    for site, axis in symmetry.axes:
        array, shape = arrays[site.name], np.ones(len(site.shape), int)
        if symmetry.length > 1:
            shape[axis] = symmetry.length
        by = changes.reshape(len(changes), *shape)
        arrays[site.name] = array * by if symmetry.signs else np.take_along_axis(array, by, axis + 1)
    if inside:
        arrays = _freed(target, arrays)
    return np.concatenate([arrays[site.name].reshape(len(z), -1) for site in sites], 1)


def _freed(target: Target, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Unconstrained arrays of constrained ones, draws first."""
    n, parts = len(next(iter(values.values()))), []
    for start in range(0, n, _AT_ONCE):
        rows = np.minimum(np.arange(start, start + _AT_ONCE), n - 1)
        parts.append(
            _program(target.model.unconstrain)({name: array[rows] for name, array in values.items()}, target.data)
        )
    return {name: np.concatenate([np.asarray(part[name]) for part in parts])[:n] for name in parts[0]}


@lru_cache(maxsize=16)
def _program(unconstrain: Any) -> Any:
    return jax.jit(jax.vmap(unconstrain, in_axes=(0, None)), compiler_options=FAST_COMPILE)
