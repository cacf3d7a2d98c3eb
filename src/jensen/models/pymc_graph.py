"""The graphs of a PyMC model: find its data, freeze its shapes, derive log densities, Jacobians and transforms.

The route is PyMC's own (``Model.logp``), with two differences that matter for compile time. Data and large constants
become inputs before anything is derived. Log densities and log Jacobians are separate outputs of one graph, so that
nothing is built twice.

PyTensor is imported at the top: this file is only loaded by the PyMC front end.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import wraps
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pytensor.tensor as pt
from pymc.data import MinibatchOp
from pymc.distributions.transforms import logodds
from pymc.logprob.basic import transformed_conditional_logp
from pymc.logprob.utils import replace_rvs_by_values
from pymc.pytensorf import constant_fold
from pymc.variational.minibatch_rv import MinibatchRandomVariable
from pytensor.compile.builders import OpFromGraph
from pytensor.compile.mode import FAST_COMPILE
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.configdefaults import config
from pytensor.graph.basic import Constant
from pytensor.graph.utils import MissingInputError
from pytensor.scalar.basic import Cast
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.shape import Shape, Shape_i
from pytensor.tensor.type import TensorType
from pytensor.tensor.variable import TensorConstant

from jensen.core.errors import UnsupportedError
from jensen.models.pymc_roots import Roots, Variable, full_data, nodes, variables
from jensen.models.pymc_rows import remake, resize

T = TypeVar("T")
NO_LENGTHS: Mapping[int, int] = MappingProxyType({})


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
    built
        Whatever of the user's graph was built anew -> its counterpart.
    """

    model: Any
    inputs: dict[str, Variable]
    new: dict[Variable, Variable]
    values: dict[Variable, Variable]
    transforms: dict[Variable, Any]
    scale: dict[str, float]
    built: dict[Variable, Variable]

    @property
    def free(self) -> list[Variable]:
        """Latent variables, in the order of the model."""
        return [self.new[rv] for rv in self.model.free_RVs]


def untraced(function: Callable[..., T]) -> Callable[..., T]:
    """Do not let PyTensor note for every node where it was made, a fifth of the time, nor warn about its own code."""

    @wraps(function)
    def wrapped(*args: Any) -> T:
        with config.change_flags(traceback__limit=0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*args)

    return wrapped


def rebuild(
    outputs: Sequence[Variable], replace: Mapping[Variable, Variable], lengths: Mapping[int, int] = NO_LENGTHS
) -> dict[Variable, Variable]:
    """Map variables to counterparts built on `replace`, with literal constants in full precision.

    Where `lengths` are given (old length -> new length), numbers that decide a shape follow them.

    PyTensor stores the 2 of ``pm.Gamma("x", 2, 1)`` in 8 bits and a 2.0 in 32, takes the logarithm of either in
    float32, and is wrong by 1e-8; where such a constant meets a JAX scalar of open type, whole expressions become
    float32. Static shapes are inferred anew. Variables that stay as they are are missing.
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
        op = node.op
        if lengths:
            resized = resize(node, new, lengths)
            inputs = [resized.get(old, part) for part, old in zip(inputs, node.inputs, strict=True)]
        if isinstance(op, OpFromGraph):
            # Such an operation (a mixture, a truncated distribution) is made for the types it has.
            inputs = [_narrow(part, old) for part, old in zip(inputs, node.inputs, strict=True)]
            op, inputs = remake(op, inputs, lengths, rebuild)
        if op is node.op and all(part is old for part, old in zip(inputs, node.inputs, strict=True)):
            continue
        twin = node.clone_with_new_inputs(inputs, strict=False) if op is node.op else op.make_node(*inputs)
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


@untraced
def freeze(
    model: Any,
    found: Roots,
    arrays: Mapping[str, np.ndarray],
    lengths: Mapping[str, int],
    changed: Mapping[int, int] = NO_LENGTHS,
    full: Frozen | None = None,
) -> Frozen:
    """Give the model constant shapes: those of its data (`arrays`, by name) and `lengths` of its dimensions.

    `changed` maps lengths that are written in the model to those that take their place. For some rows of a model, `full` is
    the model of all of them: scales, and lengths that enter densities, are its own.
    """
    inputs, replace = {}, {} if full is None else _shapes(full)
    for name, variable in {**found.shared, **found.constants}.items():
        if variable in found.fixed:
            replace[variable] = pt.constant(arrays[name], name=name)
        else:
            inputs[name] = _symbol(name, str(arrays[name].dtype), arrays[name].shape)
            replace[variable] = inputs[name]
    for dim, length in model.dim_lengths.items():
        if isinstance(length, SharedVariable):
            replace[length] = pt.constant(lengths[dim], dtype=length.type.dtype)
    built = rebuild(variables(model), replace, changed)
    new = {variable: built.get(variable, variable) for variable in variables(model)}
    values, transforms, scale = {}, {}, {}
    for rv in model.free_RVs:
        transform, old = _transform(model, rv), model.rvs_to_values[rv]
        image = new[rv] if transform is None else transform.forward(new[rv], *new[rv].owner.inputs)
        values[new[rv]] = _symbol(old.name, image.type.dtype, static_shape(image))
        transforms[new[rv]] = transform
    for rv in model.observed_RVs:
        values[new[rv]] = new[model.rvs_to_values[rv]]
        transforms[new[rv]] = None
        if isinstance(rv.owner.op, MinibatchRandomVariable):
            scale[rv.name] = _scale(rv, values[new[rv]])
    return Frozen(model, inputs, new, values, transforms, scale if full is None else full.scale, built)


def _shapes(full: Frozen) -> dict[Variable, Variable]:
    """Every ``x.shape`` of the user's graph -> its value."""
    found = {}
    for node in nodes(variables(full.model)):
        if isinstance(node.op, Shape | Shape_i):
            whole = full.built.get(node.inputs[0], node.inputs[0])
            with suppress(ValueError, TypeError, MissingInputError):
                shape = static_shape(whole)
                found[node.outputs[0]] = pt.constant(
                    shape[node.op.i] if isinstance(node.op, Shape_i) else shape, dtype="int64"
                )
    return found


def _symbol(name: str, dtype: str, shape: tuple[int, ...]) -> Variable:
    # pt.tensor(name) would take a name such as "f8" for a type.
    return TensorType(dtype, shape=shape)(name=name)


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
    lengths: Any = constant_fold([variable.shape[axis] for axis in range(variable.type.ndim)], raise_not_constant=False)
    if not all(isinstance(length, np.ndarray | np.generic) for length in lengths):
        lengths = variable.shape.eval(mode=FAST_COMPILE)
    return tuple(int(length) for length in lengths)


@untraced
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


@untraced
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
    value = full_data(value)
    if value in known:
        return arrays[known[value]]
    if isinstance(value, Constant):
        return value.data
    if isinstance(value.owner.op, Elemwise) and isinstance(value.owner.op.scalar_op, Cast):
        return observed_value(value.owner.inputs[0], found, arrays).astype(value.type.dtype)
    constants = {variable: pt.constant(arrays[name]) for variable, name in known.items()}
    return rebuild([value], constants).get(value, value).eval(mode=FAST_COMPILE)
