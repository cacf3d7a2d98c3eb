"""The target of a model with many rows: a corrected subsample near an anchor, all rows at the anchor.

To engines and checks it is a target like any other, at the cost of n of the N rows; `anchor` makes one pass over all rows at one
point and corrects the subsample there. How many rows a subsample needs depends on the dimension, not on N: the curvature of n
rows is right to about sqrt(D / n), and so is the factor by which a round of anchoring shrinks the error.

Rows are chosen at random, never the first ones: data are often sorted.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from math import isqrt
from typing import Any, Protocol

import numpy as np

from jensen.core import keys
from jensen.models import sufficient, weighted
from jensen.models.model import Model
from jensen.models.nearer import nearer
from jensen.models.plates import Plate, not_in_memory, prove
from jensen.models.rows import Rows, Source
from jensen.models.sufficient import Sufficient
from jensen.models.target import BATCH, Target

LEAST, MOST = 1000, 50_000
"""Rows of a subsample, at least and at most."""
_DEAR = 500
"""Rows of a subsample from which checks are made with fewer points than they would like."""
_BLOCK_BYTES, _BLOCK_LEAST, _BLOCK_MOST = 2**22, 1024, 2**17
"""Bytes of a block of rows, so that it stays in the cache, and rows of one."""
_HESSIAN, _ROUGH = 2**18, 2**14
"""Rows from which a Hessian is taken where there are more than twice as many: it needs to be right to a percent, or, where the
mean is still on its way, to five; then of more than two million rows a 128th."""
_POINTS, _DRAWS, _STEPS = 32, 8, 5
"""Least number of points a call; draws of q at which all rows are compared; most Newton steps to a mode."""
_HOLDS = 0.1
"""Posterior sds from its anchor within which a correction holds."""


class Rereadable(Source, Protocol):
    """A source that can also give some of its rows to stand for all."""

    @property
    def in_parts(self) -> bool:
        """Whether it is decoded part by part, so that some rows cost as much as all."""
        ...

    def subsample(self, rng: np.random.Generator, n: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Arrays of `n` different rows at random, and their weights (n,), which sum to the number of all rows."""
        ...


def subsample_size(rows: int, dim: int) -> int:
    """Number of rows n of the first subsample.

    The fit of a subsample is off by sqrt(N / n) posterior sds, which rounds must make good; where curvatures are corrected, they
    do so from far.
    """
    n = max(20 * dim, 2 * isqrt(rows)) if weighted.curved(dim) else max(40 * dim, rows // 200)
    return min(max(LEAST, n), MOST, rows)


def _block(row_bytes: int, rows: int) -> int:
    """Number of rows of a block, a power of two or all rows."""
    return min(max(1 << (_BLOCK_BYTES // row_bytes).bit_length() - 1, _BLOCK_LEAST), _BLOCK_MOST, rows)


class LargeTarget:
    """log p(z) of a corrected subsample; the interface of `jensen.models.target.Target`.

    Parameters
    ----------
    record
        The model. Its data may hold all rows, or some where `source` reads them.
    plate
        Its rows.
    source
        Where all rows are read from.
    seed
        Which rows are chosen.
    precision
        Of the subsample's program; passes have the precision of their data.

    Attributes
    ----------
    plate, source, precision
        As given.
    rows
        All rows; ``rows.passes`` counts the passes.
    size
        Rows of the subsample n.

    Raises
    ------
    UnsupportedError
        When rows cannot be taken out of the model.
    """

    def __init__(
        self, record: Model, plate: Plate, source: Rereadable, *, seed: int, precision: str = "float64", size: int = 0
    ):
        self.model, self.dim, self.plate, self.precision, self._seed = record, record.dim, plate, precision, seed
        self.source, self._paid = source, 0
        self._looked: tuple[dict[str, np.ndarray], np.ndarray] = {}, np.zeros(0)
        self._read: dict[str, np.ndarray] = {}
        self._compared: tuple[Any, Any, tuple[float, float, int]] | None = None
        size = size or subsample_size(plate.size, record.dim)
        arrays, weights = self._drawn(size, "rows", size)
        prove(record, plate, arrays, seed)  # before anything is made of them
        self._use(arrays, weights)
        block = _block(sum(array.nbytes for array in self._arrays.values()) // self.size or 1, plate.size)
        repeated = np.arange(block) % self.size  # only shapes matter
        self.rows = Rows(record, plate, source, {name: array[repeated] for name, array in self._arrays.items()})

    def _take(self, size: int) -> None:
        self._use(*self._drawn(size, "rows", size))

    def _use(self, arrays: dict[str, np.ndarray], weights: np.ndarray) -> None:
        self._arrays, self._weights, self.size, self._exact = arrays, weights, len(weights), None
        self._pool: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray] | None = None
        self._missing: tuple[np.ndarray, float, np.ndarray] | None = None
        near = weighted.weighted(self.model, self.plate, self._arrays, self._weights)
        surrogate = weighted.anchored(near)
        # A design of 2 D points should fill two calls, and what is left of climbers one: each point costs n rows.
        points = BATCH if self.size < _DEAR else max(_POINTS, 1 << (self.dim - 1).bit_length())
        self._near = Target(surrogate, self.precision, min(points, BATCH))
        self._uncorrected = {name: surrogate.data[name] for name in weighted.OWN if name in surrogate.data}
        self._anchor: Mapping[str, np.ndarray] = {}

    @property
    def exact(self) -> bool:
        """Whether the subsample has weights under which it is all rows, wherever q is."""
        return self._exact is not None

    @property
    def total(self) -> int:
        """Number of all rows."""
        return self.plate.size

    @property
    def streamed(self) -> bool:
        """Whether the record holds only some of the rows."""
        return self.plate.held < self.plate.size

    @property
    def most(self) -> int:
        """Largest subsample that is worth it: half of all rows."""
        return self.plate.size // 2

    def resize(self, size: int) -> None:
        """Take another subsample, of `size` rows, where it is not of that size already; it has no correction yet."""
        if size != self.size:
            self._pay()
            self._take(size)

    @property
    def gradients(self) -> int:
        """Gradients of the whole log density that were paid: those of the subsample in proportion, and passes."""
        return self._paid + round(self._near.gradients * self.size / self.plate.size) + self.rows.passes

    @property
    def surrogate(self) -> Target:
        """The corrected subsample as a target of its own, for what needs its factors and data: chains."""
        return self._near

    @property
    def batch(self) -> int:
        """Points a call of the program."""
        return self._near.batch

    def affordable(self, wanted: int, least: int) -> int:
        """As `Target.affordable`, for the rows of the subsample."""
        return max(least, wanted * _DEAR // max(self.size, _DEAR))

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log density (n,) and gradient (n, D) of the surrogate at points z (n, D)."""
        return self._near(z)

    def constrain(self, z: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Values of the sites and of the deterministics in the model's own space, draws first."""
        return (self._all if self.model.derived else self._near).constrain(z)

    @cached_property
    def _all(self) -> Target:
        return Target(self.model, self.precision)

    def factors(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Unscaled log density of every factor on all rows, draws first.

        Raises
        ------
        OptionError
            When rows are streamed.
        """
        if self.streamed:
            raise not_in_memory(self.model, self.total, "log_likelihood")
        return self._all.factors(z)

    def blame(self, z: np.ndarray) -> str:
        """Name the factors that are not finite at (some of) the points z."""
        return self._near.blame(z)

    def anchor(self, point: np.ndarray, curvature: np.ndarray | None) -> dict[str, np.ndarray]:
        """Correct the subsample at `point` (D,) by one pass over all rows; returns what `move_to` needs to do it again.

        None is made where the last one was at this point, as for a curvature of all rows.
        """
        if self._missing is None or not np.array_equal(self._missing[0], point):
            value, slope = self.rows.gradient(point)
            near_value, near_slope = self.rows.gradient_of(self._arrays, self._weights, point)
            self._missing = point, value - near_value, slope - near_slope
        found = weighted.anchor(*self._missing, curvature)
        self.move_to(found)
        return found

    def curvature(self, point: np.ndarray, *, rough: bool = False) -> np.ndarray | None:
        """By how much the Hessian (D, D) of the subsample at `point` is wrong; None where D is too large for it.

        One pass; `rough`, from a part of the rows.
        """
        if not weighted.curved(self.dim):
            return None
        size = self._rough if rough else _HESSIAN
        near_value, near_slope, near = self.rows.hessian_of(self._arrays, self._weights, point)
        if self.total > 2 * size:
            return self.rows.hessian_of(*self._some(max(size, self.size)), point)[2] - near
        value, slope, found = self.rows.hessian(point)
        self._missing = point, value - near_value, slope - near_slope
        return found - near

    def nearer(self, q: Any) -> np.ndarray:
        """A point (D,) nearer to the mode of all rows than the mean of q, a fit to the subsample: Newton steps on some more rows.

        A subsample of 20 D rows can be off by dozens of posterior sds, with the curvature of another place; 2^14 rows cost less
        than one pass of all.
        """
        here = np.asarray(q.mean)
        if self.total <= 2 * self._rough or not weighted.curved(self.dim):
            return here
        some = self._some(max(self._rough, self.size))
        rest = self._near.with_data({**self._uncorrected, weighted.WEIGHTS: np.zeros(self.size)})
        return nearer(self.rows, some, rest, here, _STEPS)

    def _some(self, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Rows for a Hessian, and their weights: the same ones each time, kept where they are few."""
        if len(self._looked[1]) != size:
            found = self._drawn(size, "hessian")
            if size > max(self._rough, self.size):
                return found
            self._looked = found
        return self._looked

    @property
    def _rough(self) -> int:
        """Rows that are worth looking at before a pass over all."""
        return min(max(_ROUGH, self.total // 128), _HESSIAN)

    def _drawn(self, size: int, name: str, number: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Rows of the source at random; of one that has to be read as a whole for them, the first of those drawn once for all."""
        if not self.source.in_parts:
            return self.source.subsample(keys.generator(self._seed, name, number), size)
        known = len(next(iter(self._read.values()))) if self._read else 0
        if known < size:
            most = min(max(size, _HESSIAN), self.total)
            self._read = self.source.subsample(keys.generator(self._seed, "rows", most), most)[0]
        return {name: array[:size] for name, array in self._read.items()}, np.full(size, self.total / size)

    def sufficient(self, center: np.ndarray, factor: np.ndarray) -> sufficient.Sufficient | None:
        """Weights that make the subsample exact, looked for around q of mean (D,) and factor (D, D); they take effect at once."""
        if self.dim > sufficient.LARGEST:
            return None
        found = sufficient.find(
            self._densities,
            self.rows.values,
            self._weights,
            float(self.plate.size),
            center,
            factor,
            self._seed,
        )
        if found is not None:
            self.move_to({weighted.WEIGHTS: found.weights})
        return found

    def condense(self) -> bool:
        """Leave a few rows with weights that make them the subsample, where it has few statistics; whether it does.

        Then even the first fit is one to a small model, and no program is compiled for more rows.
        """
        found = sufficient.condense(self._densities, self._weights, self.dim, self._seed)
        if found is not None:
            self._leave(*found)
        return found is not None

    def restore(self) -> None:
        """Take the rows again that `condense` left out, if it did."""
        if self._pool is not None:
            arrays, weights, _ = self._pool
            self._pay()
            self._use(arrays, weights)

    def thin(self, center: np.ndarray, factor: np.ndarray, found: Sufficient) -> None:
        """Leave only so many rows of a subsample as the statistics need that `sufficient` found around there."""
        if self._pool is None:
            thinned = sufficient.thin(self._densities, found, center, factor, self._seed)
            if thinned is not None:
                self._leave(*thinned)
        self._exact = found.error

    def _leave(self, rows: np.ndarray, weights: np.ndarray) -> None:
        pool = self._arrays, self._weights, rows
        self._pay()
        self._use({name: array[rows] for name, array in self._arrays.items()}, weights)
        self._pool = pool

    def _pay(self) -> None:
        self._paid = self.gradients - self.rows.passes

    def _densities(self, z: np.ndarray) -> np.ndarray:
        """Log densities (n, K) of the rows of the subsample, by the program that there is for the rows they were taken from."""
        if self._pool is None:
            return self.rows.densities_of(self._arrays, z)
        arrays, _, rows = self._pool
        return self.rows.densities_of(arrays, z)[rows]

    def correct_at(self, q: Any) -> None:
        """Correct a subsample of the usual size where q is, wherever the target has been: two passes."""
        self.resize(subsample_size(self.total, self.dim))
        self.anchor(q.mean, self.curvature(q.mean))

    def discrepancy(self, q: Any, seed: int) -> tuple[float, float, int]:
        """All rows against the subsample at draws of q: mean and sd of the difference, in nats, and the number of draws."""
        if self._exact is not None:
            return 0.0, self._exact, _DRAWS
        if self._compared is None or self._compared[0] is not q or self._compared[1] is not self._anchor:
            self._compared = q, self._anchor, self._compare(q, seed)
        return self._compared[2]

    def _compare(self, q: Any, seed: int) -> tuple[float, float, int]:
        z = np.asarray(q.sample(keys.generator(seed, "discrepancy"), _DRAWS))
        weights = self._anchor.get(weighted.WEIGHTS, self._weights)
        found = (
            self.rows.values(z) - self.rows.values_of(self._arrays, weights, z) - weighted.correction(self._anchor, z)
        )
        return float(found.mean()), float(found.std(ddof=1)), _DRAWS

    def move_to(self, anchor: Mapping[str, np.ndarray]) -> None:
        """Set the correction that `anchor` returned, and nothing that was set before; an empty one takes it away."""
        if anchor is self._anchor or not (anchor or self._anchor):
            return
        self._anchor = anchor
        self._near = self._near.with_data({**self._uncorrected, **anchor})

    def holds_at(self, q: Any) -> bool:
        """Whether the subsample stands for all rows where q is: corrected within a tenth of its sds, or exact."""
        if self.exact or weighted.WEIGHTS in self._anchor:
            return True
        return weighted.POINT in self._anchor and bool(
            (np.abs(q.mean - self._anchor[weighted.POINT]) < _HOLDS * q.sd).all()
        )

    @contextmanager
    def plain(self) -> Iterator[None]:
        """The subsample without its correction, which is worth nothing far from the anchor."""
        anchor = self._anchor
        self.move_to({})
        try:
            yield
        finally:
            self.move_to(anchor)

    def log_mass(self, q: Any) -> float:
        """Log of the mass that all rows have around a mode where the subsample has q, by Laplace: a few passes."""
        before, point, scale = self._anchor, np.asarray(q.mean), np.asarray(q.scale)
        value, slope = self._slope(point, scale)
        for _ in range(_STEPS):
            if slope @ slope < 1.0:
                break
            point = point + scale @ slope
            value, slope = self._slope(point, scale)
        self.move_to(before)
        return float(value + 0.5 * slope @ slope + np.log(np.abs(np.diagonal(scale))).sum())

    def _slope(self, point: np.ndarray, scale: np.ndarray) -> tuple[float, np.ndarray]:
        """Log density and whitened gradient (D,) of all rows at `point` (D,)."""
        self.anchor(point, None)
        value, gradient = self(point[None])
        return float(value[0]), scale.T @ gradient[0]
