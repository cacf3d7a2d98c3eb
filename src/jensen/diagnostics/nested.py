"""The exact posterior of a structured model: every group integrated by quadrature, its few globals by importance sampling.

Given the globals g the groups are independent, and the structured Gaussian says where each one is: z_i = c_i(g) + C_i e. At
nodes e_k of a Gauss-Hermite rule, in all groups at once, one gradient is the slope of every group,

    grad h_i(e_k) = C_i' grad_i + e_k,      h_i = log of f_i over the normal density, up to a constant,

and h_i the polynomial with these slopes, although only the sum of all groups' log densities is ever evaluated. So K evaluations
for any number of groups give the marginal density of the globals

    log p(g) = log p(g, c(g)) + sum_i log integral of exp(h_i(e)) N(e; 0, I) + gap + const

and every group's mean, covariance and skewness given g. The integrals take the same rule around the Gaussian next to the
integrand, where the polynomial is a quadratic exactly; where that is far from the nodes, as in the neck of a funnel, nodes are
taken there. The sum of the h_i is evaluated, too: `gap` is sum_k w_k (what it is - what the polynomials say), which takes out
most of their error. Where it varies with g by more than `AGREE` nats, or the groups' moments with the number of nodes by more
than `MOMENTS`, more nodes are taken. The globals are few (few.py). Nothing needs to know the model but its gradients.

Requires: groups of up to three coordinates (models/groups.py), at most `LARGEST` globals; sees one mode of each group.
References: Rue, Martino, Chopin (2009), Approximate Bayesian inference for latent Gaussian models by using integrated nested
Laplace approximations, JRSS B 71; Pinheiro, Bates (1995), Approximations to the log-likelihood function in the nonlinear
mixed-effects model, JCGS 4 (adaptive Gauss-Hermite quadrature).
"""

from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial.hermite_e import hermegauss

from jensen.core import keys
from jensen.diagnostics import chains, tails
from jensen.diagnostics.few import BLOCKS, POINTS, Few, in_pairs, integrate, matched
from jensen.diagnostics.integrated import Integrated, integrated
from jensen.diagnostics.nearly import nearly_normal, points
from jensen.diagnostics.quantities import Draws
from jensen.families.structured import ArrowGaussian, join, split
from jensen.models.groups import FEWEST

LARGEST = 10
"""Globals that importance sampling is tried for."""
NODES = (3, 5, 7, 9, 11)
"""Nodes of each coordinate, fewest first."""
_MOST = 27
"""Nodes of a group."""
AGREE = 0.1
"""Largest sd of the gap over the globals, in nats; what is wrong in log p(g) without it was about as large, with it a sixth."""
MOMENTS = 0.03
"""Largest difference of the groups' means, in sds, and log sds that more nodes may make."""
_PROBES, _WIDER, _LOOK = 12, 1.5, 6
"""Points at which numbers of nodes are tried, and their sds over q's; the same where points are dear."""
_WIDEST, _SHIFT, _BEYOND = 0.25, 2.0, 1e-3
"""Least precision of a group over the nodes', and largest shift of its center in their sds, with which the polynomial is
believed; the share of groups that may lie beyond. In the neck of a funnel all of them do, and nodes follow them."""
_AGAIN, _STEP = 3, 20.0
"""How often they follow, and how many sds at once."""
_AT_TAILS = 2048
"""Draws by which tails are judged."""
PATIENCE, _BRIEF = 60.0, 1.0
"""Seconds that it may take, and from which on few points are tried first (nearly.py)."""
_COPIES, _NUMBERS = 8, 20_000_000
"""Draws of the groups at each point, and numbers of all of them together, at most."""


class Nested:
    """The marginal density of the globals of a structured Gaussian's target.

    Parameters
    ----------
    target
        Log density and gradient at points (n, D).
    q
        A structured Gaussian.
    """

    def __init__(self, target: Any, q: ArrowGaussian):
        self.target, self.q, self.nodes = target, q, NODES[0]
        self.center, self.own = split(q.plates, np.asarray(q.mean))
        self.slopes, self.tails = np.asarray(q.slopes), np.asarray(q.tails)

    def __call__(self, g: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Log p(g) (n,) at globals g (n, p), with `mean`, `cov` and `skew` of the groups given g, `gap` and `beyond` (n,)."""
        rule = _rule(self.nodes, self.own.shape[1])
        size = max(1, getattr(self.target, "at_once", self.target.batch) // len(rule.e))
        parts = [self._some(g[start : start + size], rule) for start in range(0, len(g), size)]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return found.pop("log_p"), found

    def _some(self, g: np.ndarray, rule: "_Rule") -> dict[str, np.ndarray]:
        """The same where q says the groups are, and where they are elsewhere, once more where that is."""
        found, center, tails = self._around(
            g, rule, self.centers(g), np.broadcast_to(self.tails, (len(g), *self.tails.shape))
        )
        for _ in range(_AGAIN):
            far = np.flatnonzero(found["beyond"] > _BEYOND)
            if not len(far):
                break
            again, center[far], tails[far] = self._around(g[far], rule, center[far], tails[far])
            for name, value in again.items():
                found[name][far] = value
        return found

    def _around(
        self, g: np.ndarray, rule: "_Rule", c: np.ndarray, tails: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """With nodes around c (n, G, d), as wide as tails (n, G, d, d); also centers and tails of the Gaussians found there."""
        e, w = rule.e, rule.w
        own = c[:, None] + np.einsum("ke,ngxe->nkgx", e, tails)
        z = join(self.q.plates, np.repeat(g, len(e), 0), own.reshape(-1, *own.shape[2:]))
        log_p, gradient = self.target(np.asarray(z))
        log_p = log_p.reshape(len(g), -1)
        slope = split(self.q.plates, gradient)[1].reshape(own.shape)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # where the density is not finite
            slope = np.einsum("nkgx,ngxe->nkge", slope, tails) + e[:, None]
            h = np.einsum("nkge,mke->ngm", slope, rule.fit)  # coefficients
            middle, half_square = log_p[:, len(e) // 2], 0.5 * (e**2).sum(1)
            gap = (log_p - middle[:, None] + len(self.own) * half_square - h.sum(1) @ rule.basis.T) @ w
            center, root, beyond = _recentered(slope, rule)
            at = np.clip(center, -_SHIFT, _SHIFT)[:, :, None] + np.einsum("ngef,kf->ngke", root, e)
            logs = rule.polynomials(h, at) - 0.5 * (at**2).sum(3) + half_square
            height = logs.max(2, keepdims=True)
            mass = w * np.exp(logs - height)
            total = mass.sum(2, keepdims=True)
            volume = np.log(np.abs(np.diagonal(tails @ root, axis1=2, axis2=3))).sum(2)
            log_mass = height[..., 0] + np.log(total[..., 0]) + volume
            mass /= total
            mean = np.einsum("ngk,ngke->nge", mass, at)
            away = at - mean[:, :, None]
            cov = np.einsum("ngk,ngke,ngkf->ngef", mass, away, away)
            skew = np.einsum("ngk,ngke->nge", mass, away**3) / np.diagonal(cov, axis1=2, axis2=3) ** 1.5
        found = {
            "log_p": middle + log_mass.sum(1) + gap,
            "gap": gap,
            "beyond": beyond,
            "mean": c + np.einsum("ngxe,nge->ngx", tails, mean),
            "cov": tails @ cov @ np.swapaxes(tails, 2, 3),
            "skew": skew,
        }
        return found, c + np.einsum("ngxe,nge->ngx", tails, center), tails @ root

    def centers(self, g: np.ndarray) -> np.ndarray:
        """Where the groups are (n, G, d), by q, given globals g (n, p)."""
        return self.own + np.moveaxis(np.tensordot(self.slopes, g - self.center, ([2], [1])), -1, 0)

    def settle(self, rng: np.random.Generator) -> bool:
        """Choose the number of nodes; False where none will do."""
        return self.settle_at(
            self.center + _WIDER * rng.standard_normal((_PROBES, len(self.center))) @ np.asarray(self.q.head).T
        )

    def settle_at(self, g: np.ndarray) -> bool:
        """The same by what is seen at globals g (n, p)."""
        found = None
        for number in NODES:
            if number ** self.own.shape[1] > _MOST:
                break
            fewer, self.nodes = self.nodes, number
            found, before = self(g)[1], found
            if before is not None and np.std(before["gap"]) < AGREE and _alike(before, found):
                self.nodes = fewer
                return True
        return found is not None and bool(np.std(found["gap"]) < AGREE)


def _alike(fewer: dict[str, np.ndarray], more: dict[str, np.ndarray]) -> bool:
    """Whether the groups' means and sds are those that more nodes give."""
    variance = np.diagonal(more["cov"], axis1=2, axis2=3)
    moved = (fewer["mean"] - more["mean"]) ** 2 / variance
    widened = 0.5 * np.log(np.diagonal(fewer["cov"], axis1=2, axis2=3) / variance)
    return bool(moved.max() < MOMENTS**2 and np.abs(widened).max() < MOMENTS)


def possible(shared: int, own: int) -> bool:
    """Whether so many globals, and groups of so many coordinates, can be integrated."""
    return 0 < shared <= LARGEST and NODES[0] ** own <= _MOST


def _seconds(target: Any) -> float:
    """Roughly how long one gradient takes on one core; 0 where that is not known."""
    # From chains: asking the target twice would trace the model twice.
    return chains.seconds(target) / chains.GRADIENTS


def integrate_globals(target: Any, q: ArrowGaussian, seed: int, patience: float = PATIENCE) -> Integrated | None:
    """The exact posterior, or None where globals are many, it would take too long, or quadrature or weights fail.

    Parameters
    ----------
    target
        Log density and gradient at points (n, D).
    q
        The approximation.
    seed
        Randomness.
    patience
        Seconds that it may take, roughly.
    """
    if not possible(len(q.plates.shared), len(q.plates.own[0])):
        return None
    nested, rng = Nested(target, q), keys.generator(seed, "nested")
    one = _seconds(target)
    whole = 2 * BLOCKS * POINTS * NODES[0] * one  # at the least
    if whole > _BRIEF and (few := _nearly(nested, keys.generator(seed, "nearly normal"), patience / one)):
        with suppress(np.linalg.LinAlgError):  # of covariances that a regression says
            return _concluded(nested, few, rng, f"by a quadratic through {points(len(nested.center))} points")
    if whole > patience or not nested.settle(rng):
        return None
    few = integrate(nested, nested.center, np.asarray(q.head), rng)
    if few is None or not few.enough:
        return None
    gap = few.more["gap"]
    if not few.weights @ (gap - few.weights @ gap) ** 2 < AGREE**2 or few.weights @ few.more["beyond"] > _BEYOND:
        return None
    return _concluded(nested, few, rng, f"at {len(few.weights)} points, worth {few.share * len(few.weights):.0f}")


def _nearly(nested: Nested, rng: np.random.Generator, most: float) -> Few | None:
    """The globals where their marginal density is all but normal; None where it is not, or takes more than `most` gradients."""
    d, p = nested.own.shape[1], len(nested.center)
    if points(p) * NODES[1] ** d > most:
        return None

    def density(g: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        if not nested.settle_at(g[:_LOOK]):
            return None
        log_p, more = nested(g)
        return None if np.std(more["gap"]) > AGREE or more["beyond"].max() > _BEYOND else (log_p, more)

    return nearly_normal(density, nested.center, np.asarray(nested.q.head), rng)


def _concluded(nested: Nested, few: Few, rng: np.random.Generator, how: str) -> Integrated:
    z = _draws(nested, few, rng)
    values, derived = nested.target.constrain(z)
    how = (
        f"an integral over {len(nested.center)} globals {how}, at each of which {len(nested.own):,} groups are integrated by "
        f"{nested.nodes} nodes"
    )
    found = integrated(nested.target.model, few, Draws(z, np.full(len(z), np.nan), values, derived), how)
    return found if len(nested.own) >= FEWEST else _with_tails(nested.target, found, rng)


def _with_tails(target: Any, found: Integrated, rng: np.random.Generator) -> Integrated:
    """Scales of a few groups may have tails so slow that an sd, or a mean, is known from no points, or is infinite."""
    some = np.searchsorted(np.cumsum(found.weights), (np.arange(_AT_TAILS) + rng.uniform()) / _AT_TAILS)
    z, values = found.draws.z, found.draws.values
    some = np.minimum(some, len(z) - 1)
    few = Draws(z[some], np.full(len(some), np.nan), {name: x[some] for name, x in values.items()}, {})
    _, gradient = target(few.z)
    slow, slower = (tails.heavy(target.model, few, gradient, index) for index in (tails.SLOWEST, tails.NO_MEAN))
    return replace(found, sel=np.where(slow, np.inf, found.sel), se=np.where(slower, np.inf, found.se))


def _draws(nested: Nested, few: Few, rng: np.random.Generator) -> np.ndarray:
    """Draws (n, D), some at each point, with the means and sds of the mixture over all points."""
    n, (count, d) = len(few.points), nested.own.shape
    pairs = int(np.clip(_NUMBERS // (2 * n * (len(nested.center) + count * d)), 1, _COPIES // 2))
    noise = in_pairs(rng, (n, pairs, count, d))
    mean, cov, skew = few.more["mean"], few.more["cov"], np.clip(few.more["skew"], -1, 1)[:, None]
    # A normal variable bent by its square has this skewness, to first order (Cornish and Fisher).
    own = mean[:, None] + np.einsum("ngef,nrgf->nrge", np.linalg.cholesky(cov), noise + skew / 6 * (noise**2 - 1))
    plates = nested.q.plates
    z = np.asarray(join(plates, np.repeat(few.points[:, None], 2 * pairs, 1), own))
    variance = np.diagonal(cov, axis1=2, axis2=3)
    center, spread = join(plates, few.points, mean), join(plates, np.zeros_like(few.points), variance)
    return matched(few, z, np.asarray(center), np.asarray(spread))


class _Rule(NamedTuple):
    """A product rule and the polynomial of which it knows the slopes.

    Nodes e (K, d); weights w (K,) that sum to one; powers (m, d) of the polynomial, their products at the nodes, basis (K, m);
    its coefficients, fit (m, K, d), by slopes.
    """

    e: np.ndarray
    w: np.ndarray
    powers: np.ndarray
    basis: np.ndarray
    fit: np.ndarray

    def polynomials(self, h: np.ndarray, e: np.ndarray) -> np.ndarray:
        """Values (..., k) of polynomials with coefficients h (..., m) at points e (..., k, d), one coordinate after the other."""
        size = self.powers.max() + 1
        left = np.zeros((*h.shape[:-1], 1, *(size,) * e.shape[-1]))
        left[..., 0, *self.powers.T] = h
        for j in range(e.shape[-1]):
            left = (_powers(e[..., j], size)[..., None, :] @ left.reshape(*left.shape[: h.ndim], size, -1))[..., 0, :]
        return left[..., 0]


def _powers(x: np.ndarray, size: int) -> np.ndarray:
    """x^0, ..., x^(size - 1), (..., size): by products, as NumPy's powers take ten times as long."""
    x = np.broadcast_to(x[..., None], (*x.shape, size)).copy()
    x[..., 0] = 1
    return np.multiply.accumulate(x, -1, out=x)


@lru_cache(maxsize=16)
def _rule(nodes: int, d: int) -> _Rule:
    """The polynomial has degree up to `nodes` in every coordinate; it has fewer coefficients than slopes where d > 1."""
    axis, weight = hermegauss(nodes)
    e = np.array(list(product(axis, repeat=d)))
    w = np.array([np.prod(some) for some in product(weight / weight.sum(), repeat=d)])
    # Products of two Hermite polynomials that are zero at all nodes have no slope there.
    powers = np.array([some for some in product(range(nodes + 1), repeat=d) if any(some) and some.count(nodes) < 2])
    slopes = [
        powers[:, j] * np.prod(e[:, None] ** np.maximum(powers - np.eye(d, dtype=int)[j], 0), -1) for j in range(d)
    ]
    fit = np.linalg.pinv(np.concatenate(slopes, 0)).reshape(len(powers), d, len(e))
    return _Rule(e, w, powers, np.prod(e[:, None] ** powers, -1), np.swapaxes(fit, 1, 2))


def _recentered(slope: np.ndarray, rule: _Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Center (n, G, d) and triangular root (n, G, d, d) of the Gaussian next to exp(h) N(e; 0, I), from slopes (n, K, G, d) of h.

    E[h'] and E[e h'] under the weights are the mean slope and curvature of h; one Newton step. Also the share (n,) of groups that
    it leads too far for their polynomials.
    """
    up = np.einsum("k,nkge->nge", rule.w, slope)
    curvature = np.einsum("k,kf,nkge->ngef", rule.w, rule.e, slope)
    precision = np.eye(rule.e.shape[1]) - 0.5 * (curvature + np.swapaxes(curvature, 2, 3))
    s, v = np.linalg.eigh(np.where(np.isfinite(precision), precision, 1.0))
    wide, s = s < _WIDEST, np.maximum(s, _WIDEST)
    center = np.einsum("ngef,ngf,nghf,ngh->nge", v, 1 / s, v, up)
    beyond = (wide | ~(np.abs(center) <= _SHIFT)).any(2).mean(1)
    return np.clip(center, -_STEP, _STEP), np.linalg.cholesky((v / s[:, :, None]) @ np.swapaxes(v, 2, 3)), beyond
