"""The posterior of a fitted Gaussian mixture: means, sds and draws of weights, means and precisions.

scikit-learn's parameters are read as the distributions whose update they are:

    full        L_k ~ Wishart(nu_k, (nu_k C_k)^-1)
    tied        one L ~ Wishart(K nu, (K nu C)^-1): every component adds its nu
    diag        l_kd ~ Gamma(nu_k / 2, nu_k C_kd / 2)
    spherical   l_k ~ Gamma(D nu_k / 2, D nu_k C_k / 2): every dimension adds its nu_k
    means       m_k | L ~ N(m_k, (b_k L)^-1), so that they are Student-t
"""

from dataclasses import dataclass

import numpy as np

from jensen.core.errors import OptionError
from jensen.estimators.mixture_updates import Parameters
from jensen.kernels.mixture import Array, Shape


@dataclass(frozen=True, eq=False)
class MixturePosterior:
    """q over ``weights`` (K,), ``means`` (K, D) and ``precisions``, which has the shape of `precisions_`.

    Of a Dirichlet process the last component gets what the others leave; scikit-learn's `weights_` share it out instead.

    Attributes
    ----------
    shape
        Of the covariances.
    q
        The parameters.
    """

    shape: Shape
    q: Parameters

    @property
    def _degrees(self) -> Array:
        """Of the Wishart, or of the chi-squared distributions that precisions are multiples of."""
        K, D = self.q.means.shape
        return self.q.degrees_of_freedom * {"full": 1, "tied": K, "diag": 1, "spherical": D}[self.shape]

    @property
    def mean(self) -> dict[str, Array]:
        """Posterior means by name."""
        a = self.q.weight_concentration
        weights = _broken(a[0] / (a[0] + a[1])) if isinstance(a, tuple) else a / a.sum()
        A = self.q.precisions_cholesky
        precisions = A @ np.swapaxes(A, -1, -2) if self.shape in ("full", "tied") else A**2
        return {"weights": weights, "means": self.q.means, "precisions": precisions}

    @property
    def sd(self) -> dict[str, Array]:
        """Posterior sds by name; infinite where a Student-t has none."""
        a, (K, D), degrees = self.q.weight_concentration, self.q.means.shape, self._degrees
        mean = self.mean
        if isinstance(a, tuple):
            total = a[0] + a[1]
            taken = a[0] * (a[0] + 1) / (total * (total + 1))
            rest = a[1] * (a[1] + 1) / (total * (total + 1))
            second = np.append(taken[:-1], 1.0) * np.append(1.0, np.cumprod(rest[:-1]))
            weights = np.sqrt(np.maximum(second - mean["weights"] ** 2, 0.0))
        else:
            weights = np.sqrt(mean["weights"] * (1.0 - mean["weights"]) / (a.sum() + 1.0))
        C, P = self.q.covariances, mean["precisions"]
        if self.shape in ("full", "tied"):
            lost, variances = D + 1, np.diagonal(C, axis1=-2, axis2=-1)
            p = np.diagonal(P, axis1=-2, axis2=-1)
            precisions = np.sqrt((P**2 + p[..., :, None] * p[..., None, :]) / np.reshape(degrees, (-1, 1, 1)[: P.ndim]))
        else:
            lost, variances = 2, C if self.shape == "diag" else C[:, None]
            precisions = P * np.sqrt(2.0 / (degrees[:, None] if self.shape == "diag" else degrees))
        degrees = np.broadcast_to(degrees, K)[:, None]
        wider = np.where(degrees > lost, degrees / np.where(degrees > lost, degrees - lost, 1.0), np.inf)
        means = np.sqrt(wider * variances / self.q.mean_precision[:, None]) * np.ones((K, D))
        return {"weights": weights, "means": means, "precisions": precisions}

    def draws(self, n: int = 1000, *, seed: int = 0) -> dict[str, Array]:
        """Independent draws by name, draws first."""
        if n < 1:
            raise OptionError(f"the number of draws must be at least 1; got {n!r}; give a whole number.")
        from jensen.core import keys  # brings JAX

        random = keys.generator(seed, "draws")
        a, (K, D), C = self.q.weight_concentration, self.q.means.shape, self.q.covariances
        if isinstance(a, tuple):
            weights = _broken(random.beta(*a, size=(n, K)))
        else:
            weights = random.dirichlet(a, size=n)
        noise = random.standard_normal((n, K, D)) / np.sqrt(self.q.mean_precision)[:, None]
        if self.shape in ("diag", "spherical"):
            half = 0.5 * (self._degrees[:, None] if self.shape == "diag" else self._degrees)
            precisions = random.gamma(half, size=(n, *C.shape)) / (half * C)
            noise /= np.sqrt(precisions if self.shape == "diag" else precisions[:, :, None])
        else:
            factor = _bartlett(random, n, np.atleast_1d(self._degrees), D)
            factor = self.q.precisions_cholesky @ factor / np.sqrt(np.reshape(self._degrees, (-1, 1, 1)))
            precisions = factor @ np.swapaxes(factor, -1, -2)
            noise = np.linalg.solve(np.swapaxes(factor, -1, -2), noise[..., None])[..., 0]
            precisions = precisions[:, 0] if self.shape == "tied" else precisions
        return {"weights": weights, "means": self.q.means + noise, "precisions": precisions}


def _broken(stick: Array) -> Array:
    """Weights from fractions (..., K) of the stick that is left, of which the last component takes all."""
    left = np.cumprod(1.0 - stick[..., :-1], axis=-1)
    one = np.ones_like(stick[..., :1])
    return np.concatenate([stick[..., :-1], one], axis=-1) * np.concatenate([one, left], axis=-1)


def _bartlett(random: np.random.Generator, n: int, degrees: Array, D: int) -> Array:
    """Lower triangular T (n, K, D, D) with T T' ~ Wishart(degrees, I); Bartlett (1933)."""
    T = np.tril(random.standard_normal((n, len(degrees), D, D)), -1)
    T[..., np.arange(D), np.arange(D)] = np.sqrt(
        random.chisquare(degrees[:, None] - np.arange(D), size=(n, len(degrees), D))
    )
    return T
