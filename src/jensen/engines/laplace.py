"""Laplace's approximation: the Gaussian with the curvature of the log density at a mode.

    m = argmax log p(z)          Sigma = (-H)^-1,   H = the Hessian of log p at m

Gradients come from the one compiled program of the target, so no Hessian is compiled: with a factor L of the current
covariance, the Hessian in whitened coordinates is read off central differences along the columns of L,

    G = sym( L' [grad log p(m + h L e_j) - grad log p(m - h L e_j)]_j / 2h ) = V diag(-w) V'

and the mode is found by saddle-free Newton steps of the same coordinates, m <- m + rho L V [V'L' grad / max(|w|, 1/c^2)]; the
best of several lengths, tried in one call, is taken, and L follows the curvature: L <- L V |w|^(-1/2) V'. Differences are
therefore always taken at h of a posterior sd, whatever the units of the sites are.

Requires: a log density with a mode at which it is strictly concave. Centered hierarchical models often have none (the density
grows without bound in the neck of the funnel) or a mode that holds no mass; then the fit is refused with what was seen.

Reference: Tierney, Kadane (1986), Accurate approximations for posterior moments and marginal densities, JASA 81.
"""

from dataclasses import dataclass, replace
from typing import Any, NoReturn

import jax
import numpy as np

from jensen.core.errors import NonFiniteError, UnsupportedError
from jensen.core.layout import coordinate_site
from jensen.engines.engine import Ticks
from jensen.engines.guards import begin, first_finite, reach, refuse_flat, refuse_improper, refuse_large, refuse_runaway
from jensen.families.fullrank import DenseGaussian, from_factor

_CAP = 10.0
_LARGEST = 1500
_FRACTIONS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3, 1e-4)
_DAMPINGS = (0.1, 1.0, 10.0, 100.0)
_FLAT, _WIDE = 1e-6, 1e4
"""Curvature relative to the width of q that counts as none, and how far q must have grown before that is believed."""


@dataclass(frozen=True)
class _State:
    mean: np.ndarray
    factor: np.ndarray
    log_p: float
    slope: np.ndarray
    """L' grad log p (D,)."""
    curvature: np.ndarray
    """-L' H L (D, D): the identity once L is the factor of the answer."""
    first: np.ndarray
    """The place (D,) and log density where the search began."""
    first_log_p: float
    steps: int = 0


@dataclass(frozen=True)
class Laplace:
    """Engine: Gaussian at a mode, with the curvature there.

    Parameters
    ----------
    start
        A Gaussian at whose mean the search begins and whose covariance sets the first scales; None is N(0, 0.1^2).
    steps
        Most Newton steps.

    Raises
    ------
    UnsupportedError
        When the log density rises without end, or has no mode that was reached; above 1,500 dimensions.
    ImproperError
        When it is flat along a direction.
    NonFiniteError
        When it is not finite at the start.
    """

    start: Any = None
    steps: int = 100

    def init(self, target: Any, seed: int) -> _State:
        """Curvature at the start; nothing is drawn."""
        refuse_large(target, "Laplace", _LARGEST)
        mean, factor = begin(self.start, target.dim)
        corners = np.sqrt(target.dim) * np.concatenate([np.eye(target.dim), -np.eye(target.dim)])
        factor, _, gradient = first_finite(target, mean, factor, corners)
        refuse_flat(target, gradient)
        state = _look(target, mean, factor, mean, 0.0)
        if state is None:
            raise NonFiniteError(
                f"{target.blame(mean)} is not finite at the start; check data and supports, or pass start=."
            )
        return replace(state, first_log_p=state.log_p)

    def advance(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        """One Newton step: the best of several lengths."""
        w, v = np.linalg.eigh(state.curvature)
        _refuse_flat_mode(target, state, w, v)
        new = _step(target, state, w, v)
        if new is None:
            if not self.converged(state):
                _refuse_walk(target, state, w)
            return state, Ticks(np.array([-state.log_p]), done=True, error=_error(state))
        refuse_runaway(target, reach(new.mean, new.factor))
        done = _error(state) < _tolerance() and _error(new) < _tolerance() and _settled(new)
        if not done and new.steps >= self.steps and not self.converged(new):
            _refuse_walk(target, new, np.linalg.eigvalsh(new.curvature))
        return new, Ticks(np.array([-new.log_p]), done=done or new.steps >= self.steps, error=_error(new))

    def finish(self, state: _State) -> DenseGaussian:
        """The Gaussian with the curvature of the state; on the way to the mode, with its absolute value."""
        w, v = np.linalg.eigh(state.curvature)
        return from_factor(state.mean, state.factor @ (v / np.sqrt(np.maximum(np.abs(w), _CAP**-2))))

    def converged(self, state: _State) -> bool:
        """At a mode, to 0.001 of its own sds, where the density is strictly concave."""
        return _error(state) < 1e-3 and _settled(state)


def _difference() -> float:
    """Half-width h of the differences in sds: their error and that of rounding are of one size."""
    return float(np.finfo(jax.dtypes.canonicalize_dtype(float)).eps) ** 0.25


def _tolerance() -> float:
    """Distance from the mode in sds at which the search ends: 1e-6 in float64."""
    return _difference() ** 1.5


def _look(target: Any, mean: np.ndarray, factor: np.ndarray, first: np.ndarray, first_log_p: float) -> _State | None:
    """Log density, slope and curvature at a place; None where they are not finite."""
    h, dim = _difference(), len(mean)
    moves = h * factor.T
    log_p, gradient = target(np.concatenate([mean + moves, mean - moves, mean[None]]))
    if not (np.isfinite(gradient).all() and np.isfinite(log_p[-1])):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        slope = gradient[-1] @ factor
        curvature = (gradient[dim:-1] - gradient[:dim]) @ factor / (2 * h)
    if not (np.isfinite(slope).all() and np.isfinite(curvature).all()):
        return None
    return _State(mean, factor, float(log_p[-1]), slope, 0.5 * (curvature + curvature.T), first, first_log_p)


def _error(state: _State) -> float:
    """Distance from the mode in sds, as far as the curvature tells."""
    w, v = np.linalg.eigh(state.curvature)
    return float((np.abs(v.T @ state.slope) / np.sqrt(np.maximum(np.abs(w), _CAP**-2))).max())


def _settled(state: _State) -> bool:
    """Whether the differences were taken on the scale of the answer, which is strictly concave."""
    return float(np.abs(state.curvature - np.eye(len(state.mean))).max()) < 0.01


def _step(target: Any, state: _State, w: np.ndarray, v: np.ndarray) -> _State | None:
    """The best of the tried places whose own curvature is finite; None when none is higher."""
    slope = v.T @ state.slope
    size = np.maximum(np.abs(w), _CAP**-2)
    newton = slope / size
    newton = np.where(w < 0.5, np.clip(newton, -_CAP, _CAP), newton)
    unit = max(1.0, float(np.median(np.abs(w))))
    moves = [fraction * newton for fraction in _FRACTIONS]
    moves += [np.clip(slope / (size + extra * unit), -_CAP, _CAP) for extra in _DAMPINGS]
    if w[0] < -_FLAT:
        # At a saddle or a minimum the slope may be exactly zero: go off along the most convex direction.
        ridge = np.eye(len(w))[0] / np.sqrt(max(-w[0], _CAP**-2))
        moves += [ridge, -ridge]
    tried = np.array(moves) @ (state.factor @ v).T + state.mean
    log_p, gradient = target(tried)
    log_p = np.where(np.isfinite(log_p) & np.isfinite(gradient).all(1), log_p, -np.inf)
    rounding = 1e-13 if _difference() < 1e-3 else 1e-5
    if w[0] > 0.5 and 0.5 * float(slope @ newton) < rounding * abs(state.log_p) and np.isfinite(log_p[0]):
        log_p[0] = np.inf  # differences of log p are rounding by now: take the Newton step
    factor = state.factor @ ((v * _widths(w)) @ v.T)
    for best in np.argsort(-log_p)[:4]:
        if not (log_p[best] > state.log_p or (best == 0 and log_p[best] == state.log_p)):
            break
        new = _look(target, tried[best], factor, state.first, state.first_log_p)
        if new is not None:
            return replace(new, steps=state.steps + 1)
    if _error(state) < _tolerance() and not _settled(state):
        new = _look(target, state.mean, factor, state.first, state.first_log_p)
        return None if new is None else replace(new, steps=state.steps + 1)
    return None


def _widths(w: np.ndarray) -> np.ndarray:
    """Relative sds to adopt: convex directions keep theirs, flat ones grow by the cap at most."""
    return np.where(w > -1, np.maximum(w, _CAP**-2), 1.0) ** -0.5


def _refuse_flat_mode(target: Any, state: _State, w: np.ndarray, v: np.ndarray) -> None:
    """Refuse a direction along which neither slope nor curvature is left although q has grown far along it."""
    flattest = int(np.abs(w).argmin())
    along = np.abs(state.factor @ v[:, flattest])
    if abs(w[flattest]) < _FLAT and abs(v[:, flattest] @ state.slope) < _FLAT and along.max() > _WIDE:
        refuse_improper(target, int(along.argmax()))


def _refuse_walk(target: Any, state: _State, w: np.ndarray) -> NoReturn:
    """Refuse, with what was seen, a search that ended at no mode."""
    far = int(np.abs(state.mean - state.first).argmax())
    site = coordinate_site(target.model.sites, far).name
    rose = state.log_p - state.first_log_p
    concave = "" if w[0] > 0 else ", and is not concave there"
    raise UnsupportedError(
        f"Laplace found no mode: after {state.steps} steps the log density had risen by {rose:.4g} nats, mostly along site "
        f"{site} ({state.first[far]:.3g} to {state.mean[far]:.3g} unconstrained), and still rises{concave}; a density that is "
        "unbounded or a funnel has no mode worth a Gaussian: use method='fullrank', or write the site non-centered."
    )
