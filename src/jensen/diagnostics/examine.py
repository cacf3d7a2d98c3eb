"""From a fitted q to evidence and a verdict: log weights, other modes, chains where they are needed.

    1. log weights of 2,200 draws of q           ELBO with its error, var(log w)
    2. quenches for other modes                  where they tell anything
    3. weights nearly constant, one mode         trusted, and done
    4. short chains from q                       correct the answer, or judge q by how far they move

All of it runs on the program the fit has compiled.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import ModelError
from jensen.diagnostics import modes as mode_search
from jensen.diagnostics import quantities, verdict
from jensen.diagnostics.correct import JUDGING_STAGES, MOST_STAGES, Correction, correct
from jensen.diagnostics.linear_response import linear_response
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.verdict import Verdict
from jensen.families.meanfield import DiagonalGaussian
from jensen.objectives.elbo import Elbo, on_draws
from jensen.run import Run

_WEIGHT_DRAWS = 2200
_MOMENT_DRAWS = 4096
_LARGEST_METRIC = 1500


@dataclass(frozen=True)
class Examination:
    """What was found out about q.

    Attributes
    ----------
    elbo
        On fresh draws.
    draws
        Of q with matched moments: means and sds of real sites are exact in them.
    correction
        The chains, or None where they were not needed or did not finish.
    verdict
        About the corrected answer when `corrected`, else about q.
    corrected
        Whether the chains' answer is the one to report.
    """

    elbo: Elbo
    draws: Draws
    correction: Correction | None
    verdict: Verdict
    corrected: bool


def examine(
    target: Any,
    q: Any,
    run: Run,
    *,
    seed: int,
    report_q: bool = False,
    correcting: bool = True,
    budget: float | None = None,
) -> Examination:
    """Judge q, and correct it.

    Parameters
    ----------
    target, q, run
        The log density, the fit, and its record.
    seed
        Randomness.
    report_q
        Judge q itself, also when the chains know better.
    correcting
        Whether chains may be run.
    budget
        Seconds the chains may take.
    """
    names = quantities.names(target.model)
    draws = matched_draws(target, q, seed)
    log_w = _log_weights(target, q, seed)
    elbo = on_draws(log_w, np.zeros(len(log_w))) if np.isfinite(log_w).all() else Elbo(-np.inf, np.inf)
    if run.status in ("interrupted", "stuck"):
        why = {"interrupted": "the fit was interrupted", "stuck": "the fit did not converge"}[run.status]
        if report_q or run.status == "interrupted" or not correcting:
            return Examination(elbo, draws, None, verdict.unfinished(names, why, log_w), False)
    deadline = None if budget is None else time.perf_counter() + budget
    try:
        return _look_further(target, q, names, draws, log_w, elbo, seed, report_q, correcting, deadline)
    except KeyboardInterrupt:
        why = "the checks were interrupted, so nothing is known about this fit"
        return Examination(elbo, draws, None, verdict.unfinished(names, why, log_w), False)


def _look_further(
    target: Any,
    q: Any,
    names: list[str],
    draws: Draws,
    log_w: np.ndarray,
    elbo: Elbo,
    seed: int,
    report_q: bool,
    correcting: bool,
    deadline: float | None,
) -> Examination:
    x = quantities.matrix(target.model, draws.values, draws.derived)
    variance = verdict.spread(log_w)
    found: tuple[mode_search.Mode, ...] = ()
    if mode_search.worth_searching(target.dim, variance):
        found = mode_search.search(target, q, keys.generator(seed, "modes"))
    if variance < verdict.CONSTANT_WEIGHTS or not correcting:
        judged = verdict.judge_by_weights(names, log_w, found, _shifts(target, found, x.mean(0), x.std(0), seed))
        return Examination(elbo, draws, None, judged, False)
    start = _with_correlations(target, q, seed)
    stages = JUDGING_STAGES if report_q else MOST_STAGES
    correction = correct(target, start, seed=seed, stages=stages, deadline=deadline)
    found = mode_search.unvisited(found, correction.draws.z)
    shifts = _shifts(target, found, correction.evidence.mean, correction.evidence.sd, seed)
    if report_q:
        judged = verdict.judge_fit(names, x.mean(0), x.std(0), correction, log_w, found, shifts)
    else:
        judged = verdict.judge_corrected(names, correction, log_w, found, shifts)
    return Examination(elbo, draws, correction, judged, not report_q)


def _with_correlations(target: Any, q: Any, seed: int) -> Any:
    """Where the chains start: for mean-field its linear response, whose metric knows the correlations, if there is one."""
    if not isinstance(q, DiagonalGaussian) or q.dim > _LARGEST_METRIC:
        return q
    try:
        return linear_response(target, q, seed=seed)
    except ModelError:
        return q


def matched_draws(target: Any, q: Any, seed: int) -> Draws:
    """Draws of q whose noise has mean zero and covariance I exactly, so that linear quantities carry no sampling error."""
    noise = q.noise(keys.generator(seed, "moments"), _MOMENT_DRAWS // 2)
    noise = np.concatenate([noise, -noise])
    if 4 * q.dim <= len(noise):
        factor = np.linalg.cholesky(noise.T @ noise / len(noise))
        noise = np.linalg.solve(factor, noise.T).T
    else:
        noise = noise / np.sqrt((noise**2).mean(0))
    z, _ = q.transport(noise)
    log_p, _ = target(z)
    values, derived = target.constrain(z)
    return Draws(z, log_p, values, derived)


def _log_weights(target: Any, q: Any, seed: int) -> np.ndarray:
    z, log_q = q.transport(q.noise(keys.generator(seed, "weights"), _WEIGHT_DRAWS))
    return np.asarray(target(z)[0] - log_q)


def _shifts(
    target: Any, modes: tuple[mode_search.Mode, ...], mean: np.ndarray, sd: np.ndarray, seed: int
) -> np.ndarray:
    """How far other modes would move each quantity's mean, in sds (K,)."""
    means = []
    for mode in modes:
        values, derived = target.constrain(np.asarray(mode.q.sample(keys.generator(seed, "mode means"), 256)))
        means.append(quantities.matrix(target.model, values, derived).mean(0))
    return verdict.mode_shifts(mean, sd, modes, means)
