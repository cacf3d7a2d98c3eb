"""The scalar quantities a verdict speaks about: every scalar of every site and deterministic, in the model's own space."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.core.layout import scalar_names

_MOST_DERIVED = 2000
"""Deterministics with more scalars in all are reported but not judged: they would dominate cost and memory."""


@dataclass(frozen=True)
class Draws:
    """Draws of the posterior.

    Attributes
    ----------
    z
        Unconstrained (n, D).
    log_p
        Log joint density at z (n,), on the unconstrained space.
    values, derived
        Sites and deterministics in the model's own space, draws first.
    """

    z: np.ndarray
    log_p: np.ndarray
    values: dict[str, np.ndarray]
    derived: dict[str, np.ndarray]

    def take(self, rows: np.ndarray) -> "Draws":
        """Some of the draws."""
        return Draws(
            self.z[rows],
            self.log_p[rows],
            {name: value[rows] for name, value in self.values.items()},
            {name: value[rows] for name, value in self.derived.items()},
        )


def resampled(weights: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows (n,) in random order, each as often as its weight says, to within one (systematic resampling)."""
    places = (np.arange(n) + rng.uniform()) / n
    order = rng.permutation(len(weights))
    rows = order[np.searchsorted(np.cumsum(weights[order]), places * (1 - 1e-12))]
    return rng.permutation(rows)


def by_variable(variables: tuple[Any, ...], flat: np.ndarray) -> dict[str, np.ndarray]:
    """Split numbers of all scalars (K,) into one array of the variable's shape each."""
    found, start = {}, 0
    for variable in variables:
        size = int(np.prod(variable.shape))
        found[variable.name] = flat[start : start + size].reshape(variable.shape).copy()
        start += size
    return found


def columns(draws: Draws, variables: tuple[Any, ...]) -> np.ndarray:
    """All scalars of the variables (n, K)."""
    arrays = [draws.values.get(each.name, draws.derived.get(each.name)) for each in variables]
    return np.concatenate([np.asarray(array, float).reshape(len(draws.log_p), -1) for array in arrays], axis=1)


def moments(x: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, sd and quantiles of columns x (n, K) under weights (n,), in the order of a table."""
    with np.errstate(over="ignore", invalid="ignore"):  # of a q that is far off
        mean = weights @ x
        low, middle, high = weighted_quantiles(x, weights, (0.05, 0.5, 0.95))
        return {"mean": mean, "sd": np.sqrt(weights @ (x - mean) ** 2), "5%": low, "50%": middle, "95%": high}


def names(model: Any) -> list[str]:
    """Names of the judged scalars."""
    return [name for variable in _judged(model) for name in scalar_names(variable, model.coords)]


def matrix(model: Any, values: dict[str, np.ndarray], derived: dict[str, np.ndarray]) -> np.ndarray:
    """The judged scalars as columns (n, K)."""
    columns = []
    for variable in _judged(model):
        array = values[variable.name] if variable.name in values else derived[variable.name]
        columns.append(np.asarray(array, float).reshape(len(array), -1))
    return np.concatenate(columns, axis=1)


def _judged(model: Any) -> tuple[Any, ...]:
    derived = sum(int(np.prod(variable.shape)) for variable in model.derived)
    return model.sites + (model.derived if derived <= _MOST_DERIVED else ())


def weighted_quantiles(x: np.ndarray, weights: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Quantiles (levels, K) of columns x (n, K)."""
    if np.ptp(weights) == 0:
        return np.quantile(x, levels, axis=0)
    order = np.argsort(x, axis=0)
    mass = np.cumsum(weights[order], axis=0)
    found = []
    for level in levels:
        row = np.minimum((mass < level).sum(0), len(x) - 1)
        found.append(np.take_along_axis(x, np.take_along_axis(order, row[None], 0), 0)[0])
    return np.array(found)
