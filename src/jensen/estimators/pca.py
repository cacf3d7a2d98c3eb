"""Bayesian principal components: probabilistic PCA with a posterior of the loadings, and as many components as the data support.

    x_n = mu + W z_n + noise,   z_n ~ Normal(0, I_Q),   noise ~ Normal(0, 1 / tau I_D),   mu flat
    w_j ~ Normal(0, 1 / alpha_j I_D),   alpha_j, tau ~ Gamma
    q = prod_n q(z_n) prod_d q(W_d.) q(mu) prod_j q(alpha_j) q(tau)

Along the principal axes u_j of the data all updates are scalar and stay so (the optimum is aligned with them: Nakajima et al.):
with l_j = sum_n (u_j'(x_n - mean))^2, E w_j = m_j u_j, Var W_dj = s_j, Var z_nj = c_j and expectations under q on the right,

    c_j = 1 / (1 + tau (m_j^2 + D s_j)),   A_j = sum_n E z_nj^2 = N c_j + tau^2 c_j^2 m_j^2 l_j
    s_j = 1 / (tau A_j + alpha_j),         m_j <- tau^2 s_j c_j m_j l_j
    rate of alpha_j  b + (m_j^2 + D s_j) / 2,   rate of tau  b + E sum_n |x_n - mu - W z_n|^2 / 2

so a sweep costs Q operations, whatever N and D are. z_j and w_j share their scale, which is set to its best value in every
sweep. Starts with every number of components run side by side; the one of the highest ELBO is kept.

References: Bishop (1999), Variational principal components, ICANN; Nakajima, Sugiyama, Babacan & Tomioka (2013), Global
analytic solution of fully-observed variational Bayesian matrix factorization, JMLR 14; Luttinen & Ilin (2010), Transformations
in variational Bayesian factor analysis to speed up learning, Neurocomputing 73 (the scale).
"""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from scipy.linalg import eigh
from scipy.special import digamma
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from jensen.estimators.base import Moments, gamma_divergence, warn_unsettled, weights

_FLAT = 1e-3  # shape of the Gamma priors, and the rate of alpha's in units of the mean variance of a column
_QUIET = 1e-9  # rate of tau's in these units: how small a noise is believed
_ROUNDING = 16 * np.finfo(float).eps
_STARTS = 32  # numbers of components that are tried side by side


@dataclass(frozen=True, eq=False)
class _Data:
    """What the updates read: spectrum of the scatter (R,), largest first, weighted number of rows, number of columns."""

    spectrum: np.ndarray
    count: float
    dim: int

    @property
    def unit(self) -> float:
        """Mean variance of a column; 1 if nothing varies."""
        return float(self.spectrum.sum()) / (self.count * self.dim) or 1.0


@dataclass(frozen=True, eq=False)
class _State:
    """q of several starts, (S, Q) or (S, 1); components that a start lacks are outside of its mask."""

    mask: np.ndarray
    rest: np.ndarray  # sum of the spectrum outside of the mask
    m: np.ndarray
    s: np.ndarray
    tau: np.ndarray
    alpha: np.ndarray
    c: np.ndarray
    shrink: np.ndarray  # E w_j z_nj over u_j'(x_n - mean)


def _start(data: _Data, sizes: np.ndarray) -> _State:
    """Principal components of each size, and the mean of the variances that are left as the noise's."""
    sums = np.r_[np.cumsum(data.spectrum[::-1])[::-1], 0.0]
    mask, rest = np.arange(sizes.max()) < sizes[:, None], sums[sizes][:, None]
    variances = data.spectrum[: sizes.max()] / data.count
    noise = np.maximum(rest / data.count / (data.dim - sizes[:, None]), _QUIET * data.unit)
    m = np.where(mask, np.sqrt(np.maximum(variances - noise, 1e-3 * noise)), 0.0)
    s = np.broadcast_to(noise / data.count, m.shape)
    return _State(mask, rest, m, s, 1 / noise, data.dim / (m**2 + data.dim * s), m, m)


def _sweep(data: _Data, q: _State) -> tuple[_State, np.ndarray]:
    """Every update once, and the ELBO of each start (S,)."""
    n, dim, mask = data.count, data.dim, q.mask
    spectrum = data.spectrum[: mask.shape[1]]
    tau, alpha = q.tau, q.alpha
    c = 1 / (1 + tau * (q.m**2 + dim * q.s))
    lean = tau * c * q.m  # E z_nj = lean_j u_j'(x_n - mean)
    a = n * c + lean**2 * spectrum
    s = 1 / (tau * a + alpha)
    m = tau * s * lean * spectrum
    w = m**2 + dim * s  # E |w_j|^2
    shrink = m * lean
    misfit = q.rest + np.where(mask, spectrum * (1 - shrink) ** 2 + n * c * m**2 + dim * s * a, 0.0).sum(
        1, keepdims=True
    )
    # z_j times r and w_j over r, for the best r^2.
    grow = ((n - dim) + np.sqrt((n - dim) ** 2 + 4 * a * alpha * w)) / (2 * a)
    c, a, s, m, w = c * grow, a * grow, s / grow, m / np.sqrt(grow), w / grow
    shape, rate0 = _FLAT + dim / 2, _FLAT * data.unit
    rate = rate0 + w / 2
    alpha = shape / rate
    shape_tau, rate_tau0 = _FLAT + n * dim / 2, _QUIET * data.unit
    tau = (shape_tau - dim / 2) / (rate_tau0 + misfit / 2)  # jointly with mu, whose q has precision N tau
    log_alpha, log_tau = digamma(shape) - np.log(rate), digamma(shape_tau) - np.log(shape_tau / tau)
    each = n * (1 + np.log(c)) - a + dim * (log_alpha + 1 + np.log(s)) - alpha * w
    each = 0.5 * each - gamma_divergence(shape, rate, _FLAT, rate0)
    rows = n * dim * (log_tau - np.log(2 * np.pi)) - tau * misfit
    center = dim * (np.log(2 * np.pi) - np.log(n * tau))
    elbo = 0.5 * (rows + center) - gamma_divergence(shape_tau, shape_tau / tau, _FLAT, rate_tau0)
    return _State(mask, q.rest, m, s, tau, alpha, c, shrink), elbo[:, 0] + np.where(mask, each, 0.0).sum(1)


def _fit(data: _Data, sizes: np.ndarray, max_iter: int, tol: float) -> tuple[_State, np.ndarray, bool]:
    """Sweeps from starts of all sizes until no ELBO grows by `tol`: q, the history (sweeps, S), whether settled."""
    q, history = _start(data, sizes), []
    for _ in range(max_iter):
        q, elbo = _sweep(data, q)
        history.append(elbo)
        if len(history) > 1 and (history[-1] - history[-2] < tol).all():
            return q, np.array(history), True
    return q, np.array(history), False


def _search(data: _Data, most: int, max_iter: int, tol: float) -> tuple[_State, int, np.ndarray, bool]:
    """The start of highest ELBO among all numbers of components up to `most`: states, its row, its history, whether settled."""
    low, high = 0, most
    while True:
        sizes = np.unique(np.linspace(low, high, _STARTS).round().astype(int))
        q, history, settled = _fit(data, sizes, max_iter, tol)
        best = int(history[-1].argmax())
        if len(sizes) == high - low + 1:
            return q, best, history[:, best], settled
        low, high = sizes[max(best - 1, 0)], sizes[min(best + 1, len(sizes) - 1)]


def _principal(moments: Moments, varies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spectrum of the scatter of the columns that vary, largest first (R,), and the axes (R, D)."""
    if not varies.any():
        return np.zeros(1), np.zeros((0, 0))
    if moments.root is None:
        spectrum, vectors = eigh(moments.scatter[np.ix_(varies, varies)])
        return spectrum[::-1], vectors[:, ::-1].T
    root = moments.root[:, varies]
    spectrum, vectors = eigh(root @ root.T)
    axes = (vectors.T @ root) / np.sqrt(np.maximum(spectrum, np.finfo(float).tiny))[:, None]
    return spectrum[::-1], axes[::-1]


class BayesianPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Principal components that find their own number, shrunk by what the noise adds to them.

    Unlike scikit-learn's ``PCA``, the number of components is found by the ELBO, and scores are shrunk towards zero by as
    much as the noise inflates them. As the noise vanishes, or the rows become many, components and scores become those of
    ``PCA``.

    Parameters
    ----------
    n_components
        Largest number of components that is considered; None for as many as rows and columns allow, min(N, P) - 1.
    max_iter
        Largest number of sweeps.
    tol
        Sweeps end when one raises the ELBO by less than this, in nats.

    Attributes
    ----------
    n_components_
        Number of components that stand out of the noise, K; it may be 0.
    components_
        Orthonormal axes, largest variance first, (K, P); their largest loading is positive.
    explained_variance_
        Variance along each axis, noise included, (K,).
    explained_variance_ratio_
        The same over the variance of all columns, (K,).
    loadings_sd_
        Posterior standard deviation of the elements of each column of W, (K,), for z of unit variance.
    noise_variance_
        Posterior mean of the noise's variance.
    mean_
        Mean of the columns, (P,).
    elbo_
        The ELBO after every sweep, in nats.
    n_iter_
        Number of sweeps.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Notes
    -----
    Constant columns take no part. q treats scores and loadings as independent, which makes the noise too large where
    components are many and rows few: 0.54 for 0.25 with 40 components and 200 rows, 0.27 with 50 components, 300 rows and
    200 columns.

    References
    ----------
    Bishop (1999), Variational principal components, ICANN; Tipping & Bishop (1999), Probabilistic principal component analysis,
    JRSS B 61.

    Examples
    --------
    >>> import numpy as np
    >>> from jensen.estimators import BayesianPCA
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 10)) + 0.1 * rng.normal(size=(200, 10))
    >>> BayesianPCA().fit(X).n_components_
    2
    """

    _parameter_constraints: dict[str, Any] = {
        "n_components": [Interval(Integral, 0, None, closed="left"), None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, n_components: int | None = None, *, max_iter: int = 1000, tol: float = 1e-3) -> None:
        self.n_components = n_components
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to rows X (N, P); y is ignored; a row of weight 2 counts as two rows."""
        return self._add(X, sample_weight, None)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Add rows to those seen so far; the result is that of `fit` on all of them, whatever the batches."""
        return self._add(X, sample_weight, getattr(self, "_moments", None))

    def _add(self, X: Any, sample_weight: Any, before: Moments | None) -> Self:
        self._validate_params()
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=before is None)
        weight = weights(self, X, sample_weight)
        if weight is not None:
            X, weight = X[weight > 0], weight[weight > 0]
        moments = Moments.of(X, weight=weight)
        moments = moments if before is None else before.join(moments)
        if moments.rows < 2 or moments.count < 1 + 1e-6:
            raise ValueError(
                f"{type(self).__name__} needs at least two rows; got n_samples = {moments.rows} with a sum of weights of "
                f"{moments.count:g}, where a row of weight 2 counts as two rows; add rows or scale the weights."
            )
        self._moments = moments
        self._solve()
        return self

    def _solve(self) -> None:
        moments = self._moments
        varies = moments.sums > 0  # a constant column would say that there is no noise at all
        dim = max(int(varies.sum()), 1)
        spectrum, axes = _principal(moments, varies)
        data = _Data(np.where(spectrum > _ROUNDING * dim * spectrum[0], spectrum, 0.0), moments.count, dim)
        allowed = min(int((data.spectrum > 0).sum()), dim - 1)
        most = allowed if self.n_components is None else min(self.n_components, allowed)
        q, best, self.elbo_, settled = _search(data, most, self.max_iter, self.tol)
        if not settled:
            warn_unsettled(self, stacklevel=5)
        k = int(q.mask[best].sum())
        whole = np.zeros((k, len(varies)))
        whole[:, varies] = axes[:k]
        tallest = np.abs(whole).argmax(1)
        self.components_ = whole * np.sign(whole[np.arange(k), tallest])[:, None]
        signal = q.m[best, :k] ** 2
        self.mean_ = moments.mean
        self.n_components_ = self._n_features_out = k
        self.n_iter_ = len(self.elbo_)
        self.noise_variance_ = float(1 / q.tau[best, 0])
        self.explained_variance_ = signal + self.noise_variance_
        self.explained_variance_ratio_ = self.explained_variance_ / (data.unit * dim)
        self.loadings_sd_ = np.sqrt(q.s[best, :k])
        self._shrink = q.shrink[best, :k]

    def _scores(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        centered = X - self.mean_
        return centered, centered @ self.components_.T

    def transform(self, X: Any) -> np.ndarray:
        """Posterior means of the scores of rows X (N, P) along the components: (N, K)."""
        return self._scores(X)[1] * self._shrink

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Rows (N, P) without their noise, from scores X (N, K)."""
        check_is_fitted(self)
        return np.asarray(X) @ self.components_ + self.mean_

    def get_covariance(self) -> np.ndarray:
        """Covariance of a row at the posterior means, (P, P)."""
        check_is_fitted(self)
        signal = (self.explained_variance_ - self.noise_variance_)[:, None]
        return (signal * self.components_).T @ self.components_ + self.noise_variance_ * np.eye(len(self.mean_))

    def score_samples(self, X: Any) -> np.ndarray:
        """Log density of each row of X (N, P) at the posterior means: (N,)."""
        centered, scores = self._scores(X)
        k, dim = scores.shape[1], centered.shape[1]
        rest = np.maximum((centered**2).sum(1) - (scores**2).sum(1), 0)
        log_det = np.log(self.explained_variance_).sum() + (dim - k) * np.log(self.noise_variance_)
        far = (scores**2 / self.explained_variance_).sum(1) + rest / self.noise_variance_
        return -0.5 * (dim * np.log(2 * np.pi) + log_det + far)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log density of the rows of X (N, P); y is ignored."""
        return float(self.score_samples(X).mean())
