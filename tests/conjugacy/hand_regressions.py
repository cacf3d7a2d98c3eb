"""Regressions by hand: Bishop (2006), section 10.3; Albert, Chib (1993), Bayesian analysis of binary and polychotomous
response data; Tipping, Lawrence (2005), Variational inference for Student-t models.
"""

import numpy as np
from scipy.special import digamma, gammaln, log_ndtr
from tests.conjugacy.hand_parts import (
    LOG_2PI,
    Data,
    State,
    block,
    gamma,
    h_block,
    h_gamma,
    h_inverse_gamma,
    h_normal,
    log_gamma,
    log_normal,
    mean,
    mean_log,
    normal,
    second,
    squares,
)


def _coefficients(rng: np.random.Generator, D: int) -> dict[str, np.ndarray]:
    return {"mean": 0.1 * rng.standard_normal(D), "cov": np.eye(D)}


def _residual_squares(b, X, y) -> np.ndarray:
    """E (y_n - x_n' b)^2, one a row."""
    return (y - X @ b["mean"]) ** 2 + np.einsum("ni,ij,nj->n", X, b["cov"], X)


# -- automatic relevance determination: alpha, b, tau -------------------------------------------------------------------


def regression_start(data: Data, rng: np.random.Generator) -> State:
    D = data["X"].shape[1]
    return {"alpha": gamma(np.ones(D), 1.0), "b": _coefficients(rng, D), "tau": gamma(1.0, 1.0)}


def regression_sweep(state: State, data: Data) -> State:
    X, y = data["X"], data["y"]
    alpha = gamma(1.5, 1 + squares(state["b"]) / 2)
    tau = mean(state["tau"])
    b = block(np.diag(mean(alpha)) + tau * X.T @ X, tau * X.T @ y)
    return {"alpha": alpha, "b": b, "tau": gamma(1 + len(y) / 2, 1 + _residual_squares(b, X, y).sum() / 2)}


def regression_elbo(state: State, data: Data) -> float:
    alpha, b, tau = state["alpha"], state["b"], state["tau"]
    return (
        log_gamma(alpha, 1.0, 1.0)
        + log_normal(squares(b), mean(alpha), mean_log(alpha))
        + log_gamma(tau, 1.0, 1.0)
        + log_normal(_residual_squares(b, data["X"], data["y"]), mean(tau), mean_log(tau))
        + h_gamma(alpha)
        + h_block(b)
        + h_gamma(tau)
    )


# -- inverse Gamma variance: v, b with b ~ N(0, 25 I) -------------------------------------------------------------------


def inverse_gamma_start(data: Data, rng: np.random.Generator) -> State:
    return {"v": gamma(2.0, 1.0), "b": _coefficients(rng, data["X"].shape[1])}


def inverse_gamma_sweep(state: State, data: Data) -> State:
    X, y = data["X"], data["y"]
    v = gamma(2 + len(y) / 2, 1 + _residual_squares(state["b"], X, y).sum() / 2)
    return {"v": v, "b": block(np.eye(X.shape[1]) / 25 + mean(v) * X.T @ X, mean(v) * X.T @ y)}  # E 1/v = a / b


def inverse_gamma_elbo(state: State, data: Data) -> float:
    v, b = state["v"], state["b"]
    log_v = np.log(v["rate"]) - digamma(v["concentration"])
    return (
        2 * np.log(1.0) - gammaln(2.0) - 3 * log_v - mean(v)
        + log_normal(squares(b), 1 / 25, np.log(1 / 25))
        + log_normal(_residual_squares(b, data["X"], data["y"]), mean(v), -log_v)
        + h_inverse_gamma(v)
        + h_block(b)
    )  # fmt: skip


# -- Student-t noise as a Gamma scale mixture: u, b, tau ----------------------------------------------------------------


def student_mixture_start(data: Data, rng: np.random.Generator) -> State:
    N, D = data["X"].shape
    return {"b": _coefficients(rng, D), "tau": gamma(1.0, 1.0), "u": gamma(np.full(N, 2.0), 2.0)}


def student_mixture_sweep(state: State, data: Data) -> State:
    X, y, tau = data["X"], data["y"], mean(state["tau"])
    u = gamma(2.5, 2 + tau * _residual_squares(state["b"], X, y) / 2)
    weighted = X * mean(u)[:, None]
    b = block(np.eye(X.shape[1]) / 25 + tau * weighted.T @ X, tau * weighted.T @ y)
    return {"b": b, "tau": gamma(1 + len(y) / 2, 1 + (mean(u) * _residual_squares(b, X, y)).sum() / 2), "u": u}


def student_mixture_elbo(state: State, data: Data) -> float:
    b, tau, u = state["b"], state["tau"], state["u"]
    square = _residual_squares(b, data["X"], data["y"])
    return (
        log_normal(squares(b), 1 / 25, np.log(1 / 25))
        + log_gamma(tau, 1.0, 1.0)
        + log_gamma(u, 2.0, 2.0)
        + log_normal(square, mean(tau) * mean(u), mean_log(tau) + mean_log(u))
        + h_block(b)
        + h_gamma(tau)
        + h_gamma(u)
    )


# -- probit: w, b with b ~ N(0, 4 I); q(w) is always the best one for q(b) and is not kept -------------------------------


def probit_start(data: Data, rng: np.random.Generator) -> State:
    return {"b": _coefficients(rng, data["X"].shape[1])}


def probit_sweep(state: State, data: Data) -> State:
    X, sign = data["X"], 2 * data["y"] - 1
    center = X @ state["b"]["mean"]
    ratio = np.exp(-0.5 * center**2 - 0.5 * LOG_2PI - log_ndtr(sign * center))
    return {"b": block(np.eye(X.shape[1]) / 4 + X.T @ X, X.T @ (center + sign * ratio))}


def probit_elbo(state: State, data: Data) -> float:
    """E log p(w | b) + H(w) at the best q(w) = N(x'm, 1) cut to the sign of y: log Phi(+-x'm) - x'Cx/2."""
    X, b = data["X"], state["b"]
    rows = log_ndtr((2 * data["y"] - 1) * (X @ b["mean"])) - 0.5 * np.einsum("ni,ij,nj->n", X, b["cov"], X)
    return rows.sum() + log_normal(squares(b), 1 / 4, np.log(1 / 4)) + h_block(b)


# -- two levels: mu, tau_a, b, a, tau -----------------------------------------------------------------------------------


def multilevel_start(data: Data, rng: np.random.Generator) -> State:
    G = data["groups"]
    return {
        "mu": normal(np.array(0.0), 1.0),
        "tau_a": gamma(1.0, 1.0),
        "b": _coefficients(rng, data["X"].shape[1]),
        "a": normal(0.1 * rng.standard_normal(G), 1.0),
        "tau": gamma(1.0, 1.0),
    }


def _group_square(mu, a) -> np.ndarray:
    return (a["mean"] - mu["mean"]) ** 2 + a["var"] + mu["var"]


def _multilevel_squares(a, b, data: Data) -> np.ndarray:
    return _residual_squares(b, data["X"], data["y"] - a["mean"][data["g"]]) + a["var"][data["g"]]


def multilevel_sweep(state: State, data: Data) -> State:
    X, y, g, G = data["X"], data["y"], data["g"], data["groups"]
    a, tau, tau_a = state["a"], mean(state["tau"]), mean(state["tau_a"])
    precision = 0.01 + G * tau_a
    mu = normal(tau_a * a["mean"].sum() / precision, 1 / precision)
    q_tau_a = gamma(1 + G / 2, 1 + _group_square(mu, a).sum() / 2)
    tau_a = mean(q_tau_a)
    b = block(0.01 * np.eye(X.shape[1]) + tau * X.T @ X, tau * X.T @ (y - a["mean"][g]))
    precision = tau_a + tau * np.bincount(g, minlength=G)
    residual = np.bincount(g, y - X @ b["mean"], minlength=G)
    a = normal((tau_a * mu["mean"] + tau * residual) / precision, 1 / precision)
    q_tau = gamma(1 + len(y) / 2, 1 + _multilevel_squares(a, b, data).sum() / 2)
    return {"mu": mu, "tau_a": q_tau_a, "b": b, "a": a, "tau": q_tau}


def multilevel_elbo(state: State, data: Data) -> float:
    mu, tau_a, b, a, tau = (state[site] for site in ("mu", "tau_a", "b", "a", "tau"))
    return (
        log_normal(second(mu), 0.01, np.log(0.01))
        + log_gamma(tau_a, 1.0, 1.0)
        + log_normal(squares(b), 0.01, np.log(0.01))
        + log_normal(_group_square(mu, a), mean(tau_a), mean_log(tau_a))
        + log_gamma(tau, 1.0, 1.0)
        + log_normal(_multilevel_squares(a, b, data), mean(tau), mean_log(tau))
        + h_normal(mu)
        + h_gamma(tau_a)
        + h_block(b)
        + h_normal(a)
        + h_gamma(tau)
    )


# -- varying slopes: mu, tau_b, b, tau ----------------------------------------------------------------------------------


def varying_slopes_start(data: Data, rng: np.random.Generator) -> State:
    G, D = data["groups"], data["X"].shape[1]
    return {
        "mu": normal(np.zeros(D), 1.0),
        "tau_b": gamma(np.ones(D), 1.0),
        "b": {"mean": 0.1 * rng.standard_normal((G, D)), "cov": np.broadcast_to(np.eye(D), (G, D, D)).copy()},
        "tau": gamma(1.0, 1.0),
    }


def _slope_squares(b, data: Data) -> np.ndarray:
    X, g = data["X"], data["g"]
    return (data["y"] - (X * b["mean"][g]).sum(-1)) ** 2 + np.einsum("ni,nij,nj->n", X, b["cov"][g], X)


def varying_slopes_sweep(state: State, data: Data) -> State:
    X, y, g, (G, D) = data["X"], data["y"], data["g"], state["b"]["mean"].shape
    b, tau, tau_b = state["b"], mean(state["tau"]), mean(state["tau_b"])
    precision = 0.01 + G * tau_b
    mu = normal(tau_b * b["mean"].sum(0) / precision, 1 / precision)
    q_tau_b = gamma(1 + G / 2, 1 + (squares(b) - 2 * b["mean"] * mu["mean"] + second(mu)).sum(0) / 2)
    gram, cross = np.zeros((G, D, D)), np.zeros((G, D))
    np.add.at(gram, g, X[:, :, None] * X[:, None, :])
    np.add.at(cross, g, X * y[:, None])
    b = block(np.diag(mean(q_tau_b)) + tau * gram, mean(q_tau_b) * mu["mean"] + tau * cross)
    return {"mu": mu, "tau_b": q_tau_b, "b": b, "tau": gamma(1 + len(y) / 2, 1 + _slope_squares(b, data).sum() / 2)}


def varying_slopes_elbo(state: State, data: Data) -> float:
    mu, tau_b, b, tau = (state[site] for site in ("mu", "tau_b", "b", "tau"))
    deviation = squares(b) - 2 * b["mean"] * mu["mean"] + second(mu)
    return (
        log_normal(second(mu), 0.01, np.log(0.01))
        + log_gamma(tau_b, 1.0, 1.0)
        + log_normal(deviation, mean(tau_b), mean_log(tau_b))
        + log_gamma(tau, 1.0, 1.0)
        + log_normal(_slope_squares(b, data), mean(tau), mean_log(tau))
        + h_normal(mu)
        + h_gamma(tau_b)
        + h_block(b)
        + h_gamma(tau)
    )
