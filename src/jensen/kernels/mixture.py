"""Mixtures of Gaussians: responsibilities and the moments they give, in chunks and double precision.

Bishop, Pattern Recognition and Machine Learning (2006), 10.2.1. With component k's expected log joint density

    e_ik = o_k - 1/2 |(x_i - m_k) A_k|^2,     r_ik = exp(e_ik) / sum_j exp(e_ij),

one pass over rows gives sum_i w_i r_ik, the means and the scatter matrices under w_i r_ik, and the entropy of the r_i, which is
all that coordinate ascent needs of the data. No matrix of rows x components exists. Distances are taken from each component's
own mean, so that narrow components far from the origin lose no digits; `mixture_fused.py` is the fast pass.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Shape = Literal["full", "tied", "diag", "spherical"]
"""Of the covariances: a matrix a component, one for all, variances, one variance a component."""

Array = NDArray[np.float64]
CHUNK = 2048
"""Rows that are held at once beside their K log densities."""
_TINY = 10 * np.finfo(float).eps


class Components(NamedTuple):
    """Where the components are, as an E step sees them.

    Attributes
    ----------
    offset
        (K,): o_k, all of the expected log joint density that does not depend on the row.
    means
        (K, D).
    factors
        A_k: (K, D, D), (D, D), (K, D) or (K,), for `full`, `tied`, `diag` and `spherical` covariances; C_k^-1 = A_k A_k'.
    """

    offset: Array
    means: Array
    factors: Array


class Moments(NamedTuple):
    """What a pass over rows gives.

    Attributes
    ----------
    counts
        (K,): weights that fell to each component.
    means
        (K, D); of a component without rows, where the pass had it.
    scatters
        Covariances around `means`, not yet regularized: (K, D, D), (D, D) pooled, (K, D) or (K,) averaged over dimensions.
    entropy
        Of the responsibilities, summed over rows.
    """

    counts: Array
    means: Array
    scatters: Array
    entropy: float


def outer(shape: Shape, weight: Array, d: Array) -> Array:
    """Weighted squares of the rows of d (K, D), in the form of scatters of that shape; summed over components if `tied`."""
    if shape == "full":
        return weight[:, None, None] * d[:, :, None] * d[:, None, :]
    if shape == "tied":
        return (d.T * weight) @ d
    return weight[:, None] * d * d if shape == "diag" else weight * np.mean(d * d, axis=1)


def beside(shape: Shape, counts: Array) -> Array:
    """Counts (K,) in a form that multiplies scatters; their sum if `tied`."""
    return {"full": counts[:, None, None], "tied": counts.sum(), "diag": counts[:, None], "spherical": counts}[shape]


def merged(shape: Shape, one: Moments, other: Moments, share: float) -> Moments:
    """(1 - share) of the sums of one and share of the other's, by parallel axes (Chan, Golub & LeVeque 1983)."""
    a, b = (1.0 - share) * one.counts, share * other.counts
    counts = a + b
    part, shift = b / (counts + _TINY), other.means - one.means
    scatters = beside(shape, a) * one.scatters + beside(shape, b) * other.scatters + outer(shape, part * a, shift)
    entropy = (1.0 - share) * one.entropy + share * other.entropy
    return Moments(counts, one.means + part[:, None] * shift, scatters / beside(shape, counts + _TINY), entropy)


def scaled(moments: Moments, factor: float) -> Moments:
    """As if every row had been there `factor` times."""
    return moments._replace(counts=factor * moments.counts, entropy=factor * moments.entropy)


def log_joint(shape: Shape, x: Array, components: Components) -> Array:
    """e_ki of rows x (D, n), feature by feature: (K, n)."""
    offset, means, factors = components
    out = np.empty((len(means), x.shape[1]))
    for k, m in enumerate(means):
        y = x - m[:, None]
        if shape in ("full", "tied"):
            y = (factors[k] if shape == "full" else factors).T @ y
        elif shape == "diag":
            y *= factors[k][:, None]
        y *= y
        np.sum(y, axis=0, out=out[k])
        if shape == "spherical":
            out[k] *= factors[k] ** 2
    out *= -0.5
    out += offset[:, None]
    return out


def chunks(rows: int) -> Iterator[slice]:
    """Slices of rows."""
    return (slice(first, min(first + CHUNK, rows)) for first in range(0, rows, CHUNK))


def normalize(e: Array) -> Array:
    """Log responsibilities in place of log joint densities e (K, n); returns log sum_k exp(e_ki), (n,)."""
    top = e.max(axis=0)
    e -= top
    norm = np.log(np.exp(e).sum(axis=0))
    e -= norm
    return top + norm


def moments(shape: Shape, x: Array, weight: Array | None, components: Components) -> Moments:
    """Moments of rows x (N, D) with weights (N,) (None: ones) under the responsibilities that the components imply."""

    def pieces() -> Iterator[tuple[Array, Array, float]]:
        for rows in chunks(len(x)):
            columns = np.ascontiguousarray(x[rows].T, float)
            e = log_joint(shape, columns, components)
            normalize(e)
            r = np.exp(e)
            e *= r
            if weight is not None:
                r *= weight[rows]
                e *= weight[rows]
            yield columns, r, -float(e.sum())

    return _gathered(shape, pieces(), components.means)


def moments_of(shape: Shape, x: Array, weight: Array | None, responsibilities: Array) -> Moments:
    """Moments of rows x (n, D) under given responsibilities (n, K), about their own means; used by starts."""
    r = np.ascontiguousarray(responsibilities.T if weight is None else responsibilities.T * weight)
    centers = r @ x / np.maximum(r.sum(axis=1), _TINY)[:, None]
    return _gathered(shape, iter([(np.ascontiguousarray(x.T, float), r, 0.0)]), centers)


def _gathered(shape: Shape, pieces: Iterator[tuple[Array, Array, float]], centers: Array) -> Moments:
    """Sums over (rows (D, n), responsibilities (K, n), entropy), taken around centers (K, D) near the means."""
    K, D = centers.shape
    counts, first = np.zeros(K), np.zeros((K, D))
    second = np.zeros({"full": (K, D, D), "tied": (D, D), "diag": (K, D), "spherical": (K,)}[shape])
    middle = centers.mean(axis=0)
    entropy = 0.0
    for x, r, part in pieces:
        entropy += part
        counts += r.sum(axis=1)
        if shape == "tied":
            y = x - middle[:, None]
            first += r @ y.T
            second += (y * r.sum(axis=0)) @ y.T
            continue
        for k, m in enumerate(centers):
            y = x - m[:, None]
            first[k] += y @ r[k]
            if shape == "full":
                second[k] += (y * r[k]) @ y.T
                continue
            y *= y
            second[k] += y @ r[k] if shape == "diag" else np.mean(y @ r[k])
    safe = counts + _TINY
    shift = first / safe[:, None]
    scatters = (second - outer(shape, counts, shift)) / beside(shape, safe)
    return Moments(counts, (middle if shape == "tied" else centers) + shift, scatters, entropy)
