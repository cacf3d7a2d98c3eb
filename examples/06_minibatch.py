# %% [markdown]
# # Minibatches
#
# 40,000 rows of 100 columns, a mean and an sd for each. All rows in every step are slow, which a callback of the
# lecture notices; minibatches are quick, and with the default optimizer far from the answer after 10,000 steps. With
# `jensen` coordinate ascent sums the rows up once, and needs neither.

# %%
import os
import time

import matplotlib.pyplot as plt
import numpy as np
import pymc as pm
from pytensor.tensor import TensorVariable

import jensen as jn
import jensen.compat.pymc as vi

QUICK = os.environ.get("JENSEN_QUICK") == "1"
plt.style.use(jn.plots.STYLE)

# %%
rng = np.random.default_rng(0)
rows, columns = (1000, 4) if QUICK else (40000, 100)
# Raw values
data = rng.random((rows, columns))
# Scaled values
data *= rng.integers(1, 10, size=(columns,))
# Shifted values
data += rng.random(columns) * 10

# %% [markdown]
# ## All rows in every step

# %%
with pm.Model() as model:
    mu = pm.Flat("mu", shape=(columns,))
    sd = pm.HalfNormal("sd", shape=(columns,))
    like = pm.Normal("like", mu, sd, observed=data)


# %%
def stop_after_10(approx, loss_history, i):
    """Stop after ten steps, however they went."""
    if (i > 0) and (i % 10) == 0:
        raise StopIteration("I was slow, sorry")


with model:
    slow = vi.fit(callbacks=[stop_after_10], random_seed=1)
print(f"{len(slow.hist)} steps")

# %% [markdown]
# Or after some seconds, which is what was meant (`budget=` of `jn.fit` does the same):


# %%
def stop_after_seconds(seconds):
    """A callback that stops the fit a time after its first call."""
    begun = []

    def callback(approx, loss_history, i):
        begun.append(time.perf_counter())
        if begun[-1] - begun[0] > seconds:
            raise StopIteration(f"{i} steps took {seconds} s")

    return callback


seconds = 0.2 if QUICK else 5.0
with model:
    stopped = vi.fit(10**5, callbacks=[stop_after_seconds(seconds)], random_seed=1)
print(f"{len(stopped.hist)} steps in {seconds} s")

# %% [markdown]
# ## Minibatches of 500 rows
#
# In the lecture's PyMC `pm.Minibatch` was a class of tensors; now it is a function that returns one.

# %%
X = pm.Minibatch(data, batch_size=500)
print(type(X).__name__, isinstance(X, TensorVariable))

with pm.Model() as batched:
    mu = pm.Flat("mu", shape=(columns,))
    sd = pm.HalfNormal("sd", shape=(columns,))
    likelihood = pm.Normal("likelihood", mu, sd, observed=X, total_size=data.shape)

# %%
with batched:
    advifit = vi.fit(3000 if QUICK else 10000, random_seed=1)

losses, ax = plt.subplots(figsize=(6, 3))
ax.plot(advifit.hist)
ax.set(xlabel="step", ylabel="negative ELBO of 500 rows", yscale="log")

# %% [markdown]
# The curve is nearly flat at its end, and the means are still on their way: a step of the default optimizer is at
# most a thousandth long. Adam with longer steps gets there, up to the noise of its batches.

# %%
fits = {"default": advifit}
if not QUICK:
    with batched:
        fits["Adam"] = vi.fit(obj_optimizer=vi.adam(learning_rate=0.02), random_seed=1)


def off(mean):
    """How far means are from those of the columns, in posterior sds."""
    return np.abs(mean - data.mean(0)) / (data.std(0) / np.sqrt(rows))


for name, fit in fits.items():
    sds = off(fit.mean[:columns])
    print(f"{name}: means off by {np.median(sds):.1f} posterior sds, at most {sds.max():.1f}")

# %% [markdown]
# ## By jensen
#
# The model without batches, or with them: those are set aside. A model is summed up once, where its rows allow it.

# %%
posterior = jn.fit(batched)
print(*posterior.story, sep="\n")
print(posterior.verdict)
print(f"means off by at most {off(posterior.mean['mu']).max():.3f} posterior sds")

# %%
errors, ax = plt.subplots(figsize=(6, 3))
for name, fit in fits.items():
    ax.semilogy(np.sort(off(fit.mean[:columns])) + 1e-6, label=f"minibatch ADVI, {name}")
ax.semilogy(np.sort(off(posterior.mean["mu"])) + 1e-6, label="jensen")
ax.set(xlabel="column, sorted", ylabel="error of the mean, sds")
ax.legend()

# %% [markdown]
# ## Checks

# %%
assert len(slow.hist) == 10
assert 10 < len(stopped.hist) < 10**5
assert advifit.hist[-100:].mean() < advifit.hist[:100].mean()
if not QUICK:
    # Losses are per batch: the cross entropy of a row under the normals, 500 times.
    entropy = 500 * (np.log(data.std(0)) + 0.5 * np.log(2 * np.pi * np.e)).sum()
    np.testing.assert_allclose(fits["Adam"].hist[-200:].mean(), entropy, rtol=0.05)
    assert np.median(off(fits["Adam"].mean[:columns])) < np.median(off(advifit.mean[:columns]))
# The exact posterior of a mean is Student's t around that of the column, nearly.
assert off(posterior.mean["mu"]).max() < 0.05
np.testing.assert_allclose(posterior.mean["sd"], data.std(0), rtol=0.01)
np.testing.assert_allclose(posterior.sd["mu"], data.std(0) / np.sqrt(rows), rtol=0.05)
