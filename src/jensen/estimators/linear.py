"""Bayesian linear regression with Gamma posteriors of the noise's and of the weights' precisions.

    y_n ~ Normal(b + w'x_n, 1 / alpha),   w_j ~ Normal(0, 1 / lambda_j),   alpha, lambda_j ~ Gamma,   b flat
    q(w, alpha, lambda) = Normal(w; m, S) Gamma(alpha) prod_j Gamma(lambda_j)

The intercept is integrated out, which centers x and y and leaves nu = N - 1 degrees of freedom (nu = N without an intercept).
With G and g the centered X'X and X'y, and expectations under q on the right, a sweep is

    S = (alpha G + diag lambda)^-1,   m = alpha S g
    rate of alpha    = b_alpha + (|y - X m|^2 + tr G S) / 2        shape a_alpha + nu / 2
    rate of lambda_j = b_lambda + (m_j^2 + S_jj) / 2               shape a_lambda + 1 / 2

`BayesianLinearRegression` has one lambda for all weights, `ARDRegression` one for each. G is summed once, so that a sweep
costs P^3 whatever N is; with more columns than rows Woodbury's identity makes it N^2 P. The precisions move in longer steps
while that works (`base.ascend`): those of irrelevant columns would otherwise crawl.

References: MacKay (1992), Bayesian interpolation, Neural Computation 4; Bishop (2006), Pattern Recognition and Machine
Learning, section 10.3; Drugowitsch (2013), Variational Bayesian inference for linear and logistic regression, arXiv:1310.5438.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple, Self
from warnings import warn

import numpy as np
from scipy.linalg import eigh, get_lapack_funcs
from scipy.special import digamma
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from jensen.core.errors import FitWarning
from jensen.core.threads import one_blas_thread
from jensen.estimators.base import Moments, ascend, gamma_divergence, warn_unsettled, weights

_POTRF, _POTRI, _POTRS = get_lapack_funcs(("potrf", "potri", "potrs"), dtype=np.float64)
_INTERPOLATES = 0.9  # share of the degrees of freedom that the weights take


@dataclass(frozen=True, eq=False)
class _Sums:
    """What the updates read of the rows, which are centered if there is an intercept."""

    freedom: float  # nu
    cross: np.ndarray  # g (P,)
    total: float  # y'y
    gram: np.ndarray | None  # G (P, P), or
    rows: tuple[np.ndarray, np.ndarray] | None  # X (N, P) and y (N,), if there are fewer rows than columns
    spread: np.ndarray  # variances of the columns and of y, 1 where they are zero (P + 1,)

    def residual(self, m: np.ndarray) -> float:
        """|y - X m|^2."""
        if self.rows is not None:
            x, y = self.rows
            return float(((y - x @ m) ** 2).sum())
        return max(float(self.total - 2 * (m @ self.cross) + m @ (self.gram @ m)), 0.0)

    def invert(self, alpha: float, root: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """With M = I + alpha D G D, D = diag(root): the diagonal of M^-1, M^-1 D g, log |M|."""
        if self.rows is not None:
            x = self.rows[0] * root
            inverse, solved, log_det = _invert(alpha * (x @ x.T), self.rows[1])
            return 1 - alpha * (x * (inverse @ x)).sum(0), x.T @ solved, log_det
        inverse, solved, log_det = _invert(alpha * (self.gram * root) * root[:, None], root * self.cross)
        return inverse.diagonal(), solved, log_det

    def covariance(self, alpha: float, root: np.ndarray) -> np.ndarray:
        """D M^-1 D, (P, P)."""
        if self.rows is not None:
            x, y = self.rows[0] * root, self.rows[1]
            inverse = -alpha * (x.T @ (_invert(alpha * (x @ x.T), y)[0] @ x))
            inverse.flat[:: len(root) + 1] += 1
        else:
            inverse = _invert(alpha * (self.gram * root) * root[:, None], self.cross)[0]
        return inverse * root * root[:, None]


def _invert(matrix: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """With M = I + matrix, which is positive semidefinite up to rounding: M^-1, M^-1 right, log |M|."""
    shifted = matrix + np.eye(len(matrix))
    factor, failed = _POTRF(shifted, lower=1, clean=1)
    if failed:  # collinear columns and next to no noise; the eigenvalues of M are at least 1
        values, vectors = eigh(matrix)
        values = 1 + np.maximum(values, 0)
        inverse = (vectors / values) @ vectors.T
        return inverse, vectors @ ((right @ vectors) / values), float(np.log(values).sum())
    inverse, _ = _POTRI(factor, lower=1)
    inverse += np.tril(inverse, -1).T
    solved, _ = _POTRS(factor, right, lower=1)
    return inverse, solved, 2 * float(np.log(factor.diagonal()).sum())


def _sums(moments: Moments, fit_intercept: bool) -> _Sums:
    sums, mean, root = moments.sums, moments.mean, moments.root
    varies = sums > 0
    if root is not None:
        root = root * varies
        root = root if fit_intercept else np.vstack([root, np.sqrt(moments.count) * mean])
        x, y = root[:, :-1], root[:, -1]
        gram, cross, total, rows = None, y @ x, float(y @ y), (x, y)
    else:
        whole = moments.scatter * varies * varies[:, None]
        whole = whole if fit_intercept else whole + moments.count * np.outer(mean, mean)
        gram, cross, total, rows = whole[:-1, :-1], whole[:-1, -1], float(whole[-1, -1]), None
    spread = np.where(varies, sums, moments.count) / moments.count
    return _Sums(moments.count - fit_intercept, cross, total, gram, rows, spread)


class _Sweep(NamedTuple):
    """q at given precisions: its ELBO, and the logarithms of the rates that follow."""

    elbo: float
    image: np.ndarray
    leap: np.ndarray
    mean: np.ndarray
    rates: np.ndarray
    used: float


class _LinearRegression(RegressorMixin, BaseEstimator, ABC):
    """Common part of the two regressions: they differ in which weights share a precision."""

    _parameter_constraints: dict[str, Any] = {
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "alpha_1": [Interval(Real, 0, None, closed="neither")],
        "alpha_2": [Interval(Real, 0, None, closed="neither")],
        "lambda_1": [Interval(Real, 0, None, closed="neither")],
        "lambda_2": [Interval(Real, 0, None, closed="neither")],
        "fit_intercept": ["boolean"],
    }

    def __init__(
        self,
        *,
        max_iter: int = 1000,
        tol: float = 1e-3,
        alpha_1: float = 1e-6,
        alpha_2: float = 1e-6,
        lambda_1: float = 1e-6,
        lambda_2: float = 1e-10,
        fit_intercept: bool = True,
    ) -> None:
        self.max_iter = max_iter
        self.tol = tol
        self.alpha_1 = alpha_1
        self.alpha_2 = alpha_2
        self.lambda_1 = lambda_1
        self.lambda_2 = lambda_2
        self.fit_intercept = fit_intercept

    @abstractmethod
    def _precisions(self, p: int) -> int:
        """How many precisions p weights have: 1 or p."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to rows X (N, P) and targets y (N,); a row of weight 2 counts as two rows."""
        return self._add(X, y, sample_weight, None)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Add rows to those seen so far; the result is that of `fit` on all of them, whatever the batches."""
        return self._add(X, y, sample_weight, getattr(self, "_moments", None))

    def _add(self, X: Any, y: Any, sample_weight: Any, before: Moments | None) -> Self:
        self._validate_params()
        floats = [np.float64, np.float32]
        X, y = validate_data(self, X, y, dtype=floats, y_numeric=True, reset=before is None)
        weight = weights(self, X, sample_weight)
        if weight is not None:
            X, y, weight = X[weight > 0], y[weight > 0], weight[weight > 0]
        moments = Moments.of(X, y, weight)
        moments = moments if before is None else before.join(moments)
        if self.fit_intercept and moments.rows > 1 and moments.count < 1 + 1e-6:
            raise ValueError(
                f"sample_weight sums to {moments.count:g} over {moments.rows} rows, which leaves nothing beside the intercept, "
                "because a row of weight 2 counts as two rows; scale the weights so that they sum to the number of rows."
            )
        self._moments = moments
        self._solve()
        return self

    def _solve(self) -> None:
        sums = _sums(self._moments, self.fit_intercept)
        p = len(sums.cross)
        groups = self._precisions(p)
        own = sums.spread[-1] / (sums.spread[:-1] if groups == p else sums.spread[:-1].mean(keepdims=True))
        shapes0 = np.r_[np.full(groups, self.lambda_1), self.alpha_1]
        rates0 = np.r_[self.lambda_2 * own, self.alpha_2 * sums.spread[-1]]
        shapes = shapes0 + np.r_[np.full(groups, p / groups), sums.freedom] / 2
        log_norm = sums.freedom * np.log(2 * np.pi) + (np.log(self._moments.count) if self.fit_intercept else 0.0)
        constant = p - log_norm + np.dot(shapes - shapes0, 2 * digamma(shapes))

        def gather(each: np.ndarray) -> np.ndarray:
            return each if groups == p else each.sum(keepdims=True)

        def visit(theta: np.ndarray) -> _Sweep:
            rates = np.exp(theta)
            means = shapes / rates
            alpha, lam = means[-1], np.broadcast_to(means[:-1], p)
            root = 1 / np.sqrt(lam)
            diagonal, first, log_det = sums.invert(alpha, root)
            m = alpha * root * first
            squares = m**2 + diagonal * root**2  # E w_j^2
            misfit, used = sums.residual(m), 1 - diagonal
            noise = misfit + used.sum() / alpha  # E |y - X w|^2
            grouped = gather(squares)
            apart = gamma_divergence(shapes, rates, shapes0, rates0).sum()
            fit = constant - 2 * np.dot(shapes - shapes0, theta) - alpha * noise - means[:-1] @ grouped
            elbo = 0.5 * (fit - np.log(lam).sum() - log_det) - apart
            # MacKay's rearrangement of the same fixed point: the part of a variance that follows its precision changes sides.
            explained = shapes0 + np.maximum(np.r_[gather(used), sums.freedom - used.sum()], 0) / 2
            leap = np.log(shapes / explained * (rates0 + np.r_[gather(m**2), misfit] / 2))
            return _Sweep(float(elbo), np.log(rates0 + np.r_[grouped, noise] / 2), leap, m, rates, float(used.sum()))

        start = np.log(shapes * np.r_[own, sums.spread[-1]])
        with one_blas_thread():
            best, self.elbo_, settled = ascend(visit, start, self.max_iter, self.tol)
        if not settled:
            warn_unsettled(self, stacklevel=5)
        self.n_effective_ = best.used
        if best.used > _INTERPOLATES * sums.freedom > 0:
            warn(
                f"{type(self).__name__} interpolates: {best.used:.3g} effective weights for {sums.freedom:g} degrees of freedom "
                "leave next to nothing to tell the noise from; do not rely on alpha_ and on standard deviations, or give the "
                "noise a prior (alpha_1, alpha_2).",
                FitWarning,
                stacklevel=4,
            )
        self.n_iter_ = max(len(self.elbo_) - 1, 1)
        means = shapes / best.rates
        self.alpha_, self.lambda_ = float(means[-1]), means[:-1] if groups == p else float(means[0])
        self.coef_ = best.mean
        self.sigma_ = sums.covariance(self.alpha_, 1 / np.sqrt(np.broadcast_to(means[:-1], p)))
        center = self._moments.mean if self.fit_intercept else np.zeros(p + 1)
        self._center = center[:-1]
        self.intercept_ = float(center[-1] - center[:-1] @ self.coef_)
        excess = shapes[-1] - 1
        self.noise_variance_ = float(best.rates[-1] / excess) if excess > 0 else np.inf

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict targets.

        Parameters
        ----------
        X
            (N, P).
        return_std
            Also return the standard deviation of a new target at each row: that of the noise, the weights and the intercept.

        Returns
        -------
        mean or (mean, std)
            Each (N,).
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        centered = X - self._center
        mean = centered @ self.coef_ + (self._center @ self.coef_ + self.intercept_)
        if not return_std:
            return mean
        variance = ((centered @ self.sigma_) * centered).sum(1) + self.noise_variance_
        if self.fit_intercept:
            variance += self.noise_variance_ / self._moments.count
        return mean, np.sqrt(variance)


class BayesianLinearRegression(_LinearRegression):
    """Bayesian linear regression whose weights share one precision: ridge regression that finds its own penalty.

    Unlike scikit-learn's ``BayesianRidge``, which puts point estimates in the place of both precisions, this is a
    variational fit with Gamma posteriors, the intercept's uncertainty is part of the predictions', and `sample_weight`
    counts rows.

    Parameters
    ----------
    max_iter
        Largest number of sweeps.
    tol
        Sweeps end when two in a row raise the ELBO by less than this, in nats.
    alpha_1, alpha_2
        Shape and rate of the Gamma prior of the noise's precision; the rate is in units of the variance of y.
    lambda_1, lambda_2
        Shape and rate of the Gamma prior of the weights' precision; the rate is in units of the variance of y over the mean
        variance of the columns. Units so chosen make the fit the same in meters and in miles; the defaults are flat.
    fit_intercept
        Whether there is an intercept, with a flat prior.

    Attributes
    ----------
    coef_
        Posterior means of the weights, (P,).
    sigma_
        Their posterior covariance, (P, P).
    intercept_
        Intercept at the posterior mean of the weights.
    alpha_
        Posterior mean of the noise's precision.
    noise_variance_
        Posterior mean of the noise's variance; infinite with less than three rows.
    lambda_
        Posterior mean of the weights' precision.
    n_effective_
        Number of weights that the data determine, as against the prior.
    elbo_
        The ELBO at the start and after every sweep, in nats, for y in its own units.
    n_iter_
        Number of sweeps.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    References
    ----------
    MacKay (1992), Bayesian interpolation, Neural Computation 4; Bishop (2006), Pattern Recognition and Machine Learning, 10.3.

    Examples
    --------
    >>> import numpy as np
    >>> from jensen.estimators import BayesianLinearRegression
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 2))
    >>> y = 3 + X @ [1.0, -2.0] + 0.1 * rng.normal(size=100)
    >>> mean, std = BayesianLinearRegression().fit(X, y).predict([[1.0, 1.0]], return_std=True)
    >>> mean.round(1), std.round(1)
    (array([2.]), array([0.1]))
    """

    def _precisions(self, p: int) -> int:
        return 1


class ARDRegression(_LinearRegression):
    """Bayesian linear regression with a precision for every weight, which switches irrelevant columns off.

    Unlike scikit-learn's class of this name, this is a variational fit with Gamma posteriors of all precisions; no column is
    dropped at a threshold, the Gram matrix is summed once, `sample_weight` and `partial_fit` are there, and the fit does not
    depend on units.

    Parameters
    ----------
    max_iter
        Largest number of sweeps.
    tol
        Sweeps end when two in a row raise the ELBO by less than this, in nats.
    alpha_1, alpha_2
        Shape and rate of the Gamma prior of the noise's precision; the rate is in units of the variance of y.
    lambda_1, lambda_2
        Shape and rate of the Gamma priors of the weights' precisions; the rate is in units of the variance of y over that of
        the column.
    fit_intercept
        Whether there is an intercept, with a flat prior.

    Attributes
    ----------
    lambda_
        Posterior means of the weights' precisions, (P,).
    coef_, sigma_, intercept_, alpha_, noise_variance_, n_effective_, elbo_, n_iter_
        As in `BayesianLinearRegression`.

    Notes
    -----
    With more columns than rows the flat priors let some columns explain the noise as well. The fit says so with a warning.

    References
    ----------
    MacKay (1994), Bayesian nonlinear modeling for the prediction competition, ASHRAE Transactions 100; Drugowitsch (2013),
    Variational Bayesian inference for linear and logistic regression, arXiv:1310.5438.

    Examples
    --------
    >>> import numpy as np
    >>> from jensen.estimators import ARDRegression
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 5))
    >>> y = 2 * X[:, 0] + rng.normal(size=200)
    >>> ARDRegression().fit(X, y).coef_.round(1)
    array([ 2.1, -0. , -0. ,  0. ,  0. ])
    """

    def _precisions(self, p: int) -> int:
        return p
