"""The short forms of a posterior: the table and the verdict, as text for terminals and as HTML for notebooks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jensen.core.html import Html, element, for_notebook, table
from jensen.export.table import render, texts

SHOWN = 30


def text(posterior: Any, names: Sequence[str], columns: Mapping[str, Any]) -> str:
    """Head, table, verdict and cost; `columns` are those of the summary."""
    return "\n".join(
        [_head(posterior), "", render(names, columns), "", f"verdict: {posterior.verdict}", _tail(posterior)]
    )


def html(posterior: Any, names: Sequence[str], columns: Mapping[str, Any]) -> Html:
    """The same for a notebook, the verdict first."""
    shown = min(len(names), SHOWN)
    cells = zip(names[:shown], *texts(columns, shown).values(), strict=True)
    more = f"{len(names) - shown} more; posterior.summary() has all" if shown < len(names) else None
    return for_notebook(
        element("p", element("b", _head(posterior))),
        posterior.verdict.html,
        table(("", *columns), cells, words=(len(columns),)),
        element("p", more, class_="soft") if more else None,
        element("p", _tail(posterior).replace("+-", "±"), class_="soft"),
    )


def _head(posterior: Any) -> str:
    model = posterior.model
    return f"Posterior of {model.name} ({model.language}, {model.dim} unconstrained dimensions)"


def _tail(posterior: Any) -> str:
    elbo = "no ELBO" if np.isnan(posterior.elbo.value) else f"ELBO {posterior.elbo}"
    cost = f"{posterior.cost.gradients:,} gradients, {posterior.cost.seconds:.1f} s"
    return f"{elbo}; {cost}; {posterior.run.status} after {posterior.run.steps} steps"
