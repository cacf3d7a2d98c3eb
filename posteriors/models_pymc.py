"""Seven of the posteriors as PyMC models: same sites and, up to a constant, same density as in `posteriors.models`.

Each function takes the data of `posteriors.load.load` and returns a ``pm.Model``.
"""

import numpy as np
import pymc as pm
from pymc.distributions.transforms import ordered


def arK(y) -> pm.Model:
    """Autoregression of order 5 on 200 points."""
    order = 5
    with pm.Model() as model:
        alpha = pm.Normal("alpha", 0, 10)
        beta = pm.Normal("beta", 0, 10, shape=order)
        sigma = pm.HalfCauchy("sigma", 2.5)
        past = np.lib.stride_tricks.sliding_window_view(y[:-1], order)[:, ::-1]
        pm.Normal("y", alpha + pm.math.dot(past, beta), sigma, observed=y[order:])
    return model


def eight_schools_centered(y, sigma) -> pm.Model:
    """Eight schools, centered: a funnel between tau and theta."""
    with pm.Model(coords={"school": range(len(y))}) as model:
        mu = pm.Normal("mu", 0, 5)
        tau = pm.HalfCauchy("tau", 5)
        theta = pm.Normal("theta", mu, tau, dims="school")
        pm.Normal("y", theta, sigma, observed=y, dims="school")
    return model


def gp_regr(x, y) -> pm.Model:
    """Gaussian-process regression with the function integrated out; sigma is a variance, as in the original."""
    gap = np.subtract.outer(x, x).astype(float)
    with pm.Model() as model:
        rho = pm.Gamma("rho", alpha=25, beta=4)
        alpha = pm.HalfNormal("alpha", 2)
        sigma = pm.HalfNormal("sigma", 1)
        covariance = alpha**2 * pm.math.exp(-((gap / rho) ** 2) / 2) + sigma * np.eye(len(x))
        pm.MvNormal("y", mu=np.zeros(len(x)), cov=covariance, observed=y)
    return model


def kidscore_momiq(kid_score, mom_iq) -> pm.Model:
    """Child test score on mother's IQ, uncentered: intercept and slope are almost collinear."""
    with pm.Model() as model:
        beta = pm.Flat("beta", shape=2)
        sigma = pm.HalfCauchy("sigma", 2.5)
        pm.Normal("kid_score", beta[0] + beta[1] * mom_iq, sigma, observed=kid_score)
    return model


def low_dim_gauss_mix(y) -> pm.Model:
    """Two-component Gaussian mixture with ordered means, 1000 points; the components are summed out."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 2, shape=2, transform=ordered, initval=np.array([-1.0, 1.0]))
        sigma = pm.HalfNormal("sigma", 2, shape=2)
        theta = pm.Beta("theta", 5, 5)
        pm.NormalMixture("y", w=pm.math.stack([theta, 1 - theta]), mu=mu, sigma=sigma, observed=y)
    return model


def nes1972(partyid7, real_ideo, race_adj, educ1, gender, income, age_discrete) -> pm.Model:
    """Party identification on ideology, race, age group, education, gender and income; 1,330 voters."""
    groups = [age_discrete == group for group in (2, 3, 4)]
    X = np.column_stack([np.ones(len(partyid7)), real_ideo, race_adj, *groups, educ1, gender, income])
    with pm.Model() as model:
        beta = pm.Flat("beta", shape=9)
        sigma = pm.HalfFlat("sigma")
        pm.Normal("partyid7", pm.math.dot(X, beta), sigma, observed=partyid7)
    return model


def rats(rat, x, y, xbar) -> pm.Model:
    """Growth of 30 rats: random intercepts and slopes, centered, flat on the scales."""
    with pm.Model(coords={"rats": range(30)}) as model:
        mu_alpha, mu_beta = (pm.Normal(f"mu_{name}", 0, 100) for name in ("alpha", "beta"))
        sigma_y, sigma_alpha, sigma_beta = (pm.HalfFlat(f"sigma_{name}") for name in ("y", "alpha", "beta"))
        alpha = pm.Normal("alpha", mu_alpha, sigma_alpha, dims="rats")
        beta = pm.Normal("beta", mu_beta, sigma_beta, dims="rats")
        pm.Normal("y", alpha[rat] + beta[rat] * (x - xbar), sigma_y, observed=y)
    return model
