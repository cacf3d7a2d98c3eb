"""Coordinate ascent without stored probabilities: the numbers of derivations by hand, in any order and size of chunks."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from tests.conjugacy import bridge
from tests.conjugacy.checks import make, plan
from tests.conjugacy.hand import HAND
from tests.conjugacy.zoo import example
from tests.conjugacy.zoo_data import mixture, tokens
from tests.conjugacy.zoo_models import gmm, lda
from tests.tiers import quick

from jensen.conjugate import probe
from jensen.conjugate.chunks import split
from jensen.conjugate.local import responsibilities
from jensen.core.precision import scope
from jensen.engines import large
from jensen.engines.coordinate import CoordinateAscent, order
from jensen.models.numpyro_graph import graph
from jensen.run import run


def begun(found, families, rows=64, shuffle=None, smallest=10):
    """A state whose large sites have small chunks."""
    energy, locals_, _ = split(found, smallest, rows, shuffle)
    gone = {local.site for local in locals_}
    names = tuple(name for name in order(found) if name not in gone)
    return large.State(energy, locals_, names, {name: families[name] for name in names})


@pytest.mark.parametrize("name", quick(["gmm", "lda", "mixture_of_regressions"], "gmm", "lda"))
def test_sweeps_are_those_derived_by_hand(name):
    data, found = example(name).arguments, plan(name)
    state = HAND[name].start(data, np.random.default_rng(0))
    with scope("float64"):
        mine = begun(found, bridge.families(found, state), shuffle=np.random.default_rng(1))
        mine, elbos = large.steps(mine, found, large.full(mine.locals), 3)
        for elbo in elbos:
            state = HAND[name].sweep(state, data)
            np.testing.assert_allclose(elbo, HAND[name].elbo(state, data), rtol=1e-11)
        (site,) = (local.site for local in mine.locals)
        probs = state.pop(site)
        # The hand has phi of before the last sweep of the others; here it is recomputed for any rows.
        assert max(bridge.compare(found, mine.families, state).values()) < 1e-9
        state[site] = probs
        probs = HAND[name].sweep(state, data)[site]["probs"]
        rows = np.array([0, 7, 5])
        np.testing.assert_allclose(responsibilities(found, mine.families, site), probs, atol=1e-9)
        np.testing.assert_allclose(responsibilities(found, mine.families, site, rows), probs[rows], atol=1e-9)


def test_equal_rows_are_merged():
    documents = tokens(N=3000, K=3, V=20, documents=10)
    found = make(lda, {name: documents[name] for name in ("word", "doc")}, K=3, V=20, documents=10)
    with scope("float64"):
        _, (local,), (kept,) = split(found, 10, 64)
    pairs = np.unique(np.stack([documents["doc"], documents["word"]]), axis=1)
    assert local.count == len(kept) == pairs.shape[1] < 3000
    assert local.weights.sum() == 3000
    assert local.columns.shape[1] == 0


def counts(y):
    rates = numpyro.sample("rates", dist.Gamma(2.0, 0.1).expand([2]).to_event(1))
    with numpyro.plate("rows", y.shape[0]):
        z = numpyro.sample("z", dist.Categorical(np.array([0.3, 0.7])))
        numpyro.sample("y", dist.Poisson(rates[z]), obs=y)


def grouped(x, g):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    a = numpyro.sample("a", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        z = numpyro.sample("z", dist.Categorical(np.array([0.3, 0.7])))
        numpyro.sample("x", dist.Normal(mu[z] + a[g], 1.0), obs=x)


def _models():
    rng = np.random.default_rng(0)
    g = rng.integers(5, size=300)
    x = rng.choice([-3.0, 3.0], 300) + 0.3 * g + rng.standard_normal(300)
    return {"counts": (counts, {"y": rng.poisson(rng.choice([2.0, 9.0], 300))}), "grouped": (grouped, {"x": x, "g": g})}


@pytest.mark.parametrize("name", ["counts", "grouped"])
def test_the_plain_engine_agrees(name):
    model, data = _models()[name]
    found = make(model, data)
    with scope("float64"):
        q, record = run(CoordinateAscent(), found, seed=0, progress=False)
        start = {block: family for block, family in q.items() if block != "z"}
        state = begun(found, start)
        # At the plain engine's optimum a pass changes nothing, and the bound is the same.
        state, elbos = large.steps(state, found, large.full(state.locals), 2)
        np.testing.assert_allclose(elbos, record.history["elbo"][-1], rtol=1e-9)
        probs = np.asarray(q["z"].moments()["probs"])
        np.testing.assert_allclose(responsibilities(found, state.families, "z"), probs, atol=1e-3)
        if name == "counts":
            assert state.locals[0].count == len(np.unique(data["y"]))


def test_the_start_finds_the_components_and_the_fit_ends():
    arguments = mixture(N=3000)
    found = make(gmm, {"x": arguments["x"]}, K=3)
    with scope("float64"):
        engine = large.LargeCoordinateAscent(smallest=1000)
        q, record = run(engine, found, seed=3, progress=False)
        again, _ = run(engine, found, seed=3, progress=False)
        means = np.sort(np.asarray(q["mu"].moments()["mean"]))
    assert record.status == "converged"
    assert set(q) == {"pi", "mu", "tau"}
    assert (np.diff(record.history["elbo"]) >= -1e-6).all()
    np.testing.assert_allclose(means, [-6, 0, 6], atol=0.2)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), q, again))


@pytest.mark.parametrize("name", ["lda", "regression"])
def test_the_probe_of_many_rows_reads_the_same(name, monkeypatch):
    entry = example(name)
    with scope("float64"):
        traced = graph(entry.model, entry.data, entry.static)
        plain = probe.probe(traced, entry.data).readings
        monkeypatch.setattr(probe, "MANY", 0)
        simple = probe.probe(traced, entry.data).readings
    assert plain.keys() == simple.keys()
    for view, one in plain.items():
        other = simple[view]
        assert (one.parents, one.levels, one.shape) == (other.parents, other.levels, other.shape)
        np.testing.assert_array_equal(one.affine.constant, other.affine.constant)
        assert len(one.affine.slots) == len(other.affine.slots)
        for a, b in zip(one.affine.slots, other.affine.slots, strict=True):
            assert a.site == b.site
            np.testing.assert_array_equal(a.index, b.index)
            np.testing.assert_allclose(a.weight, b.weight, rtol=1e-10)


def test_small_sites_and_chains_keep_their_probabilities():
    with scope("float64"):
        for name in ("gmm", "hmm"):
            found = plan(name)
            energy, locals_, _ = split(found, 10 if name == "hmm" else 1000)
            assert locals_ == ()
            assert energy.discrete == found.energy.discrete
