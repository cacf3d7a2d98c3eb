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

from dataclasses import dataclass

import numpy as np

LARGEST_DIM = 60
_PARENTS = 4
_SCORE = 0.15
_NOISE = 1.1


@dataclass(frozen=True)
class Layer:
    """One parent's influence on the rest; `parent` is its place among the parents."""

    parent: int
    shift: np.ndarray
    slope: np.ndarray
    bend: np.ndarray
    directions: np.ndarray
    exponents: np.ndarray

    def forward(self, s: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Straight y (n, R) -> bent (n, R), given s (n, 1)."""
        return self._center(s) + (y * np.exp(s * self.exponents)) @ self.directions.T

    def inverse(self, s: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Bent (n, R) -> straight y (n, R)."""
        return np.linalg.solve(self.directions, (x - self._center(s)).T).T * np.exp(-s * self.exponents)

    def pullback(self, s: np.ndarray, y: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradients with respect to s (n,), volume included, and y (n, R)."""
        scaled = (gradient @ self.directions) * np.exp(s * self.exponents)
        along = (gradient * (self.slope + 2 * s * self.bend)).sum(1) + (scaled * y * self.exponents).sum(1)
        return along + self.exponents.sum(), scaled

    def _center(self, s: np.ndarray) -> np.ndarray:
        return self.shift + s * self.slope + (s**2 - 1) * self.bend


@dataclass(frozen=True)
class Map:
    """Composition of layers; coordinates keep their places, parents are standardized.

    Attributes
    ----------
    parents, rest
        Coordinates of z.
    center, scale
        Of the parents.
    layers
        The first one is nearest to z.
    """

    parents: np.ndarray
    rest: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    layers: tuple[Layer, ...]

    def out(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Y (n, D) -> z (n, D), log volume (n,), and what the pullback needs."""
        t, x = y[:, self.parents], y[:, self.rest]
        volume, tape = np.zeros(len(y)), []
        for layer in reversed(self.layers):
            s = _bounded(t[:, [layer.parent]])
            tape.append(x)
            x = layer.forward(s, x)
            volume = volume + s[:, 0] * layer.exponents.sum()
        z = np.empty_like(y)
        z[:, self.parents], z[:, self.rest] = self.center + self.scale * t, x
        return z, volume, tape

    def back(self, y: np.ndarray, tape: list[np.ndarray], gradient: np.ndarray) -> np.ndarray:
        """Gradient with respect to z -> gradient of log density plus log volume with respect to y."""
        t, pulled = y[:, self.parents], gradient[:, self.rest]
        to_parents = gradient[:, self.parents] * self.scale
        for layer, x in zip(self.layers, reversed(tape), strict=True):
            s = _bounded(t[:, [layer.parent]])
            along, pulled = layer.pullback(s, x, pulled)
            to_parents[:, layer.parent] += along * (1 - (s[:, 0] / 4) ** 2)
        result = np.empty_like(y)
        result[:, self.parents], result[:, self.rest] = to_parents, pulled
        return result

    def into(self, z: np.ndarray) -> np.ndarray:
        """Z (n, D) -> y (n, D)."""
        t, x = (z[:, self.parents] - self.center) / self.scale, z[:, self.rest]
        for layer in self.layers:
            x = layer.inverse(_bounded(t[:, [layer.parent]]), x)
        y = np.empty_like(z)
        y[:, self.parents], y[:, self.rest] = t, x
        return y


def learn(z: np.ndarray) -> Map | None:
    """Map from draws z (T, C, D) of chains, or None where nothing needs straightening."""
    steps, chains, dim = z.shape
    if dim < 2 or dim > LARGEST_DIM:
        return None
    half = np.tile(np.arange(chains) < chains // 2, steps)
    draws = z.reshape(-1, dim)
    parents: list[int] = []
    while len(parents) < min(_PARENTS, dim - 1):
        straight = draws if not parents else _layered(draws, parents, half).into(draws)
        found = _parent(straight, half, parents)
        if found is None:
            break
        parents.append(found)
    return _layered(draws, parents, half) if parents else None


def _layered(draws: np.ndarray, parents: list[int], half: np.ndarray) -> Map:
    rest = np.setdiff1d(np.arange(draws.shape[1]), parents)
    center, scale = draws[:, parents].mean(0), draws[:, parents].std(0)
    t, x, layers = (draws[:, parents] - center) / scale, draws[:, rest], []
    for number in range(len(parents)):
        layer = _fit_layer(number, t[:, number], x, half)
        layers.append(layer)
        x = layer.inverse(_bounded(t[:, [number]]), x)
    return Map(np.array(parents), rest, center, scale, tuple(layers))


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


def _fit_layer(parent: int, t: np.ndarray, x: np.ndarray, half: np.ndarray) -> Layer:
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
    return Layer(parent, coefficients[0], coefficients[1], coefficients[2], square_root @ vectors, exponents)


def _bounded(t: np.ndarray) -> np.ndarray:
    """Tails of the parent do not blow the exponent up: the map stays a bijection with linear tails."""
    return 4 * np.tanh(t / 4)


def _whiten(x: np.ndarray) -> np.ndarray:
    w, v = np.linalg.eigh(np.cov(x.T))
    return (x - x.mean(0)) @ (v / np.sqrt(np.maximum(w, 1e-10))) @ v.T


def _winsorized(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -4 * x.std(0), 4 * x.std(0))
