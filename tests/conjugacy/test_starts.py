"""Starts find the optimum that the data were drawn from, restarts the better of several, labels are invariant."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import plate, sample
from scipy.optimize import linear_sum_assignment
from tests.conjugacy import zoo_data, zoo_models
from tests.conjugacy.checks import all_moments, make

from jensen.conjugate import blocks, starts
from jensen.conjugate.labels import canonical, collapsed, level_axes, permuted
from jensen.core import keys
from jensen.core.precision import scope
from jensen.engines.coordinate import CoordinateAscent, bound
from jensen.engines.restarts import SWEEPS, Restarts, needed
from jensen.families.exponential import Dirichlet
from jensen.families.gaussian import Gaussian
from jensen.run import run

QUICK = CoordinateAscent(tolerance=1e-7)


@pytest.fixture(autouse=True)
def _float64():
    with scope("float64"):
        yield


def _plan(model, arguments):
    data = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    return make(model, data, None, **{name: value for name, value in arguments.items() if name not in data})


def _fit(plan, engine=QUICK, seed=0, steps=200):
    return run(engine, plan, seed=seed, steps=steps, progress=False)


def _ends(plan, seeds=3):
    return np.array([_fit(plan, seed=seed)[1].history["elbo"][-1] for seed in range(seeds)])


def _agreement(found, truth):
    """Share of rows with the right level, under the best naming of levels."""
    table = np.zeros((found.max() + 1, truth.max() + 1))
    np.add.at(table, (found, truth), 1)
    return table[linear_sum_assignment(-table)].sum() / len(truth)


def _rows(K, D, seed=0, N=300):
    rng = np.random.default_rng(seed)
    centers = 8.0 * np.stack(np.unravel_index(rng.permutation(K), (3, 2))[:D], 1)
    z = rng.integers(K, size=N)
    return centers[z] + rng.standard_normal((N, D)), z


def test_mixtures_of_numbers():
    K = 6
    rng = np.random.default_rng(K)
    z = rng.integers(K, size=250)
    plan = _plan(zoo_models.gmm, {"x": 6.0 * z - 3.0 * K + 0.7 * rng.standard_normal(250), "K": K})
    ends = _ends(plan)
    assert np.ptp(ends) < 1e-3 * abs(ends.max())
    q, _ = _fit(plan, seed=3)
    assert _agreement(np.asarray(q["z"].logits).argmax(-1), z) > 0.99
    assert np.allclose(np.sort(all_moments(q)["mu"]["mean"]), 6.0 * np.arange(K) - 3.0 * K, atol=0.5)


@pytest.mark.parametrize("model", [zoo_models.gmm_diagonal, zoo_models.gmm_full])
def test_mixtures_of_rows(model):
    x, z = _rows(5, 2)
    plan = _plan(model, {"x": x, "K": 5})
    for seed in range(2):
        q, record = _fit(plan, seed=seed)
        assert record.status == "converged"
        assert _agreement(np.asarray(q["z"].logits).argmax(-1), z) > 0.99
    assert collapsed(plan, q) == []


def test_hidden_markov_model():
    plan = _plan(zoo_models.hmm, zoo_data.chain())
    ends = _ends(plan)
    assert np.ptp(ends) < 1e-4 * abs(ends.max())
    q, _ = _fit(plan)
    assert level_axes(plan, "z") == {"pi": {0}, "A": {0, 1}, "mu": {0}, "tau": {0}}
    same = canonical(plan, q, lambda families: bound(plan, families))
    assert np.all(np.diff(all_moments(same)["mu"]["mean"]) > 0)


def test_topics():
    plan = _plan(zoo_models.lda, zoo_data.tokens(3000, 5, 100, 60))
    crude = [blocks.start(plan, keys.generator(seed, "crude")) for seed in range(3)]
    random = [_fit(plan, replace(QUICK, start=one))[1].history["elbo"][-1] for one in crude]
    assert np.median(_ends(plan, 3)) > np.median(random)
    assert level_axes(plan, "z") == {"phi": {0}, "theta": {1}}


def test_factors_start_at_the_singular_value_decomposition():
    plan = _plan(zoo_models.bpca, zoo_data.factors())
    rng = np.random.default_rng(0)
    first = starts.start(plan, rng)
    means = all_moments(first)
    W = np.array(means["W"]["mean"]).reshape(6, 3)
    h = np.asarray(means["h"]["mean"]).reshape(80, 3)
    x = zoo_data.factors()["x"] - zoo_data.factors()["x"].mean(0)
    s = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(((x - h @ W.T) ** 2).sum(), (s[3:] ** 2).sum(), rtol=1e-8)
    assert collapsed(plan, first) == []
    W[:, 1] = 1e-3
    empty = first | {"W": Gaussian.point(first["W"].pattern, W.reshape(-1), 0.01)}
    assert collapsed(plan, empty) == ["no loading of factor 1 is told from zero in W or h: x needs fewer factors"]
    # From there a fit needs fewer sweeps than from small random means, for a better bound.
    _, record = _fit(plan)
    crude = replace(QUICK, start=blocks.start(plan, keys.generator(0, "crude")))
    _, other = _fit(plan, crude)
    assert record.steps < other.steps
    assert record.history["elbo"][-1] > other.history["elbo"][-1]


def _switch(x):
    low, high = sample("low", dist.Normal(0.0, 10.0)), sample("high", dist.Normal(0.0, 10.0))
    with plate("rows", x.shape[0]):
        z = sample("z", dist.Categorical(jnp.array([0.5, 0.5])))
        sample("x", dist.Normal(jnp.where(z == 1, high, low), 0.5), obs=x)


def _scales(x):
    tau = sample("tau", dist.Gamma(1.0, 1.0).expand([2]))
    mu = sample("mu", dist.Normal(0.0, 10.0))
    with plate("rows", x.shape[0]):
        z = sample("z", dist.Categorical(jnp.ones(2) / 2))
        sample("x", dist.Normal(mu, tau[z] ** -0.5), obs=x)


def _classes(y, w):
    pi = sample("pi", dist.Dirichlet(jnp.ones(2)))
    rate = sample("rate", dist.Gamma(1.0, 0.1).expand([2]))
    p = sample("p", dist.Beta(jnp.ones((2, 3)), 1.0).to_event(2))
    with plate("rows", y.shape[0]):
        z = sample("z", dist.Categorical(pi))
        sample("y", dist.Poisson(rate[z]), obs=y)
        sample("w", dist.Bernoulli(p[z]).to_event(1), obs=w)


def test_features_of_other_mixtures():
    rng = np.random.default_rng(0)
    z = rng.integers(2, size=200)
    noise = rng.standard_normal(200)
    counts = {
        "y": rng.poisson(np.array([2.0, 15.0])[z]),
        "w": (rng.random((200, 3)) < 0.8 * z[:, None] + 0.1).astype(int),
    }
    for model, data, share in (
        (_switch, {"x": 1.0 + 4.0 * z + 0.5 * noise}, 0.99),
        (_scales, {"x": 5.0 + np.array([0.1, 10.0])[z] * noise}, 0.85),
        (_classes, counts, 0.95),
    ):
        plan = _plan(model, data)
        found = starts.cluster(plan, "z", {}, np.random.default_rng(1))
        assert found is not None
        assert _agreement(found, z) > share


def test_the_best_of_several_starts_goes_on():
    x, _ = _rows(6, 2, N=150)
    plan = _plan(zoo_models.gmm_diagonal, {"x": x, "K": 6})
    assert needed(plan) == 8
    single = _fit(plan)[1].history["elbo"][-1]
    q, record = _fit(plan, Restarts(QUICK, 3))
    seen = []
    again, _ = run(Restarts(QUICK, 3), plan, seed=0, steps=200, callbacks=[seen.append], progress=False)
    assert record.status == "converged"
    assert len(record.notes) == 1
    assert record.notes[0].startswith("3 starts")
    assert record.history["elbo"][-1] >= single - 1e-4 * abs(single)
    assert np.diff(record.history["elbo"]).min() > -1e-8 * abs(single)  # of one start only
    np.testing.assert_array_equal(q["z"].logits, again["z"].logits)
    engine = Restarts(replace(QUICK, start=q))
    assert engine.init(plan, 0).count == 1
    assert SWEEPS > starts.HELD
    # Callbacks see the best start so far, and what they stop is kept.
    assert [snapshot.step for snapshot in seen[:4]] == [1, 3, 7, 15]
    assert len(seen) > 8  # the other starts as well
    best = np.array([snapshot.loss[-1] for snapshot in seen])
    assert np.diff(best).max() < 1e-8 * abs(single)
    assert bound(plan, seen[7].q) >= -best[7] - 1e-8 * abs(single)
    stopped, record = run(Restarts(QUICK, 3), plan, seed=0, callbacks=[lambda s: s.step >= 7], progress=False)
    assert (record.status, record.steps) == ("stopped", 7)
    np.testing.assert_array_equal(record.history["loss"], seen[2].loss)
    np.testing.assert_array_equal(stopped["z"].logits, seen[2].q["z"].logits)


def test_permuted_levels_leave_the_bound_alone():
    x, _ = _rows(5, 2)
    plan = _plan(zoo_models.gmm_full, {"x": x, "K": 5})
    q, _ = _fit(plan)
    order = np.array([3, 1, 4, 0, 2])
    assert level_axes(plan, "z") == {"pi": {0}, "mu": {0}, "L": {0}}
    other = permuted(plan, q, "z", order)
    here, there = bound(plan, q), bound(plan, other)
    assert abs(here - there) <= 1e-10 * abs(here)
    ordered = canonical(plan, other, lambda families: bound(plan, families))
    moments = all_moments(ordered)
    mean = np.asarray(moments["mu"]["mean"]).reshape(5, 2)
    assert np.all(np.diff(mean[:, 0]) > -1.0)  # ties up to noise in the first column
    np.testing.assert_allclose(moments["z"]["probs"].sum(0), ordered["pi"].concentration - 2.0, rtol=1e-6)
    # A prior that tells levels apart: the order stays.
    broken = permuted(plan, q | {"pi": Dirichlet(np.arange(1.0, 6.0))}, "z", order)
    kept = canonical(plan, broken, lambda families: float(np.asarray(families["pi"].concentration)[0]))
    assert kept is broken


def test_collapsed_levels_are_named():
    x, _ = _rows(4, 2, N=200)
    plan = _plan(zoo_models.gmm_diagonal, {"x": x, "K": 4})
    q, _ = _fit(plan)
    assert collapsed(plan, q) == []
    logits = np.array(q["z"].logits)
    gone = q | {"z": replace(q["z"], logits=np.where(np.arange(4) == 1, -1e3, logits))}
    assert any("level 1 of z holds" in sentence for sentence in collapsed(plan, gone))
    flat = q | {"z": replace(q["z"], logits=np.zeros_like(logits))}
    assert any("same probabilities" in sentence for sentence in collapsed(plan, flat))
    twice = np.array([0, 1, 2, 2])
    copied = dict(q)
    mean = np.asarray(q["mu"].h).reshape(4, 2)[twice].reshape(-1)
    precision = np.asarray(q["mu"].precision).reshape(4, 2)[twice].reshape(-1)
    copied["mu"] = replace(q["mu"], h=mean, precision=precision)
    copied["tau"] = type(q["tau"])(np.asarray(q["tau"].concentration)[twice], np.asarray(q["tau"].rate)[twice])
    assert any("levels 2 and 3 of z are copies" in sentence for sentence in collapsed(plan, copied))


def test_starts_are_those_of_the_seed():
    plan = _plan(zoo_models.factorial_hmm, zoo_data.two_chains())
    a, b, c = (starts.start(plan, keys.generator(seed, "s")) for seed in (0, 0, 1))
    labels = starts.cluster(plan, "z1", {}, np.random.default_rng(0))
    rest = starts.cluster(plan, "z2", {"z1": labels}, np.random.default_rng(0))
    np.testing.assert_array_equal(a["z1"].unary, b["z1"].unary)
    assert not np.array_equal(a["z2"].unary, c["z2"].unary)
    y = zoo_data.two_chains()["y"]
    rough = y - np.array([y[labels == k].mean() for k in range(2)])[labels]
    fine = rough - np.array([rough[rest == k].mean() for k in range(3)])[rest]
    assert (fine**2).sum() < 0.25 * (rough**2).sum()  # the second site explains what the first leaves
    # The state before the first one is level 0, so that levels are not exchangeable.
    assert level_axes(plan, "z1") == {"A1": {1}, "m1": {0}}
    assert level_axes(plan, "z2") == {"A2": {1}, "m2": {0}}


def test_larger_clusters_get_levels_with_larger_known_probabilities():
    weights, centers = np.array([0.2, 0.3, 0.5]), np.array([-4.0, 0.0, 3.0])
    rng = np.random.default_rng(6)
    x = rng.normal(centers[rng.choice(3, 3000, p=weights)], 0.3)

    def known_weights(x):
        with plate("components", 3):
            mu = sample("mu", dist.Normal(0.0, 10.0))
        with plate("rows", len(x)):
            z = sample("z", dist.Categorical(weights))
            sample("x", dist.Normal(mu[z], 0.3), obs=x)

    plan = _plan(known_weights, {"x": x})
    for seed in range(3):
        probs = starts.start(plan, keys.generator(seed, "s"))["z"].moments()["probs"]
        np.testing.assert_allclose(np.asarray(x @ probs / probs.sum(0)), centers, atol=1.0)
