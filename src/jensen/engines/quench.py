"""Quenches: climbs of the log density from all around a Gaussian q, and where they end other than at home.

In coordinates whitened by q, x, a pool of climbers takes Barzilai-Borwein steps with backtracking, one batch of the program
at a time:

    x <- x + s g,   g = gradient of log p in x,   s <- |dx|^2 / |dx.dg|  after a step that climbs,   s / 4 after one that falls

Near a mode that q describes, g = -x: a climber that sees this has come home, and its place goes to a new start at once. On a
nearly Gaussian mode that takes one to three steps instead of thirty, so that the same number of gradients tries some thousands
of starts instead of 128; where q is poor the pool tries fewer and climbs longer. Starts lie on shells 1 to 24 sds out (a narrow
mode's basin is a ball behind it, not a cone to infinity: no single radius serves all), and near zero.

Two end points may be two modes when the log density dips on the segment between them; where modes are curved, they are one when
it does not on some path: midpoints climb within the plane that bisects their segment, then those of the halves, and so on.

References: Barzilai, Borwein (1988), Two-point step size gradient methods, IMA J. Numer. Anal. 8; Draxler, Veschgini,
Salmhofer, Hamprecht (2018), Essentially no barriers in neural network energy landscape, ICML (paths).
"""

from typing import Any, NamedTuple

import numpy as np

from jensen.families.fullrank import DenseGaussian, from_factor

_DIP, _BARRIER = 0.1, 2.0
"""Nats: a dip that makes two candidates; a barrier on a path that keeps chains from crossing."""
_POOL, _ROUNDS, _STEPS = 128, 36, 30
_NEAREST, _BEHIND, _FARTHEST = 1.0, 5.0, 24.0
_CLOSE, _AT_PEAK = 0.3, 1e-3
_SAME, _SAME_HEIGHT = 0.1, 0.1
"""Distance in q's sds, and difference of log densities, below which two end points are one."""
_MOST_ENDS = 64
_HALVINGS, _PLANE_STEPS = 3, 15


class Frame(NamedTuple):
    """Coordinates x in which q is standard normal: z = center + factor x."""

    center: np.ndarray
    factor: np.ndarray

    def out(self, x: np.ndarray) -> np.ndarray:
        """X (n, D) -> z."""
        return self.center + x @ self.factor.T

    def whiten(self, z: np.ndarray) -> np.ndarray:
        """Z (n, D) -> x."""
        return np.linalg.solve(self.factor, (z - self.center).T).T

    def evaluate(self, target: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log density (n,) and its gradient (n, D) in x; minus infinity and zero where it is not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            log_p, gradient = target(self.out(x))
            gradient = gradient @ self.factor
            fine = np.isfinite(log_p) & np.isfinite(_lengths(gradient))
        if fine.all():
            return log_p, gradient
        return np.where(fine, log_p, -np.inf), np.where(fine[:, None], gradient, 0.0)


def frame_of(q: Any) -> Frame:
    """The frame of any approximation with a mean and a covariance."""
    return Frame(np.asarray(q.mean, float), np.asarray(q.scale, float))


class _Climbers(NamedTuple):
    """Positions, log densities, gradients, step sizes and ages, one row each."""

    x: np.ndarray
    log_p: np.ndarray
    gradient: np.ndarray
    step: np.ndarray
    age: np.ndarray

    def at(self, rows: np.ndarray) -> "_Climbers":
        return _Climbers(*(part[rows] for part in self))


def quench(target: Any, q: Any, rng: np.random.Generator) -> np.ndarray:
    """End points z (n, D) of climbs that did not come home, best first and each only once.

    Parameters
    ----------
    target
        The log density; `target.affordable` limits the pool.
    q
        The approximation from whose surroundings to start.
    rng
        Of the starts.
    """
    frame = frame_of(q)
    pool = target.affordable(_POOL, 32)
    budget, spent = pool * _ROUNDS, 0
    nowhere = np.empty((0, q.dim))
    climbers = _resting(nowhere, np.empty(0), nowhere, np.empty(0))
    ends = [(climbers.x, climbers.log_p)]
    while spent < budget:
        # New starts only while there is enough left for all climbers to arrive somewhere; evaluated with them, in one call.
        room = min(pool - len(climbers.x), (budget - spent) // 4 - len(climbers.x))
        starts = _starts(frame, rng, room) if room > pool // 8 else nowhere
        if not len(starts) + len(climbers.x):
            break
        spent += len(starts) + len(climbers.x)
        moved = _ahead(climbers)
        log_p, gradient = frame.evaluate(target, np.concatenate([moved, starts]))
        number = len(moved)
        if number:
            climbers = _climbed(climbers, moved, log_p[:number], gradient[:number])
            home = _home(climbers)
            ended = ~home & ((_lengths(climbers.gradient) < _AT_PEAK) | (climbers.age >= _STEPS))
            if ended.any():
                ends.append((climbers.x[ended], climbers.log_p[ended]))
            climbers = climbers.at(~(home | ended))
        if len(starts):
            fresh = _begun(starts, log_p[number:], gradient[number:])
            climbers = _Climbers(*(np.concatenate(pair) for pair in zip(climbers, fresh, strict=True)))
    ends.append((climbers.x, climbers.log_p))
    x, log_p = (np.concatenate(parts) for parts in zip(*ends, strict=True))
    return frame.out(_polished(target, frame, _once(x, log_p)))


def _polished(target: Any, frame: Frame, x: np.ndarray) -> np.ndarray:
    """The end points that are left once those that had not arrived have climbed on: on a slope, no dip would tell a mode."""
    if not len(x):
        return x
    log_p, gradient = frame.evaluate(target, x)
    climbers = _resting(x, log_p, gradient, _lengths(gradient))
    done = []
    for _ in range(_STEPS):
        arrived = _lengths(climbers.gradient) < _AT_PEAK
        done.append(climbers.at(arrived))
        climbers = climbers.at(~arrived & ~_home(climbers))
        if not len(climbers.x):
            break
        climbers = _climb(target, frame, climbers)
    done.append(climbers)
    return _once(np.concatenate([each.x for each in done]), np.concatenate([each.log_p for each in done]))


def _starts(frame: Frame, rng: np.random.Generator, count: int) -> np.ndarray:
    """Points x (count, D): an eighth of them near the zero of z, the others on shells around q."""
    near = count // 8
    dim = len(frame.center)
    farthest = np.where(np.arange(count - near) % 2, _FARTHEST, _BEHIND)
    radii = np.exp(rng.uniform(np.log(_NEAREST), np.log(farthest)))
    wide = radii[:, None] * rng.standard_normal((count - near, dim))
    return np.concatenate([wide, frame.whiten(rng.uniform(-2, 2, (near, dim)))])


def _begun(x: np.ndarray, log_p: np.ndarray, gradient: np.ndarray) -> _Climbers:
    """Climbers at rest; those where the density is not finite are dropped, and those at home already."""
    new = _resting(x, log_p, gradient, _lengths(gradient))
    return new.at(np.isfinite(log_p) & ~_home(new))


def _resting(x: np.ndarray, log_p: np.ndarray, gradient: np.ndarray, norms: np.ndarray) -> _Climbers:
    step = np.minimum(1.0, 1.0 / np.maximum(norms, 1e-12))
    return _Climbers(x, log_p, gradient, step, np.zeros(len(x), int))


def _home(climbers: _Climbers) -> np.ndarray:
    """Where the gradient is that of q's own mode, or q's center has been reached."""
    distance, wrong = _lengths(climbers.x), _lengths(climbers.gradient + climbers.x)
    return (wrong < _CLOSE * np.minimum(distance, 6.0)) | (distance < _CLOSE)


def _climb(target: Any, frame: Frame, here: _Climbers, within: np.ndarray | None = None) -> _Climbers:
    """One step each; `within` (n, D) are unit vectors along which no step goes."""
    x = _ahead(here, within)
    return _climbed(here, x, *frame.evaluate(target, x), within)


def _ahead(here: _Climbers, within: np.ndarray | None = None) -> np.ndarray:
    """Where the next steps lead."""
    move = here.gradient if within is None else _across(here.gradient, within)
    return here.x + here.step[:, None] * move


def _climbed(
    here: _Climbers, x: np.ndarray, log_p: np.ndarray, gradient: np.ndarray, within: np.ndarray | None = None
) -> _Climbers:
    """The climbers after steps to x, where the density is that: those that fell stay, with shorter steps."""
    move = here.gradient if within is None else _across(here.gradient, within)
    better = log_p > here.log_p
    turned = move - (gradient if within is None else _across(gradient, within))
    moved = x - here.x
    with np.errstate(all="ignore"):
        step = np.einsum("nd,nd->n", moved, moved) / np.abs(np.einsum("nd,nd->n", moved, turned))
    step = np.minimum(np.maximum(np.where(np.isfinite(step), step, here.step), 1e-8), 1e4)
    row = better[:, None]
    return _Climbers(
        np.where(row, x, here.x),
        np.where(better, log_p, here.log_p),
        np.where(row, gradient, here.gradient),
        np.where(better, step, here.step / 4),
        here.age + 1,
    )


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Of vectors (n, D); some thousand times a search, for which NumPy's own function does too much beside."""
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors))


def _across(vectors: np.ndarray, direction: np.ndarray) -> np.ndarray:
    return vectors - (vectors * direction).sum(1, keepdims=True) * direction


def _once(x: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """The points (n, D), best first, without those next to a better one; next to means farther where too many are left."""
    with np.errstate(over="ignore"):  # around a q that has collapsed there are points that are nowhere
        somewhere = np.isfinite(np.linalg.norm(x, axis=1))
    x, log_p = x[somewhere], log_p[somewhere]
    order = np.argsort(-log_p)
    x, log_p = x[order], log_p[order]
    same, height = _SAME, _SAME_HEIGHT
    while True:
        left, kept = np.arange(len(x)), []
        while len(left):
            kept.append(left[0])
            near = ~(_lengths(x[left] - x[left[0]]) > same)
            left = left[1:][~(near & (log_p[left] > log_p[left[0]] - height))[1:]]
        if len(kept) <= _MOST_ENDS:
            return x[kept]
        same, height = 2 * same, np.inf


def distinct(target: Any, q: Any, ends: np.ndarray, most: int) -> list[np.ndarray]:
    """End points z, best first and at most so many, that a dip separates from the peak next to q's center and from each other."""
    if not len(ends):
        return []
    modes = [_summit(target, frame_of(q))]
    while len(ends) and len(modes) <= most:
        ends = ends[_dips(target, ends, np.broadcast_to(modes[-1], ends.shape)) > _DIP]
        if len(ends):
            modes.append(ends[0])
    return modes[1:]


def _summit(target: Any, frame: Frame) -> np.ndarray:
    """Where a climb from q's center leads (D,): where q covers two modes, there is none at the center, but a dip."""
    x = np.full((1, len(frame.center)), _CLOSE / np.sqrt(len(frame.center)))  # aside, for the center may be a saddle
    log_p, gradient = frame.evaluate(target, x)
    climber = _resting(x, log_p, gradient, _lengths(gradient))
    for _ in range(_PLANE_STEPS):
        if np.linalg.norm(climber.gradient) < _AT_PEAK:
            break
        climber = _climb(target, frame, climber)
    return frame.out(climber.x)[0] if np.isfinite(climber.log_p[0]) else frame.center


def _dips(target: Any, one: np.ndarray, other: np.ndarray, inner: int = 9) -> np.ndarray:
    """How far the log density falls below the lower end on each segment between points z (n, D)."""
    fractions = np.linspace(0, 1, inner + 2)[:, None]
    points = one[:, None] + fractions * (other - one)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        log_p = target(points.reshape(-1, points.shape[-1]))[0].reshape(len(one), -1)
    lower_end = np.minimum(log_p[:, 0], log_p[:, -1])
    return np.asarray(lower_end - np.nan_to_num(log_p, nan=-np.inf)[:, 1:-1].min(1))


def joined(target: Any, frame: Frame, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether a path that nowhere dips by two nats was found between each pair of points z (n, D).

    A path that was found is proof; that none was found is not.
    """
    path = np.stack([frame.whiten(one), frame.whiten(other)])
    for _ in range(_HALVINGS):
        begin, end = path[:-1].reshape(-1, path.shape[-1]), path[1:].reshape(-1, path.shape[-1])
        along = end - begin
        along = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-300)
        middle = _in_plane(target, frame, 0.5 * (begin + end), along).reshape(len(path) - 1, *path.shape[1:])
        longer = np.empty((2 * len(path) - 1, *path.shape[1:]))
        longer[::2], longer[1::2] = path, middle
        path = longer
    z = frame.out(path.reshape(-1, path.shape[-1])).reshape(path.shape)
    begin, end = z[:-1], z[1:]
    fractions = np.arange(4)[:, None, None, None] / 4
    points = begin + fractions * (end - begin)
    with np.errstate(over="ignore", invalid="ignore"):
        log_p = target(points.reshape(-1, z.shape[-1]))[0].reshape(-1, len(one))
        last = target(other)[0]
    lower_end = np.minimum(log_p[0], last)
    return np.asarray(lower_end - np.nan_to_num(log_p, nan=-np.inf).min(0) < _BARRIER)


def _in_plane(target: Any, frame: Frame, x: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Where climbs across the unit vectors `along` end."""
    log_p, gradient = frame.evaluate(target, x)
    climbers = _resting(x, log_p, gradient, _lengths(_across(gradient, along)))
    for _ in range(_PLANE_STEPS):
        climbers = _climb(target, frame, climbers, along)
    return climbers.x


def peak(point: Any) -> DenseGaussian | None:
    """Gaussian with the smoothed curvature at a point of `FixedDraws`; None where that is no peak."""
    w, v = np.linalg.eigh(-point.curvature)
    return from_factor(point.mean, point.factor @ (v / np.sqrt(w))) if w[0] > 0 else None
