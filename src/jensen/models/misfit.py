"""Words for a model and data that do not fit, from the errors JAX raises while the model is traced."""

from collections.abc import Mapping
from typing import Any

import jax

CONCRETIZATION = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
"""The model asked for the value of a tracer."""


def first_line(error: BaseException) -> str:
    """What an error says, as a clause of a sentence."""
    return str(error).split("\n")[0].rstrip(".")[:200]


def is_about_shapes(error: BaseException) -> bool:
    """Whether arrays of other shapes would have avoided the error."""
    return isinstance(error, IndexError) or any(word in first_line(error) for word in ("broadcast", "shape", "size"))


def shapes(data: Mapping[str, Any]) -> str:
    """The data by shape: ``y (6,), n 3``; the first ten."""
    found = [f"{name} {getattr(value, 'shape', value)}" for name, value in list(data.items())[:10]]
    return ", ".join(found + ["..."] * (len(data) > 10)) or "none"
