"""What a Gaussian block holds of a site: its value, or the logarithm or the logit of it.

`Way` leads from the block's own variable x to the site's value s(x) and back. With it go what expectations of sites need: those
of log s and of powers s^p, and log ds/dx, by whose expectation the entropy of s is more than that of x.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jensen.conjugate.bounded import Bounds, inside, log_slope, logit, moments
from jensen.conjugate.hermite import expected


class Way(NamedTuple):
    """The way between a site's elements and the Gaussian that stands for them.

    Attributes
    ----------
    word
        ``"same"``, ``"log"`` or ``"logit"``.
    ends
        Of the interval, for logits.
    """

    word: str
    ends: Bounds = (0.0, np.inf)

    @property
    def moves(self) -> bool:
        """Whether the block holds something else than the value."""
        return self.word != "same"

    def value(self, x: Any) -> Any:
        """The site's value; NumPy from NumPy."""
        xp = np if isinstance(x, np.ndarray) else jnp
        return {"same": lambda: x, "log": lambda: xp.exp(x), "logit": lambda: inside(x, self.ends)}[self.word]()

    def own(self, value: Any) -> Any:
        """The block's variable; NumPy from NumPy."""
        xp = np if isinstance(value, np.ndarray) else jnp
        return {"same": lambda: value, "log": lambda: xp.log(value), "logit": lambda: logit(value, self.ends)}[
            self.word
        ]()

    def log_slope(self, x: Any) -> Any:
        """Log ds/dx by element; NumPy from NumPy."""
        return {"same": lambda: 0.0 * x, "log": lambda: x, "logit": lambda: log_slope(x, self.ends)}[self.word]()

    def moments(self, mean: Any, sd: Any) -> tuple[Any, Any]:
        """Mean and sd of the site by element."""
        if self.word == "logit":
            return moments(mean, sd, self.ends)
        if self.word == "same":
            return mean, sd
        first = jnp.exp(mean + sd**2 / 2)
        return first, first * jnp.sqrt(jnp.expm1(sd**2))

    def mean_log(self, mean: Any, variance: Any) -> Any:
        """E[log s] by element, of a positive site."""
        return mean if self.word == "log" else expected(lambda x: jnp.log(self.value(x)), mean, variance)

    def mean_power(self, mean: Any, variance: Any, power: Any) -> Any:
        """E[s^power] by element, of a positive site."""
        if self.word == "log":
            return jnp.exp(power * mean + 0.5 * power**2 * variance)
        return expected(lambda x: self.value(x) ** power, mean, variance)

    def mean_log_slope(self, mean: Any, variance: Any) -> Any:
        """E[log ds/dx] by element."""
        return expected(self.log_slope, mean, variance) if self.word == "logit" else self.log_slope(mean)


SAME, LOG = Way("same"), Way("log")


class Moved(NamedTuple):
    """Elements of a Gaussian block that stand for a site by another way than as they are."""

    block: str
    start: int
    stop: int
    way: Way

    def volume(self, own: Any) -> Any:
        """E[log ds/dx], the sum over its elements, at the block's moments."""
        part = slice(self.start, self.stop)
        return self.way.mean_log_slope(own["mean"][part], own["cov"][part]).sum()
