"""Section: every scalar quantity with mean, sd, quantiles and its word.

Up to `SHOWN` rows are a plain table. Of more, the least trusted are, beside one row a variable; all of them are in the page as
data, in which a few lines of script search.
"""

import json
from typing import Any

import numpy as np

from jensen.core.html import Html, badge, element, joined, table
from jensen.core.layout import axis_labels
from jensen.export.table import number, texts
from jensen.report.facts import WORDS, Facts

SHOWN, _SEARCHED, _BEHIND, _TALL = 200, 60_000, 100, 25
"""Rows of the table, and that the page can hold as data; of the numbers behind them; from which on the table scrolls."""
HEAD = ("quantity", "verdict", "mean", "sd", "5%", "50%", "95%")


def section(facts: Facts) -> list[Html]:
    """The table, or its shorter form; and the numbers behind the words."""
    total = len(facts.names)
    if total <= SHOWN:
        parts = [_table(facts, np.arange(total), id="scalars")]
    else:
        order = np.argsort([WORDS.index(word) for word in facts.words], kind="stable")
        parts = [_by_variable(facts)]
        if total <= _SEARCHED:
            about = f"All {total:,} quantities are here: search by name or verdict. Below, the least trusted {SHOWN}."
            parts += [element("p", about), _search(), _table(facts, order[:SHOWN], id="scalars"), _data(facts)]
        else:
            about = f"The least trusted {SHOWN} of {total:,}; posterior.summary() has all."
            parts += [element("p", about), _table(facts, order[:SHOWN], id="scalars")]
    if SHOWN >= total > 20:
        parts[:0] = [_search()]
    left_out = facts.posterior.model.discrete
    if left_out:
        about = f"Not in the table, being discrete: {', '.join(left_out)}; posterior.draws() has them."
        parts.append(element("p", about, class_="soft"))
    behind = _behind(facts)
    return [*parts, behind] if behind else parts


def _table(facts: Facts, rows: np.ndarray, **attributes: Any) -> Html:
    columns = texts({name: values[rows] for name, values in facts.columns.items()}, len(rows))
    words = [facts.words[row] for row in rows]
    cells = zip((facts.names[row] for row in rows), words, *columns.values(), strict=True)
    shown = table(HEAD, cells, words=(1,), **attributes)
    return element("div", shown, class_="tall") if len(rows) > _TALL else shown


def _search() -> Html:
    """The field, which the script shows: without it, it would do nothing."""
    field = element("input", type="search", id="find", placeholder="name or verdict", autocomplete="off")
    return element(
        "p", element("label", "Find ", field), " ", element("output", id="found"), class_="find", hidden=True
    )


def _by_variable(facts: Facts) -> Html:
    rows = []
    for number_, variable in enumerate(facts.variables):
        own = slice(facts.starts[number_], facts.starts[number_ + 1])
        words = facts.words[own]
        counts = [element("span", f"{words.count(word):,} ", badge(word)) for word in WORDS if word in words]
        rows.append(
            (
                variable.name,
                joined(counts, " "),
                f"{len(words):,}",
                _range(facts.columns["mean"][own]),
                _range(facts.columns["sd"][own]),
            )
        )
    return table(("variable", "verdicts", "scalars", "means", "sds"), rows, words=(1,))


def _range(values: np.ndarray) -> str:
    if not len(values):
        return ""
    low, high = float(np.min(values)), float(np.max(values))
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def _data(facts: Facts) -> Html:
    """All rows as JSON: variable by variable, columns as words in one string, verdicts as digits."""
    columns = texts(facts.columns, len(facts.names))
    blocks = []
    for i, variable in enumerate(facts.variables):
        own = slice(int(facts.starts[i]), int(facts.starts[i + 1]))
        blocks.append(
            {
                "name": variable.name,
                "labels": axis_labels(variable, facts.posterior.model.coords),
                "columns": [" ".join(_shorter(text) for text in column[own]) for column in columns.values()],
                "words": "".join(str(WORDS.index(word)) for word in facts.words[own]),
            }
        )
    content = json.dumps({"words": WORDS, "variables": blocks}, separators=(",", ":"), ensure_ascii=False)
    data = element("script", Html(content.replace("<", "\\u003c")), type="application/json", id="rows")
    return joined([data, *(element("template", badge(word), data_word=word) for word in WORDS)])


def _shorter(text: str) -> str:
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _behind(facts: Facts) -> Html | None:
    """The verdict's own columns, the least trusted quantities first."""
    verdict = facts.posterior.verdict
    if not verdict.columns:
        return None
    words = [WORDS.index(word) for word in verdict.words]
    rows = np.sort(np.argsort(words, kind="stable")[:_BEHIND])
    columns = texts({name: np.asarray(values)[rows] for name, values in verdict.columns.items()}, len(rows))
    cells = zip((verdict.names[i] for i in rows), (verdict.words[i] for i in rows), *columns.values(), strict=True)
    shown = table(("quantity", "verdict", *columns), cells, words=(1,))
    some = "" if len(rows) == len(words) else f" (the least trusted {len(rows)} of {len(words):,})"
    return element("details", element("summary", f"The numbers behind the words{some}"), shown)
