"""Standard normal draws for compiled loops of stochastic gradient steps, made by NumPy beside the loop.

NumPy makes a normal number in 14 ns where JAX takes 200 on a CPU, more than the rest of a step with thousands of coordinates.
Single precision is enough for noise that is averaged. Draws are a function of (seed, step), in blocks of steps that do not
depend on chunks.
"""

from functools import lru_cache

import numpy as np

from jensen.core import keys

_BLOCK = 200


def noise(seed: int, step: int, count: int, draws: int, dim: int) -> np.ndarray:
    """Draws (count, n, D) of the steps `step`, `step` + 1, ...: n = draws, or half as many where antithetic pairs are made."""
    made = draws if draws % 2 else draws // 2
    numbers = range(step // _BLOCK, (step + count - 1) // _BLOCK + 1)
    blocks = [_block(seed, number, made, dim) for number in numbers]
    first = step % _BLOCK
    return np.concatenate(blocks)[first : first + count]


@lru_cache(maxsize=2)
def _block(seed: int, number: int, made: int, dim: int) -> np.ndarray:
    rng = keys.generator(seed, "steps", number)
    return rng.standard_normal((_BLOCK, made, dim), dtype=np.float32)
