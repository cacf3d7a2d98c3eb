"""What the closed-form estimators share: moments of many rows, the Gamma's divergence, and ascent along a fixed-point map.

Rows enter regressions and principal components through their weighted count, mean and scatter alone. These are summed block by
block, around a center that is near the mean, so that an offset of 1e6 costs no digits; moments of parts are joined exactly
(Chan, Golub & LeVeque 1983, The American Statistician 37).

Ascent: exact coordinate updates are a map theta -> F(theta) that never lowers the ELBO, but crawls where two blocks of q
follow each other. A longer step theta + eta (F(theta) - theta) is tried first, with an eta that grows while it works; where
it does not raise the ELBO, F(theta) itself is taken, which does (Salakhutdinov & Roweis 2003, Adaptive overrelaxed bound
optimization methods, ICML).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from warnings import warn

import numpy as np
from scipy.special import digamma, gammaln
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import _check_sample_weight

_BLOCK = 1 << 17  # numbers in a block of rows: a megabyte, which stays in the cache
_CENTER_ROWS = 1000
_ROUNDING = 16 * np.finfo(float).eps
STRETCH = 1.5  # growth of the steps while they work


def weights(estimator: Any, x: np.ndarray, sample_weight: Any) -> np.ndarray | None:
    """Weights as an array (N,), None where none were given; refused are negative ones and those that are all zero."""
    if sample_weight is None:
        return None
    weight = _check_sample_weight(sample_weight, x, dtype=float, ensure_non_negative=True)
    if not weight.any():
        raise ValueError(
            f"sample_weight of {type(estimator).__name__} is zero for every row; give some row a positive weight."
        )
    return weight


def warn_unsettled(estimator: Any, sweeps: str = "max_iter", stacklevel: int = 3) -> None:
    """Say that the sweeps, whose number is the parameter of the given name, were used up."""
    name, most, tol = type(estimator).__name__, getattr(estimator, sweeps), estimator.tol
    warn(
        f"{name} stopped after {sweeps}={most} sweeps while a sweep still raised the ELBO by more than tol={tol:g} nats; "
        "allow more sweeps or a larger tol.",
        ConvergenceWarning,
        stacklevel=stacklevel,
    )


def gamma_divergence(shape: Any, rate: Any, shape0: Any, rate0: Any) -> Any:
    """KL(Gamma(shape, rate) || Gamma(shape0, rate0)) in nats, elementwise."""
    apart = (shape - shape0) * digamma(shape) - gammaln(shape) + gammaln(shape0)
    return apart + shape0 * (np.log(rate) - np.log(rate0)) + shape * (rate0 / rate - 1)


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted count, mean and scatter of rows; a row of weight 2 is two rows.

    Attributes
    ----------
    rows
        Number of rows.
    count
        Sum of the weights.
    mean
        (D,).
    root
        (R, D), the centered rows times the roots of their weights, if there are fewer of them than columns, or None.
    """

    rows: int
    count: float
    mean: np.ndarray
    root: np.ndarray | None
    _scatter: np.ndarray  # () where there is a root

    @property
    def scatter(self) -> np.ndarray:
        """The weighted sum of (row - mean)(row - mean)', (D, D)."""
        return self._scatter if self.root is None else self.root.T @ self.root

    @property
    def sums(self) -> np.ndarray:
        """Diagonal of the scatter, (D,); exactly 0 where all rows are equal up to rounding."""
        sums = self._scatter.diagonal().copy() if self.root is None else (self.root**2).sum(0)
        sums[sums <= self.count * (_ROUNDING * self.mean) ** 2] = 0.0
        return sums

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray | None = None, weight: np.ndarray | None = None) -> "Moments":
        """Moments of the rows of x (N, P), with y (N,) as a last column if given, in one pass and bounded memory."""
        n, p = x.shape
        dim = p + (y is not None)
        near = slice(None, None, max(1, n // _CENTER_ROWS))
        center = np.zeros(dim)
        center[:p] = x[near].mean(0, dtype=float)
        if y is not None:
            center[p] = y[near].mean(dtype=float)
        height = n if n < dim else max(1, min(n, _BLOCK // dim))
        block = np.empty((height, dim))
        count, first, second = 0.0, np.zeros(dim), np.zeros((dim, dim) if n >= dim else 0)
        for start in range(0, n, height):
            here = slice(start, start + height)
            part = block[: min(height, n - start)]
            part[:, :p] = x[here]
            if y is not None:
                part[:, p] = y[here]
            part -= center
            mass = np.ones(len(part)) if weight is None else weight[here]
            count += mass.sum()
            first += mass @ part
            if n < dim:
                shift = first / count
                return cls(n, count, center + shift, (part - shift) * np.sqrt(mass)[:, None], np.empty(()))
            if weight is not None:
                part *= np.sqrt(mass)[:, None]
            second += part.T @ part
        shift = first / count
        return cls(n, count, center + shift, None, second - np.outer(first, shift))

    def join(self, other: "Moments") -> "Moments":
        """Moments of both sets of rows."""
        count = self.count + other.count
        apart = other.mean - self.mean
        between = np.outer(apart, apart) * (self.count * other.count / count)
        mean = self.mean + apart * (other.count / count)
        return Moments(self.rows + other.rows, count, mean, None, self.scatter + other.scatter + between)


def ascend(
    visit: Callable[[np.ndarray], Any], theta: np.ndarray, max_iter: int, tol: float
) -> tuple[Any, np.ndarray, bool]:
    """Raise the ELBO along a fixed-point map until a sweep gains less than `tol` nats.

    Parameters
    ----------
    visit
        From theta (K,) to a record with ``elbo``, the ELBO at theta; ``image``, F(theta) of the coordinate updates;
        ``leap``, where to try to go instead, a map with the same fixed points.
    theta
        Where to start.
    max_iter
        Largest number of sweeps.
    tol
        In nats; two sweeps in a row must gain less.

    Returns
    -------
    reached, history, settled
        The record with the highest ELBO, the ELBO at the start and after every sweep, whether the gains fell below `tol`.
    """
    here = visit(theta)
    history, stretch, small = [here.elbo], 1.0, 0
    while small < 2 and len(history) <= max_iter:
        ahead = theta + stretch * (here.leap - theta)
        with np.errstate(all="ignore"):  # a step too long is refused
            there = visit(ahead)
        if there.elbo > here.elbo:
            stretch *= STRETCH
        else:
            stretch, ahead, there = 1.0, here.image, visit(here.image)
        gain = there.elbo - here.elbo
        if not gain > 0:  # exact updates cannot lower the ELBO: what is left is rounding
            return here, np.array(history), True
        theta, here = ahead, there
        history.append(here.elbo)
        small = small + 1 if gain < tol else 0
    return here, np.array(history), small == 2
