"""Expectations and entropies that every hand derivation needs: NumPy and SciPy only, parameters as in textbooks.

A state is ``{site: {parameter: array}}``: Normal elements ``mean, var``; Gaussian blocks ``mean, cov``; Gamma and inverse
Gamma ``concentration, rate``; Beta ``a, b``; Dirichlet ``concentration``; Categorical ``probs``; Wishart ``df, rate``
(mean df rate^-1); discrete chains ``probs, pairs``; Gaussian chains ``mean, var, lag`` (lag[t] = Cov(x_t, x_t+1)).
"""

from typing import Any

import numpy as np
from scipy.special import digamma, gammaln, logsumexp, multigammaln, xlogy

State = dict[str, dict[str, np.ndarray]]
Data = dict[str, Any]

LOG_2PI = np.log(2 * np.pi)


def normal(mean, var) -> dict[str, np.ndarray]:
    return {"mean": mean, "var": np.broadcast_to(var, np.shape(mean)).copy()}


def block(precision, linear) -> dict[str, np.ndarray]:
    """Gaussian from its precision P and linear term h: cov P^-1, mean P^-1 h; batch axes in front."""
    cov = np.linalg.inv(precision)
    return {"mean": np.einsum("...ij,...j->...i", cov, linear), "cov": cov}


def gamma(concentration, rate) -> dict[str, np.ndarray]:
    shape = np.broadcast_shapes(np.shape(concentration), np.shape(rate))
    return {"concentration": np.broadcast_to(concentration, shape) * 1.0, "rate": np.broadcast_to(rate, shape) * 1.0}


def mean(q):
    """E s of a Gamma."""
    return q["concentration"] / q["rate"]


def mean_log(q):
    """E log s of a Gamma."""
    return digamma(q["concentration"]) - np.log(q["rate"])


def log_simplex(q):
    """E log theta of a Dirichlet."""
    return digamma(q["concentration"]) - digamma(q["concentration"].sum(-1, keepdims=True))


def second(q):
    """E x x' of Gaussian blocks, E x^2 of Normal elements."""
    if "cov" in q:
        return q["cov"] + q["mean"][..., :, None] * q["mean"][..., None, :]
    return q["var"] + q["mean"] ** 2


def squares(q):
    """E x_i^2 of Gaussian blocks."""
    return q["mean"] ** 2 + np.diagonal(q["cov"], axis1=-2, axis2=-1)


def softmax(logits):
    return np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))


# -- expected log densities, summed over all axes ----------------------------------------------------------------------


def log_normal(square, precision, log_precision) -> float:
    """E log N given E r^2, E of the precision and E of its logarithm, broadcast together."""
    return 0.5 * np.sum(log_precision - LOG_2PI - precision * square)


def log_gamma(q, a, b, log_b=None) -> float:
    """E log Gamma(s; a, b); b may be random too: then its mean, and the mean of its logarithm."""
    log_b = np.log(b) if log_b is None else log_b
    return np.sum(a * log_b - gammaln(a) + (a - 1) * mean_log(q) - b * mean(q))


def log_dirichlet(q, c: float) -> float:
    """E log Dirichlet(theta; c, ..., c)."""
    K = q["concentration"].shape[-1]
    rows = q["concentration"].size // K
    return rows * (gammaln(K * c) - K * gammaln(c)) + (c - 1) * log_simplex(q).sum()


# -- entropies, summed -------------------------------------------------------------------------------------------------


def h_normal(q) -> float:
    return 0.5 * np.sum(1 + LOG_2PI + np.log(q["var"]))


def h_block(q) -> float:
    return 0.5 * np.sum(q["cov"].shape[-1] * (1 + LOG_2PI) + np.linalg.slogdet(q["cov"])[1])


def h_gamma(q) -> float:
    a = q["concentration"]
    return np.sum(a - np.log(q["rate"]) + gammaln(a) + (1 - a) * digamma(a))


def h_inverse_gamma(q) -> float:
    a = q["concentration"]
    return np.sum(a + np.log(q["rate"]) + gammaln(a) - (1 + a) * digamma(a))


def h_dirichlet(q) -> float:
    c = q["concentration"]
    return np.sum(gammaln(c)) - np.sum(gammaln(c.sum(-1))) - np.sum((c - 1) * log_simplex(q))


def h_categorical(q) -> float:
    return -np.sum(xlogy(q["probs"], q["probs"]))


def h_chain(q) -> float:
    """Pairs count every inner state twice."""
    return -np.sum(xlogy(q["pairs"], q["pairs"])) + np.sum(xlogy(q["probs"][1:-1], q["probs"][1:-1]))


def h_wishart(q) -> float:
    df, D = q["df"], q["rate"].shape[-1]
    log_partition = 0.5 * df * (D * np.log(2) - np.linalg.slogdet(q["rate"])[1]) + np.array(
        [multigammaln(0.5 * value, D) for value in df]
    )
    return np.sum(log_partition - 0.5 * (df - D - 1) * log_det(q) + 0.5 * df * D)


def log_det(q):
    """E log|L| of a Wishart."""
    D = q["rate"].shape[-1]
    return digamma(0.5 * (q["df"][:, None] - np.arange(D))).sum(-1) + D * np.log(2) - np.linalg.slogdet(q["rate"])[1]
