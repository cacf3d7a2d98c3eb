"""`Band`: chains, with a banded precision of half-bandwidth w (random walk w = 1, AR(2) w = 2, local linear trend w = 3).

Row by row, P = L D L' with at most w numbers left of the diagonal,

    v_k = P_{i,i-k} - sum_{l>k} v_l L_{i-k,i-l},   L_{i,i-k} = v_k / D_{i-k},   D_i = P_ii - sum_k v_k L_{i,i-k},

and the way back gives the mean x and the covariances S on the band together (for w = 1 these two passes are the Kalman filter
and the Rauch-Tung-Striebel smoother):

    x_j = z_j / D_j - sum_k L_{j+k,j} x_{j+k},   S_{j+k,j} = -sum_l S_{j+k,j+l} L_{j+l,j},
    S_jj = 1 / D_j - sum_k S_{j+k,j} L_{j+k,j}.

The loops over k and l are written out, so one step of the scan is a handful of scalar operations; equally long chains run
beside each other, and one long one with w = 1 has a way of its own (`patterns_tridiagonal`). Linear in the length.

Reference: Rue (2001), Fast sampling of Gaussian Markov random fields, JRSS B 63(2).
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.families import patterns_tridiagonal
from jensen.families.patterns_base import Pattern, joined, row_products

LONG = 1000
"""Elements from which on a chain is eliminated from both ends."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Band(Pattern):
    """Element c * length + t is the t-th of chain c; off-diagonal entries are (chains, length - k) for k = 1 .. width.

    Attributes
    ----------
    chains
        Number of chains.
    length
        Elements of a chain.
    width
        Half-bandwidth w >= 1, less than the length.
    """

    chains: int = field(metadata={"static": True})
    length: int = field(metadata={"static": True})
    width: int = field(metadata={"static": True})

    @property
    def n(self) -> int:
        """Number of elements."""
        return self.chains * self.length

    @property
    def size(self) -> int:
        """Length of the entries."""
        return self.n + self.chains * sum(self.length - k for k in range(1, self.width + 1))

    @property
    def pairs(self) -> np.ndarray:
        """Off-diagonal pairs (Q, 2)."""
        number = np.arange(self.n).reshape(self.chains, self.length)
        off = [np.stack([number[:, k:], number[:, :-k]], -1).reshape(-1, 2) for k in range(1, self.width + 1)]
        return np.concatenate(off)

    def solve(self, rhs: Any, entries: Any) -> tuple[Any, Any, Any]:
        """Two passes over the chains."""
        if len(rhs) == self.chains == self.width == 1 and self.length >= LONG:
            solution, cov, logdet = patterns_tridiagonal.solve(rhs[0], entries)
            return solution[None], cov, logdet
        rows = rhs.reshape(len(rhs), self.chains, self.length)
        solution, cov, logdet = self._each(self._solve, (1, 0, 0), (1, 0, 0))(rows, *self._split(entries))
        return solution.reshape(rhs.shape), self._join(cov), logdet.sum()

    def spread(self, noise: Any, entries: Any) -> Any:
        """L^-T D^-1/2 noise."""
        rows = noise.reshape(len(noise), self.chains, self.length)
        return self._each(self._spread, (1, 0, 0), 1)(rows, *self._split(entries)).reshape(noise.shape)

    def multiply(self, entries: Any, x: Any) -> Any:
        """P x for x (..., n)."""
        diagonal, off = self._split(entries)
        x = x.reshape(*x.shape[:-1], self.chains, self.length)
        total = diagonal * x
        for k, left in enumerate(off, 1):
            # row t of `left` couples elements t and t - k; its first k rows are zero
            total = total + left * _shift(x, k) + _unshift(left * x, k)
        return total.reshape(*x.shape[:-2], self.n)

    def outer(self, left: Any, right: Any) -> Any:
        """Entries of left' right."""
        left, right = (side.reshape(len(side), self.chains, self.length) for side in (left, right))
        off = [row_products(left[..., k:], right[..., :-k]).ravel() for k in range(1, self.width + 1)]
        return joined([row_products(left, right).ravel(), *off])

    def _pairwise(self, x: Any) -> Any:
        x = x.reshape(self.chains, self.length)
        return joined([(x[:, k:] * x[:, :-k]).ravel() for k in range(1, self.width + 1)])

    def _each(self, function: Any, inputs: Any, outputs: Any) -> Any:
        """The function of one chain, for all of them; one chain alone stays a loop over scalars."""
        if self.chains > 1:
            return jax.vmap(function, inputs, outputs)
        take = partial(jax.tree.map, lambda axis, x: jax.tree.map(lambda leaf: jnp.squeeze(leaf, axis), x))
        give = partial(jax.tree.map, lambda axis, x: jax.tree.map(lambda leaf: jnp.expand_dims(leaf, axis), x))
        return lambda *arguments: give(outputs, function(*take(inputs, arguments)))

    def _split(self, entries: Any) -> tuple[Any, tuple[Any, ...]]:
        """Diagonal (chains, length), and for k = 1 .. width the entries (t, t - k), zeros in front, in the same shape."""
        start, off = self.n, []
        for k in range(1, self.width + 1):
            stop = start + self.chains * (self.length - k)
            off.append(jnp.pad(entries[start:stop].reshape(self.chains, -1), ((0, 0), (k, 0))))
            start = stop
        return entries[: self.n].reshape(self.chains, self.length), tuple(off)

    def _join(self, cov: tuple[Any, ...]) -> Any:
        """Entries of the covariances (t + k, t), k = 0 .. width, each (chains, length)."""
        return joined([values[:, : self.length - k].ravel() for k, values in enumerate(cov)])

    def _solve(self, rhs: Any, diagonal: Any, off: tuple[Any, ...]) -> tuple[Any, Any, Any]:
        """For one chain: rhs (k, length) -> solution (k, length), covariances, log det P."""
        if len(rhs) == 1:  # without a batch axis every operation of a step is on scalars
            pivots, lower, z = _forward(diagonal, off, rhs[0])
            solution, cov = _backward(pivots, lower, z / pivots)
            return solution[None], cov, jnp.log(pivots).sum()
        pivots, lower, z = jax.vmap(_forward, (None, None, 0), (None, None, 0))(diagonal, off, rhs)
        solution, cov = jax.vmap(_backward, (None, None, 0), (0, None))(pivots, lower, z / pivots)
        return solution, cov, jnp.log(pivots).sum()

    def _spread(self, noise: Any, diagonal: Any, off: tuple[Any, ...]) -> Any:
        pivots, lower, _ = _forward(diagonal, off, jnp.zeros_like(diagonal))
        return jax.vmap(_backward, (None, None, 0), (0, None))(pivots, lower, noise / jnp.sqrt(pivots))[0]


def _shift(x: Any, k: int) -> Any:
    """Element t of the answer is x[t - k]; zeros in front."""
    return jnp.pad(x[..., :-k], [(0, 0)] * (x.ndim - 1) + [(k, 0)])


def _unshift(x: Any, k: int) -> Any:
    """Element t of the answer is x[t + k]; zeros at the end."""
    return jnp.pad(x[..., k:], [(0, 0)] * (x.ndim - 1) + [(0, k)])


def _forward(diagonal: Any, off: tuple[Any, ...], rhs: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """Pivots D (length,), the rows of L left of the diagonal, width vectors (length,), and z = L^-1 rhs (length,)."""
    width = len(off)
    zero, one = jnp.zeros((), diagonal.dtype), jnp.ones((), diagonal.dtype)

    def step(carry, row):
        inverses, rows, tail = carry  # of the last `width` elements, the nearest first; rows as far as this one reaches
        own, couplings, value = row
        scaled = [zero] * (width + 1)
        for k in range(width, 0, -1):
            known = sum(scaled[m] * rows[k - 1][m - k - 1] for m in range(k + 1, width + 1))
            scaled[k] = couplings[k - 1] - known
        lower = tuple(scaled[k] * inverses[k - 1] for k in range(1, width + 1))
        pivot = own - sum(scaled[k] * lower[k - 1] for k in range(1, width + 1))
        pivot = jnp.where(pivot > 0, pivot, jnp.nan)
        z = value - sum(entry * before for entry, before in zip(lower, tail, strict=True))
        moved = tuple(row[: width - k] for k, row in enumerate((lower, *rows[:-1]), 1))
        carry = (1 / pivot, *inverses[:-1]), moved, (z, *tail[:-1])
        return carry, (pivot, lower, z)

    start = (
        (one,) * width,
        tuple((zero,) * (width - k) for k in range(1, width + 1)),
        (jnp.zeros((), rhs.dtype),) * width,
    )
    return jax.lax.scan(step, start, (diagonal, off, rhs))[1]


def _backward(pivots: Any, lower: tuple[Any, ...], rhs: Any) -> tuple[Any, tuple[Any, ...]]:
    """X = L^-T rhs (length,), and the covariances (t + k, t) for k = 0 .. width, each (length,)."""
    width = len(lower)
    columns = tuple(_unshift(entry, k) for k, entry in enumerate(lower, 1))
    zero = jnp.zeros((), pivots.dtype)

    def step(carry, row):
        window, tail = carry  # covariances and solution of the next `width` elements, the nearest first
        inverse, column, value = row
        later = range(width)
        cov = [-sum(window[max(k, m)][min(k, m)] * column[m] for m in later) for k in later]
        variance = inverse - sum(cov[k] * column[k] for k in later)
        x = value - sum(column[k] * tail[k] for k in later)
        # window[k][m], m <= k, is the covariance of the elements k + 1 and m + 1 ahead
        moved = [(variance,)] + [(cov[k - 1], *window[k - 1]) for k in range(1, width)]
        return (tuple(moved), (x, *tail[:-1])), (x, (variance, *cov))

    start = tuple((zero,) * (k + 1) for k in range(width)), (jnp.zeros((), rhs.dtype),) * width
    return jax.lax.scan(step, start, (1 / pivots, columns, rhs), reverse=True)[1]
