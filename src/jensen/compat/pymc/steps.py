"""How steps of a compiled loop are shown to callbacks one by one.

Steps run in compiled chunks. Where there are callbacks, the optimizer's memory holds the parameters after each step of a chunk,
from which the callbacks are called afterwards; when one of them stops the fit at step i, the chunk is run again up to i, which
gives the same numbers, as all chance is a function of seed and step.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen import fitting_large
from jensen.compat.pymc.base import PRECISION, Approximation
from jensen.core.errors import UnsupportedError
from jensen.engines.engine import Ticks
from jensen.engines.stein import Stein
from jensen.models import plates
from jensen.run import Run, Snapshot
from jensen.settings import Settings

_log = logging.getLogger(__name__)
_RING = 2**15
"""Numbers that the optimizer remembers for the callbacks, at most."""


@dataclass(frozen=True)
class Open:
    """An engine whose finished q is its state, in chunks of at most `most` steps."""

    engine: Any
    most: int | None = None

    def init(self, target: Any, seed: int) -> Any:
        """First state."""
        return self.engine.init(target, seed)

    def advance(self, state: Any, target: Any) -> tuple[Any, Ticks]:
        """One chunk."""
        if self.most is None:
            return self.engine.advance(state, target)
        state, ticks = self.until(state.step + self.most).advance(state, target)
        more = ticks.spent and state.step < self.engine.steps
        return state, ticks._replace(done=False, spent=False) if more else ticks

    def until(self, step: int) -> Any:
        """The engine, ending at a step."""
        return replace(self.engine, steps=min(step, self.engine.steps))

    def finish(self, state: Any) -> Any:
        """The state."""
        return state

    def converged(self, state: Any) -> bool:
        """Whether the engine's own rule is satisfied."""
        return self.engine.converged(state)


@dataclass
class Last:
    """The last fit: what `refine` goes on from."""

    engine: Any
    target: Any
    seed: int
    callbacks: list[Callable[..., Any]]
    scale: float
    losses: np.ndarray
    state: Any = None
    run: Run | None = None


class Replay:
    """Callback of the loop: calls PyMC's callbacks for every step of a chunk."""

    def __init__(self, approx: Approximation, last: Last):
        self.approx, self.last, self.count = approx, last, 0
        self.state = self.before = last.state
        self.kept = 0
        """Steps of this run before the last chunk."""

    def __call__(self, snapshot: Snapshot) -> None:
        """Call the callbacks for every step since the last time."""
        done, count = snapshot.q, len(snapshot.loss)
        self.before, self.state, self.kept = self.state, done, self.count
        losses = np.concatenate([self.last.losses, snapshot.loss / self.last.scale])
        if isinstance(self.last.engine, Stein):
            self.count = count
            if count > self.kept:
                self.approx.set_q(self.last.engine.finish(done))
                self._call(None, len(losses))
            return
        memory = done.now.memory
        ring, steps = np.asarray(memory.ring), int(memory.count)
        begun = 0 if self.before is None else int(self.before.now.memory.count)
        if steps != begun + count - self.kept:
            self.count = count  # a step was not finite, and those before it are undone
            return
        for step in range(self.kept, count):
            self.approx.set_flat(ring[(steps - count + step) % len(ring)].copy())
            self.count = step + 1
            self._call(losses, len(self.last.losses) + step + 1)

    def _call(self, losses: np.ndarray | None, i: int) -> None:
        for callback in self.last.callbacks:
            try:
                callback(self.approx, None if losses is None else losses[:i], i)
            except StopIteration as stop:
                _log.info(str(stop))
                raise


def rows_of(approx: Approximation) -> int:
    """Steps of a chunk whose parameters are remembered."""
    return int(np.clip(_RING // sum(value.size for value in approx.values.values()), 1, 200))


def batched(approx: Approximation) -> Any:
    """The target in rows, where the model's rows can be taken apart; else None, and all rows count in every step."""
    try:
        plate = next(iter(plates.find(approx.record)), None)
        return fitting_large._target(approx.record, plate, None, Settings("advi", approx.seed, PRECISION), pays=True)
    except UnsupportedError as error:
        _log.info("all rows are used in every step: %s", error)
        return None
