"""The ladder: richer approximations, tried in turn where the checked Gaussian and its correction are not enough.

    Gaussian -> checks -> chains -> scale layer -> flow          (`method="auto"`; examine.py does the first three)

A rung begins at the best q so far. It is kept only if its ELBO on fresh draws is higher by more than twice the error of the
difference, *and* the variance of its log weights is not: an ELBO can be gained by fitting the bulk while the means get worse.
A kept rung is examined like any fit, with chains in its own coordinates, and its answer is taken when more quantities are
trusted. The climb ends when all are, or when the budget is spent.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import JensenError
from jensen.diagnostics import necks, settled, tails, verdict
from jensen.diagnostics.beyond import FAR, beyond
from jensen.diagnostics.examine import Examination, examine
from jensen.engines.layered import ScaleLayer
from jensen.objectives.elbo import Elbo, on_draws
from jensen.run import Run, run

_DRAWS = 4096
_NARROWER = 0.8
"""Share of an sd that chains saw from which on smaller ones, of other chains, are not believed."""
_LARGEST_LAYER, _LARGEST_FLOW = 100, 100
"""Dimensions beyond which a rung costs more than it gives."""


@dataclass(frozen=True)
class Rung:
    """One step of the climb.

    Attributes
    ----------
    name
        What was tried.
    elbo, spread
        On fresh draws; variance of the log weights.
    kept
        Whether q was better than the one before.
    words
        Verdict counts of the answer that came of it, or "".
    gradients
        Of this rung alone.
    """

    name: str
    elbo: Elbo
    spread: float
    kept: bool
    words: str
    gradients: int

    def __str__(self) -> str:
        what = f"; {self.words}" if self.words else "" if self.kept else "; not kept"
        return f"{self.name}: ELBO {self.elbo}, var(log w) {self.spread:.2g}{what} ({self.gradients:,} gradients)"


def climb(
    target: Any,
    q: Any,
    record: Run,
    found: Examination,
    *,
    seed: int,
    left: Callable[[], float | None],
) -> tuple[Any, Examination, tuple[Rung, ...]]:
    """Best q and examination of the rungs above a Gaussian that has been examined, and the story of the climb.

    Parameters
    ----------
    target, q, record, found
        The log density, the Gaussian, its run and its examination.
    seed
        Randomness.
    left
        Seconds left of the budget, or None.
    """
    elbo, spread = _weighed(target, q, seed)
    rungs = [Rung("Gaussian", elbo, spread, True, found.verdict.counts, target.gradients)]
    for name, engine in _rungs(target.dim):
        seconds = left()
        if found.verdict.overall == verdict.TRUSTED or seconds == 0 or _hopeless(found):
            break
        before = target.gradients
        try:
            other, fitted = run(replace(engine, start=q), target, seed=seed, budget=seconds, progress=False, label=name)
            if fitted.status == "interrupted":
                break
            other_elbo, other_spread = _weighed(target, other, seed)
        except KeyboardInterrupt:
            break
        except (JensenError, np.linalg.LinAlgError):
            continue
        better = other_elbo.value - elbo.value > 2 * np.hypot(other_elbo.error, elbo.error) and other_spread <= spread
        words = ""
        if better:
            q, elbo, spread = other, other_elbo, other_spread
            looked = examine(target, q, fitted, seed=seed, budget=left(), modes=found.modes)
            if spread < verdict.CONSTANT_WEIGHTS:
                looked = _not_cleared(looked, found, beyond(target, q, seed))
            looked = _as_wide(looked, found)
            words = looked.verdict.counts
            if _trusted(looked) > _trusted(found):
                found = looked
        rungs.append(Rung(name, other_elbo, other_spread, bool(better), words, target.gradients - before))
    return q, found, tuple(rungs)


def _rungs(dim: int) -> list[tuple[str, Any]]:
    """Engines of the rungs for D dimensions, in order."""
    rungs: list[tuple[str, Any]] = []
    if 2 <= dim <= _LARGEST_LAYER:
        rungs.append(("scale layer", ScaleLayer()))
    if 2 <= dim <= _LARGEST_FLOW and find_spec("flowjax") is not None:
        from jensen.engines.flow import CouplingFlow

        rungs.append(("flow", CouplingFlow()))
    return rungs


def _not_cleared(looked: Examination, before: Examination, moved: np.ndarray) -> Examination:
    """What draws wider than q still move keeps its old word: chains in q's coordinates do not see such tails (improper ones)."""
    far = ~(moved < FAR)
    if not far.any():
        return looked
    old, judged = before.verdict, looked.verdict
    words = tuple(a if kept else b for a, b, kept in zip(old.words, judged.words, far, strict=True))
    reason = f"draws wider than q's still move {judged.names[int(np.argmax(far))]}, which keeps the word it had before"
    advice = judged.advice if set(words) == {verdict.TRUSTED} else old.advice
    return replace(looked, verdict=replace(judged, words=words, reasons=(*judged.reasons, reason), advice=advice))


def _as_wide(looked: Examination, before: Examination) -> Examination:
    """Where chains of the rung before went farther, with a mean that had settled, the sds of these chains are not known."""
    if looked.correction is None or before.correction is None:
        return looked
    old, judged = before.verdict, looked.verdict
    ratio = looked.correction.evidence.sd / np.maximum(before.correction.evidence.sd, 1e-300)
    settled_before = np.array([word != verdict.DO_NOT_USE for word in old.words])
    narrow = settled_before & (ratio < _NARROWER) & (np.array(judged.words) == verdict.TRUSTED)
    if not narrow.any():
        return looked
    words = tuple(verdict.MEANS_ONLY if less else word for word, less in zip(judged.words, narrow, strict=True))
    worst = int(np.argmin(np.where(narrow, ratio, np.inf)))
    reason = f"the chains' sd of {judged.names[worst]} is {ratio[worst]:.2f} times that of the chains before, which went farther"
    return replace(looked, verdict=replace(judged, words=words, reasons=(*judged.reasons, reason), advice=old.advice))


def _hopeless(found: Examination) -> bool:
    """Whether no approximation helps: nothing is refused but sds that no number of draws tells, or the posterior is improper."""
    chains = found.correction
    if chains is None:
        return False
    only_tails = (
        chains.guard == tails.WHY
        and bool(settled.means_settled(chains.evidence).all())
        and bool(settled.sds_settled(chains.evidence).all())
    )
    return only_tails or chains.guard.startswith(necks.IMPROPER)


def _trusted(found: Examination) -> int:
    return found.verdict.words.count(verdict.TRUSTED)


def _weighed(target: Any, q: Any, seed: int) -> tuple[Elbo, float]:
    """ELBO and variance of the log weights on fresh draws."""
    z, log_q = q.transport(q.noise(keys.generator(seed, "rung"), target.affordable(_DRAWS, 512)))
    log_p, _ = target(np.asarray(z))
    log_q = np.asarray(log_q)
    if not np.isfinite(log_p).all():
        return Elbo(-np.inf, 0.0), np.inf
    return on_draws(log_p, log_q), verdict.spread(log_p - log_q)
