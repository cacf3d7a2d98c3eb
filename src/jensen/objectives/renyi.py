"""Renyi's alpha bound: objectives that cover more of the posterior's mass than the ELBO does.

    L_alpha(q) = log E_q[(p / q)^(1 - alpha)] / (1 - alpha) = log p(data) - D_alpha(q || posterior)

D_alpha is Renyi's divergence. alpha -> 1 is the ELBO; below one the largest log weights count most, and q covers mass that the
ELBO leaves out (alpha = 1/2 is Hellinger's distance, symmetric in q and p). As alpha -> 0 the bound on N draws becomes the
importance-weighted one, log mean w; its expectation under ever more draws is log p(data) for every q, so that nothing is left
to be optimized, and fixed draws would be overfitted instead: alpha = 0 is refused. So is alpha > 1, for which the expectation
is infinite wherever q has heavier tails than p.

On draws z_n = m + L e_n that move with q, log w_n = log p(z_n) + log|det L| + |e_n|^2 / 2 + const, and with

    c_n = dL / d log w_n = v_n w_n^(1 - alpha) / sum_k v_k w_k^(1 - alpha)         (v the weights of the draws)

the gradient is sum c_n d log w_n: along the draws q's own score never appears, because log q(z_n) depends on the parameters
through log|det L| alone. The path derivative, which holds log q's parameters fixed, would need it, and is no gradient of a
function on fixed draws.

References: Li, Turner (2016), Renyi divergence variational inference, NeurIPS 29; Burda, Grosse, Salakhutdinov (2016),
Importance weighted autoencoders, ICLR.
"""

from dataclasses import dataclass

import numpy as np

from jensen.core.errors import OptionError


@dataclass(frozen=True)
class Renyi:
    """Objective: minus Renyi's alpha bound.

    Parameters
    ----------
    alpha
        Above 0, at most 1, which is the ELBO; 0.5 covers more of the posterior. Small ones need many draws: below 0.5 keep to
        a few dimensions.

    Raises
    ------
    OptionError
        When alpha is not within (0, 1].
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 0 < self.alpha <= 1:
            raise OptionError(
                f"alpha must be above 0 and at most 1; got {self.alpha!r}; 1 is the ELBO, 0.5 covers more of the posterior."
            )

    def __call__(self, log_w: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """Value to be minimized and its derivatives (n,) with respect to log_w."""
        value, coefficients = renyi_bound(log_w, weights, self.alpha)
        return -value, -coefficients


def renyi_bound(log_w: np.ndarray, weights: np.ndarray, alpha: float) -> tuple[float, np.ndarray]:
    """Renyi's bound and its derivatives with respect to the log weights.

    Parameters
    ----------
    log_w
        log p - log q (n,) at draws of q.
    weights
        Of the draws (n,), with sum one.
    alpha
        Above 0, at most 1, which is the ELBO.

    Returns
    -------
    float, array
        The bound, in nats, and c (n,), which sums to one.
    """
    if alpha == 1:
        return float(weights @ log_w), weights
    scaled = (1 - alpha) * log_w
    top = float(scaled.max())
    shares = weights * np.exp(scaled - top)
    total = float(shares.sum())
    return (top + np.log(total)) / (1 - alpha), shares / total
