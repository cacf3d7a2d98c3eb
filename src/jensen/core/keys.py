"""Random streams: every use of chance has a name, and the same seed and name give the same numbers.

Host engines draw from NumPy generators, compiled code from JAX keys. A stream is derived from (seed, name, number), never
passed on or stored, so that no use of chance moves another one.
"""

import zlib
from typing import Any

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
    return jax.random.wrap_key_data(_folded(seed, name, np.array([number]))[0], impl="threefry2x32")


def several(seed: int, name: str, count: int, number: int = 0) -> jax.Array:
    """`count` JAX keys, those of ``jax.random.split(key(seed, name, number), count)``."""
    return jax.random.wrap_key_data(_folded(seed, name, np.array([number]), np.arange(count)), impl="threefry2x32")


def _folded(seed: int, name: str, *numbers: np.ndarray) -> Any:
    """Data (n, 2) of the key of a seed with a name and numbers folded in.

    ``jax.random.key`` and ``fold_in`` would give the same bits, and compile four programs for them.
    """
    key = np.array([0]), np.array([seed % 2**32])
    for number in (np.array([zlib.crc32(name.encode())]), *numbers):
        key = _threefry(*(part.astype(np.uint32) for part in (*key, np.zeros_like(number), number)))
    return np.stack(np.broadcast_arrays(*key), 1)


def _threefry(key: np.ndarray, other: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 20 rounds of Threefry-2x32 on arrays of uint32.

    Reference: Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.
    """
    three = key, other, key ^ other ^ np.uint32(0x1BD11BDA)
    a, b = a + key, b + other
    for number, turns in enumerate((_TURNS[0], _TURNS[1], _TURNS[0], _TURNS[1], _TURNS[0]), 1):
        for turn in turns:
            a = a + b
            b = a ^ ((b << np.uint32(turn)) | (b >> np.uint32(32 - turn)))
        a, b = a + three[number % 3], b + three[(number + 1) % 3] + np.uint32(number)
    return a, b


_TURNS = (13, 15, 26, 6), (17, 29, 16, 24)
