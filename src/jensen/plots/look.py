"""What all figures have in common: colors, lines without a box, and figures that leave the caller's matplotlib alone."""

from typing import Any

BLUE, GRAY, GREEN, RED, INK = "#1f5fa8", "#c9ccd1", "#2e9e57", "#c4472f", "#333333"
"""Ours, what it is compared with, what moves, a second line, the truth."""

STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.prop_cycle": f"cycler('color', ['{BLUE}', '{RED}', '{GREEN}', '#8a8f98'])",
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "legend.frameon": False,
}
"""matplotlib settings: ``plt.style.use(jn.plots.STYLE)`` gives figures of one's own the same look."""


def figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.0, 4.0)) -> tuple[Any, Any]:
    """A figure that belongs to no window, and its panels (rows, columns)."""
    import matplotlib
    from matplotlib.figure import Figure

    # Not made by pyplot, whose list of figures and backend are the caller's.
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=size)
        return made, made.subplots(rows, columns, squeeze=False)


def animation(made: Any, draw: Any, frames: int, interval: int) -> Any:
    """A figure that moves; where its panels are is settled by the first frame, which is a third of the cost of the others."""
    from matplotlib.animation import FuncAnimation

    draw(0)
    made.draw_without_rendering()
    made.set_layout_engine("none")
    moving: Any = FuncAnimation(made, draw, frames=frames, interval=interval)
    moving._draw_was_started = True  # the first frame is there: nothing to warn of when it is not saved
    return moving
