"""The correction: stages of short chains from q until every quantity has settled, or the budget is spent.

Two plain stages (4 leapfrog steps; the second in the covariance of the first), then up to six adaptive ones: metric learnt
again from the last stage, 8 leapfrogs, 16 while the largest between-chain share stays above 0.4. It ends once every quantity
passes and the pooled moments are known well enough. A map learnt from the draws straightens funnels on the way; mixtures over
several modes will join here, between `relearn` and `stage`.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.diagnostics import calibrate, chains, quantities, straighten
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.settled import LIMITS, Settled, coupled, means_settled, measure, sds_settled

JUDGING_STAGES, MOST_STAGES = 3, 8
_PRECISE, _PRECISE_SD = 0.03, 0.05
"""Standard errors of the worst mean (in sds) and of the worst log sd below which no further stage is worth its gradients."""
_ACCEPT, _ACCEPT_MAPPED = 0.8, 0.9
_COLLAPSED = 0.05


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
    target: Any, q: Any, *, seed: int, stages: int = MOST_STAGES, deadline: float | None = None
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
    stages
        Most stages: two are enough to judge a fit, more to repair it.
    deadline
        `time.perf_counter()` value after which no further stage is begun.
    """
    metric = chains.Metric(np.asarray(q.mean), _factor(q))
    z = np.asarray(q.sample(keys.generator(seed, "chains", 0), chains.CHAINS))
    step = chains.first_step(target.dim)
    evidence, pool, leapfrogs = None, [], 4
    gradients: list[np.ndarray] = []
    for number in range(stages):
        rng = keys.generator(seed, "chains", number + 1)
        goal = _ACCEPT if metric.map is None else _ACCEPT_MAPPED
        stage = chains.stage(target, z, metric, rng, leapfrogs=leapfrogs, step=step, goal=goal)
        draws, x = _constrained(target, stage)
        before, evidence = evidence, measure(x, evidence)
        settled = means_settled(evidence) & sds_settled(evidence)
        done = number >= 1 and settled.all() and stage.acceptance > LIMITS["acceptance"]
        steady = before is not None and bool((np.maximum(evidence.drift_mean, evidence.drift_sd) < LIMITS["drift"]).all())
        pool = [*pool, draws] if steady else [draws]
        gradients = [*gradients, stage.gradient] if steady else [stage.gradient]
        if done and max((evidence.se / _PRECISE).max(), (evidence.sel / _PRECISE_SD).max()) < np.sqrt(len(pool)):
            break
        if deadline is not None and time.perf_counter() > deadline:
            break
        z, step = stage.z[-1], stage.step
        bends = straighten.learn(stage.z) if number >= 1 and not settled.all() else metric.map
        if metric.map is None and bends is not None:
            step = chains.first_step(target.dim)
        metric = chains.relearn(metric, stage, bends)
        if number >= 1:
            leapfrogs = 16 if evidence.between.max() > LIMITS["between"] else 8
    last = number + 1 == MOST_STAGES
    mean_ok, sd_ok, guard = _guarded(evidence, x.reshape(-1, x.shape[-1]), last)
    force = _least_force(stage)
    if force < _COLLAPSED:
        mean_ok, sd_ok, guard = mean_ok & False, sd_ok & False, "the chains have collapsed: no force along some direction"
    if stage.acceptance <= LIMITS["acceptance"]:
        mean_ok, sd_ok, guard = mean_ok & False, sd_ok & False, "the chains hardly move"
    draws = _join(pool)
    weights = calibrate.weights(draws.z, np.concatenate(gradients).reshape(draws.z.shape))
    return Correction(draws, weights, evidence, mean_ok, sd_ok, stage.acceptance, number + 1, force, guard)


def _least_force(stage: chains.Stage) -> float:
    """Smallest eigenvalue of the gradients' second moment, whitened by the draws; by coordinate where D is large."""
    dim = stage.z.shape[-1]
    z, gradient = stage.z.reshape(-1, dim), stage.gradient.reshape(-1, dim)
    if 2 * dim > len(z):
        return float((gradient.std(0) * z.std(0)).min())
    u = gradient @ np.linalg.cholesky(np.cov(z.T).reshape(dim, dim) + 1e-300 * np.eye(dim))
    return float(np.linalg.eigvalsh(u.T @ u / len(u)).min())


def _factor(q: Any) -> np.ndarray:
    return np.asarray(q.sd) if hasattr(q, "log_sd") else np.asarray(q.scale)


def _guarded(evidence: Settled, x: np.ndarray, last: bool) -> tuple[np.ndarray, np.ndarray, str]:
    """Accepted means and sds. One unsettled quantity blocks all, except in the last stage, where it blocks what it moves with."""
    mean_ok, sd_ok = means_settled(evidence), sds_settled(evidence)
    unsettled = evidence.between > LIMITS["unsettled"]
    if not unsettled.any():
        return mean_ok, sd_ok, ""
    blocked = coupled(x, unsettled) if last else np.ones(len(unsettled), bool)
    return mean_ok & ~blocked, sd_ok & ~blocked, "the chains have not settled"


def _constrained(target: Any, stage: chains.Stage) -> tuple[Draws, np.ndarray]:
    steps, count, dim = stage.z.shape
    z = stage.z.reshape(-1, dim)
    values, derived = target.constrain(z)
    x = quantities.matrix(target.model, values, derived)
    return Draws(z, stage.log_p.reshape(-1), values, derived), x.reshape(steps, count, -1)


def _join(pool: list[Draws]) -> Draws:
    return Draws(
        np.concatenate([draws.z for draws in pool]),
        np.concatenate([draws.log_p for draws in pool]),
        {name: np.concatenate([draws.values[name] for draws in pool]) for name in pool[0].values},
        {name: np.concatenate([draws.derived[name] for draws in pool]) for name in pool[0].derived},
    )
