"""Marginal posteriors of a fit over those of a reference: another fit, long chains, an ArviZ object."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jensen.comparison_fits import Fit, read_fit, scalars
from jensen.core.errors import DataError, OptionError
from jensen.plots.look import BLUE, GRAY, INK, figure

_MOST = 24
"""Scalars in a figure."""
_COLUMNS = 4
_EDGES = (0.002, 0.998)
"""Quantiles between which a panel shows a marginal."""
_LEVELS = 25
"""Different whole numbers up to which a variable is drawn as counts."""


def marginals(posterior: Any, against: Any = None, var_names: Sequence[str] | None = None) -> Any:
    """Draw every scalar's marginal as a line, over the histogram of a reference where there is one.

    Parameters
    ----------
    posterior
        A fit: of jensen, or an ArviZ object.
    against
        The reference, of either kind; for example ``posterior.nuts()``.
    var_names
        Only these variables; by default those that both have, at most 24 scalars of them.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    OptionError
        For something that is no fit, or a variable that is not there.
    DataError
        When the two have no variable in common, or one with other shapes.
    """
    ours = read_fit(posterior, 0)
    theirs = None if against is None else read_fit(against, 1)
    names, first, second = _columns(ours, theirs, _wanted(ours, theirs, var_names))
    shown = len(names[:_MOST])
    columns = min(shown, _COLUMNS)
    rows = -(-shown // columns)
    made, panels = figure(rows, columns, (2.7 * columns + 0.6, 2.1 * rows + 0.5))
    label, other = ours.label, "" if theirs is None else theirs.label
    if label == other:
        label, other = f"{label} 1", f"{other} 2"
    for number, axes in enumerate(panels.ravel()):
        if number >= shown:
            axes.set_axis_off()
            continue
        reference = None if theirs is None else second[:, number]
        panel(axes, first[:, number], reference, names[number], (label, other))
    handles, labels = panels.flat[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    if shown < len(names):
        made.supxlabel(f"the first {shown} of {len(names)} scalars", fontsize="small")
    return made


def panel(
    axes: Any, ours: np.ndarray, theirs: np.ndarray | None, name: str, labels: tuple[str, str] = ("jensen", "NUTS")
) -> None:
    """One marginal: draws (n,) as a line, those of the reference as a gray histogram."""
    both = [ours] if theirs is None else [ours, theirs]
    edges = np.quantile(np.stack([np.quantile(x, _EDGES) for x in both]), [0.0, 1.0])
    low, high = (edges[0], edges[1]) if np.ptp(edges) > 0 else (edges[0] - 0.5, edges[0] + 0.5)
    if _counted(both):
        _counts(axes, both, labels)
    else:
        if theirs is not None:
            axes.hist(theirs, bins=45, range=(low, high), density=True, color=GRAY, label=labels[1])
        if np.ptp(ours) > 0:
            import arviz as az

            curve: Any = az.kde(ours)
            axes.plot(*curve, color=BLUE, linewidth=2, label=labels[0])
        else:
            axes.axvline(ours[0], color=BLUE, linewidth=2, label=labels[0])
        axes.set_xlim(low, high)
    if low < 0 < high:
        axes.axvline(0, color=INK, linewidth=0.9, linestyle=":", zorder=0)
    axes.locator_params(axis="x", nbins=4)
    axes.set(xlabel=name, yticks=[])
    axes.spines["left"].set_visible(False)


def _counted(both: list[np.ndarray]) -> bool:
    return all((x == np.round(x)).all() and len(np.unique(x)) <= _LEVELS for x in both) and any(
        np.ptp(x) > 0 for x in both
    )


def _counts(axes: Any, both: list[np.ndarray], labels: tuple[str, str]) -> None:
    for x, label, color, width in reversed(list(zip(both, labels, (BLUE, GRAY), (0.3, 0.8), strict=False))):
        levels, counts = np.unique(x, return_counts=True)
        axes.bar(levels, counts / len(x), width, color=color, label=label)


def _wanted(ours: Fit, theirs: Fit | None, var_names: Sequence[str] | None) -> list[str]:
    common = [name for name in ours.variables if theirs is None or name in theirs.variables]
    if var_names is None:
        if not common:
            other = "" if theirs is None else f", and the reference has {', '.join(theirs.variables)}"
            raise DataError(
                f"there is no variable to draw: the fit has {', '.join(ours.variables) or 'none'}{other}; rename those that "
                "mean the same."
            )
        return common
    given = [var_names] if isinstance(var_names, str) else list(var_names)
    missing = [name for name in given if name not in common]
    if missing or not given:
        raise OptionError(f"var_names is {given}, and the variables there are {', '.join(common) or 'none'}.")
    return given


def _columns(ours: Fit, theirs: Fit | None, wanted: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the scalars, and draws of both fits in their order."""
    names: list[str] = []
    first, second = [], []
    for name in wanted:
        labels = scalars(name, ours.variables[name])
        first.append(ours.draws(name))
        if theirs is not None:
            other, x = scalars(name, theirs.variables[name]), theirs.draws(name)
            if len(other) != len(labels):
                raise DataError(
                    f"{name} has {len(labels)} scalars in one fit and {len(other)} in the other; draw fits of one model."
                )
            # By labels where both have the same ones, else by position: not every library keeps labels.
            order = [other.index(label) for label in labels] if set(other) == set(labels) else list(range(len(labels)))
            second.append(x[:, order])
        names += labels
    return names, np.concatenate(first, 1), np.concatenate(second, 1) if second else np.zeros((0, len(names)))
