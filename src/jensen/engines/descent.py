"""Descent of other objectives than the ELBO: L-BFGS over a Gaussian's parameters on fixed draws.

With z_n = m + L e_n on a fixed design (e_n, v_n), an objective is a function J of the log weights

    log w_n = log p(z_n) + log|det L| + |e_n|^2 / 2 + (D / 2) log 2 pi,         c_n = dJ / d log w_n
    dJ / dm = sum c_n g_n,      dJ / dL = tril( sum c_n g_n e_n' ) + (sum c_n) diag(1 / L_ii),      g_n = grad log p(z_n)

so that any of them comes from the same compiled program (objectives/renyi.py, objectives/log_ratio.py). Parameters are relative
to the Gaussian at which the descent begins, m = m0 + L0 mu and L = L0 A with log diag A and tril A free, where all of them are
of one size. It begins at the ELBO's optimum: far from the posterior the other objectives are led by a few draws.

The design is made of orthogonal blocks (designs.py) with radii at the quantiles of the chi distribution: these objectives feel
the tails, to which a few Gauss nodes are blind. A design can be overfitted, by objectives that reward the largest weight above
all: every other step a second one decides which q is kept, and when to stop.

Requires: a continuous unconstrained density with gradients; D up to a few tens for alpha well below one.

References: Li, Turner (2016), Renyi divergence variational inference, NeurIPS 29; Nusken, Richter (2021), Solving
high-dimensional Hamilton-Jacobi-Bellman PDEs using neural networks; Giordano, Ingram, Broderick (2024), JMLR 25 (fixed draws).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import NonFiniteError, OptionError
from jensen.engines.designs import Design, block_size, orthogonal
from jensen.engines.engine import Ticks
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.guards import begin as begin_at
from jensen.engines.guards import refuse_large
from jensen.engines.lbfgs import Paths, begin, update
from jensen.families.fullrank import FullRank, from_factor
from jensen.families.meanfield import DiagonalGaussian, MeanField
from jensen.objectives.renyi import Renyi

Objective = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]
"""(log weights, weights of the draws) -> value to be minimized, its derivatives with respect to the log weights."""

_POINTS, _MOST_POINTS = 1024, 4096
_HISTORY = 30
_ENOUGH, _CLOSE = 1e-13, 1e-5
"""Expected gain at which the descent ends, and at which it counts as converged."""
_EVERY, _PATIENCE = 2, 4
"""Steps between looks at the second design, and looks without a better value after which the descent ends."""
_COUNT = 100
"""Effective number of draws of the second design below which its value is chance."""
_LARGEST, _LARGEST_MEANFIELD = 300, 1500


@dataclass(frozen=True)
class _State:
    center: np.ndarray
    factor: np.ndarray
    """Where the descent began: mean (D,), and factor (D, D) or sds (D,)."""
    path: Paths
    """The one path of the relative parameters (1, N)."""
    kept: np.ndarray
    """The parameters (N,) that are best on the second design."""
    kept_value: float
    worse: int
    seed: int
    steps: int = 0
    ended: bool = False


@dataclass(frozen=True)
class Descent:
    """Engine: L-BFGS on an objective of the log weights.

    Parameters
    ----------
    family
        `FullRank` or `MeanField`.
    objective
        `Renyi` or `LogRatio`, or any function from log weights (n,) and weights of the draws (n,) to a value to be minimized
        and its derivatives (n,). ``Renyi(1)`` is the ELBO.
    start
        A Gaussian to begin at; None fits one by `FixedDraws` first.
    steps
        Most steps.

    Raises
    ------
    UnsupportedError
        Above 300 dimensions, or 1,500 for `MeanField`.
    ImproperError, NonFiniteError
        Where no Gaussian can be fitted to begin at, or the density is not finite around `start`.
    """

    family: FullRank | MeanField = FullRank()
    objective: Objective = Renyi(1.0)
    start: Any = None
    steps: int = 300

    def init(self, target: Any, seed: int) -> _State:
        """Value and gradient at the start."""
        if not isinstance(self.family, FullRank | MeanField):
            raise OptionError(f"family must be jn.FullRank() or jn.MeanField(); got {self.family!r}.")
        if isinstance(self.objective, type) or not callable(self.objective):
            raise OptionError(
                f"objective must be jn.Renyi(...), jn.LogRatio() or a function of log weights; got {self.objective!r}."
            )
        refuse_large(target, "Descent", _LARGEST if isinstance(self.family, FullRank) else _LARGEST_MEANFIELD)
        center, factor = begin_at(_fitted(target, self.family, seed) if self.start is None else self.start, target.dim)
        if isinstance(self.family, MeanField):
            factor = np.sqrt((factor**2).sum(1))
        zero = np.zeros(_count(factor))
        value, gradient = _value(target, self.objective, center, factor, _design(target.dim, seed, 0), zero)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            raise NonFiniteError(
                f"{target.blame(_out(center, factor, _design(target.dim, seed, 0).points, zero))} is not finite at some of the "
                "start's own draws; pass a narrower start=, or leave it out."
            )
        path = begin(zero[None], np.array([value]), gradient[None], _HISTORY)
        second, _ = _value(target, self.objective, center, factor, _design(target.dim, seed, 1), zero)
        return _State(center, factor, path, zero, second, 0, seed)

    def advance(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        """One accepted step; every other one, and at the end, a look at the second design."""
        design, path = _design(target.dim, state.seed, 0), state.path
        accepted = np.zeros(1, bool)
        while not (accepted[0] or path.done[0]):
            value, gradient = _value(target, self.objective, state.center, state.factor, design, path.tried[0])
            path, accepted = update(path, np.array([value]), gradient[None])
        steps = state.steps + 1
        ended = bool(path.done[0] or path.gain[0] < _ENOUGH)
        state = replace(state, path=path, steps=steps, ended=ended)
        if ended or steps >= self.steps or steps % _EVERY == 0:
            second, trusted = self._second(state, target, path.x[0])
            # Equal but for rounding is as good: near an exact fit the later one is the more exact.
            if trusted and second <= state.kept_value + 1e-10 * (1 + abs(state.kept_value)):
                state = replace(state, kept=path.x[0], kept_value=min(second, state.kept_value), worse=0)
            else:
                state = replace(state, worse=state.worse + 1, ended=ended or state.worse + 1 >= _PATIENCE)
        done = state.ended or steps >= self.steps
        note = "the design was overfitted: the best q on a second one is kept" if state.worse >= _PATIENCE else ""
        return state, Ticks(path.value.copy(), done=done, note=note)

    def _second(self, state: _State, target: Any, parameters: np.ndarray) -> tuple[float, bool]:
        """Value on the second design, and whether enough of its draws count."""
        counts: list[float] = []

        def objective(log_w: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
            value, c = self.objective(log_w, weights)
            counts.append(float(np.abs(c).sum() ** 2 / np.maximum((c**2).sum(), 1e-300)))
            return value, c

        design = _design(target.dim, state.seed, 1)
        value, _ = _value(target, objective, state.center, state.factor, design, parameters)
        return value, bool(counts) and counts[0] > min(_COUNT, 0.1 * len(design.weights))

    def finish(self, state: _State) -> Any:
        """The q that is best on the second design."""
        dim = len(state.center)
        if state.factor.ndim == 1:
            return DiagonalGaussian(
                state.center + state.factor * state.kept[:dim], np.log(state.factor) + state.kept[dim:]
            )
        return from_factor(
            state.center + state.factor @ state.kept[:dim], state.factor @ _triangle(state.kept[dim:], dim)
        )

    def converged(self, state: _State) -> bool:
        """No further gain on the design, or none that a second one confirms."""
        return state.ended and (bool(state.path.gain[0] < _CLOSE) or state.worse >= _PATIENCE)


def _fitted(target: Any, family: FullRank | MeanField, seed: int) -> Any:
    """The ELBO's Gaussian."""
    engine = FixedDraws(family)
    state, done = engine.init(target, seed), False
    while not done:
        state, ticks = engine.advance(state, target)
        done = ticks.done
    return engine.finish(state)


def _design(dim: int, seed: int, number: int) -> Design:
    """Orthogonal blocks whose radii are stratified over their distribution; second moments are exact."""
    from scipy.special import gammaincinv

    block = block_size(dim)
    size = min(max(_POINTS, 8 * dim), _MOST_POINTS)
    rng = keys.generator(seed, "descent design", number)
    if dim == 1:
        return orthogonal(rng, dim, size)
    blocks = max(1, size // block)
    squares = 2 * gammaincinv(dim / 2, (np.arange(blocks) + 0.5) / blocks)
    squares *= dim / squares.mean()
    points = [np.sqrt(square / dim) * orthogonal(rng, dim, block).points for square in squares]
    return Design(np.concatenate(points), np.full(blocks * block, 1 / (blocks * block)))


def _count(factor: np.ndarray) -> int:
    """Number of relative parameters."""
    dim = len(factor)
    return 2 * dim if factor.ndim == 1 else dim + dim * (dim + 1) // 2


def _triangle(flat: np.ndarray, dim: int) -> np.ndarray:
    """A (D, D): log diagonal first, then the entries below it."""
    a = np.zeros((dim, dim))
    a[np.tril_indices(dim, -1)] = flat[dim:]
    a[np.diag_indices(dim)] = np.exp(flat[:dim])
    return a


def _out(center: np.ndarray, factor: np.ndarray, noise: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Points (n, D) of the design under the relative parameters."""
    dim = len(center)
    if factor.ndim == 1:
        return center + factor * (parameters[:dim] + noise * np.exp(parameters[dim:]))
    return center + (parameters[:dim] + noise @ _triangle(parameters[dim:], dim).T) @ factor.T


@np.errstate(over="ignore", invalid="ignore")
def _value(
    target: Any, objective: Objective, center: np.ndarray, factor: np.ndarray, design: Design, parameters: np.ndarray
) -> tuple[float, np.ndarray]:
    """Objective and its gradient (N,) with respect to the relative parameters; NaN where the density is not finite."""
    noise, weights = design
    dim = len(center)
    z = _out(center, factor, noise, parameters)
    nowhere = float("nan"), np.full(len(parameters), np.nan)
    if not np.isfinite(z).all():
        return nowhere
    log_p, gradient = target(z)
    if not (np.isfinite(log_p).all() and np.isfinite(gradient).all()):
        return nowhere
    volume = np.log(factor).sum() if factor.ndim == 1 else np.linalg.slogdet(factor)[1]
    log_w = log_p + volume + parameters[dim : 2 * dim].sum() + 0.5 * (noise**2).sum(1) + 0.5 * dim * np.log(2 * np.pi)
    value, c = objective(log_w, weights)
    widths = np.exp(parameters[dim : 2 * dim])
    if factor.ndim == 1:
        u = c[:, None] * gradient * factor
        return value, np.concatenate([u.sum(0), (u * noise).sum(0) * widths + c.sum()])
    u = c[:, None] * (gradient @ factor)
    outer = u.T @ noise
    return value, np.concatenate([u.sum(0), np.diagonal(outer) * widths + c.sum(), outer[np.tril_indices(dim, -1)]])
