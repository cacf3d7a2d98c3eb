"""The public names: each one loads, says what it is, and comes from inside the package."""

import inspect

import pytest

import jensen

ROOMS = ("estimators", "plots")
NAMES = sorted(name for name in jensen.__all__ if not name.startswith("__") and name not in ROOMS)


@pytest.mark.parametrize("name", NAMES)
def test_public_name(name):
    value = getattr(jensen, name)
    assert inspect.getdoc(value)
    assert value.__module__.startswith("jensen.")
    assert name in dir(jensen)


@pytest.mark.parametrize("name", ROOMS)
def test_room(name):
    assert inspect.getdoc(getattr(jensen, name))
    assert name in dir(jensen)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_the_kind'"):
        jensen.nothing_of_the_kind  # noqa: B018
