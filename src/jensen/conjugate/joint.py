"""Blocks of Gaussian sites: which sites share one, with which precision pattern.

Sites that are read by the same rows are joined, unless the user says otherwise. Sites that are multiplied with each other stay
alone, and so does each where a joint pattern is not supported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from jensen.conjugate.alike import same_precision
from jensen.conjugate.drawn import meetings
from jensen.conjugate.flat import refuse_split
from jensen.conjugate.layout import GAUSSIAN, Layout
from jensen.conjugate.slots import Slot
from jensen.conjugate.terms import Drawn, Factor, MatrixQuadratic, Predicted, Quadratic
from jensen.core.errors import OptionError, UnsupportedError
from jensen.families.patterns import find_pattern
from jensen.models.graph import Node


def lay_out(
    latents: Mapping[str, Node],
    roles: Mapping[str, str],
    factors: Sequence[Factor],
    blocks: Sequence[Sequence[str]] | None,
) -> tuple[dict[str, tuple[str, ...]], Layout]:
    """Blocks, with their sites in the order of the model, and where the sites are.

    Parameters
    ----------
    latents, roles
        Nodes and roles of all sites.
    factors
        One a node.
    blocks
        Groups that the user wants; None: those that meet in rows.

    Raises
    ------
    OptionError
        When the user's groups do not fit.
    """
    sizes = {name: int(np.prod(node.shape)) for name, node in latents.items()}
    reads = _shared_reads(factors, latents)
    joined = _joined(latents, roles, reads, factors)
    groups = joined
    if blocks is not None:
        groups = [tuple(name for name in latents if name in group) for group in blocks]
        for group in groups:
            wrong = [name for name in group if roles[name] != "gaussian"]
            if wrong and len(group) > 1:
                raise OptionError(
                    f"jn.Blocks joins {wrong[0]} with other sites, and only Gaussian sites share a block."
                )
    try:
        placed = _placed(latents, roles, sizes, reads, groups)
    except UnsupportedError:
        if blocks is not None:
            raise
        placed = _placed(latents, roles, sizes, reads, [])
    grouping, layout = placed
    refuse_split(joined, layout, latents)
    pattern = {
        word: same_precision(word, one, sizes, factors)
        if grouping[word] == (word,) and roles[word] == "gaussian"
        else one
        for word, one in layout.pattern.items()
    }
    return grouping, replace(layout, pattern=pattern)


def _placed(
    latents: Mapping[str, Node],
    roles: Mapping[str, str],
    sizes: Mapping[str, int],
    reads: Any,
    groups: Sequence[tuple[str, ...]],
) -> tuple[dict[str, tuple[str, ...]], Layout]:
    block = {name: name for name in latents}
    for group in groups:
        block |= dict.fromkeys(group, " + ".join(group))
    members: dict[str, list[str]] = {}
    for name in latents:
        members.setdefault(block[name], []).append(name)
    offset, pattern = {}, {}
    for word, names in members.items():
        if roles[names[0]] not in GAUSSIAN:
            continue
        start = 0
        for name in names:
            offset[name], start = start, start + sizes[name]
        pairs = [np.zeros((0, 2), int)]
        for slots in reads:
            inside = [slot.index + offset[slot.site] for slot in slots if slot.site in names]
            if all(index.size == 1 for index in inside):  # the same elements in all rows, maybe hundreds of them
                some = np.array([index.reshape(-1)[0] for index in inside], int)
                pairs.append(np.stack([some[k] for k in np.triu_indices(len(some), 1)], 1))
            else:
                pairs += [_pairs(i, j, start) for i, j in combinations(inside, 2)]
        pattern[word] = find_pattern(start, np.concatenate(pairs))
    return {word: tuple(names) for word, names in members.items()}, Layout(dict(roles), block, offset, pattern)


def _pairs(i: np.ndarray, j: np.ndarray, n: int) -> np.ndarray:
    i, j = np.broadcast_arrays(i, j)
    code = np.unique((i.astype(np.int64) * n + j).reshape(-1))
    return np.stack([code // n, code % n], 1)


def _shared_reads(factors: Sequence[Factor], latents: Mapping[str, Node]) -> list[tuple[Slot, ...]]:
    """Slots of Gaussian sites that meet in the rows of one residual or predictor."""
    found = []
    for one in factors:
        for term in one.terms:
            if isinstance(term, Quadratic):
                found.append(term.residual.slots + tuple(slot for pair in term.pairs for slot in pair))
            elif isinstance(term, MatrixQuadratic):
                dim = term.index.shape[-1]
                slots = []
                for slot in term.residual.slots:
                    index = np.broadcast_to(slot.index, (*slot.index.shape[:-1], dim))
                    slots += [Slot(slot.site, index[..., a], slot.weight) for a in range(dim)]
                found.append(tuple(slots))
            elif isinstance(term, Predicted):
                found.append(term.predictor.slots)
            elif isinstance(term, Drawn):
                found += [affine.slots for kind, affine in term.factors if kind == "square"]
                found.append(meetings(term, latents))
    return [slots for slots in found if len(slots) > 1]


def _joined(
    latents: Mapping[str, Node], roles: Mapping[str, str], reads: Sequence[tuple[Slot, ...]], factors: Sequence[Factor]
) -> list[tuple[str, ...]]:
    """Groups of Gaussian sites that meet in some row; sites that are multiplied with each other stay alone."""
    alone = {
        slot.site
        for one in factors
        for term in one.terms
        if isinstance(term, Quadratic)
        for pair in term.pairs
        for slot in pair
    }
    root = {name: name for name, role in roles.items() if role == "gaussian" and name not in alone}
    for slots in reads:
        names = sorted({slot.site for slot in slots if slot.site in root})
        for name in names[1:]:
            old, new = root[name], root[names[0]]
            root = {key: new if value == old else value for key, value in root.items()}
    groups: dict[str, list[str]] = {}
    for name in latents:
        if name in root:
            groups.setdefault(root[name], []).append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]
