"""Coupling flow on a whitened base: z = m + L T(eps), eps ~ N(0, I), for curved, funnel-shaped and multimodal posteriors.

(m, L) are those of a converged Gaussian and stay as they are; T is learnt, and begins at the identity. It is a composition of
affine couplings. A layer leaves one half a of the coordinates alone and moves the other one, b, by a network of the first,

    T_l(a, b) = (a, t(a) + e^(s(a)) b),    |s| < 4,    log|det T_l| = sum s(a)

with one hidden layer for s and t. Log scales are bounded and networks piecewise smooth with linear growth, so that T and its
inverse have linear tails and nothing overflows. Layers come in pairs with the halves exchanged; the splits are chosen so that
as few coordinates as possible are always on the same side, because those never move one another. Draws and densities at draws
take one pass; the density elsewhere takes the inverse, which is as fast and exact.
In one dimension there is nothing to couple: T is a monotone rational-quadratic spline on [-6, 6], the identity outside.

The networks and bijections are those of flowjax (an extra, imported when first used). Compiled programs belong to the
architecture, not to a fit: weights and splits are arguments.

References: Dinh, Sohl-Dickstein, Bengio (2017), Density estimation using real NVP, ICLR; Durkan, Bekasov, Murray, Papamakarios
(2019), Neural spline flows, NeurIPS; Agrawal, Domke (2025), Disentangling impact of capacity, objective, batchsize, estimators,
and step-size on flow VI, AISTATS; Andrade (2024), Stable training of normalizing flows for high-dimensional variational
inference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from math import log, pi
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core import keys, precision
from jensen.core.errors import OptionError
from jensen.families.fullrank import DenseGaussian, from_factor

_BOUND = 4.0
"""Largest log scale of a layer."""
_KNOTS, _INTERVAL = 16, 6.0
_ROWS = 128
"""Points a call of a compiled program: the batch of targets, so that fit and draws share one."""
_MOMENTS = 4096
_SPLITS = 100
"""Sets of splits of which the best one is taken."""


class Programs(NamedTuple):
    """Compiled functions of one architecture; `weights` (P,), `order` (layers, D), points (n, D).

    Attributes
    ----------
    forward
        ``(weights, order, eps)`` -> T(eps), log|det T| (n,).
    inverse
        ``(weights, order, x)`` -> eps, log|det T^-1| (n,).
    pull
        ``(weights, order, eps, gradient at T(eps))`` -> gradient with respect to eps, log|det T| included.
    path
        ``(weights, order, eps, score)`` -> path gradient (P,) of mean[log q - log p] over eps; `score` is that of log p.
    shapes
        Of the weights, in the order in which they follow each other in the vector.
    """

    forward: Callable[..., Any]
    inverse: Callable[..., Any]
    pull: Callable[..., Any]
    path: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=32)
def programs(dim: int, layers: int, width: int) -> Programs:
    """Programs of an architecture, in float64 whatever the precision of the caller.

    Raises
    ------
    OptionError
        When flowjax is not installed.
    """
    with precision.scope():
        tree, fill = _coupling(dim, layers, width) if dim > 1 else _spline()
    leaves, structure = jax.tree.flatten(tree)
    shapes = tuple(np.shape(leaf) for leaf in leaves)

    def bijection(weights: jax.Array, order: jax.Array) -> Any:
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
        parts = [part.reshape(shape) for part, shape in zip(jnp.split(weights, ends), shapes, strict=True)]
        return fill(jax.tree.unflatten(structure, parts), order)

    def forward(weights: Any, order: Any, eps: Any) -> Any:
        return jax.vmap(bijection(weights, order).transform_and_log_det)(eps)

    def inverse(weights: Any, order: Any, x: Any) -> Any:
        return jax.vmap(bijection(weights, order).inverse_and_log_det)(x)

    def pull(weights: Any, order: Any, eps: Any, gradient: Any) -> Any:
        _, back = jax.vjp(lambda eps: forward(weights, order, eps), eps)
        return back((gradient, jnp.ones(len(eps))))[0]

    def path(weights: Any, order: Any, eps: Any, score: Any) -> Any:
        x, back = jax.vjp(lambda weights: forward(weights, order, eps)[0], weights)

        def log_q(x: Any) -> Any:
            noise, volume = inverse(weights, order, x)
            return (volume - 0.5 * (noise**2).sum(1)).sum()

        return back((jax.grad(log_q)(x) - score) / len(eps))[0]

    return Programs(doubled(forward), doubled(inverse), doubled(pull), doubled(path), shapes)


def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled, in float64: weights and densities of flows lose too much in less."""
    compiled = jax.jit(function)

    def call(*args: Any) -> Any:
        with precision.scope():
            return compiled(*args)

    return call


def _coupling(dim: int, layers: int, width: int) -> tuple[Any, Callable[[Any, Any], Any]]:
    """Weights of the networks as a tree, layers first, and what makes the bijection of them and of the splits."""
    eqx, bijections, paramax = _libraries()
    scale = paramax.Parameterize(lambda raw: jnp.exp(_BOUND * jnp.tanh(raw / _BOUND)), jnp.zeros(()))
    affine = eqx.tree_at(lambda affine: affine.scale, bijections.Affine(), scale)
    one = bijections.Coupling(
        jax.random.key(0),
        transformer=affine,
        untransformed_dim=dim // 2,
        dim=dim,
        nn_width=width,
        nn_depth=1,
        nn_activation=jax.nn.silu,
    )
    weights, rest = eqx.partition(one, eqx.is_inexact_array)
    stacked = jax.tree.map(lambda leaf: np.zeros((layers, *leaf.shape)), weights)
    identity = bijections.Permute(np.arange(dim))

    def fill(weights: Any, order: Any) -> Any:
        permute = eqx.tree_at(
            lambda permute: (permute.permutation, permute.inverse_permutation),
            identity,
            ((order,), (jnp.argsort(order, axis=1),)),
        )
        return bijections.Scan(bijections.Sandwich(eqx.combine(weights, rest), permute))

    return stacked, fill


def _spline() -> tuple[Any, Callable[[Any, Any], Any]]:
    eqx, bijections, _ = _libraries()
    one = bijections.RationalQuadraticSpline(knots=_KNOTS, interval=_INTERVAL)
    weights, rest = eqx.partition(one, eqx.is_inexact_array)
    return weights, lambda weights, _: bijections.Vmap(eqx.combine(weights, rest), axis_size=1)


def _libraries() -> tuple[Any, Any, Any]:
    try:
        import equinox
        import flowjax.bijections
        import paramax
    except ImportError as error:
        raise OptionError(
            f"A flow needs the package {error.name}; it is not installed; pip install 'jensen[flows]'."
        ) from error
    return equinox, flowjax.bijections, paramax


def _splits(rng: np.random.Generator, dim: int, layers: int) -> np.ndarray:
    """Order of the coordinates a layer (layers, D): the first D // 2 of them are the half that stays."""
    best, fewest = np.zeros((0, dim), int), np.inf
    for _ in range(_SPLITS):
        pairs = [rng.permutation(dim) for _ in range(-(-layers // 2))]
        side = np.array([np.argsort(pair) < dim // 2 for pair in pairs])
        alike = (side[:, :, None] == side[:, None, :]).all(0).sum()
        if alike < fewest:
            best, fewest = np.concatenate([[pair, pair[::-1]] for pair in pairs])[:layers], alike
    return best


def whitened_flow(gaussian: Any, layers: int, width: int, rng: np.random.Generator) -> "Flow":
    """The flow that is still the Gaussian with `mean` (D,) and `scale` (D, D); `rng` makes hidden units and splits.

    Raises
    ------
    OptionError
        When flowjax is not installed.
    """
    mean, scale = np.asarray(gaussian.mean, float), np.asarray(gaussian.scale, float)
    dim = len(mean)
    shapes = programs(dim, layers, width).shapes
    order = _splits(rng, dim, layers) if dim > 1 else np.zeros((layers, 1), int)
    if dim == 1:
        # Zeros are the even knots, with slopes of one as flowjax itself begins.
        parts = [np.asarray(leaf, float) for leaf in _spline_start()]
    else:
        hidden = rng.standard_normal(shapes[0]) / np.sqrt(max(shapes[0][-1], 1))
        parts = [hidden, 0.5 * rng.standard_normal(shapes[1]), np.zeros(shapes[2]), np.zeros(shapes[3])]
    weights = np.concatenate([part.ravel() for part in parts])
    return Flow(FlowMap(mean, scale, weights, order, np.array([layers, width])))


def _spline_start() -> list[Any]:
    with precision.scope():
        return jax.device_get(jax.tree.leaves(_spline()[0]))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FlowMap:
    """Y -> z = m + L T(y) and back, in the interface of the maps that chains run in.

    Attributes
    ----------
    center, factor
        m (D,) and L (D, D), lower triangular.
    weights
        Of the networks (P,).
    order
        Coordinates in the order of each layer's halves (layers, D).
    size
        Number of layers and width of the networks (2,).
    """

    center: Any
    factor: Any
    weights: Any
    order: Any
    size: Any

    def out(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        """Y (n, D) -> z (n, D), log volume (n,), and what the pullback needs: nothing."""
        x, volume = self._batched("forward", y)
        return self.center + x @ self.factor.T, volume + self._log_volume(), None

    def back(self, y: np.ndarray, tape: None, gradient: np.ndarray) -> np.ndarray:
        """Gradient with respect to z -> gradient of log density plus log volume with respect to y."""
        return self._batched("pull", y, gradient @ self.factor)[0]

    def into(self, z: np.ndarray) -> np.ndarray:
        """Z (n, D) -> y (n, D)."""
        return self.inverse(z)[0]

    def inverse(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Z (n, D) -> y (n, D), and the log volume (n,) of `out` there."""
        y, volume = self._batched("inverse", np.linalg.solve(self.factor, (np.asarray(z, float) - self.center).T).T)
        return y, self._log_volume() - volume

    def _log_volume(self) -> float:
        return float(np.log(np.diagonal(self.factor)).sum())

    def _batched(self, name: str, *points: np.ndarray) -> list[np.ndarray]:
        """A compiled program on all points, `_ROWS` at a time; the last ones are padded."""
        layers, width = map(int, self.size)
        n, results = len(points[0]), []
        program = getattr(programs(len(self.center), layers, width), name)
        for start in range(0, max(n, 1), _ROWS):
            rows = [np.zeros((_ROWS, len(self.center))) for _ in points]
            for row, part in zip(rows, points, strict=True):
                some = part[start : start + _ROWS]
                row[: len(some)] = some
            result = program(self.weights, self.order, *rows)
            results.append([np.asarray(part) for part in (result if isinstance(result, tuple) else (result,))])
        return [np.concatenate(parts)[:n] for parts in zip(*results, strict=True)]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Flow:
    """The approximation: the image of a standard normal under a `FlowMap`; NumPy in and out.

    Moments are those of 4,096 fixed draws: there is no closed form.

    Attributes
    ----------
    map
        From y ~ N(0, I) to z.
    """

    map: FlowMap

    @staticmethod
    def from_params(params: Mapping[str, Any]) -> "Flow":
        """The flow of its `params`."""
        return Flow(FlowMap(**{name: np.asarray(value) for name, value in params.items()}))

    @property
    def params(self) -> dict[str, Any]:
        """All numbers by name; `from_params` is the way back."""
        return {field.name: getattr(self.map, field.name) for field in fields(FlowMap)}

    @property
    def dim(self) -> int:
        """D."""
        return len(self.map.center)

    @property
    def base(self) -> DenseGaussian:
        """The Gaussian of y: standard normal."""
        return DenseGaussian(np.zeros(self.dim), np.eye(self.dim))

    @cached_property
    def _gaussian(self) -> DenseGaussian:
        half = keys.generator(0, "moments").standard_normal((_MOMENTS // 2, self.dim))
        z, _ = self.transport(np.concatenate([half, -half]))
        mean = z.mean(0)
        return from_factor(mean, (z - mean).T / np.sqrt(len(z)))

    @property
    def mean(self) -> np.ndarray:
        """Mean (D,)."""
        return self._gaussian.mean

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations (D,)."""
        return self._gaussian.sd

    @property
    def cov(self) -> np.ndarray:
        """Covariance (D, D)."""
        return self._gaussian.cov

    @property
    def scale(self) -> np.ndarray:
        """Lower triangular square root (D, D) of the covariance."""
        return self._gaussian.scale

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Standard normal draws (n, D)."""
        return rng.standard_normal((n, self.dim))

    def transport(self, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws z (n, D) made of noise (n, D), and log q(z) (n,)."""
        noise = np.asarray(noise, float)
        z, volume, _ = self.map.out(noise)
        return z, log_normal(noise) - volume

    def log_prob(self, z: np.ndarray) -> np.ndarray:
        """Log q(z) (n,) at points z (n, D), by the inverse."""
        y, volume = self.map.inverse(z)
        return log_normal(y) - volume

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Independent draws (n, D)."""
        return self.transport(self.noise(rng, n))[0]


def log_normal(y: np.ndarray) -> np.ndarray:
    """Log density (n,) of the standard normal at y (n, D)."""
    return -0.5 * (y**2).sum(1) - 0.5 * y.shape[1] * log(2 * pi)
