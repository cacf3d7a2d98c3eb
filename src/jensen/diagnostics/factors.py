"""Square roots of covariances that are too large to be formed: what chains need of q's metric, at q's own cost.

    out x = F x        back g = F' g        whiten d = F^-1 d        (rows (n, D); covariance F F')

An arrow (families/structured.py) has F from H, K_i, C_i; relearnt, the global noise takes a full root R of its covariance and
all other noise a factor w: H R, K_i R, C_i diag(w_i). A diagonal plus low rank (families/lowrank.py) has
F = S (I + V diag(r - 1) V') diag(w). Both are exact: whatever F is, chains in it leave the posterior invariant.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from jensen.families.structured import ArrowGaussian, join, split, spread

LARGEST_DENSE = 400
"""D up to which the root of an arrow or of low rank is made dense, so that chains learn whole covariances."""
_NARROW = 1e-8


class Factor(Protocol):
    """A square root F of a covariance, as a function."""

    def out(self, x: np.ndarray) -> np.ndarray:
        """F x for rows x (n, D)."""
        ...

    def back(self, gradient: np.ndarray) -> np.ndarray:
        """F' g for rows (n, D)."""
        ...

    def whiten(self, deviation: np.ndarray) -> np.ndarray:
        """Inverse of `out`."""
        ...

    def relearnt(self, x: np.ndarray) -> "Factor":
        """Factor in which whitened draws x (n, D) are closer to standard normal."""
        ...


@dataclass(frozen=True)
class ArrowFactor:
    """Root of an arrow covariance.

    Attributes
    ----------
    q
        Its `head`, `reach` and `tails` may be any square factors.
    """

    q: ArrowGaussian

    def out(self, x: np.ndarray) -> np.ndarray:
        """F x for rows x (n, D)."""
        return np.asarray(spread(self.q.plates, self.q.head, self.q.reach, self.q.tails, x))

    def back(self, gradient: np.ndarray) -> np.ndarray:
        """F' g for rows (n, D)."""
        g, own = split(self.q.plates, gradient)
        head = g @ self.q.head + np.tensordot(own, self.q.reach, axes=([1, 2], [0, 1]))
        return join(self.q.plates, head, _times(own, self.q.tails))

    def whiten(self, deviation: np.ndarray) -> np.ndarray:
        """Inverse of `out`."""
        g, own = split(self.q.plates, deviation)
        head = np.linalg.solve(self.q.head, g.T).T
        rest = own - np.tensordot(head, self.q.reach, axes=([1], [2]))
        tails = np.moveaxis(np.linalg.solve(self.q.tails, np.moveaxis(rest, 0, -1)), -1, 0)
        return join(self.q.plates, head, tails)

    def relearnt(self, x: np.ndarray) -> "ArrowFactor":
        """Factor with the covariance of the global noise x_g, and the sds of all other noise."""
        head, own = split(self.q.plates, x)
        n, p = head.shape
        root = np.eye(p)
        if p:
            cov = np.cov(head.T).reshape(p, p)
            shrink = p / (p + n / 4)
            w, v = np.linalg.eigh((1 - shrink) * cov + shrink * np.diag(np.diagonal(cov)))
            root = v * np.sqrt(np.maximum(w, _NARROW**2))
        widths = np.maximum(own.std(0), _NARROW)
        parts = {"head": self.q.head @ root, "reach": self.q.reach @ root, "tails": self.q.tails * widths[:, None, :]}
        return ArrowFactor(replace(self.q, **parts))


@dataclass(frozen=True)
class LowRankFactor:
    """Root S (I + V diag(r - 1) V') diag(w) of a covariance.

    Attributes
    ----------
    diagonal
        S (D,).
    directions, log_stretch
        V (D, K), orthonormal columns, and log r (K,).
    widths
        w (D,).
    """

    diagonal: np.ndarray
    directions: np.ndarray
    log_stretch: np.ndarray
    widths: np.ndarray

    def out(self, x: np.ndarray) -> np.ndarray:
        """F x for rows x (n, D)."""
        return self._stretched(x * self.widths, 1.0) * self.diagonal

    def back(self, gradient: np.ndarray) -> np.ndarray:
        """F' g for rows (n, D)."""
        return self._stretched(gradient * self.diagonal, 1.0) * self.widths

    def whiten(self, deviation: np.ndarray) -> np.ndarray:
        """Inverse of `out`."""
        return self._stretched(deviation / self.diagonal, -1.0) / self.widths

    def relearnt(self, x: np.ndarray) -> "LowRankFactor":
        """Factor with the sds of x (n, D)."""
        return replace(self, widths=self.widths * np.maximum(x.std(0), _NARROW))

    def _stretched(self, x: np.ndarray, power: float) -> np.ndarray:
        return x + (x @ self.directions * np.expm1(power * self.log_stretch)) @ self.directions.T


def factor_of(q: Any) -> Any:
    """Root of q's covariance: (D,) where it is diagonal, (D, D) where that is affordable, else a `Factor`."""
    if hasattr(q, "log_sd"):
        return np.asarray(q.sd)
    if q.dim > LARGEST_DENSE and isinstance(q, ArrowGaussian):
        return ArrowFactor(q)
    if q.dim > LARGEST_DENSE and hasattr(q, "log_stretch"):
        diagonal, directions, stretch = map(np.asarray, (q.log_diagonal, q.directions, q.log_stretch))
        return LowRankFactor(np.exp(diagonal), directions, stretch, np.ones(q.dim))
    return np.asarray(q.scale)


def _times(rows: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Row vectors (n, G, d) times a matrix a group (G, d, d)."""
    if matrices.shape[1] == 1:
        return rows * matrices[:, 0]
    return np.swapaxes(np.swapaxes(rows, 0, 1) @ matrices, 0, 1)
