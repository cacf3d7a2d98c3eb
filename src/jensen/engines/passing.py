"""An engine whose state knows how many passes over all rows were made: what goes on from a checkpoint counts each of them once.

    state = (state of the engine within, passes)        advance: what was counted before, or by the state, whichever is more

Requires: a target with `rows` (models/rows.py) whose `passes` only grow.
"""

from dataclasses import dataclass, replace
from typing import Any

from jensen.engines.engine import Engine, Ticks


@dataclass(frozen=True)
class Passed:
    """State of an engine, and passes until then."""

    inner: Any
    passes: int


@dataclass(frozen=True)
class Passing:
    """Engine: another one, `engine`, with the passes in its state."""

    engine: Engine

    def init(self, target: Any, seed: int) -> Passed:
        """That of the engine within."""
        inner = self.engine.init(target, seed)
        return Passed(inner, target.rows.passes)

    def place(self, state: Passed, target: Any) -> None:
        """Bring the count of the target to where a state left it."""
        target.rows.passes = max(target.rows.passes, state.passes)

    def advance(self, state: Passed, target: Any) -> tuple[Passed, Ticks]:
        """A chunk of the engine within."""
        self.place(state, target)
        inner, ticks = self.engine.advance(state.inner, target)
        return replace(state, inner=inner, passes=target.rows.passes), ticks

    def finish(self, state: Passed) -> Any:
        """Q of the state."""
        return self.engine.finish(state.inner)

    def converged(self, state: Passed) -> bool:
        """As the engine within says."""
        return self.engine.converged(state.inner)
