"""Gibbs sampling against exact posteriors: closed forms, dense linear algebra, enumeration, quadrature, filters."""

from dataclasses import replace
from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import plate, sample
from numpyro.contrib.control_flow import scan
from scipy import integrate, stats
from tests.conjugacy.hand_chains import forward_backward, smoother
from tests.conjugacy.zoo import example

from jensen.conjugate.plan import make_plan
from jensen.core.errors import OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.engines import gibbs
from jensen.engines.coordinate import CoordinateAscent
from jensen.engines.gibbs import Gibbs
from jensen.engines.slices import CHANCES, slice_all, slice_sweep
from jensen.models.numpyro_graph import graph
from jensen.run import run


def make(model, data, **sizes):
    with scope("float64"):
        return make_plan(graph(model, data, sizes), data)


@cache
def plan(name):
    entry = example(name)
    return make(entry.model, entry.data, **entry.static)


def drawn(target, seed=0, **options):
    with scope("float64"):
        draws, record = run(Gibbs(**options), target, seed=seed, progress=False)
    assert record.status == "converged"
    return draws


def error(x):
    """Monte Carlo standard error of the mean of x (chains, draws, ...), by batch means."""
    chains, n = x.shape[:2]
    batches = x[:, : n // 20 * 20].reshape(chains * 20, n // 20, *x.shape[2:]).mean(1)
    return batches.std(0, ddof=1) / np.sqrt(len(batches))


def agrees(x, mean, limit=4.5):
    assert np.max(np.abs(x.mean((0, 1)) - mean) / error(x)) < limit


# -- exact answers -------------------------------------------------------------------------------------------------------


def test_beta_bernoulli():
    y = example("beta_bernoulli").arguments["y"]
    draws = drawn(plan("beta_bernoulli"), warmup=2, draws=1000)
    exact = stats.beta(2 + y.sum(), 3 + len(y) - y.sum())
    p = draws.values["p"]
    assert p.shape == draws.log_joint.shape == (4, 1000)
    assert stats.kstest(p.ravel(), exact.cdf).pvalue > 1e-4
    log_joint = stats.beta(2, 3).logpdf(p) + y.sum() * np.log(p) + (len(y) - y.sum()) * np.log1p(-p)
    np.testing.assert_allclose(draws.log_joint, log_joint, rtol=1e-10)


def test_gamma_poisson():
    """The marginal of beta: groups are negative binomial, one dimension is left for quadrature."""
    data = example("gamma_poisson").arguments
    count, total = np.bincount(data["g"]), np.bincount(data["g"], data["y"])
    grid = np.linspace(0.05, 4, 4000)[:, None]
    weight = stats.gamma(2).logpdf(grid[:, 0]) + (3 * np.log(grid) - (3 + total) * np.log(grid + count)).sum(1)
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    draws = drawn(plan("gamma_poisson"), warmup=50, draws=800)
    agrees(draws.values["beta"], weight @ grid[:, 0])
    agrees(draws.values["beta"] ** 2, weight @ grid[:, 0] ** 2)
    agrees(draws.values["lam"], weight @ ((3 + total) / (grid + count)))


def _regression(X, y):
    b = sample("b", dist.Normal(1.0, 2.0).expand([X.shape[1]]))
    sample("y", dist.Normal(X @ b, 0.7), obs=y)


def test_regression_with_known_precision():
    """One block: draws are independent, and their covariance is the inverse of the precision."""
    data = example("regression").arguments
    X, y = data["X"], data["y"]
    b = drawn(make(_regression, data), warmup=1, draws=2000).values["b"]
    precision = X.T @ X / 0.49 + np.eye(X.shape[1]) / 4
    mean = np.linalg.solve(precision, X.T @ y / 0.49 + 0.25)
    white = (b.reshape(-1, len(mean)) - mean) @ np.linalg.cholesky(precision)
    assert stats.kstest(white.ravel(), "norm").pvalue > 1e-4
    np.testing.assert_allclose(np.cov(white.T), np.eye(len(mean)), atol=0.08)


def test_random_walk_is_the_smoother():
    y = example("random_walk_fixed").arguments["y"]
    exact = smoother(y, 16.0, 4.0)
    x = drawn(plan("random_walk_fixed"), warmup=1, draws=600).values["x"]
    agrees(x, exact["mean"])
    away = x - exact["mean"]
    agrees(away**2, exact["var"])
    agrees(away[..., 1:] * away[..., :-1], exact["lag"])


def _two_chains(y, A):
    def step(before, y_t):
        with plate("sequences", 2):
            z = sample("z", dist.Categorical(A[before]))
            sample("y", dist.Normal(2.0 * z, 1.5), obs=y_t)
        return z, None

    scan(step, jnp.zeros(2, int), y)


def test_chains_are_drawn_forward_and_backward(monkeypatch):
    """Known parameters: levels and pairs have the probabilities of the filter, and those not kept are counted."""
    A = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4]])
    y = np.random.default_rng(0).normal(2.0, 2.0, (12, 2))
    target = make(_two_chains, {"y": y, "A": A})
    z = drawn(target, warmup=1, draws=1000).values["z"]
    assert z.shape == (4, 1000, 12, 2)
    for c in range(2):
        unary = stats.norm(2.0 * np.arange(3), 1.5).logpdf(y[:, c, None])
        unary[0] += np.log(A[0])
        exact = forward_backward(unary, np.log(A))
        levels = np.eye(3)[z[..., c]]
        pairs = levels[:, :, :-1, :, None] * levels[:, :, 1:, None]
        for found, p in ((levels, exact["probs"]), (pairs, exact["pairs"])):  # one block: draws are independent
            assert (np.abs(found.mean((0, 1)) - p) < 4.5 * np.sqrt(p * (1 - p) / 4000) + 1e-3).all()
    monkeypatch.setattr(gibbs, "MOST_NUMBERS", 1000)
    counted = drawn(target, warmup=1, draws=1000)
    assert not counted.values
    np.testing.assert_allclose(counted.probabilities["z"], np.eye(3)[z].mean(1), atol=1e-12)


def test_mixture_by_enumeration():
    """Six points, two components, 64 assignments: mu integrates out, and no label is preferred."""
    x = np.array([-2.0, -1.5, -0.5, 0.3, 1.0, 2.5])
    weights, together = [], []
    for z in product((0, 1), repeat=6):
        z = np.array(z)
        cov = np.eye(6) + 25.0 * (z[:, None] == z)
        weights.append(stats.multivariate_normal(np.zeros(6), cov).pdf(x))
        together.append(z[:, None] == z)
    exact = np.einsum("i,inm->nm", weights, together) / np.sum(weights)
    entry = example("ugmm")
    z = drawn(make(entry.model, {"x": x}, K=2), warmup=100, draws=2000).values["z"]
    first, second = np.triu_indices(6, 1)
    agrees((z[..., first] == z[..., second]).astype(float), exact[first, second])
    agrees(z.astype(float), 0.5)


def test_half_normal_by_quadrature():
    """The slice step: sigma has a marginal in one dimension."""
    data = example("half_normal").arguments
    X, y = data["X"], data["y"]
    w, v = np.linalg.eigh(25 * X @ X.T)
    square = (v.T @ y) ** 2
    grid = np.linspace(0.4, 1.2, 2000)
    total = np.maximum(w, 0) + grid[:, None] ** 2
    weight = -0.5 * (np.log(total) + square / total).sum(1) - grid**2 / 8
    weight = np.exp(weight - weight.max())
    weight /= integrate.trapezoid(weight, grid)
    sigma = drawn(plan("half_normal"), warmup=50, draws=800).values["sigma"]
    mean = integrate.trapezoid(weight * grid, grid)
    agrees(sigma, mean)
    agrees((sigma - mean) ** 2, integrate.trapezoid(weight * (grid - mean) ** 2, grid))


def test_slice_keeps_a_distribution():
    """Draws of log Gamma(3) and log Gamma(900) stay such after a sweep; where the density is not finite, nothing moves."""
    shape = np.array([3.0, 900.0])
    with scope("float64"):
        x = np.log(stats.gamma(shape).rvs((3000, 2), random_state=0))

        @jax.jit
        @jax.vmap
        def move(chance, x):
            return slice_sweep(lambda x: (shape * x - jnp.exp(x)).sum(), x, chance)

        chance = 1.0 - np.random.default_rng(0).random((3000, CHANCES, 2))
        moved = np.asarray(move(chance, x))
        still = move(chance[:2], np.full((2, 2), np.inf))
    assert np.abs(moved - x).min() > 0
    assert np.isinf(still).all()
    for element in range(2):
        assert stats.kstest(np.exp(moved[:, element]), stats.gamma(shape[element]).cdf).pvalue > 1e-3


@pytest.mark.parametrize("wide", [1.0, 30.0])
def test_slices_at_once_keep_a_distribution(wide):
    """As above, with all elements moved at once; a width that fits badly is only slower."""
    shape = np.array([3.0, 900.0])
    with scope("float64"):
        rng = np.random.default_rng(0)
        x = np.log(stats.gamma(shape).rvs((3000, 2), random_state=0))
        chance = 1.0 - rng.random((3000, CHANCES, 2))
        width = wide / np.sqrt(shape)

        @jax.jit
        @jax.vmap
        def move(chance, x):
            return slice_all(lambda x: shape * x - jnp.exp(x), x, width, chance)

        moved = np.asarray(move(chance, x))
        still = move(chance[:2], np.full((2, 2), np.inf))
    assert (moved != x).mean() > 0.999
    assert np.isinf(still).all()
    for element in range(2):
        assert stats.kstest(np.exp(moved[:, element]), stats.gamma(shape[element]).cdf).pvalue > 1e-3


# -- the engine ----------------------------------------------------------------------------------------------------------


@cache
def _small():
    entry = example("ugmm")
    return make(entry.model, {"x": entry.arguments["x"][:40]}, K=2)


def _same(a, b):
    for site, value in a.values.items():
        np.testing.assert_array_equal(value, b.values[site])
    np.testing.assert_array_equal(a.log_joint, b.log_joint)


def test_chunks_and_pauses_change_nothing():
    target, engine = _small(), Gibbs(warmup=9, draws=20)
    whole = drawn(target, warmup=9, draws=20)
    with scope("float64"):
        state = engine.init(target, 0)
        lengths, losses, middle = iter([1, 5, 2, 7, 4, 5, 20, 20]), [], None
        while not engine.converged(state):
            state, ticks = engine.advance(replace(state, count=next(lengths)), target)
            losses.append(ticks.loss)
            if middle is None and state.step > 12:
                middle = engine.finish(state)
    _same(engine.finish(state), whole)
    assert len(np.concatenate(losses)) == 29
    np.testing.assert_allclose(np.concatenate(losses)[9:], -whole.log_joint.mean(0))
    length = middle.log_joint.shape[1]
    assert 0 < length < 20
    np.testing.assert_array_equal(middle.values["mu"], whole.values["mu"][:, :length])


def test_dense_blocks_finish():
    """Cholesky factors of more than four rows: a loop over such sweeps inside of one program hung on CPU."""
    target = plan("multilevel")
    assert any(len(sites) > 1 for sites in target.blocks.values())
    draws = drawn(target, warmup=10, draws=40, chains=16)
    assert draws.log_joint.shape == (16, 40)
    assert np.isfinite(draws.log_joint).all()


def test_chains_start_at_draws_of_families():
    """Given nearly the posterior, there is nothing to forget; a chain's start does not depend on their number."""
    target = _small()
    with scope("float64"):
        q, _ = run(CoordinateAscent(), target, seed=0, progress=False)
        many, two = (Gibbs(chains=n, start=q).init(target, 0).values for n in (400, 2))
        mu, probs = q["mu"].moments()["mean"], np.asarray(q["z"].moments()["probs"])
        white = np.asarray((many["mu"] - mu) / q["mu"].sd())
        with pytest.raises(OptionError, match="start must have a family for each of"):
            Gibbs(start={}).init(target, 0)
    assert stats.kstest(white.ravel(), "norm").pvalue > 1e-3
    assert (np.abs(np.eye(2)[many["z"]].mean(0) - probs) < 4.5 * np.sqrt(probs * (1 - probs) / 400) + 1e-3).all()
    for block in q:
        np.testing.assert_allclose(two[block], many[block][:2], rtol=1e-12)
    log_joint = drawn(target, warmup=0, draws=400, start=q).log_joint
    assert abs(log_joint[:, 0].mean() - log_joint.mean()) < 4 * log_joint.std() / 2


def test_thinning_takes_every_third_sweep():
    every, third = drawn(_small(), warmup=9, draws=20), drawn(_small(), warmup=9, draws=6, thin=3)
    np.testing.assert_allclose(third.values["mu"], every.values["mu"][:, 2:18:3], rtol=1e-9)


def test_stop_in_the_warmup_leaves_no_draws():
    with scope("float64"):
        draws, record = run(Gibbs(warmup=50, draws=20), _small(), seed=0, steps=3, progress=False)
    assert record.status == "stopped"
    assert draws.values["z"].shape == (4, 0, 40)
    assert draws.log_joint.shape == (4, 0)
    assert not draws.probabilities


def test_levels_not_kept_are_counted(monkeypatch):
    kept = drawn(_small(), warmup=9, draws=20)
    monkeypatch.setattr(gibbs, "MOST_NUMBERS", 4 * 20 * 40)
    counted = drawn(_small(), warmup=9, draws=20)
    assert set(counted.values) == {"mu"}
    np.testing.assert_array_equal(counted.values["mu"], kept.values["mu"])
    np.testing.assert_allclose(counted.probabilities["z"], np.eye(2)[kept.values["z"]].mean(1), atol=1e-12)


def test_what_is_not_finite_is_named():
    target = _small()
    energy = target.energy
    broken = replace(energy, constant={**energy.constant, "mu": np.nan})
    bent = replace(energy, sums=jax.tree.map(lambda leaf: leaf * np.nan if leaf.dtype == float else leaf, energy.sums))
    for wrong, word in ((broken, "the log joint"), (bent, "the complete conditional of mu")):
        with scope("float64"):
            draws, record = run(Gibbs(warmup=2, draws=5), replace(target, energy=wrong), seed=0, progress=False)
        assert record.status == "stuck"
        assert word in record.notes[0]
        assert draws.log_joint.shape == (4, 0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("probit", "b has .* auxiliary Gaussians"),
        ("poisson_factorization", "theta has .* auxiliary counts"),
        ("logistic", "b has no complete conditional .* not quadratic"),
        ("marginalized_mixture", "pi has no complete conditional"),
    ],
)
def test_refusals(name, words):
    with pytest.raises(UnsupportedError, match=words):
        Gibbs().init(plan(name), 0)


def test_a_plan_without_updates_is_refused():
    with pytest.raises(UnsupportedError, match="Gibbs sampling cannot run: b has no coordinate update"):
        Gibbs().init(replace(plan("logistic"), energy=None, refusal="b has no coordinate update"), 0)


@pytest.mark.parametrize("options", [{"warmup": -1}, {"draws": 0}, {"chains": 2.5}, {"thin": True}])
def test_options(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        Gibbs(**options)
