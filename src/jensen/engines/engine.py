"""What an engine is: a few functions over a state, driven by the one loop in run.py.

    init(target, seed) -> state
    advance(state, target) -> (state, Ticks)     a chunk of work; all ticks are NumPy
    finish(state) -> q                           valid at any chunk boundary
    converged(state) -> bool                     the engine's own stopping rule

Engines are frozen dataclasses of options; everything that changes is in the state.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np


class Ticks(NamedTuple):
    """What happened in a chunk.

    Attributes
    ----------
    loss
        One value a step: the engine's own objective, minimized.
    done
        The engine has nothing left to do.
    note
        A sentence worth keeping, or "".
    """

    loss: np.ndarray
    done: bool = False
    note: str = ""


class Engine(Protocol):
    """How q moves."""

    def init(self, target: Any, seed: int) -> Any:
        """First state."""
        ...

    def advance(self, state: Any, target: Any) -> tuple[Any, Ticks]:
        """One chunk of work."""
        ...

    def finish(self, state: Any) -> Any:
        """The approximation q of a state."""
        ...

    def converged(self, state: Any) -> bool:
        """Whether the engine's own stopping rule is satisfied."""
        ...
