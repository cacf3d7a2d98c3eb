"""The squared log ratio: half the variance of log p - log q.

    V(q) = Var_r[log p(z) - log q(z)] / 2

It is zero if and only if q is the posterior where r has mass, needs no normalizing constant, and is the number by which the
checks judge a fit (the variance of its log weights). Two derivatives of it are in use:

    draws held fixed, z ~ r = q:    -E_q[(log w - E log w) d log q(z)] = -d ELBO        q's score, no gradient of p
    draws moved, z_n = m + L e_n:   sum c_n d log w_n,   c_n = v_n (log w_n - mean)     gradient of p, not q's score

The first one is the gradient of the ELBO itself, estimated by the score function with a control variate for nothing (VarGrad);
it has the ELBO's optimum, and on fixed draws there is no function that it is the gradient of. The second one is the exact
gradient of the variance on moving draws, and its optimum is another one: the q under which log weights vary least.
Deterministic descent needs the second; here log q(z_n) depends on the parameters through log|det L| only, which drops out
because sum c_n = 0.

References: Nusken, Richter (2021), Solving high-dimensional Hamilton-Jacobi-Bellman PDEs using neural networks, Partial Differ.
Equ. Appl. 2 (log-variance divergence); Richter, Boustati, Nusken, Ruiz, Akyildiz (2020), VarGrad, NeurIPS 33.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LogRatio:
    """Objective: half the variance of the log weights under q."""

    def __call__(self, log_w: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Value to be minimized and its derivatives (n,) with respect to log_w."""
        return half_variance(log_w, weights)


def half_variance(log_w: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """Half the variance of log weights, and its derivatives with respect to them.

    Parameters
    ----------
    log_w
        log p - log q (n,) at draws of q.
    weights
        Of the draws (n,), with sum one.

    Returns
    -------
    float, array
        In nats squared, and c (n,), which sums to zero.
    """
    centered = log_w - weights @ log_w
    coefficients = weights * centered
    return 0.5 * float(coefficients @ centered), coefficients
