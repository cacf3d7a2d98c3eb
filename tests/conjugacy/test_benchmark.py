"""The hand-written JAX sweeps of the benchmark are the hand derivations."""

import numpy as np
import pytest
from tests.conjugacy.hand import HAND
from tests.conjugacy.zoo import example

from benchmarks.conjugacy_hand import SIZES, make
from jensen.core.precision import scope


@pytest.mark.parametrize("name", SIZES)
def test_sweeps_are_the_hand_derivation(name):
    data = example(name).arguments
    expected = HAND[name].start(data, np.random.default_rng(0))
    with scope("float64"):
        state, sweep = make(name, data)
        for _ in range(5):
            state, expected = sweep(state), HAND[name].sweep(expected, data)
    for site, q in state.items():
        assert set(q) == set(expected[site])
        for parameter, value in q.items():
            wanted = expected[site][parameter]
            assert np.shape(value) == np.shape(wanted)
            np.testing.assert_allclose(value, wanted, rtol=1e-8, atol=1e-8 * np.abs(wanted).max())
