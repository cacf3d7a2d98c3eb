"""Coordinate ascent as a careful person writes it in JAX for one model at a time: what automatic conjugacy is timed against.

    python -m benchmarks.conjugacy_hand            # milliseconds a sweep, one call at a time and inside of a loop

    with scope("float64"):
        state, sweep = make("gmm")
        state = sweep(state)

States are those of `tests.conjugacy.hand` without the sites of single rows, which are renewed first in every sweep (z; h of the
principal components stays, as its factors are what such a model is for). Sufficient statistics are computed once where they
exist, rows lie along the last axis, and data are arguments of the compiled program, not constants in it.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma, gammaln
from tests.conjugacy import zoo_data
from tests.conjugacy.hand import HAND

State = dict[str, dict[str, Any]]

SIZES: dict[str, Callable[[], dict[str, Any]]] = {
    "gmm": partial(zoo_data.mixture, N=3000, K=3),
    "gmm_diagonal": partial(zoo_data.mixture_rows, N=3000, K=5, D=2),
    "regression": partial(zoo_data.linear, N=5000, D=50),
    "multilevel": partial(zoo_data.grouped, N=10_000, groups=500),
    "lda": partial(zoo_data.tokens, N=20_000, K=8, V=1000, documents=200),
    "bpca": partial(zoo_data.factors, N=500, D=10, K=4),
    "hmm": partial(zoo_data.chain, T=1000),
    "beta_bernoulli": partial(zoo_data.coins, N=1000),
    "gamma_poisson": partial(zoo_data.grouped_counts, N=10_000, groups=100),
}


def _log_simplex(q):
    return digamma(q["concentration"]) - digamma(q["concentration"].sum(-1, keepdims=True))


def _mean_log(q):
    return digamma(q["concentration"]) - jnp.log(q["rate"])


def _mean(q):
    return q["concentration"] / q["rate"]


def _gamma(concentration, rate):
    return {"concentration": jnp.broadcast_to(concentration, jnp.shape(rate)), "rate": rate}


def _inverse(P):
    """Inverse of a positive definite matrix, or of a stack of them."""
    root = jnp.linalg.cholesky(P)
    half = jax.scipy.linalg.solve_triangular(root, jnp.broadcast_to(jnp.eye(P.shape[-1]), P.shape), lower=True)
    return jnp.swapaxes(half, -1, -2) @ half


# -- mixtures: log densities are (K, 2D + 1) times (2D + 1, N), and so are the moments back -----------------------------


def _gmm_statistics(data):
    x = data["x"].reshape(len(data["x"]), -1).T
    return {"rows": np.vstack([x**2, x, np.ones((1, x.shape[1]))])}


def _gmm(statistics, state: State) -> State:
    rows = statistics["rows"]
    shape = state["mu"]["mean"].shape
    K, D = shape[0], (rows.shape[0] - 1) // 2
    mu, var, tau, log_tau = (
        array.reshape(K, D)
        for array in (state["mu"]["mean"], state["mu"]["var"], _mean(state["tau"]), _mean_log(state["tau"]))
    )
    constant = _log_simplex(state["pi"]) + 0.5 * (log_tau - tau * (mu**2 + var)).sum(-1)
    logits = jnp.concatenate([-0.5 * tau, tau * mu, constant[:, None]], 1) @ rows
    odds = jnp.exp(logits - logits.max(0))
    moments = (odds / odds.sum(0)) @ rows.T
    square, total, counts = moments[:, :D], moments[:, D:-1], moments[:, -1:]
    precision = 0.01 + tau * counts
    mu, var = tau * total / precision, 1 / precision
    rate = 1 + 0.5 * (square - 2 * mu * total + counts * (mu**2 + var))
    return {
        "pi": {"concentration": 1 + counts[:, 0]},
        "mu": {"mean": mu.reshape(shape), "var": var.reshape(shape)},
        "tau": _gamma((2 + 0.5 * jnp.broadcast_to(counts, (K, D))).reshape(shape), rate.reshape(shape)),
    }


# -- regressions: independent of the number of rows ---------------------------------------------------------------------


def _regression_statistics(data):
    X, y = data["X"], data["y"]
    return {"gram": X.T @ X, "cross": X.T @ y, "square": y @ y, "N": np.array(len(y) * 1.0)}


def _regression(statistics, state: State) -> State:
    gram, cross, b, tau = statistics["gram"], statistics["cross"], state["b"], _mean(state["tau"])
    alpha = _gamma(1.5, 1 + 0.5 * (b["mean"] ** 2 + jnp.diagonal(b["cov"])))
    cov = _inverse(tau * gram + jnp.diag(_mean(alpha)))
    mean = tau * (cov @ cross)
    square = statistics["square"] - 2 * mean @ cross + mean @ gram @ mean + jnp.vdot(gram, cov)
    tau = _gamma(1 + 0.5 * statistics["N"], 1 + 0.5 * square)
    return {"alpha": alpha, "b": {"mean": mean, "cov": cov}, "tau": tau}


def _multilevel_statistics(data):
    X, y, g, G = data["X"], data["y"], data["g"], data["groups"]
    sums = np.zeros((G, X.shape[1]))
    np.add.at(sums, g, X)
    groups = {"n": np.bincount(g, minlength=G) * 1.0, "y": np.bincount(g, y, G), "X": sums}
    return {**_regression_statistics(data), "groups": groups}


def _multilevel(statistics, state: State) -> State:
    gram, cross, groups = statistics["gram"], statistics["cross"], statistics["groups"]
    a, tau, tau_a = state["a"], _mean(state["tau"]), _mean(state["tau_a"])
    G, D = groups["X"].shape
    var_mu = 1 / (0.01 + G * tau_a)
    mu = tau_a * a["mean"].sum() * var_mu
    q_tau_a = _gamma(1 + 0.5 * G, 1 + 0.5 * (((a["mean"] - mu) ** 2 + a["var"]).sum() + G * var_mu))
    tau_a = _mean(q_tau_a)
    cov = _inverse(tau * gram + 0.01 * jnp.eye(D))
    b = tau * (cov @ (cross - a["mean"] @ groups["X"]))
    var = 1 / (tau_a + tau * groups["n"])
    residual = groups["y"] - groups["X"] @ b
    center = (tau_a * mu + tau * residual) * var
    square = statistics["square"] - 2 * b @ cross + b @ gram @ b + jnp.vdot(gram, cov)
    square += (groups["n"] * (center**2 + var) - 2 * center * residual).sum()
    return {
        "mu": {"mean": mu, "var": var_mu},
        "tau_a": q_tau_a,
        "b": {"mean": b, "cov": cov},
        "a": {"mean": center, "var": var},
        "tau": _gamma(1 + 0.5 * statistics["N"], 1 + 0.5 * square),
    }


# -- topics: all tokens of one word in one document share their q(z), so three matrix products do it --------------------


def _lda_statistics(data):
    counts = np.zeros((data["documents"], data["V"]))
    np.add.at(counts, (data["doc"], data["word"]), 1.0)
    return {"counts": counts}


def _lda(statistics, state: State) -> State:
    theta, phi = jnp.exp(_log_simplex(state["theta"])), jnp.exp(_log_simplex(state["phi"]))
    ratio = statistics["counts"] / (theta @ phi)
    return {
        "phi": {"concentration": 0.1 + phi * (theta.T @ ratio)},
        "theta": {"concentration": 0.5 + theta * (ratio @ phi.T)},
    }


def _lda_bound(statistics, state: State) -> Any:
    """The ELBO with the tokens' topics at their best, which is what passes that store no topics know."""
    total = jnp.zeros(())
    for q, prior in ((state["theta"], 0.5), (state["phi"], 0.1)):
        concentration, log = q["concentration"], _log_simplex(q)
        rows, K = concentration.shape
        total += rows * (gammaln(K * prior) - K * gammaln(prior)) + ((prior - concentration) * log).sum()
        total += gammaln(concentration).sum() - gammaln(concentration.sum(-1)).sum()
    theta, phi = jnp.exp(_log_simplex(state["theta"])), jnp.exp(_log_simplex(state["phi"]))
    return total + (statistics["counts"] * jnp.log(theta @ phi)).sum()


BOUNDS = {"lda": _lda_bound}
"""Of models for which ours is timed with the ELBO: the same work."""


# -- principal components: one covariance for all h, one for all rows of W ----------------------------------------------


def _bpca_statistics(data):
    return {"x": data["x"], "sum": data["x"].sum(0), "square": (data["x"] ** 2).sum()}


def _bpca(statistics, state: State) -> State:
    x, m, W, tau = statistics["x"], state["m"]["mean"], state["W"], _mean(state["tau"])
    (N, D), K = x.shape, W["mean"].shape[1]
    cov_h = _inverse(jnp.eye(K) + tau * (W["mean"].T @ W["mean"] + W["cov"].sum(0)))
    h = (x - m) @ (tau * W["mean"] @ cov_h)
    alpha = _gamma(1 + 0.5 * D, 1 + 0.5 * (W["mean"] ** 2 + jnp.diagonal(W["cov"], axis1=1, axis2=2)).sum(0))
    gram, total, cross = h.T @ h + N * cov_h, h.sum(0), x.T @ h
    var_m = 1 / (0.01 + N * tau)
    m = tau * (statistics["sum"] - W["mean"] @ total) * var_m
    cross = cross - jnp.outer(m, total)
    cov_W = _inverse(jnp.diag(_mean(alpha)) + tau * gram)
    mean_W = tau * cross @ cov_W
    square = statistics["square"] - 2 * m @ statistics["sum"] + N * (m @ m + D * var_m)
    square += -2 * jnp.vdot(cross, mean_W) + jnp.vdot(gram, mean_W.T @ mean_W + D * cov_W)
    return {
        "alpha": alpha,
        "m": {"mean": m, "var": jnp.full(D, var_m)},
        "W": {"mean": mean_W, "cov": jnp.broadcast_to(cov_W, (D, K, K))},
        "tau": _gamma(1 + 0.5 * N * D, 1 + 0.5 * square),
        "h": {"mean": h, "cov": jnp.broadcast_to(cov_h, (N, K, K))},
    }


# -- hidden Markov model: both messages in one loop ---------------------------------------------------------------------


def _hmm_statistics(data):
    y = data["y"]
    return {"rows": np.vstack([y**2, y, np.ones_like(y)])}


def _messages(local, move):
    """Scaled forward and backward messages of all steps, each (T, K)."""

    def step(carry, now):
        alpha, beta = carry
        ahead, behind = now
        # Written out, because a product of such small matrices is a call of its own in every step: twice as slow.
        alpha, beta = ahead * (alpha[:, None] * move).sum(0), (move * (behind * beta)).sum(1)
        alpha, beta = alpha / alpha.sum(), beta / beta.sum()
        return (alpha, beta), (alpha, beta)

    first, last = local[0] / local[0].sum(), jnp.full(local.shape[1], 1.0)
    _, (alpha, beta) = jax.lax.scan(step, (first, last), (local[1:], local[:0:-1]))
    return jnp.concatenate([first[None], alpha]), jnp.concatenate([beta[::-1], last[None]])


def _hmm(statistics, state: State) -> State:
    rows, mu, tau = statistics["rows"], state["mu"], _mean(state["tau"])
    constant = 0.5 * (_mean_log(state["tau"]) - tau * (mu["mean"] ** 2 + mu["var"]))
    logits = (jnp.stack([-0.5 * tau, tau * mu["mean"], constant], 1) @ rows).T
    logits = logits.at[0].add(_log_simplex(state["pi"]))
    local, move = jnp.exp(logits - logits.max(1, keepdims=True)), jnp.exp(_log_simplex(state["A"]))
    alpha, beta = _messages(local, move)
    probs = alpha * beta
    probs = probs / probs.sum(1, keepdims=True)
    after = local[1:] * beta[1:]
    # Pairs are alpha_i A_ij after_j over their sum: only the sum over time is needed.
    norm = ((alpha[:-1] @ move) * after).sum(1, keepdims=True)
    pairs = move * (alpha[:-1].T @ (after / norm))
    square, total, counts = rows @ probs
    precision = 0.01 + tau * counts
    mean, var = tau * total / precision, 1 / precision
    rate = 1 + 0.5 * (square - 2 * mean * total + counts * (mean**2 + var))
    return {
        "pi": {"concentration": 1 + probs[0]},
        "A": {"concentration": 1 + pairs},
        "mu": {"mean": mean, "var": var},
        "tau": _gamma(2 + 0.5 * counts, rate),
    }


# -- counts -------------------------------------------------------------------------------------------------------------


def _beta_bernoulli_statistics(data):
    return {"ones": data["y"].sum() * 1.0, "zeros": (1 - data["y"]).sum() * 1.0}


def _beta_bernoulli(statistics, state: State) -> State:
    return {"p": {"a": 2 + statistics["ones"], "b": 3 + statistics["zeros"]}}


def _gamma_poisson_statistics(data):
    G = data["groups"]
    return {"y": np.bincount(data["g"], data["y"], G), "n": np.bincount(data["g"], minlength=G) * 1.0}


def _gamma_poisson(statistics, state: State) -> State:
    G = len(statistics["n"])
    beta = _gamma(2.0 + 3.0 * G, 1.0 + _mean(state["lam"]).sum())
    return {"beta": beta, "lam": _gamma(3.0 + statistics["y"], _mean(beta) + statistics["n"])}


_LOCAL = {"gmm": ("z",), "gmm_diagonal": ("z",), "lda": ("z",), "hmm": ("z",)}
_SWEEPS = {
    "gmm": (_gmm_statistics, _gmm),
    "gmm_diagonal": (_gmm_statistics, _gmm),
    "regression": (_regression_statistics, _regression),
    "multilevel": (_multilevel_statistics, _multilevel),
    "lda": (_lda_statistics, _lda),
    "bpca": (_bpca_statistics, _bpca),
    "hmm": (_hmm_statistics, _hmm),
    "beta_bernoulli": (_beta_bernoulli_statistics, _beta_bernoulli),
    "gamma_poisson": (_gamma_poisson_statistics, _gamma_poisson),
}


def make(name: str, arguments: dict[str, Any] | None = None) -> tuple[State, Callable[[State], State]]:
    """A state and a compiled sweep, in the caller's precision (`jensen.core.precision.scope` around all uses).

    Parameters
    ----------
    name
        A key of `SIZES`: a name in the zoo.
    arguments
        Data of that model; those of `SIZES` when left out.
    """
    arguments = SIZES[name]() if arguments is None else arguments
    statistics, sweep = _SWEEPS[name]
    start = HAND[name].start(arguments, np.random.default_rng(0))
    state = {site: q for site, q in start.items() if site not in _LOCAL.get(name, ())}

    def device(tree):
        return jax.tree.map(lambda array: jnp.asarray(array, float), tree)

    return device(state), partial(jax.jit(sweep), device(statistics(arguments)))


def _fastest(call: Callable[[], Any], seconds: float = 0.5) -> float:
    """Milliseconds of the fastest of many calls."""
    jax.block_until_ready(call())
    best, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        jax.block_until_ready(call())
        best = min(best, time.perf_counter() - begin)
    return 1e3 * best


def main() -> None:
    from jensen.core.precision import scope
    from jensen.core.threads import one_blas_thread

    print("| model | one call, ms | in a loop of 100, ms a sweep |")
    print("|---|---|---|")
    with scope("float64"), one_blas_thread():
        for name in SIZES:
            state, sweep = make(name)
            program, statistics = sweep.func, sweep.args[0]

            @jax.jit
            def loop(statistics, state, program=program):
                return jax.lax.fori_loop(0, 100, lambda _, state: program(statistics, state), state)

            one, many = _fastest(partial(sweep, state)), _fastest(partial(loop, statistics, state)) / 100
            print(f"| {name} | {one:.3f} | {many:.4f} |", flush=True)


if __name__ == "__main__":
    main()
