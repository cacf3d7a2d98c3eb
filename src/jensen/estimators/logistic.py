"""Bayesian logistic regression: a full-rank Gaussian over the weights, fitted to the ELBO itself and not to a bound of it.

    two classes    y_n ~ Bernoulli(sigmoid(f_n)),          f_n = b + w'x_n                  `sigmoid.py`
    K > 2          y_n ~ Categorical(softmax(f_n)),        f_nk = b_k + w_k'x_n             `softmax.py`
    both           w ~ Normal(0, 1 / lambda),   lambda ~ Gamma,   b flat                    `newton.py`

More than two classes are one softmax and not one model against the rest each: classes that lie between others have no plane of
their own, and probabilities of separate models, made to sum to one, are worse.
"""

from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from jensen.core.threads import one_blas_thread
from jensen.estimators.base import Moments, warn_unsettled, weights
from jensen.estimators.newton import Prior, Rows, climb, spanned, spread
from jensen.estimators.sigmoid import Binary, smoothed_sigmoid
from jensen.estimators.softmax import Softmax, contrasts, design, logits

_POINTS = 256  # of the design that averages new rows' probabilities
_BLOCK = 1 << 20


class BayesianLogisticRegression(ClassifierMixin, BaseEstimator):
    """Logistic regression with a posterior: probabilities that know how little the data say.

    Unlike scikit-learn's ``LogisticRegression``, the penalty's strength is found by the fit, and `predict_proba` averages
    over the posterior of the weights, so that it moves towards even odds where there are no data.

    Parameters
    ----------
    max_iter
        Largest number of sweeps.
    tol
        Sweeps end when one raises the ELBO by less than this, in nats.
    lambda_1, lambda_2
        Shape and rate of the Gamma prior of the weights' precision; the rate is in units of one over the mean variance of
        the columns, so that rescaling all of them by one factor changes nothing. Bring columns of different units to a
        common scale beforehand.

    Attributes
    ----------
    classes_
        Labels (K,).
    coef_
        Posterior means of the weights, (1, P) for two classes, (K, P) for more.
    intercept_
        Intercepts at the posterior means of the weights, (1,) or (K,); their prior is flat.
    sigma_
        Posterior covariance of the weights of each row of `coef_`, (1, P, P) or (K, P, P).
    lambda_
        Posterior mean of the weights' precision.
    elbo_
        The ELBO after every sweep, in nats.
    n_iter_
        Number of sweeps.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Notes
    -----
    A row of weight 2 counts as two rows. Classes that a plane separates are no trouble: the prior keeps the weights finite.

    References
    ----------
    Opper & Archambeau (2009), The variational Gaussian approximation revisited, Neural Computation 21.

    Examples
    --------
    >>> import numpy as np
    >>> from jensen.estimators import BayesianLogisticRegression
    >>> X, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), [0, 0, 1, 1]
    >>> BayesianLogisticRegression().fit(X, y).predict_proba([[0.0], [1.5], [100.0]])[:, 1].round(2)
    array([0.5 , 0.76, 0.96])
    """

    _parameter_constraints: dict[str, Any] = {
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "lambda_1": [Interval(Real, 0, None, closed="neither")],
        "lambda_2": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, *, max_iter: int = 100, tol: float = 1e-3, lambda_1: float = 1.0, lambda_2: float = 1.0) -> None:
        self.max_iter = max_iter
        self.tol = tol
        self.lambda_1 = lambda_1
        self.lambda_2 = lambda_2

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to rows X (N, P) and labels y (N,); a row of weight 2 counts as two rows."""
        self._validate_params()
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        weight = weights(self, X, sample_weight)
        if weight is not None:
            X, y, weight = X[weight > 0], y[weight > 0], weight[weight > 0]
        self.classes_, labels = np.unique(y, return_inverse=True)
        k, p = len(self.classes_), X.shape[1]
        if k < 2:
            raise ValueError(
                f"{type(self).__name__} needs rows of at least two classes; y has one class, {self.classes_[0]!r}, in the "
                "rows of positive weight; add rows of another."
            )
        with one_blas_thread():
            moments = Moments.of(X, weight=weight)
            variances = moments.sums / moments.count
            unit = variances[variances > 0].mean() if variances.any() else 1.0
            rows = Rows(X, weight, moments.mean, spanned(moments))
            likelihood = Binary(rows, (labels == 1).astype(float)) if k == 2 else Softmax(rows, np.eye(k)[labels])
            inside = np.tile(np.arange(rows.rank + 1) < rows.rank, likelihood.columns)
            prior = Prior(self.lambda_1, self.lambda_2 / unit, p * (1 if k == 2 else k), inside)
            self._q, self.lambda_, self.elbo_, settled = climb(likelihood, prior, self.max_iter, self.tol)
        if not settled:
            warn_unsettled(self)
        self.n_iter_ = max(len(self.elbo_) - 1, 1)
        self._rows = replace(rows, x=X[:0], weight=None)
        mixing = np.eye(1) if k == 2 else contrasts(k)
        each = mixing @ self._q.mean.reshape(likelihood.columns, -1)
        self.coef_ = each[:, :-1] if rows.basis is None else each[:, :-1] @ rows.basis.T
        self.intercept_ = each[:, -1] - self.coef_ @ rows.center
        return self

    @property
    def sigma_(self) -> np.ndarray:
        """Posterior covariance of the weights of each row of `coef_`."""
        check_is_fitted(self)
        k, p, rank = len(self.classes_), len(self._rows.center), self._rows.rank
        mixing = np.eye(1) if k == 2 else contrasts(k)
        parts = self._q.root.reshape(mixing.shape[1], rank + 1, -1)[:, :-1]
        each = np.tensordot(mixing, parts, 1)  # roots, (1 or K, R, D)
        basis = np.eye(p) if self._rows.basis is None else self._rows.basis
        within = basis @ (each @ np.swapaxes(each, 1, 2)) @ basis.T
        # The mean over classes and the directions without data keep their prior.
        kept = within + (np.eye(p) - basis @ basis.T) * ((mixing**2).sum(1) / self.lambda_)[:, None, None]
        return kept if k == 2 else kept + np.eye(p) / (k * self.lambda_)

    def _log_chances(self, X: Any) -> np.ndarray:
        """Logarithms of the probabilities, (N, K)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        k, root = len(self.classes_), self._q.root
        columns = max(k - 1, 1)
        chances = []
        height = max(1, _BLOCK // (columns * len(root) + k * _POINTS))
        for start in range(0, len(X), height):
            part = X[start : start + height]
            x = self._rows.turned(part)
            # Directions without data: what they add at rows that leave the space of those seen.
            beyond = np.maximum(((part - self._rows.center) ** 2).sum(1) - (x[:, :-1] ** 2).sum(1), 0) / self.lambda_
            f, roots = x @ self._q.mean.reshape(columns, -1).T, spread(x, root, columns)
            covariance = roots @ np.swapaxes(roots, 1, 2) + beyond[:, None, None] * np.eye(columns)
            if k == 2:
                f, variance = f[:, 0], covariance[:, 0, 0]
                chances.append(np.stack([smoothed_sigmoid(-f, variance), smoothed_sigmoid(f, variance)], 1))
            else:
                points, shares = design(k, _POINTS)
                chances.append(shares @ softmax(logits(f, covariance, points), 2))
        return np.log(np.maximum(np.concatenate(chances), np.finfo(float).tiny))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes at rows X (N, P), averaged over the posterior of the weights: (N, K)."""
        return np.exp(self._log_chances(X))

    def decision_function(self, X: Any) -> np.ndarray:
        """Log odds of these probabilities for two classes (N,), else their logarithms (N, K)."""
        logs = self._log_chances(X)
        return logs[:, 1] - logs[:, 0] if len(self.classes_) == 2 else logs

    def predict(self, X: Any) -> np.ndarray:
        """Labels of highest probability at rows X (N, P): (N,)."""
        best = self._log_chances(X).argmax(1)
        return self.classes_[best]
