"""Levels of discrete sites after a fit: which are empty, alike or unused, and a canonical order of the others.

Levels have names only through the sites that are read by level: mu[z], phi[z], pi[k] = P(z = k). The tables of the energy
say which axis of which site that is: an axis along which the element read under level k is number k. If the levels are
exchangeable, permuting them everywhere leaves the ELBO unchanged; that is how it is checked, not derived.

Order: by the mean of the first Gaussian or positive site with such an axis (its first elements), else by expected number of rows,
largest first. Symmetric points of the ELBO are stationary, so that a fit that has converged may have collapsed: levels
without rows, levels that are copies of each other, responsibilities that are equal in all rows, factors without loadings.

Reference: Stephens (2000), Dealing with label switching in mixture models, J. R. Statist. Soc. B 62.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate import blocks
from jensen.conjugate.layout import GAUSSIAN
from jensen.conjugate.pieces import Rows
from jensen.conjugate.plan import Plan
from jensen.conjugate.products import Products
from jensen.conjugate.tables import Tables
from jensen.core.compilation import FAST_COMPILE
from jensen.core.errors import OptionError
from jensen.families.discrete import Categorical
from jensen.families.gaussian import Gaussian
from jensen.families.markov import MarkovChain

ROWS = 200
"""Rows of a table that are looked at to find the axes of levels."""
SAME = 1e-9
"""Relative change of the ELBO under a permutation of exchangeable levels."""
ALIKE = 0.05
"""Levels closer than this many sds in everything read by level are copies."""
FLAT = 1e-3
FEEBLE = 0.1
"""Factors whose every element has a mean below this many of its sds carry nothing."""
_MATRICES = ("wishart", "inverse wishart")
_SIMPLEX = "dirichlet"

Axes = dict[str, frozenset[int]]
Summaries = dict[str, dict[str, np.ndarray]]


def level_axes(plan: Plan, site: str, *, own: bool = True) -> Axes:
    """Sites that are read by the level of a discrete site, and along which of their axes.

    Parameters
    ----------
    plan
        With an energy.
    site
        The discrete site.
    own
        Also in the site's own distribution; False: by its children only.

    Returns
    -------
    dict
        Site -> axes of its shape, in the order of the model. A site that is read by level in another way is left out.
    """
    known, energy = blocks.nodes(plan), plan.energy
    assert energy is not None
    found: dict[str, set[int]] = {}
    for name, table in energy.tables.items():
        if site not in table.sites or (name == site and not own):
            continue
        levels = np.unravel_index(np.arange(table.count), table.levels)
        for reader, index, mask in _reads(plan, table):
            if reader not in known:
                continue
            shape = known[reader].shape
            places = np.unravel_index(index, shape) if shape else ()
            for position, other in enumerate(table.sites):
                if other != site:
                    continue
                wanted = levels[position].reshape(-1, *(1,) * (index.ndim - 1))
                for axis, place in enumerate(places):
                    if shape[axis] == table.levels[position] and mask.any() and (place == wanted)[mask].all():
                        found.setdefault(reader, set()).add(axis)
    return {name: frozenset(found[name]) for name in known if name in found}


def _reads(plan: Plan, table: Tables) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Site, elements (C, rows, ..) that depend on the level, and which of them count."""
    for part in table.parts:
        if not isinstance(part, Rows):
            continue
        for read in part.psi.reads:
            index, mask = _some(read.index), _some(read.power) != 0
            if len(index) == table.count > 1:
                yield _owner(
                    plan, read.block, index, np.broadcast_to(mask, np.broadcast_shapes(index.shape, mask.shape))
                )
        if part.psi.index is not None and len(np.shape(part.psi.index)) > 2:
            index = _some(part.psi.index)
            if len(index) == table.count > 1:
                yield _owner(plan, part.psi.block, index, np.ones(index.shape, bool))
        second = part.psi.second
        if second is None:
            continue
        weights = dict(
            zip(zip(second.first, second.second, strict=True), np.moveaxis(_some(part.stat), -1, 0), strict=False)
        )
        number = 0
        for block, stacked in zip(second.blocks, second.index, strict=True):
            for column in np.moveaxis(_some(stacked), -1, 0):
                number += 1
                if len(column) != table.count or table.count == 1:
                    continue
                weight = weights[number, number] if part.psi.kind == "quadratic" else np.ones((1,) * column.ndim)
                yield _owner(
                    plan, block, column, np.broadcast_to(weight != 0, np.broadcast_shapes(column.shape, weight.shape))
                )


def _some(array: Any) -> np.ndarray:
    """At most `ROWS` of the rows (axis 1)."""
    array = np.asarray(array)
    return array[:, :ROWS] if array.ndim > 1 else array


def _owner(plan: Plan, block: str, index: np.ndarray, mask: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
    """The site of a block that elements belong to, and their place in it."""
    layout, known = plan.layout, blocks.nodes(plan)
    assert layout is not None
    index = np.broadcast_to(index, mask.shape)
    names = plan.blocks[block]
    if layout.role[names[0]] not in GAUSSIAN:
        return names[0], index, mask
    for name in names:
        offset, size = layout.offset[name], int(np.prod(known[name].shape))
        inside = (index >= offset) & (index < offset + size)
        if mask.any() and inside[mask].all():
            return name, np.clip(index - offset, 0, size - 1), mask
    return "", index, mask


# -- order -------------------------------------------------------------------------------------------------------------------


def canonical(plan: Plan, families: blocks.Families, value: Callable[[blocks.Families], float]) -> blocks.Families:
    """Families with the levels of every discrete site in canonical order.

    Parameters
    ----------
    plan
        With an energy.
    families
        Block -> family.
    value
        The ELBO of families.

    Returns
    -------
    dict
        Block -> family. Sites whose levels are not exchangeable (the ELBO changes) keep their order.
    """
    assert plan.energy is not None
    known = _summaries(families)
    before = None
    for site in plan.energy.discrete:
        order = _order(plan, known, site)
        if np.array_equal(order, np.arange(len(order))):
            continue
        new = permuted(plan, families, site, order)
        if new is None:
            continue
        before = value(families) if before is None else before
        if abs(value(new) - before) <= SAME * (1.0 + abs(before)):
            families, known = new, _summaries(new)
    return families


def permuted(plan: Plan, families: blocks.Families, site: str, order: np.ndarray) -> blocks.Families | None:
    """Families in which level k of a discrete site is the former level ``order[k]``; None if a block cannot be permuted."""
    layout, known = plan.layout, blocks.nodes(plan)
    assert layout is not None
    families = dict(families)
    own = families[site]
    if isinstance(own, MarkovChain):
        pairwise = np.asarray(own.pairwise)[..., order, :][..., order]
        families[site] = replace(own, unary=np.asarray(own.unary)[..., order], pairwise=pairwise)
    else:
        families[site] = replace(own, logits=np.asarray(own.logits)[..., order])
    for name, axes in level_axes(plan, site).items():
        block, shape = layout.block[name], known[name].shape
        family = families[block]
        if isinstance(family, Gaussian):
            places = np.arange(int(np.prod(shape))).reshape(shape)
            for axis in axes:
                places = np.take(places, order, axis)
            elements = np.arange(family.pattern.n)
            elements[layout.offset[name] : layout.offset[name] + places.size] = layout.offset[name] + places.reshape(-1)
            moved = _moved(family, elements)
            if moved is None:
                return None
            families[block] = moved
            continue
        if layout.role[name] in _MATRICES and max(axes) >= len(shape) - 2:
            return None
        families[block] = replace(
            family, **{one.name: _taken(family, one.name, shape, axes, order) for one in fields(family)}
        )
    return families


def _taken(family: Any, leaf: str, shape: tuple[int, ...], axes: frozenset[int], order: np.ndarray) -> np.ndarray:
    array = np.asarray(getattr(family, leaf))
    if array.ndim == 0 or leaf != "df":  # degrees of freedom have no matrix axes
        array = np.broadcast_to(array, shape[:-2] if leaf == "df" else shape)
    for axis in axes:
        array = np.take(array, order, axis)
    return array


def _moved(family: Gaussian, elements: np.ndarray) -> Gaussian | None:
    """The Gaussian whose element i is the former element ``elements[i]``; None when that leaves the pattern."""
    pattern = family.pattern
    pairs = np.asarray(pattern.pairs).reshape(-1, 2)
    try:
        where = pattern.position(elements[pairs[:, 0]], elements[pairs[:, 1]])
    except OptionError:
        return None
    precision = np.asarray(family.precision)
    precision = np.concatenate([precision[: pattern.n][elements], precision[where]])
    return Gaussian(np.asarray(family.h)[elements], precision, pattern)


def _order(plan: Plan, known: Summaries, site: str) -> np.ndarray:
    layout = plan.layout
    assert layout is not None
    for name, axes in level_axes(plan, site, own=False).items():
        if layout.role[name] != _SIMPLEX and layout.role[name] not in _MATRICES:
            mean, _ = _site(plan, known, name)
            first = np.moveaxis(mean, min(axes), 0).reshape(mean.shape[min(axes)], -1)[:, 0]
            return np.argsort(first, kind="stable")
    probs = known[site]["probs"]
    return np.argsort(-probs.reshape(-1, probs.shape[-1]).sum(0), kind="stable")


def _numbers(families: blocks.Families) -> dict[str, dict[str, Any]]:
    found = {}
    for block, family in families.items():
        if isinstance(family, Categorical | MarkovChain):
            found[block] = {"probs": family.moments()["probs"]}
        elif isinstance(family, Gaussian):
            moments = family.moments()
            found[block] = {"mean": moments["mean"], "sd": jnp.sqrt(family.pattern.variances(moments["cov"]))}
        else:
            found[block] = {"mean": family.mean, "sd": family.sd}
    return found


_compiled = jax.jit(_numbers, compiler_options=FAST_COMPILE)


def _summaries(families: blocks.Families) -> Summaries:
    """Block -> "probs", or "mean" and "sd" (of the logarithm where that is Gaussian): one program for all."""
    return jax.tree.map(np.asarray, _compiled(families))


def _site(plan: Plan, known: Summaries, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of a site, in its shape."""
    layout, shape = plan.layout, blocks.nodes(plan)[name].shape
    assert layout is not None
    block = layout.block[name]
    mean, sd = known[block]["mean"], known[block]["sd"]
    if name in layout.offset:
        inside = slice(layout.offset[name], layout.offset[name] + int(np.prod(shape)))
        return mean[inside].reshape(shape), sd[inside].reshape(shape)
    return np.broadcast_to(mean, shape), np.broadcast_to(sd, shape)


# -- collapsed optima --------------------------------------------------------------------------------------------------------


def collapsed(plan: Plan, families: blocks.Families) -> list[str]:
    """What is degenerate about converged families, one sentence each; empty when nothing is."""
    assert plan.energy is not None
    found, known = [], _summaries(families)
    for site in plan.energy.discrete:
        probs = known[site]["probs"]
        probs = probs.reshape(-1, probs.shape[-1])
        if len(probs) <= probs.shape[1]:
            continue
        children = level_axes(plan, site, own=False)
        if children and np.ptp(probs, 0).max() < FLAT:
            found.append(
                f"all rows of {site} have the same probabilities, so that its levels tell nothing apart; use another seed"
            )
            continue
        empty = np.flatnonzero(probs.sum(0) < 1.0)
        if len(empty):
            found.append(
                f"{_levels(empty)} of {site} hold{'s' * (len(empty) == 1)} less than one row; fewer levels would do"
            )
        for j, k in _copies(plan, known, children, probs.shape[1]):
            if j not in empty and k not in empty:
                found.append(f"levels {j} and {k} of {site} are copies of each other; use another seed or fewer levels")
    for name, pieces in plan.energy.sums.items():
        for piece in pieces:
            if isinstance(piece, Products):
                unused = _unused(piece, known)
                if len(unused):
                    numbers = ", ".join(map(str, unused))
                    found.append(
                        f"no loading of factor {numbers} is told from zero in {piece.pair[0]} or {piece.pair[1]}: "
                        f"{name} needs fewer factors"
                    )
    return found


def _levels(numbers: np.ndarray) -> str:
    return f"level{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _copies(plan: Plan, known: Summaries, axes: Axes, levels: int) -> list[tuple[int, int]]:
    """Pairs of levels between which nothing that is read by level differs."""
    gaps = []
    for name, along in axes.items():
        mean, sd = (np.moveaxis(array, min(along), 0).reshape(levels, -1) for array in _site(plan, known, name))
        gaps.append(np.abs(mean[:, None] - mean[None]) / np.sqrt(0.5 * (sd[:, None] ** 2 + sd[None] ** 2)))
    if not gaps:
        return []
    far = np.max([gap.max(-1) for gap in gaps], 0)
    return [(j, k) for j in range(levels) for k in range(j + 1, levels) if far[j, k] < ALIKE]


def _unused(piece: Products, known: Summaries) -> np.ndarray:
    """Numbers of the products of which one side is zero within its own uncertainty."""
    weak = np.zeros(len(piece.x), bool)
    for block, index in ((piece.pair[0], piece.x), (piece.pair[1], piece.y)):
        elements = np.asarray(index).reshape(len(piece.x), -1)
        weak |= (np.abs(known[block]["mean"][elements]) < FEEBLE * known[block]["sd"][elements]).all(1)
    return np.flatnonzero(weak)
