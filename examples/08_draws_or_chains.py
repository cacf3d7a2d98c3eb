# %% [markdown]
# # Draws or chains?
#
# A question from a forum: a logistic regression is fitted by variational inference, and the trace plot has one chain.
# Could there be several, as with NUTS? There is nothing to have several of: draws of an approximation are
# independent, and chains are a matter of samplers whose draws depend on the one before. Here both are side by side,
# and the one starts the other.

# %%
import os

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pymc as pm

import jensen as jn
import jensen.compat.pymc as vi

QUICK = os.environ.get("JENSEN_QUICK") == "1"
plt.style.use(jn.plots.STYLE)

# %%
rng = np.random.default_rng(3)
X_train = pd.DataFrame(rng.normal(size=(200, 2)), columns=["feature_1", "feature_2"])
true_beta = np.array([0.5, 1.0, -2.0])
p = 1 / (1 + np.exp(-(true_beta[0] + X_train.to_numpy() @ true_beta[1:])))
y_train = (rng.random(200) < p).astype(int)

# %%
with pm.Model() as logistic_model:
    beta_0 = pm.Normal("beta_0", 0, 4)
    beta_1 = pm.Normal("beta_1", 0, 4)
    beta_2 = pm.Normal("beta_2", 0, 4)
    feature_1 = pm.Data("feature_1", value=X_train["feature_1"])
    feature_2 = pm.Data("feature_2", value=X_train["feature_2"])
    label = pm.Data("label", value=y_train)
    observed = pm.Bernoulli(
        "binary_label", pm.math.sigmoid(beta_0 + beta_1 * feature_1 + beta_2 * feature_2), observed=label
    )

# %%
with logistic_model:
    mean_field = vi.fit(method="advi", random_seed=1)
    trace = mean_field.sample(2000)
one_chain = az.plot_trace(trace).ravel()[0].figure

# %% [markdown]
# ## By jensen, and NUTS that starts from it
#
# `posterior.nuts()` begins its chains at draws of the fit, in its metric. That is what a variational fit is good for
# beside a sampler, and it needs a warm-up of a hundred steps.

# %%
names = ["beta_0", "beta_1", "beta_2"]
posterior = jn.fit(logistic_model)
print(posterior)
if not QUICK:
    chains = posterior.nuts(draws=1000, chains=4, progress=False)
    print(jn.compare(posterior, chains, var_names=names))
marginals = jn.plots.marginals(posterior, against=trace if QUICK else chains, var_names=names)

# %% [markdown]
# The other way round PyMC's own sampler takes a start from the fit, in the long mode.

# %%
if not QUICK:
    start = {name: float(value) for name, value in posterior.mean.items() if name in names}
    with logistic_model:
        theirs = pm.sample(1000, tune=500, chains=4, initvals=start, random_seed=1, progressbar=False)
    print(az.summary(theirs, var_names=names))

# %% [markdown]
# ## Effective sample sizes
#
# n independent draws are worth n. A chain's are worth fewer where each resembles the one before, which the
# autocorrelation shows; a random walk is the plain case, NUTS a good one.


# %%
def random_walk(n, step=0.12):
    """Metropolis chain of the same posterior's Gaussian, for comparison."""
    mean, precision = posterior.q.mean, np.linalg.inv(posterior.q.cov)
    noise = np.random.default_rng(5)
    at, found = np.array(mean), np.empty((n, 3))
    height = 0.0
    for i in range(n):
        new = at + step * noise.normal(size=3)
        other = -0.5 * (new - mean) @ precision @ (new - mean)
        if np.log(noise.random()) < other - height:
            at, height = new, other
        found[i] = at
    return found


n = 2000
independent = posterior.q.sample(np.random.default_rng(4), n)
walk = random_walk(n)
ess = {
    "independent draws of q": az.ess(independent[None, :, 1]),
    "random walk": az.ess(walk[None, :, 1]),
}
for name, value in ess.items():
    print(f"{name}: {n} draws are worth {value:.0f}")
if not QUICK:
    nuts_draws = np.stack([chains.kept.values[name] for name in names], -1)
    bulk = chains.verdict.columns["bulk ess"][: len(names)]
    print(f"NUTS: {len(nuts_draws)} draws are worth {bulk.round().astype(int)}")

# %%
side_by_side, panels = plt.subplots(2, 2, figsize=(9, 4.4), width_ratios=[2, 1])
for row, (name, draws) in zip(panels, (("independent", independent), ("random walk", walk)), strict=True):
    row[0].plot(draws[:, 1], linewidth=0.6)
    row[0].set(title=f"beta_1, {name}", xlabel="draw")
    row[1].bar(np.arange(41), az.autocorr(draws[:, 1])[:41], width=0.6)
    row[1].set(title="autocorrelation", xlabel="lag", ylim=(-0.15, 1.05))

# %% [markdown]
# ## Other data
#
# The containers of the model can be swapped: for predictions by PyMC, or by `posterior.predict`; and for a second
# fit, which compiles nothing.

# %%
X_test = pd.DataFrame({"feature_1": np.full(7, 3.0), "feature_2": np.full(7, -3.0)})
with logistic_model:
    pm.set_data({"feature_1": X_test["feature_1"], "feature_2": X_test["feature_2"], "label": np.zeros(7, int)})
    predicted = pm.sample_posterior_predictive(trace, predictions=True, random_seed=1, progressbar=False)
    pm.set_data({"feature_1": X_train["feature_1"], "feature_2": X_train["feature_2"], "label": y_train})
print("PyMC:", predicted.predictions["binary_label"].mean(("chain", "draw")).values)

new = {
    "feature_1": X_test["feature_1"].to_numpy(),
    "feature_2": X_test["feature_2"].to_numpy(),
    "label": np.zeros(7, int),
}
print("jensen:", posterior.predict(new)["binary_label"].mean(0))

flipped = jn.fit(logistic_model, data={"label": 1 - y_train})
print("labels flipped:", {name: round(float(flipped.mean[name]), 2) for name in names})

# %% [markdown]
# ## Checks
#
# The mode by Newton's method, near which the mean is.

# %%
design = np.c_[np.ones(200), X_train.to_numpy()]
beta = np.zeros(3)
for _ in range(20):
    p = 1 / (1 + np.exp(-design @ beta))
    hessian = design.T @ (design * (p * (1 - p))[:, None]) + np.eye(3) / 16
    beta += np.linalg.solve(hessian, design.T @ (y_train - p) - beta / 16)
sd = np.sqrt(np.diag(np.linalg.inv(hessian)))
mean = np.array([posterior.mean[name] for name in names])
np.testing.assert_allclose(mean, beta, atol=0.35 * sd.max())
np.testing.assert_allclose([posterior.sd[name] for name in names], sd, rtol=0.15)
if not QUICK:
    np.testing.assert_allclose(mean, nuts_draws.mean(0), atol=0.15 * sd.max())
    np.testing.assert_allclose([posterior.sd[name] for name in names], nuts_draws.std(0), rtol=0.15)
assert ess["independent draws of q"] > 0.8 * n
assert ess["random walk"] < 0.2 * n
assert abs(az.autocorr(independent[:, 1])[1]) < 0.1 < 0.8 < az.autocorr(walk[:, 1])[1]
assert trace.posterior.sizes["chain"] == 1
assert predicted.predictions["binary_label"].shape == (1, 2000, 7)
assert predicted.predictions["binary_label"].mean() > 0.95
assert posterior.predict(new)["binary_label"].mean() > 0.95
np.testing.assert_allclose([flipped.mean[name] for name in names], -mean, atol=0.05)
