"""Callbacks: what the loop shows between chunks of work, and the two that everybody writes.

A callback is any function of a `Snapshot`. Returning True or raising StopIteration stops the fit and keeps it; any other error
does so too, with a warning. What a callback has in an attribute ``checkpointed`` (numbers, arrays, containers) is kept in
checkpoints and set again on resume, so that a fit that was killed goes on with callbacks that remember.
"""

import inspect
from collections.abc import Callable
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import jax
import numpy as np

from jensen.core.errors import OptionError

_SMALL = 1e-6
"""Added to the size of a parameter before its change is divided by it."""


class Snapshot:
    """What a callback sees between chunks of work.

    Attributes
    ----------
    step
        Steps taken so far.
    loss
        (step,), the engine's objective, minimized; one value a step.
    q
        The approximation now; made when it is first looked at, so that a callback that does not costs nothing.
    seconds
        Wall time of the loop so far.
    """

    def __init__(self, step: int, loss: np.ndarray, finish: Callable[[], Any], seconds: float):
        self.step, self.loss, self.seconds = step, loss, seconds
        self._finish = finish

    @cached_property
    def q(self) -> Any:
        """The approximation now."""
        return self._finish()

    def __repr__(self) -> str:
        return f"Snapshot(step={self.step}, seconds={self.seconds:.3g})"


Callback = Callable[[Snapshot], Any]


class Tracker:
    """A callback that records statistics of the fit as it goes.

    Parameters
    ----------
    **statistics
        Name -> function of a `Snapshot`, or of nothing; arrays and numbers are stacked.

    Attributes
    ----------
    steps
        (calls,), the step of every call. Steps begin again at a low number when the fit tries another start.

    Raises
    ------
    OptionError
        When a statistic is no function of one argument or none.

    Examples
    --------
    >>> tracker = jn.Tracker(mean=lambda s: s.q.mean, time=time.time)  # doctest: +SKIP
    >>> jn.fit(model, callbacks=[tracker])  # doctest: +SKIP
    >>> tracker["mean"].shape  # (calls, D)  # doctest: +SKIP
    """

    def __init__(self, **statistics: Callable[..., Any]):
        self._alone = {name: _of_nothing(name, function) for name, function in statistics.items()}
        self._functions = statistics
        self.clear()

    def clear(self) -> None:
        """Forget everything recorded."""
        self._steps: list[int] = []
        self._values: dict[str, list[Any]] = {name: [] for name in self._functions}

    def __call__(self, snapshot: Snapshot) -> None:
        """Record; all statistics or, when one of them fails, none."""
        found = {
            name: _plain(function() if self._alone[name] else function(snapshot))
            for name, function in self._functions.items()
        }
        for name, value in found.items():
            self._values[name].append(value)
        self._steps.append(snapshot.step)

    @property
    def steps(self) -> np.ndarray:
        """Step of every call."""
        return np.array(self._steps, int)

    def __getitem__(self, name: str) -> np.ndarray:
        """Everything recorded of one statistic, (calls, ...); of dtype object where the calls do not have one shape."""
        if name not in self._values:
            raise KeyError(f"{name!r} is not tracked; there are {', '.join(self._values) or 'no statistics'}")
        return _stacked(self._values[name])

    @property
    def checkpointed(self) -> dict[str, Any]:
        """Steps and values, stacked where they can be."""
        stacked = {name: _stacked(values) for name, values in self._values.items()}
        values = {name: self._values[name] if array.dtype == object else array for name, array in stacked.items()}
        return {"steps": self.steps, "values": values}

    @checkpointed.setter
    def checkpointed(self, kept: dict[str, Any]) -> None:
        if set(kept["values"]) == set(self._functions):  # else it was another tracker's
            self._steps = kept["steps"].tolist()
            self._values = {name: [_plain(value) for value in values] for name, values in kept["values"].items()}

    def __repr__(self) -> str:
        return f"Tracker({', '.join(self._functions)}; {len(self._steps)} calls)"


class ParameterConvergence:
    """A callback that stops the fit when the parameters of q no longer change.

    Parameters
    ----------
    every
        Steps between two checks, at least: the loop asks after chunks of work.
    tolerance
        The fit stops when the norm of the change is below.
    diff
        ``"relative"``: abs(new - old) / (abs(old) + 1e-6), parameter by parameter, or ``"absolute"``: abs(new - old).
    norm
        Order of the vector norm, as in `numpy.linalg.norm`; the default is the largest change.

    Raises
    ------
    OptionError
        When an argument makes no sense.

    Notes
    -----
    A small change is no sign of a good fit when steps are small; the engines' own rules, in posterior sds, say more.
    """

    def __init__(self, every: int = 100, tolerance: float = 1e-3, diff: str = "relative", norm: float = np.inf):
        if not isinstance(every, Integral) or isinstance(every, bool) or every < 1:
            raise OptionError(f"every must be a whole number of steps, at least 1; got {every!r}; for example 100.")
        if not isinstance(tolerance, Real) or isinstance(tolerance, bool) or not tolerance > 0:
            raise OptionError(f"tolerance must be a positive number; got {tolerance!r}; for example 1e-3.")
        if diff not in ("relative", "absolute"):
            raise OptionError(f"diff must be 'relative' or 'absolute'; got {diff!r}.")
        if not isinstance(norm, Real) or np.isnan(norm):
            raise OptionError(f"norm must be the order of a vector norm, a number; got {norm!r}; for example 2.")
        self.every, self.tolerance, self.diff, self.norm = every, tolerance, diff, norm
        self.checkpointed: tuple[int, np.ndarray] | None = None
        """Step and parameters of the check before."""

    def __call__(self, snapshot: Snapshot) -> bool:
        """Whether to stop."""
        before = self.checkpointed
        if before is not None and before[0] < snapshot.step < before[0] + self.every:
            return False
        new = _parameters(snapshot.q)
        self.checkpointed = (snapshot.step, new)
        if before is None or snapshot.step <= before[0] or new.shape != before[1].shape:  # the first of this run
            return False
        old = before[1]
        change = np.abs(new - old)
        if self.diff == "relative":
            change = change / (np.abs(old) + _SMALL)
        return bool(np.linalg.norm(change, self.norm) < self.tolerance)

    def __repr__(self) -> str:
        return f"ParameterConvergence({self.every}, {self.tolerance}, {self.diff!r}, {self.norm})"


def _parameters(q: Any) -> np.ndarray:
    """All parameters of q in one vector."""
    leaves = [np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(getattr(q, "params", q))]
    return np.concatenate([leaf for leaf in leaves if np.issubdtype(leaf.dtype, np.floating)] or [np.zeros(0)])


def _of_nothing(name: str, function: Any) -> bool:
    """Whether a statistic is a function of nothing, rather than of a snapshot."""
    if callable(function):
        try:
            signature = inspect.signature(function)
        except ValueError:  # functions written in C, such as time.time
            return True
        for arguments in ((), (None,)):
            try:
                signature.bind(*arguments)
            except TypeError:
                continue
            return not arguments
    raise OptionError(f"{name} must be a function of a Snapshot, or of nothing; got {function!r}.")


def _plain(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic | jax.Array | bool | int | float) else value


def _stacked(values: list[Any]) -> np.ndarray:
    if all(isinstance(value, np.ndarray) for value in values) and len({value.shape for value in values}) <= 1:
        return np.stack(values) if values else np.zeros(0)
    found = np.empty(len(values), object)
    for number, value in enumerate(values):
        found[number] = value
    return found
