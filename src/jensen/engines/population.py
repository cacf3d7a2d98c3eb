"""Population Monte Carlo: a mixture of Gaussians improved by EM on its own importance-weighted draws.

Gaussians fitted one by one are too narrow where a mode is no Gaussian, and wrong where modes overlap: there reverse KL has no
optimum of its own for the smaller one. With draws z_n of the mixture q, w_n ~ p / q and r_nk the responsibilities, one step is

    pi_k = sum_n w_n r_nk,     mean_k = sum_n w_n r_nk z_n / pi_k,     cov_k the same of (z_n - mean_k)(z_n - mean_k)'

the step of EM towards the mixture closest to p in KL(p, q), whose weights p / q vary least. Moments known from few draws are
drawn towards those before, as if nu = 2 D draws had shown these; weights are cut off at sqrt(n) times their mean, for the step
only. A round is kept when the effective share of the sample, 1 / (n sum w_n^2), grows.

Reference: Cappe, Douc, Guillin, Marin, Robert (2008), Adaptive importance sampling in general mixture classes, Statistics and
Computing 18; Ionides (2008), Truncated importance sampling, JCGS 17.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.families.fullrank import DenseGaussian
from jensen.families.mixture import GaussianMixture, mixture_of

_EXCELLENT = 0.95
_GAIN = 0.01


@dataclass(frozen=True)
class Population:
    """A mixture with weighted draws.

    Attributes
    ----------
    q
        The mixture.
    z, log_p, weights
        Its draws (n, D), the log density there (n,), and their normalized importance weights (n,).
    share
        Effective share of the sample, in (0, 1].
    elbo
        Of q on these draws.
    """

    q: GaussianMixture
    z: np.ndarray
    log_p: np.ndarray
    weights: np.ndarray
    share: float
    elbo: float


def improve(
    target: Any, q: GaussianMixture, rng: np.random.Generator, size: int, rounds: int, enough: float = _EXCELLENT
) -> Population:
    """Draws of q with their weights; of a better mixture, where `rounds` of EM find one.

    Parameters
    ----------
    target
        The log density; `size` evaluations a round.
    q
        Where to start.
    rng
        Of the draws.
    size
        Number of draws, even.
    rounds
        Largest number of EM steps; 0 only weighs the draws of q.
    enough
        Effective share with which to be content.
    """
    best = _weighed(target, q, rng, size)
    latest = best
    for _ in range(rounds):
        if best.share >= enough or not np.isfinite(latest.weights).all():
            break
        try:
            latest = _weighed(target, _stepped(latest), rng, size)
        except np.linalg.LinAlgError:
            break
        grown = latest.share - best.share
        if grown > 0:
            best = latest
        if grown < _GAIN:
            break
    return best


def _weighed(target: Any, q: GaussianMixture, rng: np.random.Generator, size: int) -> Population:
    half = q.noise(rng, size // 2)
    z, log_q = q.transport(np.concatenate([half, -half]))
    log_p, _ = target(z)
    log_p = np.where(np.isfinite(log_p), log_p, -np.inf)
    log_w = log_p - log_q
    if not np.isfinite(log_w.max()):
        return Population(q, z, log_p, np.full(len(z), np.nan), 0.0, -np.inf)
    weights = np.exp(log_w - log_w.max())
    weights /= weights.sum()
    return Population(q, z, log_p, weights, float(1 / (weights**2).sum() / len(z)), float(log_w.mean()))


def _stepped(known: Population) -> GaussianMixture:
    """One step of EM."""
    cut = np.minimum(known.weights, len(known.z) ** -0.5)
    shares = cut[:, None] * known.q.responsibilities(known.z)
    parts = []
    for component, share in zip(known.q.components, shares.T, strict=True):
        total = share.sum()
        if total <= 0:
            parts.append(component)
            continue
        seen, before = float(total**2 / (share**2).sum()), 2.0 * component.dim
        center = share @ known.z / total
        mean = (seen * center + before * component.mean) / (seen + before)
        apart, moved = known.z - mean, component.mean - mean
        spread = (share[:, None] * apart).T @ apart / total
        cov = (seen * spread + before * (component.cov + np.outer(moved, moved))) / (seen + before)
        parts.append(DenseGaussian(mean, np.linalg.cholesky(cov)))
    # A component without draws keeps a little weight, so that it can be seen again.
    return mixture_of(parts, np.maximum(shares.sum(0), 1e-4))
