"""Pieces that are no sums of statistics: Gaussian predictors, sums of positive products; `products` has another.

`Predictor`: likelihoods f(eta) with eta Gaussian of mean m and variance v a row. Logistic: Gauss-Hermite quadrature of
y eta - n log(1 + exp(eta)). Poisson: y m - exp(m + v/2), exact. Probit: y log Phi(m) + (n - y) log Phi(-m) - n v/2, the bound
that the auxiliary Gaussians of Albert and Chib (1993) give after they are integrated out: coordinate ascent on it is exact.

`PoissonSum`: y ~ Poisson(sum_j s_j a_j b_j) has the bound  y log sum_j s_j exp(E log a_j + E log b_j) - sum_j s_j E[a_j] E[b_j],
which is that of the auxiliary counts of Cemgil (2009) at their optimum; it is convex in the mean parameters, so that
coordinate ascent on its linearization cannot decrease it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from jensen.conjugate.hermite import NODES, WEIGHTS
from jensen.conjugate.layout import Layout
from jensen.conjugate.pieces import Read
from jensen.conjugate.places import static
from jensen.conjugate.products import contract
from jensen.conjugate.slots import Pair, Slot, fit
from jensen.conjugate.terms import Predicted

SHARP = 4.0
"""Quadrature nodes are too coarse for a logistic curve under a predictor with a larger sd than this; see `_softplus`."""


# -- predictors -----------------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Linear:
    """Mean and variance of rows c + sum_i w_i x_i of Gaussian sites: arrays (..., q_b) a block."""

    constant: Any
    weight: tuple[Any, ...]
    index: tuple[Any, ...]
    position: tuple[Any, ...]
    blocks: tuple[str, ...] = static()

    def __call__(self, moments: Any) -> tuple[Any, Any]:
        """Means and variances of the rows."""
        mean, variance = self.constant, 0.0
        for block, weight, index, position in zip(self.blocks, self.weight, self.index, self.position, strict=True):
            m, c = moments[block]["mean"][index], moments[block]["cov"][position]
            mean = mean + (weight * m).sum(-1)
            q = index.shape[-1]
            if q == 1:
                variance = variance + (weight**2 * c).sum(-1)
            elif index.ndim > 1 and all(length == 1 for length in index.shape[:-1]):
                square = c.reshape(q, q)
                variance = variance + ((weight @ square) * weight).sum(-1)
            else:
                square = c.reshape(*c.shape[:-1], q, q)
                variance = variance + jnp.einsum("...i,...ij,...j->...", weight, square, weight)
        return mean, variance


def linear(affine: Any, layout: Layout) -> Linear:
    """The mean and variance of an affine array of Gaussian sites."""
    groups: dict[str, list[Slot]] = {}
    for slot in affine.slots:
        groups.setdefault(layout.block[slot.site], []).append(slot)
    weight, index, position = [], [], []
    for block, slots in groups.items():
        i = _last([slot.index + layout.offset[slot.site] for slot in slots])
        weight.append(_last([slot.weight for slot in slots]))
        index.append(i)
        pairs = layout.position(block, i[..., :, None], i[..., None, :])
        position.append(pairs.reshape(*i.shape[:-1], -1))
    return Linear(np.asarray(affine.constant, float), tuple(weight), tuple(index), tuple(position), tuple(groups))


def _last(arrays: list[np.ndarray]) -> np.ndarray:
    lead = np.broadcast_shapes(*(array.shape for array in arrays))
    return np.stack([np.broadcast_to(array, lead) for array in arrays], -1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Predictor:
    """E[f(eta)] of the rows of a likelihood."""

    eta: Linear
    data: dict[str, Any]
    rule: str = static()

    @property
    def numbers(self) -> int:
        """How many values of the likelihood a sweep takes."""
        return np.size(self.eta.constant) * (len(NODES) if self.rule == "logistic" else 1)

    def rows(self, moments: Any) -> Any:
        """Expected log density of every row, without the part that is constant."""
        mean, variance = self.eta(moments)
        return _PREDICTED[self.rule](mean, variance, **self.data)

    def __call__(self, moments: Any) -> Any:
        """Their sum."""
        return self.rows(moments).sum()


def _logistic(mean: Any, variance: Any, y: Any, n: Any) -> Any:
    sd = jnp.sqrt(variance + 1e-300)
    eta = mean[..., None] + sd[..., None] * NODES
    return y * mean - n * (jax.nn.softplus(eta) * WEIGHTS).sum(-1)


def _probit(mean: Any, variance: Any, y: Any, n: Any) -> Any:
    return y * log_ndtr(mean) + (n - y) * log_ndtr(-mean) - 0.5 * n * variance


def _poisson(mean: Any, variance: Any, y: Any) -> Any:
    return y * mean - jnp.exp(mean + 0.5 * variance)


_PREDICTED: dict[str, Callable[..., Any]] = {"logistic": _logistic, "probit": _probit, "poisson": _poisson}
EXACT = ("probit",)
"""Rules whose updates are exact coordinate ascent, with auxiliary variables."""


def predictor(term: Predicted, shape: tuple[int, ...], layout: Layout) -> Predictor:
    """The piece of a predicted term over rows of a shape."""
    data = {name: np.array(np.broadcast_to(fit(array, len(shape)), (1, *shape))) for name, array in term.data.items()}
    eta = linear(term.predictor, layout)
    constant = np.array(np.broadcast_to(fit(eta.constant, len(shape)), (1, *shape)))
    return Predictor(replace(eta, constant=constant), data, term.rule)


# -- sums of positive products -------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class PoissonSum:
    """The bound above; arrays (k, *rows), compact."""

    y: Any
    log_weight: Any
    a: Read
    b: Read

    def __call__(self, moments: Any) -> Any:
        """The sum over rows, without the part that is constant."""
        logs = self.log_weight + self.a.log(moments) + self.b.log(moments)
        mean = contract(self.y.shape, [], [jnp.exp(self.log_weight), self.a.mean(moments), self.b.mean(moments)], [])
        return (self.y * jax.nn.logsumexp(logs, axis=0)).sum() - mean


def poisson_sum(y: np.ndarray, pairs: tuple[Pair, ...], shape: tuple[int, ...], layout: Layout) -> PoissonSum:
    """The piece of a Poisson node whose rate is a sum of products of two positive sites."""

    def stack(arrays: list[np.ndarray]) -> np.ndarray:
        fitted = [array.reshape((1,) * (len(shape) + 1 - array.ndim) + array.shape)[0] for array in arrays]
        lead = np.broadcast_shapes(*(array.shape for array in fitted))
        return np.stack([np.broadcast_to(array, lead) for array in fitted])

    a, b = (layout.read(Slot(pairs[0][n].site, stack([pair[n].index for pair in pairs]), np.ones(1))) for n in (0, 1))
    weight = stack([np.asarray(pair.x.weight, float) for pair in pairs])
    return PoissonSum(np.array(np.broadcast_to(y, (1, *shape))[0]), np.log(weight), a, b)
