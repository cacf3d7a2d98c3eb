"""Batch and match: a Gaussian whose scores match those of the target, by proximal steps in closed form.

With draws z_b of q = N(m, S), scores g_b = grad log p(z_b), their means zbar, gbar and covariances C, Gamma, a step minimizes
the covariance-weighted Fisher divergence on the batch, at a price for leaving the old q,

    q' = argmin  mean_b || grad log q'(z_b) - g_b ||^2_S'  +  (2 / lambda) KL(q || q')
    U = lambda Gamma + lambda / (1 + lambda) gbar gbar'
    V = S + lambda C + lambda / (1 + lambda) (m - zbar)(m - zbar)'
    S' U S' + S' = V:   V = H H',  H'U H = W diag(a) W',   S' = H W diag(2 / (1 + sqrt(1 + 4 a))) W'H'
    m' = m / (1 + lambda) + lambda / (1 + lambda) (S' gbar + zbar)

in coordinates whitened by S, where the equation is the same and well conditioned; S' comes as a factor and cannot lose its
definiteness. lambda_t = B D / (t + 1) falls, so that late steps average over batches. Against the paper, two things are added.
The draws of a step are an orthogonal design (designs.py), rotated anew each time: zbar = m and C = S exactly, which takes most
of the noise of independent draws away. And while q is far off, |L'gbar| > 1, lambda is at least 100 |L'gbar|^2, because a step
can move the mean by sqrt(lambda) sds only, and q would collapse before it arrived; a step that doubles the divergence, or
leaves the support, is tried again with a tenth of lambda.

The divergence E_q ||grad log q - grad log p||^2_S is watched on the draws of each step: it is zero for a Gaussian target, and
for another one it ends at a level that the family cannot get below. The stop is where its level has not fallen between two
windows of steps; then the average of q over the last window is kept.

Requires: a continuous unconstrained density with gradients; D up to a few hundred. Scores see no far mode, and skewed
targets give other moments than the ELBO does.

Reference: Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei, Saul (2024), Batch and match: black-box variational inference
with a score-based divergence, ICML.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.engines.designs import Design, orthogonal
from jensen.engines.engine import Ticks
from jensen.engines.guards import begin, first_finite, reach, refuse_flat, refuse_large, refuse_runaway
from jensen.families.fullrank import DenseGaussian, from_factor

_SMALLEST = 32
_EXACT = 1e-14
"""Divergence a dimension at which q is the target."""
_MATCHED = 0.8
"""Divergence a dimension from which on q says nothing about the target."""
_WINDOW, _FALLS = 20, 0.97
"""Steps of a window, and the factor by which the divergence has to fall from one to the next."""
_LARGEST = 1500
_WORSE = 2.0
"""Factor by which a step may raise the divergence."""
_PUSH = 100.0
"""Times the squared mean slope: smallest lambda of a q that is far off."""
_RETRIES, _FAR = 12, 1e16
_FINITE = 0.75
"""Share of the draws at which the density has to be finite."""


@dataclass(frozen=True)
class _State:
    mean: np.ndarray
    factor: np.ndarray
    """Any factor (D, D) of the covariance."""
    noise: np.ndarray
    weights: np.ndarray
    slopes: np.ndarray
    """Whitened draws (B, D) of this q, their weights (B,) and whitened scores (B, D), where they are finite."""
    fisher: np.ndarray
    """The divergence at every step so far."""
    sums: tuple[np.ndarray, np.ndarray]
    """Sums of mean and covariance over the window so far."""
    average: tuple[np.ndarray, np.ndarray] | None
    """Mean and covariance, averaged over the last complete window."""
    seed: int
    ended: bool = False
    steps: int = 0


@dataclass(frozen=True)
class BatchMatch:
    """Engine: score matching of a full-rank Gaussian in closed-form steps.

    Parameters
    ----------
    start
        A Gaussian to begin at; None is N(0, 0.1^2).
    steps
        Most steps, each of 2 D draws or a multiple of it that is at least 32.

    Raises
    ------
    UnsupportedError
        Above 1,500 dimensions.
    ImproperError
        When the density is flat along a direction, or q grows without end.
    NonFiniteError
        When the density is not finite at the start.
    """

    start: Any = None
    steps: int = 400

    def init(self, target: Any, seed: int) -> _State:
        """Scores at the start, which is shrunk until they are finite."""
        refuse_large(target, "BatchMatch", _LARGEST)
        mean, factor = begin(self.start, target.dim)
        noise, weights = _design(target.dim, seed, 0)
        factor, _, gradient = first_finite(target, mean, factor, noise)
        refuse_flat(target, gradient)
        slopes = gradient @ factor
        nothing = np.zeros(target.dim), np.zeros((target.dim, target.dim))
        return _State(mean, factor, noise, weights, slopes, _fisher(noise, weights, slopes), nothing, None, seed)

    def advance(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        """One step, with a smaller lambda where it leads out of the support, or off."""
        design = _design(target.dim, state.seed, state.steps + 1)
        far = float(((state.weights @ state.slopes) ** 2).sum())
        proximity = max(len(design.weights) * target.dim / (state.steps + 1), _PUSH * far if far > 1 else 0.0)
        for _ in range(_RETRIES):
            mean, factor = _matched(state, proximity)
            seen = _scores(target, mean, factor, design)
            if seen is not None and _fisher(*seen)[0] < _WORSE * max(state.fisher[-1], target.dim):
                noise, weights, slopes = seen
                break
            proximity /= 10
        else:
            refuse_runaway(target, reach(state.mean, state.factor))
            note = "no step of batch and match keeps the log density finite and the divergence in bounds"
            return state, Ticks(state.fisher[-1:], done=True, note=note)
        fisher = np.append(state.fisher, _fisher(noise, weights, slopes))
        exact = bool(fisher[-1] < _EXACT * target.dim)
        sums, average = (state.sums[0] + mean, state.sums[1] + factor @ factor.T), state.average
        if (state.steps + 1) % _WINDOW == 0:
            average, sums = (sums[0] / _WINDOW, sums[1] / _WINDOW), (0 * sums[0], 0 * sums[1])
        ended, steps = exact or _stalled(fisher), state.steps + 1
        state = _State(
            mean, factor, noise, weights, slopes, fisher, sums, None if exact else average, state.seed, ended, steps
        )
        error = float(np.abs(weights @ slopes).max())
        return state, Ticks(fisher[-1:], done=ended or steps >= self.steps, error=error)

    def finish(self, state: _State) -> DenseGaussian:
        """The average over the last window; before there is one, the newest q."""
        if state.average is None:
            return from_factor(state.mean, state.factor)
        mean, cov = state.average
        # In the newest q's own coordinates the average is near the identity.
        white = np.linalg.solve(state.factor, np.linalg.solve(state.factor, cov).T)
        w, v = np.linalg.eigh(0.5 * (white + white.T))
        return from_factor(mean, state.factor @ (v * np.sqrt(np.maximum(w, 1e-12))))

    def converged(self, state: _State) -> bool:
        """The divergence is zero, or does not fall any more from a level that means something.

        A q that is far too narrow, or elsewhere, has a divergence of at least one a dimension.
        """
        return state.ended and bool(state.fisher[-1] < _MATCHED * len(state.mean))


def _design(dim: int, seed: int, step: int) -> Design:
    """The whitened draws of a step."""
    return orthogonal(keys.generator(seed, "batch", step), dim, max(_SMALLEST, 2 * dim))


@np.errstate(over="ignore", invalid="ignore")
def _scores(target: Any, mean: np.ndarray, factor: np.ndarray, design: Design) -> tuple[np.ndarray, ...] | None:
    """Noise, weights and whitened scores where they are finite; None where too many are not."""
    if not (np.abs(mean).max() < _FAR and np.abs(factor).max() < _FAR):
        return None
    log_p, gradient = target(mean + design.points @ factor.T)
    slopes = gradient @ factor
    finite = np.isfinite(log_p) & np.isfinite(slopes).all(1)
    share = float(design.weights[finite].sum())
    if share < _FINITE:
        return None
    return design.points[finite], design.weights[finite] / share, slopes[finite]


def _fisher(noise: np.ndarray, weights: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Covariance-weighted Fisher divergence (1,)."""
    return np.array([weights @ ((noise + slopes) ** 2).sum(1)])


@np.errstate(over="ignore", invalid="ignore")
def _matched(state: _State, proximity: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and factor (D, D) of the next q."""
    x, v, g = state.noise, state.weights, state.slopes
    x_mean, g_mean, share = v @ x, v @ g, proximity / (1 + proximity)
    x_cov, g_cov = (x - x_mean).T @ ((x - x_mean) * v[:, None]), (g - g_mean).T @ ((g - g_mean) * v[:, None])
    u = proximity * g_cov + share * np.outer(g_mean, g_mean)
    root = np.linalg.cholesky(np.eye(len(x_mean)) + proximity * x_cov + share * np.outer(x_mean, x_mean))
    inner = root.T @ u @ root
    if not np.isfinite(inner).all():
        return np.full(len(x_mean), np.nan), root
    a, w = np.linalg.eigh(0.5 * (inner + inner.T))
    factor = (root @ w) * np.sqrt(2 / (1 + np.sqrt(1 + 4 * np.maximum(a, 0))))
    move = share * (factor @ (factor.T @ g_mean) + x_mean)
    return state.mean + state.factor @ move, state.factor @ factor


def _stalled(fisher: np.ndarray) -> bool:
    """Whether the divergence has stopped falling from window to window, in the middle of each."""
    if len(fisher) <= 2 * _WINDOW or (len(fisher) - 1) % _WINDOW:
        return False
    before, now = np.median(fisher[-2 * _WINDOW : -_WINDOW]), np.median(fisher[-_WINDOW:])
    return bool(now > _FALLS * before and fisher[-1] > 0.3 * now)
