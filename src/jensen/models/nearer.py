"""Newton steps on more rows than a subsample has, before any pass over all: from the subsample's mode towards that of all rows.

With R random rows of weights w_i = N / R, and what is not in rows (priors, other factors) apart,

    z <- z - H^-1 g,    g, H of  rest(z) + sum_i w_i l_i(z)

The mode of R rows is off by sqrt(N / R) posterior sds, that of a subsample of n = 20 D rows by sqrt(N / n) and by a bias of the
order D / n of its parameters, which made the first anchored rounds long. R is such that all steps cost less than one pass.

Requires: D up to 64; rows that are conditionally independent.
"""

from collections.abc import Mapping

import numpy as np

from jensen.models.rows import Rows
from jensen.models.target import Target

_DIFFERENCE = 1e-4
"""Step of the differences of gradients of what is not in rows."""
_FAR = 10.0
"""Square of the length of a step, in sds and for each dimension, from which on another one is worth it."""

Some = tuple[Mapping[str, np.ndarray], np.ndarray]
"""Arrays of rows, and their weights."""


def nearer(rows: Rows, some: Some, rest: Target, point: np.ndarray, steps: int) -> np.ndarray:
    """A point (D,) of higher log density of some rows and the rest; `point` where there is no peak around it.

    Parameters
    ----------
    rows
        Has the programs.
    some
        The R rows.
    rest
        The log density of what is not in rows.
    point, steps
        Where to begin, and most steps.
    """
    value, slope, curvature = _at(rows, some, rest, point)
    for _ in range(steps):
        try:
            factor = np.linalg.cholesky(-curvature)
        except np.linalg.LinAlgError:  # no peak near here, or NaN
            break
        step = np.linalg.solve(factor.T, np.linalg.solve(factor, slope))
        there = _at(rows, some, rest, point + step)
        if not there[0] > value:
            break
        point, far = point + step, slope @ step > _FAR * len(point)
        value, slope, curvature = there
        if not far:
            break
    return point


def _at(rows: Rows, some: Some, rest: Target, point: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Log density, gradient (D,) and Hessian (D, D) at a point (D,)."""
    values, slopes = rest(np.concatenate([point[None], point + _DIFFERENCE * np.eye(len(point))]))
    curvature = (slopes[1:] - slopes[0]) / _DIFFERENCE
    value, slope, hessian = rows.hessian_of(*some, point)
    return values[0] + value, slopes[0] + slope, 0.5 * (curvature + curvature.T) + hessian
