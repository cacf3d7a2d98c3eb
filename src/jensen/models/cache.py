"""What was built for a model is kept, so that a second fit with new data of the same shape rewrites and compiles nothing."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
_KEPT = 16
_blueprints: OrderedDict[tuple[int, Hashable], tuple[Any, Any]] = OrderedDict()


def remember(source: Any, key: Hashable, build: Callable[[], T]) -> T:
    """Return what `build()` gave the last time for this source object and key; build it if it is not among the last 16.

    Parameters
    ----------
    source
        The user's model object. It is kept alive with its entry, so that its identity stays its own.
    key
        Everything else the result depends on: shapes, static arguments.
    build
        Called when there is no entry; nothing is kept if it raises.
    """
    place = (id(source), key)
    if place in _blueprints:
        _blueprints.move_to_end(place)
        return _blueprints[place][1]
    built = build()
    _blueprints[place] = (source, built)
    while len(_blueprints) > _KEPT:
        _blueprints.popitem(last=False)
    return built
