"""One chain of neighbors: a tridiagonal precision, eliminated from both ends at once.

With d and o its diagonal and its couplings, from the left and, mirrored, from the right, up to the middle,

    l_t = o_t / p_t-1,     p_t = d_t - l_t o_t,     z_t = h_t - l_t z_t-1,

and from the middle back to both ends

    x_t = z_t / p_t - l_t+1 x_t+1,     S_t+1,t = -l_t+1 S_t+1,t+1,     S_tt = 1 / p_t - l_t+1 S_t+1,t.

Every step waits for the division of the one before; two that do not wait for each other take as long as one. The loops read the
entries where they are and write the answer where it belongs: splitting and joining such arrays takes longer than the recursions.

References: Takahashi, Fagan and Chin (1973) for the covariances; Babuska (1972), Numerical stability in problems of linear
algebra, SIAM J. Numer. Anal. 9, for elimination from both ends.
"""

from typing import Any

import jax
import jax.numpy as jnp

End = tuple[Any, Any, Any]


def solve(h: Any, entries: Any) -> tuple[Any, Any, Any]:
    """P^-1 h (n,), the covariance entries (2 n - 1,) and log det P.

    Parameters
    ----------
    h
        (n,), n at least 3.
    entries
        (2 n - 1,): the diagonal, then the entries (t + 1, t).
    """
    n = len(h)
    middle = n // 2
    turns = n - 1 - middle  # an even n has one more element on the left, which is the first and the last to be visited
    zero, empty = jnp.zeros((), h.dtype), jnp.zeros_like(h)
    left, found = (zero, zero), (empty, empty, empty)
    if n % 2 == 0:
        left, found = _eliminate(0, zero, left, h, entries, found)

    def forward(k: Any, carry: Any) -> Any:
        left, right, found = carry
        i, j = k + middle - turns, n - 1 - k
        left, found = _eliminate(i, entries[n - 1 + i], left, h, entries, found)
        right, found = _eliminate(j, entries[jnp.minimum(n + j, 2 * n - 2)], right, h, entries, found)
        return left, right, found

    left, right, (inverse, lower, z) = jax.lax.fori_loop(0, turns, forward, (left, (zero, zero), found))
    before, after = entries[n + middle - 1], entries[n + middle]
    down, up = before * left[0], after * right[0]
    variance = 1 / _positive(entries[middle] - down * before - up * after)
    x = (h[middle] - down * left[1] - up * right[1]) * variance
    inverse = _set(inverse, middle, variance)
    solved = _set(jnp.zeros_like(h), middle, x), _set(jnp.zeros_like(entries), middle, variance)

    def backward(k: Any, carry: Any) -> Any:
        left, right, solved = carry
        i, j = middle - 1 - k, middle + 1 + k
        left, solved = _return(i, n + i, left, (inverse, lower, z), solved)
        right, solved = _return(j, n + j - 1, right, (inverse, lower, z), solved)
        return left, right, solved

    left, _, solved = jax.lax.fori_loop(0, turns, backward, ((x, variance, down), (x, variance, up), solved))
    if n % 2 == 0:
        _, solved = _return(0, n, left, (inverse, lower, z), solved)
    return *solved, -jnp.log(inverse).sum()


def _eliminate(t: Any, coupling: Any, before: tuple[Any, Any], h: Any, entries: Any, found: End) -> tuple[Any, End]:
    """(1 / p, z) of an element from those of the one before, and the arrays of 1 / p, l and z with it."""
    lower = coupling * before[0]
    inverse = 1 / _positive(entries[t] - lower * coupling)
    z = h[t] - lower * before[1]
    return (inverse, z), (_set(found[0], t, inverse), _set(found[1], t, lower), _set(found[2], t, z))


def _return(t: Any, place: Any, after: End, known: End, solved: tuple[Any, Any]) -> tuple[End, tuple[Any, Any]]:
    """(x, variance, l) of an element from those of the next one; x and covariances with it, the one with the next at `place`."""
    inverse, lower, z = (array[t] for array in known)
    x = z * inverse - after[2] * after[0]
    cov = -after[2] * after[1]
    variance = inverse - after[2] * cov
    return (x, variance, lower), (_set(solved[0], t, x), _set(_set(solved[1], t, variance), place, cov))


def _set(array: Any, t: Any, value: Any) -> Any:
    """The array with another element t, without the checks that indexing makes in every step."""
    return jax.lax.dynamic_update_slice(array, value[None], (t,))


def _positive(pivot: Any) -> Any:
    """NaN where a pivot says that the matrix is not positive definite."""
    return jnp.where(pivot > 0, pivot, jnp.nan)
