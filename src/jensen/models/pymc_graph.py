"""From a PyMC model to JAX functions: freeze its shapes, derive the log densities, rewrite once, translate.

The route is PyMC's own (``Model.logp``), with four differences that matter for compile time or correctness. Data and large
constants become inputs before anything is derived. Log densities and log Jacobians are separate outputs of one graph, so
that nothing is built twice. Only the rewrites that change the mathematics are run: PyTensor's fusion, BLAS and in-place
rewrites do for C what XLA does for itself. And checks become -inf (see `pymc_bounds`).

PyTensor is imported at the top: this file is only loaded by the PyMC front end.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import pytensor.tensor as pt
from pymc.data import MinibatchOp
from pymc.distributions.continuous import InterpolatedRV
from pymc.distributions.multivariate import CARRV, ICARRV
from pymc.distributions.transforms import logodds
from pymc.logprob.basic import transformed_conditional_logp
from pymc.logprob.utils import replace_rvs_by_values
from pymc.pytensorf import constant_fold
from pymc.variational.minibatch_rv import MinibatchRandomVariable
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import FAST_COMPILE, JAX, optdb
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.configdefaults import config
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.db import RewriteDatabaseQuery
from pytensor.graph.traversal import graph_inputs
from pytensor.link.utils import fgraph_to_python
from pytensor.scalar.basic import Cast
from pytensor.scan.op import Scan
from pytensor.tensor.basic import Alloc, AllocEmpty, ARange, Eye, Join, Nonzero, Split
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.extra_ops import Repeat, Unique
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.rewriting.shape import ShapeFeature
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.variable import TensorConstant
from pytensor.tensor.subtensor import AdvancedIncSubtensor, AdvancedSubtensor, IncSubtensor, Subtensor

from jensen.core.errors import ModelError, UnsupportedError
from jensen.core.precision import scope
from jensen.models.pymc_bounds import simplify
from jensen.models.pymc_ops import dispatch

T = TypeVar("T")
LARGE = 16
"""Constants of at least this many elements become inputs, so that data are not baked into compiled programs."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """A PyMC model with constant shapes, its data replaced by inputs.

    Attributes
    ----------
    model
        The user's model.
    inputs
        Data name -> symbolic input.
    new
        Variables of the model -> their counterparts with constant shapes.
    values
        Free and observed variables (counterparts) -> value: an unconstrained input, or a graph of data.
    transforms
        Free variables (counterparts) -> PyMC transform or None.
    scale
        Observed name -> total size over size, where `total_size` was given.
    """

    model: Any
    inputs: dict[str, Variable]
    new: dict[Variable, Variable]
    values: dict[Variable, Variable]
    transforms: dict[Variable, Any]
    scale: dict[str, float]

    @property
    def free(self) -> list[Variable]:
        """Latent variables, in the order of the model."""
        return [self.new[rv] for rv in self.model.free_RVs]


def _untraced(function: Callable[..., T]) -> Callable[..., T]:
    """Do not let PyTensor note for every node where it was made, a fifth of the time, nor warn about its own code."""

    @wraps(function)
    def untraced(*args: Any) -> T:
        with config.change_flags(traceback__limit=0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args)

    return untraced


def variables(model: Any) -> list[Variable]:
    """Everything whose graph makes up the model."""
    rvs = list(model.basic_RVs)
    return rvs + list(model.potentials) + list(model.deterministics) + [model.rvs_to_values[rv] for rv in rvs]


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
            stack.extend((part.owner, False) for part in node.inputs if part.owner is not None and part.owner not in seen)
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
        Those whose values decide the shape of something; they stay constants, as compiled programs have constant shapes.
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
    fixed = _value_roots([part for node in order for part in _shape_inputs(node)])
    observed = {model.rvs_to_values[rv]: rv.name for rv in model.observed_RVs}
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
    used = _value_roots([*model.basic_RVs, *model.potentials, *model.deterministics])
    only_observed = _value_roots(model.rvs_to_values[rv] for rv in model.observed_RVs) - used
    covariates = tuple(variable.name for variable in model.data_vars if variable not in only_observed)
    return Roots(shared, constants, fixed, covariates, any(isinstance(node.op, MinibatchOp) for node in order))


def _is_large(constant: Any) -> bool:
    data = constant.data
    return isinstance(data, np.ndarray) and data.size >= LARGE and data.dtype.kind in "fiu"


def _fresh(name: str | None, kind: str, taken: set[str]) -> str:
    """A name nothing in the model has: its own, or ``kind_0``, ``kind_1``, ..."""
    candidate, number = name or f"{kind}_0", 0
    while candidate in taken:
        number += 1
        candidate = f"{name or kind}_{number}"
    taken.add(candidate)
    return candidate


def _value_roots(outputs: Iterable[Variable]) -> set[Variable]:
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


def _shape_inputs(node: Any) -> list[Variable]:
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


def rebuild(outputs: Sequence[Variable], replace: Mapping[Variable, Variable]) -> dict[Variable, Variable]:
    """Map variables to counterparts built on `replace`, with literal constants in full precision.

    PyTensor stores the 2 of ``pm.Gamma("x", 2, 1)`` in 8 bits and a 2.0 in 32, takes the logarithm of either in float32, and
    is wrong by 1e-8; where such a constant meets a JAX scalar of open type, whole expressions become float32. Static shapes
    are inferred anew. Variables that stay as they are are missing.
    """
    new = dict(replace)
    for node in nodes(outputs):
        if isinstance(node.op, MinibatchOp):
            # The full data stand for a random batch of them; the factor's scale is then one.
            new.update({out: new.get(full, full) for out, full in zip(node.outputs, node.inputs, strict=False)})
            continue
        if isinstance(node.op, MinibatchRandomVariable):
            new[node.outputs[0]] = new.get(node.inputs[0], node.inputs[0])
            continue
        inputs = [new[part] if part in new else _wide(part, node.op) for part in node.inputs]
        if isinstance(node.op, OpFromGraph):
            # Such an operation (a mixture, a truncated distribution) is made for the types it has.
            inputs = [_narrow(part, old) for part, old in zip(inputs, node.inputs, strict=True)]
        if all(part is old for part, old in zip(inputs, node.inputs, strict=True)):
            continue
        twin = node.clone_with_new_inputs(inputs, strict=False)
        for old, fresh in zip(node.outputs, twin.outputs, strict=True):
            fresh.name, fresh.tag = old.name, copy(old.tag)
            new.setdefault(old, fresh)
    return new


def _wide(variable: Variable, client: Any) -> Variable:
    if not isinstance(variable, TensorConstant) or isinstance(client, OpFromGraph):
        return variable
    if variable.type.dtype in ("float16", "float32"):
        return pt.constant(variable.data.astype(np.float64))
    # Other operations have integer arguments of their own (indices, shapes), and are made for one integer type.
    if isinstance(client, Elemwise | DimShuffle) and variable.type.dtype in ("int8", "int16", "uint8", "uint16"):
        return pt.constant(variable.data.astype(np.int64))
    return variable


def _narrow(variable: Any, old: Any) -> Any:
    dtype = getattr(old.type, "dtype", None)
    return variable if dtype is None or dtype == variable.type.dtype else variable.astype(dtype)


@_untraced
def freeze(
    model: Any,
    found: Roots,
    arrays: Mapping[str, np.ndarray],
    lengths: Mapping[str, int],
) -> Frozen:
    """Give the model constant shapes: those of its data (`arrays`, by name) and `lengths` of its dimensions."""
    inputs, replace = {}, {}
    for name, variable in {**found.shared, **found.constants}.items():
        if variable in found.fixed:
            replace[variable] = pt.constant(arrays[name], name=name)
        else:
            inputs[name] = pt.tensor(name, dtype=arrays[name].dtype, shape=arrays[name].shape)
            replace[variable] = inputs[name]
    for dim, length in model.dim_lengths.items():
        if isinstance(length, SharedVariable):
            replace[length] = pt.constant(lengths[dim], dtype=length.type.dtype)
    built = rebuild(variables(model), replace)
    new = {variable: built.get(variable, variable) for variable in variables(model)}
    values, transforms, scale = {}, {}, {}
    for rv in model.free_RVs:
        transform, old = _transform(model, rv), model.rvs_to_values[rv]
        image = new[rv] if transform is None else transform.forward(new[rv], *new[rv].owner.inputs)
        values[new[rv]] = pt.tensor(old.name, dtype=image.type.dtype, shape=static_shape(image))
        transforms[new[rv]] = transform
    for rv in model.observed_RVs:
        values[new[rv]] = new[model.rvs_to_values[rv]]
        transforms[new[rv]] = None
        if isinstance(rv.owner.op, MinibatchRandomVariable):
            scale[rv.name] = _scale(rv, values[new[rv]])
    return Frozen(model, inputs, new, values, transforms, scale)


def _transform(model: Any, rv: Variable) -> Any:
    """PyMC's transform, also for the one bounded distribution it leaves without."""
    transform = model.rvs_to_transforms[rv]
    return logodds if transform is None and type(rv.owner.op).__name__.startswith("LogitNormal") else transform


def _scale(rv: Variable, value: Variable) -> float:
    """Product of total size over size, axis by axis."""
    scale = 1.0
    totals = rv.owner.inputs[1:]
    for total, size in zip(totals, static_shape(value) or (1,), strict=False):
        if getattr(total, "data", None) is not None:
            scale *= float(total.data) / size
    return scale


def static_shape(variable: Variable) -> tuple[int, ...]:
    """Shape of a variable that depends on no input's value; evaluated where PyTensor has not inferred it."""
    known = variable.type.shape
    if None not in known:
        return tuple(known)
    lengths = constant_fold([variable.shape[axis] for axis in range(variable.type.ndim)], raise_not_constant=False)
    if any(isinstance(length, Variable) for length in lengths):
        lengths = variable.shape.eval(mode=FAST_COMPILE)
    return tuple(int(length) for length in lengths)


@_untraced
def factor_graph(frozen: Frozen) -> tuple[list[str], list[Variable], list[str], list[Variable]]:
    """Names and graphs of the unscaled log densities, and names and graphs of the log Jacobians."""
    model = frozen.model
    rvs = [*frozen.free, *(frozen.new[rv] for rv in model.observed_RVs)]
    try:
        densities = transformed_conditional_logp(
            rvs, rvs_to_values=frozen.values, rvs_to_transforms=frozen.transforms, jacobian=False
        )
    except NotImplementedError as error:
        raise UnsupportedError(
            f"PyMC has no log density for a variable of this model ({error}); give it one with pm.CustomDist(logp=...)."
        ) from error
    constrained = [rv for rv in frozen.free if frozen.transforms[rv] is not None]
    jacobians = [frozen.transforms[rv].log_jac_det(frozen.values[rv], *rv.owner.inputs) for rv in constrained]
    potentials = [frozen.new[potential] for potential in model.potentials]
    replaced = to_values(frozen, potentials + jacobians)
    names = [rv.name for rv in [*model.free_RVs, *model.observed_RVs, *model.potentials]]
    return names, densities + replaced[: len(potentials)], [rv.name for rv in constrained], replaced[len(potentials) :]


def to_values(frozen: Frozen, graphs: Sequence[Variable]) -> list[Variable]:
    """The graphs as functions of unconstrained values and data."""
    return replace_rvs_by_values(list(graphs), rvs_to_values=frozen.values, rvs_to_transforms=frozen.transforms)


@_untraced
def inverse_graph(frozen: Frozen) -> tuple[list[Variable], list[Variable]]:
    """Symbolic constrained values of the sites, and their unconstrained values as functions of them and data."""
    values = {rv: rv.type() for rv in frozen.free}
    images = []
    for rv, value in values.items():
        transform = frozen.transforms[rv]
        images.append(value if transform is None else transform.forward(rv, *rv.owner.inputs))
    observed = {rv: value for rv, value in frozen.values.items() if rv not in values}
    return list(values.values()), replace_rvs_by_values(images, rvs_to_values=values | observed)


def observed_value(value: Variable, found: Roots, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Array of an observed variable, where its data are `arrays`."""
    known = {variable: name for name, variable in {**found.shared, **found.constants}.items()}
    if value in known:
        return arrays[known[value]]
    if isinstance(value, Constant):
        return value.data
    if isinstance(value.owner.op, Elemwise) and isinstance(value.owner.op.scalar_op, Cast):
        return observed_value(value.owner.inputs[0], found, arrays).astype(value.type.dtype)
    constants = {variable: pt.constant(arrays[name]) for variable, name in known.items()}
    return rebuild([value], constants).get(value, value).eval(mode=FAST_COMPILE)


@cache
def _rewriter() -> Any:
    """The rewrites that simplify and stabilize; without sparse BLAS, which would try out the C compiler first."""
    query = RewriteDatabaseQuery(include=["minimum_compile", "jax", "canonicalize", "stabilize", "specialize"])
    return optdb.query(query.excluding(*JAX.linker.incompatible_rewrites, "local_usmm"))


@_untraced
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
            if not jax.config.jax_enable_x64:
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
    for name, output in zip(names, outputs, strict=True):
        for node in nodes([output]):
            if any(isinstance(part.type, RandomType) for part in node.inputs):
                raise UnsupportedError(
                    f"{name} draws random numbers each time it is evaluated ({type(node.op).__name__}), so it has no fixed "
                    "value; register the variable with the model, or use pm.sample_smc for simulators."
                )


def _unsupported(graph: FunctionGraph, funcify: Any, names: Sequence[str], error: Exception) -> ModelError:
    """Find the operation without JAX form, and whose log density it is in."""
    for node in graph.toposort():
        try:
            funcify(node.op, node=node)
        except NotImplementedError:
            owners = [name for name, out in zip(names, graph.outputs, strict=False) if node in nodes([out])]
            return UnsupportedError(
                f"{' and '.join(owners[:3]) or 'the model'} uses the operation {node.op}, which has no JAX form; write it "
                "with pytensor.tensor operations, or fit with pm.fit."
            )
        except Exception:
            continue
    return UnsupportedError(f"the model uses an operation without JAX form ({error}); write it with pytensor.tensor operations.")
