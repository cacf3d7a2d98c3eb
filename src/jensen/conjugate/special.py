"""Pieces that are no sums of statistics: products of two Gaussian sites, Gaussian predictors, sums of positive products.

`Products`: in factor models the residual is r = a + sum_k s_k x_k y_k with a affine, and

    E[r^2] = E[a^2] + 2 E[a] sum_k s_k E[x_k] E[y_k] + sum_kl s_k s_l E[x_k x_l] E[y_k y_l].

and where a reads x with weight w, 2 w s_k Cov(x, x_k) E[y_k] besides (likewise y). The first part is an ordinary quadratic
piece; the others are contractions over axes, because x and y vary along different ones.

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

from jensen.conjugate.layout import Layout
from jensen.conjugate.pieces import Read, few_powers, static
from jensen.conjugate.priors import NODES, WEIGHTS
from jensen.conjugate.slots import Pair, Slot, fit
from jensen.conjugate.terms import NotConjugate, Predicted, Quadratic

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


# -- products of two sites --------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Products:
    """-1/2 E[prec] (2 E[a] B + Q) summed over rows; every array is compact, (*row axes) with k (or k, l) in front.

    Attributes
    ----------
    scale
        Data part of the precision.
    reads
        Its sites.
    constant, weight, index
        E[a]: data and linear reads, each block's mean at index.
    side, cross
        For each linear read 0 or 1 when its block is that of x or y, else -1, and where its covariances with x_k or y_k are.
    product
        s_k.
    x, y, xx, yy
        Elements of x_k and y_k, and the positions of their covariances.
    """

    scale: Any
    reads: tuple[Read, ...]
    constant: Any
    weight: tuple[Any, ...]
    index: tuple[Any, ...]
    cross: tuple[Any, ...]
    product: Any
    x: Any
    y: Any
    xx: Any
    yy: Any
    blocks: tuple[str, ...] = static()
    side: tuple[int, ...] = static()
    pair: tuple[str, str] = static()
    shape: tuple[int, ...] = static()

    def __call__(self, moments: Any) -> Any:
        """The sum, a scalar."""
        prec = jnp.asarray(self.scale)
        for read in self.reads:
            prec = prec * read.mean(moments)
        mx, my = moments[self.pair[0]]["mean"], moments[self.pair[1]]["mean"]
        kx, ky = mx[self.x], my[self.y]
        second_x = kx[:, None] * kx[None] + moments[self.pair[0]]["cov"][self.xx]
        second_y = ky[:, None] * ky[None] + moments[self.pair[1]]["cov"][self.yy]
        total = contract(self.shape, [prec, self.constant], [self.product, kx, ky], [])
        for block, weight, index in zip(self.blocks, self.weight, self.index, strict=True):
            mean = moments[block]["mean"][index]
            total = total + contract(self.shape, [prec, weight, mean], [self.product, kx, ky], [])
        for side, weight, position in zip(self.side, self.weight, self.cross, strict=True):
            if side >= 0:
                cov, other = moments[self.pair[side]]["cov"][position], (ky, kx)[side]
                total = total + contract(self.shape, [prec, weight], [self.product, cov, other], [])
        square = self.product[:, None] * self.product[None]
        return -(total + 0.5 * contract(self.shape, [prec], [], [square, second_x, second_y]))


def contract(shape: tuple[int, ...], plain: list[Any], single: list[Any], double: list[Any]) -> Any:
    """Sum over the rows of a shape (and over k, l) of a product of arrays that broadcast, without spreading them."""
    letters = "abcdefgh"[: len(shape)]
    operands, varying = [], set()
    for group, extra in ((plain, ""), (single, "k"), (double, "kl")):
        for array in group:
            head, rows = jnp.shape(array)[: len(extra)], jnp.shape(array)[len(extra) :]
            rows = (1,) * (len(shape) - len(rows)) + rows
            kept = [letter for letter, length in zip(letters, rows, strict=True) if length > 1]
            varying |= set(kept)
            operands.append((extra + "".join(kept), jnp.reshape(array, (*head, *(n for n in rows if n > 1)))))
    alike = [length for letter, length in zip(letters, shape, strict=True) if letter not in varying]
    formula = ",".join(word for word, _ in operands) + "->"
    return float(np.prod(alike)) * jnp.einsum(formula, *(array for _, array in operands), optimize="optimal")


def products(term: Quadratic, shape: tuple[int, ...], layout: Layout) -> Products:
    """The piece of the products of a quadratic term; its affine part is a piece of its own."""

    def rows(array: np.ndarray) -> np.ndarray:
        return fit(array, len(shape))[0]

    def stack(arrays: list[np.ndarray]) -> np.ndarray:
        fitted = [rows(array) for array in arrays]
        lead = np.broadcast_shapes(*(array.shape for array in fitted))
        return np.stack([np.broadcast_to(array, lead) for array in fitted])

    x_site, y_site = term.pairs[0].x.site, term.pairs[0].y.site
    x = stack([pair.x.index + layout.offset[x_site] for pair in term.pairs])
    y = stack([pair.y.index + layout.offset[y_site] for pair in term.pairs])
    reads = tuple(
        Read(rows(slot.index), rows(slot.weight), *_where(slot, layout), few_powers(slot.weight)) for slot in term.reads
    )
    pair = (layout.block[x_site], layout.block[y_site])
    if pair[0] == pair[1]:
        raise NotConjugate({x_site, y_site}, f"{x_site} and {y_site} are multiplied with each other, and share a block")
    slots = term.residual.slots
    index = tuple(rows(slot.index) + layout.offset[slot.site] for slot in slots)
    side = tuple(pair.index(layout.block[slot.site]) if layout.block[slot.site] in pair else -1 for slot in slots)
    cross = tuple(
        layout.position(pair[one], here[None], (x, y)[one]) if one >= 0 else np.zeros(0, int)
        for one, here in zip(side, index, strict=True)
    )
    return Products(
        scale=rows(term.stat),
        reads=reads,
        constant=rows(term.residual.constant),
        weight=tuple(rows(slot.weight) for slot in slots),
        index=index,
        cross=cross,
        product=stack([pair.x.weight for pair in term.pairs]),
        x=x,
        y=y,
        xx=layout.position(layout.block[x_site], x[:, None], x[None]),
        yy=layout.position(layout.block[y_site], y[:, None], y[None]),
        blocks=tuple(layout.block[slot.site] for slot in slots),
        side=side,
        pair=pair,
        shape=shape,
    )


def _where(slot: Slot, layout: Layout) -> tuple[str, str]:
    name, role = layout.reading(slot.site)
    return layout.block[name], role


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

    a, b = (Read(stack([pair[n].index for pair in pairs]), np.ones(1), *_where(pairs[0][n], layout)) for n in (0, 1))
    weight = stack([np.asarray(pair.x.weight, float) for pair in pairs])
    return PoissonSum(np.array(np.broadcast_to(y, (1, *shape))[0]), np.log(weight), a, b)
