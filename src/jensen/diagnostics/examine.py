"""From a fitted q to evidence and a verdict: log weights, other modes, chains where they are needed.

    1. log weights of 2,200 draws of q           ELBO with its error, var(log w); if small, wider draws and steps into necks
    2. quenches for other modes                  where they tell anything
    3. weights nearly constant, one mode         trusted, and done
    4. several modes, each nearly Gaussian       their mixture is q, and its weighted draws are the answer
    5. groups with few globals                   groups are integrated by quadrature, globals by importance sampling
    6. short chains from q                       correct the answer, or judge q by how far they move
    7. modes that those do not reach             chains within each mode, whose masses a bridge tells
    8. a density that changes of order or sign   the answer is spread over all copies
       leave as it is

All of it runs on the program the fit has compiled.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import ModelError
from jensen.diagnostics import centering, chains, necks, quantities, symmetries, verdict
from jensen.diagnostics import modes as mode_search
from jensen.diagnostics.beyond import FAR, beyond
from jensen.diagnostics.by_block import judge_blocks
from jensen.diagnostics.correct import Correction, correct
from jensen.diagnostics.linear_response import linear_response
from jensen.diagnostics.mixture import ENOUGH, LEAST_SHARE, Mixed, mix, within
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.verdict import Verdict
from jensen.families.meanfield import DiagonalGaussian
from jensen.families.structured import ArrowGaussian
from jensen.models.large import LargeTarget
from jensen.objectives.elbo import Elbo, on_draws
from jensen.run import Run

_WEIGHT_DRAWS = 2200
_MOMENT_DRAWS, _FEWEST = 4096, 512
_NUMBERS = 20_000_000
"""Numbers of the draws that are kept, at most: of more than 4,000 dimensions there are fewer."""
_AT_ONCE = 2**21
"""Numbers of draws that are made at once."""
_LARGEST_METRIC = 1500


@dataclass(frozen=True)
class Examination:
    """What was found out about q.

    Attributes
    ----------
    elbo
        On fresh draws.
    kept, weights
        The answer: draws and their weights (n,). Those of q have matched moments: means and sds of real sites are exact.
    verdict
        About the answer.
    corrected
        Whether the answer is better than q: that of the chains, or of a mixture of modes.
    note
        How it came about, or "".
    correction
        The chains, where they ran: they can judge another q of the same target.
    modes
        Other modes that neither q nor the chains reach.
    q
        The approximation that the answer comes from where it is not the examined one: a mixture of modes.
    """

    elbo: Elbo
    kept: Draws
    weights: np.ndarray
    verdict: Verdict
    corrected: bool = False
    note: str = ""
    correction: Correction | None = None
    modes: tuple[mode_search.Mode, ...] = ()
    q: Any = None


def examine(
    target: Any,
    q: Any,
    run: Run,
    *,
    seed: int,
    report_q: bool = False,
    correcting: bool = True,
    budget: float | None = None,
    known: Correction | None = None,
    modes: tuple[mode_search.Mode, ...] | None = None,
) -> Examination:
    """Judge q, and correct it.

    Parameters
    ----------
    target, q, run
        The log density, the fit (with a density of its own), and its record.
    seed
        Randomness.
    report_q
        Judge q itself, also when the chains know better.
    correcting
        Whether chains may be run.
    budget
        Seconds the chains may take.
    known
        Chains that ran before for the same target, to judge q by.
    modes
        Other modes that were found before; None: search.
    """
    found = _Look(target, q, seed, modes)
    deadline = None if budget is None else time.perf_counter() + budget
    try:
        if run.status == "interrupted":
            raise KeyboardInterrupt
        found.weigh()
        if isinstance(target, LargeTarget) and not target.holds_at(q):
            why = "the fit was ended before the subsample was corrected where q is"
            return found.about_q(verdict.unfinished(found.names, why, found.log_w))
        if run.status == "stuck" and (report_q or not correcting):
            return found.about_q(verdict.unfinished(found.names, "the fit did not converge", found.log_w))
        if not report_q and correcting:
            answer = _to_the_end(found, _answer(found, deadline))
        else:
            answer = _about_q(found, correcting, deadline, known)
        return symmetries.spread(target, answer, seed, report_q or not correcting)
    except np.linalg.LinAlgError:
        return found.about_q(verdict.unfinished(found.names, "q or the chains from it collapsed", found.log_w))
    except KeyboardInterrupt:
        why = "the fit was interrupted" if run.status == "interrupted" else "the checks were interrupted"
        return found.about_q(verdict.unfinished(found.names, f"{why}, so nothing is known about it", found.log_w))


class _Look:
    """What is known about q before any chain runs."""

    def __init__(self, target: Any, q: Any, seed: int, modes: tuple[mode_search.Mode, ...] | None):
        self.target, self.q, self.seed, self._known = target, q, seed, modes
        self.names = quantities.names(target.model)
        self.draws = matched_draws(target, q, seed)
        x = quantities.matrix(target.model, self.draws.values, self.draws.derived)
        with np.errstate(over="ignore", invalid="ignore"):  # of a q that is far off
            self.mean, self.sd = x.mean(0), x.std(0)
        self.log_w = np.full(1, np.nan)

    def weigh(self) -> None:
        """Log weights on q's own draws, and whether draws wider than q see mass that those cannot."""
        z, self.log_w, gradient = _log_weights(self.target, self.q, self.seed)
        self.scores = z, gradient
        self.constant = verdict.spread(self.log_w) < verdict.CONSTANT_WEIGHTS
        self.beyond = beyond(self.target, self.q, self.seed) if self.constant else np.zeros(len(self.names))
        self.neck = necks.longest(self.target, z, self.straight) if self.constant else necks.Neck()

    def straight(self) -> Any:
        """Coordinates in which nothing scales q's draws, or None."""
        return centering.learn(*self.scores)

    @property
    def enough(self) -> bool:
        """Whether the weights say that q is the posterior, as far as draws of q, wider ones and steps into necks can tell."""
        return self.constant and bool((self.beyond < FAR).all()) and not self.neck.why

    def modes(self) -> tuple[mode_search.Mode, ...]:
        """Other modes, where a search tells anything."""
        if self.target.dim > _LARGEST_METRIC:
            return ()
        if self._known is not None:
            return mode_search.unvisited(self._known, self.draws.z)
        if not mode_search.worth_searching(self.target.dim, verdict.spread(self.log_w)):
            return ()
        search = mode_search.search_far if isinstance(self.target, LargeTarget) else mode_search.search
        found = search(self.target, self.q, keys.generator(self.seed, "modes"))
        if not found or not self.constant or isinstance(self.target, LargeTarget):
            return found
        level, rng = float(np.mean(self.log_w)), keys.generator(self.seed, "described")
        return mode_search.undescribed(self.target, self.q, found, level, rng)

    def about_q(self, judged: Verdict) -> Examination:
        """The examination that reports q."""
        finite = np.isfinite(self.log_w).all()
        elbo = on_draws(self.log_w, np.zeros(len(self.log_w))) if finite else Elbo(-np.inf, np.inf)
        if finite and isinstance(self.target, LargeTarget):  # of all rows, not of those that stand for them
            shift, spread, draws = self.target.discrepancy(self.q, self.seed)
            elbo = Elbo(elbo.value + shift, float(np.hypot(elbo.error, spread / np.sqrt(draws))))
        equal = np.full(len(self.draws.z), 1 / len(self.draws.z))
        return Examination(elbo, self.draws, equal, judged)


def _answer(found: _Look, deadline: float | None) -> Examination:
    """Of q, a mixture of modes, or the chains, whichever is needed."""
    modes, mixed = found.modes(), None
    if not modes and found.enough:
        return found.about_q(_judge_by_weights(found, modes))
    if modes and not isinstance(found.target, LargeTarget):  # whose correction holds at one mode only
        mixed = mix(found.target, found.q, modes, found.seed)
        if mixed.share > ENOUGH:
            judged = verdict.judge_mixture(found.names, modes, mixed.share, len(mixed.weights), found.log_w)
            note = f"a mixture of {len(mixed.q.weights)} Gaussians, effective share of its weights {mixed.share:.2f}"
            answer = {"kept": mixed.draws, "weights": mixed.weights, "q": mixed.q, "elbo": mixed.elbo}
            return replace(found.about_q(judged), **answer, corrected=True, note=note)
    if not modes and (integral := _integral(found, False, deadline)):
        return integral
    if _dear(found):
        return found.about_q(_without_chains(found, modes))
    correction = _chains(found, False, deadline)
    modes = mode_search.unvisited(modes, correction.draws.z)
    if (
        modes
        and mixed is not None
        and mixed.share > LEAST_SHARE
        and (deadline is None or time.perf_counter() < deadline)
    ):
        return _within_modes(found, mixed, deadline)
    shifts = _shifts(found.target, modes, correction.evidence.mean, correction.evidence.sd, found.seed)
    judged = verdict.judge_corrected(found.names, correction, found.log_w, modes, shifts)
    note = f"{correction.stages} stages of chains, acceptance {correction.acceptance:.2f}"
    answer = {"kept": correction.draws, "weights": correction.weights, "correction": correction, "modes": modes}
    return replace(found.about_q(judged), **answer, corrected=True, note=note)


def _to_the_end(found: _Look, answer: Examination) -> Examination:
    """The answer, refused where its draws leave out a neck; those of q and of chains have been asked before."""
    if not answer.corrected or answer.correction is not None:
        return answer
    some = (np.arange(_WEIGHT_DRAWS) + 0.5) / _WEIGHT_DRAWS
    some = np.minimum(np.searchsorted(np.cumsum(answer.weights), some), len(answer.weights) - 1)
    neck = necks.longest(found.target, answer.kept.z[some], found.straight)
    return replace(answer, verdict=verdict.beyond_draws(answer.verdict, neck.why)) if neck.why else answer


def _within_modes(found: _Look, mixed: Mixed, deadline: float | None) -> Examination:
    """Chains in every mode, and the modes' masses by two ways that have to agree: the mixture's weights and a bridge."""
    inside = within(found.target, mixed, found.seed, deadline)
    x = quantities.matrix(found.target.model, inside.draws.values, inside.draws.derived)
    y = quantities.matrix(found.target.model, mixed.draws.values, mixed.draws.derived)
    judged = verdict.judge_modes(found.names, inside, x, mixed.weights @ y, found.log_w)
    note = f"chains within each of {len(inside.masses)} modes"
    answer = {"kept": inside.draws, "weights": inside.weights, "q": mixed.q, "elbo": mixed.elbo}
    return replace(found.about_q(judged), **answer, corrected=True, note=note)


def _about_q(found: _Look, correcting: bool, deadline: float | None, known: Correction | None) -> Examination:
    """How good q itself is, judged by its weights or by how far chains move from it."""
    modes = found.modes()
    if found.enough or not correcting:
        return found.about_q(_judge_by_weights(found, modes))
    if not modes and known is None and (integral := _integral(found, True, deadline)):
        return integral
    if known is None and _dear(found):
        return found.about_q(_without_chains(found, modes))
    correction = known or _chains(found, True, deadline)
    modes = mode_search.unvisited(modes, correction.draws.z)
    shifts = _shifts(found.target, modes, correction.evidence.mean, correction.evidence.sd, found.seed)
    judged = verdict.judge_fit(found.names, found.mean, found.sd, correction, found.log_w, modes, shifts, found.beyond)
    return replace(found.about_q(judged), correction=correction)


def _integral(found: _Look, report_q: bool, deadline: float | None) -> Examination | None:
    """Where q has groups: their integral and that over their few globals, or q held against it."""
    if not isinstance(found.q, ArrowGaussian):
        return None
    from jensen.diagnostics.integrated import judge_against, judge_integrated
    from jensen.diagnostics.nested import PATIENCE, integrate_globals

    left = PATIENCE if deadline is None else min(PATIENCE, deadline - time.perf_counter())
    integral = integrate_globals(found.target, found.q, found.seed, left) if left > 0 else None
    if integral is None:
        return None
    if report_q:
        return found.about_q(judge_against(found.names, found.mean, found.sd, integral, found.log_w))
    judged = judge_integrated(found.names, integral, found.log_w)
    answer = {"kept": integral.draws, "weights": integral.weights, "note": integral.how}
    return replace(found.about_q(judged), **answer, corrected=True)


def _judge_by_weights(found: _Look, modes: tuple[mode_search.Mode, ...]) -> Verdict:
    shifts = _shifts(found.target, modes, found.mean, found.sd, found.seed)
    return verdict.judge_by_weights(found.names, found.log_w, modes, shifts, found.beyond, found.neck.why)


def _dear(found: _Look) -> bool:
    """Whether chains cost more than anybody would wait for."""
    return found.target.dim > chains.WIDE and chains.seconds(found.target) > chains.PATIENCE


def _without_chains(found: _Look, modes: tuple[mode_search.Mode, ...]) -> Verdict:
    why = f"short chains would take about {chains.seconds(found.target):,.0f} s of one core here, and were left out"
    if isinstance(found.q, ArrowGaussian) and not modes:
        return judge_blocks(found.names, found.target.model, found.q, found.scores, found.log_w, why)
    judged = _judge_by_weights(found, modes)
    return replace(judged, reasons=(*judged.reasons, why), advice="Run posterior.nuts() to know more.")


def _chains(found: _Look, judging: bool, deadline: float | None) -> Correction:
    start = _with_correlations(found.target, found.q, found.seed)
    return correct(found.target, start, seed=found.seed, judging=judging, deadline=deadline, scores=found.scores)


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
    n = min(_MOMENT_DRAWS, max(_FEWEST, _NUMBERS // target.dim))
    noise = matched_noise(q.noise(keys.generator(seed, "moments"), n // 2))
    z = _transported(q, noise)
    values, derived = target.constrain(z)
    # Their log densities are only for export, and evaluated there.
    return Draws(z, np.full(len(z), np.nan), values, derived)


def _transported(q: Any, noise: np.ndarray) -> np.ndarray:
    """Draws made of noise (n, D), part by part where a few copies of all would be much memory."""
    if noise.size <= _AT_ONCE:
        return np.asarray(q.transport(noise)[0])
    z, step = np.empty_like(noise), max(1, _AT_ONCE // noise.shape[1])
    for start in range(0, len(noise), step):
        z[start : start + step] = q.transport(noise[start : start + step])[0]
    return z


def matched_noise(noise: np.ndarray) -> np.ndarray:
    """Normal draws (n, D) -> (2 n, D), with mean zero and covariance I; variances only where that needs more draws."""
    noise = np.concatenate([noise, -noise])
    if 4 * noise.shape[1] > len(noise):
        noise /= np.sqrt(np.square(noise).mean(0))
        return noise
    factor = np.linalg.cholesky(noise.T @ noise / len(noise))
    return np.linalg.solve(factor, noise.T).T


def _log_weights(target: Any, q: Any, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws of q, their log weights and gradients."""
    z, log_q = q.transport(q.noise(keys.generator(seed, "weights"), target.affordable(_WEIGHT_DRAWS, 256)))
    log_p, gradient = target(np.asarray(z))
    return np.asarray(z), np.asarray(log_p - log_q), gradient


def _shifts(
    target: Any, modes: tuple[mode_search.Mode, ...], mean: np.ndarray, sd: np.ndarray, seed: int
) -> np.ndarray:
    """How far other modes would move each quantity's mean, in sds (K,)."""
    means = []
    for mode in modes:
        values, derived = target.constrain(np.asarray(mode.q.sample(keys.generator(seed, "mode means"), 256)))
        means.append(quantities.matrix(target.model, values, derived).mean(0))
    return verdict.mode_shifts(mean, sd, modes, means)
