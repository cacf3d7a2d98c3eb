"""Classical models behind the scikit-learn contract, fitted by variational inference.

Names are loaded when first used: importing this package loads neither scikit-learn nor Numba nor JAX.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ARDRegression": "jensen.estimators.linear",
    "BayesianGaussianMixture": "jensen.estimators.mixture",
    "BayesianLinearRegression": "jensen.estimators.linear",
    "BayesianLogisticRegression": "jensen.estimators.logistic",
    "BayesianPCA": "jensen.estimators.pca",
    "GaussianHMM": "jensen.estimators.hmm",
    "LatentDirichletAllocation": "jensen.estimators.topics",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jensen.estimators' has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in ("sklearn", "numba"):
            raise
        raise ModuleNotFoundError(
            f"{name} needs the package {error.name}; it is not installed; pip install 'jensen[estimators]'.",
            name=error.name,
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
