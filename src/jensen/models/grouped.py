"""The target of a model whose rows belong to groups: all rows in blocks, or some groups with all their rows.

    log p(z) = r(g, z_1, ..., z_G) + sum_n l(row n | g, z_k(n))        g global, z_i of group i, k(n) the group of row n

The sum is taken in blocks of bounded memory (models/rows.py), the rest r, which has no rows, at once; a call with M points is
one pass. `Some` keeps a few groups with all their rows by the same two programs, so that nothing is compiled for it: the values
of the other groups are copies that count for nothing. A factor with one value a group is weighted by 1 or 0, one without (a
vector drawn as a whole, a plain density), which sees the copies, by the share of the groups; that is the same where groups are
alike a priori. Groups are not counted G / n times: that would raise the density of each group's variables to a power, and make
a scale the one that fits their modes. The fit of n groups is the posterior of n groups, wider than that of all by sqrt(G / n).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from jensen.core import layout
from jensen.models.groups import Groups
from jensen.models.model import Factors, Model
from jensen.models.numbered import Numbers
from jensen.models.plates import Plate, factor_shapes, not_in_memory
from jensen.models.rows import POINTS, Rows, Source
from jensen.models.target import Target

SHARES = "group shares"
"""Name of the data that say which groups count; names with a space cannot be those of a model's arguments."""
_REST = 32
"""Points a call of the program of the rest."""
_ROWS_LEAST, _ROWS_MOST = 2**15, 2**18
"""Rows of a block, which is also the most that a sample of groups has; sums over a block have D numbers, and so it has D rows."""
_PASS, _PASS_NUMBERS = 64, 2**21
"""Points of one pass, and numbers of those points: its sums are kept several times."""
_DEAR, _NUMBERS = 2**15, 20_000_000
"""Rows from which checks are made with fewer points than they would like, and numbers of all their points, at most."""


def in_blocks(model: Model, plate: Plate, source: Source, first: Mapping[str, np.ndarray]) -> Rows:
    """All rows, in blocks whose size follows the number of coordinates; `first` are some of them."""
    size = min(max(_ROWS_LEAST, 1 << model.dim.bit_length()), _ROWS_MOST, 1 << plate.size.bit_length())
    repeated = np.arange(size) % len(next(iter(first.values())))  # only shapes matter
    return Rows(model, plate, source, {name: array[repeated] for name, array in first.items()})


class GroupedTarget:
    """log p(z) by passes over all rows; the interface of `jensen.models.target.Target`.

    Parameters
    ----------
    record, plate
        The model, whose data may hold all rows, or some of them, and its proved plate.
    rows
        All rows; ``rows.passes`` counts the passes.
    numbers
        Which array numbers the groups of which sites.
    few
        The model with some of the rows.
    precision
        Of the program of the rest; passes have the precision of their data.

    Attributes
    ----------
    plate, rows, numbers, few
        As given.
    batch
        Points a call of the program of a block.
    rounding
        Relative difference of log densities that is rounding.
    """

    def __init__(
        self, record: Model, plate: Plate, rows: Rows, numbers: Numbers, few: Model, precision: str = "float64"
    ):
        self.model, self.dim, self.batch = record, record.dim, POINTS
        self.plate, self.rows, self.numbers, self.few = plate, rows, numbers, few
        self._precision, self._points = precision, 0.0
        self.rounding = 1e-13 if rows.precision == "float64" else 1e-9
        self._rest = _rest(few, plate, numbers, precision)

    @property
    def total(self) -> int:
        """Number of all rows."""
        return self.plate.size

    @property
    def streamed(self) -> bool:
        """Whether the record holds only some of the rows."""
        return self.plate.held < self.plate.size

    @property
    def at_once(self) -> int:
        """Points of one pass, at most."""
        return max(_PASS, _PASS_NUMBERS // self.dim)

    @property
    def gradients(self) -> int:
        """Gradients of the whole log density that were paid; those of some rows in proportion."""
        return round(self._points)

    def affordable(self, wanted: int, least: int) -> int:
        """As `Target.affordable`, for passes over all rows."""
        return max(least, min(wanted * _DEAR // max(self.total, _DEAR), _NUMBERS // self.dim))

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log density (n,) and gradient (n, D) at points z (n, D): one pass over all rows, or a few for very many points."""
        self._points += len(z)
        z = np.asarray(z, float)
        value, gradient = self._rest(z)
        for start in range(0, len(z), self.at_once):
            some = slice(start, start + self.at_once)
            of_rows, slope = self.rows.gradients(z[some])
            value[some] += of_rows
            gradient[some] += slope
        return value, gradient

    def of_some(
        self, arrays: Mapping[str, np.ndarray], shares: np.ndarray, z: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of given rows, with the groups that have a share of 1 in `shares` (G,), and not those of 0."""
        n = len(next(iter(arrays.values())))
        self._points += len(z) * n / self.total
        value, gradient = self._rest.with_data({SHARES: shares})(z)
        of_rows, slope = self.rows.gradients_of(arrays, np.ones(n), z)
        return value + of_rows, gradient + slope

    def constrain(self, z: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Values of the sites and of the deterministics in the model's own space, draws first."""
        return (self._held if self.model.derived else self.of_few).constrain(z)

    def factors(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Unscaled log density of every factor on all rows, draws first.

        Raises
        ------
        OptionError
            When rows are streamed.
        """
        if self.streamed:
            raise not_in_memory(self.model, self.total, "log_likelihood")
        return self._held.factors(z)

    def blame(self, z: np.ndarray) -> str:
        """Name the factors that are not finite at (some of) the points z."""
        return self._held.blame(z)

    def holds_at(self, q: Any) -> bool:
        """False: there is no subsample that stands for all rows."""
        return False

    @cached_property
    def of_few(self) -> Target:
        """The log density of some of the rows, `few_rows` of them."""
        return Target(self.few, self._precision)

    @property
    def few_rows(self) -> int:
        """Rows of `few`."""
        name, axis = self.plate.data[0]
        return self.few.data[name].shape[axis]

    @cached_property
    def _held(self) -> Target:
        return Target(self.model, self._precision)


class Some:
    """log p of some groups with all their rows, on their own flat vector: what engines ask of a target.

    Parameters
    ----------
    whole
        The target of all rows.
    arrays
        The rows of these groups.
    chosen
        (n,), numbers of the groups; None is all of them, whatever rows they have.
    """

    def __init__(self, whole: GroupedTarget, arrays: Mapping[str, np.ndarray], chosen: np.ndarray | None = None):
        self.whole, self._arrays, self.batch = whole, arrays, whole.batch
        count, model = whole.numbers.count, whole.model
        kept = np.arange(count) if chosen is None else chosen
        # Which of the kept groups each one is, or is a copy of.
        place = np.arange(count) % len(kept)
        place[kept] = np.arange(len(kept))
        self._shares = np.zeros(count)
        self._shares[kept] = 1.0
        sites, coordinates, copies, size = [], [], [], 0
        for site, full in zip(model.sites, layout.unflatten(model.sites, np.arange(model.dim)).values(), strict=True):
            axis = dict(whole.numbers.sites).get(site.name)
            some = full if axis is None else np.take(full, kept, axis)
            at = size + np.arange(some.size).reshape(some.shape)
            copies.append((at if axis is None else np.take(at, place, axis)).ravel())
            coordinates.append(some.ravel())
            sites.append(replace(site, shape=some.shape, free_shape=some.shape, dims=()))
            size += some.size
        self.coordinates, self._copies = np.concatenate(coordinates), np.concatenate(copies)
        self.model = replace(model, sites=tuple(sites))
        self.dim, self.kept = size, kept
        self._order = np.argsort(self._copies, kind="stable")
        self._starts = np.searchsorted(self._copies[self._order], np.arange(size))

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log density (n,) and gradient (n, D') at points z (n, D')."""
        value, gradient = self.whole.of_some(self._arrays, self._shares, np.asarray(z, float)[:, self._copies])
        return value, np.add.reduceat(gradient[:, self._order], self._starts, axis=1)

    def blame(self, z: np.ndarray) -> str:
        """Name the factors that are not finite at (some of) the points z."""
        return self.whole.blame(z[:, self._copies])

    def groups(self, groups: Groups) -> Groups:
        """Those of the whole target, cut to these and in coordinates of this one."""
        place = np.zeros(self.whole.dim, int)
        place[self.coordinates] = np.arange(self.dim)
        return Groups(place[groups.shared], place[groups.own[self.kept]], groups.sites)


def _rest(few: Model, plate: Plate, numbers: Numbers, precision: str) -> Target:
    """The log density without the rows, with groups that count or do not."""
    rows = {name for name, _ in plate.factors}
    shapes, jacobian = factor_shapes(few)
    ours = {site.name for site in few.sites} - {name for name, _ in numbers.sites}
    count = numbers.count

    def axes(shapes: Mapping[str, tuple[int, ...]]) -> tuple[tuple[str, int], ...]:
        """Axis of the groups in everything that may have a part for each; -1 where the parts are summed."""
        return tuple((n, s.index(count) if count in s else -1) for n, s in shapes.items() if n not in rows | ours)

    factors = _without_rows(few.factors, tuple(sorted(rows)), axes(shapes), axes(jacobian))
    return Target(replace(few, factors=factors, data={**few.data, SHARES: np.ones(count)}), precision, _REST)


@lru_cache(maxsize=64)
def _without_rows(factors: Any, rows: tuple[str, ...], shared: Any, transforms: Any) -> Any:
    def call(free: Any, data: Any) -> Factors:
        shares = data[SHARES]
        parts = factors(free, {name: value for name, value in data.items() if name != SHARES})
        log_prob = {name: value for name, value in parts.log_prob.items() if name not in rows}
        jacobian, scale = dict(parts.jacobian), dict(parts.scale)
        for name, axis in shared:
            scale[name] = _shares(shares, axis, log_prob[name].ndim) * scale.get(name, 1.0)
        for name, axis in transforms:
            jacobian[name] = jacobian[name] * _shares(shares, axis, jacobian[name].ndim)
        return Factors(log_prob, scale, jacobian)

    return call


def _shares(shares: Any, axis: int, ndim: int) -> Any:
    return shares.mean() if axis < 0 else shares.reshape((-1,) + (1,) * (ndim - axis - 1))
