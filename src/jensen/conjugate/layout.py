"""Where the sites are: which block of q holds a site, as what family, and where in the block's arrays.

Gaussian sites that share rows may form one block with a sparse precision; every other site is a block of its own. A positive site
that is not conjugate is Gaussian on its logarithm ("log gaussian"): its powers then have closed expectations too. One on a
positive interval is Gaussian on its logit ("logit gaussian").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jensen.conjugate.bounded import Bounds
from jensen.conjugate.pieces import Read, few_powers
from jensen.conjugate.slots import Slot
from jensen.conjugate.terms import ONE_MINUS
from jensen.conjugate.ways import LOG, SAME, Way

GAUSSIAN = ("gaussian", "log gaussian", "logit gaussian")
"""Roles whose block is a Gaussian."""
POSITIVE = ("log gaussian", "logit gaussian")
"""Those of them whose sites have all powers and are alone in their block."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Blocks of q.

    Attributes
    ----------
    role
        Site -> "gaussian", "log gaussian", "logit gaussian", "gamma", "inverse gamma", "beta", "dirichlet", "wishart",
        "inverse wishart", "categorical", "chain".
    block
        Site -> name of its block.
    offset
        Gaussian site -> its first element in the block.
    pattern
        Gaussian block -> precision pattern.
    bounds
        Site on an interval whose logit is in a Gaussian block -> the interval.
    """

    role: Mapping[str, str]
    block: Mapping[str, str]
    offset: Mapping[str, int]
    pattern: Mapping[str, Any]
    bounds: Mapping[str, Bounds] = field(default_factory=dict)

    def way(self, name: str) -> Way:
        """What a Gaussian block holds of a site."""
        if name in self.bounds:
            return Way("logit", self.bounds[name])
        return LOG if self.role[name] == "log gaussian" else SAME

    def reading(self, name: str) -> tuple[str, str]:
        """Site and role of a slot's site name, which may say "one minus"."""
        if name.startswith(ONE_MINUS):
            return name.removeprefix(ONE_MINUS), "complement"
        return name, self.role[name]

    def read(self, slot: Slot) -> Read:
        """A slot of a positive site as a read of its block."""
        name, role = self.reading(slot.site)
        way = self.way(name) if role in POSITIVE else SAME
        return Read(slot.index, slot.weight, self.block[name], role, few_powers(slot.weight), way)

    def position(self, block: str, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Where a Gaussian block keeps the covariance of its elements i and j."""
        return self.pattern[block].position(i, j)
