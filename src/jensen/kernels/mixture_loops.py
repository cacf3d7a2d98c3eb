"""Compiled loops of `mixture_fused.py`: the features of a chunk, its responsibilities, and a whole pass in one dimension.

Requires numba; loaded when many rows are fitted, not before. Everything is single precision and laid out feature by feature,
so that each inner loop runs along rows, is contiguous, and becomes vector instructions. LLVM has no vector exponential, so that
2^t = 2^m 2^z, with m the nearest integer, is written out: a polynomial of degree 5 in z (relative error 9e-8), and m added to the
exponent's bits. Log densities come in bits for that reason, and so do log normalizers. Coefficients are minimax, by Lawson's
iteration on least squares.

The largest exponent of a row is subtracted first (two that overflow would look alike), and differences are cut at -58: smaller
responsibilities change no sum, and products with them become denormal numbers, which are slow.
"""

import numpy as np
from numba import njit

ROWS = 1024
"""Rows of a block of `univariate`: everything that belongs to a block stays in the first-level cache."""

_F, _I = np.float32, np.int32
_LOOP = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy", "nogil": True, "cache": True}
"""Sums may be reordered; infinities and NaN keep their meaning."""


@njit(inline="always")
def _exp2(t):
    """2^max(t, -58) for t <= 0; exact at 0."""
    t = max(t, _F(-58.0))
    m = np.rint(t)
    z = t - m
    p = _F(1.3264727124e-3)
    p = p * z + _F(9.6715126448e-3)
    p = p * z + _F(5.5507337435e-2)
    p = p * z + _F(2.4022242085e-1)
    p = p * z + _F(6.9314697760e-01)
    p = p * z + _F(1.0)
    return _I(_F(p).view(_I) + (_I(m) << _I(23))).view(_F)


@njit(inline="always")
def _log2(x):
    """log2(x) for x >= 1, absolute error 2e-8 before rounding."""
    bits = _F(x).view(_I) - _I(0x3F3504F3)  # mantissas are taken from [sqrt(1/2), sqrt(2))
    m = bits >> _I(23)
    z = _I(_F(x).view(_I) - _I(m << _I(23))).view(_F) - _F(1.0)
    p = _F(1.2926420730e-1)
    p = p * z - _F(2.0893377783e-1)
    p = p * z + _F(2.1521226769e-1)
    p = p * z - _F(2.3867568671e-1)
    p = p * z + _F(2.8793909367e-1)
    p = p * z - _F(3.6071626354e-1)
    p = p * z + _F(4.8091027982e-1)
    p = p * z - _F(7.2134719932e-1)
    p = p * z + _F(1.4426950049)
    return p * z + _F(m)


@njit(**_LOOP)
def features(z, first, kind, F):
    """Columns z (D, N) from `first` on into F (P, n): ones, z, and squares.

    kind 0: nothing else; 1: the sum of squares; 2: z_d^2; 3: z_d z_e for d <= e.
    """
    D, n = len(z), F.shape[1]
    p = 1 + D
    F[0, :] = _F(1.0)
    for d in range(D):
        F[1 + d, :] = z[d, first : first + n]
    if kind == 1:
        F[p, :] = _F(0.0)
        for d in range(D):
            one = F[1 + d]
            for i in range(n):
                F[p, i] += one[i] * one[i]
    elif kind >= 2:
        for d in range(D):
            one = F[1 + d]
            for e in range(d, D if kind == 3 else d + 1):
                other = F[1 + e]
                for i in range(n):
                    F[p, i] = one[i] * other[i]
                p += 1


@njit(**_LOOP)
def responsibilities(E, weight, top, total):
    """Log joint densities E (K, n), in bits, become weighted responsibilities in place; returns the sum of log normalizers."""
    K, n = E.shape
    for i in range(n):
        top[i] = E[0, i]
        total[i] = _F(0.0)
    for k in range(1, K):
        for i in range(n):
            top[i] = max(top[i], E[k, i])
    for k in range(K):
        for i in range(n):
            e = _exp2(E[k, i] - top[i])
            E[k, i] = e
            total[i] += e
    norm = 0.0
    for i in range(n):
        norm += weight[i] * (top[i] + _log2(total[i]))
        total[i] = weight[i] / total[i]
    for k in range(K):
        for i in range(n):
            E[k, i] *= total[i]
    return norm


@njit(**_LOOP)
def univariate(x, weight, W, S):
    """Rows x (N,) with coefficients W (K, 3) of 1, x, x^2 in bits; adds to S (K, 3) and returns the sum of log normalizers.

    An empty `weight` stands for ones.
    """
    K = len(W)
    E, top, total = np.empty((K, ROWS), _F), np.empty(ROWS, _F), np.empty(ROWS, _F)
    norm = 0.0
    for a in range(0, x.size, ROWS):
        block = x[a : a + ROWS]
        n = block.size
        for k in range(K):
            w0, w1, w2 = W[k, 0], W[k, 1], W[k, 2]
            for i in range(n):
                E[k, i] = w0 + (w1 + w2 * block[i]) * block[i]
        for i in range(n):
            top[i] = E[0, i]
            total[i] = _F(0.0)
        for k in range(1, K):
            for i in range(n):
                top[i] = max(top[i], E[k, i])
        for k in range(K):
            for i in range(n):
                e = _exp2(E[k, i] - top[i])
                E[k, i] = e
                total[i] += e
        part = _F(0.0)
        if weight.size:
            times = weight[a : a + ROWS]
            for i in range(n):
                part += times[i] * (top[i] + _log2(total[i]))
                total[i] = times[i] / total[i]
        else:
            for i in range(n):
                part += top[i] + _log2(total[i])
                total[i] = _F(1.0) / total[i]
        norm += part
        for k in range(K):
            s0, s1, s2 = _F(0.0), _F(0.0), _F(0.0)
            for i in range(n):
                r = E[k, i] * total[i]
                rx = r * block[i]
                s0 += r
                s1 += rx
                s2 += rx * block[i]
            S[k, 0] += s0
            S[k, 1] += s1
            S[k, 2] += s2
    return norm
