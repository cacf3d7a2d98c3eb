# %% [markdown]
# # A mixture of Gaussians: curves, restarts, posterior
#
# The course's first model with conditional conjugacy: n points in the plane, from K normal distributions with variance
# one,
#
#     z_i ~ Discrete(pi),    x_i | z_i = k ~ Normal(mu_k, 1),    mu_k ~ Normal(mu_0, sigma_0^2).
#
# The ELBO has many optima, so one start is a lottery ticket, and the ELBO tells which ticket has won.
#
# `examples/run.py --figures` saves the figures.

# %%

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import softmax

import jensen as jn

# %%
K, N = 9, 450
rng = np.random.default_rng(4)
PI = np.full(K, 1 / K)
MU_0, SIGMA_0 = 0.0, 6.0
centers = 4.5 * np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) + 0.5 * rng.normal(size=(K, 2))
label = rng.choice(K, N, p=PI)
x = centers[label] + rng.normal(size=(N, 2))


def mixture(x, pi):
    with numpyro.plate("components", len(pi)):
        mu = numpyro.sample("mu", dist.Normal(MU_0, SIGMA_0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Categorical(pi))
        numpyro.sample("x", dist.Normal(mu[z], 1.0).to_event(1), obs=x)


data = {"x": x, "pi": PI}
print(jn.conjugacy(mixture, data=data))

# %% [markdown]
# ## The updates by hand
#
#     q(z_i = k)  proportional to  pi_k exp(x_i mu~_k - (mu~_k^2 + sigma~_k^2) / 2)
#     q(mu_k) = Normal with precision 1 / sigma_0^2 + sum_i phi_ik and mean (mu_0 / sigma_0^2 + sum_i phi_ik x_i) / precision
#
# with the ELBO after each sweep, from random starts as the course has them.


# %%
def by_hand(mean, sweeps=60):
    variance, curve = np.ones(K), []
    for _ in range(sweeps):
        e = np.log(PI) - 0.5 * (((x[:, None] - mean) ** 2).sum(-1) + 2 * variance) - np.log(2 * np.pi)
        phi = softmax(e, 1)
        variance = 1 / (SIGMA_0**-2 + phi.sum(0))
        mean = (MU_0 / SIGMA_0**2 + phi.T @ x) * variance[:, None]
        e = np.log(PI) - 0.5 * (((x[:, None] - mean) ** 2).sum(-1) + 2 * variance) - np.log(2 * np.pi)
        prior = (
            -0.5 * ((mean - MU_0) ** 2 + variance[:, None]) / SIGMA_0**2
            + 0.5 * np.log(variance[:, None] / SIGMA_0**2)
            + 0.5
        )
        curve.append((phi * (e - np.log(np.maximum(phi, 1e-300)))).sum() + prior.sum())
    return np.array(curve), mean, variance


curves = [by_hand(x[np.random.default_rng(s).choice(N, K, replace=False)])[0] for s in range(10)]

# %% [markdown]
# ## Restarts
#
# `method="cavi"` starts from clusters of the data (k-means++), eight times, and goes on with the best. Its ELBO is at
# least that of every random start.

# %%
posterior = jn.fit(mixture, "cavi", data=data, correct=False)
print(*posterior.story, sep="\n")

curves_figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for curve in curves:
    axes.plot(np.arange(1, len(curve) + 1), curve, color="0.6", linewidth=0.9)
axes.plot([], [], color="0.6", label="random starts, by hand")
history = posterior.history["elbo"]
axes.plot(np.arange(1, len(history) + 1), history, color="tab:blue", label="jensen")
best = posterior.elbo.value
axes.set(xlabel="sweep", ylabel="ELBO", ylim=(best - 350, best + 20))
axes.legend(frameon=False, loc="lower right")

# %% [markdown]
# ## The posterior of the mixture
#
# Probabilities of the labels, means with their sds, and the predictive density.

# %%
mean, sd, probs = posterior.q.means["mu"], posterior.q.sds["mu"], posterior.q.probs("z")
unsure = probs.max(1) < 0.9
found = probs.argmax(1)
print(f"{unsure.sum()} of {N} labels are less sure than 0.9")

a, b = np.meshgrid(*[np.linspace(-9, 9, 150)] * 2)
grid = np.stack([a, b], -1)
spread = 1 + sd**2
height = ((grid[:, :, None] - mean) ** 2 / spread).sum(-1) + np.log(spread).sum(-1)
density = np.exp(-0.5 * height) @ PI / (2 * np.pi)
posterior_figure, axes = plt.subplots(figsize=(5, 4.6), layout="constrained")
axes.contour(a, b, density, levels=8, colors="0.7", linewidths=0.8)
axes.scatter(*x.T, c=found, cmap="tab10", s=9)
axes.scatter(*x[unsure].T, facecolors="none", edgecolors="k", s=30, linewidths=0.6, label="unsure")
axes.plot(*mean.T, "k+", markersize=9)
axes.legend(frameon=False)

# %% [markdown]
# ## Checks

# %%
# The curves never fall, most random starts end lower, and none ends higher.
assert all((np.diff(curve) > -1e-8).all() for curve in curves)
ends = np.array([curve[-1] for curve in curves])
assert (ends < best - 1).any()
assert (ends < best + 1e-6).all()
# A few sweeps by hand from where jensen ended change nothing: it is a fixed point of the course's updates, with their ELBO.
again, there, variance = by_hand(mean, sweeps=3)
np.testing.assert_allclose(again[-1], best, rtol=1e-8)
np.testing.assert_allclose(there, mean, atol=1e-3)
np.testing.assert_allclose(np.sqrt(variance), sd[:, 0], rtol=1e-3)
# Each center has a mean of its own near it.
distance = np.linalg.norm(centers[:, None] - mean, axis=-1)
assert sorted(distance.argmin(1)) == list(range(K))
assert distance.min(1).max() < 0.5
assert (found == distance.argmin(1)[label]).mean() > 0.93
