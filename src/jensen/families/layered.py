"""A Gaussian pushed through a map that bends: z = map(y), y ~ N(m, L L'); log q(z) = log N(y) - log|J(y)|.

The map (maps.py) holds funnels, bends and skew, the Gaussian the rest. Its moments have no closed form: they are those of 4,096
fixed antithetic draws, computed once. Parameters: D + D(D+1)/2 of the Gaussian, 2 D per layer and D of skew, and the layers'
directions.

Reference: Papaspiliopoulos, Roberts, Skold (2007), A general framework for the parametrization of hierarchical models, Statist.
Sci. 22.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jensen.core import keys
from jensen.core.errors import UnsupportedError
from jensen.families.fullrank import DenseGaussian, from_factor
from jensen.families.maps import Map

_DRAWS = 4096
_LARGEST = 1500


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Layered:
    """A map of a Gaussian.

    Attributes
    ----------
    map
        y -> z.
    base
        The Gaussian of y.
    """

    map: Map
    base: DenseGaussian

    @property
    def dim(self) -> int:
        """D."""
        return self.base.dim

    @property
    def params(self) -> dict[str, Any]:
        """The variational parameters by name: those of the map and of the base, as ``base_mean`` and ``base_scale``."""
        by_name = {field.name: getattr(self.map, field.name) for field in fields(Map)}
        return by_name | {"base_mean": self.base.mean, "base_scale": self.base.scale}

    @staticmethod
    def from_params(params: dict[str, Any]) -> "Layered":
        """The inverse of `params`."""
        bent = Map(**{field.name: params[field.name] for field in fields(Map)})
        return Layered(bent, DenseGaussian(params["base_mean"], params["base_scale"]))

    @property
    def mean(self) -> Any:
        """Mean (D,), of fixed draws; exact where nothing is bent."""
        return self._moments[0]

    @property
    def sd(self) -> Any:
        """Standard deviations (D,), of fixed draws."""
        return self._moments[1]

    @cached_property
    def scale(self) -> Any:
        """Lower triangular factor (D, D) of the covariance.

        Raises
        ------
        UnsupportedError
            Above D = 1,500.
        """
        if self.dim > _LARGEST:
            raise UnsupportedError(
                f"the covariance of a layered approximation is formed up to {_LARGEST:,} dimensions; this one has {self.dim:,}; "
                "use sd."
            )
        if self.map.affine:
            return self.map.width[:, None] * self.base.scale
        centered = np.asarray(self._draws) - np.asarray(self.mean)
        upper: np.ndarray = np.asarray(np.linalg.qr(centered, mode="r"))
        return from_factor(np.asarray(self.mean), upper.T / len(centered) ** 0.5).scale

    @property
    def cov(self) -> Any:
        """Covariance (D, D); as `scale`."""
        return self.scale @ self.scale.T

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Standard normal draws (n, D)."""
        return rng.standard_normal((n, self.dim))

    def transport(self, noise: Any) -> tuple[Any, Any]:
        """Draws z (n, D) made of noise (n, D), and log q(z) (n,)."""
        y, log_q = self.base.transport(noise)
        z, volume, _ = self.map.out(y)
        return z, log_q - volume

    def log_prob(self, z: Any) -> Any:
        """Log q(z) (n,) at points z (n, D)."""
        y = self.map.into(z)
        return self.base.log_prob(y) - self.map.out(y)[1]

    def sample(self, rng: np.random.Generator, n: int) -> Any:
        """Independent draws (n, D)."""
        return self.transport(self.noise(rng, n))[0]

    @cached_property
    def _draws(self) -> Any:
        half = self.noise(keys.generator(0, "layered moments"), _DRAWS // 2)
        return self.transport(np.concatenate([half, -half]))[0]

    @cached_property
    def _moments(self) -> tuple[Any, Any]:
        if self.map.affine:
            return self.map.location + self.map.width * self.base.mean, self.map.width * self.base.sd
        return self._draws.mean(0), self._draws.std(0)
