"""The target as engines and checks see it: log p(z) and its gradient, batched, by ONE compiled program.

Compilation is the cost of a small fit, so fit, checks and correction share a single program of fixed batch size: the host
loops around it in NumPy, pads the last batch, and counts the gradients. Two more programs exist and are compiled only when
asked for: the constraint map for output, and the factors one by one (pointwise log-likelihood, naming a broken factor).
Programs belong to the model's functions, not to a fit: a second fit with new data of the same shape compiles nothing.
"""

from collections.abc import Mapping
from copy import copy
from functools import lru_cache
from math import prod
from typing import Any

import jax
import numpy as np

from jensen.core.compilation import FAST_COMPILE, on_device
from jensen.core.errors import ModelError, UnsupportedError
from jensen.core.layout import Site, dim, unflatten
from jensen.models.model import Model, total

BATCH = 128
_CHEAP = 256
"""Factor elements up to which a call with all points of a batch costs hardly more than one with a few. Above, a call has a
third of them: small designs and the last climbers of a search would be filled up to a batch."""
_ELEMENTS = 2**22
"""Largest number of factor elements a batch may hold, so that memory stays bounded on models with many rows."""

_NUMBERS = 20_000_000
"""Numbers of all points of a check together, at most."""
_FEW = 2**12
"""Numbers of sites and deterministics up to which the program that finds them is compiled quickly: it runs a few times."""
_MANY = 1024
"""Largest number of points a call of that program, which few models make dear."""


class Program:
    """A jitted function that counts how often JAX traced it; compiled quickly where `fast`."""

    def __init__(self, function: Any, *, fast: bool = False):
        self.traces = 0

        def traced(*args: Any) -> Any:
            self.traces += 1
            return function(*args)

        self._call = jax.jit(traced, compiler_options=FAST_COMPILE if fast else None)

    def __call__(self, *args: Any) -> Any:
        """Call the compiled function."""
        return self._call(*args)


@lru_cache(maxsize=64)
def _density_program(factors: Any, sites: tuple[Site, ...]) -> Program:
    def log_density(z: jax.Array, data: Any) -> jax.Array:
        return total(factors(unflatten(sites, z), data))

    return Program(jax.vmap(jax.value_and_grad(log_density), in_axes=(0, None)))


@lru_cache(maxsize=64)
def _constrain_program(constrain: Any, sites: tuple[Site, ...], fast: bool) -> Program:
    return Program(jax.vmap(lambda z, data: constrain(unflatten(sites, z), data), in_axes=(0, None)), fast=fast)


@lru_cache(maxsize=64)
def _factors_program(factors: Any, sites: tuple[Site, ...]) -> Program:
    return Program(jax.vmap(lambda z, data: tuple(factors(unflatten(sites, z), data)), in_axes=(0, None)))


@lru_cache(maxsize=64)
def _factor_gradients_program(factors: Any, sites: tuple[Site, ...]) -> Program:
    def summed(z: jax.Array, data: Any, name: str) -> jax.Array:
        return factors(unflatten(sites, z), data).log_prob[name].sum()

    def gradients(z: jax.Array, data: Any) -> dict[str, jax.Array]:
        # One gradient each: the Jacobian of all sums would multiply the infinite ones by zero, and taint every factor.
        names = jax.eval_shape(factors, unflatten(sites, z), data).log_prob
        return {name: jax.grad(summed)(z, data, name) for name in names}

    return Program(jax.vmap(gradients, in_axes=(0, None)))


class Target:
    """log p(z) of a model with its data, on batches of points.

    Parameters
    ----------
    model
        What is inferred.
    precision
        ``"float64"`` or ``"float32"``: the dtype of the program; results are float64 NumPy arrays either way.
    most
        Largest number of points a call of the program; a power of two.

    Attributes
    ----------
    batch
        Number of points a call of the program.
    data
        Name -> JAX array, what the program is called with.
    gradients
        Number of points evaluated so far (padding not counted).

    Raises
    ------
    UnsupportedError
        For a model with discrete latent sites.

    Notes
    -----
    Use it inside ``jensen.core.precision.scope(precision)``.
    """

    def __init__(self, model: Model, precision: str = "float64", most: int = BATCH):
        _refuse_discrete(model)
        self.model = model
        self.dim = model.dim
        self.gradients = 0
        self.precision, self._dtype = precision, np.dtype(precision)
        self.data = on_device({name: self._cast(value) for name, value in model.data.items()})
        self._program = _density_program(model.factors, model.sites)
        shapes = tuple((name, value.shape, value.dtype) for name, value in self.data.items())
        self._elements = _elements(model.factors, model.sites, shapes, self._dtype)
        self.batch = min(_points(self._elements, BATCH), most)
        self._call = -(-BATCH // 3) if self.batch == BATCH and self._elements > _CHEAP else self.batch

    def affordable(self, wanted: int, least: int) -> int:
        """Number of points for a check that wants `wanted`: fewer where many rows or dimensions make each one dear."""
        return max(least, min(wanted * self.batch // BATCH, _NUMBERS // self.dim))

    def with_data(self, data: Mapping[str, np.ndarray]) -> "Target":
        """The same target with some of its data replaced by arrays of the same shapes; gradients are counted on."""
        other = copy(self)
        other.data = self.data | on_device({name: self._cast(value) for name, value in data.items()})
        return other

    def _cast(self, array: Any) -> np.ndarray:
        array = np.asarray(array)
        return array.astype(self._dtype) if np.issubdtype(array.dtype, np.floating) else array

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log density (n,) and gradient (n, D) at points z (n, D)."""
        self.gradients += len(z)
        value, gradient = self._batched(self._program, z)
        return np.asarray(value, float), np.asarray(gradient, float)

    def constrain(self, z: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Values of the sites and of the deterministics in the model's own space, draws first."""
        size = sum(prod(variable.shape) for variable in self.model.sites + self.model.derived)
        program = _constrain_program(self.model.constrain, self.model.sites, size <= _FEW)
        return self._batched(program, z, max(_points(max(size, self._elements), _MANY), self.batch))

    def factors(self, z: np.ndarray) -> dict[str, np.ndarray]:
        """Unscaled log density of every factor, draws first."""
        return self._batched(_factors_program(self.model.factors, self.model.sites), z)[0]

    def blame(self, z: np.ndarray) -> str:
        """Name the factors that are not finite at (some of) the points z, or whose gradient is not."""
        z = np.atleast_2d(z)[: self.batch]
        log_prob, _, jacobian = self._batched(_factors_program(self.model.factors, self.model.sites), z)
        broken = [name for name, value in log_prob.items() if not np.isfinite(value).all()]
        broken += [f"the transform of {name}" for name, value in jacobian.items() if not np.isfinite(value).all()]
        if broken:
            return "the log density of " + ", ".join(broken)
        gradients = self._batched(_factor_gradients_program(self.model.factors, self.model.sites), z)
        broken = [name for name, value in gradients.items() if not np.isfinite(value).all()]
        return "the gradient of " + (", ".join(broken) if broken else "the log density")

    def _batched(self, program: Program, z: np.ndarray, points: int = 0) -> Any:
        z, points = np.asarray(z, self._dtype), points or self._call
        chunks = []
        for start in range(0, len(z), points):
            chunk = z[start : start + points]
            missing = points - len(chunk)
            if missing:
                chunk = np.concatenate([chunk, np.repeat(chunk[:1], missing, 0)])
            chunks.append(program(chunk, self.data))
        n = len(z)
        return jax.tree.map(lambda *parts: np.concatenate([np.asarray(part) for part in parts])[:n], *chunks)


def _refuse_discrete(model: Model) -> None:
    if not model.discrete:
        return
    name = model.discrete[0]
    try:
        nodes = model.graph().nodes if model.graph else ()
    except ModelError:  # a model without a graph: the distribution stays unnamed
        nodes = ()
    named = "".join(f" ({node.distribution})" for node in nodes if node.name == name)
    raise UnsupportedError(
        f"site {name} is discrete{named}, and gradients need continuous sites; sum it out by hand (a potential or factor with "
        "logsumexp), or use a mixture distribution."
    )


def _points(elements: int, most: int) -> int:
    """Largest power of two up to `most`, and at least 4, for which so many elements a point keep within `_ELEMENTS`."""
    return min(most, max(4, 1 << (_ELEMENTS // elements).bit_length() - 1)) if elements < _ELEMENTS else 4


@lru_cache(maxsize=64)
def _elements(
    factors: Any, sites: tuple[Site, ...], data: tuple[tuple[str, tuple[int, ...], Any], ...], dtype: Any
) -> int:
    """Elements of the largest factor, at least one."""
    shapes = jax.eval_shape(
        lambda z, data: tuple(factors(unflatten(sites, z), data)),
        jax.ShapeDtypeStruct((dim(sites),), dtype),
        {name: jax.ShapeDtypeStruct(shape, kind) for name, shape, kind in data},
    )
    # A plain density is one factor, whose rows show in its data only.
    rows = (shape[0] for _, shape, _ in data if shape)
    return max(*(leaf.size for leaf in jax.tree.leaves(shapes)), *rows, 1, 1)
