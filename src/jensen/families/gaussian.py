"""Gaussian in natural parameters with a sparse precision: q(x) proportional to exp(h'x - x'Px/2), P on a pattern.

The leaves (h, entries of P) are the natural parameters, so that a convex combination of two of them is a natural-gradient
step, and coordinate ascent is one call: the energy is a function of the mean m and of the covariances C on the pattern

    E(m, C) = h'm - (m'Pm + sum_i P_ii C_ii + sum_{i>j} 2 P_ij C_ij) / 2 + ...,

    P_ii = -2 dE/dC_ii,     P_ij = -dE/dC_ij  (i > j),     h = dE/dm + P m.

Reference: Khan and Rue (2023), The Bayesian learning rule, JMLR 24(281).
"""

from dataclasses import dataclass
from math import log, pi
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.families.patterns_base import Pattern


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian over n real elements.

    Attributes
    ----------
    h
        (n,), precision times mean.
    precision
        Entries (size,) of the precision: n diagonal ones, then those of ``pattern.pairs``.
    pattern
        Which entries there are, and how to compute with them.
    """

    h: Any
    precision: Any
    pattern: Any

    @staticmethod
    def point(pattern: Pattern, mean: Any, variance: Any) -> "Gaussian":
        """A start: independent elements with the given mean and variance, each a number or (n,); NumPy, nothing is compiled."""
        kind = jax.dtypes.canonicalize_dtype(float)
        mean, variance = (np.broadcast_to(np.asarray(value, kind), (pattern.n,)) for value in (mean, variance))
        precision = pattern.of_diagonal(1 / variance)
        return Gaussian(mean * pattern.variances(precision), precision, pattern)

    def moments(self) -> dict[str, Any]:
        """Mean parameters in coordinates: ``mean`` (n,) and ``cov`` (size,), the covariances on the pattern."""
        mean, cov, _ = self.pattern.moments(self.h, self.precision)
        return {"mean": mean, "cov": cov}

    def with_entropy(self) -> dict[str, Any]:
        """The moments, with ``entropy`` beside them, from one factorization."""
        mean, cov, logdet = self.pattern.moments(self.h, self.precision)
        return {"mean": mean, "cov": cov, "entropy": 0.5 * (self.pattern.n * (1 + log(2 * pi)) - logdet)}

    def statistics(self, x: Any) -> dict[str, Any]:
        """The moments of the point mass at x (n,): no covariance."""
        return {"mean": x, "cov": jnp.zeros_like(self.precision)}

    def from_slope(self, gradient: dict[str, Any]) -> "Gaussian":
        """The coordinate ascent update of an energy quadratic in the block: from the gradient at mean and covariance zero."""
        return Gaussian(gradient["mean"], self._precision(gradient), self.pattern)

    def from_gradient(self, gradient: dict[str, Any], moments: dict[str, Any]) -> "Gaussian":
        """The coordinate ascent update.

        Parameters
        ----------
        gradient
            Of the energy in ``mean`` (n,) and ``cov`` (size,), at the moments.
        moments
            The ``mean`` and ``cov`` at which the gradient was taken.

        Returns
        -------
        Gaussian
            With the same pattern; its moments are NaN if the precision is not positive definite.
        """
        precision = self._precision(gradient)
        h = gradient["mean"] + self.pattern.multiply(precision, moments["mean"])
        return Gaussian(h, precision, self.pattern)

    def _precision(self, gradient: dict[str, Any]) -> Any:
        n, size, repeats = self.pattern.diagonal, self.pattern.size, self.pattern.repeats
        factor = -2 / repeats if n == size else jnp.where(jnp.arange(size) < n, -2 / repeats, -1 / repeats)
        return gradient["cov"] * factor

    def from_natural(self, h: Any, precision: Any) -> "Gaussian":
        """The Gaussian with these natural parameters and this pattern."""
        return Gaussian(h, precision, self.pattern)

    def valid(self) -> Any:
        """Whether the precision is positive definite and everything is finite; a scalar truth value."""
        _, _, logdet = self.pattern.moments(self.h, self.precision)
        return jnp.isfinite(logdet) & jnp.isfinite(self.h).all()

    def entropy(self) -> Any:
        """Differential entropy, in nats."""
        return self.with_entropy()["entropy"]

    def log_prob(self, x: Any) -> Any:
        """Log q(x) at x (n,), or at the rows of x (..., n)."""
        mean, _, logdet = self.pattern.moments(self.h, self.precision)
        away = x - mean
        square = (away * self.pattern.multiply(self.precision, away)).sum(-1)
        return 0.5 * (logdet - self.pattern.n * log(2 * pi) - square)

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """What n draws are made of: standard normal numbers (n, number of elements)."""
        return rng.standard_normal((n, self.pattern.n))

    def at(self, noise: Any) -> Any:
        """Independent exact draws (n, number of elements) made of `noise`."""
        return self.pattern.shifted(noise, self.h, self.precision)

    def sd(self) -> Any:
        """Standard deviations (n,)."""
        return jnp.sqrt(self.pattern.variances(self.moments()["cov"]))

    def covariance(self) -> Any:
        """The whole covariance matrix (n, n), also outside the pattern."""
        return self.pattern.solve(jnp.eye(self.pattern.n, dtype=self.h.dtype), self.precision)[0]
