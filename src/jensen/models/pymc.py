"""PyMC front end: a ``pm.Model`` (or Bambi model) and new values for its data containers -> `Model`.

Reading has two halves. The *roots* (where the data are in the model) and the *blueprint* (graphs, rewrites, JAX
functions) depend on the model and the shapes of its data, and are remembered; the record of one fit only adds the
arrays. A second read with data of the same shapes returns the same functions, so that nothing is compiled again.

Reference: Abril-Pla et al. (2023), PyMC: a modern and comprehensive probabilistic programming framework in Python,
PeerJ Computer Science 9:e1516.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from jensen.core.errors import DataError, ModelError, UnsupportedError
from jensen.models.cache import remember
from jensen.models.model import Model

if TYPE_CHECKING:
    from jensen.models.pymc_blueprint import Blueprint


def current() -> Any:
    """Return the PyMC model of the innermost ``with`` block, or None; PyMC is not imported for that."""
    pymc = sys.modules.get("pymc")
    return None if pymc is None else pymc.Model.get_context(error_if_none=False)


def read(model: Any, data: Mapping[str, Any] | None = None) -> Model:
    """Read a PyMC model.

    Parameters
    ----------
    model
        A ``pm.Model``, or a ``bambi.Model``, which is built if it is not yet.
    data
        Name of a ``pm.Data`` container -> array to use instead of its value; the lengths of its dimensions follow. The
        user's model is left as it is.

    Raises
    ------
    ModelError
        For a model without latent variables, an observed variable that reads ``pm.Minibatch`` without `total_size`, and a
        potential that reads one.
    DataError
        For a name that is no container, or an array whose number of dimensions, type or length does not fit.
    UnsupportedError
        For discrete latent variables other than Categorical and Bernoulli, and for operations without JAX form.

    Notes
    -----
    Categorical and Bernoulli latent variables are no sites, but named in the record's `discrete`.
    """
    from jensen.models import pymc_blueprint, pymc_predict, pymc_roots

    source, model = model, _pymc_model(model)
    _refuse_discrete(model)
    structure = _structure(model)
    found = remember(model, ("roots", structure), partial(pymc_roots.roots, model))
    arrays = {name: variable.get_value(borrow=True) for name, variable in found.shared.items()}
    sparse = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if sparse:
        raise UnsupportedError(f"data {sparse[0]!r} is a {type(arrays[sparse[0]]).__name__}; make it a dense array.")
    arrays |= pymc_predict.replacements(model, arrays, data or {})
    arrays |= {name: constant.data for name, constant in found.constants.items()}
    arrays = {
        name: value.astype(float, copy=False) if value.dtype.kind == "f" else value for name, value in arrays.items()
    }
    lengths = pymc_predict.lengths(model, arrays)
    key = _key(structure, found, arrays, lengths)
    try:
        blueprint = remember(model, key, lambda: pymc_blueprint.build(model, found, arrays, lengths))
    except pymc_blueprint.MISFITS as error:
        if not data:
            raise
        raise DataError(f"the new data do not fit the model: {_shapes(error, arrays)}.") from error
    record = _record(model, found, blueprint, arrays, lengths)
    predict = None if found.minibatch else partial(pymc_predict.predict, model, found, arrays, lengths)
    notes = _notes(found) + blueprint.notes
    resized = partial(_resized, source, model, found, key, blueprint, lengths)
    record = replace(record, predict=predict, source=source, notes=notes, graph=blueprint.graph, resized=resized)
    return replace(record, batch_size=blueprint.batch_size)


def _record(
    model: Any, found: Any, blueprint: "Blueprint", arrays: dict[str, np.ndarray], lengths: Mapping[str, int]
) -> Model:
    from jensen.models.pymc_graph import observed_value
    from jensen.models.pymc_roots import dims_of, is_float

    coords = {dim: np.asarray(labels) for dim, labels in model.coords.items() if labels is not None}
    observed = {rv.name: model.rvs_to_values[rv] for rv in model.observed_RVs}
    return Model(
        name=model.name or "PyMC model",
        language="PyMC",
        sites=blueprint.sites,
        data=arrays,
        factors=blueprint.factors,
        constrain=blueprint.constrain,
        unconstrain=blueprint.unconstrain,
        likelihoods=tuple(observed),
        derived=blueprint.derived,
        coords={dim: labels for dim, labels in coords.items() if lengths.get(dim) == len(labels)},
        dims={name: dims_of(model, name) for name in model.named_vars if model.named_vars_to_dims.get(name)},
        observed={name: observed_value(value, found, arrays) for name, value in observed.items()},
        constants=found.covariates,
        discrete=tuple(rv.name for rv in model.free_RVs if not is_float(rv)),
    )


def _resized(
    source: Any,
    model: Any,
    found: Any,
    full_key: tuple[Any, ...],
    full: "Blueprint",
    full_lengths: Mapping[str, int],
    data: Mapping[str, np.ndarray],
    lengths: Mapping[int, int],
) -> Model:
    """The model for other rows. A row keeps its weight: scales are those of the full data, whatever the number of rows."""
    from jensen.models import pymc_blueprint, pymc_graph, pymc_predict

    arrays = dict(data)
    held = {name for name, variable in found.shared.items() if variable in found.fixed}
    like = {name: value if name in held else _like(value) for name, value in arrays.items()}
    dims = {dim: lengths.get(length, length) for dim, length in full_lengths.items()}
    dims |= pymc_predict.held(model, arrays)
    # A length outside of shapes is a number of the density, and stays.
    changed = {full_lengths[dim]: length for dim, length in dims.items() if full_lengths[dim] != length} | dict(lengths)
    changed = {old: changed.get(new, new) for old, new in full.changed.items()} | changed
    key = (full_key, _key((), found, like, dims), tuple(sorted(changed.items())))

    def build() -> "Blueprint":
        return pymc_blueprint.assemble(pymc_graph.freeze(model, found, like, full_lengths, changed, full.frozen))

    try:
        blueprint = remember(model, key, build)
    except (*pymc_blueprint.MISFITS, AssertionError, NotImplementedError) as error:
        said = ", ".join(f"{old} -> {new}" for old, new in lengths.items())
        raise UnsupportedError(
            f"the model cannot be read with other lengths ({said}): {_shapes(error, arrays)}; lengths that cannot be changed "
            "are best taken from data, as in x.shape[0] with x = pm.Data(...)."
        ) from error
    resized = partial(_resized, source, model, found, full_key, full, full_lengths)
    return replace(_record(model, found, blueprint, arrays, dims), source=source, resized=resized)


def _like(value: np.ndarray) -> np.ndarray:
    """An array of this shape, without its memory; floats are read in full precision."""
    return np.broadcast_to(np.zeros((), float if value.dtype.kind == "f" else value.dtype), value.shape)


def _key(
    structure: tuple[Any, ...], found: Any, arrays: Mapping[str, np.ndarray], lengths: Mapping[str, int]
) -> tuple[Any, ...]:
    """All a blueprint depends on: shapes, and the values that decide one."""
    return (
        structure,
        tuple((name, value.shape, value.dtype.str) for name, value in arrays.items()),
        tuple((name, arrays[name].tobytes()) for name, variable in found.shared.items() if variable in found.fixed),
        tuple(lengths.items()),
    )


def _shapes(error: Exception, arrays: Mapping[str, np.ndarray]) -> str:
    shapes = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
    text = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return f"{text}; the shapes are {shapes}"


def _pymc_model(model: Any) -> Any:
    """The PyMC model itself, also where a Bambi model was given."""
    if not type(model).__module__.startswith("bambi"):
        return model
    if not model.built:
        model.build()
    return model.backend.model


def _refuse_discrete(model: Any) -> None:
    from jensen.models import pymc_kinds
    from jensen.models.pymc_roots import is_float

    if not model.free_RVs:
        raise ModelError(
            f"{model.name or 'the model'} has no latent variable; every variable is observed; remove one observed=."
        )
    for rv in model.free_RVs:
        if not is_float(rv) and pymc_kinds.levels(rv) is None:
            kind = getattr(rv.owner.op, "_print_name", (type(rv.owner.op).__name__,))[0]
            advice = (
                "these are missing values of the data, drop their rows"
                if rv.name.endswith("_unobserved")
                else "sum it out by hand (pm.Mixture, or pm.Potential with logsumexp) or with "
                f'pymc_extras.marginalize(model, ["{rv.name}"])'
            )
            raise UnsupportedError(
                f"site {rv.name} is discrete ({kind}), and gradients need continuous sites; {advice}."
            )


def _structure(model: Any) -> tuple[Any, ...]:
    """Identity of everything the graph is made of; changes when a variable is added."""
    rvs = model.basic_RVs
    parts = [*rvs, *model.potentials, *model.deterministics, *model.data_vars]
    parts += [model.rvs_to_values[rv] for rv in rvs] + [model.rvs_to_transforms[rv] for rv in rvs]
    return len(model.free_RVs), tuple(id(part) for part in parts)


def _notes(found: Any) -> tuple[str, ...]:
    notes = []
    fixed = [name for name, variable in found.shared.items() if variable in found.fixed]
    if fixed:
        notes.append(f"constant in the program, because the shape of a variable depends on it: {', '.join(fixed)}.")
    if found.minibatch:
        notes.append("pm.Minibatch is set aside: the full data are used.")
    return tuple(notes)
