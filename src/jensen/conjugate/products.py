"""Pieces of products of two Gaussian sites: factor models, in which the residual is r = a + sum_k s_k x_k y_k with a affine.

    E[r^2] = E[a^2] + 2 E[a] sum_k s_k E[x_k] E[y_k] + sum_kl s_k s_l E[x_k x_l] E[y_k y_l],

and where a reads x with weight w, 2 w s_k Cov(x, x_k) E[y_k] besides (likewise y). The first part is an ordinary quadratic piece;
the others are contractions over axes. In a table whose rows i have x and whose columns j have y (scores and loadings), with X
and Y the means (rows, k) and (columns, k), these are matrix products,

    sum_ij A_ij (X Y')_ij = sum_ik (A Y)_ik X_ik,      sum_kl s_k s_l (X'X + sum_i Cov x_i)_kl (Y'Y + sum_j Cov y_j)_kl.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate.layout import Layout
from jensen.conjugate.pieces import ZERO, Read
from jensen.conjugate.places import Totals, static, take, totals
from jensen.conjugate.slots import fit
from jensen.conjugate.terms import NotConjugate, Quadratic


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
    totals
        Of the latter over the rows.
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
    totals: tuple[Totals, Totals]
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
        kx, ky = take(mx, self.x), take(my, self.y)
        affine = [jnp.asarray(self.constant)]
        for block, weight, index in zip(self.blocks, self.weight, self.index, strict=True):
            affine.append(weight * take(moments[block]["mean"], index))
        if self._along is not None and not _varies(prec, both=True):
            total = self._table(prec, affine, (kx, ky), moments)
        else:
            total = sum(contract(self.shape, [prec, part], [self.product, kx, ky], []) for part in affine)
            square = self.product[:, None] * self.product[None]
            second_x = kx[:, None] * kx[None] + moments[self.pair[0]]["cov"][self.xx]
            second_y = ky[:, None] * ky[None] + moments[self.pair[1]]["cov"][self.yy]
            total = total + 0.5 * contract(self.shape, [prec], [], [square, second_x, second_y])
        for side, weight, position in zip(self.side, self.weight, self.cross, strict=True):
            if side >= 0:
                cov, other = moments[self.pair[side]]["cov"][position], (ky, kx)[side]
                total = total + contract(self.shape, [prec, weight], [self.product, cov, other], [])
        return -total

    @property
    def _along(self) -> int | None:
        """The axis of x in a table of which y has the other one; None where it is none."""
        if len(self.shape) != 2 or np.shape(self.product)[1:] != (1, 1):
            return None
        shapes = tuple(np.shape(one)[1:] for one in (self.x, self.y))
        n, m = self.shape
        return 0 if shapes == ((n, 1), (1, m)) else 1 if shapes == ((1, m), (n, 1)) else None

    def _table(self, prec: Any, affine: list[Any], means: tuple[Any, Any], moments: Any) -> Any:
        """The sums of both kinds over a table with precisions of rows or of columns."""
        if self._along == 1:
            prec, affine = prec.T, [part.T for part in affine]
        s = self.product.reshape(-1)
        x, y = (mean.reshape(len(s), -1).T for mean in means)
        scale, rows, columns = (
            (1.0, prec, None)
            if _varies(prec, 0)
            else (1.0, None, prec)
            if _varies(prec, 1)
            else (prec.reshape(()), None, None)
        )
        left, right = (x if rows is None else x * rows), (y * s if columns is None else y * s * columns.T)
        total, whole = jnp.zeros(()), [part for part in affine if _varies(part, both=True)]
        if whole:
            total = total + ((sum(whole) @ right) * left).sum()
        for part in affine:
            if not _varies(part, both=True):
                of_rows, of_columns = (part, jnp.ones((1, 1))) if _varies(part, 0) else (jnp.ones((1, 1)), part)
                one = jnp.broadcast_to(of_rows, (len(left), 1))[:, 0] @ left
                total = total + (one * (jnp.broadcast_to(of_columns, (1, len(right)))[0] @ right)).sum()
        covs = (moments[block]["cov"] for block in self.pair)
        # The squares of means at zero have no slope; products with zeros would be computed.
        squared = (
            jax.lax.stop_gradient(mean) if ZERO in moments[block] else mean
            for mean, block in zip((x, y), self.pair, strict=True)
        )
        one, two = (
            _second(mean, weight, cov, place, some)
            for mean, weight, cov, place, some in zip(
                squared, (rows, columns), covs, (self.xx, self.yy), self.totals, strict=True
            )
        )
        return scale * (total + 0.5 * (s[:, None] * s * one * two).sum())


def _varies(array: Any, axis: int = 0, both: bool = False) -> bool:
    shape = jnp.shape(array)
    return shape[0] > 1 < shape[1] if both else shape[axis] > 1


def _second(mean: Any, weight: Any, cov: Any, place: Any, total: Totals) -> Any:
    """Sum over the rows of weight E[x_k x_l]: (k, k)."""
    k = mean.shape[1]
    if weight is None:
        return mean.T @ mean + total(cov).reshape(k, k)
    weight = weight.reshape(-1)
    spread = jnp.broadcast_to(cov[place].reshape(k, k, -1), (k, k, len(weight)))
    return (mean.T * weight) @ mean + spread @ weight


def _compact(place: np.ndarray) -> np.ndarray:
    """Places (k, k, *rows) of covariances, with rows of length one where all rows have the same."""
    first = place[(slice(None), slice(None), *(slice(0, 1),) * (place.ndim - 2))]
    return first if (place == first).all() else place


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
    reads = tuple(layout.read(slot._replace(index=rows(slot.index), weight=rows(slot.weight))) for slot in term.reads)
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
    places = [layout.position(block, k[:, None], k[None]) for block, k in zip(pair, (x, y), strict=True)]
    sums = (totals(p.reshape(p.shape[0] ** 2, -1), layout.pattern[b].size) for b, p in zip(pair, places, strict=True))
    xx, yy = map(_compact, places)
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
        xx=xx,
        yy=yy,
        totals=tuple(sums),  # type: ignore[arg-type]
        blocks=tuple(layout.block[slot.site] for slot in slots),
        side=side,
        pair=pair,
        shape=shape,
    )
