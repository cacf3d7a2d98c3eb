"""The blind set: posteriors with independently known moments, on which the verdict is scored once.

They were chosen, and their truths computed (``benchmarks/blind_truth.py``), before any fit of them was looked at.

    from benchmarks.blind_models import models
    for entry in models():
        posterior = jensen.fit(entry.model, data=entry.data)
        ...                                                   # compare with entry.mean, entry.sd
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TRUTH = Path(__file__).with_name("blind_truth.json")


@dataclass(frozen=True, eq=False)
class Entry:
    """One model and its true moments, in the model's own space.

    Attributes
    ----------
    name, kind
        The kind is one of regression, series, hierarchy, counts, bounded, geometry.
    model, data
        What `jensen.fit` takes; the data of PyMC models and densities are in the model.
    mean, sd
        Site -> array of the site's shape. An sd of zero is a constant entry (of a Cholesky factor), not to be scored.
    how
        ``"exact"``, ``"draws"``, ``"grid"``, ``"conditional"`` (Gaussian given the scales, which are on a grid) or ``"nuts"``.
    error
        Largest numerical or Monte Carlo error of a mean or sd, in sds.
    """

    name: str
    kind: str
    model: Any
    data: dict[str, Any]
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    how: str
    error: float


def sources() -> Iterator[tuple[str, str, Any, dict[str, Any]]]:
    """Name, kind, model and data of each, without its truth."""
    from benchmarks import blind_hierarchies, blind_regressions
    from benchmarks.blind_geometries import geometries

    rooms = {
        "regression": blind_regressions.regressions,
        "series": blind_regressions.series,
        "hierarchy": blind_hierarchies.hierarchies,
        "counts": blind_hierarchies.counts_and_times,
        "bounded": blind_hierarchies.bounded,
    }
    for kind, room in rooms.items():
        for name, model, data in room():
            yield name, kind, model, data
    for geometry in geometries():
        yield geometry.name, "geometry", geometry.model, {}


def models() -> Iterator[Entry]:
    """Every model with its truth."""
    truths = json.loads(TRUTH.read_text(encoding="utf-8"))
    for name, kind, model, data in sources():
        truth = truths[name]
        mean, sd = ({site: np.asarray(value) for site, value in truth[key].items()} for key in ("mean", "sd"))
        yield Entry(name, kind, model, data, mean, sd, truth["how"], truth["error"])


def check() -> None:
    """Every truth has the sites of its model and their shapes, and is finite; nothing is fitted."""
    from jensen.core.precision import scope
    from jensen.models.read import read

    for number, entry in enumerate(models(), 1):
        with scope():
            sites = {site.name: tuple(site.shape) for site in read(entry.model, entry.data).sites}
        for moments in (entry.mean, entry.sd):
            found = {name: value.shape for name, value in moments.items()}
            assert found == sites, f"{entry.name}: the truth has {found}, the model {sites}"
            assert all(np.isfinite(value).all() for value in moments.values()), entry.name
        scalars = sum(value.size for value in entry.mean.values())
        print(f"{number:2d} {entry.name:20s} {entry.kind:10s} {scalars:4d} {entry.how:11s} {entry.error:.1e}")


if __name__ == "__main__":
    check()
