# %% [markdown]
# # Fifty thousand rows
#
# The lecture's last exercise: simulate a regression with n = 50,000, and fit it by minibatch ADVI. With `jensen` the
# same model takes three passes over the rows, and there is a closed form to compare with.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm

import jensen as jn
import jensen.compat.pymc as vi

QUICK = os.environ.get("JENSEN_QUICK") == "1"
plt.style.use(jn.plots.STYLE)

# %%
size = 50_000
rng = np.random.default_rng(2)
x = rng.random(size)
y = 1 + 2 * x + rng.normal(scale=0.5, size=size)

x_batch, y_batch = pm.Minibatch(x, y, batch_size=500)
with pm.Model() as model:
    sigma = pm.HalfCauchy("sigma", beta=10, initval=1.0)
    intercept = pm.Normal("Intercept", 0, sigma=20)
    x_coeff = pm.Normal("x", 0, sigma=20)
    pm.Normal("y", mu=intercept + x_coeff * x_batch, sigma=sigma, observed=y_batch, total_size=size)

# %% [markdown]
# ## Minibatch ADVI

# %%
tracker = vi.callbacks.Tracker(mean=lambda approx, hist, i: approx.mean.eval())
with model:
    approx = vi.fit(
        3000 if QUICK else 20000, obj_optimizer=vi.adam(learning_rate=0.01), callbacks=[tracker], random_seed=1
    )

# %% [markdown]
# ## By jensen

# %%
posterior = jn.fit(model)
print(posterior)
print(*posterior.story, sep="\n")

# %%
design = np.c_[np.ones(size), x]
best, rss = np.linalg.lstsq(design, y, rcond=None)[:2]
sd = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * rss[0] / (size - 2))

tracked, panels = plt.subplots(1, 2, figsize=(9, 3))
for ax, name, track, center, width in zip(
    panels, ("Intercept", "x"), np.array(tracker["mean"]).T[1:], best, sd, strict=True
):
    ax.plot(track, label="minibatch ADVI", linewidth=0.8)
    ax.axhspan(center - 2 * width, center + 2 * width, color="#c9ccd1", label="posterior, 2 sds")
    ax.axhline(posterior.mean[name], color="#333333", linewidth=0.9, linestyle="--", label="jensen")
    ax.set(title=name, xlabel="step", ylim=(center - 40 * width, center + 40 * width))
    ax.locator_params(axis="x", nbins=5)
panels[1].legend(loc="lower right")

for name, mean in (("minibatch ADVI", approx.mean[1:]), ("jensen", [posterior.mean["Intercept"], posterior.mean["x"]])):
    print(f"{name}: off by {np.abs((mean - best) / sd).round(3)} posterior sds")

# %% [markdown]
# ## Checks

# %%
np.testing.assert_allclose([posterior.mean["Intercept"], posterior.mean["x"]], best, atol=0.02 * sd.min())
np.testing.assert_allclose([posterior.sd["Intercept"], posterior.sd["x"]], sd, rtol=0.02)
np.testing.assert_allclose(approx.mean[1:], best, atol=0.1)
assert len(tracker["mean"]) == len(approx.hist)
