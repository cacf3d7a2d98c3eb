"""What every sparse precision pattern offers, and `Parts`: independent patterns side by side.

A pattern says which entries of a symmetric positive definite n x n precision P may differ from zero. P, and the covariance
on the same entries, is a flat vector

    entries = [ P_11 .. P_nn,  P_ij for (i, j) in pairs ],    i > j, each pair once,

so that sums, convex combinations and gradients of precisions are those of plain vectors. Factorizations P = L D L' do not
leave the pattern (fill-in is part of it), and the covariance on it follows from the recursion of Takahashi

    S = D^-1 L^-1 + (I - L') S

read from the last element to the first, without ever forming the inverse.

References: Takahashi, Fagan and Chin (1973), Formation of a sparse bus impedance matrix; Rue and Held (2005), Gaussian
Markov random fields, chapter 2.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.errors import OptionError


class Pattern(ABC):
    """Where a precision over n elements may differ from zero, and the algebra that needs no other entries.

    Every method but `pairs` and `position` is pure JAX. Entries of a matrix that is not positive definite give NaN.
    """

    @property
    @abstractmethod
    def n(self) -> int:
        """Number of elements."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Length of `entries`: n + Q."""

    @property
    def diagonal(self) -> int:
        """How many of the entries are diagonal ones."""
        return self.n

    @property
    def repeats(self) -> int:
        """How many entries of the matrix each stands for."""
        return 1

    def variances(self, entries: Any) -> Any:
        """The diagonal of the matrix (n,)."""
        return entries[: self.n]

    def of_diagonal(self, diagonal: np.ndarray) -> np.ndarray:
        """Entries (size,) of the diagonal matrix with this diagonal (n,); host."""
        return np.concatenate([diagonal, np.zeros(self.size - self.n, diagonal.dtype)])

    @property
    @abstractmethod
    def pairs(self) -> np.ndarray:
        """Off-diagonal pairs (Q, 2), i > j, in the order of the entries; host."""

    @abstractmethod
    def solve(self, rhs: Any, entries: Any) -> tuple[Any, Any, Any]:
        """P^-1 of each row of rhs (k, n), the covariance entries (size,), and log det P."""

    @abstractmethod
    def spread(self, noise: Any, entries: Any) -> Any:
        """A linear map of standard normal rows (k, n) to rows with covariance P^-1."""

    @abstractmethod
    def multiply(self, entries: Any, x: Any) -> Any:
        """P x for x (..., n)."""

    @abstractmethod
    def outer(self, left: Any, right: Any) -> Any:
        """Entries (size,) of left' right, which must be symmetric, for left and right (k, n)."""

    def square(self, twice: Any, x: Any, cov: Any) -> Any:
        """<P, xx' + C>, a scalar, for x (n,) or None for zero, entries of C, and those of P, pairs twice."""
        total, n = (twice * cov).sum(), self.n
        if x is None:
            return total
        total = total + (twice[:n] * (x * x)).sum()
        return total if self.size == n else total + (twice[n:] * self._pairwise(x)).sum()

    def _pairwise(self, x: Any) -> Any:
        """x_i x_j for the pairs."""
        return self.outer(x[None], x[None])[self.n :]

    def moments(self, h: Any, entries: Any) -> tuple[Any, Any, Any]:
        """Mean and covariance of exp(h'x - x'Px/2).

        Parameters
        ----------
        h
            (n,)
        entries
            (size,)

        Returns
        -------
        tuple
            Mean (n,), covariance entries (size,), log det P.
        """
        solution, cov, logdet = self.solve(h[None], entries)
        return solution[0], cov, logdet

    def shifted(self, noise: Any, h: Any, entries: Any) -> Any:
        """Draws of exp(h'x - x'Px/2), one for each of the standard normal rows (k, n)."""
        return self.solve(h[None], entries)[0] + self.spread(noise, entries)

    def position(self, i: Any, j: Any) -> np.ndarray:
        """Positions in the entries of the elements (i, j) of the matrix, in either order; host.

        Parameters
        ----------
        i, j
            Integer arrays that broadcast against each other.

        Raises
        ------
        OptionError
            If a pair is not in the pattern.
        """
        i, j = np.broadcast_arrays(np.asarray(i, np.int64), np.asarray(j, np.int64))
        inside = (np.minimum(i, j) >= 0) & (np.maximum(i, j) < self.n)
        pairs = self.pairs
        keys = pairs[:, 0] * self.n + pairs[:, 1]
        order = np.argsort(keys, kind="stable")
        wanted = np.maximum(i, j) * self.n + np.minimum(i, j)
        place = np.searchsorted(keys, wanted, sorter=order)
        place = order[np.minimum(place, len(order) - 1)] if len(order) else np.zeros(i.shape, np.int64)
        found = i == j
        if len(keys):
            found = found | (keys[place] == wanted)
        if not (found & inside).all():
            first = tuple(np.argwhere(~(found & inside))[0])
            raise OptionError(
                f"the pair of elements ({i[first]}, {j[first]}) is not in a pattern over {self.n} elements; "
                "name it when the pattern is made."
            )
        return np.where(i == j, i, self.n + place)

    def dense(self, entries: Any) -> Any:
        """The symmetric matrix (n, n)."""
        return self.multiply(entries, jnp.eye(self.n, dtype=entries.dtype))


def joined(pieces: list[Any], axis: int = -1) -> Any:
    """The concatenation of arrays, made by copying each into place.

    Where the pieces are themselves computed, the compiler fuses them into a concatenation as one loop with a branch for each
    number, up to a hundred times slower.
    """
    pieces = [piece for piece in pieces if piece.shape[axis]]
    if len(pieces) == 1:
        return pieces[0]
    shape = list(pieces[0].shape)
    shape[axis] = sum(piece.shape[axis] for piece in pieces)
    whole, start = jnp.zeros(shape, jnp.result_type(*pieces)), 0
    for piece in pieces:
        whole = jax.lax.dynamic_update_slice_in_dim(whole, piece.astype(whole.dtype), start, axis)
        start += piece.shape[axis]
    return whole


def row_products(left: Any, right: Any) -> Any:
    """sum_k left[k] right[k] (n,) of few long rows (k, n): written out, a tenth of the time of a reduction."""
    if len(left) <= 16:
        return sum(left[k] * right[k] for k in range(len(left)))
    return (left * right).sum(0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Parts(Pattern):
    """Independent patterns over one set of elements; also one pattern over permuted elements.

    Attributes
    ----------
    parts
        The patterns.
    order
        Element indices (n,), those of the first part first; None if that is the order they are in.
    places
        The inverse permutation (n,), or None.
    """

    parts: tuple[Any, ...]
    order: Any = None
    places: Any = None

    @property
    def n(self) -> int:
        """Number of elements."""
        return sum(part.n for part in self.parts)

    @property
    def size(self) -> int:
        """Length of the entries."""
        return sum(part.size for part in self.parts)

    @property
    def pairs(self) -> np.ndarray:
        """Off-diagonal pairs (Q, 2)."""
        starts = np.cumsum([0, *(part.n for part in self.parts)])
        local = np.concatenate([part.pairs + start for part, start in zip(self.parts, starts, strict=False)])
        pairs = local if self.order is None else np.asarray(self.order, np.int64)[local]
        return np.stack([pairs.max(1), pairs.min(1)], 1)

    def solve(self, rhs: Any, entries: Any) -> tuple[Any, Any, Any]:
        """Part by part."""
        done = [p.solve(r, e) for p, r, e in zip(self.parts, self._elements(rhs), self._entries(entries), strict=True)]
        solution = self._back(joined([x for x, _, _ in done]))
        return solution, self._join([cov for _, cov, _ in done]), sum(logdet for _, _, logdet in done)

    def spread(self, noise: Any, entries: Any) -> Any:
        """Part by part; the noise is taken in the order of the parts."""
        cuts = np.cumsum([part.n for part in self.parts])[:-1]
        noises = jnp.split(noise, cuts, axis=-1)
        done = [p.spread(z, e) for p, z, e in zip(self.parts, noises, self._entries(entries), strict=True)]
        return self._back(joined(done))

    def multiply(self, entries: Any, x: Any) -> Any:
        """P x for x (..., n)."""
        pieces = zip(self.parts, self._entries(entries), self._elements(x), strict=True)
        return self._back(joined([p.multiply(e, v) for p, e, v in pieces]))

    def outer(self, left: Any, right: Any) -> Any:
        """Entries of left' right."""
        pieces = zip(self.parts, self._elements(left), self._elements(right), strict=True)
        return self._join([p.outer(a, b) for p, a, b in pieces])

    def _elements(self, x: Any) -> list[Any]:
        """The pieces of x (..., n), one per part."""
        if self.order is not None:
            x = x[..., self.order]
        return jnp.split(x, np.cumsum([part.n for part in self.parts])[:-1], axis=-1)

    def _back(self, x: Any) -> Any:
        return x if self.places is None else x[..., self.places]

    def _entries(self, entries: Any) -> list[Any]:
        diagonals = self._elements(entries[: self.n])
        cuts = np.cumsum([part.size - part.n for part in self.parts])[:-1]
        return [joined(list(two)) for two in zip(diagonals, jnp.split(entries[self.n :], cuts), strict=True)]

    def _join(self, pieces: list[Any]) -> Any:
        diagonals = [piece[: part.n] for part, piece in zip(self.parts, pieces, strict=True)]
        others = [piece[part.n :] for part, piece in zip(self.parts, pieces, strict=True)]
        return joined([self._back(joined(diagonals)), *others])


def arrange(parts: list[tuple[Pattern, np.ndarray]]) -> Pattern:
    """Patterns with the elements (n_k,) each stands for, as one pattern over 0 .. n - 1."""
    order = np.concatenate([elements for _, elements in parts])
    patterns = tuple(pattern for pattern, _ in parts)
    if np.array_equal(order, np.arange(len(order))):
        return patterns[0] if len(patterns) == 1 else Parts(patterns)
    # int32: half the memory of the default under float64, and enough for any block
    places = np.argsort(order)
    return Parts(patterns, jnp.asarray(order, jnp.int32), jnp.asarray(places, jnp.int32))
