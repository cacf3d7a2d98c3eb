"""Rows in groups that have level probabilities of their own: words in documents, and the topics of a document.

Where row n of a discrete site has level probabilities theta_d of its group d = d(n), and theta_d ~ Dirichlet(alpha_d) is read by
no other rows, theta belongs to its rows: given the other mean parameters the group settles by itself,

    phi_nk ~ exp(E[log theta_dk] + e_nk),    gamma_d = alpha_d + sum of phi_n over the rows of d,

in a few rounds over its rows alone. Chunks then hold whole groups, and a step of stochastic variational inference settles the
groups of its batch before it moves the parameters that all groups share. Words are what is stored, not a row of counts as long as
the vocabulary for every document.

Reference: Hoffman, Blei & Bach (2010), Online learning for latent Dirichlet allocation, NeurIPS 23.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jensen.conjugate.energy import Energy
from jensen.conjugate.local import Local, Part
from jensen.conjugate.pieces import Psi, Read, Rows, Sum
from jensen.conjugate.places import static
from jensen.core.compilation import FAST_COMPILE


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of a site's rows.

    Attributes
    ----------
    members
        Rows of `prior` that a chunk's groups have (chunks, most of a chunk); as many as there are groups where it has fewer.
    inside
        Place of every row's group among its chunk's members (chunks, rows).
    prior
        alpha (groups, levels).
    block
        Of the level probabilities.
    part
        Of the site's parts, the one that reads them.
    """

    members: Any
    inside: Any
    prior: Any
    block: str = static()
    part: int = static()


def own(parts: Sequence[Part], site: str) -> int | None:
    """Which part of a site holds level probabilities that differ from group to group; None when none does.

    One Dirichlet each, and another one for every group.
    """
    for number, part in enumerate(parts):
        if (
            part.node != site
            or part.code < 0
            or part.varying
            or not isinstance(part.psi, Psi)
            or part.psi.kind != "log"
        ):
            continue
        if len(part.psi.reads) == 1 and part.psi.reads[0].role == "dirichlet" and _rows(part.psi.reads[0]) is not None:
            return number
    return None


def mixed(energy: Energy) -> tuple[str, ...]:
    """Discrete sites whose level probabilities are a Dirichlet of every group of rows."""
    found = []
    for name, tables in energy.tables.items():
        psis = [part.psi for part in tables.parts if isinstance(part, Rows) and part.psi.kind == "log"]
        reads = [read for psi in psis for read in psi.reads if read.role == "dirichlet"]
        if tables.sites == (name,) and any(np.ndim(read.index) > 1 and np.shape(read.index)[1] > 1 for read in reads):
            found.append(name)
    return tuple(found)


def _rows(read: Read) -> np.ndarray | None:
    """The Dirichlet (cells,) that each cell reads, level k at its element k; None when cells read them in another way."""
    index = np.asarray(read.index)
    if index.ndim != 3 or index.shape[2] != 1 or np.any(np.asarray(read.power) != 1):
        return None
    levels, index = len(index), index[:, :, 0]
    first = index[0] // levels
    fits = (index == first * levels + np.arange(levels)[:, None]).all() and len(np.unique(first)) == len(first)
    return first if fits else None


def order(code: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows (n,) with those of a cell side by side, the cells in random order."""
    return np.argsort(rng.permutation(int(code.max()) + 1)[code], kind="stable")


def bounds(code: np.ndarray, rows: int) -> np.ndarray:
    """First rows of chunks of about `rows` rows without split cells, for codes (n,) with equal ones side by side, and n."""
    ends = np.flatnonzero(np.diff(code, append=-1)) + 1
    chunk = np.maximum(ends - 1, 0) // rows
    last = np.flatnonzero(np.diff(chunk, append=-1))
    return np.concatenate([[0], ends[last]])


def groups(local: Local, energy: Energy, families: Mapping[str, Any]) -> Groups | None:
    """The groups of a site; None when its level probabilities are not those of groups, or have a prior with sites in it.

    Parameters
    ----------
    local
        With chunks that hold whole groups.
    energy
        Of all else.
    families
        By block.
    """
    number = own(local.parts, local.site)
    if number is None or local.weights is None:
        return None
    part = local.parts[number]
    read = part.psi.reads[0]
    pieces = [piece for some in energy.sums.values() for piece in some if read.block in _blocks(piece)]
    pieces += [part for table in energy.tables.values() for part in table.parts if read.block in _blocks(part)]
    others = [one for n, one in enumerate(local.parts) if n != number and read.block in _blocks(one)]
    if others or not all(isinstance(piece, Sum) and _blocks(piece) == {read.block} for piece in pieces):
        return None
    family, row = families[read.block], _rows(read)
    if row is None or np.ndim(family.concentration) < 1:
        return None
    prior = np.asarray(_best(pieces, read.block, family)).reshape(-1, local.levels)
    codes = np.asarray(local.codes)[:, part.code]
    rows = np.asarray(local.weights) > 0  # the padding has codes too
    found = [np.unique(some[inside], return_inverse=True) for some, inside in zip(codes, rows, strict=True)]
    members = np.full((len(found), max(len(some) for some, _ in found)), len(prior))
    inside = np.zeros(codes.shape, int)
    for chunk, (some, place) in enumerate(found):
        members[chunk, : len(some)] = row[some]
        inside[chunk, rows[chunk]] = place.reshape(-1)
    return Groups(members.astype(np.int32), inside.astype(np.int32), prior, read.block, number)


@partial(jax.jit, static_argnums=1, compiler_options=FAST_COMPILE)
def _best(pieces: Any, block: str, family: Any) -> Any:
    """Concentrations of a Dirichlet that only these pieces read."""
    moments = family.moments()
    slope = jax.grad(lambda own: sum((piece({block: own}) for piece in pieces), jnp.zeros(())))(moments)
    return family.from_gradient(slope, moments).concentration


def _blocks(piece: Any) -> set[str]:
    """Blocks that a piece reads; with one that no block has where that is not known."""
    psi = getattr(piece, "psi", None)
    if not isinstance(psi, Psi):
        return {getattr(piece, "block", "")}
    return {read.block for read in psi.reads} | set(psi.second.blocks if psi.second else ()) | {psi.block} - {""}


def settle(groups: Groups, local: Local, moments: Any, family: Any, number: Any, rounds: int, plain: Any) -> Any:
    """The level probabilities' family with the groups of a chunk settled.

    Parameters
    ----------
    groups, local
        Of a site.
    moments
        Of all blocks.
    family
        Of the level probabilities.
    number
        Of the chunk.
    rounds
        How often its rows are read.
    plain
        Whether log E[theta] stands in the place of E[log theta].
    """
    rest = replace(local, parts=tuple(part for n, part in enumerate(local.parts) if n != groups.part))
    table, weights = rest.table(rest.natural(moments), number), local.multiplicity(number)
    members, inside = groups.members[number], groups.inside[number]
    whole = jnp.reshape(jnp.asarray(family.concentration), (-1, local.levels))
    alpha = jnp.asarray(groups.prior)[members]

    def once(_: Any, gamma: Any) -> Any:
        own = replace(family, concentration=gamma)
        logs = jnp.where(plain, jnp.log(own.mean), own.moments()["log"])
        phi = jax.nn.softmax(table + logs[inside].T, 0) * weights
        return alpha + jnp.zeros_like(alpha).at[inside].add(phi.T)

    gamma = lax.fori_loop(0, rounds, once, whole[members])
    whole = whole.at[members].set(gamma, mode="drop")
    return replace(family, concentration=whole.reshape(jnp.shape(family.concentration)))
