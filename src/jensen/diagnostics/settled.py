"""Have the chains arrived? Per-quantity evidence from a stage of short chains, as arrays.

For a quantity x[t, c] over kept transitions t and chains c:

    between    variance of the chain means over the total variance: 1/T when mixed, towards 1 when chains do not move
    se, sel    standard errors of the mean (in sds, from the chain means) and of log sd (jackknife over 16 chain groups)
    drift      |mean difference| and |log sd ratio| between the halves of this stage, and against the stage before

Thresholds were fixed on 50 development targets and are kept in one place, `LIMITS`. Chains that are still arriving together
have a small `between`; only the drifts see them.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

GROUPS = 16
_ROUNDING = 1e-12
_VISITORS = 6
"""Chains that must have visited a tail for it to be one."""
_BY_CHANCE, _SMALL, _FEW_OF_ALL = 0.05, 0.3, 0.05
"""Chance that any of all quantities drifts further than is put down to it; by how much, and what share of them, at most."""
_MANY, _EVERY = 1000, 4
"""Quantities from which on every fourth transition says how far from the median a draw may be: sorting is dear."""


@dataclass(frozen=True)
class Settled:
    """Evidence per quantity, each (K,); see the head of the file.

    `mean` and `sd` are of the pooled draws, `drift_mean` and `drift_sd` the larger of the two comparisons after their
    tolerance of two standard errors has been taken off.
    """

    mean: np.ndarray
    sd: np.ndarray
    between: np.ndarray
    se: np.ndarray
    sel: np.ndarray
    drift_mean: np.ndarray
    drift_sd: np.ndarray


LIMITS = {"between": 0.4, "unsettled": 0.5, "se": 0.08, "sel": 0.12, "drift": 0.1, "acceptance": 0.5, "coupling": 0.3}


def measure(x: np.ndarray, before: Settled | None) -> Settled:
    """Evidence of quantities x (T, C, K), against the stage before where there was one."""
    x = winsorize(x)
    mean, sd = x.mean((0, 1)), x.std((0, 1))
    constant = is_constant(mean, sd)
    sd = np.where(constant, 0.0, sd)
    unit = np.where(sd > 0, sd, 1.0)
    chain_means = x.mean(0)
    between = chain_means.var(0) / unit**2
    se = chain_means.std(0, ddof=1) / np.sqrt(x.shape[1]) / unit
    sel = log_sd_error(x)
    half = len(x) // 2
    drift_mean, drift_sd = _drift(
        x[:half].mean((0, 1)), x[:half].std((0, 1)), x[half:].mean((0, 1)), x[half:].std((0, 1))
    )
    # Halves have about sqrt(2) larger errors than the whole; the tolerance of two errors is taken off here, once.
    drift_mean, drift_sd = _beyond_errors(drift_mean, se), _beyond_errors(drift_sd, sel)
    if before is not None:
        to_mean, to_sd = _drift(before.mean, before.sd, mean, sd)
        drift_mean = np.maximum(drift_mean, _beyond_errors(to_mean, se))
        drift_sd = np.maximum(drift_sd, _beyond_errors(to_sd, sel))
    known = (np.where(constant, 0.0, value) for value in (between, se, sel, drift_mean, drift_sd))
    return Settled(mean, sd, *known)


def is_constant(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Quantities that are constant but for their last digits, such as a correlation of a variable with itself."""
    return sd <= _ROUNDING * np.abs(mean)


def winsorize(x: np.ndarray) -> np.ndarray:
    """Pull extreme draws in to 6 robust sds around the median, so that half-Cauchy tails do not decide a verdict.

    Only where many chains visit the tail: the far draws of a few chains are not a heavy tail but chains that are lost, and
    have to count in full. Draws (n, K) without chains are always pulled in.
    """
    some = x[_EVERY - 1 :: _EVERY] if x.ndim == 3 and x.shape[-1] > _MANY and len(x) > _EVERY else x
    low, middle, high = np.quantile(some.reshape(-1, x.shape[-1]), (0.05, 0.5, 0.95), axis=0)
    reach = 6 * (high - low) / 3.2897
    pulled = np.clip(x, middle - reach, middle + reach)
    if x.ndim == 2:
        return pulled
    visitors = (x != pulled).any(0).sum(0)
    return np.where(visitors >= _VISITORS, pulled, x)


def means_settled(evidence: Settled) -> np.ndarray:
    """Whether each quantity's mean has arrived and is known well enough."""
    return (
        (evidence.between < LIMITS["between"])
        & (evidence.se < LIMITS["se"])
        & (evidence.drift_mean < LIMITS["drift"])
        & np.isfinite(evidence.mean)
    )


def sds_settled(evidence: Settled) -> np.ndarray:
    """Whether each quantity's sd has arrived and is known well enough."""
    return (
        (evidence.between < LIMITS["between"])
        & (evidence.sel < LIMITS["sel"])
        & (evidence.drift_sd < LIMITS["drift"])
        & np.isfinite(evidence.sd)
    )


def _beyond_errors(drift: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Drifts (K,) of which two errors have been taken off; zero for those that the errors of K quantities explain.

    Two halves, or two stages, differ by two errors as it is; of some hundred quantities a few differ by three times as much, and
    to refuse those would be to refuse some of every fit. Only where they are few, and the drift is small by itself.
    """
    left = drift - 2 * error
    late = left >= LIMITS["drift"]
    largest = np.minimum(2 * error * NormalDist().inv_cdf(1 - _BY_CHANCE / len(drift)), _SMALL)
    return np.where(late & (drift < largest) & (late.mean() <= _FEW_OF_ALL), 0.0, left)


def against(evidence: Settled, x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the means and sds of pooled draws x (n, K) with weights (n,) agree with the last stage's evidence.

    They are the answer, so they are what has to agree: lost chains in an earlier stage must not slip in, and where a heavy
    tail decides the sd, the sd is not to be trusted.
    """
    mean = weights @ x
    sd = np.sqrt(weights @ (x - mean) ** 2)
    sd = np.where(is_constant(mean, sd), 0.0, sd)
    drift_mean, drift_sd = _drift(mean, sd, evidence.mean, evidence.sd)
    return (
        drift_mean < LIMITS["drift"] + 2 * evidence.se,
        drift_sd < LIMITS["drift"] + 2 * evidence.sel,
    )


def coupled(x: np.ndarray, unsettled: np.ndarray) -> np.ndarray:
    """Whether each quantity moves with one of the unsettled ones: values, squares, and values against squares.

    Parameters
    ----------
    x
        Quantities (n, K).
    unsettled
        Boolean (K,).
    """
    if not unsettled.any():
        return np.zeros(x.shape[1], bool)
    x = winsorize(x)
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1.0)
    squares = x**2 - 1
    squares = squares / np.where(squares.std(0) > 0, squares.std(0), 1.0)
    largest = np.zeros(x.shape[1])
    for left in (x, squares):
        for right in (x, squares):
            largest = np.maximum(largest, np.abs(left.T @ right[:, unsettled] / len(x)).max(1))
    return (largest >= LIMITS["coupling"]) | unsettled


def _drift(
    first_mean: np.ndarray, first_sd: np.ndarray, second_mean: np.ndarray, second_sd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    unit = np.where(second_sd > 0, second_sd, np.maximum(np.abs(second_mean), 1.0))
    ratio = np.where((first_sd > 0) & (second_sd > 0), first_sd / unit, 1.0)
    return np.abs(first_mean - second_mean) / unit, np.abs(np.log(ratio))


def log_sd_error(x: np.ndarray) -> np.ndarray:
    """Jackknife standard error of log sd over groups of chains; x is (T, C, K)."""
    steps, chains, _ = x.shape
    groups = x[:, : chains - chains % GROUPS].reshape(steps, GROUPS, -1, x.shape[-1])
    center = x.mean((0, 1))
    sums = (groups - center).sum((0, 2))
    squares = ((groups - center) ** 2).sum((0, 2))
    n = groups.shape[0] * groups.shape[2] * (GROUPS - 1)
    left_mean = (sums.sum(0) - sums) / n
    left_var = (squares.sum(0) - squares) / n - left_mean**2
    logs = 0.5 * np.log(np.maximum(left_var, 1e-300))
    return np.sqrt((GROUPS - 1) / GROUPS * ((logs - logs.mean(0)) ** 2).sum(0))
