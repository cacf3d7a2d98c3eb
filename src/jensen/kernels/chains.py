"""Long discrete chains with one transition matrix, in NumPy: forward-backward and Viterbi in about 5 sqrt(T) vectorized steps.

    f_t[j] = e_t[j] sum_i f_t-1[i] P[i, j],   b_t-1[i] = sum_j P[i, j] e_t[j] b_t[j],   e = exp u,  P = exp v

`families/markov.py` has the recursions for any chain, in JAX: it holds (T, K, K) pairs and takes two seconds to compile for every
new length. Here the chain is cut into sqrt(T) blocks. First every block's transfer matrix is multiplied up, all blocks at once;
then the messages at the ends of the blocks follow from one block to the next; then all blocks fill in theirs at once. Several
sequences are one chain, whose matrix is all ones where the next sequence starts. Viterbi's path is the same in the algebra of
(max, +). Messages are scaled to sum 1; the caller sees to it that v does not spread by more than `SPREAD` nats.

Requires: v (K, K) for all steps, T K numbers of memory a few times.

References: Rabiner (1989), Proc. IEEE 77; Sarkka & Garcia-Fernandez (2021), Temporal parallelization of Bayesian smoothers, IEEE
Trans. Automatic Control 66, and Hassan, Sarkka & Garcia-Fernandez (2021), IEEE Trans. Signal Processing 69 (the blocks).
"""

from typing import NamedTuple

import numpy as np

SPREAD = 150.0
# A level that many nats below the best of its time has at most exp(-FLOOR + 2 SPREAD) of its probability, whatever the rest says.
FLOOR = 400.0


class Smoothed(NamedTuple):
    """Probabilities of levels (T, K), expected numbers of steps from level to level (K, K), log Z summed over the sequences."""

    probs: np.ndarray
    steps: np.ndarray
    log_z: float


def spread(v: np.ndarray) -> float:
    """Largest difference of the logarithms v of a transition matrix."""
    return float(v.max() - v.min())


def _cut(values: np.ndarray, fill: float) -> np.ndarray:
    """(T, ...) in blocks of about sqrt(T), filled up at the end: (L, B, ...), step within the block first."""
    total = len(values)
    length = int(np.ceil(np.sqrt(total)))
    blocks = -(-total // length)
    full = np.full((blocks * length, *values.shape[1:]), fill, values.dtype)
    full[:total] = values
    return np.ascontiguousarray(full.reshape(blocks, length, *values.shape[1:]).swapaxes(0, 1))


def _join(values: np.ndarray, total: int) -> np.ndarray:
    """The inverse of `_cut`."""
    return values.swapaxes(0, 1).reshape(-1, *values.shape[2:])[:total]


def _advance(f: np.ndarray, matrix: np.ndarray, e: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of messages f (B, ..., K) of all blocks, and their scales (B, ..., 1)."""
    ones = np.ones((len(matrix), 1))  # NumPy sums short rows slower than BLAS multiplies them
    f = np.where(first, f @ ones, f @ matrix) * e
    scale = f @ ones
    return f / scale, scale


def smooth(u: np.ndarray, v: np.ndarray, first: np.ndarray) -> Smoothed:
    """Forward-backward.

    Parameters
    ----------
    u
        Potentials of the levels (T, K), finite; those of the first level included where a sequence starts.
    v
        Logarithms of the transition matrix (K, K), finite.
    first
        Whether a sequence starts here (T,); true at 0.
    """
    total, k = u.shape
    tops, top = u.max(1, keepdims=True), v.max()
    e = _cut(np.exp(np.maximum(u - tops, -FLOOR)), 1 / k)
    starts = _cut(first, True)[..., None]
    matrix = np.exp(v - top)
    length, blocks, _ = e.shape

    transfer = np.broadcast_to(np.eye(k), (blocks, k, k))
    log_scale = np.zeros((blocks, k, 1))
    for step in range(length):
        transfer, scale = _advance(transfer, matrix, e[step, :, None], starts[step, :, None])
        log_scale += np.log(scale)
    transfer = transfer * np.exp(log_scale - log_scale.max(1, keepdims=True))

    entry, ahead = np.empty((blocks, k)), np.empty((blocks, k))
    entry[0], ahead[-1] = 1 / k, 1.0
    for block in range(1, blocks):
        message = entry[block - 1] @ transfer[block - 1]
        entry[block] = message / message.sum()
        message = transfer[-block] @ ahead[-block]
        ahead[-block - 1] = message / message.sum()

    f, b, scales = np.empty_like(e), np.empty_like(e), np.empty((length, blocks, 1))
    message = entry
    for step in range(length):
        message, scales[step] = _advance(message, matrix, e[step], starts[step])
        f[step] = message
    message, back, ones = ahead, np.ascontiguousarray(matrix.T), np.ones((k, 1))
    for step in reversed(range(length)):
        b[step] = message
        message = e[step] * message
        message = np.where(starts[step], message @ ones, message @ back)
        message = message / (message @ ones)

    both = f * b
    here = both.sum(-1, keepdims=True)
    log_z = np.log(_join(scales, total)).sum() + tops.sum() + top * (total - first.sum())
    into = _join(e * b / (scales * here), total)[1:]
    into[first[1:]] = 0
    return Smoothed(_join(both / here, total), matrix * (_join(f, total)[:-1].T @ into), float(log_z))


def _best(d: np.ndarray, v: np.ndarray) -> np.ndarray:
    """max_i d[..., i] + v[i, j]."""
    best = d[..., :1] + v[0]
    for i in range(1, len(v)):
        np.maximum(best, d[..., i : i + 1] + v[i], out=best)
    return best


def likeliest_path(u: np.ndarray, v: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, float]:
    """Viterbi: the levels of highest joint probability (T,), and the sum of their potentials; arguments as in `smooth`."""
    total, k = u.shape
    heights, starts = _cut(u, 0.0), _cut(first, True)[..., None]
    length, blocks, _ = heights.shape

    transfer = np.where(np.eye(k, dtype=bool), 0.0, -np.inf) + np.zeros((blocks, 1, 1))
    for step in range(length):
        at, start = heights[step, :, None], starts[step, :, None]
        transfer = np.where(start, transfer.max(-1, keepdims=True), _best(transfer, v)) + at
    entry = np.zeros((blocks, k))
    for block in range(1, blocks):
        entry[block] = (entry[block - 1][:, None] + transfer[block - 1]).max(0)

    came = np.empty((length, blocks, k), np.intp)
    d = entry
    for step in range(length):
        paths = d[:, :, None] + np.where(starts[step][..., None], 0.0, v)
        came[step] = paths.argmax(1)
        d = paths.max(1) + heights[step]

    # Which level before the block leads to each level at its end; then from the last block to the first; then all levels.
    origin = np.broadcast_to(np.arange(k), (blocks, k))
    for step in reversed(range(length)):
        origin = np.take_along_axis(came[step], origin, -1)
    end = np.empty(blocks, np.intp)
    end[-1] = d[-1].argmax()
    for block in reversed(range(1, blocks)):
        end[block - 1] = origin[block, end[block]]
    path, each = np.empty((length, blocks), np.intp), np.arange(blocks)
    for step in reversed(range(length)):
        path[step] = end
        end = came[step, each, end]
    return _join(path, total), float(d[-1].max())
