# %% [markdown]
# # Coordinate ascent, what mean-field leaves out, and Gibbs sampling
#
# A course on variational inference starts from one equation. If q is a product, its best factor given the others is
#
#     q_i(theta_i)  proportional to  exp(E_{-i} log p(x, theta)),
#
# and taking the factors in turn climbs the ELBO. Here are the bound, the equation, the price of the product and its
# twin, the Gibbs sampler, on a posterior that is known exactly: two slopes whose columns are correlated, with known
# noise.
#
# `examples/run.py --figures` saves the figures.

# %%

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import jensen as jn

# %%
rng = np.random.default_rng(3)
N, RHO = 200, 0.9
X = rng.normal(size=(N, 2)) @ np.linalg.cholesky([[1, RHO], [RHO, 1]]).T
y = X @ [1.5, -1.0] + rng.normal(size=N)


def line(X, y):
    a = numpyro.sample("a", dist.Normal(0.0, 10.0))
    b = numpyro.sample("b", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a * X[:, 0] + b * X[:, 1], 1.0), obs=y)


data = {"X": X, "y": y}

# %% [markdown]
# The posterior is Gaussian with precision P = X'X + I / 100, and the evidence log p(y) is the density of a Gaussian at
# y.

# %%
P = X.T @ X + np.eye(2) / 100
mean, cov = np.linalg.solve(P, X.T @ y), np.linalg.inv(P)
marginal = np.eye(N) + 100 * X @ X.T
log_evidence = -0.5 * (N * np.log(2 * np.pi) + np.linalg.slogdet(marginal)[1] + y @ np.linalg.solve(marginal, y))


def log_density(z):
    away = z - mean
    return -0.5 * np.einsum("ni,ij,nj->n", away, P, away)


# %% [markdown]
# ## The equation
#
# Completing the square, q(a) = Normal(mean_a - P_ab / P_aa (E b - mean_b), 1 / P_aa), and the same for b: four lines by
# hand, and one of `jensen`. `Blocks()` asks for a product of sites, as by itself it would take both in one block;
# `chunk=1` shows callbacks every sweep.

# %%
tracker = jn.Tracker(ab=lambda s: np.array([s.q.means["a"], s.q.means["b"]]))
product = jn.fit(line, family=jn.Blocks(), engine=jn.CoordinateAscent(chunk=1), data=data, callbacks=[tracker])
way = tracker["ab"]

by_hand = [way[0]]
for _ in range(len(way) - 1):
    a, b = by_hand[-1]
    a = mean[0] - P[0, 1] / P[0, 0] * (b - mean[1])
    b = mean[1] - P[0, 1] / P[1, 1] * (a - mean[0])
    by_hand.append(np.array([a, b]))
print("largest difference from the updates by hand", np.abs(np.array(by_hand) - way).max())

# %%
path_figure = jn.plots.path(log_density, way, cov=1 / np.diag(P), names=("a", "b"))

# %% [markdown]
# Each sweep brings the means closer by the same factor, the squared correlation: the more a posterior is correlated,
# the slower is coordinate ascent.

# %%
correlation = cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])
away = np.abs(way[:, 0] - mean[0])
print("factor of a sweep", (away[1:10] / away[:9]).round(4), "squared correlation", round(correlation**2, 4))

# %% [markdown]
# ## The bound, and the gap
#
# log p(y) = ELBO + KL(q | p), and of Gaussians the KL divergence is known: here it is -log(1 - correlation^2) / 2. One
# block for both sites makes q the posterior and the bound the evidence.

# %%
joint = jn.fit(line, "cavi", data=data)
gap = -0.5 * np.log(1 - correlation**2)
print("log evidence       ", log_evidence)
print("ELBO of one block  ", joint.elbo.value)
print("ELBO of the product", product.elbo.value, "+ KL", gap, "=", product.elbo.value + gap)

bound_figure, axes = plt.subplots(figsize=(5.5, 3.5), layout="constrained")
axes.plot(np.arange(1, len(product.history["elbo"]) + 1), product.history["elbo"], label="ELBO")
axes.axhline(log_evidence, color="k", linewidth=0.8, label="log p(y)")
axes.axhline(log_evidence - gap, color="k", linewidth=0.8, linestyle=":", label="log p(y) - KL of the best product")
axes.set(xlabel="sweep", ylabel="nats", ylim=(log_evidence - 6, log_evidence + 0.5))
axes.legend(frameon=False, loc="lower right")

# %% [markdown]
# ## Variances that are too small
#
# The product's variances are those of the conditionals, 1 / P_aa, not of the marginals. `jensen` says so, and, as
# nobody asked for q itself, answers with the moments of short chains that start in q. Linear response gives the
# covariance of a mean-field Gaussian back.

# %%
print(product)
response = jn.fit(line, "meanfield", data=data).linear_response()
sds = {"exact": np.sqrt(np.diag(cov)), "product": np.array([product.q.sds["a"], product.q.sds["b"]])}
sds |= {name: np.array([p.sd["a"], p.sd["b"]]) for name, p in (("answer", product), ("linear response", response))}
print(*(f"{name:16}{value}" for name, value in sds.items()), sep="\n")

# %% [markdown]
# ## The same conditionals, drawn from
#
# Gibbs sampling draws each variable from its conditional given the others; coordinate ascent takes the exponential of
# the expected log of that conditional. Here the two differ in one place: the other variable's draw, or its mean.
# `method="gibbs"` uses the conditionals that were found for coordinate ascent, as an independent check of it.

# %%
gibbs = jn.fit(line, family=jn.Blocks(), engine=jn.Gibbs(warmup=50, draws=500), data=data)
print(gibbs)

some, start = np.random.default_rng(0), mean.copy()
chain = np.empty((2000, 2))
for draw in chain:
    start[0] = some.normal(mean[0] - P[0, 1] / P[0, 0] * (start[1] - mean[1]), P[0, 0] ** -0.5)
    start[1] = some.normal(mean[1] - P[0, 1] / P[1, 1] * (start[0] - mean[0]), P[1, 1] ** -0.5)
    draw[:] = start

a, b = np.meshgrid(mean[0] + np.linspace(-0.7, 0.7, 100), mean[1] + np.linspace(-0.7, 0.7, 100))
height = log_density(np.stack([a, b], -1).reshape(-1, 2)).reshape(a.shape)
drawn = gibbs.draws(1000)
product_draws = some.normal(mean, sds["product"], (1000, 2))
gibbs_figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharex=True, sharey=True)
for axes, (title, first, second) in zip(
    panels, (("mean-field", *product_draws.T), ("Gibbs", drawn["a"], drawn["b"])), strict=True
):
    axes.contour(a, b, height, levels=np.log([0.01, 0.1, 0.5]), colors="0.4", linewidths=0.9)
    axes.plot(first, second, ".", markersize=2.5, alpha=0.5)
    axes.set(title=title, xlabel="a", ylabel="b")

# %% [markdown]
# ## Checks

# %%
np.testing.assert_allclose(way, by_hand, atol=1e-8)
np.testing.assert_allclose(away[1:10] / away[:9], correlation**2, rtol=1e-6)
assert (np.diff(product.history["elbo"]) >= 0).all()
np.testing.assert_allclose(product.elbo.value, log_evidence - gap, rtol=1e-7)
np.testing.assert_allclose(joint.elbo.value, log_evidence, rtol=1e-9)
np.testing.assert_allclose(sds["product"], 1 / np.sqrt(np.diag(P)), rtol=1e-8)
np.testing.assert_allclose(sds["product"] / sds["exact"], np.sqrt(1 - correlation**2), rtol=1e-8)
np.testing.assert_allclose(sds["answer"], sds["exact"], rtol=0.1)
np.testing.assert_allclose(sds["linear response"], sds["exact"], rtol=1e-4)
assert product.answer == "corrected"
# Gibbs, ours and by hand, against the exact moments, within the error of two thousand correlated draws.
for means, spread in (
    (np.array([gibbs.mean["a"], gibbs.mean["b"]]), np.array([gibbs.sd["a"], gibbs.sd["b"]])),
    (chain.mean(0), chain.std(0)),
):
    np.testing.assert_allclose(means, mean, atol=0.2 * sds["exact"].max())
    np.testing.assert_allclose(spread, sds["exact"], rtol=0.15)
assert np.corrcoef(drawn["a"], drawn["b"])[0, 1] < -0.85
