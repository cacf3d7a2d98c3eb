"""Low rank by Lanczos: a Gaussian with K directions of its own, from the mean-field fit and curvature applied to vectors.

The mean-field fit comes first (fixed_draws.py). In units of its sds s the smoothed precision W = -s E_q[Hessian] s has diagonal
one, and is only applied to vectors, by central differences of gradients averaged over a few fixed draws of q: no noise of a
Stein estimate, no D x D matrix, no more draws in more dimensions. For any orthonormal V with V' W V = diag(theta) the KL
divergence of a Gaussian with widths s (I + V diag(r - 1) V') is, up to terms without V and r,

    sum_k [ r_k^2 theta_k / 2 - log r_k ]      smallest at r = theta^(-1/2), a gain of (theta - 1 - log theta) / 2 each

so the Ritz vectors of a Krylov space with the largest gains are taken, converged or not. Then the sds follow from
s_i^2 <- s_i^2 / (W R^2)_ii, R the root above, the mean from conjugate gradients with q's covariance as preconditioner, and all
is done again with draws of the new q. Directions that are not found keep their mean-field width: cost and overfit grow with K,
not with D.

Requires: a continuous unconstrained density with gradients; of use where few directions carry the correlations.
References: Golub, Van Loan (2013), Matrix computations, section 10.1 (Lanczos); Ong, Nott, Smith (2018), Gaussian variational
approximation with a factor covariance structure, J. Comput. Graph. Statist. 27 (the family).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import OptionError
from jensen.engines.designs import columnwise
from jensen.engines.engine import Ticks
from jensen.engines.fixed_draws import FixedDraws
from jensen.families.lowrank import LowRank, LowRankGaussian
from jensen.families.meanfield import DiagonalGaussian, MeanField

_RANK = 50
"""Largest K that is chosen by itself."""
_GAIN = 0.02
"""Nats that a direction must bring to be kept."""
_POINTS, _JUDGES = 64, 512
"""Draws over which curvature is averaged, and others by which a round is judged."""
_STEP = 1e-4
_SMALLEST = 1e-6
_ROUNDS = 8
_INNER = 30
_LENGTH = 60
_ITERATIONS = 12
_STOP = 0.1
"""Move of the mean, in posterior sds, and change of the entropy, in nats, below which a round was the last."""


@dataclass(frozen=True)
class _State:
    inner: Any
    seed: int
    q: LowRankGaussian | None = None
    own: Any = None
    rounds: int = 0
    steps: int = 0
    good: bool = False


@dataclass(frozen=True)
class LowRankDraws:
    """Engine: mean-field, then rounds of Lanczos on smoothed curvature.

    Parameters
    ----------
    family
        `LowRank`, with the rank K or None: as many directions as bring 0.02 nats each, at most 50.
    start
        The approximation to start from (its mean and sds); None is N(0, 0.1^2).
    steps
        Give up after so many steps, of which one is a round.
    """

    family: LowRank = LowRank()
    start: Any = None
    steps: int = 150

    def init(self, target: Any, seed: int) -> _State:
        """State of the mean-field fit that comes first."""
        if not isinstance(self.family, LowRank):
            raise OptionError(
                f"family must be jn.LowRank(...); got {self.family!r}; leave it out to let jensen choose."
            )
        rank = self.family.rank
        if rank is not None and not (isinstance(rank, int) and 1 <= rank <= target.dim):
            raise OptionError(
                f"rank must be between 1 and the dimension {target.dim}; got {rank!r}; leave it out to let jensen choose."
            )
        return _State(self._first().init(target, seed), seed)

    def _first(self) -> FixedDraws:
        start = self.start
        if start is not None and not isinstance(start, DiagonalGaussian):
            start = DiagonalGaussian(np.asarray(start.mean, float), np.log(np.asarray(start.sd, float)))
        return FixedDraws(MeanField(), start=start, steps=self.steps)

    def advance(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        """A step of the mean-field fit, or a round."""
        if state.q is None:
            inner, ticks = self._first().advance(state.inner, target)
            state = replace(state, inner=inner, steps=state.steps + 1)
            if not ticks.done:
                return state, ticks
            q = self._first().finish(inner)
            none = np.zeros((target.dim, 0))
            return replace(
                state, q=LowRankGaussian(q.mean, q.log_sd, none, np.zeros(0)), own=np.ones(target.dim)
            ), ticks._replace(done=False)
        before = state.q
        old = _objective(target, before, state.seed)
        q, own = _round(target, before, state.own, self._rank(target.dim), state.seed, state.rounds)
        loss = _objective(target, q, state.seed)
        if not loss < old + 1e-6 * max(1.0, abs(old)):
            note = "" if state.rounds else "no direction was found that improves on mean-field"
            return replace(state, steps=state.steps + 1, good=True), Ticks(np.array([old]), done=True, note=note)
        moved = float(np.abs((q.mean - before.mean) / q.sd).max())
        gap = abs(float(q.entropy() - before.entropy()))
        rounds = state.rounds + 1
        good = moved < _STOP and gap < _STOP
        state = replace(state, q=q, own=own, rounds=rounds, steps=state.steps + 1, good=good)
        return state, Ticks(np.array([loss]), done=good or rounds >= _ROUNDS or state.steps >= self.steps, error=moved)

    def _rank(self, dim: int) -> int:
        return min(self.family.rank or _RANK, dim)

    def finish(self, state: _State) -> Any:
        """Q of the state; of a mean-field width in all directions before the first round."""
        if state.q is not None:
            return state.q
        q = self._first().finish(state.inner)
        return LowRankGaussian(q.mean, q.log_sd, np.zeros((q.dim, 0)), np.zeros(0))

    def converged(self, state: _State) -> bool:
        """The last round moved the mean by less than 0.1 sd, and the entropy by little."""
        return state.good


def _round(
    target: Any, q: LowRankGaussian, own: np.ndarray, rank: int, seed: int, number: int
) -> tuple[LowRankGaussian, np.ndarray]:
    """New q, and the diagonal of W in its units."""
    points = q.transport(_design(seed, q.dim))[0]
    s = np.exp(q.log_diagonal)
    theta, v, image = _lanczos(target, points, s, keys.generator(seed, "lanczos", number), rank)
    power, value = 0.5, _divergence(s, own, theta)
    for _ in range(_INNER):
        # The widths given the directions; then the directions of the same span in units of the new widths.
        factor = np.clip(own + (image * np.expm1(-np.log(theta)) * v).sum(1), 1e-3, 1e3)
        c = factor**-power
        found = _refit(v / c[:, None], c[:, None] * image)
        below = _divergence(c * s, c**2 * own, found[0])
        if below < value:
            s, own, value, (theta, v, image) = c * s, c**2 * own, below, found
        else:
            power = 0.4 * power
    new = LowRankGaussian(q.mean, np.log(s), v, -0.5 * np.log(theta))
    return replace(new, mean=_mean_step(target, new, seed)), own


def _objective(target: Any, q: LowRankGaussian, seed: int) -> float:
    """E_q[log q - log p] on the fixed draws, log q of the draws themselves: near the optimum most of their noise cancels."""
    z, log_q = q.transport(_design(seed, q.dim, _JUDGES))
    return float((log_q - target(z)[0]).mean())


def _divergence(s: np.ndarray, own: np.ndarray, theta: np.ndarray) -> float:
    """KL divergence from q with r = theta^(-1/2), but for a constant, were the curvature constant."""
    return float(-np.log(s).sum() + 0.5 * (own.sum() + (np.log(theta) - theta + 1).sum()))


def _refit(span: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ritz values (K,), orthonormal vectors and images of a span (D, K), given its image under W."""
    basis, mix = np.linalg.qr(span)
    image = np.linalg.solve(mix.T, image.T).T
    small = basis.T @ image
    theta, y = np.linalg.eigh(0.5 * (small + small.T))
    return np.maximum(theta, _SMALLEST), basis @ y, image @ y


def _design(seed: int, dim: int, points: int = _POINTS) -> np.ndarray:
    return columnwise(keys.generator(seed, "low rank design", points), dim, points).points


def _curvature(target: Any, points: np.ndarray, s: np.ndarray, v: np.ndarray) -> np.ndarray:
    """W v (D,) in units of s."""
    h = _STEP / max(float(np.abs(v).max()), 1e-300)
    _, gradient = target(np.concatenate([points + h * s * v, points - h * s * v]))
    half = len(points)
    return -s * (gradient[:half].mean(0) - gradient[half:].mean(0)) / (2 * h)


def _lanczos(
    target: Any, points: np.ndarray, s: np.ndarray, rng: np.random.Generator, rank: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ritz values (K,), vectors (D, K) and their images under W, those of the largest gains."""
    dim = len(s)
    length = min(dim, max(2 * rank + 10, _LENGTH))
    basis, images = np.zeros((length, dim)), np.zeros((length, dim))
    vector = rng.standard_normal(dim)
    for k in range(length):
        for _ in range(2):
            vector = vector - basis[:k].T @ (basis[:k] @ vector)
        size = np.linalg.norm(vector)
        if size < 1e-10:
            basis, images = basis[:k], images[:k]
            break
        basis[k] = vector / size
        images[k] = vector = _curvature(target, points, s, basis[k])
        if not np.isfinite(vector).all():
            basis, images = basis[:k], images[:k]
            break
    small = basis @ images.T
    theta, y = np.linalg.eigh(0.5 * (small + small.T))
    kept = np.maximum(theta, _SMALLEST)
    gain = 0.5 * (kept - 1 - np.log(kept))
    best = np.argsort(-gain)[:rank]
    best = best[gain[best] > _GAIN]
    return kept[best], basis.T @ y[:, best], images.T @ y[:, best]


def _mean_step(target: Any, q: LowRankGaussian, seed: int) -> np.ndarray:
    """Mean where the averaged gradient on the design is nearly zero: two Newton steps, shortened until log p rises."""
    noise, s = _design(seed, q.dim), np.exp(q.log_diagonal)
    for _ in range(2):
        points = q.transport(noise)[0]
        log_p, gradient = target(points)
        direction = _newton(target, q, points, s * gradient.mean(0))
        for rho in (1.0, 0.5, 0.25, 0.0):
            moved = replace(q, mean=q.mean + rho * s * direction)
            found = target(moved.transport(noise)[0])[0].mean()
            if np.isfinite(found) and found >= log_p.mean():
                break
        q = moved
    return q.mean


@np.errstate(over="ignore", invalid="ignore")
def _newton(target: Any, q: LowRankGaussian, points: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Solution of W d = slope by conjugate gradients, finite; q's covariance is the preconditioner."""
    s, stretch = np.exp(q.log_diagonal), np.expm1(2 * q.log_stretch)

    def condition(x: np.ndarray) -> np.ndarray:
        return x + q.directions @ (stretch * (q.directions.T @ x))

    direction, residual = np.zeros_like(slope), slope
    search = condition(residual)
    first = power = float(residual @ search)
    for _ in range(_ITERATIONS):
        if power < max(1e-4 * first, 1e-8):
            break
        image = _curvature(target, points, s, search)
        bend = float(search @ image)
        if not np.isfinite(bend) or bend <= 0:
            break
        moved, residual = direction + power / bend * search, residual - power / bend * image
        conditioned = condition(residual)
        if not (np.isfinite(moved).all() and np.isfinite(conditioned).all()):
            break
        direction = moved
        before, power = power, float(residual @ conditioned)
        search = conditioned + power / before * search
    return direction
