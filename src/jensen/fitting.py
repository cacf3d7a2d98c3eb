"""`fit`: the straight line from a model to a posterior; with its conjugate half, fitting_conjugate.py, it knows every layer."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from numbers import Integral
from os import PathLike
from typing import Any

import jax
import numpy as np

from jensen.core import keys, layout, processes
from jensen.core.errors import FitWarning, OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.core.threads import one_blas_thread
from jensen.data.table import Table
from jensen.diagnostics.starts import fit_from_starts
from jensen.engines.engine import Engine, limited
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.gradient import Gradient
from jensen.families.blocks import Blocks
from jensen.families.fullrank import FullRank
from jensen.families.meanfield import MeanField
from jensen.models.location import location
from jensen.models.model import Model, total
from jensen.models.read import read
from jensen.models.target import Target
from jensen.posterior import Posterior, conclude
from jensen.run import Callback, run
from jensen.settings import Cost, Settings

LADDER = ("lowrank", "structured", "layered", "flow", "mixture", "svgd", "batchmatch", "laplace", "pathfinder")
"""Methods of fitting_ladder.py."""
METHODS = ("auto", "fullrank", "meanfield", "advi", "fullrank_advi", "cavi", "svi", "gibbs", *LADDER, "nuts")
_LARGEST_FULL_RANK = 400
"""Full rank up to here without further thought; beyond, conjugacy and groups are looked for first."""
_LARGEST_UNASKED = 100
"""Dimensions from which on the overfit of the design is measured (diagnostics/dimension.py)."""
GAUSSIAN = (FixedDraws, Gradient)
"""Engines of Gaussian fits."""
_CONJUGATE = ("CoordinateAscent", "NaturalGradient", "Gibbs")
"""Engines of the conjugate half, by name: their modules bring all of it."""
_ENGINE = ("init", "advance", "finish", "converged")
_STOCHASTIC = ("advi", "fullrank_advi", "svi")
_BATCH = 1000
"""Rows of a minibatch where nobody says."""
_LARGE_FOR_ROWS = 64
"""Dimensions beyond which subsamples of many rows are dear, as their curvature is not corrected."""


def fit(
    model: Any = None,
    method: str = "auto",
    *,
    data: Mapping[str, Any] | None = None,
    family: FullRank | MeanField | Blocks | None = None,
    engine: Engine | None = None,
    batch_size: int | Mapping[str, int] | None = None,
    steps: int | None = None,
    budget: float | None = None,
    start: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | PathLike[str] | None = None,
    seed: int = 0,
    precision: str = "float64",
    progress: bool | None = None,
    correct: str | bool = "auto",
) -> Posterior:
    """Fit an approximate posterior, judge it, and correct it.

    Parameters
    ----------
    model
        A PyMC or Bambi model, a NumPyro model function, a `jensen.density`, or the `Model` of a front end of your own; None
        inside ``with pm.Model():``.
    method
        ``"auto"`` reports the best answer it can justify, every other name its own q, which the verdict is about:

        - ``"auto"``: a Gaussian by smoothed Newton (full rank where D allows it), checked, corrected by short chains or integrals
          where it is not enough, and where those are not, richer families up to a flow. Coordinate ascent for models with
          discrete sites, and for conjugate ones of many dimensions. From 20,000 rows on, a corrected subsample and a few passes
          over all rows.
        - Gaussians: ``"fullrank"``, ``"meanfield"``, ``"lowrank"`` (plus diagonal), ``"structured"`` (one block a group of a
          multilevel model); by other ways ``"laplace"``, ``"pathfinder"`` (several paths, a mixture), ``"batchmatch"``.
        - Beyond: ``"layered"`` (maps that straighten funnels and bends), ``"flow"``, ``"mixture"`` (Gaussians from many starts),
          ``"svgd"`` (particles).
        - Stochastic gradients, on minibatches if there is a `batch_size`: ``"advi"``, ``"fullrank_advi"``.
        - Exponential families that the model's own distributions suggest (`jensen.conjugacy`): ``"cavi"``, ``"svi"`` on
          minibatches, and ``"gibbs"``, draws from the same complete conditionals.
        - ``"nuts"``: "auto", then long chains that begin in its answer.
    data
        Name -> array: the model function's arguments (NumPyro), data containers (PyMC), or the density's data. Rows that are on
        disk are a `jensen.table`, alone or as a value of this dict.
    family, engine
        Instead of a word: `FullRank()`, `MeanField()`, or `Blocks(...)` for coordinate ascent; any engine, such as
        `FixedDraws(...)`, `Gradient(...)`, `Stein(...)`, `Descent(...)` or `CoordinateAscent(...)`.
    batch_size
        Rows of a minibatch, for "advi", "fullrank_advi" and "svi". By default what the model says (``pm.Minibatch``,
        ``subsample_size=``), 1,000 of 20,000 rows or more, and all rows of fewer. For batches along several axes, as of a matrix
        of users and items, a dict: name of the plate, dimension or axis (``"rows"``, ``"columns"``) -> number along it.
    steps
        Largest number of steps of the engine.
    budget
        Seconds for fit and correction together, looked at between steps and stages.
    start
        Site -> value in the model's own space: where q starts, instead of several starts.
    callbacks
        Called with a `jensen.callbacks.Snapshot` after every chunk of steps; returning True stops the fit and keeps it. Two are
        there: `Tracker` and `ParameterConvergence`.
    checkpoint
        A file. The fit is kept there at intervals; after a crash the same call goes on from it, and ends as if nothing had
        happened, bit for bit. Delete it to start anew.
    seed
        The same seed gives the same result, bit for bit.
    precision
        ``"float64"`` or ``"float32"``; JAX's own setting is left as it is.
    progress
        Show a progress line; by default only on terminals.
    correct
        ``"auto"``: chains run when the log weights of q say that it is not enough. False: never.

    Returns
    -------
    Posterior

    Raises
    ------
    JensenError
        When model, data or options cannot work; a fit that goes badly is returned, with a verdict that says so.

    References
    ----------
    Head of ``jensen/engines/fixed_draws.py`` for the fit, of ``jensen/diagnostics/correct.py`` for the correction.
    """
    begun = time.perf_counter()
    if correct not in ("auto", True, False):
        raise OptionError(f"correct must be 'auto', True or False; got {correct!r}.")
    _check_stops(budget, callbacks)
    method, nuts = ("auto", True) if method == "nuts" else (method, False)
    settings = Settings(_named(method, family, engine), keys.check_seed(seed), precision, bool(correct))
    _check_batch_size(batch_size, method, engine)
    record, plate, rows = _read(model, data, settings)
    engine = _engine(method, engine, batch_size, record, rows)
    asked, found, left = _asked(method, family, engine), None, partial(_left, budget, begun)
    if rows is not None and (asked or not isinstance(engine, Gradient | None)):
        how = f"method={method!r}" if method != "auto" else repr(engine or family)
        raise UnsupportedError(
            f"{how} needs all rows in memory, and those of {record.name} are read from a table; pass arrays, or use "
            "method='auto' or 'advi'."
        )
    loop: dict[str, Any] = dict(steps=steps, budget=budget, callbacks=callbacks, progress=progress)
    if checkpoint is not None:
        loop["checkpoint"] = _checkpoint(checkpoint, (method, family, engine, start, rows), record, settings)
    with scope(precision), one_blas_thread():
        if rows is None and (asked or _may_pay(record, family, engine, start, method)):
            from jensen.fitting_conjugate import fit_conjugate

            found = fit_conjugate(record, family, engine, start, settings, loop, left, asked=asked)
        if isinstance(found, Posterior):
            posterior = found
        else:
            free = method == "auto" and family is None and engine is None and start is None
            many = record.many_rows or rows is not None
            looked = not many or record.dim > _LARGE_FOR_ROWS
            groups = ("known" if found is not None else "looked for" if looked else "") if free else ""
            family = family or _family(method, record.dim)
            posterior = _gaussian((record, plate, rows), family, engine, start, settings, loop, left, groups=groups)
    posterior = posterior.replace(cost=Cost(posterior.cost.gradients, time.perf_counter() - begun))
    if nuts and posterior.run.status != "interrupted":
        from jensen.diagnostics.nuts import sample_nuts

        with suppress(KeyboardInterrupt):  # before the first draw: the fit is kept
            posterior = sample_nuts(posterior, progress=progress, budget=left())
    if posterior.verdict.overall == "do not use":
        warnings.warn(f"{posterior.verdict.counts}: {posterior.verdict.reasons[-1]}", FitWarning, stacklevel=2)
    return posterior


def _checkpoint(path: str | PathLike[str], asked: tuple[Any, ...], record: Model, settings: Settings) -> Any:
    """The file of this fit; `asked` is what else makes it this one, and so does a log density, for the model's code."""
    from jensen.checkpoint import Checkpoint, fingerprint, reference

    with scope(settings.precision):
        free = layout.unflatten(record.sites, reference(record.dim))
        value = float(jax.jit(lambda free, data: total(record.factors(free, data)))(free, record.data))
    identity = fingerprint(asked, record, seed=settings.seed, precision=settings.precision, log_density=value)
    return Checkpoint(path, identity)


def _asked(method: str, family: Any, engine: Any) -> bool:
    """Whether the conjugate half was asked for in so many words."""
    by_engine = type(engine).__name__ in _CONJUGATE
    return method in ("cavi", "svi", "gibbs") or isinstance(family, Blocks) or by_engine


def _may_pay(record: Model, family: Any, engine: Any, start: Any, method: str) -> bool:
    """Whether "auto" has a reason to look for conjugacy: no gradients, or many dimensions, the more so with many rows."""
    given = any(value is not None for value in (family, engine, start))
    dims = _LARGE_FOR_ROWS if record.many_rows else _LARGEST_FULL_RANK
    large = record.dim > dims and record.graph is not None
    return method == "auto" and not given and bool(record.discrete or large)


def _read(model: Any, data: Any, settings: Settings) -> tuple[Model, Any, Any]:
    """The model, and where its rows are read from a table their plate and the table."""
    given = [data, *data.values()] if isinstance(data, Mapping) else [data]
    if not any(isinstance(value, Table) for value in given):
        return read(model, data, settings.precision), None, None
    from jensen.fitting_large import read_streamed

    return read_streamed(model, data, settings)


def _gaussian(
    model: tuple[Model, Any, Any],
    family: Any,
    engine: Any,
    start: Any,
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
    *,
    groups: str = "",
) -> Posterior:
    """A Gaussian q by smoothed Newton, on a corrected subsample of many rows; `groups` may be known or looked for."""
    record, plate, rows = model
    if start is not None:
        begin = getattr(engine, "family", None) or family or FullRank()
        start = begin.start(location(record, start), 0.1)
        if engine is not None and not hasattr(engine, "start"):
            raise OptionError(
                f"{type(engine).__name__} chooses its own starts; leave start= out, or use method='fullrank'."
            )
    if engine is not None and not isinstance(engine, GAUSSIAN):
        from jensen.fitting_ladder import fit_engine

        return fit_engine(record, engine if start is None else replace(engine, start=start), settings, loop, left)
    if isinstance(engine, Gradient):
        return _stochastic(model, engine if start is None else replace(engine, start=start), settings, loop, left)
    if groups:
        or_rows = groups != "known" and record.dim <= _LARGEST_FULL_RANK
        posterior = _wide(model, settings, loop, left, or_rows)
        if posterior is not None:
            return posterior
    if engine is None and (rows is not None or record.many_rows):
        from jensen.fitting_large import fit_large

        found = fit_large(record, plate, rows, family, start, settings, loop, left)
        if isinstance(found, Posterior):
            return found
        record = replace(record, notes=(*record.notes, found)) if found else record
    target = Target(record, settings.precision)
    engine = engine or FixedDraws(family)
    engine = engine if start is None else replace(engine, start=start)
    q, fitted = fit_from_starts(target, engine, seed=settings.seed, **loop)
    return _climbed(target, conclude(target, q, fitted, engine=engine, settings=settings, budget=left()), left)


def _wide(
    model: tuple[Model, Any, Any],
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
    or_rows: bool,
) -> Posterior | None:
    """The Gaussian that pays in high dimension; of many rows, or in lower dimension, only where they are in groups.

    `or_rows` where many rows can also be left out.
    """
    record, plate, rows = model
    if rows is not None or record.many_rows:
        from jensen.fitting_groups import fit_groups

        posterior = fit_groups(record, plate, rows, settings, loop, left, or_rows=or_rows)
        if rows is None and posterior is not None:
            return _climbed(Target(record, settings.precision), posterior, left)
        if rows is not None or or_rows:
            return posterior
    from jensen.diagnostics.dimension import fit_integrable, fit_wide

    target = Target(record, settings.precision)
    found = None if record.many_rows else fit_integrable(target, seed=settings.seed, **loop)
    if found is None and (record.many_rows or record.dim > _LARGEST_UNASKED):
        found = fit_wide(target, seed=settings.seed, groups_only=record.many_rows, **loop)
    if found is None:
        return None
    posterior = conclude(target, found.q, found.run, engine=found.engine, settings=settings, budget=left())
    return _climbed(target, posterior, left)


def _climbed(target: Target, posterior: Posterior, left: Callable[[], float | None]) -> Posterior:
    """Under "auto", the ladder above a Gaussian that chains were not enough for; what was interrupted stays as it is."""
    if posterior.settings.method != "auto" or posterior.chains is None or posterior.verdict.overall == "trusted":
        return posterior
    from jensen.fitting_ladder import climbed

    return climbed(target, posterior, left)


def _stochastic(
    model: tuple[Model, Any, Any],
    engine: Gradient,
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
) -> Posterior:
    """A Gaussian q by stochastic gradients."""
    if engine.batch_size is not None:
        from jensen.fitting_large import fit_batches

        return fit_batches(*model, engine, settings, loop, left)
    target = Target(model[0], settings.precision)
    q, fitted = run(limited(engine, loop["steps"]), target, seed=settings.seed, **loop)
    return conclude(target, q, fitted, engine=engine, settings=settings, budget=left())


def _engine(method: str, engine: Any, batch_size: Any, record: Model, rows: Table | None) -> Any:
    """The engine that a method or a batch size means, where that can be said before looking at the model."""
    many = rows is not None or record.many_rows
    if method in LADDER:
        from jensen.fitting_ladder import engine_of

        return engine_of(method)
    if method in ("advi", "fullrank_advi"):
        size = batch_size or record.batch_size or (_BATCH if many else None)
        return Gradient(MeanField() if method == "advi" else FullRank(), batch_size=size)
    if method == "svi" and batch_size is not None:
        from jensen.engines.natural import NaturalGradient

        return NaturalGradient(batch_size=batch_size)
    if isinstance(engine, Gradient) and engine.batch_size is None and rows is not None:
        return replace(engine, batch_size=_BATCH)
    return engine


def _left(budget: float | None, begun: float) -> float | None:
    return None if budget is None else max(budget - (time.perf_counter() - begun), 0.0)


def _named(method: str, family: Any, engine: Any) -> str:
    if method not in METHODS:
        raise OptionError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
    structured = method in ("cavi", "svi", "gibbs") and engine is None and isinstance(family, Blocks)
    if method != "auto" and not structured and (family is not None or engine is not None):
        raise OptionError(f"method={method!r} already says family and engine; leave one of them out.")
    joined = isinstance(family, Blocks) and type(engine).__name__ in _CONJUGATE
    if family is not None and engine is not None and not joined:
        raise OptionError(f"engine= has a family already, and family={family!r} was given too; say it in the engine.")
    if family is not None and not isinstance(family, FullRank | MeanField | Blocks):
        raise OptionError(f"family must be jn.FullRank(), jn.MeanField() or jn.Blocks(...); got {family!r}.")
    if engine is not None and (isinstance(engine, type) or not all(hasattr(engine, name) for name in _ENGINE)):
        raise OptionError(f"engine must be an engine, such as jn.FixedDraws() or jn.Gradient(); got {engine!r}.")
    return method


def _check_batch_size(batch_size: Any, method: str, engine: Any) -> None:
    if batch_size is None:
        return
    if engine is not None:
        raise OptionError(f"batch_size={batch_size!r} and engine={engine!r} were both given; say it in the engine.")
    if method not in _STOCHASTIC:
        raise OptionError(
            f"batch_size is for the methods {', '.join(_STOCHASTIC)}; got {batch_size!r} with {method!r}, which needs none: it "
            "takes few passes over many rows by itself."
        )
    if isinstance(batch_size, Mapping) and method != "svi" and batch_size:
        return  # names and numbers are looked at with the model
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
        raise OptionError(f"batch_size must be a number of rows, at least 1; got {batch_size!r}; for example 500.")


def _check_stops(budget: Any, callbacks: Any) -> None:
    number = isinstance(budget, float | int | np.number) and not isinstance(budget, bool)
    if budget is not None and not (number and budget > 0):
        raise OptionError(f"budget must be a positive number of seconds; got {budget!r}; leave it out for no limit.")
    if budget is not None and processes.count() > 1:
        raise OptionError(
            "budget stops every process at a time of its own; with several processes, give steps= instead."
        )
    functions = callbacks if isinstance(callbacks, Sequence) else [None]
    if not all(map(callable, functions)):
        raise OptionError(f"callbacks must be a list of functions of a Snapshot; got {callbacks!r}; write [function].")


def _family(method: str, dim: int) -> FullRank | MeanField:
    if method == "meanfield" or (method == "auto" and dim > _LARGEST_FULL_RANK):
        return MeanField()
    return FullRank()
