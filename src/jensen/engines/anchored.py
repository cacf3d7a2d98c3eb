"""Anchored subsample rounds: a fit to all rows in about four passes over them.

A Gaussian fit of a subsample knows the shape of the posterior, but its mean is off by sqrt(N / n) posterior sds. Each round
makes one pass over all rows at one point, the mean m of q, and corrects the subsample by the difference of the gradients:

    surrogate(z) = prior(z) + sum_i w_i l_i(z) + (v - v_w) + (g - g_w)'(z - m)

Its optimum is where the gradient of ALL rows vanishes, up to (H - H_w) times the move; fitting it again from q shrinks the error
of the mean by sqrt(D / n) to 2.5 times that. A round whose mean moves less than 0.05 posterior sds was the last: the error
left is several times smaller than the move. Moves that do not halve say that n is too small: twice as many rows are taken.
No draw, line search or curvature ever touches all rows.

Requires: rows that are conditionally independent given sites of fixed dimension D << N.
References: Shamir, Srebro, Zhang (2014), Communication-efficient distributed optimization using an approximate Newton-type
method (rounds); Johnson, Zhang (2013), Accelerating stochastic gradient descent using predictive variance reduction (anchor).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen.engines.engine import Ticks
from jensen.engines.fixed_draws import FixedDraws
from jensen.families.fullrank import DenseGaussian, FullRank
from jensen.families.meanfield import DiagonalGaussian, MeanField
from jensen.models.weighted import CURVATURE, POINT, WEIGHTS

STOP = 0.05
"""Posterior sds by which the mean may move in the last round."""
_ROUNDS = 8
_SLOW = 0.5
"""Moves must fall by this factor a round."""
_POOR = 0.25
"""Fraction of a move that the next one should be, where the subsample has the curvature of some more rows."""
_FAR = 0.2
"""Posterior sds beyond which a curvature is that of another place."""


@dataclass(frozen=True)
class _State:
    inner: Any
    seed: int
    rows: int
    anchor: dict[str, np.ndarray] | None = None
    curved: np.ndarray | None = None
    exact: bool = False
    passes: int = 0
    moves: tuple[float, ...] = ()


@dataclass(frozen=True)
class Anchored:
    """Engine: rounds of smoothed Newton on a subsample that is corrected at the mean by one pass over all rows.

    Parameters
    ----------
    family
        `FullRank` or `MeanField`.
    start
        The approximation to start from: best a fit of the subsample.
    near
        Whether `start` is nearly the answer already, as after earlier rounds: then the subsample is corrected there, with its
        curvature, before anything is fitted.

    Notes
    -----
    Its target is a `jensen.models.large.LargeTarget`.
    """

    family: FullRank | MeanField = FullRank()
    start: DenseGaussian | DiagonalGaussian | None = None
    near: bool = False

    @property
    def engine(self) -> FixedDraws:
        """What fits the surrogate."""
        return FixedDraws(self.family, self.start, large=False)

    def init(self, target: Any, seed: int) -> _State:
        """Fit the subsample alone first, or corrected at the start."""
        anchor = None
        target.move_to({})
        if self.near and self.start is not None:
            anchor = target.anchor(self.start.mean, target.curvature(self.start.mean))
        curved = None if anchor is None else self.start.mean  # type: ignore[union-attr]
        passes = target.rows.passes
        return _State(self.engine.init(target, seed), seed, target.size, anchor, curved=curved, passes=passes)

    def place(self, state: _State, target: Any) -> None:
        """Bring the target to where a state left it."""
        target.resize(state.rows)
        target.move_to(state.anchor or {})
        target.rows.passes = max(target.rows.passes, state.passes)

    def advance(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        """One step on the surrogate; where that has converged, the end of a round."""
        self.place(state, target)
        inner, ticks = self.engine.advance(state.inner, target)
        state = replace(state, inner=inner)
        return self._round(state, target, ticks) if ticks.done else (state, ticks)

    def _round(self, state: _State, target: Any, ticks: Ticks) -> tuple[_State, Ticks]:
        q = self.engine.finish(state.inner)
        if state.exact:
            return state, ticks
        if state.anchor is None:
            found = target.sufficient(q.mean, q.scale if isinstance(q, DenseGaussian) else np.diag(q.sd))
            if found is not None:
                note = f"{found.rank} sufficient statistics stand for all rows, to {found.error:.0e} nats"
                inner = replace(self.engine, start=q).init(target, state.seed)
                anchor = {WEIGHTS: found.weights}
                state = replace(state, inner=inner, anchor=anchor, exact=True, passes=target.rows.passes)
                return state, Ticks(ticks.loss, note=note)
        else:
            move = _distance(q, state.anchor[POINT])
            slow = bool(state.moves) and move > _SLOW * state.moves[-1]
            state = replace(state, moves=(*state.moves, move))
            if move < STOP:
                note = (
                    f"{len(state.moves)} rounds on {state.rows:,} rows; the last one moved the mean by {move:.2g} sds"
                )
                return state, Ticks(ticks.loss, done=True, note=note)
            if slow or len(state.moves) == _ROUNDS:
                if 2 * state.rows > target.most:
                    note = f"rounds on {state.rows:,} rows still move the mean by {move:.2g} sds"
                    return state, Ticks(ticks.loss, done=True, note=note)
                # The old curvature belongs to the old subsample.
                state = replace(state, rows=2 * state.rows, anchor=None, curved=None, moves=())
                target.resize(state.rows)
        if not state.moves:
            q = replace(q, mean=target.nearer(q))
        # On its way the mean is worth a curvature from some rows, and another one where that does not help; at the end, from all.
        curvature, curved = (state.anchor or {}).get(CURVATURE), state.curved
        if _ahead(state.moves) > _FAR:
            if curvature is None or (len(state.moves) > 1 and state.moves[-1] > _POOR * state.moves[-2]):
                curvature, curved = target.curvature(q.mean, rough=True), None
        elif curved is None or _distance(q, curved) > _FAR:
            curvature, curved = target.curvature(q.mean), q.mean
        anchor = target.anchor(q.mean, curvature)
        inner = replace(self.engine, start=q).init(target, state.seed)
        return replace(state, inner=inner, anchor=anchor, curved=curved, passes=target.rows.passes), Ticks(ticks.loss)

    def finish(self, state: _State) -> Any:
        """Q of the state."""
        return self.engine.finish(state.inner)

    def converged(self, state: _State) -> bool:
        """The last round moved the mean by less than `STOP` sds."""
        right = state.exact or (bool(state.moves) and state.moves[-1] < STOP)
        return right and self.engine.converged(state.inner)


def _ahead(moves: tuple[float, ...]) -> float:
    """How far the mean is likely to move in the next round."""
    if not moves:
        return np.inf
    return moves[-1] * (min(moves[-1] / moves[-2], 1.0) if len(moves) > 1 else _POOR)


def _distance(q: Any, point: np.ndarray) -> float:
    """Of the mean of q from a point, in its sds."""
    return float((np.abs(q.mean - point) / q.sd).max())
