"""The same models as a PyMC user writes them: `build(name)` gives a `pm.Model` with the data of the zoo in it.

Names, priors and densities are those of `zoo_models`, so that expected words, order and hand derivations hold as they are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
from tests.conjugacy.zoo import example


def gmm(x, K):
    pi = pm.Dirichlet("pi", np.ones(K))
    mu = pm.Normal("mu", 0, 10, shape=K)
    tau = pm.Gamma("tau", 2, 1, shape=K)
    z = pm.Categorical("z", pi, shape=len(x))
    pm.Normal("x", mu[z], tau=tau[z], observed=x)


def regression(X, y):
    alpha = pm.Gamma("alpha", 1, 1, shape=X.shape[1])
    b = pm.Normal("b", 0, tau=alpha)
    tau = pm.Gamma("tau", 1, 1)
    pm.Normal("y", pm.math.dot(X, b), tau=tau, observed=y)


def inverse_gamma(X, y):
    v = pm.InverseGamma("v", 2, 1)
    b = pm.Normal("b", 0, 5, shape=X.shape[1])
    pm.Normal("y", pm.math.dot(X, b), pm.math.sqrt(v), observed=y)


def half_normal(X, y):
    b = pm.Normal("b", 0, 5, shape=X.shape[1])
    sigma = pm.HalfNormal("sigma", 2)
    pm.Normal("y", X @ b, sigma, observed=y)


def multilevel(X, g, y, groups):
    mu = pm.Normal("mu", 0, 10)
    tau_a = pm.Gamma("tau_a", 1, 1)
    b = pm.Normal("b", 0, 10, shape=X.shape[1])
    a = pm.Normal("a", mu, sigma=1 / pm.math.sqrt(tau_a), shape=groups)
    tau = pm.Gamma("tau", 1, 1)
    pm.Normal("y", a[g] + pm.math.dot(X, b), tau=tau, observed=y)


def beta_bernoulli(y):
    p = pm.Beta("p", 2, 3)
    pm.Bernoulli("y", p, observed=y)


def gamma_poisson(y, g, groups):
    beta = pm.Gamma("beta", 2, 1)
    lam = pm.Gamma("lam", 3, beta, shape=groups)
    pm.Poisson("y", lam[g], observed=y)


def dirichlet_multinomial(counts):
    theta = pm.Dirichlet("theta", np.full(counts.shape, 0.5))
    pm.Multinomial("counts", counts.sum(-1), theta, observed=counts)


MODELS: dict[str, Callable[..., Any]] = {
    model.__name__: model
    for model in (
        gmm,
        regression,
        inverse_gamma,
        half_normal,
        multilevel,
        beta_bernoulli,
        gamma_poisson,
        dirichlet_multinomial,
    )
}


def build(name: str) -> pm.Model:
    """The PyMC twin of ``example(name)``."""
    with pm.Model() as model:
        MODELS[name](**example(name).arguments)
    return model
