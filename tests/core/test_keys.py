"""Keys that are made on the host have the bits of JAX's own."""

import zlib

import jax
import numpy as np
import pytest

from jensen.core import keys


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**40 + 3])
def test_keys_are_those_that_jax_folds_and_splits(seed):
    base = jax.random.fold_in(jax.random.key(seed % 2**32), zlib.crc32(b"a stream"))
    for number in (0, 7):
        wanted = jax.random.fold_in(base, number)
        found = keys.key(seed, "a stream", number)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(wanted))
    split = jax.random.key_data(jax.random.split(wanted, 5))
    np.testing.assert_array_equal(jax.random.key_data(keys.several(seed, "a stream", 5, 7)), split)
