"""Where coordinate ascent starts: discrete sites from clusters of the data, factor models from a singular value decomposition.

The table of a discrete site is e_nk = sum_j T_nj psi_kj, T the sufficient statistics of row n. The first-order ones, those
that multiply a parameter which depends on the level, are the row's *features*: x for x ~ N(mu[z], .), y x_d for the regressions
y ~ N(x'b[z], .), sqrt y for counts y ~ Poisson(rate[z]), log (x - mean)^2 for x ~ N(mu, 1 / tau[z]), the word itself for words
with probabilities phi[z]. Rows are clustered by k-means on standardized features, with seeds drawn with probability
proportional to the squared distance from the nearest seed so far (k-means++), the best of a few draws each; a row starts with
most of its probability on its cluster.
Words are averaged over the groups (documents) that share level probabilities. Of two discrete sites
with the same rows the second one sees what the first leaves unexplained. Where the levels have known and unequal probabilities,
larger clusters get the more probable ones.

Where the mean holds sum_k x_k y_k, the start is the singular value decomposition of what that sum must explain; rates that
are such sums start at random, at the scale of the counts.

Levels are then held for `HELD` sweeps while all other blocks move to them, which sets scales from the data.

Reference: Arthur and Vassilvitskii (2007), k-means++: the advantages of careful seeding, SODA.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from jensen.conjugate import blocks
from jensen.conjugate.leveled import Leveled
from jensen.conjugate.pieces import Rows
from jensen.conjugate.plan import Plan
from jensen.conjugate.products import Products
from jensen.conjugate.special import PoissonSum
from jensen.conjugate.tables import Constant, Tables
from jensen.families.discrete import Categorical
from jensen.families.exponential import Gamma
from jensen.families.gaussian import Gaussian
from jensen.families.markov import MarkovChain

HELD = 3
"""Sweeps in which discrete sites keep their start."""
SURE = 0.9
"""Probability of a row's own cluster, besides its share of the rest."""
MOST_ROWS = 20_000
MOST_NUMBERS = 20_000_000
LLOYD = 10
LARGEST_SVD = 2_000_000
"""Numbers of a matrix that is decomposed."""


def start(plan: Plan, rng: np.random.Generator) -> blocks.Families:
    """Families to start from.

    Parameters
    ----------
    plan
        With an energy.
    rng
        Of cluster seeds, of levels without features, and of small random means.

    Returns
    -------
    dict
        Block -> family. Equal generators give equal families.
    """
    assert plan.energy is not None
    families = blocks.start(plan, rng)
    labels: dict[str, np.ndarray] = {}
    for site in plan.energy.discrete:
        found = cluster(plan, site, labels, rng)
        if found is not None:
            found = _by_size(plan.energy.tables.get(site), found)
            labels[site] = found
            families[site] = _sure(families[site], found)
    for pieces in plan.energy.sums.values():
        for piece in pieces:
            if isinstance(piece, Products):
                families |= _factors(piece, families)
            elif isinstance(piece, PoissonSum):
                families |= _rates(piece, families, rng)
    return families


def _sure(family: Any, labels: np.ndarray) -> Any:
    """The family with most probability at these levels, in the order of the site's own axes."""
    chain = isinstance(family, MarkovChain)
    logits = np.asarray(family.unary if chain else family.logits)
    levels = logits.shape[-1]
    probs = np.full((len(labels), levels), (1.0 - SURE) / levels)
    probs[np.arange(len(labels)), labels] += SURE
    if not chain:
        return Categorical(np.log(probs).reshape(logits.shape))
    probs = probs.reshape(logits.shape[-2], *logits.shape[:-2], levels)  # sites have time first, chains last
    return replace(family, unary=np.log(np.moveaxis(probs, 0, -2)))


# -- features of rows -------------------------------------------------------------------------------------------------------


def cluster(plan: Plan, site: str, known: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray | None:
    """A level for every row of a discrete site (in its own order); None when its data have no features.

    Parameters
    ----------
    plan
        With an energy.
    site
        Name of the site.
    known
        Levels of the sites before.
    rng
        Of the seeds.
    """
    node = blocks.nodes(plan)[site]
    rows, levels = int(np.prod(node.shape)), node.levels or 2
    energy = plan.energy
    assert energy is not None
    if rows < 2 * levels:
        return None
    tables = [(name, table) for name, table in energy.tables.items() if site in table.sites and name != site]
    found = [column for _, table in tables for column in _numbers(table, site, rows)]
    if found:
        features = np.stack(found, 1)
        for _, table in tables:
            for other in set(table.sites) & set(known):
                features = _residual(features, known[other])
        features = _standard(features)
        if not features.shape[1]:
            return None
        labels = kmeans(features, levels, rng)
        if named(plan, site):  # whatever reads its probabilities tells levels apart: each start has another order
            return rng.permutation(levels)[labels]
        drawn = any(isinstance(part, Leveled) for _, table in tables for part in table.parts)
        return _in_order(features[:, 0], labels, levels) if drawn else labels
    group = _groups(energy.tables.get(site), rows)
    words = [column for _, table in tables for column in _words(table, site, rows)]
    count = int(group.max()) + 1
    if not words or count < 2 * levels or count * sum(int(word.max()) + 1 for word in words) > MOST_NUMBERS:
        return None
    features = np.concatenate([_counts(group, word, count) for word in words], 1)
    return kmeans(np.sqrt(features / features.sum(1, keepdims=True)), levels, rng)[group]


def named(plan: Plan, site: str) -> bool:
    """Whether a discrete site's levels are told apart by something that reads their probabilities as numbers."""
    table = plan.energy.tables.get(site)  # type: ignore[union-attr]
    return table is not None and any(isinstance(part, Leveled) for part in table.parts)


def _in_order(feature: np.ndarray, labels: np.ndarray, levels: int) -> np.ndarray:
    """Labels renumbered by the clusters' means, in case that what the levels read is ordered."""
    count = np.bincount(labels, minlength=levels)
    means = np.bincount(labels, feature, levels) / np.maximum(count, 1)
    return np.argsort(np.argsort(means, kind="stable"), kind="stable")[labels]


def _by_size(table: Tables | None, labels: np.ndarray) -> np.ndarray:
    """Labels (n,) renumbered so that larger clusters get levels with larger probabilities, where those are known and differ."""
    if table is None or table.chain or len(table.sites) > 1 or not all(isinstance(p, Constant) for p in table.parts):
        return labels
    log_p = np.sum([np.asarray(part.values).mean(0) for part in table.parts], 0)
    if np.ptp(log_p) == 0:
        return labels
    new = np.empty(table.count, int)
    new[np.argsort(-np.bincount(labels, minlength=table.count), kind="stable")] = np.argsort(-log_p, kind="stable")
    return new[labels]


def _numbers(table: Tables, site: str, rows: int) -> Iterator[np.ndarray]:
    """Feature columns (rows,) of the pieces whose statistics differ from row to row."""
    for part in table.parts:
        if isinstance(part, Leveled) and part.value is not None and len(part.value) == rows:
            yield from np.asarray(part.value).T
        if not isinstance(part, Rows) or part.stat.shape[1] != rows:
            continue
        stat, psi = np.asarray(part.stat), part.psi
        if psi.second is None:
            if any(_depends(read.index, table, site) for read in psi.reads) or psi.kind in ("value", "logdet"):
                yield from (np.sign(column) * np.sqrt(np.abs(column)) for column in stat[0, :, :, 0].T)
            continue
        numbers = psi.columns or range(len(psi.second.first))
        slots = [array[..., n] for array in psi.second.index for n in range(array.shape[-1])]
        varies = [_depends(slot, table, site) for slot in slots]
        pairs = list(zip(psi.second.first, psi.second.second, strict=True))
        if not any(varies) and len(stat) == 1 and psi.kind == "quadratic":
            if len(slots) < 2 and any(_depends(read.index, table, site) for read in psi.reads):
                yield from _sizes(stat[0], pairs).T
            continue
        for column, number in enumerate(numbers):
            i, j = pairs[number]
            if i != 0 or j == 0 or not (varies[j - 1] or len(stat) > 1):
                continue
            first = stat[..., column]
            if psi.kind == "quadratic" and len(slots) == 1:  # the level's parameter as this row alone estimates it
                square = stat[..., pairs.index((1, 1))]
                first = np.divide(first, square, out=np.zeros_like(first), where=square != 0)
            yield from first[np.abs(first).sum((1, 2)).argmax()].T


def _sizes(stat: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    """Logarithms of squared residuals (n, E), for levels that differ in their scale only."""
    square = np.abs(stat[..., pairs.index((0, 0))])
    if (0, 1) in pairs:
        weight = stat[..., pairs.index((1, 1))]
        mean = 0.5 * np.divide(stat[..., pairs.index((0, 1))], weight, out=np.zeros_like(square), where=weight != 0)
        square = (mean - mean.mean(0)) ** 2
    return np.log(square + 1e-6 * square.mean(0) + 1e-300)


def _depends(index: Any, table: Tables, site: str) -> bool:
    """Whether an index array (C or 1, ...) depends on the level of a site."""
    index = np.asarray(index)
    if len(index) != table.count or table.count == 1:
        return False
    split = index.reshape(*table.levels, *index.shape[1:])
    return any(np.ptp(split, axis).any() for axis, name in enumerate(table.sites) if name == site)


def _words(table: Tables, site: str, rows: int) -> Iterator[np.ndarray]:
    """Numbered categories (rows,) of the pieces that read another element in every row."""
    for part in table.parts:
        if not isinstance(part, Rows) or part.psi.second is not None or part.psi.kind != "log":
            continue
        for read in part.psi.reads:
            index = np.asarray(read.index)
            if index.shape[1] == rows and _depends(index, table, site):
                yield from (np.unique(column, return_inverse=True)[1] for column in index[0].T)


def _groups(table: Tables | None, rows: int) -> np.ndarray:
    """Number of the group of rows with the same level probabilities (rows,); every row its own when all share them."""
    for part in table.parts if table is not None and not table.chain else ():
        for read in part.psi.reads if isinstance(part, Rows) else ():
            if np.shape(read.index)[1] == rows:
                return np.unique(np.asarray(read.index)[0, :, 0], return_inverse=True)[1]
    return np.arange(rows)


def _counts(group: np.ndarray, word: np.ndarray, count: int) -> np.ndarray:
    kinds = int(word.max()) + 1
    return np.bincount(group * kinds + word, minlength=count * kinds).reshape(count, kinds).astype(float)


def _residual(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    total = np.bincount(labels)
    means = np.stack([np.bincount(labels, column) for column in features.T], 1) / np.maximum(total, 1)[:, None]
    return features - means[labels]


def _standard(features: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and sd 1, without constant and repeated ones."""
    centered = features - features.mean(0)
    sd = centered.std(0)
    kept = sd > 1e-10 * np.abs(features).max(0, initial=1e-300)
    scaled = centered[:, kept] / sd[kept]
    head = np.round(scaled[:1000] * np.sign(scaled[np.abs(scaled).argmax(0), np.arange(scaled.shape[1])]), 6)
    _, first = np.unique(head, axis=1, return_index=True)
    return scaled[:, np.sort(first)]


# -- k-means ----------------------------------------------------------------------------------------------------------------


def kmeans(features: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The cluster (n,) of each row of features (n, p): k-means++ seeds and a few Lloyd steps on at most `MOST_ROWS` rows."""
    n = len(features)
    some = features[rng.choice(n, MOST_ROWS, replace=False)] if n > MOST_ROWS else features
    centers = _seeds(some, count, rng)
    for _ in range(LLOYD):
        labels = _nearest(some, centers)
        total = np.bincount(labels, minlength=count)
        sums = np.stack([np.bincount(labels, column, minlength=count) for column in some.T], 1)
        new = np.where(total[:, None] > 0, sums / np.maximum(total, 1)[:, None], centers)
        if np.array_equal(new, centers):
            break
        centers = new
    return _nearest(features, centers)


def _seeds(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++: of a few candidates the one that lowers the sum of squared distances most."""
    tries = 2 + int(np.log(count))
    chosen = [rows[rng.integers(len(rows))]]
    closest = ((rows - chosen[0]) ** 2).sum(1)
    while len(chosen) < count:
        total = closest.sum()
        weights = closest / total if total > 0 else None
        candidates = rng.choice(len(rows), tries, p=weights)
        left = np.stack([np.minimum(closest, ((rows - rows[one]) ** 2).sum(1)) for one in candidates])
        best = left.sum(1).argmin()
        chosen.append(rows[candidates[best]])
        closest = left[best]
    return np.stack(chosen)


def _nearest(rows: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return (0.5 * (centers**2).sum(1) - rows @ centers.T).argmin(1)


# -- sums of products -------------------------------------------------------------------------------------------------------


def _factors(piece: Products, families: blocks.Families) -> blocks.Families:
    """Means of both sites such that sum_k s_k x_k y_k is the best rank-K approximation of what it must explain.

    Empty when the rows are no grid of x along one axis and y along the other.
    """
    x, y, product = (np.asarray(array) for array in (piece.x, piece.y, piece.product))
    size = product.reshape(len(product), -1)
    lengths = (x.shape[1:], y.shape[1:])
    if len(piece.shape) != 2 or piece.pair[0] == piece.pair[1] or np.ptp(size) > 0:
        return {}
    rows, columns = piece.shape
    if lengths == ((rows, 1), (1, columns)):
        left, right = 0, 1
    elif lengths == ((1, columns), (rows, 1)):
        left, right = 1, 0
    else:
        return {}
    target = -np.array(np.broadcast_to(piece.constant, piece.shape), float) / size[0, 0]
    if target.size > LARGEST_SVD or len(x) > min(rows, columns) or not np.isfinite(target).all():
        return {}
    for index in piece.index:  # intercepts explain the means over the axes along which they do not change
        same = tuple(axis for axis, length in enumerate(np.shape(index)) if length == 1)
        target = target - target.mean(same, keepdims=True)
    u, s, v = np.linalg.svd(target, full_matrices=False)
    count = len(x)
    scores, loadings = u[:, :count] * np.sqrt(rows), s[:count, None] * v[:count] / np.sqrt(rows)
    values = {left: scores.T, right: loadings}
    found = {}
    for side, index, block in ((0, x, piece.pair[0]), (1, y, piece.pair[1])):
        family = families[block]
        mean = np.array(family.h / family.pattern.variances(family.precision))
        mean[index.reshape(count, -1)] = values[side]
        variance = np.full(len(mean), 1e-2 * np.mean(values[side] ** 2) + 1e-12)
        found[block] = Gaussian.point(family.pattern, mean, variance)
    return found


def _rates(piece: PoissonSum, families: blocks.Families, rng: np.random.Generator) -> blocks.Families:
    """Random rates whose sum of products has the mean of the counts."""
    terms = np.exp(np.asarray(piece.log_weight)).reshape(len(piece.log_weight), -1).mean(1).sum()
    size = np.sqrt(max(float(np.mean(piece.y)), 1e-3) / terms)
    found = {}
    for read in (piece.a, piece.b):
        family = families[read.block]
        if isinstance(family, Gamma):
            shape = np.shape(family.concentration)
            found[read.block] = Gamma(np.full(shape, 2.0), 2.0 / (size * rng.gamma(2.0, 0.5, shape)))
    return found
