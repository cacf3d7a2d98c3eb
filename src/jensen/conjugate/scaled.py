"""Non-centered scales: a mean that is linear in its real sites, with powers of single positive sites as their factors.

    loc = A(x) + sum_k t_k B_k(x),    t_k = s_k^p_k,    A and B_k affine in the real sites x:    mu + tau * eps[group]

With the real sites' tangents f(s) at s = 1, e and e^2 parts and powers follow, row by row: (f(e^2) - f(e)) / (f(e) - f(1)) = e^p.
Expectations of squares are then those of A, of B_k and of sums and differences of the two, which the rules have:

    (A + t B)^2 = A^2 + t^2 B^2 + t/2 (A + B)^2 - t/2 (A - B)^2

so that x stays exact, and only s_k, of which two powers are needed, is free (Gaussian on its logarithm).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from jensen.conjugate.slots import Affine, Slot, agree, compact, decode

_ZERO, _SAME = 1e-9, 1e-6


class Part(NamedTuple):
    """``site ** power`` times an affine array; the site has one element."""

    site: str
    power: float
    affine: Affine


class Scaled(NamedTuple):
    """A sum of an affine array and of scaled ones."""

    affine: Affine
    parts: tuple[Part, ...]

    def at(self, coordinates: Mapping[str, np.ndarray]) -> np.ndarray:
        """Its value at (flat) coordinates: logarithms of positive sites."""
        known = dict(coordinates)
        more = (np.exp(part.power * known[part.site]) * part.affine.at(known) for part in self.parts)
        return self.affine.at(known) + sum(more)


def decode_scaled(view: Any, run: Any, program: Any, splits: Any, stacks: Any, truth: np.ndarray) -> Scaled | None:
    """The parts of an array that is affine in its real sites when the others are held.

    Parameters
    ----------
    view, run
        Of which leaf, and the probe that looked at it.
    program, splits, stacks
        Its program, and the tangents of every site.
    truth
        The array at the probe's random point.

    Returns
    -------
    Scaled or None
        None where it is no such sum or no mean, or a positive site has several elements.
    """
    reads = [name for name in run.reads[view] if run.sites[name] == "real"]
    positive = [name for name in run.reads[view] if name not in reads]
    if run.nodes[view.node].kind != "Normal" or view.leaf != "loc":
        return None
    if any(run.sites[name] != "log" or len(run.zero[name]) != 1 for name in positive):
        return None

    def at(logs: Mapping[str, float]) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        constant, _, pushed = program(run.zero | {name: np.full(1, x) for name, x in logs.items()})
        return constant[view], pushed[view]

    directions = {name: stack[1] for name, stack in stacks.items()}
    base = _arrays(reads, *at({}), splits, directions)
    if base is None:
        return None
    indices, first = base
    rest, parts = list(first), []
    for site in positive:
        steps = [_arrays(reads, *at({site: x}), splits, directions) for x in (1.0, 2.0)]
        if any(step is None or not _same(step[0], indices) for step in steps):
            return None
        near, far = (step[1] for step in steps if step is not None)
        one, two = ([b - a for a, b in zip(x, y, strict=True)] for x, y in ((first, near), (near, far)))
        power = _power(one, two, max(np.abs(x).max(initial=0.0) for x in first))
        if power is None:
            return None
        own = [x / np.expm1(power) for x in one]
        rest = [x - y for x, y in zip(rest, own, strict=True)]
        parts.append(Part(site, power, _affine(reads, indices, own)))
    found = Scaled(_affine(reads, indices, rest), tuple(parts))
    groups = [found.affine.sites, *(part.affine.sites for part in parts)]
    if any(one & other for one, other in combinations(groups, 2)):
        return None
    return found if agree(found.at(run.random), truth) else None


def _arrays(
    reads: Sequence[str], constant: np.ndarray, pushed: Mapping[str, np.ndarray], splits: Any, directions: Any
) -> tuple[list[tuple[str, np.ndarray]], list[np.ndarray]] | None:
    """Sites and elements that are read, and the weights of these, after the constant."""
    indices, weights = [], [np.asarray(constant)]
    for name in reads:
        slots = decode(name, splits[name], pushed[name], directions[name])
        if slots is None:
            return None
        indices += [(name, slot.index) for slot in slots]
        weights += [slot.weight for slot in slots]
    return indices, weights


def _same(some: Any, other: Any) -> bool:
    pairs = zip(some, other, strict=False)
    return len(some) == len(other) and all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in pairs)


def _power(one: list[np.ndarray], two: list[np.ndarray], scale: float) -> float | None:
    """The power p of a site from the differences along it, all in the ratio e^p."""
    ratios = []
    for a, b in zip(one, two, strict=True):
        a, b = np.broadcast_arrays(a, b)
        changing = np.abs(a) > _ZERO * (1.0 + scale)
        if not changing.any() and not (np.abs(b) <= _ZERO * (1.0 + scale)).all():
            return None
        ratios.append((b[changing] / a[changing]).reshape(-1))
    found = np.concatenate(ratios)
    if not found.size or not (found > 0).all() or not np.ptp(found) < _SAME * found[0]:
        return None
    power = float(np.log(found[0]))
    half = np.rint(2 * power) / 2
    power = half if abs(power - half) < _SAME else power
    return power if abs(power) > _SAME else None


def _affine(reads: Any, indices: Any, arrays: list[np.ndarray]) -> Affine:
    """The affine array with these weights, without reads whose weights are rounding."""
    scale = 1.0 + max(np.abs(x).max(initial=0.0) for x in arrays)
    arrays = [compact(np.where(np.abs(x) > _ZERO * scale, x, 0.0)) for x in arrays]
    slots = (Slot(name, index, w) for (name, index), w in zip(indices, arrays[1:], strict=True) if w.any())
    return Affine(arrays[0], tuple(slots))
