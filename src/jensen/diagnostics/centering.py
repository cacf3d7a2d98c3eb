"""Learned non-centering: which coordinates scale the others, found from scores by regression.

Where the rest R of the vector is Gaussian given a parent t, with precision L + e C, e = exp(-2 w (t - t_0)), its score is linear,

    grad_R log p = h + h'' t - L z_R + e (h' - C z_R)

without any noise, whatever the draws: a regression of scores on (1, t, z_R, e, e z_R) reads L, C and all h off draws of q or of
the chains, and extrapolates to a funnel's neck that they have not seen. Rows are weighted with 1 / (1 + e), in whose units the
rest of the score (what is not Gaussian) has about the same size everywhere. Third moments, which need draws of the posterior,
see the neck's directions with errors of a few percent, and those errors close it where it is that narrow.

A parent is a coordinate whose e explains half of what a common precision leaves of the scores, on draws that the regression has
not seen; and w is where it explains most.

Requires: several draws a coefficient, 2 (D + 1) of them a parent.
References: families/centering.py; Hyvarinen (2005), Estimation of non-normalized statistical models by score matching, JMLR 6.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from jensen.families.centering import Centering, Layer

LARGEST_DIM = 200
_PARENTS = 4
_GAIN = 0.1
"""What a parent has to explain: half the mean square of the whitened scores, in nats."""
_SHARE = 0.3
"""And as a share of what there is to explain."""
WIDTHS = (0.4, 1.2, -0.4, -1.2)
"""Exponents that are tried, times the parent's sd."""
_CANDIDATES = 3
_LEAST, _EACH = 400, 4
"""Draws by which parents are chosen: at least, and for each coefficient."""
_PER_COEFFICIENT = 2.0
_NUMBERS = 1_500_000
"""Draws times coefficients of a regression, about, at most: of a score without noise more would tell nothing."""
_NOISE = 3.0
_FLAT = 1e-6
_DEEP = 300
"""Times the smallest decile of scores, beyond which draws are so deep in a neck that a regression would see nothing else."""


class _Fit(NamedTuple):
    """Coefficients: of 1, t and -z_R, and of e and -e z_R; all in standardized coordinates."""

    fixed: np.ndarray
    slope: np.ndarray
    likelihood: np.ndarray
    scaled: np.ndarray
    prior: np.ndarray


def learn(z: np.ndarray, gradient: np.ndarray) -> Centering | None:
    """A map from draws z (n, D), of q or of chains in an order that does not matter, with their gradients (n, D).

    None where nothing scales anything, or the draws are too few to tell.
    """
    fine = np.isfinite(gradient).all(1) & np.isfinite(z).all(1)
    size = np.abs(gradient).max(1)
    fine &= size < _DEEP * np.quantile(size[fine], 0.1) if fine.any() else fine
    dim = z.shape[1]
    apart = -(-2 * (dim + 1) * int(fine.sum()) // _NUMBERS) or 1
    z, gradient = z[fine][::apart], gradient[fine][::apart]
    if not 2 <= dim <= LARGEST_DIM or not enough(z) or not z.std(0).min() > 0:
        return None
    parents: list[tuple[int, float]] = []
    layers: list[Layer] = []
    while len(parents) < min(_PARENTS, dim - 1):
        y, u = z, gradient
        for each in layers:
            y = each.into(y)
            u = each.back(y, u)
            # Back from the layer's directions to coordinates, among which the next parent is.
            y[:, each.rest] = each.center + y[:, each.rest] @ each.basis.T
            u[:, each.rest] = np.linalg.solve(each.basis.T, u[:, each.rest].T).T
        new = _parent(y, u, [j for j, _ in parents])
        if new is None:
            break
        parents.append(new)
        layers = _layered(z, gradient, parents)
    return Centering(tuple(layers)) if layers else None


def enough(z: np.ndarray) -> bool:
    """Whether there are as many draws (n, D) as the regressions need."""
    return len(z) >= 4 * _PER_COEFFICIENT * (z.shape[1] + 1)


def pays(nats: float, rest: float) -> bool:
    """Whether what a parent explains is worth a layer: see `gain`."""
    return nats > _GAIN and rest < 1 - _SHARE


def _layered(z: np.ndarray, gradient: np.ndarray, parents: list[tuple[int, float]]) -> list[Layer]:
    """One layer a parent, fitted one after the other; none of them moves a parent."""
    rest = np.setdiff1d(np.arange(z.shape[1]), [j for j, _ in parents])
    layers = []
    for parent, exponent in parents:
        new = _layer(z, gradient, parent, exponent, rest)
        layers.append(new)
        z = new.into(z)
        gradient = new.back(z, gradient)
    return layers


def _parent(z: np.ndarray, gradient: np.ndarray, known: list[int]) -> tuple[int, float] | None:
    """Coordinate that scales the others most, and its exponent, if any does."""
    n, dim = z.shape
    mean, sd = z.mean(0), z.std(0)
    x, u = (z - mean) / sd, gradient * sd
    linear = np.column_stack([np.ones(n), x])
    left = u - linear @ _solve(linear, u, [dim + 1])[0]
    few = slice(0, max(_LEAST, _EACH * 4 * (dim + 1)))
    x, u = x[few], u[few]
    best, best_gain = None, 0.0
    for j in [j for j in _candidates(left, (z - mean) / sd) if j not in known]:
        for width in WIDTHS:
            nats, rest = gain(x, u, j, width, known)
            if nats > best_gain and pays(nats, rest):
                best, best_gain = (j, width), nats
    if best is None:
        return None
    j, width = best
    found = minimize_scalar(
        lambda w: np.log(gain(x, u, j, width * np.exp(w), known)[1] + 1e-300),
        bounds=(-0.7, 0.7),
        method="bounded",
        options={"xatol": 1e-3},
    )
    found_share = np.exp(found.fun)
    exponent = float(width * np.exp(found.x) / sd[j])
    # Of a log sd, variance or precision it is exactly that, and the map then holds as deep in the neck as there are digits.
    exact = np.round(2 * exponent) / 2
    return j, float(exact) if gain(x, u, j, exact * sd[j], known)[1] <= found_share else exponent


def _candidates(left: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Coordinates with which the residual slopes of the scores vary most."""
    calm = np.clip(left, -6 * left.std(0), 6 * left.std(0))
    strength = ((((calm * x).T @ x / len(x)) / np.maximum(calm.std(0), 1e-300)[:, None]) ** 2).sum(0)
    return np.argsort(-strength)[:_CANDIDATES]


def gain(x: np.ndarray, u: np.ndarray, parent: int, width: float, known: list[int]) -> tuple[float, float]:
    """Nats that e explains of the scores of the rest on draws that were not fitted, and the share that it leaves."""
    rest = np.setdiff1d(np.arange(x.shape[1]), [parent, *known])
    e = np.exp(np.clip(-2 * width * x[:, parent], -30, 30))
    root = 1 / np.sqrt(1 + e)[:, None]
    inner = np.column_stack([np.ones(len(x)), x[:, rest]]) * root
    linear = np.column_stack([inner, x[:, [parent, *known]] * root])
    both = np.column_stack([linear, e[:, None] * inner])
    aim = u[:, rest] * root
    half = np.arange(len(x)) % 4 < 2
    sizes = [linear.shape[1], both.shape[1]]
    first, second = (
        ((aim[~half] - both[~half, : len(found)] @ found) ** 2).mean(0)
        for found in _solve(both[half], aim[half], sizes)
    )
    scale = np.maximum((aim**2).mean(0), 1e-300)
    # In units of the scores themselves, whose mean square is about one a direction in whitened coordinates.
    return float((0.5 * (first - second) / scale).sum()), float(
        (second / scale).sum() / max((first / scale).sum(), 1e-300)
    )


def _solve(features: np.ndarray, aim: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Regressions on the first features, as many as `sizes` say, by normal equations."""
    size = np.sqrt((features**2).mean(0)) + 1e-300
    features = features / size
    gram, to = features.T @ features / len(features), features.T @ aim / len(features)
    gram[np.diag_indices_from(gram)] += 1e-10
    return [np.linalg.solve(gram[:k, :k], to[:k]) / size[:k, None] for k in sizes]


def _triangle(x: np.ndarray, t: np.ndarray, u: np.ndarray, e: np.ndarray, others: np.ndarray) -> np.ndarray:
    """All that a regression of scores u needs to know of its rows: the triangular factor of features and scores.

    Features are rest x, parent t, and other parents, whose part is left out again.
    """
    root = 1 / np.sqrt(1 + e)[:, None]
    inner = np.column_stack([np.ones(len(x)), x]) * root
    features = [inner, e[:, None] * inner, t[:, None] * root, others * root]
    return np.asarray(np.linalg.qr(np.column_stack([*features, u * root]), mode="r"))


def _fit(triangle: np.ndarray, count: int) -> _Fit:
    """The regression, on `count` coordinates."""
    features = triangle.shape[1] - count
    left, right = triangle[:features, :features], triangle[:features, features:]
    size = np.sqrt((left**2).sum(0)) + 1e-300
    found = np.linalg.lstsq(left / size, right, rcond=1e-10)[0] / size[:, None]
    return _Fit(
        found[0], found[2 * count + 2], -found[1 : count + 1], found[count + 1], -found[count + 2 : 2 * count + 2]
    )


def _layer(z: np.ndarray, gradient: np.ndarray, parent: int, exponent: float, rest: np.ndarray) -> Layer:
    mean, sd = z.mean(0), z.std(0)
    x, u = (z - mean) / sd, gradient * sd
    at = float(np.median(z[:, parent]))
    e = np.exp(np.clip(-2 * exponent * (z[:, parent] - at), -30, 30))
    half = np.arange(len(z)) % 4 < 2
    t = z[:, parent] - at
    others = np.delete(x, [parent, *rest], axis=1)
    halves = [_triangle(x[part][:, rest], t[part], u[part][:, rest], e[part], others[part]) for part in (half, ~half)]
    one, other = (_fit(triangle, len(rest)) for triangle in halves)
    whole = _fit(np.asarray(np.linalg.qr(np.concatenate(halves), mode="r")), len(rest))
    total = _symmetric(whole.likelihood + whole.prior)
    values, vectors = np.linalg.eigh(total)
    root = vectors / np.sqrt(np.maximum(values, _FLAT * values.max()))
    noise = np.abs(np.linalg.eigvalsh(root.T @ _symmetric(one.prior - other.prior) @ root / 2)).max()
    share, turn = np.linalg.eigh(root.T @ _symmetric(whole.prior) @ root)
    share = np.clip(share, 0.0, 1.0)
    share = np.where(share < _NOISE * noise, 0.0, share)
    basis = root @ turn
    scaled = np.where(share > 0, basis.T @ whole.scaled, 0.0)
    return Layer(
        parent,
        rest,
        exponent,
        at,
        mean[rest],
        sd[rest, None] * basis,
        share,
        basis.T @ whole.fixed,
        basis.T @ whole.slope,
        scaled,
    )


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return 0.5 * (matrix + matrix.T)
