"""The data of a PyMC model, found in its graph: containers, large constants, and what decides a shape.

PyTensor is imported at the top: this file is only loaded by the PyMC front end.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymc.data import MinibatchOp
from pymc.distributions.continuous import InterpolatedRV
from pymc.distributions.multivariate import CARRV, ICARRV
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import graph_inputs
from pytensor.scan.op import Scan
from pytensor.tensor.basic import Alloc, AllocEmpty, ARange, Eye, Join, Nonzero, Split
from pytensor.tensor.extra_ops import Repeat, Unique
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.subtensor import AdvancedIncSubtensor, AdvancedSubtensor, IncSubtensor, Subtensor

LARGE = 16
"""Constants of at least this many elements become inputs, so that data are not baked into compiled programs."""
Variable = Any
"""A variable of PyTensor; its declared types are narrower than what its functions take and return."""


def variables(model: Any) -> list[Variable]:
    """Everything whose graph makes up the model."""
    rvs = list(model.basic_RVs)
    return rvs + list(model.potentials) + list(model.deterministics) + [model.rvs_to_values[rv] for rv in rvs]


def dims_of(model: Any, name: str) -> tuple[str, ...]:
    """One name an axis; axes without one are numbered, as ArviZ does."""
    return tuple(dim or f"{name}_dim_{axis}" for axis, dim in enumerate(model.named_vars_to_dims[name]))


def is_float(variable: Variable) -> bool:
    """Whether a variable has a gradient."""
    return variable.type.dtype.startswith("float")


def nodes(outputs: Iterable[Variable]) -> list[Any]:
    """All apply nodes above `outputs`, inputs first."""
    seen, order = set(), []
    stack = [(variable.owner, False) for variable in outputs if variable.owner is not None]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend(
                (part.owner, False) for part in node.inputs if part.owner is not None and part.owner not in seen
            )
    return order


@dataclass(frozen=True, eq=False)
class Roots:
    """Data of a model, found in its graph.

    Attributes
    ----------
    shared
        Data containers and other shared variables, by name.
    constants
        Large constants, by name.
    fixed
        Those whose values decide the shape of something, and masks; they stay constants, as compiled programs have fixed
        shapes.
    covariates
        Names of data containers that are more than observed values.
    minibatch
        Whether the model samples minibatches of its data.
    """

    shared: dict[str, Variable]
    constants: dict[str, Variable]
    fixed: set[Variable]
    covariates: tuple[str, ...]
    minibatch: bool


def roots(model: Any) -> Roots:
    """Find the data of a model."""
    graph = variables(model)
    order = nodes(graph)
    lengths = {length for length in model.dim_lengths.values() if isinstance(length, SharedVariable)}
    fixed = value_roots([part for node in order for part in shape_inputs(node)]) | set(_masks(order))
    observed = {full_data(model.rvs_to_values[rv]): rv.name for rv in model.observed_RVs}
    shared, constants = {}, {}
    taken = set(model.named_vars)
    for variable in dict.fromkeys([*model.data_vars, *graph_inputs(graph)]):
        if variable in lengths or isinstance(variable.type, RandomType):
            continue
        if isinstance(variable, SharedVariable):
            name = variable.name if variable in model.data_vars else _fresh(variable.name, "shared", taken)
            shared[name] = variable
        elif isinstance(variable, Constant) and _is_large(variable) and variable not in fixed:
            name = observed.get(variable) or _fresh(variable.name, "constant", taken)
            constants[name] = variable
    used = value_roots([*model.basic_RVs, *model.potentials, *model.deterministics])
    only_observed = value_roots(model.rvs_to_values[rv] for rv in model.observed_RVs) - used
    covariates = tuple(variable.name for variable in model.data_vars if variable not in only_observed)
    return Roots(shared, constants, fixed, covariates, any(isinstance(node.op, MinibatchOp) for node in order))


def full_data(value: Variable) -> Variable:
    """The data a minibatch is drawn from."""
    node = value.owner
    if node is None or not isinstance(node.op, MinibatchOp):
        return value
    return node.inputs[node.outputs.index(value)]


def _is_large(constant: Any) -> bool:
    data = constant.data
    return isinstance(data, np.ndarray) and data.size >= LARGE and data.dtype.kind in "fiub"


def _masks(order: Iterable[Any]) -> list[Variable]:
    """Constant masks of distributions, whose log densities may index with them (those with missing values do)."""
    distributions = [node for node in order if isinstance(node.op, RandomVariable | OpFromGraph)]
    inputs = [part for node in distributions if not isinstance(node.op, MinibatchOp) for part in node.inputs]
    return [part for part in inputs if isinstance(part, Constant) and getattr(part.type, "dtype", "") == "bool"]


def _fresh(name: str | None, kind: str, taken: set[str]) -> str:
    """A name nothing in the model has: its own, or ``kind_0``, ``kind_1``, ..."""
    candidate, number = name or f"{kind}_0", 0
    while candidate in taken:
        number += 1
        candidate = f"{name or kind}_{number}"
    taken.add(candidate)
    return candidate


def value_roots(outputs: Iterable[Variable]) -> set[Variable]:
    """Inputs and constants whose values, not only their shapes, `outputs` depend on."""
    stack = list(outputs)
    seen, found = set(stack), set()
    while stack:
        variable = stack.pop()
        if variable.owner is None:
            found.add(variable)
        elif not isinstance(variable.owner.op, Shape | Shape_i):
            fresh = [part for part in variable.owner.inputs if part not in seen]
            seen.update(fresh)
            stack.extend(fresh)
    return found


def shape_inputs(node: Any) -> list[Variable]:
    """The inputs of a node whose values decide a shape, or that PyMC reads while it builds the graph."""
    op, inputs = node.op, node.inputs
    if isinstance(op, Nonzero | ARange | Eye | AllocEmpty | Unique):
        return inputs
    if isinstance(op, InterpolatedRV | CARRV | ICARRV):
        return [part for part in inputs if getattr(part.type, "ndim", 0) > 0]
    if isinstance(op, Alloc | Split | SpecifyShape):
        return inputs[1:]
    if isinstance(op, Reshape | Repeat):
        return inputs[1:2]
    if isinstance(op, Join | Scan):
        return inputs[:1]
    if isinstance(op, Subtensor | IncSubtensor):
        return inputs[1:] if any(isinstance(index, slice) for index in op.idx_list) else []
    if isinstance(op, AdvancedSubtensor | AdvancedIncSubtensor):
        return [part for part in inputs[1:] if getattr(part.type, "dtype", "") == "bool"]
    if isinstance(op, RandomVariable):
        return [op.size_param(node)]
    return []
