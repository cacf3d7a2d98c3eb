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
