"""Restarts: several starts of coordinate ascent run for a few sweeps, and the best of them by the ELBO goes on alone.

Mixtures, topics, hidden Markov and factor models have local optima, and ELBOs of the same model and family compare. The starts
run one after the other through one compiled program. Batching them instead is no faster once compiled (12 levels, 1,000
rows, 8 starts of 31 sweeps on two cores: 0.08 s, one after the other 0.07 s), needs a second program whose compilation takes
longer than the starts, and would run both branches of every `lax.cond`. While they run, callbacks see the best of them so far.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen.conjugate import blocks, starts
from jensen.conjugate.plan import Plan
from jensen.conjugate.products import Products
from jensen.conjugate.special import PoissonSum
from jensen.core.errors import OptionError
from jensen.engines import coordinate
from jensen.engines.coordinate import CoordinateAscent
from jensen.engines.engine import Ticks

COUNT = 8
"""Starts of a model that may have several optima; three times as many where the order of levels matters."""
SWEEPS = 31
"""Of every start before they are compared: chunks of 1, 2, 4, 8 and 16."""
MOST_NUMBERS = 20_000_000
"""Rows times levels times starts."""


def needed(plan: Plan) -> int:
    """Number of starts: several when levels or factors could be found in different ways, fewer when there are many rows."""
    energy, largest = plan.energy, 0
    assert energy is not None
    for node in blocks.nodes(plan).values():
        if node.levels is not None and int(np.prod(node.shape)) > 1:
            largest = max(largest, int(np.prod(node.shape)) * node.levels)
    for pieces in energy.sums.values():
        for piece in pieces:
            if isinstance(piece, Products | PoissonSum):
                shape, terms = (
                    (piece.shape, piece.x) if isinstance(piece, Products) else (piece.y.shape, piece.log_weight)
                )
                largest = max(largest, int(np.prod(shape)) * len(terms))
    most = 3 * COUNT if any(starts.named(plan, name) for name in energy.discrete) else COUNT
    return int(np.clip(MOST_NUMBERS // largest, 1, most)) if largest else 1


@dataclass(frozen=True)
class Restarted:
    """The running start, what it has done, and the best one so far.

    Attributes
    ----------
    seed, number, count
        Of the fit; of the running start; of all starts.
    running
        Its state.
    elbos
        Its ELBO after every sweep.
    best
        State and ELBOs of the best start that was run; None before the first.
    ends
        ELBO of every start that was run, NaN for broken ones.
    """

    seed: int
    number: int
    count: int
    running: Any
    elbos: np.ndarray
    best: tuple[Any, np.ndarray] | None = None
    ends: tuple[float, ...] = ()
    racing: bool = True


@dataclass(frozen=True)
class Restarts:
    """Coordinate ascent from several starts.

    Attributes
    ----------
    engine
        What each start runs; one with a start of its own runs once.
    count
        Number of starts; None: `needed`.
    """

    engine: CoordinateAscent = CoordinateAscent()
    count: int | None = None

    def init(self, target: Plan, seed: int) -> Restarted:
        """First state: the first start."""
        if self.count is not None and self.count < 1:
            raise OptionError(
                f"count of restarts must be at least 1; got {self.count!r}; leave it out to let the model decide."
            )
        count = 1 if self.engine.start is not None else self.count or needed(target)
        return Restarted(seed, 0, count, self.engine.init(target, seed), np.zeros(0), racing=count > 1)

    def advance(self, state: Restarted, target: Plan) -> tuple[Restarted, Ticks]:
        """One chunk of the running start; the sweeps of the winner are reported when it is known."""
        running, ticks = self.engine.advance(state.running, target)
        if not state.racing:
            return replace(state, running=running), ticks
        elbos = np.concatenate([state.elbos, -ticks.loss])
        state = replace(state, running=running, elbos=elbos)
        if not ticks.done and len(elbos) < SWEEPS:
            return state, Ticks(np.zeros(0))
        return self._ended(state, target)

    def _ended(self, state: Restarted, target: Plan) -> tuple[Restarted, Ticks]:
        """The running start is compared with the best; the next one begins, or the best goes on."""
        end = state.running.elbo if not state.running.broken else np.nan
        best = state.best
        if best is None or end > np.nanmax([-np.inf, *state.ends]):  # False for NaN
            best = state.running, state.elbos
        state = replace(state, best=best, ends=(*state.ends, end))
        if len(state.ends) < state.count:
            number = state.number + 1
            following = coordinate.first(target, state.seed, number)
            return replace(state, number=number, running=following, elbos=np.zeros(0)), Ticks(np.zeros(0))
        winner, elbos = best
        done = bool(winner.broken) or self.engine.converged(winner)
        state = replace(state, running=winner, elbos=elbos, racing=False)
        return state, Ticks(-elbos, done=done, note=winner.broken or _note(state))

    def finish(self, state: Restarted) -> Any:
        """Families by block: of the best start so far, or of the one that goes on."""
        return self.engine.finish(_leading(state)[0])

    def best_so_far(self, state: Restarted) -> np.ndarray | None:
        """The losses of the best start so far, while several run."""
        return -_leading(state)[1] if state.racing else None

    def converged(self, state: Restarted) -> bool:
        """Whether the best start has converged."""
        return not state.racing and self.engine.converged(state.running)


def _leading(state: Restarted) -> tuple[Any, np.ndarray]:
    """State and ELBOs of the best start so far."""
    if not state.racing or state.best is None or state.running.elbo > state.best[0].elbo:
        return state.running, state.elbos
    return state.best


def _note(state: Restarted) -> str:
    ends = np.array(state.ends)
    good = ends[np.isfinite(ends)]
    same = int((good >= good.max() - 1e-3 * (1 + 1e-3 * abs(good.max()))).sum())
    return (
        f"{state.count} starts: ELBO from {good.min():.6g} to {good.max():.6g} after up to {SWEEPS} sweeps, "
        f"{same} of them at the best one; the best went on alone"
    )
