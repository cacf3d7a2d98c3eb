"""`Posterior.report`: one self-contained HTML page about a fit, for a person.

The sections are files of this folder, each a function from `Facts` to pieces of HTML; the page around them is page.html, a jinja2
template with its style sheet and a few lines of script in it. Nothing is loaded when the page is looked at. What a section cannot
show, as for a fit from a file, it says in one line.
"""

from collections.abc import Callable
from datetime import date
from os import PathLike
from pathlib import Path
from typing import Any

from jensen import __version__
from jensen.core.errors import OptionError
from jensen.core.html import STYLE, Html, joined, text
from jensen.core.threads import one_blas_thread
from jensen.diagnostics.verdict import DO_NOT_USE, MEANS_ONLY, TRUSTED
from jensen.export.files import check_writable, write_text
from jensen.report import marginals, model, origin, pairs, predictive, quantities, steps
from jensen.report.facts import WORDS, Facts

MEANINGS = {
    TRUSTED: "Means, standard deviations and intervals can be used.",
    MEANS_ONLY: "Some standard deviations and intervals are off, or not known well enough; all means can be used.",
    DO_NOT_USE: "Some quantities can be used neither for their means nor for their intervals.",
}
"""Of a fit's overall word."""
_ALL_BAD = "Neither means nor intervals of this fit can be used."

SECTIONS: tuple[tuple[str, str, Callable[[Facts], list[Html]]], ...] = (
    ("model", "The model as it was understood", model.section),
    ("quantities", "Quantities", quantities.section),
    ("steps", "How the fit went", steps.section),
    ("marginals", "Marginals", marginals.section),
    ("pairs", "Pairs that matter", pairs.section),
    ("predictive", "Predictive check", predictive.section),
    ("cost", "Cost", origin.cost),
    ("again", "How to get it again", origin.again),
)
"""Anchor, title and maker of every section below the verdict."""


def refuse_without_engine() -> None:
    """Raise `OptionError` unless the template engine is installed; to be called before the work that the report is about."""
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise OptionError(
            "A report needs the package jinja2, which is not installed; pip install 'jensen[report]'."
        ) from error


def write_report(posterior: Any, path: str | PathLike[str], against: Any = None) -> None:
    """Write the page; see `jensen.posterior.Posterior.report`."""
    refuse_without_engine()
    check_writable(path)
    with one_blas_thread():
        write_text(path, page(posterior, against))


def page(posterior: Any, against: Any = None) -> str:
    """The whole page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    table = posterior.summary()
    columns = {name: table[name].to_numpy(float) for name in ("mean", "sd", "5%", "50%", "95%")}
    facts = Facts(posterior, tuple(table.index), tuple(table["verdict"]), columns, against)
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    verdict, words = posterior.verdict, posterior.verdict.words
    counts = [(word, words.count(word)) for word in reversed(WORDS) if word in words]
    return environment.get_template("page.html").render(
        name=posterior.model.name,
        title=Html(text(posterior.model.name).replace("_", "_<wbr>")),
        language=posterior.model.language,
        dim=posterior.model.dim,
        verdict=verdict,
        meaning=_ALL_BAD if set(words) == {DO_NOT_USE} else MEANINGS[verdict.overall],
        kinds={TRUSTED: "good", MEANS_ONLY: "half", DO_NOT_USE: "bad"},
        signs={TRUSTED: "✓", MEANS_ONLY: "~", DO_NOT_USE: "✕"},
        counts=counts,
        total=len(words),
        sections=[(anchor, title, joined(make(facts))) for anchor, title, make in SECTIONS],
        style=Html(STYLE + (here / "page.css").read_text(encoding="utf-8")),
        script=Html((here / "page.js").read_text(encoding="utf-8")),
        version=__version__,
        today=date.today().isoformat(),
    )
