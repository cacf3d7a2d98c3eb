"""The next call of a compiled loop, begun before the last one is looked at, so that the machine never waits for the host.

JAX returns before a program has run. What follows on a chunk of steps depends on its results, which need not be there yet: the
next chunk is begun on them at once, and progress, callbacks and noise for later chunks take their time while it runs. Where the
loop goes another way (a step was not finite, a callback stopped it), what was begun is left alone: calls have no effects.
"""

from typing import Any
from weakref import ref


class Ahead:
    """One call that was begun for a state that an engine returned; asked for another state, there is none."""

    def __init__(self) -> None:
        self._for: tuple[Any, ...] = ()
        self._call: Any = None

    def put(self, call: Any, *key: Any) -> None:
        """Keep a call for these very objects: engine, state, target."""
        self._for, self._call = tuple(ref(each) for each in key), call

    def take(self, *key: Any) -> Any:
        """The call for these very objects, once; None if it was another one."""
        known = len(self._for) == len(key) and all(each() is given for each, given in zip(self._for, key, strict=True))
        call, self._for, self._call = self._call, (), None
        return call if known else None
