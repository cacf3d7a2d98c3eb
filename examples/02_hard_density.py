# %% [markdown]
# # A hard density made easy, and ADVI by hand
#
# Beta(1001, 2) has nearly all of its mass within half a percent of one. A Gaussian cut off at 0 and 1 fits it badly;
# a Gaussian for its logit fits it well. That is what automatic variational inference does with every constrained
# variable. Its stochastic gradients follow, by hand as in the lecture, then by `jensen`.

# %%
import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy import optimize, special, stats

import jensen as jn

QUICK = os.environ.get("JENSEN_QUICK") == "1"
plt.style.use(jn.plots.STYLE)


# %%
def logq(θ, mu, lnsigma):
    """Log of a Gaussian with mean mu and log sd lnsigma."""
    return stats.norm(mu, np.exp(lnsigma)).logpdf(θ)


def logq_unit(θ, mu, lnsigma):
    """The same, cut off at 0 and 1."""
    sigma = np.exp(lnsigma)
    return logq(θ, mu, lnsigma) - log_inside((0.0 - mu) / sigma, (1.0 - mu) / sigma)


def log_inside(a, b):
    """Log of a standard Gaussian's mass between a and b."""
    low, high = special.log_ndtr(a), special.log_ndtr(b)
    return high + np.log(-np.expm1(low - high))


def logp_hard(θ, a=1e3, b=1.0):
    """Log density of Beta(a + 1, b + 1)."""
    return a * np.log(θ) + b * np.log1p(-θ) - special.betaln(a + 1.0, b + 1.0)


# %% [markdown]
# ## Without the logit


# %%
def kl_vi_unit(logp, n, mu_start, lnsigma_start, eps=1e-8):
    """Minimize KL(q | p) over Gaussians that are cut off at 0 and 1."""
    θ = np.linspace(eps, 1.0 - eps, n)

    def obj(phi):
        sigma = np.exp(phi[1])
        a, b = (0.0 - phi[0]) / sigma, (1.0 - phi[0]) / sigma
        log_z = log_inside(a, b)
        edges = (a * np.exp(-0.5 * a**2 - log_z) - b * np.exp(-0.5 * b**2 - log_z)) / np.sqrt(2 * np.pi)
        entropy = 0.5 * np.log(2 * np.pi * np.e) + phi[1] + log_z + 0.5 * edges
        return -entropy - np.sum(np.exp(logq_unit(θ, *phi)) * logp(θ)) * (θ[1] - θ[0])

    options = {"maxfev": 10000}
    return optimize.minimize(obj, [mu_start, lnsigma_start], method="Nelder-Mead", options=options)


cut_off = kl_vi_unit(logp_hard, 10000, 0.0, 0.0)
print("cut off: mu {:.4f}, ln sigma {:.3f}, KL {:.3f}".format(*cut_off.x, cut_off.fun))

# %% [markdown]
# ## With the logit
#
# $\zeta = \mathrm{logit}(\theta)$ lives on the whole line, and its density has one more term, the log of $d\theta /
# d\zeta = \theta (1 - \theta)$.


# %%
def logp_easy(ζ, a=1e3, b=1.0):
    """Log density of the logit."""
    log_θ, log_rest = -np.logaddexp(0.0, -ζ), -np.logaddexp(0.0, ζ)
    return a * log_θ + b * log_rest + log_θ + log_rest - special.betaln(a + 1.0, b + 1.0)


def kl_vi(logp, n, mu_start, lnsigma_start):
    """Minimize KL(q | p) over Gaussians."""

    def obj(phi):
        entropy = phi[1] + 0.5 * np.log(2.0 * np.pi) + 0.5
        sigma = np.exp(phi[1])
        z = np.linspace(phi[0] - 20.0 * sigma, phi[0] + 20.0 * sigma, n)
        return -entropy - np.sum(np.exp(logq(z, *phi)) * logp(z)) * (z[1] - z[0])

    return optimize.minimize(obj, [mu_start, lnsigma_start], method="Nelder-Mead")


by_kl = kl_vi(logp_easy, 10000, 1.0, 0.0)
print("logit:   mu {:.4f}, ln sigma {:.3f}, KL {:.3f}".format(*by_kl.x, by_kl.fun))

# %%
ζ = np.linspace(3.0, 11.0, 2000)
θ = special.expit(ζ)
with_and_without, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
q_hard = np.exp(logq_unit(θ, *cut_off.x)) * θ * (1 - θ)
for panel, q, title in zip(axes, (q_hard, np.exp(logq(ζ, *by_kl.x))), ("cut off at 0 and 1", "logit"), strict=True):
    panel.plot(ζ, np.exp(logp_easy(ζ)), label="p(logit(θ))")
    panel.plot(ζ, q, label="q(logit(θ))")
    panel.set(title=title, xlabel="logit(θ)")
axes[0].legend()

# %% [markdown]
# ## Crude ADVI
#
# One draw a step: $\zeta = \mu + \sigma z$ with $z \sim N(0, 1)$ makes the expectation one over $z$, so that it can
# be differentiated by $\mu$ and $\sigma$; then plain stochastic gradient descent. The derivative of the log density
# is by hand.


# %%
def dlogp_easy_dζ(ζ):
    """Derivative of `logp_easy`."""
    θ = special.expit(ζ)
    return (1e3 + 1.0) * (1.0 - θ) - 2 * θ


def kl_vi_with_sgd(dlogp, mu, lnsigma, rng, n_iter=100000, n_draw=1, eta=5e-4, eta_decay=5e-5):
    """Stochastic gradient descent of KL(q | p); every step's mean and log sd."""
    path = np.empty((n_iter, 2))
    for i in range(n_iter):
        z = rng.normal(size=n_draw)
        sigma = np.exp(lnsigma)
        slope = dlogp(z * sigma + mu)
        lnsigma += eta * (np.mean(slope * z * sigma) + 1)
        mu += eta * np.mean(slope)
        eta *= 1.0 - eta_decay
        path[i] = mu, lnsigma
    return path


rng = np.random.RandomState(seed=5678)
path = kl_vi_with_sgd(dlogp_easy_dζ, 0.0, 0.0, rng, n_iter=20000 if QUICK else 100000)
for i in range(0, len(path), len(path) // 5):
    print(f"iter, mu, lnsigma: {i: 7d}|{path[i, 0]: 10.4e}|{path[i, 1]: 10.4e}")
by_sgd = path[-1]

# %% [markdown]
# ## By jensen
#
# `support="unit_interval"` is the logit with its derivative; gradients are JAX's. `jn.Gradient` takes the same steps
# of stochastic gradients, compiled, with any optax optimizer; `"fullrank"` needs no learning rate at all.

# %%
beta = jn.density(
    lambda p: 1e3 * jnp.log(p["θ"]) + jnp.log1p(-p["θ"]) - special.betaln(1001.0, 2.0),
    {"θ": 0.5},
    support={"θ": "unit_interval"},
)
steps = 20000 if QUICK else 100000
rate = optax.exponential_decay(5e-4, 1, 1 - 5e-5)
engine = jn.Gradient(jn.MeanField(), optax.sgd(rate), draws=1, steps=steps)
compiled = jn.fit(beta, engine=engine, start={"θ": 0.5}, correct=False)
newton = jn.fit(beta, "fullrank")
for name, q in (("sgd, compiled", compiled.q), ("fullrank", newton.q)):
    print(f"{name:14s} mu {q.mean[0]:.3f}, ln sigma {np.log(q.sd[0]):.3f}")
print(newton)

# %%
crude_advi, axes = plt.subplots(1, 2, figsize=(9, 3.4))
axes[0].plot(path[:, 0], label="mu, by hand")
axes[0].plot(path[:, 1], label="ln sigma, by hand")
for value in (newton.q.mean[0], np.log(newton.q.sd[0])):
    axes[0].axhline(value, color="#333333", linewidth=0.9, linestyle="--")
axes[0].set(xlabel="step")
axes[0].legend()
axes[1].plot(ζ, np.exp(logp_easy(ζ)), label="p(logit(θ))")
axes[1].plot(ζ, np.exp(logq(ζ, *by_sgd)), label="by hand")
axes[1].plot(ζ, stats.norm(newton.q.mean[0], newton.q.sd[0]).pdf(ζ), linestyle="--", label="jensen")
axes[1].set(xlabel="logit(θ)")
axes[1].legend()

# %% [markdown]
# ## Checks
#
# A divergence does not depend on coordinates, so that both can be compared: with the logit it is a third. Mean and sd
# of a Beta are known.

# %%
assert cut_off.fun > 3 * by_kl.fun
np.testing.assert_allclose([newton.q.mean[0], np.log(newton.q.sd[0])], by_kl.x, atol=0.01)
np.testing.assert_allclose(-newton.elbo.value, by_kl.fun, atol=4 * newton.elbo.error)
# One draw a step, and a rate that falls: what is left is noise, more of it in the quick mode.
np.testing.assert_allclose(by_sgd, by_kl.x, atol=0.3 if QUICK else 0.1)
np.testing.assert_allclose([compiled.q.mean[0], np.log(compiled.q.sd[0])], by_kl.x, atol=0.3 if QUICK else 0.1)
exact = stats.beta(1001, 2)
assert newton.verdict.overall == "trusted"  # which promises a mean within 0.3 sd, and an sd within a quarter
np.testing.assert_allclose(newton.mean["θ"], exact.mean(), atol=0.1 * exact.std())
np.testing.assert_allclose(newton.sd["θ"], exact.std(), rtol=0.15)
