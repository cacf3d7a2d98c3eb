"""Section: the model as it was understood. The plate diagram, tables of its variables, and what coordinate ascent could do."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from jensen.core.errors import JensenError
from jensen.core.html import Html, element, table
from jensen.report.boxes import MOST, Box, boxes
from jensen.report.diagram import diagram
from jensen.report.facts import Facts

_LARGEST_EXPLAINED, _MOST_DATA = 500, 100_000
"""Dimensions and numbers of data up to which conjugacy is looked for, which takes longer the more there are."""


def section(facts: Facts) -> list[Html]:
    """Diagram; tables of sites, deterministics, observed variables and data; conjugacy."""
    model = facts.posterior.model
    found, why = _boxes(facts)
    laws = {box.name: box.law for box in found}
    tables = [_variables(facts, laws), element("div", _observed(model, laws), _data(model))]
    parts = [_drawn(found) if found else element("p", why, class_="soft"), element("div", *tables, class_="side")]
    parts += [element("p", note) for note in model.notes]
    return [*parts, *_conjugacy(facts)] if found else parts


def _boxes(facts: Facts) -> tuple[Sequence[Box], str]:
    """The boxes of the diagram, or why there are none."""
    posterior = facts.posterior
    if posterior.model.source is None:
        return (), "Distributions and the diagram need the model's code, which a fit from a file does not have."
    if posterior.model.graph is None:
        return (), f"A {posterior.model.language} has no distributions to draw a diagram of."
    try:
        return boxes(posterior.model, posterior.settings.precision), ""
    except JensenError as error:
        return (), f"There is no diagram: {error}"


def _drawn(found: Sequence[Box]) -> Html:
    if len(found) > MOST:
        why = f"The diagram is left out: {len(found)} variables are more than can be drawn readably."
        return element("p", why, class_="soft")
    kinds = {box.kind for box in found}
    about = ["Rounded boxes are inferred", "filled ones observed"]
    about += ["square ones factors"] if "factor" in kinds else []
    about += ["an arrow begins at what a distribution reads"] if any(box.parents for box in found) else []
    about += ["a frame repeats what is in it"] if any(box.plates for box in found) else []
    words = element("p", "; ".join(about) + ".", class_="soft")
    return element("figure", element("div", diagram(found), class_="wide", tabindex="0"), words)


def _variables(facts: Facts, laws: dict[str, str]) -> Html:
    model, kept = facts.posterior.model, facts.posterior.kept.values
    squeezed = any(site.size != prod(site.shape) for site in model.sites)
    rows = [
        (
            site.name,
            "inferred",
            laws.get(site.name, ""),
            _shape(site.shape),
            site.support,
            _dims(site.dims),
            f"{site.size:,}" if squeezed else "",
        )
        for site in model.sites
    ]
    rows += [
        (
            name,
            "inferred",
            laws.get(name, ""),
            _shape(kept[name].shape[1:]) if name in kept else "",
            "discrete",
            _dims(model.dims.get(name, ())),
            "",
        )
        for name in model.discrete
    ]
    rows += [(each.name, "computed", "", _shape(each.shape), "", _dims(each.dims), "") for each in model.derived]
    head = ("variable", "role", "distribution", "shape", "support", "dims", "unconstrained")
    return _compact(head, rows, words=(1, 2, 3, 4, 5))


def _observed(model: Any, laws: dict[str, str]) -> Html:
    names = list(dict.fromkeys([*model.likelihoods, *model.observed]))
    if not names:
        return element("p", "No variable is observed by name.", class_="soft")
    rows = [
        (
            name,
            laws.get(name, ""),
            _shape(np.shape(model.observed[name])) if name in model.observed else "",
            _dims(model.dims.get(name, ())),
        )
        for name in names
    ]
    return _compact(("observed", "distribution", "shape", "dims"), rows, words=(1, 2, 3))


def _data(model: Any) -> Html | None:
    """What else the model is given."""
    rows = [
        (name, _shape(np.shape(value)), str(np.asarray(value).dtype))
        for name, value in model.data.items()
        if not (name in model.observed and np.shape(model.observed[name]) == np.shape(value))
    ]
    return table(("other data", "shape", "type"), rows, words=(1, 2)) if rows else None


def _compact(head: Sequence[str], rows: list[tuple[str, ...]], words: Sequence[int]) -> Html:
    """A table without the columns in which no row has anything."""
    kept = [column for column in range(len(head)) if column == 0 or any(row[column] for row in rows)]
    renumbered = [kept.index(column) for column in words if column in kept]
    return table([head[i] for i in kept], [[row[i] for i in kept] for row in rows], words=renumbered)


def _conjugacy(facts: Facts) -> list[Html]:
    from jensen.conjugate.explain import certified, explain

    posterior, model = facts.posterior, facts.posterior.model
    heading = element("h3", "What coordinate ascent can do with it")
    if hasattr(posterior.q, "plan"):
        return [heading, explain(model, posterior.q.plan, None).html]
    size = sum(np.size(value) for value in (*model.data.values(), *model.observed.values()))
    if model.dim > _LARGEST_EXPLAINED or size > _MOST_DATA:
        return [heading, element("p", "Left out for its size; jn.conjugacy(model, data=...) tells.", class_="soft")]
    try:
        found = explain(model, *certified(model))
    except JensenError as error:
        return [heading, element("p", str(error), class_="soft")]
    updates = [finding.update for finding in found.findings]
    counts = ", ".join(f"{updates.count(word)} {word}" for word in dict.fromkeys(updates))
    runs = "It can run" if found.runs else "It cannot run"
    return [heading, element("details", element("summary", f"{runs}; sites: {counts}"), found.html)]


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(f"{length:,}" for length in shape) if len(shape) else "scalar"


def _dims(dims: Sequence[str | None]) -> str:
    return ", ".join(dim or "–" for dim in dims)
