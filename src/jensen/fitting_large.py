"""The half of `fit` for many rows: a subsample that is corrected where q is, instead of all rows everywhere.

    table of rows  ->  subsample  ->  fit from several starts  ->  statistics that make it exact, or anchored rounds  ->  q
                   ->  log density of all rows at a few draws of q: how right the subsample is, in nats

It is a file of its own because small fits do not need what it imports.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jensen.core import keys, processes
from jensen.core.errors import DataError, OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.data.build import table
from jensen.data.table import Table
from jensen.diagnostics.modes import Mode, search_far
from jensen.diagnostics.starts import fit_from_starts
from jensen.engines.anchored import Anchored
from jensen.engines.engine import limited
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.gradient import Gradient
from jensen.families.fullrank import DenseGaussian, FullRank
from jensen.families.meanfield import MeanField
from jensen.models import plates
from jensen.models.crossed import Crossed, named
from jensen.models.large import LargeTarget, subsample_size
from jensen.models.model import Model
from jensen.models.plates import Plate
from jensen.models.read import read
from jensen.models.sufficient import LARGEST, Sufficient
from jensen.models.target import Target
from jensen.models.weighted import curved
from jensen.posterior import Posterior, conclude
from jensen.run import Run, run
from jensen.settings import Settings

_TIMES = 4
"""How many times the rows of the subsample all rows must be, for it to pay."""
_FIRST = 997
"""Rows on which a model of streamed data is read; an odd number, so that no other axis has it by chance."""
_NATS, _NATS_FLAT = 0.015, 0.3
"""Largest sd of the difference between the subsample and all rows, over draws of q: this times sqrt(D), and where curvatures are
not corrected."""
_FOR_MODES = 60
"""Largest D for which other modes are looked for: beyond, every climb takes too many steps over too many rows."""


def read_streamed(model: Any, data: Any, settings: Settings) -> tuple[Model, Plate, Table]:
    """A model of which only some rows are in memory, the plate of all of them, and the table that has them.

    Raises
    ------
    DataError
        When the arrays of the table are not rows of the model.
    """
    rows, rest = _split(data)
    n = min(_FIRST, rows.size)
    first = rows.sample(keys.generator(settings.seed, "first rows"), n)
    try:
        record = read(model, {**rest, **first}, settings.precision, {rows.size: n})
    except TypeError as error:
        whole = [k for k, v in first.items() if v.dtype.kind == "f" and v.ndim == 1 and (v == np.floor(v)).all()]
        if whole and "integer" in str(error):
            raise DataError(
                f"the model uses an array of real numbers as an index ({error}), of the table's perhaps {' or '.join(whole)}; "
                "make it whole numbers there, as in array.astype('int32'), or in the model."
            ) from error
        raise
    with scope(settings.precision):
        found = plates.find(record)
    for plate in found:
        if plate.size == n and {name for name, _ in plate.data} == set(rows.names):
            return replace(record, predict=_given(record, rows)), replace(plate, size=rows.size, held=n), rows
    raise DataError(
        f"the arrays of the table ({', '.join(rows.names)}) are not rows of {record.name}: no observed variable has them, and "
        "nothing else, along one axis; pass arrays that are no rows beside the table."
    )


def _given(record: Model, rows: Table) -> Any:
    """The model's simulation, of rows that it is given: those in memory are only the ones on which the model was read."""
    predict = record.predict
    if predict is None:
        return None

    def simulate(values: Any, data: Any, seed: int) -> Any:
        if all(data[name] is record.data[name] for name in rows.names):
            raise plates.not_in_memory(record, rows.size, "predict")
        return predict(values, data, seed)

    return simulate


def _split(data: Any) -> tuple[Table, dict[str, Any]]:
    """The table among the data, and the rest of them."""
    if isinstance(data, Table):
        return data, {}
    found = [value for value in data.values() if isinstance(value, Table)]
    if len(found) > 1:
        raise OptionError(
            f"data hold {len(found)} tables; rows that belong together go into one: jn.table(X=..., y=...)."
        )
    return found[0], {name: value for name, value in data.items() if not isinstance(value, Table)}


@processes.together()
def fit_large(
    record: Model,
    plate: Plate | None,
    rows: Table | None,
    family: FullRank | MeanField,
    start: Any,
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
) -> Posterior | str:
    """A posterior by anchored rounds; where all rows should rather be used, why, or "" where they are few.

    Parameters
    ----------
    record, plate, rows
        The model; where its rows are streamed their plate and their table, else None.
    family, start
        Of q, and where it starts, or None.
    settings, loop, left
        As `jensen.fit` has them.

    Raises
    ------
    UnsupportedError
        When rows are streamed that cannot be taken out of the model.
    """
    try:
        target = _target(record, plate, rows, settings)
    except UnsupportedError as error:
        if rows is not None:
            raise
        return f"all rows are used: {error}"
    return _rounds(target, family, start, settings, loop, left) if target else ""


@processes.together()
def fit_batches(
    record: Model,
    plate: Plate | None,
    rows: Table | None,
    engine: Gradient,
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
) -> Posterior:
    """A posterior by stochastic gradients on minibatches of the rows, judged on a subsample that is corrected where q is.

    Raises
    ------
    UnsupportedError
        When the model has no rows, or rows that cannot be taken out of it.
    """
    if isinstance(engine.batch_size, Mapping):
        if rows is not None:
            raise UnsupportedError(
                f"batch_size={engine.batch_size!r} names axes of arrays, and the rows of {record.name} are read from a table; "
                "give one number, or pass arrays."
            )
        chosen = named(record, engine.batch_size)
        plate, *others = chosen
        if others or plate.sites:
            return _fit_crossed(record, chosen, engine, settings, loop, left)
        engine = replace(engine, batch_size=engine.batch_size[plate.name])
    plate = plate or next(iter(plates.find(record)), None)
    if plate is None:
        raise UnsupportedError(
            f"batch_size={engine.batch_size} needs rows, and no observed variable of {record.name} shares an axis with its data; "
            "pass the data in data= (a density needs log_likelihood=, too), or leave batch_size out."
        )
    if plate.sites and rows is None:
        return _fit_crossed(record, (plate,), engine, settings, loop, left)
    target = _target(record, plate, rows, settings, pays=True)
    assert target is not None
    q, fitted = run(limited(engine, loop["steps"]), target, seed=settings.seed, **loop)
    target.correct_at(q)
    modes = () if target.dim > _FOR_MODES else None
    return conclude(target, q, fitted, engine=engine, settings=settings, budget=left(), modes=modes)


def _fit_crossed(
    record: Model,
    chosen: tuple[Plate, ...],
    engine: Gradient,
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
) -> Posterior:
    """Batches along several axes, or of rows with latent variables of their own: no subsample can stand for all, all judge q."""
    size = engine.batch_size
    sizes = tuple(size[plate.name] for plate in chosen) if isinstance(size, Mapping) else (size,)
    target = Crossed(record, chosen, sizes, seed=settings.seed, precision=settings.precision)  # type: ignore[arg-type]
    q, fitted = run(limited(engine, loop["steps"]), target, seed=settings.seed, **loop)
    fitted = replace(fitted, notes=(*fitted.notes, f"{target.passes} passes over all data beside the batches"))
    whole = Target(record, settings.precision)
    return conclude(whole, q, fitted, engine=engine, settings=settings, budget=left())


def _target(
    record: Model, plate: Plate | None, rows: Table | None, settings: Settings, pays: bool = False
) -> LargeTarget | None:
    """The target by subsample, where there are rows and it pays."""
    plate = plate or next(iter(plates.find(record)), None)
    if plate is None:
        return None
    if rows is None and not pays and plate.size < _TIMES * subsample_size(plate.size, record.dim):
        return None
    if plate.sites:
        names = ", ".join(name for name, _ in plate.sites)
        raise UnsupportedError(
            f"the rows of {plate.name} have latent variables of their own ({names}), and cannot be left out; pass them as "
            "arrays, and no batch_size."
        )
    if any(axis for _, axis in plate.data):
        names = ", ".join(name for name, axis in plate.data if axis)
        raise UnsupportedError(f"the rows of {plate.name} are not the first axis of {names}; transpose it.")
    source = rows or table(**{name: record.data[name] for name, _ in plate.data})
    other = source.sample(keys.generator(settings.seed, "other rows"), plate.held) if plate.held < plate.size else None
    record = plates.without_rows(record, plate, other)
    return LargeTarget(record, plate, source, seed=settings.seed, precision=settings.precision)


def _rounds(
    target: LargeTarget,
    family: Any,
    start: Any,
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
) -> Posterior | str:
    first = FixedDraws(family, start, large=False)
    if target.dim <= LARGEST and (statistics := _statistics(target, first, settings, loop)):
        return _exact(target, *statistics, first, settings, loop, left)
    # A search for other modes, after which all rows are used, does what a second start does.
    enough = 1 if _searched(target, family) and not target.streamed else 2
    q, record = fit_from_starts(target, first, seed=settings.seed, enough=enough, **loop)
    alone, spread, modes, near = q, 0.0, None, False
    most = _NATS * np.sqrt(target.dim) if curved(target.dim) else _NATS_FLAT
    while record.status == "converged":
        engine = Anchored(family, q, near)
        label = f"rounds on {target.size} rows" + ", near" * near
        q, rounds = run(engine, target, seed=settings.seed, label=label, **loop)
        engine.place(rounds.state, target)  # a run that comes from a checkpoint has not been there
        record = _joined(record, rounds)
        if record.status != "converged":
            break
        _, spread, _ = target.discrepancy(q, settings.seed)
        if spread <= most:
            modes = _modes(target, q, settings, alone)
            break
        if near and 2 * target.size > target.most:
            record = replace(record, status="stuck")
        elif near:
            target.resize(2 * target.size)
        near = True  # first once more with the curvature where the mean has come to, then with more rows
    if not target.streamed and record.status == "stuck":
        return "all rows are used: half of them would not be enough to stand for all."
    if not target.streamed and modes:
        return "all rows are used: the subsample seems to have other modes, where its correction does not hold."
    note = (
        f"{target.rows.passes} passes over {target.total:,} rows; {target.size:,} of them stand for all, right to "
        f"{spread:.1g} nats at draws of q"
    )
    record = replace(record, notes=(*record.notes, note))
    engine = Anchored(family, q, near=True)
    return conclude(target, q, record, engine=engine, settings=settings, budget=left(), modes=modes)


def _statistics(
    target: LargeTarget, engine: FixedDraws, settings: Settings, loop: dict[str, Any]
) -> tuple[Sufficient, Any, Any] | None:
    """Sufficient statistics, with which the target is exact from now on, and a fit to a subsample; None where there are none.

    The subsample is condensed to a few rows first; where those do not do for all, as when a rare row is not among them, it is
    looked at as it is. The fit is given a second time where it is one to the rows that are left, as they are uncorrected.
    """
    for few in (True, False) if target.condense() else (False,):
        if not few:
            target.restore()
        label = "first look" if few else "first look at the subsample"
        q, look = run(engine, target, seed=settings.seed, label=label, **loop)
        factor = np.asarray(q.scale) if isinstance(q, DenseGaussian) else np.diag(q.sd)
        found = target.sufficient(q.mean, factor) if look.status == "converged" else None
        if found is not None:
            target.thin(q.mean, factor, found)
            return found, q, q if few else None
    return None


def _exact(
    target: LargeTarget,
    found: Sufficient,
    near: Any,
    alone: Any,
    engine: FixedDraws,
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
) -> Posterior:
    """A fit to the few rows that a model with sufficient statistics needs, as to any small data.

    A second start is worth it where there are other modes, or where none are looked for; then the first is the heaviest mode.
    """
    modes: tuple[Mode, ...] | None = None
    label = "start"
    for enough in (1, 2) if _searched(target, engine.family) else (2,):
        q, record = fit_from_starts(target, engine, seed=settings.seed, label=label, near=near, enough=enough, **loop)
        modes = _modes(target, q, settings, alone)
        if not modes:
            break
        heaviest = max(modes, key=lambda mode: mode.weight)
        # What was proved around another mode is proved again here.
        if heaviest.weight > 0.5 and target.sufficient(heaviest.q.mean, heaviest.q.scale) is not None:
            near, label = heaviest.q, "start at the heaviest mode"
    passes = f"{target.rows.passes} pass{'es' * (target.rows.passes > 1)} over {target.total:,} rows"
    statistics = f"{found.rank} sufficient statistics stand for all rows, to {found.error:.0e} nats"
    record = replace(record, notes=(*record.notes, statistics, f"{passes}; {target.size:,} of them stand for all"))
    return conclude(target, q, record, engine=engine, settings=settings, budget=left(), modes=modes)


def _searched(target: LargeTarget, family: Any) -> bool:
    """Whether other modes will be looked for."""
    return target.dim <= _FOR_MODES and isinstance(family, FullRank)


def _modes(target: LargeTarget, q: Any, settings: Settings, alone: Any = None) -> tuple[Mode, ...] | None:
    """Other modes of a small model; none are looked for in a large one, and None leaves it to the checks.

    Climbers on the plain subsample come home to its own mode, which the fit to it `alone` knows.
    """
    if target.dim > _FOR_MODES:
        return ()
    if not isinstance(q, DenseGaussian):
        return None
    return search_far(target, q, keys.generator(settings.seed, "modes"), alone or q)


def _joined(first: Run, second: Run) -> Run:
    history = {name: np.concatenate([first.history[name], second.history[name]]) for name in second.history}
    return replace(
        second,
        history=history,
        steps=first.steps + second.steps,
        seconds=first.seconds + second.seconds,
        notes=(*first.notes, *second.notes),
    )
