"""A PyMC graph for other rows: lengths that are written in the model follow the data.

Most shapes of a PyMC graph follow from its data, but some are numbers: ``shape=N``, ``pt.zeros(N)``, ``x[:N]``, or the shape
that an observed variable takes from its NumPy array. Where a number decides a shape and is one of the old lengths, the new
length takes its place. Numbers that enter densities are left alone, and for the same reason an ``x.shape[0]`` that enters one
(as in a prior scale of 1/sqrt(N)) keeps the number of all rows: some rows of a model are not a model of some rows.
Operations with a graph of their own (mixtures, truncated and custom distributions) are made for the shapes they have, and are
made anew.

PyTensor is imported at the top: this file is only loaded by the PyMC front end.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pymc.distributions.distribution import SymbolicRandomVariable
from pytensor.compile.builders import OpFromGraph, construct_nominal_fgraph
from pytensor.graph.basic import Constant
from pytensor.tensor.basic import Join, Nonzero
from pytensor.tensor.extra_ops import Repeat, Unique
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.type import TensorType

from jensen.models.pymc_roots import Variable, nodes, shape_inputs, value_roots

Rebuild = Callable[[Sequence[Variable], Mapping[Variable, Variable], Mapping[int, int]], dict[Variable, Variable]]
_NO_LENGTHS = Nonzero | Unique | Join
"""Operations whose shape depends on data or an axis number, and on no number that is a length."""


def resize(node: Any, new: Mapping[Variable, Variable], lengths: Mapping[int, int]) -> dict[Variable, Variable]:
    """The inputs of a node that decide a shape -> counterparts with old lengths replaced by new ones.

    Parameters
    ----------
    node
        A node of the old graph.
    new
        Variables above the node -> their counterparts.
    lengths
        Old length -> new length.
    """
    done: dict[Variable, Variable] = {}
    most = 0 if isinstance(node.op, Repeat) else 1
    return {slot: _resized(slot, new, lengths, done, most) for slot in _slots(node)}


def _slots(node: Any) -> list[Variable]:
    op = node.op
    if isinstance(op, _NO_LENGTHS):
        return []
    if not isinstance(op, OpFromGraph):
        return list(shape_inputs(node))
    inside = value_roots([slot for inner in nodes(op.inner_outputs) for slot in _slots(inner)])
    slots = [outer for outer, inner in zip(node.inputs, op.inner_inputs, strict=True) if inner in inside]
    if isinstance(op, SymbolicRandomVariable) and op.extended_signature is not None:
        size = op.size_param(node)
        slots += [] if size is None else [size]
    return slots


def _resized(
    variable: Variable,
    new: Mapping[Variable, Variable],
    lengths: Mapping[int, int],
    done: dict[Variable, Variable],
    most: int,
) -> Variable:
    """One such input; numbers above it are lengths too, except above ``x.shape``, which follows from `new`."""
    if variable in done:
        return done[variable]
    known = new.get(variable, variable)
    node = variable.owner
    if isinstance(known, Constant):
        result = _constant(known, lengths, most)
    elif node is None:
        result = known
    elif isinstance(node.op, Shape | Shape_i):
        inputs = [new.get(part, part) for part in node.inputs]
        result = node.clone_with_new_inputs(inputs, strict=False).outputs[0]
    else:
        inputs = [_resized(part, new, lengths, done, most) for part in node.inputs]
        changed = any(part is not new.get(old, old) for part, old in zip(inputs, node.inputs, strict=True))
        result = node.clone_with_new_inputs(inputs, strict=False).outputs[variable.index] if changed else known
    done[variable] = result
    return result


def _constant(variable: Any, lengths: Mapping[int, int], most: int) -> Any:
    data = np.asarray(variable.data) if variable.data is not None else np.zeros(0)
    if data.dtype.kind not in "iu" or data.ndim > most or not np.isin(data, list(lengths)).any():
        return variable
    changed = np.array([lengths.get(int(number), number) for number in data.ravel()]).reshape(data.shape)
    if not isinstance(variable.type, TensorType):
        return type(variable)(variable.type, variable.type.filter(changed.item()))
    # The literals of a model are stored in the smallest type that holds them.
    return pt.constant(changed, dtype="int64")


def remake(
    op: Any, inputs: Sequence[Variable], lengths: Mapping[int, int], rebuild: Rebuild
) -> tuple[Any, list[Variable]]:
    """An operation with a graph of its own, for `inputs` of other shapes: the operation and what to apply it to.

    Its attributes (the distribution that is truncated, the signature) stay. The operation itself where it fits as it is.
    """
    pairs = zip(op.input_types, inputs, strict=False)
    if not lengths and all(type_.is_super(part.type) or part.type.is_super(type_) for type_, part in pairs):
        return op, list(inputs)
    count = len(op.inner_inputs) - len(op.shared_inputs)
    stand_ins = [_stand_in(type_, part) for type_, part in zip(op.input_types, inputs[:count], strict=True)]
    start = dict(zip(op.inner_inputs, [*stand_ins, *inputs[count:]], strict=True))
    built = rebuild(op.inner_outputs, start, lengths)
    outputs = [built.get(output, output) for output in op.inner_outputs]
    fresh = copy(op)
    fresh.fgraph, fresh.shared_inputs, _, _ = construct_nominal_fgraph(stand_ins, outputs)
    fresh.input_types = [part.type for part in stand_ins]
    fresh.output_types = [output.type for output in outputs]
    fresh._lop_op_cache, fresh._rop_op_cache, fresh._fn = {}, None, None
    return fresh, [*inputs[:count], *fresh.shared_inputs]


def _stand_in(type_: Any, variable: Variable) -> Variable:
    """An input of the inner graph with the shape of what it stands for."""
    if not isinstance(type_, TensorType):
        return type_()
    return TensorType(type_.dtype, shape=variable.type.shape)()
