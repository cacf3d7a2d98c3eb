"""A search for other modes: quenches from wide starts, in coordinates whitened by the fit.

No check that looks at one mode sees another one: k-hat, log weights and chains are all blind to it. 128 starts, most of them
3 to 24 sds out, climb by 30 vectorized Barzilai-Borwein steps with backtracking. Two end points belong to one mode when the
log density dips by less than 2 nats on the segment between them. At each further mode a Gaussian is fitted by smoothed
Newton and weighed by importance sampling. Modes in basins of tiny volume are still missed; the verdict says "within the
modes found".

Reference for the steps: Barzilai, Borwein (1988), Two-point step size gradient methods, IMA J. Numer. Anal. 8.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.core.errors import JensenError
from jensen.diagnostics.chains import Metric, finite
from jensen.engines.fixed_draws import FixedDraws
from jensen.families.fullrank import FullRank, from_factor
from jensen.models.large import LargeTarget
from jensen.run import run

_RADII = (3.0, 6.0, 12.0, 24.0)
_STARTS, _STEPS = 128, 30
_DIP = 2.0
_WEIGHT_DRAWS = 512
_MOST_MODES, _MOST_MODES_LARGE = 6, 2
_LARGEST_DIM = 60
_NEGLIGIBLE = 0.003
_APART = 2.0
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
    """
    found = _components(target, q, rng)
    return _heavy(found, _weights(target, found, rng)) if len(found) > 1 else ()


def search_far(target: LargeTarget, q: Any, rng: np.random.Generator) -> tuple[Mode, ...]:
    """The same for a corrected subsample, which is right near its anchor only.

    Elsewhere the plain subsample shows where modes are, and all rows how much mass they have.
    """
    with target.plain():
        found = _components(target, q, rng)
    if len(found) == 1:
        return ()
    masses = np.array([target.log_mass(other) for other in found])
    weights = np.exp(masses - masses.max())
    return _heavy(found, list(weights / weights.sum()))


def _heavy(found: list[Any], weights: list[float]) -> tuple[Mode, ...]:
    """Modes beside the first with a weight that matters."""
    return tuple(Mode(other, w) for other, w in zip(found[1:], weights[1:], strict=True) if w > _NEGLIGIBLE)


def _components(target: Any, q: Any, rng: np.random.Generator) -> list[Any]:
    """Gaussians: q, and one at each other mode that the quenches reach."""
    metric = Metric(np.asarray(q.mean), np.asarray(q.scale))
    ends = _quench(target, _starts(q, metric, rng, target.affordable(_STARTS, 32)), metric)
    candidates = _distinct(target, np.asarray(q.mean), ends)
    found = [q]
    for end in candidates[: _MOST_MODES if q.dim <= _LARGEST_DIM else _MOST_MODES_LARGE]:
        # A fit that fails or runs home does not undo the dip that was seen: then the peak's own curvature has to do.
        for describe in (_fit_there, _peak):
            other = describe(target, end, metric)
            if other is not None and not any(_same(other, known) for known in found):
                found.append(other)
                break
    return found


def unvisited(modes: tuple[Mode, ...], z: np.ndarray) -> tuple[Mode, ...]:
    """Modes that draws z (n, D) of the chains do not reach; the others are corners of one mode, such as a funnel's neck."""
    return tuple(mode for mode in modes if _share_inside(mode.q, z) < _REACHED * mode.weight)


def _share_inside(q: Any, z: np.ndarray) -> float:
    """Share of the draws within q's typical set."""
    squared = -2 * (np.asarray(q.log_prob(z)) - float(q.log_prob(np.asarray(q.mean)[None])[0]))
    return float((squared < q.dim + 3 * np.sqrt(2 * q.dim)).mean())


def _starts(q: Any, metric: Metric, rng: np.random.Generator, count: int) -> np.ndarray:
    """Points z (count, D): an eighth of them near zero, the others on shells around q."""
    near = count // 8
    radii = np.resize(_RADII, count - near)[:, None]
    wide = metric.out(radii * rng.standard_normal((count - near, q.dim)))
    return np.concatenate([wide, rng.uniform(-2, 2, (near, q.dim))])


@np.errstate(over="ignore", invalid="ignore")
def _quench(target: Any, z: np.ndarray, metric: Metric) -> np.ndarray:
    """Climb from every start; starts where the density is not finite are dropped. Returns the end points."""
    x = metric.whiten(z)
    log_p, gradient = finite(target(z))
    gradient = metric.back(gradient)
    ok = np.isfinite(log_p)
    x, log_p, gradient = x[ok], log_p[ok], gradient[ok]
    if not len(x):
        return x
    norms = np.linalg.norm(gradient, axis=1, keepdims=True)
    step = np.minimum(1.0, 1.0 / np.maximum(norms, 1e-12))
    for _ in range(_STEPS):
        new_x = x + step * gradient
        new_log_p, new_gradient = finite(target(metric.out(new_x)))
        new_gradient = metric.back(new_gradient)
        better = new_log_p > log_p
        moved, turned = new_x - x, gradient - new_gradient
        with np.errstate(all="ignore"):
            barzilai = ((moved * moved).sum(1) / np.abs((moved * turned).sum(1)))[:, None]
        barzilai = np.where(np.isfinite(barzilai), barzilai, step)
        row = better[:, None]
        x, log_p = np.where(row, new_x, x), np.where(better, new_log_p, log_p)
        gradient = np.where(row, new_gradient, gradient)
        step = np.where(row, np.clip(barzilai, 1e-8, 1e4), step / 4)
    order = np.argsort(-log_p)
    return metric.out(x[order])


def _distinct(target: Any, center: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
    """End points, best first, that a dip separates from the fit's center and from each other."""
    modes = [center]
    fractions = np.linspace(0, 1, 11)[:, None]
    for _ in range(_MOST_MODES):
        if not len(ends):
            break
        segments = ends[:, None] + fractions * (modes[-1] - ends)[:, None]
        log_p = target(segments.reshape(-1, segments.shape[-1]))[0].reshape(len(ends), -1)
        lower_end = np.minimum(log_p[:, 0], log_p[:, -1])
        dip = lower_end - np.nan_to_num(log_p, nan=-np.inf)[:, 1:-1].min(1)
        ends = ends[dip > _DIP]
        if len(ends):
            modes.append(ends[0])
    return modes[1:]


def _fit_there(target: Any, end: np.ndarray, metric: Metric) -> Any:
    """Gaussian at an end point, from a third of the fit's typical width; None when it does not converge."""
    engine = FixedDraws(start=FullRank().start(end, _width(metric)), steps=30, large=False)
    try:
        q, record = run(engine, target, seed=0, progress=False)
    except JensenError:
        return None
    if record.status == "interrupted":
        raise KeyboardInterrupt
    return q if record.status == "converged" else None


def _peak(target: Any, end: np.ndarray, metric: Metric) -> Any:
    """Gaussian with the curvature, smoothed over a third of the fit's typical width, at an end point; None if it is no peak."""
    try:
        point = FixedDraws(start=FullRank().start(end, _width(metric)), large=False).init(target, 0).point
    except JensenError:
        return None
    w, v = np.linalg.eigh(-point.curvature)
    if w[0] <= 0:
        return None
    return from_factor(end, point.factor @ (v / np.sqrt(w)))


def _width(metric: Metric) -> float:
    return 0.3 * float(np.median(np.sqrt((metric.factor**2).sum(1))))


def _same(one: Any, other: Any) -> bool:
    """Whether two Gaussians describe one mode: two sds apart, or less, along the line that joins them."""
    apart = one.mean - other.mean
    return min(_distance(apart, one), _distance(apart, other)) < _APART


def _distance(apart: np.ndarray, q: Any) -> float:
    return float(np.linalg.norm(np.linalg.solve(np.asarray(q.scale), apart)))


def _weights(target: Any, components: list[Any], rng: np.random.Generator) -> list[float]:
    """Share of the mass of each component, by importance sampling from their equal mixture.

    The mixture in the denominator keeps a component's tail, where it meets another mode, from claiming that mode's mass.
    """
    z = np.concatenate([np.asarray(q.transport(q.noise(rng, _WEIGHT_DRAWS))[0]) for q in components])
    log_q = np.array([np.asarray(q.log_prob(z)) for q in components])
    top = log_q.max(0)
    log_mixture = top + np.log(np.exp(log_q - top).sum(0))
    log_w = finite(target(z))[0] - log_mixture
    w = np.exp(log_w - log_w.max())
    masses = (w * np.exp(log_q - log_mixture)).sum(1)
    return [float(mass) for mass in masses / masses.sum()]
