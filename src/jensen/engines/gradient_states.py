"""States of the engine of stochastic gradients, gradient.py: of its warm-up, of steps of an optimizer, and of natural steps."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jensen.engines import gradient_steps
from jensen.engines.gradient_steps import Anchor, Frame, Place, Stage, Tally


class Kept(NamedTuple):
    """Parameters, the optimizer's memory, and the average of the parameters."""

    params: Any
    memory: Any
    mean: Any


class Where(NamedTuple):
    """Mean (D,) of q, and its scale c in the frame."""

    mean: Any
    c: Any


@dataclass(frozen=True)
class Plain:
    """Steps of an optimizer: where they are, and the last place known to be good."""

    seed: int
    now: Kept
    good: Kept
    step: int = 0
    shrink: float = 1.0
    tries: int = 0
    total: float = 0.0
    lowest: float = np.inf


@dataclass(frozen=True)
class Warm:
    """The fit on fixed draws that natural steps begin with."""

    inner: Any
    seed: int
    rows: int
    best: Any = None
    attempt: int = 0


@dataclass(frozen=True)
class Natural:
    """Natural steps: their coordinates, anchor, stage, and the average of the stage before."""

    seed: int
    frame: Frame
    anchor: Anchor
    place: Place
    tally: Tally
    stage: Stage
    average: Where
    rho: float = 0.0
    step: int = 0
    stages: int = 0
    tries: int = 0
    error: float = np.nan
    finished: bool = False


def average(state: Natural) -> Where:
    """Mean of q and c over the second half of a stage."""
    windows = gradient_steps.WINDOWS
    steps = np.arange(state.stage.length) * windows // state.stage.length
    late = int((steps >= windows // 2).sum())
    a, c = (np.asarray(part) / late for part in state.tally.places)
    white = np.asarray(state.frame.white)
    return Where(np.asarray(state.anchor.point) + (white @ a if white.ndim == 2 else white * a), c)


def own(c: Any) -> np.ndarray:
    """Widths (D,) of a scale, dense or diagonal."""
    return np.diagonal(np.asarray(c)) if np.ndim(c) == 2 else np.asarray(c)


def by_number(target: Any) -> bool:
    """Whether rows are read by number (models/crossed.py): no subsample of them can stand for all."""
    return hasattr(target, "reach")
