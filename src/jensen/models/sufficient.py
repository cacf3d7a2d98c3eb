"""Sufficient statistics found numerically: new weights for a subsample that make it stand for all rows exactly.

Where the log density of a row is a sum of few products, l_i(z) = sum_k a_k(z) s_k(x_i), the rows of a subsample span the
same functions of z as all rows do, and there are weights w with

    sum_i w_i l_i(z) = sum over ALL rows of l(z)        for every z.

Probing at points z_p gives the matrix A = l_i(z_p) - l_i(z_0), with columns of ones and of l_i(z_0), which may have a part that
no parameter multiplies (log y! of a Poisson variable); its singular values drop to rounding after the number r of statistics, or
they decay smoothly and there are none. Of all solutions of A'w = S, with S the same sums over all rows, the one nearest to equal
weights is taken: it keeps most of them positive. No algebra is needed, and a regression, an
exponential family or a model with categorical predictors is found alike, from any front end.

The proof is numerical: the sums at fresh points, on all rows, in nats. Rows unlike any of the subsample (a dummy variable that
is set once) fail it. Differences from z_0 and points within the posterior's reach keep the digits that raw values would lose.

Requires: float64 rows; D up to about 10, as r is quadratic in it for regressions.
Reference: Huggins, Adams, Broderick (2017), PASS-GLM: polynomial approximate sufficient statistics (for the idea of replacing
rows; there approximately).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import qr

from jensen.core import keys

LARGEST = 10
"""D up to which statistics are looked for."""
_POINTS = (16, 32, 64, 128)
_REACH = (2.0, 8.0, 24.0)
"""Distances of the probes, in posterior sds along all directions together."""
_TAIL, _GAP = 1e-9, 1e4
_NEAR_ZERO = 0.25
"""Sds of the unconstrained parameters around zero where probes are taken before there is a posterior."""
_ROWS = 64
"""Rows that are left of a subsample whose weights are exact, at least."""
_NATS, _ROUNDING = 1e-8, 1e-13
"""Largest difference of the sums that is accepted, absolute and relative to their size."""


class Sufficient(NamedTuple):
    """Weights (n,) under which a subsample is all rows, the number of statistics, and the largest difference seen, in nats."""

    weights: np.ndarray
    rank: int
    error: float


def find(
    densities: Callable[[np.ndarray], np.ndarray],
    sums: Callable[[np.ndarray], np.ndarray],
    weights: np.ndarray,
    total: float,
    center: np.ndarray,
    factor: np.ndarray,
    seed: int,
) -> Sufficient | None:
    """Weights that make a subsample exact, or None where there are no few statistics.

    Parameters
    ----------
    densities
        Points (K, D) -> log densities (n, K) of the rows of the subsample.
    sums
        Points (K, D) -> sums (K,) of the log densities of all rows.
    weights
        (n,) weights so far; the new ones stay near them.
    total
        What the weights sum to, the number of all rows.
    center, factor
        Mean (D,) and a factor (D, D) of the covariance of an approximate posterior, where probes are taken.
    seed
        Of the probes.
    """
    rng = keys.generator(seed, "probes")
    span = _span(densities, rng, center, factor)
    if span is None or span.rank >= len(weights):
        return None
    fresh = _around(rng, center, factor, 5)  # for the proof, in the same pass
    known, truth = np.split(sums(np.concatenate([center[None], span.points, fresh])), [len(span.points) + 1])
    wanted_sums = np.concatenate([[total], known[:1], known[1:] - known[0]])
    # Unscaled here: the rounding of a sum does not shrink with the differences that are taken of it.
    missing = wanted_sums - weights @ span.columns
    new = weights + span.basis @ np.linalg.lstsq(span.columns.T @ span.basis, missing, rcond=None)[0]
    error = float(np.abs(new @ densities(fresh) - truth).max())
    return Sufficient(new, span.rank, error) if error <= max(_NATS, _ROUNDING * np.abs(truth).max()) else None


class _Span(NamedTuple):
    """Probes (K, D), what they say of each row (n, K + 2), and an orthonormal basis of that (n, rank)."""

    points: np.ndarray
    columns: np.ndarray
    basis: np.ndarray

    @property
    def rank(self) -> int:
        return self.basis.shape[1]


def _span(
    densities: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator, center: np.ndarray, factor: np.ndarray
) -> _Span | None:
    """The few functions of which all rows' log densities are made, or None where they decay smoothly."""
    base = densities(center[None])
    points, columns = np.zeros((0, len(center))), np.concatenate([np.ones_like(base), base], 1)
    for wanted in _POINTS:
        fresh = _around(rng, center, factor, wanted - len(points))
        found = densities(fresh)
        if not (np.isfinite(base).all() and np.isfinite(found).all()):
            return None
        points, columns = np.concatenate([points, fresh]), np.concatenate([columns, found - base], 1)
        scales = np.linalg.norm(columns, axis=0)
        if not scales.all():
            return None
        left, singular, _ = np.linalg.svd(columns / scales, full_matrices=False)
        rank = int((singular > _TAIL * singular[0]).sum())
        if 2 * rank <= wanted:
            return _Span(points, columns, left[:, :rank]) if singular[rank - 1] >= _GAP * singular[rank] else None
    return None


def condense(
    densities: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, dim: int, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Some rows of a subsample with weights under which they are all of it, before anything is known of the posterior.

    Parameters
    ----------
    densities, weights, seed
        As in `find`.
    dim
        Number of parameters D.

    Returns
    -------
    As of `thin`; None also where there are no few statistics around zero.
    """
    center, factor = np.zeros(dim), _NEAR_ZERO * np.eye(dim)
    span = _span(densities, keys.generator(seed, "condense"), center, factor)
    return None if span is None else thin(densities, Sufficient(weights, span.rank, 0.0), center, factor, seed)


def thin(
    densities: Callable[[np.ndarray], np.ndarray],
    found: Sufficient,
    center: np.ndarray,
    factor: np.ndarray,
    seed: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Some of the rows, and weights under which they are what all of the subsample is under its own; no pass over all rows.

    Parameters
    ----------
    densities, center, factor, seed
        As in `find`.
    found
        What that found.

    Returns
    -------
    (m,) row numbers, (m,) weights
        Rows that span the statistics, and others at random; None where so few are no fewer, or not as exact.
    """
    n, m = len(found.weights), max(_ROWS, 4 * found.rank)
    if 2 * m > n:
        return None
    rng = keys.generator(seed, "thin")
    base = densities(center[None])
    columns = densities(_around(rng, center, factor, max(_POINTS[0], 2 * found.rank))) - base
    columns = np.concatenate([np.ones_like(base), base, columns], 1)
    left = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), full_matrices=False)[0][:, : found.rank]
    _, order = qr(left.T, mode="r", pivoting=True)  # type: ignore[misc]
    weights = np.full(m, found.weights.sum() / m)
    rows = np.sort(np.concatenate([order[: found.rank], rng.permutation(order[found.rank :])[: m - found.rank]]))
    basis, missing = np.linalg.qr(left[rows])[0], found.weights @ columns - weights @ columns[rows]
    weights += basis @ np.linalg.lstsq(columns[rows].T @ basis, missing, rcond=None)[0]
    fresh = densities(_around(rng, center, factor, 5))
    truth = found.weights @ fresh
    fine = np.abs(weights @ fresh[rows] - truth).max() <= max(_NATS, _ROUNDING * np.abs(truth).max())
    return (rows, weights) if fine else None


def _around(rng: np.random.Generator, center: np.ndarray, factor: np.ndarray, n: int) -> np.ndarray:
    """`n` points at the distances in turn."""
    reach = np.resize(_REACH, n)[:, None] / np.sqrt(len(center))
    return center + (reach * rng.standard_normal((n, len(center)))) @ factor.T
