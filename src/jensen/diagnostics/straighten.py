"""A map, learnt from the chains' own draws, that straightens funnels and bends: learned non-centering without the model.

In a funnel the width of most coordinates goes like exp(w t) with one of them, t; chains with one step size stay out of the
neck. With s = 4 tanh(t / 4) and the remaining coordinates R, one layer a parent t,

    z_R = a + b1 s + b2 (s^2 - 1) + A diag(e^(w s)) y_R          log|J| = s sum(w) + const

turns it into something like a Gaussian in (t, y). It contains non-centering with a free exponent per direction, and bends
bananas. Parents are found by third moments: with t standardized and e the whitened draws after regressing t out,

    T = mean(t e e'),  c = mean((t^2 - 1) e),  score = <T_1, T_2> / 4 + <c_1, c_2> / 2

over two halves of the chains, so that noise does not add up. No gradients, no second program: the map and its pullback are
NumPy around the same batched value and gradient.

Requires: D up to about 60 (third moments are too noisy beyond, with a few thousand draws).
References: Papaspiliopoulos, Roberts, Skold (2007), A general framework for the parametrization of hierarchical models,
Statist. Sci. 22; Parno, Marzouk (2018), Transport map accelerated MCMC, SIAM/ASA J. Uncertain. Quantif. 6.
"""

from typing import NamedTuple

import numpy as np

from jensen.families.maps import Map, layer, unbent

LARGEST_DIM = 60
_PARENTS = 4
_SCORE = 0.15
_NOISE = 1.1
_BOUND = 4.0


class _Fitted(NamedTuple):
    """One parent's influence on the rest: shift + directions (slope s + bend (s^2 - 1) + exp(exponents s) y)."""

    shift: np.ndarray
    directions: np.ndarray
    slope: np.ndarray
    bend: np.ndarray
    exponents: np.ndarray

    def inverse(self, t: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Bent (n, R) -> straight (n, R), given the parent t (n,)."""
        s = _bounded(t)[:, None]
        f = np.linalg.solve(self.directions, (x - self.shift).T).T
        return (f - self.slope * s - self.bend * (s**2 - 1)) * np.exp(-self.exponents * s)


def learn(z: np.ndarray) -> Map | None:
    """Map from draws z (T, C, D) of chains, or None where nothing needs straightening."""
    steps, chains, dim = z.shape
    if dim < 2 or dim > LARGEST_DIM:
        return None
    half = np.tile(np.arange(chains) < chains // 2, steps)
    draws = z.reshape(-1, dim)
    parents: list[int] = []
    while len(parents) < min(_PARENTS, dim - 1):
        straight = draws
        if parents:
            bent = _layered(draws, parents, half)
            straight = bent.into(draws) @ bent.linear.T  # back from the layers' directions to the coordinates
        found = _parent(straight, half, parents)
        if found is None:
            break
        parents.append(found)
    return _layered(draws, parents, half) if parents else None


def _layered(draws: np.ndarray, parents: list[int], half: np.ndarray) -> Map:
    """One layer a parent, fitted one after the other; parents are standardized first and touched by none of them.

    Between layers the coordinates are the parents and then the rest; a layer wants its own parent first.
    """
    rest = np.setdiff1d(np.arange(draws.shape[1]), parents)
    center, scale = draws[:, parents].mean(0), draws[:, parents].std(0)
    t, x = (draws[:, parents] - center) / scale, draws[:, rest]
    count, result = len(parents), unbent(draws.shape[1])
    before = np.concatenate([parents, rest])
    for number in range(count):
        found = _fit_layer(t[:, number], x, half)
        x = found.inverse(t[:, number], x)
        after = np.concatenate([[number], np.delete(np.arange(count), number), np.arange(count, len(before))])
        full, place = np.eye(len(before)), np.zeros(len(before))
        full[count:, count:], place[count:] = found.directions, found.shift
        if number == 0:
            full[range(count), range(count)], place[:count] = scale, center
        rows = np.argsort(before)
        result = result.followed_by(
            layer(
                place[rows],
                full[np.ix_(rows, after)],
                _BOUND,
                *(np.concatenate([np.zeros(count), part]) for part in (found.slope, found.bend, found.exponents)),
            )
        )
        before = after
    return result


def _parent(draws: np.ndarray, half: np.ndarray, known: list[int]) -> int | None:
    """Coordinate that moves the width or the bend of the others most, if any does."""
    x = _winsorized((draws - draws.mean(0)) / draws.std(0))
    white = _whiten(x)
    best, best_score = None, _SCORE
    for j in range(draws.shape[1]):
        if j in known:
            continue
        t = x[:, j] / x[:, j].std()
        e = white - np.outer(t, t @ white / len(t))
        cube = [(e[part] * t[part, None]).T @ e[part] / part.sum() for part in (half, ~half)]
        bend = [((t[part] ** 2 - 1) @ e[part]) / part.sum() for part in (half, ~half)]
        score = (cube[0] * cube[1]).sum() / 4 + (bend[0] * bend[1]).sum() / 2
        if score > best_score:
            best, best_score = j, score
    return best


def _fit_layer(t: np.ndarray, x: np.ndarray, half: np.ndarray) -> _Fitted:
    s = _bounded(t)
    basis = np.stack([np.ones_like(s), s, s**2 - 1], axis=1)
    coefficients = np.linalg.lstsq(basis, x, rcond=None)[0]
    # Again with weights: where the funnel is wide, draws say little about its center.
    sizes = np.log(np.linalg.norm((x - basis @ coefficients) / x.std(0), axis=1) + 1e-300)
    common = np.cov(s, sizes)[0, 1] / s.var()
    root = np.exp(-common * s)[:, None]
    coefficients = np.linalg.lstsq(basis * root, x * root, rcond=None)[0]
    residual = x - basis @ coefficients
    scale = residual.std(0)
    w, v = np.linalg.eigh(np.cov((residual / scale).T).reshape(x.shape[1], x.shape[1]))
    square_root = scale[:, None] * (v * np.sqrt(np.maximum(w, 1e-10))) @ v.T
    white = _winsorized(np.linalg.solve(square_root, residual.T).T)
    cubes = [(white[part] * t[part, None]).T @ white[part] / part.sum() for part in (half, ~half)]
    noise = np.abs(np.linalg.eigvalsh((cubes[0] - cubes[1]) / 2)).max()
    strengths, vectors = np.linalg.eigh((cubes[0] + cubes[1]) / 2)
    projections = np.log(np.abs(np.linalg.solve(square_root, residual.T).T @ vectors) + 1e-300)
    slopes = (projections - projections.mean(0)).T @ (s - s.mean()) / (len(s) * s.var())
    exponents = np.where(np.abs(strengths) > _NOISE * noise, slopes, 0.0)
    directions = square_root @ vectors
    slope, bend = np.linalg.solve(directions, coefficients[1:].T).T
    return _Fitted(coefficients[0], directions, slope, bend, exponents)


def _bounded(t: np.ndarray) -> np.ndarray:
    """The parent as the layer sees it."""
    return _BOUND * np.tanh(t / _BOUND)


def _whiten(x: np.ndarray) -> np.ndarray:
    w, v = np.linalg.eigh(np.cov(x.T))
    return (x - x.mean(0)) @ (v / np.sqrt(np.maximum(w, 1e-10))) @ v.T


def _winsorized(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -4 * x.std(0), 4 * x.std(0))
