"""Does the sd of a scale have an error? How fast the tail of a positive site falls, from gradients at its largest draws.

Where a marginal density falls like x^-(a + 1), the sd estimated from draws has an error of finite variance only for a > 4. For a
of 3 it comes out too small by a quarter from any affordable number of draws, with small standard errors. Draws do not show
their tail index, but their gradients do (Fisher's identity): with z = log x,

    d log p(z) / dz = E[ d log p(all coordinates) / dz | z ]  ->  -a,

so that minus the mean gradient at the largest hundredth of the draws is a, or more where the density falls faster further out.
Where a scale has such a tail, locations that it spreads have it as well: E[x d log p / dx | x] = -(a + 1), x from the median.

Reference: Louis (1982), Finding the observed information matrix when using the EM algorithm, JRSS B 44 (the identity).
"""

from typing import Any

import numpy as np

from jensen.diagnostics import quantities
from jensen.diagnostics.quantities import Draws

SLOWEST = 3.5
"""Index below which an sd is not trusted: models whose sds are right have 3.6 and more, an inverse gamma of shape 3 has 2.6."""
NO_MEAN = 2.0
"""Index below which a mean is not trusted either: draws show one with an error of finite variance above it."""
WHY = "a tail falls so slowly that draws do not tell the sd"
_END = 100
_FEWEST = 16
_WITH = 0.7
"""Rank of a scale, as a share of the draws, from which on it makes the far draws of a location."""


def heavy(model: Any, draws: Draws, gradient: np.ndarray, slowest: float = SLOWEST) -> np.ndarray:
    """Which quantities' sds no number of draws tells, (K,).

    Parameters
    ----------
    model
        Whose sites they are.
    draws
        In proportion to the posterior.
    gradient
        Of the log density on the unconstrained space, at the draws (n, D).
    slowest
        Index below which a tail is heavy.
    """
    found = np.zeros(len(quantities.names(model)), bool)
    spread = np.zeros(len(draws.z))
    for support in ("positive", "real"):
        column = coordinate = 0
        for site in model.sites:
            if site.support == support and site.shape == site.free_shape:
                here, there = slice(coordinate, coordinate + site.size), slice(column, column + site.size)
                z, score = draws.z[:, here], gradient[:, here]
                if support == "positive":
                    x = np.asarray(draws.values[site.name], float).reshape(len(z), -1)
                    found[there] = _of_scales(z, x, score) < slowest
                    ranks = z.argsort(0).argsort(0)[:, found[there]] / len(z)
                    spread = np.maximum(spread, ranks.max(1, initial=0.0))
                else:
                    found[there] = _of_locations(z, score, spread) < slowest
            column, coordinate = column + int(np.prod(site.shape)), coordinate + site.size
        if not found.any():
            break
    return found


def _of_scales(z: np.ndarray, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Index of the upper tails of columns x = c exp(z) (n, k); infinite for those that are another function of z."""
    z, x, gradient = _last(z, z, x, gradient)
    exponential = np.ptp(np.log(x) - z, axis=0) < 1e-6 * (1 + np.ptp(z, axis=0))
    return np.where(exponential, -gradient.mean(0), np.inf)


def _of_locations(z: np.ndarray, gradient: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Index of both tails of columns z (n, k); infinite where no scale, of largest rank (n,), is in its own tail there."""
    away = z - np.median(z, axis=0)
    away, gradient, ranks = _last(np.abs(away), away, gradient, np.broadcast_to(spread[:, None], z.shape))
    # The median, as a far draw of a small scale has a gradient beside which the others are nothing: given x of a Student's t,
    # -x d log p / dx is about chi-squared with a + 1 degrees of freedom, whose median is 2/3 below its mean.
    return np.where(ranks.mean(0) > _WITH, -np.median(away * gradient, axis=0) + 2 / 3 - 1, np.inf)


def _last(by: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """The rows of each column at which another one is largest."""
    most = max(len(by) // _END, _FEWEST)
    last = np.argpartition(by, -most, axis=0)[-most:]
    return [np.take_along_axis(values, last, 0) for values in columns]
