"""The scale layer: funnels and bends are found from scores alone, kept only when fresh draws agree."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.core.records import decode, encode
from jensen.diagnostics import chains, straighten
from jensen.diagnostics.starts import fresh_elbo
from jensen.engines.bends import find_layer
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.layered import ScaleLayer
from jensen.families.fullrank import DenseGaussian, from_factor
from jensen.families.layered import Layered
from jensen.families.meanfield import DiagonalGaussian
from jensen.models.pulled_back import PulledBack
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run

LOG_2PI = np.log(2 * np.pi)


def _funnel(p, data):
    v, x = p["v"], p["x"]
    return -0.5 * (v / data["s"]) ** 2 - 0.5 * (x**2).sum() * jnp.exp(-v) - 0.5 * x.shape[0] * v


def _banana(p):
    x = p["x"]
    return -0.5 * (x[0] ** 2 + (x[1] - x[0] ** 2) ** 2 + (x[2:] ** 2).sum())


def funnel(s):
    model = jn.density(_funnel, {"v": 0.0, "x": np.zeros(5)}, data={"s": np.array(1.0)})
    return Target(read(model, {"s": np.array(float(s))}))


def banana(dim=3):
    return Target(read(jn.density(_banana, {"x": np.zeros(dim)})))


def fitted(target, engine=None, seed=0):
    gaussian, _ = run(FixedDraws(), target, seed=seed, progress=False)
    q, record = run(engine or ScaleLayer(start=gaussian), target, seed=seed, progress=False)
    return gaussian, q, record


@pytest.mark.parametrize("s", [1.0, 3.0])
def test_funnels_are_found_without_chains(s):
    """The second one is deep: the width of x varies over e^9, the Gaussian's sd of v is a sixth of the right one."""
    with scope():
        target = funnel(s)
        gaussian, q, record = fitted(target)
        elbo = fresh_elbo(target, q, 5)
        assert record.status == "converged"
        assert set(q.map.parents.tolist()) == {0}
        log_z = np.log(s) + 3 * LOG_2PI
        assert log_z - 0.05 < elbo.value < log_z + 3 * elbo.error
        assert elbo.value > fresh_elbo(target, gaussian, 5).value + 0.3
        z, log_q = q.transport(q.noise(np.random.default_rng(1), 4096))
        assert (target(z)[0] - log_q).var() < 0.3
    assert abs(q.mean[0]) < 0.1 * s
    assert q.sd[0] == pytest.approx(s, rel=0.08)
    assert gaussian.sd[0] < 0.6 * s


def test_chains_reach_the_neck_of_a_deep_funnel_in_its_coordinates():
    with scope():
        target = funnel(3.0)
        _, q, _ = fitted(target)
        metric = chains.Metric(q.base.mean, q.base.scale, q.map)
        stages = []
        for seed in (2, 3, 4):  # the 1% quantile of one stage alone has an error of 0.2
            z, rng = q.sample(np.random.default_rng(seed), chains.CHAINS), np.random.default_rng(seed + 1)
            stages.append(chains.stage(target, z, metric, rng, leapfrogs=8, step=0.5, goal=0.9))
    v = np.concatenate([stage.z[..., 0] for stage in stages]) / 3
    assert min(stage.acceptance for stage in stages) > 0.8
    assert abs(v.mean()) < 0.1
    assert v.std() == pytest.approx(1, abs=0.1)
    assert np.quantile(v, 0.01) == pytest.approx(-2.33, abs=0.35)


def test_a_banana_is_bent_back():
    with scope():
        target = banana()
        gaussian, q, _ = fitted(target)
        elbo = fresh_elbo(target, q, 5)
    assert abs(elbo.value - 1.5 * LOG_2PI) < 0.01
    assert q.map.parents[0] == 0
    np.testing.assert_allclose(q.mean, [0, 1, 0], atol=0.05)
    np.testing.assert_allclose(q.sd, [1, np.sqrt(3), 1], rtol=0.06)
    assert gaussian.sd[0] < 0.8


def test_a_gaussian_is_left_alone():
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((4, 4)) + 2 * np.eye(4)
    precision = np.linalg.inv(factor @ factor.T)
    with scope():
        target = Target(read(jn.density(lambda p: -0.5 * p["x"] @ precision @ p["x"], {"x": np.zeros(4)})))
        before, record = run(ScaleLayer(), target, seed=0, progress=False)
    assert record.status == "converged"
    assert before.map.affine
    np.testing.assert_allclose(before.cov, factor @ factor.T, rtol=1e-6, atol=1e-6)


def test_a_layer_from_exact_scores_of_a_funnel_has_its_exponents():
    """With q at the exact optimum of a shallow funnel; third derivatives are those of exp(-2 w t)."""
    with scope():
        target = funnel(0.6)
        gaussian, _ = run(FixedDraws(), target, seed=0, progress=False)
        x = np.random.default_rng(4).standard_normal((8192, 6))
        gradient = target(gaussian.transport(x)[0])[1]
        found = find_layer(gaussian, np.eye(6), x, gradient)
    assert found.parents.tolist() == [0]
    np.testing.assert_allclose(found.exponents[0, 1:], 0.5 * gaussian.sd[0], rtol=0.2)
    np.testing.assert_allclose(found.bend, 0, atol=0.05)


def test_scores_of_a_gaussian_find_nothing():
    rng = np.random.default_rng(5)
    q = from_factor(rng.standard_normal(20), rng.standard_normal((20, 20)) + 4 * np.eye(20))
    x = rng.standard_normal((1024, 20))
    score = -np.linalg.solve(q.scale.T, x.T).T
    assert find_layer(q, np.eye(20), x, score) is None


def test_a_map_learnt_from_chains_is_a_start():
    rng = np.random.default_rng(6)
    v = rng.standard_normal((16, 128, 1))
    z = np.concatenate([v, np.exp(v / 2) * rng.standard_normal((16, 128, 5))], -1)
    learnt = straighten.learn(z)
    y = learnt.into(z.reshape(-1, 6))
    base = from_factor(y.mean(0), np.linalg.cholesky(np.cov(y.T)))
    with scope():
        target = funnel(1.0)
        q, _ = run(ScaleLayer(start=Layered(learnt, base)), target, seed=0, progress=False)
        elbo = fresh_elbo(target, q, 5)
    assert abs(elbo.value - 3 * LOG_2PI) < 0.02 + 3 * elbo.error


def test_two_parents_are_both_found_by_chains():
    """The first layer's directions are no coordinates; the second parent is looked for among the coordinates again."""
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((2, 16, 128, 1))
    x, y = rng.standard_normal((2, 16, 128, 3))
    z = np.concatenate([np.exp(1.2 * a) * x, a, np.exp(0.8 * b) * y, b], -1)
    assert sorted(straighten.learn(z).parents[:2].tolist()) == [3, 7]


def test_two_parents_are_both_found_by_scores():
    def density(p):
        a, b, x, y = p["a"], p["b"], p["x"], p["y"]
        return (
            -0.5 * (a**2 + b**2 + (x**2).sum() * jnp.exp(-1.6 * a) + (y**2).sum() * jnp.exp(-1.2 * b))
            - 2.4 * a
            - 1.8 * b
        )

    with scope():
        target = Target(read(jn.density(density, {"a": 0.0, "b": 0.0, "x": np.zeros(3), "y": np.zeros(3)})))
        _, q, _ = fitted(target)
        elbo = fresh_elbo(target, q, 5)
    assert set(q.map.parents.tolist()) == {0, 1}
    assert elbo.value > 4 * LOG_2PI - 0.05


def test_bit_for_bit_the_same_again_and_after_a_checkpoint():
    with scope():
        target = banana(2)
        engine = ScaleLayer()
        _, record = run(engine, target, seed=3, progress=False)
        state, ticks = engine.init(target, 3), None
        losses = []
        while ticks is None or not ticks.done:
            state, ticks = engine.advance(decode(*encode(state)), target)
            losses.append(ticks.loss[0])
            assert np.isfinite(engine.finish(state).log_prob(np.zeros((1, 2)))).all()
    np.testing.assert_array_equal(losses, record.history["loss"])
    assert np.isfinite(losses).all()


def test_steps_limit_it():
    with scope():
        q, record = run(ScaleLayer(steps=2), banana(2), seed=0, progress=False)
    assert (record.status, record.steps) == ("stopped", 2)
    assert q.map.affine


def test_gradients_are_counted_where_they_are_evaluated():
    with scope():
        target = banana(2)
        points, inner = [], target._program
        target._program = lambda z, data: points.append(len(z)) or inner(z, data)
        run(ScaleLayer(), target, seed=0, progress=False)
    assert 0 < target.gradients <= sum(points)
    assert len(set(points)) == 1


def test_refusals_are_one_sentence():
    with scope():
        one = Target(read(jn.density(lambda p: -0.5 * p["x"] ** 2, {"x": 0.0})))
        with pytest.raises(jn.UnsupportedError, match="2 to 300 dimensions"):
            ScaleLayer().init(one, 0)
        target = banana(3)
        for start in (DiagonalGaussian(np.zeros(3), np.zeros(3)), DenseGaussian(np.zeros(2), np.eye(2))):
            with pytest.raises(jn.OptionError, match="full-rank Gaussian"):
                replace(ScaleLayer(), start=start).init(target, 0)


def test_a_pulled_back_target_is_fitted_like_any_other():
    with scope():
        target = banana(2)
        straight = Layered(*_exact_banana())
        q, record = run(FixedDraws(), PulledBack(target, straight.map), seed=0, progress=False)
    assert record.status == "converged"
    np.testing.assert_allclose(q.mean, 0, atol=1e-3)
    np.testing.assert_allclose(q.cov, np.eye(2), atol=1e-3)


def _exact_banana():
    from jensen.families.maps import layer

    zero = np.zeros(2)
    m = layer(np.array([0.0, 1.0]), np.eye(2), 1e6, zero, np.array([0.0, 1.0]), zero)
    return m, DenseGaussian(zero, np.eye(2))


def test_a_layer_that_cannot_be_fitted_is_left_out(monkeypatch):
    def broken(*_):
        raise jn.NonFiniteError("no Gaussian can be fitted here.")

    with scope():
        target = banana(2)
        gaussian, _ = run(FixedDraws(), target, seed=0, progress=False)
        monkeypatch.setattr(ScaleLayer, "_bent", broken)
        q, record = run(ScaleLayer(start=gaussian), target, seed=0, progress=False)
        assert fresh_elbo(target, q, 5).value > fresh_elbo(target, gaussian, 5).value - 0.1
    assert record.status == "converged"
    assert q.map.depth == 0


def test_a_budget_of_looks_costs_little_where_the_gaussian_is_good():
    """A logistic regression with many rows: one look at fresh draws, and the Gaussian is returned."""
    rng = np.random.default_rng(8)
    X = rng.standard_normal((400, 3))
    y = (rng.uniform(size=400) < 1 / (1 + np.exp(-X @ [1, -1, 0.5]))).astype(float)

    def logistic(p):
        logits = X @ p["b"]
        return (y * logits - jnp.logaddexp(0, logits)).sum() - 0.5 * (p["b"] ** 2).sum()

    with scope():
        target = Target(read(jn.density(logistic, {"b": np.zeros(3)})))
        gaussian, _ = run(FixedDraws(), target, seed=0, progress=False)
        before = target.gradients
        q, record = run(ScaleLayer(start=gaussian), target, seed=0, progress=False)
    assert record.status == "converged"
    assert record.steps == 1
    assert target.gradients - before == 4096
    np.testing.assert_array_equal(q.cov, gaussian.cov)
