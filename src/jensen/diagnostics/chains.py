"""Short parallel Hamiltonian chains from q's draws, in q's metric, on the fit's own compiled program.

They judge a fit (how far do the moments move?) and correct it (the moments they move to). 128 chains advance together, a
batch of the program at a time, with the leapfrog loop in NumPy: a fused program would cost seconds of compilation to save
hundredths. Each transition is Metropolis-adjusted; the step size is one for all chains, jittered, and moved towards 80%
cross-chain acceptance in the first half of a stage.

    y ~ N(0, I) momentum; x = center + scale y coordinates; U(x) = -log p;  leapfrogs in x with unit mass

References: Neal (2011), MCMC using Hamiltonian dynamics; Hoffman, Sountsov (2022), Tuning-free generalized HMC; Margossian
et al. (2024), Nested R-hat (many short chains).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

CHAINS = 128
TRANSITIONS = 24
KEPT = 16


@dataclass(frozen=True)
class Metric:
    """Where and how wide the chains believe the posterior is.

    Attributes
    ----------
    center
        (D,)
    factor
        (D, D) with covariance ``factor @ factor.T``, or (D,) standard deviations.
    """

    center: np.ndarray
    factor: np.ndarray

    def out(self, x: np.ndarray) -> np.ndarray:
        """Whitened x (n, D) -> z."""
        return self.center + (x @ self.factor.T if self.factor.ndim == 2 else x * self.factor)

    def back(self, gradient: np.ndarray) -> np.ndarray:
        """Gradient with respect to z -> gradient with respect to x."""
        return gradient @ self.factor if self.factor.ndim == 2 else gradient * self.factor

    def whiten(self, z: np.ndarray) -> np.ndarray:
        """Z -> whitened x."""
        centered = z - self.center
        return np.linalg.solve(self.factor, centered.T).T if self.factor.ndim == 2 else centered / self.factor


@dataclass(frozen=True)
class Stage:
    """What a stage of chains left behind.

    Attributes
    ----------
    z, log_p, gradient
        Kept transitions: (KEPT, CHAINS, D), (KEPT, CHAINS), (KEPT, CHAINS, D).
    acceptance
        Mean acceptance over the kept transitions.
    step
        Step size at the end.
    """

    z: np.ndarray
    log_p: np.ndarray
    gradient: np.ndarray
    acceptance: float
    step: float


def first_step(dim: int) -> float:
    """Step size to begin with: near the optimum of a whitened Gaussian."""
    return min(0.55, 0.9 * dim**-0.25)


def stage(
    target: Any, z: np.ndarray, metric: Metric, rng: np.random.Generator, *, leapfrogs: int, step: float, goal: float = 0.8
) -> Stage:
    """Advance all chains from positions z (CHAINS, D) by `TRANSITIONS` transitions; keep the last `KEPT`."""
    log_p, gradient = finite(target(z))
    x = metric.whiten(z)
    kept_z, kept_log_p, kept_gradient, rates = [], [], [], []
    for transition in range(TRANSITIONS):
        momentum = rng.standard_normal(x.shape)
        size = step * rng.uniform(0.7, 1.3)
        new_x, new_momentum, new_log_p, new_gradient = x, momentum, log_p, gradient
        for _ in range(leapfrogs):
            half = new_momentum + 0.5 * size * metric.back(new_gradient)
            new_x = new_x + size * half
            new_log_p, new_gradient = finite(target(metric.out(new_x)))
            new_momentum = half + 0.5 * size * metric.back(new_gradient)
        with np.errstate(over="ignore", invalid="ignore"):
            energy = new_log_p - log_p - 0.5 * ((new_momentum**2).sum(1) - (momentum**2).sum(1))
        chance = np.exp(np.minimum(np.nan_to_num(energy, nan=-np.inf, posinf=-np.inf), 0.0))
        accept = rng.uniform(size=len(x)) < chance
        x = np.where(accept[:, None], new_x, x)
        log_p = np.where(accept, new_log_p, log_p)
        gradient = np.where(accept[:, None], new_gradient, gradient)
        rate = float(chance.mean())
        if transition < TRANSITIONS // 2:
            step *= np.exp((1.0 if transition < 4 else 0.5) * (rate - goal))
        if transition >= TRANSITIONS - KEPT:
            kept_z.append(metric.out(x))
            kept_log_p.append(log_p)
            kept_gradient.append(gradient)
            rates.append(rate)
    return Stage(np.array(kept_z), np.array(kept_log_p), np.array(kept_gradient), float(np.mean(rates)), float(step))


def relearn(metric: Metric, previous: Stage) -> Metric:
    """Metric from a stage's draws: their covariance in the old whitened coordinates, shrunk to its diagonal."""
    z = previous.z.reshape(-1, previous.z.shape[-1])
    n, dim = z.shape
    x = metric.whiten(z)
    center = z.mean(0)
    if metric.factor.ndim == 1:
        return Metric(center, metric.factor * np.maximum(x.std(0), 1e-8))
    cov = np.cov(x.T).reshape(dim, dim)
    shrink = dim / (dim + n / 4)
    cov = (1 - shrink) * cov + shrink * np.diag(np.diagonal(cov))
    w, v = np.linalg.eigh(cov)
    return Metric(center, metric.factor @ (v * np.sqrt(np.maximum(w, 1e-10))))


def finite(evaluated: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Points outside the support get density zero and no force, so that they are rejected and spread no NaN."""
    log_p, gradient = evaluated
    bad = ~(np.isfinite(log_p) & np.isfinite(gradient).all(1))
    if bad.any():
        log_p, gradient = np.where(bad, -np.inf, log_p), np.where(bad[:, None], 0.0, gradient)
    return log_p, gradient
