"""Expectations over a Gaussian, E[f(x)] = sum_k w_k f(mean + L t_k): by the rule of Gauss and Hermite, or by points of Sobol."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from jensen.core.sobol import LARGEST, sobol

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(31)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
PAIRS = 64
"""Fewest pairs of draws."""


def expected(function: Callable[[Any], Any], mean: Any, variance: Any) -> Any:
    """The expectation, element by element.

    Parameters
    ----------
    function
        Elementwise, of arrays with one axis more in front.
    mean, variance
        Arrays of one shape.
    """
    # A point mass has nodes too; its root must have a derivative.
    x = mean + jnp.sqrt(variance + 1e-300) * jnp.asarray(NODES).reshape(-1, *(1,) * jnp.ndim(mean))
    return jnp.tensordot(jnp.asarray(WEIGHTS), function(x), 1)


@cache
def standard(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (M, size) and weights (M,) with which polynomials of a standard normal vector have the right expectation."""
    if size == 1:
        return NODES[:, None], WEIGHTS
    if size == 2:
        some, weights = np.polynomial.hermite_e.hermegauss(15)
        weights = weights / weights.sum()
        return np.stack([np.repeat(some, 15), np.tile(some, 15)], 1), np.outer(weights, weights).reshape(-1)
    from scipy.special import ndtri

    pairs, rng = max(PAIRS, 2 ** int(np.ceil(np.log2(2 * size)))), np.random.default_rng(0)
    first = sobol(min(size, LARGEST), pairs, rng)
    # In more dimensions so few points fill no more than each by itself: a Latin hypercube, no worse than Sobol's there.
    others = rng.permuted(np.tile(np.arange(pairs), (size - first.shape[1], 1)), axis=1).T
    points = ndtri(np.concatenate([first, (others + 0.5) / pairs], 1))
    both = np.concatenate([points, -points])
    root = np.linalg.cholesky(both.T @ both / len(both))
    return np.linalg.solve(root, both.T).T, np.full(len(both), 1 / len(both))
