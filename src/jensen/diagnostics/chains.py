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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.layout import unflatten
from jensen.models.grouped import GroupedTarget
from jensen.models.target import Target

CHAINS = 128
TRANSITIONS = 24
GRADIENTS = 2 * TRANSITIONS * 4 * CHAINS
"""Of the fewest stages that tell anything."""
KEPT, KEPT_LATER = 16, 20
"""Of those, the last ones that a stage keeps: while the chains arrive, and afterwards."""
MOST_STAGES = 8
WIDE, PATIENCE, _LONGEST = 100, 30.0, 60.0
"""D above which chains are left out where two stages would take so many seconds of one core, and those of all stages."""
_ELEMENT, _ROW, _ENTRY = 5e-9, 10e-9, 0.15e-9
"""Seconds an element of a factor, a row and an entry of each array of the data take, with their derivatives."""


@dataclass(frozen=True)
class Metric:
    """Where and how wide the chains believe the posterior is: x -> y = center + factor x, and z = y or a map of y.

    Attributes
    ----------
    center
        (D,)
    factor
        (D, D) with covariance ``factor @ factor.T``, (D,) standard deviations, or a `Factor` where D x D is too much.
    map
        Straightens funnels; None is the identity.
    """

    center: np.ndarray
    factor: Any
    map: Any = None

    def out(self, x: np.ndarray) -> np.ndarray:
        """Whitened x (n, D) -> z, or y where there is a map."""
        if not isinstance(self.factor, np.ndarray):
            return self.center + self.factor.out(x)
        return self.center + (x @ self.factor.T if self.factor.ndim == 2 else x * self.factor)

    def back(self, gradient: np.ndarray) -> np.ndarray:
        """Gradient with respect to what `out` gives -> gradient with respect to x."""
        if not isinstance(self.factor, np.ndarray):
            return self.factor.back(gradient)
        return gradient @ self.factor if self.factor.ndim == 2 else gradient * self.factor

    def whiten(self, z: np.ndarray) -> np.ndarray:
        """Inverse of `out`."""
        centered = z - self.center
        if not isinstance(self.factor, np.ndarray):
            return self.factor.whiten(centered)
        return np.linalg.solve(self.factor, centered.T).T if self.factor.ndim == 2 else centered / self.factor

    def into(self, z: np.ndarray) -> np.ndarray:
        """Z -> x, through the map."""
        return self.whiten(z if self.map is None else self.map.into(z))

    def evaluate(self, target: Any, x: np.ndarray) -> "Place":
        """Everything about the points x; trajectories that diverge are rejected by their energy, without a word from NumPy."""
        y = self.out(x)
        if self.map is None:
            log_p, gradient = finite(target(y))
            return Place(x, y, log_p, gradient, log_p, self.back(gradient))
        with np.errstate(over="ignore", invalid="ignore"):
            z, volume, tape = self.map.out(y)
            log_p, gradient = finite(target(z))
            force = self.map.back(y, tape, gradient)
            return Place(x, z, log_p, gradient, log_p + volume, self.back(force))


class Place(NamedTuple):
    """Points in whitened coordinates x and in z, with log p and gradient there, and log density and force in x."""

    x: np.ndarray
    z: np.ndarray
    log_p: np.ndarray
    gradient: np.ndarray
    density: np.ndarray
    force: np.ndarray

    def where(self, accept: np.ndarray, other: "Place") -> "Place":
        """Rows of `other` where accepted, else of this."""
        row = accept[:, None]
        return Place(*(np.where(row if a.ndim == 2 else accept, b, a) for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Stage:
    """What a stage of chains left behind.

    Attributes
    ----------
    z, log_p, gradient
        Kept transitions T: (T, CHAINS, D), (T, CHAINS), (T, CHAINS, D).
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


def seconds(target: Any) -> float:
    """Roughly how long two stages of chains take on one core, the fewest that tell anything; 0 where that is not known.

    From sizes, not from a clock: the same fit has to make the same choices everywhere.
    """
    if not isinstance(target, Target | GroupedTarget):
        return 0.0
    return GRADIENTS * target_seconds(target)


def affordable_stages(target: Any) -> int:
    """How many stages a correction may take in all: two short ones, and those of 8 leapfrogs that there is time for."""
    if getattr(target, "dim", 0) <= WIDE:
        return MOST_STAGES
    each = seconds(target)
    return MOST_STAGES if each == 0 else min(MOST_STAGES, max(2, 1 + int(_LONGEST / each)))


def target_seconds(target: Target | GroupedTarget) -> float:
    """Roughly how long one gradient takes on one core."""
    if isinstance(target, GroupedTarget):
        arrays = [target.few.data[name] for name, _ in target.plate.data]
        row = _ELEMENT * len(target.plate.factors) + _ROW * len(arrays)
        of_rows = row * target.few_rows + _ENTRY * sum(value.size for value in arrays)
        return target_seconds(target.of_few) + of_rows * (target.total / target.few_rows - 1)
    shape = jax.ShapeDtypeStruct((target.dim,), jnp.result_type(float))
    sites = target.model.sites
    factors = jax.eval_shape(lambda z, data: tuple(target.model.factors(unflatten(sites, z), data)), shape, target.data)
    elements = target.dim + sum(leaf.size for leaf in jax.tree.leaves(factors))
    rows = sum(value.shape[0] for value in target.data.values() if value.ndim)
    return _ELEMENT * elements + _ROW * rows + _ENTRY * sum(value.size for value in target.data.values())


def first_step(dim: int) -> float:
    """Step size to begin with: near the optimum of a whitened Gaussian."""
    return min(0.55, 0.9 * dim**-0.25)


def stage(
    target: Any,
    z: np.ndarray,
    metric: Metric,
    rng: np.random.Generator,
    *,
    leapfrogs: int,
    step: float,
    goal: float = 0.8,
    kept: int = KEPT,
) -> Stage:
    """Advance all chains from positions z (CHAINS, D) by `TRANSITIONS` transitions; keep the last ones."""
    here = metric.evaluate(target, metric.into(z))
    places, rates = [], []
    for transition in range(TRANSITIONS):
        momentum = rng.standard_normal(here.x.shape)
        size = step * rng.uniform(0.7, 1.3)
        there, speed = here, momentum
        for _ in range(leapfrogs):
            half = speed + 0.5 * size * there.force
            there = metric.evaluate(target, there.x + size * half)
            speed = half + 0.5 * size * there.force
        with np.errstate(over="ignore", invalid="ignore"):
            energy = there.density - here.density - 0.5 * ((speed**2).sum(1) - (momentum**2).sum(1))
        chance = np.exp(np.minimum(np.nan_to_num(energy, nan=-np.inf, posinf=-np.inf), 0.0))
        here = here.where(rng.uniform(size=len(chance)) < chance, there)
        rate = float(chance.mean())
        if transition < TRANSITIONS // 2:
            step *= np.exp((1.0 if transition < 4 else 0.5) * (rate - goal))
        if transition >= TRANSITIONS - kept:
            places.append(here)
            rates.append(rate)
    z, log_p, gradient = (np.array([getattr(place, name) for place in places]) for name in ("z", "log_p", "gradient"))
    return Stage(z, log_p, gradient, float(np.mean(rates)), float(step))


def relearn(metric: Metric, previous: Stage, map: Any = None) -> Metric:
    """Metric from a stage's draws: their covariance in the old whitened coordinates, shrunk to its diagonal.

    With a map, draws are straightened first, and the old coordinates are their own standardized ones.
    """
    z = previous.z.reshape(-1, previous.z.shape[-1])
    n, dim = z.shape
    if map is not None or metric.map is not None:
        z = z if map is None else map.into(z)
        metric = Metric(z.mean(0), np.diag(z.std(0)))
    x = metric.whiten(z)
    center = z.mean(0)
    if not isinstance(metric.factor, np.ndarray):
        return Metric(center, metric.factor.relearnt(x), map)
    if metric.factor.ndim == 1:
        return Metric(center, metric.factor * np.maximum(x.std(0), 1e-8), map)
    cov = np.cov(x.T).reshape(dim, dim)
    shrink = dim / (dim + n / 4)
    cov = (1 - shrink) * cov + shrink * np.diag(np.diagonal(cov))
    w, v = np.linalg.eigh(cov)
    return Metric(center, metric.factor @ (v * np.sqrt(np.maximum(w, 1e-10))), map)


def finite(evaluated: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Points outside the support get density zero and no force, so that they are rejected and spread no NaN."""
    log_p, gradient = evaluated
    bad = ~(np.isfinite(log_p) & np.isfinite(gradient).all(1))
    if bad.any():
        log_p, gradient = np.where(bad, -np.inf, log_p), np.where(bad[:, None], 0.0, gradient)
    return log_p, gradient
