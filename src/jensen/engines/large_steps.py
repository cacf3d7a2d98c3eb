"""The compiled steps of coordinate ascent over many rows, full ones and those of stochastic variational inference.

    S <- sums over a step's rows at the current q    then    eta_k <- (1 - rho) eta_k + rho d/dmu_k [E_rest + sum_p <S_p, psi_p>]

block by block, with the sums of `jensen.conjugate.local`; rho is 1 where all rows are read. What the rows of every step are, for
how many others they stand and how long the step is, a `Schedule` says.

Reference: Hoffman, Blei, Wang & Paisley (2013), Stochastic variational inference, JMLR 14.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate import documents
from jensen.conjugate.documents import Groups
from jensen.conjugate.energy import Energy
from jensen.conjugate.local import Local, given, total
from jensen.engines import coordinate
from jensen.families.exponential import Dirichlet

STEPS = coordinate.CHUNK
"""Most steps of one call."""
ROUNDS = 5
"""Of the groups of a batch before the others move."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Schedule:
    """What each of the steps of a call does.

    Attributes
    ----------
    order
        For each large site, its chunks in the order of this call.
    low, high, times
        For each large site and step: the places in `order` of the step's chunks, and for how many each of their rows counts.
    rho
        Length of every step.
    held
        Number of first steps whose sums are the given ones.
    plain
        Number of first steps whose levels are found with log E[x] in the place of E[log x]; see `_plainly`.
    """

    order: tuple[Any, ...]
    low: Any
    high: Any
    times: Any
    rho: Any
    held: Any = 0
    plain: Any = 0


def full(locals_: Sequence[Local]) -> Schedule:
    """Steps over all rows."""
    high = np.array([np.full(STEPS, one.chunks) for one in locals_], int).reshape(-1, STEPS)
    order = tuple(np.arange(one.chunks) for one in locals_)
    return Schedule(order, np.zeros_like(high), high, np.ones(high.shape), np.ones(STEPS))


def run(
    back: Any,
    names: tuple[str, ...],
    damped: frozenset[str],
    changing: Any,
    rows: tuple[Local, ...],
    groups: tuple[Groups | None, ...],
    families: Any,
    schedule: Schedule,
    fixed: list[Any],
    count: Any,
) -> tuple[Any, Any, Any]:
    """Steps: families after the last finite one, ELBOs (STEPS,), whether all are finite."""
    energy, parts = back(changing)
    locals_ = tuple(replace(one, parts=own) for one, own in zip(rows, parts, strict=True))
    settled = frozenset(some.block for some in groups if some is not None)

    def one(turn: Any, carry: Any) -> Any:
        # Moments are carried along. Those of the start come from a first turn without rows, in which nothing moves: code in two
        # places takes twice as long to compile.
        (before, measured), elbos, good = carry
        still, number = turn == 0, jnp.maximum(turn - 1, 0)
        families, moments = _settled(groups, locals_, before, measured, schedule, number, still)
        whole, entropy = energy, jnp.zeros(())
        seen = _plainly(families, moments, number < schedule.plain)
        for place, (local, order, own) in enumerate(zip(locals_, schedule.order, fixed, strict=True)):
            low, high = schedule.low[place, number], schedule.high[place, number]
            found = total(local, seen, order, low, jnp.where((number < schedule.held) | still, low, high))
            found = jax.tree.map(partial(jnp.where, number < schedule.held), own, found)
            whole, more = given(whole, local, found, moments, schedule.times[place, number])
            entropy = entropy + more
        new = _sweep(whole, families, moments, names, damped, settled, schedule.rho[number], still)
        elbo = coordinate.elbo(whole, *new) + entropy
        good = still | (good & jnp.isfinite(elbo))
        kept = jax.tree.map(partial(jnp.where, good), new, (before, measured))
        return kept, elbos.at[turn].set(elbo), good

    moments = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(coordinate.moments_of, families))
    start = (families, moments), jnp.full(STEPS + 1, jnp.nan), jnp.array(True)
    (families, _), elbos, good = jax.lax.fori_loop(0, count + 1, one, start)
    return families, elbos[1:], good


def _settled(
    groups: Sequence[Groups | None],
    locals_: Sequence[Local],
    families: Any,
    moments: Any,
    schedule: Any,
    number: Any,
    still: Any,
) -> tuple[Any, Any]:
    """The families and moments with the groups of this step's rows settled; as they are when `still`."""
    for place, (some, local) in enumerate(zip(groups, locals_, strict=False)):
        if some is None:
            continue
        plain = number < schedule.plain
        seen, order = _plainly(families, moments, plain), schedule.order[place]
        turn = partial(_settle, some, local, seen, order, plain)
        low, high = schedule.low[place, number], schedule.high[place, number]
        family = jax.lax.fori_loop(low, jnp.where(still, low, high), turn, families[some.block])
        families = families | {some.block: family}
        moments = moments | {some.block: coordinate.measured(family)}
    return families, moments


def _settle(some: Groups, local: Local, seen: Any, order: Any, plain: Any, turn: Any, family: Any) -> Any:
    return documents.settle(some, local, seen, family, order[turn], ROUNDS, plain)


def _sweep(
    energy: Energy,
    families: Any,
    moments: Any,
    names: tuple[str, ...],
    damped: frozenset[str],
    settled: frozenset[str],
    rho: Any,
    still: Any,
) -> Any:
    """Families and moments with every block in turn moved by rho towards its optimum.

    Blocks that are settled stay where they are in shorter steps, and all do when `still`.
    """
    families, moments = dict(families), dict(moments)
    for block in names:
        step = coordinate.damped_update if block in damped else coordinate.update
        best = step(energy, families, moments, block)
        old, length = families[block], jnp.where(rho < 1, 0.0, 1.0) if block in settled else rho
        families[block] = jax.tree.map(partial(_moved, length, still), old, best)
        moments[block] = coordinate.measured(families[block])
    return families, moments


def _moved(rho: Any, still: Any, a: Any, b: Any) -> Any:
    return jnp.where(still, a, jnp.where(rho < 1, a + rho * (b - a), b))


def _plainly(families: Any, moments: Any, plain: Any) -> Any:
    """Moments with log E[x] in the place of E[log x] for probabilities x, where `plain`.

    exp(E[log x]) of a Dirichlet is nearly zero where its parameter is below one: a word that a topic has not met in the first
    pass stays out of it. With log E[x] topics form in a few dozen passes from any start, and coordinate ascent goes on from
    there.
    """
    found = dict(moments)
    for block, family in families.items():
        if isinstance(family, Dirichlet):
            found[block] = {"log": jnp.where(plain, jnp.log(family.mean), moments[block]["log"])}
    return found
