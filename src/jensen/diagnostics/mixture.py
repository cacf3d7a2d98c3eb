"""Several modes, one answer: the mixture of the Gaussians fitted at them, corrected by importance weights.

When each mode is nearly Gaussian, the weights p / sum_k pi_k q_k of draws from the mixture are nearly constant and the answer
is right whatever the modes' distance: no chain has to travel. Their effective share of the sample says whether that holds; where
it does not, a few steps of EM on the weighted draws (engines/population.py) fit the mixture to modes that overlap or are skewed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.diagnostics.correct import Correction, correct
from jensen.diagnostics.modes import Mode
from jensen.diagnostics.quantities import Draws
from jensen.engines.population import improve
from jensen.families.mixture import GaussianMixture, mixture_of
from jensen.objectives.elbo import Elbo, on_draws

_DRAWS = 4096
_ROUNDS = 4
_BRIDGE_ROUNDS = 50
_LEAST = 64
"""Draws that a mode gets at least."""
ENOUGH = 0.8
"""Effective share of the sample above which the weighted draws are the answer."""
LEAST_SHARE = 0.05
"""Effective share below which the mixture does not even tell the modes' masses roughly."""


@dataclass(frozen=True)
class Mixed:
    """The mixture of all modes.

    Attributes
    ----------
    q
        The mixture, an approximation like any other.
    draws, weights
        Its draws, and importance weights (n,) that make them draws of the posterior.
    share
        Effective share of the sample.
    elbo
        Of q.
    """

    q: GaussianMixture
    draws: Draws
    weights: np.ndarray
    share: float
    elbo: Elbo


def mix(target: Any, q: Any, modes: tuple[Mode, ...], seed: int) -> Mixed:
    """The mixture of q and other modes, improved until its weighted draws are enough or no better.

    Parameters
    ----------
    target
        The log density; 4,096 evaluations for each of at most five rounds.
    q
        The mode that was fitted: a Gaussian.
    modes
        The others, with their weights.
    seed
        Randomness.
    """
    shares = np.array([1 - sum(mode.weight for mode in modes), *(mode.weight for mode in modes)])
    start = mixture_of([q, *(mode.q for mode in modes)], np.maximum(shares, _LEAST / _DRAWS))
    found = improve(target, start, keys.generator(seed, "mixture"), _DRAWS, _ROUNDS, ENOUGH)
    values, derived = target.constrain(found.z)
    log_q = np.asarray(found.q.log_prob(found.z))
    elbo = on_draws(found.log_p, log_q) if np.isfinite(found.elbo) else Elbo(-np.inf, np.inf)
    return Mixed(found.q, Draws(found.z, found.log_p, values, derived), found.weights, found.share, elbo)


@dataclass(frozen=True)
class Within:
    """What chains found that never leave their mode.

    Attributes
    ----------
    draws, weights
        Of all modes; weights (n,) that hold a mode's mass and its chains' own calibration.
    masses
        Share of the posterior of each mode (K,).
    corrections
        The chains of each mode (K).
    """

    draws: Draws
    weights: np.ndarray
    masses: np.ndarray
    corrections: tuple[Correction, ...]


def within(target: Any, mixed: Mixed, seed: int, deadline: float | None = None) -> Within:
    """Chains in every mode, for modes that are no Gaussians, and the masses of the modes by bridge sampling.

    Chains count the modes wrongly, because none of them travels; the mixture weighs its own draws wrongly, where modes have tails
    that it lacks. The bridge between both, Z = E_q[p / m] / E_p[q / m] with m = q + p / Z, needs neither to be right.

    Parameters
    ----------
    target
        The log density.
    mixed
        The mixture, whose components are the modes.
    seed
        Randomness.
    deadline
        See `correct`; that of all modes together.
    """
    components = mixed.q.components
    corrections = tuple(correct(target, each, seed=seed, deadline=deadline) for each in components)
    at_home = mixed.q.responsibilities(mixed.draws.z).argmax(1)
    log_ratio = mixed.draws.log_p - np.asarray(mixed.q.log_prob(mixed.draws.z))
    log_masses, parts, weights = np.full(len(components), -np.inf), [], []
    for k, found in enumerate(corrections):
        # Chains that crossed over are another mode's business; what stays is the posterior on this side of the border.
        staying = mixed.q.responsibilities(found.draws.z).argmax(1) == k
        theirs = (found.draws.log_p - np.asarray(mixed.q.log_prob(found.draws.z)))[staying]
        if len(theirs):
            log_masses[k] = _bridge(np.where(at_home == k, log_ratio, -np.inf), theirs)
        parts.append((found.draws, staying))
        weights.append(found.weights[staying] / found.weights[staying].sum())
    masses = np.exp(log_masses - log_masses.max())
    masses /= masses.sum()
    weighted = np.concatenate([mass * own for mass, own in zip(masses, weights, strict=True)])
    return Within(_gathered(parts), weighted, masses, corrections)


def _gathered(parts: list[tuple[Draws, np.ndarray]]) -> Draws:
    """The chosen rows of several draws."""
    first = parts[0][0]
    return Draws(
        np.concatenate([part.z[rows] for part, rows in parts]),
        np.concatenate([part.log_p[rows] for part, rows in parts]),
        {name: np.concatenate([part.values[name][rows] for part, rows in parts]) for name in first.values},
        {name: np.concatenate([part.derived[name][rows] for part, rows in parts]) for name in first.derived},
    )


def _bridge(of_q: np.ndarray, of_p: np.ndarray) -> float:
    """Log mass of p in a region, from log p / q at draws of q, minus infinity outside of the region, and at draws of p in it.

    Meng, Wong (1996), Simulating ratios of normalizing constants via a simple identity, Statistica Sinica 6.
    """
    shares = len(of_q) / (len(of_q) + len(of_p)), len(of_p) / (len(of_q) + len(of_p))
    log_z = float(np.logaddexp.reduce(of_q) - np.log(len(of_q)))
    for _ in range(_BRIDGE_ROUNDS):
        if not np.isfinite(log_z):
            break
        up = of_q - np.logaddexp(np.log(shares[0]), np.log(shares[1]) + of_q - log_z)
        down = -np.logaddexp(np.log(shares[0]), np.log(shares[1]) + of_p - log_z)
        log_z = float(np.logaddexp.reduce(up) - np.log(len(up)) - np.logaddexp.reduce(down) + np.log(len(down)))
    return log_z
