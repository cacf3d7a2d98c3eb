"""The bound over the steps of a fit, and where the rungs of the ladder ended."""

from typing import Any

import numpy as np

from jensen.plots.look import BLUE, GRAY, INK, figure

_MARKED = 60
"""Most steps of which every one has a mark."""
_NOISY = 400
"""Steps from which on a running mean over one in fifty of them is drawn through the rest."""
_NATS = 2.0
"""Least height of the panel: smaller differences matter to nobody."""


def elbo(posterior: Any) -> Any:
    """Draw the ELBO over the steps of a fit, its value on fresh draws, and the rungs that were tried above it.

    Parameters
    ----------
    posterior
        A fit. One without an ELBO, such as SVGD's, shows what it minimized instead.

    Returns
    -------
    matplotlib.figure.Figure

    Notes
    -----
    The steps are on the design of the fit, which draws of its own make look a little better than it is; the dashed line is on
    fresh draws, and so are the rungs.
    """
    made, panels = figure(size=(6.4, 4.0))
    axes = panels[0, 0]
    if np.isnan(posterior.elbo.value):
        curve(axes, posterior.history["loss"], nats=0.0)
        axes.set(title="no ELBO: what was minimized instead", ylabel="loss")
        return made
    history = posterior.history["elbo"]
    curve(axes, history)
    axes.set_title(f"ELBO on fresh draws: {posterior.elbo}")
    if np.isfinite(posterior.elbo.value):
        axes.axhline(posterior.elbo.value, color=INK, linewidth=0.9, linestyle="--")
        _rungs(axes, posterior.run.rungs, len(history))
        _room(axes, [posterior.elbo.value])
    return made


def curve(axes: Any, history: np.ndarray, nats: float = _NATS) -> None:
    """The history of a fit; the panel follows its last three quarters, so that the first steps do not flatten the rest."""
    steps = np.arange(1, len(history) + 1)
    noisy = len(history) > _NOISY
    mark = "o" if len(history) <= _MARKED else None
    color, width = (GRAY, 0.7) if noisy else (BLUE, 1.8)
    axes.plot(steps, history, color=color, linewidth=width, marker=mark, markersize=3.5)
    if noisy:
        window = len(history) // 50
        mean = np.convolve(history, np.full(window, 1 / window), mode="valid")
        axes.plot(steps[window - 1 :], mean, color=BLUE, linewidth=1.8, label=f"mean of {window:,} steps")
        axes.legend(frameon=False)
    later = history[len(history) // 4 :]
    later = later[np.isfinite(later)]
    if len(later):
        low, high = np.quantile(later, [0.005, 0.995]) if noisy else (later.min(), later.max())
        low = min(low, high - nats)
        room = 0.1 * (high - low) or 1.0
        axes.set_ylim(low - room, high + room)
    axes.set(xlabel="step", ylabel="ELBO")


def _rungs(axes: Any, rungs: tuple[Any, ...], steps: int) -> None:
    """Values on fresh draws, to the right of the steps: full marks for those that were kept."""
    shown = [rung for rung in rungs if np.isfinite(rung.elbo.value)]
    if not shown:
        return
    at = steps * (1.15 + 0.17 * np.arange(len(shown)))
    for x, rung in zip(at, shown, strict=True):
        face = BLUE if rung.kept else "white"
        axes.errorbar(
            x, rung.elbo.value, 2 * rung.elbo.error, fmt="D", color=BLUE, markerfacecolor=face, markersize=6, capsize=3
        )
        word = rung.name if rung.kept else f"{rung.name}\n(not kept)"
        top = rung.elbo.value + 2 * rung.elbo.error
        axes.annotate(word, (x, top), (0, 8), textcoords="offset points", ha="center", fontsize=8)
    axes.axvline(1.04 * steps, color=GRAY, linewidth=0.9, linestyle=":")
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= steps])
    axes.set_xlim(right=at[-1] + 0.11 * steps)
    _room(axes, [rung.elbo.value + sign * 2 * rung.elbo.error for rung in shown for sign in (-1, 1)])


def _room(axes: Any, values: list[float]) -> None:
    """Make room for more values."""
    low, high = axes.get_ylim()
    room = 0.12 * (max(high, *values) - min(low, *values))
    axes.set_ylim(min(low, *(value - room for value in values)), max(high, *(value + room for value in values)))
