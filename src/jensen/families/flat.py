"""What every approximation on the flat vector offers, and which there are.

q lives on R^D. All randomness of a draw comes from standard normal noise, which checks may whiten, clip or widen:

    z, log q(z) = transport(noise)

A q that is the image of a Gaussian under a bijection z = map(y) also has `base`, the Gaussian of y, and `map` (maps.py), so that
chains can walk in y. The other kind of approximation, a product of exponential families in the model's own space
(`jensen.conjugate.product`), has exact ``means`` and ``sds`` by site instead.
"""

from importlib import import_module
from typing import Any, Protocol

import numpy as np


class Approximation(Protocol):
    """An approximation on the flat vector: a frozen dataclass whose leaves are its parameters.

    Attributes
    ----------
    dim
        D.
    mean, sd
        (D,)
    cov, scale
        (D, D), where that is affordable; ``scale`` is lower triangular, ``cov = scale @ scale.T``.
    params
        Name -> array; `approximation` makes the same q of them.
    """

    dim: int
    mean: Any
    sd: Any
    cov: Any
    scale: Any
    params: dict[str, Any]

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Standard normal draws, n of them."""
        ...

    def transport(self, noise: Any) -> tuple[Any, Any]:
        """Draws z (n, D) made of noise, and log q(z) (n,)."""
        ...

    def log_prob(self, z: Any) -> Any:
        """Log q(z) (n,) at points z (n, D)."""
        ...

    def sample(self, rng: np.random.Generator, n: int) -> Any:
        """Independent draws (n, D)."""
        ...


_HOMES = {
    "DenseGaussian": "jensen.families.fullrank",
    "DiagonalGaussian": "jensen.families.meanfield",
    "LowRankGaussian": "jensen.families.lowrank",
    "ArrowGaussian": "jensen.families.structured",
    "GaussianMixture": "jensen.families.mixture",
    "Layered": "jensen.families.layered",
    "Flow": "jensen.families.flow",
    "Particles": "jensen.families.particles",
}


def is_flat(q: Any) -> bool:
    """Whether q lives on the flat vector; else it is a product of exponential families."""
    return not hasattr(q, "sds")


def has_density(q: Any) -> bool:
    """Whether log q can be evaluated; particles are draws only."""
    return hasattr(q, "transport")


def approximation(name: str, params: dict[str, np.ndarray], own: type | None = None) -> Any:
    """The approximation of the class `name` with these parameters; `own` is that class where it is not one of jensen's.

    Raises KeyError for a class there is not.
    """
    ours = own is None or own.__name__ != name
    kind: Any = getattr(import_module(_HOMES[name]), name) if ours else own
    return kind.from_params(params) if hasattr(kind, "from_params") else kind(**params)
