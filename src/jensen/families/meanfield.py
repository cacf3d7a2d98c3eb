"""Mean-field Gaussian: q(z) = prod_i N(mean_i, exp(log_sd_i)^2); 2 D parameters.

Reference: Kucukelbir et al. (2017), Automatic differentiation variational inference, JMLR 18(14).
"""

from dataclasses import dataclass
from math import log, pi
from typing import Any

import jax
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class DiagonalGaussian:
    """A Gaussian with independent coordinates.

    Attributes
    ----------
    mean, log_sd
        (D,)
    """

    mean: Any
    log_sd: Any

    @property
    def dim(self) -> int:
        """D."""
        return self.mean.shape[0]

    @property
    def sd(self) -> Any:
        """Standard deviations (D,)."""
        xp = self.mean.__array_namespace__()
        return xp.exp(self.log_sd)

    @property
    def cov(self) -> Any:
        """Covariance (D, D), diagonal."""
        xp = self.mean.__array_namespace__()
        return xp.diag(self.sd**2)

    @property
    def scale(self) -> Any:
        """Square root (D, D) of the covariance, diagonal."""
        xp = self.mean.__array_namespace__()
        return xp.diag(self.sd)

    @property
    def params(self) -> dict[str, Any]:
        """The variational parameters by name."""
        return {"mean": self.mean, "log_sd": self.log_sd}

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Standard normal draws (n, D)."""
        return rng.standard_normal((n, self.dim))

    def transport(self, noise: Any) -> tuple[Any, Any]:
        """Draws z (n, D) made of noise (n, D), and log q(z) (n,)."""
        log_q = -0.5 * (noise**2).sum(-1) - self._log_volume()
        return self.mean + noise * self.sd, log_q

    def log_prob(self, z: Any) -> Any:
        """Log q(z) (n,) at points z (n, D)."""
        noise = (z - self.mean) / self.sd
        return -0.5 * (noise**2).sum(-1) - self._log_volume()

    def entropy(self) -> Any:
        """Differential entropy, in nats."""
        return self._log_volume() + 0.5 * self.dim

    def sample(self, rng: np.random.Generator, n: int) -> Any:
        """Independent draws (n, D)."""
        return self.transport(self.noise(rng, n))[0]

    def _log_volume(self) -> Any:
        return self.log_sd.sum() + 0.5 * self.dim * log(2 * pi)


@dataclass(frozen=True)
class MeanField:
    """Family of Gaussians with independent coordinates; any D.

    Its sds are those of the conditionals: too small where coordinates are correlated, which linear response repairs.
    """

    def start(self, location: np.ndarray, width: float | np.ndarray) -> DiagonalGaussian:
        """Q at `location` (D,) with standard deviation `width`, one or (D,)."""
        location = np.asarray(location, float)
        return DiagonalGaussian(location, np.full(len(location), np.log(width)))
