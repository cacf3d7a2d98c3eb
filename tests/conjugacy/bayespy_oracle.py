"""The models of the zoo in BayesPy: variational message passing that this project did not write.

    elbos, moments = run("gmm", arguments, state, order, sweeps=20)

begins at a state of `hand`, updates the sites in the order of the zoo, and returns the bound after every sweep and, for each
site, the moments at the end (the first two of a Gaussian, E s and E log s of a Gamma, E log theta, probs, ...).
The inverse Gamma variance runs as a Gamma precision: the bound does not change under v -> 1/v.

Luttinen (2016), BayesPy: variational Bayesian inference in Python, JMLR 17.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from tests.conjugacy.hand_parts import Data, State

Nodes = dict[str, Any]


def _ugmm(data: Data) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import Categorical, GaussianARD, Mixture

    x, K = data["x"], data["K"]
    mu = GaussianARD(0.0, 1 / 25, plates=(K,))
    z = Categorical(np.full(K, 1 / K), plates=(len(x),))
    y = Mixture(z, GaussianARD, mu, 1.0)
    y.observe(x)
    return {"mu": mu, "z": z}, {"y": y}


def _gmm(data: Data) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import Categorical, Dirichlet, Gamma, GaussianARD, Mixture

    x, K = data["x"], data["K"]
    columns = x.shape[1:]
    pi = Dirichlet(np.ones(K))
    mu = GaussianARD(0.0, 0.01, plates=(*columns, K))
    tau = Gamma(2.0, 1.0, plates=(*columns, K))
    z = Categorical(pi, plates=(len(x), *(1 for _ in columns)))
    y = Mixture(z, GaussianARD, mu, tau, plates=x.shape)
    y.observe(x)
    return {"pi": pi, "mu": mu, "tau": tau, "z": z}, {"y": y}


def _gmm_full(data: Data) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import Categorical, Dirichlet, Gaussian, Mixture, Wishart

    x, K = data["x"], data["K"]
    D = x.shape[1]
    pi = Dirichlet(2.0 * np.ones(K))
    mu = Gaussian(np.zeros(D), 0.01 * np.eye(D), plates=(K,))
    L = Wishart(D + 2.0, 2.0 * np.eye(D), plates=(K,))
    z = Categorical(pi, plates=(len(x),))
    y = Mixture(z, Gaussian, mu, L)
    y.observe(x)
    return {"pi": pi, "mu": mu, "L": L, "z": z}, {"y": y}


def _regression(data: Data) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import Gamma, GaussianARD, SumMultiply

    D = data["X"].shape[1]
    alpha = Gamma(1.0, 1.0, plates=(D,))
    b = GaussianARD(0.0, alpha, shape=(D,))
    tau = Gamma(1.0, 1.0)
    y = GaussianARD(SumMultiply("i,i", b, data["X"]), tau)
    y.observe(data["y"])
    return {"alpha": alpha, "b": b, "tau": tau}, {"y": y}


def _inverse_gamma(data: Data) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import Gamma, GaussianARD, SumMultiply

    v = Gamma(2.0, 1.0)
    b = GaussianARD(0.0, 1 / 25, shape=(data["X"].shape[1],))
    y = GaussianARD(SumMultiply("i,i", b, data["X"]), v)
    y.observe(data["y"])
    return {"v": v, "b": b}, {"y": y}


def _multilevel(data: Data) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import Add, Gamma, GaussianARD, SumMultiply, Take

    mu = GaussianARD(0.0, 0.01)
    tau_a = Gamma(1.0, 1.0)
    b = GaussianARD(0.0, 0.01, shape=(data["X"].shape[1],))
    a = GaussianARD(mu, tau_a, plates=(data["groups"],))
    tau = Gamma(1.0, 1.0)
    y = GaussianARD(Add(Take(a, data["g"]), SumMultiply("i,i", b, data["X"])), tau)
    y.observe(data["y"])
    return {"mu": mu, "tau_a": tau_a, "b": b, "a": a, "tau": tau}, {"y": y}


def _hmm(data: Data) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import CategoricalMarkovChain, Dirichlet, Gamma, GaussianARD, Mixture

    y, K = data["y"], data["K"]
    pi, A = Dirichlet(np.ones(K)), Dirichlet(np.ones(K), plates=(K,))
    mu, tau = GaussianARD(0.0, 0.01, plates=(K,)), Gamma(2.0, 1.0, plates=(K,))
    z = CategoricalMarkovChain(pi, A, states=len(y))
    observed = Mixture(z, GaussianARD, mu, tau)
    observed.observe(y)
    return {"pi": pi, "A": A, "mu": mu, "tau": tau, "z": z}, {"y": observed}


def _factors(data: Data, each: bool) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import Add, Gamma, GaussianARD, SumMultiply

    x, K = data["x"], data["K"]
    N, D = x.shape
    alpha = Gamma(1.0, 1.0, plates=(K,))
    m = GaussianARD(0.0, 0.01, plates=(D,))
    W = GaussianARD(0.0, alpha, shape=(K,), plates=(D,))
    tau = Gamma(1.0, 1.0, plates=(D,)) if each else Gamma(1.0, 1.0)
    h = GaussianARD(0.0, 1.0, shape=(K,), plates=(N, 1))
    y = GaussianARD(Add(SumMultiply("i,i", h, W), m), tau)
    y.observe(x)
    return {"alpha": alpha, "m": m, "W": W, "tau": tau, "h": h}, {"y": y}


def _beta_bernoulli(data: Data) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import Bernoulli, Beta

    p = Beta([2.0, 3.0])
    y = Bernoulli(p, plates=data["y"].shape)
    y.observe(data["y"])
    return {"p": p}, {"y": y}


def _gamma_poisson(data: Data) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import Gamma, Poisson, Take

    beta = Gamma(2.0, 1.0)
    lam = Gamma(3.0, beta, plates=(data["groups"],))
    y = Poisson(Take(lam, data["g"]))
    y.observe(data["y"])
    return {"beta": beta, "lam": lam}, {"y": y}


def _dirichlet_multinomial(data: Data, shared: bool) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import Dirichlet, Multinomial

    counts = data["counts"]
    N, V = counts.shape
    theta = Dirichlet(np.full(V, 0.5), plates=() if shared else (N,))
    y = Multinomial(counts.sum(-1), theta, plates=(N,))
    y.observe(counts)
    return {"theta": theta}, {"y": y}


def _lda(data: Data) -> tuple[Nodes, Nodes]:
    from bayespy.nodes import Categorical, Dirichlet, Mixture, Take

    phi = Dirichlet(np.full(data["V"], 0.1), plates=(data["K"],))
    theta = Dirichlet(np.full(data["K"], 0.5), plates=(data["documents"],))
    z = Categorical(Take(theta, data["doc"]), plates=data["doc"].shape)
    y = Mixture(z, Categorical, phi)
    y.observe(data["word"])
    return {"phi": phi, "theta": theta, "z": z}, {"y": y}


BUILD: dict[str, Callable[[Data], tuple[Nodes, Nodes]]] = {
    "ugmm": _ugmm,
    "gmm": _gmm,
    "gmm_diagonal": _gmm,
    "gmm_full": _gmm_full,
    "regression": _regression,
    "inverse_gamma": _inverse_gamma,
    "multilevel": _multilevel,
    "multilevel_correlated": _multilevel,
    "hmm": _hmm,
    "bpca": lambda data: _factors(data, each=False),
    "factor_analysis": lambda data: _factors(data, each=True),
    "beta_bernoulli": _beta_bernoulli,
    "gamma_poisson": _gamma_poisson,
    "dirichlet_multinomial": lambda data: _dirichlet_multinomial(data, shared=False),
    "dirichlet_multinomial_shared": lambda data: _dirichlet_multinomial(data, shared=True),
    "lda": _lda,
}


def _begin(name: str, node: Any, q: dict[str, np.ndarray]) -> None:
    """Set q of one node; blocks begin with diagonal covariances, chains and rows are updated before they are read."""
    kind = type(node).__name__
    if kind == "GaussianARD":
        var = q["var"] if "var" in q else np.diagonal(q["cov"], axis1=-2, axis2=-1)
        center = q["mean"]
        if name == "mu" and center.ndim == 2:  # (K, D) here, plates (D, K) there
            center, var = center.T, var.T
        if node.plates[-1:] == (1,):  # h: rows of the data are the first of two plates
            center, var = center[:, None], var[:, None]
        node.initialize_from_parameters(center, 1 / var)
    elif kind == "Gaussian":
        node.initialize_from_parameters(q["mean"], np.linalg.inv(q["cov"]))
    elif kind == "Gamma":
        a, b = q["concentration"], q["rate"]
        node.initialize_from_parameters(*((a.T, b.T) if a.ndim == 2 else (a, b)))
    elif kind == "Wishart":
        node.initialize_from_parameters(q["df"], q["rate"])
    elif kind == "Dirichlet":
        node.initialize_from_parameters(q["concentration"])


def run(name: str, data: Data, state: State, order: tuple[str, ...], sweeps: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Bound after each sweep, and site -> moments at the end."""
    from bayespy.inference import VB

    nodes, observed = BUILD[name](data)
    engine = VB(*observed.values(), *nodes.values())
    for site, node in nodes.items():
        _begin(site, node, state[site])
    elbos = np.zeros(sweeps)
    for sweep in range(sweeps):
        for site in order:
            nodes[site].update()
        elbos[sweep] = engine.compute_lowerbound()
    return elbos, {site: node.get_moments() for site, node in nodes.items()}
