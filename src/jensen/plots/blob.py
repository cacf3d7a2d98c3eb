"""The moving approximation: q from one or several starts, over the contours of the posterior.

What the picture is for: a Gaussian approximation has no chains to be run several times, but a fit can be started in several
places. Over a posterior with one mode all of them end at the same q.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jensen.core.errors import OptionError
from jensen.plots import plane
from jensen.plots.look import GREEN, INK, animation, figure

_HOLD = 0.25
"""Share of frames at the end in which nothing moves."""
_POINTS = 250


def blob(tracks: Any, model: Any, *, data: Mapping[str, Any] | None = None, frames: int = 64) -> Any:
    """Animate Gaussian approximations (green, one and two sds) on their way over a posterior (black, contours and points).

    Parameters
    ----------
    tracks
        One record of a fit or several: mappings with ``"mean"`` (T, 2) and ``"cov"`` (T, 2, 2), such as
        ``jn.Tracker(mean=lambda s: s.q.mean, cov=lambda s: s.q.cov)`` after a fit.
    model, data
        A model with two unconstrained dimensions, as for `jensen.fit`, or a fit of it.
    frames
        Number of frames. All fits begin with the first one and end before the last; in between, frames go evenly through
        the records, and positions between two of them are interpolated.

    Returns
    -------
    matplotlib.animation.FuncAnimation
        To be saved: ``animation.save("blob.gif", writer="pillow")``.

    Raises
    ------
    OptionError
        For records or a model with another number of dimensions.
    """
    paths = [_path(track) for track in (tracks if isinstance(tracks, Sequence) else [tracks])]
    density = plane.of_two(model, data)
    low, high = _limits(paths)
    made, panels = figure(size=(5.6, 5.2))
    axes = panels[0, 0]
    truth = plane.plane(density, low, high)
    truth.draw(axes)
    axes.plot(*truth.points(_POINTS, np.random.default_rng(0)).T, ".", color=INK, markersize=2.5)
    axes.set(xlabel=density.names[0], ylabel=density.names[1], xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    shapes = [_Shape(axes, *path) for path in paths]
    moving = max(int(round((1 - _HOLD) * frames)), 2)

    def draw(frame: int) -> list[Any]:
        share = min(frame / (moving - 1), 1.0)
        return [artist for shape in shapes for artist in shape.at(share)]

    return animation(made, draw, frames, 70)


class _Shape:
    """One approximation: two ellipses, its mean, and where the mean has been."""

    def __init__(self, axes: Any, mean: np.ndarray, cov: np.ndarray):
        from matplotlib.patches import Ellipse

        self.mean, self.cov = mean, cov
        self.rings = [Ellipse((0, 0), 1, 1, color=GREEN, alpha=alpha, linewidth=0, zorder=3) for alpha in (0.25, 0.35)]
        for ring in self.rings:
            axes.add_patch(ring)
        (self.trail,) = axes.plot([], [], color=GREEN, linewidth=1.2, zorder=4)
        (self.center,) = axes.plot([], [], "o", color=GREEN, markersize=5, markeredgecolor="white", zorder=5)

    def at(self, share: float) -> list[Any]:
        """Move to a share of the record."""
        place = share * (len(self.mean) - 1)
        before = int(place)
        after, rest = min(before + 1, len(self.mean) - 1), place - before
        mean = (1 - rest) * self.mean[before] + rest * self.mean[after]
        values, vectors = np.linalg.eigh((1 - rest) * self.cov[before] + rest * self.cov[after])
        for ring, sds in zip(self.rings, (2.0, 1.0), strict=True):
            ring.set_center(tuple(mean))
            ring.width, ring.height = 2 * sds * np.sqrt(np.maximum(values, 0.0))
            ring.angle = float(np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0])))
        trail = np.concatenate([self.mean[: before + 1], mean[None]])
        self.trail.set_data(*trail.T)
        self.center.set_data(*mean[:, None])
        return [*self.rings, self.trail, self.center]


def _path(track: Any) -> tuple[np.ndarray, np.ndarray]:
    """Means (T, 2) and covariances (T, 2, 2) of a record."""
    try:
        mean, cov = np.asarray(track["mean"], float), np.asarray(track["cov"], float)
    except (KeyError, TypeError, IndexError) as error:
        raise OptionError(
            "a track must have 'mean' and 'cov', such as jn.Tracker(mean=lambda s: s.q.mean, cov=lambda s: s.q.cov) after a "
            f"fit; got {track!r}."
        ) from error
    if mean.ndim != 2 or mean.shape[1] != 2 or cov.shape != (len(mean), 2, 2) or not len(mean):
        raise OptionError(f"a track needs means (T, 2) and covariances (T, 2, 2); got {mean.shape} and {cov.shape}.")
    return mean, cov


def _limits(paths: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Corners around all that is seen: q at its start by one sd, at its end by four, and every mean between."""
    corners = []
    for mean, cov in paths:
        for row, sds in ((0, 1.2), (-1, 4.0)):
            sd = np.sqrt(np.diagonal(cov[row]))
            corners += [mean[row] - sds * sd, mean[row] + sds * sd]
        corners += [mean.min(0), mean.max(0)]
    low, high = np.min(corners, 0), np.max(corners, 0)
    return low - 0.03 * (high - low), high + 0.03 * (high - low)
