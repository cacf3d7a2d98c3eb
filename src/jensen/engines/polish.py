"""All parameters of a map and of its Gaussian together, by L-BFGS on a fixed design.

    F(theta, m, L) = -sum v_n [log p(map_theta(y_n)) + log|J_theta(y_n)|] - log|det L|,     y_n = m + L x_n

theta holds bends, exponents and skew; directions stay. Gaussian parameters are seen from where they started, m = m0 + L0 mu and
L = L0 A with A lower triangular, so that all parameters have curvatures near one. Above a hundred dimensions only A's diagonal
moves: a full triangle is fitted to the design rather than to the density.

Reference: Liu, Nocedal (1989), On the limited memory BFGS method for large scale optimization, Math. Programming 45.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from jensen.engines.bends import BOUND
from jensen.engines.designs import Design
from jensen.families.fullrank import DenseGaussian, from_factor
from jensen.families.layered import Layered
from jensen.families.maps import Map

TRIANGLE = 100
_SKEWED = 1.5
"""Largest |e|: beyond, tails would differ by a factor of more than 20."""


def standardized(q: Layered) -> Layered:
    """The same approximation with u of the skew standardized, and with bounds as far out as q reaches."""
    bent = q.map
    if not np.asarray(bent.skew).any():
        location, width = bent.location, bent.width
        x_mean, x_sd = (np.asarray(q.mean) - location) / width, np.asarray(q.sd) / width
        bent = replace(bent, location=location + width * x_mean, width=width * x_sd)
        if bent.depth == 0:
            base = DenseGaussian((q.base.mean - x_mean) / x_sd, q.base.scale / x_sd[:, None])
            return Layered(bent, base)
        center, factor = bent.center.copy(), bent.factor.copy()
        center[0], factor[0] = (center[0] - x_mean) / x_sd, factor[0] / x_sd[:, None]
        bent = replace(bent, center=center, factor=factor)
    return Layered(_reaching(bent, q), q.base)


def _reaching(bent: Map, q: Layered) -> Map:
    """Bounds of eight times the root mean square of each parent under q."""
    if bent.depth == 0:
        return bent
    y = q.base.transport(q.noise(np.random.default_rng(0), 1024))[0]
    inputs = bent.out(np.asarray(y))[2].inputs
    bound = np.array([BOUND * np.sqrt((x[:, 0] ** 2).mean()) for x in reversed(inputs)])
    return replace(bent, bound=np.maximum(bound, BOUND))


def polish(target: Any, design: Design, q: Layered, steps: int, skewed: bool = True) -> tuple[Layered, float, float]:
    """Improve q by at most `steps` steps of L-BFGS; returns it with F before and after (F is inf where not finite)."""
    from scipy.optimize import minimize

    points, weights = design
    problem = _Problem(target, points, weights, q)
    start = problem.start()
    first = problem(start)[0]
    if not np.isfinite(first) or first >= _HUGE:
        return q, np.inf, np.inf
    box = problem.box(start, skewed)
    found = minimize(
        problem, start, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": steps, "maxcor": 30, "maxls": 12}
    )
    if not found.fun < first:
        return q, first, first
    return problem.at(found.x), first, float(found.fun)


_HUGE = 1e30


class _Problem:
    """F and its gradient as a function of one vector."""

    def __init__(self, target: Any, points: np.ndarray, weights: np.ndarray, q: Layered):
        self.target, self.points, self.weights, self.q = target, points, weights, q
        dim, depth = q.dim, q.map.depth
        self.units = np.asarray(q.map.bound)[:, None] / BOUND
        triangle = np.tril_indices(dim, -1) if dim <= TRIANGLE else (np.zeros(0, int), np.zeros(0, int))
        self.triangle = triangle
        self.sizes = np.cumsum([depth * dim, depth * dim, dim, dim, dim, len(triangle[0])])[:-1]

    def start(self) -> np.ndarray:
        bent, dim = self.q.map, self.q.dim
        theta = [bent.bend * self.units**2, bent.exponents * self.units, bent.skew]
        return np.concatenate([part.ravel() for part in theta] + [np.zeros(2 * dim + len(self.triangle[0]))])

    def box(self, start: np.ndarray, skewed: bool) -> list[tuple[float | None, float | None]]:
        box: list[tuple[float | None, float | None]] = [(None, None)] * len(start)
        for i in range(self.sizes[1], self.sizes[2]):
            box[i] = (-_SKEWED, _SKEWED) if skewed else (start[i], start[i])
        return box

    def _parts(self, vector: np.ndarray) -> tuple[Map, np.ndarray, np.ndarray]:
        """Map, mu and A."""
        bend, exponents, skew, mu, log_diagonal, below = np.split(vector, self.sizes)
        shape = self.q.map.bend.shape
        bent = replace(
            self.q.map,
            bend=bend.reshape(shape) / self.units**2,
            exponents=exponents.reshape(shape) / self.units,
            skew=skew,
        )
        a = np.diag(np.exp(log_diagonal))
        a[self.triangle] = below
        return bent, mu, a

    def at(self, vector: np.ndarray) -> Layered:
        bent, mu, a = self._parts(vector)
        base = self.q.base
        return Layered(bent, from_factor(base.mean + base.scale @ mu, base.scale @ a))

    def __call__(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(all="ignore"):
            bent, mu, a = self._parts(vector)
            base = self.q.base
            z, volume, tape = bent.out(base.mean + (mu + self.points @ a.T) @ base.scale.T)
            if not np.isfinite(z).all():
                return _HUGE, np.zeros_like(vector)
            log_p, gradient = self.target(z)
            if not (np.isfinite(log_p).all() and np.isfinite(gradient).all()):
                return _HUGE, np.zeros_like(vector)
            to_y, slopes = bent.slopes(tape, gradient, self.weights)
            to_x = (to_y * self.weights[:, None]) @ base.scale
            to_a = to_x.T @ self.points
            diagonal = np.diagonal(a)
            half_entropy = 0.5 * len(mu) * (1 + np.log(2 * np.pi))
            volumes = np.log(np.diagonal(base.scale)).sum() + np.log(diagonal).sum()
            loss = -(self.weights @ (log_p + volume)) - volumes - half_entropy
            slope = np.concatenate(
                [
                    (slopes["bend"] / self.units**2).ravel(),
                    (slopes["exponents"] / self.units).ravel(),
                    slopes["skew"],
                    to_x.sum(0),
                    np.diagonal(to_a) * diagonal + 1,
                    to_a[self.triangle],
                ]
            )
        if not (np.isfinite(loss) and np.isfinite(slope).all()):
            return _HUGE, np.zeros_like(vector)
        return float(loss), -slope
