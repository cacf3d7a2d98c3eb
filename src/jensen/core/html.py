"""Small pieces of HTML that notebooks and reports share: escaped elements, tables, and the words of a verdict as badges.

Color never alone carries a word: the word itself is there, with a sign before it. All colors are variables that follow the
reader's light or dark scheme, so that one page serves both.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any


class Html(str):
    """Text that is HTML already; `element` and templates put it in as it is, and escape everything else."""

    __slots__ = ()

    def __html__(self) -> "Html":
        """Tell template engines that this needs no escaping."""
        return self


_SIGNS = {
    "trusted": ("good", "✓"),
    "means only": ("half", "~"),
    "do not use": ("bad", "✕"),
    "exact": ("good", "✓"),
    "natural gradient": ("half", "~"),
    "free": ("half", "~"),
    "refused": ("bad", "✕"),
}
"""Word -> (class, sign): verdicts, and updates of coordinate ascent."""
_VOID = ("br", "input")
"""Elements that have no end."""


def element(name: str, *children: Any, **attributes: Any) -> Html:
    """One element.

    Parameters
    ----------
    name
        Of the element.
    children
        What is in it; everything that is not `Html` is escaped, None is left out.
    attributes
        Their names may end in an underscore (``class_``) and have ``_`` for ``-``; None and False leave one out, True gives
        it without a value.

    Examples
    --------
    >>> print(element("p", "a < b", class_="note"))
    <p class="note">a &lt; b</p>
    """
    given = [
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    ]
    end = "" if name in _VOID else f"</{name}>"
    return Html(f"<{name}{''.join(given)}>{joined(children)}{end}")


def joined(children: Iterable[Any], between: str = "") -> Html:
    """Pieces one after the other, escaped where they are no `Html`."""
    return Html(between.join(text(child) for child in children if child is not None))


def text(value: Any) -> Html:
    """A value as HTML: as it is, or escaped."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def badge(word: str) -> Html:
    """A word with its sign and color; words without a sign as they are."""
    kind, sign = _SIGNS.get(word, ("", ""))
    if not kind:
        return text(word)
    return element("span", element("span", sign, aria_hidden="true"), f" {word}", class_=f"word {kind}")


def table(
    head: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    *,
    words: Sequence[int] = (),
    caption: str = "",
    **attributes: Any,
) -> Html:
    """A table with column headings and a heading a row.

    Parameters
    ----------
    head
        Column headings; the first is that of the row headings.
    rows
        Cells, the row heading first.
    words
        Columns of words, which are set to the left, and whose verdicts become badges; the first column always is.
    caption
        Of the table.
    attributes
        Of the table element.
    """
    left = {0, *words}

    def line(cells: Sequence[Any]) -> Html:
        parts = [element("th", cells[0], scope="row")]
        for column, cell in enumerate(cells[1:], 1):
            if column in left:
                parts.append(element("td", badge(cell) if type(cell) is str else cell, class_="t"))
            else:
                parts.append(element("td", cell))
        return element("tr", *parts)

    headings = [element("th", name, scope="col", class_="t" if i in left else None) for i, name in enumerate(head)]
    return element(
        "div",
        element(
            "table",
            element("caption", caption) if caption else None,
            element("thead", element("tr", *headings)),
            element("tbody", *map(line, rows)),
            **attributes,
        ),
        class_="wide",
        tabindex="0",
    )


def items(lines: Iterable[Any], class_: str | None = None) -> Html | None:
    """A list; None without lines."""
    entries = [element("li", line) for line in lines]
    return element("ul", *entries, class_=class_) if entries else None


def for_notebook(*parts: Any) -> Html:
    """Pieces with their style, as a notebook shows them below a cell."""
    return element("div", Html(f"<style>{STYLE}</style>"), *parts, class_="jensen")


STYLE = """
.jensen{--good:#116329;--half:#7d4e00;--half-bg:#fff1c2;--bad:#a40e26;--bad-bg:#ffe3e0}
@media (prefers-color-scheme:dark){.jensen{--good:#7ee787;--half:#f0c454;--half-bg:#3d2e00;--bad:#ff9d94;--bad-bg:#4b1113}}
.jensen .word{display:inline-block;padding:0 .5em;border-radius:1em;white-space:nowrap;border:1px solid currentColor;\
font-weight:600;font-size:.92em}
.jensen .good{color:var(--good)}
.jensen .word.good{border-color:transparent;padding:0}
.jensen .half{color:var(--half);background:var(--half-bg)}
.jensen .bad{color:var(--bad);background:var(--bad-bg)}
.jensen .soft,.jensen thead th,.jensen caption{opacity:.75}
.jensen .wide{overflow-x:auto;max-width:100%}
.jensen table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.4em 0}
.jensen th,.jensen td{padding:.16em .7em;text-align:right;border:0;border-bottom:1px solid #80808055;white-space:nowrap}
.jensen tbody th,.jensen th.t,.jensen td.t,.jensen caption{text-align:left}
.jensen tbody th{font-weight:500}
.jensen ul{margin:.3em 0;padding-left:1.3em}
.jensen p{margin:.3em 0}
"""
"""What the pieces above look like, inside of an element of class ``jensen``; text and lines take their color from around it."""
