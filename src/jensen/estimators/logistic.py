"""Bayesian logistic regression: a full-rank Gaussian over the weights, fitted to the ELBO itself and not to a bound of it.

    y_n ~ Bernoulli(sigmoid(f_n)),   f_n = b + w'x_n,   w_j ~ Normal(0, 1 / lambda),   lambda ~ Gamma,   b flat
    q(w, b, lambda) = Normal(w, b; m, S) Gamma(lambda)

Under q every f_n is Normal(mu_n, v_n), so the ELBO is a sum of one-dimensional integrals. They are closed forms once the logistic
distribution is written as a scale mixture of eight normals (Monahan & Stefanski 1992; sigmoid to 2e-9, log sigmoid to 8e-9, at any
variance, where Gauss-Hermite rules fail at large ones). With E s_n = E sigmoid(f_n), E s'_n its derivative in mu_n, a sweep is

    rate of lambda   b_lambda + E|w|^2 / 2                                             shape a_lambda + P / 2
    S^-1  <-  X' diag(E s') X + diag(lambda, 0),    m  <-  m + S (X'(y - E s) - diag(lambda, 0) m)

a natural-gradient step of length one, or shorter where that would lower the ELBO: Newton's method on smoothed derivatives, which
needs five to ten passes. Directions in which no row varies keep their prior.

More than two classes are fitted one against the rest: the softmax would need integrals of K dimensions a row, or a bound.

References: Opper & Archambeau (2009), The variational Gaussian approximation revisited, Neural Computation 21; Monahan & Stefanski
(1992), Normal scale mixture approximations to F*(z) and computation of the logistic-normal integral, in: Handbook of the
Logistic Distribution; Khan & Rue (2023), The Bayesian learning rule, JMLR 24.
"""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh, qr, solve_triangular
from scipy.special import digamma, ndtr
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from jensen.core.threads import one_blas_thread
from jensen.estimators.base import Moments, gamma_divergence, warn_unsettled, weights

# Weights and standard deviations of the normals whose mixture is the logistic distribution, from Monahan & Stefanski's table.
_SHARES = np.array(
    [
        0.003246343272134,
        0.051517477033972,
        0.195077912673858,
        0.315569823632818,
        0.274149576158423,
        0.131076880695470,
        0.027912418727972,
        0.001449567805354,
    ]
)
_SDS = 1 / np.array(
    [
        1.365340806296348,
        1.059523971016916,
        0.830791313765644,
        0.650732166639391,
        0.508135425366489,
        0.396313345166341,
        0.308904252267995,
        0.238212616409306,
    ]
)
_BLOCK = 1 << 16  # numbers in a block of rows
_HALVINGS = 8
_RANK = 1e-12  # of the largest eigenvalue of the correlations


def smoothed_sigmoid(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """E sigmoid(f) of f ~ Normal(mean, variance), elementwise."""
    total = np.zeros_like(mean)
    for share, sd in zip(_SHARES, _SDS, strict=True):
        total += share * ndtr(mean / np.sqrt(sd**2 + variance))
    return total


def smoothed(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E log(1 + exp f), E sigmoid(f) and E sigmoid'(f) of f ~ Normal(mean, variance), elementwise."""
    value, slope, curvature = np.zeros_like(mean), np.zeros_like(mean), np.zeros_like(mean)
    for share, sd in zip(_SHARES, _SDS, strict=True):
        width = np.sqrt(sd**2 + variance)
        at = mean / width
        bell = np.exp(-0.5 * at**2) * (share / np.sqrt(2 * np.pi))
        below = share * ndtr(at)
        value += mean * below + width * bell
        slope += below
        curvature += bell / width
    return value, slope, curvature


class _Pass(NamedTuple):
    """What one pass over the rows says about q."""

    fit: float  # E_q log p(y | w, b)
    slope: np.ndarray  # X'(y - E s)
    curvature: np.ndarray  # X' diag(E s') X


@dataclass(frozen=True, eq=False)
class _Rows:
    """Centered rows in a basis of the space that they span, with a last column of ones."""

    x: np.ndarray  # (N, P)
    y: np.ndarray  # (N,), 0 or 1
    weight: np.ndarray | None
    center: np.ndarray
    basis: np.ndarray | None  # (P, R), orthonormal, or None where R = P

    def blocks(self) -> Any:
        """Parts of X (n, R + 1), y and the weights."""
        dim = 1 + (len(self.center) if self.basis is None else self.basis.shape[1])
        height = max(1, _BLOCK // dim)
        for start in range(0, len(self.x), height):
            here = slice(start, start + height)
            part = self.x[here] - self.center
            part = part if self.basis is None else part @ self.basis
            yield np.c_[part, np.ones(len(part))], self.y[here], None if self.weight is None else self.weight[here]

    def visit(self, mean: np.ndarray, root: np.ndarray) -> _Pass:
        """One pass at q = Normal(mean, root root')."""
        fit, slope, curvature = 0.0, np.zeros(len(mean)), np.zeros((len(mean), len(mean)))
        for x, y, weight in self.blocks():
            f = x @ mean
            value, chance, bend = smoothed(f, ((x @ root) ** 2).sum(1))
            terms, away = y * f - value, y - chance
            if weight is not None:
                terms, away, bend = weight * terms, weight * away, weight * bend
            fit += terms.sum()
            slope += away @ x
            x *= np.sqrt(bend)[:, None]
            curvature += x.T @ x
        return _Pass(float(fit), slope, curvature)


@dataclass(frozen=True, eq=False)
class _Gaussian:
    """q of the weights in the basis and of the intercept, by mean and Cholesky factor of the precision."""

    mean: np.ndarray
    factor: np.ndarray

    @property
    def root(self) -> np.ndarray:
        """R with S = R R'."""
        return solve_triangular(self.factor, np.eye(len(self.mean)), lower=True).T


def _step(q: _Gaussian, seen: _Pass, penalty: np.ndarray, length: float) -> _Gaussian:
    """Natural-gradient step from q; `penalty` is the diagonal of the prior's precision."""
    precision = length * (seen.curvature + np.diag(penalty)) + (1 - length) * (q.factor @ q.factor.T)
    factor = cho_factor(precision, lower=True)
    mean = q.mean + length * cho_solve(factor, seen.slope - penalty * q.mean)
    return _Gaussian(mean, np.tril(factor[0]))


class _Prior(NamedTuple):
    """Gamma prior of lambda, and how many weights and how many of them in the basis there are."""

    shape: float
    rate: float
    p: int
    r: int

    def precision(self, q: _Gaussian) -> float:
        """Mean of lambda under its optimal posterior, jointly with that of the weights outside of the basis."""
        return (self.shape + self.r / 2) / (self.rate + self._square(q) / 2)

    def elbo(self, fit: float, q: _Gaussian, lam: float) -> float:
        """The ELBO at q, whose lambda has mean `lam`."""
        shape = self.shape + self.p / 2
        log_lam = digamma(shape) - np.log(shape / lam)
        weights = self.r * (log_lam + 1) - lam * self._square(q) + (self.p - self.r) * (log_lam - np.log(lam))
        intercept = 1 + np.log(2 * np.pi)
        entropy = -2 * np.log(q.factor.diagonal()).sum()
        return fit + 0.5 * float(weights + intercept + entropy) - float(gamma_divergence(shape, shape / lam, self.shape, self.rate))

    def _square(self, q: _Gaussian) -> float:
        """E |w|^2 in the basis."""
        return float((q.mean[:-1] ** 2).sum() + (q.root[:-1] ** 2).sum())


def _ascend(rows: _Rows, prior: _Prior, max_iter: int, tol: float) -> tuple[_Gaussian, float, np.ndarray, bool]:
    """Sweeps until one gains less than `tol` nats: q, mean of lambda, the ELBO after every sweep, whether it settled."""
    chance = np.average(rows.y, weights=rows.weight)
    mean = np.r_[np.zeros(prior.r), np.log(chance / (1 - chance))]
    lam = prior.shape / prior.rate
    seen = rows.visit(mean, np.zeros((prior.r + 1, 1)))
    q = _step(_Gaussian(mean, np.eye(prior.r + 1)), seen, np.r_[np.full(prior.r, lam), 0.0], 1.0)
    seen = rows.visit(q.mean, q.root)
    history = [prior.elbo(seen.fit, q, lam)]
    while len(history) <= max_iter:
        lam = prior.precision(q)
        penalty = np.r_[np.full(prior.r, lam), 0.0]
        before = prior.elbo(seen.fit, q, lam)
        for length in 0.5 ** np.arange(_HALVINGS):
            there = _step(q, seen, penalty, length)
            seen_there = rows.visit(there.mean, there.root)
            elbo = prior.elbo(seen_there.fit, there, lam)
            if elbo > before:
                break
        else:  # what is left is rounding
            return q, lam, np.array([*history, max(before, history[-1])]), True
        q, seen = there, seen_there
        history.append(elbo)
        if history[-1] - history[-2] < tol:
            return q, lam, np.array(history), True
    return q, lam, np.array(history), False


def _basis(moments: Moments) -> np.ndarray | None:
    """Orthonormal basis (P, R) of the directions in which rows vary; None where that is all of them."""
    sums = moments.sums
    varies = sums > 0
    scale = np.sqrt(sums[varies])
    if moments.root is not None:
        rows = moments.root[:, varies] / scale
        values, vectors = eigh(rows @ rows.T)
        spanned = rows.T @ vectors[:, values > _RANK * values[-1]]
    else:
        values, vectors = eigh(moments.scatter[np.ix_(varies, varies)] / scale / scale[:, None])
        spanned = vectors[:, values > _RANK * values[-1]]
    if spanned.shape[1] == len(sums):
        return None
    basis = np.zeros((len(sums), spanned.shape[1]))
    basis[varies] = qr(scale[:, None] * spanned, mode="economic")[0]
    return basis


class BayesianLogisticRegression(ClassifierMixin, BaseEstimator):
    """Logistic regression with a posterior: probabilities that know how little the data say.

    Unlike scikit-learn's ``LogisticRegression``, the penalty's strength is found by the fit, and `predict_proba` averages over the
    posterior of the weights, so that it moves towards even odds where there are no data.

    Parameters
    ----------
    max_iter
        Largest number of sweeps.
    tol
        Sweeps end when one raises the ELBO by less than this, in nats.
    lambda_1, lambda_2
        Shape and rate of the Gamma prior of the weights' precision; the rate is in units of one over the mean variance of the columns,
        so that rescaling all of them by one factor changes nothing. Bring columns of different units to a common scale beforehand.

    Attributes
    ----------
    classes_
        Labels (K,).
    coef_
        Posterior means of the weights, (1, P) for two classes, (K, P) for more: each class against the rest.
    intercept_
        Intercepts at the posterior means of the weights, (1,) or (K,); their prior is flat.
    sigma_
        Posterior covariances of the weights, (1, P, P) or (K, P, P).
    lambda_
        Posterior means of the weights' precisions, (1,) or (K,).
    elbo_
        The ELBO after every sweep, in nats; a list of K arrays for more than two classes.
    n_iter_
        Number of sweeps, (1,) or (K,).
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

    def __init__(self, *, max_iter: int = 100, tol: float = 1e-4, lambda_1: float = 1.0, lambda_2: float = 1.0) -> None:
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
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs rows of at least two classes; y has one class, {self.classes_[0]!r}, in the rows of "
                "positive weight; add rows of another."
            )
        moments = Moments.of(X, weight=weight)
        basis, p = _basis(moments), X.shape[1]
        spread = moments.sums / moments.count
        size = spread[spread > 0].mean() if spread.any() else 1.0
        prior = _Prior(self.lambda_1, self.lambda_2 / size, p, p if basis is None else basis.shape[1])
        self._center = moments.mean
        fits = []
        with one_blas_thread():
            for k in range(len(self.classes_)) if len(self.classes_) > 2 else [1]:
                rows = _Rows(X, (labels == k).astype(float), weight, moments.mean, basis)
                fits.append(_ascend(rows, prior, self.max_iter, self.tol))
        if not all(settled for *_, settled in fits):
            warn_unsettled(self)
        qs, self.lambda_ = [q for q, *_ in fits], np.array([lam for _, lam, _, _ in fits])
        turn = np.eye(p) if basis is None else basis
        beyond = np.eye(p) - turn @ turn.T if basis is not None else np.zeros((p, p))
        self.coef_ = np.array([turn @ q.mean[:-1] for q in qs])
        self._intercept = np.array([q.mean[-1] for q in qs])  # at the center
        self.intercept_ = self._intercept - self.coef_ @ self._center
        roots = [np.vstack([turn @ q.root[:-1], q.root[-1]]) for q in qs]
        self._cov = np.array([root @ root.T for root in roots])  # of the weights and the intercept at the center
        self._cov[:, :p, :p] += beyond / self.lambda_[:, None, None]
        self.sigma_ = self._cov[:, :p, :p]
        histories = [history for _, _, history, _ in fits]
        self.elbo_ = histories if len(histories) > 1 else histories[0]
        self.n_iter_ = np.array([max(len(history) - 1, 1) for history in histories])
        return self

    def _chances(self, X: Any) -> np.ndarray:
        """Probability of the class and of the rest, (2, N, C)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        x = np.c_[X - self._center, np.ones(len(X))]
        mean = x[:, :-1] @ self.coef_.T + self._intercept
        variance = np.stack([((x @ cov) * x).sum(1) for cov in self._cov], 1)
        variance = np.maximum(variance, 0)
        return np.maximum([smoothed_sigmoid(mean, variance), smoothed_sigmoid(-mean, variance)], np.finfo(float).tiny)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes at rows X (N, P), averaged over the posterior of the weights: (N, K)."""
        ours, others = self._chances(X)
        if len(self.classes_) == 2:
            return np.concatenate([others, ours], 1)
        return ours / ours.sum(1, keepdims=True)

    def decision_function(self, X: Any) -> np.ndarray:
        """Log odds of these probabilities before they are normalized: (N,) for two classes, else (N, K)."""
        ours, others = self._chances(X)
        odds = np.log(ours) - np.log(others)
        return odds[:, 0] if len(self.classes_) == 2 else odds

    def predict(self, X: Any) -> np.ndarray:
        """Labels of highest probability at rows X (N, P): (N,)."""
        odds = self.decision_function(X)
        return self.classes_[(odds > 0).astype(int) if odds.ndim == 1 else odds.argmax(1)]
