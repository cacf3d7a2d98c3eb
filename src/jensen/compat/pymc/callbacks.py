"""PyMC's callbacks: called as ``callback(approx, losses, i)`` after every step; StopIteration stops the fit and keeps it."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from jensen.core.errors import OptionError

__all__ = ["CheckParametersConvergence", "Tracker"]

_SMALL = 1e-6


class Tracker:
    """Record statistics after every step.

    Parameters
    ----------
    **statistics
        Name -> function. It is called without arguments; if that fails for whatever reason, as ``function(approx, losses, i)``.

    Attributes
    ----------
    hist
        Name -> list of what was recorded.
    """

    def __init__(self, **statistics: Callable[..., Any]):
        self.whatchdict = statistics
        self.hist: dict[str, list[Any]] = defaultdict(list)

    def record(self, approx: Any, hist: Any, i: int) -> None:
        """Record now."""
        for name, function in self.whatchdict.items():
            try:
                found = function()
            except Exception:
                found = function(approx, hist, i)
            self.hist[name].append(found)

    __call__ = record

    def clear(self) -> None:
        """Forget everything recorded."""
        self.hist = defaultdict(list)

    def __getitem__(self, name: str) -> list[Any]:
        """What was recorded of one statistic, one entry a step."""
        return self.hist[name]


class CheckParametersConvergence:
    """Stop when the parameters no longer change.

    Parameters
    ----------
    every
        Steps between checks.
    tolerance
        The fit stops when the norm of the change is below.
    diff
        ``"relative"``: (abs(new - old) + 1e-6) / (abs(old) + 1e-6), or ``"absolute"``.
    ord
        Order of the norm, as in `numpy.linalg.norm`.

    Raises
    ------
    OptionError
        When `diff` is neither.

    Notes
    -----
    A small change is no sign of a good fit when steps are small.
    """

    def __init__(self, every: int = 100, tolerance: float = 1e-3, diff: str = "relative", ord: Any = np.inf):
        if diff not in ("relative", "absolute"):
            raise OptionError(f"diff must be 'relative' or 'absolute'; got {diff!r}.")
        self.every, self.tolerance, self.diff, self.ord = every, tolerance, diff, ord
        self.prev: np.ndarray | None = None

    def __call__(self, approx: Any, _: Any, i: int) -> None:
        """Raise StopIteration when nothing changes."""
        if self.prev is None:
            self.prev = self.flatten_shared(approx.params)
            return
        if i % self.every or i < self.every:
            return
        new, old = self.flatten_shared(approx.params), self.prev
        self.prev = new
        change = np.abs(new - old)
        if self.diff == "relative":
            change = (change + _SMALL) / (np.abs(old) + _SMALL)
        if np.linalg.norm(change, self.ord) < self.tolerance:
            raise StopIteration(f"Convergence achieved at {i}")

    @staticmethod
    def flatten_shared(shared_list: list[Any]) -> np.ndarray:
        """All parameters in one vector."""
        return np.concatenate([shared.get_value().flatten() for shared in shared_list])
