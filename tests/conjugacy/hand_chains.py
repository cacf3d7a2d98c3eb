"""Chains by hand: Beal (2003), Variational algorithms for approximate Bayesian inference, chapters 3 and 5; Ghahramani, Jordan
(1997), Factorial hidden Markov models; Rauch, Tung, Striebel (1965), Maximum likelihood estimates of linear dynamic systems.

Every sweep updates the chain first, then the other sites in the order of the model.
"""

import numpy as np
from tests.conjugacy.hand_parts import (
    LOG_2PI,
    Data,
    State,
    gamma,
    h_categorical,
    h_chain,
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
)


def forward_backward(unary: np.ndarray, pairwise: np.ndarray) -> dict[str, np.ndarray]:
    """Marginals of q(z) ~ exp(sum_t unary[t, z_t] + sum_t pairwise[z_t, z_t+1]); messages scaled to sum to one."""
    local, move = np.exp(unary - unary.max(-1, keepdims=True)), np.exp(pairwise)
    alpha, beta = local / local.sum(-1, keepdims=True), np.ones_like(local)
    for t in range(1, len(local)):
        alpha[t] = local[t] * (alpha[t - 1] @ move)
        alpha[t] /= alpha[t].sum()
    for t in range(len(local) - 2, -1, -1):
        beta[t] = move @ (local[t + 1] * beta[t + 1])
        beta[t] /= beta[t].sum()
    pairs = alpha[:-1, :, None] * move * (local * beta)[1:, None, :]
    pairs /= pairs.sum((1, 2), keepdims=True)
    return {"probs": np.vstack([pairs[0].sum(1), pairs.sum(1)]), "pairs": pairs}


# -- Gaussian emissions; mu ~ N(0, 100), tau ~ Gamma(2, 1), all Dirichlets uniform -------------------------------------


def hmm_start(data: Data, rng: np.random.Generator) -> State:
    y, K = data["y"], data["K"]
    return {
        "pi": {"concentration": np.ones(K)},
        "A": {"concentration": 1 + 5 * np.eye(K)},
        "mu": normal(np.quantile(y, (np.arange(K) + 0.5) / K) + 0.1 * rng.standard_normal(K), 0.1),
        "tau": gamma(np.full(K, 2.0), 2.0),
        "z": {"probs": np.full((len(y), K), 1 / K), "pairs": np.full((len(y) - 1, K, K), K**-2.0)},
    }


def hmm_split_start(data: Data, rng: np.random.Generator) -> State:
    state, K = hmm_start(data, rng), data["K"]
    z = {"probs": state["z"]["probs"][1:], "pairs": state["z"]["pairs"][1:]}
    return {**state, "z_0": {"probs": np.full(K, 1 / K)}, "z": z}


def _emission_logits(state: State, data: Data) -> np.ndarray:
    mu, tau = state["mu"], state["tau"]
    square = (data["y"][:, None] - mu["mean"]) ** 2 + mu["var"]
    return 0.5 * (mean_log(tau) - LOG_2PI - mean(tau) * square)


def _emission_sites(state: State, data: Data, probs: np.ndarray) -> State:
    """Updates of mu and tau, as in a mixture."""
    y, counts, tau = data["y"], probs.sum(0), mean(state["tau"])
    precision = 0.01 + tau * counts
    mu = normal(tau * (probs.T @ y) / precision, 1 / precision)
    square = (probs * ((y[:, None] - mu["mean"]) ** 2 + mu["var"])).sum(0)
    return {"mu": mu, "tau": gamma(2 + counts / 2, 1 + square / 2)}


def hmm_sweep(state: State, data: Data) -> State:
    unary = _emission_logits(state, data)
    unary[0] += log_simplex(state["pi"])
    z = forward_backward(unary, log_simplex(state["A"]))
    return {
        "pi": {"concentration": 1 + z["probs"][0]},
        "A": {"concentration": 1 + z["pairs"].sum(0)},
        **_emission_sites(state, data, z["probs"]),
        "z": z,
    }


def _hmm_priors(state: State) -> float:
    pi, A, mu, tau = (state[site] for site in ("pi", "A", "mu", "tau"))
    return (
        log_dirichlet(pi, 1.0)
        + log_dirichlet(A, 1.0)
        + log_normal(second(mu), 0.01, np.log(0.01))
        + log_gamma(tau, 2.0, 1.0)
        + h_dirichlet(pi)
        + h_dirichlet(A)
        + h_normal(mu)
        + h_gamma(tau)
    )


def hmm_elbo(state: State, data: Data) -> float:
    z = state["z"]
    return (
        _hmm_priors(state)
        + z["probs"][0] @ log_simplex(state["pi"])
        + np.sum(z["pairs"] * log_simplex(state["A"]))
        + np.sum(z["probs"] * _emission_logits(state, data))
        + h_chain(z)
    )


def hmm_split_sweep(state: State, data: Data) -> State:
    """z_0 and z_1.. are independent under q: each sees the other through its marginal."""
    logits, log_A = _emission_logits(state, data), log_simplex(state["A"])
    z_0 = softmax(log_simplex(state["pi"]) + logits[0] + log_A @ state["z"]["probs"][0])
    logits[1] += z_0 @ log_A
    z = forward_backward(logits[1:], log_A)
    return {
        "pi": {"concentration": 1 + z_0},
        "A": {"concentration": 1 + np.outer(z_0, z["probs"][0]) + z["pairs"].sum(0)},
        **_emission_sites(state, data, np.vstack([z_0, z["probs"]])),
        "z_0": {"probs": z_0},
        "z": z,
    }


def hmm_split_elbo(state: State, data: Data) -> float:
    z_0, z, log_A = state["z_0"], state["z"], log_simplex(state["A"])
    return (
        _hmm_priors(state)
        + z_0["probs"] @ (log_simplex(state["pi"]) + log_A @ z["probs"][0])
        + np.sum(z["pairs"] * log_A)
        + np.sum(np.vstack([z_0["probs"], z["probs"]]) * _emission_logits(state, data))
        + h_categorical(z_0)
        + h_chain(z)
    )


# -- two chains, y ~ N(m1[z1] + m2[z2], tau), both start from state 0 ---------------------------------------------------


def factorial_hmm_start(data: Data, rng: np.random.Generator) -> State:
    y, T = data["y"], len(data["y"])
    return {
        "A1": {"concentration": 1 + 5 * np.eye(2)},
        "m1": normal(np.quantile(y, [0.25, 0.75]) + 0.1 * rng.standard_normal(2), 0.1),
        "A2": {"concentration": 1 + 5 * np.eye(3)},
        "m2": normal(np.array([-1.0, 0.0, 1.0]), 0.1),
        "tau": gamma(2.0, 2.0),
        "z1": {"probs": np.full((T, 2), 1 / 2), "pairs": np.full((T - 1, 2, 2), 1 / 4)},
        "z2": {"probs": np.full((T, 3), 1 / 3), "pairs": np.full((T - 1, 3, 3), 1 / 9)},
    }


def _side(z, m) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of m[z_t] under q."""
    center = z["probs"] @ m["mean"]
    return center, z["probs"] @ second(m) - center**2


def _walk_chain(y, other: np.ndarray, m, A, tau: float) -> dict[str, np.ndarray]:
    log_A = log_simplex(A)
    unary = -0.5 * tau * ((y - other)[:, None] ** 2 - 2 * (y - other)[:, None] * m["mean"] + second(m))
    unary[0] += log_A[0]
    return forward_backward(unary, log_A)


def _walk_means(y, other: np.ndarray, z, tau: float) -> dict[str, np.ndarray]:
    precision = 1 / 25 + tau * z["probs"].sum(0)
    return normal(tau * (z["probs"].T @ (y - other)) / precision, 1 / precision)


def _transitions(z) -> dict[str, np.ndarray]:
    counts = 1 + z["pairs"].sum(0)
    counts[0] += z["probs"][0]
    return {"concentration": counts}


def _two_squares(z1, m1, z2, m2, y) -> np.ndarray:
    (c1, v1), (c2, v2) = _side(z1, m1), _side(z2, m2)
    return (y - c1 - c2) ** 2 + v1 + v2


def factorial_hmm_sweep(state: State, data: Data) -> State:
    y, tau, m1, m2 = data["y"], mean(state["tau"]), state["m1"], state["m2"]
    z1 = _walk_chain(y, _side(state["z2"], m2)[0], m1, state["A1"], tau)
    z2 = _walk_chain(y, _side(z1, m1)[0], m2, state["A2"], tau)
    m1 = _walk_means(y, _side(z2, m2)[0], z1, tau)
    m2 = _walk_means(y, _side(z1, m1)[0], z2, tau)
    return {
        "A1": _transitions(z1),
        "m1": m1,
        "A2": _transitions(z2),
        "m2": m2,
        "tau": gamma(2 + len(y) / 2, 1 + _two_squares(z1, m1, z2, m2, y).sum() / 2),
        "z1": z1,
        "z2": z2,
    }


def factorial_hmm_elbo(state: State, data: Data) -> float:
    total = log_gamma(state["tau"], 2.0, 1.0) + h_gamma(state["tau"])
    for A, m, z in (("A1", "m1", "z1"), ("A2", "m2", "z2")):
        q_A, q_m, q_z = state[A], state[m], state[z]
        log_A = log_simplex(q_A)
        total += log_dirichlet(q_A, 1.0) + h_dirichlet(q_A)
        total += log_normal(second(q_m), 1 / 25, np.log(1 / 25)) + h_normal(q_m)
        total += q_z["probs"][0] @ log_A[0] + np.sum(q_z["pairs"] * log_A) + h_chain(q_z)
    square = _two_squares(state["z1"], state["m1"], state["z2"], state["m2"], data["y"])
    return total + log_normal(square, mean(state["tau"]), mean_log(state["tau"]))


# -- Gaussian random walk: x_0 = 0, q ~ Gamma(2, 0.1), r ~ Gamma(2, 1) --------------------------------------------------


def smoother(y: np.ndarray, q: float, r: float) -> dict[str, np.ndarray]:
    """Means, variances and lag-one covariances of x_t ~ N(x_t-1, 1/q), y_t ~ N(x_t, 1/r), x_0 = 0; Kalman and RTS.

    ``log_likelihood`` is log p(y | q, r).
    """
    T = len(y)
    center, var = np.zeros(T), np.zeros(T)
    previous, spread, log_likelihood = 0.0, 0.0, 0.0
    for t in range(T):
        predicted = spread + 1 / q
        total = predicted + 1 / r
        log_likelihood += -0.5 * (LOG_2PI + np.log(total) + (y[t] - previous) ** 2 / total)
        gain = predicted / total
        center[t], var[t] = previous + gain * (y[t] - previous), (1 - gain) * predicted
        previous, spread = center[t], var[t]
    lag = np.zeros(T - 1)
    for t in range(T - 2, -1, -1):
        gain = var[t] / (var[t] + 1 / q)
        lag[t] = gain * var[t + 1]
        var[t] += gain**2 * (var[t + 1] - var[t] - 1 / q)
        center[t] += gain * (center[t + 1] - center[t])
    return {"mean": center, "var": var, "lag": lag, "log_likelihood": np.array(log_likelihood)}


def random_walk_start(data: Data, rng: np.random.Generator) -> State:
    T = len(data["y"])
    x = {"mean": np.zeros(T), "var": np.ones(T), "lag": np.zeros(T - 1)}
    return {"q": gamma(20.0, 1.0), "r": gamma(4.0, 1.0), "x": x}


def _steps(x) -> np.ndarray:
    """E (x_t - x_t-1)^2 from x_0 = 0."""
    inner = np.diff(x["mean"]) ** 2 + x["var"][1:] + x["var"][:-1] - 2 * x["lag"]
    return np.concatenate([second({"mean": x["mean"][:1], "var": x["var"][:1]}), inner])


def random_walk_sweep(state: State, data: Data) -> State:
    y = data["y"]
    x = smoother(y, mean(state["q"]), mean(state["r"]))
    del x["log_likelihood"]
    square = (y - x["mean"]) ** 2 + x["var"]
    q, r = gamma(2 + len(y) / 2, 0.1 + _steps(x).sum() / 2), gamma(2 + len(y) / 2, 1 + square.sum() / 2)
    return {"q": q, "r": r, "x": x}


def random_walk_elbo(state: State, data: Data) -> float:
    q, r, x = state["q"], state["r"], state["x"]
    determinants = x["var"][1:] - x["lag"] ** 2 / x["var"][:-1]  # of x_t given x_t-1
    entropy = 0.5 * np.sum(1 + LOG_2PI + np.log(np.concatenate([x["var"][:1], determinants])))
    return (
        log_gamma(q, 2.0, 0.1)
        + log_gamma(r, 2.0, 1.0)
        + log_normal(_steps(x), mean(q), mean_log(q))
        + log_normal((data["y"] - x["mean"]) ** 2 + x["var"], mean(r), mean_log(r))
        + h_gamma(q)
        + h_gamma(r)
        + entropy
    )
