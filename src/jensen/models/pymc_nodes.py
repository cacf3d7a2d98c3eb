"""The `Graph` of a PyMC model: parameters and log densities of its random variables, as functions of values and data.

PyMC keeps a model as a graph in which every variable x ~ p(x | theta) is a node with the graph of theta above it. Each
random variable is replaced, for everything below it, by a symbolic value in the model's own space; what is then above a
node is theta = f(values, data), and one translation makes all of them a function of JAX arrays. No density is parsed.

Values are symbols of known shape. So a discrete variable that comes in collapsed shape, (1, ..., 1), has a translation of
its own, in which PyTensor infers that mu[z] has one row.

PyTensor is imported at the top: this file is only loaded by the PyMC front end.

Reference: Abril-Pla et al. (2023), PyMC: a modern and comprehensive probabilistic programming framework in Python,
PeerJ Computer Science 9:e1516.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from pymc.logprob.basic import transformed_conditional_logp
from pytensor.graph.basic import Constant
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.shape import SpecifyShape
from pytensor.tensor.type import TensorType

from jensen.core.errors import ModelError, UnsupportedError
from jensen.models.graph import Graph, Leaves, Node
from jensen.models.model import Arrays
from jensen.models.pymc_graph import Frozen, static_shape, untraced
from jensen.models.pymc_jax import to_jax
from jensen.models.pymc_kinds import SUPPORTS, bounds, kind, levels, parameters
from jensen.models.pymc_roots import Variable, nodes

_NO_CHECKS = (CheckAndRaise, SpecifyShape)
Call = Callable[[Arrays, Arrays], dict[str, dict[str, Any]]]


def graph(frozen: Frozen, supports: Mapping[str, str]) -> Graph:
    """The graph of a PyMC model.

    Parameters
    ----------
    frozen
        The model with constant shapes and symbolic data.
    supports
        Continuous latent variable -> its support in words.

    Raises
    ------
    UnsupportedError
        For observed variables with ``total_size`` unlike their size, which stand for more rows than they have.

    Notes
    -----
    Nothing is translated before a function of the graph is called; then an operation without JAX form raises an
    UnsupportedError, and so does a collapsed value that the model's expressions do not take.
    """
    scaled = [name for name, scale in frozen.scale.items() if scale != 1.0]
    if scaled:
        raise UnsupportedError(
            f"observed variable {scaled[0]} has a total_size unlike its size, and conjugate updates would need the missing "
            "rows; leave total_size out and pass all of them."
        )
    found = tuple(_node(frozen, rv, supports) for rv in frozen.model.basic_RVs)
    found += tuple(
        Node(potential.name, "other", "Potential", False, static_shape(frozen.new[potential]))
        for potential in frozen.model.potentials
    )
    discrete = {node.name: node.shape for node in found if node.levels is not None}
    by_shape = cache(partial(_translate_leaves, frozen, found))
    density = cache(partial(_translate_densities, frozen, found))

    def leaves(values: Arrays, data: Arrays) -> Leaves:
        collapsed = frozenset(
            name for name, full in discrete.items() if full != np.shape(values.get(name, ())) == (1,) * len(full)
        )
        if not collapsed:
            return by_shape(collapsed)(values, data)
        try:
            return by_shape(collapsed)(values, data)
        except (ValueError, TypeError, IndexError, AssertionError) as error:
            raise UnsupportedError(
                f"the discrete sites {', '.join(sorted(collapsed))} cannot be enumerated with one row for all "
                f"({str(error).splitlines()[0].rstrip('.')}); use them in their own shape."
            ) from error

    def densities(values: Arrays, data: Arrays) -> dict[str, Any]:
        return {name: leaf["log_prob"] for name, leaf in density()(values, data).items()}

    return Graph(found, leaves, densities)


def _node(frozen: Frozen, rv: Variable, supports: Mapping[str, str]) -> Node:
    new = frozen.new[rv]
    op = new.owner.op
    latent = rv in frozen.model.free_RVs
    name = kind(new, frozen.transforms[new])
    support = supports.get(rv.name, "real") if new.type.dtype.startswith("float") else "discrete"
    return Node(
        rv.name,
        name,
        _title(op),
        latent,
        static_shape(frozen.values[new] if not latent else new),
        int(op.ndim_supp),
        SUPPORTS.get(name, support),
        levels(new) if latent and support == "discrete" else None,
        bounds(new) if latent and support == "interval" else None,
    )


def _title(op: Any) -> str:
    """The user's name of a distribution; helper variables have one for readers of PyMC's code, or none."""
    title = (getattr(op, "_print_name", None) or ("Unknown",))[0]
    title = type(op).__name__.strip("_") if title == "Unknown" or title.startswith("_") else title
    return title.removesuffix("RV")


@untraced
def _translate_leaves(frozen: Frozen, found: Sequence[Node], collapsed: Collection[str]) -> Call:
    """The function of the leaves, for values of which the named ones have one row."""
    rvs, values, fresh, potentials = _separate(frozen, collapsed)
    graphs: dict[tuple[str, str], Variable] = {}
    for rv, node in zip(rvs, found, strict=False):
        if not node.latent:
            graphs[node.name, "value"] = values[rv]
        if node.kind != "other":
            graphs |= {(node.name, leaf): part for leaf, part in parameters(fresh[rv]).items()}
    # Conjugacy evaluates parameters at means, which may fail the checks (probabilities whose sum is below one).
    bare = _clone(list(graphs.values()), {}, _NO_CHECKS)[1]
    graphs = {place: bare.get(part, part) for place, part in graphs.items()}
    others = [rv for rv, node in zip(rvs, found, strict=False) if node.kind == "other"]
    graphs |= {(rv.name, "log_prob"): part for rv, part in _log_prob(others, fresh, values).items()}
    graphs |= {(name, "log_prob"): part for name, part in potentials.items()}
    call = _call(frozen, values, graphs)
    discrete = {node.name for node in found if node.support == "discrete"}

    def function(arrays: Arrays, data: Arrays) -> Leaves:
        computed = call(arrays, data)
        results: Leaves = {node.name: {} for node in found}
        for node in found:
            if node.latent:
                results[node.name]["value"] = _value(arrays[node.name], node.name in discrete)
            elif node.name in potentials:
                results[node.name]["value"] = jnp.zeros(0)
        for (name, leaf), result in computed.items():
            results[name][leaf] = _value(result, leaf == "value" and name in discrete)
        return results

    return function


@untraced
def _translate_densities(frozen: Frozen, found: Sequence[Node]) -> Call:
    rvs, values, fresh, potentials = _separate(frozen, ())
    graphs = {(rv.name, "log_prob"): part for rv, part in _log_prob(rvs, fresh, values).items()}
    graphs |= {(name, "log_prob"): part for name, part in potentials.items()}
    call = _call(frozen, values, graphs)
    return lambda arrays, data: {name: {leaf: result} for (name, leaf), result in call(arrays, data).items()}


def _separate(
    frozen: Frozen, collapsed: Collection[str]
) -> tuple[list[Variable], dict[Variable, Variable], dict[Variable, Variable], dict[str, Variable]]:
    """Random variables, their values, twins of the variables that depend on values alone, and potentials of values."""
    rvs = [frozen.new[rv] for rv in frozen.model.basic_RVs]
    values = {rv: frozen.values[rv] for rv in rvs}
    for rv in frozen.free:
        shape = (1,) * rv.type.ndim if rv.name in collapsed else static_shape(rv)
        values[rv] = TensorType(rv.type.dtype, shape=shape)(name=rv.name)
    outputs = [*rvs, *(frozen.new[potential] for potential in frozen.model.potentials)]
    twins, new = _clone(outputs, values, (SpecifyShape,) if collapsed else ())
    potentials = {potential.name: frozen.new[potential] for potential in frozen.model.potentials}
    return rvs, values, twins, {name: new.get(variable, variable) for name, variable in potentials.items()}


def _clone(
    outputs: Sequence[Variable], values: Mapping[Variable, Variable], without: tuple[type, ...]
) -> tuple[dict[Variable, Variable], dict[Variable, Variable]]:
    """Rebuild graphs with `values` in the place of variables, and no operations of the types `without`.

    Returns the twins of the replaced variables themselves, whose graphs end at the values above them, and a map from old
    to new variables.
    """
    twins, new = dict.fromkeys(values), dict(values)
    for node in nodes(outputs):
        if isinstance(node.op, without):
            new[node.outputs[0]] = new.get(node.inputs[0], node.inputs[0])
            continue
        inputs = [new.get(part, part) for part in node.inputs]
        same = all(part is old for part, old in zip(inputs, node.inputs, strict=True))
        twin = node if same else node.clone_with_new_inputs(inputs, strict=False)
        for old, fresh in zip(node.outputs, twin.outputs, strict=True):
            if old in values:
                twins[old] = fresh
            else:
                new[old] = fresh
    return twins, new


def _log_prob(
    rvs: Sequence[Variable], twins: Mapping[Variable, Variable], values: Mapping[Variable, Variable]
) -> dict[Variable, Variable]:
    if not rvs:
        return {}
    given = {twins[rv]: values[rv] for rv in rvs}
    nothing: Any = dict.fromkeys(given)
    try:
        densities = transformed_conditional_logp(
            list(given), rvs_to_values=given, rvs_to_transforms=nothing, jacobian=False
        )
    except NotImplementedError as error:
        raise UnsupportedError(
            f"PyMC has no log density for a variable of this model ({error}); give it one with pm.CustomDist(logp=...)."
        ) from error
    return dict(zip(rvs, densities, strict=True))


def _call(
    frozen: Frozen, values: Mapping[Variable, Variable], graphs: Mapping[tuple[str, str], Variable]
) -> Callable[[Arrays, Arrays], dict[tuple[str, str], Any]]:
    """One translation of all graphs, each named by node and leaf."""
    names = [rv.name for rv in frozen.model.free_RVs]
    inputs = [values[rv] for rv in frozen.free]
    # Small constants: priors' parameters, mostly.
    fixed = {place: part.data for place, part in graphs.items() if isinstance(part, Constant)}
    graphs = {place: part for place, part in graphs.items() if place not in fixed}
    call = to_jax([*inputs, *frozen.inputs.values()], list(graphs.values()), [name for name, _ in graphs])

    def function(arrays: Arrays, data: Arrays) -> dict[tuple[str, str], Any]:
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ModelError(f"site {missing[0]} has no value; pass one for each of: {', '.join(names)}.")
        given = [
            _value(arrays[name], not v.type.dtype.startswith("float")) for name, v in zip(names, inputs, strict=True)
        ]
        given += [_value(data[name], not v.type.dtype.startswith("float")) for name, v in frozen.inputs.items()]
        constants = {place: jnp.asarray(array) for place, array in fixed.items()}
        return constants | dict(zip(graphs, call(*given), strict=True))

    return function


def _value(value: Any, whole: bool) -> Any:
    return jnp.asarray(value) if whole else jnp.asarray(value, float)
