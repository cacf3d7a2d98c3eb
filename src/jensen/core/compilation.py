"""How programs are compiled that run a handful of times, and how none is for what is only moved."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

FAST_COMPILE: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""For programs that run a handful of times: compiling them is all they cost, and takes a quarter of the time like this.

In one module: in several, for as many threads, it takes up to half as much CPU time again, and hardly less of the clock's.
"""

LONG_RUNNING: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False}
"""For programs that run hundreds of times: as fast as with XLA's newer emitters, for two thirds of the compilation."""


def on_device(array: Any) -> jax.Array:
    """A JAX array with a copy of a NumPy one; `jnp.asarray` would compile a program for every new shape.

    The copy is made here and at once: JAX's own may be made later, when a source has filled the array anew.
    """
    return array if isinstance(array, jax.Array) else jax.device_put(np.array(array))


def signature(tree: Any) -> Hashable:
    """Structure, shapes and dtypes of a tree of arrays."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((np.shape(leaf), str(jax.typeof(leaf).dtype)) for leaf in leaves)


class Compiled:
    """A function that is compiled for every set of compiler options and every shape of its arguments that it meets."""

    def __init__(self, function: Callable[..., Any]):
        self._function, self._programs = jax.jit(function), {}

    def __call__(self, options: dict[str, Any], *args: Any) -> Any:
        """The function at arrays, from the program for these options."""
        key = tuple(options.items()), signature(args)
        if key not in self._programs:
            self._programs[key] = self._function.lower(*args).compile(compiler_options=options)
        return self._programs[key](*args)
