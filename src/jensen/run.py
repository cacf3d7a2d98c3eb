"""The one loop: every engine runs here.

An engine advances its state by chunks of work (the contract is engines/engine.py): host engines do one expensive step a
chunk, compiled engines scan many cheap ones; the loop does not know which. Between chunks it looks at plain numbers:
history, progress, callbacks, time budget, Ctrl-C, checkpoints. Whatever stops it, the last good state is kept, and can be gone on
from.
"""

import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jensen.callbacks import Callback, Snapshot
from jensen.checkpoint import Checkpoint, Saved
from jensen.core.errors import FitWarning, OptionError
from jensen.engines.engine import Engine, Racing
from jensen.progress import Progress

__all__ = ["Callback", "Run", "Snapshot", "run"]


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
    state
        The engine's last state, from which `run` can go on.
    rungs
        What the ladder tried above the Gaussian, where it did (diagnostics/ladder.py); the Gaussian first.
    """

    status: str
    history: dict[str, np.ndarray]
    steps: int
    seconds: float
    notes: tuple[str, ...] = field(default=())
    state: Any = field(default=None, repr=False, compare=False)
    rungs: tuple[Any, ...] = field(default=(), repr=False)


def run(
    engine: Engine,
    target: Any,
    *,
    seed: int,
    steps: int | None = None,
    budget: float | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    checkpoint: Checkpoint | None = None,
    label: str = "fit",
    state: Any = None,
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
        Seconds of this call; looked at between chunks.
    callbacks
        Called with a `Snapshot` after every chunk. One that returns True or raises StopIteration stops the run and keeps it; so
        does one that fails, with a `FitWarning`.
    progress
        Show a line; None shows one in terminals and notebooks only.
    checkpoint, label
        Where the run is kept at intervals, and under which name. What is kept there is gone on from; a run that has ended
        there is returned at once, but one cut short by Ctrl-C, a budget or fewer steps goes on.
    state
        Of an earlier run of the same engine, to go on from; steps and history count from here.

    Returns
    -------
    q, Run
    """
    if steps is not None and (not isinstance(steps, Integral) or isinstance(steps, bool) or steps < 1):
        raise OptionError(
            f"steps must be at least 1; got {steps!r}; give a whole number, or leave it out to let the engine decide."
        )
    begun, past, ended, status, fault = time.perf_counter(), 0.0, "", "", ""
    losses, notes = _Losses(), []
    saved = checkpoint.load(label) if checkpoint is not None else None
    if saved is not None:
        losses.append(saved.loss)
        notes, past, state = list(saved.notes), saved.seconds, saved.state
        ended, status = _known_end(saved, steps, callbacks)
        _remind(callbacks, saved.callbacks)
    elif state is None:
        state = engine.init(target, seed)
    racing = isinstance(engine, Racing)  # dear to ask, of a protocol
    at, finished = _At(state, losses.size, len(notes)), bool(ended)

    def kept() -> Saved:
        memories = tuple((_name(type(callback)), getattr(callback, "checkpointed", None)) for callback in callbacks)
        return Saved(at.state, losses.view(at.steps), tuple(notes[: at.notes]), elapsed(), status, ended, memories)

    def seen() -> np.ndarray:
        best = engine.best_so_far(at.state) if racing else None  # type: ignore[attr-defined]
        return losses.view(at.steps) if best is None else best

    def elapsed() -> float:
        return past + time.perf_counter() - begun

    with Progress(progress, steps, None if budget is None else past + budget, past) as bar:
        try:
            while not ended:
                new, ticks = engine.advance(at.state, target)
                losses.append(ticks.loss)
                notes += [ticks.note] if ticks.note else []
                at = _At(new, losses.size, len(notes))  # one assignment: Ctrl-C comes before it or after it
                shown = seen()
                bar.show(len(shown), -float(shown[-1]) if len(shown) else float("nan"), ticks.error)
                if ticks.done and not ticks.spent:
                    ended, status = "done", "converged" if engine.converged(at.state) else "stuck"
                    continue
                if callbacks:
                    now = Snapshot(len(shown), shown, partial(engine.finish, at.state), elapsed())
                    stop, fault = _asked(callbacks, now)
                    ended, status = ("fault" if fault else "callback", "stopped") if stop else ("", "")
                if not ended and (ticks.done or (steps is not None and at.steps >= steps)):
                    ended, status = "steps", "stopped"
                elif not ended and budget is not None and elapsed() - past > budget:
                    ended, status = "budget", "budget"
                elif not ended and checkpoint is not None and checkpoint.due():
                    checkpoint.save(label, kept())
        except KeyboardInterrupt:
            ended = status = "interrupted"
        seconds = past if finished else elapsed()
        if checkpoint is not None and not finished:
            try:
                checkpoint.save(label, kept())
            except KeyboardInterrupt:
                ended = status = "interrupted"
    said = notes[: at.notes]
    if ended == "interrupted":
        said.append("interrupted by Ctrl-C: the last complete step is kept")
    if fault:
        said.append(fault)
        warnings.warn(fault, FitWarning, stacklevel=2)
    loss = seen().copy()
    return engine.finish(at.state), Run(
        status, {"loss": loss, "elbo": -loss}, len(loss), seconds, tuple(said), at.state
    )


class _At(NamedTuple):
    """Where a run is: the state, and how many losses and notes belong to it."""

    state: Any
    steps: int
    notes: int


class _Losses:
    """Losses so far, in a buffer that doubles when it is full: a look at them copies nothing."""

    def __init__(self) -> None:
        self._buffer, self.size = np.empty(1024), 0

    def append(self, loss: np.ndarray) -> None:
        end = self.size + len(loss)
        if end > len(self._buffer):
            longer = np.empty(max(end, 2 * len(self._buffer)))
            longer[: self.size] = self._buffer[: self.size]
            self._buffer = longer
        self._buffer[self.size : end] = loss
        self.size = end

    def view(self, size: int) -> np.ndarray:
        """The first `size` of them, not to be written to."""
        some = self._buffer[:size]
        some.flags.writeable = False
        return some


def _known_end(saved: Saved, steps: int | None, callbacks: Sequence[Callback]) -> tuple[str, str]:
    """Why a run that was kept has ended, and its status; empty where it goes on, as when an outside hand cut it short."""
    if saved.ended == "done" or (saved.ended == "callback" and callbacks):
        return saved.ended, saved.status
    return ("steps", "stopped") if steps is not None and len(saved.loss) >= steps else ("", "")


def _remind(callbacks: Sequence[Callback], memories: tuple[Any, ...]) -> None:
    """Give callbacks back what they had recorded."""
    for callback, (name, memory) in zip(callbacks, memories, strict=False):
        if _name(type(callback)) == name and hasattr(callback, "checkpointed"):
            callback.checkpointed = memory  # type: ignore[attr-defined]


def _asked(callbacks: Sequence[Callback], snapshot: Snapshot) -> tuple[bool, str]:
    """Whether a callback stops the run, and what went wrong in one; all of them are asked."""
    stop, fault = False, ""
    for callback in callbacks:
        try:
            answer = callback(snapshot)
            stop = stop or (isinstance(answer, bool | np.bool_) and bool(answer))
        except StopIteration:
            stop = True
        except Exception as error:
            stop, fault = True, fault or _fault(callback, snapshot, error)
    return stop, fault


def _fault(callback: Callback, snapshot: Snapshot, error: Exception) -> str:
    """The error of a callback in one sentence, with the line it came from: the first that is not ours."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in frames if not Path(f.filename).is_relative_to(Path(__file__).parent)), frames[-1])
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return (
        f"the callback {_name(callback)} failed at step {snapshot.step} ({what}, {frame.filename}:{frame.lineno}); the fit was "
        "stopped there and is kept"
    )


def _name(thing: Any) -> str:
    return getattr(thing, "__qualname__", None) or type(thing).__qualname__
