"""Smoothed Newton for a Gaussian with independent blocks of sites: all correlations within a block, none between.

As in fixed_draws.py, u_n = T' grad log p(m + T z_n) on an orthogonal design gives a = E[u] and G = E[u z'], with T = diag(T_1,
..., T_B) block-diagonal. The mean takes the Newton step of the whole curvature, so that it is that of the whole posterior; the
factor of every block takes the step of its own diagonal block, which makes its covariance the inverse of that block of the
smoothed precision:

    m <- m + rho T V [V'a / max(|w|, floor)]        -G = V diag(w) V'
    T_b <- T_b V_b diag(w_b^(-rho/2)) V_b'          -G_bb = V_b diag(w_b) V_b'

Widths of blocks are those of conditionals given the other blocks: too small where blocks are correlated, as mean-field's are.

Requires: D up to about 1,500 (the curvature is formed as a matrix). Gaussian posteriors with these blocks are recovered exactly.
References: Saul, Jordan (1996), Exploiting tractable substructures in intractable networks, NeurIPS 8; Khan, Rue (2023), The
Bayesian learning rule, JMLR 24.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jensen.core import keys
from jensen.core.errors import OptionError, UnsupportedError
from jensen.engines import staged
from jensen.engines.designs import Design, block_size, orthogonal
from jensen.engines.engine import Ticks
from jensen.engines.guards import refuse_constant
from jensen.engines.staged import CAP, widths
from jensen.families.blocks import Blocks
from jensen.families.fullrank import DenseGaussian, from_factor

LARGEST = 1500
_FLOOR = 1e-10
_LARGEST_DESIGN = 4096


class _Parts(NamedTuple):
    """Mean (D,) and block-diagonal factor (D, D)."""

    mean: np.ndarray
    factor: np.ndarray


@dataclass(frozen=True)
class _Point:
    parts: _Parts
    loss: float
    slope: np.ndarray
    curvature: np.ndarray
    errors: tuple[float, float]


@dataclass(frozen=True)
class BlockDraws:
    """Engine: smoothed Newton for a block-diagonal Gaussian.

    Parameters
    ----------
    family
        `Blocks` of site names; sites that are not named are blocks of their own.
    start
        The approximation to start from (its mean, and its covariance within blocks); None is N(0, 0.1^2).
    steps
        Give up after so many steps.
    large
        Finish on a design four times as large; False stops at the small one.
    """

    family: Blocks = Blocks()
    start: Any = None
    steps: int = 150
    large: bool = True

    def init(self, target: Any, seed: int) -> staged.State:
        """Evaluate the start."""
        if target.dim > LARGEST:
            raise UnsupportedError(
                f"blocks of sites need the curvature as a matrix, for at most {LARGEST} dimensions; the model has {target.dim}; "
                "use 'structured', 'lowrank' or 'meanfield'."
            )
        owner = _owners(target.model.sites, self.family)
        rng, block = keys.generator(seed, "design"), block_size(target.dim)
        small = block * -(-32 // block)
        sizes = [small, 4 * small] if self.large and 4 * small <= _LARGEST_DESIGN else [small]
        designs = tuple(orthogonal(rng, target.dim, size) for size in sizes)
        mean, factor = np.zeros(target.dim), 0.1 * np.eye(target.dim)
        if self.start is not None:
            cov = np.asarray(self.start.cov, float)
            mean, factor = np.asarray(self.start.mean, float), np.linalg.cholesky(cov * (owner[:, None] == owner))
        state = staged.begin(target, _rules(target, owner), designs, _Parts(mean, factor), owner)
        parts = state.point.parts
        refuse_constant(target, target(parts.mean + designs[0].points @ parts.factor.T)[1])
        return state

    def advance(self, state: staged.State, target: Any) -> tuple[staged.State, Ticks]:
        """One accepted step, or a switch of radius, or a change to the large design."""
        return staged.advance(state, target, _rules(target, state.extra), self.steps)

    def finish(self, state: staged.State) -> DenseGaussian:
        """Q of the state; zeros in `scale` and `cov` between blocks."""
        owner = state.extra
        q = from_factor(*state.point.parts)
        return DenseGaussian(q.mean, q.scale * (owner[:, None] == owner))

    def converged(self, state: staged.State) -> bool:
        """Mean within 0.1 sd of the optimum, widths within 15%, on the last design."""
        return staged.converged(state)


def _owners(sites: Any, family: Blocks) -> np.ndarray:
    """Number of the block of every coordinate (D,)."""
    names = [site.name for site in sites]
    block = {name: number for number, group in enumerate(family.groups) for name in group}
    unknown = [name for name in block if name not in names]
    if unknown:
        raise OptionError(
            f"Blocks names {unknown[0]}, which is no site of the model; its sites are {', '.join(names[:8])}."
        )
    alone = {name: len(family.groups) + number for number, name in enumerate(names)}
    return np.concatenate([np.full(site.size, block.get(site.name, alone[site.name])) for site in sites])


def _rules(target: Any, owner: np.ndarray) -> staged.Rules:
    def width(parts: _Parts) -> np.ndarray:
        return np.sqrt((parts.factor**2).sum(1))

    return staged.Rules(
        lambda design, parts: _evaluate(target, owner, design, parts),
        lambda point: _proposals(owner, point),
        lambda parts, by: _Parts(parts.mean, parts.factor * by),
        lambda parts: np.maximum(np.abs(parts.mean), width(parts)),
        lambda parts: _Parts(width(parts), width(parts)[:, None]),
    )


def _evaluate(target: Any, owner: np.ndarray, design: Design, parts: _Parts) -> _Point | None:
    mean, factor = parts
    log_p, gradient = target(mean + design.points @ factor.T)
    if not (np.isfinite(log_p).all() and np.isfinite(gradient).all()):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        u, volume = gradient @ factor, np.linalg.slogdet(factor)[1]
    if not (np.isfinite(u).all() and np.isfinite(volume)):
        return None
    weighted = u * design.weights[:, None]
    slope, curvature = weighted.sum(0), weighted.T @ design.points
    curvature = 0.5 * (curvature + curvature.T)
    # The error of the mean is told in sds of the posterior, which are wider than the blocks'.
    w, v = np.linalg.eigh(-curvature)
    error = np.abs(v.T @ slope) / np.sqrt(np.maximum(np.abs(w), _FLOOR))
    gap = np.abs((curvature + np.eye(len(mean)))[owner[:, None] == owner]).max()
    half_entropy = 0.5 * len(mean) * (1 + np.log(2 * np.pi))
    loss = float(-(design.weights @ log_p) - volume - half_entropy)
    return _Point(parts, loss, slope, curvature, (float(error.max()), float(gap)))


def _proposals(owner: np.ndarray, point: _Point) -> staged.Propose:
    w, v = np.linalg.eigh(-point.curvature)
    size, slope = np.maximum(np.abs(w), _FLOOR), v.T @ point.slope
    cap = CAP / np.sqrt(np.minimum(size, 1.0))
    unit = max(1.0, float(np.median(np.abs(w))))
    within = -point.curvature * (owner[:, None] == owner)
    own, basis = np.linalg.eigh(within)

    def parts(rho: float, extra: float) -> _Parts:
        move = rho * slope / (size + extra * unit)
        move = np.where(w < 0.5, np.clip(move, -cap, cap), move)
        root = (basis * widths(own) ** (-rho / 2)) @ basis.T * (owner[:, None] == owner)
        mean, factor = point.parts
        return _Parts(mean + factor @ (v @ move), factor @ root)

    return parts
