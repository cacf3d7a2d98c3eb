"""Sums over grids for the truths of the blind set."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from scipy import optimize

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Points (m, d) -> log weights (m,), means (m, K) and variances (m, K) of the K scalars at each point."""


def lay(
    evaluate: Evaluate, center: np.ndarray, factor: np.ndarray, ends: tuple[float, float], n: int
) -> tuple[np.ndarray, ...]:
    """Sum over center + factor u, u on a grid of n^d points between `ends`: mean and sd of scalars, mean and cov of u."""
    dim = len(center)
    axis = np.linspace(*ends, n)
    log_w, first, second, points = [], [], [], []
    for start in range(0, n**dim, 8192):
        index = np.arange(start, min(start + 8192, n**dim))
        u = np.stack([axis[index // n**i % n] for i in range(dim)], axis=1)
        value, mean, var = evaluate(center + u @ factor.T)
        value = np.where(np.isfinite(value), value, -np.inf)
        # points without weight are dropped at once; the memory of the others is small
        kept = value > value.max() - 80.0 if np.isfinite(value.max()) else np.zeros(len(value), bool)
        log_w.append(value[kept])
        first.append(mean[kept])
        second.append(var[kept])
        points.append(u[kept])
    value = np.concatenate(log_w)
    w = np.exp(value - value.max())
    w /= w.sum()
    mean_at, var_at, u = np.concatenate(first), np.concatenate(second), np.concatenate(points)
    mean = w @ mean_at
    sd = np.sqrt(w @ (var_at + (mean_at - mean) ** 2))
    at = w @ u
    return mean, sd, at, (u - at).T @ ((u - at) * w[:, None])


def on_grid(evaluate: Evaluate, center: np.ndarray, factor: np.ndarray, scales: bool = False) -> tuple[Any, Any, float]:
    """Mean and sd on a grid that settles on the posterior, and the change on another grid in sds.

    `scales`: all coordinates are logs of scales, whose left tails are long where a scale may be zero; axes stay as they are.
    """
    dim = len(center)
    coarse, fine, finer = {1: (101, 401, 901), 2: (41, 101, 171), 3: (25, 45, 59)}[dim]
    for half in (6.0, 6.0, 7.0, 8.0, 8.0):
        _, _, at, cov = lay(evaluate, center, factor, (-half, half), coarse)
        spacing = 2.0 * half / (coarse - 1)
        cov = cov + 0.1 * spacing**2 * np.eye(dim)
        center = center + factor @ at
        factor = factor @ (np.diag(np.sqrt(np.diag(cov))) if scales else np.linalg.cholesky(cov))
    mean, sd, *_ = lay(evaluate, center, factor, (-16.0, 7.0) if scales else (-8.0, 8.0), fine)
    again, sd_again, *_ = lay(evaluate, center, factor, (-20.0, 8.0) if scales else (-11.0, 11.0), finer)
    error = max(np.max(np.abs(mean - again) / sd_again), np.max(np.abs(sd / sd_again - 1.0)))
    return again, sd_again, float(error)


def shapes_of(model: Any, data: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Latent sites of a NumPyro model."""
    found = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace(**data)
    return {
        name: np.shape(site["value"])
        for name, site in found.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


def density_of(model: Any, data: dict[str, Any], sites: dict[str, tuple[int, ...]]) -> tuple[Callable, Callable]:
    """NumPyro's log density of unconstrained points (D,), and the scalars there; elementwise supports only."""

    def split(z):
        stops = np.cumsum([int(np.prod(shape)) for shape in sites.values()])
        parts = np.split(z, stops[:-1]) if isinstance(z, np.ndarray) else jnp.split(z, stops[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(sites.items(), parts, strict=True)}

    def log_density(z):
        return -numpyro.infer.util.potential_energy(model, (), data, split(z))

    def scalars(z):
        values = numpyro.infer.util.constrain_fn(model, (), data, split(z))
        return jnp.concatenate([values[name].reshape(-1) for name in sites])

    return log_density, scalars


def by_grid(model: Any, data: dict[str, Any], start: Any = None) -> dict[str, Any]:
    """At most three parameters; `start` (center, width) where the mode is not the place to begin at."""
    sites = shapes_of(model, data)
    log_density, scalars = density_of(model, data, sites)
    many = jax.jit(lambda z: (jax.vmap(log_density)(z), jax.vmap(scalars)(z)))
    dim = sum(int(np.prod(shape)) for shape in sites.values())

    def evaluate(z):
        full = np.concatenate([z, np.repeat(z[-1:], 8192 - len(z), axis=0)]) if len(z) < 8192 else z
        value, mean = (np.asarray(part)[: len(z)] for part in many(full))
        return value, mean, np.zeros_like(mean)

    if start is None:
        loss = jax.jit(jax.value_and_grad(lambda z: -log_density(z)))
        begin = np.zeros(dim)
        found = optimize.minimize(lambda z: tuple(np.asarray(part, float) for part in loss(z)), begin, jac=True)
        center, factor = (
            found.x,
            np.linalg.cholesky(np.linalg.inv(np.asarray(jax.hessian(lambda z: -log_density(z))(found.x)))),
        )
    else:
        center, factor = np.full(dim, start[0]), start[1] * np.eye(dim)
    return named("grid", sites, *on_grid(evaluate, center, factor))


def named(how: str, sites: dict[str, tuple[int, ...]], mean: np.ndarray, sd: np.ndarray, error: float, **more) -> dict:
    """Flat moments -> what is stored."""
    stops = np.cumsum([int(np.prod(shape)) for shape in sites.values()])[:-1]
    parts = {
        key: {
            name: part.reshape(shape).tolist()
            for (name, shape), part in zip(sites.items(), np.split(np.asarray(flat, float), stops), strict=True)
        }
        for key, flat in (("mean", mean), ("sd", sd))
    }
    return {"how": how, "error": float(error), **more, **parts}


def ordered_mixture(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """`blind_hierarchies.mixture_ordered`, in four dimensions and with merged modes beside the first: two grids of its own."""
    coarse, fine = _ordered_mixture(y, 0.14, 6, 0.065, 0.2), _ordered_mixture(y, 0.11, 8, 0.05, 0.17)
    (mean, sd), (again, sd_again) = coarse, fine
    return again, sd_again, float(max(np.max(np.abs(mean - again) / sd_again), np.max(np.abs(sd / sd_again - 1.0))))


def _ordered_mixture(y: np.ndarray, h: float, nodes: int, h_sigma: float, h_weight: float) -> tuple[Any, Any]:
    """Moments of (low, high, sigma, weight): sums over low, log sigma and logit weight, Gauss-Legendre panels of the gap."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    edges = np.concatenate([np.arange(0.0, 5.6, 0.8), [6.4, 8.0, 10.0, 13.0, 17.0, 22.0]])
    half, middle = np.diff(edges)[:, None] / 2.0, (edges[1:] + edges[:-1])[:, None] / 2.0
    gap, measure = (middle + half * x).ravel(), (half * w).ravel()
    low = np.arange(-11.0, 4.0, h)
    logit = np.arange(-9.0, 9.0, h_weight)
    weight = 1.0 / (1.0 + np.exp(-logit))
    prior_low, prior_weight = np.exp(-0.5 * (low / 3.0) ** 2), (weight * (1.0 - weight)) ** 2

    @jax.jit
    def sums(sigma):
        def normal(center):
            return jnp.exp(-0.5 * ((y - center[..., None]) / sigma) ** 2) / sigma

        high = low[:, None] + gap
        a, b = normal(jnp.asarray(low))[:, None, None, :], normal(high)[:, :, None, :]
        chance = jnp.prod((1.0 - weight)[:, None] * a + weight[:, None] * b, axis=-1)
        p = chance * (prior_low[:, None] * measure * jnp.exp(-0.5 * (high / 3.0) ** 2))[:, :, None] * prior_weight
        scalars = (low[:, None, None], high[:, :, None], sigma, weight)
        return jnp.stack([p.sum()] + [(p * s).sum() for s in scalars] + [(p * s**2).sum() for s in scalars])

    total = np.zeros(9)
    for sigma in np.exp(np.arange(np.log(0.4), np.log(3.0), h_sigma)):
        total += sigma * np.exp(-0.125 * sigma**2) * np.asarray(sums(sigma))
    mean = total[1:5] / total[0]
    return mean, np.sqrt(total[5:] / total[0] - mean**2)
