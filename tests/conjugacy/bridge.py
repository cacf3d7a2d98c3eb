"""Between the library's families and the states of the hand derivations."""

import numpy as np
from tests.conjugacy.checks import all_moments

from jensen.conjugate import blocks
from jensen.families.discrete import Categorical
from jensen.families.exponential import Beta, Dirichlet, Gamma, InverseGamma
from jensen.families.gaussian import Gaussian
from jensen.families.markov import MarkovChain
from jensen.families.wishart import Wishart


def families(plan, state):
    """The library's q with the parameters of a hand state (one block a site)."""
    return {site: _family(plan, site, parameters) for site, parameters in state.items()}


def _family(plan, site, p):
    role = plan.layout.role[site]
    if role == "gaussian":
        return _gaussian(plan.layout.pattern[site], p)
    if role == "categorical":
        with np.errstate(divide="ignore"):
            return Categorical(np.log(p["probs"]))
    if role == "chain":
        # Potentials of a chain with these marginals: log pairs - log (previous level).
        with np.errstate(divide="ignore"):
            pairwise = np.log(p["pairs"]) - np.log(p["probs"][:-1, :, None])
            unary = np.zeros_like(p["probs"])
            unary[0] = np.log(p["probs"][0])
        if plan.energy.tables[site].steady and (pairwise == pairwise[:1]).all():
            pairwise = pairwise[:1]
        return MarkovChain(unary, pairwise)
    if role == "wishart":
        return Wishart(p["df"], p["rate"])
    if role == "dirichlet":
        return Dirichlet(p["concentration"])
    if role == "beta":
        return Beta(p["a"], p["b"])
    return {"gamma": Gamma, "inverse gamma": InverseGamma}[role](p["concentration"], p["rate"])


def _gaussian(pattern, p):
    mean = np.asarray(p["mean"], float).reshape(-1)
    n = pattern.n
    dense = np.zeros((n, n))
    if "var" in p and "lag" not in p:
        dense[np.arange(n), np.arange(n)] = 1 / np.broadcast_to(p["var"], np.shape(p["mean"])).reshape(-1)
    elif "lag" in p:
        # A chain: precision from variances and lagged covariances.
        var, lag = p["var"], p["lag"]
        diagonal, off = np.zeros(n), np.zeros(n - 1)
        diagonal[0] = 1 / var[0]
        given = var[1:] - lag**2 / var[:-1]
        diagonal[1:] += 1 / given
        diagonal[:-1] += (lag / var[:-1]) ** 2 / given
        off = -lag / var[:-1] / given
        dense[np.arange(n), np.arange(n)] = diagonal
        dense[np.arange(n - 1), np.arange(1, n)] = dense[np.arange(1, n), np.arange(n - 1)] = off
    else:
        cov = np.asarray(p["cov"])
        d = cov.shape[-1]
        for number, one in enumerate(np.linalg.inv(cov).reshape(-1, d, d)):
            dense[number * d : (number + 1) * d, number * d : (number + 1) * d] = one
    i, j = np.concatenate([np.stack([np.arange(n)] * 2, 1), np.asarray(pattern.pairs).reshape(-1, 2)]).T
    entries = np.zeros(pattern.size)
    entries[pattern.position(i, j)] = dense[i, j]
    return Gaussian(dense @ mean, entries, pattern)


def compare(plan, found, state):
    """Largest difference of parameters, relative to their size, site by site."""
    worst, known = {}, all_moments({site: found[site] for site in state})
    for site, p in state.items():
        family = found[site]
        if isinstance(family, Gaussian):
            moments = known[site]
            mean = np.asarray(p["mean"], float).reshape(-1)
            if "var" in p:
                sd = np.sqrt(np.broadcast_to(p["var"], np.shape(p["mean"]))).reshape(-1)
            else:
                sd = np.sqrt(np.diagonal(p["cov"], axis1=-2, axis2=-1)).reshape(-1)
            pairs = {
                "mean": (np.asarray(moments["mean"]), mean, sd),
                "sd": (np.sqrt(family.pattern.variances(moments["cov"])), sd, sd),
            }
        elif isinstance(family, Categorical | MarkovChain):
            pairs = {"probs": (np.asarray(known[site]["probs"]), p["probs"], 1.0)}
        else:
            own = {name: np.asarray(getattr(family, name)) for name in p}
            pairs = {name: (np.broadcast_to(own[name], np.shape(p[name])), p[name], np.abs(p[name])) for name in p}
        worst[site] = max(float(np.max(np.abs(a - b) / size)) for a, b, size in pairs.values())
    return worst


__all__ = ["blocks", "compare", "families"]
