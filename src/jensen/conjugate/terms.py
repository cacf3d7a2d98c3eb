"""Expected log densities as sums of terms: what each kind of node contributes to the energy E_q[log p].

Every row of a node's log density is a sum of constants ("stats", functions of the data alone) times expectations of products of
sites. Five kinds of term cover all kinds of node:

    Log        stat * sum_j p_j E[log s_j]                       log of a monomial of positive sites
    Mean       stat * prod_j E[s_j^p_j]                          mean of a monomial
    MeanLog    stat * prod_j E[s_j^p_j] * sum_k p_k E[log s_k]   shape parameters: a monomial times a log
    Quadratic  -1/2 stat * prod_j E[s_j^p_j] * E[(c + sum_i w_i x_i + sum pairs)^2]
    Predicted  E[f(eta)], eta = c + sum_i w_i x_i Gaussian       likelihoods that are not conjugate, and probit

plus Entries (Wishart), Curved (log normalizers of shape parameters), Sampled (priors of other kinds) and Drawn (free sites).
Powers and weights come from the probe; a node whose leaves cannot be read this way raises `NotConjugate`, which names the
sites to blame and says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jensen.conjugate.probe import Probe, Reading, View
from jensen.conjugate.slots import Affine, Pair, Slot
from jensen.models.graph import Node

ONE_MINUS = "1-"
"""Prefix of a unit site's name in slots that read one minus it."""


class NotConjugate(Exception):
    """A node's density is no sum of terms: the sites to blame, and the reason in words."""

    def __init__(self, blame: frozenset[str] | set[str], reason: str):
        super().__init__(reason)
        self.blame, self.reason = frozenset(blame), reason


class Log(NamedTuple):
    """stat * sum of p E[log s]."""

    stat: np.ndarray
    reads: tuple[Slot, ...]


class Mean(NamedTuple):
    """stat * prod E[s^p]."""

    stat: np.ndarray
    reads: tuple[Slot, ...]


class MeanLog(NamedTuple):
    """stat * prod E[s^p] over `reads` * sum of p E[log s] over `logs`."""

    stat: np.ndarray
    reads: tuple[Slot, ...]
    logs: tuple[Slot, ...]


class Curved(NamedTuple):
    """stat * E[log Gamma(scale * s^p)] of one positive site s, whose logarithm is then Gaussian."""

    stat: np.ndarray
    scale: np.ndarray
    read: Slot


class Quadratic(NamedTuple):
    """-1/2 stat * prod E[s^p] * E[residual^2]."""

    stat: np.ndarray
    reads: tuple[Slot, ...]
    residual: Affine
    pairs: tuple[Pair, ...] = ()


class Predicted(NamedTuple):
    """E[f(eta)] with f one of `jensen.conjugate.predicted` and `data` its arrays."""

    rule: str
    data: dict[str, np.ndarray]
    predictor: Affine


class Entries(NamedTuple):
    """stat * E[statistic of a matrix site]: `which` is "value" (one entry) or "logdet" (one matrix), over `rows`."""

    stat: np.ndarray
    which: str
    site: str
    index: np.ndarray
    rows: tuple[int, ...]


class MatrixQuadratic(NamedTuple):
    """-1/2 E[r' M r] with r a vector of residuals and M a matrix site: entry (a, b) at index[..., a, b]."""

    residual: Affine
    site: str
    index: np.ndarray


class Sampled(NamedTuple):
    """E[log_prob] of a node of another kind, over the Gaussian of one site, element by element."""

    site: str


class Drawn(NamedTuple):
    """A node with free sites, under one of the rules of `jensen.conjugate.drawn`; `factors` are what else enters, and how.

    `value` are the observed numbers of a node under discrete sites, for starts.
    """

    rule: str
    sites: tuple[str, ...]
    factors: tuple[tuple[str, Affine], ...]
    why: str
    value: np.ndarray | None = None


Term = Log | Mean | MeanLog | Curved | Quadratic | Predicted | Entries | MatrixQuadratic | Sampled | Drawn


@dataclass(frozen=True)
class Factor:
    """A node's terms.

    Attributes
    ----------
    node
        Whose log density it is.
    levels
        Discrete parents, in the order of the leading axis of all arrays.
    own
        The node is itself discrete and latent: its own level is the last axis of the terms' arrays.
    terms
        Their sum and `constant` (rows) is the expected log density.
    constant
        Rows that depend on data only.
    """

    node: Node
    levels: tuple[str, ...]
    own: bool
    terms: tuple[Term, ...]
    constant: np.ndarray


class Reader:
    """Looks up what the probe found about a node's leaves, or says who is to blame.

    Parameters
    ----------
    probe
        All readings.
    latents
        Latent nodes by name.
    """

    def __init__(self, probe: Probe, latents: Mapping[str, Node]):
        self.probe, self.latents = probe, latents

    def reading(self, node: Node, leaf: str, transform: str) -> Reading | None:
        """What is known about a view; None if it was not probed."""
        return self.probe.readings.get(View(node.name, leaf, transform))

    def continuous(self, names: frozenset[str]) -> frozenset[str]:
        """Those of the names that are continuous sites."""
        return frozenset(name for name in names if self.latents[name].levels is None)

    def affine(self, node: Node, leaf: str, transform: str = "id") -> Affine:
        """The affine reading of a leaf."""
        found = self.reading(node, leaf, transform)
        if found is not None and found.affine is not None and not found.pairs:
            return found.affine
        raise NotConjugate(
            self._blame(node, leaf), f"{leaf} of {node.name} ({node.distribution}) is not {_IN_WORDS[transform]}"
        )

    def constant(self, node: Node, leaf: str) -> np.ndarray:
        """A leaf that must not depend on continuous sites."""
        found = self.reading(node, leaf, "id") or self.reading(node, leaf, "log")
        parents = self.continuous(self.probe.parents[node.name][leaf])
        if parents or found is None or found.affine is None:
            raise NotConjugate(
                parents, f"{leaf} of {node.name} ({node.distribution}) depends on {', '.join(sorted(parents))}"
            )
        constant = np.broadcast_to(found.affine.constant, found.shape or np.shape(found.affine.constant))
        return constant if self.reading(node, leaf, "id") else np.exp(constant)

    def line_up(self, node: Node) -> None:
        """Refuse leaves under discrete sites that do not spread over the node's rows: slices of sites, read at length one."""
        for view, found in self.probe.readings.items():
            if view.node != node.name or not found.levels:
                continue
            rows = found.shape[1 : 1 + len(node.shape)]
            if any(length not in (1, wanted) for length, wanted in zip(rows, node.shape, strict=False)):
                names = ", ".join(found.levels)
                raise NotConjugate(
                    set(found.levels),
                    f"the rows of {view.leaf} of {node.name} are not those of its discrete sites {names}",
                )

    def _blame(self, node: Node, leaf: str) -> frozenset[str]:
        names = self.continuous(self.probe.parents[node.name][leaf])
        curved = frozenset(name for name in names if self.probe.coordinate.get(name) != "real")
        # Where the leaf is affine in its real sites when the others are held, the others are to blame.
        found = self.reading(node, leaf, "id")
        return curved if curved and found is not None and found.held else names


_IN_WORDS = {
    "id": "linear in its sites",
    "log": "a product of powers of its sites",
    "logit": "the inverse logit of a linear predictor",
    "probit": "the normal distribution function of a linear predictor",
}
