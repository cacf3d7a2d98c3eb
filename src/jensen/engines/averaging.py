"""Averages of the iterates of a stochastic optimizer, and when to believe them.

Iterates of a step length rho wander around a point that is off by O(rho); their average over a stage has a Monte-Carlo error, and
may still be on its way. So four things are looked at, in posterior sds, for the second half of a stage:

    mcse    sd of the window means / sqrt(number of windows)
    R-hat   of its two halves, as if they were two chains; with their difference, the drift
    wander  sd of the iterates: steps that wander far are too long for what is curved, and may run away
    move    from the average of the stage before, which had twice the step length: the bias left is about as large

Reference: Dhaka et al. (2020), Robust, accurate stochastic optimization for variational inference; Welandawe et al. (2024),
A framework for improving the reliability of black-box variational inference, JMLR 25.
"""

from typing import NamedTuple

import numpy as np

STOP = 0.03
"""Largest Monte-Carlo error of an average, in posterior sds, with which a fit is finished."""
MOVE = 0.05
"""Largest move between the last two averages."""
WANDER = 0.5
"""Largest sd of iterates with which an average means anything."""
_ROWS = 4.0
"""By how much the error of a single row's value may be larger than that of what is shared: the largest of thousands is."""
_RHAT = 1.1
_NEGLIGIBLE = 0.02
"""A drift that does not matter, however clear it is."""


class Settling(NamedTuple):
    """How far a stage has settled: largest Monte-Carlo error, R-hat, drift that R-hat says is real, and sd of iterates."""

    mcse: float
    rhat: float
    drift: float
    wander: float

    @property
    def stationary(self) -> bool:
        """Whether nothing is on its way any more."""
        return self.drift < _NEGLIGIBLE


def settling(sums: np.ndarray, squares: np.ndarray, length: int, local: np.ndarray | None = None) -> Settling:
    """Judge a stage.

    Parameters
    ----------
    sums, squares
        (windows, P): sums of P quantities and of their squares over `length` / windows steps each.
    length
        Steps of the stage.
    local
        (P,), True for values of rows, of which there may be thousands: see `worst`.
    """
    windows = len(sums)
    late = slice(windows // 2, None)
    means = sums[late] / (length / windows)
    mcse = means.std(0, ddof=1) / np.sqrt(len(means))
    halves = np.stack([half.mean(0) for half in np.split(means, 2)])
    second = np.stack([half.mean(0) for half in np.split(squares[late] / (length / windows), 2)])
    within = np.maximum((second - halves**2).mean(0), 1e-30)
    between = ((halves[0] - halves[1]) ** 2) / 2
    rhat = np.sqrt(1 + between / within)
    drift = np.abs(halves[0] - halves[1])
    drift = np.where(rhat > _RHAT, drift, 0.0)
    if local is not None and local.any():  # a row alone has an error, but thousands of them only drift together
        drift = np.append(drift[~local], np.sqrt((drift[local] ** 2).mean()))
    return Settling(worst(mcse, local), float(rhat.max()), float(drift.max()), worst(np.sqrt(within), local))


def worst(found: np.ndarray, local: np.ndarray | None = None) -> float:
    """The largest of errors (P,); of those of rows their root mean square, and a quarter of the largest."""
    if local is None or not local.any():
        return float(found.max())
    rows, shared = found[local], found[~local]
    return float(max(shared.max(initial=0.0), np.sqrt((rows**2).mean()), rows.max() / _ROWS))
