"""A cloud of points annealed from a wide distribution to the posterior: where modes get their mass.

Gradients tell a particle nothing about the mass of a mode it is not in: wherever a gradient flow starts, that is how many
particles end in each mode. Here masses come from densities. In coordinates whitened by a Gaussian fit, with a base of known
density that reaches far beyond it,

    base b(x) = N(x; 0, 8^2 I)       pi_t ~ b^(1-t) p^t       t from 0 to 1

and at each stage: t is raised until the weights (p/b)^(dt) are worth 80% of the points; the cloud is resampled by them (the
Fisher-Rao flow to p, in steps; systematic, in order of the first principal axis, so that counts are rounded and not drawn);
short Hamiltonian moves towards pi_t separate the copies. Points that get stuck in a poor mode are thereby replaced
by copies of others, as by births and deaths, but no density of the cloud has to be estimated.

A mode is found, and weighed, when many points of the base reach its basin: 8 sds away from the fit in one dimension and 13 in ten
were measured. The base is one Gaussian on purpose: narrower parts beside the wide one give the
fitted mode a start that the others cannot make up for.

References: Del Moral, Doucet, Jasra (2006), Sequential Monte Carlo samplers; D'Angelo, Fortuin (2021), Annealed Stein
variational gradient descent (tempered drift); Lu, Lu, Nolen (2019), Accelerating Langevin sampling with birth-death.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_WIDE = 8.0
"""Sd of the base, in sds of the Gaussian fit."""
_WORTH = 0.8
"""Effective share of points that a stage's weights leave."""
_LEAPS = 3
_ACCEPT = 0.6


@dataclass(frozen=True)
class Cloud:
    """Points on their way.

    Attributes
    ----------
    x
        (N, D), whitened.
    log_p, gradient
        Log density (N,) of the whitened posterior, up to a constant, and its gradient (N, D).
    t
        How far the cloud is: 0 is the base, 1 the posterior.
    width
        Step of the moves.
    """

    x: np.ndarray
    log_p: np.ndarray
    gradient: np.ndarray
    t: float = 0.0
    width: float = 1.0


def wide(density: Any, rng: np.random.Generator, count: int, dim: int) -> Cloud:
    """Points of the base; `density` is x (n, D) to log p (n,) and its gradient, with -inf where the density is not finite."""
    x = _WIDE * rng.standard_normal((count, dim))
    return Cloud(x, *density(x))


def anneal(density: Any, rng: np.random.Generator, cloud: Cloud) -> Cloud:
    """One stage: raise t, resample, move."""
    log_b, _ = _base(cloud.x)
    t = min(1.0, cloud.t + _raise(cloud.log_p - log_b, 1 - cloud.t))
    index = _resample(rng, cloud.x, _weights((t - cloud.t) * (cloud.log_p - log_b)))
    cloud = Cloud(cloud.x[index], cloud.log_p[index], cloud.gradient[index], t, cloud.width)
    return _move(density, rng, cloud)


def thinned(cloud: Cloud, count: int) -> Cloud:
    """`count` of the points, each another one, evenly along the first principal axis."""
    rank = np.argsort(_along(cloud.x), kind="stable")
    kept = rank[((np.arange(count) + 0.5) * len(rank) / count).astype(int)]
    return replace(cloud, x=cloud.x[kept], log_p=cloud.log_p[kept], gradient=cloud.gradient[kept])


def _base(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log b (n,) up to a constant, and its gradient (n, D)."""
    return -0.5 * (x**2).sum(1) / _WIDE**2, -x / _WIDE**2


def _weights(log_w: np.ndarray) -> np.ndarray:
    w = np.exp(log_w - log_w.max())
    return w / w.sum()


def _raise(log_w: np.ndarray, most: float) -> float:
    """The step of t, by bisection of its logarithm, after which the weights are worth `_WORTH` of the live points."""
    wanted = _WORTH * np.isfinite(log_w).sum()

    def worth(step: float) -> float:
        return float(1 / (_weights(step * log_w) ** 2).sum())

    if worth(most) >= wanted:
        return most
    low, high = np.log(most) - 60, np.log(most)
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if worth(np.exp(middle)) >= wanted else (low, middle)
    return float(np.exp(low))


def _along(x: np.ndarray) -> np.ndarray:
    """Place of every point on the first principal axis."""
    centered = x - x.mean(0)
    return centered @ np.linalg.eigh(centered.T @ centered)[1][:, -1]


def _resample(rng: np.random.Generator, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(_along(x), kind="stable")
    edges = np.cumsum(weights[order])
    places = (np.arange(len(x)) + rng.uniform()) / len(x) * edges[-1]
    return order[np.minimum(np.searchsorted(edges, places), len(x) - 1)]


@np.errstate(over="ignore", invalid="ignore")
def _move(density: Any, rng: np.random.Generator, cloud: Cloud) -> Cloud:
    """A Hamiltonian move of every point towards pi_t, with a step of its own; it is taken or not."""
    t, x, log_p, gradient = cloud.t, cloud.x, cloud.log_p, cloud.gradient
    h = cloud.width * np.exp(rng.uniform(-1.5, 0.5, (len(x), 1)))
    speed = rng.standard_normal(x.shape)
    log_b, pull = _base(x)
    energy = (1 - t) * log_b + t * log_p - 0.5 * (speed**2).sum(1)
    for _ in range(_LEAPS):
        speed = speed + 0.5 * h * ((1 - t) * pull + t * gradient)
        x = x + h * speed
        log_p, gradient = density(x)
        log_b, pull = _base(x)
        speed = speed + 0.5 * h * ((1 - t) * pull + t * gradient)
    ratio = (1 - t) * log_b + t * log_p - 0.5 * (speed**2).sum(1) - energy
    accept = np.log(rng.uniform(size=len(x))) < ratio  # never where the ratio is NaN
    where = accept[:, None]
    return Cloud(
        np.where(where, x, cloud.x),
        np.where(accept, log_p, cloud.log_p),
        np.where(where, gradient, cloud.gradient),
        t,
        cloud.width * float(np.exp(accept.mean() - _ACCEPT)),
    )
