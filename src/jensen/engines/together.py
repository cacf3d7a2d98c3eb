"""Smoothed Newton for many data sets of one model at once: the iteration of fixed_draws.py, in lockstep.

Each data set has its own mean, factor, damping and trial fraction rho; a round evaluates one trial step of every data set that
has not arrived, in one call of the program, and takes it where it lowers that data set's F. There is one start, N(0, 0.1^2),
and one design, the large one: what does not arrive is left to the caller, who can fit it by itself.

    a, G per data set;   -G = V diag(w) V';   m += rho L V (V'a / |w|);   L <- L V diag(w^(-rho/2)) V',  mean-field: its diagonal

Requires and references: see fixed_draws.py; a few hundred dimensions at most, as every data set has a D x D matrix.
"""

from typing import Any

import numpy as np

from jensen.core import keys
from jensen.engines.designs import Design, block_size, orthogonal
from jensen.families.fullrank import FullRank
from jensen.families.meanfield import MeanField

_CAP, _FLOOR = 10.0, 1e-10
_CLOSE, _ENOUGH = (0.001, 0.001), (0.1, 0.15)
"""Errors of mean (in sds) and curvature at which a fit ends, and with which one counts that cannot go on."""
_ROUNDS = 300
_SHRINK = (1.0, 0.5, 0.25, 0.075, 0.0225, 0.00675, 0.002, 0.0006)
_DAMPING = (0.0, 0.0, 0.0, 1.0, 10.0, 100.0, 1e3, 1e4)
"""Fractions of a step that are tried in turn, and the damping beside each."""


def fit_together(many: Any, family: FullRank | MeanField, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (n, D), factors (n, D, D) and whether each fit has arrived (n,).

    Parameters
    ----------
    many
        The log densities (`jensen.models.many.Many`).
    family
        Full rank, or mean-field: then the factors are diagonal.
    seed
        Of the design.
    """
    n, dim = many.number, many.dim
    block = block_size(dim)
    design = orthogonal(keys.generator(seed, "design"), dim, 4 * block * -(-32 // block))
    mean, factor = np.zeros((n, dim)), np.broadcast_to(0.1 * np.eye(dim), (n, dim, dim)).copy()
    loss, slope, gap = _evaluated(many, design, np.arange(n), mean, factor)
    tries, arrived = np.zeros(n, int), np.zeros(n, bool)
    going = np.isfinite(loss)
    diagonal = isinstance(family, MeanField)
    for _ in range(_ROUNDS):
        rows = np.flatnonzero(going)
        if not len(rows):
            break
        rho, extra = np.array(_SHRINK)[tries[rows]], np.array(_DAMPING)[tries[rows]]
        new = _proposed(mean[rows], factor[rows], slope[rows], gap[rows], rho, extra, diagonal)
        new_loss, new_slope, new_gap = _evaluated(many, design, rows, *new)
        better = new_loss <= loss[rows] + 1e-13 * np.abs(loss[rows])
        taken, before = rows[better], _errors(slope[rows[better]], gap[rows[better]], diagonal)
        quiet = loss[taken] - new_loss[better] < 1e-9 * np.abs(loss[taken])
        mean[taken], factor[taken] = new[0][better], new[1][better]
        loss[taken], slope[taken], gap[taken] = new_loss[better], new_slope[better], new_gap[better]
        tries[taken] = np.maximum(tries[taken] - 3, 0)
        tries[rows[~better]] += 1
        after = _errors(slope[taken], gap[taken], diagonal)
        done = ((before < _CLOSE) & (after < _CLOSE)).all(1) | (quiet & (after < _ENOUGH).all(1))
        stuck = tries == len(_SHRINK)
        arrived[taken[done]] = True
        arrived[stuck] |= (_errors(slope[stuck], gap[stuck], diagonal) < _ENOUGH).all(1)
        going[taken[done]] = False
        going[stuck] = False
        tries[stuck] = 0
    return mean, factor, arrived


def _evaluated(
    many: Any, design: Design, rows: np.ndarray, mean: np.ndarray, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F (B,), slopes a (B, D) and curvatures G (B, D, D); F is infinite where the density is not finite."""
    z, weights = design
    log_p, gradient = many(rows, mean[:, None] + z @ factor.swapaxes(1, 2))
    bad = ~(np.isfinite(log_p).all(1) & np.isfinite(gradient).all((1, 2)))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        u = np.where(bad[:, None, None], 0.0, gradient) @ factor
        loss = -(log_p @ weights) - np.linalg.slogdet(factor)[1]
    weighted = u * weights[:, None]
    curvature = weighted.swapaxes(1, 2) @ z
    loss = np.where(bad | ~np.isfinite(loss), np.inf, loss)
    return loss, weighted.sum(1), 0.5 * (curvature + curvature.swapaxes(1, 2))


def _proposed(
    mean: np.ndarray,
    factor: np.ndarray,
    slope: np.ndarray,
    curvature: np.ndarray,
    rho: np.ndarray,
    extra: np.ndarray,
    diagonal: bool,
) -> tuple[np.ndarray, np.ndarray]:
    w, v = np.linalg.eigh(-curvature)
    along = (v.swapaxes(1, 2) @ slope[..., None])[..., 0]
    size = np.maximum(np.abs(w), _FLOOR if diagonal else _CAP**-2)
    cap = _CAP / np.sqrt(np.minimum(size, 1.0)) if diagonal else np.full_like(size, _CAP)
    unit = np.maximum(1.0, np.median(np.abs(w), axis=1))
    move = rho[:, None] * along / (size + (extra * unit)[:, None])
    move = np.where(w < 0.5, np.clip(move, -cap, cap), move)
    moved = mean + (factor @ (v @ move[..., None]))[..., 0]
    own = -np.diagonal(curvature, axis1=1, axis2=2) if diagonal else w
    power = np.where(own > -1, np.maximum(own, _CAP**-2), 1.0) ** (-rho[:, None] / 2)
    if diagonal:
        return moved, factor * power[:, None, :]
    return moved, factor @ (v * power[:, None, :]) @ v.swapaxes(1, 2)


def _errors(slope: np.ndarray, curvature: np.ndarray, diagonal: bool) -> np.ndarray:
    """Largest |a| and |G + I| of each data set (B, 2); mean-field: a in the posterior's sds, and the diagonal of G."""
    if diagonal:
        w, v = np.linalg.eigh(-curvature)
        slope = (v.swapaxes(1, 2) @ slope[..., None])[..., 0] / np.sqrt(np.maximum(np.abs(w), _FLOOR))
        gap = np.abs(np.diagonal(curvature, axis1=1, axis2=2) + 1)
    else:
        gap = np.abs(curvature + np.eye(slope.shape[1])).max(2)
    return np.stack([np.abs(slope).max(1), gap.max(1)], 1)
