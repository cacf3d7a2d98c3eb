"""Arrays and parameters that look like PyTensor's, seeds as PyMC takes them, and the warning that something is set aside."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import FitWarning, OptionError


class Live(np.ndarray):
    """An array as it was when it was asked for; ``eval()`` says what it is by now."""

    _now: Callable[[], np.ndarray] | None = None

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """What is computed from it is an ordinary array."""
        return array[()] if return_scalar else np.asarray(array)

    def eval(self, *_: Any, **__: Any) -> np.ndarray:
        """The array now."""
        return np.array(self if self._now is None else self._now())


class Parameter:
    """A variational parameter, with the interface of PyTensor's shared variables."""

    def __init__(self, values: dict[str, np.ndarray], name: str):
        self._values, self.name = values, name

    def get_value(self, borrow: bool = False) -> np.ndarray:
        """The value now."""
        value = self._values[self.name]
        return value if borrow else value.copy()

    def set_value(self, value: Any, borrow: bool = False) -> None:
        """Set it; the next fit starts there."""
        new = np.array(value, float)
        if new.shape != self._values[self.name].shape:
            raise OptionError(f"{self.name} has shape {self._values[self.name].shape}; got {new.shape}.")
        self._values[self.name] = new

    def eval(self, *_: Any) -> np.ndarray:
        """The value now."""
        return self.get_value()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._values[self.name], dtype)

    def __repr__(self) -> str:
        return self.name


def live(now: Callable[[], Any]) -> Live:
    """What `now` gives, as an array that can be asked again."""
    found = np.array(now(), float).view(Live)
    found._now = now
    return found


def seed_of(random_seed: Any) -> int:
    """A seed as jensen has it: of a number, several, a NumPy generator, or of fresh chance."""
    if random_seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_seed, np.random.Generator):
        return int(random_seed.integers(2**31))
    if isinstance(random_seed, np.random.RandomState):
        return int(random_seed.randint(2**31 - 1))
    if np.ndim(random_seed):
        return int(np.random.SeedSequence(np.ravel(random_seed).tolist()).generate_state(1)[0])
    return keys.check_seed(random_seed)


def aside(what: str) -> None:
    """Warn that an argument or a class does something else here."""
    warnings.warn(what, FitWarning, stacklevel=4)
