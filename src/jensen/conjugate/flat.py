"""Flat priors: they add nothing to the energy, and are allowed where the posterior can be shown to be proper (proper.py).

Under discrete sites, in products of sites and under likelihoods that are not Gaussian, a look at one precision is no proof (a
level without rows, a rescaled pair, separated classes), and flat priors are refused.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jensen.conjugate.layout import Layout
from jensen.conjugate.terms import Factor, NotConjugate, Predicted, Quadratic, Reader, Term
from jensen.core.errors import OptionError
from jensen.models.graph import Node


def flat(node: Node, reader: Reader) -> tuple[list[Term], np.ndarray]:
    """The rule of a flat prior: no terms."""
    return [], np.zeros(())


def refuse_flat(one: Factor, reader: Reader) -> None:
    """Refuse flat sites in the rows of a node that leave the posterior possibly improper.

    Raises
    ------
    NotConjugate
        With the flat sites to blame.
    """
    names = frozenset().union(*reader.probe.parents[one.node.name].values()) - {one.node.name}
    some = {name for name in names if reader.latents[name].kind == "Flat"}
    pairs = any(isinstance(term, Quadratic) and term.pairs for term in one.terms)
    other = any(isinstance(term, Predicted) for term in one.terms)
    if some and (one.levels or pairs or other):
        where = "under discrete sites" if one.levels else "in products" if pairs else f"under {one.node.distribution}"
        raise NotConjugate(
            some,
            f"{', '.join(sorted(some))} has a flat prior, which {where}, as in {one.node.name}, may leave the posterior improper",
        )


def refuse_split(joined: Sequence[tuple[str, ...]], layout: Layout, latents: Mapping[str, Node]) -> None:
    """Refuse blocks that split a flat site from those it is added to.

    Parameters
    ----------
    joined
        Groups of Gaussian sites that meet in rows.
    layout, latents
        The blocks; the sites' nodes.

    Raises
    ------
    OptionError
        Naming the flat site.
    """
    for group in joined:
        some = [name for name in group if latents[name].kind == "Flat"]
        if some and len({layout.block[name] for name in group}) > 1:
            raise OptionError(
                f"{some[0]} has a flat prior and must be in one block with the sites it is added to ({', '.join(group)}), or "
                "nobody can tell whether the posterior is proper; leave jn.Blocks out, or give it a proper prior."
            )
