"""The mass that draws miss in a neck: exact draws of log gamma scales with effects below."""

from types import SimpleNamespace

import numpy as np
import pytest

from jensen.core.layout import Site
from jensen.diagnostics.centering import learn
from jensen.diagnostics.necks import longest
from jensen.models.target import Target

N, EFFECTS = 4000, 3


class _Hierarchy(Target):
    """t = log of a Gamma(shape, 1) scale (its inverse, if it is a precision), and centered effects N(0, scale)."""

    def __init__(self, shape, side=1.0):
        self.shape, self.side = shape, side
        self.model = SimpleNamespace(
            sites=(Site("tau", (), (), "positive"), Site("theta", (EFFECTS,), (EFFECTS,), "real"))
        )

    def __call__(self, z):
        t, theta = self.side * z[:, 0], z[:, 1:]
        scaled = theta * np.exp(-t)[:, None]
        log_p = self.shape * t - np.exp(t) - EFFECTS * t - 0.5 * (scaled**2).sum(1)
        slope = self.shape - np.exp(t) - EFFECTS + (scaled**2).sum(1)
        return log_p, np.column_stack([self.side * slope, -scaled * np.exp(-t)[:, None]])

    def draws(self, t):
        theta = np.exp(t)[:, None] * np.random.default_rng(1).standard_normal((len(t), EFFECTS))
        return np.column_stack([self.side * t, theta])


def _found(target, t):
    z = target.draws(t)
    return longest(target, z, lambda: learn(z, target(z)[1]))


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("shape", [0.1, 1.0, 1e4])
def test_draws_of_the_whole_posterior_miss_nothing(shape, side):
    # Of a small shape the logarithm itself: log Gamma(a) = log Gamma(a + 1) + log(uniform) / a.
    rng = np.random.default_rng(0)
    t = np.log(rng.gamma(shape + 1, size=N)) + np.log(rng.uniform(size=N)) / shape
    assert _found(_Hierarchy(shape, side), t).why == ""


@pytest.mark.parametrize(("side", "where"), [(1.0, "to zero"), (-1.0, "to infinity")])
def test_the_mass_below_draws_that_stay_out_of_a_neck(side, where):
    rng = np.random.default_rng(0)
    t = np.log(rng.gamma(1.2, size=4 * N)) + np.log(rng.uniform(size=4 * N)) / 0.2
    lost = (t < -2).mean()
    neck = _found(_Hierarchy(0.2, side), t[t > -2][:N])
    # In units of the mass that the draws stand for.
    assert neck.where == where
    assert neck.missing == pytest.approx(lost / (1 - lost), rel=0.3)
    assert "lie beyond the draws" in neck.why


def test_a_density_that_does_not_end():
    t = np.random.default_rng(0).uniform(-12, 0, N)
    neck = _found(_Hierarchy(0.0), t)
    assert neck.missing == np.inf
    assert neck.why == "the posterior looks improper: its density does not end along the logarithm of tau"
