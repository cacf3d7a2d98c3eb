"""From a posterior to long chains that begin in it: the no-U-turn sampler, warm-started and judged like any other chains.

    starts    draws of the answer (the corrected one where there is one), by their weights
    metric    draws and scores of 512 of them (engines/nuts_metric.py)
    map       that of q, or one learnt from the draws (straighten.py), where a funnel or a bend asks for it
    verdict   R-hat and effective sample sizes, per quantity; divergences are told

After a fit of many rows the chains are of the subsample that stands for all of them, as the fit's own checks are.

Starts and metric come from the same fit: chains that begin in one mode tell nothing about others, and R-hat neither.

Reference: head of engines/nuts.py; Vehtari et al. (2021), Rank-normalization, folding, and localization, Bayesian Anal. 16.
"""

import time
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jensen.core import keys
from jensen.core.errors import NonFiniteError, OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.core.threads import one_blas_thread
from jensen.diagnostics import quantities, straighten, verdict
from jensen.diagnostics.examine_chains import mixing
from jensen.diagnostics.quantities import Draws
from jensen.engines.nuts import Begin, Chains, Nuts
from jensen.engines.nuts_metric import fisher
from jensen.families.maps import Map
from jensen.models.target import Target
from jensen.run import run
from jensen.settings import Cost

WARMUP = 100
SCORES = 512


def sample_nuts(
    posterior: Any,
    draws: int = 1000,
    chains: int = 4,
    seed: int | None = None,
    progress: bool | None = None,
    budget: float | None = None,
) -> Any:
    """Long chains that begin at a posterior's own draws, in its own metric.

    Parameters
    ----------
    posterior
        A fit; `jensen.posterior.Posterior`.
    draws, chains
        Draws of each chain after a warm-up of 100; number of chains.
    seed
        Of the chains; by default that of the fit.
    progress
        Show a progress line.
    budget
        Seconds, looked at between chunks of transitions; without a draw in that time, the posterior stays as it is.

    Returns
    -------
    Posterior
        The same with the chains' draws, moments and verdict; its q, ELBO and history are those of the fit.

    Raises
    ------
    OptionError
        For a posterior without its model's code, or numbers that make no sense.
    UnsupportedError
        For discrete sites, and rows that are not in memory where no subsample stands for them.
    NonFiniteError
        When the density is finite at none of the draws.
    """
    model, settings = posterior.model, posterior.settings
    if model.source is None:
        raise OptionError("this fit comes from a file, without the model's code; fit the model again for this.")
    stream = settings.seed if seed is None else keys.check_seed(seed)
    engine, begun = Nuts(draws=draws, chains=chains, warmup=WARMUP), time.perf_counter()
    with scope(settings.precision), one_blas_thread():
        target, whole = _target(posterior)
        spent = target.gradients
        start = begin(
            target, _unconstrained(posterior), posterior.weights, chains, stream, getattr(posterior.q, "map", None)
        )
        engine = replace(engine, start=start)
        found, record = run(engine, target, seed=stream, progress=progress, budget=budget, label="nuts")
        if not found.log_p.size:
            if record.status == "interrupted":
                raise KeyboardInterrupt  # in the warm-up: there is nothing to return
            return posterior.replace(story=(*posterior.story, "the budget was spent before NUTS had drawn anything"))
        kept, judged = judge(whole, found)
    n = len(kept.log_p)
    spent = target.gradients - spent
    share = 1.0 if whole is target else whole.size / whole.total
    cost = Cost(posterior.cost.gradients + round(share * spent), posterior.cost.seconds + time.perf_counter() - begun)
    rows = "" if whole is target else f" of the {whole.size:,} rows that stand for {whole.total:,}"
    told = (
        f"{found.z.shape[1]} NUTS chains of {found.z.shape[0]} draws from the fit: {spent} gradients{rows}, "
        f"{found.warm} of them in the warm-up; acceptance {found.acceptance:.2f}, {found.divergences} divergences"
    )
    return posterior.replace(
        kept=kept,
        weights=np.full(n, 1 / n),
        verdict=judged,
        answer="corrected",
        cost=cost,
        chains=None,
        story=(*posterior.story, *record.notes, told),
    )


def _target(posterior: Any) -> tuple[Target, Any]:
    """What chains draw from, and the target that knows the model: another one where a subsample stands for all rows."""
    model, near = posterior.model, posterior.near
    if near is not None and near.holds_at(posterior.q):
        return near.surrogate, near
    if near is not None and near.streamed:
        raise UnsupportedError(
            f"NUTS needs rows in memory, and those of {model.name} are read from a table, of which no subsample was corrected "
            "where q is; fit arrays, or use the draws of this posterior."
        )
    target = Target(model, posterior.settings.precision)
    return target, target


def begin(target: Any, z: np.ndarray, weights: np.ndarray, chains: int, seed: int, bent: Any = None) -> Begin:
    """Where chains begin, and the metric, from weighted draws z (n, D); `bent` is a map known before."""
    rng = keys.generator(seed, "nuts start")
    if bent is None:
        bent = straighten.learn(z[: len(z) // 128 * 128].reshape(-1, 128, z.shape[1])) if len(z) >= 1024 else None
    bent = bent if isinstance(bent, Map) else None
    count = max(min(SCORES, len(z)), chains)
    z = z[quantities.resampled(weights, rng, count)]
    log_p, gradient = target(z)
    good = np.isfinite(log_p) & np.isfinite(gradient).all(1)
    if not good.any():
        raise NonFiniteError(
            f"NUTS cannot begin: {target.blame(z)} is not finite at any draw of the fit; look at its verdict."
        )
    z, gradient = z[good], gradient[good]
    if bent is None:
        return Begin(fisher(z, gradient), z[:chains])
    y = bent.into(z)
    return Begin(fisher(y, bent.back(y, bent.out(y)[2], gradient)), z[:chains], bent)


def judge(target: Any, found: Chains) -> tuple[Draws, verdict.Verdict]:
    """The draws in the model's own space, chain by chain, and their verdict."""
    length, chains, dim = found.z.shape
    z = found.z.swapaxes(0, 1).reshape(-1, dim)
    values, derived = target.constrain(z)
    kept = Draws(z, found.log_p.T.reshape(-1), values, derived)
    names = quantities.names(target.model)
    x = quantities.matrix(target.model, values, derived).reshape(chains, length, -1)
    judged = verdict.judge_chains(names, np.ptp(x, (0, 1)) == 0, *mixing(x))
    reasons, advice = judged.reasons, judged.advice
    if found.divergences:
        reasons = (*reasons, f"{found.divergences} of {length * chains} trajectories diverged: a region may be missed")
    if judged.overall != verdict.TRUSTED:
        advice = "Run longer chains: posterior.nuts(draws=...)."
        if found.divergences > 0.01 * length * chains:
            advice = "Reparametrize the funnel (for example non-centered), then fit again."
    return kept, replace(judged, reasons=reasons, advice=advice, about="the NUTS chains")


def _unconstrained(posterior: Any) -> np.ndarray:
    """The kept draws on the flat vector (n, D), also of a product, which keeps them in the model's own space."""
    if posterior.model.discrete or posterior.kept.z.shape[1] == posterior.model.dim:
        return posterior.kept.z
    model = posterior.model
    values = {site.name: posterior.kept.values[site.name] for site in model.sites}
    free = jax.jit(jax.vmap(model.unconstrain, (0, None)))(values, dict(model.data))
    return np.concatenate([np.asarray(free[site.name]).reshape(len(posterior.weights), -1) for site in model.sites], 1)
