"""Tables: the terms of a node under discrete sites, as a value for every row and combination of levels.

    E = sum_n sum_k phi_nk e_nk,      phi_nk = product of the discrete sites' probabilities, or a chain's of (before, now)

Tables of hoisted rows enter as <phi' T, psi>: compiled code computes the statistics phi' T once for all blocks that share them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate.places import static

IMPOSSIBLE = -1e30
"""Stands for log 0 in tables, so that a level of probability zero adds 0 * IMPOSSIBLE = 0 and not 0 * -inf = NaN."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Constant:
    """A table that depends on data only: (1 or n, C)."""

    values: Any

    hoisted = False
    alike = None

    def table(self, moments: Any, levels: int) -> Any:
        """The table itself."""
        return self.values


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Tables:
    """All tables of one node under the same discrete sites.

    Attributes
    ----------
    parts
        `Rows` and `Constant`, to be added.
    sites
        Discrete sites in the order of the levels (last fastest).
    levels
        Their numbers of levels.
    chain
        The last site is a Markov chain and this is its own distribution: levels end with (before, now).
    steady
        All steps of the chain are alike: the tables have a row for the start and one for the steps.
    """

    parts: tuple[Any, ...]
    sites: tuple[str, ...] = static()
    levels: tuple[int, ...] = static()
    chain: bool = static(default=False)
    steady: bool = static(default=False)

    @property
    def count(self) -> int:
        """Number of combinations of levels."""
        return int(np.prod(self.levels))

    @property
    def excluding(self) -> bool:
        """Whether some row is impossible under some levels."""
        return any(isinstance(part, Constant) and np.min(part.values) <= 0.1 * IMPOSSIBLE for part in self.parts)

    def about(self, block: str, counting: bool = False) -> "Tables":
        """The part that may depend on a block; with `counting` also what counts of levels are taken from."""
        if block in self.sites:
            return self
        some = (part for part in self.parts if block in names(part) or (counting and part.alike is not None))
        return replace(self, parts=tuple(some))

    def summed(self, moments: Any, weight: Any, counts: Any, products: Sequence[Any]) -> Any:
        """Expectation over independent discrete sites too.

        Parameters
        ----------
        moments
            Of all blocks.
        weight
            Probabilities of the combinations of levels (n, count).
        counts
            Their sums over rows.
        products
            What `products` gave.
        """
        total = jnp.zeros(())
        for part, known in zip(self.parts, products, strict=True):
            if known is not None:
                total = total + (known[0] * known[1]).sum()
            elif part.hoisted:
                stat, psi = part.flat(moments, self.count)
                total = total + (counts[:, None] * stat * psi).sum()
            else:
                values = part.table(moments, self.count)
                total = total + ((counts if len(values) == 1 else weight) * values).sum()
        return total

    def products(self, moments: Any, first: Any) -> list[Any]:
        """For every part whose stats are those of the rows, probabilities (count, n) times stats, and psi; None for others."""
        found: list[Any] = []
        for part in self.parts:
            stat, psi = part.flat(moments, self.count) if part.hoisted else ((), None)
            found.append((first @ stat, psi) if len(stat) == first.shape[1] > 1 else None)
        return found

    def chained(self, moments: Any, probs: Mapping[str, Any]) -> Any:
        """Expectation of a chain's own distribution."""
        own = self.sites[-1]
        values = sum(part.table(moments, self.count) for part in self.parts)
        k = self.levels[-1]
        own_probs, pairs = probs[own], moments[own]["pairs"]
        if self.steady:
            start, step = jnp.broadcast_to(values, (2, self.count)).reshape(2, k, k)
            sequences = int(np.prod(pairs.shape[:-3]))
            return (own_probs[:sequences].sum(0) * start[0]).sum() + (pairs.reshape(-1, k, k).sum(0) * step).sum()
        values = jnp.broadcast_to(values, (len(own_probs), self.count)).reshape(len(own_probs), -1, k, k)
        if len(self.sites) > 2:
            others = joint([probs[name] for name in self.sites[:-2]])
            values = (values * jnp.broadcast_to(others, (len(own_probs), others.shape[1]))[:, :, None, None]).sum(1)
        else:
            values = values[:, 0]
        batch = pairs.shape[:-3]
        sequences = int(np.prod(batch))
        values = values.reshape(-1, sequences, k, k)  # time first: the site's axes are (time, *batch)
        first = own_probs.reshape(-1, sequences, k)[0]
        later = jnp.moveaxis(pairs.reshape(sequences, -1, k, k), 0, 1)
        return (first * values[0, :, 0]).sum() + (later * values[1:]).sum()


def expectations(tables: Mapping[str, Tables], moments: Any, probs: Mapping[str, Any]) -> dict[str, Any]:
    """Expectation of every node's tables over the discrete sites too; `probs` has (n, K) for every site.

    Sums of probabilities over rows, the counts of the levels, come from the products with the rows' stats where one of these is
    the same in all rows: so there is one product a sweep, and its transpose gives complete logits.
    """
    found, weights, products, counts = {}, {}, {}, {}
    some = {node: one for node, one in tables.items() if one.parts and not one.chain}
    for node, one in some.items():
        if one.sites not in weights:
            weight = joint([probs[name] for name in one.sites])
            # Levels first, and kept so by a barrier: loops over many rows run in vector registers, loops over few levels do not.
            weights[one.sites] = weight, jax.lax.optimization_barrier(weight.T)
        products[node] = one.products(moments, weights[one.sites][1])
        for part, known in zip(one.parts, products[node], strict=True):
            if known is not None and part.alike is not None and one.sites not in counts:
                counts[one.sites] = known[0][:, part.alike] / part.stat[0, 0].reshape(-1)[part.alike]
    for node, one in tables.items():
        if node in some:
            weight, first = weights[one.sites]
            count = counts[one.sites] if one.sites in counts else first.sum(1)
            found[node] = one.summed(moments, weight, count, products[node])
        else:
            found[node] = one.chained(moments, probs) if one.parts else jnp.zeros(())
    return found


def names(piece: Any) -> frozenset[str]:
    """All words in a piece; those of the blocks that it reads are among them."""
    if isinstance(piece, str):
        return frozenset({piece})
    if is_dataclass(piece):
        piece = [getattr(piece, one.name) for one in fields(piece)]
    if isinstance(piece, Mapping):
        piece = [*piece, *piece.values()]
    some = [names(one) for one in piece] if isinstance(piece, tuple | list) else []
    return frozenset().union(*some)


def joint(probs: Sequence[Any]) -> Any:
    """Product of independent probabilities (n or 1, K_i): (n, prod K_i), last fastest."""

    def two(a: Any, b: Any) -> Any:
        return (a[:, :, None] * b[:, None]).reshape(max(len(a), len(b)), -1)

    return reduce(two, probs)
