"""Two tiers of tests: `make test` leaves out what is marked slow, `make test-all` runs everything."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """The cases, all but the chosen marked slow: they show the same on other models."""
    cases = list(cases)
    missing = [name for name in chosen if name not in cases]
    assert not missing, f"no such case: {missing}"
    return [case if case in chosen else pytest.param(case, marks=pytest.mark.slow) for case in cases]
