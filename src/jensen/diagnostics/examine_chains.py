"""From long Gibbs chains to a verdict: R-hat and effective sample sizes, per quantity.

Reference: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), Rank-normalization, folding, and localization: an improved
R-hat, Bayesian Analysis 16(2). Computed by ArviZ.
"""

import warnings
from typing import Any

import numpy as np

from jensen.conjugate.product import Product
from jensen.diagnostics import quantities, verdict
from jensen.diagnostics.examine import Examination
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.spaces import Own
from jensen.objectives.elbo import Elbo


def examine_chains(q: Product, elbos: np.ndarray, chains: Any) -> Examination:
    """Judge chains, pooled as the answer.

    Parameters
    ----------
    q, elbos
        What the chains started from, and its history.
    chains
        Their draws (`jensen.engines.gibbs.Draws`).
    """
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in chains.values.items()}
    n = chains.log_joint.size
    draws = Draws(np.zeros((n, 0)), chains.log_joint.reshape(-1), flat, Own(q).derived(flat))
    elbo = Elbo(float(elbos[-1]) if len(elbos) else -np.inf, 0.0)
    names = quantities.names(q.model)
    x = quantities.matrix(q.model, draws.values, draws.derived).reshape(*chains.log_joint.shape, -1)
    rhat, bulk, tail = mixing(x)
    judged = verdict.judge_chains(names, np.ptp(x, (0, 1)) == 0, rhat, bulk, tail)
    note = f"{x.shape[0]} Gibbs chains of {x.shape[1]} draws"
    return Examination(elbo, draws, np.full(n, 1 / n), judged, True, note)


def mixing(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R-hat, bulk and tail effective sample sizes of quantities x (chains, draws, K)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz as az

        data: Any = az.convert_to_dataset({"x": x})
        found = [az.rhat(data), az.ess(data, method="bulk"), az.ess(data, method="tail")]
    return tuple(np.asarray(part["x"]) for part in found)  # type: ignore[return-value]
