"""Which Gaussian in high dimension: full rank, an arrow along groups, mean-field or low rank, by ELBO on fresh draws.

    groups, few globals      an arrow, where chains are not needed afterwards (nested.py)
    D <= 400                 full rank
    groups, few globals      an arrow (engines/structured.py): the best Gaussian has the zeros of the log density's curvature
                             in its precision, so that nothing is left out, with G d (p + d) numbers to learn instead of D^2 / 2
    D <= 1,500               full rank
    beyond                   mean-field, and low rank where its curvature products are affordable

A design of M points is overfitted by q's parameters: the design objective is above the ELBO on fresh draws by the *gap*, about
.2 nats at D = 300 and a few at D = 1,000 with M = 2 D, while full rank gains tens of nats over what is simpler. A gap above
1 + .02 D asks for a design four times as large first; where it stays, mean-field is fitted too. The design objective never
chooses.

Reference: Burroni, Domke, Sheldon (2023), Sample average approximation for black-box VI (overfitting of fixed draws).
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import JensenError, NonFiniteError, UnsupportedError
from jensen.diagnostics.chains import target_seconds
from jensen.diagnostics.nested import possible
from jensen.diagnostics.starts import fit_from_starts, fresh_elbo
from jensen.engines.designs import orthogonal
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.lowrank import LowRankDraws
from jensen.engines.structured import Structured
from jensen.families.fullrank import FullRank
from jensen.families.meanfield import MeanField
from jensen.models.groups import FEWEST, find
from jensen.objectives.elbo import Elbo
from jensen.run import Run, run

SMALLEST, LARGEST_FULL_RANK = 100, 1500
"""D above which there is something to choose, and up to which D x D matrices are affordable."""
_ALWAYS_FULL_RANK = 400
_GAP, _GAP_SLOPE = 1.0, 0.02
_TIMES, _LARGEST_DESIGN = 4, 2**24
"""How much larger the larger design is, and the most numbers it may have."""
_LANCZOS = 60_000
"""Gradients of a low-rank fit, roughly."""
_AFFORDABLE = 60.0
"""Seconds of one core that low rank may take."""
_CUT = ("interrupted", "budget", "stopped")
_FEWEST, _GLOBALS = 3, 5
"""Fewest groups that are integrated, and most globals where groups are fewer than `FEWEST`: these are far from normal then."""


@dataclass(frozen=True)
class Candidate:
    """A fitted Gaussian.

    Attributes
    ----------
    name
        In words.
    q, run, engine
        The approximation, its record, and what made it.
    elbo, gap
        On fresh draws; how far the design objective is above that.
    """

    name: str
    q: Any
    run: Run
    engine: Any
    elbo: Elbo
    gap: float

    @property
    def overfitted(self) -> bool:
        """Whether the gap asks for a larger design."""
        return not self.gap <= _GAP + _GAP_SLOPE * self.q.dim

    def __str__(self) -> str:
        gap = (
            f"its design objective {self.gap:.1f} nats above" if np.isfinite(self.gap) else "not finite on some of them"
        )
        return f"{self.name}: ELBO {self.elbo} on fresh draws, {gap}"


def fit_wide(target: Any, *, seed: int, groups_only: bool = False, **loop: Any) -> Candidate | None:
    """The Gaussian of highest ELBO on fresh draws among those that make sense for D.

    Parameters
    ----------
    target
        The log density.
    seed
        Randomness.
    groups_only
        Give up (None) where there are no groups.
    loop
        Arguments of `jensen.run.run`.

    Returns
    -------
    Candidate or None
        Its run says in `notes` what was compared.
    """
    begun, budget = time.perf_counter(), loop.get("budget")

    def rest() -> dict[str, Any]:
        """Arguments of the next run, which has what is left of the budget."""
        if budget is None:
            return loop
        return {**loop, "budget": max(budget - (time.perf_counter() - begun), 1e-3)}

    def tried(name: str, fit: Callable[[], tuple[Any, Run, Any]]) -> Candidate:
        found = _judged(name, *fit(), target, seed)
        return _enlarged(found, target, seed, rest()) if found.overfitted and found.run.status not in _CUT else found

    def arrow() -> tuple[Any, Run, Any]:
        return (*run(Structured(), target, seed=seed, label="structured", **rest()), Structured())

    def plain(family: FullRank | MeanField, label: str) -> tuple[Any, Run, Any]:
        engine = FixedDraws(family)
        return (*fit_from_starts(target, engine, seed=seed, label=label, **rest()), engine)

    candidates: list[Candidate] = []
    if target.dim > _ALWAYS_FULL_RANK or groups_only:
        try:
            if groups_only:
                return _alone(*arrow())
            candidates.append(tried("structured", arrow))
        except (UnsupportedError, NonFiniteError):
            if groups_only:
                return None
        else:
            good = candidates[0].run.status == "converged" and not candidates[0].overfitted
            if good or candidates[0].run.status in _CUT:
                return _told(candidates)
    if target.dim <= LARGEST_FULL_RANK:
        candidates.append(tried("full rank", lambda: plain(FullRank(), "start")))
        if candidates[-1].run.status in _CUT or not candidates[-1].overfitted:
            return _told(candidates)
    candidates.append(tried("mean-field", lambda: plain(MeanField(), "mean-field")))
    if candidates[-1].run.status in _CUT:
        return _told(candidates)
    if target.dim > LARGEST_FULL_RANK and _LANCZOS * target_seconds(target) < _AFFORDABLE:
        engine = LowRankDraws(start=candidates[-1].q)
        with suppress(JensenError, np.linalg.LinAlgError):
            low = run(engine, target, seed=seed, label="low rank", **rest())
            candidates.append(_judged("low rank", *low, LowRankDraws(), target, seed))
    return _told(candidates)


def fit_integrable(target: Any, *, seed: int, **loop: Any) -> Candidate | None:
    """The Gaussian along groups, where they and their globals can be integrated afterwards (nested.py), which needs no chains.

    Parameters
    ----------
    target
        The log density.
    seed
        Randomness.
    loop
        Arguments of `jensen.run.run`.

    Returns
    -------
    Candidate or None
        None where there are no such groups, or the fit does not converge.
    """
    try:
        groups = find(target, seed)
    except (UnsupportedError, NonFiniteError):
        return None
    (count, own), p = groups.own.shape, len(groups.shared)
    if count < _FEWEST or (count < FEWEST and p > _GLOBALS) or not possible(p, own):
        return None
    q, record = run(Structured(), target, seed=seed, label="structured", **loop)
    return _alone(q, record, Structured()) if record.status in ("converged", *_CUT) else None


def _alone(q: Any, record: Run, engine: Any) -> Candidate:
    """The only candidate, which needs no fresh draws: there is nothing to compare it with."""
    groups = record.state.extra
    note = f"structured: {len(groups.own):,} groups of {', '.join(groups.sites)}, and {len(groups.shared)} globals"
    return Candidate(
        "structured", q, replace(record, notes=(*record.notes, note)), engine, Elbo(np.nan, np.nan), np.nan
    )


def _judged(name: str, q: Any, record: Run, engine: Any, target: Any, seed: int) -> Candidate:
    elbo = Elbo(np.nan, np.nan)
    if record.status not in ("interrupted", "budget"):
        try:
            elbo = fresh_elbo(target, q, seed)
        except KeyboardInterrupt:
            record = replace(record, status="interrupted")
    design = -float(record.history["loss"][-1]) if len(record.history["loss"]) else np.nan
    return Candidate(name, q, record, engine, elbo, design - elbo.value)


def _enlarged(found: Candidate, target: Any, seed: int, loop: dict[str, Any]) -> Candidate:
    """The same fit gone on with on a larger design, where it has one."""
    state = found.run.state
    if not isinstance(found.engine, FixedDraws) or found.q.dim > LARGEST_FULL_RANK:
        return found
    dim, points = found.q.dim, _TIMES * len(state.designs[state.stage].points)
    if points * dim > _LARGEST_DESIGN:
        return found
    design = orthogonal(keys.generator(seed, "larger design"), dim, points)
    # The objective on another design is another one: the first step must not be compared with the old value.
    begun = replace(
        state, stage=0, designs=(design,), point=replace(state.point, loss=np.inf), damping=0.0, quiet=0, steps=0
    )
    try:
        q, record = run(found.engine, target, seed=seed, label=f"{found.name} on {points} points", state=begun, **loop)
    except JensenError:
        return found
    note = f"{found}; fitted again on {points:,} points"
    merged = replace(record, steps=found.run.steps + record.steps, notes=(*found.run.notes, note, *record.notes))
    history = {name: np.concatenate([found.run.history[name], record.history[name]]) for name in record.history}
    larger = _judged(found.name, q, replace(merged, history=history), found.engine, target, seed)
    return larger if larger.elbo.value > found.elbo.value or record.status in _CUT else found


def _told(candidates: list[Candidate]) -> Candidate:
    """The best candidate, whose notes say what it was compared with; of equal ones the first."""
    best = candidates[0]
    for other in candidates[1:]:
        if other.elbo.value > best.elbo.value:
            best = other
    ordered = [best, *(other for other in candidates if other is not best)]
    notes = [str(each) for each in ordered if np.isfinite(each.elbo.error)]
    return replace(best, run=replace(best.run, notes=(*best.run.notes, *notes)))
