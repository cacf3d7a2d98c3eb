"""Slice sampling of one element after another: moves that leave a density p invariant, without tuning.

    u ~ U(0, p(x));  x' ~ U on the part of {p > u} that stepping out by 1 from x and shrinking towards x finds

Reference: Neal (2003), Slice sampling, Annals of Statistics 31.
"""

from typing import Any

import jax
import jax.numpy as jnp

NARROWEST = 1e-12
"""A slice that has shrunk to this is given up, and the element stays."""


def slice_sweep(density: Any, x: Any, key: Any) -> Any:
    """Move every element of x (n,) once by slice sampling; `density` is the log density of x."""

    def element(index: Any, x: Any) -> Any:
        first, second, third = jax.random.split(jax.random.fold_in(key, index), 3)
        level = density(x) + jnp.log(jax.random.uniform(first, dtype=x.dtype, minval=jnp.finfo(x.dtype).tiny))

        def inside(move: Any) -> Any:
            return density(x.at[index].add(move)) > level

        left = -jax.random.uniform(second, dtype=x.dtype)
        right = jax.lax.while_loop(inside, lambda move: move + 1, left + 1)
        left = jax.lax.while_loop(inside, lambda move: move - 1, left)

        def outside(carry: Any) -> Any:
            _, left, right, move, _ = carry
            return ~inside(move) & (right - left > NARROWEST)

        def shrink(carry: Any) -> Any:
            number, left, right, move, _ = carry
            left, right = jnp.where(move < 0, move, left), jnp.where(move < 0, right, move)
            return number + 1, left, right, *propose(number, left, right)

        def propose(number: Any, left: Any, right: Any) -> tuple[Any, Any]:
            share = jax.random.uniform(jax.random.fold_in(third, number), dtype=x.dtype)
            return left + share * (right - left), right - left

        start = (1, left, right, *propose(0, left, right))
        _, left, right, move, _ = jax.lax.while_loop(outside, shrink, start)
        return x.at[index].add(jnp.where(right - left > NARROWEST, move, 0.0))

    return jax.lax.fori_loop(0, len(x), element, x)
