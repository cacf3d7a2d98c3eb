"""Section: the pairs of quantities that are most correlated, where a marginal alone misleads."""

import numpy as np

from jensen.core.html import Html, element
from jensen.report.facts import Facts
from jensen.report.svg import Panel

COUNT = 6
_LOOKED, _DRAWN = 1500, 250
_LEAST, _SAME = 0.3, 0.9999
"""Correlations that are shown, and from which on one quantity is a function of the other, as in a simplex of two."""
_RADIUS = np.sqrt(-2 * np.log(1 - 0.9))
"""Of a circle that holds 90% of a standard Gaussian in the plane."""


def section(facts: Facts) -> list[Html]:
    """Panels of the largest absolute correlations between the model's own sites."""
    pairs, looked, total = largest(facts)
    among = (
        f"among {looked:,} of {total:,} scalars of the sites"
        if looked < total
        else f"among {total:,} scalars of the sites"
    )
    if total < 2:
        return [element("p", "There is one quantity only.")]
    if not pairs:
        return [element("p", f"No two are correlated by more than {_LEAST} ({among}).")]
    about = (
        f"The largest correlations {among}: draws of the answer, and the 90% ellipse of a Gaussian with their moments."
    )
    return [element("p", about), element("div", *(_panel(facts, *pair) for pair in pairs), class_="grid")]


def largest(facts: Facts) -> tuple[list[tuple[int, int, float]], int, int]:
    """Rows and correlation of each pair, the largest first; how many scalars were looked at; how many there are."""
    model = facts.posterior.model
    total = int(facts.starts[len(model.sites)])
    rows = np.arange(total)
    if total > _LOOKED:  # all of the small sites, and some of the large ones
        rows = np.array(sorted(_some(facts, len(model.sites))))
    x = np.stack([facts.column(int(row)) for row in rows], 1) if len(rows) else np.zeros((2, 0))
    sd = x.std(0)
    moving = np.isfinite(sd) & (sd > 1e-12 * np.maximum(np.abs(x).max(0, initial=0.0), 1e-300))
    rows, x = rows[moving], x[:, moving]
    if len(rows) < 2:
        return [], len(rows), total
    correlation = np.triu(np.corrcoef(x, rowvar=False), 1)
    correlation[np.abs(correlation) > _SAME] = 0.0
    size = np.abs(correlation).ravel()
    order = np.argsort(-size, kind="stable")[:COUNT] if size.size < 1e5 else _top(size)
    found = [(int(rows[i // len(rows)]), int(rows[i % len(rows)]), float(correlation.ravel()[i])) for i in order]
    return [pair for pair in found if abs(pair[2]) > _LEAST], len(rows), total


def _top(size: np.ndarray) -> np.ndarray:
    best = np.argpartition(-size, COUNT)[:COUNT]
    return best[np.argsort(-size[best], kind="stable")]


def _some(facts: Facts, sites: int) -> set[int]:
    sizes = np.diff(facts.starts)[:sites]
    share, left = {}, _LOOKED
    for number in np.argsort(sizes, kind="stable"):
        share[number] = min(int(sizes[number]), max(left // (sites - len(share)), 1))
        left = max(left - share[number], 0)
    return {
        int(facts.starts[number] + place)
        for number, count in share.items()
        for place in np.linspace(0, sizes[number] - 1, count).astype(int)
    }


def _panel(facts: Facts, i: int, j: int, correlation: float) -> Html:
    x, y = facts.column(i), facts.column(j)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    center, spread = np.array([x.mean(), y.mean()]), np.cov(x, y)
    values, vectors = np.linalg.eigh(spread)
    angle = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(angle), np.sin(angle)]) * _RADIUS * np.sqrt(np.maximum(values, 0))[:, None]
    ring = center[:, None] + vectors @ circle
    panel = Panel(
        _around(x, ring[0]),
        _around(y, ring[1]),
        size=(240, 220),
        title=f"r = {correlation:.2f}".replace("-", "−"),
        labels=(facts.names[i], facts.names[j]),
        about=f"{facts.names[j]} against {facts.names[i]}, correlation {correlation:.2f}",
    )
    some = np.linspace(0, len(x) - 1, min(len(x), _DRAWN)).astype(int)
    panel.points(x[some], y[some], "ours faint")
    panel.line(ring[0], ring[1], "ours")
    return panel.html()


def _around(values: np.ndarray, ring: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.005, 0.995))
    low, high = min(low, ring.min()), max(high, ring.max())
    return low - 0.04 * (high - low), high + 0.04 * (high - low)
