"""Pieces: a term with its data summed up, ready for compiled code.

The rows of a term with the same reads (the same elements of the same sites) differ only in their stats, and only the sum of those
matters: sufficient statistics, found by comparing indices. A *cell* is one such set of rows. After that a term is

    sum over cells and columns of   stat[cell, column] * psi(mean parameters)[cell, column],

whose cost does not depend on the number of rows: a regression is one cell (the Gram matrix), group effects a cell a group.
Under a discrete site z the same product is a *table*, row n and level k: e_nk = sum_j stat_nj psi_kj when the reads are the
same in all rows (mixtures: two matrix products a sweep), and row by row otherwise.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate.places import beside, regular, simple, static, take
from jensen.conjugate.ways import SAME, Way
from jensen.core.compilation import signature

FEW = 8
"""Reads of a block that are handled one by one."""
ZERO = "zero"
"""Key of a block's moments which says that they are zero, as where an energy that is quadratic in it is looked at."""
POINT = "point"
"""Key of a Gaussian block's moments which says that they are those of a point: quadratures over it have one node."""
KNOWN = 4096
"""Index arrays of up to this many numbers may be constants of a program."""


def few_powers(power: np.ndarray) -> tuple[float, ...] | None:
    """The nonzero ones of a read's powers; None if there are many."""
    found = np.unique(power[power != 0])
    return tuple(found.tolist()) if len(found) <= FEW else None


def known(energy: Any) -> tuple[list[Any], Callable[[list[Any]], Any], Hashable]:
    """Split an energy into arrays that change from data to data, and a function that puts them back beside the known reads.

    Which elements are read is part of a program's shape as long as it is short to say: small index arrays, and runs. Energies
    with equal keys, the last thing returned, have the same programs.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(energy)
    arrays = [leaf for _, leaf in leaves]
    fixed = [isinstance(leaf, np.ndarray) and _is_known(path, leaf) for path, leaf in leaves]
    some = [leaf for leaf, own in zip(arrays, fixed, strict=True) if own]

    def back(changing: list[Any]) -> Any:
        rest, own = iter(changing), iter(some)
        return jax.tree.unflatten(tree, [next(own) if one else next(rest) for one in fixed])

    changing = [leaf for leaf, own in zip(arrays, fixed, strict=True) if not own]
    same = tuple((leaf.shape, leaf.dtype.str, leaf.tobytes()) for leaf in some)
    return changing, back, (tree, tuple(fixed), same, signature(changing))


def _is_known(path: Any, leaf: np.ndarray) -> bool:
    if getattr(path[-1], "name", "") == "power":
        return leaf.size <= KNOWN
    if not np.issubdtype(leaf.dtype, np.integer):
        return False
    columns = leaf.reshape(-1, leaf.shape[-1]).T if leaf.ndim > 1 and leaf.shape[-1] <= FEW else leaf.reshape(1, -1)
    some = leaf.size <= KNOWN or all(simple(column) for column in columns) or beside(leaf.reshape(-1))
    return some or regular(leaf) is not None


def features(own: Any, powers: tuple[float, ...], way: Way) -> dict[str, Any]:
    """E[log s_i] and E[s_i^p] of all elements of a positive site whose block is Gaussian, from its mean and variance."""
    mean, variance = own["mean"], own["cov"][: len(own["mean"])]
    return {"log": way.mean_log(mean, variance), "powers": {p: way.mean_power(mean, variance, p) for p in powers}}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Read:
    """One read of a positive site by every cell: element and power; `powers` are the nonzero ones, None if there are many."""

    index: Any
    power: Any
    block: str = static()
    role: str = static()
    powers: tuple[float, ...] | None = static(default=None)
    way: Way = static(default=SAME)

    def log(self, moments: Any) -> Any:
        """Power * E[log s]."""
        own = moments[self.block]
        if self.way.moves:
            return self._powered(take(self._features(own, ())["log"], self.index))
        key = "log1m" if self.role == "complement" else "log"
        return self._powered(take(own[key].reshape(-1), self.index))

    def _features(self, own: Any, powers: tuple[float, ...]) -> Any:
        """Those of all elements, or what the block is given as."""
        return own if "powers" in own else features(own, powers, self.way)

    def _powered(self, log: Any) -> Any:
        return log if isinstance(self.power, np.ndarray) and (self.power == 1).all() else self.power * log

    def mean(self, moments: Any) -> Any:
        """E[s^power]."""
        own = moments[self.block]
        if self.way.moves and self.powers is not None:
            powers = self._features(own, self.powers)["powers"]
            found = [take(powers[p], self.index) for p in self.powers]
            if len(found) == 1 and isinstance(self.power, np.ndarray) and (self.power != 0).all():
                return found[0]
            return sum((jnp.where(self.power == p, x - 1.0, 0.0) for p, x in zip(self.powers, found, strict=True)), 1.0)
        if self.way.moves:
            return self.way.mean_power(take(own["mean"], self.index), take(own["cov"], self.index), self.power)
        key = "inverse" if self.role == "inverse gamma" else "value"
        value = take(own[key].reshape(-1), self.index)
        everywhere = isinstance(self.power, np.ndarray) and (self.power != 0).all()
        return value if everywhere else jnp.where(self.power == 0, 1.0, value)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Moments2:
    """E[u_i u_j] for u = (1, reads of Gaussian sites), the pairs i <= j as columns: within blocks first, then across.

    Attributes
    ----------
    index
        For each block its elements (..., q_b).
    position
        For each block where its covariances are, (..., pairs within it).
    blocks
        Their names.
    first, second
        The columns' i and j, all blocks within, then across.
    """

    index: tuple[Any, ...]
    position: tuple[Any, ...]
    blocks: tuple[str, ...] = static()
    first: tuple[int, ...] = static()
    second: tuple[int, ...] = static()

    @property
    def _each(self) -> list[tuple[str, int]]:
        """How many elements are read of each block."""
        return [(block, index.shape[-1]) for block, index in zip(self.blocks, self.index, strict=True)]

    @property
    def few(self) -> bool:
        """Whether few elements are read."""
        return all(index.shape[-1] <= FEW for index in self.index)

    def columns(self, moments: Any) -> list[Any] | None:
        """The columns one by one, where their elements are known and few: no array with a short last axis is made."""
        if not self.few or not all(isinstance(index, np.ndarray) for index in self.index):
            return None
        u: list[Any] = [jnp.ones(())]
        cov: list[Any] = []
        for block, index, position in zip(self.blocks, self.index, self.position, strict=True):
            u += [take(moments[block]["mean"], index[..., k]) for k in range(index.shape[-1])]
            cov += [take(moments[block]["cov"], np.asarray(position)[..., k]) for k in range(position.shape[-1])]
        zero = {1 + k for k, block in enumerate(b for b, i in self._each for _ in range(i)) if ZERO in moments[block]}
        pairs = list(zip(self.first, self.second, strict=True))
        found = [None if zero.issuperset(pair) else u[pair[0]] * u[pair[1]] for pair in pairs]
        inside = [b if a is None else a + b for a, b in zip(found, cov, strict=False)]
        return inside + [jnp.zeros(()) if a is None else a for a in found[len(cov) :]]

    def __call__(self, moments: Any) -> Any:
        """(..., J)."""
        columns = self.columns(moments)
        if columns is not None:
            lead = np.broadcast_shapes((1,), *(jnp.shape(column) for column in columns))
            return jnp.stack([jnp.broadcast_to(column, lead) for column in columns], -1)
        lead = np.broadcast_shapes((1,), *(index.shape[:-1] for index in self.index))
        parts = [jnp.ones((*lead, 1))]
        parts += [_spread(moments[b]["mean"][i], lead) for b, i in zip(self.blocks, self.index, strict=True)]
        u = jnp.concatenate(parts, -1)
        product = u[..., np.array(self.first)] * u[..., np.array(self.second)]
        cov = [_spread(moments[b]["cov"][p], lead) for b, p in zip(self.blocks, self.position, strict=True)]
        inside = sum(part.shape[-1] for part in cov)
        if not cov:
            return product
        return jnp.concatenate([product[..., :inside] + jnp.concatenate(cov, -1), product[..., inside:]], -1)


def same(index: np.ndarray) -> bool:
    """Whether all elements are the same."""
    return index.size == 1 or bool(index.size and (index == index.flat[0]).all())


def _spread(array: Any, lead: tuple[int, ...]) -> Any:
    return jnp.broadcast_to(array, (*lead, array.shape[-1]))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Psi:
    """Expected natural parameters of every cell, (..., J), from the mean parameters of all blocks.

    ``kind`` is "log" (sum of reads), "mean" (their product), "mean log" (product of the first `means`, times the sum of the logs
    of the others), "quadratic" (product times second moments), "value" or "logdet"
    (entries of a matrix site, in `index`), or "matrix" (entries times second moments).
    """

    kind: str = static()
    reads: tuple[Read, ...] = ()
    second: Moments2 | None = None
    index: Any = None
    block: str = static(default="")
    columns: tuple[int, ...] = static(default=())
    means: int = static(default=0)

    def __call__(self, moments: Any) -> Any:
        """(..., J)."""
        if self.kind in ("log", "mean log"):
            first, *others = self.reads[self.means :]
            total = first.log(moments)
            for read in others:
                total = total + read.log(moments)
            for read in self.reads[: self.means]:
                total = total * read.mean(moments)
            return total[..., None]
        if self.kind in ("value", "logdet"):
            own = moments[self.block]
            key = self.kind if self.kind in own else "inverse"
            return take(own[key].reshape(-1), self.index)[..., None]
        if self.kind == "matrix":
            own = moments[self.block]
            entries = own["value" if "value" in own else "inverse"].reshape(-1)[self.index]
            return entries * self.second(moments)[..., np.array(self.columns)]  # type: ignore[misc]
        weight: Any = 1.0
        for read in self.reads:
            weight = weight * read.mean(moments)
        if self.kind == "mean":
            return jnp.asarray(weight)[..., None]
        return jnp.asarray(weight)[..., None] * self.second(moments)  # type: ignore[misc]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Sum:
    """A term without discrete parents: stat (M, J) and psi, or anything that gives (M, J) from moments."""

    stat: Any
    psi: Any

    def __call__(self, moments: Any) -> Any:
        """The expectation, a scalar."""
        return (self.stat * self.psi(moments)).sum()


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Rows:
    """A term under discrete sites: stat (1 or C, 1 or n, E, J), psi with the same leading axes.

    Of the stats (E, J) of all rows under all levels, `alike` is one that is the same number in all of them, or None.
    """

    stat: Any
    psi: Psi
    alike: int | None = static(default=None)

    @property
    def hoisted(self) -> bool:
        """Reads do not depend on the row, nor stats on the level: the table is one matrix product."""
        index = [leaf for leaf in jax.tree.leaves(self.psi) if jnp.ndim(leaf) >= 3]
        return self.stat.shape[0] == 1 and all(leaf.shape[1] == 1 for leaf in index)

    def flat(self, moments: Any, levels: int) -> tuple[Any, Any]:
        """Stats (n, J') and psi (C, J') whose product is the table."""
        psi = self.psi(moments)
        shape = np.broadcast_shapes(psi.shape[2:], self.stat.shape[2:])
        psi = jnp.broadcast_to(psi, (levels, 1, *shape)).reshape(levels, -1)
        return jnp.broadcast_to(self.stat, (*self.stat.shape[:2], *shape))[0].reshape(self.stat.shape[1], -1), psi

    def table(self, moments: Any, levels: int) -> Any:
        """Expected log density of every row (1 or n) under every level: (n, C)."""
        if self.hoisted:
            stat, psi = self.flat(moments, levels)
            return stat @ psi.T
        return jnp.broadcast_to((self.stat * self.psi(moments)).sum((2, 3)), (levels, self._rows(moments))).T

    def _rows(self, moments: Any) -> int:
        return max(self.stat.shape[1], jax.eval_shape(self.psi, moments).shape[1])
