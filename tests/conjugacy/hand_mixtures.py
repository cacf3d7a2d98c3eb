"""Mixtures and topics by hand: Bishop (2006), Pattern Recognition and Machine Learning, section 10.2; Blei, Kucukelbir,
McAuliffe (2017), Variational inference: a review for statisticians; Blei, Ng, Jordan (2003), Latent Dirichlet allocation.

Every sweep updates z first, then the other sites in the order of the model.
"""

import numpy as np
from scipy.special import multigammaln
from tests.conjugacy.hand_parts import (
    LOG_2PI,
    Data,
    State,
    block,
    gamma,
    h_block,
    h_categorical,
    h_dirichlet,
    h_gamma,
    h_normal,
    h_wishart,
    log_det,
    log_dirichlet,
    log_gamma,
    log_normal,
    log_simplex,
    mean,
    mean_log,
    normal,
    second,
    softmax,
)


def _rows(state: State, probs: np.ndarray, logits: np.ndarray) -> float:
    """E log p(x, z | rest) + H(z)."""
    return np.sum(probs * logits) + h_categorical(state["z"])


# -- unit variances, equal weights: the prior of mu is N(0, 25) ---------------------------------------------------------


def ugmm_start(data: Data, rng: np.random.Generator) -> State:
    x, K = data["x"], data["K"]
    return {
        "mu": normal(rng.choice(x, K, replace=False), 1.0),
        "z": {"probs": np.full((len(x), K), 1 / K)},
    }


def _ugmm_logits(state: State, data: Data) -> np.ndarray:
    mu = state["mu"]
    return -np.log(data["K"]) - 0.5 * (LOG_2PI + (data["x"][:, None] - mu["mean"]) ** 2 + mu["var"])


def ugmm_sweep(state: State, data: Data) -> State:
    probs = softmax(_ugmm_logits(state, data))
    precision = 1 / 25 + probs.sum(0)
    return {"mu": normal(probs.T @ data["x"] / precision, 1 / precision), "z": {"probs": probs}}


def ugmm_elbo(state: State, data: Data) -> float:
    prior = log_normal(second(state["mu"]), 1 / 25, np.log(1 / 25))
    return prior + _rows(state, state["z"]["probs"], _ugmm_logits(state, data)) + h_normal(state["mu"])


# -- Dirichlet weights, Normal means, Gamma precisions; (K,) or (K, D) --------------------------------------------------


def gmm_start(data: Data, rng: np.random.Generator) -> State:
    x, K = data["x"], data["K"]
    picked = x[rng.choice(len(x), K, replace=False)]
    return {
        "pi": {"concentration": np.full(K, len(x) / K)},
        "mu": normal(picked, 1.0),
        "tau": gamma(np.full(picked.shape, 2.0), 2.0),
        "z": {"probs": np.full((len(x), K), 1 / K)},
    }


def _gmm_logits(state: State, data: Data) -> np.ndarray:
    x, mu, tau = data["x"], state["mu"], state["tau"]
    x = x[:, None] if x.ndim == 1 else x[:, None, :]
    each = 0.5 * (mean_log(tau) - LOG_2PI - mean(tau) * ((x - mu["mean"]) ** 2 + mu["var"]))
    return log_simplex(state["pi"]) + (each if data["x"].ndim == 1 else each.sum(-1))


def gmm_sweep(state: State, data: Data) -> State:
    x, tau = data["x"], mean(state["tau"])
    probs = softmax(_gmm_logits(state, data))
    counts = probs.sum(0) if x.ndim == 1 else probs.sum(0)[:, None]
    sums = probs.T @ x
    precision = 0.01 + tau * counts
    mu = normal(tau * sums / precision, 1 / precision)
    square = probs.T @ x**2 - 2 * mu["mean"] * sums + counts * second(mu)
    return {
        "pi": {"concentration": 1 + probs.sum(0)},
        "mu": mu,
        "tau": gamma(2 + counts / 2, 1 + square / 2),
        "z": {"probs": probs},
    }


def gmm_elbo(state: State, data: Data) -> float:
    return (
        log_dirichlet(state["pi"], 1.0)
        + log_normal(second(state["mu"]), 0.01, np.log(0.01))
        + log_gamma(state["tau"], 2.0, 1.0)
        + _rows(state, state["z"]["probs"], _gmm_logits(state, data))
        + h_dirichlet(state["pi"])
        + h_normal(state["mu"])
        + h_gamma(state["tau"])
    )


# -- full covariances: mu ~ N(0, 100 I), L ~ Wishart(D + 2, rate 2 I), pi ~ Dirichlet(2) --------------------------------


def gmm_full_start(data: Data, rng: np.random.Generator) -> State:
    x, K = data["x"], data["K"]
    N, D = x.shape
    eye = np.broadcast_to(np.eye(D), (K, D, D)).copy()
    return {
        "pi": {"concentration": np.full(K, N / K)},
        "mu": {"mean": x[rng.choice(N, K, replace=False)], "cov": eye},
        "L": {"df": np.full(K, D + 2.0), "rate": (D + 2.0) * eye},
        "z": {"probs": np.full((N, K), 1 / K)},
    }


def _mean_matrix(q) -> np.ndarray:
    return q["df"][:, None, None] * np.linalg.inv(q["rate"])


def _gmm_full_logits(state: State, data: Data) -> np.ndarray:
    mu, L = state["mu"], _mean_matrix(state["L"])
    r = data["x"][:, None] - mu["mean"]
    square = np.einsum("nki,kij,nkj->nk", r, L, r) + np.einsum("kij,kji->k", L, mu["cov"])
    return log_simplex(state["pi"]) + 0.5 * (log_det(state["L"]) - r.shape[-1] * LOG_2PI - square)


def gmm_full_sweep(state: State, data: Data) -> State:
    x, L = data["x"], _mean_matrix(state["L"])
    D = x.shape[1]
    probs = softmax(_gmm_full_logits(state, data))
    counts, sums = probs.sum(0), probs.T @ x
    mu = block(0.01 * np.eye(D) + counts[:, None, None] * L, np.einsum("kij,kj->ki", L, sums))
    r = x[:, None] - mu["mean"]
    scatter = np.einsum("nk,nki,nkj->kij", probs, r, r) + counts[:, None, None] * mu["cov"]
    return {
        "pi": {"concentration": 2 + counts},
        "mu": mu,
        "L": {"df": D + 2 + counts, "rate": 2 * np.eye(D) + scatter},
        "z": {"probs": probs},
    }


def gmm_full_elbo(state: State, data: Data) -> float:
    K, D = state["mu"]["mean"].shape
    L = state["L"]
    wishart = (
        0.5 * log_det(L).sum()
        - 0.5 * np.trace(2 * _mean_matrix(L), axis1=-2, axis2=-1).sum()
        - K * multigammaln(0.5 * (D + 2), D)
    )  # (df/2) log|rate| - (df D/2) log 2 is zero at rate = 2 I
    return (
        log_dirichlet(state["pi"], 2.0)
        + log_normal(np.trace(second(state["mu"]), axis1=-2, axis2=-1) / D, 0.01, np.log(0.01)) * D
        + wishart
        + _rows(state, state["z"]["probs"], _gmm_full_logits(state, data))
        + h_dirichlet(state["pi"])
        + h_block(state["mu"])
        + h_wishart(L)
    )


# -- mixture of regressions: b_k ~ N(0, 25 I), tau_k ~ Gamma(2, 1) ------------------------------------------------------


def mixture_of_regressions_start(data: Data, rng: np.random.Generator) -> State:
    N, D, K = *data["X"].shape, data["K"]
    return {
        "pi": {"concentration": np.full(K, N / K)},
        "b": {"mean": 3 * rng.standard_normal((K, D)), "cov": np.broadcast_to(np.eye(D), (K, D, D)).copy()},
        "tau": gamma(np.full(K, 2.0), 2.0),
        "z": {"probs": np.full((N, K), 1 / K)},
    }


def _line_squares(state: State, data: Data) -> np.ndarray:
    X, b = data["X"], state["b"]
    return (data["y"][:, None] - X @ b["mean"].T) ** 2 + np.einsum("ni,kij,nj->nk", X, b["cov"], X)


def _line_logits(state: State, data: Data) -> np.ndarray:
    tau = state["tau"]
    return log_simplex(state["pi"]) + 0.5 * (mean_log(tau) - LOG_2PI - mean(tau) * _line_squares(state, data))


def mixture_of_regressions_sweep(state: State, data: Data) -> State:
    X, y, tau = data["X"], data["y"], mean(state["tau"])
    probs = softmax(_line_logits(state, data))
    gram = np.einsum("nk,ni,nj->kij", probs, X, X)
    b = block(np.eye(X.shape[1]) / 25 + tau[:, None, None] * gram, tau[:, None] * (probs.T @ (X * y[:, None])))
    square = (probs * _line_squares({**state, "b": b}, data)).sum(0)
    return {
        "pi": {"concentration": 1 + probs.sum(0)},
        "b": b,
        "tau": gamma(2 + probs.sum(0) / 2, 1 + square / 2),
        "z": {"probs": probs},
    }


def mixture_of_regressions_elbo(state: State, data: Data) -> float:
    b = state["b"]
    return (
        log_dirichlet(state["pi"], 1.0)
        + log_normal(np.diagonal(second(b), axis1=-2, axis2=-1), 1 / 25, np.log(1 / 25))
        + log_gamma(state["tau"], 2.0, 1.0)
        + _rows(state, state["z"]["probs"], _line_logits(state, data))
        + h_dirichlet(state["pi"])
        + h_block(b)
        + h_gamma(state["tau"])
    )


# -- topics: phi_k ~ Dirichlet(0.1), theta_d ~ Dirichlet(0.5) -----------------------------------------------------------


def lda_start(data: Data, rng: np.random.Generator) -> State:
    K, V, documents = data["K"], data["V"], data["documents"]
    return {
        "phi": {"concentration": 0.1 + rng.gamma(1.0, 1.0, (K, V))},
        "theta": {"concentration": 0.5 + rng.gamma(1.0, 1.0, (documents, K))},
        "z": {"probs": np.full((len(data["word"]), K), 1 / K)},
    }


def _lda_logits(state: State, data: Data) -> np.ndarray:
    return log_simplex(state["theta"])[data["doc"]] + log_simplex(state["phi"])[:, data["word"]].T


def lda_sweep(state: State, data: Data) -> State:
    probs = softmax(_lda_logits(state, data))
    phi, theta = np.full_like(state["phi"]["concentration"].T, 0.1), np.full_like(state["theta"]["concentration"], 0.5)
    np.add.at(phi, data["word"], probs)
    np.add.at(theta, data["doc"], probs)
    return {"phi": {"concentration": phi.T}, "theta": {"concentration": theta}, "z": {"probs": probs}}


def lda_elbo(state: State, data: Data) -> float:
    return (
        log_dirichlet(state["phi"], 0.1)
        + log_dirichlet(state["theta"], 0.5)
        + _rows(state, state["z"]["probs"], _lda_logits(state, data))
        + h_dirichlet(state["phi"])
        + h_dirichlet(state["theta"])
    )
