"""Where a user says coordinate ascent starts: families narrow around values of sites.

The first sweep gives discrete sites their best probabilities from these, so that only continuous sites are asked for; sites that
are left out start as they would anyway.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jensen.conjugate import blocks
from jensen.conjugate.charts import CHARTS
from jensen.conjugate.layout import GAUSSIAN
from jensen.conjugate.plan import Plan
from jensen.core.errors import OptionError
from jensen.families.exponential import Beta, Dirichlet, Gamma, InverseGamma
from jensen.families.gaussian import Gaussian
from jensen.families.wishart import InverseWishart, Wishart

SURE = 100.0
"""How many observations the values count for."""


def near(plan: Plan, families: blocks.Families, values: Mapping[str, Any]) -> blocks.Families:
    """Families around values.

    Parameters
    ----------
    plan
        With an energy.
    families
        Of all blocks, for what is not named.
    values
        Continuous site -> value in the model's own space.

    Raises
    ------
    OptionError
        For names, shapes and values that do not fit.
    """
    known, found = blocks.nodes(plan), dict(families)
    given = {name: _checked(known, name, value) for name, value in values.items()}
    for block, names in plan.blocks.items():
        if not set(names) & set(given):
            continue
        role = plan.layout.role[names[0]]  # type: ignore[union-attr]
        found[block] = (
            _gaussian(plan, block, found[block], given) if role in GAUSSIAN else _family(role, given[names[0]])
        )
    return found


def _checked(known: Mapping[str, Any], name: str, value: Any) -> np.ndarray:
    node = known.get(name)
    if node is None or node.levels is not None:
        sites = ", ".join(site for site, one in known.items() if one.levels is None)
        what = (
            "a discrete site, whose levels follow from the others in the first sweep"
            if node
            else "no site of the model"
        )
        raise OptionError(f"start names {name}, which is {what}; its continuous sites are {sites}.")
    value = np.asarray(value, float)
    try:
        value = np.array(np.broadcast_to(value, node.shape))
    except ValueError as error:
        raise OptionError(f"start['{name}'] has shape {value.shape}, and the site has shape {node.shape}.") from error
    low, high = node.bounds or (-np.inf, np.inf)
    inside = {
        "interval": (value > low) & (value < high),
        "positive": value > 0,
        "unit interval": (value > 0) & (value < 1),
    }
    if node.support in CHARTS:
        inside[node.support] = CHARTS[node.support].holds(value)
    if not np.isfinite(value).all() or not np.all(inside.get(node.support, True)):
        raise OptionError(
            f"start['{name}'] has values outside of its support, which is {node.support}; give finite values inside of it."
        )
    return value


def _gaussian(plan: Plan, block: str, family: Any, given: Mapping[str, np.ndarray]) -> Gaussian:
    """Means where values are given; sds a tenth of what they are at an ordinary start."""
    variance = np.array(1.0 / np.asarray(family.pattern.variances(family.precision)))
    mean = np.array(family.h) * variance
    layout = plan.layout
    assert layout is not None
    for name in plan.blocks[block]:
        if name in given:
            value = blocks.own(plan, name, given[name])
            inside = slice(layout.offset[name], layout.offset[name] + value.size)
            mean[inside], variance[inside] = value.reshape(-1), variance[inside] / SURE
    return Gaussian.point(family.pattern, mean, variance)


def _family(role: str, value: np.ndarray) -> Any:
    if role == "gamma":
        return Gamma(np.full(value.shape, SURE), SURE / value)
    if role == "inverse gamma":
        return InverseGamma(np.full(value.shape, SURE), SURE * value)
    if role == "beta":
        return Beta(SURE * value, SURE * (1 - value))
    if role == "dirichlet":
        return Dirichlet(SURE * value.shape[-1] * value / value.sum(-1, keepdims=True))
    df = np.full(value.shape[:-2], SURE + value.shape[-1])
    inverse = np.linalg.inv(value)
    return Wishart(df, SURE * inverse) if role == "wishart" else InverseWishart(df, SURE * value)
