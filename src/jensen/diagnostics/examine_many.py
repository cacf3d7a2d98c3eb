"""Gaussians of many data sets at once: fitted in lockstep, weighed, and drawn from; no search for modes and no chains."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jensen.core import keys
from jensen.diagnostics.examine import matched_noise
from jensen.diagnostics.verdict import CONSTANT_WEIGHTS, spread
from jensen.engines.together import fit_together
from jensen.families.fullrank import FullRank
from jensen.families.meanfield import MeanField
from jensen.models.many import Many

_WEIGHT_DRAWS, _KEPT = 512, 2048


class ManyFits(NamedTuple):
    """What came of the fits that have arrived.

    Attributes
    ----------
    rows
        Numbers of their data sets (B,).
    constant
        Whether the log weights are nearly constant (B,).
    values, derived
        Draws of q in the model's own space, (B, draws, *shape).
    """

    rows: np.ndarray
    constant: np.ndarray
    values: dict[str, np.ndarray]
    derived: dict[str, np.ndarray]


def fit_many(many: Many, family: FullRank | MeanField, seed: int) -> ManyFits:
    """Fit the model to every data set, and look at q's own draws."""
    mean, factor, arrived = fit_together(many, family, seed)
    rows = np.flatnonzero(arrived)
    if not len(rows):
        return ManyFits(rows, arrived[rows], {}, {})
    mean, out = mean[rows, None], factor[rows].swapaxes(1, 2)
    noise = keys.generator(seed, "weights").standard_normal((_WEIGHT_DRAWS, many.dim))
    log_p, _ = many(rows, mean + noise @ out)
    log_w = log_p + 0.5 * (noise**2).sum(1)  # but for a constant of each data set
    noise = matched_noise(keys.generator(seed, "moments").standard_normal((_KEPT // 2, many.dim)))
    values, derived = many.constrain(rows, mean + noise @ out)
    return ManyFits(rows, np.array([spread(each) < CONSTANT_WEIGHTS for each in log_w]), values, derived)


def row(arrays: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    """One data set's part."""
    return {name: value[number] for name, value in arrays.items()}
