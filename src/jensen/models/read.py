"""Which front end reads a model: decided by what the object is, importing no library that is not already in use."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jensen.core.errors import DataError, OptionError
from jensen.core.precision import scope
from jensen.models.density import Density
from jensen.models.density import read as read_density
from jensen.models.model import Model


def read(
    model: Any = None,
    data: Mapping[str, Any] | None = None,
    precision: str = "float64",
    lengths: Mapping[int, int] | None = None,
) -> Model:
    """Read a model written in PyMC or NumPyro, or described by `jensen.density`.

    Parameters
    ----------
    model
        A PyMC or Bambi model, a NumPyro model function, a `Density`, a `Model`, or None inside ``with pm.Model():``.
    data
        Name -> array: arguments of a NumPyro model, data containers of a PyMC model, data of a density.
    precision
        In which the model will be evaluated; JAX keeps traces, so it is read in the same.
    lengths
        Length of a plate written in the model -> number of its rows that `data` hold.

    Raises
    ------
    OptionError
        When the object is no model.
    DataError
        When an array holds NaN, infinite values that are no bounds, or no real numbers, or a name or shape does not fit.
    ModelError
        When the model cannot be fitted as written.
    """
    _refuse_no_dict(data)
    if isinstance(model, Model):  # a front end of the user's own
        return model if data is None else replace(model, data={**model.data, **checked(model, data)})
    data = {name: _plain(name, value) for name, value in (data or {}).items()}
    if isinstance(model, Density):
        for name, value in (model.data or {}).items():
            _plain(name, value)
    record = _front_end(model, data, precision, lengths or {})
    _refuse_nonfinite(record, record.data, precision)
    return record


def checked(model: Model, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """New data for a model that was read before: names must be its own, and values finite; None leaves a name as it was.

    Raises
    ------
    OptionError
        When it is no dict.
    DataError
        For an unknown name, or NaN and infinite values.
    """
    _refuse_no_dict(data)
    unknown = set(data) - set(model.data)
    if unknown:
        raise DataError(
            f"the model has no data {sorted(unknown)}; it has {sorted(model.data)}; check the names in data=."
        )
    arrays = {name: np.asarray(_plain(name, value)) for name, value in data.items() if value is not None}
    _refuse_nonfinite(model, arrays, "float64")
    return arrays


def _front_end(model: Any, data: dict[str, Any], precision: str, lengths: Mapping[int, int]) -> Model:
    if isinstance(model, Density):
        with scope(precision):
            return read_density(model, data)
    if _written_in(model, "pymc", "Model") or _written_in(model, "bambi", "Model") or model is None:
        from jensen.models import pymc

        model = pymc.current() if model is None else model
        if model is None:
            raise OptionError(
                "fit() without a model works inside `with pm.Model():`; pass the model as first argument."
            )
        return pymc.read(model, data)
    if callable(model):
        from jensen.models import numpyro

        with scope(precision):
            return numpyro.read(model, data, lengths)
    raise OptionError(
        f"a model is a PyMC model, a NumPyro function or jn.density(...); got {type(model).__name__}; see jn.fit's help."
    )


def _written_in(model: Any, package: str, name: str) -> bool:
    """Whether the object is an instance of package.name, without importing the package."""
    module = sys.modules.get(package)
    return module is not None and isinstance(model, getattr(module, name, ()))


def _refuse_no_dict(data: Any) -> None:
    if data is not None and not isinstance(data, Mapping):
        raise OptionError(f"data must be a dict, name -> array; got {type(data).__name__}.")


def _plain(name: str, value: Any) -> Any:
    """Frames, series and array-likes as NumPy arrays; everything else as it is."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
        raise DataError(
            f"data {name!r} is a masked array with {int(np.ma.getmaskarray(value).sum())} masked values, and the mask would "
            "be lost; drop or impute these rows before fitting."
        )
    if isinstance(value, Iterator):
        raise DataError(
            f"data {name!r} is a {type(value).__name__}, which can be read only once, and a fit makes several passes; write its "
            "rows to a file for jn.table, or into an array."
        )
    if hasattr(value, "__array__"):
        value = np.asarray(value)
    try:
        array = np.asarray(value)
    except ValueError:  # a list of lists of unlike lengths
        return value
    if array.dtype.kind == "c" or (array.ndim and array.dtype.kind not in "fiub"):
        raise DataError(
            f"data {name!r} are no real numbers, but of dtype {array.dtype}; encode words and dates as numbers, missing "
            "values as rows left out, and complex numbers as two arrays."
        )
    return value


def _refuse_nonfinite(model: Model, data: Mapping[str, np.ndarray], precision: str) -> None:
    """NaN is refused, and infinite values where they are no bounds, as those of rows that are not censored."""
    bad = {name: ~np.isfinite(value) for name, value in data.items() if value.dtype.kind == "f"}
    bad = {name: where for name, where in bad.items() if where.any()}
    missing = [name for name in bad if np.isnan(data[name]).any()]
    if not bad or (not missing and _finite_all_the_same(model, data, precision)):
        return
    name = (missing or list(bad))[0]
    where, kind = bad[name], "NaN" if missing else "infinite"
    rows = np.unique(np.nonzero(where)[0]) if where.ndim else np.zeros(1, int)
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    raise DataError(
        f"data {name!r} has {int(where.sum())} {kind} value{'s' if where.sum() > 1 else ''} (row {shown}); "
        "drop or impute these rows before fitting"
        + (", or make bounds large and finite." if kind == "infinite" else ".")
    )


def _finite_all_the_same(model: Model, data: Mapping[str, np.ndarray], precision: str) -> bool:
    """Whether log density and gradient are finite at the origin, whatever the data."""
    from jensen.models.target import Target

    if model.discrete or any(np.shape(value) != np.shape(model.data[name]) for name, value in data.items()):
        return False
    with scope(precision):
        log_p, gradient = Target(replace(model, data={**model.data, **data}), precision)(np.zeros((1, model.dim)))
    return bool(np.isfinite(log_p).all() and np.isfinite(gradient).all())
