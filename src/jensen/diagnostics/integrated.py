"""The answer of an integration over a few globals: weighted draws, how well each quantity is known, and the verdict.

Where everything but a few globals is integrated out, by quadrature (nested.py) or in closed form (collapsed.py), the posterior is
a mixture over weighted points of the globals (few.py). Nothing has to arrive or settle, as chains have to: what is left is the
error of averages over the points, and that is what the words are about.

    trusted       mean known within .08 sds, log sd within .12: the limits that chains have (settled.py)
    q             trusted where mean and log sd are within .2 of these
"""

from dataclasses import dataclass

import numpy as np

from jensen.diagnostics import quantities
from jensen.diagnostics.few import Few, weighted
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.settled import LIMITS, is_constant
from jensen.diagnostics.verdict import OFF, TRUSTED, Verdict, words_of


@dataclass(frozen=True)
class Integrated:
    """What an integration found.

    Attributes
    ----------
    draws, weights
        The answer, (n, ...) and (n,).
    mean, sd, se, sel
        Of every judged scalar (K,), with standard errors of the mean, in sds, and of the log sd.
    how
        In words.
    """

    draws: Draws
    weights: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    se: np.ndarray
    sel: np.ndarray
    how: str


def integrated(model: object, few: Few, draws: Draws, how: str) -> Integrated:
    """The record of draws (n, ...) of which every point of `few` has equally many in a row."""
    n = len(few.weights)
    copies = len(draws.log_p) // n
    x = quantities.matrix(model, draws.values, draws.derived)
    by_point = x.reshape(n, copies, -1)
    mean, sd, se, sel = weighted(few, by_point.mean(1), by_point.var(1))
    constant = is_constant(mean, sd)
    sd, se, sel = (np.where(constant, 0.0, value) for value in (sd, se, sel))
    return Integrated(draws, np.repeat(few.weights / copies, copies), mean, sd, se, sel, how)


def judge_integrated(names: list[str], found: Integrated, log_weights: np.ndarray) -> Verdict:
    """Verdict on the answer of an integration."""
    mean_ok = np.isfinite(found.mean) & (found.se < LIMITS["se"])
    words = words_of(mean_ok, mean_ok & (found.sel < LIMITS["sel"]))
    columns = {"se of mean (sds)": found.se, "se of log sd": found.sel}
    reasons = [f"q alone is not enough; the answer is that of {found.how}"]
    advice = "Use it."
    if set(words) != {TRUSTED}:
        worst = int(np.argmax(np.maximum(found.se / LIMITS["se"], found.sel / LIMITS["sel"])))
        reasons.append(
            f"{names[worst]} is known least: its mean to {found.se[worst]:.2f} sds, log sd {found.sel[worst]:.2f}"
        )
        advice = f"Run posterior.nuts() for {names[worst]}."
    return Verdict(tuple(names), words, columns, tuple(reasons), advice, log_weights, "the corrected answer")


def judge_against(
    names: list[str], mean: np.ndarray, sd: np.ndarray, found: Integrated, log_weights: np.ndarray
) -> Verdict:
    """Verdict on a q with these means and sds (K,)."""
    constant = is_constant(mean, sd) & (found.sd == 0)
    unit = np.where(found.sd > 0, found.sd, 1.0)
    moved = np.where(constant, 0.0, np.abs(found.mean - mean) / unit)
    ratio = np.where(constant, 1.0, sd / unit)
    widened = np.abs(np.log(np.maximum(ratio, 1e-300)))
    mean_ok = moved + found.se < OFF
    words = words_of(mean_ok, mean_ok & (widened + found.sel < OFF))
    worst = int(np.argmax(np.maximum(moved, widened)))
    reasons = (
        f"{names[worst]}: q's mean is {moved[worst]:.2f} sd off, and its sd {ratio[worst]:.2f} times the right one",
        f"by {found.how}",
    )
    columns = {"mean off (sds)": moved, "sd / integrated": ratio}
    advice = "Use it." if set(words) == {TRUSTED} else "Use method='auto', which reports the corrected answer."
    return Verdict(tuple(names), words, columns, reasons, advice, log_weights, "q")
