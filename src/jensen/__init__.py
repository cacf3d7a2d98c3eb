"""jensen: variational inference for models you already have, with an honest verdict.

>>> import jensen as jn
>>> posterior = jn.fit(model, data={"X": X, "y": y})  # doctest: +SKIP

Names are loaded when first used, so that importing jensen costs little more than importing JAX.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "fit": "jensen.fitting",
    "density": "jensen.models.density",
    "conjugacy": "jensen.conjugate.explain",
    "compare": "jensen.comparison",
    "calibrate": "jensen.calibration",
    "table": "jensen.data.build",
    "load": "jensen.posterior",
    "Posterior": "jensen.posterior",
    "Verdict": "jensen.diagnostics.verdict",
    "MeanField": "jensen.families.meanfield",
    "FullRank": "jensen.families.fullrank",
    "Blocks": "jensen.families.blocks",
    "FixedDraws": "jensen.engines.fixed_draws",
    "Laplace": "jensen.engines.laplace",
    "Pathfinder": "jensen.engines.pathfinder",
    "BatchMatch": "jensen.engines.batch_match",
    "Descent": "jensen.engines.descent",
    "Renyi": "jensen.objectives.renyi",
    "LogRatio": "jensen.objectives.log_ratio",
    "LowRankDraws": "jensen.engines.lowrank",
    "LowRank": "jensen.families.lowrank",
    "Structured": "jensen.engines.structured",
    "ScaleLayer": "jensen.engines.layered",
    "CouplingFlow": "jensen.engines.flow",
    "Stacked": "jensen.engines.stacked",
    "Stein": "jensen.engines.stein",
    "Gradient": "jensen.engines.gradient",
    "CoordinateAscent": "jensen.engines.coordinate",
    "NaturalGradient": "jensen.engines.natural",
    "Gibbs": "jensen.engines.gibbs",
    "Conjugacy": "jensen.conjugate.explain",
    "Tracker": "jensen.callbacks",
    "ParameterConvergence": "jensen.callbacks",
    "JensenError": "jensen.core.errors",
    "ModelError": "jensen.core.errors",
    "ImproperError": "jensen.core.errors",
    "UnsupportedError": "jensen.core.errors",
    "NonFiniteError": "jensen.core.errors",
    "DataError": "jensen.core.errors",
    "OptionError": "jensen.core.errors",
    "FileError": "jensen.core.errors",
    "FitWarning": "jensen.core.errors",
}

_ROOMS = ("plots", "estimators")
"""Packages whose names are used through them, ``jn.plots.elbo(...)``."""

__all__ = [*_HOMES, *_ROOMS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"jensen.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'jensen' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
