"""L-BFGS on several paths in lockstep: every round evaluates one point of each path, in one batched call.

The inverse Hessian of a path is that of its last J accepted pairs s = x' - x, y = g' - g in compact form, on a diagonal that
follows the curvature,

    H = diag(alpha) + beta gamma beta',     beta = [diag(alpha) Y, S],
    gamma = [[0, -R^-1], [-R^-T, R^-T (E + Y' diag(alpha) Y) R^-1]]

with R the upper triangle of S'Y and E its diagonal; s'y > 0 keeps H positive definite. Directions are -H g; lengths are
found by bisection until the weak Wolfe conditions hold, which needs no interpolation, and passes by what is not finite.

The paths minimize; everything is arrays, a path a row, so that a checkpoint can hold them.

References: Byrd, Nocedal, Schnabel (1994), Representations of quasi-Newton matrices and their use in limited memory methods,
Math. Programming 63; Gilbert, Lemarechal (1989), Some numerical experiments with variable-storage quasi-Newton algorithms,
Math. Programming 45 (the diagonal); Lewis, Overton (2013), Nonsmooth optimization via quasi-Newton methods, Math. Programming
141.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

_DECREASE, _CURVATURE = 1e-4, 0.9
_TRIES = 30


class Inverse(NamedTuple):
    """H = diag(alpha) + beta gamma beta' of one path: (N,), (N, 2J), (2J, 2J)."""

    alpha: np.ndarray
    beta: np.ndarray
    gamma: np.ndarray

    def times(self, vector: np.ndarray) -> np.ndarray:
        """H times a vector (N,)."""
        return self.alpha * vector + self.beta @ (self.gamma @ (self.beta.T @ vector))


@dataclass(frozen=True)
class Paths:
    """P paths in R^N.

    Attributes
    ----------
    x, value, gradient
        The accepted points (P, N), the values (P,) and gradients (P, N) there.
    alpha
        Diagonals (P, N).
    s, y
        The last pairs (P, J, N), newest last.
    pairs
        How many of them there are, (P,).
    direction, length
        What is tried next, (P, N) and (P,).
    low, high
        Bracket of the length (P,).
    tries
        Points tried since the last accepted one, (P,).
    gain
        What the quadratic model expects of the next step, g'H g / 2 (P,).
    done
        Paths that cannot go on (P,).
    """

    x: np.ndarray
    value: np.ndarray
    gradient: np.ndarray
    alpha: np.ndarray
    s: np.ndarray
    y: np.ndarray
    pairs: np.ndarray
    direction: np.ndarray
    length: np.ndarray
    low: np.ndarray
    high: np.ndarray
    tries: np.ndarray
    gain: np.ndarray
    done: np.ndarray

    @property
    def tried(self) -> np.ndarray:
        """The points (P, N) to evaluate next; finished paths stay."""
        return np.where(self.done[:, None], self.x, self.x + self.length[:, None] * self.direction)


def begin(x: np.ndarray, value: np.ndarray, gradient: np.ndarray, history: int) -> Paths:
    """Paths from x (P, N), where value (P,) and gradient (P, N) are finite; the first steps are at most one long."""
    count, dim = x.shape
    empty = np.zeros((count, history, dim))
    norms = np.linalg.norm(gradient, axis=1)
    none = np.zeros(count, int)
    return Paths(
        x, value, gradient, np.ones((count, dim)), empty, empty, none, -gradient, 1 / np.maximum(norms, 1.0),
        np.zeros(count), np.full(count, np.inf), none, 0.5 * norms**2, norms == 0,
    )  # fmt: skip


def inverse(paths: Paths, k: int) -> Inverse:
    """The inverse Hessian of path k at its accepted point."""
    used = int(paths.pairs[k])
    alpha, s, y = paths.alpha[k], paths.s[k, len(paths.s[k]) - used :], paths.y[k, len(paths.y[k]) - used :]
    sy = s @ y.T
    r_inverse = np.linalg.inv(np.triu(sy)) if used else np.zeros((0, 0))
    inner = r_inverse.T @ (np.diag(np.diagonal(sy)) + (y * alpha) @ y.T) @ r_inverse
    gamma = np.block([[np.zeros((used, used)), -r_inverse], [-r_inverse.T, inner]])
    return Inverse(alpha, np.concatenate([(y * alpha).T, s.T], 1), gamma)


@np.errstate(over="ignore", invalid="ignore")
def update(paths: Paths, value: np.ndarray, gradient: np.ndarray) -> tuple[Paths, np.ndarray]:
    """Take in the values (P,) and gradients (P, N) of `paths.tried`; also says which points were accepted (P,)."""
    finite = np.isfinite(value) & np.isfinite(gradient).all(1)
    fall = (paths.gradient * paths.direction).sum(1)
    lower = finite & (value <= paths.value + _DECREASE * paths.length * fall) & (value < paths.value)
    flat = np.where(finite, (np.where(finite[:, None], gradient, 0) * paths.direction).sum(1), 0) >= _CURVATURE * fall
    # A path that can go no further with both conditions takes a lower point where it has one.
    accepted = ~paths.done & lower & (flat | (paths.tries >= _TRIES // 2))
    too_far, too_near = ~paths.done & ~lower, ~paths.done & lower & ~accepted
    low, high = np.where(too_near, paths.length, paths.low), np.where(too_far, paths.length, paths.high)
    shrink = np.where(finite, 0.5, 0.1)
    length = np.where(np.isfinite(high), low + shrink * (high - low), 4 * paths.length)
    tries = np.where(accepted, 0, paths.tries + 1)
    new = replace(paths, low=low, high=high, length=length, tries=tries)
    for k in np.flatnonzero(accepted):
        new = _accept(new, int(k), paths.tried[k], float(value[k]), gradient[k])
    for k in np.flatnonzero(~accepted & ~paths.done & (tries > _TRIES)):
        new = _forget(new, int(k))
    return new, accepted


def _accept(paths: Paths, k: int, x: np.ndarray, value: float, gradient: np.ndarray) -> Paths:
    """Path k at its new point, with its new pair and direction."""
    paths = replace(paths, **{name: getattr(paths, name).copy() for name in vars(paths)})
    s, y = x - paths.x[k], gradient - paths.gradient[k]
    sy = s @ y
    if sy > 1e-12 * (y @ y):
        paths.alpha[k] = _diagonal(paths.alpha[k], s, y)
        paths.s[k, :-1], paths.s[k, -1] = paths.s[k, 1:].copy(), s
        paths.y[k, :-1], paths.y[k, -1] = paths.y[k, 1:].copy(), y
        paths.pairs[k] = min(paths.pairs[k] + 1, paths.s.shape[1])
    paths.x[k], paths.value[k], paths.gradient[k] = x, value, gradient
    direction = -inverse(paths, k).times(gradient)
    fall = float(direction @ gradient)
    if not (fall < 0 and np.isfinite(direction).all()):
        return _forget(paths, k)
    paths.direction[k], paths.gain[k] = direction, -0.5 * fall
    paths.length[k], paths.low[k], paths.high[k] = 1.0, 0.0, np.inf
    return paths


def _diagonal(alpha: np.ndarray, s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The diagonal that follows the curvature along a pair."""
    a, b, c = y @ (alpha * y), y @ s, s @ (s / alpha)
    new = 1 / (a / (b * alpha) + y**2 / b - a * s**2 / (b * c * alpha**2))
    return new if np.isfinite(new).all() and (new > 0).all() else alpha


def _forget(paths: Paths, k: int) -> Paths:
    """Path k without its pairs, downhill; done where it had none."""
    paths = replace(paths, **{name: getattr(paths, name).copy() for name in vars(paths)})
    if paths.pairs[k] == 0:
        paths.done[k] = True
        return paths
    norm = float(np.linalg.norm(paths.gradient[k]))
    paths.pairs[k], paths.alpha[k] = 0, 1.0
    paths.direction[k], paths.gain[k] = -paths.gradient[k], 0.5 * norm**2
    paths.length[k], paths.low[k], paths.high[k], paths.tries[k] = 1 / max(norm, 1.0), 0.0, np.inf, 0
    return paths
