"""Structured Gaussian: a global block, and one block a group that knows of other groups through the global block only.

    g   = m_g + H e_g                              q(g)       = N(m_g, H H')
    z_i = m_i + K_i e_g + C_i e_i,  i = 1..G       q(z_i | g) = N(m_i + K_i H^-1 (g - m_g), C_i C_i')

The precision has the arrow pattern of a model with plates: groups are independent given the globals, and so they are under the
posterior. With p globals and d coordinates a group there are p^2 + G d (p + d) numbers instead of (p + G d)^2; draws and
densities cost O(G d (p + d)).

Reference: Tan, Nott (2018), Gaussian variational approximation with sparse precision matrices, Statist. Comput. 28.
"""

from dataclasses import dataclass, field
from functools import cached_property
from math import log, pi
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Plates:
    """Which coordinates of the flat vector are global, and which belong to which group.

    Attributes
    ----------
    shared
        Global coordinates, p of them.
    own
        For every group its d coordinates.
    """

    shared: tuple[int, ...]
    own: tuple[tuple[int, ...], ...]

    @cached_property
    def order(self) -> np.ndarray:
        """Coordinates (D,), global ones first, then group after group."""
        return np.array([*self.shared, *(coordinate for group in self.own for coordinate in group)], int)

    @cached_property
    def place(self) -> np.ndarray:
        """Place (D,) of every coordinate in `order`."""
        return np.argsort(self.order)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ArrowGaussian:
    """A Gaussian whose groups are independent given its global block.

    Attributes
    ----------
    mean
        (D,), in the order of the flat vector.
    head
        H (p, p), lower triangular with positive diagonal.
    reach
        K (G, d, p): what a group takes from the global noise.
    tails
        C (G, d, d), lower triangular with positive diagonals.
    plates
        Which coordinate is where; static.
    """

    mean: Any
    head: Any
    reach: Any
    tails: Any
    plates: Plates = field(metadata={"static": True})

    @property
    def dim(self) -> int:
        """D."""
        return self.mean.shape[0]

    @property
    def slopes(self) -> Any:
        """B (G, d, p) of q(z_i | g) = N(m_i + B_i (g - m_g), C_i C_i')."""
        xp = self.mean.__array_namespace__()
        flat = self.reach.reshape(-1, self.head.shape[0])
        return xp.linalg.solve(self.head.T, flat.T).T.reshape(self.reach.shape)

    @property
    def sd(self) -> Any:
        """Standard deviations (D,)."""
        xp = self.mean.__array_namespace__()
        own = (self.reach**2).sum(-1) + (self.tails**2).sum(-1)
        parts = xp.concat([(self.head**2).sum(-1), own.reshape(-1)])
        return parts[self.plates.place] ** 0.5

    @property
    def scale(self) -> Any:
        """Lower-triangular square root (D, D) of `cov`; O(D^3), for D up to about 1,500."""
        xp = self.mean.__array_namespace__()
        upper = xp.linalg.qr(self._root().T)[1]
        signs = xp.where(xp.linalg.diagonal(upper) < 0, -1.0, 1.0).astype(upper.dtype)
        return (signs[:, None] * upper).T

    @property
    def cov(self) -> Any:
        """Covariance (D, D); dense, for D up to about 1,500."""
        root = self._root()
        return root @ root.T

    @property
    def params(self) -> dict[str, Any]:
        """The variational parameters by name, with the coordinates ``shared`` (p,) and ``own`` (G, d)."""
        return {
            "mean": self.mean,
            "head": self.head,
            "reach": self.reach,
            "tails": self.tails,
            "shared": np.array(self.plates.shared, int),
            "own": np.array(self.plates.own, int),
        }

    @staticmethod
    def from_params(params: dict[str, Any]) -> "ArrowGaussian":
        """Inverse of `params`."""
        parts = {name: params[name] for name in ("mean", "head", "reach", "tails")}
        return ArrowGaussian(**parts, plates=plates_of(params["shared"], params["own"]))

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Standard normal draws (n, D)."""
        return rng.standard_normal((n, self.dim))

    def transport(self, noise: Any) -> tuple[Any, Any]:
        """Draws z (n, D) made of noise (n, D), and log q(z) (n,)."""
        return self.mean + spread(self.plates, self.head, self.reach, self.tails, noise), self._log_q(noise)

    def whiten(self, z: Any) -> Any:
        """The noise (n, D) that points z (n, D) are made of."""
        xp = self.mean.__array_namespace__()
        g, own = split(self.plates, z - self.mean)
        head = xp.linalg.solve(self.head, g.T).T
        rest = own - xp.tensordot(head, self.reach, axes=([1], [2]))
        tails = xp.linalg.solve(self.tails, xp.permute_dims(rest, (1, 2, 0)))
        return join(self.plates, head, xp.permute_dims(tails, (2, 0, 1)))

    def log_prob(self, z: Any) -> Any:
        """Log q(z) (n,) at points z (n, D)."""
        return self._log_q(self.whiten(z))

    def entropy(self) -> Any:
        """Differential entropy, in nats."""
        return self._log_volume() + 0.5 * self.dim

    def sample(self, rng: np.random.Generator, n: int) -> Any:
        """Independent draws (n, D)."""
        return self.transport(self.noise(rng, n))[0]

    def _log_q(self, noise: Any) -> Any:
        return -0.5 * (noise**2).sum(-1) - self._log_volume()

    def _log_volume(self) -> Any:
        xp = self.mean.__array_namespace__()
        diagonals = xp.log(xp.linalg.diagonal(self.head)).sum() + xp.log(xp.linalg.diagonal(self.tails)).sum()
        return diagonals + 0.5 * self.dim * log(2 * pi)

    def _root(self) -> Any:
        """A square root (D, D) of the covariance, rows and columns in the order of the flat vector."""
        xp = self.mean.__array_namespace__()
        eye = xp.eye(self.dim, dtype=self.mean.dtype)
        return spread(self.plates, self.head, self.reach, self.tails, eye).T


def plates_of(shared: Any, own: Any) -> Plates:
    """`Plates` of coordinates shared (p,) and own (G, d)."""
    return Plates(tuple(map(int, shared)), tuple(tuple(map(int, group)) for group in own))


def split(plates: Plates, x: Any) -> tuple[Any, Any]:
    """Global coordinates (..., p) and those of the groups (..., G, d) of flat vectors x (..., D)."""
    p, shape = len(plates.shared), (len(plates.own), len(plates.own[0]))
    ordered = x[..., plates.order]
    return ordered[..., :p], ordered[..., p:].reshape((*x.shape[:-1], *shape))


def join(plates: Plates, head: Any, own: Any) -> Any:
    """Inverse of `split`."""
    xp = head.__array_namespace__()
    return xp.concat([head, own.reshape((*head.shape[:-1], -1))], axis=-1)[..., plates.place]


def spread(plates: Plates, head: Any, reach: Any, tails: Any, noise: Any) -> Any:
    """Deviations from the mean (n, D) made of noise (n, D); `head` and `tails` may be any square factors."""
    xp = noise.__array_namespace__()
    e_g, e_i = split(plates, noise)
    own = xp.tensordot(e_g, reach, axes=([1], [2]))
    inner = xp.permute_dims(tails @ xp.permute_dims(e_i, (1, 2, 0)), (2, 0, 1))
    return join(plates, e_g @ head.T, own + inner)


def from_blocks(
    plates: Plates, mean: np.ndarray, head: np.ndarray, reach: np.ndarray, tails: np.ndarray
) -> ArrowGaussian:
    """The Gaussian of any square factors `head` (p, p) and `tails` (G, d, d), made lower triangular by QR."""
    upper = np.linalg.qr(head.T, mode="complete")
    rotation, signs = upper[0], np.where(np.diagonal(upper[1]) < 0, -1.0, 1.0)
    own = np.linalg.qr(np.swapaxes(tails, 1, 2), mode="r")
    own = np.where(np.diagonal(own, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, :, None] * own
    # head = (R' s)(s Q') and noise is rotated along: what groups take from it must follow.
    return ArrowGaussian(
        np.asarray(mean), (signs[:, None] * upper[1]).T, reach @ (rotation * signs), np.swapaxes(own, 1, 2), plates
    )


@dataclass(frozen=True)
class Arrow:
    """Family of Gaussians with a global block and one block a group; linear cost in the number of groups.

    Parameters
    ----------
    plates
        Which coordinate is global, and which belongs to which group.
    """

    plates: Plates

    def start(self, location: np.ndarray, width: float | np.ndarray) -> ArrowGaussian:
        """Q at `location` (D,) with standard deviation `width`, one or (D,), and without correlations."""
        location = np.asarray(location, float)
        head, own = split(self.plates, np.broadcast_to(np.asarray(width, float), location.shape))
        reach = np.zeros((*own.shape, len(head)))
        return ArrowGaussian(location, np.diag(head), reach, own[:, :, None] * np.eye(own.shape[1]), self.plates)
