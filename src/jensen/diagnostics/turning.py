"""Learned non-centering along a direction: hierarchies whose scale is no coordinate, as in funnels that are rotated.

Where no coordinate scales the others (centering.py), a linear combination v'x of the whitened coordinates may. With u the scores,
less what is linear in x, slopes of scores change along v alone, so that the third moments

    T_ijk = E[u_i x_j x_k]       have        M_kl = sum_ij T_ijk T_ijl = c v_k v_l + small

v begins as the first eigenvector of M, and v and the exponent then go where the regression of centering.py, with v'x for the
parent, leaves least of the scores: a rotated funnel is found to five digits from two thousand draws of a Gaussian q that misses
most of it. In coordinates of which v is the first, centering.py does the rest.

Requires: as many draws as centering.py; at most `LARGEST_DIM` dimensions.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize

from jensen.diagnostics import centering
from jensen.families.centering import Centering, Turned

LARGEST_DIM = 30
_FIRST, _DRAWS = 4000, 1000
"""Draws that say where the search for direction and exponent begins, and where it ends."""
_STEPS = 30
_ROBUST = 6.0


def learn(z: np.ndarray, gradient: np.ndarray) -> Centering | Turned | None:
    """A map from draws z (n, D), in an order that does not matter, with their gradients (n, D).

    None where nothing scales anything, or the draws are too few to tell.
    """
    found = centering.learn(z, gradient)
    if found is not None or not 2 <= z.shape[1] <= LARGEST_DIM:
        return found
    fine = np.isfinite(gradient).all(1) & np.isfinite(z).all(1)
    z, gradient = z[fine], gradient[fine]
    if not centering.enough(z):
        return None
    center, root = z.mean(0), np.linalg.cholesky(np.cov(z.T))
    x, u = np.linalg.solve(root, (z - center).T).T, gradient @ root
    direction = _direction(x, u)
    if direction is None:
        return None
    matrix = root @ _basis(direction)
    straight = centering.learn(np.linalg.solve(matrix, (z - center).T).T, gradient @ matrix)
    return None if straight is None else Turned(straight, center, matrix)


def bent(map: Any, z: np.ndarray, gradient: np.ndarray) -> float:
    """The share of the scores at draws z (n, D) that is not linear in a map's straight coordinates: none for a Gaussian."""
    fine = np.isfinite(gradient).all(1) & np.isfinite(z).all(1)
    z, gradient = z[fine][:_DRAWS], gradient[fine][:_DRAWS]
    y = map.into(z)
    _, _, tape = map.out(y)
    u = map.back(y, tape, gradient)
    linear = np.column_stack([np.ones(len(y)), y])
    left = u - linear @ np.linalg.lstsq(linear, u, rcond=None)[0]
    return float((left.var(0) / np.maximum(u.var(0), 1e-300)).mean())


def _direction(x: np.ndarray, u: np.ndarray) -> np.ndarray | None:
    """The unit vector (D,) along which all else is scaled, by whitened draws and their scores (n, D)."""
    x, u = x[:_FIRST], u[:_FIRST]
    linear = np.column_stack([np.ones(len(x)), x])
    left = u - linear @ np.linalg.lstsq(linear, u, rcond=None)[0]
    size = np.maximum(left.std(0), 1e-300)
    left = np.clip(left / size, -_ROBUST, _ROBUST)
    third = (left.T @ (x[:, :, None] * x[:, None, :]).reshape(len(x), -1) / len(x)).reshape(-1, x.shape[1])
    v = np.linalg.eigh(third.T @ third)[1][:, -1]
    x, u = x[:_DRAWS], u[:_DRAWS]

    def share(direction: np.ndarray, width: float) -> tuple[float, float]:
        basis = _basis(direction)
        return centering.gain(x @ basis, u @ basis, 0, width, [])

    tried = [(share(v, width), width) for width in centering.WIDTHS]
    (nats, rest), width = min(tried, key=lambda each: each[0][1])
    if not centering.pays(nats, rest):
        return None
    found = minimize(
        lambda p: np.log(share(p[:-1], width * np.exp(np.clip(p[-1], -3, 3)))[1] + 1e-300),
        np.append(v, 0.0),
        method="BFGS",
        options={"maxiter": _STEPS},
    )
    return found.x[:-1] / np.linalg.norm(found.x[:-1])


def _basis(direction: np.ndarray) -> np.ndarray:
    """An orthogonal matrix (D, D) whose first column is along a direction (D,)."""
    q = np.linalg.qr(np.column_stack([direction, np.eye(len(direction))]))[0]
    q[:, 0] *= np.sign(q[:, 0] @ direction)
    return q
