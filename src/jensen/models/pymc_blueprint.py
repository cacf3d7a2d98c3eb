"""What does not change with the values of a PyMC model's data: its sites, and functions of JAX arrays for its parts.

PyTensor is imported at the top: this file is only loaded by the PyMC front end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.errors import UnsupportedError
from jensen.core.layout import Derived, Site
from jensen.core.precision import scope
from jensen.models import pymc_graph
from jensen.models.graph import Graph
from jensen.models.model import Arrays, Factors
from jensen.models.pymc_jax import to_jax
from jensen.models.pymc_roots import dims_of, is_float

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
MISFITS = (ValueError, TypeError, IndexError)
"""What PyTensor raises for shapes that do not fit each other."""


@dataclass(frozen=True, eq=False)
class Blueprint:
    """What does not change with the values of the data.

    `frozen` is the model with constant shapes. `changed` maps lengths that are written in the model to those that took their
    place when it was read.
    """

    sites: tuple[Site, ...]
    derived: tuple[Derived, ...]
    factors: Callable[[Arrays, Arrays], Factors]
    constrain: Callable[[Arrays, Arrays], tuple[dict[str, Any], dict[str, Any]]]
    unconstrain: Callable[[Arrays, Arrays], dict[str, Any]]
    graph: Callable[[], Graph]
    frozen: pymc_graph.Frozen
    changed: Mapping[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    batch_size: int | None = None


def build(model: Any, found: Any, arrays: Mapping[str, np.ndarray], lengths: Mapping[str, int]) -> Blueprint:
    """Make the blueprint of a model for its data (`found`) of the shapes of `arrays` and `lengths` of its dimensions.

    Raises
    ------
    ModelError
        For an observed variable or potential that reads ``pm.Minibatch`` with a wrong weight.
    UnsupportedError
        For operations without JAX form.
    """
    if not found.minibatch:
        return _translate(model, found, arrays, lengths, {}, {})
    from jensen.models import pymc_minibatch

    scale, notes = pymc_minibatch.check(model, found, arrays)
    batches = pymc_minibatch.batches(model, found, arrays)
    try:
        blueprint = _translate(model, found, arrays, lengths, {}, scale)
    except MISFITS:
        # Some length of a batch may be written in the model, as in shape=500.
        changed = {batch.size: batch.total for batch in batches}
        blueprint = replace(_translate(model, found, arrays, lengths, changed, scale), changed=changed)
    return replace(blueprint, notes=notes, batch_size=batches[0].size if batches else None)


def _translate(
    model: Any,
    found: Any,
    arrays: Mapping[str, np.ndarray],
    lengths: Mapping[str, int],
    changed: Mapping[int, int],
    scale: Mapping[str, float],
) -> Blueprint:
    def attempt(found: Any) -> Blueprint:
        frozen = pymc_graph.freeze(model, found, arrays, lengths, changed)
        return assemble(replace(frozen, scale={**frozen.scale, **scale}))

    try:
        return attempt(found)
    except UnsupportedError:
        # An operation on constants alone is carried out by PyTensor and needs no JAX form.
        observed = {model.rvs_to_values[rv] for rv in model.observed_RVs}
        constants = set(found.constants.values()) - observed
        if constants <= found.fixed:
            raise
        try:
            return attempt(replace(found, fixed=found.fixed | constants))
        except UnsupportedError:
            pass
        raise


def assemble(frozen: Any) -> Blueprint:
    """Translate a model with constant shapes (a `pymc_graph.Frozen`) to functions of JAX arrays."""
    latent = {rv.name: rv for rv in frozen.model.free_RVs}
    latent_names = list(latent)
    sites = tuple(_site(frozen, rv) for rv in latent.values() if is_float(rv))
    derived_names = [variable.name for variable in frozen.model.deterministics]
    free_inputs = [frozen.values[rv] for rv in frozen.free]

    def translate(values: list[Any], outputs: list[Any], names: list[str]) -> Callable[[Arrays, Arrays], list[Any]]:
        call = to_jax([*values, *frozen.inputs.values()], outputs, names)
        shapes = {name: value.type.shape for name, value in zip(latent, values, strict=True) if not is_float(value)}

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
        from jensen.models import pymc_nodes

        return pymc_nodes.graph(frozen, {site.name: site.support for site in sites})

    return Blueprint(sites, _derived(frozen, sites, constrain), factors, constrain, unconstrain, graph, frozen)


def _as_input(value: Any, variable: Any) -> jax.Array:
    return jnp.asarray(value, float) if is_float(variable) else jnp.asarray(value)


def _site(frozen: Any, rv: Any) -> Site:
    new = frozen.new[rv]
    shape = pymc_graph.static_shape(new)
    dims = dims_of(frozen.model, rv.name) if frozen.model.named_vars_to_dims.get(rv.name) else ()
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
    dims = {name: dims_of(model, name) for name in shapes if model.named_vars_to_dims.get(name)}
    return tuple(Derived(name, tuple(shape), dims.get(name, ())) for name, shape in shapes.items())
