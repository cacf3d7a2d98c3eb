"""Smoothed Newton with arrow curvature: a structured Gaussian at linear cost in the number of groups.

With z = m + T e, T made of H, K_i and C_i (families/structured.py), gradients on fixed draws e_n give in whitened coordinates

    u_i = C_i' grad_i       u_g = H' grad_g + sum_i K_i' grad_i       a = E[u]
    W_gg = -E[u_g e_g']     W_ig = -E[u_i e_g']     W_ii = -E[u_i e_i']       (a = 0, W = identity at the optimum)

by Stein's identity: the blocks of the smoothed curvature that an arrow has, and no others. One elimination of the groups,
S = W_gg - sum_i W_gi W_ii^-1 W_ig, gives the Newton step of the mean and the new precision:

    d_g = S^-1 (a_g - sum_i W_gi W_ii^-1 a_i)        d_i = W_ii^-1 (a_i - W_ig d_g)
    H <- H S^-1/2      C_i <- C_i W_ii^-1/2      K_i <- (K_i - C_i W_ii^-1 W_ig) S^-1/2

saddle-free and capped in the eigenbases of S and of every W_ii, with the walk of staged.py. The draws are exact to second
order for each group with the globals (`along_plates`), so that arrow-shaped Gaussian posteriors are recovered exactly with M
>= 2 (p + d) draws, whatever G. A step costs O(M G d (p + d)) besides the gradients.

Requires: groups (models/groups.py), a continuous unconstrained density with gradients.
References: Khan, Rue (2023), The Bayesian learning rule, JMLR 24; Tan, Nott (2018), Gaussian variational approximation with
sparse precision matrices, Statist. Comput. 28.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jensen.core import keys
from jensen.engines import staged
from jensen.engines.designs import along_plates
from jensen.engines.engine import Ticks
from jensen.engines.guards import refuse_constant
from jensen.engines.staged import CAP, widths
from jensen.families.structured import ArrowGaussian, from_blocks, plates_of
from jensen.models.groups import Groups, find

_PLACED, _PLACINGS = 1.5, 4
"""Error of a group's mean, in its sds, from which one step puts it in its place, and most steps until all are."""
_ALONE = 8
"""Draws of the design for that, at the least; 2 d are exact to second order."""


class _Parts(NamedTuple):
    """Parameters of q: mean (D,), H (p, p), K (G, d, p), C (G, d, d)."""

    mean: np.ndarray
    head: np.ndarray
    reach: np.ndarray
    tails: np.ndarray


@dataclass(frozen=True)
class _Point:
    """The objective on a design, with slopes and curvature in whitened coordinates."""

    parts: _Parts
    loss: float
    slopes: tuple[np.ndarray, np.ndarray]
    curvatures: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def errors(self) -> tuple[float, float]:
        """Largest |a| and largest |W - I|."""
        top, across, inside = self.curvatures
        gaps = (top - np.eye(len(top)), across, inside - np.eye(inside.shape[1]))
        return _largest(self.slopes), _largest(gaps)


@dataclass(frozen=True)
class Structured:
    """Engine: smoothed Newton for a Gaussian with a global block and one block a group.

    Parameters
    ----------
    start
        The approximation to start from; None is N(0, 0.1^2). Of one without the same groups only means and sds are used.
    steps
        Give up after so many steps.
    draws
        Of the designs, one after the other, at the least: with many globals 4 (p + d) of the first, 8 (p + d) of others.
    fine
        Error of the mean, in sds, and of the relative curvature at which it ends; None: by the number of dimensions.
    groups
        Where they are known, of a target that changes with every coordinate; None: looked for in gradients.
    """

    start: Any = None
    steps: int = 150
    draws: tuple[int, ...] = (32, 128)
    fine: tuple[float, float] | None = None
    groups: Groups | None = None

    def init(self, target: Any, seed: int) -> staged.State:
        """Find the groups and evaluate the start."""
        groups = self.groups or find(target, seed)
        p, (count, own) = len(groups.shared), groups.own.shape
        least = 4 * (p + own)
        # A call of the program costs the same however few of its points are used.
        sizes = [max(self.draws[0], target.batch, least)]
        sizes += [size for size in (max(more, 2 * least) for more in self.draws[1:]) if size > sizes[0]]
        rng = keys.generator(seed, "design")
        designs = tuple(along_plates(rng, p, count, own, size) for size in sizes)
        state = staged.begin(target, _rules(target, groups), designs, _started(self.start, groups, target.dim), groups)
        if self.groups is None:
            refuse_constant(target, target(_out(groups, state.point.parts, designs[0]))[1])
        return state

    def advance(self, state: staged.State, target: Any) -> tuple[staged.State, Ticks]:
        """One accepted step, or a switch of radius, or a change to the large design."""
        return staged.advance(state, target, _rules(target, state.extra, self.fine), self.steps)

    def finish(self, state: staged.State) -> ArrowGaussian:
        """Q of the state."""
        return from_blocks(plates_of(state.extra.shared, state.extra.own), *state.point.parts)

    def converged(self, state: staged.State) -> bool:
        """Mean within 0.1 sd of the optimum, widths within 15%, on the last design."""
        return staged.converged(state)


@dataclass(frozen=True)
class _Places:
    """Groups on their way: the design of the groups' noise, q, and steps so far."""

    design: np.ndarray
    parts: _Parts
    steps: int = 0
    settled: bool = False


@dataclass(frozen=True)
class Placing:
    """Engine: every group goes where its smoothed Newton steps lead while the globals stay at their mean, on few draws a pass.

    From globals that are nearly right this is most of the way: steps of all together, with groups far from their places, would
    first lead the globals away.

    Parameters
    ----------
    groups, start
        The groups of the target, and where to start.
    """

    groups: Groups
    start: ArrowGaussian

    def init(self, target: Any, seed: int) -> _Places:
        """A design for groups alone."""
        rng = keys.generator(seed, "design to place groups")
        count, own = self.groups.own.shape
        design = along_plates(rng, 0, count, own, _ALONE)[1]
        return _Places(design, _started(self.start, self.groups, target.dim))

    def advance(self, state: _Places, target: Any) -> tuple[_Places, Ticks]:
        """One step of every group."""
        groups, parts = self.groups, state.parts
        design = np.zeros((len(state.design), len(groups.shared))), state.design
        point = _evaluate(target, groups, design, parts)
        if point is None:
            return state, Ticks(np.zeros(0), done=True)
        slopes = point.slopes[1]
        w, v = np.linalg.eigh(point.curvatures[2])
        slope = (np.swapaxes(v, 1, 2) @ slopes[:, :, None])[:, :, 0]
        step = _capped(slope / np.maximum(np.abs(w), CAP**-2), w, True)
        mean = parts.mean.copy()
        mean[groups.own] += (parts.tails @ (v @ step[:, :, None]))[:, :, 0]
        inner = (v * widths(w)[:, None, :] ** -0.5) @ np.swapaxes(v, 1, 2)
        parts = _Parts(mean, parts.head, parts.reach, parts.tails @ inner)
        error = float(np.abs(slopes).max())
        state = _Places(state.design, parts, state.steps + 1, error < _PLACED)
        return state, Ticks(np.array([point.loss]), done=state.settled or state.steps == _PLACINGS, error=error)

    def finish(self, state: _Places) -> ArrowGaussian:
        """Q of the state."""
        return from_blocks(plates_of(self.groups.shared, self.groups.own), *state.parts)

    def converged(self, state: _Places) -> bool:
        """The last step put every group in its place."""
        return state.settled


def _started(start: Any, groups: Groups, dim: int) -> _Parts:
    if isinstance(start, ArrowGaussian) and start.plates == plates_of(groups.shared, groups.own):
        return _Parts(*(np.asarray(part, float) for part in (start.mean, start.head, start.reach, start.tails)))
    mean = np.zeros(dim) if start is None else np.asarray(start.mean, float)
    sd = np.full(dim, 0.1) if start is None else np.asarray(start.sd, float)
    count, own = groups.own.shape
    tails = sd[groups.own][:, :, None] * np.eye(own)
    return _Parts(mean, np.diag(sd[groups.shared]), np.zeros((count, own, len(groups.shared))), tails)


def _rules(target: Any, groups: Groups, fine: tuple[float, float] | None = None) -> staged.Rules:
    return staged.Rules(
        lambda design, parts: _evaluate(target, groups, design, parts),
        _proposals(groups),
        lambda parts, by: _Parts(parts.mean, parts.head * by, parts.reach * by, parts.tails * by),
        lambda parts: np.maximum(np.abs(parts.mean), _widths_of(groups, parts)),
        lambda parts: _units(groups, _widths_of(groups, parts)),
        getattr(target, "rounding", staged.ROUNDING),
        fine,
    )


def _widths_of(groups: Groups, parts: _Parts) -> np.ndarray:
    result = np.empty(len(parts.mean))
    result[groups.shared] = np.sqrt((parts.head**2).sum(-1))
    result[groups.own] = np.sqrt((parts.reach**2).sum(-1) + (parts.tails**2).sum(-1))
    return result


def _units(groups: Groups, width: np.ndarray) -> _Parts:
    own = width[groups.own][:, :, None]
    return _Parts(width, width[groups.shared][:, None], own, own)


def _out(groups: Groups, parts: _Parts, design: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Points of the design, transported (M, D)."""
    e_g, e_i = design
    z = np.empty((len(e_g), len(parts.mean)))
    z[:, groups.shared] = e_g @ parts.head.T
    z[:, groups.own] = np.tensordot(e_g, parts.reach, ([1], [2])) + _apply(np.swapaxes(parts.tails, 1, 2), e_i)
    return z + parts.mean


def _apply(matrices: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Row vectors (M, G, d) times a matrix a group (G, d, k)."""
    if matrices.shape[1] == 1:
        return rows * matrices[:, 0]
    return np.swapaxes(np.swapaxes(rows, 0, 1) @ matrices, 0, 1)


def _evaluate(target: Any, groups: Groups, design: tuple[np.ndarray, np.ndarray], parts: _Parts) -> _Point | None:
    """The point, or None when the density is not finite somewhere on the design."""
    e_g, e_i = design
    log_p, gradient = target(_out(groups, parts, design))
    if not (np.isfinite(log_p).all() and np.isfinite(gradient).all()):
        return None
    own = gradient[:, groups.own]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        u_i = _apply(parts.tails, own)
        u_g = gradient[:, groups.shared] @ parts.head + np.tensordot(own, parts.reach, ([1, 2], [0, 1]))
        volume = np.linalg.slogdet(parts.head)[1] + np.linalg.slogdet(parts.tails)[1].sum()
    if not (np.isfinite(u_i).all() and np.isfinite(u_g).all() and np.isfinite(volume)):
        return None
    n = len(e_g)
    top = -(u_g.T @ e_g) / n
    across = -np.moveaxis(np.tensordot(e_g, u_i, ([0], [0])), 0, -1) / n
    inside = -(np.transpose(u_i, (1, 2, 0)) @ np.transpose(e_i, (1, 0, 2))) / n
    half_entropy = 0.5 * len(parts.mean) * (1 + np.log(2 * np.pi))
    return _Point(
        parts,
        float(-log_p.mean() - volume - half_entropy),
        (u_g.mean(0), u_i.mean(0)),
        (0.5 * (top + top.T), across, 0.5 * (inside + np.swapaxes(inside, 1, 2))),
    )


def _proposals(groups: Groups) -> Any:
    def propose(point: _Point) -> staged.Propose:
        top, across, inside = point.curvatures
        a_g, a_i = point.slopes
        w, v = np.linalg.eigh(inside)
        turned = np.swapaxes(v, 1, 2) @ across  # rows are those of the groups' eigenbases
        slope = (np.swapaxes(v, 1, 2) @ a_i[:, :, None])[:, :, 0]
        unit = _unit(w)

        def newton(extra: float, bold: bool) -> tuple[np.ndarray, np.ndarray]:
            size = np.maximum(np.abs(w), CAP**-2) + extra * unit
            alone = _capped(slope / size, w, bold)
            s, b = np.linalg.eigh(top - _folded(turned, turned / size[:, :, None]))
            left = b.T @ (a_g - np.tensordot(turned, slope / size, ([0, 1], [0, 1])))
            size_g = np.maximum(np.abs(s), CAP**-2) + extra * _unit(s)
            d_g = b @ _capped(left / size_g, s, bold)
            return d_g, (v @ (alone - (turned @ d_g) / size)[:, :, None])[:, :, 0]

        def parts(rho: float, extra: float) -> _Parts:
            d_g, d_i = newton(extra, rho == 1)
            old = point.parts
            mean = old.mean.copy()
            mean[groups.shared] += rho * (old.head @ d_g)
            mean[groups.own] += rho * (old.reach @ d_g + (old.tails @ d_i[:, :, None])[:, :, 0])
            precision = widths(w) ** rho
            slopes = -rho * turned / precision[:, :, None]
            s, b = np.linalg.eigh((1 - rho) * np.eye(len(top)) + rho * (top + _folded(turned, slopes)))
            root = (b * widths(s) ** -0.5) @ b.T
            inner = (v * precision[:, None, :] ** -0.5) @ np.swapaxes(v, 1, 2)
            reach = (old.reach + old.tails @ (v @ slopes)) @ root
            return _Parts(mean, old.head @ root, reach, old.tails @ inner)

        return parts

    return propose


def _folded(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sum over groups and their coordinates: (G, d, p), (G, d, p) -> (p, p)."""
    rows, p = left.shape[0] * left.shape[1], left.shape[2]  # p may be zero, and then -1 has no meaning
    return left.reshape(rows, p).T @ right.reshape(rows, p)


def _capped(move: np.ndarray, w: np.ndarray, bold: bool) -> np.ndarray:
    """Steps no longer than the cap where there is no curvature, and everywhere once the bold step has failed."""
    return np.where(bold & (w >= 0.5), move, np.clip(move, -CAP, CAP))


def _unit(w: np.ndarray) -> float:
    return max(1.0, float(np.median(np.abs(w)))) if w.size else 1.0


def _largest(arrays: tuple[np.ndarray, ...]) -> float:
    return max((float(np.abs(array).max()) for array in arrays if array.size), default=0.0)
