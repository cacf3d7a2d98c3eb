"""Points of Sobol sequences in up to ten dimensions, as numbers that fill the unit cube evenly.

`scipy.stats.qmc` has them for any dimension, and takes more than a second of a first fit to load. Dimension j has the primitive
polynomial x^s + a_1 x^(s-1) + ... + 1 and first direction numbers m_1, ..., m_s; the others follow by the recurrence

    m_k = 2 a_1 m_(k-1) xor ... xor 2^s m_(k-s) xor m_(k-s),      v_k = m_k / 2^k.

Digits are scrambled by random lower triangular matrices and shifted (Matousek), which keeps every part of the sequence even.

References: Sobol (1967); Joe, Kuo (2008), Constructing Sobol sequences with better two-dimensional projections, SIAM J. Sci.
Comput. 30; Matousek (1998), On the L2-discrepancy for anchored boxes, J. Complexity 14.
"""

import numpy as np

_POLYNOMIALS = ("1", "11", "111", "1011", "1101", "10011", "11001", "100101", "101001", "101111")
"""Coefficients; the first dimension has its digits in the reverse order of n's."""
_FIRST = (
    (1,),
    (1,),
    (1, 3),
    (1, 3, 1),
    (1, 1, 1),
    (1, 1, 3, 3),
    (1, 3, 5, 13),
    (1, 1, 5, 5, 17),
    (1, 1, 5, 5, 5),
    (1, 1, 7, 11, 19),
)
LARGEST = len(_FIRST)
_BITS = 30


def sobol(p: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """The first n points (n, p) of a scrambled sequence, inside of the unit cube; n is a power of two, p at most `LARGEST`."""
    digits = (np.arange(n)[:, None] >> np.arange(_BITS)) & 1  # (n, bits), lowest first
    points = np.empty((n, p))
    halves = 0.5 ** np.arange(1, _BITS + 1)
    for j in range(p):
        scramble = np.tril(rng.integers(0, 2, (_BITS, _BITS)), -1) + np.eye(_BITS, dtype=int)
        mixed = (digits @ _directions(j) @ scramble.T + rng.integers(0, 2, _BITS)) % 2
        points[:, j] = mixed @ halves + 0.5 ** (_BITS + 1)
    return points


def _directions(j: int) -> np.ndarray:
    """Binary digits (bits, bits) of the direction numbers of dimension j, the highest digit first."""
    if j == 0:
        return np.eye(_BITS, dtype=int)
    s, m = len(_FIRST[j]), list(_FIRST[j])
    inner = [int(c) for c in _POLYNOMIALS[j][1:-1]]
    for k in range(s, _BITS):
        new = m[k - s] ^ (m[k - s] << s)
        for i, a in enumerate(inner, 1):
            new ^= (a * m[k - i]) << i
        m.append(new)
    return np.array(
        [[(m[k] << (_BITS - 1 - k)) >> (_BITS - 1 - bit) & 1 for bit in range(_BITS)] for k in range(_BITS)]
    )
