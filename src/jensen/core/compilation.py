"""How programs are compiled that run a handful of times, and how none is for what is only moved."""

from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import jax
import numpy as np

_TRIED = (0, 10, 2)
"""The newest JAX whose XLA is known to have all the options below: they are its own affair, and may go."""


def _known(**options: Any) -> dict[str, Any]:
    """Those of the options that the installed XLA has; a newer one than was tried is asked."""
    if jax.__version_info__ <= _TRIED:
        return options
    program, known = jax.jit(lambda x: x).lower(0.0), {}
    for name, value in options.items():
        with suppress(jax.errors.JaxRuntimeError):
            program.compile(compiler_options={name: value})
            known[name] = value
    return known


FAST_COMPILE = _known(
    xla_backend_optimization_level=0,
    xla_llvm_disable_expensive_passes=True,
    xla_cpu_use_fusion_emitters=False,
    xla_cpu_parallel_codegen_split_count=1,
)
"""For programs that run a handful of times: compiling them is all they cost, and takes a quarter of the time like this.

In one module: in several, for as many threads, it takes up to half as much CPU time again, and hardly less of the clock's.
"""

LARGE_ARRAYS = {**FAST_COMPILE, **_known(xla_backend_optimization_level=1)}
"""For programs that run a handful of times over millions of numbers: a third of the time for half as much compilation again."""

LONG_RUNNING = _known(xla_cpu_use_fusion_emitters=False)
"""For programs that run hundreds of times: as fast as with XLA's newer emitters, for two thirds of the compilation."""

_LARGE, _PLACES = 2**16, 64
"""Bytes from which a copy costs more than finding a place for it, and those by multiples of which JAX's places lie apart."""


@lru_cache(maxsize=64)
def once(function: Any) -> Any:
    """The function, which JAX traces once for all programs that call it with arguments of the same shapes."""
    return jax.jit(function)


def on_device(arrays: Any) -> Any:
    """JAX arrays with copies of the NumPy arrays of a tree; `jnp.asarray` would compile a program for every new shape.

    The copies are made here and at once: JAX's own may be made later, when a source has filled an array anew. Arrays that are
    handed over together cost half as much as one by one.
    """
    return jax.device_put(jax.tree.map(lambda array: array if isinstance(array, jax.Array) else copied(array), arrays))


def copied(array: Any) -> np.ndarray:
    """A copy, where it is large in a place that JAX reads as it is: of what lies anywhere it makes another copy."""
    array = np.asarray(array)
    if array.nbytes < _LARGE:
        return np.array(array)
    room = np.empty(array.nbytes + _PLACES, np.uint8)
    begin = -room.ctypes.data % _PLACES
    copy = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


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
