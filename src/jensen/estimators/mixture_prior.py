"""The prior of a Gaussian mixture: what its user gave, checked, and what the data say where nothing was given."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array

from jensen.estimators.mixture_updates import Prior
from jensen.kernels.mixture import Array


def prior_of(mixture: Any, x: Array, weight: Array | None) -> Prior:
    """Prior from the parameters of a `BayesianGaussianMixture` and rows x (N, D) with weights (N,) or None.

    Raises
    ------
    ValueError
        A parameter does not fit the data, or is not a prior.
    """
    D, shape = x.shape[1], mixture.covariance_type
    total = float(len(x) if weight is None else weight.sum())
    if mixture.mean_prior is None:
        mean = np.average(x, axis=0, weights=weight).astype(float)
    else:
        mean = _array("mean_prior", mixture.mean_prior, (D,), shape)
    degrees = D if mixture.degrees_of_freedom_prior is None else mixture.degrees_of_freedom_prior
    if not degrees > D - 1:
        raise ValueError(
            f"The parameter 'degrees_of_freedom_prior' should be greater than {D - 1}, but got {degrees:.3f}."
        )
    if mixture.covariance_prior is not None:
        covariance = _covariance(mixture.covariance_prior, D, shape)
    elif total > 1:
        covariance = _empirical(x, weight, shape) * (total / (total - 1.0))
    else:
        raise ValueError(
            f"sample_weight counts rows and sums to {total:.3g}, from which no covariance_prior can be computed; give a "
            "covariance_prior or larger weights."
        )
    concentration, precision = mixture.weight_concentration_prior, mixture.mean_precision_prior
    return Prior(
        mixture.weight_concentration_prior_type == "dirichlet_process",
        1.0 / mixture.n_components if concentration is None else float(concentration),
        1.0 if precision is None else float(precision),
        mean,
        float(degrees),
        covariance,
        float(mixture.reg_covar),
    )


def _covariance(value: ArrayLike, D: int, shape: str) -> Array:
    """A covariance prior of the right form."""
    matrix = shape in ("full", "tied")
    form = {"full": (D, D), "tied": (D, D), "diag": (D,), "spherical": ()}[shape]
    covariance = _array("covariance_prior", value, form, shape)
    symmetric = not matrix or np.allclose(covariance, covariance.T)
    if not symmetric or (np.linalg.eigvalsh(covariance) if matrix else covariance).min() <= 0:
        raise ValueError(
            f"The parameter 'covariance_prior' should be {'symmetric and positive definite' if matrix else 'positive'}, but got "
            f"{np.array2string(covariance, threshold=9, precision=3)}; None takes the covariance of the data."
        )
    return covariance


def _array(name: str, value: ArrayLike, form: tuple[int, ...], shape: str) -> Array:
    """A parameter as an array of the form that belongs to the data."""
    array = (
        np.asarray(value, float)
        if np.ndim(value) == 0
        else check_array(value, dtype="float64", ensure_2d=False, input_name=name)
    )
    if array.shape != form:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {form} with {shape} covariances, but got {array.shape}."
        )
    return array


def _empirical(x: Array, weight: Array | None, shape: str) -> Array:
    """Covariances of all rows, in the form of a covariance prior."""
    center = np.average(x, axis=0, weights=weight)
    total = len(x) if weight is None else weight.sum()
    square = np.zeros((x.shape[1], x.shape[1]))
    for first in range(0, len(x), 1 << 16):
        part = slice(first, first + (1 << 16))
        y = x[part] - center
        square += (y.T if weight is None else y.T * weight[part]) @ y
    square /= total
    return {"full": square, "tied": square, "diag": np.diag(square), "spherical": np.mean(np.diag(square))}[shape]
