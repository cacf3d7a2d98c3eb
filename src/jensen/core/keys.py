"""Random streams: every use of chance has a name, and the same seed and name give the same numbers.

Host engines draw from NumPy generators, compiled code from JAX keys. A stream is derived from (seed, name, number), never
passed on or stored, so that no use of chance moves another one.
"""

import zlib

import jax
import numpy as np

from jensen.core.errors import OptionError


def check_seed(seed: int) -> int:
    """Return `seed` as a non-negative int, or raise `OptionError`."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise OptionError(f"seed must be a non-negative integer; got {seed!r}; for example seed=0.")
    return int(seed)


def generator(seed: int, name: str, number: int = 0) -> np.random.Generator:
    """NumPy generator of the stream `name` (and its part `number`)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()), number)))


def key(seed: int, name: str, number: int = 0) -> jax.Array:
    """JAX key of the stream `name` (and its part `number`)."""
    base = jax.random.key(seed % 2**32)
    return jax.random.fold_in(jax.random.fold_in(base, zlib.crc32(name.encode())), number)
