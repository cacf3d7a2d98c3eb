"""A density of a few dimensions, by importance sampling from a Student distribution that is fitted to it first.

    1. log f at points of a normal distribution somewhat wider than q's, and a quadratic in them by weighted least squares:
       center and covariance of the proposal
    2. points of a Student distribution with these, with heavy tails along axes on which f is still high five or nine sds out (the
       neck of a funnel), made of a scrambled Sobol sequence; weights f / proposal
    3. where the weights are worth less than a quarter of the points, or averages are not known well enough: center and covariance
       of the weighted points, and once more with twice as many

Parts of the sequence fill the space, too, and the differences between what they say bound the error of an average: as they fill
each other's gaps, it is a third of that in one dimension, half in five and three quarters in ten. For
densities that cost much, as where every value is an integral over thousands of groups (nested.py, collapsed.py), and are nearly
normal.

Requires a density with one mode, finite around q. References: Sobol (1967); Owen (1997), Scrambled net variance for integrals of
smooth functions, Ann. Statist. 25; Cappe, Guillin, Marin, Robert (2004), Population Monte Carlo, JCGS 13.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln, ndtri, stdtrit

from jensen.core.sobol import sobol

BLOCKS = 8
"""Parts of a sequence, each of which fills the space by itself."""
POINTS, _MANY = 16, 7
"""Of each of them, and from how many dimensions on twice as many; both numbers are powers of two."""
_WIDER = 1.3
"""Sds of the first normal distribution over q's."""
_DEGREES, _HEAVY, _FAR = 8.0, 3.0, (5.0, 9.0)
"""Degrees of freedom along axes on which the density has no long tail, and has one, as seen so many sds out."""
_ENOUGH = 0.25
"""Share of the points that the weights must be worth."""
_KNOWN = 0.03
"""Errors of means, in sds, and of log sds that are good enough."""
_ROUNDS = 4
_SOFTER = 4.0
"""Nats that make e-fold less weight in the fit of the quadratic."""
_LONGEST, _SHORTEST = 3.0, 1 / 3.0
"""Sds of the proposal over q's, at most and at least, along any direction, in one round."""


@dataclass(frozen=True)
class Few:
    """A density of p dimensions as weighted points.

    Attributes
    ----------
    points
        (n, p).
    weights
        (n,), sum one.
    share
        Effective number of points over n.
    more
        What the density gave beside its values, points first.
    """

    points: np.ndarray
    weights: np.ndarray
    share: float
    more: dict[str, np.ndarray]

    @property
    def enough(self) -> bool:
        """Whether averages under the weights are worth anything."""
        return self.share > _ENOUGH


def integrate(
    density: Callable[[np.ndarray], tuple[np.ndarray, dict[str, np.ndarray]]],
    mean: np.ndarray,
    factor: np.ndarray,
    rng: np.random.Generator,
) -> Few | None:
    """The density as weighted points, or None where it is not finite around q, or no proposal comes near it.

    Parameters
    ----------
    density
        Points (n, p) -> log density (n,), and arrays with points first that are wanted for the last points.
    mean, factor
        Of q: (p,), and a square root (p, p) of its covariance.
    rng
        Randomness.
    """
    p = len(mean)
    e = _WIDER * ndtri(sobol(p, _first(p), rng))
    values, _ = density(mean + e @ factor.T)
    found = _quadratic(e, values)
    if found is None:
        return None
    center, root = found
    few = None

    def degrees(center: np.ndarray, root: np.ndarray) -> np.ndarray:
        """Of the Student distribution along each axis (p,): few where the density falls slower far out, on either side."""
        away = np.concatenate([sds * root.T for sds in (*_FAR, *(-sds for sds in _FAR))])
        there, _ = density(mean + (center + np.concatenate([np.zeros((1, p)), away])) @ factor.T)
        fall = np.where(np.isfinite(there), there, -np.inf)[1:].reshape(2, len(_FAR), p).max(0) - there[0]
        expected = _log_student(np.array([0.0, *_FAR]), _DEGREES)
        return np.where((fall > expected[1:, None] - expected[0] - 1).any(0), _HEAVY, _DEGREES)

    for number in range(_ROUNDS):
        t, log_q = _student(sobol(p, BLOCKS * POINTS * (1 + (p >= _MANY)) << number, rng), degrees(center, root))
        e = center + t @ root.T
        values, more = density(mean + e @ factor.T)
        log_w = np.where(np.isfinite(values), values - log_q, -np.inf)
        if not np.isfinite(log_w).any():
            return None
        w = np.exp(log_w - log_w.max())
        w /= w.sum()
        # Where there is no weight there may be no numbers, and zero times those is none.
        kept = np.where(w > 0, np.arange(len(w)), w.argmax())
        more = {name: array[kept] for name, array in more.items()}
        few = Few(mean + e @ factor.T, w, float(1 / (w**2).sum() / len(w)), more)
        if few.enough and max(part.max() for part in weighted(few, few.points, np.zeros_like(e))[2:]) < _KNOWN:
            break
        center, root = _moved(e, w, root)
    return few


def errors(few: Few, x: np.ndarray) -> np.ndarray:
    """Bounds (K,) of the standard errors of weighted averages of x (n, K): from what each part says by itself."""
    w = few.weights.reshape(BLOCKS, -1)
    total = np.maximum(w.sum(1), 1e-300)
    each = (w[:, :, None] * x.reshape(*w.shape, -1)).sum(1) / total[:, None]
    return each.std(0, ddof=1) / np.sqrt(BLOCKS)


def _first(p: int) -> int:
    """Points of the first round: three times the coefficients of the quadratic."""
    return 1 << (3 * (1 + p + p * (p + 1) // 2) - 1).bit_length()


def _student(u: np.ndarray, degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Independent Student variables (n, p) of uniform ones, with variance one, and their log density."""
    t = stdtrit(degrees, u) / np.sqrt(degrees / (degrees - 2))
    return t, _log_student(t, degrees).sum(1)


def _log_student(t: np.ndarray, degrees: np.ndarray | float) -> np.ndarray:
    """By element; of a Student variable scaled to variance one."""
    half = (degrees + 1) / 2
    return gammaln(half) - gammaln(degrees / 2) - 0.5 * np.log(degrees - 2) - half * np.log1p(t**2 / (degrees - 2))


def _quadratic(e: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Center (p,) and symmetric root of the covariance (p, p), which keeps to the axes, of the quadratic through values (n,)."""
    good = np.isfinite(values)
    p = e.shape[1]
    rows, columns = np.triu_indices(p)
    if good.sum() < 1.5 * (1 + p + len(rows)):
        return None
    e, values = e[good], values[good] - values[good].max()
    features = np.concatenate([np.ones((len(e), 1)), e, e[:, rows] * e[:, columns]], 1)
    w = np.exp(np.maximum(values, -60.0) / (2 * _SOFTER))[:, None]
    found = np.linalg.lstsq(w * features, w[:, 0] * values, rcond=None)[0]
    curvature = np.zeros((p, p))
    curvature[rows, columns] = -found[1 + p :]
    curvature += curvature.T
    s, v = np.linalg.eigh(curvature)
    # Where the quadratic is not to be believed, the step is short and q's width stays within a factor.
    s = np.clip(s, _LONGEST**-2, _SHORTEST**-2)
    center = v @ ((v.T @ found[1 : 1 + p]) / s)
    length = np.sqrt((center**2).sum())
    return center * min(1.0, _LONGEST * np.sqrt(p) / max(length, 1e-300)), (v * s**-0.5) @ v.T


def _moved(e: np.ndarray, w: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Center and root of the weighted points, as far as so many tell their covariance."""
    center = w @ e
    away = (e - center) * np.sqrt(w)[:, None]
    old, size = root @ root.T, 1 / (w**2).sum()
    trust = size / (size + 2 * len(center))
    s, v = np.linalg.eigh(trust * (away.T @ away) + (1 - trust) * old)
    return center, (v * np.sqrt(np.maximum(s, 0))) @ v.T


def weighted(few: Few, mean: Any, var: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and sd (K,) of a mixture with means and variances (n, K) at the points, and their standard errors in sds and logs."""
    center = few.weights @ mean
    square = var + (mean - center) ** 2
    spread = few.weights @ square
    sd = np.sqrt(spread)
    unit = np.where(spread > 0, spread, 1.0)
    return center, sd, errors(few, mean) / np.sqrt(unit), 0.5 * errors(few, square) / unit


def in_pairs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal noise (n, 2 pairs, ...), with its opposite behind, for a shape (n, pairs, ...)."""
    noise = rng.standard_normal(shape)
    return np.concatenate([noise, -noise], 1)


def matched(few: Few, draws: np.ndarray, mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Draws (n, copies, k), moved in rows (n copies, k) to the means and sds of the mixture, which are known better."""
    center, sd, _, _ = weighted(few, mean, var)
    copies, rows = draws.shape[1], draws.reshape(-1, draws.shape[2])
    w = np.repeat(few.weights / copies, copies)
    rows = rows - w @ rows
    return center + rows * (sd / np.sqrt(w @ rows**2))
