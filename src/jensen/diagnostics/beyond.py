"""Is there mass that q's own draws cannot see? Importance weights from q and two wider copies of it.

Draws of q never visit a second mode or a heavy tail, so their weights can be constant while the answer is wrong. Half of these
draws are q's, a quarter each from q with three and ten times its sds; moments of the posterior and of q are estimated on the
same draws, so that their difference carries little noise. In high dimension the wide draws weigh nothing and say nothing.

Reference: Owen, Zhou (2000), Safe and effective importance sampling, JASA 95.
"""

from typing import Any

import numpy as np

from jensen.core import keys
from jensen.diagnostics import quantities

_WIDTHS = (1.0, 3.0, 10.0)
_SHARES = (0.5, 0.25, 0.25)
_DRAWS = 2200
FAR = 0.15
"""Move of a mean, in sds, or of log sd, from which the wider draws have seen something."""


def beyond(target: Any, q: Any, seed: int) -> np.ndarray:
    """How far each quantity's mean (in sds) or log sd, whichever is more, moves when wider draws are let in (K,)."""
    counts = [int(share * target.affordable(_DRAWS, 400)) for share in _SHARES]
    noise = q.noise(keys.generator(seed, "beyond"), sum(counts))
    noise = noise * np.repeat(_WIDTHS, counts)[:, None]
    if hasattr(q, "wider"):  # a mixture is not one Gaussian's radius away from its copies
        rows = np.repeat(np.arange(len(counts)), counts)
        each = [q.wider(width) for width in _WIDTHS]
        z = np.concatenate(
            [np.asarray(other.transport(noise[rows == k] / _WIDTHS[k])[0]) for k, other in enumerate(each)]
        )
        log_q = np.asarray(q.log_prob(z))
        logs = [np.log(n / len(z)) + np.asarray(other.log_prob(z)) for n, other in zip(counts, each, strict=True)]
        log_mixture = np.logaddexp.reduce(logs, axis=0)
    else:
        z, log_q = (np.asarray(part) for part in q.transport(noise))
        squared = (noise**2).sum(1)
        # Density of the mixture over that of q, from the squared radius alone.
        ratios = [
            np.log(count / len(z)) - q.dim * np.log(width) + 0.5 * squared * (1 - width**-2)
            for width, count in zip(_WIDTHS, counts, strict=True)
        ]
        log_mixture = log_q + np.logaddexp.reduce(ratios, axis=0)
    log_p, _ = target(z)
    log_p = np.where(np.isfinite(log_p), log_p, -np.inf)
    values, derived = target.constrain(z)
    x = quantities.matrix(target.model, values, derived)
    with np.errstate(over="ignore", invalid="ignore"):  # of quantities that overflow far out
        mean, sd = _moments(x, log_p - log_mixture)
        q_mean, q_sd = _moments(x, log_q - log_mixture)
        return _moved(mean, sd, q_mean, q_sd)


def _moved(mean: np.ndarray, sd: np.ndarray, q_mean: np.ndarray, q_sd: np.ndarray) -> np.ndarray:
    unit = np.where((sd > 0) & (q_sd > 0), np.maximum(sd, q_sd), 1.0)
    widened = np.where((sd > 0) & (q_sd > 0), np.abs(np.log(np.maximum(sd, 1e-300) / np.maximum(q_sd, 1e-300))), 0.0)
    constant = unit <= 1e-9 * np.abs(q_mean)
    moved = np.where(constant, 0.0, np.maximum(np.abs(mean - q_mean) / unit, widened))
    return np.where(np.isfinite(mean) & np.isfinite(sd), moved, np.inf)


def _moments(x: np.ndarray, log_w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    seen = w > 1e-14
    w, x = w[seen], x[seen]
    mean = w @ x
    return mean, np.sqrt(w @ (x - mean) ** 2)
