"""Where the sites are: which block of q holds a site, as what family, and where in the block's arrays.

Gaussian sites that share rows may form one block with a sparse precision; every other site is a block of its own. A positive site
that is not conjugate is Gaussian on its logarithm ("log gaussian"): its powers then have closed expectations too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jensen.conjugate.terms import ONE_MINUS

GAUSSIAN = ("gaussian", "log gaussian")
"""Roles whose block is a Gaussian."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Blocks of q.

    Attributes
    ----------
    role
        Site -> "gaussian", "log gaussian", "gamma", "inverse gamma", "beta", "dirichlet", "wishart", "inverse wishart",
        "categorical", "chain".
    block
        Site -> name of its block.
    offset
        Gaussian site -> its first element in the block.
    pattern
        Gaussian block -> precision pattern.
    """

    role: Mapping[str, str]
    block: Mapping[str, str]
    offset: Mapping[str, int]
    pattern: Mapping[str, Any]

    def reading(self, name: str) -> tuple[str, str]:
        """Site and role of a slot's site name, which may say "one minus"."""
        if name.startswith(ONE_MINUS):
            return name.removeprefix(ONE_MINUS), "complement"
        return name, self.role[name]

    def place(self, name: str) -> tuple[str, str]:
        """Block and role of a slot's site name."""
        site, role = self.reading(name)
        return self.block[site], role

    def position(self, block: str, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Where a Gaussian block keeps the covariance of its elements i and j."""
        return self.pattern[block].position(i, j)
