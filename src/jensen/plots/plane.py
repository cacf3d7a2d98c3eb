"""A log density with two unconstrained dimensions on a grid: contours that hold 20, 50, 80 and 95% of it, and points from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.core import layout
from jensen.core.errors import OptionError
from jensen.core.precision import scope
from jensen.models.read import read
from jensen.models.target import Target
from jensen.plots.look import INK

_SIDE = 120
"""Points along each side of the grid."""
_MASSES = (0.95, 0.8, 0.5, 0.2)


@dataclass(frozen=True)
class LogDensity:
    """Names of the unconstrained coordinates, and log p at points (n, D)."""

    names: tuple[str, ...]
    at: Callable[[np.ndarray], np.ndarray]


def log_density(model: Any, data: Mapping[str, Any] | None = None) -> LogDensity:
    """The log density of a model, or of the model of a fit, on the unconstrained space."""
    record = read(model.model if hasattr(model, "kept") else model, data)
    with scope("float64"):
        target = Target(record)

    def at(z: np.ndarray) -> np.ndarray:
        with scope("float64"):
            return np.asarray(target(np.asarray(z, float))[0])

    return LogDensity(_names(record), at)


def of_two(model: Any, data: Mapping[str, Any] | None = None) -> LogDensity:
    """The same, of a model with two unconstrained dimensions.

    Raises
    ------
    OptionError
        When it has another number of them.
    """
    found = log_density(model, data)
    if len(found.names) != 2:
        raise OptionError(
            f"the model has {len(found.names)} unconstrained dimensions, and contours are drawn of two; give one with two."
        )
    return found


@dataclass(frozen=True)
class Plane:
    """The density on a grid: coordinates (n,), (m,), and masses of the cells (m, n), which sum to one."""

    x: np.ndarray
    y: np.ndarray
    mass: np.ndarray

    def draw(self, axes: Any, color: str = INK, linewidth: float = 1.0) -> None:
        """Contours of the regions of highest density."""
        order = np.sort(self.mass.ravel())[::-1]
        held = np.cumsum(order)
        levels = sorted({float(order[min(np.searchsorted(held, mass), len(order) - 1)]) for mass in _MASSES})
        axes.contour(self.x, self.y, self.mass, levels=levels, colors=color, linewidths=linewidth)

    def points(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draws (n, 2), each somewhere in its cell."""
        rows, columns = np.unravel_index(rng.choice(self.mass.size, n, p=self.mass.ravel()), self.mass.shape)
        cell = np.array([self.x[1] - self.x[0], self.y[1] - self.y[0]])
        return np.stack([self.x[columns], self.y[rows]], 1) + cell * rng.uniform(-0.5, 0.5, (n, 2))


def plane(density: LogDensity, low: np.ndarray, high: np.ndarray) -> Plane:
    """The density between two corners (2,)."""
    x, y = (np.linspace(low[axis], high[axis], _SIDE) for axis in range(2))
    log_p = density.at(np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)).reshape(_SIDE, _SIDE)
    log_p = np.where(np.isfinite(log_p), log_p, -np.inf)
    mass = np.exp(log_p - log_p.max())
    return Plane(x, y, mass / mass.sum())


def _names(record: Any) -> tuple[str, ...]:
    """Names of coordinates; those of sites that are not on the real line say so."""
    found: list[str] = []
    for site in record.sites:
        same = site.free_shape == site.shape
        names = layout.scalar_names(site, record.coords) if same else [f"{site.name} {k}" for k in range(site.size)]
        found += names if site.support == "real" else [f"{name} (unconstrained)" for name in names]
    return tuple(found)
