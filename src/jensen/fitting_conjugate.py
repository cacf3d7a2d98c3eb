"""The conjugate half of `fit`: from a model's own distributions to a product of exponential families, or to Gibbs chains.

    certified plan  ->  ascent  ->  levels in order  ->  q      "cavi", "svi", and "auto" where it pays
                                                     ->  chains that start at draws of q, pooled as the answer      "gibbs"

It is a file of its own because it brings all of `jensen.conjugate` with it, which Gaussian fits leave unloaded.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen.conjugate import blocks
from jensen.conjugate.chunks import candidates
from jensen.conjugate.explain import certified, explain
from jensen.conjugate.labels import canonical, collapsed
from jensen.conjugate.near import near
from jensen.conjugate.plan import Plan
from jensen.conjugate.product import Product, completed
from jensen.core import keys
from jensen.core.errors import UnsupportedError
from jensen.core.precision import scope
from jensen.diagnostics.examine_chains import examine_chains
from jensen.engines.coordinate import CoordinateAscent, bound
from jensen.engines.gibbs import Gibbs
from jensen.engines.large import LargeCoordinateAscent
from jensen.engines.natural import NaturalGradient
from jensen.engines.restarts import Restarts
from jensen.engines.structured import Structured
from jensen.families import patterns_blocks
from jensen.families.blocks import Blocks
from jensen.families.patterns import Arrow
from jensen.models.groups import FEWEST
from jensen.models.model import Model
from jensen.models.target import Target
from jensen.posterior import Posterior, conclude, together
from jensen.run import Run, run
from jensen.settings import Settings

ENGINES = (CoordinateAscent, NaturalGradient, Gibbs)
"""The engines a user may ask for by hand."""

_BATCHES = 8
"""Least number of batches of the stochastic method."""


def fit_conjugate(
    record: Model,
    family: Any,
    engine: Any,
    start: Any,
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
    *,
    asked: bool,
) -> Posterior | Structured | None:
    """A posterior by coordinate ascent or Gibbs chains; where a Gaussian is the better way, None, or its engine along groups.

    Parameters
    ----------
    record
        The model.
    family, engine, start, settings
        As `jensen.fit` was given them.
    loop
        Arguments of `jensen.run.run`.
    left
        Seconds left of the budget.
    asked
        Whether the user asked for this way, or "auto" considers it.
    """
    plan = _plan(record, family, settings, asked)
    if not isinstance(plan, Plan):
        return plan
    with scope("float64"):  # natural parameters of many rows need its digits
        return _fit(plan, record, engine, start, settings, loop, left)


def _plan(record: Model, family: Any, settings: Settings, asked: bool) -> Plan | Structured | None:
    """The plan of coordinate ascent where that is asked for, or pays under "auto".

    It pays where there is no other way (discrete sites have no gradients), and where a full-rank Gaussian is too large and every
    site is conditionally conjugate (or nearly, with many rows that are summed up once): joint blocks then keep the correlations
    that mean-field would leave out.
    """
    looking = not asked and not record.discrete

    def worth(plan: Plan) -> bool:
        return not looking or not (plan.refusal or plan.scales or (plan.damped and not record.many_rows))

    try:
        plan, certificate = certified(record, family if isinstance(family, Blocks) else None, settings.seed, worth)
    except Exception:
        if asked or record.discrete:
            raise
        return None  # whatever is odd about the model: the Gaussian way does not need its graph
    if looking:
        if not worth(plan):
            return None
        if _row_by_row(plan):
            return Structured() if _grouped(plan) else None
    if not plan.refusal:
        return plan
    if not asked:
        Target(record)  # says which site is discrete, and what to do
    raise UnsupportedError(f"coordinate ascent cannot run on this model.\n{explain(record, plan, certificate)}")


def _row_by_row(plan: Plan) -> bool:
    """Whether sweeps are no cheaper than gradients: averages over draws of free sites, or groups of rows that nothing sums up."""
    energy = plan.energy
    return energy is not None and (energy.averaged or (_grouped(plan) and bool(energy.predictors)))


def _grouped(plan: Plan) -> bool:
    """Whether a Gaussian block has groups: a structured Gaussian has their dependence on all globals, scales too."""
    patterns = () if plan.layout is None else plan.layout.pattern.values()
    inner = (each.inner if isinstance(each, Arrow) else each for each in patterns)
    return any(isinstance(each, patterns_blocks.Blocks) and each.count >= FEWEST for each in inner)


def _fit(
    plan: Plan,
    record: Model,
    engine: Any,
    start: Any,
    settings: Settings,
    loop: dict[str, Any],
    left: Callable[[], float | None],
) -> Posterior:
    """A product of exponential families by coordinate ascent, or Gibbs chains that start from it."""
    sampler = engine if isinstance(engine, Gibbs) else Gibbs() if settings.method == "gibbs" else None
    ascent = engine if engine is not None and sampler is None else _ascent(plan, settings.method)
    if start is not None:
        ascent = _from(plan, ascent, start, settings.seed)
    shown, fitted = run(_Shown(ascent, plan, record), plan, seed=settings.seed, **loop)
    families = completed(plan, shown.families)
    fitted = replace(fitted, notes=(*fitted.notes, _how(ascent)))
    if fitted.status != "interrupted":
        families, fitted = _sorted(plan, families, fitted)
    q = Product(families, plan, record)
    engine = ascent.engine if isinstance(ascent, Restarts) else ascent
    if sampler is None:
        return conclude(None, q, fitted, engine=engine, settings=settings, budget=left())
    unlimited = {**loop, "steps": None, "label": "chains"}  # the steps were those of the ascent
    chains, sampled = run(replace(sampler, start=families), plan, seed=settings.seed, **unlimited)
    if not chains.log_joint.size:  # stopped in the warmup: q is all there is, and nothing has checked it
        fitted, settings = replace(fitted, status=sampled.status), replace(settings, correct=False)
        return conclude(None, q, fitted, engine=engine, settings=settings)
    found = examine_chains(q, fitted.history["elbo"], chains)
    fitted = replace(fitted, notes=(*fitted.notes, *sampled.notes), seconds=fitted.seconds + sampled.seconds)
    return together(record, q, fitted, found, engine=engine, settings=settings)


@dataclass(frozen=True)
class _Shown:
    """The engine, whose q callbacks see as the approximation that the fit will return."""

    engine: Any
    plan: Plan
    model: Model

    def init(self, target: Plan, seed: int) -> Any:
        return self.engine.init(target, seed)

    def advance(self, state: Any, target: Plan) -> Any:
        return self.engine.advance(state, target)

    def converged(self, state: Any) -> bool:
        return self.engine.converged(state)

    def finish(self, state: Any) -> Product:
        return Product(self.engine.finish(state), self.plan, self.model)


def _ascent(plan: Plan, method: str) -> Any:
    if method == "svi":
        rows = max((int(np.prod(node.shape)) for node in plan.graph.nodes if node.levels is not None), default=1)
        return NaturalGradient(batch_size=max(1, min(NaturalGradient.batch_size, rows // _BATCHES)))
    return LargeCoordinateAscent() if candidates(plan) else Restarts()


def _from(plan: Plan, ascent: Any, start: Any, seed: int) -> Any:
    """The engine, with families around the user's values to start from."""
    families = near(plan, blocks.start(plan, keys.generator(seed, "coordinate ascent")), start)
    if isinstance(ascent, Restarts):
        return replace(ascent, engine=replace(ascent.engine, start=families))
    return replace(ascent, start=families)


def _how(ascent: Any) -> str:
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
