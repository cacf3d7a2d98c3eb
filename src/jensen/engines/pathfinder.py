"""Pathfinder: the best Gaussian along the paths of a quasi-Newton search for a mode.

L-BFGS walks from the tails towards a mode, and at each of its points there is a Gaussian for nothing: its inverse Hessian H,
and the place where its quadratic model has its peak. The one with the highest ELBO, less two standard errors because the best of
many estimates from few draws is a lucky one, is kept:

    q_t = N(x_t - H_t g_t, H_t),  g = -grad log p        keep argmax_t mean_k [log p(z_k) - log q_t(z_k)],  z_k ~ q_t

A funnel's mode, where no mass is, is on such a path too; the path may come by the mass before, but in centered hierarchies seldom
close. With H = diag(alpha) + beta gamma beta' (lbfgs.py) draws cost O(D): with diag(alpha)^(-1/2) beta = Q R and
chol(I + R gamma R') = C,

    z = m + diag(alpha)^(1/2) [u + Q (C - I) Q'u],       log det = sum log alpha / 2 + log det C

Several paths run in lockstep, one point of each a call, and the draws ride in the same call. Their Gaussians become a mixture
whose weights are the shares of the posterior mass under balance-heuristic importance weights,

    w_i = p(z_i) / mean_k q_k(z_i),      pi_k  proportional to  sum_i w_i q_k(z_i) / sum_j q_j(z_i)

so that paths that ended in the wrong place lose theirs, and paths that met in one place share it. Every draw is also counted as
a gradient, because the one compiled program of the target gives both.

Requires: a continuous unconstrained density with gradients, up to a few hundred dimensions. Not exact for Gaussians: H is
built from few pairs of gradients.

References: Zhang, Carpenter, Gelman, Vehtari (2022), Pathfinder: parallel quasi-Newton variational inference, JMLR 23(306);
Veach, Guibas (1995), Optimally combining sampling techniques, SIGGRAPH (balance heuristic); Ionides (2008), Truncated
importance sampling, JCGS 17.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from jensen.core import keys
from jensen.core.errors import NonFiniteError, OptionError
from jensen.engines.engine import Ticks
from jensen.engines.guards import refuse_flat, refuse_large, refuse_runaway
from jensen.engines.lbfgs import Inverse, Paths, begin, inverse, update
from jensen.families.fullrank import DenseGaussian, from_factor
from jensen.families.mixture import GaussianMixture, mixture_of

_HISTORY = 20
_WIDTH = 2.0
_CAUTION = 2.0
_ENOUGH, _QUIET = 1e-4, 10
"""A path has arrived where its next step is expected to gain fewer nats, so many times in a row: an expectation from few pairs
can be far too small once, where scales differ."""
_PATIENCE = 25
"""Points after the best one at which a path is given up: it walks into a corner."""
_WEIGHT_DRAWS = 128
_NEGLIGIBLE = 1e-3
_NARROW = 0.1
_LARGEST = 1500


class _Local(NamedTuple):
    """A Gaussian along a path: mean (D,), sqrt(alpha) (D,), Q (D, r) and C (r, r)."""

    mean: np.ndarray
    root: np.ndarray
    q: np.ndarray
    c: np.ndarray

    def draws(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws (n, D) made of noise (n, D), and their log density (n,)."""
        bent = noise + (noise @ self.q) @ (self.c - np.eye(len(self.c))).T @ self.q.T
        volume = np.log(self.root).sum() + np.log(np.diagonal(self.c)).sum() + 0.5 * len(self.mean) * np.log(2 * np.pi)
        return self.mean + bent * self.root, -0.5 * (noise**2).sum(1) - volume

    @property
    def factor(self) -> np.ndarray:
        """A factor (D, D) of the covariance."""
        return self.root[:, None] * (np.eye(len(self.mean)) + self.q @ (self.c - np.eye(len(self.c))) @ self.q.T)


@dataclass(frozen=True)
class _State:
    paths: Paths
    best: Paths
    """Every path as it was at its best Gaussian."""
    elbo: np.ndarray
    """Of the best Gaussians (P,), on few draws."""
    fresh: np.ndarray
    """Paths whose newest Gaussian was not looked at yet (P,)."""
    age: np.ndarray
    """Points since the best one (P,)."""
    quiet: np.ndarray
    """Points in a row from which little was expected (P,)."""
    arrived: np.ndarray
    """Paths that have ended (P,)."""
    log_weights: np.ndarray
    seed: int
    steps: int = 0


@dataclass(frozen=True)
class Pathfinder:
    """Engine: the best Gaussians along quasi-Newton paths; with several paths, their mixture.

    Parameters
    ----------
    paths
        Number of paths. One gives a `DenseGaussian`, more a `GaussianMixture`.
    draws
        For each estimate of an ELBO; an even number.
    steps
        Most rounds, in each of which every path evaluates one point.

    Raises
    ------
    OptionError
        For fewer than one path, or an odd number of draws.
    UnsupportedError
        Above 1,500 dimensions.
    ImproperError
        When the density does not change along a site.
    NonFiniteError
        When no finite start is found within (-2, 2).
    """

    paths: int = 8
    draws: int = 20
    steps: int = 300

    def init(self, target: Any, seed: int) -> _State:
        """Evaluate starts from U(-2, 2)."""
        _check(self.paths, self.draws)
        refuse_large(target, "Pathfinder", _LARGEST)
        x, log_p, gradient = _starts(target, self.paths, seed)
        refuse_flat(target, gradient)
        paths = begin(x, -log_p, -gradient, _HISTORY)
        none = np.zeros(self.paths, int)
        worst = np.full(self.paths, -np.inf)
        return _State(paths, paths, worst, none > 0, none, none, paths.done, np.zeros(self.paths), seed)

    def advance(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        """One round of all paths; after the last one, the weights of the mixture."""
        if state.arrived.all() or state.steps >= self.steps:
            return self._weighed(state, target)
        paths, locals_ = state.paths, [_local(state.paths, k) if state.fresh[k] else None for k in range(self.paths)]
        rng = keys.generator(state.seed, "path draws", state.steps)
        half = rng.standard_normal((self.draws // 2, target.dim))
        made = [local.draws(np.concatenate([half, -half])) for local in locals_ if local is not None]
        moving = np.flatnonzero(~state.arrived)
        log_p, gradient = target(np.concatenate([paths.tried[moving], *(z for z, _ in made)]))
        best, elbo, age = state.best, state.elbo.copy(), state.age.copy()
        measured = iter(zip(log_p[len(moving) :].reshape(-1, self.draws), made, strict=True))
        for k in np.flatnonzero(state.fresh):
            found = -np.inf
            if locals_[k] is not None:
                values, (_, log_q) = next(measured)
                found = _cautious(values - log_q)
            age[k] += 1
            if found > elbo[k]:
                best, elbo[k], age[k] = _with_row(best, paths, int(k)), found, 0
        value, slope = np.full(self.paths, np.nan), np.full_like(paths.x, np.nan)
        value[moving], slope[moving] = -log_p[: len(moving)], -gradient[: len(moving)]
        quiet = np.where(state.fresh, np.where(paths.gain < _ENOUGH, state.quiet + 1, 0), state.quiet)
        arrived = state.arrived | (quiet >= _QUIET) | (age >= _PATIENCE)
        paths, accepted = update(paths, value, slope)
        state = replace(
            state, paths=paths, best=best, elbo=elbo, age=age, quiet=quiet, fresh=accepted & ~arrived,
            arrived=arrived | paths.done, log_weights=_by_elbo(elbo), steps=state.steps + 1,
        )  # fmt: skip
        return state, Ticks(np.array([-elbo.max() if np.isfinite(elbo).any() else np.inf]))

    def _weighed(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        """The end: weights of the paths' Gaussians by importance sampling."""
        loss = np.array([-state.elbo.max() if np.isfinite(state.elbo).any() else np.inf])
        top = int(state.elbo.argmax())
        refuse_runaway(target, np.abs(state.best.x[top]))
        if self.paths == 1 or not np.isfinite(state.elbo).any():
            return state, Ticks(loss, done=True)
        mixture = self.finish(state)
        equal = replace(mixture, log_weights=np.zeros(len(mixture.log_weights)))
        rng = keys.generator(state.seed, "path weights")
        noise = rng.standard_normal((_WEIGHT_DRAWS * len(equal.log_weights), target.dim))
        z, log_q = equal.transport(noise)
        log_p, _ = target(z)
        log_w = np.where(np.isfinite(log_p), log_p - log_q, -np.inf)
        weights = np.exp(log_w - log_w.max())
        weights = np.minimum(weights, weights.mean() * np.sqrt(len(weights)))
        shares = weights @ equal.responsibilities(z)
        log_weights = np.full(self.paths, -np.inf)
        log_weights[self._kept(state)] = np.log(np.maximum(shares / shares.sum(), 1e-300))
        return replace(state, log_weights=log_weights), Ticks(loss, done=True)

    def _kept(self, state: _State) -> np.ndarray:
        """Paths that are part of the mixture."""
        kept = state.log_weights > np.log(_NEGLIGIBLE) + state.log_weights.max()
        return np.flatnonzero(kept & [_local(state.best, k) is not None for k in range(self.paths)])

    def finish(self, state: _State) -> Any:
        """The mixture of the paths' best Gaussians, without those of negligible weight; the only one, for one path."""
        if not np.isfinite(state.elbo).any():  # nothing is known of any curvature: narrow Gaussians where the paths are
            narrow = [DenseGaussian(x, _NARROW * np.eye(len(x))) for x in state.paths.x]
            return narrow[0] if self.paths == 1 else mixture_of(narrow, np.full(self.paths, 1 / self.paths))
        found = [from_factor(local.mean, local.factor) for k in self._kept(state) if (local := _local(state.best, k))]
        if self.paths == 1:
            return found[0]
        return GaussianMixture(
            state.log_weights[self._kept(state)], np.stack([q.mean for q in found]), np.stack([q.scale for q in found])
        )

    def converged(self, state: _State) -> bool:
        """Some path ended by itself and had a finite ELBO."""
        return bool((state.arrived & np.isfinite(state.elbo)).any())


def _check(paths: Any, draws: Any) -> None:
    if not isinstance(paths, int) or isinstance(paths, bool) or paths < 1:
        raise OptionError(f"paths must be at least 1; got {paths!r}; 8 is usual.")
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 2 or draws % 2:
        raise OptionError(f"draws must be an even number, at least 2; got {draws!r}; 20 is usual.")


def _starts(target: Any, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (P, D), uniform within (-2, 2), nearer to zero where the density is not finite."""
    rng = keys.generator(seed, "path starts")
    x = rng.uniform(-_WIDTH, _WIDTH, (count, target.dim))
    log_p, gradient = target(x)
    for attempt in range(1, 25):
        bad = ~(np.isfinite(log_p) & np.isfinite(gradient).all(1))
        if not bad.any():
            return x, log_p, gradient
        x[bad] = _WIDTH * 0.5 ** (attempt // 2) * rng.uniform(-1, 1, (int(bad.sum()), target.dim))
        log_p[bad], gradient[bad] = target(x[bad])
    raise NonFiniteError(
        f"{target.blame(x[bad])} is not finite at the start (25 places within (-{_WIDTH:g}, {_WIDTH:g}) were tried); check data "
        "and supports, or use method='fullrank' with start=."
    )


def _local(paths: Paths, k: int) -> _Local | None:
    """The Gaussian at the accepted point of path k; None where rounding has made it none."""
    found: Inverse = inverse(paths, k)
    root = np.sqrt(found.alpha)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = paths.x[k] - found.times(paths.gradient[k])
        q, r = np.linalg.qr(found.beta / root[:, None])
        inner = np.eye(len(r)) + r @ found.gamma @ r.T
    if not (np.isfinite(mean).all() and np.isfinite(inner).all()):
        return None
    try:
        return _Local(mean, root, q, np.linalg.cholesky(0.5 * (inner + inner.T)))
    except np.linalg.LinAlgError:
        return None


@np.errstate(over="ignore", invalid="ignore")
def _cautious(log_w: np.ndarray) -> float:
    """The ELBO less two standard errors; draws k and k + K / 2 are antithetic.

    The best of many noisy estimates is a lucky one, and a bad Gaussian is the noisiest.
    """
    pairs = log_w.reshape(2, -1).mean(0)
    elbo = float(pairs.mean() - _CAUTION * pairs.std(ddof=min(1, len(pairs) - 1)) / np.sqrt(len(pairs)))
    return elbo if np.isfinite(elbo) else -np.inf


def _with_row(best: Paths, paths: Paths, k: int) -> Paths:
    """`best` with path k as it is in `paths`."""
    copies = {name: value.copy() for name, value in vars(best).items()}
    for name, value in copies.items():
        value[k] = getattr(paths, name)[k]
    return replace(best, **copies)


def _by_elbo(elbo: np.ndarray) -> np.ndarray:
    """Log weights until the draws have been weighed: better ELBO, more weight."""
    return np.where(np.isfinite(elbo), elbo - elbo.max(), -np.inf) if np.isfinite(elbo).any() else np.zeros(len(elbo))
