"""Judging particles: draws without a density have no log weights, so they are compared with the answer that has been checked.

A Gaussian is fitted, examined and corrected as `method="auto"` does it, and the particles' moments are held against that
answer, quantity by quantity. What that answer does not trust is not trusted of the particles either.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from jensen.diagnostics import quantities, verdict
from jensen.diagnostics.examine import Examination, examine
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.starts import fit_from_starts
from jensen.diagnostics.verdict import Verdict
from jensen.engines.fixed_draws import FixedDraws
from jensen.families.fullrank import FullRank
from jensen.families.meanfield import MeanField
from jensen.objectives.elbo import Elbo
from jensen.run import Run

_LARGEST_FULL_RANK = 400


def examine_particles(
    target: Any, q: Any, run: Run, *, seed: int, correcting: bool = True, budget: float | None = None
) -> Examination:
    """Judge particles by the corrected answer of the same target.

    Parameters
    ----------
    target, q, run
        The log density, the particles, and the record of their fit.
    seed
        Randomness.
    correcting
        Whether anything beside the particles may be computed.
    budget
        Seconds it may take.
    """
    z = np.asarray(q.points)
    values, derived = target.constrain(z)
    draws = Draws(z, np.full(len(z), np.nan), values, derived)
    names = quantities.names(target.model)

    def found(judged: Verdict) -> Examination:
        return Examination(Elbo(np.nan, np.nan), draws, np.full(len(z), 1 / len(z)), judged)

    nothing = np.full(1, np.nan)
    if run.status == "interrupted":
        return found(verdict.unfinished(names, "the fit was interrupted, so nothing is known about it", nothing))
    if not correcting or budget == 0:
        return found(verdict.unfinished(names, "particles have no density, and nothing else was computed", nothing))
    family = FullRank() if target.dim <= _LARGEST_FULL_RANK else MeanField()
    gaussian, fitted = fit_from_starts(target, FixedDraws(family), seed=seed, progress=False, budget=budget)
    other = examine(target, gaussian, fitted, seed=seed, budget=budget)
    x = quantities.matrix(target.model, values, derived)
    y = quantities.matrix(target.model, other.kept.values, other.kept.derived)
    judged = verdict.judge_draws(names, x, y, other.weights, other.verdict)
    return replace(found(judged), correction=other.correction)
