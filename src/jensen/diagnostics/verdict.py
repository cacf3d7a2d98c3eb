"""The verdict: evidence -> one of three words per quantity, with reasons and one piece of advice.

Six ways to it, by what is reported:

    q itself, weights nearly constant       var(log w) < 0.1 on draws of q: nothing else can be far off
    q itself, against the chains            how far do mean and sd move, standard error added, once the chains have settled
    the mixture of several modes            importance weights nearly constant
    chains within each mode                 settled in each, and two ways to the modes' masses agree
    the corrected answer                    has each quantity settled (settled.py), and nothing blocks it
    particles, which have no density        how far are mean and sd from those of the corrected answer

and in all of them other modes that were found count against the quantities they would move. What no search found is not in
it: a verdict is always "within the modes found". k-hat is shown, not decided by: it is noise when weights are nearly constant
and says little per quantity.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from jensen.core.html import Html, badge, element, for_notebook, items, joined
from jensen.diagnostics import necks, tails
from jensen.diagnostics.beyond import FAR
from jensen.diagnostics.correct import Correction
from jensen.diagnostics.modes import Mode
from jensen.diagnostics.settled import LIMITS, is_constant

TRUSTED, MEANS_ONLY, DO_NOT_USE = "trusted", "means only", "do not use"
CONSTANT_WEIGHTS = 0.1
OFF = 0.2
"""Largest mean error in sds, and error of log sd, that a trusted quantity may have."""
_MODE_SHIFT = 0.05


@dataclass(frozen=True)
class Verdict:
    """May I believe this fit? Per scalar quantity, and overall (the worst of them).

    Attributes
    ----------
    names, words
        Scalar quantities and the verdict of each: "trusted", "means only" or "do not use".
    columns
        The numbers behind it, each (K,): what `table` shows.
    reasons
        Sentences, the most important first.
    advice
        The one thing to do.
    log_weights
        log p - log q at draws of q.
    about
        What is judged: "q" or "the corrected answer".
    """

    names: tuple[str, ...]
    words: tuple[str, ...]
    columns: dict[str, np.ndarray] = field(repr=False)
    reasons: tuple[str, ...]
    advice: str
    log_weights: np.ndarray = field(repr=False)
    about: str

    @property
    def overall(self) -> str:
        """The worst verdict of any quantity."""
        return next((word for word in (DO_NOT_USE, MEANS_ONLY) if word in self.words), TRUSTED)

    def of(self, names: list[str]) -> list[str]:
        """The words of some quantities, "not judged" where there is none."""
        judged = dict(zip(self.names, self.words, strict=True))
        return [judged.get(name, "not judged") for name in names]

    @property
    def table(self) -> Any:
        """Data frame, one row a scalar: verdict and the numbers behind it."""
        import pandas as pd

        return pd.DataFrame({"verdict": list(self.words), **self.columns}, index=list(self.names))

    @cached_property
    def khat(self) -> float:
        """Pareto k-hat of the importance weights of q (ArviZ). Information only."""
        import arviz as az

        weights = np.where(np.isfinite(self.log_weights), self.log_weights, -1e300)
        return float(az.psislw(weights[None])[1][0]) if hasattr(az, "psislw") else float("nan")

    @property
    def counts(self) -> str:
        """For example "8 trusted, 2 do not use"."""
        return ", ".join(
            f"{self.words.count(word)} {word}" for word in (TRUSTED, MEANS_ONLY, DO_NOT_USE) if word in self.words
        )

    def __str__(self) -> str:
        head = f"{self.overall} ({self.counts}; about {self.about}, within the modes found)"
        return "\n".join([head, *(f"  - {reason}" for reason in self.reasons), f"  -> {self.advice}"])

    @property
    def html(self) -> Html:
        """What `str` says, as a paragraph, a list of reasons, and the advice."""
        about = f" {self.counts}; about {self.about}, within the modes found"
        advice = element("p", element("b", self.advice))
        return joined([element("p", badge(self.overall), about), items(self.reasons), advice])

    def _repr_html_(self) -> str:
        return for_notebook(self.html)


def spread(log_weights: np.ndarray) -> float:
    """var(log w); infinite when any draw of q has density zero."""
    return float(np.var(log_weights)) if np.isfinite(log_weights).all() else float("inf")


def judge_by_weights(
    names: list[str],
    log_weights: np.ndarray,
    modes: tuple[Mode, ...],
    shifts: np.ndarray,
    beyond: np.ndarray | float = 0.0,
    neck: str = "",
) -> Verdict:
    """Verdict on q from weights alone; modes move quantities by `shifts`, wider draws by `beyond` (K,), a neck all of them."""
    variance, beyond = spread(log_weights), np.broadcast_to(beyond, len(names))
    good = (shifts < _MODE_SHIFT) & (beyond < FAR) & (variance < CONSTANT_WEIGHTS) & (not neck)
    reasons = [f"q and the posterior agree up to a variance of {variance:.3g} in the log weights"]
    if variance >= CONSTANT_WEIGHTS:
        reasons = [f"the log weights of q have variance {variance:.3g}, and no chains were run to look further"]
    elif (beyond >= FAR).any():
        reasons.append(f"draws wider than q's see mass that q leaves out: it would move {names[int(beyond.argmax())]}")
    reasons += [neck] * bool(neck)
    reasons += _about_modes(modes)
    advice = "Use it."
    if not good.all():
        advice = _MODES_ADVICE if modes else "Allow the correction (correct='auto'), or use NUTS."
        advice = _PROPER if neck.startswith(necks.IMPROPER) else advice
    words = tuple(TRUSTED if ok else DO_NOT_USE for ok in good)
    columns = {"mode shift": shifts, "wider draws": beyond}
    return Verdict(tuple(names), words, columns, tuple(reasons), advice, log_weights, "q")


def judge_fit(
    names: list[str],
    q_mean: np.ndarray,
    q_sd: np.ndarray,
    correction: Correction,
    log_weights: np.ndarray,
    modes: tuple[Mode, ...],
    shifts: np.ndarray,
    beyond: np.ndarray | float = 0.0,
) -> Verdict:
    """Verdict on q: how far the chains, or draws wider than q's, move it, for quantities whose chains have settled."""
    evidence = correction.evidence
    constant = is_constant(q_mean, q_sd) & is_constant(evidence.mean, evidence.sd)
    unit = np.where(evidence.sd > 0, evidence.sd, 1.0)
    moved = np.where(constant, 0.0, np.abs(evidence.mean - q_mean) / unit)
    widened = np.where(constant, 0.0, np.abs(np.log(np.maximum(q_sd, 1e-300) / unit)))
    lost = bool(((evidence.between > 0.6) & ((moved > 0.5) | (widened > 0.7))).any())
    known = (evidence.between < LIMITS["between"]) & (correction.acceptance > LIMITS["acceptance"]) & (not lost)
    mean_ok = known & (moved + evidence.se < OFF) & (shifts < _MODE_SHIFT)
    sd_ok = mean_ok & (widened + evidence.sel < OFF) & (beyond < FAR)
    words = words_of(mean_ok, sd_ok)
    columns = {
        "moved (sds)": moved,
        "sd of q / chains": q_sd / unit,
        "between-chain share": evidence.between,
        "mode shift": shifts,
    }
    reasons = []
    if lost:
        reasons.append("the chains that start in q are far from settled: q is far from the posterior")
    if not sd_ok.all():
        worst = int(np.argmax(np.where(sd_ok, -1.0, np.maximum(moved, widened))))
        reasons.append(
            f"{names[worst]}: chains started from q move its mean by {moved[worst]:.2f} sd, "
            f"and q's sd is {q_sd[worst] / unit[worst]:.2f} times theirs"
        )
    else:
        reasons.append(f"chains started from q move no mean by more than {moved.max():.2f} sd")
    reasons += _about_modes(modes)
    advice = "Use it."
    if modes:
        advice = _MODES_ADVICE
    elif not sd_ok.all():
        advice = "Use method='auto', which reports the corrected answer."
    judged = Verdict(tuple(names), words, columns, tuple(reasons), advice, log_weights, "q")
    return beyond_draws(judged, correction.guard) if correction.guard.startswith(necks.IMPROPER) else judged


def judge_corrected(
    names: list[str], correction: Correction, log_weights: np.ndarray, modes: tuple[Mode, ...], shifts: np.ndarray
) -> Verdict:
    """Verdict on the corrected answer: which quantities' chains have settled."""
    evidence = correction.evidence
    mean_ok = correction.mean_ok & (shifts < _MODE_SHIFT)
    words = words_of(mean_ok, mean_ok & correction.sd_ok)
    columns = {
        "between-chain share": evidence.between,
        "se of mean (sds)": evidence.se,
        "se of log sd": evidence.sel,
        "drift of mean": evidence.drift_mean,
        "drift of log sd": evidence.drift_sd,
        "mode shift": shifts,
    }
    known = f" (variance {spread(log_weights):.2g} in its log weights)" if np.isfinite(log_weights).all() else ""
    reasons = [
        f"q alone is not enough{known}; the answer is that of {correction.stages} stages of short chains started from q"
    ]
    refused = [i for i, word in enumerate(words) if word != TRUSTED]
    advice = "Use it."
    if refused:
        worst = max(refused, key=lambda i: evidence.between[i])
        why = correction.guard or "some quantities have not settled"
        reasons.append(f"{why}; the largest between-chain share is {evidence.between[worst]:.2f}, at {names[worst]}")
        advice = f"Reparametrize {names[worst]} (for example non-centered), or run NUTS for it."
        if correction.guard == tails.WHY:
            advice = "Use quantiles instead of that sd, or a prior with a lighter tail."
        elif correction.guard.startswith(necks.IMPROPER):
            advice = _PROPER
    if modes:
        reasons += _about_modes(modes)
        advice = _MODES_ADVICE
    return Verdict(tuple(names), words, columns, tuple(reasons), advice, log_weights, "the corrected answer")


_PROPER = "Give it a proper prior, which rules out what the data do not."


def beyond_draws(judged: Verdict, why: str) -> Verdict:
    """The verdict on an answer whose draws miss a part of the posterior, in words: nothing is to be used."""
    advice = (
        _PROPER
        if why.startswith(necks.IMPROPER)
        else "Run posterior.nuts(), or write the scale's effects non-centered."
    )
    return replace(judged, words=(DO_NOT_USE,) * len(judged.names), reasons=(*judged.reasons, why), advice=advice)


def of_copies(judged: Verdict, moved: np.ndarray, widened: np.ndarray, why: str, report_q: bool) -> Verdict:
    """The verdict on an answer that is now spread over all copies of the posterior, or on q, which describes some of them.

    Means move by `moved` sds and log sds by `widened` (K,) from some of them to all.
    """
    if not report_q:
        reason = f"{why}; the answer is spread over all of these copies"
        advice = _COPIES_ADVICE if judged.advice == "Use it." else judged.advice
        return replace(judged, reasons=(*judged.reasons, reason), advice=advice, about="the corrected answer")
    mean_ok = (moved < OFF) & np.array([word != DO_NOT_USE for word in judged.words])
    words = words_of(mean_ok, mean_ok & (widened < OFF) & np.array([word == TRUSTED for word in judged.words]))
    reason = f"{why}; q describes some of these copies only"
    return replace(judged, words=words, reasons=(*judged.reasons, reason), advice=_MODES_ADVICE)


_COPIES_ADVICE = "Use the draws; to tell the copies apart, order what can change places, or fix a sign."


def judge_mixture(
    names: list[str], modes: tuple[Mode, ...], share: float, draws: int, log_weights: np.ndarray
) -> Verdict:
    """Verdict on the mixture of all modes found, whose importance weights are nearly constant."""
    shares = ", ".join(f"{100 * mode.weight:.1f}%" for mode in modes)
    reasons = (
        f"{len(modes) + 1} modes were found; those beside q hold {shares} of the posterior mass",
        f"the answer is their mixture of Gaussians, with importance weights worth {100 * share:.0f}% of {draws} draws",
    )
    advice = "Use the draws; a mean between modes describes none of them."
    words = (TRUSTED,) * len(names)
    return Verdict(tuple(names), words, {}, reasons, advice, log_weights, "the corrected answer")


def judge_modes(
    names: list[str], inside: Any, x: np.ndarray, mixed_mean: np.ndarray, log_weights: np.ndarray
) -> Verdict:
    """Verdict on draws x (n, K) of chains that were run within each mode (`jensen.diagnostics.mixture.Within`).

    In every mode that counts they must have settled, and the means must not depend on which of two ways told the modes' masses.
    """
    mean = inside.weights @ x
    sd = np.sqrt(inside.weights @ (x - mean) ** 2)
    moved = np.abs(mean - mixed_mean) / np.where(sd > 0, sd, 1.0)
    counting = [found for found, mass in zip(inside.corrections, inside.masses, strict=True) if mass > _MODE_COUNTS]
    agreed = moved < OFF
    mean_ok = agreed & np.all([found.mean_ok for found in counting], axis=0)
    sd_ok = mean_ok & np.all([found.sd_ok for found in counting], axis=0)
    shares = ", ".join(f"{100 * mass:.1f}%" for mass in inside.masses)
    reasons = [
        f"{len(inside.masses)} modes hold {shares} of the posterior mass; the answer is that of chains within each"
    ]
    if not agreed.all():
        reasons.append(
            f"two ways to tell these masses disagree: {names[int(moved.argmax())]} moves by {moved.max():.2f} sd"
        )
    elif not sd_ok.all():
        reasons.append("the chains have not settled in every mode")
    advice = "Use the draws; a mean between modes describes none of them." if sd_ok.all() else _MODES_ADVICE
    columns = {"bridge against weights (sds)": moved}
    words = words_of(mean_ok, sd_ok)
    return Verdict(tuple(names), words, columns, tuple(reasons), advice, log_weights, "the corrected answer")


_MODE_COUNTS = 0.003
"""Mass from which on a mode's chains must have settled."""


def judge_draws(names: list[str], x: np.ndarray, y: np.ndarray, weights: np.ndarray, answer: Verdict) -> Verdict:
    """Verdict on draws x (n, K) without a density, against draws y (m, K) of an answer that has been judged."""
    mean, sd = weights @ y, np.sqrt(weights @ (y - weights @ y) ** 2)
    constant = is_constant(mean, sd) & is_constant(x.mean(0), x.std(0))
    unit = np.where(sd > 0, sd, 1.0)
    moved = np.where(constant, 0.0, np.abs(x.mean(0) - mean) / unit)
    ratio = np.where(constant, 1.0, x.std(0) / unit)
    widened = np.abs(np.log(np.maximum(ratio, 1e-300)))
    known = np.array([word != DO_NOT_USE for word in answer.words]), np.array([w == TRUSTED for w in answer.words])
    mean_ok = known[0] & (moved < OFF)
    words = words_of(mean_ok, mean_ok & known[1] & (widened < OFF))
    worst = int(np.argmax(np.maximum(moved, widened)))
    reasons = (
        f"{names[worst]}: its mean is {moved[worst]:.2f} sd from that of the corrected answer (method='auto'), "
        f"its sd {ratio[worst]:.2f} times as large",
        f"the corrected answer itself: {answer.counts}",
    )
    columns = {"mean off (sds)": moved, "sd / corrected": ratio}
    advice = "Use it." if set(words) == {TRUSTED} else "Use method='auto', whose answer this one was held against."
    return Verdict(tuple(names), words, columns, reasons, advice, np.full(1, np.nan), "the particles")


def unfinished(names: list[str], why: str, log_weights: np.ndarray) -> Verdict:
    """Verdict on a fit that was interrupted, ran out of time or got stuck."""
    advice = "Go on with posterior.refine(), or fit again."
    return Verdict(tuple(names), (DO_NOT_USE,) * len(names), {}, (why,), advice, log_weights, "q")


def judge_chains(
    names: list[str], constant: np.ndarray, rhat: np.ndarray, bulk: np.ndarray, tail: np.ndarray
) -> Verdict:
    """Verdict on long chains from R-hat and effective sample sizes (K,); too few draws make them NaN, which is not enough."""
    rhat = np.where(np.isnan(rhat) & ~constant, np.inf, rhat)
    bulk, tail = (np.where(constant, np.inf, np.nan_to_num(size)) for size in (bulk, tail))
    mean_ok = constant | ((rhat < _RHAT[1]) & (bulk > _ENOUGH_DRAWS / 4))
    both_ok = constant | ((rhat < _RHAT[0]) & (np.minimum(bulk, tail) > _ENOUGH_DRAWS))
    words = words_of(mean_ok, both_ok & mean_ok)
    columns = {"r-hat": rhat, "bulk ess": bulk, "tail ess": tail}
    worst = int(np.nanargmax(np.where(constant, 0.0, rhat)))
    reasons = (
        f"the largest R-hat is {rhat[worst]:.3f}, at {names[worst]}; the smallest effective sample size {bulk.min():.0f}",
    )
    advice = "Use it." if both_ok.all() else "Run longer chains: engine=jn.Gibbs(draws=...)."
    return Verdict(tuple(names), words, columns, reasons, advice, np.full(1, np.nan), "the Gibbs chains")


_RHAT = (1.01, 1.05)
_ENOUGH_DRAWS = 400


def exact(names: list[str], why: str, log_weights: np.ndarray) -> Verdict:
    """Verdict on a q that is the posterior by construction."""
    return Verdict(tuple(names), (TRUSTED,) * len(names), {}, (why,), "Use it.", log_weights, "q")


def unchecked(names: list[str], why: str, log_weights: np.ndarray) -> Verdict:
    """Verdict on coordinate ascent that no chain has checked: its means are usually right, its sds leave something out."""
    reasons = (why, "q leaves out the dependence between its blocks, so its sds may be too small")
    advice = "Use the means with care, and compare them with fits of other seeds, or of fewer rows by method='gibbs'."
    return Verdict(tuple(names), (MEANS_ONLY,) * len(names), {}, reasons, advice, log_weights, "q")


_MODES_ADVICE = (
    "Several modes: order or constrain the parameters that can swap, or use a sampler that visits all modes."
)


def mode_shifts(mean: np.ndarray, sd: np.ndarray, modes: tuple[Mode, ...], mode_means: list[np.ndarray]) -> np.ndarray:
    """How far other modes would move each mean, in sds (K,): weight times distance."""
    total = np.zeros(len(mean))
    for mode, other in zip(modes, mode_means, strict=True):
        total += mode.weight * np.abs(other - mean) / np.where(sd > 0, sd, 1.0)
    return total


def _about_modes(modes: tuple[Mode, ...]) -> list[str]:
    if not modes:
        return []
    shares = ", ".join(f"{100 * mode.weight:.1f}%" for mode in modes)
    many = f"{len(modes)} other modes hold" if len(modes) > 1 else "another mode holds"
    return [f"{many} about {shares} of the posterior mass, and the answer describes one mode only"]


def words_of(mean_ok: np.ndarray, both_ok: np.ndarray) -> tuple[str, ...]:
    """One of the three words for each quantity."""
    return tuple(
        TRUSTED if both else MEANS_ONLY if mean else DO_NOT_USE for mean, both in zip(mean_ok, both_ok, strict=True)
    )
