"""Many rows: discrete sites whose probabilities are never stored, only summed, chunk by chunk.

An independent discrete site z that no other discrete site meets in a node has, given the mean parameters mu of all others,

    phi_nk = softmax_k e_nk,    e_nk = sum_p sum_j T_pnj psi_pkj[u_pn](mu),    energy + entropy of phi = sum_n logsumexp_k e_nk

(parts p of its tables, columns j of the data, u_pn the *cell* of row n: rows with equal reads). All that other blocks need is

    S_pukj = sum of phi_nk T_pnj over the rows n of cell u,     energy given phi = sum_p <S_p, psi_p(mu)>,

which is a plain `Sum` that does not know the number of rows. One pass over chunks of rows computes S and the logsumexps, so
memory is that of the columns of the data that are not constant. Rows with equal cells and columns have equal phi and are merged
into one with a multiplicity (tokens of one word in one document). Rows may be shuffled, for stochastic variational inference.

The numbers are those of coordinate ascent with stored probabilities, up to rounding.

Reference: Hoffman, Blei, Wang & Paisley (2013), Stochastic variational inference, JMLR 14 (local and global variables).
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
from jensen.conjugate.pieces import Sum
from jensen.conjugate.places import static
from jensen.conjugate.plan import Plan
from jensen.conjugate.tables import Constant
from jensen.core.compilation import FAST_COMPILE

FOLD = 16
"""Rows of a chunk come in multiples of this."""
_FEW = 8


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Known:
    """In the place of a `Psi`: numbers that do not depend on q, (C, 1, 1, J)."""

    values: Any

    def __call__(self, moments: Any) -> Any:
        """The numbers."""
        return self.values


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Part:
    """One table of a site: psi at its cells (C or 1, U or 1, E, J), and the stats that go with it.

    Attributes
    ----------
    psi
        Of the cells.
    fixed
        Stats that are the same in all rows, (C or 1, E * J); zero in the others' places.
    node
        Whose table it is.
    varying
        Places of the other stats in E * J.
    columns
        Their rows in the site's columns.
    code
        Row of the site's codes that says each row's cell; -1 when there is one cell.
    cells
        Their number U.
    """

    psi: Any
    fixed: Any
    node: str = static()
    varying: tuple[int, ...] = static()
    columns: tuple[int, ...] = static()
    code: int = static()
    cells: int = static()

    def natural(self, moments: Any, levels: int) -> tuple[Any, Any]:
        """Constant part of the table (U, C) and slopes along the columns (U, C, len(columns))."""
        psi = self._spread(self.psi(moments), levels)
        psi = jnp.moveaxis(psi, 0, 1)
        return (psi * self.fixed).sum(-1), psi[..., np.array(self.varying, int)]

    def piece(self, counts: Any, sums: Any, moments: Any) -> Sum:
        """The part's term given phi: counts (U, C) and sums (U, C, len(columns)) of phi."""
        shape = self._shape(jax.eval_shape(self.psi, moments).shape)
        stat = (counts[..., None] * self.fixed).at[..., np.array(self.varying, int)].add(sums)
        return Sum(jnp.moveaxis(stat, 0, 1).reshape(*stat.shape[1::-1], *shape), self.psi)

    def _shape(self, psi: tuple[int, ...]) -> tuple[int, ...]:
        return (self.fixed.shape[-1] // psi[3], psi[3])

    def _spread(self, psi: Any, levels: int) -> Any:
        return jnp.broadcast_to(psi, (levels, self.cells, *self._shape(psi.shape))).reshape(levels, self.cells, -1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Local:
    """A discrete site without stored probabilities.

    Attributes
    ----------
    parts
        Of its tables.
    columns
        Data (chunks, J, rows); J may be 0.
    codes
        Cells (chunks, codes, rows).
    weights
        Multiplicities of rows (chunks, rows), zero in the padding; None when all are one.
    count
        Number of rows, without the padding.
    site, levels
        Its name and number of levels.
    """

    parts: tuple[Part, ...]
    columns: Any
    codes: Any
    weights: Any
    count: Any
    site: str = static()
    levels: int = static()

    @property
    def chunks(self) -> int:
        """Their number."""
        return int(self.columns.shape[0])

    @property
    def sizes(self) -> np.ndarray:
        """Number of rows of every chunk; on the host."""
        return sizes(int(self.count), self.chunks)

    @property
    def multiplicities(self) -> np.ndarray:
        """The same with every row counted as often as it was merged."""
        return self.sizes.astype(float) if self.weights is None else np.asarray(self.weights).sum(1)

    def natural(self, moments: Any) -> list[tuple[Any, Any]]:
        """`Part.natural` of all parts."""
        return [part.natural(moments, self.levels) for part in self.parts]

    def multiplicity(self, number: Any) -> Any:
        """Weights (rows,) of a chunk."""
        if self.weights is not None:
            return self.weights[number]
        size = self.count // self.chunks + (number < self.count % self.chunks)
        return jnp.where(jnp.arange(self.columns.shape[-1]) < size, 1.0, 0.0)

    def table(self, natural: Sequence[tuple[Any, Any]], number: Any) -> Any:
        """Expected log density of a chunk's rows under every level, (C, rows)."""
        data = self.columns[number]
        offset, slope = jnp.zeros(self.levels), jnp.zeros((self.levels, data.shape[0]))
        spread: Any = 0.0
        for part, (constant, slopes) in zip(self.parts, natural, strict=True):
            places = np.array(part.columns, int)
            if part.code < 0:
                offset, slope = offset + constant[0], slope.at[:, places].add(slopes[0])
                continue
            code = self.codes[number, part.code]
            spread = spread + constant[code].T
            if part.columns:
                spread = spread + (slopes[code] * data[places].T[:, None]).sum(-1).T
        return (slope @ data if data.shape[0] else jnp.zeros((1, data.shape[1]))) + offset[:, None] + spread

    def sums(self, number: Any, odds: Any, scale: Any) -> Any:
        """Sums of phi = odds (C, rows) * scale (rows,): counts (C,), sums (C, J), {part: (U, C, 1 + its columns)}."""
        data = self.columns[number]
        cells = {}
        for place, part in enumerate(self.parts):
            if part.code < 0:
                continue
            own, phi = data[np.array(part.columns, int)].T, (odds * scale).T[..., None]
            own = jnp.concatenate([jnp.ones((len(own), 1)), own], 1)
            zero = jnp.zeros((part.cells, self.levels, own.shape[1]))
            cells[place] = zero.at[self.codes[number, part.code]].add(phi * own[:, None])
        return odds @ scale, _moments(odds, data * scale), cells


def sizes(count: int, chunks: int) -> np.ndarray:
    """Rows of every chunk: as even as can be, since small ones would be noisy batches."""
    return count // chunks + (np.arange(chunks) < count % chunks)


def total(local: Local, moments: Mapping[str, Any], order: Any = None, low: Any = 0, high: Any = None) -> Any:
    """The sums of `chunk` over the chunks order[low:high], with phi at its best given `moments`; by default over all."""
    natural = local.natural(moments)
    order = jnp.arange(local.chunks) if order is None else order

    def add(number: Any, carry: Any) -> Any:
        return jax.tree.map(jnp.add, carry, chunk(local, natural, order[number]))

    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: chunk(local, natural, order[0])))
    return lax.fori_loop(low, local.chunks if high is None else high, add, zero)


def held(local: Local, chunks: int, probs: np.ndarray) -> Any:
    """The same sums over the first chunks, for probabilities (rows, C) that are given; on the host."""
    sizes = local.sizes[:chunks]
    inside = np.arange(local.columns.shape[-1]) < sizes[:, None]

    def rows(array: Any) -> np.ndarray:
        return np.moveaxis(np.asarray(array[:chunks]), 1, 0)[:, inside]

    data, codes = rows(local.columns), rows(local.codes)
    weights = np.ones(len(probs)) if local.weights is None else np.asarray(local.weights[:chunks])[inside]
    phi = probs * weights[:, None]
    cells = {}
    for place, part in enumerate(local.parts):
        if part.code >= 0:
            own = [np.ones(len(probs)), *(data[column] for column in part.columns)]
            sums = [[np.bincount(codes[part.code], p * x, part.cells) for x in own] for p in phi.T]
            cells[place] = np.moveaxis(np.array(sums), -1, 0)
    entropy = -(phi * np.log(np.maximum(probs, 1e-300))).sum()
    return phi.sum(0), (data @ phi).T, cells, np.asarray(entropy)


def given(energy: Energy, local: Local, found: Any, moments: Mapping[str, Any], times: Any = 1.0) -> tuple[Energy, Any]:
    """The energy with a site's sums in it, each row `times`, and the entropy of its phi.

    The entropy is right when `moments` are where the sums were computed.
    """
    counts, sums, cells, logs = jax.tree.map(lambda x: times * x, found)
    pieces, entropy = dict(energy.sums), logs
    for place, part in enumerate(local.parts):
        if part.code < 0:
            piece = part.piece(counts[None], sums[:, np.array(part.columns, int)][None], moments)
        else:
            piece = part.piece(cells[place][..., 0], cells[place][..., 1:], moments)
        pieces[part.node] = (*pieces.get(part.node, ()), piece)
        entropy = entropy - piece(moments)
    return replace(energy, sums=pieces), entropy


def chunk(local: Local, natural: Sequence[tuple[Any, Any]], number: Any) -> Any:
    """Sums over one chunk of rows.

    Parameters
    ----------
    local, natural
        A site, and its `Local.natural`.
    number
        Of the chunk.

    Returns
    -------
    counts (C,), sums (C, J), {part: (U, C, 1 + its columns)}, sum of logsumexp
    """
    table = local.table(natural, number)
    top = table.max(0)
    # A barrier: otherwise every sum below computes its exponentials anew.
    odds = lax.optimization_barrier(jnp.exp(table - top))
    norm = odds.sum(0)
    weights = local.multiplicity(number)
    if local.weights is None:
        # 1 <= norm <= C: a product of a few has one logarithm instead of many.
        logs = jnp.log(jnp.where(weights > 0, norm, 1.0).reshape(FOLD, -1).prod(0)).sum() + (weights * top).sum()
    else:
        logs = (weights * (jnp.log(norm) + top)).sum()
    return *local.sums(number, odds, weights / norm), logs


def _moments(odds: Any, data: Any) -> Any:
    """Odds (C, rows) times data (J, rows): (C, J); few columns one by one, which is faster."""
    if len(data) > _FEW:
        return odds @ data.T
    return jnp.stack([odds @ column for column in data], 1) if len(data) else jnp.zeros((len(odds), 0))


def responsibilities(plan: Plan, families: Mapping[str, Any], site: str, rows: Any = None) -> Any:
    """Probabilities of the levels of a site's rows, from the families of all other blocks.

    Parameters
    ----------
    plan
        The model's.
    families
        By block; the site's own is not needed.
    site
        An independent discrete site that shares no node with other discrete sites.
    rows
        Flat indices; None: all.

    Returns
    -------
    array
        (rows, levels).
    """
    assert plan.energy is not None
    others = {block: family for block, family in families.items() if block != site}
    parts, counts = [], []
    for tables in plan.energy.tables.values():
        for part in tables.parts if site in tables.sites else ():
            some = part if rows is None else jax.tree.map(lambda leaf: some_rows(leaf, rows), part)
            if rows is not None and isinstance(part, Constant):
                some = Constant(part.values if len(part.values) == 1 else part.values[rows])
            parts.append(some)
            counts.append(tables.count)
    return _probabilities(others, parts, tuple(counts))


@partial(jax.jit, static_argnums=2, compiler_options=FAST_COMPILE)
def _probabilities(families: Any, parts: Any, counts: tuple[int, ...]) -> Any:
    moments = {block: family.moments() for block, family in families.items()}
    return jax.nn.softmax(
        sum((part.table(moments, count) for part, count in zip(parts, counts, strict=True)), jnp.zeros(()))
    )


def some_rows(leaf: Any, rows: Any) -> Any:
    """Some rows of an array of a table."""
    return leaf[:, rows] if np.ndim(leaf) >= 3 and leaf.shape[1] > 1 else leaf
