"""Section: data simulated from the answer beside the data that were observed.

The same data are used twice, for the fit and for the check: a model may pass and still be wrong, but one that fails is.
"""

from typing import Any

import numpy as np

from jensen.core.errors import JensenError
from jensen.core.html import Html, element, table
from jensen.export.table import number
from jensen.report.facts import Facts
from jensen.report.marginals import density
from jensen.report.svg import Panel, key

_NUMBERS, _MOST_DRAWS, _LEAST_DRAWS = 2_000_000, 200, 20
_ONE_BY_ONE, _LEVELS, _CURVES = 60, 16, 15
"""Observations that are shown one by one; values that are shown as bars; simulated data sets that are drawn."""


def section(facts: Facts) -> list[Html]:
    """Panel and table for every observed variable, or why there is none."""
    posterior, model = facts.posterior, facts.posterior.model
    if model.source is None:
        return [_soft("Simulation needs the model's code, which a fit from a file does not have.")]
    if model.predict is None:
        return [_soft(f"{model.name} ({model.language}) cannot be simulated from.")]
    if posterior.near is not None and posterior.near.plate.held < posterior.near.plate.size:
        return [_soft("The rows are read from a table; posterior.predict(data=...) simulates a block of them.")]
    size = sum(np.size(value) for value in model.observed.values())
    if not size:
        return [_soft("Nothing is observed by name, so there is nothing to compare simulated data with.")]
    if size * _LEAST_DRAWS > _NUMBERS:
        return [_soft(f"{size:,} observed numbers are too many for a page; posterior.predict() simulates them.")]
    n = int(np.clip(_NUMBERS // size, _LEAST_DRAWS, _MOST_DRAWS))
    try:
        simulated = posterior.predict(draws=n)
    except (JensenError, NotImplementedError, ArithmeticError) as error:
        return [_soft(f"The model could not be simulated from: {error}")]
    about = (
        f"{n} data sets simulated from the answer, beside the observed one. The data were used for the fit as well: a model that "
        "fails here is wrong, one that passes need not be right."
    )
    parts = [element("p", about)]
    for name, values in simulated.items():
        parts += _variable(name, np.asarray(values, float), model.observed.get(name))
    return parts


def _variable(name: str, simulated: np.ndarray, observed: Any) -> list[Html]:
    if observed is None or np.shape(observed) != simulated.shape[1:]:
        return [_soft(f"{name}: the simulated values have another shape than the observed ones.")]
    y, x = np.asarray(observed, float).ravel(), simulated.reshape(len(simulated), -1)
    good = np.isfinite(y)
    y, x = y[good], x[:, good]
    rows = np.asarray(np.isfinite(x).all(1))
    if not len(y) or not rows.any():
        return [_soft(f"{name}: no simulated data set is finite.")]
    lost = int((~rows).sum())
    note = [_soft(f"{lost} of {len(rows)} simulated data sets of {name} are not finite and left out.")] if lost else []
    x = x[rows]
    levels = np.unique(np.concatenate([y, x[:5].ravel()]))
    if len(levels) <= _LEVELS and (levels == np.floor(levels)).all():
        drawn = _bars(name, y, x, levels)
    elif len(y) <= _ONE_BY_ONE:
        drawn = _one_by_one(name, y, x)
    else:
        drawn = _densities(name, y, x)
    return [*note, element("div", drawn, _statistics(name, y, x), class_="beside")]


def _bars(name: str, y: np.ndarray, x: np.ndarray, levels: np.ndarray) -> Html:
    """Share of every value: observed as points, simulated as intervals."""
    shares = np.stack([(x == level).mean(1) for level in levels], 1)
    seen = np.array([(y == level).mean() for level in levels])
    low, high = np.quantile(shares, (0.05, 0.95), axis=0)
    top = 1.1 * max(float(high.max()), float(seen.max()))
    room = 0.6 * max(float(np.diff(levels).min(initial=1.0)), 1.0)
    panel = Panel(
        (levels[0] - room, levels[-1] + room),
        (0, top),
        size=(440, 230),
        labels=(name, "share of the observations"),
        whole=True,
    )
    panel.intervals(levels, low, high, "ours")
    panel.points(levels, seen, "seen", 3.6)
    return element("div", panel.html(), key([("bars ours", "simulated, central 90%"), ("dots seen", "observed")]))


def _one_by_one(name: str, y: np.ndarray, x: np.ndarray) -> Html:
    low, high = np.quantile(x, (0.05, 0.95), axis=0)
    at = np.arange(len(y))
    bottom, top = min(low.min(), y.min()), max(high.max(), y.max())
    room = 0.05 * (top - bottom)
    panel = Panel(
        (-0.6, len(y) - 0.4), (bottom - room, top + room), size=(440, 230), labels=("observation", name), whole=True
    )
    panel.intervals(at, low, high, "ours")
    panel.points(at, y, "seen", 3.4)
    return element("div", panel.html(), key([("bars ours", "simulated, central 90%"), ("dots seen", "observed")]))


def _densities(name: str, y: np.ndarray, x: np.ndarray) -> Html:
    low, high = np.quantile(y, (0.002, 0.998))
    low, high = min(low, np.quantile(x, 0.005)), max(high, np.quantile(x, 0.995))
    grid, free = np.linspace(low, high, 161), (-np.inf, np.inf)
    curves = [density(row, np.full(len(y), 1 / len(y)), grid, free) for row in x[:_CURVES]]
    seen = density(y, np.full(len(y), 1 / len(y)), grid, free)
    finite = [float(np.nanmax(curve)) for curve in (*curves, seen) if np.isfinite(curve).any()]
    panel = Panel((low, high), (0, 1.08 * max(finite, default=1.0)), size=(440, 230), labels=(name, ""))
    for curve in curves:
        panel.line(grid, curve, "ours faint")
    panel.line(grid, seen, "seen")
    return element("div", panel.html(), key([("ours", "simulated"), ("seen", "observed")]))


_STATISTICS = {"mean": np.mean, "sd": np.std, "smallest": np.min, "largest": np.max}


def _statistics(name: str, y: np.ndarray, x: np.ndarray) -> Html:
    """Observed value, simulated interval and whether the one is in the other, for every statistic that varies."""
    whole = bool((y == np.floor(y)).all() and (x == np.floor(x)).all())
    rows = []
    for word, statistic in _STATISTICS.items():
        seen, drawn = float(statistic(y)), statistic(x, axis=1)
        low, middle, high = np.quantile(drawn, (0.05, 0.5, 0.95))
        if low == high == seen:  # the smallest of zeros and ones, for example
            continue
        share = float((drawn < seen).mean() + 0.5 * (drawn == seen).mean())
        where = "inside" if 0.05 <= share <= 0.95 else "below" if share < 0.05 else "above"
        digits = 0 if whole and word in ("smallest", "largest") else None
        a, b, c, d = (number(value, digits) for value in (seen, middle, low, high))
        rows.append((word, a, b, f"{c} to {d}", where))
    return table((name, "observed", "simulated", "90% of them", "observed is"), rows, words=(4,))


def _soft(words: str) -> Html:
    return element("p", words, class_="soft")
