"""No class is subclassed concretely: every class of jensen is abstract, or nothing in jensen derives from it."""

import importlib
import inspect
import pkgutil
from abc import ABC

import jensen


def _classes() -> list[type]:
    """Every class defined in jensen; modules that need an absent extra are passed over."""
    found = {}
    for info in pkgutil.walk_packages(jensen.__path__, "jensen."):
        if info.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(info.name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] == "jensen":
                raise
            continue
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return list(found.values())


def _abstract(cls: type) -> bool:
    return inspect.isabstract(cls) or ABC in cls.__bases__ or getattr(cls, "_is_protocol", False)


def broken(classes: list[type]) -> list[str]:
    """Sentences "B derives from the concrete class A"; exceptions are exempt, a tree of them is there to be caught."""
    here = set(classes)
    return [
        f"{child.__module__}.{child.__qualname__} derives from the concrete class {parent.__qualname__}"
        for child in classes
        if not issubclass(child, BaseException)
        for parent in child.__mro__[1:]
        if parent in here and not _abstract(parent)
    ]


def test_every_class_is_abstract_or_final():
    classes = _classes()
    assert len(classes) > 5
    assert not broken(classes)


def test_the_rule_sees_a_concrete_parent():
    parent = type("Parent", (), {})
    child = type("Child", (parent,), {})
    assert len(broken([parent, child])) == 1
