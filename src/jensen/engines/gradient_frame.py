"""Coordinates in which the posterior is round, from the smoothed curvature that a fit on fixed draws ends with."""

from typing import Any

import numpy as np

from jensen.core.compilation import on_device
from jensen.engines.gradient_steps import Frame, Place
from jensen.families.fullrank import from_factor

_FLOOR = 1e-8
"""Smallest curvature of a mean-field fit, relative to the conditional ones."""


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
    return Frame(*(on_device(part) for part in frame)), place


def diagonal_frame(curvature: Any, q: Any, *, dense: bool) -> tuple[Frame, Place]:
    """Coordinates from a curvature (D,) alone, for a full-rank q where `dense`, and the place of q in them."""
    own = np.abs(np.asarray(curvature))
    own = np.maximum(own, _FLOOR * own.max())
    sd = own**-0.5
    factor, c = (np.diag(sd), np.asarray(q.scale) / sd[:, None]) if dense else (sd, np.asarray(q.sd) / sd)
    frame = Frame(*(on_device(part) for part in (sd, own, factor, sd)))
    return frame, Place(on_device(np.zeros(len(sd))), on_device(c))
