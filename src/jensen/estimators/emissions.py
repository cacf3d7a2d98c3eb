"""Posteriors of K Gaussians' means and precisions, given how probable each row is under each: Normal-Wishart and Normal-Gamma.

    mu_k | L_k ~ Normal(m0_k, (beta0_k L_k)^-1)
    full       L_k ~ Wishart(dof0_k, rate scale0_k)                 tied   one L for all
    diag       L_k = diag(l_kd),  l_kd ~ Gamma(dof0_k / 2, scale0_kd / 2)
    spherical  L_k = l_k I,       l_k ~ Gamma(dof0_k / 2, scale0_k / 2)

Prior and posterior are of one family. With the probabilities r_nk, N_k = sum_n r_nk and S_k = sum_n r_nk (x_n - m_k)(x_n -
m_k)',

    beta = beta0 + N,   m = (beta0 m0 + sum_n r_n x_n) / beta
    scale = scale0 + S + beta0 (m - m0)(m - m0)'    (tied: summed over k; diag: its diagonal; spherical: the trace)
    dof = dof0 + N    (tied: all rows; spherical: D N)

References: Bishop (2006), Pattern Recognition and Machine Learning, section 10.2; Murphy (2007), Conjugate Bayesian analysis of
the Gaussian distribution.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import digamma, gammaln

from jensen.estimators.base import gamma_divergence


@dataclass(frozen=True, eq=False)
class Gaussians(ABC):
    """Distribution of the means and precisions of K Gaussians in D dimensions.

    Attributes
    ----------
    mean, beta
        m (K, D) and beta (K,).
    dof
        (K,); a scalar if tied.
    scale
        (K, D, D) if full, (D, D) if tied, (K, D) if diagonal, (K,) if spherical.
    """

    mean: np.ndarray
    beta: np.ndarray
    dof: np.ndarray
    scale: np.ndarray

    def update(self, x: np.ndarray, probs: np.ndarray) -> Self:
        """The posterior, with this as the prior: rows x (N, D), their probabilities (N, K)."""
        count = probs.sum(0)
        beta = self.beta + count
        mean = (self.beta[:, None] * self.mean + probs.T @ x) / beta[:, None]
        dof, scale = self._gather(x, probs, count, mean)
        return replace(self, mean=mean, beta=beta, dof=dof, scale=scale)

    def expected(self, x: np.ndarray) -> np.ndarray:
        """E log density of rows x (N, D) under each Gaussian: (N, K)."""
        dim = x.shape[1]
        return 0.5 * (self._log_det() - dim * (np.log(2 * np.pi) + 1 / self.beta) - self._distance(x))

    def divergence(self, prior: Self) -> float:
        """KL divergence from the prior, in nats."""
        ratio, dim = prior.beta / self.beta, self.mean.shape[1]
        means = dim * (ratio - 1 - np.log(ratio)) + prior.beta * self._distance(prior.mean).diagonal()
        return float(0.5 * means.sum() + self._divergence(prior))

    @abstractmethod
    def covariances(self) -> np.ndarray:
        """The inverses of E L_k, (K, D, D)."""

    @abstractmethod
    def _gather(self, x: np.ndarray, probs: np.ndarray, count: np.ndarray, mean: np.ndarray) -> tuple[Any, np.ndarray]:
        """Posterior dof and scale."""

    @abstractmethod
    def _log_det(self) -> np.ndarray:
        """E log |L_k|, (K,) or (1,)."""

    @abstractmethod
    def _distance(self, x: np.ndarray) -> np.ndarray:
        """(x_n - m_k)' E L_k (x_n - m_k), (N, K)."""

    @abstractmethod
    def _divergence(self, prior: Self) -> float:
        """That of the precisions."""


def _outer(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """sum_n weight_n x_n x_n'."""
    return (weight[:, None] * x).T @ x


def _factor(scale: np.ndarray) -> np.ndarray:
    return np.linalg.cholesky(scale)


def _log_dets(factor: np.ndarray) -> np.ndarray:
    return 2 * np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)


def _wishart_log_det(dof: Any, factor: np.ndarray) -> np.ndarray:
    dim = factor.shape[-1]
    halves = (np.asarray(dof)[..., None] - np.arange(dim)) / 2
    return digamma(halves).sum(-1) + dim * np.log(2) - _log_dets(factor)


def _wishart_divergence(dof: Any, scale: np.ndarray, dof0: Any, scale0: np.ndarray) -> np.ndarray:
    dim = scale.shape[-1]
    factor, factor0 = _factor(scale), _factor(scale0)
    norm = dof / 2 * (_log_dets(factor) - dim * np.log(2)) - _multigammaln(dof, dim)
    norm0 = dof0 / 2 * (_log_dets(factor0) - dim * np.log(2)) - _multigammaln(dof0, dim)
    trace = np.trace(np.linalg.solve(scale, scale0), axis1=-2, axis2=-1)
    return (dof - dof0) / 2 * _wishart_log_det(dof, factor) + dof / 2 * (trace - dim) + norm - norm0


def _multigammaln(dof: Any, dim: int) -> Any:
    halves = (np.asarray(dof)[..., None] - np.arange(dim)) / 2
    return gammaln(halves).sum(-1) + dim * (dim - 1) / 4 * np.log(np.pi)


@dataclass(frozen=True, eq=False)
class Full(Gaussians):
    """A precision matrix for every Gaussian."""

    def covariances(self) -> np.ndarray:
        """The inverses of E L_k, (K, D, D)."""
        return self.scale / self.dof[:, None, None]

    def _gather(self, x: np.ndarray, probs: np.ndarray, count: np.ndarray, mean: np.ndarray) -> tuple[Any, np.ndarray]:
        scatter = [
            _outer(x - m, p) + b * np.outer(d, d)
            for m, p, b, d in zip(mean, probs.T, self.beta, mean - self.mean, strict=True)
        ]
        return self.dof + count, self.scale + np.array(scatter)

    def _log_det(self) -> np.ndarray:
        return _wishart_log_det(self.dof, _factor(self.scale))

    def _distance(self, x: np.ndarray) -> np.ndarray:
        parts = zip(self.mean, self.dof, _factor(self.scale), strict=True)
        return np.stack([dof * (solve_triangular(f, (x - m).T, lower=True) ** 2).sum(0) for m, dof, f in parts], 1)

    def _divergence(self, prior: Self) -> float:
        return float(_wishart_divergence(self.dof, self.scale, prior.dof, prior.scale).sum())


@dataclass(frozen=True, eq=False)
class Tied(Gaussians):
    """One precision matrix for all."""

    def covariances(self) -> np.ndarray:
        """The inverse of E L, K times (K, D, D)."""
        return np.repeat((self.scale / self.dof)[None], len(self.mean), 0)

    def _gather(self, x: np.ndarray, probs: np.ndarray, count: np.ndarray, mean: np.ndarray) -> tuple[Any, np.ndarray]:
        within = sum(_outer(x - m, p) for m, p in zip(mean, probs.T, strict=True))
        return self.dof + count.sum(), self.scale + within + _outer(mean - self.mean, self.beta)

    def _log_det(self) -> np.ndarray:
        return _wishart_log_det(self.dof, _factor(self.scale))

    def _distance(self, x: np.ndarray) -> np.ndarray:
        factor = _factor(self.scale)
        return np.stack(
            [self.dof * (solve_triangular(factor, (x - m).T, lower=True) ** 2).sum(0) for m in self.mean], 1
        )

    def _divergence(self, prior: Self) -> float:
        return float(_wishart_divergence(self.dof, self.scale, prior.dof, prior.scale))


def _squares(x: np.ndarray, probs: np.ndarray, mean: np.ndarray, prior: Gaussians) -> np.ndarray:
    """Diagonals of S + beta0 (m - m0)(m - m0)', (K, D)."""
    within = np.stack([p @ (x - m) ** 2 for m, p in zip(mean, probs.T, strict=True)])
    return within + prior.beta[:, None] * (mean - prior.mean) ** 2


@dataclass(frozen=True, eq=False)
class Diagonal(Gaussians):
    """A precision for every Gaussian and dimension."""

    def covariances(self) -> np.ndarray:
        """The inverses of E L_k, (K, D, D)."""
        return (self.scale / self.dof[:, None])[:, :, None] * np.eye(self.mean.shape[1])

    def _gather(self, x: np.ndarray, probs: np.ndarray, count: np.ndarray, mean: np.ndarray) -> tuple[Any, np.ndarray]:
        return self.dof + count, self.scale + _squares(x, probs, mean, self)

    def _log_det(self) -> np.ndarray:
        return (digamma(self.dof / 2)[:, None] - np.log(self.scale / 2)).sum(1)

    def _distance(self, x: np.ndarray) -> np.ndarray:
        parts = zip(self.mean, self.dof[:, None] / self.scale, strict=True)
        return np.stack([(x - m) ** 2 @ precision for m, precision in parts], 1)

    def _divergence(self, prior: Self) -> float:
        shape, shape0 = self.dof[:, None] / 2, prior.dof[:, None] / 2
        return float(gamma_divergence(shape, self.scale / 2, shape0, prior.scale / 2).sum())


@dataclass(frozen=True, eq=False)
class Spherical(Gaussians):
    """A precision for every Gaussian."""

    def covariances(self) -> np.ndarray:
        """The inverses of E L_k, (K, D, D)."""
        return (self.scale / self.dof)[:, None, None] * np.eye(self.mean.shape[1])

    def _gather(self, x: np.ndarray, probs: np.ndarray, count: np.ndarray, mean: np.ndarray) -> tuple[Any, np.ndarray]:
        return self.dof + x.shape[1] * count, self.scale + _squares(x, probs, mean, self).sum(1)

    def _log_det(self) -> np.ndarray:
        return self.mean.shape[1] * (digamma(self.dof / 2) - np.log(self.scale / 2))

    def _distance(self, x: np.ndarray) -> np.ndarray:
        return np.stack([((x - m) ** 2).sum(1) for m in self.mean], 1) * (self.dof / self.scale)

    def _divergence(self, prior: Self) -> float:
        return float(gamma_divergence(self.dof / 2, self.scale / 2, prior.dof / 2, prior.scale / 2).sum())


TYPES: dict[str, type[Gaussians]] = {"full": Full, "tied": Tied, "diag": Diagonal, "spherical": Spherical}
