"""`Alike`: equal dense blocks of which all have the same precision, P = diag(P_1, .., P_1), kept as one block P_1 (d x d).

Rows of scores under one set of loadings are an example. Factorization and inverse cost one block instead of B, means are a
product (B, d) times (d, d), and second moments over all blocks are X'X + B C_1. An entry of P_1 stands for B entries of P: a
gradient in it is a sum over them.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.errors import OptionError
from jensen.families.patterns_base import Parts, Pattern
from jensen.families.patterns_blocks import Blocks


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Alike(Pattern):
    """Entries are those of one block: its diagonal, then what is below it, row by row.

    Attributes
    ----------
    count
        Number of blocks B.
    width
        Elements of a block d.
    across
        Element j of block b is number j * count + b; else b * width + j.
    """

    count: int = field(metadata={"static": True})
    width: int = field(metadata={"static": True})
    across: bool = field(default=False, metadata={"static": True})

    @property
    def n(self) -> int:
        """Number of elements."""
        return self.count * self.width

    @property
    def size(self) -> int:
        """Length of the entries: d (d + 1) / 2."""
        return self.one.size

    @property
    def diagonal(self) -> int:
        """Number of entries on the diagonal: d."""
        return self.width

    @property
    def repeats(self) -> int:
        """How often each entry is in the matrix: B."""
        return self.count

    @property
    def one(self) -> Blocks:
        """The pattern of one block."""
        return Blocks(1, self.width)

    @property
    def pairs(self) -> np.ndarray:
        """Off-diagonal pairs of all blocks; an entry stands for one in each."""
        local, block = self.one.pairs[:, None], np.arange(self.count)[None, :, None]
        return (local * self.count + block if self.across else local + self.width * block).reshape(-1, 2)

    def position(self, i: Any, j: Any) -> np.ndarray:
        """Positions in the entries of the elements (i, j) of the matrix, in either order; host."""
        places = [divmod(np.asarray(k, np.int64), self.count if self.across else self.width) for k in (i, j)]
        (first, a), (second, b) = (place[:: -1 if self.across else 1] for place in places)
        if np.any(first != second):
            raise OptionError("blocks of which all are alike have no entries between two of them.")
        return self.one.position(a, b)

    def variances(self, entries: Any) -> Any:
        """The diagonal of the matrix, (n,)."""
        return self.whole(entries[: self.width] + np.zeros((self.count, 1)))

    def of_diagonal(self, diagonal: np.ndarray) -> np.ndarray:
        """Entries of the diagonal matrix that is nearest to one with this diagonal (n,): its mean over the blocks; host."""
        return self.one.of_diagonal(self.split(diagonal).mean(0))

    def solve(self, rhs: Any, entries: Any) -> tuple[Any, Any, Any]:
        """All blocks by the inverse of the one, from LAPACK: written out over single numbers it would be dozens of kernels."""
        if self.width == 1:
            _, cov, logdet = self.one.solve(jnp.zeros((1, 1), rhs.dtype), entries)
            return rhs * cov, cov, self.count * logdet
        factor = jax.lax.linalg.cholesky(self._matrix(entries), symmetrize_input=False)
        root = jax.lax.linalg.triangular_solve(
            factor, jnp.eye(self.width, dtype=factor.dtype), left_side=True, lower=True
        )
        inverse = root.T @ root
        logdet = 2 * self.count * jnp.log(jnp.diagonal(factor)).sum()
        return self.whole(self.split(rhs) @ inverse), self.one.pack(inverse[None]), logdet

    def spread(self, noise: Any, entries: Any) -> Any:
        """L^-T D^-1/2 noise, the same L and D in all blocks."""
        blocks = self.split(noise)
        return self.whole(self.one.spread(blocks.reshape(-1, self.width), entries).reshape(blocks.shape))

    def multiply(self, entries: Any, x: Any) -> Any:
        """P x for x (..., n)."""
        return self.whole(self.split(x) @ self._matrix(entries))

    def outer(self, left: Any, right: Any) -> Any:
        """Entries of the block that is nearest to those of left' right: their mean."""
        left, right = (self.split(side).reshape(-1, self.width) for side in (left, right))
        return self.one.pack((left.T @ right)[None]) / self.count

    def square(self, twice: Any, x: Any, cov: Any) -> Any:
        """<P, xx' + C>, a scalar, for x (n,) or None for zero, and the entries of P and C, those of P off the diagonal twice."""
        return self.count * (twice * (cov if x is None else self.outer(x[None], x[None]) + cov)).sum()

    def _matrix(self, entries: Any) -> Any:
        return self.one.matrices(entries)[0]

    def split(self, x: Any) -> Any:
        """The blocks (..., count, width) of x (..., n)."""
        if self.across:
            return x.reshape(*x.shape[:-1], self.width, self.count).swapaxes(-1, -2)
        return x.reshape(*x.shape[:-1], self.count, self.width)

    def whole(self, blocks: Any) -> Any:
        """The elements (..., n) of blocks (..., count, width)."""
        blocks = blocks.swapaxes(-1, -2) if self.across else blocks
        return blocks.reshape(*blocks.shape[:-2], self.n)


def shared(pattern: Pattern) -> Alike | None:
    """The pattern of equal blocks as one of which all are alike; None where it is none, or its elements lie otherwise."""
    inner, order = pattern, None
    if isinstance(pattern, Parts) and len(pattern.parts) == 1:
        inner, order = pattern.parts[0], np.asarray(pattern.order)
    if not isinstance(inner, Blocks) or inner.count < 2:
        return None
    if order is None:
        return Alike(inner.count, inner.width)
    crossed = np.arange(inner.n).reshape(inner.width, inner.count).T
    return Alike(inner.count, inner.width, True) if np.array_equal(order, crossed.reshape(-1)) else None
