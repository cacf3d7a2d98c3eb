# %% [markdown]
# # Conditionally conjugate models: regression, levels, chains
#
# The course ends with the models to which coordinate ascent applies: Bayesian linear regression, multilevel regression,
# hidden Markov models, factorial models, mixtures and topics (`23_mixture_restarts.py`, `24_topics.py`). Each is a few
# lines of NumPyro here, recognized, fitted by the same call, and checked against its update written with NumPy.
#
# `JENSEN_QUICK=1` leaves out the factorial model; `examples/run.py --figures` saves the figures.

# %%
import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy.special import digamma

import jensen as jn

QUICK = bool(os.environ.get("JENSEN_QUICK"))
rng = np.random.default_rng(7)


# %% [markdown]
# ## Multilevel regression
#
# Rows in groups. A Gamma prior on a precision is conjugate, a HalfNormal prior on a standard deviation is not;
# `jn.conjugacy` says so. Without groups this is Bayesian linear regression. All coefficients together are one Gaussian
# block, whose precision has the shape of an arrow; the precisions are blocks of their own.

# %%
N, GROUPS = 300, 12
X, group = 1 + rng.normal(size=(N, 2)), rng.integers(GROUPS, size=N)
intercepts = 1 + 0.8 * rng.normal(size=GROUPS)
y = intercepts[group] + X @ [1.0, -1.0] + 0.5 * rng.normal(size=N)


def multilevel(X, group, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau_a = numpyro.sample("tau_a", dist.Gamma(1.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 10.0).expand([2]))
    with numpyro.plate("groups", GROUPS):
        a = numpyro.sample("a", dist.Normal(mu, tau_a**-0.5))
    tau = numpyro.sample("tau", dist.Gamma(1.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a[group] + X @ b, tau**-0.5), obs=y)


data = {"X": X, "group": group, "y": y}
print(jn.conjugacy(multilevel, data=data))

# %%
levels = jn.fit(multilevel, "cavi", data=data, correct=False)
print(levels)

# %% [markdown]
# By hand: given the expected precisions, the coefficients (mu, a, b) have the posterior of a linear model.

# %%
means = levels.q.means
D = np.column_stack([np.zeros(N), np.eye(GROUPS)[group], X])
P = means["tau"] * D.T @ D
P[0, 0] += 0.01 + GROUPS * means["tau_a"]
P[0, 1 : GROUPS + 1] = P[1 : GROUPS + 1, 0] = -means["tau_a"]
P[np.arange(1, GROUPS + 1), np.arange(1, GROUPS + 1)] += means["tau_a"]
P[-2:, -2:] += 0.01 * np.eye(2)
by_hand = np.linalg.solve(P, means["tau"] * D.T @ y)
sd_by_hand = np.sqrt(np.diag(np.linalg.inv(P)))

groups_figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
raw = np.array([(y - X @ [1.0, -1.0])[group == g].mean() for g in range(GROUPS)])
axes.errorbar(np.arange(GROUPS), means["a"], 2 * levels.q.sds["a"], fmt="o", label="q, two sds")
axes.plot(raw, "x", color="0.5", label="means of groups")
axes.plot(intercepts, "_", color="k", markersize=12, label="truth")
axes.axhline(means["mu"], color="0.7", linewidth=0.8)
axes.set(xlabel="group", ylabel="a")
axes.legend(frameon=False)

# %% [markdown]
# ## A hidden Markov model
#
# States follow a chain, observations the states. `scan` writes the chain; the block of all states is updated by
# messages forward and backward.

# %%
T, STATES = 200, 3
A_TRUE = np.full((STATES, STATES), 0.05) + 0.85 * np.eye(STATES)
states = np.zeros(T, int)
for t in range(1, T):
    states[t] = rng.choice(STATES, p=A_TRUE[states[t - 1]])
signal = np.array([-2.0, 0.0, 2.5])[states] + 0.7 * rng.normal(size=T)


def hidden_markov(y):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(STATES)))
    with numpyro.plate("states", STATES):
        A = numpyro.sample("A", dist.Dirichlet(jnp.ones(STATES)))
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))

    def step(before, now):
        t, y_t = now
        z = numpyro.sample("z", dist.Categorical(jnp.where(t == 0, pi, A[before])))
        numpyro.sample("y", dist.Normal(mu[z], tau[z] ** -0.5), obs=y_t)
        return z, None

    scan(step, 0, (jnp.arange(len(y)), y))


chain = jn.fit(hidden_markov, "cavi", data={"y": signal}, correct=False)
print(*chain.story, sep="\n")
probs = chain.q.probs("z")

# %% [markdown]
# By hand: forward and backward messages with the expected logarithms of pi, A and the densities.


# %%
def expected_log(parameters):
    return digamma(parameters) - digamma(parameters.sum(-1, keepdims=True))


params, found = chain.q.params, chain.q.means
shape, rate = params["tau.concentration"], params["tau.rate"]
square = (signal[:, None] - found["mu"]) ** 2 + chain.q.sds["mu"] ** 2
emission = np.exp(0.5 * (digamma(shape) - np.log(rate)) - 0.5 * found["tau"] * square)
start, moves = np.exp(expected_log(params["pi.concentration"])), np.exp(expected_log(params["A.concentration"]))
forward, backward = np.empty((T, STATES)), np.ones((T, STATES))
forward[0] = start * emission[0]
for t in range(1, T):
    forward[t] = forward[t - 1] / forward[t - 1].sum() @ moves * emission[t]
for t in range(T - 2, -1, -1):
    backward[t] = moves @ (emission[t + 1] * backward[t + 1])
    backward[t] /= backward[t].sum()
smoothed = forward * backward
smoothed /= smoothed.sum(1, keepdims=True)

chain_figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 3.6), layout="constrained", sharex=True)
top.plot(signal, ".", markersize=3, color="0.5")
top.step(np.arange(T), found["mu"][probs.argmax(1)], where="mid", color="tab:blue")
top.set(ylabel="y")
bottom.stackplot(np.arange(T), probs.T, alpha=0.7)
bottom.set(xlabel="t", ylabel="probabilities", ylim=(0, 1), xlim=(0, T - 1))

# %% [markdown]
# ## A factorial model
#
# Two chains add up to one signal. Each chain is a block, updated given the expectation of the other: structured
# mean-field.


# %%
def factorial(y):
    with numpyro.plate("first", 2):
        A = numpyro.sample("A", dist.Dirichlet(jnp.ones(2)))
        m = numpyro.sample("m", dist.Normal(0.0, 5.0))
    with numpyro.plate("second", 3):
        B = numpyro.sample("B", dist.Dirichlet(jnp.ones(3)))
        s = numpyro.sample("s", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))

    def step(before, y_t):
        u = numpyro.sample("u", dist.Categorical(A[before[0]]))
        v = numpyro.sample("v", dist.Categorical(B[before[1]]))
        numpyro.sample("y", dist.Normal(m[u] + s[v], tau**-0.5), obs=y_t)
        return (u, v), None

    scan(step, (0, 0), y)


if not QUICK:
    one, two = np.zeros(400, int), np.zeros(400, int)
    for t in range(1, 400):
        one[t] = one[t - 1] if rng.random() < 0.95 else 1 - one[t - 1]
        two[t] = two[t - 1] if rng.random() < 0.9 else rng.integers(3)
    both = np.array([-4.0, 4.0])[one] + np.array([-1.5, 0.0, 1.5])[two] + 0.3 * rng.normal(size=400)
    print(jn.conjugacy(factorial, data={"y": both}))
    pair = jn.fit(factorial, "cavi", data={"y": both}, correct=False)
    fitted = pair.q.means["m"][pair.q.probs("u").argmax(1)] + pair.q.means["s"][pair.q.probs("v").argmax(1)]
    print("sd of what is left", (both - fitted).std())
    assert (both - fitted).std() < 0.4

# %% [markdown]
# ## Checks

# %%
np.testing.assert_allclose(means["mu"], by_hand[0], atol=1e-5)
np.testing.assert_allclose(means["a"], by_hand[1 : GROUPS + 1], atol=1e-5)
np.testing.assert_allclose(means["b"], by_hand[-2:], atol=1e-5)
np.testing.assert_allclose(levels.q.sds["a"], sd_by_hand[1 : GROUPS + 1], rtol=1e-4)
np.testing.assert_allclose(levels.q.sds["b"], sd_by_hand[-2:], rtol=1e-4)
assert (np.abs(means["a"] - intercepts) < 4 * levels.q.sds["a"]).all()
np.testing.assert_allclose(probs, smoothed, atol=1e-3)
np.testing.assert_allclose(np.sort(found["mu"]), [-2.0, 0.0, 2.5], atol=0.4)
assert (probs.argmax(1) == states).mean() > 0.9
assert (np.diff(levels.history["elbo"]) > -1e-8).all()
assert (np.diff(chain.history["elbo"]) > -1e-8).all()
