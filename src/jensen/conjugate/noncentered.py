"""The terms of a Normal whose mean holds real sites times powers of positive ones: head of `jensen.conjugate.scaled`."""

from itertools import combinations

import numpy as np

from jensen.conjugate.scaled import Scaled
from jensen.conjugate.slots import Affine, Slot
from jensen.conjugate.terms import Log, NotConjugate, Quadratic, Reader, Term
from jensen.models.graph import Node


def noncentered(node: Node, reader: Reader, scale: Affine, loc: Scaled) -> list[Term]:
    """The terms.

    Parameters
    ----------
    node, reader
        A Normal node, and its leaves.
    scale
        -2 log scale.
    loc
        Of its mean.

    Raises
    ------
    NotConjugate
        Where the sites to be scaled are among those of the scale.
    """
    axes = scale.constant.ndim
    taken = frozenset(part.site for part in loc.parts) & scale.sites
    if taken:
        raise NotConjugate(
            taken, f"{', '.join(sorted(taken))} is in loc and scale of {node.name} ({node.distribution}) alike"
        )
    # The residual is a sum of t_k * r_k, the first t being one.
    first = reader.affine(node, "value") + -loc.affine
    sums = [(None, first), *(((part.site, part.power), -part.affine) for part in loc.parts)]
    wrong = {site for _, r in sums for site in r.sites if reader.probe.coordinate[site] != "real"}
    if wrong:
        raise NotConjugate(wrong, f"loc of {node.name} ({node.distribution}) reads {', '.join(sorted(wrong))}")
    stat = np.exp(scale.constant)

    def reads(*powers: tuple[str, float] | None) -> tuple[Slot, ...]:
        some: dict[str, float] = {}
        for site, power in filter(None, powers):
            some[site] = some.get(site, 0.0) + power
        one, zero = np.ones((1,) * axes), np.zeros((1,) * axes, int)
        return scale.slots + tuple(Slot(site, zero, power * one) for site, power in some.items())

    terms: list[Term] = [Quadratic(stat, reads(t, t), r) for t, r in sums]
    for (t, r), (u, s) in combinations(sums, 2):
        terms += [Quadratic(0.5 * stat, reads(t, u), r + s), Quadratic(-0.5 * stat, reads(t, u), r + -s)]
    if scale.slots:
        terms.append(Log(np.full((1,) * axes, 0.5), scale.slots))
    return terms
