"""The proof that the posterior is proper where priors are flat.

A flat prior adds nothing to the energy. With proper priors on all scales and levels, the posterior of flat sites whose rows are
Gaussian is proper exactly if the precision of their block is positive definite: P = sum_k w_k P_k with all P_k positive
semidefinite has the same null space for all weights w_k > 0, so one set of weights decides it. This holds for whole blocks:
sites that meet in rows must not be split, which flat.py sees to, as to the places where such a look would be no proof.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate import blocks
from jensen.conjugate.pieces import known
from jensen.conjugate.plan import Plan
from jensen.core import keys
from jensen.core.compilation import FAST_COMPILE, signature
from jensen.core.errors import ImproperError
from jensen.families.gaussian import Gaussian

LARGEST = 1e10
"""Largest ratio of a marginal variance to the conditional one; rounding alone gives 1e15 where the truth is infinite."""


def check_proper(plan: Plan, seed: int = 0) -> None:
    """Refuse an improper posterior.

    Parameters
    ----------
    plan
        With an energy.
    seed
        Of the point at which the precisions are looked at.

    Raises
    ------
    ImproperError
        When flat priors leave a direction in which the log density does not change.
    """
    flat = {name for name, node in blocks.nodes(plan).items() if node.kind == "Flat"}
    concerned = tuple(block for block, names in plan.blocks.items() if flat & set(names))
    if not concerned:
        return
    changing, back, shape = known(plan.energy)
    families = blocks.start(plan, keys.generator(seed, "proper"))

    def inflation(changing: list, families: blocks.Families) -> dict:
        energy, found = back(changing), {}
        moments = {block: family.moments() for block, family in families.items()}
        for block in concerned:
            gradient = jax.grad(lambda own, b=block: energy(moments | {b: own}))(moments[block])
            found[block] = _inflation(families[block].from_gradient(gradient, moments[block]))
        return found

    def build() -> object:
        return jax.jit(inflation).lower(changing, families).compile(compiler_options=FAST_COMPILE)

    compiled = plan.graph.remember(("proper", shape, concerned, signature(families)), build)
    for block, ratios in compiled(changing, families).items():
        worst = np.asarray(ratios)
        worst = np.where(np.isnan(worst), np.inf, worst)
        if worst.max() > LARGEST:
            raise ImproperError(
                f"the posterior is improper: the data do not inform {_name(plan, block, worst, flat)}, which has a flat prior; "
                "give it a proper prior, or remove what the data cannot tell apart."
            )


def _inflation(family: Gaussian) -> jax.Array:
    """Marginal over conditional variance (n,) of a precision that is scaled to unit diagonal; NaN where it is singular."""
    pattern, precision = family.pattern, family.precision
    n = pattern.n
    diagonal = pattern.variances(precision)
    root = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    scales = pattern.outer(root[None], root[None])
    cov = pattern.moments(jnp.zeros(n), precision / scales)[1]
    return jnp.where(diagonal > 0, pattern.variances(cov), jnp.nan)


def _name(plan: Plan, block: str, ratios: np.ndarray, flat: set[str]) -> str:
    """The flat site with the largest ratio; where all are NaN, the first."""
    start, worst, found = 0, -1.0, ""
    for name in plan.blocks[block]:
        size = int(np.prod(blocks.nodes(plan)[name].shape))
        own = float(ratios[start : start + size].max())
        if name in flat and own > worst:
            worst, found = own, name
        start += size
    return found
