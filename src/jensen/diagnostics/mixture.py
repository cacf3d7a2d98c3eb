"""Several modes, one answer: the mixture of the Gaussians fitted at them, corrected by importance weights.

When each mode is nearly Gaussian, the weights p / sum_k pi_k q_k of draws from the mixture are nearly constant and the answer
is right whatever the modes' distance: no chain has to travel. Their effective share of the sample says whether that holds.
"""

from typing import Any

import numpy as np

from jensen.core import keys
from jensen.diagnostics.modes import Mode
from jensen.diagnostics.quantities import Draws

_DRAWS = 4096
ENOUGH = 0.8
"""Effective share of the sample above which the weighted draws are the answer."""


def combine(target: Any, q: Any, modes: tuple[Mode, ...], seed: int) -> tuple[Draws, np.ndarray, float]:
    """Weighted draws of the whole posterior, their weights (n,), and the effective share of the sample.

    Parameters
    ----------
    target
        The log density.
    q
        The mode that was fitted.
    modes
        The others, with their weights.
    seed
        Randomness.
    """
    components = [q, *(mode.q for mode in modes)]
    shares = np.array([1 - sum(mode.weight for mode in modes), *(mode.weight for mode in modes)])
    counts = np.maximum(np.round(_DRAWS * shares).astype(int), 64)
    rng = keys.generator(seed, "mixture")
    z = np.concatenate(
        [np.asarray(each.transport(each.noise(rng, n))[0]) for each, n in zip(components, counts, strict=True)]
    )
    log_q = np.array([np.asarray(each.log_prob(z)) + np.log(n) for each, n in zip(components, counts, strict=True)])
    top = log_q.max(0)
    log_p, _ = target(z)
    log_w = log_p - top - np.log(np.exp(log_q - top).sum(0))
    w = np.exp(log_w - log_w[np.isfinite(log_w)].max())
    w = np.where(np.isfinite(log_w), w, 0.0) / w[np.isfinite(log_w)].sum()
    values, derived = target.constrain(z)
    return Draws(z, log_p, values, derived), w, float(1 / (w**2).sum() / len(w))
