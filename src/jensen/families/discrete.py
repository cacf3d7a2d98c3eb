"""Independent discrete variables: q(z = k) proportional to exp(logits_k), k = 0 .. K - 1; a Bernoulli is K = 2.

The contract is that of `jensen.families.exponential`; the statistic is the indicator of each level. Logits need not be
normalized, and may be -inf for a level that is impossible.
"""

from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

Moments = dict[str, Any]

IMPOSSIBLE = -800.0
"""Logarithm of a probability that is zero in any precision."""


def level_mean(probs: Any) -> Any:
    """Mean of the level under probs (..., K)."""
    return probs @ jnp.arange(probs.shape[-1], dtype=probs.dtype)


def level_sd(probs: Any) -> Any:
    """Standard deviation of the level under probs (..., K)."""
    gap = jnp.arange(probs.shape[-1], dtype=probs.dtype) - level_mean(probs)[..., None]
    return jnp.sqrt((probs * gap**2).sum(-1))


def tops_finite(potentials: Any, axes: int | tuple[int, ...]) -> Any:
    """Whether nothing is NaN or +inf and every distribution over `axes` has a possible level, one bool."""
    return jnp.all(jnp.isfinite(jnp.max(jnp.asarray(potentials), axis=axes)))


def _levels_first(logits: Any) -> Any:
    """Probabilities (K, ...) from logits (..., K): loops over the many variables run in vector registers, over few levels not."""
    return jax.nn.softmax(jnp.moveaxis(jnp.asarray(logits), -1, 0), axis=0)


def _with_entropy(logits: Any) -> tuple[Any, Any]:
    """Probabilities (K, ...) and the entropy of all: log sum exp x - <p, x>, with one logarithm a variable and not K."""
    logits = jnp.moveaxis(jnp.asarray(logits), -1, 0)
    below = logits - logits.max(0)
    odds = jnp.exp(below)
    total = odds.sum(0)
    probs = odds / total
    return probs, (jnp.log(total) - (probs * jnp.maximum(below, IMPOSSIBLE)).sum(0)).sum()


def levels_at(logits: Any, chance: Any) -> Any:
    """Levels (...) whose distribution functions reach uniform numbers (...) in (0, 1], for logits (..., K) that broadcast."""
    reached = jnp.cumsum(_levels_first(logits), 0)
    share = chance * reached[-1]  # so that levels after the last possible one are not met through rounding
    return (share[None] > reached[:-1]).sum(0, dtype=jnp.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Categorical:
    """Independent categorical variables; moments ``{"probs": (..., K)}``.

    Attributes
    ----------
    logits
        (..., K), unnormalized.
    """

    logits: Any

    def moments(self) -> Moments:
        """Mean parameters: the probabilities (..., K)."""
        return {"probs": jnp.moveaxis(_levels_first(self.logits), 0, -1)}

    def with_entropy(self) -> Moments:
        """Mean parameters and the entropy."""
        probs, entropy = _with_entropy(self.logits)
        return {"probs": jnp.moveaxis(probs, 0, -1), "entropy": entropy}

    def statistics(self, x: Any) -> Moments:
        """One-hot rows (..., K) of integers x (...)."""
        logits = jnp.asarray(self.logits)
        return {"probs": jax.nn.one_hot(x, logits.shape[-1], dtype=logits.dtype)}

    def from_gradient(self, gradient: Moments, moments: Moments) -> Self:
        """The Categorical with these natural parameters."""
        return type(self)(gradient["probs"])

    def valid(self) -> Any:
        """Whether no logit is NaN or +inf and every variable has a possible level."""
        return tops_finite(self.logits, -1)

    def entropy(self) -> Any:
        """Entropy, in nats."""
        return _with_entropy(self.logits)[1]

    def log_prob(self, x: Any) -> Any:
        """Log probability of integers x (...)."""
        picked = jnp.take_along_axis(jax.nn.log_softmax(self.logits), jnp.asarray(x)[..., None], -1)
        return picked.sum()

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """What n draws are made of: uniform numbers (n, ...) in (0, 1], one a variable and not K."""
        return 1.0 - rng.random((n, *np.shape(self.logits)[:-1]))

    def at(self, noise: Any) -> Any:
        """Independent draws (n, ...), integers, made of `noise`."""
        return levels_at(jnp.asarray(self.logits)[None], noise)

    @property
    def mean(self) -> Any:
        """Mean level (...); for K = 2 the probability of 1."""
        return level_mean(jax.nn.softmax(self.logits))

    @property
    def sd(self) -> Any:
        """Standard deviation of the level (...)."""
        return level_sd(jax.nn.softmax(self.logits))
