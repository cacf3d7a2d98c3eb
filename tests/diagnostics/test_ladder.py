"""The climb of "auto": what is kept, what is told, what stays flagged; and several modes end to end."""

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.errors import UnsupportedError
from jensen.core.precision import scope
from jensen.diagnostics import examine as examination
from jensen.diagnostics import ladder
from jensen.diagnostics.examine import Examination, examine
from jensen.diagnostics.modes import Mode
from jensen.diagnostics.verdict import Verdict
from jensen.engines.engine import Ticks
from jensen.families.fullrank import DenseGaussian
from jensen.families.layered import Layered
from jensen.families.mixture import GaussianMixture
from jensen.models.read import read
from jensen.models.target import Target
from jensen.objectives.elbo import Elbo
from jensen.run import run

LOG_2PI = np.log(2 * np.pi)
TURN = np.linalg.qr(np.random.default_rng(0).standard_normal((10, 10)))[0]
quietly = pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")


def _funnel(p):
    v, x = p["v"], p["x"]
    return -0.5 * (v / 1.5) ** 2 - 0.5 * (x**2).sum() * jnp.exp(-v) - 0.5 * x.shape[0] * v


def _funnel_and_far(p):
    """The normalized funnel with mass 0.7, and a unit Gaussian far from it with 0.3."""
    v, x = p["v"], p["x"]
    dim = 1 + x.shape[0]
    near = _funnel(p) - jnp.log(1.5) - 0.5 * dim * LOG_2PI
    far = -0.5 * (v - 2) ** 2 - 0.5 * ((x - 60) ** 2).sum() - 0.5 * dim * LOG_2PI
    return jnp.logaddexp(jnp.log(0.7) + near, jnp.log(0.3) + far)


@pytest.fixture(scope="module")
def funnel():
    """Rotated, so that no coordinate scales the others and none of them are groups that could be integrated."""

    def turned(p):
        z = p["z"] @ TURN
        return _funnel({"v": z[0], "x": z[1:]})

    return jn.density(turned, {"z": np.zeros(10)})


@pytest.fixture(scope="module")
def far():
    return jn.density(_funnel_and_far, {"v": 0.0, "x": np.zeros(5)})


def test_a_funnel_that_scores_take_apart_needs_no_climb(funnel):
    posterior = jn.fit(funnel)
    assert isinstance(posterior.q, DenseGaussian)
    assert posterior.answer == "corrected"
    assert posterior.verdict.overall == "trusted"
    along = posterior.draws(4000)["z"] @ TURN[:, 0]
    assert along.mean() == pytest.approx(0, abs=0.15)
    assert along.std() == pytest.approx(1.5, rel=0.07)
    assert not any("scale layer" in line for line in posterior.story)


@quietly
def test_a_funnel_climbs_to_the_scale_layer_and_its_story_tells_it(without_flow):
    """A deep one: few draws decide the sds of its wings, so that chains in straight coordinates are not enough either."""
    names = [f"x{number}" for number in range(9)]  # no axis, along which they would be groups

    def deep(p):
        square = sum(p[name] ** 2 for name in names)
        return -0.5 * (p["v"] / 3) ** 2 - 0.5 * square * jnp.exp(-p["v"]) - 0.5 * len(names) * p["v"]

    model = jn.density(deep, {"v": 0.0, **dict.fromkeys(names, 0.0)})
    posterior = jn.fit(model)
    assert isinstance(posterior.q, Layered)
    assert posterior.elbo.value == pytest.approx(np.log(3) + 5 * LOG_2PI, abs=0.03)
    assert posterior.q.mean[0] == pytest.approx(0, abs=0.2)
    assert posterior.q.sd[0] == pytest.approx(3, rel=0.05)
    gaussian, layer = posterior.story[-2:]
    assert gaussian.startswith("Gaussian: ELBO 8.")
    assert layer.startswith("scale layer: ELBO 10.")
    assert "gradients)" in layer


@quietly
def test_a_short_budget_climbs_nothing(funnel):
    begun = time.perf_counter()
    posterior = jn.fit(funnel, budget=0.2)
    assert time.perf_counter() - begun < 20
    assert isinstance(posterior.q, DenseGaussian)
    assert not any("scale layer" in line or "flow" in line for line in posterior.story)
    assert posterior.verdict.overall != "trusted"


@quietly
def test_correct_false_and_named_methods_climb_nothing(funnel):
    for options in ({"correct": False}, {"method": "fullrank", "correct": False}):
        posterior = jn.fit(funnel, **options)
        assert isinstance(posterior.q, DenseGaussian)
        assert not any("scale layer" in line for line in posterior.story)


@quietly
def test_where_nothing_helps_the_better_answer_stays(without_flow):
    """Heavy tails: neither layers nor skew have a parameter for them."""
    model = jn.density(lambda p: -1.6 * jnp.log1p((p["x"] ** 2).sum() / 1.2), {"x": np.zeros(2)})
    posterior = jn.fit(model)
    assert isinstance(posterior.q, DenseGaussian)
    assert posterior.answer == "corrected"
    assert posterior.verdict.overall != "trusted"
    assert posterior.story[-1].startswith("scale layer: ")
    assert "not kept" in posterior.story[-1]


def test_chains_that_went_less_far_than_those_before_do_not_know_the_sds():
    def seen(sds, words):
        verdict = Verdict(("a", "b", "c"), words, {}, (), "", np.zeros(3), "the corrected answer")
        correction: Any = SimpleNamespace(evidence=SimpleNamespace(sd=np.array(sds)))
        kept: Any = None
        return Examination(Elbo(0.0, 0.0), kept, np.zeros(0), verdict, True, correction=correction)

    before = seen([1.0, 1.0, 1.0], ("means only", "do not use", "trusted"))
    found = ladder._as_wide(seen([0.7, 0.7, 0.9], ("trusted",) * 3), before)
    assert found.verdict.words == ("means only", "trusted", "trusted")  # of b, nothing was known before
    assert found.verdict.reasons[-1].startswith("the chains' sd of a is 0.70 times")


@dataclass(frozen=True)
class Given:
    """An engine that knows its q."""

    q: Any
    start: Any = None
    refuses: bool = False

    def init(self, target, seed):
        if self.refuses:
            raise UnsupportedError("not here; go on.")
        return 0

    def advance(self, state, target):
        return 1, Ticks(np.zeros(1), done=True)

    def finish(self, state):
        return self.q

    def converged(self, state):
        return True


@pytest.fixture
def no_mixtures(monkeypatch):
    """No answer by a mixture or by chains within modes: as in many dimensions, where neither is found good enough."""
    monkeypatch.setattr(examination, "ENOUGH", 2.0)
    monkeypatch.setattr(examination, "LEAST_SHARE", 1.0)


@pytest.fixture(scope="module")
def fitted(far):
    with scope():
        target = Target(read(far))
        return target, *run(jn.FixedDraws(), target, seed=0, progress=False)


@pytest.fixture
def examined(fitted, no_mixtures):
    """A Gaussian of the funnel, as seen by an examination that knows of the other mode."""
    target, q, record = fitted
    mode = Mode(DenseGaussian(np.r_[2.0, np.full(5, 60.0)], np.eye(6)), 0.3)
    with scope():
        found = examine(target, q, record, seed=0, modes=(mode,))
    assert found.modes == (mode,)
    assert found.verdict.overall == "do not use"
    return target, q, record, found


def _climb(examined, monkeypatch, *rungs):
    if rungs:
        monkeypatch.setattr(ladder, "_rungs", lambda dim: list(rungs))
    target, q, record, found = examined
    with scope():
        return ladder.climb(target, q, record, found, seed=0, left=lambda: None)


def test_what_is_worse_or_refused_leaves_everything_as_it_was(examined, monkeypatch):
    _, q, _, found = examined
    wider = DenseGaussian(q.mean, 1.5 * q.scale)
    nothing = Given(q, refuses=True)
    best, same, rungs = _climb(examined, monkeypatch, ("wider", Given(wider)), ("refused", nothing), ("same", Given(q)))
    assert best is q
    assert same is found
    assert [(rung.name, rung.kept) for rung in rungs] == [("Gaussian", True), ("wider", False), ("same", False)]
    assert "not kept" in str(rungs[1])


def test_a_better_elbo_with_worse_weights_is_not_kept(examined, monkeypatch):
    """The bulk fits better, the tails worse."""
    target, q, _, _ = examined
    looks = iter([(-1.3, 0.5), (-1.0, 2.0)])
    monkeypatch.setattr(
        ladder, "_weighed", lambda *_: (lambda value, spread: (ladder.Elbo(value, 0.01), spread))(*next(looks))
    )
    best, _, rungs = _climb(examined, monkeypatch, ("other", Given(q)))
    assert best is q
    assert not rungs[1].kept


def test_modes_that_a_kept_rung_does_not_reach_stay_flagged(examined, monkeypatch, without_flow):
    q, found, rungs = _climb(examined, monkeypatch)
    assert isinstance(q, Layered)
    assert rungs[-1].kept
    assert rungs[-1].words == "6 do not use"
    assert found.verdict.overall == "do not use"
    assert any("posterior mass" in reason for reason in found.verdict.reasons)


@quietly
def test_auto_keeps_modes_flagged_through_the_climb(far, no_mixtures, without_flow):
    posterior = jn.fit(far)
    assert posterior.elbo.value < np.log(0.7) + 0.05
    assert "trusted" not in posterior.verdict.words  # 30% of the mass is elsewhere


def test_rungs_are_for_dimensions_where_they_pay():
    assert ladder._rungs(1) == []
    assert [name for name, _ in ladder._rungs(2)][0] == "scale layer"
    assert ladder._rungs(101) == []


def test_two_modes_are_a_mixture_whose_elbo_is_the_evidence():
    def two(p):
        one = -0.5 * (p["x"] ** 2).sum()
        other = -0.5 * ((p["x"] - 8) ** 2).sum()
        return jnp.logaddexp(jnp.log(0.7) + one, jnp.log(0.3) + other) + 4.0

    posterior = jn.fit(jn.density(two, {"x": np.zeros(3)}))
    assert isinstance(posterior.q, GaussianMixture)
    assert posterior.answer == "corrected"
    assert posterior.verdict.overall == "trusted"
    assert posterior.elbo.value == pytest.approx(4 + 1.5 * LOG_2PI, abs=0.01)
    np.testing.assert_allclose(sorted(posterior.q.weights), [0.3, 0.7], atol=0.01)
    np.testing.assert_allclose(posterior.weights @ posterior.kept.z, 2.4, atol=0.1)
    assert any("a mixture of 2 Gaussians" in line for line in posterior.story)


def test_two_skewed_modes_are_answered_by_chains_within_each():
    """Gumbel modes in five dimensions, 15 apart: a mixture of Gaussians has their masses roughly, chains the rest."""

    def two(p):
        x, far = p["x"], 15 * jnp.eye(5)[0]
        one = lambda x: (-x - jnp.exp(-x)).sum()  # noqa: E731
        return jnp.logaddexp(jnp.log(0.7) + one(x), jnp.log(0.3) + one(x - far))

    posterior = jn.fit(jn.density(two, {"x": np.zeros(5)}))
    assert isinstance(posterior.q, GaussianMixture)
    assert posterior.verdict.overall == "trusted"
    assert any("chains within each of 2 modes" in line for line in posterior.story)
    x, sd = posterior.weights @ posterior.kept.z, np.pi / np.sqrt(6)
    np.testing.assert_allclose(x[1:], np.euler_gamma, atol=0.1 * sd)
    assert x[0] == pytest.approx(np.euler_gamma + 0.3 * 15, abs=0.15 * np.hypot(sd, 15 * 0.46))
    squares = posterior.weights @ (posterior.kept.z - x) ** 2
    np.testing.assert_allclose(squares[1:] ** 0.5, sd, rtol=0.1)
