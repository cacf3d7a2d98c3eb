"""Coordinate ascent for many rows: `jensen.conjugate.local` inside of the sweep of `jensen.engines.coordinate`.

    S <- pass over all rows at the current q      then      eta_k <- d/dmu_k [E_rest + sum_p <S_p, psi_p>]   block by block

which is a sweep of coordinate ascent with the same numbers; the probabilities of the rows are never stored. The start is found on
a few chunks of rows, each of which counts for many: levels from clusters, held while the other blocks move to them,
then some sweeps. Families are those of all other blocks; `local.responsibilities` gives the discrete site's.

The compiled program does the steps of a schedule, and steps of stochastic variational inference (`jensen.engines.natural`) are
steps with some of the chunks and a length rho < 1. Start, passes and such steps share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np

from jensen.conjugate import blocks, documents, starts
from jensen.conjugate.chunks import ROWS, split
from jensen.conjugate.documents import Groups
from jensen.conjugate.energy import Energy
from jensen.conjugate.local import Local, held, some_rows
from jensen.conjugate.pieces import known
from jensen.conjugate.plan import Plan
from jensen.conjugate.tables import Constant
from jensen.core import keys
from jensen.core.compilation import FAST_COMPILE, LONG_RUNNING, Compiled
from jensen.engines import coordinate
from jensen.engines.engine import Ticks
from jensen.engines.large_steps import STEPS, Schedule, full, run

SAMPLE = 20_000
"""Rows of the start."""
ROWS_A_CELL = 20
"""More rows for models with parameters of their own for groups of rows."""
SWEEPS = 30
"""Of the start, on these rows."""
PLAIN = 40
"""First passes over groups of rows, with log E[x]."""
STARTS = 8
ENOUGH = 1_000_000
"""Rows times levels times starts."""
GROUPED = 1e-6
"""Tolerance where groups of rows have level probabilities of their own: their ELBO creeps upwards for thousands of passes."""
_NUMBER = 3e-8
"""Seconds that a level of a row is taken to last in a program that is compiled quickly."""
LARGE_PASS = 0.05
WORTH_EMITTERS = 10.0
"""Seconds of one such pass, or of all, from which on the optimizations that take longest to compile pay as well."""


@dataclass(frozen=True)
class State:
    """The problem, the families of all blocks but the large sites', the ELBO, and what decides when to stop.

    `blank` are sums of the large sites that nobody reads: what steps over rows are given in the place of those that are held.
    `groups` are those of the large sites, where steps shorter than one settle the groups of their rows first. `passes` are those
    over all rows that were made, or will be in any case.
    """

    energy: Energy
    locals: tuple[Local, ...]
    names: tuple[str, ...]
    families: Any
    elbo: float = -np.inf
    count: int = 1
    still: int = 0
    taken: int = 0
    broken: bool = False
    blank: Any = None
    groups: tuple[Groups | None, ...] = ()
    passes: float = 0.0

    @property
    def options(self) -> dict[str, Any]:
        """How the program is compiled; no clock is asked, see `coordinate`."""
        each = sum(
            _NUMBER * (1 + sum(part.code >= 0 for part in one.parts)) * one.levels * int(one.count)
            for one in self.locals
        )
        if each > LARGE_PASS or self.passes * each > WORTH_EMITTERS:
            return {}
        return LONG_RUNNING if self.passes * each > coordinate.WORTH_OPTIMIZING else FAST_COMPILE


@dataclass(frozen=True)
class LargeCoordinateAscent:
    """Coordinate ascent that stores no probabilities of large discrete sites.

    Attributes
    ----------
    start
        Families to start from, without those of the large sites; None: from some of the rows, by the seed.
    tolerance
        Relative increase of the ELBO below which a pass counts as still; two in a row end the fit.
    smallest
        Discrete sites with fewer rows keep their probabilities; None: as suits their tables.
    """

    start: Any = None
    tolerance: float = coordinate.STILL
    smallest: int | None = None

    def init(self, target: Plan, seed: int) -> State:
        """First state."""
        state = begin(target, seed, self.start, self.smallest, ROWS)
        state = replace(state, groups=())  # a pass reads all rows, and levels and probabilities take turns in it
        return _formed(state, target, seed) if self.start is None and _grouped(state.locals) else state

    def advance(self, state: State, target: Plan) -> tuple[State, Ticks]:
        """Some passes."""
        count = coordinate.longer(state.count, coordinate.seconds(target))
        state, elbos = steps(state, target, full(state.locals), state.count)
        if state.broken:
            note = "the ELBO of a pass is not finite; the state before is kept"
            return state, Ticks(-elbos, done=True, note=note)
        still, tolerance = state.still, max(self.tolerance, GROUPED) if _grouped(state.locals) else self.tolerance
        for gain, elbo in zip(np.diff(np.concatenate([[state.elbo], elbos])), elbos, strict=True):
            still = still + 1 if gain <= tolerance * (1.0 + abs(elbo)) else 0
        return replace(state, elbo=float(elbos[-1]), count=count, still=still), Ticks(-elbos, done=still >= 2)

    def finish(self, state: State) -> Any:
        """Families by block, without those of the large sites."""
        return state.families

    def converged(self, state: State) -> bool:
        """Whether two passes in a row changed nothing."""
        return state.still >= 2 and not state.broken


def steps(
    state: State, target: Plan, schedule: Schedule, count: int, fixed: Sequence[Any] | None = None
) -> tuple[State, np.ndarray]:
    """Do the first `count` steps of a schedule: the new state, and the ELBO after each (those that are finite)."""
    if state.blank is None:
        state = replace(state, blank=[held(one, 0, np.zeros((0, one.levels))) for one in state.locals])
    fixed = state.blank if fixed is None else list(fixed)
    args = jax.device_put((state.groups, state.families, schedule, fixed, count))
    families, elbos, good = _program(state, target)(*args)
    elbos = np.asarray(elbos)[:count]
    share = max(
        ((schedule.high[n, :count] - schedule.low[n, :count]).sum() / one.chunks for n, one in enumerate(state.locals)),
        default=0.0,
    )
    state = replace(state, families=families, broken=not bool(good), taken=state.taken + count)
    return replace(state, passes=state.passes + float(share)), elbos[np.isfinite(elbos)]


_PROGRAMS: WeakKeyDictionary[Energy, Any] = WeakKeyDictionary()


def _program(state: State, target: Plan) -> Any:
    """The compiled steps of a problem.

    (groups, families, schedule, fixed, count) -> (families, ELBOs, whether all are finite)
    """
    if state.energy not in _PROGRAMS:
        changing, back, shape = known((state.energy, [one.parts for one in state.locals]))
        damped = frozenset(target.damped)
        found = target.graph.remember(
            ("large", shape, damped, state.names), lambda: Compiled(partial(run, back, state.names, damped))
        )
        rows = tuple(replace(one, parts=()) for one in state.locals)
        _PROGRAMS[state.energy] = found, jax.device_put((changing, rows))
    program, arrays = _PROGRAMS[state.energy]
    return partial(program, state.options, *arrays)


# -- the start -------------------------------------------------------------------------------------------------------------


def begin(target: Plan, seed: int, start: Any, smallest: int | None, rows: int) -> State:
    """The state before the first pass; rows are in random order."""
    rng = keys.generator(seed, "coordinate ascent")
    energy, locals_, orders = split(target, smallest, rows, rng)
    gone = {local.site for local in locals_}
    names = tuple(name for name in coordinate.order(target) if name not in gone)
    if start is not None:
        families = {block: q for block, q in start.items() if block in names}
        return State(energy, locals_, names, families, groups=_groups(energy, locals_, families))
    if _grouped(locals_):
        return _mixed(target, State(energy, locals_, names, {}), rng)
    small, firsts, sweeps = target, [], SWEEPS
    for local, order in zip(locals_, orders, strict=True):
        cells = max(part.cells for part in local.parts)
        firsts.append(min(local.chunks, -(-max(SAMPLE, ROWS_A_CELL * cells) // local.columns.shape[-1])))
        small = subset(small, local.site, order[: local.sizes[: firsts[-1]].sum()])
        # Parameters of few rows each (topics of a document) would settle on what these rows say, and not leave it again.
        sweeps = 0 if cells * ROWS_A_CELL > SAMPLE else sweeps
    families = starts.start(small, rng)
    fixed, times = [], []
    for local, first in zip(locals_, firsts, strict=True):
        logits = np.asarray(families[local.site].logits).reshape(-1, local.levels)
        odds = np.exp(logits - logits.max(1, keepdims=True))
        fixed.append(held(local, first, odds / odds.sum(1, keepdims=True)))
        times.append(np.full(STEPS, local.multiplicities.sum() / local.multiplicities[:first].sum()))
    schedule = full(locals_)
    high = np.zeros_like(schedule.high) + np.array(firsts, int)[:, None]
    schedule = replace(schedule, high=high, times=np.array(times).reshape(high.shape), held=starts.HELD)
    state = State(energy, locals_, names, {block: families[block] for block in names})
    state, _ = steps(state, target, schedule, starts.HELD + sweeps, fixed)
    return replace(state, broken=False, taken=0)


def _groups(energy: Energy, locals_: Sequence[Local], families: Any) -> tuple[Groups | None, ...]:
    return tuple(documents.groups(local, energy, families) for local in locals_)


def _grouped(locals_: Sequence[Local]) -> bool:
    """Whether rows of a site have level probabilities that differ from group to group."""
    return any(documents.own(local.parts, local.site) is not None for local in locals_)


def _mixed(target: Plan, state: State, rng: np.random.Generator) -> State:
    """Groups of rows with level probabilities of their own: any start will do, see `_plainly`."""
    found = starts.start(target, rng) if len(state.locals) > 1 else blocks.start(target, rng)
    families = {block: found[block] for block in state.names}
    return replace(state, families=families, groups=_groups(state.energy, state.locals, families))


def _formed(state: State, target: Plan, seed: int) -> State:
    """The best by the ELBO of a few random starts, `PLAIN` passes on; one where there are many rows."""
    numbers = max(one.columns.shape[0] * one.columns.shape[-1] * one.levels for one in state.locals)
    whole, best = full(state.locals), None
    count = max(1, min(STARTS, ENOUGH // numbers))
    state = replace(state, passes=float(count * (PLAIN + 3)))
    for number in range(count):
        if number:
            some = blocks.start(target, keys.generator(seed, "topics", number))
            state = replace(state, families={block: some[block] for block in state.names})
        tried, _ = steps(state, target, replace(whole, plain=PLAIN), PLAIN + 2)
        tried, elbos = steps(tried, target, whole, 1)
        if not tried.broken and (best is None or elbos[-1] > best[0]):
            best = elbos[-1], tried
    return state if best is None else replace(best[1], taken=0)


def subset(plan: Plan, site: str, rows: Any) -> Plan:
    """The plan with some of a discrete site's rows only, as a flat site; everything else stays."""
    assert plan.energy is not None

    def part(table: Any) -> Any:
        if isinstance(table, Constant):
            return Constant(table.values if len(table.values) == 1 else table.values[rows])
        return jax.tree.map(lambda leaf: some_rows(leaf, rows), table)

    tables = {
        name: replace(one, parts=tuple(part(table) for table in one.parts)) if site in one.sites else one
        for name, one in plan.energy.tables.items()
    }
    nodes = tuple(replace(node, shape=(len(rows),)) if node.name == site else node for node in plan.graph.nodes)
    return replace(plan, graph=replace(plan.graph, nodes=nodes), energy=replace(plan.energy, tables=tables))
