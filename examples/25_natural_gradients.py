# %% [markdown]
# # Exponential families, natural gradients and minibatches
#
# The course's general class: global variables beta, local variables z_i, and complete conditionals in exponential
# families,
#
#     p(beta | x, z) = h(beta) exp(eta_g(x, z) . T(beta) - A_g),      eta_g(x, z) = (alpha_1 + sum_i T(x_i, z_i), alpha_2 + n).
#
# Coordinate ascent sets natural parameters to expected ones: lambda = E eta_g(x, z), phi_i = E eta_l(x_i, beta). A sum
# over all rows for one step of lambda is a waste when rows are many. Hoffman et al. (2013) take the sum over a
# minibatch, scaled up, and
#
#     lambda <- (1 - rho_t) lambda + rho_t lambda_hat,      rho_t = (t + tau)^-kappa,
#
# which is a step along the natural gradient of the ELBO, lambda_hat - lambda, in steps that Robbins and Monro allow.
#
# `JENSEN_QUICK=1` takes fewer rows; `examples/run.py --figures` saves the figures.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import logsumexp, softmax

import jensen as jn

QUICK = bool(os.environ.get("JENSEN_QUICK"))


# %%
N = 30_000 if QUICK else 1_000_000
PI, CENTERS, PRIOR_SD = np.array([0.2, 0.3, 0.5]), np.array([-4.0, 0.0, 3.0]), 10.0
rng = np.random.default_rng(6)
x = rng.normal(CENTERS[rng.choice(3, N, p=PI)], 1.0)


def mixture(x):
    with numpyro.plate("components", 3):
        mu = numpyro.sample("mu", dist.Normal(0.0, PRIOR_SD))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(PI))
        numpyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


# %% [markdown]
# ## By hand
#
# The global natural parameters are h and P of mu_k ~ Normal(h_k / P_k, 1 / P_k). The sufficient statistics of a row are
# T(x_i, z_i) = ([z_i = k] x_i, [z_i = k]), and the prior adds (0, 1 / 100).


# %%
def local(h, P, rows):
    """Probabilities of the levels of some rows, and the rows' part of the ELBO."""
    mean = h / P
    e = np.log(PI) - 0.5 * ((rows[:, None] - mean) ** 2 + 1 / P) - 0.5 * np.log(2 * np.pi)
    return softmax(e, 1), logsumexp(e, 1).sum()


def target(phi, rows):
    """Natural parameters that these rows, scaled up to all, ask for."""
    scale = N / len(rows)
    return scale * phi.T @ rows, PRIOR_SD**-2 + scale * phi.sum(0)


def elbo(h, P, rows_part):
    mean, variance = h / P, 1 / P
    prior = 0.5 * (np.log(variance / PRIOR_SD**2) + 1 - (mean**2 + variance) / PRIOR_SD**2).sum()
    return rows_part + prior


def stochastic(batch, passes, tau=1.0, kappa=0.7):
    rng, h, P = np.random.default_rng(0), np.array([-1.0, 0.0, 1.0]), np.ones(3)
    curve, t = [], 0
    for _ in range(passes):
        order = rng.permutation(N)
        for first in range(0, N, batch):
            rows = x[order[first : first + batch]]
            phi, part = local(h, P, rows)
            curve.append((t * batch / N, elbo(h, P, part * N / len(rows))))
            rho, (h_hat, P_hat) = (t + tau) ** -kappa, target(phi, rows)
            h, P, t = (1 - rho) * h + rho * h_hat, (1 - rho) * P + rho * P_hat, t + 1
    return h, P, np.array(curve)


def ascent(passes):
    h, P, curve = np.array([-1.0, 0.0, 1.0]), np.ones(3), []
    for number in range(passes):
        phi, part = local(h, P, x)
        curve.append((number, elbo(h, P, part)))
        h, P = target(phi, x)
    return h, P, np.array(curve)


h, P, curve = ascent(25)
h_svi, P_svi, noisy = stochastic(batch=500, passes=2)
print("coordinate ascent, 25 passes", h / P, "minibatches, 2 passes", h_svi / P_svi)

# %%
curves_figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.plot(*noisy.T, color="tab:orange", linewidth=0.6, alpha=0.7, label="natural gradients, noisy ELBO of 500 rows")
axes.plot(*curve.T, "o-", color="tab:blue", markersize=3, label="coordinate ascent, all rows")
end = curve[-1, 1]
axes.set(xlabel="passes over the rows", ylabel="ELBO", xlim=(0, 8), ylim=(end - 0.15 * abs(end), end + 0.05 * abs(end)))
axes.legend(frameon=False, loc="lower right")

# %% [markdown]
# ## By `jensen`
#
# One equation finds all of these parameters: they are the gradients of E log p with respect to mean parameters.
# `method="svi"` takes the natural-gradient steps, and ends with one pass over all rows, whose ELBO is exact.

# %%
cavi = jn.fit(mixture, "cavi", data={"x": x}, correct=False)
engine = jn.NaturalGradient(batch_size=500, tau=1.0, kappa=0.7, passes=2)
svi = jn.fit(mixture, engine=engine, data={"x": x}, correct=False)
print({name: value for name, value in cavi.q.params.items() if name.startswith("mu")})
print("h, P by hand:", h, P)
gap = (cavi.elbo.value - svi.elbo.value) / abs(cavi.elbo.value)
print(f"ELBO {cavi.elbo.value:.3f}; of minibatches {svi.elbo.value:.3f}, relative gap {gap:.1e}")

# %% [markdown]
# ## Checks

# %%
order = np.argsort(h / P)
np.testing.assert_allclose(cavi.q.params["mu.h"], h[order], rtol=1e-4, atol=1e-3 * np.abs(h).max())
np.testing.assert_allclose(cavi.q.params["mu.precision"], P[order], rtol=1e-3)
np.testing.assert_allclose(cavi.elbo.value, end, rtol=1e-6)
assert (np.diff(curve[:, 1]) > -1e-6).all()
# Two passes in minibatches: means right to a few hundredths, and an ELBO close to that of convergence.
assert np.abs(np.sort(h_svi / P_svi) - np.sort(h / P)).max() < 0.1
assert np.abs(svi.q.means["mu"] - cavi.q.means["mu"]).max() < 0.02
assert 0 <= gap < 1e-4
