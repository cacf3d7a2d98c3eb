"""New values for the data containers of a PyMC model, and posterior predictive draws through PyMC itself.

Values are put into the user's model only while PyMC simulates, and taken out again also when it fails.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from jensen.core.errors import DataError, UnsupportedError


def replacements(model: Any, arrays: Mapping[str, np.ndarray], data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Check `data` against the data containers (with values `arrays`) and return it as arrays of their types."""
    containers = [variable.name for variable in model.data_vars]
    new = {}
    for name, value in data.items():
        if name not in containers:
            known = ", ".join(containers) or "none; make them with pm.Data"
            raise DataError(f"the model has no data container {name!r}; its containers are: {known}.")
        old, array = arrays[name], np.asarray(value)
        if array.ndim != old.ndim:
            raise DataError(
                f"data {name!r} has {array.ndim} dimension{'s' * (array.ndim != 1)} {array.shape}, and its container "
                f"has {old.ndim}; reshape it."
            )
        if array.dtype.kind not in "fiub":
            raise DataError(
                f"data {name!r} has type {array.dtype}, and its container {old.dtype}; convert it to numbers."
            )
        if old.dtype.kind in "iu" and array.dtype.kind == "f" and not (array == np.floor(array)).all():
            raise DataError(f"data {name!r} has fractions, and its container holds integers ({old.dtype}); round it.")
        new[name] = array.astype(old.dtype)
    return new


def lengths(model: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Length of every dimension of the model, where its containers hold `arrays`."""
    found = held(model, arrays)
    result = {}
    for dim, length in model.dim_lengths.items():
        if dim in found:
            result[dim] = found[dim]
        elif hasattr(length, "get_value"):
            result[dim] = int(length.get_value())
        elif hasattr(length, "data"):
            result[dim] = int(length.data)
    return result


def held(model: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Length of every dimension of the containers, where they hold `arrays`."""
    found: dict[str, tuple[int, str]] = {}
    for variable in model.data_vars:
        for axis, dim in enumerate(model.named_vars_to_dims.get(variable.name) or ()):
            length = arrays[variable.name].shape[axis]
            if dim is None:
                continue
            if dim in found and found[dim][0] != length:
                raise DataError(
                    f"dimension {dim!r} has length {found[dim][0]} in data {found[dim][1]!r} and {length} in "
                    f"{variable.name!r}; pass both with one length."
                )
            found[dim] = length, variable.name
    return {dim: length for dim, (length, _) in found.items()}


def predict(
    model: Any,
    found: Any,
    fitted: Mapping[str, np.ndarray],
    fitted_lengths: Mapping[str, int],
    values: Mapping[str, np.ndarray],
    data: Mapping[str, Any],
    seed: int,
) -> dict[str, np.ndarray]:
    """Simulate the observed variables, one simulation a draw.

    Parameters
    ----------
    model
        The PyMC model.
    found
        Its data, as `pymc_roots.roots` found them.
    fitted, fitted_lengths
        Data and dimension lengths of the fit.
    values
        Draws of the sites in their own space, draws first.
    data
        New values of data containers; the others keep those of the fit. A container that holds nothing but observed
        values follows the length of the others.
    seed
        Of PyMC's random numbers.

    Returns
    -------
    Observed variable -> array, draws first.

    Raises
    ------
    DataError
        When the new data do not fit the model.
    UnsupportedError
        When a distribution cannot be simulated.
    """
    import arviz
    import pymc
    from pytensor.compile.mode import FAST_COMPILE

    old = {name: fitted[name] for name in found.shared}
    new = old | replacements(model, old, _changed(found, fitted, data))
    new |= _resized(found, old, new)
    new_lengths = lengths(model, new)
    dims = {name: _dims(model, name) for name in [*values, *old] if model.named_vars_to_dims.get(name)}
    coords = {dim: _labels(model, dim, length) for dim, length in fitted_lengths.items()}
    # PyMC draws anew whatever depends on data that differ from the constant data of the draws, or have none there.
    posterior = arviz.from_dict(
        posterior={name: np.asarray(draws)[None] for name, draws in values.items()},
        constant_data=old,
        coords=coords,
        dims=dims,
    )
    with _holding(model, found.shared, new, new_lengths), _quiet("pymc.sampling.forward"):
        try:
            simulated = pymc.sample_posterior_predictive(
                posterior,
                model=model,
                var_names=[rv.name for rv in model.observed_RVs],
                random_seed=seed % 2**32,
                progressbar=False,
                return_inferencedata=False,
                # Translating to C would take longer than simulating in Python.
                compile_kwargs={"mode": FAST_COMPILE},
            )
        except NotImplementedError as error:
            raise UnsupportedError(
                f"PyMC cannot simulate an observed variable: {str(error).splitlines()[0].rstrip('.')}; pm.CustomDist "
                "takes random=..."
            ) from error
        except (ValueError, IndexError, AssertionError) as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in new.items())
            text = str(error).splitlines()[0].rstrip(".")
            raise DataError(
                f"PyMC cannot simulate on these data: {text}; the shapes are {shapes}; an observed variable whose "
                "length may change needs shape=... or observed=pm.Data(...)."
            ) from error
    return {name: np.asarray(draws)[0] for name, draws in simulated.items()}


def _changed(found: Any, fitted: Mapping[str, np.ndarray], data: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `data` that are not those of the fit; large constants of the model may not be among them."""
    changed = {name: value for name, value in data.items() if value is not fitted.get(name)}
    for name in found.constants:
        if name in changed and not np.array_equal(changed.pop(name), fitted[name]):
            raise DataError(
                f"data {name!r} is a constant of the model; make it a container with pm.Data to replace it."
            )
    return changed


def _resized(found: Any, old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Observed values as long as the new covariates; what they are does not matter for a simulation."""
    rows = {old[name].shape[0]: new[name].shape[0] for name in new if new[name].ndim and new[name] is not old[name]}
    resized = {}
    for name, value in old.items():
        if name in found.covariates or new[name] is not value or not value.ndim or value.shape[0] not in rows:
            continue
        resized[name] = np.resize(value, (rows[value.shape[0]], *value.shape[1:]))
    return resized


def _dims(model: Any, name: str) -> list[str]:
    return [dim or f"{name}_dim_{axis}" for axis, dim in enumerate(model.named_vars_to_dims[name])]


def _labels(model: Any, dim: str, length: int) -> Any:
    labels = model.coords.get(dim)
    return labels if labels is not None and len(labels) == length else range(length)


@contextmanager
def _holding(
    model: Any, shared: Mapping[str, Any], arrays: Mapping[str, np.ndarray], new_lengths: Mapping[str, int]
) -> Iterator[None]:
    """Let the model hold other data for a while."""
    before = {name: variable.get_value(borrow=True) for name, variable in shared.items()}
    resizable = {dim: length for dim, length in model.dim_lengths.items() if hasattr(length, "get_value")}
    sizes = {dim: (int(length.get_value()), model.coords[dim]) for dim, length in resizable.items()}
    try:
        for dim, (size, labels) in sizes.items():
            if new_lengths[dim] != size:
                model.set_dim(dim, new_lengths[dim], coord_values=None if labels is None else range(new_lengths[dim]))
        for name, variable in shared.items():
            variable.set_value(np.asarray(arrays[name], variable.type.dtype))
        yield
    finally:
        for dim, (size, labels) in sizes.items():
            model.set_dim(dim, size, coord_values=labels)
        for name, variable in shared.items():
            variable.set_value(before[name], borrow=True)


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """No progress messages, and no warnings about what the user did not ask."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
