"""What ``pm.Minibatch`` and ``total_size`` of a PyMC model say, and whether they say it right.

The random batches of the model are set aside, and its full data stand in their place; whoever fits takes minibatches by
slicing the data. An observed variable whose density PyMC multiplies by T/B, with T its `total_size` and B the batch size, then
has the factor

    T/B * E[sum over a batch] = T/N * sum over all N rows,

so its scale is T/N: one where `total_size` is the number of rows. Without `total_size` PyMC's own posterior would be another,
with the likelihood N/B times too small, and that is refused.

PyTensor is imported at the top: this file is only loaded by the PyMC front end.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from pymc.data import MinibatchOp
from pymc.variational.minibatch_rv import MinibatchRandomVariable
from pytensor.graph.traversal import ancestors

from jensen.core.errors import ModelError
from jensen.models.pymc_graph import observed_value, untraced
from jensen.models.pymc_roots import Roots, Variable, nodes, variables


@dataclass(frozen=True)
class Batch:
    """One call of ``pm.Minibatch``.

    Attributes
    ----------
    size, total
        Rows of a batch, and rows of the data.
    arrays
        Names of the data whose rows are drawn together.
    """

    size: int
    total: int
    arrays: tuple[str, ...]


def batches(model: Any, found: Roots, arrays: Mapping[str, np.ndarray]) -> tuple[Batch, ...]:
    """Every call of ``pm.Minibatch`` in a model, where its data are `arrays`."""
    calls = {node.inputs[-1]: node for node in nodes(variables(model)) if isinstance(node.op, MinibatchOp)}
    return tuple(_batch(node, found, arrays) for node in calls.values())


@untraced
def check(model: Any, found: Roots, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Scales of the observed variables that read a minibatch, and sentences worth telling.

    Parameters
    ----------
    model, found
        A PyMC model and its data, as `pymc_roots.roots` found them.
    arrays
        Data of the fit. They may be longer than those the model itself holds; a `total_size` that is the length of those
        means all rows.

    Raises
    ------
    ModelError
        For an observed variable without `total_size`, and for a potential that reads a minibatch.
    """
    own = {**arrays, **{name: variable.get_value(borrow=True) for name, variable in found.shared.items()}}
    scales, notes = {}, []
    for potential in model.potentials:
        for node in _calls(model, [potential]).values():
            _refuse_potential(potential.name, _batch(node, found, arrays))
    for rv in model.observed_RVs:
        value = model.rvs_to_values[rv]
        calls = _calls(model, [value, *rv.owner.inputs])
        if not calls:
            continue
        full = observed_value(value, found, arrays).shape
        usual = observed_value(value, found, own).shape
        totals = _totals(rv, len(full))
        if full:
            _refuse_missing(rv.name, value, full[0], totals[0])
        ratios = [
            1.0 if total in (None, before) else total / size
            for total, before, size in zip(totals, usual, full, strict=True)
        ]
        scales[rv.name] = prod(ratios)
        if scales[rv.name] != 1:
            said = [total for total in totals if total is not None]
            notes.append(
                f"{rv.name} has total_size={said[0] if len(said) == 1 else said} and data of shape {full}, so its "
                f"likelihood counts {scales[rv.name]:.3g} times, as in PyMC."
            )
        notes += _apart([_batch(node, found, arrays) for node in calls.values()], rv.name)
    return scales, tuple(notes)


def _calls(model: Any, outputs: Iterable[Variable]) -> dict[Variable, Any]:
    """Calls of ``pm.Minibatch`` that a factor reads itself, and not through a latent variable, by their random state."""
    latent = set(model.free_RVs)
    observed = {rv: model.rvs_to_values[rv] for rv in model.observed_RVs}
    found, seen, stack = {}, set(), list(outputs)
    while stack:
        variable = stack.pop()
        if variable in seen or variable in latent:
            continue
        seen.add(variable)
        if variable in observed:
            stack.append(observed[variable])
        elif variable.owner is not None:
            if isinstance(variable.owner.op, MinibatchOp):
                found[variable.owner.inputs[-1]] = variable.owner
            stack.extend(variable.owner.inputs)
    return found


def _batch(node: Any, found: Roots, arrays: Mapping[str, np.ndarray]) -> Batch:
    *tensors, _ = node.inputs
    known = {variable: name for name, variable in {**found.shared, **found.constants}.items()}
    names = [known[part] for tensor in tensors for part in ancestors([tensor]) if part in known]
    total = observed_value(tensors[0], found, arrays).shape[0]
    return Batch(int(node.outputs[0].type.shape[0]), total, tuple(dict.fromkeys(names)))


def _totals(rv: Variable, ndim: int) -> list[int | None]:
    """The total size of every axis, None where none is given."""
    if not isinstance(rv.owner.op, MinibatchRandomVariable):
        return [None] * ndim
    given = [getattr(total, "data", None) for total in rv.owner.inputs[1:]]
    return [None if total is None else int(total) for total in given]


def _refuse_missing(name: str, value: Variable, rows: int, total: int | None) -> None:
    """PyMC takes batches of the first axis only, and nothing made of them, for observed values."""
    batch = value.type.shape[0]
    if batch in (None, rows) or total not in (None, batch):
        return
    said = "without total_size" if total is None else f"with total_size={total}"
    raise ModelError(
        f"{name} is observed through pm.Minibatch of {batch} of {rows} rows {said}, so its likelihood would count "
        f"{rows / batch:.3g} times too little beside the prior; write total_size={rows}."
    )


def _refuse_potential(name: str, batch: Batch) -> None:
    if batch.size == batch.total:
        return
    raise ModelError(
        f"the potential {name} reads pm.Minibatch of {batch.size} of {batch.total} rows, and potentials have no total_size, "
        f"so it would count {batch.total / batch.size:.3g} times too little beside the prior, or its own factor would be "
        "wrong for the full data; give it the full data without a factor, or write pm.CustomDist with total_size="
        f"{batch.total}."
    )


def _apart(calls: list[Batch], name: str) -> list[str]:
    """A sentence on every two calls over equally many rows: PyMC draws their rows independently."""
    notes = []
    for number, first in enumerate(calls):
        for second in calls[number + 1 :]:
            if first.total == second.total and first.size < first.total:
                one, other = (" and ".join(call.arrays) or "data" for call in sorted((first, second), key=_names))
                notes.append(
                    f"{one} and {other} meet in {name} but come from two calls of pm.Minibatch, which draw different rows "
                    "in PyMC; here row i of one belongs to row i of the other; one call for both says so."
                )
    return notes


def _names(batch: Batch) -> tuple[str, ...]:
    return batch.arrays
