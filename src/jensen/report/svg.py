"""Panels drawn as inline SVG: lines, areas, points and bars over axes with round ticks.

Colors are classes, whose colors the page's style sheet gives for light, dark and paper. Coordinates are rounded to a tenth of a
pixel; what is not finite is left out, and lines are broken there.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jensen.core.html import Html, element
from jensen.export.table import number

_LEFT, _RIGHT, _TOP, _BOTTOM = 10.0, 10.0, 24.0, 34.0
_WIDEST_LABELS = 46.0
_APART = 46
"""Pixels between ticks of x."""
MOST_POINTS = 400
"""Of one line: more than a screen shows."""


class Panel:
    """One panel with its axes.

    Parameters
    ----------
    x, y
        Smallest and largest value on each axis.
    size
        Width and height, of which the style sheet may show less.
    title
        Written above.
    labels
        Of the two axes; that of y is written above it, and an empty one leaves its ticks out too.
    about
        What the panel shows, for those who do not see it.
    whole
        Ticks of x are at whole numbers.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        size: tuple[int, int] = (220, 160),
        title: str = "",
        labels: tuple[str, str] = ("", ""),
        about: str = "",
        whole: bool = False,
    ):
        self.x, self.y, self.size, self.title, self.labels, self.about = _wide(x), _wide(y), size, title, labels, about
        self.left = _LEFT + (_WIDEST_LABELS if labels[1] else 0.0)
        self._step = 1.0 if whole else 0.0
        self._parts: list[Html] = []

    def at(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of points."""
        width, height = self.size[0] - self.left - _RIGHT, self.size[1] - _TOP - _BOTTOM
        across = (np.asarray(x, float) - self.x[0]) / (self.x[1] - self.x[0])
        up = (np.asarray(y, float) - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * width, _TOP + (1 - up) * height

    def line(self, x: Any, y: Any, class_: str) -> None:
        """A line through points, thinned to what can be seen."""
        x, y = thinned(x, y)
        path, pen = [], "M"
        for a, b in zip(*self.at(x, y), strict=True):
            if math.isfinite(a) and math.isfinite(b):
                path.append(f"{pen}{a:.1f} {min(max(b, -999), 9999):.1f}")
                pen = "L"
            else:
                pen = "M"
        self._add("path", d="".join(path), class_=f"line {class_}")

    def area(self, x: Any, y: Any, class_: str) -> None:
        """The area between a line and the bottom of the panel."""
        a, b = self.at(x, y)
        ground = self.size[1] - _BOTTOM
        path = "".join(f"L{u:.1f} {v:.1f}" for u, v in zip(a, b, strict=True) if math.isfinite(v))
        self._add("path", d=f"M{a[0]:.1f} {ground:.1f}{path}L{a[-1]:.1f} {ground:.1f}Z", class_=f"area {class_}")

    def points(self, x: Any, y: Any, class_: str, radius: float = 1.8) -> None:
        """Dots, all in one path."""
        dots = [
            f"M{a - radius:.1f} {b:.1f}a{radius} {radius} 0 1 0 {2 * radius} 0a{radius} {radius} 0 1 0 {-2 * radius} 0"
            for a, b in zip(*self.at(x, y), strict=True)
            if math.isfinite(a) and math.isfinite(b)
        ]
        self._add("path", d="".join(dots), class_=f"dots {class_}")

    def intervals(self, x: Any, low: Any, high: Any, class_: str) -> None:
        """Vertical bars from low to high."""
        bars = [
            f"M{a:.1f} {b:.1f}V{c:.1f}"
            for (a, b), c in zip(zip(*self.at(x, low), strict=True), self.at(x, high)[1], strict=True)
            if math.isfinite(b) and math.isfinite(c)
        ]
        self._add("path", d="".join(bars), class_=f"bars {class_}")

    def level(self, y: float, class_: str) -> None:
        """A horizontal line across the panel."""
        if math.isfinite(y):
            self.line(np.array(self.x), np.array([y, y]), class_)

    def plumb(self, x: float, class_: str) -> None:
        """A vertical line across the panel."""
        if self.x[0] <= x <= self.x[1]:
            self.line(np.array([x, x]), np.array(self.y), class_)

    def _add(self, name: str, *children: Any, **attributes: Any) -> None:
        self._parts.append(element(name, *children, **attributes))

    def html(self) -> Html:
        """The panel as an element."""
        width, height = self.size
        ground = height - _BOTTOM
        parts = [element("title", self.about or self.title)]
        room = int((width - 2 * self.left * bool(self.title)) / 6.5)
        if self.labels[1]:
            parts.append(element("text", clipped(self.labels[1], room), x=4, y=15, class_="tick"))
        if self.title:
            place = (
                {"x": width - _RIGHT, "class_": "name end"} if self.labels[1] else {"x": self.left, "class_": "name"}
            )
            parts.append(element("text", clipped(self.title, int(width / 7.4)), y=15, **place))
        ticks = round_ticks(*self.x, most=(width - self.left - _RIGHT) / _APART, least=self._step)
        for value in ticks:
            a = float(self.at(value, 0)[0])
            parts.append(element("path", d=f"M{a:.1f} {ground}v4", class_="axis"))
            parts.append(
                element("text", _tick(value, ticks), x=f"{a:.1f}", y=f"{ground + 16:.1f}", class_="tick middle")
            )
        if self.labels[0]:
            middle = (self.left + width - _RIGHT) / 2
            parts.append(
                element(
                    "text",
                    clipped(self.labels[0], int(width / 6.5)),
                    x=f"{middle:.1f}",
                    y=height - 3,
                    class_="tick middle",
                )
            )
        if self.labels[1]:
            ticks = round_ticks(*self.y)
            for value in ticks:
                b = float(self.at(0, value)[1])
                parts.append(element("path", d=f"M{self.left} {b:.1f}H{width - _RIGHT}", class_="grid"))
                parts.append(element("text", _tick(value, ticks), x=self.left - 5, y=f"{b + 4:.1f}", class_="tick end"))
        parts.append(element("path", d=f"M{self.left} {ground}H{width - _RIGHT}", class_="axis"))
        # What lies outside of the axes is cut off by a nested viewport, which needs no identifier.
        inside = element(
            "svg",
            *(element("g", *self._parts, transform=f"translate({-self.left} {-_TOP + 2})"),),
            x=self.left,
            y=_TOP - 2,
            width=width - self.left - _RIGHT,
            height=ground - _TOP + 3,
        )
        return element("svg", *parts, inside, viewBox=f"0 0 {width} {height}", role="img", class_="panel")


def clipped(words: str, longest: int) -> str:
    """Words of a label, cut where there is no more room; the whole is in the panel's description."""
    return words if len(words) <= longest else f"{words[: longest - 1]}…"


def thinned(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """At most `MOST_POINTS` points of a line, its ends among them."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) <= MOST_POINTS:
        return x, y
    rows = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int))
    return x[rows], y[rows]


def round_ticks(low: float, high: float, most: float = 6, least: float = 0.0) -> np.ndarray:
    """Round numbers between two numbers: about so many, at least so far apart."""
    raw = max((high - low) / most, least)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    ticks = step * np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return ticks if len(ticks) > 1 or step <= least else round_ticks(low, high, 2 * most, least)


def _tick(value: float, ticks: Sequence[float] | np.ndarray) -> str:
    """A tick with the decimals its neighbors need."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(value) or 1.0
    size = max(abs(float(ticks[0])), abs(float(ticks[-1])))
    if size >= 1e6 or (0 < size < 1e-3):
        words = f"{value:.3g}" if value else "0"
    else:
        decimals = next(places for places in range(9) if abs(step * 10**places - round(step * 10**places)) < 1e-6)
        words = number(value, decimals)
    return words.replace("-", "−")


def _wide(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits that are finite and apart."""
    low, high = (float(limit) for limit in limits)
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        room = abs(low) / 10 or 1.0
        return low - room, high + room
    return low, high


def key(entries: Sequence[tuple[str, str]]) -> Html:
    """A legend: (class, words) each, with a swatch of the class: a line, a bar (``bars ...``) or a dot (``dots ...``)."""
    return element("p", *(element("span", _swatch(class_), f" {words}") for class_, words in entries), class_="key")


def _swatch(class_: str) -> Html:
    kind = class_.split()[0]
    path = {"bars": "M13 0V12", "dots": "M9.5 6a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0"}.get(kind, "M1 6H25")
    shape = element("path", d=path, class_=class_ if kind in ("bars", "dots") else f"line {class_}")
    return element("svg", shape, viewBox="0 0 26 12", class_="swatch", aria_hidden="true")
