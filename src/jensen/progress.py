"""A progress line on terminals and in notebooks, silence everywhere else. The only file that knows how progress looks."""

import sys
import time
from importlib.util import find_spec
from math import isfinite, nan
from types import TracebackType
from typing import Any

_PER_SECOND = 5
"""Times the line is drawn, by a thread of its own: it moves while a long chunk runs, and a short one never waits for it."""


class Progress:
    """Context manager around a run; `show` is cheap and never changes the run.

    Parameters
    ----------
    wanted
        Show the line; None where somebody is watching.
    steps, budget
        Largest number of steps and of seconds of the run, for the time left.
    seconds
        What the run had used before it was resumed; `budget` is with them.
    """

    def __init__(
        self,
        wanted: bool | None,
        steps: int | None = None,
        budget: float | None = None,
        seconds: float = 0.0,
    ):
        self._wanted = _watched() if wanted is None else wanted
        self._steps, self._budget = steps, budget
        self._begun = time.perf_counter() - seconds
        self._last = (0, nan, nan)
        self._first: tuple[int, float] | None = None
        self._live: Any = None

    def __enter__(self) -> "Progress":
        if self._wanted:
            from rich.console import Console
            from rich.live import Live
            from rich.spinner import Spinner

            spinner = Spinner("dots")

            def drawn() -> Any:
                spinner.update(text=self.line())
                return spinner

            console = Console(stderr=True)
            self._live = Live(console=console, get_renderable=drawn, refresh_per_second=_PER_SECOND, transient=True)
            self._live.start(refresh=True)
        return self

    def show(self, step: int, elbo: float, error: float = nan) -> None:
        """Take note of where the run is: steps, ELBO, and the engine's estimate of its error in posterior sds."""
        self._last = (step, elbo, error)
        if self._first is None:
            self._first = (step, time.perf_counter())

    def line(self) -> str:
        """What the line says now."""
        step, elbo, error = self._last
        elapsed = time.perf_counter() - self._begun
        of = f" of {self._steps:,}" if self._steps is not None else ""
        words = [f"fitting: step {step:,}{of}" if step else "fitting"]
        if isfinite(elbo):
            words.append(f"ELBO {elbo:,.2f}")
        if isfinite(error):
            words.append(f"error {error:.2g} sd")
        left = self._left(step, elapsed)
        words.append(_clock(elapsed) if left is None else f"{_clock(elapsed)}, at most {_clock(left)} left")
        return ", ".join(words)

    def _left(self, step: int, elapsed: float) -> float | None:
        """Seconds left by steps and budget; the first chunk, which compiles, says nothing about the others."""
        left = [] if self._budget is None else [max(self._budget - elapsed, 0.0)]
        if self._steps is not None and self._first is not None and step > self._first[0]:
            pace = (time.perf_counter() - self._first[1]) / (step - self._first[0])
            left.append(max(self._steps - step, 0) * pace)
        return min(left, default=None)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()


def _watched() -> bool:
    """Whether there is a terminal, or a notebook that can redraw a line."""
    return sys.stderr.isatty() or ("ipykernel" in sys.modules and find_spec("ipywidgets") is not None)


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds + 0.5) // 60
    if minutes < 60:
        return f"{minutes}:{int(seconds + 0.5) % 60:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
