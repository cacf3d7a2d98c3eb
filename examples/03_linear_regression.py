# %% [markdown]
# # Linear regression, by PyMC's names and by jensen's
#
# The lecture's listings with one import changed: `vi.fit` where it has `pm.fit`. NUTS beside it in the long mode.
# Then the same model without numbers of steps, and a look at what the default optimizer of ADVI leaves undone.

# %%
import os

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import jensen as jn
import jensen.compat.pymc as vi

QUICK = os.environ.get("JENSEN_QUICK") == "1"
plt.style.use(jn.plots.STYLE)

# %%
size = 50
true_intercept = 1
true_slope = 2

x = np.linspace(0, 1, size)
true_regression_line = true_intercept + true_slope * x
y = true_regression_line + np.random.default_rng(0).normal(scale=0.5, size=size)

generated, ax = plt.subplots(figsize=(5, 4))
ax.plot(x, y, "o", alpha=0.5, label="sampled data")
ax.plot(x, true_regression_line, label="true regression line", lw=2.0)
ax.set(xlabel="x", ylabel="y", title="Generated data and underlying model")
ax.legend(loc=0)

# %%
with pm.Model() as model:
    sigma = pm.HalfCauchy("sigma", beta=10, initval=1.0)
    intercept = pm.Normal("Intercept", 0, sigma=20)
    x_coeff = pm.Normal("x", 0, sigma=20)

    likelihood = pm.Normal("y", mu=intercept + x_coeff * x, sigma=sigma, observed=y)

# %% [markdown]
# ## NUTS

# %%
if not QUICK:
    with model:
        trace = pm.sample(1000, tune=2000, cores=2, random_seed=1, progressbar=False)
    nuts_trace = az.plot_trace(trace).ravel()[0].figure

# %% [markdown]
# ## ADVI, mean field

# %%
with model:
    approx = vi.fit(n=20000, random_seed=1)

losses, ax = plt.subplots(figsize=(5, 3))
ax.plot(approx.hist[5000:])
ax.set(xlabel="step after the first 5000", ylabel="negative ELBO")

# %%
trace_vi = approx.sample(draws=500)
advi_trace = az.plot_trace(trace_vi).ravel()[0].figure

# %% [markdown]
# ## ADVI, full rank

# %%
with model:
    approx_fr = vi.fit(n=20000, method="fullrank_advi", random_seed=1)

trace_fullrank = approx_fr.sample(draws=500)
fullrank_trace = az.plot_trace(trace_fullrank).ravel()[0].figure

# %% [markdown]
# ## By jensen
#
# No number of steps, no learning rate. The table ends in a verdict, and the draws are an ArviZ object like any other.

# %%
posterior = jn.fit(model)
print(posterior)

# %% [markdown]
# After 20,000 steps of the default optimizer neither ADVI nor its full-rank form is where it should be, and a curve
# of losses that has become flat does not say so. `approx.posterior()` asks jensen for its verdict on it.

# %%
judged = approx_fr.posterior()
print(judged)

# %% [markdown]
# Mean-field at its optimum has the means right and cannot have the correlation of intercept and slope: its sds are
# those of one with the other held fixed.

# %%
mean_field = jn.fit(model, "meanfield", correct=False)
print(mean_field.summary())

# %%
elbo = jn.plots.elbo(posterior)
marginals = jn.plots.marginals(posterior, against=trace_fullrank if QUICK else trace)

# %% [markdown]
# ## Checks
#
# With priors this wide the posterior is that of least squares: intercept and slope have Student's t with 48 degrees
# of freedom.

# %%
design = np.c_[np.ones(size), x]
best, rss = np.linalg.lstsq(design, y, rcond=None)[:2]
cov = np.linalg.inv(design.T @ design) * rss[0] / (size - 2)
sd = np.sqrt(np.diag(cov) * (size - 2) / (size - 4))
found = np.array([posterior.mean["Intercept"], posterior.mean["x"]])
np.testing.assert_allclose(found, best, atol=0.1 * sd.min())
np.testing.assert_allclose([posterior.sd["Intercept"], posterior.sd["x"]], sd, rtol=0.1)
assert posterior.verdict.overall == "trusted"

assert approx.hist.shape == (20000,)
assert trace_vi.posterior.sizes == {"chain": 1, "draw": 500}
assert judged.verdict.overall != "trusted"
conditional = np.diag(np.linalg.inv(cov)) ** -0.5
np.testing.assert_allclose([mean_field.mean["Intercept"], mean_field.mean["x"]], best, atol=0.1 * sd.min())
np.testing.assert_allclose([mean_field.sd["Intercept"], mean_field.sd["x"]], conditional, rtol=0.05)
if not QUICK:
    draws = trace.posterior
    np.testing.assert_allclose([draws["Intercept"].mean(), draws["x"].mean()], best, atol=0.15 * sd.min())
    np.testing.assert_allclose([draws["Intercept"].std(), draws["x"].std()], sd, rtol=0.1)
