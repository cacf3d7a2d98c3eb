"""Maps that straighten funnels, bends and skew: layers in which one coordinate moves the place and the width of all others.

A layer takes straight y (n, D) to x (n, D). Its parent is the first coordinate of y; with s = c tanh(y_1 / c),

    f_1 = y_1,   f_i = slope_i s + bend_i (s^2 - 1) + exp(w_i s) y_i         x = center + factor f
    log|J| = s sum(w) + log|det factor|

The columns of `factor` are directions: which combination of the coordinates is the parent, and which ones it scales, each with
an exponent of its own. This contains non-centering of hierarchies, with a free exponent per direction, and bends bananas. After
the last layer comes skew, coordinate by coordinate, on u = (x - location) / width:

    t(u) = (sinh(asinh u + e) - sinh e) / cosh e,   t(0) = 0,   t'(0) = 1

which has linear tails exp(+-e) / cosh e: like the bounded s, it leaves the tails Gaussian. There is no parameter of tail weight:
it would be fitted to the largest draws.

References: Papaspiliopoulos, Roberts, Skold (2007), A general framework for the parametrization of hierarchical models,
Statist. Sci. 22; Jones, Pewsey (2009), Sinh-arcsinh distributions, Biometrika 96; Parno, Marzouk (2018), Transport map
accelerated MCMC, SIAM/ASA J. Uncertain. Quantif. 6.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np


class Tape(NamedTuple):
    """What a pullback needs of the way out: inputs of the layers, the last one first, and u before the skew."""

    inputs: list[Any]
    u: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Map:
    """Composition of K layers, and skew: z = skew(layer_1(... layer_K(y))).

    Attributes
    ----------
    center, factor
        (K, D) and (K, D, D).
    bound
        c > 0 (K,): how far out a parent has an influence.
    slope, bend, exponents
        (K, D); zero in the first column, which is the parent's own.
    location, width, skew
        (D,); width positive.
    """

    center: Any
    factor: Any
    bound: Any
    slope: Any
    bend: Any
    exponents: Any
    location: Any
    width: Any
    skew: Any

    @property
    def dim(self) -> int:
        """D."""
        return self.location.shape[0]

    @property
    def depth(self) -> int:
        """Number of layers K."""
        return self.bound.shape[0]

    @property
    def parents(self) -> np.ndarray:
        """Coordinate of z that the parent of each layer moves most, relative to everything else that moves it (K,)."""
        linear, found = np.eye(self.dim), []
        for factor in np.asarray(self.factor):
            linear = linear @ factor
            found.append(int((np.abs(linear[:, 0]) / np.linalg.norm(linear, axis=1)).argmax()))
        return np.array(found, int)

    @property
    def affine(self) -> bool:
        """Whether nothing is bent at all: location + width y."""
        return self.depth == 0 and self._plain

    @property
    def linear(self) -> np.ndarray:
        """The map without its bends (D, D): product of the factors, in units of z."""
        product = np.diag(np.asarray(self.width))
        for factor in np.asarray(self.factor):
            product = product @ factor
        return product

    @property
    def _constant(self) -> Any:
        # Kept for numbers only: what one trace of a program computes must not be seen by the next.
        return self._constant_of_numbers if isinstance(self.factor, np.ndarray) else self._log_volume()

    @cached_property
    def _constant_of_numbers(self) -> Any:
        return self._log_volume()

    def _log_volume(self) -> Any:
        xp = self.location.__array_namespace__()
        return xp.linalg.slogdet(self.factor)[1].sum() + xp.log(self.width).sum()

    def out(self, y: Any) -> tuple[Any, Any, Tape]:
        """Y (n, D) -> z (n, D), log volume (n,), and what the pullbacks need."""
        xp = y.__array_namespace__()
        x, volume, inputs = y, self._constant + 0 * y[:, 0], []
        for k in reversed(range(self.depth)):
            inputs.append(x)
            s = self._bounded(k, x[:, :1])
            f = self.slope[k] * s + self.bend[k] * (s**2 - 1) + xp.exp(self.exponents[k] * s) * x
            x = self.center[k] + f @ self.factor[k].T
            volume = volume + s[:, 0] * self.exponents[k].sum()
        if self._plain:
            return self.location + self.width * x, volume, Tape(inputs, x)
        e = self.skew
        tilted = xp.asinh(x) + e
        z = self.location + self.width * (xp.sinh(tilted) - xp.sinh(e)) / xp.cosh(e)
        volume = volume + xp.log(xp.cosh(tilted) / (xp.cosh(e) * xp.hypot(xp.ones_like(x), x))).sum(-1)
        return z, volume, Tape(inputs, x)

    def into(self, z: Any) -> Any:
        """Z (n, D) -> y (n, D)."""
        xp = z.__array_namespace__()
        x = (z - self.location) / self.width
        if not self._plain:
            x = xp.sinh(xp.asinh(x * xp.cosh(self.skew) + xp.sinh(self.skew)) - self.skew)
        for k in range(self.depth):
            f = xp.linalg.solve(self.factor[k], (x - self.center[k]).T).T
            s = self._bounded(k, f[:, :1])
            with np.errstate(over="ignore", invalid="ignore"):  # of points that a wandering chain is far away at
                x = (f - self.slope[k] * s - self.bend[k] * (s**2 - 1)) * xp.exp(-self.exponents[k] * s)
        return x

    def back(self, y: np.ndarray, tape: Tape, gradient: np.ndarray) -> np.ndarray:
        """Gradient with respect to z -> gradient of log density plus log volume with respect to y."""
        pulled = self._skew_back(tape.u, gradient)
        for k, x in enumerate(reversed(tape.inputs)):
            pulled = self._layer_back(k, x, pulled @ self.factor[k])[0]
        return pulled

    def slopes(self, tape: Tape, gradient: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Derivatives of sum(weights * (log density + log volume)), from the gradient with respect to z.

        Returns
        -------
        tuple
            With respect to y (n, D), not weighted; and by name those of ``bend``, ``exponents`` (K, D) and ``skew`` (D,).
        """
        u, e = tape.u, self.skew
        tilted = np.arcsinh(u) + e
        moved = self.width * ((np.cosh(tilted) - np.sinh(tilted) * np.tanh(e)) / np.cosh(e) - 1 / np.cosh(e) ** 2)
        by_name = {
            "bend": np.empty(self.bend.shape),
            "exponents": np.empty(self.bend.shape),
            "skew": weights @ (gradient * moved + np.tanh(tilted) - np.tanh(e)),
        }
        pulled = self._skew_back(u, gradient)
        for k, x in enumerate(reversed(tape.inputs)):
            to_f = pulled @ self.factor[k]
            pulled, s, scaled = self._layer_back(k, x, to_f)
            by_name["bend"][k] = (weights * (s**2 - 1)[:, 0]) @ to_f
            by_name["exponents"][k] = (weights * s[:, 0]) @ (scaled * x + 1)
            by_name["bend"][k, 0] = by_name["exponents"][k, 0] = 0.0
        return pulled, by_name

    def followed_by(self, layer: "Map") -> "Map":
        """Put the layers of another map, which must be without skew, nearest to y."""
        names = ("center", "factor", "bound", "slope", "bend", "exponents")
        return replace(self, **{name: np.concatenate([getattr(self, name), getattr(layer, name)]) for name in names})

    @property
    def _plain(self) -> bool:
        """Whether it is known that nothing is skewed, which spares chains the hyperbolic functions."""
        return isinstance(self.skew, np.ndarray) and not self.skew.any()

    def _bounded(self, k: int, t: Any) -> Any:
        """Tails of the parent do not blow the exponent up: the map stays a bijection with linear tails."""
        return self.bound[k] * t.__array_namespace__().tanh(t / self.bound[k])

    def _skew_back(self, u: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        if self._plain:
            return gradient * self.width
        root, tilted = np.hypot(1.0, u), np.arcsinh(u) + self.skew
        steepness = self.width * np.cosh(tilted) / (root * np.cosh(self.skew))
        return gradient * steepness + (np.tanh(tilted) - u / root) / root

    def _layer_back(self, k: int, x: np.ndarray, to_f: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradient with respect to a layer's input x from that of its f; s (n, 1); gradient of f times the scales."""
        s = self._bounded(k, x[:, :1])
        scaled = to_f * np.exp(self.exponents[k] * s)
        along = (to_f * (self.slope[k] + 2 * s * self.bend[k]) + scaled * x * self.exponents[k]).sum(1)
        pulled = scaled.copy()
        pulled[:, 0] += (along + self.exponents[k].sum()) * (1 - (s[:, 0] / self.bound[k]) ** 2)
        return pulled, s, scaled


def unbent(dim: int) -> Map:
    """The identity: no layers, no skew."""
    none, zero = np.zeros((0, dim)), np.zeros(dim)
    return Map(none, np.zeros((0, dim, dim)), np.zeros(0), none, none, none, zero, np.ones(dim), zero)


def layer(
    center: np.ndarray,
    factor: np.ndarray,
    bound: float,
    slope: np.ndarray,
    bend: np.ndarray,
    exponents: np.ndarray,
) -> Map:
    """A map of one layer, without skew; arguments are those of `Map` without their first axis."""
    plain = unbent(len(center))
    one = {"center": center, "factor": factor, "slope": slope, "bend": bend, "exponents": exponents}
    return replace(plain, bound=np.array([float(bound)]), **{name: value[None] for name, value in one.items()})
