"""Mixture of Gaussians: q(z) = sum_k pi_k N(mean_k, scale_k scale_k'), for posteriors with several modes.

Draws are made of standard normal noise like those of any other family: row r of the noise belongs to a component, chosen
by the row's number alone and in proportion to the weights, and is moved by that component's affine map,

    z_r = mean_k(r) + scale_k(r) noise_r,        log q(z) = logsumexp_k [log pi_k + log N(z; mean_k, scale_k scale_k')]

Given k the noise is standard normal, so whitened or antithetic noise keeps what it is good for within every component; row
r and row r + n / 2, which are antithetic where the checks draw so, share theirs. Stratified components with the density of the
whole mixture are the balance heuristic of importance sampling.

The moments are exact: mean = sum pi_k mean_k, cov = sum pi_k (scale_k scale_k' + d_k d_k') with d_k = mean_k - mean.

References: Veach, Guibas (1995), Optimally combining sampling techniques, SIGGRAPH (balance heuristic); Arenz, Dahlinger, Ye,
Volpp, Neumann (2023), A unified perspective on natural gradient variational inference with Gaussian mixture models, TMLR.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jensen.families.fullrank import DenseGaussian

_GOLDEN = (5**0.5 - 1) / 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of Gaussians with full covariances.

    Attributes
    ----------
    log_weights
        (K,), up to a constant: they are normalized where they are used.
    means
        (K, D)
    scales
        (K, D, D), lower triangular, positive diagonals.
    """

    log_weights: Any
    means: Any
    scales: Any

    @property
    def dim(self) -> int:
        """D."""
        return self.means.shape[1]

    @property
    def weights(self) -> Any:
        """Weights of the components (K,); their sum is one."""
        xp = self.means.__array_namespace__()
        shares = xp.exp(self.log_weights - xp.max(self.log_weights))
        return shares / shares.sum()

    @property
    def components(self) -> tuple[DenseGaussian, ...]:
        """The K Gaussians."""
        return tuple(DenseGaussian(self.means[k], self.scales[k]) for k in range(self.means.shape[0]))

    @property
    def mean(self) -> Any:
        """Mean (D,)."""
        return self.weights @ self.means

    @property
    def cov(self) -> Any:
        """Covariance (D, D)."""
        factor = self._factor()
        return factor @ factor.T

    @property
    def scale(self) -> Any:
        """Lower triangular square root (D, D) of the covariance: by QR, which does not square the condition number."""
        xp = self.means.__array_namespace__()
        upper = xp.linalg.qr(self._factor().T, mode="r")
        return (xp.where(xp.linalg.diagonal(upper) < 0, -1, 1).astype(upper.dtype)[:, None] * upper).T

    @property
    def sd(self) -> Any:
        """Standard deviations (D,)."""
        return (self._factor() ** 2).sum(1) ** 0.5

    @property
    def params(self) -> dict[str, Any]:
        """The variational parameters by name."""
        return {"log_weights": self.log_weights, "means": self.means, "scales": self.scales}

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Standard normal draws (n, D)."""
        return rng.standard_normal((n, self.dim))

    def transport(self, noise: Any) -> tuple[Any, Any]:
        """Draws z (n, D) made of noise (n, D), and log q(z) (n,).

        The numbers of rows of the components are their weights times n, to within two rows, also within any run of rows.
        """
        z = self._moved(noise, self.assigned(noise.shape[0]))
        return z, self.log_prob(z)

    def assigned(self, n: int) -> Any:
        """Component (n,) of every row of `transport`."""
        xp = self.means.__array_namespace__()
        half = max((n + 1) // 2, 1)
        # The golden ratio's multiples fill [0, 1) evenly from the first on; their ranks make the counts exact too.
        rank = np.argsort(np.argsort((np.arange(half) * _GOLDEN) % 1))
        level = xp.asarray(np.resize((rank + 0.5) / half, n), dtype=self.means.dtype)
        inner = self.weights.cumsum(0)[:-1]
        return (level[:, None] >= inner).sum(1)

    def log_prob(self, z: Any) -> Any:
        """Log q(z) (n,) at points z (n, D)."""
        joint = self._joint(z)
        top = joint.max(1)
        xp = self.means.__array_namespace__()
        return top + xp.log(xp.exp(joint - top[:, None]).sum(1))

    def responsibilities(self, z: Any) -> Any:
        """Probability (n, K) that a draw at z (n, D) came from each component."""
        joint = self._joint(z)
        xp = self.means.__array_namespace__()
        shares = xp.exp(joint - joint.max(1)[:, None])
        return shares / shares.sum(1)[:, None]

    def sample(self, rng: np.random.Generator, n: int) -> Any:
        """Independent draws (n, D): components at random."""
        weights = np.asarray(self.weights, float)
        which = rng.choice(len(weights), size=n, p=weights / weights.sum())
        return self._moved(self.noise(rng, n), which)

    def wider(self, factor: float) -> "GaussianMixture":
        """The same mixture with every component's sds times `factor`."""
        return replace(self, scales=factor * self.scales)

    def _moved(self, noise: Any, which: Any) -> Any:
        """Rows of noise (n, D), each through the map of its component."""
        xp = self.means.__array_namespace__()
        z = noise
        for k in range(self.means.shape[0]):
            z = xp.where((which == k)[:, None], self.means[k] + noise @ self.scales[k].T, z)
        return z

    def _joint(self, z: Any) -> Any:
        """Log weight plus log density (n, K) of every component."""
        xp = self.means.__array_namespace__()
        logs = self.log_weights - xp.max(self.log_weights)
        return xp.stack([each.log_prob(z) for each in self.components], axis=1) + logs - xp.log(xp.exp(logs).sum())

    def _factor(self) -> Any:
        """(D, K D + K) with covariance factor factor'."""
        xp = self.means.__array_namespace__()
        root = self.weights**0.5
        within = (root[:, None, None] * self.scales).transpose(1, 0, 2).reshape(self.dim, -1)
        return xp.concatenate([within, (root[:, None] * (self.means - self.mean)).T], axis=1)


def mixture_of(components: Sequence[DenseGaussian], weights: Any) -> GaussianMixture:
    """The mixture of Gaussians with the weights (K,), which need not sum to one."""
    weights = np.asarray(weights, float)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights / weights.sum())
    return GaussianMixture(
        log_weights,
        np.stack([np.asarray(each.mean, float) for each in components]),
        np.stack([np.asarray(each.scale, float) for each in components]),
    )
