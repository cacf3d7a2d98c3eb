"""Particles: an approximation made of n equally likely points, without a density.

    q = (1/n) sum_i delta(z - z_i)        E_q f = (1/n) sum_i f(z_i)

It has moments, quantiles and draws (points drawn again), but no log density: no ELBO, no log weights and no k-hat.

Reference: Liu, Wang (2016), Stein variational gradient descent, NeurIPS 29.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jensen.core.errors import UnsupportedError


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Particles:
    """Equally likely points.

    Attributes
    ----------
    points
        (n, D)
    """

    points: Any

    @property
    def dim(self) -> int:
        """D."""
        return self.points.shape[1]

    @property
    def count(self) -> int:
        """Number of points n."""
        return self.points.shape[0]

    @cached_property
    def mean(self) -> Any:
        """Mean (D,)."""
        return self.points.mean(0)

    @cached_property
    def sd(self) -> Any:
        """Standard deviations (D,)."""
        return ((self.points - self.mean) ** 2).mean(0) ** 0.5

    @cached_property
    def cov(self) -> Any:
        """Covariance (D, D)."""
        centered = self.points - self.mean
        return centered.T @ centered / self.count

    @cached_property
    def scale(self) -> Any:
        """Lower triangular (D, D) with ``scale @ scale.T`` the covariance.

        Raises
        ------
        UnsupportedError
            When there are not more points than dimensions: their covariance is singular.
        """
        if self.count <= self.dim:
            raise UnsupportedError(
                f"{self.count} particles in {self.dim} dimensions have a singular covariance, which has no triangular factor; "
                f"fit with particles={4 * self.dim} or more."
            )
        upper = np.linalg.qr((np.asarray(self.points) - np.asarray(self.mean)) / self.count**0.5, mode="r")
        return (np.where(np.diagonal(upper) < 0, -1.0, 1.0)[:, None] * upper).T

    @property
    def params(self) -> dict[str, Any]:
        """The variational parameters by name."""
        return {"points": self.points}

    def sample(self, rng: np.random.Generator, n: int) -> Any:
        """Draws (n, D): every point as often as every other, give or take one, in random order."""
        whole, rest = divmod(n, self.count)
        index = np.concatenate([np.tile(np.arange(self.count), whole), rng.choice(self.count, rest, replace=False)])
        return self.points[rng.permutation(index)]

    def log_prob(self, z: Any) -> Any:
        """Not there.

        Raises
        ------
        UnsupportedError
            Always.
        """
        raise UnsupportedError(
            "the log density of q was asked for, and particles have none; use their moments, quantiles and draws, or fit a "
            "family with a density, such as method='fullrank'."
        )
