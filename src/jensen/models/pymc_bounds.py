"""Parameter checks and support switches that can never fail are taken out of the graph; the others become -inf.

PyMC guards every log density: ``switch(x >= 0, logp, -inf)``, ``check(sigma > 0)``. After the transforms most of these
hold by construction (``x = exp(z)``). They are found by carrying the range of every variable through the graph once.
Compilation is the cost of a small fit, and this removes about a third of the nodes before PyTensor's rewrites see them.
A check that may fail is kept as a switch to -inf, as PyMC does when it compiles a log density: a compiled program
cannot raise.

PyTensor is imported at the top: this file is only loaded by the PyMC front end.
"""

from collections.abc import Iterator
from math import inf, isnan
from typing import Any, NamedTuple

import numpy as np
import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.graph.basic import Constant
from pytensor.graph.fg import FunctionGraph
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.basic import Alloc, Join, MakeVector, ScalarFromTensor, TensorFromScalar
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.extra_ops import CumOp
from pytensor.tensor.math import All, Max, Min, Sum
from pytensor.tensor.shape import Reshape, SpecifyShape
from pytensor.tensor.special import Softmax
from pytensor.tensor.subtensor import AdvancedSubtensor, AdvancedSubtensor1, IncSubtensor, Subtensor


class Range(NamedTuple):
    """low <= x <= high; `strict` when x > 0 although low may be 0."""

    low: float = -inf
    high: float = inf
    strict: bool = False


ANY = Range()
POSITIVE = Range(0.0, inf, True)
UNIT = Range(0.0, 1.0, True)
_FIRST_INPUT = (
    DimShuffle,
    Alloc,
    Subtensor,
    AdvancedSubtensor,
    AdvancedSubtensor1,
    Reshape,
    SpecifyShape,
    CheckAndRaise,
    Max,
    Min,
    ScalarFromTensor,
    TensorFromScalar,
)
_ALL_PARTS = (All, DimShuffle, MakeVector, ScalarFromTensor, TensorFromScalar)
"""Operations whose boolean output is true when all their inputs are."""


def simplify(graph: FunctionGraph) -> None:
    """Take out of `graph`, in place, what its ranges decide."""
    ranges: dict[Any, Range] = {}
    for node in graph.toposort():
        if node not in graph.apply_nodes:
            continue
        new = _decided(node, ranges)
        if new is None:
            ranges.update(dict.fromkeys(node.outputs, _range(node, ranges)))
            continue
        value, known = new
        ranges.setdefault(value, known)
        graph.replace(node.outputs[0], value, import_missing=True)


def _decided(node: Any, ranges: dict[Any, Range]) -> tuple[Any, Range] | None:
    """What replaces the node's output, and its range; None where nothing is decided."""
    out = node.outputs[0]
    if isinstance(node.op, CheckAndRaise):
        value = node.inputs[0]
        doubtful = [leaf for condition in node.inputs[1:] for leaf in _doubtful(condition, ranges)]
        if doubtful and getattr(node.op, "can_be_replaced_by_ninf", False):
            holds = pt.all([pt.all(leaf) for leaf in doubtful])
            return pt.cast(pt.switch(holds, value, np.array(-inf)), value.type.dtype), ANY
        return value, _known(value, ranges)
    if _is(node, ps.Switch):
        condition, yes, no = node.inputs
        branch = yes if _holds(condition, ranges) else no if _never_holds(condition, ranges) else None
        if branch is None or branch.type.shape != out.type.shape:
            return None
        return (branch if branch.type == out.type else pt.cast(branch, out.type.dtype)), _known(branch, ranges)
    if _is(node, ps.Abs) and _known(node.inputs[0], ranges).low >= 0:
        return node.inputs[0], _known(node.inputs[0], ranges)
    if _is(node, ps.Sign) and _known(node.inputs[0], ranges).strict:
        return pt.ones_like(node.inputs[0], dtype=out.dtype), Range(1.0, 1.0, True)
    return None


def _doubtful(condition: Any, ranges: dict[Any, Range]) -> Iterator[Any]:
    """Comparisons inside a condition that may fail; conditions of another kind are taken to hold."""
    node = condition.owner
    if node is None:
        if isinstance(condition, Constant) and not np.all(condition.data):
            yield condition
    elif isinstance(node.op, _ALL_PARTS) or _is(node, ps.AND) or _is(node, ps.Cast):
        for part in node.inputs:
            yield from _doubtful(part, ranges)
    elif isinstance(node.op, Join):
        for part in node.inputs[1:]:
            yield from _doubtful(part, ranges)
    elif _is_comparison(node) and not _holds(condition, ranges):
        yield condition


def _is_comparison(node: Any) -> bool:
    return isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, ps.GT | ps.GE | ps.LT | ps.LE)


def _holds(condition: Any, ranges: dict[Any, Range]) -> bool:
    """Whether a condition is true everywhere, by the ranges of what it compares."""
    node = condition.owner
    if node is None:
        return isinstance(condition, Constant) and bool(np.all(condition.data))
    if isinstance(node.op, _ALL_PARTS) or _is(node, ps.AND):
        return all(_holds(part, ranges) for part in node.inputs)
    if _is(node, ps.OR):
        return any(_holds(part, ranges) for part in node.inputs)
    if _is(node, ps.NEQ):
        return _apart(node, ranges)
    return _is_comparison(node) and _ordered(node, ranges)


def _never_holds(condition: Any, ranges: dict[Any, Range]) -> bool:
    """Whether a condition is false everywhere."""
    node = condition.owner
    if node is None:
        return isinstance(condition, Constant) and not np.any(condition.data)
    if isinstance(node.op, DimShuffle) or _is(node, ps.OR):
        return all(_never_holds(part, ranges) for part in node.inputs)
    if _is(node, ps.AND):
        return any(_never_holds(part, ranges) for part in node.inputs)
    return _is(node, ps.EQ) and _apart(node, ranges)


def _ordered(node: Any, ranges: dict[Any, Range]) -> bool:
    """Whether a comparison (>, >=, <, <=) is always true."""
    left, right = (_known(part, ranges) for part in node.inputs)
    if _is(node, ps.LT) or _is(node, ps.LE):
        left, right = right, left
    strictly = _is(node, ps.GT) or _is(node, ps.LT)
    return _above(left, right) or (not strictly and left.low >= right.high)


def _apart(node: Any, ranges: dict[Any, Range]) -> bool:
    left, right = (_known(part, ranges) for part in node.inputs)
    return _above(left, right) or _above(right, left)


def _above(left: Range, right: Range) -> bool:
    return left.low > right.high or (left.strict and right.high <= 0)


def _known(variable: Any, ranges: dict[Any, Range]) -> Range:
    if isinstance(variable, Constant):
        data = getattr(variable, "data", None)
        if not isinstance(data, np.ndarray) or data.dtype.kind not in "fiu" or not data.size or data.size > 10_000:
            return ANY
        low, high = float(data.min()), float(data.max())
        return ANY if isnan(low) or isnan(high) else Range(low, high, low > 0)
    return ranges.get(variable, ANY)


def _range(node: Any, ranges: dict[Any, Range]) -> Range:
    op = node.op
    if not node.inputs:
        return ANY
    first = _known(node.inputs[0], ranges)
    if isinstance(op, Elemwise):
        return _scalar_range(op.scalar_op, node, [_known(part, ranges) for part in node.inputs])
    if isinstance(op, _FIRST_INPUT):
        return first
    if isinstance(op, Softmax):
        return UNIT
    if isinstance(op, Sum) or (isinstance(op, CumOp) and op.mode == "add"):
        return Range(0.0, inf, first.strict) if first.low >= 0 else ANY
    if isinstance(op, CAReduce | CumOp):
        return ANY
    if isinstance(op, Join | MakeVector | IncSubtensor):
        if isinstance(op, IncSubtensor) and not op.set_instead_of_inc:
            return ANY
        parts = node.inputs[:2] if isinstance(op, IncSubtensor) else node.inputs[isinstance(op, Join) :]
        return _union([_known(part, ranges) for part in parts])
    return ANY


def _union(parts: list[Range]) -> Range:
    return Range(min(p.low for p in parts), max(p.high for p in parts), all(p.strict for p in parts))


def _scalar_range(scalar: Any, node: Any, parts: list[Range]) -> Range:
    first = parts[0]
    match scalar:
        case ps.Exp():
            return POSITIVE
        case ps.Softplus():
            return POSITIVE
        case ps.Sigmoid():
            return UNIT
        case ps.Sqr() | ps.Abs():
            return Range(0.0, inf, first.strict)
        case ps.Cosh():
            return Range(1.0, inf, True)
        case ps.Tanh():
            return Range(-1.0, 1.0)
        case ps.Sqrt():
            return Range(0.0, inf, first.strict)
        case ps.Reciprocal():
            return Range(0.0, inf, first.strict) if first.low >= 0 else ANY
        case ps.Cast() | ps.Identity():
            return first
        case ps.Second():
            return parts[1]
        case ps.Switch():
            return _union(parts[1:])
        case ps.Neg():
            return Range(-first.high, -first.low, first.high < 0)
        case ps.Add():
            return _add(node, parts)
        case ps.Sub():
            low, high = first.low - parts[1].high, first.high - parts[1].low
            return ANY if isnan(low) or isnan(high) else Range(low, high, low > 0)
        case ps.Mul():
            return _multiply(parts)
        case ps.TrueDiv():
            return _multiply([first, Range(0.0, inf, parts[1].strict)]) if parts[1].low >= 0 else ANY
        case ps.Pow():
            power = _data(node.inputs[1])
            even = power is not None and bool(np.all(power % 2 == 0))
            return Range(0.0, inf, first.strict) if even or first.low >= 0 else ANY
        case ps.ScalarMaximum():
            low = max(p.low for p in parts)
            return Range(low, max(p.high for p in parts), low > 0 or any(p.strict for p in parts))
        case ps.ScalarMinimum():
            return Range(min(p.low for p in parts), min(p.high for p in parts), all(p.strict for p in parts))
        case ps.Clip():
            return Range(parts[1].low, parts[2].high, parts[1].strict)
    return ANY


def _add(node: Any, parts: list[Range]) -> Range:
    mixture = _between(node)
    if mixture is not None:
        return mixture
    low, high = sum(p.low for p in parts), sum(p.high for p in parts)
    if isnan(low) or isnan(high):
        return ANY
    return Range(low, high, low > 0 or (min(p.low for p in parts) >= 0 and any(p.strict for p in parts)))


def _between(node: Any) -> Range | None:
    """Range of ``s * b + (1 - s) * a``, which is how an interval is written in terms of s = sigmoid(z)."""
    products = [part.owner for part in node.inputs]
    if len(products) != 2 or not all(_is(product, ps.Mul) and len(product.inputs) == 2 for product in products):
        return None
    (share, upper), (rest, lower) = (product.inputs for product in products)
    upper, lower = _data(upper), _data(lower)
    if upper is None or lower is None or not _is(share.owner, ps.Sigmoid) or not _is(rest.owner, ps.Sub):
        return None
    one = _data(rest.owner.inputs[0])
    if rest.owner.inputs[1] is not share or one is None or not np.all(one == 1):
        return None
    low, high = float(min(upper.min(), lower.min())), float(max(upper.max(), lower.max()))
    return Range(low, high, low > 0 or (low == 0 and upper.min() > 0))


def _is(node: Any, scalar: type) -> bool:
    return node is not None and isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, scalar)


def _data(variable: Any) -> np.ndarray | None:
    """Value of a constant, also behind added axes; None for anything else or where it is not finite."""
    while variable.owner is not None and isinstance(variable.owner.op, DimShuffle):
        variable = variable.owner.inputs[0]
    data = getattr(variable, "data", None) if isinstance(variable, Constant) else None
    return data if isinstance(data, np.ndarray) and data.size and np.isfinite(data).all() else None


def _multiply(parts: list[Range]) -> Range:
    result = parts[0]
    for part in parts[1:]:
        if result.low >= 0 and part.low >= 0:
            high = result.high * part.high
            result = Range(result.low * part.low, inf if isnan(high) else high, result.strict and part.strict)
        else:
            return ANY
    return result
