"""The evidence lower bound, ELBO(q) = E_q[log p(z, data)] + entropy(q) <= log p(data).

The entropy is in closed form, and the noise is an argument: stochastic gradients, fixed draws and quasi-Monte-Carlo are one
objective with different sources of noise.

Reference: Jordan, Ghahramani, Jaakkola, Saul (1999), An introduction to variational methods for graphical models.
"""

from typing import Any, NamedTuple

import numpy as np


class Elbo(NamedTuple):
    """An estimate of the ELBO in nats and its Monte-Carlo standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.2f} +- {self.error:.2f}"


def on_design(q: Any, log_p: Any, weights: Any) -> Any:
    """ELBO of q from log densities (M,) at the transported points of a design."""
    return (weights * log_p).sum() + q.entropy()


def on_draws(log_p: np.ndarray, log_q: np.ndarray) -> Elbo:
    """ELBO, with its error, from log p and log q (n,) at independent draws of q."""
    log_w = log_p - log_q
    return Elbo(float(log_w.mean()), float(log_w.std(ddof=1) / np.sqrt(len(log_w))))
