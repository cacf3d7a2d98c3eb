"""The correction: stages of short chains from q until every quantity has settled, or the budget is spent.

Where the scores of q's draws show what scales the others (centering.py, turning.py), the chains run in coordinates in which
nothing does, from the first stage on; else a map learnt from their own draws straightens funnels and bends from the third stage
on (straighten.py). Two stages of 4 leapfrog steps, the second in the covariance of the first, then up to six more, the metric
learnt again from each: of 4 steps above 60 dimensions where chains move, else of 8, or of 16 while the largest between-chain
share stays above 0.4. Stages that agree are one longer run of the same chains, from which the first stage is left out once it
is long. It ends once every quantity passes and the moments are known well enough.
"""

import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from jensen.core import keys
from jensen.diagnostics import calibrate, centering, chains, necks, quantities, straighten, tails, turning
from jensen.diagnostics.factors import factor_of
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.settled import (
    LIMITS,
    Settled,
    against,
    coupled,
    log_sd_error,
    means_settled,
    measure,
    sds_settled,
)
from jensen.families.centering import Centering

JUDGING_STAGES, MOST_STAGES = 3, chains.MOST_STAGES
_PRECISE, _PRECISE_SD = 0.03, 0.05
"""Standard errors of the worst mean (in sds) and of the worst log sd below which no further stage is worth its gradients."""
_STEADY = 0.95
"""Share of the quantities that must agree with the stage before for the two to be pooled."""
_LONG = 3
"""Stages in a run from which on no more than one in twenty sds may be left unsettled."""
_SLOW = 0.25
"""Between-chain share from which on trajectories get longer."""
_FAR, _BULK = 0.5, 2.0
_LOST = 6.0
"""Robust sds from the other chains beyond which a chain is lost."""
_ACCEPT, _ACCEPT_MAPPED = 0.8, 0.9
_COLLAPSED = 0.05
_STRAIGHTER = 0.5
"""How much less bent a map that scores show must leave them than q's own, to take its place."""


@dataclass(frozen=True)
class Correction:
    """What the chains found.

    Attributes
    ----------
    draws
        Of the last stages that agree, pooled.
    weights
        Calibrated weights of the draws (n,), sum one.
    evidence
        Of the last stage, per quantity.
    mean_ok, sd_ok
        Boolean (K,): accepted means and sds.
    acceptance, stages
        Of the last stage; number of stages.
    force
        Smallest eigenvalue of E[u u'], u = gradients at the draws in the draws' own whitened coordinates. It is at least 1
        for draws of the target (Cramer-Rao); near 0 the cloud has collapsed, however well it seems to mix.
    guard
        Why quantities were refused that look settled by themselves, or "".
    """

    draws: Draws
    weights: np.ndarray
    evidence: Settled
    mean_ok: np.ndarray
    sd_ok: np.ndarray
    acceptance: float
    stages: int
    force: float
    guard: str


def correct(
    target: Any,
    q: Any,
    *,
    seed: int,
    judging: bool = False,
    deadline: float | None = None,
    scores: tuple[np.ndarray, np.ndarray] | None = None,
) -> Correction:
    """Run the chains from q.

    Parameters
    ----------
    target
        The log density.
    q
        Where the chains start, and their first metric.
    seed
        Randomness.
    judging
        Only judge q: fewer stages, and no more once the chains mix.
    deadline
        `time.perf_counter()` value after which no further stage is begun.
    scores
        Draws of q and their gradients (n, D): hierarchies are taken apart by them before the first stage.
    """
    metric = _metric(q)
    given = metric.map
    # From q's bulk: the chains find the tails by themselves, but where q's are too wide they would take long to return.
    noise = q.noise(keys.generator(seed, "chains", 0), chains.CHAINS)
    z = np.asarray(q.transport(np.clip(noise, -_BULK, _BULK))[0])
    centered = None if scores is None else turning.learn(*scores)
    if centered is not None:
        assert scores is not None
        if given is not None and not turning.bent(centered, *scores) < _STRAIGHTER * turning.bent(given, *scores):
            centered = None
    if centered is not None:
        assert scores is not None
        given = None
        metric, z = _taken_apart(centered, scores[0], noise)
    step, leapfrogs = chains.first_step(target.dim), 4
    evidence, pool, was_mapped = None, [], False
    most = min(JUDGING_STAGES if judging else MOST_STAGES, chains.affordable_stages(target))
    for number in range(most):
        mapped = metric.map is not None
        rng = keys.generator(seed, "chains", number + 1)
        goal = _ACCEPT_MAPPED if mapped else _ACCEPT
        kept = chains.KEPT if number < 2 else chains.KEPT_LATER
        stage = chains.stage(target, z, metric, rng, leapfrogs=leapfrogs, step=step, goal=goal, kept=kept)
        part = _constrained(target, stage)
        evidence, pool = _pooled(evidence, pool if mapped == was_mapped else [], part, number)
        bends = given or centered or (straighten.learn(stage.z) if number >= 1 else None)
        if number >= 1 and judging and evidence.between.max() < LIMITS["between"]:
            break
        if (
            number >= 1
            and (mapped or bends is None)
            and _finished(evidence, stage, len(pool))
            and _agree(evidence, pool)
        ):
            break
        if deadline is not None and time.perf_counter() > deadline:
            break
        if centered is not None and scores is not None:
            scores = _more(scores, stage)
            bends = centered = turning.learn(*scores) or centered
        z = _rescued(stage.z[-1], rng) if number < 3 else stage.z[-1]
        step = stage.step if mapped or bends is None else chains.first_step(target.dim)
        metric, was_mapped = chains.relearn(metric, stage, bends), mapped
        if number >= 1:
            leapfrogs = _leapfrogs(evidence.between.max(), number, target.dim)
    assert evidence is not None
    mean_ok, sd_ok, guard = _guarded(evidence, part.x, not judging and number + 1 == most)
    force = _least_force(stage)
    if force < _COLLAPSED or stage.acceptance <= LIMITS["acceptance"]:
        mean_ok, sd_ok = mean_ok & False, sd_ok & False
        guard = "the chains have collapsed" if force < _COLLAPSED else "the chains hardly move"
    if number == 0:
        mean_ok, sd_ok, guard = (
            mean_ok & False,
            sd_ok & False,
            "one stage of chains does not tell whether they have arrived",
        )
    draws, weights = _join([each.draws for each in pool]), _weights(pool)
    x = np.concatenate([each.x for each in pool])
    pooled = against(evidence, x, weights)
    # The sd that is reported is that of all draws, and its error of all of them too: the far ones are not pulled in here.
    known = log_sd_error(_by_chain(x)) < LIMITS["sel"]
    mean_ok, sd_ok = mean_ok & pooled[0], sd_ok & pooled[1] & known
    gradients = np.concatenate([each.gradient for each in pool])
    straight = metric.map if was_mapped and isinstance(metric.map, Centering) else None
    neck = necks.longest(target, draws.z, lambda: straight or centering.learn(draws.z, gradients))
    if neck.why:
        mean_ok, sd_ok, guard = mean_ok & False, sd_ok & False, neck.why
    no_sd, no_mean = (tails.heavy(target.model, draws, gradients, index) for index in (tails.SLOWEST, tails.NO_MEAN))
    if (sd_ok & no_sd).any():
        mean_ok, sd_ok, guard = mean_ok & ~no_mean, sd_ok & ~no_sd, guard or tails.WHY
    return Correction(draws, weights, evidence, mean_ok, sd_ok, stage.acceptance, number + 1, force, guard)


def _leapfrogs(between: float, number: int, dim: int) -> int:
    """Steps of the next stage's trajectories.

    In high dimension short ones give more for a gradient where chains move; in low dimension, where long ones are cheap, they
    show sooner that a heavy tail or a funnel is not explored yet.
    """
    slow = between > LIMITS["between"]
    if dim <= straighten.LARGEST_DIM:
        return 16 if slow else 8
    if slow and number > 1:
        return 16
    return 8 if between > _SLOW else 4


def _taken_apart(map: Any, z: np.ndarray, noise: np.ndarray) -> tuple[chains.Metric, np.ndarray]:
    """Metric and starts in the coordinates of a map: the parents' as q has them, and N(0, 1) for what they scale."""
    y = map.into(z)
    center, width = np.zeros(z.shape[1]), np.ones(z.shape[1])
    center[map.parents], width[map.parents] = y[:, map.parents].mean(0), y[:, map.parents].std(0)
    return chains.Metric(center, np.diag(width), map), map.out(center + width * np.clip(noise, -_BULK, _BULK))[0]


def _more(scores: tuple[np.ndarray, np.ndarray], stage: chains.Stage) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the draws of one more stage."""
    dim = stage.z.shape[-1]
    return (
        np.concatenate([scores[0], stage.z.reshape(-1, dim)]),
        np.concatenate([scores[1], stage.gradient.reshape(-1, dim)]),
    )


def _rescued(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Chains that started in q's tail, where the posterior has none, would take forever: they go on from another chain."""
    low, middle, high = np.quantile(z, (0.25, 0.5, 0.75), axis=0)
    lost = (np.abs(z - middle) > _LOST * (high - low) / 1.349).any(1)
    if not lost.any() or lost.mean() > 0.2:
        return z
    z = z.copy()
    z[lost] = z[rng.choice(np.flatnonzero(~lost), lost.sum())]
    return z


class _Part(NamedTuple):
    """A stage's kept transitions in a row: draws, quantities (n, K) and gradients (n, D)."""

    draws: Draws
    x: np.ndarray
    gradient: np.ndarray


def _pooled(before: Settled | None, pool: list[_Part], part: _Part, number: int) -> tuple[Settled, list[_Part]]:
    """Evidence after one more stage, and the stages that it is about: those before too, if this one agrees with them.

    The same chains go on, so that stages that agree are one longer run, whose errors count; the oldest ones, in which the chains
    were still arriving, are left out again as long as the run drifts. Whether a stage agrees with what was known before is for
    that stage alone to say.
    """
    alone = measure(_by_chain(part.x), before)
    if before is None or not pool or not _steady(alone):
        return alone, [part]
    # The first stage, whose chains were still on their way from q into the tails, is left out of a long run.
    pool = [*(pool[1:] if len(pool) == number == _LONG else pool), part]
    whole = alone
    while len(pool) > 1:
        whole = measure(np.concatenate([_by_chain(each.x) for each in pool]), None)
        if _steady(whole):
            break
        pool = pool[1:]
    if len(pool) == 1:
        return alone, pool
    drift_mean = np.maximum(whole.drift_mean, alone.drift_mean)
    drift_sd = np.maximum(whole.drift_sd, alone.drift_sd)
    return replace(whole, drift_mean=drift_mean, drift_sd=drift_sd), pool


def _by_chain(x: np.ndarray) -> np.ndarray:
    """Quantities (n, K) of a stage as (T, C, K)."""
    return x.reshape(-1, chains.CHAINS, x.shape[-1])


def _steady(evidence: Settled) -> bool:
    """Whether this stage may be pooled with the one before: nearly all quantities agree, and none is far off."""
    drift = np.maximum(evidence.drift_mean, evidence.drift_sd)
    return bool((drift < LIMITS["drift"]).mean() > _STEADY and drift.max() < _FAR)


def _weights(pool: list[_Part]) -> np.ndarray:
    return calibrate.weights(
        np.concatenate([each.draws.z for each in pool]), np.concatenate([each.gradient for each in pool])
    )


def _agree(evidence: Settled, pool: list[_Part]) -> bool:
    """Whether the pooled moments, which are the answer, agree with the last stage's."""
    means, sds = against(evidence, np.concatenate([each.x for each in pool]), _weights(pool))
    return bool(means.all() and (sds.all() or (len(pool) >= _LONG and sds.mean() > _STEADY)))


def _finished(evidence: Settled, stage: chains.Stage, pooled: int) -> bool:
    """Whether every quantity has settled and the pooled moments are known well enough.

    After a longer run the sds of a few heavy tails do not hold up all the others: they are "means only". Nor do the means that,
    of a hundred or more, drift in the last stage by chance: they are not trusted.
    """
    means, sds = means_settled(evidence), sds_settled(evidence)
    if (
        not (means.all() or (pooled >= _LONG and means.mean() > _STEADY))
        or stage.acceptance <= LIMITS["acceptance"]
        or evidence.se.max() > _PRECISE
    ):
        return False
    if pooled < _LONG:
        return bool(sds.all() and evidence.sel.max() < _PRECISE_SD)
    return bool((sds & (evidence.sel < _PRECISE_SD)).mean() > _STEADY)


def _least_force(stage: chains.Stage) -> float:
    """Smallest eigenvalue of the gradients' second moment, whitened by the draws; by coordinate where draws are too few.

    With n draws the smallest of D sample eigenvalues falls towards (1 - sqrt(D / n))^2, whatever the true one.
    """
    dim = stage.z.shape[-1]
    z, gradient = stage.z.reshape(-1, dim), stage.gradient.reshape(-1, dim)
    if 10 * dim > len(z):
        return float((gradient.std(0) * z.std(0)).min())
    u = gradient @ np.linalg.cholesky(np.cov(z.T).reshape(dim, dim) + 1e-300 * np.eye(dim))
    return float(np.linalg.svd(u, compute_uv=False).min() ** 2 / len(u))


def _metric(q: Any) -> chains.Metric:
    """Q's own coordinates, straight ones where q is the image of a Gaussian under a map."""
    base = getattr(q, "base", q)
    return chains.Metric(np.asarray(base.mean), factor_of(base), getattr(q, "map", None))


def _guarded(evidence: Settled, x: np.ndarray, last: bool) -> tuple[np.ndarray, np.ndarray, str]:
    """Accepted means and sds. One unsettled quantity blocks all, except in the last stage, where it blocks what it moves with."""
    mean_ok, sd_ok = means_settled(evidence), sds_settled(evidence)
    unsettled = evidence.between > LIMITS["unsettled"]
    if not unsettled.any():
        return mean_ok, sd_ok, ""
    blocked = coupled(x, unsettled) if last else np.ones(len(unsettled), bool)
    return mean_ok & ~blocked, sd_ok & ~blocked, "the chains have not settled"


def _constrained(target: Any, stage: chains.Stage) -> _Part:
    dim = stage.z.shape[-1]
    z = stage.z.reshape(-1, dim)
    values, derived = target.constrain(z)
    x = quantities.matrix(target.model, values, derived)
    return _Part(Draws(z, stage.log_p.reshape(-1), values, derived), x, stage.gradient.reshape(-1, dim))


def _join(pool: list[Draws]) -> Draws:
    return Draws(
        np.concatenate([draws.z for draws in pool]),
        np.concatenate([draws.log_p for draws in pool]),
        {name: np.concatenate([draws.values[name] for draws in pool]) for name in pool[0].values},
        {name: np.concatenate([draws.derived[name] for draws in pool]) for name in pool[0].derived},
    )
