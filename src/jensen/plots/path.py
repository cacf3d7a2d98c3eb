"""The way of a fit through a plane: contours of what it climbs, the points it visits, the ellipse of where it ends.

For coordinate ascent the way has corners: a sweep moves along the first axis, then along the second. Where the two are correlated
the steps are short, and the ellipse of a mean-field q, whose axes are those of the plane, is much narrower than the target's.

Reference: Blei, Kucukelbir & McAuliffe (2017), Variational inference: a review for statisticians, JASA 112, figure 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jensen.core.errors import OptionError

MASS = (0.5, 0.9, 0.99)
"""Shares of a Gaussian's mass inside of the inner contours; ellipses hold the middle one."""
_DROPS = -np.log(1 - np.array(MASS))
_DROPS = np.concatenate([_DROPS, _DROPS[-1] * 2.0 ** np.arange(1, 7)])
"""How far the contours lie below the top: those of the shares of mass, then each twice as far as the one before."""
_GRID = 120
_MARGIN = 0.12


def path(
    log_density: Callable[[np.ndarray], Any],
    points: Any,
    *,
    cov: Any = None,
    names: Sequence[str] = ("x", "y"),
    corners: bool = True,
) -> Any:
    """Draw the way of a fit on the contours of a function of two variables.

    Parameters
    ----------
    log_density
        Of points (n, 2): n numbers, the height. The inner contours hold 50, 90 (dark) and 99% of a Gaussian log density's mass;
        an ELBO as a function of two parameters will do as well.
    points
        (steps, 2), where the fit was after each step, such as the means of q that a `jensen.Tracker` recorded.
    cov
        Covariance (2, 2) of the approximation at the end, or its two variances: the ellipse of 90% of it.
    names
        Of the two variables.
    corners
        Draw each step along the first axis, then along the second, which is how a sweep of coordinate ascent goes.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    OptionError
        When the points are no finite (steps, 2) array, or the height is nowhere finite around them.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Ellipse

    points = _checked(points)
    way = _with_corners(points) if corners else points
    width, height, angle = (0.0, 0.0, 0.0) if cov is None else _ellipse(cov)
    x, y, z = _heights(log_density, way, max(width, height))
    figure, axes = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
    levels = np.sort(np.nanmax(z[np.isfinite(z)]) - _DROPS)
    axes.contour(x, y, z, levels, colors="0.7", linewidths=0.8, linestyles="solid")
    axes.contour(x, y, z, levels[[-2]], colors="0.3", linewidths=1.2, linestyles="solid")
    if cov is not None:
        axes.add_patch(
            Ellipse(tuple(points[-1]), width, height, angle=angle, alpha=0.35, color="tab:green", label="90% of q")
        )
    axes.plot(*way.T, color="tab:blue", linewidth=1.2)
    axes.plot(*points.T, "o", color="tab:blue", markersize=3, label="after each step")
    axes.plot(*points[0], "o", color="tab:blue", markersize=8, fillstyle="none", label="start")
    axes.plot(*points[-1], "*", color="tab:orange", markersize=11, label="end")
    axes.set(xlabel=names[0], ylabel=names[1], xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axes.legend(loc="best", frameon=False, fontsize="small")
    return figure


def _checked(points: Any) -> np.ndarray:
    found = np.asarray(points, float)
    if found.ndim != 2 or found.shape[1] != 2 or not len(found) or not np.isfinite(found).all():
        raise OptionError(
            f"points must be finite numbers of shape (steps, 2); got shape {found.shape}; a path is drawn in two dimensions."
        )
    return found


def _with_corners(points: np.ndarray) -> np.ndarray:
    """The way that moves along the first axis, then along the second: (2 steps - 1, 2)."""
    found = np.repeat(points, 2, axis=0)[:-1]
    found[1::2, 0] = points[1:, 0]
    return found


def _ellipse(cov: Any) -> tuple[float, float, float]:
    """Both diameters of the ellipse with the middle share of a Gaussian's mass, and the angle of the first, in degrees."""
    cov = np.asarray(cov, float)
    cov = np.diag(cov) if cov.ndim == 1 else cov
    if cov.shape != (2, 2) or not np.isfinite(cov).all():
        raise OptionError(f"cov must be a (2, 2) covariance or two variances; got shape {cov.shape}.")
    values, vectors = np.linalg.eigh(cov)
    if values[0] < 0:
        raise OptionError(
            f"cov is no covariance: it has the eigenvalue {values[0]:.3g}; give variances, not logarithms."
        )
    diameters = 2 * np.sqrt(values * -2 * np.log(1 - MASS[1]))
    return diameters[0], diameters[1], float(np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0])))


def _heights(
    log_density: Callable[[np.ndarray], Any], way: np.ndarray, diameter: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axes and heights of a grid around the way, with room for the ellipse and for the contours around the end."""
    low, high = way.min(0), way.max(0)
    low, high = np.minimum(low, way[-1] - 0.5 * diameter), np.maximum(high, way[-1] + 0.5 * diameter)
    reach = np.maximum(high - low, 1e-12)
    for _ in range(12):  # until the inner contours close
        margin = _MARGIN * reach
        x, y = (np.linspace(*ends, _GRID) for ends in zip(low - margin, high + margin, strict=True))
        grid = np.stack(np.meshgrid(x, y), -1)
        z = np.asarray(log_density(grid.reshape(-1, 2)), float).reshape(_GRID, _GRID)
        if not np.isfinite(z).any():
            raise OptionError(
                "log_density is finite nowhere around the points; it takes points (n, 2) and returns (n,)."
            )
        inside = z > np.nanmax(z) - _DROPS[len(MASS) - 1]
        open_low = np.array([inside[:, 0].any(), inside[0].any()])
        open_high = np.array([inside[:, -1].any(), inside[-1].any()])
        if not (open_low.any() or open_high.any()):
            break
        low, high = low - 0.25 * reach * open_low, high + 0.25 * reach * open_high
        reach = high - low
    return x, y, z
