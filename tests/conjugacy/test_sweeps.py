"""Sweeps of coordinate ascent are those derived by hand, the ELBO rises, and fixed points are those of BayesPy."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from tests.conjugacy import bayespy_oracle
from tests.conjugacy.bridge import compare, families
from tests.conjugacy.checks import all_moments, plan, start, sweeps
from tests.conjugacy.hand import HAND
from tests.conjugacy.zoo import example
from tests.tiers import quick

from jensen.core.precision import scope
from jensen.engines.coordinate import elbo

EQUAL = 1e-10
RISES = 1e-12


def _hand_start(name: str, seed: int = 0):
    hand, found = HAND[name], plan(name)
    state = hand.start(example(name).arguments, np.random.default_rng(seed))
    with scope("float64"):
        return state, families(found, state)


SAME = {"multilevel_correlated", "probit_ndtr", "dirichlet_multinomial_shared", "hmm_split"}
"""As other models but for their data or how they are written; their bounds and single updates are in test_hand."""


SLOW = {"factorial_hmm", "varying_slopes", "mixture_of_regressions", "factor_analysis", "gmm_diagonal", "inverse_gamma"}


@pytest.mark.parametrize(
    "name", quick((name for name in HAND if name not in SAME), *(name for name in HAND if name not in SAME | SLOW))
)
def test_sweeps_are_those_derived_by_hand(name):
    hand, data, found = HAND[name], example(name).arguments, plan(name)
    state, q = _hand_start(name)
    q, elbos = sweeps(found, q, 5, example(name).order)
    expected = []
    for _ in range(5):
        state = hand.sweep(state, data)
        expected.append(hand.elbo(state, data))
    with scope("float64"):
        assert max(compare(found, q, state).values()) < EQUAL
    np.testing.assert_allclose(elbos, expected, rtol=EQUAL)
    assert np.diff(elbos).min() >= -RISES * np.abs(elbos).max()


@pytest.mark.parametrize("name", quick(["multilevel", "varying_slopes"], "multilevel"))
def test_joint_blocks_are_no_worse(name):
    """Mean field over sites is a special case of the joint Gaussian, whose bound is therefore higher."""
    joint, single = plan(name, joint=True), plan(name)
    _, elbos = sweeps(joint, start(joint), 60)
    assert np.diff(elbos).min() >= -RISES * np.abs(elbos).max()
    assert elbos[-1] > sweeps(single, start(single), 300, example(name).order)[1][-1]


@pytest.mark.parametrize("name", quick(["factorial_hmm", "random_walk_fixed"], "random_walk_fixed"))
def test_elbo_rises(name):
    """The models of the zoo without a hand derivation of the default blocks."""
    found = plan(name, joint=True)
    _, elbos = sweeps(found, start(found), 12)
    assert np.diff(elbos).min() >= -RISES * np.abs(elbos).max()


@pytest.mark.parametrize("name", ["half_normal", "logistic"])
def test_damped_updates_reach_the_optimum(name):
    """The ELBO rises, and at the end no small change of a block that is updated stepwise raises it."""
    found = plan(name)
    q, elbos = sweeps(found, start(found), 60)
    assert np.diff(elbos).min() >= -RISES * np.abs(elbos).max()
    (block,) = found.damped

    @jax.jit
    def value(energy, q):
        return elbo(energy, q, {word: family.moments() for word, family in q.items()})

    with scope("float64"):
        for size in (0.999, 1.001):
            for changed in (
                replace(q[block], h=q[block].h * size),
                replace(q[block], precision=q[block].precision * size),
            ):
                assert float(value(found.energy, q | {block: changed})) < elbos[-1]


@pytest.mark.parametrize(
    ("name", "count"), [("gmm", 100), ("regression", 60), ("multilevel", 200), ("hmm", 60), ("bpca", 30)]
)
def test_fixed_points_are_those_of_bayespy(name, count):
    """The same bound to 1e-8 after many sweeps from the same start; factor models converge slowly, and are compared earlier."""
    pytest.importorskip("bayespy")
    state, q = _hand_start(name)
    q, elbos = sweeps(plan(name), q, count, example(name).order)
    expected, moments = bayespy_oracle.run(name, example(name).arguments, state, example(name).order, count)
    np.testing.assert_allclose(elbos[-1], expected[-1], rtol=1e-8)
    if name != "bpca":
        assert abs(elbos[-1] - elbos[-2]) < 1e-7 * abs(elbos[-1])
    found = all_moments(q)
    for site, pattern in plan(name).layout.pattern.items():
        mean = np.asarray(found[site]["mean"])
        np.testing.assert_allclose(mean, np.asarray(moments[site][0]).reshape(-1), atol=1e-7 * np.sqrt(pattern.n))
