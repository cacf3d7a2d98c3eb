"""The one place where floating-point precision is decided.

JAX decides precision by a process-wide setting. The caller's setting is theirs: it is opened as a context around jensen's
own work and comes back as it was, also when a foreign library changes it while being imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jensen.core.errors import OptionError

PRECISIONS = ("float64", "float32")


@contextmanager
def scope(precision: str = "float64") -> Iterator[None]:
    """Run the body in the given precision; arrays that leave it must be NumPy arrays.

    Parameters
    ----------
    precision
        ``"float64"`` or ``"float32"``.

    Raises
    ------
    OptionError
        For any other word.
    """
    if precision not in PRECISIONS:
        raise OptionError(f"precision must be one of {PRECISIONS}; got {precision!r}; float64 is the safe choice.")
    with jax.enable_x64(precision == "float64"):
        yield


@contextmanager
def keep_global() -> Iterator[None]:
    """Restore JAX's process-wide precision after the body.

    Importing PyTensor's JAX dispatch sets it. Open this *outside* of `scope`: inside, the setting reads as the scope's,
    and restoring would leak it.
    """
    before = jax.config.read("jax_enable_x64")
    try:
        yield
    finally:
        if jax.config.read("jax_enable_x64") != before:
            jax.config.update("jax_enable_x64", before)
