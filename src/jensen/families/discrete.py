"""Independent discrete variables: q(z = k) proportional to exp(logits_k), k = 0 .. K - 1; a Bernoulli is K = 2.

The contract is that of `jensen.families.exponential`; the statistic is the indicator of each level. Logits need not be
normalized, and may be -inf for a level that is impossible.
"""

from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax.scipy.special import entr

Moments = dict[str, Any]


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
        return {"probs": jnp.moveaxis(self._levels_first(), 0, -1)}

    def _levels_first(self) -> Any:
        """Probabilities (K, ...): loops over the many variables run in vector registers, loops over few levels do not."""
        return jax.nn.softmax(jnp.moveaxis(jnp.asarray(self.logits), -1, 0), axis=0)

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
        return entr(self._levels_first()).sum()

    def log_prob(self, x: Any) -> Any:
        """Log probability of integers x (...)."""
        picked = jnp.take_along_axis(jax.nn.log_softmax(self.logits), jnp.asarray(x)[..., None], -1)
        return picked.sum()

    def sample(self, key: Any, n: int) -> Any:
        """Independent draws (n, ...), integers."""
        logits = jnp.asarray(self.logits)
        return self.at(1.0 - jax.random.uniform(key, (n, *logits.shape[:-1]), logits.dtype))

    def at(self, chance: Any) -> Any:
        """Levels (n, ...) whose distribution functions reach uniform numbers (n, ...) in (0, 1]: one number a variable, not K."""
        reached = jnp.cumsum(self._levels_first(), 0)
        share = chance * reached[-1]  # so that levels after the last possible one are not met through rounding
        return (share[None] > reached[:-1, None]).sum(0, dtype=jnp.int32)

    @property
    def mean(self) -> Any:
        """Mean level (...); for K = 2 the probability of 1."""
        return level_mean(jax.nn.softmax(self.logits))

    @property
    def sd(self) -> Any:
        """Standard deviation of the level (...)."""
        return level_sd(jax.nn.softmax(self.logits))
