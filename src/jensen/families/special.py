"""The digamma function, and log-gamma combinations that keep their digits at large arguments.

Entropies and log densities of the Gamma, Beta, Dirichlet and Wishart families are differences of terms of size a log a whose
result has size log a: at a = 1e8 the textbook formulas lose nine digits. With Stirling's series, for large a,

    log Gamma(a) = (a - 1/2) log a - a + log(2 pi) / 2 + r(a),      r(a) = sum_k B_2k / (2k (2k - 1) a^(2k - 1))
    digamma(a)   = log a - 1 / (2 a) + r'(a)

the large terms cancel on paper, once, in the functions here. Small a are moved up by s, with P(a) = a (a + 1) ... (a + s - 1),

    log Gamma(a) = log Gamma(a + s) - log P(a),      digamma(a) = digamma(a + s) - P'(a) / P(a),

which is one logarithm and one division instead of a library's branches: less than half of the time, in vector registers. They
are jitted so that programs in which they stand several times trace them once.

Reference: Abramowitz & Stegun (1964), Handbook of Mathematical Functions, 6.1.40-41, 6.3.5 and 6.3.18.
"""

from math import e, log, pi
from typing import Any

import jax
import jax.numpy as jnp

LARGE = 16.0  # the first term left out is below 1e-18 from here on
SHIFT = 8  # and below 1e-15 from here on
# B_2k / (2k (2k - 1)), k = 1..7
SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


@jax.jit
def digamma(a: Any) -> Any:
    """Derivative of log Gamma at a > 0."""
    a = jnp.asarray(a)
    moved, product, slope = _moved(a)
    return _digamma(moved) - jnp.where(a < SHIFT, slope / product, 0.0)


@jax.jit
def gammaln(a: Any) -> Any:
    """Log Gamma at a > 0."""
    a = jnp.asarray(a)
    moved, product, _ = _moved(a)
    return _gammaln(moved) - jnp.where(a < SHIFT, jnp.log(product), 0.0)


def _moved(a: Any) -> tuple[Any, Any, Any]:
    """The argument moved up to SHIFT and beyond, P(a) and P'(a); where a is large, P at a number that is harmless."""
    small = jnp.minimum(a, SHIFT)
    product, slope = small, jnp.ones_like(small)
    for k in range(1, SHIFT):
        factor = small + k
        product, slope = product * factor, slope * factor + product
    return jnp.where(a < SHIFT, a + SHIFT, a), product, slope


def _digamma(a: Any) -> Any:
    inverse = 1 / a
    return jnp.log(a) - 0.5 * inverse + _slope(inverse * inverse)


def _gammaln(a: Any) -> Any:
    return (a - 0.5) * jnp.log(a) - a + 0.5 * log(2 * pi) + _remainder(a)


def _remainder(a: Any) -> Any:
    """r(a) of Stirling's series."""
    inverse = 1 / a
    square, value = inverse * inverse, SERIES[-1]
    for term in SERIES[-2::-1]:
        value = value * square + term
    return value * inverse


def _slope(square: Any) -> Any:
    """r'(a) from 1 / a^2."""
    slope = -(2 * len(SERIES) - 1) * SERIES[-1]
    for k in reversed(range(len(SERIES) - 1)):
        slope = slope * square - (2 * k + 1) * SERIES[k]
    return slope * square


def _split(a: Any) -> tuple[Any, Any, Any]:
    """Where a is large, and arguments that are safe in either branch: neither may make a NaN in the other's gradient."""
    a = jnp.asarray(a)
    large = a >= LARGE
    return large, jnp.where(large, LARGE, a), jnp.where(large, a, LARGE)


@jax.jit
def digamma_entropy(a: Any) -> tuple[Any, Any]:
    """Digamma, and `gamma_entropy`: both need the same logarithm, product and series."""
    a = jnp.asarray(a)
    moved, product, slope = _moved(a)
    inverse, logarithm, large = 1 / moved, jnp.log(moved), a >= LARGE
    square, remainder, shifted = inverse * inverse, _remainder(moved), a < SHIFT
    series = _slope(square)
    half = 0.5 * inverse
    found = logarithm - half + series - jnp.where(shifted, slope / product, 0.0)
    log_gamma = (moved - 0.5) * logarithm - moved + 0.5 * log(2 * pi) + remainder
    small = a + (log_gamma - jnp.where(shifted, jnp.log(product), 0.0)) + (1 - a) * found
    stirling = 0.5 * (logarithm + log(2 * pi * e)) - half + remainder - (moved - 1) * series
    return found, jnp.where(large, stirling, small)


def gamma_entropy(a: Any) -> Any:
    """Entropy of the Gamma distribution with concentration a and rate 1: a + log Gamma(a) + (1 - a) digamma(a)."""
    return digamma_entropy(a)[1]


@jax.jit
def peak(a: Any) -> Any:
    """Value of a log a - a - log Gamma(a): what a Gamma density is at its mean, up to the factor 1 / x."""
    large, small, big = _split(a)
    stirling = 0.5 * (jnp.log(big) - log(2 * pi)) - _remainder(big)
    return jnp.where(large, stirling, small * jnp.log(small) - small - gammaln(small))


@jax.jit
def fall(ratio: Any) -> Any:
    """Log(ratio) - ratio + 1, at most 0 and exact next to ratio = 1."""
    excess = ratio - 1
    near = jnp.abs(excess) < 0.5
    close = jnp.where(near, excess, 0.0)
    return jnp.where(near, jnp.log1p(close) - close, jnp.log(jnp.where(near, 1.0, ratio)) - excess)
