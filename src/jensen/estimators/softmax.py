"""K > 2 classes: y_n ~ Categorical(softmax(f_n)), f_n in the K - 1 dimensions of differences between classes.

The classes' weights are independent a priori. With C (K, K - 1) orthonormal columns that sum to zero, f = C u, and the K - 1
columns of u have independent weights again; the mean over classes has no data and drops out. Under q every u_n is
Normal(mu_n, V_n); E log sum exp, E softmax and the curvature C'E[diag p - p p']C are averages over the points of one
orthogonal design, the same for all rows (`engines/designs.py`): exact for quadratics, to 4e-3 a row where the standard
deviation of f is 1, less as it shrinks.

Requires: (K - 1)^2 (R + 1)^2 numbers of memory, for R the rank of the rows.

References: Genz & Monahan (1998), Stochastic integration rules for infinite regions, SIAM J. Sci. Comput. 19; Braun & McAuliffe
(2010), Variational inference for large-scale models of discrete choice, JASA 105.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.linalg import helmert

from jensen.engines.designs import Design, orthogonal
from jensen.estimators.newton import Pass, Rows, spread

_POINTS = 64


def contrasts(classes: int) -> np.ndarray:
    """C (K, K - 1)."""
    return helmert(classes).T


@cache
def design(classes: int, size: int = _POINTS) -> Design:
    """Points in K - 1 dimensions, the same in every process."""
    return orthogonal(np.random.default_rng(0), classes - 1, size)


def logits(mean: np.ndarray, covariance: np.ndarray, points: np.ndarray) -> np.ndarray:
    """F at the points of every row, (n, M, K), for u ~ Normal(mean (n, K - 1), covariance (n, K - 1, K - 1))."""
    values, vectors = np.linalg.eigh(covariance)
    roots = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
    u = mean[:, None, :] + points @ np.swapaxes(roots, 1, 2)
    return u @ contrasts(mean.shape[1] + 1).T


@dataclass(frozen=True, eq=False)
class Softmax:
    """Rows and one-hot targets y (N, K)."""

    rows: Rows
    y: np.ndarray

    @property
    def columns(self) -> int:
        """K - 1."""
        return self.y.shape[1] - 1

    @property
    def start(self) -> np.ndarray:
        """No weights, and the logarithms of the classes' shares."""
        shares = np.average(self.y, axis=0, weights=self.rows.weight)
        intercepts = np.log(shares) @ contrasts(len(shares))
        return np.c_[np.zeros((self.columns, self.rows.rank)), intercepts].ravel()

    def visit(self, mean: np.ndarray, root: np.ndarray) -> Pass:
        """One pass at q = Normal(mean, root root')."""
        c, (points, shares) = contrasts(self.columns + 1), design(self.columns + 1)
        weights = mean.reshape(self.columns, -1)
        fit, slope = 0.0, np.zeros_like(weights)
        curvature = np.zeros((self.columns, weights.shape[1]) * 2)
        for x, here, weight in self.rows.blocks(self.columns * root.shape[1] + len(points)):
            y, u, part = self.y[here], x @ weights.T, spread(x, root, self.columns)
            f = logits(u, part @ np.swapaxes(part, 1, 2), points)
            top = f.max(2, keepdims=True)
            p = np.exp(f - top)
            norm = p.sum(2, keepdims=True)
            p /= norm
            chance = shares @ p
            fit += weight @ (((y @ c) * u).sum(1) - (top + np.log(norm))[..., 0] @ shares)
            slope += (weight[:, None] * ((y - chance) @ c)).T @ x
            both = np.swapaxes(p * shares[:, None], 1, 2) @ p
            bend = c.T @ (chance[:, :, None] * np.eye(len(c)) - both) @ c * weight[:, None, None]
            for i in range(self.columns):
                right = bend[:, i, : i + 1, None] * x[:, None, :]
                curvature[i, :, : i + 1] += (x.T @ right.reshape(len(x), -1)).reshape(x.shape[1], i + 1, -1)
        for i in range(self.columns):
            for j in range(i):
                curvature[j, :, i] = curvature[i, :, j].T
        return Pass(float(fit), slope.ravel(), curvature.reshape(mean.size, mean.size))
