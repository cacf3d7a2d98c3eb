"""Newton directions without a matrix, for mean-field fits in high dimension.

The smoothed curvature B = -E_q[Hessian], in q's units, is only ever applied to a vector: by central differences of the gradient
over the fixed draws, on the fit's own program,

    B v = -sum_n v_n s * [g(x_n + h s v) - g(x_n - h s v)] / (2 h)

and (B + damping) d = a is solved by conjugate gradients, preconditioned with B's diagonal (which Stein's identity gives for free)
and truncated where the curvature is negative.

Reference: Steihaug (1983), The conjugate gradient method and trust regions in large scale optimization, SIAM J. Numer. Anal. 20.
"""

from typing import Any

import numpy as np

from jensen.engines.designs import Design

_ITERATIONS = 40
_RESIDUAL = 0.01
_STEP = 1e-4


def newton_direction(
    target: Any,
    design: Design,
    mean: np.ndarray,
    sd: np.ndarray,
    slope: np.ndarray,
    diagonal: np.ndarray,
    damping: float,
) -> np.ndarray:
    """Step of the mean (D,), in units of q's sds.

    Parameters
    ----------
    target, design
        The log density and the fixed draws.
    mean, sd
        Of q.
    slope
        a = E[sd * gradient] (D,).
    diagonal
        Positive diagonal (D,) near B's: the preconditioner.
    damping
        Added to B.
    """
    points = mean + design.points * sd

    def apply(v: np.ndarray) -> np.ndarray:
        h = _STEP / max(float(np.abs(v).max()), 1e-300)
        ends = [target(points + sign * h * sd * v)[1] * sd for sign in (1.0, -1.0)]
        return -(design.weights @ (ends[0] - ends[1])) / (2 * h) + damping * v

    direction, residual = np.zeros_like(slope), slope
    conditioned = residual / (diagonal + damping)
    search, power = conditioned, float(residual @ conditioned)
    for _ in range(_ITERATIONS):
        image = apply(search)
        bend = float(search @ image)
        if not np.isfinite(bend) or bend <= 0:
            break
        length = power / bend
        direction, residual = direction + length * search, residual - length * image
        conditioned = residual / (diagonal + damping)
        before, power = power, float(residual @ conditioned)
        if power <= _RESIDUAL**2 * float(slope @ (slope / (diagonal + damping))):
            break
        search = conditioned + power / before * search
    return direction if direction.any() else conditioned
