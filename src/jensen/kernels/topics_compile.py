"""How the kernels of topic models are compiled: once a machine, not once a number of topics.

The number of topics is an ordinary argument. Rows of topics are padded to a multiple of eight (``lanes``) with topics that have
a prior of zero and so never hold anything: loops over topics then have no remainder, and run as fast as ones compiled for one
number of topics.
"""

from collections.abc import Callable
from typing import Any

from numba import njit

LANES = 8


def lanes(topics: int) -> int:
    """Topics with padding: a multiple of eight."""
    return -(-topics // LANES) * LANES


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, and keep the machine code on disk where some folder can be written."""
    options = {"fastmath": True, "error_model": "numpy", "nogil": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(**options)(function)
