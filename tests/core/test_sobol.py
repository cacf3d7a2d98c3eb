"""Sobol points against scipy's, and what scrambling must keep."""

import numpy as np
from scipy.stats import qmc

from jensen.core import sobol


def test_unscrambled_points_are_scipys():
    digits = (np.arange(256)[:, None] >> np.arange(sobol._BITS)) & 1
    halves = 0.5 ** np.arange(1, sobol._BITS + 1)
    found = np.stack([(digits @ sobol._directions(j) % 2) @ halves for j in range(sobol.LARGEST)], 1)
    known = qmc.Sobol(sobol.LARGEST, scramble=False).random(256)  # in the order of Gray's code
    np.testing.assert_array_equal(found[np.lexsort(found.T)], known[np.lexsort(known.T)])


def test_every_part_of_a_scrambled_sequence_fills_every_axis():
    points = sobol.sobol(10, 128, np.random.default_rng(0))
    assert ((points > 0) & (points < 1)).all()
    for part in points.reshape(8, 16, 10):
        np.testing.assert_array_equal(np.sort((16 * part).astype(int), 0), np.arange(16)[:, None].repeat(10, 1))
