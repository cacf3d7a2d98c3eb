"""One logistic regression for the tests of large data: as a density, in closed form, and by Newton's method."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, log_expit

import jensen as jn

PRIOR = 2.0
"""Sd of the prior of the coefficients."""


def rows(n, dim=3, seed=0):
    """X (n, dim) with a constant column, y (n,) of zeros and ones."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.normal(size=(n, dim - 1))])
    return X, (rng.random(n) < expit(X @ np.linspace(-1, 1, dim))).astype(float)


def _log_prior(p):
    return -0.5 * ((p["b"] / PRIOR) ** 2).sum()


def _log_likelihood(p, data):
    eta = data["X"] @ p["b"]
    return data["y"] * eta - jax.nn.softplus(eta)


def density(X, y):
    """`jn.density` of the model."""
    return jn.density(_log_prior, {"b": jnp.zeros(X.shape[1])}, data={"X": X, "y": y}, log_likelihood=_log_likelihood)


def likelihood(X, y, b, weights=1.0):
    """Log likelihood, gradient and Hessian at b, each row counted so many times."""
    eta, X, y = X.astype(float) @ b, X.astype(float), y.astype(float)
    p = expit(eta)
    value = (weights * log_expit(np.where(y == 1, eta, -eta))).sum()
    return value, X.T @ (weights * (y - p)), -(X * (weights * p * (1 - p))[:, None]).T @ X


def posterior(X, y):
    """Mean to third order, and sds, by Newton's method from zero."""
    b, eye = np.zeros(X.shape[1]), np.eye(X.shape[1]) / PRIOR**2
    for _ in range(30):
        _, gradient, hessian = likelihood(X, y, b)
        b = b + np.linalg.solve(eye - hessian, gradient - eye @ b)
    cov = np.linalg.inv(eye - likelihood(X, y, b)[2])
    p = expit(X @ b)
    third = -p * (1 - p) * (1 - 2 * p)
    return b + 0.5 * cov @ (X.T @ (third * np.einsum("ij,jk,ik->i", X, cov, X))), np.sqrt(np.diag(cov))
