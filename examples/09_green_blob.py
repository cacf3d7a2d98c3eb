# %% [markdown]
# # The green blob
#
# The answer to the question of the last example has an animation: an approximation on its way to a posterior, from
# several starts, and always to the same place. Here it is with `jensen`, for a small regression whose intercept and
# slope are correlated; then with PyMC's names, whose steps are many and short; and a posterior with two modes, where
# it is not true.

# %%
import os

import jax.numpy as jnp
import numpy as np
import pymc as pm

import jensen as jn
import jensen.compat.pymc as vi

QUICK = os.environ.get("JENSEN_QUICK") == "1"
frames = 6 if QUICK else 64

# %%
rng = np.random.default_rng(0)
x = rng.uniform(0, 2, size=30)
y = 1 + 2 * x + rng.normal(size=30)
starts = [(-1.0, 4.0), (4.0, 3.5), (3.5, -0.5), (-1.5, 0.0)]

with pm.Model() as line:
    intercept = pm.Normal("intercept", 0, 5)
    slope = pm.Normal("slope", 0, 5)
    pm.Normal("y", intercept + slope * x, 1, observed=y)

# %% [markdown]
# ## From four starts
#
# A tracker records mean and covariance of q after every step; fits begin with sds of 0.1. The posterior is Gaussian,
# and the full-rank q becomes the posterior itself; a mean-field q has the same mean and cannot be tilted.


# %%
def fits(model, method, starts):
    """Records of fits from several starts, and the fits."""
    tracks, posteriors = [], []
    for a, b in starts:
        track = jn.Tracker(mean=lambda s: s.q.mean, cov=lambda s: s.q.cov)
        start = {"intercept": a, "slope": b}
        posteriors.append(jn.fit(model, method, start=start, callbacks=[track], correct=False, progress=False))
        begin = {"mean": [[a, b]], "cov": [0.1**2 * np.eye(2)]}  # q before the first step, of which there is no record
        tracks.append({name: np.concatenate([begin[name], track[name]]) for name in begin})
    return tracks, posteriors


full_tracks, full_rank = fits(line, "fullrank", starts)
full_rank_blob = jn.plots.blob(full_tracks, line, frames=frames)

# %%
tracks, mean_field = fits(line, "meanfield", starts)
mean_field_blob = jn.plots.blob(tracks, line, frames=frames)

# %% [markdown]
# ## By PyMC's names

# %%
advi_tracks = []
for a, b in starts[: 1 if QUICK else 4]:
    advi = vi.ADVI(
        model=line, start={"intercept": a, "slope": b}, start_sigma={"intercept": 0.3, "slope": 0.3}, random_seed=1
    )
    advi_tracks.append(vi.callbacks.Tracker(mean=advi.approx.mean.eval, cov=advi.approx.cov.eval))
    advi.fit(3000, obj_optimizer=vi.adam(learning_rate=0.01), callbacks=[advi_tracks[-1]], progressbar=False)
advi_blob = jn.plots.blob(advi_tracks, line, frames=frames)

# %% [markdown]
# ## Where it is not true
#
# Over two modes the start decides. jensen says what the other one holds (here `correct=False` keeps it from looking).

# %%
two_modes = jn.density(
    lambda p: jnp.logaddexp(
        -0.5 * ((p["intercept"] + 4) ** 2 + p["slope"] ** 2),
        -0.5 * ((p["intercept"] - 4) ** 2 + (p["slope"] - 1) ** 2),
    ),
    {"intercept": 0.0, "slope": 0.0},
)
apart_tracks, apart = fits(two_modes, "meanfield", [(-6.0, 2.5), (6.5, -2.0)])
two_modes_blob = jn.plots.blob(apart_tracks, two_modes, frames=frames)

# %% [markdown]
# ## Checks
#
# The Gaussian posterior in closed form.

# %%
design = np.c_[np.ones(30), x]
cov = np.linalg.inv(design.T @ design + np.eye(2) / 25)
mean = cov @ design.T @ y
for posterior in full_rank:
    np.testing.assert_allclose(posterior.q.mean, mean, atol=1e-3)
    np.testing.assert_allclose(posterior.q.cov, cov, atol=1e-3)
for posterior in mean_field:
    np.testing.assert_allclose(posterior.q.mean, mean, atol=0.01)
    np.testing.assert_allclose(posterior.q.sd, np.diag(np.linalg.inv(cov)) ** -0.5, rtol=0.02)
for track in advi_tracks:
    np.testing.assert_allclose(track["mean"][-1], mean, atol=0.3)
ends = np.array([posterior.q.mean for posterior in apart])
np.testing.assert_allclose(ends, [[-4.0, 0.0], [4.0, 1.0]], atol=0.05)
