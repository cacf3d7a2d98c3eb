"""Which rows stand for all: random ones, and of those with rare values more than their share.

A subsample without a positive row knows nothing about the intercept of a logistic regression, and one without a row in which a
dummy variable is set nothing about its coefficient. So a variable with few values is looked through: rows in which some value is
rare form a stratum of their own, taken whole up to a quarter of the subsample. Weights N_s / n_s keep every sum unbiased.
"""

from collections.abc import Iterator, Mapping

import numpy as np

_FEW = 20
"""A variable with at most this many values in the first look has few values."""
_LOOK = 2000
_COMMON = 0.05
"""Share of the rows from which on a value is common."""
_RARE_SHARE = 0.25
"""Largest part of the subsample that goes to rows with rare values."""


def choose(rng: np.random.Generator, arrays: Mapping[str, np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a subsample, in order, and their weights.

    Parameters
    ----------
    rng
        Of the choice.
    arrays
        Name -> array with the rows as first axis.
    n
        Number of rows wanted.

    Returns
    -------
    rows, weights
        (n,) each; the weights sum to the number of all rows.
    """
    total = len(next(iter(arrays.values())))
    look = rng.choice(total, min(_LOOK, total), replace=False)
    rare = np.zeros(total, bool)
    for column in _columns(arrays):
        values, counts = np.unique(column[look], return_counts=True)
        if len(values) <= _FEW:
            rare |= ~np.isin(column, values[counts >= _COMMON * len(look)])
    strata = [np.flatnonzero(rare), np.flatnonzero(~rare)]
    few = min(len(strata[0]), int(_RARE_SHARE * n)) if len(strata[1]) else n
    rows, weights = [], []
    for members, size in zip(strata, (few, n - few), strict=True):
        if size:
            rows.append(rng.choice(members, size, replace=False))
            weights.append(np.full(size, len(members) / size))
    chosen, weight = np.concatenate(rows), np.concatenate(weights)
    order = np.argsort(chosen)
    return chosen[order], weight[order]


def _columns(arrays: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    for array in arrays.values():
        if array.ndim == 1:
            yield array
        elif array.ndim == 2:
            yield from array.T
