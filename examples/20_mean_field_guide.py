# %% [markdown]
# # The mean-field guide
#
# A note on Pyro describes its `AutoNormal` guide: an independent normal distribution for every latent variable of any
# model, 2 d parameters for d variables, fitted by maximizing the ELBO, on minibatches if the data are many. Here is
# each of its sentences with `jensen`, whose mean-field fit is the same family, and what it says about the result.
#
# `JENSEN_QUICK=1` takes fewer rows; `examples/run.py --figures` saves the figures.

# %%
import os
import warnings

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.handlers import seed, trace
from numpyro.infer.autoguide import AutoNormal

import jensen as jn

QUICK = bool(os.environ.get("JENSEN_QUICK"))


# %% [markdown]
# ## 2 d parameters for d latent variables
#
# A regression whose rows come in groups: an intercept for each group, slopes, two scales. The scales are positive, so
# the guide's normal distributions are those of their logarithms.

# %%
rng = np.random.default_rng(1)
N, GROUPS, COLUMNS = (1000, 12, 3)
X, group = 2 + rng.normal(size=(N, COLUMNS)), rng.integers(GROUPS, size=N)
y = 1 + rng.normal(size=GROUPS)[group] + X @ [1.0, 0.0, -1.0] + rng.normal(size=N)


def grouped(X, group, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfNormal(2.0))
    with numpyro.plate("groups", GROUPS):
        a = numpyro.sample("a", dist.Normal(mu, tau))
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([COLUMNS]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(a[group] + X @ b, sigma), obs=y)


data = {"X": X, "group": group, "y": y}
meanfield = jn.fit(grouped, "meanfield", data=data)
params = meanfield.q.params
print({name: value.shape for name, value in params.items()})

# %% [markdown]
# NumPyro's guide for the same model has a location and a scale for each site; ours has them in one vector each, in the
# order of `posterior.summary()`.

# %%
ours = theirs = sum(np.size(p) for p in params.values())
if not QUICK:  # NumPyro compiles its search for a start first, which takes seconds
    guide = AutoNormal(grouped)
    sites = {
        name: np.shape(site["value"])
        for name, site in trace(seed(guide, random.key(0))).get_trace(**data).items()
        if site["type"] == "param"
    }
    print(sites)
    theirs = sum(int(np.prod(shape)) for shape in sites.values())
dim = 1 + 1 + GROUPS + COLUMNS + 1
print(
    f"{dim} latent variables: {ours} parameters, NumPyro's guide {theirs}; full rank would have {dim * (dim + 3) // 2}"
)

# %% [markdown]
# ## A product: no covariance, and an entropy that adds up

# %%
cov, sds = np.asarray(meanfield.q.cov), np.exp(params["log_sd"])
entropy = (0.5 * np.log(2 * np.pi * np.e * sds**2)).sum()
print("largest covariance of two variables", np.abs(cov - np.diag(np.diag(cov))).max())
print("entropy", float(meanfield.q.entropy()), "sum of entropies", entropy)

# %% [markdown]
# ## What is lost
#
# Correlations are lost, and with them variance: columns whose mean is not zero tie slopes and intercepts together, and
# the guide's sds are those of one of them with the others held. The verdict says for which quantities. Linear response
# asks how the means would move with the data, and gives the sds back; `method="auto"` is for users who want the
# posterior rather than a product.

# %%
print(meanfield)

# %%
response = meanfield.linear_response()
ratio = {name: meanfield.sd[name] / response.sd[name] for name in meanfield.sd}
print({name: np.round(value, 2) for name, value in ratio.items()})

# %% [markdown]
# ## Mode-seeking
#
# KL(q | p) is large where q is and p is not, so a single normal settles on one of two modes. The search for other modes
# finds what it has left out, and says so to a user who would otherwise have seen a clean convergence.

# %%
two_modes = jn.density(lambda p: jnp.logaddexp(-0.5 * (p["x"] + 4) ** 2, -0.5 * (p["x"] - 4) ** 2), {"x": 0.0})
with warnings.catch_warnings():
    warnings.simplefilter("ignore", jn.FitWarning)
    one_mode = jn.fit(two_modes, "meanfield", start={"x": 3.0})
print(one_mode)

grid = np.linspace(-8, 8, 400)
target = 0.5 * (np.exp(-0.5 * (grid + 4) ** 2) + np.exp(-0.5 * (grid - 4) ** 2)) / np.sqrt(2 * np.pi)
center, width = float(one_mode.q.mean[0]), float(one_mode.q.sd[0])
modes_figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.fill_between(grid, target, color="0.85", label="target")
axes.plot(grid, np.exp(-0.5 * ((grid - center) / width) ** 2) / np.sqrt(2 * np.pi) / width, label="mean-field")
axes.legend(frameon=False)

# %% [markdown]
# ## Subsampling
#
# A plate with `subsample_size` scales a minibatch up to all rows. The model is read as it is, and fitted by stochastic
# gradients, or by a method that needs no batches at all.

# %%
ROWS = 20_000 if QUICK else 200_000
many = rng.normal(size=(ROWS, COLUMNS))
labels = (rng.random(ROWS) < 1 / (1 + np.exp(-many @ [1.0, -0.5, 0.25]))).astype(int)


def logistic(X, y):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([COLUMNS]).to_event(1))
    with numpyro.plate("rows", X.shape[0], subsample_size=500):
        X, y = numpyro.subsample(X, event_dim=1), numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)


rows = {"X": many, "y": labels}
batches = jn.fit(logistic, "advi", data=rows, correct=False)
whole = jn.fit(logistic, "meanfield", data=rows)
off = np.abs(batches.mean["b"] - whole.mean["b"]) / whole.sd["b"]
print("minibatches", batches.mean["b"], "corrected subsample", whole.mean["b"], "difference in sds", off.round(2))

# %% [markdown]
# ## Checks

# %%
assert ours == theirs == 2 * dim
assert np.abs(cov - np.diag(np.diag(cov))).max() == 0
np.testing.assert_allclose(float(meanfield.q.entropy()), entropy)
assert ratio["b"].max() < 0.8
assert "means only" in meanfield.verdict.words
assert (
    one_mode.elbo.value < np.log(2 * np.sqrt(2 * np.pi)) - 0.6
)  # half of the mass is missing: log 2 below the evidence
assert one_mode.verdict.overall == "do not use"
assert abs(abs(center) - 4) < 0.05
assert abs(width - 1) < 0.05
assert off.max() < 1
