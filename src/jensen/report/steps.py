"""Section: how the fit went. The ELBO over the steps, the rungs of the climb, and the story in sentences."""

from typing import Any

import numpy as np

from jensen.core.html import Html, element, items, joined, table
from jensen.export.table import number
from jensen.models.large import LargeTarget
from jensen.objectives.elbo import Elbo
from jensen.report.facts import Facts
from jensen.report.svg import Panel, key

_HIDDEN = 0.1
"""Share of the steps, the first ones, that may lie below the panel: a start is often thousands of nats away."""


def section(facts: Facts) -> list[Html]:
    """The curve, the rungs, the story."""
    posterior = facts.posterior
    climbed = posterior.run.rungs
    parts = [_curve(posterior, bool(climbed)), _climb(climbed)]
    told = [line for line in posterior.story if line not in map(str, climbed)]
    parts.append(items(told))
    return [part for part in parts if part]


def _curve(posterior: Any, climbed: bool) -> Html:
    """The ELBO over the steps, and that on fresh draws where it is of the same approximation."""
    elbo = np.asarray(posterior.history.get("elbo", ()), float)
    final = Elbo(np.nan, np.nan) if climbed else posterior.elbo
    if not np.isfinite(elbo).any():
        return element(
            "p",
            "There is no ELBO over the steps: this approximation has no density, or no step was finite.",
            class_="soft",
        )
    steps = np.arange(1, len(elbo) + 1)
    low, high = _limits(elbo, final.value)
    about = f"ELBO over {len(elbo):,} steps, from {number(elbo[0])} to {number(elbo[-1])}"
    panel = Panel((1, len(elbo)), (low, high), size=(440, 230), labels=("step", "ELBO (nats)"), whole=True, about=about)
    if np.isfinite(final.value):
        panel.level(final.value, "final")
    panel.line(steps, elbo, "ours")
    if len(elbo) <= 80:
        panel.points(steps, elbo, "ours", 2.2)
    entries = [("ours", "at each step, on the draws of the fit")]
    if np.isfinite(final.value):
        entries.append(("final", f"of the approximation, on fresh draws: {str(final).replace('+-', '±')}"))
    below = int((elbo < low).sum())
    note = (
        element("p", f"The first steps, from {number(elbo[0])} on, lie below the panel.", class_="soft")
        if below
        else None
    )
    jumps = "The fit looks at a subsample of the rows that is corrected between rounds; the curve may jump there."
    about = element("p", jumps, class_="soft") if isinstance(posterior.near, LargeTarget) else None
    return joined([key(entries), element("div", panel.html(), class_="one"), note, about])


def _limits(elbo: np.ndarray, final: float) -> tuple[float, float]:
    seen = np.sort(elbo[np.isfinite(elbo)])
    low = seen[min(max(int(_HIDDEN * len(seen)), min(3, len(seen) // 4)), len(seen) - 1)]
    high = max(seen[-1], final) if np.isfinite(final) else seen[-1]
    low = min(low, final) if np.isfinite(final) else low
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _climb(climbed: tuple[Any, ...]) -> Html | None:
    if not climbed:
        return None
    finite = [rung for rung in climbed if np.isfinite(rung.elbo.value) and np.isfinite(rung.elbo.error)]
    value = np.array([rung.elbo.value for rung in finite])
    error = np.array([rung.elbo.error for rung in finite])
    panel = None
    if len(finite) > 1:
        low, high = (value - 2 * error).min(), (value + 2 * error).max()
        room = 0.08 * (high - low) or 1.0
        drawn = Panel(
            (0.5, len(finite) + 0.5),
            (low - room, high + room),
            size=(440, 190),
            whole=True,
            labels=("approximation, as numbered below", "ELBO on fresh draws, ± 2 errors"),
        )
        at = np.arange(1, len(finite) + 1)
        drawn.line(at, value, "ours thin")
        drawn.intervals(at, value - 2 * error, value + 2 * error, "ours")
        drawn.points(at, value, "ours", 3.2)
        panel = element("div", drawn.html(), class_="one")
    numbers = {id(rung): str(i) for i, rung in enumerate(finite, 1)}
    rows = [(numbers.get(id(rung), "–"), rung.name, str(rung.elbo).replace("+-", "±"), _came(rung)) for rung in climbed]
    return joined(
        [
            element("h3", "The approximations that were tried"),
            panel,
            table(("", "approximation", "ELBO", "what came of it"), rows, words=(1, 3)),
        ]
    )


def _came(rung: Any) -> str:
    """What is told of a rung beside its ELBO."""
    kept = rung.words or ("kept" if rung.kept else "not kept")
    return f"var(log w) {rung.spread:.2g}; {kept} ({rung.gradients:,} gradients)"
