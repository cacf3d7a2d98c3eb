"""Coordinate ascent for Gaussian mixtures: from the moments of a pass over rows to q, and the bound.

Bishop (2006) 10.2; Blei & Jordan, Variational inference for Dirichlet process mixtures (2006). With N_k, xbar_k, S_k of the pass,

    weights   q(pi) = Dirichlet(a0 + N), or sticks v_k ~ Beta(1 + N_k, a0 + sum_{j>k} N_j)
    means     q(m_k | L_k) = N(m_k, (b_k L_k)^-1),   b_k = b0 + N_k,   m_k = (b0 m0 + N_k xbar_k) / b_k
    precision q(L_k) = Wishart(nu_k, (nu_k C_k)^-1), nu_k = nu0 + N_k,
              nu_k C_k = C0 + N_k (S_k + reg I) + N_k b0 / b_k (xbar_k - m0)(xbar_k - m0)'

Parameters, their names and the bound (up to the same constants) are those of scikit-learn, also where its `tied`, `diag` and
`spherical` forms use the Wishart's dimension-by-dimension terms for what are not Wishart distributions.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dtrtri  # type: ignore[attr-defined]
from scipy.special import betaln, digamma, gammaln

from jensen.kernels.mixture import Array, Components, Moments, Shape, beside, outer

Concentration = Array | tuple[Array, Array]
"""Of a Dirichlet (K,), or the two of the Betas of sticks."""


class Prior(NamedTuple):
    """The prior, with the ridge that scatters get; `sticks` says that weights are a Dirichlet process."""

    sticks: bool
    concentration: float
    mean_precision: float
    mean: Array
    degrees_of_freedom: float
    covariance: Array
    ridge: float


class Parameters(NamedTuple):
    """Those of q, named as scikit-learn's attributes, whose first underscore they lack."""

    weight_concentration: Concentration
    mean_precision: Array
    means: Array
    degrees_of_freedom: Array
    covariances: Array
    precisions_cholesky: Array


def update(shape: Shape, prior: Prior, moments: Moments) -> Parameters:
    """The optimal q given the moments.

    Raises
    ------
    ValueError
        A covariance is not positive definite.
    """
    counts, xbar, scatters, _ = moments
    K, D = xbar.shape
    if prior.sticks:
        later = np.append(np.cumsum(counts[:0:-1])[::-1], 0.0)
        concentration = (1.0 + counts, prior.concentration + later)
    else:
        concentration = prior.concentration + counts
    precision = prior.mean_precision + counts
    means = (prior.mean_precision * prior.mean + counts[:, None] * xbar) / precision[:, None]
    ridge = prior.ridge * np.eye(D) if shape in ("full", "tied") else prior.ridge
    pulled = outer(shape, counts * prior.mean_precision / precision, xbar - prior.mean)
    sums = beside(shape, counts) * (scatters + ridge) + pulled
    if shape == "tied":
        sums, counts = sums / K, counts.sum() / K
    degrees = prior.degrees_of_freedom + counts
    covariances = (prior.covariance + sums) / (beside(shape, degrees) if shape != "tied" else degrees)
    return Parameters(concentration, precision, means, degrees, covariances, _factors(shape, covariances))


def _factors(shape: Shape, covariances: Array) -> Array:
    """A with A A' = C^-1, upper triangular; the square roots of precisions where covariances are variances."""
    if shape in ("full", "tied"):
        try:
            lower = np.linalg.cholesky(covariances)
        except np.linalg.LinAlgError:
            lower = np.full_like(covariances, np.nan)
        factors = np.array([dtrtri(part, lower=1)[0].T for part in lower.reshape(-1, *lower.shape[-2:])]).reshape(
            lower.shape
        )
    else:
        factors = np.where(covariances > 0, covariances, np.nan) ** -0.5
    if not np.isfinite(factors).all():
        raise ValueError(
            "Fitting the mixture failed because a component's covariance is not positive definite (smallest variance: "
            f"{np.nanmin(np.diagonal(covariances, axis1=-2, axis2=-1) if shape in ('full', 'tied') else covariances):.3g}); "
            "use fewer components, increase reg_covar, or scale the data."
        )
    return factors


def _log_determinant(shape: Shape, factors: Array, D: int) -> Array:
    """Logarithm of |A_k|, of the one A if `tied`."""
    if shape in ("full", "tied"):
        return np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(axis=-1)
    return np.log(factors).sum(axis=1) if shape == "diag" else D * np.log(factors)


def log_weights(concentration: Concentration) -> Array:
    """E[log pi] (K,)."""
    if not isinstance(concentration, tuple):
        return digamma(concentration) - digamma(concentration.sum())
    a, b = concentration
    both = digamma(a + b)
    return digamma(a) - both + np.append(0.0, np.cumsum(digamma(b) - both)[:-1])


def components(shape: Shape, q: Parameters) -> Components:
    """What an E step needs of q."""
    D = q.means.shape[1]
    spread = digamma(0.5 * (q.degrees_of_freedom - np.arange(D)[:, None])).sum(axis=0) + D * math.log(2.0)
    log_scale = _log_determinant(shape, q.precisions_cholesky, D) - 0.5 * D * np.log(q.degrees_of_freedom)
    gauss = log_scale + 0.5 * (spread - D / q.mean_precision - D * math.log(2.0 * math.pi))
    return Components(log_weights(q.weight_concentration) + gauss, q.means, q.precisions_cholesky)


def lower_bound(shape: Shape, q: Parameters, entropy: float) -> float:
    """The evidence lower bound up to scikit-learn's constants; q has to be optimal given the responsibilities."""
    K, D = q.means.shape
    degrees = q.degrees_of_freedom
    log_scale = _log_determinant(shape, q.precisions_cholesky, D) - 0.5 * D * np.log(degrees)
    wishart = degrees * (log_scale + 0.5 * D * math.log(2.0)) + gammaln(0.5 * (degrees - np.arange(D)[:, None])).sum(
        axis=0
    )
    if isinstance(q.weight_concentration, tuple):
        weights = float(betaln(*q.weight_concentration).sum())
    else:
        weights = float(gammaln(q.weight_concentration).sum() - gammaln(q.weight_concentration.sum()))
    return float(
        entropy + wishart.sum() * (K if shape == "tied" else 1) + weights - 0.5 * D * np.log(q.mean_precision).sum()
    )


def step(shape: Shape, old: Parameters, new: Parameters) -> float:
    """Half the squared length of a step in posterior sds, which near the optimum is the gain in nats that it brings.

    Unlike the difference of two bounds it does not suffer from sums over many rows in single precision.
    """
    A, D = new.precisions_cholesky, new.means.shape[1]
    moved, change = new.means - old.means, new.covariances - old.covariances
    if shape in ("full", "tied"):
        moved = np.einsum("kd,kde->ke", moved, A) if shape == "full" else moved @ A
        relative = np.swapaxes(A, -1, -2) @ change @ A
    else:
        moved, relative = moved * (A if shape == "diag" else A[:, None]), change * A**2
    squares = {"full": (-2, -1), "tied": (-2, -1), "diag": -1, "spherical": ()}[shape]
    spread = 0.5 * new.degrees_of_freedom * np.sum(relative**2, axis=squares)
    spread *= {"full": 1, "tied": len(moved), "diag": 1, "spherical": D}[shape]
    a, b = (c[0] if isinstance(c, tuple) else c for c in (new.weight_concentration, old.weight_concentration))
    shares = np.sum((a - b) ** 2 / a)
    return 0.5 * float(np.sum(new.mean_precision * np.sum(moved**2, axis=1)) + np.sum(spread) + shares)
