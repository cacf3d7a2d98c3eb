"""How a Gaussian mixture is fitted: where to start, coordinate ascent, and stochastic steps.

Up to `FEW` rows everything is in double precision and starts on all of them. Beyond, k-means sees a subsample; stochastic natural
gradients on batches of fresh rows, rho = t^-1/2, leave its poorer optima; ascent on an eighth of the rows goes before ascent on
all of them, whose passes are in single precision where that is safe and end when a step is smaller than `tol` nats: differences
of bounds of millions of rows are noise by then. A stochastic step (Hoffman et al., Stochastic variational inference, 2013) is

    S <- (1 - rho) S + rho (N / N_batch) S_batch,    q = prior + S.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.random import RandomState

from jensen.estimators.mixture_updates import Parameters, Prior, components, lower_bound, step, update
from jensen.kernels import mixture, mixture_fused
from jensen.kernels.mixture import Array, Moments, Shape, merged, moments_of, scaled
from jensen.kernels.mixture_fused import Rows, prepare, taken

Start = Literal["kmeans", "k-means++", "random", "random_from_data"]

FEW = 20_000
"""Rows up to which a fit is scikit-learn's, number by number."""
FIRST = 4096
"""Rows on which starts are made; up to `FEW` for models with many parameters."""
TRIES = 8
"""Runs of k-means on them; as many as components if these are fewer."""
STEPS, BATCH = 5, 2048
"""Stochastic steps a component, and their rows."""
PART, PART_STEPS = 8, 100
"""Ascent on one row in so many goes before ascent on all; its steps at most."""
SETTLED = 0.1
"""Steps, in nats of that part of the rows, at which it ends."""


class Data(NamedTuple):
    """Rows x (N, D), weights (N,) or None, their sum, and the same prepared for fast passes, or None; `index` says which of x."""

    shape: Shape
    x: Array
    weight: Array | None
    total: float
    rows: Rows | None
    index: Any = slice(None)


def prepared(shape: Shape, x: Array, weight: Array | None) -> Data:
    """Rows and weights, prepared for fast passes if there are many."""
    rows = prepare(shape, x, weight) if len(x) > FEW else None
    return Data(shape, x, weight, float(len(x) if weight is None else weight.sum()), rows)


def passed(data: Data, q: Parameters) -> tuple[Moments, float]:
    """Moments of all rows under q's responsibilities, and the posterior sds that rounding costs (0: double precision)."""
    here = components(data.shape, q)
    found = None if data.rows is None else mixture_fused.moments(data.shape, data.rows, here)
    return found or (mixture.moments(data.shape, data.x[data.index], data.weight, here), 0.0)


def started(data: Data, prior: Prior, K: int, start: Start, random: RandomState) -> Parameters:
    """A q to start from; of many rows, one that subsamples of growing size have prepared."""
    rows, D = data.x.shape
    if data.rows is None:
        return update(data.shape, prior, _first(data, K, start, random))
    squares = {"full": D * (D + 1) // 2, "tied": 0, "diag": D, "spherical": 1}[data.shape]
    part = _subsample(data, data.rows, min(max(FIRST, 20 * K * (D + squares)), FEW), random)
    q, kept = update(data.shape, prior, scaled(_first(part, K, start, random), data.total / part.total)), None
    for number in range(1, STEPS * K + 1):
        batch = _subsample(data, data.rows, BATCH, random)
        q, kept = stepped(batch, prior, q, kept, number**-0.5, data.total)
    if rows // PART < len(part.index):
        return q
    part = _subsample(data, data.rows, rows // PART, random)
    for _ in range(PART_STEPS):
        old, q = q, update(data.shape, prior, scaled(passed(part, q)[0], data.total / part.total))
        if step(data.shape, old, q) * part.total < SETTLED * data.total:
            break
    return q


def _subsample(data: Data, rows: Rows, size: int, random: RandomState) -> Data:
    """One row at random of each of `size` strata of neighbors."""
    index = ((np.arange(size) + random.uniform(size=size)) * (len(data.x) / size)).astype(int)
    weight = None if data.weight is None else data.weight[index]
    total = float(size if weight is None else weight.sum())
    return Data(data.shape, data.x, weight, total, taken(rows, index), index)


def _first(data: Data, K: int, start: Start, random: RandomState) -> Moments:
    """Moments under first responsibilities; random numbers are drawn as scikit-learn draws them."""
    from sklearn.cluster import KMeans, kmeans_plusplus

    x = data.x[data.index]
    n = len(x)
    responsibilities = np.zeros((n, K))
    if start == "kmeans":
        tries: Any = 1 if data.rows is None else min(K, TRIES)
        means = KMeans(K, n_init=tries, random_state=random).fit(x, sample_weight=data.weight)
        responsibilities[np.arange(n), means.labels_] = 1.0
    elif start == "random":
        responsibilities = random.uniform(size=(n, K))
        responsibilities /= responsibilities.sum(axis=1, keepdims=True)
    else:
        if start == "k-means++":
            chosen = kmeans_plusplus(x, K, sample_weight=data.weight, random_state=random)[1]
        else:
            chosen = random.choice(n, size=K, replace=False)
        responsibilities[chosen, np.arange(K)] = 1.0
    return moments_of(data.shape, x, data.weight, responsibilities)


class Ascent(NamedTuple):
    """Where coordinate ascent ended: q, the moments it came from (None without a step), bounds after each step."""

    q: Parameters
    moments: Moments | None
    bounds: list[float]
    converged: bool


def ascended(
    data: Data, prior: Prior, q: Parameters, tol: float, steps: int, bound: float, report: Callable[[int, float], None]
) -> Ascent:
    """Coordinate ascent from q, whose bound is given (-inf: unknown)."""
    moments, bounds = None, []
    for number in range(1, steps + 1):
        moments, rounding = passed(data, q)
        old, q = q, update(data.shape, prior, moments)
        bounds.append(lower_bound(data.shape, q, moments.entropy))
        change, bound = bounds[-1] - bound, bounds[-1]
        report(number, change)
        if rounding:
            done = step(data.shape, old, q) < max(tol, rounding**2 * (q.means.size + q.covariances.size))
        else:
            done = abs(change) < tol
        if done:
            return Ascent(q, moments, bounds, True)
    return Ascent(q, moments, bounds, False)


def stepped(
    data: Data, prior: Prior, q: Parameters, kept: Moments | None, share: float, total: float
) -> tuple[Parameters, Moments]:
    """A stochastic step: q and its sums after a batch, which stand for `total` rows; `kept` are the sums so far."""
    batch = scaled(passed(data, q)[0], total / data.total)
    if kept is not None:
        batch = merged(data.shape, scaled(kept, total / kept.counts.sum()), batch, share)
    return update(data.shape, prior, batch), batch
