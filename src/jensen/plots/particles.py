"""Particles on their way: annealing, then Stein variational gradient descent, over the density that they come to stand for."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jensen.core.errors import OptionError
from jensen.plots import plane
from jensen.plots.look import BLUE, GRAY, INK, animation, figure

_HOLD = 8
"""Frames at the end in which nothing moves."""
_BINS = 80


def particles(track: Any, model: Any = None, *, data: Mapping[str, Any] | None = None, dims: Any = (0, 1)) -> Any:
    """Animate the particles of a fit by SVGD, one frame a record.

    Parameters
    ----------
    track
        A mapping with ``"points"``, a sequence of arrays (n, D): ``jn.Tracker(points=lambda s: s.q.points)`` after a fit.
    model, data
        The model, as for `jensen.fit`, or a fit of it: its density is drawn behind, where it has one or two unconstrained
        dimensions. Without it there are particles only.
    dims
        Which two coordinates of the particles are drawn, where there are more than two.

    Returns
    -------
    matplotlib.animation.FuncAnimation
        To be saved: ``animation.save("particles.gif", writer="pillow")``.

    Raises
    ------
    OptionError
        When the record has no points.
    """
    frames = _frames(track)
    dim = frames[0].shape[1]
    density = None if model is None else plane.log_density(model, data)
    if density is not None and len(density.names) != dim:
        raise OptionError(
            f"the particles have {dim} dimensions and the model {len(density.names)}; give their own model."
        )
    made, panels = figure(size=(6.0, 4.0) if dim == 1 else (5.6, 5.2))
    axes = panels[0, 0]
    update = _along_a_line(axes, frames, density) if dim == 1 else _in_a_plane(axes, frames, density, dims)

    def draw(frame: int) -> list[Any]:
        shown = min(frame, len(frames) - 1)
        axes.set_title(f"{len(frames[shown]):,} particles, record {shown + 1} of {len(frames)}")
        return update(frames[shown])

    return animation(made, draw, len(frames) + _HOLD, 120)


def _frames(track: Any) -> list[np.ndarray]:
    try:
        frames = [np.asarray(points, float) for points in track["points"]]
    except (KeyError, TypeError, IndexError) as error:
        raise OptionError(
            f"a track must have 'points', such as jn.Tracker(points=lambda s: s.q.points) after a fit; got {track!r}."
        ) from error
    if not frames or any(points.ndim != 2 or points.shape[1] != frames[0].shape[1] for points in frames):
        raise OptionError(
            f"a track needs at least one array of points (n, D); got {[points.shape for points in frames]}."
        )
    return frames


def _limits(frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Corners around nearly all points of all records, and all of the last."""
    every = np.concatenate(frames)
    low = np.minimum(np.quantile(every, 0.01, axis=0), frames[-1].min(0))
    high = np.maximum(np.quantile(every, 0.99, axis=0), frames[-1].max(0))
    room = 0.06 * (high - low)
    return low - room, high + room


def _along_a_line(axes: Any, frames: list[np.ndarray], density: plane.LogDensity | None) -> Any:
    """A histogram that changes over the density, with the particles as ticks below."""
    low, high = (float(end[0]) for end in _limits(frames))
    edges = np.linspace(low, high, _BINS + 1)
    top = max(np.histogram(frames[-1][:, 0], edges, density=True)[0].max(), 1e-12)
    if density is not None:
        grid = np.linspace(low, high, 801)
        log_p = density.at(grid[:, None])
        p = np.exp(log_p - log_p.max())
        p /= p.sum() * (grid[1] - grid[0])
        axes.plot(grid, p, color=INK, linewidth=1.2, zorder=4)
        axes.set_xlabel(density.names[0])
        top = max(top, p.max())
    bars = axes.bar(edges[:-1], np.zeros(_BINS), np.diff(edges), align="edge", color=GRAY)
    (ticks,) = axes.plot([], [], "|", color=BLUE, markersize=9, alpha=0.3)
    axes.set(xlim=(low, high), ylim=(-0.08 * top, 1.15 * top), yticks=[])
    axes.spines["left"].set_visible(False)

    def update(points: np.ndarray) -> list[Any]:
        for bar, tall in zip(bars, np.histogram(points[:, 0], edges, density=True)[0], strict=True):
            bar.set_height(tall)
        ticks.set_data(points[:, 0], np.full(len(points), -0.04 * top))
        return [*bars, ticks]

    return update


def _in_a_plane(axes: Any, frames: list[np.ndarray], density: plane.LogDensity | None, dims: Any) -> Any:
    """Dots, over contours where the model has two dimensions."""
    first, second = dims
    shown = [points[:, [first, second]] for points in frames]
    low, high = _limits(shown)
    if density is not None and len(density.names) == 2 and (first, second) == (0, 1):
        plane.plane(density, low, high).draw(axes)
    names = [f"z[{k}]" for k in dims] if density is None else [density.names[k] for k in dims]
    (dots,) = axes.plot([], [], ".", color=BLUE, markersize=4, alpha=0.6, zorder=3)
    axes.set(xlabel=names[0], ylabel=names[1], xlim=(low[0], high[0]), ylim=(low[1], high[1]))

    def update(points: np.ndarray) -> list[Any]:
        dots.set_data(*points[:, [first, second]].T)
        return [dots]

    return update
