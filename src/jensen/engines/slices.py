"""Slice sampling, element after element or of independent elements at once: moves that leave a density invariant, untuned.

    u ~ U(0, p(x));  x' ~ U on the part of {p > u} that stepping out by 1 from x and shrinking towards x finds

Reference: Neal (2003), Slice sampling, Annals of Statistics 31.
"""

from typing import Any

import jax
import jax.numpy as jnp

NARROWEST = 1e-12
"""A slice that has shrunk to this is given up, and the element stays."""
CHANCES = 34
"""Uniform numbers a move of an element takes: the level, the place of the slice, and the points looked at inside of it."""


def slice_sweep(density: Any, x: Any, chance: Any) -> Any:
    """Move every element of x (n,) once by slice sampling.

    `density` is the log density of x; `chance` and what becomes of elements that use all of it are those of `slice_all`.
    """

    def element(index: Any, x: Any) -> Any:
        here = chance[:, index]
        level = density(x) + jnp.log(here[0])

        def inside(move: Any) -> Any:
            return density(x.at[index].add(move)) > level

        left = -here[1]
        right = jax.lax.while_loop(inside, lambda move: move + 1, left + 1)
        left = jax.lax.while_loop(inside, lambda move: move - 1, left)

        def outside(carry: Any) -> Any:
            number, left, right, move, _ = carry
            return ~inside(move) & (right - left > NARROWEST) & (number < CHANCES)

        def shrink(carry: Any) -> Any:
            number, left, right, move, _ = carry
            left, right = jnp.where(move < 0, move, left), jnp.where(move < 0, right, move)
            return number + 1, left, right, *propose(number, left, right)

        def propose(number: Any, left: Any, right: Any) -> tuple[Any, Any]:
            return left + here[number] * (right - left), right - left

        start = (3, left, right, *propose(2, left, right))
        *_, move, _ = jax.lax.while_loop(outside, shrink, start)
        return x.at[index].add(jnp.where(inside(move), move, 0.0))

    return jax.lax.fori_loop(0, len(x), element, x)


def slice_all(density: Any, x: Any, width: Any, chance: Any) -> Any:
    """Move all elements of x (n,) at once; `density` gives the log density (n,) of every element, which are independent.

    `width` (n,) is how far to step out, which must not depend on x; `chance` are uniform numbers (CHANCES, n) above zero.

    Elements whose slice has not been hit after these points stay, which keeps the density invariant: the way back would have
    seen the same points.
    """
    level = density(x) + jnp.log(chance[0])
    inside = jax.vmap(lambda move: density(x + move) > level)

    def further(carry: Any) -> Any:
        ends, more = carry
        more = more & inside(ends)
        return jnp.where(more, ends + jnp.stack([-width, width]), ends), more

    ends = jnp.stack([-chance[1] * width, (1.0 - chance[1]) * width])
    ends, _ = jax.lax.while_loop(lambda carry: carry[1].any(), further, (ends, jnp.ones(ends.shape, bool)))

    def shrink(carry: Any) -> Any:
        number, left, right, move, looking = carry
        proposed = left + chance[number] * (right - left)
        hit = looking & inside(proposed[None])[0]
        move, looking = jnp.where(hit, proposed, move), looking & ~hit
        left, right = jnp.where(proposed < 0, proposed, left), jnp.where(proposed < 0, right, proposed)
        return number + 1, left, right, move, looking

    start = (2, *ends, jnp.zeros_like(x), jnp.ones(x.shape, bool))
    more = jax.lax.while_loop(lambda carry: carry[-1].any() & (carry[0] < CHANCES), shrink, start)
    return x + more[3]
