"""From a PyTensor graph to a function of JAX arrays: simplify, rewrite once, translate.

Only the rewrites that change the mathematics are run: PyTensor's fusion, BLAS and in-place rewrites do for C what XLA
does for itself.

PyTensor is imported at the top: this file is only loaded by the PyMC front end.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pytensor.compile.mode import JAX, optdb
from pytensor.graph.basic import Constant
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.db import RewriteDatabaseQuery
from pytensor.graph.traversal import graph_inputs
from pytensor.link.utils import fgraph_to_python
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.rewriting.shape import ShapeFeature

from jensen.core.errors import ModelError, UnsupportedError
from jensen.core.precision import scope
from jensen.models.pymc_bounds import simplify
from jensen.models.pymc_graph import rebuild, untraced
from jensen.models.pymc_ops import dispatch
from jensen.models.pymc_roots import Variable, nodes


@cache
def _rewriter() -> Any:
    """The rewrites that simplify and stabilize; without sparse BLAS, which would try out the C compiler first."""
    query = RewriteDatabaseQuery(include=["minimum_compile", "jax", "canonicalize", "stabilize", "specialize"])
    return optdb.query(query.excluding(*JAX.linker.incompatible_rewrites, "local_usmm"))


@untraced
def to_jax(inputs: Sequence[Variable], outputs: Sequence[Variable], names: Sequence[str]) -> Callable[..., Any]:
    """Translate a graph to a function of JAX arrays; `names` say in errors which output an operation belongs to."""
    funcify = dispatch()
    wide = rebuild(outputs, {})
    outputs = [wide.get(output, output) for output in outputs]
    _refuse_randomness(outputs, names)
    graph = FunctionGraph(list(inputs), list(outputs), clone=True)
    simplify(graph)
    graph.attach_feature(ShapeFeature())
    _rewriter().rewrite(graph)
    arrays = _lift_float_arrays(graph)
    try:
        # Constants are made outside of any trace and in full precision, whoever is asking.
        with jax.ensure_compile_time_eval(), scope("float64"):
            function = fgraph_to_python(graph, funcify, type_conversion_fn=_typify, fgraph_name="pymc_model")
    except NotImplementedError as error:
        raise _unsupported(graph, funcify, names, error) from error

    def call(*values: Any) -> list[Any]:
        with warnings.catch_warnings():
            if jnp.result_type(float) == jnp.float32:
                warnings.filterwarnings("ignore", message="Explicitly requested dtype")
            results = function(*values, *(jnp.asarray(array, float) for array in arrays))
            return [jnp.asarray(result) for result in results]

    return call


def _typify(data: Any, variable: Any = None, **_: Any) -> Any:
    """Constants of the translated function: Python numbers, which shapes and axes need, or JAX arrays."""
    if isinstance(data, np.ndarray):
        return data.item() if data.ndim == 0 else jnp.asarray(data)
    return data


def _lift_float_arrays(graph: FunctionGraph) -> list[np.ndarray]:
    """Make the float arrays that are left in the graph its last inputs, so that their precision is the caller's."""
    found = [v for v in list(graph.variables) if isinstance(v, Constant) and _is_float_array(v)]
    for constant in found:
        stand_in = constant.type()
        graph.add_input(stand_in)
        graph.replace(constant, stand_in)
    return [constant.data for constant in found]


def _is_float_array(constant: Any) -> bool:
    data = constant.data
    return isinstance(data, np.ndarray) and data.ndim > 0 and data.dtype.kind == "f"


def _refuse_randomness(outputs: Sequence[Variable], names: Sequence[str]) -> None:
    if not any(isinstance(variable.type, RandomType) for variable in graph_inputs(outputs)):
        return
    for name, output in zip(names, outputs, strict=True):
        for node in nodes([output]):
            if any(isinstance(part.type, RandomType) for part in node.inputs):
                raise UnsupportedError(
                    f"{name} draws random numbers each time it is evaluated ({type(node.op).__name__}), so it has no "
                    "fixed value; register the variable with the model, or use pm.sample_smc for simulators."
                )


def _unsupported(graph: FunctionGraph, funcify: Any, names: Sequence[str], error: Exception) -> ModelError:
    """Find the operation without JAX form, and whose log density it is in."""
    for node in graph.toposort():
        try:
            funcify(node.op, node=node)
        except NotImplementedError:
            owners = [name for name, out in zip(names, graph.outputs, strict=False) if node in nodes([out])]
            return UnsupportedError(
                f"{' and '.join(owners[:3]) or 'the model'} uses the operation {node.op}, which has no JAX form; write "
                "it with pytensor.tensor operations, or fit with pm.fit."
            )
        except Exception:
            continue
    return UnsupportedError(
        f"the model uses an operation without JAX form ({error}); write it with pytensor.tensor operations."
    )
