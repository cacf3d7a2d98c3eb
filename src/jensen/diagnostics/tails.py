"""Does the sd of a scale have an error? How fast the tail of a positive site falls, from gradients at its largest draws.

Where a marginal density falls like x^-(a + 1), the sd estimated from draws has an error of finite variance only for a > 4. For a
of 3 it comes out too small by a quarter from any affordable number of draws, with small standard errors. Draws do not show
their tail index, but their gradients do (Fisher's identity): with z = log x,

    d log p(z) / dz = E[ d log p(all coordinates) / dz | z ]  ->  -a,

so that minus the mean gradient at the largest hundredth of the draws is a, or more where the density falls faster further out.

Reference: Louis (1982), Finding the observed information matrix when using the EM algorithm, JRSS B 44 (the identity).
"""

from typing import Any

import numpy as np

from jensen.diagnostics import quantities
from jensen.diagnostics.quantities import Draws

SLOWEST = 3.5
"""Index below which an sd is not trusted: models whose sds are right have 3.6 and more, an inverse gamma of shape 3 has 2.6."""
WHY = "a tail falls so slowly that draws do not tell the sd"
_END = 100
_FEWEST = 16


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
    column = coordinate = 0
    for site in model.sites:
        if site.support == "positive" and site.shape == site.free_shape:
            here = slice(coordinate, coordinate + site.size)
            x = np.asarray(draws.values[site.name], float).reshape(len(draws.z), -1)
            found[column : column + site.size] = _index(draws.z[:, here], x, gradient[:, here]) < slowest
        column, coordinate = column + int(np.prod(site.shape)), coordinate + site.size
    return found


def _index(z: np.ndarray, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Index of the upper tails of columns x = c exp(z) (n, k); infinite for those that are another function of z."""
    most = max(len(z) // _END, _FEWEST)
    last = np.argpartition(z, -most, axis=0)[-most:]
    z, x, gradient = (np.take_along_axis(values, last, 0) for values in (z, x, gradient))
    exponential = np.ptp(np.log(x) - z, axis=0) < 1e-6 * (1 + np.ptp(z, axis=0))
    return np.where(exponential, -gradient.mean(0), np.inf)
