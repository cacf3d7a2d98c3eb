"""PyMC front end: a ``pm.Model`` (or Bambi model) and new values for its data containers -> `Model`.

Reading has two halves. The *roots* (where the data are in the model) and the *blueprint* (graphs, rewrites, JAX
functions) depend on the model and the shapes of its data, and are remembered; the record of one fit only adds the
arrays. A second read with data of the same shapes returns the same functions, so that nothing is compiled again.

Reference: Abril-Pla et al. (2023), PyMC: a modern and comprehensive probabilistic programming framework in Python,
PeerJ Computer Science 9:e1516.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.errors import DataError, ModelError, UnsupportedError
from jensen.core.layout import Derived, Site
from jensen.core.precision import scope
from jensen.models.cache import remember
from jensen.models.graph import Graph
from jensen.models.model import Arrays, Factors, Model

_SUPPORT = {
    "log": "positive",
    "log_exp_m1": "positive",
    "logodds": "unit interval",
    "interval": "interval",
    "simplex": "simplex",
    "sumto1": "simplex",
    "ordered": "ordered",
    "circular": "circle",
    "zerosum": "zero sum",
    "cholesky-cov-packed": "cholesky factor",
}


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
    DataError
        For a name that is no container, or an array whose number of dimensions, type or length does not fit.
    UnsupportedError
        For discrete latent variables other than Categorical and Bernoulli, and for operations without JAX form.

    Notes
    -----
    Categorical and Bernoulli latent variables are no sites, but named in the record's `discrete`.
    """
    from jensen.models import pymc_graph, pymc_predict, pymc_roots

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
    key = (
        structure,
        tuple((name, value.shape, value.dtype.str) for name, value in arrays.items()),
        tuple((name, arrays[name].tobytes()) for name, variable in found.shared.items() if variable in found.fixed),
        tuple(lengths.items()),
    )
    try:
        blueprint = remember(model, key, lambda: _build(model, found, arrays, lengths))
    except (ValueError, TypeError, IndexError) as error:
        if not data:
            raise
        shapes = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
        text = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"the new data do not fit the model: {text}; the shapes are {shapes}.") from error
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
        dims={name: _dims(model, name) for name in model.named_vars if model.named_vars_to_dims.get(name)},
        observed={name: pymc_graph.observed_value(value, found, arrays) for name, value in observed.items()},
        constants=found.covariates,
        predict=None if found.minibatch else partial(pymc_predict.predict, model, found, arrays, lengths),
        source=source,
        notes=_notes(found),
        graph=blueprint.graph,
        discrete=tuple(rv.name for rv in model.free_RVs if not _is_float(rv)),
    )


def _pymc_model(model: Any) -> Any:
    """The PyMC model itself, also where a Bambi model was given."""
    if not type(model).__module__.startswith("bambi"):
        return model
    if not model.built:
        model.build()
    return model.backend.model


def _is_float(variable: Any) -> bool:
    return variable.type.dtype.startswith("float")


def _refuse_discrete(model: Any) -> None:
    from jensen.models import pymc_kinds

    if not model.free_RVs:
        raise ModelError(
            f"{model.name or 'the model'} has no latent variable; every variable is observed; remove one observed=."
        )
    for rv in model.free_RVs:
        if not _is_float(rv) and pymc_kinds.levels(rv) is None:
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


def _dims(model: Any, name: str) -> tuple[str, ...]:
    """One name an axis; axes without one are numbered, as ArviZ does."""
    return tuple(dim or f"{name}_dim_{axis}" for axis, dim in enumerate(model.named_vars_to_dims[name]))


def _notes(found: Any) -> tuple[str, ...]:
    notes = []
    fixed = [name for name, variable in found.shared.items() if variable in found.fixed]
    if fixed:
        notes.append(f"constant in the program, because the shape of a variable depends on it: {', '.join(fixed)}.")
    if found.minibatch:
        notes.append("pm.Minibatch is set aside: the full data are used.")
    return tuple(notes)


@dataclass(frozen=True, eq=False)
class _Blueprint:
    """What does not change with the values of the data."""

    sites: tuple[Site, ...]
    derived: tuple[Derived, ...]
    factors: Callable[[Arrays, Arrays], Factors]
    constrain: Callable[[Arrays, Arrays], tuple[dict[str, Any], dict[str, Any]]]
    unconstrain: Callable[[Arrays, Arrays], dict[str, Any]]
    graph: Callable[[], Graph]


def _build(model: Any, found: Any, arrays: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> _Blueprint:
    from jensen.models import pymc_graph

    try:
        return _assemble(pymc_graph.freeze(model, found, arrays, lengths))
    except UnsupportedError:
        # An operation on constants alone is carried out by PyTensor and needs no JAX form.
        observed = {model.rvs_to_values[rv] for rv in model.observed_RVs}
        constants = set(found.constants.values()) - observed
        if constants <= found.fixed:
            raise
        try:
            return _assemble(pymc_graph.freeze(model, replace(found, fixed=found.fixed | constants), arrays, lengths))
        except UnsupportedError:
            pass
        raise


def _assemble(frozen: Any) -> _Blueprint:
    from jensen.models import pymc_graph, pymc_nodes
    from jensen.models.pymc_jax import to_jax

    latent = {rv.name: rv for rv in frozen.model.free_RVs}
    latent_names = list(latent)
    sites = tuple(_site(frozen, rv) for rv in latent.values() if _is_float(rv))
    derived_names = [variable.name for variable in frozen.model.deterministics]
    free_inputs = [frozen.values[rv] for rv in frozen.free]

    def translate(values: list[Any], outputs: list[Any], names: list[str]) -> Callable[[Arrays, Arrays], list[Any]]:
        call = to_jax([*values, *frozen.inputs.values()], outputs, names)
        shapes = {name: value.type.shape for name, value in zip(latent, values, strict=True) if not _is_float(value)}

        def function(free: Arrays, data: Arrays) -> list[Any]:
            free = {**{name: np.zeros(shape, int) for name, shape in shapes.items()}, **free}
            first = [_as_input(free[name], rv) for name, rv in latent.items()]
            return call(*first, *(_as_input(data[name], variable) for name, variable in frozen.inputs.items()))

        return function

    names, densities, constrained, jacobians = pymc_graph.factor_graph(frozen)
    evaluate = translate(free_inputs, densities + jacobians, names + constrained)

    def factors(free: Arrays, data: Arrays) -> Factors:
        results = evaluate(free, data)
        log_prob = dict(zip(names, results, strict=False))
        return Factors(log_prob, dict(frozen.scale), dict(zip(constrained, results[len(names) :], strict=True)))

    @cache
    def constraint() -> Callable[[Arrays, Arrays], list[Any]]:
        derived = [frozen.new[variable] for variable in frozen.model.deterministics]
        return translate(free_inputs, pymc_graph.to_values(frozen, frozen.free + derived), latent_names + derived_names)

    def constrain(free: Arrays, data: Arrays) -> tuple[dict[str, Any], dict[str, Any]]:
        results = constraint()(free, data)
        values = dict(zip(latent_names, results, strict=False))
        values = {site.name: values[site.name] for site in sites}
        return values, dict(zip(derived_names, results[len(latent) :], strict=True))

    @cache
    def inverse() -> Callable[[Arrays, Arrays], list[Any]]:
        return translate(*pymc_graph.inverse_graph(frozen), latent_names)

    def unconstrain(values: Arrays, data: Arrays) -> dict[str, Any]:
        free = dict(zip(latent_names, inverse()(values, data), strict=True))
        return {site.name: free[site.name] for site in sites}

    @cache
    def graph() -> Graph:
        return pymc_nodes.graph(frozen, {site.name: site.support for site in sites})

    return _Blueprint(sites, _derived(frozen, sites, constrain), factors, constrain, unconstrain, graph)


def _as_input(value: Any, variable: Any) -> jax.Array:
    return jnp.asarray(value, float) if _is_float(variable) else jnp.asarray(value)


def _site(frozen: Any, rv: Any) -> Site:
    from jensen.models import pymc_graph

    new = frozen.new[rv]
    shape = pymc_graph.static_shape(new)
    dims = _dims(frozen.model, rv.name) if frozen.model.named_vars_to_dims.get(rv.name) else ()
    return Site(rv.name, shape, frozen.values[new].type.shape, _support(frozen.transforms[new]), dims)


def _support(transform: Any) -> str:
    if transform is None:
        return "real"
    parts = getattr(transform, "transform_list", None)
    if parts is not None:
        return " ".join(dict.fromkeys(_support(part) for part in reversed(parts)))
    return _SUPPORT.get(transform.name, str(transform.name))


def _derived(frozen: Any, sites: tuple[Site, ...], constrain: Callable[..., Any]) -> tuple[Derived, ...]:
    model = frozen.model
    shapes = {variable.name: frozen.new[variable].type.shape for variable in model.deterministics}
    if any(None in shape for shape in shapes.values()):
        # PyTensor could not say; an abstract evaluation by JAX can.
        with scope("float64"):
            free = {site.name: jax.ShapeDtypeStruct(site.free_shape, float) for site in sites}
            data = {name: jax.ShapeDtypeStruct(v.type.shape, v.type.dtype) for name, v in frozen.inputs.items()}
            shapes = {name: value.shape for name, value in jax.eval_shape(constrain, free, data)[1].items()}
    dims = {name: _dims(model, name) for name in shapes if model.named_vars_to_dims.get(name)}
    return tuple(Derived(name, tuple(shape), dims.get(name, ())) for name, shape in shapes.items())
