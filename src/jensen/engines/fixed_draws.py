"""Smoothed Newton on fixed draws: a deterministic Gaussian fit without learning rate and without mode search.

The ELBO on a fixed design (z_n, v_n) with x_n = m + L z_n is F(m, L) = -sum v_n log p(x_n) - log|det L|. With
u_n = L' grad log p(x_n), Stein's identity gives gradient *and* curvature, averaged over q, from gradients alone:

    a = sum v_n u_n              G = sum v_n u_n z_n'          (a = 0 and G = -I at the optimum)

    -G = V diag(w) V'            saddle-free: |w| is what makes far starts work
    m <- m + rho L V [V'a / max(|w|, 1/c^2)]                   c = 10 caps a step where no curvature was seen
    L <- L V diag(w^(-rho/2)) V'                               geometric path, symmetric steps

A step is taken when F falls and every point is finite; otherwise rho falls and damping grows; when nothing helps, the radius of
q is switched. Where steps overshoot, the next one begins with the rho that a secant says: with e the errors (a, G + I) before a
step and e' after it, rho / (1 - <e', e> / <e, e>). |a| is the error of the mean in posterior sds, so the stop is in those
units. A start at q = N(0, 0.1^2) walks to the bulk; a mode search first walks hierarchical models into their funnels instead.
The mean-field form keeps L diagonal: it takes the same mean step and w = -diag(G) for its widths; above D = 1,500 the mean step
is matrix-free (matrix_free.py).

Requires: a continuous unconstrained density with gradients. Gaussian posteriors are recovered exactly.
References: Opper, Archambeau (2009), The variational Gaussian approximation revisited, Neural Computation 21; Khan, Rue
(2023), The Bayesian learning rule, JMLR 24; Giordano, Ingram, Broderick (2024), Black box variational inference with a
deterministic objective, JMLR 25 (fixed draws).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import NonFiniteError
from jensen.engines.designs import Design, block_size, columnwise, orthogonal
from jensen.engines.engine import Ticks
from jensen.engines.guards import reach, refuse_flat, refuse_improper, refuse_runaway
from jensen.engines.matrix_free import newton_direction
from jensen.families.fullrank import DenseGaussian, FullRank, from_factor
from jensen.families.meanfield import DiagonalGaussian, MeanField

_CAP = 10.0
_FLOOR = 1e-10
"""Mean-field: smallest curvature, relative to the conditional ones, at which a mean step is still a Newton step."""
_ROUGH, _FINE, _FINE_LARGE, _POOR = (0.1, 0.3), (0.001, 0.001), (0.02, 0.05), (0.05, 0.1)
"""Stops of the small design, of the large one up to and above D = 64, and where no Gaussian is the posterior: error of the mean
in sds, of the curvature."""
_MISFIT = 1.0
"""Nats from which on the posterior is no Gaussian: chains will decide, and thousandths of an sd of q are for nobody."""
_LARGEST_DESIGN = 4096
_DENSE = 1500
"""Mean-field: largest D for which the smoothed curvature is formed as a matrix."""
_FLAT, _WIDE = 0.05, 10.0
"""Relative curvature that counts as none, and the width from which on its absence means an improper posterior."""
_FURTHER = 100.0
"""How many times as far out a density must be flat to be refused for it."""
_SWITCHES = (10.0, 0.01, 100.0)
_TIMID = 0.4
"""Smallest rho that a step begins with; larger ones than 1 save no more, and run away where a curvature is wrong."""


@dataclass(frozen=True)
class _Point:
    """F and its pieces at one (m, L) on one design."""

    mean: np.ndarray
    factor: np.ndarray
    loss: float
    slope: np.ndarray
    curvature: np.ndarray
    misfit: float
    """E|u + z|^2, the Fisher divergence in whitened coordinates: zero for a Gaussian posterior, and (Poincare) not below the
    variance of the log weights. Zero for a mean-field q, whose correlations are no misfit of its shape."""

    @property
    def own(self) -> np.ndarray:
        """Diagonal of the curvature (D,), which is all that is known of it where it is not formed."""
        return self.curvature if self.curvature.ndim == 1 else np.diagonal(self.curvature)

    @property
    def errors(self) -> tuple[float, float]:
        """Largest |a| and largest |G + I|: distance from the optimum in posterior sds, and in relative curvature."""
        slope = np.abs(self.slope)
        if self.factor.ndim == 2:
            return float(slope.max()), float(np.abs(self.curvature + np.eye(len(slope))).max())
        if self.curvature.ndim == 2:
            # The sds of q are those of conditionals; the posterior's, to which the error belongs, are 1/sqrt(w) along v.
            w, v = np.linalg.eigh(-self.curvature)
            slope = np.abs(v.T @ self.slope) / np.sqrt(np.maximum(np.abs(w), _FLOOR))
        return float(slope.max()), float(np.abs(self.own + 1).max())


@dataclass(frozen=True)
class _State:
    stage: int
    designs: tuple[Design, ...]
    point: _Point
    damping: float = 0.0
    rho: float = 1.0
    switches: int = 0
    quiet: int = 0
    steps: int = 0
    halfway: _Point | None = None


@dataclass(frozen=True)
class FixedDraws:
    """Engine: smoothed Newton on an orthogonal design.

    Parameters
    ----------
    family
        `FullRank` or `MeanField`.
    start
        The approximation to start from; None is N(0, 0.1^2), which finds the bulk of hierarchical models.
    steps
        Give up after so many steps.
    large
        Finish on a design four times as large; False stops at the small one.
    """

    family: FullRank | MeanField = FullRank()
    start: DenseGaussian | DiagonalGaussian | None = None
    steps: int = 150
    large: bool = True

    def init(self, target: Any, seed: int) -> _State:
        """Evaluate the start; shrink it until every point is finite."""
        designs = self._designs(target.dim, seed)
        q = self.start or self.family.start(np.zeros(target.dim), 0.1)
        mean, factor = (
            np.asarray(q.mean, float),
            np.asarray(q.scale if isinstance(self.family, FullRank) else q.sd, float),
        )
        for attempt in range(24):
            point, gradient = _evaluated(target, designs[0], mean, factor * 4.0**-attempt)
            if point is not None:
                break
        else:
            raise NonFiniteError(
                f"{target.blame(_out(mean, factor * 4.0**-23, designs[0].points))} is not finite at the start "
                "(24 radii around it were tried); check data and supports, or pass start=."
            )
        # Straight pieces, which do not change, have corners further out.
        refuse_flat(target, gradient, lambda: target(_out(point.mean, _FURTHER * point.factor, designs[0].points))[1])
        return _State(0, designs, point)

    def _designs(self, dim: int, seed: int) -> tuple[Design, ...]:
        rng = keys.generator(seed, "design")
        block = block_size(dim)
        if isinstance(self.family, MeanField) and dim > _DENSE:
            return (columnwise(rng, dim, 128),)
        small = block * -(-32 // block)
        large = 4 * small if 4 * small <= _LARGEST_DESIGN else small
        designs = [orthogonal(rng, dim, small)]
        if self.large and large > small:
            designs.append(orthogonal(rng, dim, large))
        return tuple(designs)

    def advance(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        """One accepted step, or a switch of radius, or a change to the large design."""
        state = replace(state, steps=state.steps + 1)
        design = state.designs[state.stage]
        point, damping, rho = _step(target, design, state.point, state.damping, state.rho)
        if point is None:
            return self._stalled(state, target)
        refuse_runaway(target, reach(point.mean, point.factor))
        gain = state.point.loss - point.loss
        tolerance = _ROUGH if state.stage + 1 < len(state.designs) else _stop(point, state.stage)
        was_close = _within(state.point, tolerance)
        quiet = state.quiet + 1 if gain < 1e-6 else 0
        state = replace(state, point=point, damping=damping, rho=rho, quiet=quiet)
        if (was_close and _within(point, tolerance)) or quiet >= 2:
            return self._next_stage(state, target)
        if state.halfway is None and state.steps >= self.steps // 2:
            state = replace(state, halfway=point)
        if state.steps >= self.steps and not self.converged(state):
            _refuse_drift(target, state)
        return state, Ticks(np.array([point.loss]), done=state.steps >= self.steps, error=point.errors[0])

    def _stalled(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        loss = np.array([state.point.loss])
        if _within(state.point, (0.1, 0.15)):
            return self._next_stage(state, target)
        while state.switches < len(_SWITCHES):
            factor = state.point.factor * _SWITCHES[state.switches]
            state = replace(state, switches=state.switches + 1)
            point = _evaluate(target, state.designs[state.stage], state.point.mean, factor)
            if point is not None:
                return replace(state, point=point, damping=0.0, rho=1.0), Ticks(np.array([point.loss]))
        _refuse_drift(target, state)
        return state, Ticks(loss, done=True, note="no step lowers the objective any more")

    def _next_stage(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        loss = np.array([state.point.loss])
        if state.stage + 1 < len(state.designs):
            point = _evaluate(target, state.designs[state.stage + 1], state.point.mean, state.point.factor)
            if point is not None:
                return replace(state, stage=state.stage + 1, point=point, damping=0.0, rho=1.0, quiet=0), Ticks(loss)
        return state, Ticks(loss, done=True)

    def finish(self, state: _State) -> Any:
        """Q of the state."""
        if state.point.factor.ndim == 1:
            return DiagonalGaussian(state.point.mean, np.log(state.point.factor))
        return from_factor(state.point.mean, state.point.factor)

    def converged(self, state: _State) -> bool:
        """Mean within 0.1 posterior sd of the optimum, widths within 15%, on the last design."""
        return state.stage + 1 == len(state.designs) and _within(state.point, (0.1, 0.15))


def _stop(point: _Point, stage: int) -> tuple[float, float]:
    """How near its optimum q has to be on the last design; on a small one alone, nothing is known about the misfit."""
    if stage > 0 and point.misfit > _MISFIT:
        return _POOR
    return _FINE if len(point.mean) <= 64 else _FINE_LARGE


def _within(point: _Point, tolerances: tuple[float, float]) -> bool:
    slope, gap = point.errors
    return slope < tolerances[0] and gap < tolerances[1]


def _evaluate(target: Any, design: Design, mean: np.ndarray, factor: np.ndarray) -> _Point | None:
    """The point at (mean, factor), or None when the density is not finite somewhere on the design."""
    return _evaluated(target, design, mean, factor)[0]


def _evaluated(target: Any, design: Design, mean: np.ndarray, factor: np.ndarray) -> tuple[_Point | None, np.ndarray]:
    """That, and the gradients (N, D) on the design."""
    z, weights = design
    log_p, gradient = target(_out(mean, factor, z))
    if not (np.isfinite(log_p).all() and np.isfinite(gradient).all()):
        return None, gradient
    with np.errstate(over="ignore", invalid="ignore"):
        if factor.ndim == 2:
            u, volume = gradient @ factor, np.linalg.slogdet(factor)[1]
        else:
            u, volume = gradient * factor, np.log(factor).sum()
        misfit = float(weights @ ((u + z) ** 2).sum(1)) if factor.ndim == 2 else 0.0
    if not (np.isfinite(u).all() and np.isfinite(volume)):
        return None, gradient
    half_entropy = 0.5 * len(mean) * (1 + np.log(2 * np.pi))
    weighted = u * weights[:, None]
    if factor.ndim == 1 and len(mean) > _DENSE:
        curvature = (weighted * z).sum(0)
    else:
        curvature = weighted.T @ z
        curvature = 0.5 * (curvature + curvature.T)
    loss = float(-(weights @ log_p) - volume - half_entropy)
    return _Point(mean, factor, loss, weighted.sum(0), curvature, misfit), gradient


def _out(mean: np.ndarray, factor: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Points of the design, transported by (mean, factor)."""
    return mean + (z @ factor.T if factor.ndim == 2 else z * factor)


def _step(
    target: Any, design: Design, point: _Point, damping: float, begin: float
) -> tuple[_Point | None, float, float]:
    """Try steps from bold to timid; the first one that lowers F is returned with the damping and the rho for the next."""
    propose = _spectral(point) if point.curvature.ndim == 2 else _matrix_free(target, design, point)
    for rho, extra in _tries(damping, begin):
        new = _evaluate(target, design, *propose(rho, extra))
        if new is not None and new.loss <= point.loss + 1e-13 * abs(point.loss):
            return new, extra / 30 if extra > 1e-2 else 0.0, _secant(point, new, rho)
    return None, damping, 1.0


def _secant(before: _Point, after: _Point, rho: float) -> float:
    """The rho that would have nulled the errors along the step just taken, from how much of them it left."""
    left = before.slope @ after.slope
    all = before.slope @ before.slope
    if before.curvature.ndim == 2:
        gap, new = (np.eye(len(before.slope)) + point.curvature for point in (before, after))
        left, all = left + 0.5 * (gap * new).sum(), all + 0.5 * (gap * gap).sum()
    return float(np.clip(rho / max(1 - left / max(all, 1e-300), 1e-3), _TIMID, 1.0))


_Proposal = Callable[[float, float], tuple[np.ndarray, np.ndarray]]
"""(rho, damping) -> new mean and factor."""


def _spectral(point: _Point) -> _Proposal:
    """Steps from the eigenvectors of the smoothed curvature."""
    w, v = np.linalg.eigh(-point.curvature)
    slope = v.T @ point.slope
    dense = point.factor.ndim == 2
    size = np.maximum(np.abs(w), _CAP**-2 if dense else _FLOOR)
    cap = _CAP if dense else _CAP / np.sqrt(np.minimum(size, 1.0))
    unit = max(1.0, float(np.median(np.abs(w))))

    def propose(rho: float, extra: float) -> tuple[np.ndarray, np.ndarray]:
        move = rho * slope / (size + extra * unit)
        move = np.where(w < 0.5, np.clip(move, -cap, cap), move)
        if dense:
            factor = point.factor @ ((v * _widths(w) ** (-rho / 2)) @ v.T)
            return point.mean + point.factor @ (v @ move), factor
        return point.mean + point.factor * (v @ move), point.factor * _widths(-point.own) ** (-rho / 2)

    return propose


def _matrix_free(target: Any, design: Design, point: _Point) -> _Proposal:
    """Steps of a mean-field fit whose curvature is too large to be formed."""
    diagonal = np.maximum(np.abs(point.own), _FLOOR)
    cap = _CAP / np.sqrt(np.minimum(diagonal, 1.0))

    @cache
    def direction(extra: float) -> np.ndarray:
        found = newton_direction(target, design, point.mean, point.factor, point.slope, diagonal, extra)
        return np.clip(found, -cap, cap)

    def propose(rho: float, extra: float) -> tuple[np.ndarray, np.ndarray]:
        return point.mean + rho * point.factor * direction(extra), point.factor * _widths(-point.own) ** (-rho / 2)

    return propose


def _widths(w: np.ndarray) -> np.ndarray:
    """Relative precisions to adopt: strongly non-concave directions keep their width, flat ones grow by the cap at most."""
    return np.where(w > -1, np.maximum(w, _CAP**-2), 1.0)


def _tries(damping: float, begin: float) -> Iterator[tuple[float, float]]:
    """Fractions rho of the Newton step, with damping added."""
    for part in (1.0, 0.5, 0.25):
        yield part * begin, damping
    rho, extra = 0.25, max(damping, 0.1)
    for _ in range(5):
        rho, extra = 0.3 * rho, 10 * extra
        yield rho, extra


def _refuse_drift(target: Any, state: _State) -> None:
    """Refuse when no optimum was found and a direction has no curvature, or q still grows and moves away along one."""
    point, before = state.point, state.halfway
    widths = _widths_of(point)
    if point.factor.ndim == 2:
        w, v = np.linalg.eigh(-point.curvature)
        flattest = int(np.abs(w).argmin())
        along = np.abs(point.factor @ v[:, flattest])
        coordinate, flat = int(along.argmax()), abs(w[flattest]) < _FLAT
    else:
        coordinate = int(np.abs(point.own).argmin())
        flat = abs(point.own[coordinate]) < _FLAT
    if flat and widths[coordinate] > _WIDE:
        refuse_improper(target, coordinate)
    pushed = int(np.abs(point.slope).argmax())
    if abs(point.slope[pushed]) > 1 and widths[pushed] > _WIDE and np.abs(point.mean[pushed]) > _WIDE:
        refuse_improper(target, pushed)
    if before is not None and before.mean.shape == point.mean.shape:
        growth = widths / _widths_of(before)
        drift = (growth > 1.3) & (np.abs(point.mean - before.mean) > 0.5 * widths) & (widths > _WIDE)
        if drift.any():
            refuse_improper(target, int(np.where(drift, growth, 0.0).argmax()))


def _widths_of(point: _Point) -> np.ndarray:
    return np.sqrt((point.factor**2).sum(1)) if point.factor.ndim == 2 else point.factor
