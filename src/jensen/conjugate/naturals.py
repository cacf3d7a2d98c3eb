"""`Naturals`: the natural parameters of a Gaussian block as sums of arrays that are known before the first sweep.

Where every row that reads the block is a squared residual of this block alone, times expectations of scalar sites,

    E = sum_k w_k (c_k + h_k'm - 1/2 <P_k, mm' + C>) + ...,      w_k = prod_j E[s_j^p_j],

the update, and the complete conditional, have h = sum_k w_k h_k and P = sum_k w_k P_k. The sums over the cells are made once,
on the host, instead of by a gradient of the energy in every sweep; the certificate compares both. A `Form` is one such term where
this is less to compute than its cells are: a few products of vectors on the block's pattern.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate.pieces import ZERO, Psi, Read, Sum
from jensen.conjugate.places import static
from jensen.conjugate.tables import Constant

MOST = 8
"""Different weights."""
MOST_NUMBERS = 4_000_000


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Form:
    """A term w (c + h'm - 1/2 <P, mm' + C>) of one Gaussian block.

    Attributes
    ----------
    reads
        The scalar sites in w.
    constant, h
        c and h (n,).
    twice
        Entries of P, those off the diagonal twice.
    pattern
        Of the block.
    block
        Its name.
    """

    reads: tuple[Read, ...]
    constant: Any
    h: Any
    twice: Any
    pattern: Any
    block: str = static()

    def __call__(self, moments: Mapping[str, Any]) -> Any:
        """The expectation, a scalar."""
        own = moments[self.block]
        square = self.pattern.square(self.twice, None if ZERO in own else own["mean"], own["cov"])
        return _weight(self.reads, moments) * (self.constant + (self.h * own["mean"]).sum() - 0.5 * square)

    @property
    def precision(self) -> np.ndarray:
        """Entries of P; host."""
        n = self.pattern.diagonal
        return np.concatenate([self.twice[:n], 0.5 * np.asarray(self.twice[n:])])


def form(piece: Any, patterns: Mapping[str, Any]) -> Any:
    """The piece as a `Form`, if it is one and that is less to compute."""
    blocks = piece.psi.second.blocks if isinstance(piece, Sum) and piece.psi.second is not None else ()
    if len(blocks) != 1 or not _simple(piece, blocks[0]):
        return piece
    pattern = patterns[blocks[0]]
    if pattern.n + pattern.size > 2 * np.count_nonzero(piece.stat):
        return piece
    constant, h, precision = np.zeros(()), np.zeros(pattern.n), np.zeros(pattern.size)
    _add(piece, pattern, constant, h, precision)
    precision[pattern.diagonal :] *= 2
    return Form(piece.psi.reads, constant, h, precision, pattern, blocks[0])


def _weight(reads: Sequence[Read], moments: Mapping[str, Any]) -> Any:
    weight = jnp.ones(())
    for read in reads:
        weight = weight * read.mean(moments).reshape(())
    return weight


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Naturals:
    """The parts of a block's natural parameters.

    Attributes
    ----------
    reads
        For each part the scalar sites in its weight.
    constant, h, precision
        Parts (K,), (K, n) and (K, size).
    pattern
        Of the block.
    """

    reads: tuple[tuple[Read, ...], ...]
    constant: Any
    h: Any
    precision: Any
    pattern: Any

    def _weights(self, moments: Mapping[str, Any]) -> list[Any]:
        return [_weight(reads, moments) for reads in self.reads]

    def __call__(self, moments: Mapping[str, Any]) -> tuple[Any, Any]:
        """Natural parameters: (n,) and the entries of the precision (size,), given the moments of the other blocks."""
        weights = self._weights(moments)
        h = sum(weight * part for weight, part in zip(weights, self.h, strict=True))
        return h, sum(weight * part for weight, part in zip(weights, self.precision, strict=True))

    def value(self, moments: Mapping[str, Any], block: str) -> Any:
        """What the energy holds of the block, a scalar: for the certificate."""
        mean, cov, n = moments[block]["mean"], moments[block]["cov"], self.pattern.diagonal
        squares = jax.vmap(lambda part: self.pattern.multiply(part, mean))(jnp.asarray(self.precision)) @ mean
        double = self.pattern.repeats * jnp.concatenate([cov[:n], 2 * cov[n:]])
        parts = self.constant + self.h @ mean - 0.5 * squares - 0.5 * (self.precision @ double)
        return sum(weight * part for weight, part in zip(self._weights(moments), parts, strict=True))


def naturals(
    sums: Mapping[str, Sequence[Any]], tables: Mapping[str, Any], patterns: Mapping[str, Any]
) -> dict[str, Naturals]:
    """The blocks that allow it.

    Parameters
    ----------
    sums, tables
        Of the energy, with NumPy arrays.
    patterns
        Gaussian block -> precision pattern.
    """
    found = {}
    pieces = [piece for some in sums.values() for piece in some]
    elsewhere = [part for table in tables.values() for part in table.parts if not isinstance(part, Constant)]
    for block, pattern in patterns.items():
        own = [piece for piece in pieces if _touches(piece, block)]
        if any(_touches(part, block) for part in elsewhere) or not all(_simple(piece, block) for piece in own):
            continue
        parts: dict[Any, tuple[Any, np.ndarray, np.ndarray, np.ndarray]] = {}
        for piece in own:
            reads = piece.reads if isinstance(piece, Form) else piece.psi.reads
            key = tuple((r.block, r.role, np.ravel(r.index).item(), np.ravel(r.power).item()) for r in reads)
            empty = reads, np.zeros(()), np.zeros(pattern.n), np.zeros(pattern.size)
            _add(piece, pattern, *parts.setdefault(key, empty)[1:])
        if 0 < len(parts) <= MOST and len(parts) * pattern.size <= MOST_NUMBERS:
            reads, *arrays = zip(*parts.values(), strict=True)
            constant, vector, matrix = map(np.stack, arrays)
            found[block] = Naturals(reads, constant, vector, matrix, pattern)
    return found


def _touches(piece: Any, block: str) -> bool:
    """Whether a piece reads a Gaussian block; pieces of an unknown kind may read any."""
    psi = getattr(piece, "psi", None)
    if not isinstance(psi, Psi):
        return getattr(piece, "block", block) == block
    return psi.second is not None and block in psi.second.blocks


def _simple(piece: Any, block: str) -> bool:
    """Whether it is a sum over cells of stats times second moments of this block, with weights that are the same in all cells."""
    if isinstance(piece, Form):
        return True
    if not isinstance(piece, Sum) or piece.psi.kind != "quadratic" or piece.psi.second.blocks != (block,):
        return False
    return all(np.size(read.index) == 1 and np.size(read.power) == 1 for read in piece.psi.reads)


def _add(piece: Any, pattern: Any, constant: np.ndarray, h: np.ndarray, precision: np.ndarray) -> None:
    """Add the sums over a piece's cells: s E[x_a] is s in h_a, s E[x_a x_b] is -s in P_ab, and -2s on the diagonal."""
    if isinstance(piece, Form):
        constant += piece.constant
        h += piece.h
        precision += piece.precision
        return
    second = piece.psi.second
    (index,), (position,) = (np.asarray(a) for a in second.index), (np.asarray(a) for a in second.position)
    inside = iter(range(position.shape[-1]))
    for column, (i, j) in enumerate(zip(second.first, second.second, strict=True)):
        stat = np.asarray(piece.stat)[..., column]
        if i == 0 and j == 0:
            constant += np.broadcast_to(stat, np.broadcast_shapes(stat.shape, index.shape[:-1])).sum()
            continue
        if i == 0:
            _scatter(h, index[..., j - 1], stat)
            continue
        place = position[..., next(inside)]
        _scatter(precision, place, np.where(place < pattern.diagonal, -2.0, -1.0) * stat / pattern.repeats)


def _scatter(target: np.ndarray, place: np.ndarray, values: np.ndarray) -> None:
    place, values = np.broadcast_arrays(place, values)
    target += np.bincount(place.reshape(-1), values.reshape(-1), minlength=len(target))
