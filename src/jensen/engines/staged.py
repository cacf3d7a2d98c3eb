"""The walk of smoothed Newton, for approximations of any shape: a small design, then a large one.

    try an extrapolation, then steps from bold to timid; take the first that lowers the objective on the fixed draws
    none does -> switch the radius of q;  close to the optimum, or quiet -> next design;  last design -> done

An engine says how a point is evaluated on a design, and which points are proposed from it; fixed_draws.py holds the maths that
they share (its steps and stops are these). Newton's steps of mean and covariance forget how one moves the other, which many small
groups make slow (the sd of the groups is learnt from their means, and from how wide they are). Near the optimum the last full
steps theta -> theta + f are therefore extrapolated to the combination with the smallest f (Anderson's method); while steps
grow, away from a plateau, a leap along the last two is tried. Neither may raise the objective.

References: Walker, Ni (2011), Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal. 49; Giordano, Ingram,
Broderick (2024), Black box variational inference with a deterministic objective, JMLR 25.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen.core.errors import NonFiniteError
from jensen.engines.engine import Ticks
from jensen.engines.guards import refuse_runaway

CAP = 10.0
"""Largest step, in widths of q, and largest growth of a width, where no curvature was seen."""
CLOSE = (0.1, 0.15)
"""Error of the mean in sds, and of the relative curvature, at which a fit counts as converged."""
_ROUGH, _FINE, _FINE_LARGE = (0.1, 0.3), (0.001, 0.001), (0.02, 0.05)
_SWITCHES = (10.0, 0.01, 100.0)
_DEPTH, _LONGEST = 6, 64.0
ROUNDING = 1e-13
_NEAR = 0.5
"""Error of the relative curvature below which steps are extrapolated."""

Propose = Callable[[float, float], Any]
"""(rho, damping) -> arguments of `Rules.evaluate` after the design."""


@dataclass(frozen=True)
class Rules:
    """What an engine adds to the walk.

    Attributes
    ----------
    evaluate
        ``(design, parts) -> point`` or None where the density is not finite; `parts` are the parameters of q. A point has
        `parts`, `loss` and `errors` (of the mean in sds, of the relative curvature).
    proposals
        ``(point, rho, damping) -> parts``.
    scaled
        ``(parts, number) -> parts`` of q with all widths times that number.
    reach
        ``(parts) -> (D,)``: largest of width and distance from zero of every coordinate.
    units
        ``(parts) -> arrays`` that broadcast with those of `parts`: what a change of each number is measured in.
    rounding
        Relative difference of objectives that says nothing.
    fine
        Errors at which the last design ends, as in `CLOSE`; None: by the number of dimensions.
    """

    evaluate: Callable[[Any, Any], Any]
    propose: Callable[[Any], Propose]
    scaled: Callable[[Any, float], Any]
    reach: Callable[[Any], np.ndarray]
    units: Callable[[Any], Any]
    rounding: float = ROUNDING
    fine: tuple[float, float] | None = None


@dataclass(frozen=True)
class State:
    """Where the walk is."""

    stage: int
    designs: tuple[Any, ...]
    point: Any
    extra: Any = None
    damping: float = 0.0
    switches: int = 0
    quiet: int = 0
    steps: int = 0
    memory: tuple[Any, ...] = ()
    stretch: float = 4.0


def begin(target: Any, rules: Rules, designs: tuple[Any, ...], parts: Any, extra: Any = None) -> State:
    """State at `parts`, or with widths so much smaller that every point is finite."""
    for attempt in range(24):
        point = rules.evaluate(designs[0], rules.scaled(parts, 4.0**-attempt))
        if point is not None:
            return State(0, designs, point, extra)
    raise NonFiniteError(
        f"{target.blame(np.asarray(parts[0])[None])} is not finite at the start "
        "(24 radii around it were tried); check data and supports, or pass start=."
    )


def advance(state: State, target: Any, rules: Rules, limit: int) -> tuple[State, Ticks]:
    """One accepted step, or a switch of radius, or a change to the next design."""
    state = replace(state, steps=state.steps + 1)
    design, last = state.designs[state.stage], state.stage + 1 == len(state.designs)
    point, after = _step(rules, design, state)
    if point is None:
        return _stalled(state, rules)
    refuse_runaway(target, rules.reach(point.parts))
    tolerance = _ROUGH if not last else rules.fine or (_FINE if target.dim <= 64 else _FINE_LARGE)
    quiet = state.quiet + 1 if state.point.loss - point.loss < 1e-6 else 0
    was_close = _within(state.point, tolerance)
    state = replace(after, point=point, quiet=quiet)
    if (was_close and _within(point, tolerance)) or quiet >= 2:
        return _next_stage(state, rules)
    return state, Ticks(np.array([point.loss]), done=state.steps >= limit, error=point.errors[0])


def converged(state: State) -> bool:
    """Mean within 0.1 sd of the optimum, widths within 15%, on the last design."""
    return state.stage + 1 == len(state.designs) and _within(state.point, CLOSE)


def widths(w: np.ndarray) -> np.ndarray:
    """Relative precisions to adopt: strongly non-concave directions keep their width, flat ones grow by the cap at most."""
    return np.where(w > -1, np.maximum(w, CAP**-2), 1.0)


def _step(rules: Rules, design: Any, state: State) -> tuple[Any, State]:
    """A better point or None, and the state with what the next step has to know."""
    point, memory = state.point, state.memory
    propose = rules.propose(point)
    near = state.damping == 0 and point.errors[1] < _NEAR
    memory = (*memory, (point.parts, propose(1.0, 0.0)))[-_DEPTH:] if near else ()
    if len(memory) > 2:
        moves = _moves(memory, rules.units(point.parts))
        away = np.linalg.norm(moves[-1]) > np.linalg.norm(moves[-3])
        parts = _leapt(memory, state.stretch) if away else _extrapolated(memory, moves)
        new = rules.evaluate(design, parts)
        if new is not None and new.loss < point.loss:
            stretch = min(2 * state.stretch, _LONGEST) if away else state.stretch
            return new, replace(state, memory=() if away else memory, stretch=stretch)
        state = replace(state, stretch=max(0.5 * state.stretch, 1.0) if away else state.stretch)
        memory = memory[-2:]
    for rho, extra in _tries(state.damping):
        new = rules.evaluate(design, propose(rho, extra))
        if new is not None and new.loss <= point.loss + rules.rounding * abs(point.loss):
            return new, replace(state, damping=extra / 30 if extra > 1e-2 else 0.0, memory=memory)
    return None, state


def _moves(memory: tuple[Any, ...], units: Any) -> np.ndarray:
    """Full steps as rows, in `units`."""
    return np.array(
        [
            np.concatenate([((b - a) / u).ravel() for a, b, u in zip(before, after, units, strict=True)])
            for before, after in memory
        ]
    )


def _extrapolated(memory: tuple[Any, ...], moves: np.ndarray) -> Any:
    """The combination of full steps whose own step would be smallest, were everything linear."""
    changes = np.diff(moves, axis=0)
    weights = np.linalg.lstsq(changes @ changes.T, changes @ moves[-1], rcond=1e-12)[0]
    shares = np.append(weights, 1.0) - np.append(0.0, weights)
    return _mixed(shares, [after for _, after in memory])


def _leapt(memory: tuple[Any, ...], stretch: float) -> Any:
    """Onwards along the last two steps together: steps that grow lead away from a plateau."""
    return _mixed((1 + stretch, -stretch), (memory[-1][1], memory[-3][1]))


def _mixed(shares: Any, several: Any) -> Any:
    total = (
        sum(share * part for share, part in zip(shares, parts, strict=True)) for parts in zip(*several, strict=True)
    )
    return type(several[0])(*total)


def _tries(damping: float) -> Iterator[tuple[float, float]]:
    for rho in (1.0, 0.5, 0.25):
        yield rho, damping
    rho, extra = 0.25, max(damping, 0.1)
    for _ in range(5):
        rho, extra = 0.3 * rho, 10 * extra
        yield rho, extra


def _stalled(state: State, rules: Rules) -> tuple[State, Ticks]:
    loss = np.array([state.point.loss])
    if _within(state.point, CLOSE):
        return _next_stage(state, rules)
    while state.switches < len(_SWITCHES):
        parts = rules.scaled(state.point.parts, _SWITCHES[state.switches])
        state = replace(state, switches=state.switches + 1)
        point = rules.evaluate(state.designs[state.stage], parts)
        if point is not None:
            return replace(state, point=point, damping=0.0, memory=()), Ticks(np.array([point.loss]))
    return state, Ticks(loss, done=True, note="no step lowers the objective any more")


def _next_stage(state: State, rules: Rules) -> tuple[State, Ticks]:
    loss = np.array([state.point.loss])
    if state.stage + 1 < len(state.designs):
        point = rules.evaluate(state.designs[state.stage + 1], state.point.parts)
        if point is not None:
            return replace(state, stage=state.stage + 1, point=point, damping=0.0, quiet=0, memory=()), Ticks(loss)
    return state, Ticks(loss, done=True)


def _within(point: Any, tolerances: tuple[float, float]) -> bool:
    return point.errors[0] < tolerances[0] and point.errors[1] < tolerances[1]
