"""A target seen through a map: log p(map(y)) + log|J(y)|, an ordinary target in straightened coordinates y.

Engines for Gaussians fit it as any other; gradients are pulled back by hand around the one compiled program, so that nothing new
is compiled, and are counted where they are evaluated.
"""

from typing import Any

import numpy as np

from jensen.models.model import Model


class PulledBack:
    """A `Target` in the coordinates of a map.

    Parameters
    ----------
    target
        Of z.
    map
        y -> z, a `jensen.families.maps.Map`.
    """

    def __init__(self, target: Any, map: Any):
        self.target, self.map = target, map

    def __call__(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log density (n,), volume included, and gradient (n, D) at points y (n, D); not finite where the map overflows."""
        with np.errstate(all="ignore"):
            z, volume, tape = self.map.out(y)
            log_p, gradient = self.target(z)
            return log_p + volume, self.map.back(y, tape, gradient)

    @property
    def model(self) -> Model:
        """What is inferred."""
        return self.target.model

    @property
    def dim(self) -> int:
        """D."""
        return self.target.dim

    @property
    def data(self) -> Any:
        """Data of the target."""
        return self.target.data

    @property
    def batch(self) -> int:
        """Points a call of the program."""
        return self.target.batch

    @property
    def gradients(self) -> int:
        """Number of points evaluated so far, in whichever coordinates."""
        return self.target.gradients

    def affordable(self, wanted: int, least: int) -> int:
        """Number of points for a check that wants `wanted`."""
        return self.target.affordable(wanted, least)

    def constrain(self, y: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Values of the sites and of the deterministics at points y."""
        return self.target.constrain(self.map.out(y)[0])

    def factors(self, y: np.ndarray) -> dict[str, np.ndarray]:
        """Unscaled log density of every factor at points y."""
        return self.target.factors(self.map.out(y)[0])

    def blame(self, y: np.ndarray) -> str:
        """Name what is not finite at (some of) the points y."""
        return self.target.blame(self.map.out(np.atleast_2d(y))[0])
