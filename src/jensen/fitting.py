"""`fit`: the straight line from a model to a posterior, and the only file that knows every layer."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jensen.conjugate.chunks import candidates
from jensen.conjugate.explain import certified, explain
from jensen.conjugate.labels import canonical, collapsed
from jensen.conjugate.plan import Plan
from jensen.conjugate.product import Product, completed
from jensen.core import keys, layout
from jensen.core.errors import FitWarning, OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.core.threads import one_blas_thread
from jensen.diagnostics.examine_chains import examine_chains
from jensen.diagnostics.starts import fit_from_starts
from jensen.engines.coordinate import CoordinateAscent, bound
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.gibbs import Gibbs
from jensen.engines.large import LargeCoordinateAscent
from jensen.engines.natural import NaturalGradient
from jensen.engines.restarts import Restarts
from jensen.families.blocks import Blocks
from jensen.families.fullrank import FullRank
from jensen.families.meanfield import MeanField
from jensen.models.model import Model
from jensen.models.read import read
from jensen.models.target import Target
from jensen.posterior import Cost, Posterior, Settings, conclude, together
from jensen.run import Callback, Run, run

METHODS = ("auto", "fullrank", "meanfield", "cavi", "svi", "gibbs")
_LARGEST_FULL_RANK = 400
"""Full rank by default up to here; beyond, its D(D+1)/2 parameters overfit any affordable design."""

_BATCHES = 8
"""Least number of batches of the stochastic method."""


def fit(
    model: Any = None,
    method: str = "auto",
    *,
    data: Mapping[str, Any] | None = None,
    family: FullRank | MeanField | Blocks | None = None,
    engine: FixedDraws | CoordinateAscent | NaturalGradient | Gibbs | None = None,
    steps: int | None = None,
    budget: float | None = None,
    start: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    seed: int = 0,
    precision: str = "float64",
    progress: bool | None = None,
    correct: str | bool = "auto",
) -> Posterior:
    """Fit an approximate posterior, judge it, and correct it.

    Parameters
    ----------
    model
        A PyMC or Bambi model, a NumPyro model function, or a `jensen.density`; None inside ``with pm.Model():``.
    method
        ``"auto"``: a Gaussian by smoothed Newton (full rank up to D = 400, mean-field beyond), checked, and where it is not
        enough corrected by short chains; the answer is the corrected one. ``"fullrank"``, ``"meanfield"``: q itself is
        the answer, and the verdict is about q. ``"cavi"``: coordinate ascent on the families that the model's own
        distributions suggest, exact where the model is conditionally conjugate (see `jensen.conjugacy`); discrete sites are
        allowed. ``"svi"``: the same by stochastic natural gradients on minibatches of rows. ``"gibbs"``: draws from the same
        complete conditionals. "auto" takes this way for models with discrete sites, and for conjugate ones above D = 400.
    data
        Name -> array: the model function's arguments (NumPyro), data containers (PyMC), or the density's data.
    family, engine
        Instead of a word: `FullRank()`, `MeanField()`, or `Blocks(...)` for coordinate ascent; an engine such as
        `FixedDraws(...)`.
    steps
        Largest number of steps of the engine.
    budget
        Seconds for fit and correction together, looked at between steps and stages.
    start
        Site -> value in the model's own space: where q starts, instead of several starts.
    callbacks
        Called with a `jensen.run.Snapshot` after every step; returning True stops the fit and keeps it.
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
    settings = Settings(_named(method, family, engine), keys.check_seed(seed), precision, bool(correct))
    record = read(model, data, precision)
    loop: dict[str, Any] = dict(steps=steps, budget=budget, callbacks=callbacks, progress=progress)
    with scope(precision), one_blas_thread():
        plan = _conjugate_plan(record, family, engine, start, settings)
        if plan is not None:
            with scope("float64"):  # natural parameters of many rows need its digits
                posterior = _conjugate(plan, record, engine, start, settings, loop, begun)
        else:
            posterior = _gaussian(record, family, engine, start, settings, loop, begun)
    posterior = posterior.replace(cost=Cost(posterior.cost.gradients, time.perf_counter() - begun))
    if posterior.verdict.overall == "do not use":
        warnings.warn(f"{posterior.verdict.counts}: {posterior.verdict.reasons[-1]}", FitWarning, stacklevel=2)
    return posterior


def _gaussian(
    record: Model, family: Any, engine: Any, start: Any, settings: Settings, loop: dict[str, Any], begun: float
) -> Posterior:
    """A Gaussian q by smoothed Newton."""
    target = Target(record, settings.precision)
    engine = engine or FixedDraws(family or _family(settings.method, record.dim))
    if start is not None:
        engine = replace(engine, start=engine.family.start(_location(record, start), 0.1))
    q, run = fit_from_starts(target, engine, seed=settings.seed, **loop)
    return conclude(target, q, run, engine=engine, settings=settings, budget=_left(loop["budget"], begun))


def _wants_conjugate(method: str, family: Any, engine: Any) -> bool:
    asked = method in ("cavi", "svi", "gibbs") or isinstance(family, Blocks)
    return asked or isinstance(engine, CoordinateAscent | NaturalGradient | Gibbs)


def _conjugate_plan(record: Model, family: Any, engine: Any, start: Any, settings: Settings) -> Plan | None:
    """The plan of coordinate ascent where that is asked for, or pays under "auto"; None otherwise.

    It pays where there is no other way (discrete sites have no gradients), and where a full-rank Gaussian is too large and every
    site is conditionally conjugate: joint blocks then keep the correlations that mean-field would leave out.
    """
    asked = _wants_conjugate(settings.method, family, engine)
    given = any(value is not None for value in (family, engine, start))
    large = record.dim > _LARGEST_FULL_RANK and record.graph is not None
    if not asked and (settings.method != "auto" or given or not (record.discrete or large)):
        return None
    try:
        plan, certificate = certified(record, family if isinstance(family, Blocks) else None, settings.seed)
    except Exception:
        if asked or record.discrete:
            raise
        return None  # whatever is odd about the model: the Gaussian way does not need its graph
    if not asked and not record.discrete and (plan.refusal or plan.damped):
        return None
    if not plan.refusal:
        return plan
    if not asked:
        Target(record)  # says which site is discrete, and what to do
    raise UnsupportedError(f"coordinate ascent cannot run on this model.\n{explain(record, plan, certificate)}")


def _conjugate(
    plan: Plan, record: Model, engine: Any, start: Any, settings: Settings, loop: dict[str, Any], begun: float
) -> Posterior:
    """A product of exponential families by coordinate ascent, or Gibbs chains that start from it."""
    if start is not None:
        raise OptionError("start is for Gaussian fits; coordinate ascent starts from the data, by the seed.")
    sampler = engine if isinstance(engine, Gibbs) else Gibbs() if settings.method == "gibbs" else None
    ascent = engine if engine is not None and sampler is None else _ascent(plan, settings.method)
    families, fitted = run(ascent, plan, seed=settings.seed, **loop)
    families = completed(plan, families)
    fitted = replace(fitted, notes=(*fitted.notes, _how(settings.method, ascent)))
    if fitted.status != "interrupted":
        families, fitted = _sorted(plan, families, fitted)
    q = Product(families, plan, record)
    engine = ascent.engine if isinstance(ascent, Restarts) else ascent
    if sampler is None:
        return conclude(None, q, fitted, engine=engine, settings=settings, budget=_left(loop["budget"], begun))
    loop["steps"] = None  # were those of the ascent
    chains, sampled = run(replace(sampler, start=families), plan, seed=settings.seed, **loop)
    if not chains.log_joint.size:  # stopped in the warmup: q is all there is, and nothing has checked it
        fitted, settings = replace(fitted, status=sampled.status), replace(settings, correct=False)
        return conclude(None, q, fitted, engine=engine, settings=settings)
    found = examine_chains(q, fitted.history["elbo"], chains)
    fitted = replace(fitted, notes=(*fitted.notes, *sampled.notes), seconds=fitted.seconds + sampled.seconds)
    return together(record, q, fitted, found, engine=engine, settings=settings)


def _ascent(plan: Plan, method: str) -> Any:
    if method == "svi":
        rows = max((int(np.prod(node.shape)) for node in plan.graph.nodes if node.levels is not None), default=1)
        return NaturalGradient(batch_size=max(1, min(NaturalGradient.batch_size, rows // _BATCHES)))
    return LargeCoordinateAscent() if candidates(plan) else Restarts()


def _how(method: str, ascent: Any) -> str:
    words = {
        NaturalGradient: "stochastic natural gradients",
        LargeCoordinateAscent: "coordinate ascent in passes over the rows",
    }
    return f"{words.get(type(ascent), 'coordinate ascent')}: the model is conditionally conjugate where jn.conjugacy says so"


def _sorted(plan: Plan, families: Any, fitted: Run) -> tuple[Any, Run]:
    """Levels in a canonical order, and what is degenerate about the optimum in words."""
    if not plan.energy or not plan.energy.discrete or set(families) != set(plan.blocks):
        return families, fitted
    if not candidates(plan):
        families = canonical(plan, families, lambda some: bound(plan, some))
    return families, replace(fitted, notes=(*fitted.notes, *collapsed(plan, families)))


def _left(budget: float | None, begun: float) -> float | None:
    return None if budget is None else max(budget - (time.perf_counter() - begun), 0.0)


def _named(method: str, family: Any, engine: Any) -> str:
    if method not in METHODS:
        raise OptionError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
    structured = method in ("cavi", "svi", "gibbs") and engine is None and isinstance(family, Blocks)
    if method != "auto" and not structured and (family is not None or engine is not None):
        raise OptionError(f"method={method!r} already says family and engine; leave one of them out.")
    if family is not None and engine is not None:
        raise OptionError(f"engine= has a family already, and family={family!r} was given too; say it in the engine.")
    families, engines = (FullRank, MeanField, Blocks), (FixedDraws, CoordinateAscent, NaturalGradient, Gibbs)
    for value, kinds, word in ((family, families, "family"), (engine, engines, "engine")):
        if value is not None and not isinstance(value, kinds):
            names = " or ".join(f"jn.{kind.__name__}()" for kind in kinds)
            raise OptionError(f"{word} must be {names}; got {value!r}.")
    return method


def _check_stops(budget: Any, callbacks: Any) -> None:
    number = isinstance(budget, float | int | np.number) and not isinstance(budget, bool)
    if budget is not None and not (number and budget > 0):
        raise OptionError(f"budget must be a positive number of seconds; got {budget!r}; leave it out for no limit.")
    functions = callbacks if isinstance(callbacks, Sequence) else [None]
    if not all(map(callable, functions)):
        raise OptionError(f"callbacks must be a list of functions of a Snapshot; got {callbacks!r}; write [function].")


def _family(method: str, dim: int) -> FullRank | MeanField:
    if method == "meanfield" or (method == "auto" and dim > _LARGEST_FULL_RANK):
        return MeanField()
    return FullRank()


def _location(model: Any, start: Mapping[str, Any]) -> np.ndarray:
    """Flat unconstrained vector of start values; sites that are not named start at zero."""
    if not isinstance(start, Mapping):
        raise OptionError(f"start must be a dict, site -> value; got {type(start).__name__}.")
    unknown = set(start) - {site.name for site in model.sites}
    if unknown:
        names = ", ".join(site.name for site in model.sites)
        raise OptionError(f"start names {sorted(unknown)}, which are no sites of the model; its sites are {names}.")
    data = model.data
    z = np.zeros(model.dim)
    zero = layout.unflatten(model.sites, z)
    middle, _ = model.constrain(zero, data)
    values = {}
    for site in model.sites:
        try:
            value = np.asarray(start.get(site.name, middle[site.name]), float)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"start[{site.name!r}] is {start[site.name]!r}, which is no array of numbers of shape {site.shape}."
            ) from error
        if not np.isfinite(value).all():
            raise OptionError(f"start[{site.name!r}] has NaN or infinite values; start at finite ones.")
        if value.shape != site.shape:
            raise OptionError(f"start[{site.name!r}] has shape {value.shape}; the site has shape {site.shape}.")
        values[site.name] = value
    z = layout.flatten(model.sites, model.unconstrain(values, data))
    if not np.isfinite(z).all():
        site = layout.coordinate_site(model.sites, int(np.argmin(np.isfinite(z))))
        raise OptionError(f"start[{site.name!r}] lies outside the support ({site.support}) of the site.")
    return z
