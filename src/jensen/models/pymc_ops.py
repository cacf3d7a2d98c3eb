"""JAX forms of the PyTensor and PyMC operations that have none, or one that costs too much.

PyMC keeps some of these in a module whose import asks XLA for a hundred CPU devices, so they are registered here
instead. Loading PyTensor's own JAX forms writes JAX's process-wide precision; that is undone at once.
"""

import operator
from collections.abc import Callable
from functools import cache, reduce
from threading import Thread
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.precision import keep_global


@cache
def dispatch() -> Callable[..., Any]:
    """Return PyTensor's `jax_funcify` with everything of this file registered; JAX's settings stay the caller's."""
    # A precision scope of this thread would hide the process-wide setting from `keep_global`; a new thread has none.
    loader = Thread(target=_load_quietly)
    loader.start()
    loader.join()
    from pytensor.link.jax.dispatch import jax_funcify

    _register(jax_funcify)
    return jax_funcify


def _load_quietly() -> None:
    with keep_global():
        import pytensor.link.jax.dispatch  # noqa: F401


def _register(jax_funcify: Any) -> None:
    from pymc.distributions.dist_math import SplineWrapper
    from pymc.distributions.multivariate import PosDefMatrix
    from pymc.logprob.utils import CheckParameterValue
    from pytensor.raise_op import Assert
    from pytensor.scalar import Softplus
    from pytensor.scalar.basic import Add, Clip, Mul
    from pytensor.scalar.math import Erfcx

    @jax_funcify.register(Assert)
    @jax_funcify.register(CheckParameterValue)
    def _check(op: Any, **_: Any) -> Callable[..., Any]:
        # Compiled code cannot raise; checks that can fail have become -inf before this point.
        return lambda value, *conditions: value

    @jax_funcify.register(PosDefMatrix)
    def _positive_definite(op: Any, **_: Any) -> Callable[..., Any]:
        return lambda matrix: ~jnp.isnan(jnp.linalg.cholesky(matrix)).any()

    @jax_funcify.register(Add)
    def _add(op: Any, **_: Any) -> Callable[..., Any]:
        return _chain(operator.add)

    @jax_funcify.register(Mul)
    def _multiply(op: Any, **_: Any) -> Callable[..., Any]:
        return _chain(operator.mul)

    @jax_funcify.register(Clip)
    def _clip(op: Any, **_: Any) -> Callable[..., Any]:
        return clip

    @jax_funcify.register(Softplus)
    def _softplus(op: Any, **_: Any) -> Callable[..., Any]:
        # PyTensor's own form has NaN gradients where exp(x) overflows in a branch that is not taken.
        return jax.nn.softplus

    @jax_funcify.register(Erfcx)
    def _erfcx(op: Any, **_: Any) -> Callable[..., Any]:
        return erfcx

    @jax_funcify.register(SplineWrapper)
    def _spline(op: Any, **_: Any) -> Callable[..., Any]:
        degree = op.spline._eval_args[2]
        if degree != 1:
            raise NotImplementedError(f"spline of degree {degree}")
        knots = op.spline.get_knots()
        heights = op.spline(knots)
        return lambda x: jnp.interp(x, jnp.asarray(knots), jnp.asarray(heights), left=0.0, right=0.0)


def _chain(combine: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Sum or product of many arrays, one pair after the other, small ones first.

    PyTensor stacks the broadcast arrays and reduces, and the gradient of that product took longer to compile than the
    rest of the model.
    """
    return lambda *arrays: reduce(combine, sorted(arrays, key=np.ndim))


def clip(x: Any, low: Any, high: Any) -> Any:
    """X within bounds, as PyTensor has it; where x misses a bound by rounding only, its slope is that of x.

    PyMC clips squared distances at zero. On the diagonal of a covariance matrix they are sums that cancel, and XLA computes them
    more than once: where one time is below zero and another is not, parts of a gradient that cancel did not, and the slope of
    a length scale was off by hundreds.
    """
    kind = jnp.result_type(x, low, high)
    bounded = _clip if jnp.issubdtype(kind, jnp.floating) else _within
    return bounded(*(jnp.asarray(value, kind) for value in (x, low, high)))


def _within(x: Any, low: Any, high: Any) -> Any:
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


_clip = jax.custom_jvp(_within)


@_clip.defjvp
def _slope(values: tuple[Any, ...], slopes: tuple[Any, ...]) -> tuple[Any, Any]:
    x, low, high = values
    rounding = jnp.finfo(x.dtype).eps ** 0.5
    below = x < low - rounding * jnp.maximum(1.0, jnp.abs(low))
    above = x > high + rounding * jnp.maximum(1.0, jnp.abs(high))
    return _within(*values), jnp.where(below, slopes[1], jnp.where(above, slopes[2], slopes[0]))


def erfcx(x: Any) -> Any:
    """Scaled complementary error function exp(x^2) erfc(x), to about 1e-15 relative in float64.

    Below a threshold the definition is accurate; above it, where a factor would under- or overflow, the asymptotic
    series (Abramowitz and Stegun 1964, 7.1.23) has converged to rounding error after eight terms. JAX 0.10.2 has a
    function of this name, which returns 0 between 26.54 and 26.64.
    """
    x = jnp.asarray(x)
    large = x > (20.0 if x.dtype == jnp.float64 else 9.0)
    small = jnp.where(large, 0.0, x)
    wide = jnp.where(large, x, 100.0)
    inverse = 0.5 / wide**2
    series = jnp.ones_like(x)
    for k in range(8, 0, -1):
        series = 1.0 - (2 * k - 1) * inverse * series
    return jnp.where(large, series / (wide * np.sqrt(np.pi)), jnp.exp(small**2) * jax.scipy.special.erfc(small))
