"""A search for other modes: quenches from wide starts, in coordinates whitened by the fit.

No check that looks at one mode sees another one: k-hat, log weights and chains are all blind to it. Climbs from all around q
(engines/quench.py) end at peaks; at each that a dip separates from q's, a Gaussian is fitted by smoothed Newton, or taken from
the peak's curvature where the fit runs home, and weighed by importance sampling. Where the mixture of them is no good sample,
its components may be pieces of one curved mode: then those that a path without a barrier joins are counted as one. Modes in
basins of tiny volume, as those half as wide as q in 20 dimensions, are still missed; the verdict says "within the modes found".
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.core.errors import JensenError
from jensen.diagnostics.chains import finite
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.guards import refuse_beyond
from jensen.engines.quench import distinct, frame_of, joined, peak, quench
from jensen.families.fullrank import FullRank
from jensen.families.mixture import mixture_of
from jensen.models.large import LargeTarget
from jensen.run import run

_WIDTH = 0.3
"""Where a fit at an end point begins, as a share of q's median sd."""
_WEIGHT_DRAWS = 512
_MOST_MODES, _MOST_MODES_LARGE = 30, 2
_LARGEST_DIM = 60
_NEGLIGIBLE = 0.003
_WIDEST = 10.0
"""Times q's sds, in every direction, that no mode is taken to be wider."""
_SLIGHT = 12.0
"""Nats of estimated mass below q's from which on a peak is not worth a fit."""
_GAUSSIAN = 0.5
"""Effective share of the mixture's sample below which its components may be pieces of one mode."""
_NEIGHBORS = 3
_APART = 2.0
_LOOKS, _ABOVE = 64, 0.5
"""Draws of a mode by which one sees whether q describes it, and nats above q that say no."""
_REACHED = 0.2
"""Share of a mode's weight that chains must have spent there to have reached it."""


@dataclass(frozen=True)
class Mode:
    """Another mode: a Gaussian fitted there and its estimated share of the posterior mass."""

    q: Any
    weight: float


def worth_searching(dim: int, spread: float) -> bool:
    """Whether quenches tell anything: in high dimension a bad fit makes them report spurious modes."""
    return dim <= _LARGEST_DIM or spread < 10


def search(target: Any, q: Any, rng: np.random.Generator) -> tuple[Mode, ...]:
    """Modes other than the one q describes.

    Parameters
    ----------
    target
        The log density.
    q
        The fit.
    rng
        Randomness.

    Returns
    -------
    tuple of Mode
        With weights above 0.003, relative to all modes found.

    Raises
    ------
    ImproperError
        When one of them is beyond every scale.
    """
    found = _components(target, q, rng)
    if len(found) == 1:
        return ()
    weights, share = _weights(target, found, rng)
    if share < _GAUSSIAN:  # the modes are no Gaussians, so that several may lie along one curved ridge
        found, weights = _merged(target, found, weights)
    modes = _heavy(found, weights)
    for mode in modes:  # a density that rises for ever ends in noise, which has peaks
        refuse_beyond(target, np.asarray(mode.q.mean))
    return modes


def search_far(target: LargeTarget, q: Any, rng: np.random.Generator, alone: Any = None) -> tuple[Mode, ...]:
    """The same for a corrected subsample, which is right near its anchor only.

    Elsewhere the plain subsample shows where modes are, best seen from `alone`, q of that, and all rows how much mass they have.
    """
    with target.plain():
        found = _components(target, alone or q, rng, slight=np.inf)  # its heights are those of a subsample
    if len(found) == 1:
        return ()
    found = [q, *found[1:]]
    masses = np.array([target.log_mass(other) for other in found])
    weights = np.exp(masses - masses.max())
    return _heavy(found, weights / weights.sum())


def _heavy(found: list[Any], weights: np.ndarray) -> tuple[Mode, ...]:
    """Modes beside the first with a weight that matters."""
    return tuple(Mode(other, float(w)) for other, w in zip(found[1:], weights[1:], strict=True) if w > _NEGLIGIBLE)


def _merged(target: Any, found: list[Any], weights: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """One component, the first or the heaviest, for all that ridges join; with the weight of all of them."""
    number = len(found)
    means = np.array([each.mean for each in found])
    frame = frame_of(mixture_of(found, np.maximum(weights, 1e-3)))  # where q is narrow, its own frame would be stiff
    x = frame.whiten(means)
    apart = ((x[:, None] - x) ** 2).sum(2)
    near = np.argsort(apart, 1)[:, 1 : _NEIGHBORS + 1]
    pairs = np.array(sorted({(min(k, j), max(k, j)) for k in range(number) for j in near[k]}))
    group = np.arange(number)
    for one, other in pairs[joined(target, frame, means[pairs[:, 0]], means[pairs[:, 1]])]:
        group[group == group[other]] = group[one]
    kept, masses = [], []
    for label in dict.fromkeys(group):
        members = np.flatnonzero(group == label)
        kept.append(found[0 if 0 in members else members[weights[members].argmax()]])
        masses.append(weights[members].sum())
    return kept, np.array(masses)


def _components(target: Any, q: Any, rng: np.random.Generator, slight: float = _SLIGHT) -> list[Any]:
    """Gaussians: q, and one at each other mode that the quenches reach."""
    typical = float(np.median(np.asarray(q.sd)))
    most = _MOST_MODES if q.dim <= _LARGEST_DIM else _MOST_MODES_LARGE
    found = [q]

    def add(other: Any) -> bool:
        new = other is not None and not any(_same(other, known) for known in found)
        if new:
            found.append(other)
        return new

    ends = distinct(target, q, quench(target, q, rng), most)
    if ends and q.dim > _LARGEST_DIM:  # where a fit at each of them is dear, and a path to it is not
        home = np.broadcast_to(np.asarray(q.mean), (len(ends), q.dim))
        apart = ~joined(target, frame_of(q), home, np.array(ends))
        ends = [end for end, far in zip(ends, apart, strict=True) if far]
    if not ends:
        return found
    heights = target(np.array([np.asarray(q.mean), *ends]))[0]
    worth = heights[0] + _volume(q) - slight
    lowest = worth - _volume(q) - q.dim * np.log(_WIDEST)
    for end, height in zip(ends, heights[1:], strict=True):
        if height < lowest:
            continue
        spare = _peak(target, end, _WIDTH * typical)
        if spare is not None and height + _volume(spare) < worth:
            continue
        # A fit that fails or runs home does not undo the dip that was seen: then the peak's own curvature has to do.
        if not add(_fit_there(target, end, _WIDTH * typical)):
            add(spare)
    return found


def unvisited(modes: tuple[Mode, ...], z: np.ndarray) -> tuple[Mode, ...]:
    """Modes that draws z (n, D) of the chains do not reach; the others are corners of one mode, such as a funnel's neck."""
    return tuple(mode for mode in modes if _share_inside(mode.q, z) < _REACHED * mode.weight)


def undescribed(
    target: Any, q: Any, modes: tuple[Mode, ...], level: float, rng: np.random.Generator
) -> tuple[Mode, ...]:
    """Modes on whose own draws the target is above q; the others are pieces of the curved mode that q describes.

    Parameters
    ----------
    target, q, modes
        The log density, an approximation whose log weights are nearly constant, and what a search from it found.
    level
        That constant.
    rng
        Of the draws.
    """
    left = []
    for mode in modes:
        z = np.asarray(mode.q.sample(rng, _LOOKS))
        excess = finite(target(z))[0] - np.asarray(q.log_prob(z)) - level
        if np.median(excess) > _ABOVE:
            left.append(mode)
    return tuple(left)


def _share_inside(q: Any, z: np.ndarray) -> float:
    """Share of the draws within q's typical set."""
    squared = -2 * (np.asarray(q.log_prob(z)) - float(q.log_prob(np.asarray(q.mean)[None])[0]))
    return float((squared < q.dim + 3 * np.sqrt(2 * q.dim)).mean())


def _fit_there(target: Any, end: np.ndarray, width: float) -> Any:
    """Gaussian at an end point, from isotropic `width`; None when it does not converge."""
    engine = FixedDraws(start=FullRank().start(end, width), steps=30, large=False)
    try:
        q, record = run(engine, target, seed=0, progress=False)
    except JensenError:
        return None
    if record.status == "interrupted":
        raise KeyboardInterrupt
    return q if record.status == "converged" else None


def _peak(target: Any, end: np.ndarray, width: float) -> Any:
    """Gaussian with the curvature, smoothed over `width`, at an end point; None if it is no peak."""
    try:
        return peak(FixedDraws(start=FullRank().start(end, width), large=False).init(target, 0).point)
    except JensenError:
        return None


def _volume(q: Any) -> float:
    """Log determinant of q's scale: with the height of its peak, the log of its mass but for a constant."""
    return float(np.linalg.slogdet(np.asarray(q.scale))[1])


def _same(one: Any, other: Any) -> bool:
    """Whether two Gaussians describe one mode: two sds apart, or less, along the line that joins them."""
    apart = one.mean - other.mean
    return min(_distance(apart, one), _distance(apart, other)) < _APART


def _distance(apart: np.ndarray, q: Any) -> float:
    return float(np.linalg.norm(np.linalg.solve(np.asarray(q.scale), apart)))


def _weights(target: Any, components: list[Any], rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Share of the mass of each component (K,), by importance sampling from their equal mixture.

    The mixture in the denominator keeps a component's tail, where it meets another mode, from claiming that mode's mass. Second:
    the effective share of a sample from the mixture with these weights, estimated from the same draws.
    """
    equal = mixture_of(components, np.ones(len(components)))
    z = np.concatenate([np.asarray(q.transport(q.noise(rng, _WEIGHT_DRAWS))[0]) for q in components])
    log_equal = equal.log_prob(z)
    log_w = finite(target(z))[0] - log_equal
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    masses = w @ equal.responsibilities(z)
    with np.errstate(divide="ignore", over="ignore"):
        log_ratio = log_equal - mixture_of(components, masses).log_prob(z)
        square = (w**2 * np.exp(log_ratio)).sum() * len(z)
    return masses, float(1 / square)
