"""Does the posterior go on where a scale is smaller, or a precision larger, than in the draws? From log densities at a few draws.

Along t = log(scale), in coordinates y in which what the scale moves is straight (centering.py), the marginal density a step s
away follows from draws at t, without any draw there:

    p(t - s) / p(t) = E[ p(t - s, y) / p(t, y) | t ],        missing = p(t) int_s0 p(t - s) / p(t) ds,  s0: the last draws

A prior like Gamma(.1, .1) of a scale leaves most of the mass in a neck, of which a Gaussian fit around the mode sees nothing
while its log weights look right; under an improper one, as 1 / tau for the sd of groups, the neck never ends, and short chains do
not notice.

Of a few draws the mean is decided by one of them where the coordinates are not quite straight; the median is taken.

Requires: draws about in proportion to the posterior in their bulk. Reference: Hobert, Casella (1996), The effect of improper
priors on Gibbs sampling in hierarchical linear mixed models, JASA 91 (chains that look well and have nothing to converge to).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jensen.diagnostics.chains import finite
from jensen.families.centering import Centering
from jensen.models.target import Target

IMPROPER = "the posterior looks improper"
TOO_MUCH = 0.1
"""Mass that may be missing, where that of the draws is one."""
_ENDLESS = 0.01
"""Fall of the log density, for each unit of log scale, below which nothing says that it ends."""
_MOST = 10
"""Scales beyond which they belong to rows rather than to the model."""
_AT, _BAND = 0.1, 0.04
"""Quantile of the draws from which steps are taken, and the share of them around it that says how dense they are there."""
_LAST_DRAWN = 0.01
"""Quantile from which on draws are too few to stand for what lies there."""
_STARTS = 16
_STEPS, _BETWEEN = (6.0, 8.0), 8
"""The last steps from there, in logs: a scale 3,000 times as small; and how many are before them."""
_NONE, _HIGHEST = 1e-12, 30.0
"""Share of the density that is none, and nats by which it rises, at most."""


class Neck(NamedTuple):
    """What lies beyond the draws.

    Attributes
    ----------
    site, where
        Whose scale it is, and where that goes.
    missing
        Mass there that no draw stands for, about, where that of the draws is one; infinite where the density does not end.
    """

    site: str = ""
    where: str = ""
    missing: float = 0.0

    @property
    def why(self) -> str:
        """In words; "" where the draws go as far as the posterior."""
        if self.missing == np.inf:
            return f"{IMPROPER}: its density does not end along the logarithm of {self.site}"
        if self.missing > TOO_MUCH:
            share = self.missing / (1 + self.missing)
            return f"about {share:.0%} of the posterior lie beyond the draws, where {self.site} goes {self.where}"
        return ""


def longest(target: Any, z: np.ndarray, straight: Callable[[], Any]) -> Neck:
    """The neck of which the draws miss most.

    Parameters
    ----------
    target
        The log density; of many rows, which stands for them around q only or is dear, nothing is asked.
    z
        Draws (n, D) on the unconstrained space, in any order.
    straight
        Gives coordinates in which what the scales move is straight, a `Centering`, or None; called where there are scales.
    """
    scales = _scales(target.model) if isinstance(target, Target) else []
    necks, map = [Neck()], straight() if scales else None
    for k, name in scales:
        moves = isinstance(map, Centering) and k in map.parents
        for side, where in ((-1.0, "to zero"), (1.0, "to infinity")):
            beyond = _missing(target, z, map if moves else None, k, side)
            necks.append(Neck(name, where, beyond))
    return max(necks, key=lambda each: each.missing)


def _scales(model: Any) -> list[tuple[int, str]]:
    """Coordinates of positive sites, and their names; none where there are many."""
    found, column = [], 0
    for site in model.sites:
        if site.support == "positive" and site.shape == site.free_shape:
            found += [(column + i, site.name) for i in range(site.size)]
        column += site.size
    return found if len(found) <= _MOST else []


def _missing(target: Any, z: np.ndarray, map: Any, k: int, side: float) -> float:
    """`Neck.missing` on one side of the draws along coordinate k, which a map does not move."""
    order = np.argsort(-side * z[:, k])
    last, *band = (order[int(at * len(z))] for at in (_LAST_DRAWN, _AT - _BAND / 2, _AT + _BAND / 2))
    width, away = np.ptp(z[band, k]), abs(z[last, k] - z[band, k].mean())
    if not width > 0:
        return 0.0
    # The neck may be so long that the map, which holds to some digits, does not reach beyond the tenth of the draws in its depth.
    if abs(_fall(_ratios(target, z[order[len(z) // 2 :][:_STARTS]], map, k, side, np.array(_STEPS)))) < _ENDLESS:
        return np.inf
    places = np.linspace(_AT - _BAND / 2, _AT + _BAND / 2, _STARTS)
    start = z[order[(places * len(z)).astype(int)]]
    steps = away + np.concatenate([[0.0], np.geomspace(min(width, 1.0), _STEPS[0], _BETWEEN), _STEPS[1:]])
    ratio = _ratios(target, start, map, k, side, steps)
    fall = _fall(ratio)
    if abs(fall) < _ENDLESS:
        return np.inf
    return float((_integral(steps, ratio) + ratio[-1] / max(fall, 1.0 * (fall < 0))) * _BAND / width - _LAST_DRAWN)


def _fall(ratio: np.ndarray) -> float:
    """Nats by which the density falls with each of the last units of log scale; infinite where there is none left."""
    return float(np.log(max(ratio[-2], _NONE) / ratio[-1]) / np.ptp(_STEPS)) if ratio[-1] > _NONE else np.inf


def _integral(steps: np.ndarray, ratio: np.ndarray) -> float:
    """Of a density that is exponential between steps."""
    logs = np.log(np.maximum(ratio, _NONE))
    fall = np.where(np.abs(np.diff(logs)) < 1e-6, -1e-6, np.diff(logs))
    return float((np.diff(steps) * np.exp(logs[:-1]) * np.expm1(fall) / fall).sum())


def _ratios(target: Any, start: np.ndarray, map: Any, k: int, side: float, steps: np.ndarray) -> np.ndarray:
    """Median ratio of the density after each step (S,) to that before all, at draws (n, D)."""
    start = start if map is None else map.into(start)
    y = np.repeat(start, 1 + len(steps), 0)
    y[:, k] += side * np.tile(np.append(0.0, steps), len(start))
    with np.errstate(over="ignore", invalid="ignore"):
        points, volume, _ = (y, 0.0, None) if map is None else map.out(y)
        log_p = (finite(target(points))[0] + volume).reshape(len(start), -1)
        return np.median(np.nan_to_num(np.exp(np.minimum(log_p[:, 1:] - log_p[:, :1], _HIGHEST))), axis=0)
