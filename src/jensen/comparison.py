"""`jensen.compare`: several fits of one model side by side, from jensen or from elsewhere, with Monte-Carlo errors.

For every scalar that all fits have, against a reference r (the first fit by Markov chains, else the first one),

    difference    (mean - mean_r) / sd_r           error sqrt(e^2 + e_r^2) / sd_r
    log sd ratio  log(sd / sd_r)                   error sqrt(l^2 + l_r^2)

with the errors of a mean e = sd / sqrt(n) and of a log sd l = sqrt((kurtosis - 1) / (4 n)). n is the effective sample size of
chains (ArviZ's, of means and of sds), the effective number of weighted draws of an approximation, and for a corrected answer
what its own chains say. An error says how far draws may be off, and nothing about a region that none of them has visited.

Reference: Vehtari et al. (2021), Rank-normalization, folding, and localization, Bayesian Anal. 16 (effective sample sizes).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jensen.comparison_fits import Fit, read_fit
from jensen.core.errors import DataError, OptionError
from jensen.core.html import Html, element, for_notebook, joined, table
from jensen.export.table import render, texts

SHOWN = 10
"""Rows of the printed table."""
_NEAR, _NEAR_SD = 0.2, 0.2
"""Largest difference of means in sds, and of log sds, of which the sentence says that fits agree."""
_DRAWN, _ROWS = 120, 40
"""Scalars in a figure, and in one of its columns."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Fits side by side; made by `compare`.

    Attributes
    ----------
    labels
        Of the fits.
    reference
        The label that differences refer to.
    names
        Of the K scalars.
    mean, sd
        Label -> (K,).
    difference, difference_error, log_sd_ratio, log_sd_ratio_error
        Label of every other fit -> (K,).
    quantiles
        Label -> (5, K), at 5, 25, 50, 75 and 95%.
    left_out
        A sentence about what is not in every fit, or "".
    """

    labels: tuple[str, ...]
    reference: str
    names: tuple[str, ...]
    mean: dict[str, np.ndarray] = field(repr=False)
    sd: dict[str, np.ndarray] = field(repr=False)
    difference: dict[str, np.ndarray] = field(repr=False)
    difference_error: dict[str, np.ndarray] = field(repr=False)
    log_sd_ratio: dict[str, np.ndarray] = field(repr=False)
    log_sd_ratio_error: dict[str, np.ndarray] = field(repr=False)
    quantiles: dict[str, np.ndarray] = field(repr=False)
    left_out: str = ""

    @property
    def table(self) -> Any:
        """Data frame, one row a scalar: mean and sd of every fit, and for all but the reference the differences with errors."""
        import pandas as pd

        columns = {}
        for label in self.labels:
            columns |= {f"{label} mean": self.mean[label], f"{label} sd": self.sd[label]}
        for label in self.difference:
            columns |= {
                f"{label} difference": self.difference[label],
                f"{label} difference error": self.difference_error[label],
                f"{label} log sd ratio": self.log_sd_ratio[label],
                f"{label} log sd ratio error": self.log_sd_ratio_error[label],
            }
        return pd.DataFrame(columns, index=list(self.names))

    @property
    def worst_first(self) -> np.ndarray:
        """Rows (K,), those first in which some fit is farthest from the reference, in mean or log sd."""
        sizes = [np.abs(part[label]) for part in (self.difference, self.log_sd_ratio) for label in self.difference]
        return np.argsort(-np.nan_to_num(np.max(sizes, 0), nan=np.inf), kind="stable")

    def plot(self) -> Any:
        """One matplotlib figure: 50% and 90% intervals of every scalar side by side, in sds around the reference's mean."""
        from matplotlib.figure import Figure

        rows = np.sort(self.worst_first[:_DRAWN])
        columns = -(-len(rows) // _ROWS)
        height = -(-len(rows) // columns)
        tall = 0.16 * max(len(self.labels), 2) * height + 1.2
        figure = Figure((4.5 * columns + 1.5, max(tall, 2.5)), layout="constrained")
        for number, axes in enumerate(figure.subplots(1, columns, squeeze=False, sharex=True)[0]):
            self._draw(axes, rows[number * height : (number + 1) * height])
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), frameon=False)
        note = f" (the {_DRAWN} farthest apart of {len(self.names)})" if len(rows) < len(self.names) else ""
        figure.supxlabel(f"sds of {self.reference}, from its mean{note}", fontsize="medium")
        return figure

    def _draw(self, axes: Any, rows: np.ndarray) -> None:
        center, unit = self.mean[self.reference][rows], _unit(self.sd[self.reference][rows])
        at = np.arange(len(rows))
        for number, label in enumerate(self.labels):
            place = at + 0.7 * ((number + 0.5) / len(self.labels) - 0.5)
            low, first, middle, third, high = (self.quantiles[label][:, rows] - center) / unit
            color = f"C{number}"
            axes.hlines(place, low, high, color, linewidth=1)
            axes.hlines(place, first, third, color, linewidth=3, label=label)
            axes.plot(middle, place, "o", color=color, markersize=3, markeredgecolor="white")
        axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.set_yticks(at, [self.names[row] for row in rows], fontsize="small")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(*np.clip(axes.get_xlim(), -8, 8))
        axes.spines[["top", "right"]].set_visible(False)

    @property
    def sentence(self) -> str:
        """Who is how far from whom."""
        parts = []
        for label, difference in self.difference.items():
            ratio = self.log_sd_ratio[label]
            far, wide = int(np.nanargmax(np.abs(difference))), int(np.nanargmax(np.abs(ratio)))
            near = (np.abs(difference) <= _NEAR) & (np.abs(ratio) <= _NEAR_SD)
            parts.append(
                f"{label} agrees with {self.reference} in {int(near.sum())} of {len(near)} quantities; its mean is farthest off "
                f"at {self.names[far]} ({difference[far]:+.2f} +- {self.difference_error[label][far]:.2f} sd), its sd at "
                f"{self.names[wide]} ({np.exp(ratio[wide]):.2f} times, +- {100 * self.log_sd_ratio_error[label][wide]:.0f}%)."
            )
        return "\n".join(parts)

    def _shown(self) -> tuple[list[str], dict[str, Any], str]:
        """Names and columns of the rows farthest apart, and how many more there are."""
        rows = self.worst_first[:SHOWN]
        columns: dict[str, Any] = {
            f"{self.reference} mean": self.mean[self.reference][rows],
            f"{self.reference} sd": self.sd[self.reference][rows],
        }
        for label in self.difference:
            off, error = self.difference[label][rows], self.difference_error[label][rows]
            columns[f"{label}: off by (sds)"] = [f"{a:+.2f} +- {b:.2f}" for a, b in zip(off, error, strict=True)]
            ratio, error = self.log_sd_ratio[label][rows], self.log_sd_ratio_error[label][rows]
            columns["sd ratio" if len(self.labels) == 2 else f"{label}: sd ratio"] = [
                f"{np.exp(a):.2f} +- {np.exp(a) * b:.2f}" for a, b in zip(ratio, error, strict=True)
            ]
        more = len(self.names) - len(rows)
        return [self.names[row] for row in rows], columns, f"{more} more, nearer to each other" if more else ""

    def __repr__(self) -> str:
        names, columns, more = self._shown()
        lines = [render(names, columns), *([f"... ({more}; comparison.table has all)"] if more else [])]
        lines += ["", self.sentence, *([self.left_out] if self.left_out else [])]
        return "\n".join(lines)

    @property
    def html(self) -> Html:
        """The same as the printed form, as a table and sentences."""
        names, columns, more = self._shown()
        cells = [[cell.replace("+-", "±") for cell in column] for column in texts(columns, len(names)).values()]
        said = [*self.sentence.replace("+-", "±").splitlines(), f"({more}.)" if more else "", self.left_out]
        return joined(
            [table(("", *columns), zip(names, *cells, strict=True)), *(element("p", line) for line in said if line)]
        )

    def _repr_html_(self) -> str:
        return for_notebook(self.html)


def compare(*fits: Any, names: Sequence[str] | None = None, var_names: Sequence[str] | None = None) -> Comparison:
    """Put several fits of one model side by side.

    Parameters
    ----------
    fits
        Two or more of: `Posterior`, ArviZ ``InferenceData`` or ``DataTree``, xarray ``Dataset`` with dimensions ``chain`` and
        ``draw``; or one dict, label -> fit. Differences refer to the first fit by Markov chains (an object from elsewhere, NUTS
        or Gibbs draws of jensen), or to the first one where there is none.
    names
        A label a fit; by default methods and libraries.
    var_names
        Only these variables.

    Returns
    -------
    Comparison
        With ``table``, ``plot()``, and a printed form.

    Raises
    ------
    OptionError
        For fewer than two fits, labels that do not fit, or an object that is no fit.
    DataError
        When the fits have nothing in common, or a variable has other shapes.
    """
    if len(fits) == 1 and isinstance(fits[0], Mapping):
        if names is not None:
            raise OptionError("fits in a dict have labels already; leave names= out.")
        names, fits = list(fits[0]), tuple(fits[0].values())
    if len(fits) < 2:
        raise OptionError(f"compare needs at least two fits; got {len(fits)}; for example compare(posterior, other).")
    if isinstance(names, str) or (names is not None and len(names) != len(fits)):
        raise OptionError(f"names must be a list with one label for each of the {len(fits)} fits; got {names!r}.")
    read = [read_fit(fit, number) for number, fit in enumerate(fits)]
    labels = _distinct(read) if names is None else tuple(map(str, names))
    if len(set(labels)) < len(labels):
        raise OptionError(f"labels must differ; got {', '.join(labels)}.")
    wanted, left_out = _common(read, labels, var_names)
    scalars, picks = matched(read, labels, wanted)
    moments = [fit.moments(wanted, [rows[i] for rows in picks]) for i, fit in enumerate(read)]
    return _compared(read, labels, scalars, moments, left_out)


def matched(
    read: Sequence[Fit], labels: Sequence[str], wanted: Sequence[str]
) -> tuple[tuple[str, ...], list[list[np.ndarray]]]:
    """Names of the common scalars of some variables, and for every variable where they are in each fit's flat array.

    Raises
    ------
    DataError
        When a variable has other shapes or coordinates.
    """
    scalars, picks = [], []
    for name in wanted:
        axes, rows = _aligned(name, [fit.variables[name] for fit in read], labels)
        scalars += [f"{name}[{', '.join(index)}]" if index else name for index in _product(axes)]
        picks.append(rows)
    return tuple(scalars), picks


def _compared(
    read: list[Fit], labels: tuple[str, ...], names: tuple[str, ...], moments: list[Any], left_out: str
) -> Comparison:
    base = next((number for number, fit in enumerate(read) if fit.chains), 0)
    r = moments[base]
    unit, floor = _unit(r.sd), np.finfo(float).tiny
    difference, error, ratio, ratio_error = {}, {}, {}, {}
    for number, label in enumerate(labels):
        if number == base:
            continue
        m = moments[number]
        difference[label] = (m.mean - r.mean) / unit
        error[label] = np.hypot(m.error, r.error) / unit
        constant = (m.sd == 0) & (r.sd == 0)
        ratio[label] = np.where(constant, 0.0, np.log(np.maximum(m.sd, floor) / np.maximum(r.sd, floor)))
        ratio_error[label] = np.where(constant, 0.0, np.hypot(m.log_sd_error, r.log_sd_error))
    by_label = dict(zip(labels, moments, strict=True))
    return Comparison(
        labels,
        labels[base],
        names,
        {label: m.mean for label, m in by_label.items()},
        {label: m.sd for label, m in by_label.items()},
        difference,
        error,
        ratio,
        ratio_error,
        {label: m.quantiles for label, m in by_label.items()},
        left_out,
    )


def _unit(sd: np.ndarray) -> np.ndarray:
    return np.where(sd > 0, sd, 1.0)


def _distinct(read: list[Fit]) -> tuple[str, ...]:
    """The fits' own labels, numbered where two are alike."""
    own = [fit.label for fit in read]
    return tuple(
        f"{label} {own[: i + 1].count(label)}" if own.count(label) > 1 else label for i, label in enumerate(own)
    )


def _common(read: list[Fit], labels: tuple[str, ...], var_names: Sequence[str] | None) -> tuple[list[str], str]:
    """Variables of all fits, and a sentence about the others."""
    wanted = [name for name in read[0].variables if all(name in fit.variables for fit in read)]
    if var_names is not None:
        given = [var_names] if isinstance(var_names, str) else list(var_names)
        missing = [name for name in given if name not in wanted]
        if missing:
            raise OptionError(
                f"var_names has {missing}, and the variables of all fits are {', '.join(wanted) or 'none'}."
            )
        return given, ""
    some = dict.fromkeys(name for fit in read for name in fit.variables if name not in wanted)
    if not wanted:
        each = "; ".join(f"{label} has {', '.join(fit.variables)}" for label, fit in zip(labels, read, strict=True))
        raise DataError(f"the fits have no variable in common: {each}; rename those that mean the same.")
    if not some:
        return wanted, ""
    where = (
        f"{name} ({', '.join(label for label, fit in zip(labels, read, strict=True) if name in fit.variables)})"
        for name in some
    )
    return wanted, f"Not in every fit, and left out: {', '.join(where)}."


def _aligned(name: str, found: list[Any], labels: Sequence[str]) -> tuple[list[list[str]], list[np.ndarray]]:
    """Labels of the common elements along each axis, and where they are in each fit's flat array."""
    shapes = [tuple(map(len, variable)) for variable in found]
    seen = ", ".join(f"{shape} in {label}" for shape, label in zip(shapes, labels, strict=True))
    if len({len(shape) for shape in shapes}) > 1:
        raise DataError(f"{name} has other shapes: {seen}; compare fits of one model.")
    axes, places = [], [[] for _ in found]
    for axis in range(len(shapes[0])):
        along = [variable[axis] for variable in found]
        named = [words for words in along if words != _default(len(words))] or along[:1]
        first = named[0]
        kept = [word for word in first if all(word in words for words in named)]
        same_length = all(len(words) == len(first) for words in along)
        whole = len(kept) == len(first)
        if not kept or (not (same_length and whole) and any(words == _default(len(words)) for words in along)):
            raise DataError(f"{name} has other shapes or coordinates: {seen}; compare fits of one model and data.")
        axes.append(kept)
        for words, place in zip(along, places, strict=True):
            positional = words not in named
            place.append(np.arange(len(kept)) if positional else np.array([words.index(word) for word in kept]))
    rows = [
        np.ravel_multi_index(np.meshgrid(*place, indexing="ij"), shape).ravel() if shape else np.zeros(1, int)
        for place, shape in zip(places, shapes, strict=True)
    ]
    return axes, rows


def _default(length: int) -> list[str]:
    return list(map(str, range(length)))


def _product(axes: list[list[str]]) -> list[tuple[str, ...]]:
    from itertools import product

    return list(product(*axes))
