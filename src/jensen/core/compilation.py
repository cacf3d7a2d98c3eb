"""How programs are compiled that run a handful of times, and how none is for what is only moved."""

from typing import Any

import jax
import numpy as np

FAST_COMPILE: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
"""For programs that run a handful of times: compiling them is all they cost, and takes a quarter of the time like this."""

LONG_RUNNING: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
"""For programs that run hundreds of times: as fast as with XLA's newer emitters, for two thirds of the compilation."""


def on_device(array: Any) -> jax.Array:
    """A JAX array with a copy of a NumPy one; `jnp.asarray` would compile a program for every new shape.

    The copy is made here and at once: JAX's own may be made later, when a source has filled the array anew.
    """
    return array if isinstance(array, jax.Array) else jax.device_put(np.array(array))
