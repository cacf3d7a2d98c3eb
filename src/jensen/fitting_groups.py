"""The part of `fit` for many rows in groups with latent variables of their own: rows cannot be left out, groups can.

    all rows read once, counted  ->  some groups with all their rows  ->  a structured Gaussian of them
                                 ->  its globals, narrower, and its groups' average  ->  every group placed, the globals fixed
                                 ->  a few steps along the arrow on all rows

It is a file of its own because other fits do not need what it imports.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from jensen.core import keys, processes
from jensen.core.errors import UnsupportedError
from jensen.data.build import table
from jensen.data.table import Table
from jensen.diagnostics.nested import possible as integrable
from jensen.engines.passing import Passing
from jensen.engines.structured import Placing, Structured
from jensen.families.structured import ArrowGaussian, plates_of
from jensen.models import groups, numbered, plates
from jensen.models.grouped import GroupedTarget, Some, in_blocks
from jensen.models.groups import Groups
from jensen.models.model import Model
from jensen.models.plates import Plate
from jensen.posterior import Posterior, conclude
from jensen.run import Run, run
from jensen.settings import Settings

_FIRST = 997
"""Rows on which groups are looked for."""
_DRAWS, _FINE = (16, 64), (0.05, 0.1)
"""Draws of the designs, at the least, and where a fit ends: passes are dear, and twice as many draws change means by 0.02 sds."""
_ROWS = 2**20
"""Rows beyond which a subsample costs less than passes with draws, where rows can be left out as well."""
_TIMES = 12
"""How many times the groups of the sample all groups must be, for it to pay."""


@processes.together()
def fit_groups(
    record: Model,
    plate: Plate | None,
    rows: Table | None,
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
    *,
    or_rows: bool = False,
) -> Posterior | None:
    """A structured Gaussian by passes over all rows; None where rows do not belong to groups.

    Parameters
    ----------
    record, plate, rows
        The model; where its rows are streamed their plate and their table, else None.
    settings, loop, left
        As `jensen.fit` has them.
    or_rows
        Whether a subsample of the rows does as well, if these are not groups that can be integrated; then nothing is refused.

    Raises
    ------
    DataError
        When the number of a row is of no group.
    UnsupportedError
        When streamed rows belong to groups that are not independent given a few other coordinates.
    """
    plate = plate or next(iter(plates.find(record)), None)
    if plate is None or plate.sites or any(axis for _, axis in plate.data):
        return None
    if or_rows and (plate.size > _ROWS or not numbered.possible(record, plate)):
        return None
    source = rows or table(**{name: record.data[name] for name, _ in plate.data})
    try:
        found = _grouped(record, plate, source, settings)
    except UnsupportedError:
        if rows is not None and not or_rows:
            raise
        return None
    if found is None:
        return None
    target, alone = found
    if or_rows and not integrable(len(alone.shared), alone.own.shape[1]):
        return None
    q, engine, fitted = _fitted(target, alone, settings, loop, left)
    modes = () if target.streamed else None  # climbs to other modes would be passes
    return conclude(target, q, fitted, engine=engine, settings=settings, budget=left(), modes=modes)


def _grouped(record: Model, plate: Plate, source: Table, settings: Settings) -> tuple[GroupedTarget, Groups] | None:
    """The target and its groups, both proved; None where rows do not belong to groups."""
    first = source.sample(keys.generator(settings.seed, "first rows of groups"), min(_FIRST, plate.size))
    plates.prove(record, plate, first, settings.seed)
    blocks = in_blocks(record, plate, source, first)
    numbers = numbered.find(record, plate, blocks, first, settings.seed)
    if numbers is None:
        return None
    if plate.held < plate.size:
        other = source.sample(keys.generator(settings.seed, "other rows"), plate.held)
        record = plates.without_rows(record, plate, other)
    few = plates.at_rows(record, plate, first)
    target = GroupedTarget(record, plate, blocks, numbers, few, settings.precision)
    try:
        alone = groups.find(Some(target, first), settings.seed)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{numbers.name} numbers groups of {numbers}, which must be independent given all other sites and leave at most "
            f"{groups.LARGEST_GLOBAL} other coordinates; {str(error).split(';')[0]}; pass the rows as arrays, then all of "
            "them are used at once."
        ) from error
    if set(alone.sites) != {name for name, _ in numbers.sites}:
        coupled = ", ".join(name for name, _ in numbers.sites if name not in alone.sites)
        raise UnsupportedError(
            f"{numbers.name} numbers groups of {numbers}, which must be independent given all other sites; {coupled} couples "
            "them; pass the rows as arrays, then all of them are used at once."
        )
    return target, alone


def _fitted(
    target: GroupedTarget,
    alone: Groups,
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
) -> tuple[Any, Structured, Run]:
    """The fit to all rows and its engine, from a sample of groups where there are enough of them."""
    counts = numbered.counted(target.rows, target.numbers)
    rng = keys.generator(settings.seed, "sample of groups")
    some = numbered.chosen(counts, rng, len(counts) // _TIMES, target.rows.share)
    start, notes = None, [f"structured: {len(counts):,} groups of {target.numbers}, and {len(alone.shared)} globals"]
    # Callbacks would see an approximation of other length, or one whose globals stand still.
    quiet = {**loop, "callbacks": (), "steps": None}
    if len(some) >= groups.FEWEST:
        sample = Some(target, numbered.collected(target.rows, target.numbers, some), some)
        engine = Structured(draws=_DRAWS[:1], groups=sample.groups(alone))
        near, look = _before(engine, sample, "sample of groups", settings, quiet, left)
        if look.status == "converged":
            engine = Placing(alone, _start(near, sample, alone))
            start, _ = _before(engine, target, "places of groups", settings, quiet, left)
            notes.append(
                f"it starts from {len(some):,} of them with all their {counts[some].sum():,} rows, fitted in {look.steps} steps"
            )
    engine = Structured(start, draws=_DRAWS, fine=_FINE, groups=alone)
    q, record = _run(engine, target, "groups", settings, loop, left)
    empty, read = int((counts == 0).sum()), 1 + (len(some) >= groups.FEWEST)
    notes += [f"{empty:,} of the groups have no rows: theirs is the prior given the others"] if empty else []
    notes.append(
        f"{target.rows.passes} passes over {target.total:,} rows, after {read} to read the numbers of their groups"
    )
    return q, engine, replace(record, notes=(*record.notes, *notes))


def _run(
    engine: Any, target: Any, label: str, settings: Settings, loop: dict[str, Any], left: Callable[[], float | None]
) -> tuple[ArrowGaussian, Run]:
    """A run of which a checkpoint knows the passes, too."""
    loop = {**loop, "budget": left()}
    if not isinstance(target, GroupedTarget):
        return run(engine, target, seed=settings.seed, label=label, **loop)
    passing = Passing(engine)
    q, record = run(passing, target, seed=settings.seed, label=label, **loop)
    passing.place(record.state, target)  # a run that comes from a checkpoint has made none
    return q, replace(record, state=record.state.inner)


def _before(*how: Any) -> tuple[ArrowGaussian, Run]:
    """`_run` before that of all groups; Ctrl-C ends the fit there, as there is nothing to keep yet."""
    q, record = _run(*how)
    if record.status == "interrupted":
        raise KeyboardInterrupt
    return q, record


def _start(near: ArrowGaussian, sample: Some, alone: Groups) -> ArrowGaussian:
    """Where all groups start: the sample's globals, as much narrower as there are more groups, and the sample's average group."""
    count = len(alone.own)
    narrower = np.sqrt(len(sample.kept) / count)
    inner = sample.groups(alone)
    mean = np.empty(sample.whole.dim)
    mean[alone.shared] = near.mean[inner.shared]
    mean[alone.own] = near.mean[inner.own].mean(0)
    mean[alone.own[sample.kept]] = near.mean[inner.own]
    reach, tails = (np.tile(part.mean(0), (count, 1, 1)) for part in (near.reach, near.tails))
    reach[sample.kept], tails[sample.kept] = near.reach, near.tails
    return ArrowGaussian(mean, narrower * near.head, narrower * reach, tails, plates_of(alone.shared, alone.own))
