"""`Arrow`: a few border elements that touch everything, and an inner pattern that is cheap once they are taken out.

With the border first,

    P = [ B  C ]      W = C D^-1,   S = B - W C'   (Schur complement, p x p),
        [ C' D ],

    log det P = log det D + log det S,     Cov = [  S^-1      -S^-1 W          ]
                                                 [ -W' S^-1   D^-1 + W' S^-1 W ],

where only the entries of D^-1 + W' S^-1 W that are in the inner pattern are computed. The cost is that of p + 1 solves with
D plus n p^2: linear in the number of leaves. Multilevel regressions are the standard case (border: intercept and
coefficients; leaves: the groups' effects); a chain with regressors is another.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jensen.families.patterns_base import Pattern, joined
from jensen.families.patterns_blocks import Blocks


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Arrow(Pattern):
    """Border elements first, then those of the inner pattern; off-diagonal entries: within the border, across, within.

    Attributes
    ----------
    border
        Number of border elements p.
    inner
        The pattern of the other elements.
    """

    border: int = field(metadata={"static": True})
    inner: Any

    @property
    def n(self) -> int:
        """Number of elements."""
        return self.border + self.inner.n

    @property
    def size(self) -> int:
        """Length of the entries."""
        return self._top.size + self.border * self.inner.n + self.inner.size

    @property
    def pairs(self) -> np.ndarray:
        """Off-diagonal pairs (Q, 2)."""
        leaves, border = np.meshgrid(np.arange(self.border, self.n), np.arange(self.border))
        across = np.stack([leaves.ravel(), border.ravel()], 1)
        return np.concatenate([self._top.pairs, across, self.inner.pairs + self.border])

    @property
    def _top(self) -> Blocks:
        return Blocks(1, self.border)

    def solve(self, rhs: Any, entries: Any) -> tuple[Any, Any, Any]:
        """The inner pattern first, then the border, then back."""
        top, across, inside = self._split(entries)
        k = len(rhs)
        stacked = joined([rhs[:, self.border :], across], 0)
        solved, inner_cov, inner_logdet = self.inner.solve(stacked, inside)
        partial, weights = solved[:k], solved[k:]
        complement = self._complement(top, across, weights)
        head, top_cov, top_logdet = self._top.solve(rhs[:, : self.border] - partial @ across.T, complement)
        solution = joined([head, partial - head @ weights])
        reach = self._top.matrices(top_cov)[0] @ weights
        inner_cov = inner_cov + self.inner.outer(reach, weights)
        return solution, self._join(top_cov, -reach, inner_cov), inner_logdet + top_logdet

    def spread(self, noise: Any, entries: Any) -> Any:
        """Border draws, then the rest given the border."""
        top, across, inside = self._split(entries)
        weights = self.inner.solve(across, inside)[0]
        head = self._top.spread(noise[:, : self.border], self._complement(top, across, weights))
        return joined([head, self.inner.spread(noise[:, self.border :], inside) - head @ weights])

    def shifted(self, noise: Any, h: Any, entries: Any) -> Any:
        """Draws, with mean and deviations by one elimination of the inner pattern."""
        top, across, inside = self._split(entries)
        p = self.border
        solved = self.inner.solve(joined([h[None, p:], across], 0), inside)[0]
        partial, weights = solved[:1], solved[1:]
        complement = self._complement(top, across, weights)
        mean = self._top.solve(h[None, :p] - partial @ across.T, complement)[0]
        head = mean + self._top.spread(noise[:, :p], complement)
        return joined([head, partial + self.inner.spread(noise[:, p:], inside) - head @ weights])

    def multiply(self, entries: Any, x: Any) -> Any:
        """P x for x (..., n)."""
        top, across, inside = self._split(entries)
        head, rest = x[..., : self.border], x[..., self.border :]
        above = self._top.multiply(top, head) + rest @ across.T
        return joined([above, head @ across + self.inner.multiply(inside, rest)])

    def outer(self, left: Any, right: Any) -> Any:
        """Entries of left' right."""
        p = self.border
        top = self._top.outer(left[:, :p], right[:, :p])
        return self._join(top, left[:, :p].T @ right[:, p:], self.inner.outer(left[:, p:], right[:, p:]))

    def _complement(self, top: Any, across: Any, weights: Any) -> Any:
        """Entries of B - W C'."""
        return top - self._top.pack((weights @ across.T)[None])

    def _split(self, entries: Any) -> tuple[Any, Any, Any]:
        """Entries of the border, couplings (border, inner n), entries of the inner pattern."""
        p, top = self.border, self._top.size - self.border
        diagonal, others = entries[: self.n], entries[self.n :]
        cut = top + p * self.inner.n
        return (
            joined([diagonal[:p], others[:top]]),
            others[top:cut].reshape(p, self.inner.n),
            joined([diagonal[p:], others[cut:]]),
        )

    def _join(self, top: Any, across: Any, inside: Any) -> Any:
        p, n = self.border, self.inner.n
        return joined([top[:p], inside[:n], top[p:], across.ravel(), inside[n:]])
