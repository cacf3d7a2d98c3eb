"""Natural-gradient ascent for regressions with a Gaussian prior whose precision is learnt, and a full-rank Gaussian posterior.

    f_n = x_n'W + b,   W_ij ~ Normal(0, 1 / lambda),   lambda ~ Gamma,   b flat,   y_n | f_n any log-concave likelihood
    q(W, b, lambda) = Normal(m, S) Gamma(lambda)

With the gradient g and the negative curvature H of E_q log p(y | f) in the mean, both summed over rows in one pass, a sweep is

    rate of lambda   b_lambda + E|W|^2 / 2
    S^-1  <-  H + diag(lambda, 0),    m  <-  m + S (g - diag(lambda, 0) m)

the second a step of length one of the natural gradient, or a shorter one where that would lower the ELBO: Newton's method on
smoothed derivatives. Directions in which no row varies are left out of the Gaussian; they keep their prior, and lambda is
updated jointly with them. As in `linear.py`, MacKay's rearrangement of lambda's update is tried first.

References: Opper & Archambeau (2009), The variational Gaussian approximation revisited, Neural Computation 21; Khan & Rue
(2023), The Bayesian learning rule, JMLR 24.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh, qr, solve_triangular
from scipy.special import digamma

from jensen.estimators.base import STRETCH, Moments, gamma_divergence

_BLOCK = 1 << 17  # numbers in a block of rows
_HALVINGS = 8
_RANK = 1e-12  # of the largest eigenvalue of the correlations


class Pass(NamedTuple):
    """What one pass over the rows says about q."""

    fit: float  # E_q log p(y | f)
    slope: np.ndarray  # g (D,)
    curvature: np.ndarray  # H (D, D)


class Likelihood(Protocol):
    """Rows with targets. Parameters are vectors (D,): for every column of f the weights in the basis, then its intercept."""

    @property
    def start(self) -> np.ndarray:
        """All weights zero, (D,)."""
        ...

    @property
    def columns(self) -> int:
        """Number of columns of f."""
        ...

    def visit(self, mean: np.ndarray, root: np.ndarray) -> Pass:
        """One pass at q = Normal(mean, root root')."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows, centered and in a basis of the space that they span, with a last column of ones."""

    x: np.ndarray  # (N, P)
    weight: np.ndarray | None
    center: np.ndarray
    basis: np.ndarray | None  # (P, R), orthonormal, or None where R = P

    @property
    def rank(self) -> int:
        """R."""
        return len(self.center) if self.basis is None else self.basis.shape[1]

    def blocks(self, numbers: int) -> Iterator[tuple[np.ndarray, slice, np.ndarray]]:
        """Parts of the rows (n, R + 1), where they are, and their weights; `numbers` is how many a row brings with it."""
        height = max(1, _BLOCK // numbers)
        for start in range(0, len(self.x), height):
            here = slice(start, start + height)
            part = self.turned(self.x[here])
            yield part, here, np.ones(len(part)) if self.weight is None else self.weight[here]

    def turned(self, x: np.ndarray) -> np.ndarray:
        """Any rows (N, P) in the basis, with a last column of ones."""
        part = x - self.center
        return np.c_[part if self.basis is None else part @ self.basis, np.ones(len(part))]


def spanned(moments: Moments) -> np.ndarray | None:
    """Orthonormal basis (P, R) of the directions in which rows vary; None where that is all of them."""
    sums = moments.sums
    varies = sums > 0
    scale = np.sqrt(sums[varies])
    if moments.root is not None:
        rows = moments.root[:, varies] / scale
        values, vectors = eigh(rows @ rows.T)
        inside = rows.T @ vectors[:, values > _RANK * values[-1]]
    else:
        values, vectors = eigh(moments.scatter[np.ix_(varies, varies)] / scale / scale[:, None])
        inside = vectors[:, values > _RANK * values[-1:]]
    if inside.shape[1] == len(sums):
        return None
    basis = np.zeros((len(sums), inside.shape[1]))
    basis[varies] = qr(scale[:, None] * inside, mode="economic")[0]
    return basis


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Normal(m, S) by m and the Cholesky factor of S^-1."""

    mean: np.ndarray
    factor: np.ndarray

    @cached_property
    def root(self) -> np.ndarray:
        """R with S = R R'."""
        return solve_triangular(self.factor, np.eye(len(self.mean)), lower=True).T

    def step(self, seen: Pass, penalty: np.ndarray, length: float) -> "Gaussian":
        """Natural-gradient step; `penalty` is the diagonal of the prior's precision."""
        precision = length * (seen.curvature + np.diag(penalty)) + (1 - length) * (self.factor @ self.factor.T)
        factor = cho_factor(precision, lower=True)
        mean = self.mean + length * cho_solve(factor, seen.slope - penalty * self.mean)
        return Gaussian(mean, np.tril(factor[0]))


@dataclass(frozen=True, eq=False)
class Prior:
    """Gamma prior of lambda over `total` weights, of which those marked in `inside` (D,) are coordinates of the Gaussian."""

    shape: float
    rate: float
    total: int
    inside: np.ndarray

    def penalty(self, lam: float) -> np.ndarray:
        """Diagonal of the prior's precision (D,)."""
        return np.where(self.inside, lam, 0.0)

    def best(self, q: Gaussian) -> float:
        """Mean of lambda's optimal posterior, taken jointly with that of the weights outside of the Gaussian."""
        return (self.shape + self.inside.sum() / 2) / (self.rate + self._square(q) / 2)

    def leap(self, q: Gaussian, lam: float) -> float:
        """MacKay's: the part of E|W|^2 that follows lambda changes sides."""
        used = self.inside.sum() - lam * (q.root[self.inside] ** 2).sum()
        return (self.shape + max(used, 0.0) / 2) / (self.rate + (q.mean[self.inside] ** 2).sum() / 2)

    def elbo(self, fit: float, q: Gaussian, lam: float) -> float:
        """The ELBO at q, whose lambda has mean `lam`."""
        shape, inside = self.shape + self.total / 2, self.inside.sum()
        log_lam = digamma(shape) - np.log(shape / lam)
        weights = inside * (log_lam + 1) - lam * self._square(q) + (self.total - inside) * (log_lam - np.log(lam))
        flat = (len(q.mean) - inside) * (1 + np.log(2 * np.pi))
        entropy = -2 * np.log(q.factor.diagonal()).sum()
        return (
            fit
            + 0.5 * float(weights + flat + entropy)
            - float(gamma_divergence(shape, shape / lam, self.shape, self.rate))
        )

    def _square(self, q: Gaussian) -> float:
        """E |W|^2 in the basis."""
        return float((q.mean[self.inside] ** 2).sum() + (q.root[self.inside] ** 2).sum())


def climb(rows: Likelihood, prior: Prior, max_iter: int, tol: float) -> tuple[Gaussian, float, np.ndarray, bool]:
    """Sweep until one gains less than `tol` nats.

    Returns
    -------
    q, lam, history, settled
        q, the mean of lambda, the ELBO after every sweep, whether the last gain was below `tol`.
    """
    mean, lam = rows.start, prior.shape / prior.rate
    seen = rows.visit(mean, np.zeros((len(mean), 1)))
    q = Gaussian(mean, np.eye(len(mean))).step(seen, prior.penalty(lam), 1.0)
    seen = rows.visit(q.mean, q.root)
    history, stretch = [prior.elbo(seen.fit, q, lam)], 1.0
    while len(history) <= max_iter:
        best = prior.best(q)
        before = prior.elbo(seen.fit, q, best)
        ahead = lam * (prior.leap(q, lam) / lam) ** stretch
        for lam_there, length in [(ahead, 1.0), *((best, 0.5**k) for k in range(_HALVINGS))]:
            there = q.step(seen, prior.penalty(lam_there), length)
            seen_there = rows.visit(there.mean, there.root)
            elbo = prior.elbo(seen_there.fit, there, lam_there)
            if elbo > before:
                break
        else:  # what is left is rounding
            return q, best, np.array([*history, max(before, history[-1])]), True
        stretch = stretch * STRETCH if lam_there == ahead else 1.0
        q, lam, seen = there, lam_there, seen_there
        history.append(elbo)
        if history[-1] - history[-2] < tol:
            return q, lam, np.array(history), True
    return q, lam, np.array(history), False


def spread(x: np.ndarray, root: np.ndarray, columns: int) -> np.ndarray:
    """Roots F (n, columns, D) of the covariances F F' of f at rows x (n, R + 1)."""
    return np.stack([x @ part for part in np.split(root, columns)], 1)
