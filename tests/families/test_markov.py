"""Markov chains against enumeration of every path, and against a forward-backward pass written in NumPy."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from jensen.core import precision
from jensen.families import markov
from jensen.families.markov import MarkovChain


@pytest.fixture(autouse=True)
def float64():
    with precision.scope("float64"):
        yield


def chain(seed=0, length=5, levels=3, batch=(), width=2.0):
    rng = np.random.default_rng(seed)
    unary = width * rng.standard_normal((*batch, length, levels))
    return MarkovChain(
        jnp.asarray(unary), jnp.asarray(width * rng.standard_normal((*batch, length - 1, levels, levels)))
    )


def paths(length, levels):
    return np.array(list(product(range(levels), repeat=length)))


def enumerated(q):
    """Probabilities of all paths of one chain, and log Z."""
    unary, pairwise = np.asarray(q.unary), np.asarray(q.pairwise)
    length, levels = unary.shape
    z, t = paths(length, levels), np.arange(length)
    log_weight = unary[t, z].sum(1) + pairwise[t[:-1], z[:, :-1], z[:, 1:]].sum(1)
    log_z = logsumexp(log_weight)
    return z, np.exp(log_weight - log_z), log_z


def forward_backward(q):
    """Levels' and pairs' probabilities of one chain, plain NumPy on logarithms."""
    unary, pairwise = np.asarray(q.unary), np.asarray(q.pairwise)
    f, b = np.empty_like(unary), np.zeros_like(unary)
    f[0] = unary[0]
    for t in range(1, len(unary)):
        f[t] = unary[t] + logsumexp(f[t - 1][:, None] + pairwise[t - 1], 0)
    for t in reversed(range(len(unary) - 1)):
        b[t] = logsumexp(pairwise[t] + unary[t + 1] + b[t + 1], 1)
    log_z = logsumexp(f[-1])
    return np.exp(f + b - log_z), np.exp(f[:-1, :, None] + pairwise + (unary + b)[1:, None, :] - log_z), log_z


@jax.jit
def everything(q, z):
    """What one chain has to say, and its opinion of paths z."""
    names = ("moments", "entropy", "log_partition", "valid")
    known = {name: getattr(q, name)() for name in names} | {"mean": q.mean, "sd": q.sd}
    return known | {"statistics": jax.vmap(q.statistics)(z), "log_prob": jax.vmap(q.log_prob)(z)}


at = jax.jit(MarkovChain.at)


def sample(q, seed, n):
    return np.asarray(at(q, q.noise(np.random.default_rng(seed), n)))


def close(got, probs, pairs, tolerance=1e-12):
    np.testing.assert_allclose(got["probs"], probs, rtol=tolerance, atol=1e-300)
    np.testing.assert_allclose(got["pairs"], pairs, rtol=tolerance, atol=1e-300)


@pytest.mark.parametrize("length", [1, 5])
def test_everything_is_that_of_the_enumerated_paths(length):
    q = chain(length=length)
    z, probability, log_z = enumerated(q)
    got = everything(q, z)
    close(got["moments"], *(np.tensordot(probability, got["statistics"][key], 1) for key in ("probs", "pairs")))
    np.testing.assert_allclose(got["log_partition"], log_z, rtol=1e-13)
    np.testing.assert_allclose(got["log_prob"], np.log(probability), rtol=1e-11)
    np.testing.assert_allclose(got["entropy"], -(probability * np.log(probability)).sum(), rtol=1e-11)
    np.testing.assert_allclose(got["mean"], probability @ z, rtol=1e-11)
    np.testing.assert_allclose(got["sd"] ** 2, probability @ (z - probability @ z) ** 2, rtol=1e-11)


def test_draws_have_the_frequencies_of_the_paths():
    q, n = chain(length=4, width=0.7), 50_000
    z, probability, _ = enumerated(q)
    draws = sample(q, 3, n)
    assert draws.shape == (n, 4)
    place = 3 ** np.arange(4)[::-1]
    counts = np.bincount(draws @ place, minlength=81)
    expected = n * probability[np.argsort(z @ place)]
    assert ((counts - expected) ** 2 / expected).sum() < 80 + 6 * np.sqrt(160)


def test_batch_axes_are_independent_chains():
    q = chain(length=6, batch=(2, 3))
    draws = sample(q, 0, 4)
    assert draws.shape == (4, 2, 3, 6)
    got = everything(q, jnp.asarray(draws))
    entropy, log_prob = 0.0, 0.0
    for k in np.ndindex(2, 3):
        one = MarkovChain(q.unary[k], q.pairwise[k])
        close({key: value[k] for key, value in got["moments"].items()}, *forward_backward(one)[:2])
        z, probability, log_z = enumerated(one)
        np.testing.assert_allclose(got["log_partition"][k], log_z, rtol=1e-12)
        entropy -= (probability * np.log(probability)).sum()
        log_prob += np.log(probability[(z == draws[(0, *k)]).all(1)])
    np.testing.assert_allclose(got["entropy"], entropy, rtol=1e-12)
    np.testing.assert_allclose(got["log_prob"][0], log_prob[0], rtol=1e-12)
    assert got["mean"].shape == got["sd"].shape == (2, 3, 6)


def test_two_ways_to_the_moments_agree():
    q = chain(length=50, levels=4)
    direct = markov._direct_moments(q.unary, q.pairwise)
    for one, other in zip(direct, markov._log_moments(q.unary, q.pairwise), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11)


@pytest.mark.parametrize("width", [1.0, 1e5])  # products of probabilities; logarithms
def test_steps_with_the_same_potentials_are_kept_once(width):
    q = chain(length=6, batch=(2,), width=width)
    q = MarkovChain(q.unary.at[0, 2, 1].set(-jnp.inf), q.pairwise[:, :1])
    full = MarkovChain(q.unary, jnp.broadcast_to(q.pairwise, (2, 5, 3, 3)))
    z = np.random.default_rng(0).integers(0, 2, (2, 6)) * 2
    got, expected = kept_once(q, z), kept_once(full, z)
    assert got[0]["pairs"].shape == got[1]["pairs"].shape == (2, 1, 3, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), got, summed(expected))


@jax.jit
def kept_once(q, z):
    return q.with_entropy(), q.statistics(z), q.log_prob(z)


def summed(known):
    moments, statistics, log_prob = known
    pairs = [some | {"pairs": some["pairs"].sum(-3, keepdims=True)} for some in (moments, statistics)]
    return *pairs, log_prob


@pytest.mark.parametrize("width", [30.0, 1e5])
def test_conflicting_evidence_of_many_nats(width):
    q = chain(length=30, width=width)
    probs, pairs, log_z = forward_backward(q)
    moments = jax.jit(MarkovChain.moments)(q)
    np.testing.assert_allclose(moments["probs"], probs, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(moments["pairs"], pairs, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(q.log_partition(), log_z, rtol=1e-12)
    assert q.valid()


@pytest.mark.parametrize("far", [200.0, 1e7])
def test_outliers(far):
    q = chain(length=40)
    q = MarkovChain(q.unary.at[10:20, 1].add(-far).at[15:25, 0].add(-far).at[30].add(far), q.pairwise)
    probs, pairs, _ = forward_backward(q)
    moments = jax.jit(MarkovChain.moments)(q)
    np.testing.assert_allclose(moments["probs"], probs, rtol=1e-12 + 1e-14 * far, atol=1e-20)
    np.testing.assert_allclose(moments["pairs"], pairs, rtol=1e-12 + 1e-14 * far, atol=1e-20)


@pytest.mark.slow
def test_only_a_detour_is_possible():
    # Products of probabilities would all be 0 here: each path loses a thousand nats somewhere.
    unary = jnp.array([[0.0, -1000.0], [-1000.5, 0.0]])
    q = MarkovChain(unary, jnp.array([[[0.0, -5000.0], [-5000.0, 0.0]]]))
    np.testing.assert_allclose(q.moments()["probs"][0, 0], 1 / (1 + np.exp(0.5)), rtol=1e-11)


def test_impossible_levels_and_transitions():
    # Left to right, starting at level 0.
    transitions = jnp.log(jnp.array([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.0, 0.0, 1.0]]))
    q = chain(length=6)
    q = MarkovChain(q.unary.at[0, 1:].set(-jnp.inf), jnp.broadcast_to(transitions, (5, 3, 3)))
    z, probability, _ = enumerated(q)
    got = everything(q, z)
    close(got["moments"], *(np.tensordot(probability, got["statistics"][key], 1) for key in ("probs", "pairs")))
    possible = probability[probability > 0]
    np.testing.assert_allclose(got["entropy"], -(possible * np.log(possible)).sum(), rtol=1e-11)
    assert np.isneginf(got["log_prob"][probability == 0]).all()
    assert got["valid"]
    draws = sample(q, 0, 300)
    assert (np.diff(draws, axis=1) >= 0).all()


def test_a_long_chain_keeps_its_digits():
    # A stationary chain: entropy rate and level probabilities are known, and log Z is 0.
    length, transitions = 100_000, np.array([[0.9, 0.1], [0.3, 0.7]])
    stationary = np.array([0.75, 0.25])
    unary = jnp.zeros((length, 2)).at[0].set(np.log(stationary))
    q = MarkovChain(unary + 1e3, jnp.broadcast_to(np.log(transitions), (length - 1, 2, 2)) - 7)
    moments = jax.jit(MarkovChain.moments)(q)
    np.testing.assert_allclose(moments["probs"], np.broadcast_to(stationary, (length, 2)), rtol=1e-10)
    rate = -(stationary[:, None] * transitions * np.log(transitions)).sum()
    start = -(stationary * np.log(stationary)).sum()
    np.testing.assert_allclose(markov.entropy(moments), start + (length - 1) * rate, rtol=1e-11)
    path = np.zeros(length, int)
    np.testing.assert_allclose(q.log_prob(path), np.log(0.75) + (length - 1) * np.log(0.9), rtol=1e-11)


@pytest.mark.slow
def test_single_precision():
    q = chain(length=200, width=3.0)
    for scale in (1.0, 20.0):  # the second is beyond what products hold
        single = MarkovChain((scale * q.unary).astype("float32"), (scale * q.pairwise).astype("float32"))
        double = forward_backward(MarkovChain(scale * q.unary, scale * q.pairwise))
        moments = single.moments()
        assert moments["probs"].dtype == jnp.float32
        np.testing.assert_allclose(moments["probs"], double[0], atol=2e-4)
        np.testing.assert_allclose(moments["pairs"], double[1], atol=2e-4)


def test_nan_is_seen():
    q = chain()
    assert q.valid()
    assert not MarkovChain(q.unary.at[2, 1].set(jnp.nan), q.pairwise).valid()
    assert not MarkovChain(q.unary, q.pairwise.at[2, 1, 0].set(jnp.inf)).valid()
    assert not MarkovChain(q.unary.at[2].set(-jnp.inf), q.pairwise).valid()
