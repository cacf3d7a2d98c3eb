"""What is refused for having gone beyond every scale, and what for not changing at all."""

from types import SimpleNamespace

import numpy as np
import pytest

import jensen as jn
from jensen.core.layout import Site
from jensen.engines.guards import reach, refuse_beyond, refuse_constant, refuse_flat, refuse_runaway

TARGET = SimpleNamespace(model=SimpleNamespace(sites=(Site("mu", (2,), (2,)), Site("tau", (), (), "positive"))))


def test_logarithms_of_scales_go_less_far_than_places():
    refuse_runaway(TARGET, np.array([1e12, 1e12, 1e12]))
    refuse_beyond(TARGET, np.array([1e12, 1e12, -100.0]))
    with pytest.raises(jn.ImproperError, match="site tau"):
        refuse_beyond(TARGET, np.array([1e12, 1e12, -200.0]))
    with pytest.raises(jn.ImproperError, match="site mu"):
        refuse_runaway(TARGET, np.array([0.0, np.nan, 0.0]))


def test_reach_is_the_larger_of_distance_and_width():
    np.testing.assert_allclose(reach(np.array([-3.0, 1.0]), np.array([[1.0, 0.0], [3.0, 4.0]])), [3.0, 5.0])
    np.testing.assert_allclose(reach(np.array([-3.0, 1.0]), np.array([4.0, 0.5])), [4.0, 1.0])


def test_directions_in_which_no_gradient_has_a_part():
    gradient = np.random.default_rng(0).standard_normal((20, 3))
    refuse_flat(TARGET, gradient)
    flat = gradient - np.outer(gradient.sum(1), np.ones(3)) / 3
    with pytest.raises(jn.ImproperError, match="a combination of the sites mu, tau"):
        refuse_flat(TARGET, flat)
    refuse_flat(TARGET, flat, lambda: gradient)  # corners further out
    refuse_constant(TARGET, flat)
    with pytest.raises(jn.ImproperError, match="along site tau"):
        refuse_constant(TARGET, gradient * [1, 1, 0])
