"""The pass of `mixture.py` over many rows: single precision inside, double precision sums, a few hundred KB beside the rows.

Rows are centered, scaled, and kept feature by feature, z (D, N). With features F = [1, z, squares] of a chunk, an E step and the
sums of an M step are two matrix products around a softmax,

    E = W F,     R = softmax_k(E),     S += R F',     L += sum_i log sum_k exp(E_ki),

where row k of W (K, P) holds the coefficients of e_k. The entropy of the responsibilities is L - <S, W>: no second pass and no
r log r. Squares are those that the covariances need: all products (full), z_d^2 (diag), |z|^2 (spherical), none (tied: the
quadratic part of e is the same for every component). In one dimension a single compiled loop does all of it.

The expansion of |(z - m) A|^2 cancels when a component is narrow and far from the center, or its covariance nearly singular. Then
`moments` says by how much parameters move, in posterior sds, and returns None if that is too much: `mixture.moments` takes over.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jensen.kernels.mixture import Array, Components, Moments, Shape, beside, outer

CHUNK = 1024
"""Rows of a chunk: features and responsibilities at D = 10, K = 20 stay in the second-level cache."""
RANGE = 1 << 20
"""Numbers that one thread takes at a time; fixed, so that sums do not depend on the number of cores."""
ROUNDING = 1e-7
"""Posterior sds lost a unit of the sum of absolute terms of an exponent near its maximum, for any N: measured at most 1.3e-7 on
narrow components up to 300 sds apart and on condition numbers up to 1e5; with the pooled matrix of `tied` ten times as much."""
ACCEPTED = 0.01
"""Posterior sds that may be lost."""
_KIND = {"tied": 0, "spherical": 1, "diag": 2, "full": 3}
_TINY = 10 * np.finfo(float).eps


class Rows(NamedTuple):
    """Rows ready for passes.

    Attributes
    ----------
    z
        (D, N) float32: (x - center) / scale, feature by feature.
    weight
        (N,) float32; empty where all are one.
    center, scale
        (D,).
    scatter
        (D, D): weighted mean of z z', if `tied`; else empty.
    """

    z: NDArray[np.float32]
    weight: NDArray[np.float32]
    center: Array
    scale: Array
    scatter: Array


def prepare(shape: Shape, x: NDArray[np.floating], weight: Array | None) -> Rows:
    """Center, scale and transpose rows x (N, D): the one copy of the data that a fit makes."""
    center = np.average(x, axis=0, weights=weight).astype(float)
    z = np.empty(x.shape[::-1], np.float32)
    np.subtract(x.T, center[:, None], out=z, casting="same_kind")
    light = np.empty(0, np.float32) if weight is None else weight.astype(np.float32)
    scatter = _scatter(z, light)
    spread = np.sqrt(np.diag(scatter))
    if shape == "spherical":
        spread = np.full(len(spread), np.sqrt(np.mean(spread**2)))
    scale = np.where(spread > 0, spread, 1.0)
    z /= scale.astype(np.float32)[:, None]
    return Rows(z, light, center, scale, scatter / np.outer(scale, scale) if shape == "tied" else np.empty((0, 0)))


def _scatter(z: NDArray[np.float32], weight: NDArray[np.float32]) -> Array:
    """Weighted mean of z z' (D, D)."""
    total = np.zeros((len(z), len(z)))
    size = (1 << 16) // len(z) + 1  # small enough for sums in single precision
    for first in range(0, z.shape[1], size):
        y = z[:, first : first + size]
        total += (y * weight[first : first + size] if weight.size else y) @ y.T
    return total / (weight.sum(dtype=float) if weight.size else z.shape[1])


def taken(rows: Rows, index: NDArray[np.integer]) -> Rows:
    """Some of the rows, as a contiguous set of their own."""
    z, weight = np.take(rows.z, index, axis=1), rows.weight[index] if rows.weight.size else rows.weight
    return rows._replace(z=z, weight=weight, scatter=_scatter(z, weight) if rows.scatter.size else rows.scatter)


def moments(shape: Shape, rows: Rows, components: Components) -> tuple[Moments, float] | None:
    """As `mixture.moments`, with the posterior sds by which rounding moves parameters; None if these are too many."""
    W, largest = _coefficients(shape, rows, components)
    rounding = ROUNDING * (10 if shape == "tied" else 1) * max(largest, 1e3)
    if rounding > ACCEPTED:
        return None
    bits = (W / np.log(2.0)).astype(np.float32)
    S, L = _passed(rows, bits, _KIND[shape])
    return _moments(shape, rows, S, np.log(2.0) * (L - float(np.sum(S * bits)))), rounding


def _coefficients(shape: Shape, rows: Rows, components: Components) -> tuple[Array, float]:
    """W (K, P), and the largest sum of absolute terms of a row of W at rows z that belong to that component."""
    m, A = (components.means - rows.center) / rows.scale, components.factors
    K, D = m.shape
    if shape in ("full", "tied"):
        A = rows.scale[:, None] * A
        P = A @ np.swapaxes(A, -1, -2)
        variances = np.diagonal(np.linalg.inv(P), axis1=-2, axis2=-1)
        b = np.einsum("...ij,kj->ki" if shape == "tied" else "kij,kj->ki", P, m)
    else:
        P = (rows.scale * A) ** 2 if shape == "diag" else np.broadcast_to(((rows.scale[0] * A) ** 2)[:, None], m.shape)
        variances = 1.0 / P
        b = P * m
    constant = -0.5 * np.sum(m * b, axis=1)
    size = np.sqrt(m * m + variances)
    upper = np.triu_indices(D)
    if D == 1 or shape == "full":
        squares = (
            np.where(upper[0] == upper[1], -0.5, -1.0) * np.broadcast_to(P.reshape(-1, D, D), (K, D, D))[:, *upper]
        )
        terms = np.abs(squares) * (size[:, :, None] * size[:, None, :])[:, *upper]
    elif shape == "tied":
        squares, terms = np.empty((K, 0)), np.zeros((K, 1))
    else:
        squares, terms = -0.5 * (P if shape == "diag" else P[:, :1]), 0.5 * P * size**2
    largest = (np.abs(constant) + np.sum(np.abs(b) * size, axis=1) + terms.sum(axis=1)).max()
    return np.hstack([(components.offset + constant)[:, None], b, squares]), float(largest)


def _passed(rows: Rows, W: NDArray[np.float32], kind: int) -> tuple[Array, float]:
    """S (K, P) and L of all rows; ranges of them in threads, added in order."""
    from jensen.kernels.mixture_loops import features, responsibilities, univariate

    def one(first: int) -> tuple[Array, float]:
        last = min(first + reach, rows.z.shape[1])
        S = np.zeros(W.shape)
        if len(rows.z) == 1:
            L = float(univariate(rows.z[0, first:last], rows.weight[first:last], W, S))
            return S, L
        K, P = W.shape
        F, E, part = np.empty((P, CHUNK), np.float32), np.empty((K, CHUNK), np.float32), np.empty((K, P), np.float32)
        top, total, ones, L = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.ones(CHUNK, np.float32), 0.0
        for a in range(first, last, CHUNK):
            n = min(CHUNK, last - a)
            if n < CHUNK:
                F, E, ones = np.empty((P, n), np.float32), np.empty((K, n), np.float32), ones[:n]
            features(rows.z, a, kind, F)
            np.dot(W, F, out=E)
            L += responsibilities(E, rows.weight[a : a + n] if rows.weight.size else ones, top, total)
            S += np.dot(E, F.T, out=part)
        return S, float(L)

    reach = max(RANGE // (CHUNK * len(rows.z)), 1) * CHUNK
    starts = range(0, rows.z.shape[1], reach)
    if len(starts) == 1:
        return one(0)
    with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1)) as pool:
        parts = list(pool.map(one, starts))
    return np.sum([S for S, _ in parts], axis=0), sum((L for _, L in parts), 0.0)


def _moments(shape: Shape, rows: Rows, S: Array, entropy: float) -> Moments:
    """Moments of x from sums of features of z."""
    K, D = len(S), len(rows.z)
    counts, squares = S[:, 0], S[:, 1 + D :]
    means = S[:, 1 : 1 + D] / (counts + _TINY)[:, None]
    if shape == "tied":
        second = rows.scatter * counts.sum()
    elif shape == "diag":
        second = squares
    elif shape == "spherical":
        second = squares[:, 0] / D
    else:
        second = np.empty((K, D, D))
        second[:, *np.triu_indices(D)] = squares
        second[:, *np.triu_indices(D)[::-1]] = squares
    scale = np.outer(rows.scale, rows.scale) if shape in ("full", "tied") else rows.scale**2
    scatters = (
        (second - outer(shape, counts, means))
        / beside(shape, counts + _TINY)
        * (scale[0] if shape == "spherical" else scale)
    )
    return Moments(counts, rows.center + rows.scale * means, scatters, entropy)
