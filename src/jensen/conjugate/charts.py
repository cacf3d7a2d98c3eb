"""Sites whose elements bind each other and that take no exact update: Gaussian on coordinates in which none does.

    simplex          theta = softmax(u_1, .., u_{K-1}, 0)                        log |dtheta / du| = sum_k log theta_k
    ordered          x_1 = u_1,  x_k = x_{k-1} + exp u_k                         sum_{k>1} log (x_k - x_{k-1})
    corr cholesky    L_ij = z_ij prod_{k<j} (1 - z_ik^2)^1/2,  z_ij = tanh u_ij, j < i;  z_ii = 1
                     sum_{j<i} log(1 - z_ij^2) + 1/2 sum_{k<j} log(1 - z_ik^2)
    corr matrix      C = LL'                                                     the same + sum_j (K - j) log L_jj
    cholesky factor  rows of a lower triangle, one after the other, with log of the diagonal          sum_j log L_jj

To the rest of conjugacy u is a real site, whose prior is one density a row with the volume in it: `loosened` makes the graph in
which it is. Outside of it, all values are those of the site.

References: Aitchison and Shen (1980), Logistic-normal distributions: some properties and uses, Biometrika 67; Lewandowski,
Kurowicka and Joe (2009), Generating random correlation matrices based on vines and extended onion method, JMVA 100.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jensen.conjugate.hermite import standard
from jensen.models.graph import Graph, Leaves, Node


def _xp(array: Any) -> Any:
    return np if isinstance(array, np.ndarray) else jnp


class Chart(ABC):
    """From coordinates u (..., n) to values (..., *event), and back; NumPy from NumPy."""

    word: ClassVar[str]
    """What a Gaussian on u is called."""
    axes: ClassVar[int] = 1
    """Of an event."""

    @abstractmethod
    def value(self, u: Any) -> Any:
        """The site's value."""

    @abstractmethod
    def own(self, value: Any) -> Any:
        """Its coordinates; NaN or infinite outside of the support."""

    @abstractmethod
    def volume(self, value: Any) -> Any:
        """Log of the volume of the value's free elements that goes with one of u, (...)."""

    def holds(self, value: np.ndarray) -> bool:
        """Whether a value is inside of the support."""
        with np.errstate(all="ignore"), suppress(np.linalg.LinAlgError):
            return np.allclose(self.value(self.own(value)), value, rtol=1e-6)
        return False

    def count(self, event: tuple[int, ...]) -> int:
        """How many coordinates a row has."""
        return event[0]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the coordinates of a site of a shape."""
        lead = len(shape) - self.axes
        return (*shape[:lead], self.count(shape[lead:]))


@dataclass(frozen=True)
class Simplex(Chart):
    """Logs of ratios to the last element."""

    word = "logistic-normal"

    def value(self, u: Any) -> Any:
        """Theta (..., K)."""
        xp = _xp(u)
        whole = xp.concatenate([u, xp.zeros_like(u[..., :1])], -1)
        whole = xp.exp(whole - whole.max(-1, keepdims=True))
        return whole / whole.sum(-1, keepdims=True)

    def own(self, value: Any) -> Any:
        """Its K - 1 log ratios."""
        log = _xp(value).log(value)
        return log[..., :-1] - log[..., -1:]

    def volume(self, value: Any) -> Any:
        """Of all elements but the last."""
        return _xp(value).log(value).sum(-1)

    def holds(self, value: np.ndarray) -> bool:
        """Whether all shares are positive; they need not have the sum one."""
        return bool((value > 0).all())

    def count(self, event: tuple[int, ...]) -> int:
        """One less than shares."""
        return event[0] - 1


@dataclass(frozen=True)
class Ordered(Chart):
    """The first element and the logs of gaps."""

    word = "Gaussian, log gaps"

    def value(self, u: Any) -> Any:
        """Increasing numbers (..., K)."""
        xp = _xp(u)
        return xp.concatenate([u[..., :1], xp.exp(u[..., 1:])], -1).cumsum(-1)

    def own(self, value: Any) -> Any:
        """The first, and the logs of gaps."""
        xp = _xp(value)
        return xp.concatenate([value[..., :1], xp.log(xp.diff(value))], -1)

    def volume(self, value: Any) -> Any:
        """The product of the gaps."""
        xp = _xp(value)
        return xp.log(xp.diff(value)).sum(-1)


@dataclass(frozen=True)
class CorrCholesky(Chart):
    """Cholesky factors of correlation matrices by their canonical partial correlations, row by row."""

    word = "Gaussian, partial correlations"
    axes = 2

    def value(self, u: Any) -> Any:
        """Lower triangles (..., K, K) with rows of length one."""
        xp, size = _xp(u), round((1 + (1 + 8 * u.shape[-1]) ** 0.5) / 2)
        rows, columns = np.tril_indices(size, -1)
        place = np.zeros((size, size), int)
        place[rows, columns] = np.arange(len(rows))
        below = np.tri(size, k=-1, dtype=bool)
        z = xp.where(below, xp.tanh(u)[..., place], 0.0)
        # 1 - tanh^2 without the difference; what is left of a row's length before each element
        left = xp.where(below, 1.0 / xp.cosh(u)[..., place], 1.0)
        before = xp.cumprod(xp.concatenate([xp.ones_like(left[..., :1]), left[..., :-1]], -1), -1)
        return (z + np.eye(size)) * before

    def own(self, value: Any) -> Any:
        """Their inverse hyperbolic tangents, (..., K (K - 1) / 2)."""
        xp, size = _xp(value), value.shape[-1]
        rows, columns = np.tril_indices(size, -1)
        left = xp.sqrt(self._left(value))
        return xp.arctanh((value / xp.where(np.tri(size, k=-1, dtype=bool), left, 1.0))[..., rows, columns])

    def volume(self, value: Any) -> Any:
        """Of the elements below the diagonal."""
        size = value.shape[-1]
        rows, columns = np.tril_indices(size, -1)
        left = self._left(value)
        log = _xp(value).log
        # dL_ij / du_ij = (1 - z_ij^2) left_ij^1/2, and left_i(j+1) = (1 - z_ij^2) left_ij
        return (log(left[..., rows, columns + 1]) - 0.5 * log(left[..., rows, columns])).sum(-1)

    def _left(self, value: Any) -> Any:
        """1 - sum_{k<j} L_ik^2, (..., K, K), by the rest of the row, which keeps its digits."""
        return _xp(value).cumsum((value**2)[..., ::-1], -1)[..., ::-1]

    def count(self, event: tuple[int, ...]) -> int:
        """One below the diagonal each."""
        return event[0] * (event[0] - 1) // 2


@dataclass(frozen=True)
class Corr(Chart):
    """Correlation matrices, by those of their factors."""

    word = "Gaussian, partial correlations"
    axes = 2

    def value(self, u: Any) -> Any:
        """(..., K, K)."""
        xp, factor = _xp(u), CorrCholesky().value(u)
        return xp.where(np.eye(factor.shape[-1], dtype=bool), 1.0, factor @ xp.swapaxes(factor, -1, -2))

    def own(self, value: Any) -> Any:
        """Of the Cholesky factor."""
        return CorrCholesky().own(_xp(value).linalg.cholesky(value))

    def volume(self, value: Any) -> Any:
        """Of the elements below the diagonal."""
        xp = _xp(value)
        factor = xp.linalg.cholesky(value)
        diagonal, size = xp.diagonal(factor, axis1=-2, axis2=-1), value.shape[-1]
        return CorrCholesky().volume(factor) + (xp.log(diagonal) * np.arange(size - 1, -1, -1.0)).sum(-1)

    def count(self, event: tuple[int, ...]) -> int:
        """One below the diagonal each."""
        return CorrCholesky().count(event)


@dataclass(frozen=True)
class Packed(Chart):
    """Lower triangles with a positive diagonal, packed row by row."""

    word = "Gaussian, log diagonal"

    def value(self, u: Any) -> Any:
        """(..., n), n = K (K + 1) / 2."""
        return _xp(u).where(self._diagonal(u), _xp(u).exp(u), u)

    def own(self, value: Any) -> Any:
        """With logs on the diagonal."""
        xp, where = _xp(value), self._diagonal(value)
        return xp.where(where, xp.log(xp.where(where, value, 1.0)), value)

    def volume(self, value: Any) -> Any:
        """The product of the diagonal."""
        xp = _xp(value)
        return xp.log(xp.where(self._diagonal(value), value, 1.0)).sum(-1)

    def _diagonal(self, packed: Any) -> np.ndarray:
        found = np.zeros(packed.shape[-1], bool)
        size = round(((1 + 8 * len(found)) ** 0.5 - 1) / 2)
        found[np.cumsum(np.arange(1, size + 1)) - 1] = True
        return found


CHARTS: dict[str, Chart] = {
    "simplex": Simplex(),
    "ordered": Ordered(),
    "ordered vector": Ordered(),
    "corr cholesky": CorrCholesky(),
    "corr matrix": Corr(),
    "cholesky factor": Packed(),
}
"""By the support of a node, in words."""


def charts(nodes: Mapping[str, Node], free: frozenset[str]) -> dict[str, Chart]:
    """Those of the latent nodes that need one: on simplexes, only where they are among the free."""
    return {
        name: CHARTS[node.support]
        for name, node in nodes.items()
        if node.support in CHARTS
        and (node.support != "simplex" or name in free)
        and node.distribution != "ImproperUniform"  # nobody could tell whether the posterior is proper
    }


def moments(chart: Chart, mean: Any, cov: Any) -> tuple[Any, Any]:
    """Means and sds (n, *event) of values from means (n, d) and covariances (n, d, d) of coordinates."""
    nodes, weights = standard(mean.shape[-1])
    root = jnp.linalg.cholesky(cov + 1e-300 * jnp.eye(cov.shape[-1]))
    values = chart.value(mean[:, None] + jnp.asarray(nodes) @ jnp.swapaxes(root, -1, -2))
    weights = jnp.asarray(weights).reshape(-1, *(1,) * (values.ndim - 2))
    first = (weights * values).sum(1)
    return first, jnp.sqrt((weights * (values - first[:, None]) ** 2).sum(1))


def loosened(graph: Graph, found: Mapping[str, Chart]) -> Graph:
    """The graph with coordinates in the place of some sites; the same one for the same sites."""
    return graph.remember(("loosened", *found.items()), lambda: _loosened(graph, found)) if found else graph


def _loosened(graph: Graph, found: Mapping[str, Chart]) -> Graph:
    rank = {node.name: len(node.shape) - found[node.name].axes for node in graph.nodes if node.name in found}

    discrete = {node.name: node.shape for node in graph.nodes if node.latent and node.levels is not None}

    def values_at(values: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, **{name: chart.value(jnp.asarray(values[name])) for name, chart in found.items()}}

    def leaves(values: Mapping[str, Any], data: Mapping[str, Any]) -> Leaves:
        inner = values_at(values)
        # Densities are written for discrete sites in their own shape, leaves also for one row that stands for all.
        spread = {name: jnp.broadcast_to(values[name], shape) for name, shape in discrete.items()}
        some, log_prob = graph.leaves(inner, data), densities({**values, **spread}, data)
        return {
            **some,
            **{name: {"value": jnp.asarray(values[name]), "log_prob": log_prob[name]} for name in found},
        }

    def densities(values: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        inner = values_at(values)
        whole = dict(graph.densities(inner, data))
        for name, chart in found.items():  # one density a row, also where the model has one of every element
            rows = whole[name].sum(tuple(range(rank[name], jnp.ndim(whole[name]))))
            whole[name] = rows + chart.volume(inner[name])
        return whole

    nodes = (
        replace(node, kind="whole", support="real", shape=found[node.name].shape(node.shape), event_dim=1, bounds=None)
        if node.name in found
        else node
        for node in graph.nodes
    )
    return Graph(tuple(nodes), leaves, densities)
