"""The index of a scale's tail, on exact draws with exact gradients."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from jensen.core.layout import Derived, Site
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.tails import heavy

N = 4000


def _judged(x, z, gradient, support="positive"):
    """Of a scale after a simplex with two elements, whose one coordinate does not matter, and before a deterministic."""
    sites = (Site("p", (2,), (1,), "simplex"), Site("x", (), (), support))
    model = SimpleNamespace(sites=sites, derived=(Derived("y", ()),), coords={})
    rest = np.zeros((N, 1))
    draws = Draws(np.column_stack([rest, z]), np.zeros(N), {"p": np.ones((N, 2)) / 2, "x": x}, {"y": x})
    return heavy(model, draws, np.column_stack([rest, gradient]))


@pytest.mark.parametrize(
    ("family", "gradient", "slow"),
    [
        (stats.invgamma(3.0), lambda x: -3.0 + 1 / x, True),
        (stats.invgamma(6.0), lambda x: -6.0 + 1 / x, False),
        (stats.gamma(1.0), lambda x: 1.0 - x, False),
        (stats.lognorm(0.7), lambda x: -np.log(x) / 0.7**2, False),
    ],
)
def test_the_index_of_known_tails(family, gradient, slow):
    x = family.rvs(N, random_state=0)
    np.testing.assert_array_equal(_judged(x, np.log(x), gradient(x)), [False, False, slow, False])


def test_other_coordinates_are_left_alone():
    """Real sites, and positive ones that are not the exponential of their coordinate."""
    x = stats.invgamma(3.0).rvs(N, random_state=0)
    assert not _judged(x, np.log(x), -3.0 + 1 / x, "real").any()
    z = np.log(np.expm1(x))
    assert not _judged(x, z, -np.ones(N)).any()


def test_a_location_has_the_tail_of_what_spreads_it():
    """A t variable of as many degrees of freedom as its scale has, after that scale; and a normal one, which no scale moves."""
    rng = np.random.default_rng(0)
    tau2 = stats.invgamma(1.0).rvs(N, random_state=0)  # scale of index 2, and t with 2 degrees of freedom
    tau, noise = np.sqrt(tau2), rng.standard_normal((N, 2))
    mu = tau * noise[:, 0]
    sites = (Site("tau", (), (), "positive"), Site("mu", (), (), "real"), Site("x", (), (), "real"))
    model = SimpleNamespace(sites=sites, derived=(), coords={})
    slope = -2.0 + 2.0 / tau2 + noise[:, 0] ** 2 - 1
    gradient = np.column_stack([slope, -mu / tau2, -noise[:, 1]])
    z = np.column_stack([np.log(tau), mu, noise[:, 1]])
    draws = Draws(z, np.zeros(N), {"tau": tau, "mu": mu, "x": noise[:, 1]}, {})
    np.testing.assert_array_equal(heavy(model, draws, gradient), [True, True, False])
