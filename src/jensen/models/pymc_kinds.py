"""Which PyMC distributions conjugacy knows by their parameters, and the graphs of these parameters.

A random variable x ~ p(x | theta) of PyMC has the graphs of theta as inputs, in PyTensor's parametrization and wrapped:
padded to the number of batch axes, filled up, named. The wrappers are taken off, so that a parameter has the shape in which
the model computes it, and where the model computes a parameter from the one wanted (1/rate, inverse(precision),
sigmoid(logits)), the latter is read.

PyTensor is imported at the top: this file is only loaded by the PyMC front end.

Reference: Abril-Pla et al. (2023), PyMC: a modern and comprehensive probabilistic programming framework in Python,
PeerJ Computer Science 9:e1516.
"""

from typing import Any

import numpy as np
import pytensor.scalar as ps
import pytensor.tensor as pt
import pytensor.tensor.random.basic as random
from pymc.distributions.continuous import FlatRV
from pymc.distributions.multivariate import WishartRV
from pytensor.compile.ops import ViewOp
from pytensor.graph.basic import Constant
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import Alloc
from pytensor.tensor.blockwise import Blockwise
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.nlinalg import MatrixInverse
from pytensor.tensor.shape import SpecifyShape
from pytensor.tensor.special import Softmax

from jensen.models.pymc_graph import static_shape
from jensen.models.pymc_roots import Variable

# Exact types: a subclass is another distribution. Gamma includes ChiSquared, which PyMC writes with it.
_KINDS = {
    random.NormalRV: "Normal",
    random.MvNormalRV: "MultivariateNormal",
    random.GammaRV: "Gamma",
    random.ExponentialRV: "Gamma",
    random.InvGammaRV: "InverseGamma",
    random.BetaRV: "Beta",
    random.UniformRV: "Beta",
    random.DirichletRV: "Dirichlet",
    random.BernoulliRV: "Bernoulli",
    random.CategoricalRV: "Categorical",
    random.BinomialRV: "Binomial",
    random.MultinomialRV: "Multinomial",
    random.PoissonRV: "Poisson",
    WishartRV: "Wishart",
    FlatRV: "Flat",
}
SUPPORTS = {
    "Gamma": "positive",
    "InverseGamma": "positive",
    "Beta": "unit interval",
    "Dirichlet": "simplex",
    "Wishart": "positive definite",
}
_TRANSFORMS = {
    "Gamma": ("log", "log_exp_m1"),
    "InverseGamma": ("log", "log_exp_m1"),
    "Beta": ("logodds", "interval"),
    "Dirichlet": ("simplex",),
}
"""Transforms onto the whole support of a kind; with any other (``ordered``) the latent variable is restricted further."""


def levels(rv: Variable) -> int | None:
    """Number of values of a discrete variable that can be enumerated, or None."""
    if type(rv.owner.op) is random.BernoulliRV:
        return 2
    if type(rv.owner.op) is random.CategoricalRV:
        (probs,) = rv.owner.op.dist_params(rv.owner)
        return static_shape(probs)[-1]
    return None


def kind(rv: Variable, transform: Any) -> str:
    """The kind of a random variable with this transform, as `Node` has it."""
    op = rv.owner.op
    kind = _KINDS.get(type(op), "other")
    if kind == "other" or (transform is not None and getattr(transform, "name", "") not in _TRANSFORMS.get(kind, ())):
        return "other"
    if isinstance(op, random.UniformRV):
        return kind if bounds(rv) == (0.0, 1.0) else "other"
    return kind


def bounds(rv: Variable) -> tuple[float, float] | None:
    """Ends of a uniform variable, where they are constant and the same for all elements."""
    op = rv.owner.op
    if not isinstance(op, random.UniformRV):
        return None
    ends = [_core(bound) for bound in op.dist_params(rv.owner)]
    if not all(isinstance(end, Constant) and np.ptp(end.data) == 0 for end in ends):
        return None
    low, high = (float(np.asarray(end.data).reshape(-1)[0]) for end in ends)
    return low, high


def parameters(rv: Variable) -> dict[str, Variable]:
    """The graphs of the leaves of a variable whose kind is not other."""
    op = rv.owner.op
    kind = _KINDS[type(op)]
    if kind == "Flat":
        return {}
    first, *rest = (
        _core(parameter, ndim) for parameter, ndim in zip(op.dist_params(rv.owner), op.ndims_params, strict=True)
    )
    if isinstance(op, random.UniformRV):
        return {"a": pt.constant(1.0), "b": pt.constant(1.0)}
    if isinstance(op, random.ExponentialRV):
        return {"concentration": pt.constant(1.0), "rate": _reciprocal(first)}
    if kind == "Gamma":
        return {"concentration": first, "rate": _reciprocal(rest[0])}
    if kind == "MultivariateNormal":
        precision = _inverted(rest[0])
        return {"loc": first, **({"covariance": rest[0]} if precision is None else {"precision": precision})}
    if kind == "Wishart":
        rate = _inverted(rest[0])
        return {"df": first, "rate": pt.linalg.inv(rest[0]) if rate is None else rate}
    if kind in ("Bernoulli", "Categorical"):
        return _probability(kind, first)
    if kind in ("Binomial", "Multinomial"):
        return {"total_count": first, **_probability(kind, rest[0])}
    names = {
        "Normal": ("loc", "scale"),
        "InverseGamma": ("concentration", "rate"),
        "Beta": ("a", "b"),
        "Dirichlet": ("concentration",),
        "Poisson": ("rate",),
    }[kind]
    return dict(zip(names, (first, *rest), strict=True))


def _probability(kind: str, probs: Variable) -> dict[str, Variable]:
    """Logits where the model computes probabilities from them."""
    op, last = _op(probs), probs.type.ndim - 1
    if kind in ("Bernoulli", "Binomial"):
        has_logits = _is(probs.owner, ps.Sigmoid)
    else:
        has_logits = isinstance(op, Softmax) and (last == 0 or op.axis in (-1, last))
    return {"logits": probs.owner.inputs[0]} if has_logits else {"probs": probs}


def _core(variable: Variable, ndim: int = 0) -> Variable:
    """A parameter without what only repeats it along batch axes, checks it or names it; `ndim` event axes stay."""
    while variable.owner is not None:
        node = variable.owner
        if not node.inputs:
            return variable
        inner = node.inputs[0]
        if _is(node, ps.Second):
            inner = node.inputs[1]
        elif isinstance(node.op, DimShuffle):
            added = node.op.new_order[: len(node.op.new_order) - node.op.input_ndim]
            if node.op.new_order != (*added, *range(node.op.input_ndim)) or set(added) != {"x"}:
                return variable
        elif not (isinstance(node.op, Alloc | ViewOp | CheckAndRaise | SpecifyShape) or _is(node, ps.Identity)):
            return variable
        keeps = (
            inner.type.ndim >= ndim
            and inner.type.shape[inner.type.ndim - ndim :] == variable.type.shape[variable.type.ndim - ndim :]
        )
        if not keeps:
            return variable
        variable = inner
    return variable


def _reciprocal(variable: Variable) -> Variable:
    return _core(variable.owner.inputs[0]) if _is(variable.owner, ps.Reciprocal) else pt.reciprocal(variable)


def _inverted(variable: Variable) -> Variable | None:
    """The matrix whose inverse a matrix is, where the model computes it so."""
    op = _op(variable)
    op = op.core_op if isinstance(op, Blockwise) else op
    return _core(variable.owner.inputs[0], 2) if isinstance(op, MatrixInverse) else None


def _op(variable: Variable) -> Any:
    """The operation that a variable is the result of, or None for inputs and constants."""
    return None if variable.owner is None else variable.owner.op


def _is(node: Any, scalar_op: type) -> bool:
    return node is not None and isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, scalar_op)
