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

    def about(self, block: str) -> "Tables":
        """The part that may depend on a block."""
        if block in self.sites:
            return self
        return replace(self, parts=tuple(part for part in self.parts if block in names(part)))

    def __call__(self, moments: Any, probs: Mapping[str, Any]) -> Any:
        """Expectation over the discrete sites too; `probs` has (n, K) for every site."""
        if not self.parts:
            return jnp.zeros(())
        if self.chain:
            return self._chain(moments, probs)
        weight = joint([probs[name] for name in self.sites])
        total = jnp.zeros(())
        # Levels first, and kept so by a barrier: loops over the many rows run in vector registers, loops over few levels do not.
        first = jax.lax.optimization_barrier(weight.T)
        for part in self.parts:
            if part.hoisted:
                stat, psi = part.flat(moments, self.count)
                # Products with the rows' stats; where these are the same in all rows, only the counts of the levels are needed.
                found = first @ stat if len(stat) == len(weight) > 1 else first.sum(1)[:, None] * stat
                total = total + (found * psi).sum()
            else:
                total = total + (weight * part.table(moments, self.count)).sum()
        return total

    def _chain(self, moments: Any, probs: Mapping[str, Any]) -> Any:
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
