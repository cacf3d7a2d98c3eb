"""The one loop: every engine runs here.

An engine advances its state by chunks of work (the contract is engines/engine.py): host engines do one expensive step a
chunk, compiled engines scan many cheap ones; the loop does not know which. Between chunks it looks at plain numbers:
history, progress, callbacks, time budget, Ctrl-C. Whatever stops it, the last good state is kept.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from jensen.core.errors import OptionError
from jensen.engines.engine import Engine
from jensen.progress import Progress


@dataclass(frozen=True)
class Run:
    """The record of a fit.

    Attributes
    ----------
    status
        ``"converged"``, ``"stopped"`` (steps used up or a callback), ``"budget"``, ``"interrupted"`` or ``"stuck"``.
    history
        Name -> array, one entry a step; always ``"loss"`` and ``"elbo"`` (its negative).
    steps, seconds
        Number of steps and wall time of the loop.
    notes
        Sentences the engine left.
    """

    status: str
    history: dict[str, np.ndarray]
    steps: int
    seconds: float
    notes: tuple[str, ...] = field(default=())


class Snapshot(NamedTuple):
    """What a callback sees between chunks; returning True or raising StopIteration stops the fit and keeps it."""

    step: int
    loss: np.ndarray
    q: Any
    seconds: float


Callback = Callable[[Snapshot], Any]


def run(
    engine: Engine,
    target: Any,
    *,
    seed: int,
    steps: int | None = None,
    budget: float | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> tuple[Any, Run]:
    """Run an engine until it is done, or stopped.

    Parameters
    ----------
    engine, target
        What moves q, and the log density.
    seed
        All randomness of the engine derives from it.
    steps
        Largest number of steps; None leaves it to the engine.
    budget
        Seconds; looked at between chunks.
    callbacks
        Called with a `Snapshot` after every chunk.
    progress
        Show a bar; None shows one in terminals only.

    Returns
    -------
    q, Run
    """
    if steps is not None and (not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1):
        raise OptionError(
            f"steps must be at least 1; got {steps!r}; give a whole number, or leave it out to let the engine decide."
        )
    start = time.perf_counter()
    losses: list[np.ndarray] = []
    notes: list[str] = []
    state, taken, status = engine.init(target, seed), 0, ""
    with Progress(progress) as bar:
        try:
            while not status:
                state, ticks = engine.advance(state, target)
                losses.append(ticks.loss)
                taken += len(ticks.loss)
                if ticks.note:
                    notes.append(ticks.note)
                elapsed = time.perf_counter() - start
                bar.show(taken, -float(ticks.loss[-1]) if len(ticks.loss) else float("nan"))
                if ticks.done:
                    status = "converged" if engine.converged(state) else "stuck"
                elif _stops(callbacks, engine, state, taken, losses, elapsed) or (steps is not None and taken >= steps):
                    status = "stopped"
                elif budget is not None and elapsed > budget:
                    status = "budget"
        except KeyboardInterrupt:
            status = "interrupted"
            notes.append("interrupted by Ctrl-C: the last complete step is kept")
    loss = np.concatenate(losses) if losses else np.zeros(0)
    record = Run(status, {"loss": loss, "elbo": -loss}, taken, time.perf_counter() - start, tuple(notes))
    return engine.finish(state), record


def _stops(
    callbacks: Sequence[Callback], engine: Engine, state: Any, taken: int, losses: list[np.ndarray], elapsed: float
) -> bool:
    if not callbacks:
        return False
    snapshot = Snapshot(taken, np.concatenate(losses), engine.finish(state), elapsed)
    try:
        return any([callback(snapshot) is True for callback in callbacks])
    except StopIteration:
        return True
