"""Full-rank Gaussian: q(z) = N(mean, scale scale'), scale lower triangular with positive diagonal; D + D(D+1)/2 parameters.

Reference: Kucukelbir et al. (2017), Automatic differentiation variational inference, JMLR 18(14).
"""

from dataclasses import dataclass
from math import log, pi
from typing import Any

import jax
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DenseGaussian:
    """A Gaussian with a full covariance.

    Attributes
    ----------
    mean
        (D,)
    scale
        (D, D), lower triangular, positive diagonal; the covariance is ``scale @ scale.T``.
    """

    mean: Any
    scale: Any

    @property
    def dim(self) -> int:
        """D."""
        return self.mean.shape[0]

    @property
    def cov(self) -> Any:
        """Covariance (D, D)."""
        return self.scale @ self.scale.T

    @property
    def sd(self) -> Any:
        """Standard deviations (D,)."""
        return (self.scale**2).sum(1) ** 0.5

    @property
    def params(self) -> dict[str, Any]:
        """The variational parameters by name."""
        return {"mean": self.mean, "scale": self.scale}

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Standard normal draws (n, D)."""
        return rng.standard_normal((n, self.dim))

    def transport(self, noise: Any) -> tuple[Any, Any]:
        """Draws z (n, D) made of noise (n, D), and log q(z) (n,)."""
        log_q = -0.5 * (noise**2).sum(-1) - self._log_volume()
        return self.mean + noise @ self.scale.T, log_q

    def log_prob(self, z: Any) -> Any:
        """Log q(z) (n,) at points z (n, D)."""
        xp = self.mean.__array_namespace__()
        noise = xp.linalg.solve(self.scale, (z - self.mean).T).T
        return -0.5 * (noise**2).sum(-1) - self._log_volume()

    def entropy(self) -> Any:
        """Differential entropy, in nats."""
        return self._log_volume() + 0.5 * self.dim

    def sample(self, rng: np.random.Generator, n: int) -> Any:
        """Independent draws (n, D)."""
        return self.transport(self.noise(rng, n))[0]

    def _log_volume(self) -> Any:
        xp = self.mean.__array_namespace__()
        return xp.log(xp.linalg.diagonal(self.scale)).sum() + 0.5 * self.dim * log(2 * pi)


def from_factor(mean: np.ndarray, factor: np.ndarray) -> DenseGaussian:
    """The Gaussian with covariance ``factor @ factor.T`` for any square factor.

    By QR of the transposed factor, which keeps the accuracy that forming the covariance would square away.
    """
    upper = np.linalg.qr(factor.T, mode="r")
    signs = np.where(np.diagonal(upper) < 0, -1.0, 1.0)
    return DenseGaussian(np.asarray(mean), (signs[:, None] * upper).T)


@dataclass(frozen=True)
class FullRank:
    """Family of Gaussians with a full covariance; D up to a few hundred."""

    def start(self, location: np.ndarray, width: float | np.ndarray) -> DenseGaussian:
        """Q at `location` (D,) with standard deviation `width`, one or (D,), and without correlations."""
        return DenseGaussian(np.asarray(location, float), width * np.eye(len(location)))
