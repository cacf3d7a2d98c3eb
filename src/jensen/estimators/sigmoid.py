"""Two classes: y_n ~ Bernoulli(sigmoid(f_n)), integrated over f_n ~ Normal(mu, v) in closed form.

The logistic distribution is, to 2e-9, a mixture of eight normals of mean zero (Monahan & Stefanski's table), so

    E sigmoid(f) = sum_k p_k Phi(mu / r_k),   r_k^2 = s_k^2 + v
    E log(1 + exp f) = sum_k p_k (mu Phi(mu / r_k) + r_k phi(mu / r_k)),   to 8e-9

at any variance, where Gauss-Hermite rules fail at large ones. Both are exact for the mixture, which is the likelihood that
is used.

Reference: Monahan & Stefanski (1992), Normal scale mixture approximations to F*(z) and computation of the logistic-normal
integral, in: Balakrishnan (ed.), Handbook of the Logistic Distribution.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from jensen.estimators.newton import Pass, Rows

_TABLE = (  # p_k, 1 / s_k
    (0.003246343272134, 1.365340806296348),
    (0.051517477033972, 1.059523971016916),
    (0.195077912673858, 0.830791313765644),
    (0.315569823632818, 0.650732166639391),
    (0.274149576158423, 0.508135425366489),
    (0.131076880695470, 0.396313345166341),
    (0.027912418727972, 0.308904252267995),
    (0.001449567805354, 0.238212616409306),
)


def smoothed_sigmoid(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """E sigmoid(f) of f ~ Normal(mean, variance), elementwise."""
    return sum((share * ndtr(mean / np.sqrt(inverse**-2 + variance)) for share, inverse in _TABLE), np.zeros_like(mean))


def smoothed(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E log(1 + exp f), E sigmoid(f) and E sigmoid'(f) of f ~ Normal(mean, variance), elementwise."""
    value, slope, curvature = np.zeros_like(mean), np.zeros_like(mean), np.zeros_like(mean)
    for share, inverse in _TABLE:
        width = np.sqrt(inverse**-2 + variance)
        at = mean / width
        bell = np.exp(-0.5 * at**2) * (share / np.sqrt(2 * np.pi))
        below = share * ndtr(at)
        value += mean * below + width * bell
        slope += below
        curvature += bell / width
    return value, slope, curvature


@dataclass(frozen=True, eq=False)
class Binary:
    """Rows and targets y (N,), 0 or 1."""

    rows: Rows
    y: np.ndarray

    @property
    def columns(self) -> int:
        """One."""
        return 1

    @property
    def start(self) -> np.ndarray:
        """No weights, and the log odds of the classes."""
        share = np.average(self.y, weights=self.rows.weight)
        return np.r_[np.zeros(self.rows.rank), np.log(share / (1 - share))]

    def visit(self, mean: np.ndarray, root: np.ndarray) -> Pass:
        """One pass at q = Normal(mean, root root')."""
        fit, slope, curvature = 0.0, np.zeros(len(mean)), np.zeros((len(mean), len(mean)))
        for x, here, weight in self.rows.blocks(2 * len(mean)):
            f, y = x @ mean, self.y[here]
            value, chance, bend = smoothed(f, ((x @ root) ** 2).sum(1))
            fit += weight @ (y * f - value)
            slope += (weight * (y - chance)) @ x
            x *= np.sqrt(weight * bend)[:, None]
            curvature += x.T @ x
        return Pass(float(fit), slope, curvature)
