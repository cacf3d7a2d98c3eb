"""`Blocks`: a block-diagonal precision of equal dense blocks, P = diag(P_1 .. P_B), each d x d.

d = 1 is elementwise arithmetic. For d <= 4 the factorization P_b = L D L', the solves and the inverse are written out over
vectors of length B: the blocks lie side by side in the vector registers, where one LAPACK call a block would be all
overhead. Larger blocks go through batched Cholesky, P_b^-1 = L^-T L^-1.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.families.patterns_base import Pattern, joined, row_products

UNROLLED = 4
NARROW = 32


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Blocks(Pattern):
    """Element b * width + j is the j-th of block b; off-diagonal entries are (width (width - 1) / 2, count), row by row.

    Attributes
    ----------
    count
        Number of blocks B.
    width
        Elements of a block d.
    """

    count: int = field(metadata={"static": True})
    width: int = field(metadata={"static": True})

    @property
    def n(self) -> int:
        """Number of elements."""
        return self.count * self.width

    @property
    def size(self) -> int:
        """Length of the entries."""
        return self.n + self.count * (self.width * (self.width - 1) // 2)

    @property
    def pairs(self) -> np.ndarray:
        """Off-diagonal pairs (Q, 2)."""
        rows, columns = np.tril_indices(self.width, -1)
        local = np.stack([rows, columns], 1)[:, None, :]
        return (local + self.width * np.arange(self.count)[None, :, None]).reshape(-1, 2)

    def solve(self, rhs: Any, entries: Any) -> tuple[Any, Any, Any]:
        """Block by block."""
        if self.width == 1:
            pivots = _positive(entries)
            inverse = 1 / pivots
            return rhs * inverse, inverse, jnp.log(pivots).sum()
        blocks = rhs.reshape(len(rhs), self.count, self.width)
        if self.width <= UNROLLED:
            lower, pivots = self._ldl(entries)
            z = _forward(lower, [blocks[..., j] for j in range(self.width)])
            solution = _backward(lower, [v / d for v, d in zip(z, pivots, strict=True)])
            cov = self._pack_lists(*_inverse(lower, pivots))
            return (
                joined([v[..., None] for v in solution]).reshape(rhs.shape),
                cov,
                sum(jnp.log(d).sum() for d in pivots),
            )
        factor = jax.lax.linalg.cholesky(self.matrices(entries), symmetrize_input=False)
        if self.count == 1:  # plain products of matrices: no axes to move
            eye = (np if self.width <= NARROW else jnp).eye(self.width, dtype=factor.dtype)
            root = jax.lax.linalg.triangular_solve(factor[0], eye, left_side=True, lower=True)
            logdet = 2 * jnp.log(jnp.diagonal(factor[0])).sum()
            return (rhs @ root.T) @ root, self.pack((root.T @ root)[None]), logdet
        eye = jnp.broadcast_to(jnp.eye(self.width, dtype=factor.dtype), factor.shape)
        root = jax.lax.linalg.triangular_solve(factor, eye, left_side=True, lower=True)
        inverse = jnp.einsum("bki,bkj->bij", root, root)
        solution = jnp.einsum("bki,bkj,nbj->nbi", root, root, blocks, optimize=[(1, 2), (0, 1)])
        logdet = 2 * jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum()
        return solution.reshape(rhs.shape), self.pack(inverse), logdet

    def spread(self, noise: Any, entries: Any) -> Any:
        """L^-T D^-1/2 noise, block by block."""
        if self.width == 1:
            return noise / jnp.sqrt(_positive(entries))
        blocks = noise.reshape(len(noise), self.count, self.width)
        if self.width <= UNROLLED:
            lower, pivots = self._ldl(entries)
            draws = _backward(lower, [blocks[..., j] / jnp.sqrt(pivots[j]) for j in range(self.width)])
            return joined([v[..., None] for v in draws]).reshape(noise.shape)
        factor = jax.lax.linalg.cholesky(self.matrices(entries), symmetrize_input=False)
        draws = jax.lax.linalg.triangular_solve(
            factor, jnp.moveaxis(blocks, 0, -1), left_side=True, lower=True, transpose_a=True
        )
        return jnp.moveaxis(draws, -1, 0).reshape(noise.shape)

    def multiply(self, entries: Any, x: Any) -> Any:
        """P x for x (..., n)."""
        if self.width == 1:
            return entries * x
        blocks = x.reshape(*x.shape[:-1], self.count, self.width)
        return jnp.einsum("bij,...bj->...bi", self.matrices(entries), blocks).reshape(x.shape)

    def outer(self, left: Any, right: Any) -> Any:
        """Entries of left' right."""
        if self.width == 1:
            return row_products(left, right)
        left, right = (side.reshape(len(side), self.count, self.width) for side in (left, right))
        if self.width > UNROLLED:
            return self.pack(jnp.einsum("kbi,kbj->bij", left, right))
        products = {(i, j): row_products(left[..., i], right[..., j]) for i in range(self.width) for j in range(i + 1)}
        return self._pack_lists(
            {pair: value for pair, value in products.items() if pair[0] > pair[1]},
            [products[j, j] for j in range(self.width)],
        )

    def matrices(self, entries: Any) -> Any:
        """The blocks (count, width, width)."""
        if self.width == 1:
            return entries.reshape(self.count, 1, 1)
        # The indices of a large block are computed in the program: as constants they would be most of it.
        xp = np if self.width <= NARROW else jnp
        i, j = xp.indices((self.width, self.width), sparse=True)
        top, bottom = xp.maximum(i, j), xp.minimum(i, j)
        others = entries[self.n :].reshape(-1, self.count)
        full = jnp.moveaxis(others[xp.where(i == j, 0, top * (top - 1) // 2 + bottom)], -1, 0)
        diagonal = entries[: self.n].reshape(self.count, self.width)
        return jnp.where(i == j, diagonal[:, :, None], full)

    def pack(self, matrices: Any) -> Any:
        """Entries (size,) of symmetric blocks (count, width, width)."""
        xp = np if self.width <= NARROW else jnp
        number = xp.arange(self.width * (self.width - 1) // 2)
        row = ((1 + xp.sqrt(1.0 + 8 * number)) / 2).astype(number.dtype)
        # the square root may round to the other side of a whole number
        row = row - (row * (row - 1) // 2 > number) + (row * (row + 1) // 2 <= number)
        others = matrices[:, row, number - row * (row - 1) // 2]
        return joined([jnp.diagonal(matrices, axis1=1, axis2=2).ravel(), others.T.ravel()])

    def _pack_lists(self, lower: dict[tuple[int, int], Any], diagonal: list[Any]) -> Any:
        others = [lower[i, j] for i in range(self.width) for j in range(i)]
        return joined([joined([v[:, None] for v in diagonal]).ravel(), *others])

    def _ldl(self, entries: Any) -> tuple[dict[tuple[int, int], Any], list[Any]]:
        """Unit lower factor {(i, j): (count,)} and pivots, width vectors (count,)."""
        diagonal = entries[: self.n].reshape(self.count, self.width)
        others = iter(entries[self.n :].reshape(-1, self.count))
        scaled, lower, pivots = {}, {}, []
        for i in range(self.width):
            for j in range(i):
                scaled[i, j] = next(others) - sum(scaled[i, k] * lower[j, k] for k in range(j))
                lower[i, j] = scaled[i, j] / pivots[j]
            pivots.append(_positive(diagonal[:, i] - sum(scaled[i, k] * lower[i, k] for k in range(i))))
        return lower, pivots


def _positive(pivots: Any) -> Any:
    """NaN where a pivot says that the matrix is not positive definite."""
    return jnp.where(pivots > 0, pivots, jnp.nan)


def _forward(lower: dict[tuple[int, int], Any], rhs: list[Any]) -> list[Any]:
    """L^-1 rhs."""
    done: list[Any] = []
    for i, value in enumerate(rhs):
        done.append(value - sum(lower[i, k] * done[k] for k in range(i)))
    return done


def _backward(lower: dict[tuple[int, int], Any], rhs: list[Any]) -> list[Any]:
    """L^-T rhs."""
    done = list(rhs)
    for j in reversed(range(len(rhs))):
        done[j] = rhs[j] - sum(lower[i, j] * done[i] for i in range(j + 1, len(rhs)))
    return done


def _inverse(lower: dict[tuple[int, int], Any], pivots: list[Any]) -> tuple[dict[tuple[int, int], Any], list[Any]]:
    """Off-diagonal {(i, j): (count,)}, i > j, and diagonal of the inverse, by Takahashi's recursion."""
    width = len(pivots)
    inverse: dict[tuple[int, int], Any] = {}
    for j in reversed(range(width)):
        below = range(j + 1, width)
        for i in below:
            inverse[i, j] = inverse[j, i] = -sum(inverse[i, k] * lower[k, j] for k in below)
        inverse[j, j] = 1 / pivots[j] - sum(inverse[j, k] * lower[k, j] for k in below)
    others = {(i, j): value for (i, j), value in inverse.items() if i > j}
    return others, [inverse[j, j] for j in range(width)]
