"""A layer of a map, found from draws of a fitted Gaussian and the scores there: smoothed third derivatives, without chains.

At the optimum of a Gaussian fit, residual scores r = L' grad log p(m + L x) + x, x ~ N(0, I), have no part that is linear in x.
By Stein's identity their products with quadratics of x are third derivatives of log p, averaged over q. For a direction a, with
t = a'x and P = I - a a',

    H = P E[t r x'] P       = E[third derivative along a]       2 w in its eigenvectors where widths go like exp(w t)
    c = P E[(t^2 - 1) r]                                        2 b where centers go like b (t^2 - 1)

and both are zero for a Gaussian. Both w are exact for a pure funnel. The parent is the coordinate with the largest

    score = <H_1, H_2> / 4 + <c_1, c_2> / 2

over two halves of the draws, so that noise does not add up. Residuals, in place of scores, take the noise of the Gaussian part
away, so that the estimate works in a few hundred dimensions. Candidates are coordinates of z, seen through the layers so far.

Reference: Papaspiliopoulos, Roberts, Skold (2007), A general framework for the parametrization of hierarchical models, Statist.
Sci. 22 (what a layer contains); Stein (1981), Estimation of the mean of a multivariate normal distribution, Annals of Statist. 9.
"""

import numpy as np

from jensen.families.fullrank import DenseGaussian
from jensen.families.maps import Map, layer

BOUND = 8.0
_SCORE = 0.03
"""Roughly what a layer gains, in nats."""
_CANDIDATES = 16
_STEEPEST = 1.5


def find_layer(base: DenseGaussian, linear: np.ndarray, x: np.ndarray, gradient: np.ndarray) -> Map | None:
    """A map of one layer from new straight coordinates, N(0, I), to those of the base; None where nothing is bent.

    Parameters
    ----------
    base
        The fitted Gaussian.
    linear
        Coordinates of z as rows (D, D): z changes by ``linear @ dy`` near the center.
    x, gradient
        Standard normal draws (n, D), antithetic or not, in an order that does not matter; and the gradient of the target
        with respect to y at y = mean + scale x.
    """
    dim = base.dim
    rows = linear @ base.scale
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    residual = _calmed(gradient @ base.scale + x)
    half = np.arange(len(x)) % 4 < 2  # neighbors may be an antithetic pair
    best, best_score = None, _SCORE
    for j in _candidates(rows, x, residual):
        squares, centers = zip(*(_third(rows[j], x[part], residual[part]) for part in (half, ~half)), strict=True)
        score = (squares[0] * squares[1]).sum() / 4 + (centers[0] * centers[1]).sum() / 2
        if score > best_score:
            best, best_score = (rows[j], squares, centers), score
    if best is None:
        return None
    a, squares, centers = best
    rest = np.linalg.svd(a[None])[2][1:].T
    strengths, vectors = np.linalg.eigh(rest.T @ (squares[0] + squares[1]) @ rest / 2)
    vectors = rest @ vectors
    exponents = np.clip(_shrunk(strengths, squares, dim - 1) / 2, -_STEEPEST, _STEEPEST)
    agreement = (centers[0] @ centers[1]) / (((centers[0] + centers[1]) / 2) ** 2).sum()
    bend = vectors.T @ (centers[0] + centers[1]) / 4 * np.clip(agreement, 0.0, 1.0)
    factor = base.scale @ np.column_stack([a, vectors])
    zero = np.zeros(dim)
    return layer(base.mean, factor, BOUND, zero, np.append(0.0, bend), np.append(0.0, exponents))


def _shrunk(strengths: np.ndarray, squares: tuple[np.ndarray, ...], rank: int) -> np.ndarray:
    """Eigenvalues without the spread that noise adds to them: shrunk to their mean, as far as the halves disagree."""
    middle = strengths.mean()
    signal = (squares[0] * squares[1]).sum() / rank - middle**2
    spread = strengths.var()
    return middle + np.clip(signal / spread if spread > 0 else 0.0, 0.0, 1.0) * (strengths - middle)


def _third(a: np.ndarray, x: np.ndarray, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """H and c of a direction."""
    t = x @ a
    square = (residual * t[:, None]).T @ x / len(x)
    square = square - np.outer(a, a @ square)
    square = square - np.outer(square @ a, a)
    center = (t**2 - 1) @ residual / len(x)
    return 0.5 * (square + square.T), center - a * (a @ center)


def _candidates(rows: np.ndarray, x: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Coordinates worth the full matrices: where they are many, those that move the diagonals of H or the centers most."""
    if len(rows) <= 2 * _CANDIDATES:
        return np.arange(len(rows))
    t = x @ rows.T
    widths = (residual * x).T @ t / len(x)
    centers = residual.T @ (t**2 - 1) / len(x)
    return np.argsort(-((widths**2).sum(0) / 4 + (centers**2).sum(0) / 2))[:_CANDIDATES]


def _calmed(residual: np.ndarray) -> np.ndarray:
    """Scores far out in a funnel's neck are exponentially large: clipped at six robust sds of each direction."""
    low, high = np.quantile(residual, (0.16, 0.84), axis=0)
    size = 6 * np.maximum(high - low, 1e-12)
    return np.clip(residual, -size, size)
