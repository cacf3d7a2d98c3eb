"""Section: marginals of the answer, beside another fit where one is given, and beside q or the chains that judged it."""

import numpy as np

from jensen.core.html import Html, element
from jensen.report.facts import Facts
from jensen.report.svg import Panel, key

COUNT = 12
_POINTS = 121


def section(facts: Facts) -> list[Html]:
    """One panel a scalar; of many, those that are least trusted or farthest from the other fit."""
    other, second, parts = facts.other, facts.second, []
    about = facts.posterior.verdict.about
    entries = [("ours", "q, the approximation" if about == "q" else about)]
    if second is not None:
        entries.append(("second", second.label))
    if other is not None:
        entries.append(("theirs", other.label))
        parts.append(other.comparison.html)
        parts += [element("p", other.note)] if other.note else []
    rows = _chosen(facts)
    total = len(facts.names)
    if len(rows) < total:
        first = "those farthest from the other fit" if other is not None else "of each variable the least trusted first"
        parts.append(element("p", f"{len(rows)} of {total:,} quantities, {first}."))
    if facts.posterior.answer != "q" and second is None:
        parts.append(
            element(
                "p",
                "Marginals of q itself need the model's code, which a fit from a file does not have.",
                class_="soft",
            )
        )
    panels = [_panel(facts, row) for row in rows]
    return [*parts, key(entries), element("div", *panels, class_="grid")]


def _chosen(facts: Facts) -> list[int]:
    if facts.other is not None:
        places = {name: row for row, name in enumerate(facts.names)}
        comparison = facts.other.comparison
        worst = [places[comparison.names[i]] for i in comparison.worst_first[:COUNT] if comparison.names[i] in places]
        return sorted(worst)
    return facts.spread_over(np.arange(len(facts.names)), COUNT)


def _panel(facts: Facts, row: int) -> Html:
    name, word = facts.names[row], facts.words[row]
    bounds = _BOUNDS.get(facts.support(row), (-np.inf, np.inf))
    x = facts.column(row)
    curves = [("ours", x, np.full(len(x), 1 / len(x)))]
    second = facts.of_second(row)
    if second is not None:
        curves.append(("second", *second))
    theirs = facts.other.column(name) if facts.other is not None else None
    if theirs is not None:
        curves.insert(0, ("theirs", *theirs))
    low, high = _limits([x for _, x, _ in curves])
    title = name if word == "trusted" else f"{name}: {word}"
    if not high > low:
        return element("p", element("b", name), " is constant, or nothing in it is finite.", class_="panel")
    for bound in bounds:  # an end of the support that is near is shown
        if np.isfinite(bound) and min(abs(low - bound), abs(high - bound)) < 0.15 * (high - low):
            low, high = min(low, bound), max(high, bound)
    grid = np.linspace(low, high, _POINTS)
    drawn = [(kind, density(x, weights, grid, bounds)) for kind, x, weights in curves]
    # Of a collapsed curve only the foot is shown: the others would be flat beside it.
    tops = sorted(float(y.max()) for _, y in drawn if np.isfinite(y).any())
    top = min(tops[-1], 3 * tops[0]) if tops else 1.0
    panel = Panel((low, high), (0, 1.08 * top), title=title, about=f"Marginal density of {name}")
    for kind, y in drawn:
        if kind == "theirs":
            panel.area(grid, y, kind)
        panel.line(grid, y, kind)
    return panel.html()


_BOUNDS = {"positive": (0.0, np.inf), "unit interval": (0.0, 1.0), "simplex": (0.0, 1.0)}
"""Supports with ends that are known; a density estimate is folded there."""


def _limits(columns: list[np.ndarray]) -> tuple[float, float]:
    """Ends that hold 99% of every curve, or four interquartile ranges on each side where a tail is longer."""
    ends = []
    for x in columns:
        x = x[np.isfinite(x)]
        if len(x):
            low, first, third, high = np.quantile(x, (0.005, 0.25, 0.75, 0.995))
            reach = 4 * (third - first) or high - low
            ends.append((max(low, first - reach), min(high, third + reach)))
    return (float(min(ends)[0]), float(max(end[1] for end in ends))) if ends else (0.0, 0.0)


def density(x: np.ndarray, weights: np.ndarray, grid: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Kernel estimate of a density on a grid; NaN where the draws are constant. Mass beyond the bounds is folded back."""
    from scipy.stats import gaussian_kde

    good = np.isfinite(x)
    x, weights = x[good], weights[good]
    if len(x) > 4000:  # as many as a curve needs
        rows = np.linspace(0, len(x) - 1, 4000).astype(int)
        x, weights = x[rows], weights[rows]
    if len(x) < 2 or np.ptp(x) <= 1e-12 * max(float(np.abs(x).max()), 1e-300):
        return np.full(len(grid), np.nan)
    # A long tail would widen the kernel everywhere: its width follows the bulk.
    low, high = np.quantile(x, (0.25, 0.75))
    narrow = min(1.0, (high - low) / 1.35 / x.std()) if high > low else 1.0
    kernel = gaussian_kde(x, weights=weights)
    kernel.set_bandwidth(narrow * float(kernel.scotts_factor()))
    y = kernel(grid)
    for bound in bounds:
        if np.isfinite(bound):
            y = y + kernel(2 * bound - grid)
    return np.where((grid >= bounds[0]) & (grid <= bounds[1]), y, np.nan)
