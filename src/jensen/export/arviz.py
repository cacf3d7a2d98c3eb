"""Draws of a fit as an ArviZ object: one chain of independent draws, with names, dims and coords of the model.

The groups are plain xarray datasets, built here without ArviZ, so that saving a fit does not pay for importing it;
`wrap` makes of them what the installed ArviZ works with (InferenceData below version 1, DataTree from there on).

ArviZ's own converters refuse what models do contain: a dimension that bears a variable's name, a dimension twice on one
variable, a dimension whose length changed after its coordinates were written. Such axes keep an own name here instead.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jensen import __version__
from jensen.models.model import Model

if TYPE_CHECKING:
    import xarray

SAMPLE_DIMS = ("chain", "draw")


def to_arviz(
    model: Model,
    values: Mapping[str, np.ndarray],
    derived: Mapping[str, np.ndarray],
    *,
    log_p: np.ndarray,
    log_q: np.ndarray | None = None,
    log_likelihood: Mapping[str, np.ndarray] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Return draws as InferenceData (ArviZ 0.x) or DataTree (ArviZ 1.x); parameters as in `datasets`."""
    return wrap(datasets(model, values, derived, log_p=log_p, log_q=log_q, log_likelihood=log_likelihood, attrs=attrs))


def datasets(
    model: Model,
    values: Mapping[str, np.ndarray],
    derived: Mapping[str, np.ndarray],
    *,
    log_p: np.ndarray,
    log_q: np.ndarray | None = None,
    log_likelihood: Mapping[str, np.ndarray] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> "dict[str, xarray.Dataset]":
    """Arrange draws in ArviZ's groups.

    Parameters
    ----------
    model
        Gives dims, coords, observed values and constant data.
    values, derived
        Sites and deterministics in the model's own space, each (n, *shape).
    log_p, log_q
        Log density of the model and of the approximation at the draws, (n,), both on the unconstrained space; they
        become ``lp`` and ``log_q`` of ``sample_stats``. An approximation without a density has no `log_q`.
    log_likelihood
        Observed variable -> (n, *batch shape): pointwise, unscaled.
    attrs
        More attributes for the posterior group, beside library, version and language: strings or numbers.

    Returns
    -------
    dict
        Group -> dataset; groups without variables are left out.

    Notes
    -----
    An axis without a name is called ``<variable>_dim_<i>``; a dimension without coordinates gets 0, 1, ... A dimension
    with the name of a variable is called ``<dim>_dim``; one used twice by a variable is ``<dim>_bis`` the second time.
    """
    posterior = {**values, **derived}
    stats = {"lp": log_p} if log_q is None else {"lp": log_p, "log_q": log_q}
    constants = {name: model.data[name] for name in model.constants if name in model.data}
    groups = {
        "posterior": _dataset(posterior, model, SAMPLE_DIMS),
        "log_likelihood": _dataset(log_likelihood or {}, model, SAMPLE_DIMS),
        "sample_stats": _dataset(stats, model, SAMPLE_DIMS),
        "observed_data": _dataset(model.observed, model),
        "constant_data": _dataset(constants, model),
    }
    library = {
        "inference_library": "jensen",
        "inference_library_version": __version__,
        "modeling_interface": model.language,
    }
    groups["posterior"].attrs.update({**library, **(attrs or {})})
    return {name: group for name, group in groups.items() if name == "posterior" or len(group.variables)}


def wrap(groups: "Mapping[str, xarray.Dataset]") -> Any:
    """Return groups as the installed ArviZ's object: InferenceData below version 1, DataTree from there on."""
    from importlib.metadata import version

    if int(version("arviz").split(".")[0]) >= 1:
        import xarray

        return xarray.DataTree.from_dict(dict(groups))
    with warnings.catch_warnings():
        # Once a day, importing ArviZ 0.23 announces version 1; for the caller that is noise from somewhere below.
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
        import arviz
    parts: dict[str, Any] = dict(groups)
    return arviz.InferenceData(**parts)


def _dataset(arrays: Mapping[str, Any], model: Model, lead: tuple[str, ...] = ()) -> "xarray.Dataset":
    """One group: arrays with axes `lead` (as chain, draw) in front of the variable's own."""
    import xarray

    # A draw axis is there; the chain axis, of length one, is not.
    arrays = {name: np.asarray(array)[None] if lead else np.asarray(array) for name, array in arrays.items()}
    taken = _taken(model, arrays)
    wanted = {name: _wanted(model.dims.get(name, ()), array.ndim - len(lead), taken) for name, array in arrays.items()}
    shapes = {name: array.shape[len(lead) :] for name, array in arrays.items()}
    sources = {_dim_name(dim, taken): values for dim, values in model.coords.items() if values is not None}
    sizes = _sizes(wanted, shapes, sources)

    variables, used = {}, dict.fromkeys(lead)
    for name, array in arrays.items():
        dims = [
            dim if dim is not None and sizes[dim] == length else _unused(f"{name}_dim_{axis}", taken)
            for axis, (dim, length) in enumerate(zip(wanted[name], shapes[name], strict=True))
        ]
        sizes.update(zip(dims, shapes[name], strict=True))
        used.update(dict.fromkeys(dims))
        variables[_variable_name(name)] = ((*lead, *dims), array)
    if lead and arrays:
        sizes.update(zip(lead, next(iter(arrays.values())).shape, strict=False))
    coords = {dim: _labels(_source(dim, sources), sizes[dim]) for dim in used if dim in sizes}
    return xarray.Dataset(variables, coords)


def _taken(model: Model, arrays: Iterable[str]) -> set[str]:
    """Names that no dimension may bear: the same in every group of a model, so that groups share their dimensions."""
    names = {site.name for site in model.sites} | {quantity.name for quantity in model.derived}
    return names | set(model.observed) | set(model.constants) | set(arrays) | set(SAMPLE_DIMS)


def _wanted(dims: Sequence[str | None], ndim: int, taken: set[str]) -> list[str | None]:
    """One name an axis, or None; factors have fewer axes than their variable, so the leading names count."""
    found: list[str | None] = []
    for dim in (*dims, *[None] * ndim)[:ndim]:
        name = None if dim is None else _dim_name(dim, taken)
        while name is not None and name in found:
            name += "_bis"
        found.append(name)
    return found


def _sizes(
    wanted: Mapping[str, list[str | None]], shapes: Mapping[str, tuple[int, ...]], sources: Any
) -> dict[str, int]:
    """Length of every dimension: that of its coordinates where some axis agrees with them, else of the first axis."""
    sizes: dict[str, int] = {}
    for name, dims in wanted.items():
        for dim, length in zip(dims, shapes[name], strict=True):
            if dim is not None and (dim not in sizes or (dim in sources and len(sources[dim]) == length)):
                sizes[dim] = length
    return sizes


def _source(dim: str, sources: Mapping[str, Any]) -> Any:
    """Coordinate values of a dimension; the repeats of a dimension have those of the first."""
    while dim not in sources and dim.endswith("_bis"):
        dim = dim.removesuffix("_bis")
    return sources.get(dim)


def _dim_name(dim: str, taken: set[str]) -> str:
    return _unused(f"{dim}_dim", taken) if dim in taken else str(dim)


def _variable_name(name: str) -> str:
    return f"{name}_variable" if name in SAMPLE_DIMS else name


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _labels(values: Any, length: int) -> np.ndarray:
    """Coordinate values as numbers, dates or strings; 0, 1, ... where there are none of this length."""
    if values is None or len(values) != length:
        return np.arange(length)
    import pandas

    # Pandas tells dates and mixtures of types apart; labels that are tuples, intervals or other objects become strings.
    index = np.asarray(pandas.Index(values, tupleize_cols=False))
    return np.array([str(value) for value in index]) if index.dtype.kind in "OSUT" else index
