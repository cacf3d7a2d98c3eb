"""PyMC's approximations: parameters that can be looked at and set while a fit goes on, moments, draws.

    MeanField   mu, rho       N(mu, diag sd^2),  sd = log(1 + exp(rho))
    FullRank    mu, L_tril    N(mu, L L'),  the diagonal of L is log(1 + exp(.)) of what L_tril has there
    Empirical   histogram     equally likely points (s, D)

All live on the flat unconstrained vector, in the order of the model's free variables.
"""

from typing import Any

import numpy as np

from jensen.compat.pymc.arrays import Parameter, seed_of
from jensen.compat.pymc.base import Approximation
from jensen.compat.pymc.updates import rho_of
from jensen.core import keys
from jensen.core.errors import UnsupportedError
from jensen.families.fullrank import DenseGaussian
from jensen.families.meanfield import DiagonalGaussian
from jensen.families.particles import Particles

__all__ = ["Approximation", "Empirical", "FullRank", "MeanField"]


class MeanField(Approximation):
    """Independent Gaussians; starts at PyMC's initial point with rho = 0, or at `start` with sds `start_sigma`."""

    def __init__(self, model: Any = None, random_seed: Any = None, start: Any = None, start_sigma: Any = None):
        super().__init__(model, random_seed, lambda mu: {"mu": mu, "rho": np.zeros(len(mu))}, start)
        self.values["rho"] = rho_of(self.sds(start_sigma, np.full(self.ddim, np.log(2.0))))

    @property
    def q(self) -> DiagonalGaussian:
        """The approximation as jensen has it."""
        return DiagonalGaussian(self.values["mu"], np.log(np.logaddexp(0.0, self.values["rho"])))

    def set_flat(self, flat: Any) -> None:
        """Set mu and rho."""
        self.values.update(mu=flat[: self.ddim], rho=flat[self.ddim :])

    def set_q(self, q: DiagonalGaussian) -> None:
        """Set mu and rho."""
        self.values.update(mu=np.array(q.mean), rho=rho_of(np.array(q.sd)))

    def _twin(self) -> Any:
        import pymc

        return pymc.MeanField(model=self.model, random_seed=self.seed)


class FullRank(Approximation):
    """A Gaussian with full covariance; starts at PyMC's initial point with L_tril of the identity, or at `start`."""

    def __init__(self, model: Any = None, random_seed: Any = None, start: Any = None):
        super().__init__(model, random_seed, _identity, start)

    @property
    def q(self) -> DenseGaussian:
        """The approximation as jensen has it."""
        scale = np.zeros((self.ddim, self.ddim))
        scale[np.tril_indices(self.ddim)] = self.values["L_tril"]
        np.fill_diagonal(scale, np.logaddexp(0.0, np.diagonal(scale)))
        return DenseGaussian(self.values["mu"], scale)

    def set_flat(self, flat: Any) -> None:
        """Set mu and L_tril."""
        self.values.update(mu=flat[: self.ddim], L_tril=flat[self.ddim :])

    def set_q(self, q: DenseGaussian) -> None:
        """Set mu and L_tril."""
        lower = np.array(q.scale)
        np.fill_diagonal(lower, rho_of(np.diagonal(lower).copy()))
        self.values.update(mu=np.array(q.mean), L_tril=lower[np.tril_indices(self.ddim)])

    def _twin(self) -> Any:
        import pymc

        return pymc.FullRank(model=self.model, random_seed=self.seed)


class Empirical(Approximation):
    """Equally likely points: `size` of them around PyMC's initial point or `start`, with sd `jitter`."""

    has_logq = False

    def __init__(
        self,
        trace: Any = None,
        size: int | None = None,
        jitter: float = 1,
        model: Any = None,
        random_seed: Any = None,
        start: Any = None,
    ):
        if trace is not None or size is None:
            raise UnsupportedError("Empirical is made of size= points here, and not of a trace; give size=1000.")
        seed = seed_of(random_seed)
        noise = keys.generator(seed, "points")

        def points(mu: np.ndarray) -> dict[str, np.ndarray]:
            return {"histogram": mu + jitter * noise.standard_normal((size, len(mu)))}

        super().__init__(model, seed, points, start)

    @property
    def q(self) -> Particles:
        """The approximation as jensen has it."""
        return Particles(self.values["histogram"])

    @property
    def histogram(self) -> Parameter:
        """The points (s, D)."""
        return self.shared_params["histogram"]

    def set_flat(self, flat: Any) -> None:
        """Set the points."""
        self.values["histogram"] = np.reshape(flat, (-1, self.ddim))

    def set_q(self, q: Particles) -> None:
        """Set the points."""
        self.values["histogram"] = np.array(q.points)

    def _twin(self) -> Any:
        import pymc

        return pymc.Empirical(size=len(self.values["histogram"]), model=self.model, random_seed=self.seed)


def _identity(mu: np.ndarray) -> dict[str, np.ndarray]:
    return {"mu": mu, "L_tril": np.eye(len(mu))[np.tril_indices(len(mu))]}
