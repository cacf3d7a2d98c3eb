"""The ladder's half of `fit`: the richer families and engines by name, and the climb of "auto" above the Gaussian.

    "flow", "layered", "lowrank", ...    an engine, begun at a fitted Gaussian where it asks for one; q is judged like any other
    "auto"                               diagnostics/ladder.py, where the checked and corrected Gaussian is not enough

It is a file of its own because Gaussian fits that are enough leave all of this unloaded.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

from jensen.diagnostics.examine import Examination
from jensen.diagnostics.ladder import climb
from jensen.diagnostics.starts import fit_from_starts
from jensen.engines.engine import limited
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.guards import refuse_options
from jensen.families.fullrank import FullRank
from jensen.families.meanfield import MeanField
from jensen.models.model import Model
from jensen.models.target import Target
from jensen.posterior import Posterior, conclude
from jensen.run import run
from jensen.settings import Settings

_LARGEST_FULL_RANK = 400
FROM_GAUSSIAN = ("ScaleLayer", "CouplingFlow", "Descent")
"""Engines, by name, that begin at a fitted Gaussian."""
_CHUNKS = ("CouplingFlow", "Stein")
"""Engines, by name, that take many steps a chunk and have to know the last one."""


def engine_of(method: str) -> Any:
    """The engine that a method's word means; only its own module is loaded."""
    module, name = _ENGINES[method]
    return getattr(import_module(f"jensen.engines.{module}"), name)()


_ENGINES = {
    "lowrank": ("lowrank", "LowRankDraws"),
    "structured": ("structured", "Structured"),
    "layered": ("layered", "ScaleLayer"),
    "flow": ("flow", "CouplingFlow"),
    "mixture": ("stacked", "Stacked"),
    "svgd": ("stein", "Stein"),
    "batchmatch": ("batch_match", "BatchMatch"),
    "laplace": ("laplace", "Laplace"),
    "pathfinder": ("pathfinder", "Pathfinder"),
}


def fit_engine(
    record: Model, engine: Any, settings: Settings, loop: dict[str, Any], left: Callable[[], float | None]
) -> Posterior:
    """A posterior by an engine of one's own choice.

    Parameters
    ----------
    record
        The model.
    engine
        The engine; those of `FROM_GAUSSIAN` that have no start begin at a fitted Gaussian.
    settings, loop, left
        How the fit was asked for, arguments of `jensen.run.run`, seconds left of the budget.
    """
    target = Target(record, settings.precision)
    refuse_options(engine, target.dim)
    begun = engine
    if type(engine).__name__ in FROM_GAUSSIAN and engine.start is None:
        family = FullRank() if target.dim <= _LARGEST_FULL_RANK else MeanField()
        plain = {**loop, "steps": None, "callbacks": ()}
        q, fitted = fit_from_starts(target, FixedDraws(family), seed=settings.seed, label="gaussian", **plain)
        if fitted.status == "interrupted":  # Ctrl-C ends the fit, not only its first part
            return conclude(target, q, replace(fitted, state=None), engine=engine, settings=settings, budget=left())
        begun, loop = replace(engine, start=q), {**loop, "budget": left()}
    if type(engine).__name__ in _CHUNKS:
        begun = limited(begun, loop["steps"])
    q, fitted = run(begun, target, seed=settings.seed, **loop)
    return conclude(target, q, fitted, engine=engine, settings=settings, budget=left())


def climbed(target: Target, posterior: Posterior, left: Callable[[], float | None]) -> Posterior:
    """The posterior after the climb; the same where no rung was tried, and after Ctrl-C."""
    if posterior.run.status == "interrupted":
        return posterior
    found = Examination(
        posterior.elbo,
        posterior.kept,
        posterior.weights,
        posterior.verdict,
        posterior.answer == "corrected",
        correction=posterior.chains,
        modes=posterior.modes,
    )
    q, found, rungs = climb(target, posterior.q, posterior.run, found, seed=posterior.settings.seed, left=left)
    if len(rungs) == 1:
        return posterior
    best = [rung for rung in rungs if rung.kept][-1]
    return posterior.replace(
        q=q,
        elbo=best.elbo,
        kept=found.kept,
        weights=found.weights,
        verdict=found.verdict,
        answer="corrected" if found.corrected else "q",
        chains=found.correction,
        modes=found.modes,
        cost=replace(posterior.cost, gradients=target.gradients),
        story=(*posterior.story, *map(str, rungs)),
        run=replace(posterior.run, rungs=rungs),
    )
