"""The evidence lower bound, ELBO(q) = E_q[log p(z, data)] + entropy(q) <= log p(data).

On fixed draws, with the entropy in closed form, it is what the engine maximizes (engines/fixed_draws.py); here it is estimated on
fresh draws, which is how fits are compared: a design can be overfitted.

Reference: Jordan, Ghahramani, Jaakkola, Saul (1999), An introduction to variational methods for graphical models.
"""

from typing import NamedTuple

import numpy as np


class Elbo(NamedTuple):
    """An estimate of the ELBO in nats and its Monte-Carlo standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.2f} +- {self.error:.2f}"


def on_draws(log_p: np.ndarray, log_q: np.ndarray) -> Elbo:
    """ELBO, with its error, from log p and log q (n,) at independent draws of q."""
    log_w = log_p - log_q
    return Elbo(float(log_w.mean()), float(log_w.std(ddof=1) / np.sqrt(len(log_w))))
