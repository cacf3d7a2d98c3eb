"""Stochastic gradients: unbiased steps, settled averages, and states from which runs go on bit for bit."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jensen as jn
from jensen.core import records
from jensen.core.precision import scope
from jensen.engines import averaging, gradient, gradient_steps
from jensen.engines.gradient import Gradient
from jensen.engines.gradient_noise import noise
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run

FAMILIES = {"mean-field": jn.MeanField(), "full rank": jn.FullRank()}
by_family = pytest.mark.parametrize("family", FAMILIES)


def _gaussian(p, data):
    centered = p["x"] - data["mean"]
    return -0.5 * centered @ data["precision"] @ centered


def _gaussian_data(dim=5):
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    variances = np.logspace(-2, 2, dim)
    return {"mean": 10 * rng.standard_normal(dim), "precision": (rotation / variances) @ rotation.T}


def _logistic(p, data):
    logits = data["X"] @ p["beta"]
    return (data["y"] * logits - jnp.logaddexp(0, logits)).sum() - 0.5 * (p["beta"] ** 2).sum() / 4


@pytest.fixture(scope="module")
def gaussian():
    return jn.density(_gaussian, {"x": np.zeros(5)}, data=_gaussian_data())


@pytest.fixture(scope="module")
def logistic():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 5))
    y = (rng.uniform(size=60) < 1 / (1 + np.exp(-X @ [1, -1, 0.5, 0, 2]))).astype(float)
    return jn.density(_logistic, {"beta": np.zeros(5)}, data={"X": X, "y": y})


def fitted(engine, model, seed=0, **options):
    with scope():
        target = Target(read(model))
        q, record = run(engine, target, seed=seed, progress=False, **options)
    return q, record, target


def same(a, b):
    """Whether two states are equal bit for bit."""
    one, other = records.encode(a), records.encode(b)
    assert str(one[0]) == str(other[0])
    for x, y in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(x, y)


@by_family
def test_a_gaussian_is_exact_because_the_control_variate_leaves_no_noise(family, gaussian):
    data = _gaussian_data()
    q, record, _ = fitted(Gradient(FAMILIES[family]), gaussian)
    cov = np.linalg.inv(data["precision"])
    assert record.status == "converged"
    assert np.abs((q.mean - data["mean"]) / np.sqrt(np.diagonal(cov))).max() < 1e-6
    if family == "full rank":
        np.testing.assert_allclose(q.cov, cov, rtol=1e-5, atol=1e-8)
    else:
        np.testing.assert_allclose(q.sd, 1 / np.sqrt(np.diagonal(data["precision"])), rtol=1e-5)


@by_family
def test_it_stops_by_itself_near_the_optimum(family, logistic):
    q, record, target = fitted(Gradient(FAMILIES[family]), logistic)
    assert record.status == "converged"
    # Stationary on independent draws: E_q[grad log p] = 0, in units of q, up to the error it stops with.
    with scope():
        rng = np.random.default_rng(9)
        noise = rng.standard_normal((40_000, 5))
        scaled = target(q.mean + noise @ np.asarray(q.scale).T)[1] @ np.asarray(q.scale)
    assert np.abs(scaled.mean(0)).max() < 0.1
    np.testing.assert_allclose(-(scaled * noise).mean(0), 1, atol=0.1)


@by_family
@pytest.mark.parametrize("draws", [1, 2])
def test_the_preconditioned_step_is_an_unbiased_gradient_whatever_the_frame(family, draws, logistic):
    """E r and E r eps' with a frame that is wrong, against plain averages over many draws."""
    with scope():
        target = Target(read(logistic))
        rng = np.random.default_rng(3)
        factor = 0.3 * np.eye(5) + np.tril(0.1 * rng.standard_normal((5, 5)), -1)
        diagonal = family == "mean-field"
        if diagonal:
            factor = np.diagonal(factor).copy()
            curvature = np.diag(1 / factor**2)
            white = np.diag(factor)
        else:
            white, curvature = factor, np.linalg.inv(factor @ factor.T)
        frame = gradient_steps.Frame(*(jnp.asarray(v) for v in (white, curvature, factor, np.ones(5))))
        point = np.full(5, 0.2)
        value, slope = target(point[None])
        anchor = gradient_steps.Anchor(jnp.asarray(point), jnp.asarray(value[0]), jnp.asarray(slope[0]))
        c = np.ones(5) if diagonal else np.eye(5)
        place = gradient_steps.Place(jnp.full(5, 0.1), jnp.asarray(c))
        program = gradient_steps.natural(target.model.factors, target.model.sites, draws, False)
        rho, moves = 1e-6, []
        tally = gradient_steps.empty_tally(place)
        index = np.zeros((1, 0), np.int32)
        for step in range(1500):
            stage = gradient_steps.Stage(0, 1500, rho)
            eps = noise(5, step, 1, draws, 5)
            done, new, *_ = program(1, eps, step, stage, frame, anchor, place, tally, target.data, (), index)
            assert int(done) == 1
            moves.append((np.asarray(new.a - place.a) / rho, np.asarray(new.c - place.c) / rho))
        mean = point + white @ np.full(5, 0.1)
        eps = rng.standard_normal((200_000, 5))
        spread = factor * c if diagonal else factor @ c
        slopes = target(mean + (eps * spread if diagonal else eps @ spread.T))[1]
        expected = white.T @ slopes.mean(0)
        a, own = (np.array(part) for part in zip(*moves, strict=True))
        error = a.std(0) / np.sqrt(len(a)) + 1e-2
        assert (np.abs(a.mean(0) - expected) < 4 * error).all()
        # To first order in rho the proximal step adds 1 / c_ii.
        if diagonal:
            scale = factor * (slopes * eps).mean(0) + 1
        else:
            scale = np.tril(factor.T @ slopes.T @ eps / len(eps)) + np.eye(5)
        error = own.std(0) / np.sqrt(len(own)) + 1e-2
        assert (np.abs(own.mean(0) - scale) < 4.5 * error).all()


@pytest.mark.parametrize("optimizer", [None, "adam"])
@by_family
def test_neither_the_length_of_chunks_nor_a_stored_state_changes_a_bit(family, optimizer, logistic, monkeypatch):
    adam = optax.adam(0.02) if optimizer else None
    engine = Gradient(FAMILIES[family], adam, steps=260, average=bool(adam))
    ends = []
    for chunk in (50, 17):
        monkeypatch.setattr(gradient, "CHUNK", chunk)
        with scope():
            target = Target(read(logistic))
            state, done, losses = engine.init(target, 3), False, []
            while not done:
                if chunk == 17:
                    state = records.decode(*records.encode(state))
                state, ticks = engine.advance(state, target)
                done = ticks.done
                losses.append(ticks.loss)
        ends.append((state, np.concatenate(losses)))
    (one, losses), (other, others) = ends
    np.testing.assert_array_equal(losses, others)
    same(one, other)


@by_family
def test_any_optax_optimizer_moves_q(family, logistic):
    schedule = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(0.1, 1500)))
    q, record, target = fitted(Gradient(FAMILIES[family], schedule, steps=1500, average=True), logistic)
    assert record.steps == 1500
    with scope():
        best, _ = run(jn.FixedDraws(FAMILIES[family]), target, seed=1, progress=False)
    assert np.abs((q.mean - best.mean) / best.sd).max() < 0.15
    np.testing.assert_allclose(q.sd, best.sd, rtol=0.15)


def test_an_average_is_less_noisy_than_the_last_iterate(logistic):
    errors = {}
    _, _, target = fitted(Gradient(jn.MeanField(), steps=1), logistic)
    with scope():
        best, _ = run(jn.FixedDraws(jn.MeanField()), target, seed=1, progress=False)
    sgd = optax.sgd(0.02)
    for average in (False, True):
        some = [
            fitted(Gradient(jn.MeanField(), sgd, draws=1, steps=1500, average=average), logistic, s)[0]
            for s in range(4)
        ]
        errors[average] = np.mean([np.abs((q.mean - best.mean) / best.sd).max() for q in some])
    assert errors[True] < 0.6 * errors[False]


def _cliff(p):
    x = p["x"]
    return -0.5 * ((x - 2.0) ** 2).sum() + jnp.where(x < 3.0, 0.0, jnp.nan).sum()


def test_a_step_that_is_not_finite_goes_back_shrinks_and_gives_up_with_the_factor_named():
    model = jn.density(_cliff, {"x": np.zeros(2)})
    engine = Gradient(jn.MeanField(), optax.sgd(0.5), steps=2000)
    q, record, _ = fitted(engine, model)
    assert record.status == "stuck"
    assert np.isfinite(q.mean).all()
    assert "did not help" in record.notes[-1]
    assert "not finite at step" in record.notes[0]
    assert record.steps < 2000


def test_draws_beyond_a_cliff_that_no_fixed_draw_saw():
    model = jn.density(lambda p: (-0.5 * p["x"] ** 2 + jnp.where(p["x"] < 3.2, 0.0, jnp.nan)).sum(), {"x": np.zeros(2)})
    q, record, _ = fitted(Gradient(), model)
    assert any("x was not finite at step" in note or "log density" in note for note in record.notes)
    assert any("half as long" in note for note in record.notes)
    np.testing.assert_allclose(q.mean, 0, atol=0.1)


def test_a_learning_rate_that_is_too_large_is_repaired():
    model = jn.density(lambda p: -jnp.exp(p["x"]).sum() + p["x"].sum(), {"x": np.zeros(2)})
    q, record, _ = fitted(Gradient(jn.MeanField(), optax.sgd(30.0), steps=3000), model)
    assert any("half as long" in note for note in record.notes)
    assert np.isfinite(q.mean).all()


def test_steps_that_run_out_are_not_called_converged(logistic):
    for engine in (Gradient(steps=60), Gradient(optimizer=optax.adam(0.01), steps=60)):
        _, record, _ = fitted(engine, logistic)
        assert record.status != "converged"


def test_shorter_steps_get_a_stage_as_many_times_longer(logistic, monkeypatch):
    """In less time than steps need to forget where they began, an average looks settled that is not."""
    monkeypatch.setattr(averaging, "WANDER", 0.05)
    engine, stages = Gradient(steps=20_000), {}
    with scope():
        target = Target(read(logistic))
        state, done = engine.init(target, 0), False
        while not done:
            state, ticks = engine.advance(state, target)
            done = ticks.done
            if hasattr(state, "stage"):
                stages[state.stage.begin] = state.stage
    assert min(stage.rho for stage in stages.values()) < 0.02
    times = [stage.rho * stage.length for _, stage in sorted(stages.items())]
    assert times == sorted(times)


def test_settling_of_noise_of_drift_and_of_steps_that_wander():
    rng = np.random.default_rng(0)
    length, windows = 6400, 16

    def judged(x):
        parts = np.split(x, windows)
        return averaging.settling(
            np.array([part.sum(0) for part in parts]), np.array([(part**2).sum(0) for part in parts]), length
        )

    noise = rng.standard_normal((length, 40))
    calm = judged(0.1 * noise)
    # Of 40 quantities the largest: about 2 times the error of one, 0.1 / sqrt(3200).
    assert 0.1 / np.sqrt(length / 2) < calm.mcse < 3 * 0.1 / np.sqrt(length / 2)
    assert calm.stationary
    assert 0.08 < calm.wander < 0.12
    drifting = judged(0.1 * noise + np.linspace(0, 1, length)[:, None])
    assert not drifting.stationary
    assert 0.2 < drifting.drift < 0.3
    slow = 0.01 * np.cumsum(noise, 0)
    assert judged(slow).mcse > 10 * calm.mcse
    assert judged(2 * noise).wander > averaging.WANDER


@pytest.mark.parametrize(
    ("options", "word"),
    [({"draws": 0}, "draws"), ({"steps": 0}, "steps"), ({"draws": True}, "draws"), ({"optimizer": "adam"}, "optax")],
)
def test_options_that_make_no_sense(options, word):
    with pytest.raises(jn.OptionError, match=word):
        Gradient(**options)


def test_batches_need_rows(logistic):
    with pytest.raises(jn.OptionError, match="batch_size"):
        fitted(Gradient(batch_size=10), logistic)
