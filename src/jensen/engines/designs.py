"""Fixed draws with the moments of a standard normal: spherical-radial orthogonal designs.

A block is +-r Q with Q a Haar-distributed orthogonal matrix: 2 D antithetic points, so that every odd moment is zero and,
with weights that make E r^2 = D, the second moments are exactly the identity. Gaussian posteriors are therefore recovered
exactly, and the noise of independent draws (0.1-0.2 posterior sd) disappears. The radii are Gauss nodes of the chi
distribution with D degrees of freedom (generalized Laguerre in r^2 / 2): with one node r = sqrt(D), a typical draw; with
more, the even moments along the radius are exact too, which matters in low dimension. At D = 1 this is Gauss-Hermite.

Reference: Genz, Monahan (1998), Stochastic integration rules for infinite regions, SIAM J. Sci. Comput. 19.
"""

from typing import NamedTuple

import numpy as np

_NEGLIGIBLE = 1e-15


class Design(NamedTuple):
    """Points (M, D) and weights (M,) that sum to one."""

    points: np.ndarray
    weights: np.ndarray


def block_size(dim: int) -> int:
    """Number of points of one block."""
    return 2 * dim


def orthogonal(rng: np.random.Generator, dim: int, size: int) -> Design:
    """Design of at least one block and about `size` points.

    Parameters
    ----------
    rng
        Where the rotations come from.
    dim
        D.
    size
        Wished number of points M; rounded up to whole blocks.
    """
    blocks = max(1, -(-size // block_size(dim)))
    radii, shares = _radii(dim, blocks)
    points = []
    for radius in radii:
        half = radius * _haar(rng, dim)
        points.append(np.concatenate([half, -half]))
    return Design(np.concatenate(points), np.repeat(shares / block_size(dim), block_size(dim)))


def columnwise(rng: np.random.Generator, dim: int, size: int) -> Design:
    """Design of `size` < 2 D antithetic points: means and variances of every coordinate exact, correlations not."""
    half = rng.standard_normal((max(size // 2, 1), dim))
    half /= np.sqrt((half**2).mean(0))
    points = np.concatenate([half, -half])
    return Design(points, np.full(len(points), 1 / len(points)))


def _radii(dim: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """A radius for every block, and the block's share of the weight."""
    if dim == 1:
        nodes = min(blocks, 64)
    else:
        nodes = min(blocks, 2) if blocks < 6 else 3
    squares, shares = _laguerre(nodes, dim / 2 - 1)
    if dim == 1:
        return np.sqrt(2 * squares), shares
    # Blocks go to the radii in proportion to the weight, at least one each: equal weights a point lose least precision.
    counts = np.maximum(1, np.floor(shares * blocks)).astype(int)
    while counts.sum() > blocks:
        counts[counts.argmax()] -= 1
    while counts.sum() < blocks:
        counts[(shares / counts).argmax()] += 1
    return np.repeat(np.sqrt(2 * squares), counts), np.repeat(shares / counts, counts)


def _laguerre(nodes: int, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss nodes and probabilities of the Gamma(alpha + 1) distribution.

    By the eigenvalues of its Jacobi matrix (Golub, Welsch 1969): unlike closed-form weights they cannot overflow.
    """
    k = np.arange(nodes)
    off = np.sqrt(k[1:] * (k[1:] + alpha))
    values, vectors = np.linalg.eigh(np.diag(2 * k + 1 + alpha) + np.diag(off, 1) + np.diag(off, -1))
    shares = vectors[0] ** 2
    # Nodes far out that count for nothing could only do harm, where a density is not finite.
    kept = shares > 2 * _NEGLIGIBLE
    return values[kept], shares[kept] / shares[kept].sum()


def _haar(rng: np.random.Generator, dim: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
    return q * np.sign(np.diagonal(r))


def along_plates(
    rng: np.random.Generator, globals_: int, groups: int, own: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Antithetic points whose second moments are exact for every group together with the globals.

    Of coordinates of two groups they are not, and need not be where the posterior does not couple groups: the number of points
    is then independent of the number of groups. With h = size / 2 the columns of (globals, group i) are an orthogonal frame
    of R^h, times sqrt(h): a Haar frame for the globals, and for each group one in its complement.

    Parameters
    ----------
    rng
        Where the frames come from.
    globals_, groups, own
        p, G and d.
    size
        Number of points M; raised to the smallest possible 2 (p + d).

    Returns
    -------
    (M, p), (M, G, d)
    """
    half = max(-(-size // 2), globals_ + own)
    frame = np.linalg.qr(rng.standard_normal((half, globals_)))[0]
    inner = rng.standard_normal((groups, half, own))
    for _ in range(2):  # once is not accurate where few dimensions are left
        inner = inner - frame @ (frame.T @ inner)
        inner = np.linalg.qr(inner)[0] if own > 1 else inner / np.sqrt((inner**2).sum(1, keepdims=True))
    signs = rng.choice([-1.0, 1.0], (groups, 1, own))  # LAPACK's frames prefer signs
    root = np.sqrt(half)
    head, tails = root * frame, root * np.swapaxes(inner * signs, 0, 1)
    return np.concatenate([head, -head]), np.concatenate([tails, -tails])
