"""Laws that every engine configuration obeys; a new engine is one more line in `ENGINES`."""

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run

ENGINES = {
    "full rank": jn.FixedDraws(jn.FullRank()),
    "mean-field": jn.FixedDraws(jn.MeanField()),
    "full rank, small design": jn.FixedDraws(jn.FullRank(), large=False),
    "mean-field, small design": jn.FixedDraws(jn.MeanField(), large=False),
}
by_engine = pytest.mark.parametrize("engine", ENGINES)


def _gaussian(p, data):
    centered = p["x"] - data["mean"]
    return -0.5 * centered @ data["precision"] @ centered


def _gaussian_data(dim, correlated, seed=0):
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0] if correlated else np.eye(dim)
    variances = np.logspace(-4, 4, dim)
    mean = 10 * rng.standard_normal(dim)
    return {"mean": mean, "precision": (rotation / variances) @ rotation.T}, (rotation * variances) @ rotation.T


def _logistic(p, data):
    logits = data["X"] @ p["beta"]
    return (data["y"] * logits - jnp.logaddexp(0, logits)).sum() - 0.5 * (p["beta"] ** 2).sum() / 4


@pytest.fixture(scope="module")
def gaussian():
    return jn.density(_gaussian, {"x": np.zeros(6)}, data=_gaussian_data(6, False)[0])


@pytest.fixture(scope="module")
def logistic():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 5))
    y = (rng.uniform(size=60) < 1 / (1 + np.exp(-X @ [1, -1, 0.5, 0, 2]))).astype(float)
    return jn.density(_logistic, {"beta": np.zeros(5)}, data={"X": X, "y": y})


def fitted(engine, model, data=None, seed=0):
    with scope():
        target = Target(read(model, data))
        q, record = run(ENGINES[engine], target, seed=seed, progress=False)
    return q, record, target


@by_engine
def test_a_gaussian_of_the_family_is_recovered_exactly(engine, gaussian):
    data, cov = _gaussian_data(6, "full" in engine)
    q, record, _ = fitted(engine, gaussian, data)
    sd = np.sqrt(np.diagonal(cov))
    assert record.status == "converged"
    assert np.abs((q.mean - data["mean"]) / sd).max() < 1e-6
    assert np.abs((q.cov - cov) / np.outer(sd, sd)).max() < 1e-6


@by_engine
def test_mean_of_a_correlated_gaussian_is_exact_in_both_families(engine, gaussian):
    data, cov = _gaussian_data(6, True)
    q, record, _ = fitted(engine, gaussian, data)
    assert record.status == "converged"
    assert np.abs((q.mean - data["mean"]) / np.sqrt(np.diagonal(cov))).max() < 1e-6
    if "mean-field" in engine:
        # The KL optimum: variances are those of the conditionals.
        np.testing.assert_allclose(q.sd, 1 / np.sqrt(np.diagonal(data["precision"])), rtol=1e-6)


@by_engine
def test_loss_never_increases_within_a_design(engine, logistic):
    with scope():
        target = Target(read(logistic))
        state = ENGINES[engine].init(target, 0)
        losses = {0: [state.point.loss]}
        done = False
        while not done:
            before = state
            state, ticks = ENGINES[engine].advance(state, target)
            # The step that changes to the large design still reports the small one's loss.
            assert ticks.loss[-1] in (state.point.loss, before.point.loss) or state.stage > before.stage
            assert state.switches == 0  # the one move that may go up; a logistic regression needs none
            losses.setdefault(state.stage, []).append(state.point.loss)
            done = ticks.done
    assert len(losses) == (1 if "small" in engine else 2)
    for values in losses.values():
        assert len(values) >= 2
        assert np.diff(values).max() <= 1e-9 * abs(values[0])


@by_engine
def test_elbo_of_the_history_is_minus_the_loss(engine, logistic):
    _, record, _ = fitted(engine, logistic)
    np.testing.assert_array_equal(record.history["elbo"], -record.history["loss"])
    assert len(record.history["loss"]) == record.steps


@by_engine
def test_the_fit_is_stationary_on_independent_draws(engine, logistic):
    """E_q[grad log p] = 0, in posterior sds, on noise the engine never saw."""
    q, _, target = fitted(engine, logistic)
    noise = np.random.default_rng(9).standard_normal((50_000, q.dim))
    with scope():
        gradient = target(q.mean + noise @ np.asarray(q.scale).T)[1] @ np.asarray(q.scale)
    slope, error = gradient.mean(0), gradient.std(0) / np.sqrt(len(noise))
    assert (np.abs(slope) < 0.03 + 4 * error).all()
    if "full rank" in engine:
        curvature = (gradient.T @ noise) / len(noise)
        np.testing.assert_allclose(curvature, -np.eye(q.dim), atol=0.08)


@by_engine
def test_bit_for_bit_the_same_again(engine, logistic):
    one, first, _ = fitted(engine, logistic)
    other, second, _ = fitted(engine, logistic)
    for name, value in one.params.items():
        np.testing.assert_array_equal(other.params[name], value)
    np.testing.assert_array_equal(first.history["loss"], second.history["loss"])


@by_engine
def test_another_seed_gives_another_design_but_the_same_answer(engine, logistic):
    one, _, _ = fitted(engine, logistic)
    other, _, _ = fitted(engine, logistic, seed=1)
    assert np.abs(one.mean - other.mean).max() > 0
    assert np.abs((one.mean - other.mean) / one.sd).max() < 0.15
    np.testing.assert_allclose(other.sd / one.sd, 1, atol=0.15)


@by_engine
def test_one_program_one_trace(engine):
    model = jn.density(_logistic, {"beta": np.zeros(2)}, data={"X": np.eye(2), "y": np.ones(2)})
    _, _, target = fitted(engine, model)
    assert target._program.traces == 1
    _, _, again = fitted(engine, model, {"X": 2 * np.eye(2)})
    assert again._program is target._program
    assert target._program.traces == 1
    _, _, other = fitted(engine, model, {"X": np.ones((3, 2)), "y": np.ones(3)})
    assert other._program.traces + target._program.traces in (2, 3)  # new shapes, one new trace


@by_engine
def test_counted_gradients_are_those_that_were_evaluated(engine, logistic):
    with scope():
        target = Target(read(logistic))
        points, inner = [], target._program
        target._program = lambda z, data: points.append(len(z)) or inner(z, data)
        run(ENGINES[engine], target, seed=0, progress=False)
    assert 0 < target.gradients <= sum(points)
    assert set(points) == {target.batch}


@by_engine
def test_refuses_an_exactly_flat_site(engine):
    model = jn.density(lambda p: -0.5 * p["a"] ** 2 + 0 * p["b"], {"a": 0.0, "b": 0.0})
    with pytest.raises(jn.ImproperError, match="site b"):
        fitted(engine, model)


@by_engine
def test_refuses_a_density_that_is_nowhere_finite(engine):
    model = jn.density(lambda p: jnp.log(-1 - p["a"] ** 2), {"a": 0.0})
    with pytest.raises(jn.NonFiniteError, match="not finite at the start"):
        fitted(engine, model)


@by_engine
def test_non_finite_regions_are_walked_around(engine):
    """NaN on one side of the start, and beyond the answer, where bold steps land; none of it within q's reach there."""

    def log_density(p):
        x = p["x"]
        return jnp.where((x > -0.25).all() & (x < 6).all(), -0.5 * ((x - 3) ** 2).sum() / 0.25, jnp.nan)

    q, record, _ = fitted(engine, jn.density(log_density, {"x": np.zeros(2)}))
    assert record.status == "converged"
    np.testing.assert_allclose(q.mean, 3, atol=1e-6)
    np.testing.assert_allclose(q.sd, 0.5, atol=1e-6)


@by_engine
def test_a_density_that_is_infinite_far_outside_does_not_stop_the_fit(engine):
    """Fifteen sds out, where q has no mass in float64, it does not matter that the density overflows."""
    model = jn.density(lambda p: jnp.where(p["x"] > 15, jnp.nan, -0.5 * p["x"] ** 2), {"x": 0.0})
    q, record, _ = fitted(engine, model)
    assert record.status == "converged"
    assert q.sd[0] == pytest.approx(1, abs=1e-6)


@by_engine
def test_finish_is_valid_at_every_step(engine, logistic):
    with scope():
        target = Target(read(logistic))
        state = ENGINES[engine].init(target, 0)
        for _ in range(3):
            q = ENGINES[engine].finish(state)
            assert np.isfinite(q.log_prob(q.sample(np.random.default_rng(0), 5))).all()
            state, _ = ENGINES[engine].advance(state, target)


@by_engine
def test_starting_at_the_answer_stays_there(engine, logistic):
    from dataclasses import replace

    q, record, target = fitted(engine, logistic)
    with scope():
        again, more = run(replace(ENGINES[engine], start=q), target, seed=0, progress=False)
    assert more.status == "converged"
    assert more.steps <= record.steps
    assert np.abs((again.mean - q.mean) / q.sd).max() < 0.01
    np.testing.assert_allclose(again.sd, q.sd, rtol=0.01)
