"""A density of a few dimensions that is all but normal, by a quadratic through its logarithm at few points.

With thousands of groups the posterior of a model's globals is a normal distribution to hundredths of a nat. Where every value is
an integral over all groups, and so several passes over all rows, a hundred points are too many to learn that from:

    1. log f at 3/2 as many points as a quadratic has coefficients, of a normal distribution somewhat wider than q's, with as many
       nodes of quadrature as their gap asks for (nested.py)
    2. a quadratic by least squares, in coordinates in which it says N(0, I): what it leaves over tells how well the coefficients
       are known, linear ones in sds of means, quadratic ones in twice log sds
    3. what is wanted beside the values, such as means of groups given the globals, by the same regression, at points of that
       normal distribution

Where coefficients are not known well enough, or the quadratic is far from q, it is not the answer.

Requires a density finite around q. Reference: Box, Wilson (1951), On the experimental attainment of optimum conditions, J. R.
Statist. Soc. B 13.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import ndtri

from jensen.core.sobol import sobol
from jensen.diagnostics.few import BLOCKS, POINTS, Few

KNOWN = 0.02
"""Errors of coefficients that are good enough."""
_WIDER = 1.15
"""Sds of the points over q's."""
_FEWEST = 16
"""Points, at least; 3/2 as many as there are coefficients."""
_OFF, _RATIO = 1.0, 2.0
"""Distance of the center from q's, in its sds, and ratio of sds, up to which the points are where the density is."""


def coefficients(p: int) -> int:
    """Of a quadratic in p dimensions."""
    return 1 + p + p * (p + 1) // 2


def points(p: int) -> int:
    """How many are evaluated."""
    return max(_FEWEST, -(-3 * coefficients(p) // 2))


def nearly_normal(
    density: Callable[[np.ndarray], tuple[np.ndarray, dict[str, np.ndarray]] | None],
    mean: np.ndarray,
    factor: np.ndarray,
    rng: np.random.Generator,
) -> Few | None:
    """The density as points of equal weight; None where it is not normal enough.

    Parameters
    ----------
    density
        Points (n, p) -> log density (n,), and arrays with points first; or None where they are worth nothing.
    mean, factor
        Of q: (p,), and a square root (p, p) of its covariance.
    rng
        Randomness.
    """
    p = len(mean)
    e = _WIDER * ndtri(sobol(p, 1 << (points(p) - 1).bit_length(), rng)[: points(p)])
    found = density(mean + e @ factor.T)
    if found is None or not np.isfinite(found[0]).all():
        return None
    values, more = found
    values = values - values.max()
    center, root, features, solved = np.zeros(p), np.eye(p), _features(e), values
    rows, columns = np.triu_indices(p)
    for _ in range(2):  # the second time in coordinates in which it says N(0, I)
        features = _features(np.linalg.solve(root, (e - center).T).T)
        solved = np.linalg.lstsq(features, values, rcond=None)[0]
        curvature = np.zeros((p, p))
        curvature[rows, columns] = -solved[1 + p :]
        s, v = np.linalg.eigh(curvature + np.triu(curvature, 1).T)
        if not s[0] > 0:
            return None
        center = center + root @ (v @ ((v.T @ solved[1 : 1 + p]) / s))
        root = root @ ((v * s**-0.5) @ v.T)
    sds = np.linalg.svd(root, compute_uv=False)
    if np.abs(center).max() > _OFF or sds[0] > _RATIO or sds[-1] < 1 / _RATIO:
        return None
    left = values - features @ solved
    noise = float((left**2).sum() / (len(e) - len(solved)))
    known = noise * np.diag(np.linalg.inv(features.T @ features))[1:]
    if not np.sqrt(known.max()) < KNOWN:
        return None
    n = BLOCKS * POINTS
    x = ndtri(sobol(p, n, rng))
    x -= x.mean(0)
    x = np.linalg.solve(np.linalg.cholesky(x.T @ x / n), x.T).T  # their moments are those of the normal distribution
    there = _features(x) @ np.linalg.pinv(_features(np.linalg.solve(root, (e - center).T).T))
    g = mean + (center + x @ root.T) @ factor.T
    return Few(g, np.full(n, 1 / n), 1.0, {name: _at(there, array) for name, array in more.items()})


def _at(there: np.ndarray, array: np.ndarray) -> Any:
    """What an array (M, ...) would be at other points, by weights (n, M)."""
    return (there @ array.reshape(len(array), -1)).reshape(len(there), *array.shape[1:])


def _features(e: np.ndarray) -> np.ndarray:
    """One, every coordinate and every product of two (n, coefficients) of points (n, p); squares are halved."""
    rows, columns = np.triu_indices(e.shape[1])
    return np.concatenate(
        [np.ones((len(e), 1)), e, e[:, rows] * e[:, columns] * np.where(rows == columns, 0.5, 1.0)], 1
    )
