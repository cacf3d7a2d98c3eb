"""Factor models and counts by hand: Bishop (1999), Variational principal components; Ghahramani, Beal (2000), Variational
inference for Bayesian mixtures of factor analysers; Cemgil (2009), Bayesian inference for nonnegative matrix factorisation.
"""

import numpy as np
from scipy.special import betaln, digamma, gammaln, logsumexp
from tests.conjugacy.hand_parts import (
    Data,
    State,
    block,
    gamma,
    h_block,
    h_dirichlet,
    h_gamma,
    h_normal,
    log_dirichlet,
    log_gamma,
    log_normal,
    log_simplex,
    mean,
    mean_log,
    normal,
    second,
    softmax,
    squares,
)

# -- principal components (one precision) and factor analysis (one a column): h, alpha, m, W, tau ------------------------


def bpca_start(data: Data, rng: np.random.Generator) -> State:
    (N, D), K = data["x"].shape, data["K"]
    return {
        "alpha": gamma(np.ones(K), 1.0),
        "m": normal(data["x"].mean(0), 1.0),
        "W": {"mean": rng.standard_normal((D, K)), "cov": np.broadcast_to(np.eye(K), (D, K, K)).copy()},
        "tau": gamma(1.0, 1.0),
        "h": {"mean": np.zeros((N, K)), "cov": np.broadcast_to(np.eye(K), (N, K, K)).copy()},
    }


def factor_analysis_start(data: Data, rng: np.random.Generator) -> State:
    return {**bpca_start(data, rng), "tau": gamma(np.ones(data["x"].shape[1]), 1.0)}


def _factor_squares(h, W, m, x) -> np.ndarray:
    """E (x_nd - h_n' w_d - m_d)^2."""
    r = x - m["mean"]
    product = np.einsum("nij,dij->nd", second(h), second(W))
    return r**2 + m["var"] - 2 * r * (h["mean"] @ W["mean"].T) + product


def bpca_sweep(state: State, data: Data) -> State:
    x, m, W = data["x"], state["m"], state["W"]
    (N, D), K = x.shape, data["K"]
    tau = np.broadcast_to(mean(state["tau"]), D)
    h = block(
        np.broadcast_to(np.eye(K) + np.einsum("d,dij->ij", tau, second(W)), (N, K, K)),
        (tau * (x - m["mean"])) @ W["mean"],
    )
    alpha = gamma(1 + D / 2, 1 + squares(W).sum(0) / 2)
    precision = 0.01 + N * tau
    m = normal(tau * (x - h["mean"] @ W["mean"].T).sum(0) / precision, 1 / precision)
    gram = second(h).sum(0)
    W = block(np.diag(mean(alpha)) + tau[:, None, None] * gram, tau[:, None] * ((x - m["mean"]).T @ h["mean"]))
    square = _factor_squares(h, W, m, x)
    if np.ndim(state["tau"]["rate"]):
        q_tau = gamma(1 + N / 2, 1 + square.sum(0) / 2)
    else:
        q_tau = gamma(1 + N * D / 2, 1 + square.sum() / 2)
    return {"alpha": alpha, "m": m, "W": W, "tau": q_tau, "h": h}


def bpca_elbo(state: State, data: Data) -> float:
    alpha, m, W, tau, h = (state[site] for site in ("alpha", "m", "W", "tau", "h"))
    return (
        log_gamma(alpha, 1.0, 1.0)
        + log_normal(second(m), 0.01, np.log(0.01))
        + log_normal(squares(W), mean(alpha), mean_log(alpha))
        + log_gamma(tau, 1.0, 1.0)
        + log_normal(squares(h), 1.0, 0.0)
        + log_normal(_factor_squares(h, W, m, data["x"]), mean(tau), mean_log(tau))
        + h_gamma(alpha)
        + h_normal(m)
        + h_block(W)
        + h_gamma(tau)
        + h_block(h)
    )


# -- Poisson factorization: the allocation of y_ij to the K factors is renewed before each site -------------------------


def poisson_factorization_start(data: Data, rng: np.random.Generator) -> State:
    (N, D), K = data["y"].shape, data["K"]
    theta, beta = rng.gamma(2.0, 1.0, (N, K)), rng.gamma(2.0, 1.0, (D, K))
    return {"theta": gamma(2 * theta, 2.0), "beta": gamma(2 * beta, 2.0)}


def _allocation(theta, beta, y) -> np.ndarray:
    return y[:, :, None] * softmax(mean_log(theta)[:, None, :] + mean_log(beta))


def poisson_factorization_sweep(state: State, data: Data) -> State:
    y, beta = data["y"], state["beta"]
    theta = gamma(0.5 + _allocation(state["theta"], beta, y).sum(1), 1.0 + mean(beta).sum(0))
    beta = gamma(0.5 + _allocation(theta, beta, y).sum(0), 0.5 + mean(theta).sum(0))
    return {"theta": theta, "beta": beta}


def poisson_factorization_elbo(state: State, data: Data) -> float:
    """With the best allocation: E log p(y | theta, beta) >= y log sum_k exp E log(theta_k beta_k) - E rate - log y!."""
    theta, beta, y = state["theta"], state["beta"], data["y"]
    log_rate = logsumexp(mean_log(theta)[:, None, :] + mean_log(beta), axis=-1)
    return (
        np.sum(y * log_rate - mean(theta) @ mean(beta).T - gammaln(y + 1))
        + log_gamma(theta, 0.5, 1.0)
        + log_gamma(beta, 0.5, 0.5)
        + h_gamma(theta)
        + h_gamma(beta)
    )


# -- counts with closed posteriors --------------------------------------------------------------------------------------


def beta_bernoulli_start(data: Data, rng: np.random.Generator) -> State:
    return {"p": {"a": np.array(1.0), "b": np.array(1.0)}}


def beta_bernoulli_sweep(state: State, data: Data) -> State:
    y = data["y"]
    return {"p": {"a": 2.0 + y.sum(), "b": 3.0 + (1 - y).sum()}}


def beta_bernoulli_elbo(state: State, data: Data) -> float:
    y, a, b = data["y"], state["p"]["a"], state["p"]["b"]
    log_p, log_1p = digamma(a) - digamma(a + b), digamma(b) - digamma(a + b)
    expected = (y.sum() + 1) * log_p + ((1 - y).sum() + 2) * log_1p - betaln(2.0, 3.0)
    return expected + betaln(a, b) - (a - 1) * log_p - (b - 1) * log_1p


def gamma_poisson_start(data: Data, rng: np.random.Generator) -> State:
    return {"beta": gamma(2.0, 1.0), "lam": gamma(1 + rng.gamma(2.0, 1.0, data["groups"]), 1.0)}


def gamma_poisson_sweep(state: State, data: Data) -> State:
    y, g, G = data["y"], data["g"], data["groups"]
    beta = gamma(2.0 + 3.0 * G, 1.0 + mean(state["lam"]).sum())
    return {"beta": beta, "lam": gamma(3.0 + np.bincount(g, y, G), mean(beta) + np.bincount(g, minlength=G))}


def gamma_poisson_elbo(state: State, data: Data) -> float:
    y, g, beta, lam = data["y"], data["g"], state["beta"], state["lam"]
    return (
        log_gamma(beta, 2.0, 1.0)
        + log_gamma(lam, 3.0, mean(beta), mean_log(beta))
        + np.sum(y * mean_log(lam)[g] - mean(lam)[g] - gammaln(y + 1))
        + h_gamma(beta)
        + h_gamma(lam)
    )


def _coefficients(counts: np.ndarray) -> float:
    return np.sum(gammaln(counts.sum(-1) + 1)) - np.sum(gammaln(counts + 1))


def dirichlet_multinomial_start(data: Data, rng: np.random.Generator) -> State:
    return {"theta": {"concentration": np.ones(data["counts"].shape)}}


def dirichlet_multinomial_sweep(state: State, data: Data) -> State:
    return {"theta": {"concentration": 0.5 + data["counts"]}}


def dirichlet_multinomial_shared_start(data: Data, rng: np.random.Generator) -> State:
    return {"theta": {"concentration": np.ones(data["counts"].shape[1])}}


def dirichlet_multinomial_shared_sweep(state: State, data: Data) -> State:
    return {"theta": {"concentration": 0.5 + data["counts"].sum(0)}}


def dirichlet_multinomial_elbo(state: State, data: Data) -> float:
    """Of both: theta broadcasts over the rows."""
    theta, counts = state["theta"], data["counts"]
    likelihood = np.sum(counts * log_simplex(theta)) + _coefficients(counts)
    return likelihood + log_dirichlet(theta, 0.5) + h_dirichlet(theta)
