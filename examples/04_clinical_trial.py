# %% [markdown]
# # Does the drug work?
#
# An exercise of the lecture, with data that Kruschke made up: IQ scores of 47 persons who took a "smart drug", and of
# 42 who took a placebo. How large is the effect, by variational inference and by NUTS?

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm

import jensen as jn
import jensen.compat.pymc as vi
from jensen.demo import DRUG, PLACEBO

QUICK = os.environ.get("JENSEN_QUICK") == "1"
plt.style.use(jn.plots.STYLE)

# %%
y = pd.DataFrame({"value": np.r_[DRUG, PLACEBO], "group": ["drug"] * len(DRUG) + ["placebo"] * len(PLACEBO)})
scores = y.hist("value", by="group", figsize=(7, 2.8)).ravel()[0].figure

# %% [markdown]
# Two means, two scales, and one number of degrees of freedom for the tails that the outliers ask for (Kruschke 2013).
# The effect size is the difference of means in units of the sds.

# %%
group = (y["group"] == "placebo").astype(int).to_numpy()
value = y["value"].to_numpy()

with pm.Model(coords={"arm": ["drug", "placebo"]}) as trial:
    mu = pm.Normal("mu", value.mean(), sigma=value.std() * 2, dims="arm")
    sigma = pm.Uniform("sigma", 1, 10, dims="arm")
    nu = pm.Deterministic("nu", pm.Exponential("nu_minus_one", 1 / 29.0) + 1)
    pm.StudentT("y", nu=nu, mu=mu[group], sigma=sigma[group], observed=value)
    difference = pm.Deterministic("difference of means", mu[0] - mu[1])
    pm.Deterministic("effect size", difference / pm.math.sqrt((sigma**2).sum() / 2))

# %% [markdown]
# ## By PyMC's names
#
# Here the steps are Adam's, because the default ones are short: the means begin a hundred away from where they should
# be.

# %%
with trial:
    advi = vi.fit(5000 if QUICK else 10000, obj_optimizer=vi.adam(learning_rate=0.02), random_seed=1)

effects = advi.sample(4000, random_seed=1).posterior[["difference of means", "effect size"]]
print(effects.mean().to_array().values, effects.std().to_array().values)

# %% [markdown]
# ## By jensen

# %%
posterior = jn.fit(trial)
print(posterior)

# %%
works = (posterior.draws(4000)["difference of means"] > 0).mean()
print(f"P(drug works) = {works:.3f}")
elbo = jn.plots.elbo(posterior)

# %% [markdown]
# ## NUTS beside it
#
# PyMC's own sampler, with chains that know nothing of the fit. In the quick mode the figure has the draws of ADVI
# instead.

# %%
if not QUICK:
    with trial:
        trace = pm.sample(2000, tune=1000, chains=4, random_seed=1, progressbar=False)
    print(jn.compare(posterior, trace, names=["jensen", "NUTS"]))

names = ["mu", "sigma", "nu", "difference of means", "effect size"]
marginals = jn.plots.marginals(posterior, against=advi.sample(4000) if QUICK else trace, var_names=names)

# %% [markdown]
# ## Checks
#
# Numbers of PyMC's NUTS, 4 x 2,000 draws.

# %%
nuts_mean, nuts_sd = (
    {"difference of means": 1.018, "effect size": 0.607},
    {"difference of means": 0.431, "effect size": 0.272},
)
for name in nuts_mean:
    np.testing.assert_allclose(posterior.mean[name], nuts_mean[name], atol=0.1 * nuts_sd[name])
    np.testing.assert_allclose(posterior.sd[name], nuts_sd[name], rtol=0.1)
    np.testing.assert_allclose(effects[name].mean(), nuts_mean[name], atol=0.5 * nuts_sd[name])
    if not QUICK:
        np.testing.assert_allclose(trace.posterior[name].mean(), nuts_mean[name], atol=0.1 * nuts_sd[name])
np.testing.assert_allclose(works, 0.989, atol=0.01)
assert posterior.verdict.overall == "trusted"
