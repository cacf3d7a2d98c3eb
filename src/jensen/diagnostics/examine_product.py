"""From a product of families to evidence and a verdict; the counterpart of examine.py for coordinate ascent.

    1. exact moments of q, draws of it, the exact ELBO
    2. one block only, updated exactly            q is the posterior: trusted, and done
    3. log weights nearly constant                trusted, and done; looked at from 100 dimensions to 1,000 quantities
    4. one Gaussian block and few others         the others integrated by importance sampling
    5. short Gibbs chains from q                  judge q by how far they move, or, of up to 1,000 quantities, correct it

Models with a site that has no complete conditional are judged by gradient chains from a Gaussian with q's moments instead, with
their levels summed out (summed_out.py).
"""

import time
from functools import cache

import numpy as np

from jensen.conjugate.product import Product, StoredProduct
from jensen.core import keys
from jensen.diagnostics import gibbs_chains, quantities, summed_out, verdict
from jensen.diagnostics.collapsed import integrate_scales
from jensen.diagnostics.correct import Correction
from jensen.diagnostics.correct import correct as correct_by_gradients
from jensen.diagnostics.examine import Examination
from jensen.diagnostics.integrated import judge_against, judge_integrated
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.spaces import Own
from jensen.families.fullrank import DenseGaussian
from jensen.families.meanfield import DiagonalGaussian
from jensen.models.model import Model
from jensen.models.target import Target
from jensen.objectives.elbo import Elbo
from jensen.run import Run

_DRAWS = 4096
_FEWEST = 200
_ENOUGH = 1000
_NUMBERS = 20_000_000
_LARGE = 4_000_000
"""Numbers from which on `_ENOUGH` draws are enough: moments are exact, and draws say the quantiles."""
_MANY = 1000
"""Quantities from which on q is the answer: among so many, the chains' own errors are larger than those they could correct."""
_WEIGHT_DRAWS, _HIGH = 512, 100
_LARGEST_METRIC = 400
_LARGEST_DIM = 4000


def examine_product(
    q: Product,
    run: Run,
    *,
    seed: int,
    precision: str,
    report_q: bool,
    correcting: bool = True,
    budget: float | None = None,
) -> Examination:
    """Judge a product of families, and correct it.

    Parameters
    ----------
    q, run
        The fit and its record; the last ELBO of its history is exact.
    seed
        Randomness.
    precision
        Of gradient chains, where those are needed.
    report_q
        Judge q itself, also when the chains know better.
    correcting
        Whether chains may be run.
    budget
        Seconds the chains may take.
    """
    deadline = None if budget is None else time.perf_counter() + budget
    names = quantities.names(q.model)
    elbo = Elbo(float(run.history["elbo"][-1]) if len(run.history["elbo"]) else -np.inf, 0.0)
    log_w = np.full(1, np.nan)  # the weights of a product say little: they count every block's dependence at once
    drawn = cache(lambda: _draws(q, seed))  # an integral does without

    def about_q(judged: verdict.Verdict, correction: Correction | None = None) -> Examination:
        equal = np.full(len(drawn().log_p), 1 / len(drawn().log_p))
        return Examination(elbo, drawn(), equal, judged, correction=correction)

    try:
        if run.status == "interrupted":
            raise KeyboardInterrupt
        if run.status == "stuck":
            return about_q(verdict.unfinished(names, "the fit did not converge", log_w))
        finished = run.status == "converged"
        if finished and len(q.plan.blocks) == 1 and not q.plan.damped and not _auxiliary(q):
            return about_q(verdict.exact(names, "one block, updated exactly: q is the posterior", log_w))
        if not finished and not correcting:
            why = f"the fit ended before it converged ({run.status})"
            return about_q(verdict.unfinished(names, why, log_w))
        if not correcting:
            return about_q(verdict.unchecked(names, "no chains were run to check it", log_w))
        integral = integrate_scales(q, seed) if finished else None
        if integral is not None and not report_q:
            judged = judge_integrated(names, integral, log_w)
            return Examination(elbo, integral.draws, integral.weights, judged, True, integral.how)
        draws = drawn()
        x = quantities.matrix(q.model, draws.values, draws.derived)
        mean, sd = moments(q, q.model, x.mean(0), x.std(0))
        if integral is not None:
            return about_q(judge_against(names, mean, sd, integral, log_w))
        if finished and _weighable(q, names):
            log_w = gibbs_chains.log_weights(q, _first(draws, _WEIGHT_DRAWS))
            if verdict.spread(log_w) < verdict.CONSTANT_WEIGHTS:
                return about_q(verdict.judge_by_weights(names, log_w, (), np.zeros(len(names))))
            log_w = np.full(1, np.nan)
        report_q = report_q or len(names) > _MANY
        correction, why = _correction(q, draws, seed, precision, report_q, deadline)
    except KeyboardInterrupt:
        why = "the fit was interrupted" if run.status == "interrupted" else "the checks were interrupted"
        return about_q(verdict.unfinished(names, f"{why}, so nothing is known about it", log_w))
    if correction is None:
        judge = verdict.unchecked if finished else verdict.unfinished
        return about_q(judge(names, why, log_w))
    none = np.zeros(len(names))
    judged = verdict.judge_fit(names, mean, sd, correction, log_w, (), none)
    # What the chains confirm is the better answer: its moments carry no sampling error.
    if report_q or judged.overall == verdict.TRUSTED:
        return about_q(judged, correction)
    judged = verdict.judge_corrected(names, correction, log_w, (), none)
    note = f"{correction.stages} stages of chains"
    return Examination(elbo, correction.draws, correction.weights, judged, True, note, correction)


def moments(
    q: Product | StoredProduct, model: Model, mean: np.ndarray, sd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means and sds of all scalars, with those of the sites, which come first, replaced by their exact values."""
    mean, sd = mean.copy(), sd.copy()
    start = 0
    for site in model.sites:
        size = int(np.prod(site.shape))
        mean[start : start + size] = q.means[site.name].reshape(-1)
        sd[start : start + size] = q.sds[site.name].reshape(-1)
        start += size
    return mean, sd


def _weighable(q: Product, names: list[str]) -> bool:
    """Whether log weights can say that q is the posterior: in so many dimensions that no wider draws could see more."""
    return (
        q.dim >= _HIGH
        and len(names) <= _MANY
        and not q.model.discrete
        and not gibbs_chains.possible(q)
        and not _auxiliary(q)
    )


def _first(draws: Draws, n: int) -> Draws:
    return draws.take(np.arange(min(n, len(draws.log_p))))


def _auxiliary(q: Product) -> bool:
    return any(finding.update == "exact" and finding.reason for finding in q.plan.findings)


def _draws(q: Product, seed: int) -> Draws:
    size = sum(int(np.prod(variable.shape)) for variable in q.model.sites + q.model.derived)
    n = max(_FEWEST, min(_DRAWS, _NUMBERS // max(size, 1)))
    n = max(min(n, _ENOUGH), min(n, _LARGE // max(size, 1)))
    values = q.values(keys.generator(seed, "moments"), n)
    return Draws(np.zeros((n, 0)), np.full(n, np.nan), values, Own(q).derived(values))


def _correction(
    q: Product, draws: Draws, seed: int, precision: str, judging: bool, deadline: float | None
) -> tuple[Correction | None, str]:
    why = gibbs_chains.possible(q)
    if not why:
        return gibbs_chains.correct(q, draws, seed=seed, judging=judging, deadline=deadline), ""
    if q.model.discrete and (more := summed_out.possible(q)):
        return None, f"{why}, and {more}, so it was not checked"
    if q.model.dim > _LARGEST_DIM:
        return None, f"{why}, so it was not checked"
    target = Target(summed_out.summed_out(q) if q.model.discrete else q.model, precision)
    found = correct_by_gradients(target, _gaussian(q, draws), seed=seed, judging=judging, deadline=deadline)
    return (summed_out.with_levels(q, found, seed) if q.model.discrete else found), ""


def _gaussian(q: Product, draws: Draws) -> DenseGaussian | DiagonalGaussian:
    """A Gaussian on the flat vector with the moments of q's draws: where gradient chains start."""
    z = q.flatten({site.name: draws.values[site.name] for site in q.model.sites})
    if q.dim > _LARGEST_METRIC:
        return DiagonalGaussian(z.mean(0), np.log(z.std(0)))
    return DenseGaussian(z.mean(0), np.linalg.cholesky(np.cov(z.T).reshape(q.dim, q.dim) + 1e-12 * np.eye(q.dim)))
