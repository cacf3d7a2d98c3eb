"""What an engine is: a few functions over a state, driven by the one loop in run.py.

    init(target, seed) -> state
    advance(state, target) -> (state, Ticks)     a chunk of work; all ticks are NumPy
    finish(state) -> q                           valid at any chunk boundary
    converged(state) -> bool                     the engine's own stopping rule

Engines are frozen dataclasses of options; everything that changes is in the state. States are values: `advance` leaves the old
one as it was and donates none of its buffers, because the loop goes back to it on Ctrl-C, and callbacks may look at it later.
They are made of numbers, arrays, containers, dataclasses and NamedTuples, so that checkpoints can hold them (core/records.py),
and what follows is a function of the state alone: not of time, nor of how many chunks were run by this process.
"""

from dataclasses import replace
from math import nan
from typing import Any, NamedTuple, Protocol, runtime_checkable

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
    error
        The engine's own estimate of how far the mean of q is from its limit, in posterior sds; NaN where it has none.
    spent
        Done because the steps that it was given are used up: it was stopped, and is not stuck.
    """

    loss: np.ndarray
    done: bool = False
    note: str = ""
    error: float = nan
    spent: bool = False


def limited(engine: Any, steps: int | None) -> Any:
    """The engine with at most `steps` steps of its own, where that is not None."""
    return engine if steps is None else replace(engine, steps=steps)


@runtime_checkable
class Racing(Protocol):
    """An engine of which several runs compete: the history begins when it is known whose it is."""

    def best_so_far(self, state: Any) -> np.ndarray | None:
        """The losses of the best run of a state so far, whose approximation `finish` gives; None once one has won."""
        ...


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
