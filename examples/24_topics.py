# %% [markdown]
# # Topics: latent Dirichlet allocation by coordinate ascent
#
# The course's second model. Each document has its proportions of topics, each topic its probabilities of words, each
# word a topic:
#
#     theta_d ~ Dirichlet(alpha),         beta_k ~ Dirichlet(eta),
#     z_dn | theta_d ~ Discrete(theta_d),   w_dn | z_dn ~ Discrete(beta_z)
#
# Its picture is an article about the number of genes that a life needs, its words colored by four topics. Here are
# documents made of four such topics, and what coordinate ascent makes of them.
#
# `JENSEN_QUICK=1` takes fewer documents; `examples/run.py --figures` saves the figures.

# %%
import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import digamma, gammaln

import jensen as jn

QUICK = bool(os.environ.get("JENSEN_QUICK"))


# %% [markdown]
# ## Documents

# %%
THEMES = """
    gene dna genetic genome sequence mutation protein cell
    life evolve organism species survive ancestor parasite forest
    brain neuron nerve memory cortex signal vision sleep
    data number computer analysis model estimate program test
"""
COMMON = ["research", "year", "team", "paper", "week", "say", "find", "university"]
themes = [line.split() for line in THEMES.strip().splitlines()]
vocabulary = np.array(sorted({*sum(themes, []), *COMMON}))
K, V, D = len(themes), len(vocabulary), 100 if QUICK else 600
ALPHA, ETA = 0.3, 0.1

rng = np.random.default_rng(5)
topics = np.array(
    [np.where(np.isin(vocabulary, theme), 1.0, np.where(np.isin(vocabulary, COMMON), 0.3, 0.01)) for theme in themes]
)
topics *= rng.uniform(0.5, 1.5, topics.shape)
topics /= topics.sum(1, keepdims=True)
lengths = rng.integers(20, 50, size=D) if QUICK else rng.integers(40, 80, size=D)
proportions = rng.dirichlet(np.full(K, ALPHA), D)
doc = np.repeat(np.arange(D), lengths)
word = np.concatenate([rng.choice(V, n, p=theta @ topics) for n, theta in zip(lengths, proportions, strict=True)])
print(len(word), "words; the first document:", *vocabulary[word[:12]], "...")

# %% [markdown]
# ## The model
#
# As it is written above: one row for every word.


# %%
def lda(word, doc, alpha, eta, K, V, D):
    with numpyro.plate("topics", K):
        beta = numpyro.sample("beta", dist.Dirichlet(eta * jnp.ones(V)))
    with numpyro.plate("documents", D):
        theta = numpyro.sample("theta", dist.Dirichlet(alpha * jnp.ones(K)))
    with numpyro.plate("words", len(word)):
        z = numpyro.sample("z", dist.Categorical(theta[doc]))
        numpyro.sample("w", dist.Categorical(beta[z]), obs=word)


data = {"word": word, "doc": doc, "alpha": ALPHA, "eta": ETA, "K": K, "V": V, "D": D}
print(jn.conjugacy(lda, data=data))

# %%
posterior = jn.fit(lda, "cavi", data=data, correct=False)
print(*posterior.story, sep="\n")

# %% [markdown]
# ## The updates by hand
#
#     phi_dnk  proportional to  exp(E log theta_dk + E log beta_kw)
#     gamma_dk = alpha + sum_n phi_dnk,      lambda_kj = eta + sum_dn phi_dnk [w_dn = j]


# %%
def expected_log(parameters):
    return digamma(parameters) - digamma(parameters.sum(-1, keepdims=True))


def log_normalizer(parameters):
    return gammaln(parameters).sum(-1) - gammaln(parameters.sum(-1))


def sweep(gamma, lam):
    score = np.exp(expected_log(gamma)[doc] + expected_log(lam).T[word])
    phi = score / score.sum(1, keepdims=True)
    gamma, lam = np.full_like(gamma, ALPHA), np.full_like(lam, ETA)
    np.add.at(gamma, doc, phi)
    np.add.at(lam.T, word, phi)
    return gamma, lam


def elbo(gamma, lam):
    """With phi at its optimum: sum of log normalizers of phi, less the divergences of the Dirichlets from their priors."""
    log_theta, log_beta = expected_log(gamma), expected_log(lam)
    bound = np.log(np.exp(log_theta[doc] + log_beta.T[word]).sum(1)).sum()
    for parameters, prior, expected in ((gamma, ALPHA, log_theta), (lam, ETA, log_beta)):
        bound += (log_normalizer(parameters) - log_normalizer(np.full_like(parameters, prior))).sum()
        bound += ((prior - parameters) * expected).sum()
    return bound


def by_hand(seed, sweeps=40):
    rng = np.random.default_rng(seed)
    gamma, lam, curve = rng.gamma(100, 0.01, (D, K)), rng.gamma(100, 0.01, (K, V)), []
    for _ in range(sweeps):
        gamma, lam = sweep(gamma, lam)
        curve.append(elbo(gamma, lam))
    return np.array(curve)


curves = [by_hand(seed) for seed in range(4 if QUICK else 8)]
history, best = posterior.history["elbo"], posterior.elbo.value
curves_figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for curve in curves:
    axes.plot(np.arange(1, len(curve) + 1), curve, color="0.6", linewidth=0.9)
axes.plot([], [], color="0.6", label="random starts, by hand")
axes.plot(np.arange(1, len(history) + 1), history, color="tab:blue", label="jensen, start from clusters of documents")
axes.set(xlabel="sweep", ylabel="ELBO", ylim=(best - 0.08 * abs(best), best + 0.005 * abs(best)), xlim=(0, 60))
axes.legend(frameon=False, loc="lower right")

# %% [markdown]
# ## Reading the topics

# %%
beta, theta = posterior.q.means["beta"], posterior.q.means["theta"]
for k in range(K):
    print(k, *vocabulary[np.argsort(-beta[k])[:8]])

topics_figure, panels = plt.subplots(1, K, figsize=(11, 3.2), layout="constrained", sharex=True)
for k, axes in enumerate(panels):
    top = np.argsort(beta[k])[-10:]
    axes.barh(vocabulary[top], beta[k, top], xerr=posterior.q.sds["beta"][k, top], color=f"C{k}", alpha=0.7)
    axes.set_title(f"topic {k}")

# %% [markdown]
# One document: its proportions, and the most probable topic of each of its words.

# %%
mixed = int(np.argmin(np.abs(proportions - 1 / K).max(1)))
rows = np.flatnonzero(doc == mixed)
print("proportions", theta[mixed].round(2))
print(*(f"{vocabulary[word[row]]}/{k}" for row, k in zip(rows, posterior.q.probs("z", rows).argmax(1), strict=True)))

# %% [markdown]
# ## Checks

# %%
# Every curve climbs; no random start ends above.
assert all((np.diff(curve) > -1e-6).all() for curve in curves)
assert max(curve[-1] for curve in curves) < best + 1e-4 * abs(best)
# A fixed point of the course's updates, with their ELBO.
gamma, lam = (ALPHA + np.zeros((D, K)), ETA + np.zeros((K, V)))
phi = posterior.q.probs("z")
np.add.at(gamma, doc, phi)
np.add.at(lam.T, word, phi)
np.testing.assert_allclose(gamma / gamma.sum(1, keepdims=True), theta, atol=2e-3)
np.testing.assert_allclose(lam / lam.sum(1, keepdims=True), beta, atol=2e-4)
np.testing.assert_allclose(elbo(gamma, lam), best, rtol=1e-5)
# Each theme is a topic: its eight words are the first ones.
read = [set(vocabulary[np.argsort(-row)[:8]]) for row in beta]
for theme in themes:
    assert max(len(read_topic & set(theme)) for read_topic in read) >= 7
match = np.array([np.argmax([len(read_topic & set(theme)) for read_topic in read]) for theme in themes])
assert sorted(match) == list(range(K))
assert np.abs(theta[:, match] - proportions).mean() < 0.06
