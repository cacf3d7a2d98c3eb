"""The metric of the no-U-turn sampler from draws and their scores g = grad log p(z).

Scores know the curvature that draws only show by their spread: for a Gaussian they are linear in the draws, and the covariance

    Sigma = C # G^-1      geometric mean of the draws' covariance C and the inverse of the scores' covariance G
          = G^-1/2 (G^1/2 C G^1/2)^1/2 G^-1/2

is exact as soon as the draws span the space, whatever the sampling error of C and G alone; it minimizes the Fisher divergence of
a Gaussian from the density. First coordinates are scaled by s = sqrt(sd(z) / sd(g)), then Sigma is found in the span of the
largest singular vectors of both clouds, and of its eigenvalues those outside [1/2, 2] are kept: diagonal plus low rank, at the
cost of K D a product.

References: Seyboldt, Carlson, Carpenter (2026), Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence,
arXiv:2603.18845.
"""

import numpy as np

from jensen.engines.nuts import Frame

RANK = 100
"""Singular vectors of each cloud, at most."""
_KEPT = 2.0
_RIDGE = 1e-5


def fisher(z: np.ndarray, gradient: np.ndarray) -> Frame:
    """The frame of draws z (n, D) with scores (n, D)."""
    n, dim = z.shape
    mean, tiny = z.mean(0), np.finfo(float).tiny
    scale = np.sqrt(np.maximum(z.std(0), tiny) / np.maximum(gradient.std(0), tiny))
    x, g = (z - mean) / scale, (gradient - gradient.mean(0)) * scale
    basis = np.eye(dim) if dim <= 2 * RANK else _span(x, g)
    a, b = (part.T @ part / n + _RIDGE * np.eye(part.shape[1]) for part in (x @ basis, g @ basis))
    root, inverse = _roots(b)
    w, v = np.linalg.eigh(inverse @ _roots(root @ a @ root)[0] @ inverse)
    # The others are set to one, not left out: another number of directions would be another program to compile.
    return Frame(mean, scale, basis @ v, np.sqrt(np.where((w > _KEPT) | (w < 1 / _KEPT), w, 1.0)) - 1)


def _span(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Orthonormal basis (D, K) of the directions in which either cloud is largest."""
    largest = [np.linalg.svd(part, full_matrices=False)[2][:RANK] for part in (x, g)]
    return np.linalg.qr(np.concatenate(largest).T)[0]


def _roots(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square root of a positive definite matrix, and its inverse."""
    w, v = np.linalg.eigh(0.5 * (a + a.T))
    w = np.sqrt(np.maximum(w, 1e-12))
    return (v * w) @ v.T, (v / w) @ v.T
