"""Laws that every engine obeys; a new engine is one more line in `ENGINES`, and what does not hold for it one in `UNLIKE`."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.core.records import decode, encode
from jensen.engines.batch_match import BatchMatch
from jensen.engines.blocks import BlockDraws
from jensen.engines.descent import Descent
from jensen.engines.laplace import Laplace
from jensen.engines.layered import ScaleLayer
from jensen.engines.lowrank import LowRankDraws
from jensen.engines.pathfinder import Pathfinder
from jensen.engines.stacked import Stacked
from jensen.engines.stein import Stein
from jensen.engines.structured import Structured
from jensen.families.flat import has_density
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run

EXACT = 1e-6
KEPT = {"none": np.eye(6), "all": np.ones((6, 6)), "sites": np.ones((6, 6)), "arrow": np.ones((6, 6))}
"""Which precisions a family follows, of sites g (2,) and z (4,)."""
KEPT["sites"][:2, 2:] = KEPT["sites"][2:, :2] = 0
KEPT["arrow"][2:, 2:] = np.eye(4)


@dataclass(frozen=True)
class Case:
    """An engine, which dependence its family follows, and how far from a Gaussian of the family it ends, in sds."""

    engine: Any
    follows: str = "all"
    off: float = EXACT


ENGINES = {
    "full rank": Case(jn.FixedDraws(jn.FullRank())),
    "mean-field": Case(jn.FixedDraws(jn.MeanField()), "none"),
    "full rank, small design": Case(jn.FixedDraws(jn.FullRank(), large=False)),
    "mean-field, small design": Case(jn.FixedDraws(jn.MeanField(), large=False), "none"),
    "blocks": Case(BlockDraws(), "sites"),
    "structured": Case(Structured(), "arrow"),
    "low rank": Case(LowRankDraws(), off=2e-3),
    "laplace": Case(Laplace()),
    "batch match": Case(BatchMatch()),
    "descent": Case(Descent(), off=1e-4),
    "stacked": Case(Stacked(starts=1)),
    "scale layer": Case(ScaleLayer()),
    "pathfinder": Case(Pathfinder(paths=2), off=0.3),
    "stein": Case(Stein(particles=200, annealing=False, steps=100), off=0.1),
}
if find_spec("flowjax"):
    from jensen.engines.flow import CouplingFlow

    ENGINES["flow"] = Case(CouplingFlow(layers=2, width=4, draws=32, steps=300), off=0.1)

_DRAWS = tuple(name for name in ENGINES if isinstance(ENGINES[name].engine, jn.FixedDraws))
_OTHERS = tuple(name for name in ENGINES if name not in _DRAWS)
_LIMITED = ("stein", "flow")
"""Whose steps are few here, so that they are stopped rather than converged."""
_SEARCH = "finds a mode, not the optimum of the ELBO"
UNLIKE = {
    "test_loss_never_increases_within_a_design": dict.fromkeys(
        _OTHERS,
        "reads the state of FixedDraws; other objectives may rise, by new draws or by what is tried and not kept",
    ),
    "test_the_mean_is_exact_and_widths_are_those_of_conditionals": {
        name: "the family follows every dependence: the first law says it all"
        for name, case in ENGINES.items()
        if case.follows == "all"
    }
    | {"structured": "refuses a posterior whose groups depend on each other"},
    "test_the_fit_is_stationary_on_independent_draws": {
        "laplace": _SEARCH,
        "batch match": "minimizes the Fisher divergence",
        "pathfinder": _SEARCH,
        "stein": "has no noise and no scale that draws are made of",
        "stacked": "a mixture is made by EM on weighted draws",
        "scale layer": "its draws are no affine map of noise",
        "flow": "its draws are no affine map of noise",
    },
    "test_another_seed_gives_another_design_but_the_same_answer": {
        "laplace": "draws nothing: another seed changes nothing"
    },
    "test_counted_gradients_are_those_that_were_evaluated": {
        "stein": "its compiled steps evaluate the density themselves"
    },
    "test_non_finite_regions_are_walked_around": {
        "batch match": "gets stuck at the wall in six dimensions, and says so; test_batch_match.py has two"
    },
    "test_starting_at_the_answer_stays_there": {
        "pathfinder": "has no start",
        "flow": "starts at a Gaussian, not at a flow",
        "stein": "starts at a Gaussian, not at particles",
        "stacked": "starts at a Gaussian, not at a mixture",
    },
}
by_engine = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(autouse=True)
def _holds(request):
    case = getattr(request.node, "callspec", None)
    reason = UNLIKE.get(request.node.originalname, {}).get(case.params.get("engine") if case else None)
    if reason:
        pytest.skip(reason)


def _gaussian(p, data):
    centered = jnp.concatenate([p["g"], p["z"]]) - data["mean"]
    return -0.5 * centered @ data["precision"] @ centered


def _gaussian_data(follows, spread=4.0, seed=0):
    """Mean and precision; variances span 10^(2 spread) where nothing is left out."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0] if follows == "all" else np.eye(6)
    precision = (rotation / np.logspace(-spread, spread, 6)) @ rotation.T
    if follows in ("sites", "arrow"):
        root = rng.standard_normal((6, 7))
        precision = root @ root.T * KEPT[follows] + (6 * np.eye(6) if follows == "arrow" else 0)
    mean = 10 * rng.standard_normal(6)
    return {"mean": mean, "precision": precision}, np.linalg.inv(precision)


def _logistic(p, data):
    logits = data["X"] @ p["beta"] + p["a"][data["group"]]
    prior = (p["beta"] ** 2).sum() / 4 + (p["a"] ** 2).sum()
    return (data["y"] * logits - jnp.logaddexp(0, logits)).sum() - 0.5 * prior


@pytest.fixture(scope="module")
def gaussian():
    return jn.density(_gaussian, {"g": np.zeros(2), "z": np.zeros(4)}, data=_gaussian_data("none")[0])


@pytest.fixture(scope="module")
def logistic():
    rng = np.random.default_rng(1)
    X, group = rng.standard_normal((60, 2)), np.arange(60) % 4
    y = (rng.uniform(size=60) < 1 / (1 + np.exp(-(X @ [1, -1] + np.array([0.5, 0, 1.5, -1])[group])))).astype(float)
    return jn.density(_logistic, {"beta": np.zeros(2), "a": np.zeros(4)}, data={"X": X, "y": y, "group": group})


def fitted(engine, model, data=None, seed=0):
    with scope():
        target = Target(read(model, data))
        q, record = run(ENGINES[engine].engine, target, seed=seed, progress=False)
    return q, record, target


@pytest.fixture(scope="module")
def fit_of_logistic(logistic):
    """The fit of an engine, made when first asked for; laws only look at it."""
    known = {}

    def fit(engine):
        if engine not in known:
            known[engine] = fitted(engine, logistic)
        return known[engine]

    return fit


def ended_well(engine, record):
    return record.status == "converged" or (engine in _LIMITED and record.status == "stopped")


@by_engine
def test_a_gaussian_of_the_family_is_recovered(engine, gaussian):
    case = ENGINES[engine]
    data, cov = _gaussian_data(case.follows, 4.0 if case.off == EXACT else 1.0)
    q, record, _ = fitted(engine, gaussian, data)
    sd = np.sqrt(np.diagonal(cov))
    assert ended_well(engine, record)
    assert np.abs((q.mean - data["mean"]) / sd).max() < case.off
    assert np.abs((q.cov - cov) / np.outer(sd, sd)).max() < case.off


@by_engine
def test_the_mean_is_exact_and_widths_are_those_of_conditionals(engine, gaussian):
    data, cov = _gaussian_data("all")
    q, record, _ = fitted(engine, gaussian, data)
    assert record.status == "converged"
    assert np.abs((q.mean - data["mean"]) / np.sqrt(np.diagonal(cov))).max() < EXACT
    # The KL optimum: what is kept of the precision, and no more.
    kept = np.linalg.inv(data["precision"] * KEPT[ENGINES[engine].follows])
    sd = np.sqrt(np.diagonal(kept))
    np.testing.assert_allclose(q.cov / np.outer(sd, sd), kept / np.outer(sd, sd), atol=EXACT)


@by_engine
def test_loss_never_increases_within_a_design(engine, logistic):
    engine = ENGINES[engine].engine
    with scope():
        target = Target(read(logistic))
        state = engine.init(target, 0)
        losses = {0: [state.point.loss]}
        done = False
        while not done:
            before = state
            state, ticks = engine.advance(state, target)
            # The step that changes to the large design still reports the small one's loss.
            assert ticks.loss[-1] in (state.point.loss, before.point.loss) or state.stage > before.stage
            assert state.switches == 0  # the one move that may go up; a logistic regression needs none
            losses.setdefault(state.stage, []).append(state.point.loss)
            done = ticks.done
    assert len(losses) == (2 if engine.large else 1)
    for values in losses.values():
        assert len(values) >= 2
        assert np.diff(values).max() <= 1e-9 * abs(values[0])


@by_engine
def test_elbo_of_the_history_is_minus_the_loss(engine, fit_of_logistic):
    _, record, _ = fit_of_logistic(engine)
    assert ended_well(engine, record)
    np.testing.assert_array_equal(record.history["elbo"], -record.history["loss"])
    assert len(record.history["loss"]) == record.steps > 0


@by_engine
def test_the_fit_is_stationary_on_independent_draws(engine, fit_of_logistic):
    """E_q[grad log p] = 0, in posterior sds, on noise the engine never saw."""
    q, _, target = fit_of_logistic(engine)
    noise = np.random.default_rng(9).standard_normal((20_000, q.dim))
    with scope():
        gradient = target(q.mean + noise @ np.asarray(q.scale).T)[1] @ np.asarray(q.scale)
    slope, error = gradient.mean(0), gradient.std(0) / np.sqrt(len(noise))
    assert (np.abs(slope) < 0.03 + 4 * error).all()
    if ENGINES[engine].follows == "all":
        np.testing.assert_allclose((gradient.T @ noise) / len(noise), -np.eye(q.dim), atol=0.1)


@by_engine
def test_bit_for_bit_the_same_again(engine, logistic, fit_of_logistic):
    one, first, _ = fit_of_logistic(engine)
    other, second, _ = fitted(engine, logistic)
    assert type(one) is type(other)
    for name, value in one.params.items():
        np.testing.assert_array_equal(other.params[name], value)
    np.testing.assert_array_equal(first.history["loss"], second.history["loss"])


@by_engine
def test_another_seed_gives_another_design_but_the_same_answer(engine, logistic, fit_of_logistic):
    one, _, _ = fit_of_logistic(engine)
    other, _, _ = fitted(engine, logistic, seed=1)
    off = max(0.15, ENGINES[engine].off)
    assert np.abs(one.mean - other.mean).max() > 0
    assert np.abs((one.mean - other.mean) / one.sd).max() < off
    np.testing.assert_allclose(other.sd / one.sd, 1, atol=off)


@by_engine
def test_the_density_is_traced_once(engine, fit_of_logistic):
    """All engines call one program: whatever they ask for, it is in batches of one shape."""
    _, _, target = fit_of_logistic(engine)
    assert target._program.traces == 1


def test_other_data_are_no_new_trace_and_other_shapes_are_one():
    model = jn.density(
        lambda p, data: -0.5 * ((data["X"] @ p["x"] - 1) ** 2).sum(), {"x": np.zeros(2)}, data={"X": np.eye(2)}
    )
    _, _, target = fitted("full rank", model)
    assert target._program.traces == 1
    _, _, again = fitted("full rank", model, {"X": 2 * np.eye(2)})
    assert again._program is target._program
    assert target._program.traces == 1
    _, _, other = fitted("full rank", model, {"X": np.array([[1.0, 0], [0, 1], [1, 1]])})
    assert other._program.traces + target._program.traces in (2, 3)  # new shapes, one new trace


@by_engine
def test_counted_gradients_are_those_that_were_evaluated(engine, logistic):
    with scope():
        target = Target(read(logistic))
        points, inner = [], target._program
        target._program = lambda z, data: points.append(len(z)) or inner(z, data)
        run(ENGINES[engine].engine, target, seed=0, progress=False)
    assert 0 < target.gradients <= sum(points)
    assert len(set(points)) == 1


@pytest.fixture(scope="module")
def flat():
    return jn.density(lambda p: -0.5 * p["a"] ** 2 + 0 * p["b"].sum(), {"a": 0.0, "b": np.zeros(3)})


@pytest.fixture(scope="module")
def nowhere():
    return jn.density(lambda p: jnp.log(-1 - p["a"] ** 2 - (p["b"] ** 2).sum()), {"a": 0.0, "b": np.zeros(3)})


@by_engine
def test_refuses_an_exactly_flat_site(engine, flat):
    with pytest.raises(jn.ImproperError, match="site b"):
        fitted(engine, flat)


@by_engine
def test_refuses_a_density_that_is_nowhere_finite(engine, nowhere):
    with pytest.raises(jn.NonFiniteError, match="not finite at (the start|zero)"):
        fitted(engine, nowhere)


@pytest.fixture(scope="module")
def walled():
    """NaN on one side of the start, and beyond the answer, where bold steps land; none of it within q's reach there."""

    def log_density(p):
        x = jnp.concatenate([p["g"], p["z"]])
        return jnp.where((x > -0.25).all() & (x < 6).all(), -0.5 * ((x - 3) ** 2).sum() / 0.25, jnp.nan)

    return jn.density(log_density, {"g": np.zeros(2), "z": np.zeros(4)})


@by_engine
def test_non_finite_regions_are_walked_around(engine, walled):
    q, record, _ = fitted(engine, walled)
    off = ENGINES[engine].off
    assert ended_well(engine, record)
    np.testing.assert_allclose(q.mean, 3, atol=max(off, 1e-6))
    np.testing.assert_allclose(q.sd, 0.5, atol=max(off, 1e-6))


@pytest.fixture(scope="module")
def cliff():
    def log_density(p):
        x = jnp.concatenate([p["g"], p["z"]])
        return jnp.where((x > 15).any(), jnp.nan, -0.5 * (x**2).sum())

    return jn.density(log_density, {"g": np.zeros(2), "z": np.zeros(4)})


@by_engine
def test_a_density_that_is_infinite_far_outside_does_not_stop_the_fit(engine, cliff):
    """Fifteen sds out, where q has no mass in float64, it does not matter that the density overflows."""
    q, record, _ = fitted(engine, cliff)
    assert ended_well(engine, record)
    np.testing.assert_allclose(q.sd, 1, atol=ENGINES[engine].off)


@by_engine
def test_finish_is_valid_at_every_step_and_states_survive_being_stored(engine, logistic):
    engine = ENGINES[engine].engine
    with scope():
        target = Target(read(logistic))
        state = engine.init(target, 0)
        for _ in range(3):
            q = engine.finish(state)
            z = q.sample(np.random.default_rng(0), 5)
            assert z.shape == (5, target.dim)
            assert np.isfinite(z).all()
            if has_density(q):
                assert np.isfinite(q.log_prob(z)).all()
            stored = decode(*encode(state))
            (state, ticks), (other, others) = engine.advance(state, target), engine.advance(stored, target)
            np.testing.assert_array_equal(ticks.loss, others.loss)
            one, two = engine.finish(state).params, engine.finish(other).params
            assert one.keys() == two.keys()
            for name, value in one.items():
                np.testing.assert_array_equal(two[name], value)
            if ticks.done:
                break


@by_engine
def test_starting_at_the_answer_stays_there(engine, logistic, fit_of_logistic):
    q, record, _ = fit_of_logistic(engine)
    with scope():
        again, more = run(replace(ENGINES[engine].engine, start=q), Target(read(logistic)), seed=0, progress=False)
    assert more.status == "converged"
    assert more.steps <= 2 * record.steps  # a stop that compares windows of noisy steps may need one window more
    assert np.abs((again.mean - q.mean) / q.sd).max() < 0.01
    np.testing.assert_allclose(again.sd, q.sd, rtol=0.01)
