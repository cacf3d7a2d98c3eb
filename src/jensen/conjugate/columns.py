"""`Columns`: a sum over cells of products with second moments of few elements, with as few operations as its reads allow.

With u = (1, the elements that a cell reads), some of them the same in all cells (coefficients) and some not (effects of a group),

    sum_m w_m sum_ij s_mij E[u_i u_j] = w (f'A f + <B, Cov f>) + sum_m w_m [sum_v u_mv (S_v f)_m + sum_vw s_mvw E[u_mv u_mw]],

where f is 1 and the elements that are the same, v and w number those that vary, and A and B are sums over the cells that are made
once, if w is the same everywhere (otherwise they stay in the brackets). Stats that are zero are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate.pieces import Read, Sum, same
from jensen.conjugate.places import static, take


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Covariances:
    """Sum of stats times covariances of one block at positions, either (M,) or (1,) each."""

    stat: Any
    position: Any
    block: str = static()

    def __call__(self, moments: Mapping[str, Any]) -> Any:
        """The products."""
        return self.stat * take(moments[self.block]["cov"], self.position)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Columns:
    """A term without discrete parents.

    Attributes
    ----------
    reads
        The scalar sites in w.
    index, blocks
        The elements f but the 1, (q,) for each block, and the blocks' names.
    gram, spread
        A (1 + q, 1 + q), and B with its places; sums over cells. Where w varies, nothing is summed up, and `gram` are the stats
        of the constant, or None.
    elements
        Elements that vary, (M,) each, with ``of``, their blocks.
    mixed
        For each of these S_v (M, 1 + q), or None where it is zero.
    products
        Stats of pairs of elements that vary; ``pairs`` are their numbers.
    within
        Covariances that vary.
    once
        Whether w is the same in all cells.
    cells
        Their number M.
    """

    reads: tuple[Read, ...]
    index: tuple[Any, ...]
    gram: Any
    spread: tuple[Covariances, ...]
    elements: tuple[Any, ...]
    mixed: tuple[Any, ...]
    products: tuple[Any, ...]
    within: tuple[Covariances, ...]
    blocks: tuple[str, ...] = static()
    of: tuple[str, ...] = static()
    pairs: tuple[tuple[int, int], ...] = static()
    once: bool = static(default=True)
    cells: int = static(default=1)

    def __call__(self, moments: Mapping[str, Any]) -> Any:
        """The expectation, a scalar."""
        known = [take(moments[block]["mean"], index) for block, index in zip(self.blocks, self.index, strict=True)]
        f = jnp.concatenate([jnp.ones(1), *known]) if known else jnp.ones(1)
        u = [take(moments[block]["mean"], index) for block, index in zip(self.of, self.elements, strict=True)]
        total = jnp.zeros(())
        for one, matrix in zip(u, self.mixed, strict=True):
            if matrix is not None:
                total = total + one * (matrix[:, 0] if matrix.shape[1] == 1 else matrix @ f)
        for stat, (v, w) in zip(self.products, self.pairs, strict=True):
            total = total + stat * (u[v] * u[w])
        for piece in self.within:
            total = total + piece(moments)
        weight: Any = jnp.ones(())
        for read in self.reads:
            weight = weight * read.mean(moments)
        if not self.once:
            total = (total if self.gram is None else total + self.gram) * weight
            return jnp.broadcast_to(total, (self.cells,)).sum()
        once = f @ (self.gram @ f) if known else self.gram[0, 0]
        return weight.reshape(()) * (once + sum((piece(moments).sum() for piece in self.spread), total.sum()))


def columns(piece: Any) -> Any:
    """The piece as `Columns`, if it is a sum of products with few elements a cell."""
    if not isinstance(piece, Sum) or piece.psi.kind != "quadratic" or not piece.psi.second.few:
        return piece
    reads, second, stats = piece.psi.reads, piece.psi.second, np.asarray(piece.stat)
    once = all(np.size(read.index) == 1 and np.size(read.power) == 1 for read in reads)
    every = [
        (block, index[..., k])
        for block, index in zip(second.blocks, second.index, strict=True)
        for k in range(index.shape[-1])
    ]
    lies = [
        (b, position[..., k])
        for b, position in zip(second.blocks, second.position, strict=True)
        for k in range(position.shape[-1])
    ]
    fixed = [once, *(once and same(index) for _, index in every)]
    place = np.cumsum(fixed) - 1  # of those that are the same in f
    number = np.cumsum(~np.array(fixed[1:], bool)) - 1  # of the others among themselves
    f = [one for one, known in zip(every, fixed[1:], strict=True) if known]
    names = tuple(dict.fromkeys(block for block, _ in f))  # reads come block by block
    gram = np.zeros((len(f) + 1, len(f) + 1))
    varying = [one for one, known in zip(every, fixed[1:], strict=True) if not known]
    mixed = np.zeros((len(varying), len(stats), len(f) + 1))
    constant, products, pairs, spread, within = None, [], [], {}, []
    for column, (i, j) in enumerate(zip(second.first, second.second, strict=True)):
        stat = stats[:, column]
        if not stat.any():
            continue
        if fixed[i] and fixed[j]:
            gram[place[i], place[j]] += stat.sum()
        elif i == j == 0:
            constant = _compact(stat)
        elif fixed[i] or i == 0:
            mixed[number[j - 1], :, place[i] if fixed[i] else 0] += stat
        elif fixed[j]:
            mixed[number[i - 1], :, place[j]] += stat
        else:
            products.append(_compact(stat))
            pairs.append((int(number[i - 1]), int(number[j - 1])))
        if column < len(lies):
            block, position = lies[column]
            if once and same(position):
                spread.setdefault(block, []).append((int(position.flat[0]), stat.sum()))
            else:
                within.append(Covariances(_compact(stat), _compact(position), block))
    return Columns(
        reads,
        tuple(np.array([index.flat[0] for name, index in f if name == block]) for block in names),
        gram if once else constant,
        tuple(_together(block, found) for block, found in spread.items()),
        tuple(_compact(index) for _, index in varying),
        tuple(_needed(matrix) for matrix in mixed),
        tuple(products),
        tuple(within),
        names,
        tuple(block for block, _ in varying),
        tuple(pairs),
        once,
        len(stats),
    )


def _together(block: str, found: list[tuple[int, float]]) -> Covariances:
    place, stat = zip(*sorted(found), strict=True)
    return Covariances(np.array(stat), np.array(place), block)


def _compact(array: np.ndarray) -> np.ndarray:
    """One number where all are the same."""
    return np.ascontiguousarray(array.reshape(-1)[:1] if same(array) else array)


def _needed(matrix: np.ndarray) -> np.ndarray | None:
    """Without what is zero, or the same in all rows."""
    if not matrix.any():
        return None
    matrix = matrix if matrix[:, 1:].any() else matrix[:, :1]
    return np.ascontiguousarray(matrix[:1] if (matrix == matrix[:1]).all() else matrix)
