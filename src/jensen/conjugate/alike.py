"""Blocks of one Gaussian site that have the same precision whatever the other sites are, so that one of them is enough.

Where every term that reads the site is a squared residual, the precision of its complete conditional is

    P = sum over rows  E[prec] c c',      c_i = weight of element i in the row (times the other site, in products),

a polynomial in the statistics of the other sites. If P_b v, for a random v, is the same in all blocks b at random values of
these, it is so everywhere: scores of rows without missing entries, loadings under one noise. The certificate checks it again.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from jensen.conjugate.slots import fit
from jensen.conjugate.terms import Factor, Quadratic
from jensen.families.patterns_alike import shared

LIMIT = 1e-10
MOST = 20_000_000
"""Numbers that are looked at for a site."""


def same_precision(site: str, pattern: Any, sizes: Mapping[str, int], factors: Sequence[Factor]) -> Any:
    """The site's pattern, as `Alike` where its blocks have one precision.

    Parameters
    ----------
    site
        That is a block by itself.
    pattern
        Of its elements.
    sizes
        Number of elements of every site.
    factors
        One a node.
    """
    found = shared(pattern)
    if found is None:
        return pattern
    own = [(one, term) for one in factors for term in one.terms if _mentions(term, site)]
    if any(one.levels or one.own or not isinstance(term, Quadratic) for one, term in own):
        return pattern
    rng = np.random.default_rng(0)
    for _ in range(2):
        values = {name: np.exp(0.3 * rng.standard_normal(size)) for name, size in sizes.items()}
        values |= {f"1-{name}": np.exp(0.3 * rng.standard_normal(size)) for name, size in sizes.items()}
        v = found.whole(np.broadcast_to(rng.standard_normal(found.width), (found.count, found.width)))
        try:
            parts = [_product(term, site, one.node.shape, values, v) for one, term in own]  # type: ignore[arg-type]
        except MemoryError:
            return pattern
        rows = found.split(sum(parts, np.zeros(found.n)))
        if not np.ptp(rows, axis=0).max() <= LIMIT * np.abs(rows).max():
            return pattern
    return found


def _product(term: Quadratic, site: str, shape: tuple[int, ...], values: Mapping[str, Any], v: np.ndarray) -> Any:
    """P v (n,) of a term's precision P."""
    number = len(shape)

    def rows(array: Any) -> np.ndarray:
        return fit(array, number)[0]

    precision = rows(term.stat)
    for read in term.reads:
        precision = precision * values[read.site][rows(read.index)] ** rows(read.weight)
    reads = [(rows(slot.index), rows(slot.weight)) for slot in term.residual.slots if slot.site == site]
    for pair in term.pairs:
        for one, other in ((pair.x, pair.y), (pair.y, pair.x)):
            if one.site == site:
                reads.append((rows(one.index), rows(pair.x.weight) * values[other.site][rows(other.index)]))
    total = np.zeros(len(v))
    for (i, a), (j, b) in product(reads, repeat=2):
        part = precision * a * b
        if part.size * len(reads) ** 2 > MOST:
            raise MemoryError(part.size)
        varying = np.broadcast_shapes(i.shape, j.shape)
        gone = tuple(axis for axis, length in enumerate(varying) if length == 1)
        alike = [shape[axis] for axis in gone if part.shape[axis] == 1]
        part = float(np.prod(alike)) * part.sum(gone, keepdims=True) * v[j]
        place, part = np.broadcast_arrays(i, part)
        total += np.bincount(place.reshape(-1), part.reshape(-1), len(v))
    return total


def _mentions(thing: Any, site: str) -> bool:
    if isinstance(thing, str):
        return thing == site
    if isinstance(thing, Mapping):
        return any(_mentions(one, site) for one in thing.values())
    return isinstance(thing, tuple | list) and any(_mentions(one, site) for one in thing)
