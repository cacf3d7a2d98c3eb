"""The coordinates in which sites are probed: those in which a conjugate model makes parameters of distributions affine."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jensen.models.graph import Node


def coordinate(node: Node) -> str | None:
    """In which coordinates a continuous latent node is probed; None when in none."""
    if node.kind in ("Wishart", "InverseWishart"):
        return "matrix"
    if node.support.startswith("real"):
        return "real"
    if node.bounds is not None and node.kind != "Beta":
        return "log" if node.bounds[0] >= 0 else None
    return {"positive": "log", "simplex": "log", "unit interval": "unit"}.get(node.support)


def base(node: Node) -> np.ndarray:
    """The point at which a continuous site's coordinates are zero; inside of the support for sites without coordinates."""
    where = coordinate(node)
    if where == "matrix":
        return np.array(np.broadcast_to(np.eye(node.shape[-1]), node.shape))
    middle = 0.5 if node.bounds is None else 0.5 * (node.bounds[0] + node.bounds[1])
    return np.full(node.shape, {"real": 0.0, "log": 1.0, "unit": 0.5}.get(where or "", middle))


def value(where: str, x: Any, shape: tuple[int, ...]) -> Any:
    """A site's value from its flat coordinates."""
    x = jnp.reshape(x, shape)
    if where == "matrix":
        return jnp.eye(shape[-1]) + x
    return {"real": lambda: x, "log": lambda: jnp.exp(x), "unit": lambda: 0.5 + x}[where]()
