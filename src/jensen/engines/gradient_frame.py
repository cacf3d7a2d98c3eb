"""Coordinates in which the posterior is round, from the smoothed curvature that a fit on fixed draws ends with."""

from dataclasses import replace
from typing import Any

import numpy as np

from jensen.core.compilation import on_device
from jensen.core.errors import JensenError
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.gradient_steps import Frame, Place
from jensen.families.fullrank import from_factor

_FLOOR = 1e-8
"""Smallest curvature of a mean-field fit, relative to the conditional ones."""
_DEAR, _FEWEST, _LOOKS = 64, 100, 60
"""D above which a warm-up goes most of its way on few rows, as many as D or at least so many, and steps there at most."""


def begun_near(engine: FixedDraws, target: Any, seed: int, rows: int) -> FixedDraws:
    """The warm-up of a target that is brought to `rows` rows; in many dimensions it starts where a fit to fewer rows ends.

    Twice as many points as dimensions on a thousand rows make each step dear, and most steps are far from the posterior. Where
    few rows do not make one, as under flat priors, all steps are on all of `rows`.
    """
    few = max(target.dim, _FEWEST)
    if engine.start is None and target.dim > _DEAR and 2 * few <= rows:
        target.resize(few)
        try:
            state = engine.init(target, seed)
            for _ in range(_LOOKS):
                state, ticks = engine.advance(state, target)
                if ticks.done:
                    engine = replace(engine, start=engine.finish(state))
                    break
        except JensenError:
            pass
    target.resize(rows)
    return engine


def frame_of(point: Any) -> tuple[Frame, Place]:
    """Coordinates from the smoothed curvature of the warm-up, and the place in them that its q has."""
    mean, factor = point.mean, point.factor
    if factor.ndim == 2:
        lower = from_factor(mean, factor).scale
        inverse = np.linalg.inv(lower)
        frame = Frame(lower, inverse.T @ inverse, lower, np.sqrt((lower**2).sum(1)))
        c = np.eye(len(mean))
    elif point.curvature.ndim == 2:
        w, v = np.linalg.eigh(-point.curvature)
        w = np.maximum(np.abs(w), _FLOOR)
        white = factor[:, None] * v / np.sqrt(w)
        curvature = (v * w) @ v.T / factor / factor[:, None]
        frame, c = Frame(white, curvature, factor, np.sqrt((white**2).sum(1))), np.ones(len(mean))
    else:
        own = np.maximum(np.abs(point.own), _FLOOR)
        white = factor / np.sqrt(own)
        frame, c = Frame(white, own / factor**2, factor, white), np.ones(len(mean))
    place = Place(on_device(np.zeros(len(mean))), on_device(c))
    return on_device(frame), place


def diagonal_frame(curvature: Any, q: Any, *, dense: bool) -> tuple[Frame, Place]:
    """Coordinates from a curvature (D,) alone, for a full-rank q where `dense`, and the place of q in them."""
    own = np.abs(np.asarray(curvature))
    own = np.maximum(own, _FLOOR * own.max())
    sd = own**-0.5
    factor, c = (np.diag(sd), np.asarray(q.scale) / sd[:, None]) if dense else (sd, np.asarray(q.sd) / sd)
    frame = on_device(Frame(sd, own, factor, sd))
    return frame, Place(on_device(np.zeros(len(sd))), on_device(c))
