"""Exponential families q(x) = exp(<eta, t(x)> - A(eta)) for conjugacy: Gamma, InverseGamma, Beta, Dirichlet.

With the mean parameters mu = E_q t(x) and an energy E(mu) that is affine in them, the best q has eta = dE / dmu (coordinate
ascent), and a natural-gradient step of length rho is eta <- (1 - rho) eta + rho dE / dmu. All families here (and `Wishart`,
`InverseWishart`, `Categorical`, `MarkovChain` in their own files) are pytrees whose leaves are affine in eta, so that the
step is the same convex combination of leaves; base measures are constant. Each offers, in pure JAX,

    moments() -> dict                       mu, batch axes first
    with_entropy() -> dict                  the same with "entropy" beside them: what both need is computed once
    statistics(x) -> dict                   t(x), same keys
    from_gradient(gradient, moments)        the member of the family with eta = gradient; `moments` is where it was taken
    valid() -> bool scalar                  every parameter legal and finite
    entropy(), log_prob(x) -> scalar        summed over the batch
    noise(rng, n)                           arrays that n draws are made of, by NumPy
    at(noise) -> (n, *shape)                independent draws
    mean, sd                                arrays of the shape of x

The gradient is a dict with the keys and shapes of the moments. Nothing raises on illegal parameters: compiled code cannot;
ask `valid`. Draws that underflow are moved to the nearest number inside the support.

Draws of a Gamma(a, 1) are d (1 + c x)^3, d = a - 1/3, c = 1 / sqrt(9 d), of the first of a few standard normal x that passes
Marsaglia's and Tsang's test with its uniform u: log u < x^2 / 2 + d - d v + d log v. For a < 1 they are those of a + 1 times
u^(1 / a). A loop until one passes would take seconds to compile; none of `TRIES` does in less than 1 of 10^10 draws.

References: Wainwright & Jordan (2008), Graphical models, exponential families, and variational inference, section 3;
Hoffman, Blei, Wang & Paisley (2013), Stochastic variational inference, JMLR 14; Marsaglia & Tsang (2000), A simple method for
generating gamma variables, ACM TOMS 26.
"""

from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jensen.families.special import digamma, digamma_entropy, fall, peak

Moments = dict[str, Any]

TRIES = 8
"""Candidates for a Gamma draw; one fails in at most 1 of 20 cases."""


def positive(*parameters: Any) -> Any:
    """Whether all arrays are positive and finite, one bool."""
    return jnp.all(jnp.stack([jnp.all((value > 0) & (value < jnp.inf)) for value in parameters]))


def gamma_noise(rng: np.random.Generator, n: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What `log_gamma_draws` makes n draws of a batch of this shape of."""
    return {
        "normal": rng.standard_normal((n, TRIES, *shape)),
        "chance": 1.0 - rng.random((n, TRIES, *shape)),
        "boost": 1.0 - rng.random((n, *shape)),
    }


def log_gamma_draws(noise: dict[str, Any], concentration: Any) -> Any:
    """Logs of draws (n, ...) of Gamma(concentration, 1), which do not underflow where the draws do."""
    a = jnp.asarray(concentration)
    small = a < 1
    d = jnp.where(small, a + 1, a) - 1 / 3
    x = noise["normal"]
    root = 1 + x / jnp.sqrt(9 * d)
    log_v = 3 * jnp.log(jnp.where(root > 0, root, 1.0))
    passed = (root > 0) & (jnp.log(noise["chance"]) < x**2 / 2 - d * (jnp.expm1(log_v) - log_v))
    first = jnp.argmax(passed, 1, keepdims=True)
    log_v = jnp.take_along_axis(log_v, first, 1)[:, 0]
    return jnp.log(d) + log_v + jnp.where(small, jnp.log(noise["boost"]) / a, 0.0)


def _shape(*parameters: Any) -> tuple[int, ...]:
    return np.broadcast_shapes(*(np.shape(value) for value in parameters))


def inside(draws: Any) -> Any:
    """Draws moved off 0 and infinity."""
    limits = jnp.finfo(draws.dtype)
    return jnp.clip(draws, limits.tiny, limits.max)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Gamma:
    """Density proportional to x^(a - 1) exp(-b x), x > 0; moments ``{"value": E x, "log": E log x}``.

    Attributes
    ----------
    concentration
        a > 0, the shape of the batch.
    rate
        b > 0, the shape of the batch.
    """

    concentration: Any
    rate: Any

    def moments(self) -> Moments:
        """Mean parameters, each of the shape of the batch."""
        a, b = self._both()
        return {"value": a / b, "log": digamma(a) - jnp.log(b)}

    def with_entropy(self) -> Moments:
        """Mean parameters and the entropy."""
        a, b = self._both()
        mean_log, entropy = digamma_entropy(a)
        log_rate = jnp.log(b)
        return {"value": a / b, "log": mean_log - log_rate, "entropy": (entropy - log_rate).sum()}

    @staticmethod
    def statistics(x: Any) -> Moments:
        """Sufficient statistics at x > 0."""
        return {"value": jnp.asarray(x), "log": jnp.log(x)}

    def from_gradient(self, gradient: Moments, moments: Moments) -> Self:
        """The Gamma with these natural parameters."""
        return type(self)(gradient["log"] + 1, -gradient["value"])

    def valid(self) -> Any:
        """Whether all parameters are positive and finite."""
        return positive(self.concentration, self.rate)

    def entropy(self) -> Any:
        """Differential entropy, in nats."""
        return self.with_entropy()["entropy"]

    def log_prob(self, x: Any) -> Any:
        """Log density at x, of the shape of the batch."""
        a, b = self._both()
        return (peak(a) + a * fall(x * b / a) - jnp.log(x)).sum()

    def noise(self, rng: np.random.Generator, n: int) -> Moments:
        """What n draws are made of."""
        return gamma_noise(rng, n, _shape(self.concentration, self.rate))

    def at(self, noise: Moments) -> Any:
        """Independent draws (n, ...) made of `noise`."""
        a, b = self._both()
        return inside(jnp.exp(log_gamma_draws(noise, a)) / b)

    @property
    def mean(self) -> Any:
        """Mean a / b."""
        return self.concentration / self.rate

    @property
    def sd(self) -> Any:
        """Standard deviation sqrt(a) / b."""
        return jnp.sqrt(self.concentration) / self.rate

    def _both(self) -> list[Any]:
        return jnp.broadcast_arrays(self.concentration, self.rate)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class InverseGamma:
    """Density proportional to x^(-a - 1) exp(-b / x), x > 0; moments ``{"inverse": E 1/x, "log": E log x}``.

    Attributes
    ----------
    concentration
        a > 0, the shape of the batch.
    rate
        b > 0, the shape of the batch: 1 / x is Gamma(a, b).
    """

    concentration: Any
    rate: Any

    def moments(self) -> Moments:
        """Mean parameters, each of the shape of the batch."""
        a, b = self._both()
        return {"inverse": a / b, "log": jnp.log(b) - digamma(a)}

    def with_entropy(self) -> Moments:
        """Mean parameters and the entropy."""
        a, b = self._both()
        mean_log, entropy = digamma_entropy(a)
        log = jnp.log(b) - mean_log
        return {"inverse": a / b, "log": log, "entropy": (entropy + log - mean_log).sum()}

    @staticmethod
    def statistics(x: Any) -> Moments:
        """Sufficient statistics at x > 0."""
        return {"inverse": 1 / jnp.asarray(x), "log": jnp.log(x)}

    def from_gradient(self, gradient: Moments, moments: Moments) -> Self:
        """The InverseGamma with these natural parameters."""
        return type(self)(-gradient["log"] - 1, -gradient["inverse"])

    def valid(self) -> Any:
        """Whether all parameters are positive and finite."""
        return positive(self.concentration, self.rate)

    def entropy(self) -> Any:
        """Differential entropy, in nats."""
        return self.with_entropy()["entropy"]

    def log_prob(self, x: Any) -> Any:
        """Log density at x, of the shape of the batch."""
        a, b = self._both()
        return (peak(a) + a * fall(b / (x * a)) - jnp.log(x)).sum()

    def noise(self, rng: np.random.Generator, n: int) -> Moments:
        """What n draws are made of."""
        return gamma_noise(rng, n, _shape(self.concentration, self.rate))

    def at(self, noise: Moments) -> Any:
        """Independent draws (n, ...) made of `noise`."""
        a, b = self._both()
        return inside(jnp.exp(-log_gamma_draws(noise, a)) * b)

    @property
    def mean(self) -> Any:
        """Mean b / (a - 1); infinite for a <= 1."""
        a, b = self._both()
        return jnp.where(a > 1, b / jnp.where(a > 1, a - 1, 1.0), jnp.inf)

    @property
    def sd(self) -> Any:
        """Standard deviation, mean / sqrt(a - 2); infinite for a <= 2."""
        a, _ = self._both()
        return jnp.where(a > 2, self.mean / jnp.sqrt(jnp.where(a > 2, a - 2, 1.0)), jnp.inf)

    def _both(self) -> list[Any]:
        return jnp.broadcast_arrays(self.concentration, self.rate)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Beta:
    """Density proportional to x^(a - 1) (1 - x)^(b - 1) on (0, 1); moments ``{"log": E log x, "log1m": E log(1 - x)}``.

    Attributes
    ----------
    a, b
        Positive, the shape of the batch.
    """

    a: Any
    b: Any

    def moments(self) -> Moments:
        """Mean parameters, each of the shape of the batch."""
        a, b = self._both()
        log, log1m, total = digamma(jnp.stack([a, b, a + b]))
        return {"log": log - total, "log1m": log1m - total}

    def with_entropy(self) -> Moments:
        """Mean parameters and the entropy."""
        a, b = self._both()
        (log, log1m, total), entropy = digamma_entropy(jnp.stack([a, b, a + b]))
        entropy = (entropy[0] + entropy[1] - entropy[2] - total).sum()
        return {"log": log - total, "log1m": log1m - total, "entropy": entropy}

    @staticmethod
    def statistics(x: Any) -> Moments:
        """Sufficient statistics at 0 < x < 1."""
        return {"log": jnp.log(x), "log1m": jnp.log1p(-jnp.asarray(x))}

    def from_gradient(self, gradient: Moments, moments: Moments) -> Self:
        """The Beta with these natural parameters."""
        return type(self)(gradient["log"] + 1, gradient["log1m"] + 1)

    def valid(self) -> Any:
        """Whether all parameters are positive and finite."""
        return positive(self.a, self.b)

    def entropy(self) -> Any:
        """Differential entropy, in nats."""
        return self.with_entropy()["entropy"]

    def log_prob(self, x: Any) -> Any:
        """Log density at x, of the shape of the batch."""
        a, b = self._both()
        total = a + b
        falls = a * fall(x * total / a) + b * fall((1 - x) * total / b)
        return (peak(a) + peak(b) - peak(total) + falls - jnp.log(x) - jnp.log1p(-x)).sum()

    def noise(self, rng: np.random.Generator, n: int) -> Moments:
        """What n draws are made of."""
        shape = _shape(self.a, self.b)
        return {"a": gamma_noise(rng, n, shape), "b": gamma_noise(rng, n, shape)}

    def at(self, noise: Moments) -> Any:
        """Independent draws (n, ...) made of `noise`."""
        a, b = self._both()
        draws = jax.nn.sigmoid(log_gamma_draws(noise["a"], a) - log_gamma_draws(noise["b"], b))
        limits = jnp.finfo(draws.dtype)
        return jnp.clip(draws, limits.tiny, 1 - limits.epsneg)

    @property
    def mean(self) -> Any:
        """Mean a / (a + b)."""
        return self.a / (self.a + self.b)

    @property
    def sd(self) -> Any:
        """Standard deviation sqrt(a b / (a + b + 1)) / (a + b)."""
        total = self.a + self.b
        return jnp.sqrt(self.a / total * (self.b / total) / (total + 1))

    def _both(self) -> list[Any]:
        return jnp.broadcast_arrays(self.a, self.b)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Dirichlet:
    """Density proportional to prod_k x_k^(a_k - 1) on the simplex; moments ``{"log": E log x}``.

    Attributes
    ----------
    concentration
        a (..., K), positive.
    """

    concentration: Any

    def moments(self) -> Moments:
        """Mean parameters (..., K)."""
        found = digamma(self._with_total())
        return {"log": found[..., :-1] - found[..., -1:]}

    def with_entropy(self) -> Moments:
        """Mean parameters (..., K) and the entropy."""
        log, entropy = digamma_entropy(self._with_total())
        log, total = log[..., :-1], log[..., -1:]
        apart = entropy[..., -1:] + (log.shape[-1] - 1) * total
        return {"log": log - total, "entropy": entropy[..., :-1].sum() - apart.sum()}

    @staticmethod
    def statistics(x: Any) -> Moments:
        """Sufficient statistics at x (..., K) inside the simplex."""
        return {"log": jnp.log(x)}

    def from_gradient(self, gradient: Moments, moments: Moments) -> Self:
        """The Dirichlet with these natural parameters."""
        return type(self)(gradient["log"] + 1)

    def valid(self) -> Any:
        """Whether all parameters are positive and finite."""
        return positive(self.concentration)

    def entropy(self) -> Any:
        """Differential entropy, in nats."""
        return self.with_entropy()["entropy"]

    def log_prob(self, x: Any) -> Any:
        """Log density at x (..., K)."""
        a, total = self.concentration, self._total()
        return (peak(a) + a * fall(x * total / a) - jnp.log(x)).sum() - peak(total).sum()

    def noise(self, rng: np.random.Generator, n: int) -> Moments:
        """What n draws are made of."""
        return gamma_noise(rng, n, np.shape(self.concentration))

    def at(self, noise: Moments) -> Any:
        """Independent draws (n, ..., K) made of `noise`."""
        return inside(jax.nn.softmax(log_gamma_draws(noise, self.concentration)))

    @property
    def mean(self) -> Any:
        """Mean a / sum(a), (..., K)."""
        return self.concentration / self._total()

    @property
    def sd(self) -> Any:
        """Standard deviation sqrt(mean (1 - mean) / (sum(a) + 1)), (..., K)."""
        total = self._total()
        return jnp.sqrt(self.mean * ((total - self.concentration) / total) / (total + 1))

    def _total(self) -> Any:
        return jnp.asarray(self.concentration).sum(-1, keepdims=True)

    def _with_total(self) -> Any:
        return jnp.concatenate([jnp.asarray(self.concentration), self._total()], -1)
