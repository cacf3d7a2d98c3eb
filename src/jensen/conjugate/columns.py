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

from jensen.conjugate.pieces import ZERO, Read, Sum, same
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
    constant
        Of A, the number that stands with 1. Where w varies, nothing is summed up, and these are its stats, or None.
    linear, gram
        For each block the rest of A with 1 (q,), and for each of ``across``, numbers of two blocks, that with both.
    spread
        B with its places, sums over cells.
    elements
        Elements that vary, (M,) each, with ``of``, their blocks.
    mixed
        For each of these S_v: (M,) with 1, then for each block (M, q); None where it is zero.
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
    constant: Any
    linear: tuple[Any, ...]
    gram: tuple[Any, ...]
    spread: tuple[Covariances, ...]
    elements: tuple[Any, ...]
    mixed: tuple[tuple[Any, ...], ...]
    products: tuple[Any, ...]
    within: tuple[Covariances, ...]
    blocks: tuple[str, ...] = static()
    across: tuple[tuple[int, int], ...] = static()
    of: tuple[str, ...] = static()
    pairs: tuple[tuple[int, int], ...] = static()
    once: bool = static(default=True)
    cells: int = static(default=1)

    def __call__(self, moments: Mapping[str, Any]) -> Any:
        """The expectation, a scalar."""
        zero = {block for block in (*self.blocks, *self.of) if ZERO in moments[block]}
        f = [take(moments[block]["mean"], index) for block, index in zip(self.blocks, self.index, strict=True)]
        u = [take(moments[block]["mean"], index) for block, index in zip(self.of, self.elements, strict=True)]
        total = jnp.zeros(())
        for one, block, (alone, *parts) in zip(u, self.of, self.mixed, strict=True):
            rows = [] if alone is None else [alone]
            for x, other, matrix in zip(f, self.blocks, parts, strict=True):
                if matrix is not None and not (block in zero and other in zero):
                    rows.append(matrix[:, 0] * x if len(x) == 1 else matrix @ x)
            if rows:
                total = total + one * sum(rows)
        for stat, (v, w) in zip(self.products, self.pairs, strict=True):
            if not (self.of[v] in zero and self.of[w] in zero):
                total = total + stat * (u[v] * u[w])
        for piece in self.within:
            total = total + piece(moments)
        weight: Any = jnp.ones(())
        for read in self.reads:
            weight = weight * read.mean(moments)
        if not self.once:
            total = (total if self.constant is None else total + self.constant) * weight
            return jnp.broadcast_to(total, (self.cells,)).sum()
        whole = self.constant + total.sum()
        for x, stat in zip(f, self.linear, strict=True):
            whole = whole + (stat * x).sum()
        for matrix, (a, b) in zip(self.gram, self.across, strict=True):
            if not (self.blocks[a] in zero and self.blocks[b] in zero):
                whole = whole + (f[a] * (matrix[:, 0] * f[b] if len(f[b]) == 1 else matrix @ f[b])).sum()
        return weight.reshape(()) * sum((piece(moments).sum() for piece in self.spread), whole)


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
    inside = [place[n + 1] for n, known in enumerate(fixed[1:]) if known]
    parts = [[p for p, (name, _) in zip(inside, f, strict=True) if name == block] for block in names]
    across = [(a, b) for a in range(len(parts)) for b in range(a, len(parts)) if gram[np.ix_(parts[a], parts[b])].any()]
    return Columns(
        reads,
        tuple(np.array([index.flat[0] for name, index in f if name == block]) for block in names),
        gram[0, 0] if once else constant,
        tuple(gram[0, some] for some in parts),
        tuple(np.ascontiguousarray(gram[np.ix_(parts[a], parts[b])]) for a, b in across),
        tuple(_together(block, found) for block, found in spread.items()),
        tuple(_compact(index) for _, index in varying),
        tuple(_mixed(matrix, parts) for matrix in mixed),
        tuple(products),
        tuple(within),
        names,
        tuple(across),
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


def _mixed(matrix: np.ndarray, parts: list[list[int]]) -> tuple[np.ndarray | None, ...]:
    """Columns (M,) of the 1 and (M, q) of each block; None where they are zero, one row where all are the same."""
    found = []
    for some in (0, *parts):
        own = matrix[:, some]
        alike = (own == own[:1]).all()
        found.append(np.ascontiguousarray(own[:1] if alike else own) if own.any() else None)
    return tuple(found)
