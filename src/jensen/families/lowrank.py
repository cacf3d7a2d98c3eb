"""Diagonal plus low rank: q(z) = N(mean, S (I + V diag(r^2 - 1) V') S), S diagonal, V (D, K) orthonormal, r > 0.

Along K directions, in units of the sds in S, q is r times as wide (or narrower) as a diagonal Gaussian; 2 D + K (D + 1) numbers,
and O(D K) a draw or density. The square root S (I + V diag(r - 1) V') takes D standard normals, and its inverse and
determinant need no K x K algebra.

Reference: Ong, Nott, Smith (2018), Gaussian variational approximation with a factor covariance structure, J. Comput. Graph.
Statist. 27 (with a sum of factors in place of the root).
"""

from dataclasses import dataclass
from math import log, pi
from typing import Any

import jax
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LowRankGaussian:
    """A Gaussian with a diagonal covariance but for K directions.

    Attributes
    ----------
    mean, log_diagonal
        (D,); S = exp(log_diagonal).
    directions
        V (D, K), orthonormal columns.
    log_stretch
        log r (K,).
    """

    mean: Any
    log_diagonal: Any
    directions: Any
    log_stretch: Any

    @property
    def dim(self) -> int:
        """D."""
        return self.mean.shape[0]

    @property
    def sd(self) -> Any:
        """Standard deviations (D,)."""
        xp = self.mean.__array_namespace__()
        inner = 1 + self.directions**2 @ xp.expm1(2 * self.log_stretch)
        return xp.exp(self.log_diagonal) * inner**0.5

    @property
    def cov(self) -> Any:
        """Covariance (D, D); dense, for D up to about 1,500."""
        root = self._root()
        return root @ root.T

    @property
    def scale(self) -> Any:
        """Lower-triangular square root (D, D) of `cov`; O(D^3), for D up to about 1,500."""
        xp = self.mean.__array_namespace__()
        upper = xp.linalg.qr(self._root().T)[1]
        signs = xp.where(xp.linalg.diagonal(upper) < 0, -1.0, 1.0).astype(upper.dtype)
        return (signs[:, None] * upper).T

    @property
    def params(self) -> dict[str, Any]:
        """The variational parameters by name."""
        return {
            "mean": self.mean,
            "log_diagonal": self.log_diagonal,
            "directions": self.directions,
            "log_stretch": self.log_stretch,
        }

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Standard normal draws (n, D)."""
        return rng.standard_normal((n, self.dim))

    def transport(self, noise: Any) -> tuple[Any, Any]:
        """Draws z (n, D) made of noise (n, D), and log q(z) (n,)."""
        return self.mean + self._stretched(noise, 1.0) * self._diagonal(), self._log_q(noise)

    def log_prob(self, z: Any) -> Any:
        """Log q(z) (n,) at points z (n, D)."""
        return self._log_q(self._stretched((z - self.mean) / self._diagonal(), -1.0))

    def entropy(self) -> Any:
        """Differential entropy, in nats."""
        return self._log_volume() + 0.5 * self.dim

    def sample(self, rng: np.random.Generator, n: int) -> Any:
        """Independent draws (n, D)."""
        return self.transport(self.noise(rng, n))[0]

    def _diagonal(self) -> Any:
        xp = self.mean.__array_namespace__()
        return xp.exp(self.log_diagonal)

    def _stretched(self, x: Any, power: float) -> Any:
        """Rows x (n, D) times I + V diag(r^power - 1) V'."""
        xp = self.mean.__array_namespace__()
        return x + (x @ self.directions * xp.expm1(power * self.log_stretch)) @ self.directions.T

    def _root(self) -> Any:
        xp = self.mean.__array_namespace__()
        return self._stretched(xp.eye(self.dim, dtype=self.mean.dtype), 1.0).T * self._diagonal()[:, None]

    def _log_q(self, noise: Any) -> Any:
        return -0.5 * (noise**2).sum(-1) - self._log_volume()

    def _log_volume(self) -> Any:
        return self.log_diagonal.sum() + self.log_stretch.sum() + 0.5 * self.dim * log(2 * pi)


@dataclass(frozen=True)
class LowRank:
    """Family of Gaussians with a diagonal covariance but for a few directions; D from a few hundred to a few thousand.

    Parameters
    ----------
    rank
        Number K of directions; None is the engine's choice, by D.
    """

    rank: int | None = None

    def start(self, location: np.ndarray, width: float | np.ndarray) -> LowRankGaussian:
        """Q at `location` (D,) with standard deviation `width`, one or (D,), and no direction that differs."""
        location = np.asarray(location, float)
        rank = min(self.rank or 1, len(location))
        return LowRankGaussian(
            location, np.full(len(location), np.log(width)), np.eye(len(location))[:, :rank], np.zeros(rank)
        )
