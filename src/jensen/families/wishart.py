"""Wishart and inverse Wishart: random positive definite matrices X, p by p.

    Wishart         p(X) proportional to |X|^((df - p - 1) / 2) exp(-tr(rate X) / 2),       E X = df rate^-1
    InverseWishart  p(X) proportional to |X|^(-(df + p + 1) / 2) exp(-tr(scale X^-1) / 2),  X^-1 is Wishart(df, rate=scale)

The contract is that of `jensen.families.exponential`. The gradient for a symmetric matrix M may be any matrix G with
dE = sum(G * dM); only its symmetric part matters. Draws are Bartlett's: with rate = C C', X = (C'^-1 A)(C'^-1 A)' for A
lower triangular, A_jj^2 chi-squared with df - j degrees of freedom and standard normals below.

References: Bartlett (1933), On the theory of statistical regression; Bishop (2006), Pattern Recognition and Machine Learning,
appendix B.
"""

from dataclasses import dataclass
from math import log, pi
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from jensen.families.exponential import gamma_noise, log_gamma_draws
from jensen.families.special import digamma, digamma_entropy, gammaln

Moments = dict[str, Any]


def _diagonal(matrix: Any) -> Any:
    return jnp.diagonal(matrix, axis1=-2, axis2=-1)


def _transpose(matrix: Any) -> Any:
    return jnp.swapaxes(matrix, -1, -2)


def _factor(matrix: Any) -> Any:
    """Lower Cholesky factor; NaN where the matrix is not positive definite."""
    return jnp.linalg.cholesky(matrix)


def _log_det(factor: Any) -> Any:
    """Log determinant of factor factor'."""
    return 2 * jnp.log(_diagonal(factor)).sum(-1)


def _inverse(factor: Any) -> Any:
    """Inverse of factor factor', exactly symmetric."""
    eye = jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)
    root = solve_triangular(factor, eye, lower=True)
    return _transpose(root) @ root


def _halves(df: Any, p: int) -> Any:
    """(df - j) / 2 for j = 0 .. p - 1, (..., p)."""
    return (jnp.asarray(df)[..., None] - np.arange(p)) / 2


def _mean_log_det(df: Any, factor: Any) -> Any:
    """E log|X| of the Wishart whose rate is factor factor'."""
    p = factor.shape[-1]
    return digamma(_halves(df, p)).sum(-1) + p * log(2) - _log_det(factor)


def _with_entropy(df: Any, factor: Any) -> tuple[Any, Any]:
    """E log|X| and the entropy of the Wishart whose rate is factor factor', batch-shaped; terms of size df cancelled on paper."""
    p = factor.shape[-1]
    logs, terms = digamma_entropy(_halves(df, p))
    terms = terms + (p - 1 - np.arange(p)) / 2 * logs
    scaled = _log_det(factor) - p * log(2)
    return logs.sum(-1) - scaled, terms.sum(-1) - (p + 1) / 2 * scaled + p * (p - 1) / 4 * (log(pi) + 1)


def _log_norm(df: Any, factor: Any) -> Any:
    """Log of the constant in front of both densities, batch-shaped."""
    p = factor.shape[-1]
    multigamma = gammaln(_halves(df, p)).sum(-1) + p * (p - 1) / 4 * log(pi)
    return df / 2 * (_log_det(factor) - p * log(2)) - multigamma


def _noise(rng: np.random.Generator, n: int, matrix: Any) -> dict[str, Any]:
    """What n draws of Bartlett's A are made of."""
    shape = np.shape(matrix)
    return {"roots": gamma_noise(rng, n, shape[:-1]), "below": rng.standard_normal((n, *shape))}


def _triangular_draws(noise: dict[str, Any], df: Any, factor: Any) -> Any:
    """Bartlett's lower triangular A, (n, ..., p, p)."""
    p = factor.shape[-1]
    halves = jnp.broadcast_to(_halves(df, p), factor.shape[:-1]).astype(factor.dtype)
    roots = jnp.exp(0.5 * (log_gamma_draws(noise["roots"], halves) + log(2)))
    return jnp.tril(noise["below"], -1) + roots[..., None] * jnp.eye(p, dtype=factor.dtype)


def _valid(df: Any, matrix: Any) -> Any:
    p = matrix.shape[-1]
    return jnp.all((df > p - 1) & (df < jnp.inf)) & jnp.all(jnp.isfinite(_factor(matrix)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Wishart:
    """Wishart distribution; moments ``{"value": E X, "logdet": E log|X|}``.

    Attributes
    ----------
    df
        Degrees of freedom (...), more than p - 1.
    rate
        (..., p, p), positive definite: the inverse of the scale matrix.
    """

    df: Any
    rate: Any

    def moments(self) -> Moments:
        """Mean parameters (..., p, p) and (...)."""
        factor = _factor(self.rate)
        df = jnp.broadcast_to(self.df, factor.shape[:-2])
        return {"value": df[..., None, None] * _inverse(factor), "logdet": _mean_log_det(df, factor)}

    def with_entropy(self) -> Moments:
        """Mean parameters and the entropy."""
        factor = _factor(self.rate)
        df = jnp.broadcast_to(self.df, factor.shape[:-2])
        logdet, entropy = _with_entropy(df, factor)
        return {"value": df[..., None, None] * _inverse(factor), "logdet": logdet, "entropy": entropy.sum()}

    @staticmethod
    def statistics(x: Any) -> Moments:
        """Sufficient statistics at positive definite x (..., p, p)."""
        return {"value": jnp.asarray(x), "logdet": _log_det(_factor(x))}

    def from_gradient(self, gradient: Moments, moments: Moments) -> Self:
        """The Wishart with these natural parameters."""
        value = gradient["value"]
        return type(self)(2 * gradient["logdet"] + value.shape[-1] + 1, -(value + _transpose(value)))

    def valid(self) -> Any:
        """Whether df > p - 1, the rate is positive definite, and all is finite."""
        return _valid(self.df, self.rate)

    def entropy(self) -> Any:
        """Differential entropy in the p (p + 1) / 2 free elements, in nats."""
        return self.with_entropy()["entropy"]

    def log_prob(self, x: Any) -> Any:
        """Log density at x (..., p, p)."""
        p = x.shape[-1]
        trace = (self.rate * x).sum((-1, -2))
        log_det = _log_det(_factor(x))
        return (_log_norm(self.df, _factor(self.rate)) + (self.df - p - 1) / 2 * log_det - trace / 2).sum()

    def noise(self, rng: np.random.Generator, n: int) -> dict[str, Any]:
        """What n draws are made of."""
        return _noise(rng, n, self.rate)

    def at(self, noise: dict[str, Any]) -> Any:
        """Independent draws (n, ..., p, p) made of `noise`."""
        factor = _factor(self.rate)
        draws = _triangular_draws(noise, self.df, factor)
        root = solve_triangular(_transpose(jnp.broadcast_to(factor, draws.shape)), draws, lower=False)
        return root @ _transpose(root)

    @property
    def mean(self) -> Any:
        """Mean df rate^-1, (..., p, p)."""
        return self.moments()["value"]

    @property
    def sd(self) -> Any:
        """Standard deviation of each element (..., p, p)."""
        inverse = _inverse(_factor(self.rate))
        ends = _diagonal(inverse)
        return jnp.sqrt(jnp.asarray(self.df)[..., None, None] * (inverse**2 + ends[..., None] * ends[..., None, :]))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class InverseWishart:
    """Inverse Wishart distribution; moments ``{"inverse": E X^-1, "logdet": E log|X|}``.

    Attributes
    ----------
    df
        Degrees of freedom (...), more than p - 1.
    scale
        (..., p, p), positive definite.
    """

    df: Any
    scale: Any

    def moments(self) -> Moments:
        """Mean parameters (..., p, p) and (...)."""
        factor = _factor(self.scale)
        df = jnp.broadcast_to(self.df, factor.shape[:-2])
        return {"inverse": df[..., None, None] * _inverse(factor), "logdet": -_mean_log_det(df, factor)}

    def with_entropy(self) -> Moments:
        """Mean parameters and the entropy; the Jacobian of the inverse is |X|^(p + 1)."""
        factor = _factor(self.scale)
        df = jnp.broadcast_to(self.df, factor.shape[:-2])
        logdet, entropy = _with_entropy(df, factor)
        entropy = (entropy - (factor.shape[-1] + 1) * logdet).sum()
        return {"inverse": df[..., None, None] * _inverse(factor), "logdet": -logdet, "entropy": entropy}

    @staticmethod
    def statistics(x: Any) -> Moments:
        """Sufficient statistics at positive definite x (..., p, p)."""
        factor = _factor(x)
        return {"inverse": _inverse(factor), "logdet": _log_det(factor)}

    def from_gradient(self, gradient: Moments, moments: Moments) -> Self:
        """The InverseWishart with these natural parameters."""
        inverse = gradient["inverse"]
        return type(self)(-2 * gradient["logdet"] - inverse.shape[-1] - 1, -(inverse + _transpose(inverse)))

    def valid(self) -> Any:
        """Whether df > p - 1, the scale is positive definite, and all is finite."""
        return _valid(self.df, self.scale)

    def entropy(self) -> Any:
        """Differential entropy in the p (p + 1) / 2 free elements, in nats."""
        return self.with_entropy()["entropy"]

    def log_prob(self, x: Any) -> Any:
        """Log density at x (..., p, p)."""
        p = x.shape[-1]
        factor = _factor(x)
        trace = (self.scale * _inverse(factor)).sum((-1, -2))
        norm = _log_norm(self.df, _factor(self.scale))
        return (norm - (self.df + p + 1) / 2 * _log_det(factor) - trace / 2).sum()

    def noise(self, rng: np.random.Generator, n: int) -> dict[str, Any]:
        """What n draws are made of."""
        return _noise(rng, n, self.scale)

    def at(self, noise: dict[str, Any]) -> Any:
        """Independent draws (n, ..., p, p) made of `noise`."""
        factor = _factor(self.scale)
        draws = _triangular_draws(noise, self.df, factor)
        root = solve_triangular(draws, _transpose(jnp.broadcast_to(factor, draws.shape)), lower=True)
        return _transpose(root) @ root

    @property
    def mean(self) -> Any:
        """Mean scale / (df - p - 1), (..., p, p); NaN for df <= p + 1, where the diagonal's mean is infinite."""
        excess = jnp.asarray(self.df)[..., None, None] - self.scale.shape[-1] - 1
        return self.scale / jnp.where(excess > 0, excess, jnp.nan)

    @property
    def sd(self) -> Any:
        """Standard deviation of each element (..., p, p); NaN for df <= p + 3, where the diagonal's is infinite."""
        excess = jnp.asarray(self.df)[..., None, None] - self.scale.shape[-1] - 1
        ends = _diagonal(self.scale)
        top = (excess + 2) * self.scale**2 + excess * ends[..., None] * ends[..., None, :]
        return jnp.sqrt(top / ((excess + 1) * excess**2 * jnp.where(excess > 2, excess - 2, jnp.nan)))
