"""Linear response: covariances from a mean-field fit.

Mean-field means are often right where its sds are not: they are those of conditionals. How the optimum (m, log s) moves when
the log density is tilted gives the covariance that was left out:

    Cov = [H^-1]_mm = s (A - B C^-1 B')^-1 s,      H = Hessian of the fixed-draw objective at (m / s, log s) = [A B; B' C]

H comes from central differences of the fixed-draw gradient, on the fit's own program: no second program. Above D = 200 only
A, the smoothed curvature, is formed (Stein's identity, 4 D gradients); the coupling of means to widths, zero for Gaussian
posteriors, is left out there.

Requires a converged mean-field q; where H is not positive definite, q is no minimum and there is no answer.
Reference: Giordano, Broderick, Jordan (2018), Covariances, robustness, and variational Bayes, JMLR 19(51).
"""

from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import ModelError, OptionError
from jensen.engines.designs import Design, orthogonal
from jensen.families.fullrank import DenseGaussian, from_factor
from jensen.families.meanfield import DiagonalGaussian

LARGEST_DIM = 5000
_DENSE = 200
_STEP = 1e-4


def linear_response(target: Any, q: DiagonalGaussian, *, seed: int) -> DenseGaussian:
    """Gaussian with q's mean and the covariance of linear response.

    Parameters
    ----------
    target
        The log density.
    q
        A converged mean-field approximation.
    seed
        Of the design.

    Raises
    ------
    OptionError
        When q is not mean-field.
    ModelError
        When the Hessian is not positive definite.
    """
    if not isinstance(q, DiagonalGaussian):
        raise OptionError("linear response repairs mean-field fits; this q has a full covariance already.")
    if q.dim > LARGEST_DIM:
        raise OptionError(
            f"linear response forms a {q.dim} x {q.dim} matrix; it is made for up to {LARGEST_DIM} dimensions."
        )
    mean, sd = np.asarray(q.mean), np.asarray(q.sd)
    design = orthogonal(keys.generator(seed, "linear response"), q.dim, 32 if q.dim <= _DENSE else 4 * q.dim)
    precision = _schur(target, mean, sd, design) if q.dim <= _DENSE else _smoothed(target, mean, sd, design)
    w, v = np.linalg.eigh(0.5 * (precision + precision.T))
    if not np.isfinite(w).all() or w[0] <= 0:
        raise ModelError(
            f"linear response has no answer: the Hessian of the ELBO is not positive definite at this fit (smallest "
            f"eigenvalue {w[0]:.2g} in q's units), so it is no maximum; refine the fit, or use method='fullrank'."
        )
    return from_factor(mean, sd[:, None] * (v / np.sqrt(w)))


def _slope(target: Any, mean: np.ndarray, sd: np.ndarray, design: Design) -> np.ndarray:
    """Gradient (2 D,) of the fixed-draw objective with respect to (m / s, log s)."""
    u = target(mean + design.points * sd)[1] * sd * design.weights[:, None]
    return np.concatenate([-u.sum(0), -(u * design.points).sum(0) - 1])


def _schur(target: Any, mean: np.ndarray, sd: np.ndarray, design: Design) -> np.ndarray:
    dim = len(mean)
    columns = []
    for coordinate in range(2 * dim):
        shift = np.zeros(2 * dim)
        shift[coordinate] = _STEP
        ends = [
            # The gradient is taken per unit of the *fitted* sds, so that the differences are one Hessian's columns.
            _slope_in_units(target, mean + sign * shift[:dim] * sd, sd * np.exp(sign * shift[dim:]), sd, design)
            for sign in (1.0, -1.0)
        ]
        columns.append((ends[0] - ends[1]) / (2 * _STEP))
    hessian = np.array(columns)
    hessian = 0.5 * (hessian + hessian.T)
    a, b, c = hessian[:dim, :dim], hessian[:dim, dim:], hessian[dim:, dim:]
    return a - b @ np.linalg.solve(c, b.T)


def _slope_in_units(target: Any, mean: np.ndarray, sd: np.ndarray, unit: np.ndarray, design: Design) -> np.ndarray:
    slope = _slope(target, mean, sd, design)
    slope[: len(mean)] *= unit / sd
    return slope


def _smoothed(target: Any, mean: np.ndarray, sd: np.ndarray, design: Design) -> np.ndarray:
    u = target(mean + design.points * sd)[1] * sd * design.weights[:, None]
    return -u.T @ design.points
