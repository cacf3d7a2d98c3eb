"""The engine of flows: what it finds, when it stops, and what it refuses."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flowjax")

import jensen as jn
from jensen.core.errors import NonFiniteError, OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.core.records import decode, encode
from jensen.engines.flow import CHUNK, CouplingFlow
from jensen.families.fullrank import FullRank
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run

SMALL = CouplingFlow(layers=4, width=8, draws=64, steps=1000)


def _banana(p):
    bent = p["z"][1] - 1.5 * (p["z"][0] ** 2 - 1)
    return -0.5 * (p["z"][0] ** 2 + bent**2) - jnp.log(2 * jnp.pi)


def _skewed(p):
    """log of an Exponential(1) variable."""
    return p["x"] - jnp.exp(p["x"])


def _correlated(p):
    return -0.5 * ((p["x"][0] - 1) ** 2 + 4 * (p["x"][1] - p["x"][0]) ** 2) - jnp.log(jnp.pi)


def fit(engine, function, value, seed=0, **loop):
    with scope():
        target = Target(read(jn.density(function, value)))
        q, record = run(engine, target, seed=seed, progress=False, **loop)
        z, log_q = q.transport(q.noise(np.random.default_rng(99), 4096))
        log_w = target(z)[0] - log_q
    return q, record, log_w, target


def test_a_banana_is_followed():
    q, record, log_w, target = fit(SMALL, _banana, {"z": np.zeros(2)})
    assert record.status == "converged"
    assert log_w.mean() > -0.02  # the density is normalized, so that this is minus the divergence
    assert log_w.var() < 0.05
    exact = np.array([1, np.sqrt(1 + 2 * 1.5**2)])
    assert (np.abs(q.mean / exact) < 0.1).all()
    np.testing.assert_allclose(q.sd, exact, rtol=0.1)
    assert target.gradients < 64 * record.steps + 30_000


def test_one_dimension_takes_the_spline():
    q, record, log_w, _ = fit(SMALL, _skewed, {"x": 0.0})
    assert record.status == "converged"
    assert log_w.mean() > -0.01
    assert q.mean[0] == pytest.approx(-np.euler_gamma, abs=0.06)
    assert q.sd[0] == pytest.approx(np.pi / np.sqrt(6), rel=0.05)


def test_a_gaussian_stays_what_it_is_and_is_left_soon():
    q, record, log_w, _ = fit(replace(SMALL, steps=2000), _correlated, {"x": np.zeros(2)})
    assert record.status == "converged"
    assert record.steps < 1500
    assert log_w.var() < 5e-3  # stochastic gradients: 2e-4 on one machine, 1.3e-3 on another that rounds otherwise
    np.testing.assert_allclose(q.mean, [1, 1], atol=0.03)


def test_a_target_in_single_precision_is_fitted_by_a_flow_in_double():
    with scope("float32"):
        target = Target(read(jn.density(_banana, {"z": np.zeros(2)})), "float32")
        q, _ = run(replace(SMALL, steps=400), target, seed=0, progress=False)
    assert {value.dtype.name for value in q.params.values()} <= {"float64", "int64"}
    z, log_q = q.transport(q.noise(np.random.default_rng(0), 2000))
    log_p = np.array(-0.5 * (z[:, 0] ** 2 + (z[:, 1] - 1.5 * (z[:, 0] ** 2 - 1)) ** 2) - np.log(2 * np.pi))
    assert (log_p - log_q).mean() > -0.1


def test_the_same_seed_gives_the_same_flow_and_a_stored_state_goes_on():
    engine = replace(SMALL, steps=150)
    with scope():
        target = Target(read(jn.density(_banana, {"z": np.zeros(2)})))
        begin = engine.init(target, 3)
        state, ticks = engine.advance(begin, target)
        assert len(ticks.loss) == CHUNK
        assert not ticks.done
        stored = decode(*encode(state))
        ends = [engine.advance(one, target) for one in (state, stored)]
    assert ends[0][1].done
    assert ends[0][1].spent
    assert not engine.converged(ends[0][0])
    for name, value in engine.finish(ends[0][0]).params.items():
        np.testing.assert_array_equal(engine.finish(ends[1][0]).params[name], value)
    assert np.isfinite(engine.finish(begin).log_prob(np.zeros((2, 2)))).all()


def test_steps_that_are_not_finite_are_not_taken_and_counted():
    # A hole far out that one draw in thousands meets.
    broken = lambda p: jnp.where(p["x"][0] > 3.4, jnp.nan, -0.5 * (p["x"] ** 2).sum())  # noqa: E731
    start = FullRank().start(np.zeros(2), 1.0)
    q, record, _, _ = fit(replace(SMALL, start=start, steps=400), broken, {"x": np.zeros(2)})
    assert np.isfinite(q.params["weights"]).all()
    assert len(record.history["elbo"]) == record.steps < 400
    assert any("were not finite" in note for note in record.notes)
    np.testing.assert_allclose(q.sd, 1, rtol=0.1)


def test_a_density_that_is_finite_nowhere_is_refused():
    nowhere = lambda p: jnp.nan * p["x"].sum()  # noqa: E731
    with pytest.raises(NonFiniteError, match="not finite at the start"):
        fit(replace(SMALL, start=FullRank().start(np.zeros(2), 1.0)), nowhere, {"x": np.zeros(2)})


def test_many_dimensions_and_foreign_starts_are_refused():
    with pytest.raises(UnsupportedError, match="at most 500 dimensions; this model has 501"):
        fit(SMALL, lambda p: -0.5 * (p["x"] ** 2).sum(), {"x": np.zeros(501)})
    with pytest.raises(OptionError, match="start has 3 dimensions; the model has 2"):
        fit(replace(SMALL, start=FullRank().start(np.zeros(3), 1.0)), _banana, {"z": np.zeros(2)})


@pytest.mark.parametrize(
    "option", [{"layers": 1}, {"layers": 2.5}, {"width": 0}, {"draws": 7}, {"draws": 0}, {"steps": 0}, {"steps": True}]
)
def test_options_that_make_no_sense_are_refused(option):
    with pytest.raises(OptionError, match=next(iter(option))):
        CouplingFlow(**option)
