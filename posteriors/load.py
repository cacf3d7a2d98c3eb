"""Names, models, data and references: `load(name)` returns the three together."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_HERE = Path(__file__).parent


@dataclass(frozen=True, eq=False)
class Reference:
    """What is known about a posterior, in the model's own (constrained) space.

    Attributes
    ----------
    name
        Of the posterior, here.
    origin
        ``"posteriordb"``, or how the reference was drawn.
    source
        Name of the posterior in posteriordb.
    dim
        Number of unconstrained coordinates.
    columns
        Name of each of the C scalars: ``sigma``, ``beta[0]``, ...
    sites
        Pairs (site, shape) in column order: latent sites, then derived quantities.
    latent
        Names of the latent sites.
    mean, sd
        Shape (C,).
    quantiles
        Shape (5, C), for `PROBS`.
    cov
        Shape (C, C), or None where D is large.
    """

    name: str
    origin: str
    source: str
    dim: int
    columns: tuple[str, ...]
    sites: tuple[tuple[str, tuple[int, ...]], ...]
    latent: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    quantiles: np.ndarray
    cov: np.ndarray | None

    def by_site(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Split (..., C) into one array (..., *shape) a site, `mean` or a row of `quantiles` for example."""
        parts, start = {}, 0
        for site, shape in self.sites:
            stop = start + int(np.prod(shape))
            parts[site] = values[..., start:stop].reshape((*values.shape[:-1], *shape))
            start = stop
        return parts


PROBS = (0.05, 0.25, 0.5, 0.75, 0.95)


def names() -> list[str]:
    """Every posterior, in alphabetical order."""
    return sorted(path.stem for path in (_HERE / "reference").glob("*.npz"))


def reference(name: str) -> Reference:
    """Read the reference of one posterior."""
    with np.load(_HERE / "reference" / f"{name}.npz", allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        return Reference(
            name=name,
            origin=about["origin"],
            source=about["source"],
            dim=about["dim"],
            columns=tuple(file["columns"].tolist()),
            sites=tuple((site, tuple(shape)) for site, shape in about["sites"]),
            latent=tuple(about["latent"]),
            mean=file["mean"],
            sd=file["sd"],
            quantiles=file["quantiles"],
            cov=file.get("cov"),
        )


def data(name: str) -> dict[str, np.ndarray]:
    """Read the data of one posterior: the keyword arguments of its model."""
    values = json.loads((_HERE / "data" / f"{name}.json").read_text(encoding="utf-8"))
    return {key: np.asarray(value) for key, value in values.items()}


def load(name: str) -> tuple[Callable[..., Any], dict[str, np.ndarray], Reference]:
    """Return the NumPyro model, its keyword arguments and the reference of one posterior.

    Raises
    ------
    KeyError
        If there is no such posterior.
    """
    if name not in names():
        raise KeyError(f"no posterior {name!r}; there are {', '.join(names())}")
    from posteriors import models

    return getattr(models, name), data(name), reference(name)
