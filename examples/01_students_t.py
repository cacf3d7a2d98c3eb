# %% [markdown]
# # A Gaussian for Student's t
#
# Variational inference picks, from a family of simple densities q, the one that is closest to a target p. What comes
# out depends on what "close" means. Here p is Student's t with three degrees of freedom and q a Gaussian with mean
# $\mu$ and sd $\sigma$, first by a weighted squared error of log densities, then by the Kullback-Leibler divergence,
# by quadrature and Nelder-Mead; then by `jensen`.

# %%
import jax.scipy.stats as jst
import matplotlib.pyplot as plt
import numpy as np
from scipy import integrate, optimize, stats

import jensen as jn

plt.style.use(jn.plots.STYLE)

# %%
ν = 3
logp = stats.t(ν).logpdf


def logq(θ, mu, lnsigma):
    """Log of a Gaussian with mean mu and log sd lnsigma."""
    return stats.norm(mu, np.exp(lnsigma)).logpdf(θ)


# %% [markdown]
# ## By squared error
#
# $$\hat\phi = \arg\min_\phi
# \frac{\sum_i q(\theta_i; \phi) [\log q(\theta_i; \phi) - \log p(\theta_i)]^2}{\sum_i q(\theta_i; \phi)}$$
#
# on a grid that moves with q. The start is as far off as the lecture's.


# %%
def regression_vi(logp, n, mu_start, lnsigma_start, atol=1e-6):
    """Minimize the squared error of log densities, weighted by q."""

    def obj(phi):
        sigma = np.exp(phi[1])
        z = np.linspace(phi[0] - 10.0 * sigma, phi[0] + 10.0 * sigma, n)
        logqz = logq(z, *phi)
        w = np.exp(logqz)
        return np.sum((logqz - logp(z)) ** 2 * w) / np.sum(w)

    options = {"maxiter": 5000, "maxfev": 5000, "fatol": atol, "xatol": 1e-8}
    return optimize.minimize(obj, [mu_start, lnsigma_start], method="Nelder-Mead", options=options)


by_mse = regression_vi(logp, 100, 100.0, -100.0)
print(f"squared error: mu {by_mse.x[0]:.4f}, sigma {np.exp(by_mse.x[1]):.4f}")

# %% [markdown]
# ## By the Kullback-Leibler divergence
#
# $$D_{KL}(q \| p) = \int q \log q \, d\theta - \int q \log p \, d\theta$$
#
# The first term is minus the entropy of a Gaussian, $\log\sigma + \frac12 \log 2\pi e$; the second is a sum over a
# grid.


# %%
def kl_vi(logp, n, mu_start, lnsigma_start):
    """Minimize KL(q | p)."""

    def obj(phi):
        entropy = phi[1] + 0.5 * np.log(2.0 * np.pi) + 0.5
        sigma = np.exp(phi[1])
        θ = np.linspace(phi[0] - 20.0 * sigma, phi[0] + 20.0 * sigma, n)
        return -entropy - np.sum(np.exp(logq(θ, *phi)) * logp(θ)) * (θ[1] - θ[0])

    return optimize.minimize(obj, [mu_start, lnsigma_start], method="Nelder-Mead")


by_kl = kl_vi(logp, 10000, 1.0, 0.0)
print(f"divergence:    mu {by_kl.x[0]:.4f}, sigma {np.exp(by_kl.x[1]):.4f}, KL {by_kl.fun:.4f}")

# %%
θ = np.linspace(-5.0, 5.0, 1000)
densities, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
for panel, found, title in zip(axes, (by_mse, by_kl), ("least squared error", "least divergence"), strict=True):
    panel.plot(θ, np.exp(logp(θ)), label="p(θ)")
    panel.plot(θ, np.exp(logq(θ, *found.x)), label="q(θ)")
    panel.set(title=title, xlabel="θ")
axes[0].set_ylabel("density")
axes[0].legend()

# %% [markdown]
# ## By jensen
#
# The same minimum, from the log density alone: no grid, and gradients by JAX. As the density is normalized, the ELBO
# is minus the divergence.

# %%
target = jn.density(lambda p: jst.t.logpdf(p["θ"], ν), {"θ": 0.0})
q = jn.fit(target, "fullrank", correct=False)
print(f"jensen:        mu {q.q.mean[0]:.4f}, sigma {q.q.sd[0]:.4f}, KL {-q.elbo.value:.4f}")
print(q)

# %% [markdown]
# The log weights show that this q has lighter tails than p; its sd is 1.26, and that of p is $\sqrt 3$ = 1.73. By
# default `jensen` does not stop at q: short chains that start from it correct the answer. The middle of the
# distribution is right then; the sd, which for such tails hangs on a few extreme draws, is still on the low side.

# %%
posterior = jn.fit(target)
print(posterior)

# %%
corrected, axes = plt.subplots(figsize=(6, 3.6))
axes.hist(posterior.draws(4000)["θ"], np.linspace(-8, 8, 81), density=True, color="#c9ccd1", label="corrected draws")
wide = np.linspace(-8, 8, 1000)
axes.plot(wide, np.exp(logp(wide)), label="p(θ)")
axes.plot(wide, stats.norm(q.q.mean[0], q.q.sd[0]).pdf(wide), label="q(θ)")
axes.set(xlabel="θ", ylabel="density")
axes.legend()


# %% [markdown]
# ## Checks
#
# The minimum once more, by adaptive quadrature in $\sigma$ alone (the target is symmetric); the quartiles of
# Student's t.


# %%
def divergence(sigma):
    """KL of N(0, sigma^2) and Student's t."""
    # E_q[log p], from log p(z) = log p(0) - 2 log(1 + z^2 / 3)
    inside = integrate.quad(lambda z: np.exp(-0.5 * z**2) * np.log1p((sigma * z) ** 2 / ν), 0, 12)[0]
    cross = logp(0.0) - (ν + 1) * inside / np.sqrt(2 * np.pi)
    return -np.log(sigma) - 0.5 * np.log(2 * np.pi * np.e) - cross


exact = optimize.minimize_scalar(divergence, bounds=(0.5, 3.0), method="bounded")
np.testing.assert_allclose([by_kl.x[0], np.exp(by_kl.x[1])], [0.0, exact.x], atol=1e-4)
np.testing.assert_allclose(by_mse.x[0], 0.0, atol=1e-4)
assert np.exp(by_mse.x[1]) < exact.x  # weights of its own make the squared error prefer a narrower q
np.testing.assert_allclose([q.q.mean[0], q.q.sd[0]], [0.0, exact.x], atol=0.01)
np.testing.assert_allclose(-q.elbo.value, exact.fun, atol=4 * q.elbo.error)
quartiles = np.quantile(posterior.draws(4000)["θ"], [0.25, 0.5, 0.75])
np.testing.assert_allclose(quartiles, stats.t(ν).ppf([0.25, 0.5, 0.75]), atol=0.06)
assert posterior.answer == "corrected"
