"""A map that takes hierarchies apart: given its parents, everything else is Gaussian with a precision that they scale.

Given a parent t, the rest R of the vector of a hierarchical model is Gaussian, or nearly, with precision L + e C: L from the
likelihood, C from the prior whose scale t is, and e = exp(-2 w (t - t_0)). One basis diagonalizes both, so that with y ~ N(0, I)

    z_R = c + W f,   f_i = (a_i + d_i (t - t_0) + b_i e) / p_i + y_i / sqrt(p_i),   p_i = 1 - g_i + g_i e
    log|J| = -sum(log p) / 2

is exact. The share g_i in [0, 1] is how centered direction i is at t_0: 0 where t does not reach (the common mean), 1 where only
the prior speaks. The map contains the centered and the non-centered form and everything between them, in every direction and at
every t, and its tails need no bound: the width of a direction ends at that of its likelihood. Parents are moved by no layer.

Reference: Papaspiliopoulos, Roberts, Skold (2007), A general framework for the parametrization of hierarchical models, Statist.
Sci. 22.
"""

from dataclasses import dataclass

import numpy as np

_FARTHEST = 600.0


@dataclass(frozen=True)
class Layer:
    """One parent's influence on the rest; see the head of the file.

    Attributes
    ----------
    parent
        Coordinate t.
    rest
        Coordinates R that the layer moves.
    exponent, at
        w and t_0.
    center, basis
        c (R,) and W (R, R).
    share, fixed, slope, scaled
        g, a, d and b, each (R,).
    """

    parent: int
    rest: np.ndarray
    exponent: float
    at: float
    center: np.ndarray
    basis: np.ndarray
    share: np.ndarray
    fixed: np.ndarray
    slope: np.ndarray
    scaled: np.ndarray

    def _given(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """E (n, 1), precisions and means of f (n, R)."""
        t = (t - self.at)[:, None]
        e = np.exp(np.clip(-2 * self.exponent * t, -_FARTHEST, _FARTHEST))
        precision = 1 - self.share + self.share * e
        return e, precision, (self.fixed + self.slope * t + self.scaled * e) / precision

    def out(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Straight y (n, D) -> bent (n, D), and log volume (n,) but for a constant."""
        _, precision, mean = self._given(y[:, self.parent])
        z = y.copy()
        z[:, self.rest] = self.center + (mean + y[:, self.rest] / np.sqrt(precision)) @ self.basis.T
        return z, -0.5 * np.log(precision).sum(1)

    def into(self, z: np.ndarray) -> np.ndarray:
        """The inverse."""
        _, precision, mean = self._given(z[:, self.parent])
        y = z.copy()
        f = np.linalg.solve(self.basis, (z[:, self.rest] - self.center).T).T
        y[:, self.rest] = (f - mean) * np.sqrt(precision)
        return y

    def back(self, y: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Gradient with respect to z -> gradient of log density plus log volume with respect to y."""
        e, precision, mean = self._given(y[:, self.parent])
        root = np.sqrt(precision)
        to_f = gradient[:, self.rest] @ self.basis
        steep = self.share * e / precision  # of log precision, with respect to log e
        moved = to_f * (self.scaled * e / precision - mean * steep - 0.5 * y[:, self.rest] / root * steep) - 0.5 * steep
        pulled = gradient.copy()
        pulled[:, self.rest] = to_f / root
        pulled[:, self.parent] += (to_f * self.slope / precision).sum(1) - 2 * self.exponent * moved.sum(1)
        return pulled


@dataclass(frozen=True)
class Centering:
    """Composition of layers, the first one nearest to z: a map y -> z as chains use it."""

    layers: tuple[Layer, ...]

    @property
    def parents(self) -> np.ndarray:
        """Coordinates whose width or place moves others."""
        return np.array([each.parent for each in self.layers], int)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def out(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Y (n, D) -> z (n, D), log volume (n,) but for a constant, and what `back` needs."""
        volume, tape = np.zeros(len(y)), []
        for each in reversed(self.layers):
            tape.append(y)
            y, more = each.out(y)
            volume += more
        return y, volume, tape

    def into(self, z: np.ndarray) -> np.ndarray:
        """Z (n, D) -> y (n, D)."""
        for each in self.layers:
            z = each.into(z)
        return z

    def back(self, y: np.ndarray, tape: list[np.ndarray], gradient: np.ndarray) -> np.ndarray:
        """Gradient with respect to z -> gradient of log density plus log volume with respect to y."""
        for each, at in zip(self.layers, reversed(tape), strict=True):
            gradient = each.back(at, gradient)
        return gradient


@dataclass(frozen=True)
class Turned:
    """A centering in linear coordinates y of z = c + A y: parents are directions of the original space.

    Attributes
    ----------
    base
        The map y -> y.
    center, matrix
        c (D,) and A (D, D).
    """

    base: Centering
    center: np.ndarray
    matrix: np.ndarray

    @property
    def parents(self) -> np.ndarray:
        """Coordinates of y."""
        return self.base.parents

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.base.depth

    def out(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Y (n, D) -> z (n, D), log volume (n,) but for a constant, and what `back` needs."""
        y, volume, tape = self.base.out(y)
        return self.center + y @ self.matrix.T, volume, tape

    def into(self, z: np.ndarray) -> np.ndarray:
        """Z (n, D) -> y (n, D)."""
        return self.base.into(np.linalg.solve(self.matrix, (z - self.center).T).T)

    def back(self, y: np.ndarray, tape: list[np.ndarray], gradient: np.ndarray) -> np.ndarray:
        """Gradient with respect to z -> gradient of log density plus log volume with respect to y."""
        return self.base.back(y, tape, gradient @ self.matrix)
