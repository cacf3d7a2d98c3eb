"""`BayesianGaussianMixture`: scikit-learn's estimator on fused passes over rows.

The model, its priors, its parameters and their names are scikit-learn's, whose class lends the constructor and `sample`; added
are speed, sample weights, `partial_fit` and the posterior itself. Algorithms are in `mixture_fit.py` and `mixture_updates.py`.
"""

import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture as _Interface
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from jensen.core.threads import one_blas_thread
from jensen.estimators.mixture_fit import Ascent, ascended, prepared, started, stepped
from jensen.estimators.mixture_posterior import MixturePosterior
from jensen.estimators.mixture_prior import prior_of
from jensen.estimators.mixture_updates import Parameters, Prior, components, lower_bound
from jensen.kernels.mixture import Array, Moments, Shape, chunks, log_joint, normalize

_validate: Any = validate_data  # scikit-learn has no types, and defaults are taken for some

FORGETTING = 0.7
"""Power of the share of rows that are new, at which `partial_fit` replaces what it knows (Hoffman et al. 2013)."""


class BayesianGaussianMixture(_Interface):
    """Gaussian mixture with a posterior over its weights, means and precisions, by coordinate ascent.

    Up to 20,000 rows the numbers are scikit-learn's, given the same `random_state`. Beyond, starts are made on subsamples,
    passes over the data are fused and in single precision where that is safe, and iterations end when a step is shorter than
    `tol` nats (half its squared length in posterior sds). Memory is one copy of the data in single precision.

    Parameters
    ----------
    n_components
        Components at most; unneeded ones keep weights near zero.
    covariance_type
        "full", "tied" (one matrix for all), "diag" or "spherical".
    tol
        Iterations end when the lower bound changes by less, in nats.
    reg_covar
        Added to the diagonal of the covariances of the data in each component.
    max_iter, n_init
        Iterations at most; starts, of which the one with the largest lower bound is kept.
    init_params
        "kmeans", "k-means++", "random" or "random_from_data".
    weight_concentration_prior_type
        "dirichlet_process" (sticks) or "dirichlet_distribution".
    weight_concentration_prior
        Concentration of the weights, > 0; by default 1 / n_components.
    mean_precision_prior
        Rows that the prior of each mean is worth, > 0; by default 1.
    mean_prior
        (n_features,); by default the mean of the data.
    degrees_of_freedom_prior
        Of the Wishart prior of the precisions, > n_features - 1; by default n_features.
    covariance_prior
        (n_features, n_features), (n_features,) if "diag", a number if "spherical"; by default the covariance of the data. The
        prior mean of a precision matrix is `degrees_of_freedom_prior` times its inverse.
    random_state
        Seed of the start and of `sample`.
    warm_start
        Whether `fit` goes on from where the last one ended.
    verbose, verbose_interval
        Whether and how often progress is printed.

    Attributes
    ----------
    weights_, means_, covariances_, precisions_, precisions_cholesky_
        Point estimates: posterior means of weights, means and precisions, and what follows from the latter.
    weight_concentration_, mean_precision_, degrees_of_freedom_
        The other parameters of the posterior; `posterior_` says it in distributions.
    weight_concentration_prior_, mean_precision_prior_, mean_prior_, degrees_of_freedom_prior_, covariance_prior_
        The prior that was used.
    converged_, n_iter_, lower_bound_, lower_bounds_
        How the fit went: the bound after each pass over the data, up to scikit-learn's constants.
    n_features_in_, feature_names_in_
        Of the data.

    References
    ----------
    Bishop, Pattern Recognition and Machine Learning (2006), 10.2. Blei & Jordan, Variational inference for Dirichlet process
    mixtures (2006).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [4, 2], [12, 4], [10, 7]])
    >>> mixture = BayesianGaussianMixture(n_components=2, random_state=42).fit(X)
    >>> mixture.predict([[0, 0], [9, 3]])
    array([0, 1])
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to rows X (n_samples, n_features).

        Parameters
        ----------
        X
            Rows; at least two, and as many as components.
        y
            Ignored.
        sample_weight
            (n_samples,): how many rows each row stands for, >= 0.

        Raises
        ------
        ValueError
            Rows are missing, not finite or fewer than components, or a prior does not fit them.
        """
        self._fit(*self._checked(X, sample_weight, first=True))
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_predict(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> NDArray[np.int64]:
        """Fit as `fit` does, and the component of each row (n_samples,) as `predict` does."""
        self._fit(*self._checked(X, sample_weight, first=True))
        return self.predict(X)

    def _fit(self, x: Array, weight: Array | None) -> None:
        """Fit to checked rows with positive weights."""
        prior = self._set_prior(x, weight)
        data = prepared(self._shape, x, weight)
        fresh = not (self.warm_start and hasattr(self, "converged_"))
        random = check_random_state(self.random_state)
        best: Ascent | None = None
        # BLAS threads do not pay on chunks; looking them up costs milliseconds, as much as a pass in one dimension.
        with one_blas_thread() if data.rows is not None and x.shape[1] > 1 else nullcontext():
            for number in range(self.n_init if fresh else 1):
                self._print_verbose_msg_init_beg(number)
                q = (
                    started(data, prior, self.n_components, self.init_params, random)
                    if fresh
                    else self._going_on(x.shape[1])
                )
                bound = -np.inf if fresh else self.lower_bound_
                found = ascended(data, prior, q, self.tol, self.max_iter, bound, self._print_verbose_msg_iter_end)
                if found.bounds:
                    self._print_verbose_msg_init_end(found.bounds[-1], found.converged)
                if best is None or (found.bounds and found.bounds[-1] > best.bounds[-1]):
                    best = found
        assert best is not None
        self._keep(best.q, best.moments, data.total)
        self.converged_, self.n_iter_, self.lower_bounds_ = best.converged, len(best.bounds), best.bounds
        self.lower_bound_ = best.bounds[-1] if best.bounds else -np.inf
        if best.bounds and not best.converged:
            warnings.warn(
                f"the mixture did not converge in max_iter={self.max_iter} iterations; increase max_iter or tol, or try another "
                "init_params.",
                ConvergenceWarning,
                stacklevel=4,
            )

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None, total_samples: float | None = None
    ) -> Self:
        """One stochastic natural-gradient step on a batch X (n_samples, n_features).

        The first batch is fitted as `fit` would, and sets the prior where it is None. Each later one moves the sums of which the
        posterior is made a share (rows of the batch / rows seen so far)^0.7 of the way towards those of the batch. The posterior
        is that of as many rows as have been seen; with `total_samples`, of that many. After `fit`, it goes on from there.

        Parameters
        ----------
        X
            Rows; the first batch needs at least as many as there are components.
        y
            Ignored.
        sample_weight
            (n_samples,): how many rows each row stands for, >= 0.
        total_samples
            Rows there are in all. Give it when rows come several times: otherwise each time counts as new evidence.
        """
        if total_samples is not None and not total_samples > 0:
            raise ValueError(
                f"total_samples must be positive, got {total_samples!r}; give the number of rows there are in all."
            )
        if getattr(self, "_kept", None) is None:
            return self.fit(X, sample_weight=sample_weight)
        x, weight = self._checked(X, sample_weight, first=False)
        shape, q = self._shape, self._going_on(x.shape[1])
        data = prepared(shape, x, weight)
        seen = self._seen + data.total
        share = (data.total / seen) ** FORGETTING
        q, kept = stepped(data, self._prior, q, self._kept, share, total_samples or seen)
        self._keep(q, kept, seen)
        self.lower_bound_ = lower_bound(shape, q, kept.entropy)
        self.lower_bounds_ = [*self.lower_bounds_, self.lower_bound_]
        self.converged_, self.n_iter_ = False, self.n_iter_ + 1
        return self

    def _checked(self, X: ArrayLike, sample_weight: ArrayLike | None, first: bool) -> tuple[Array, Array | None]:
        """Rows in floating point and their weights (None: ones), without rows of weight zero."""
        x = _validate(self, X, reset=first, dtype=[np.float64, np.float32], ensure_min_samples=2 if first else 1)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
            if not weight.all():
                x, weight = x[weight > 0], weight[weight > 0]
            if not len(x):
                raise ValueError("sample_weight is zero for all rows; give at least one row a positive weight.")
        if first and len(x) < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, n_samples = {len(x)}; use fewer "
                "components."
            )
        return x, weight

    def _set_prior(self, x: Array, weight: Array | None) -> Prior:
        """The prior, in which None has become what the data say, and the attributes that report it."""
        self._prior = prior = prior_of(self, x, weight)
        self.weight_concentration_prior_ = prior.concentration
        self.mean_precision_prior_ = prior.mean_precision
        self.mean_prior_ = prior.mean
        self.degrees_of_freedom_prior_ = prior.degrees_of_freedom
        self.covariance_prior_ = prior.covariance
        return prior

    def _keep(self, q: Parameters, moments: Moments | None, seen: float) -> None:
        """Set what `fit` and `partial_fit` leave behind."""
        for name, value in q._asdict().items():
            setattr(self, f"{name}_", value)
        mean = self.posterior_.mean
        self.weights_, self.precisions_ = mean["weights"], mean["precisions"]
        if isinstance(a := q.weight_concentration, tuple):
            self.weights_[-1] *= a[0][-1] / (a[0][-1] + a[1][-1])
            self.weights_ /= self.weights_.sum()
        self._kept, self._seen = moments, seen

    @property
    def _shape(self) -> Shape:
        """Of the covariances; checked by scikit-learn."""
        return cast(Shape, self.covariance_type)

    def _parameters(self) -> Parameters:
        """Those of q, from the attributes."""
        return Parameters(*(getattr(self, f"{name}_") for name in Parameters._fields))

    def _going_on(self, D: int) -> Parameters:
        """Parameters to go on from, which have to be those of a mixture such as this one."""
        q, K = self._parameters(), self.n_components
        form = {"full": (K, D, D), "tied": (D, D), "diag": (K, D), "spherical": (K,)}[self._shape]
        if q.means.shape != (K, D) or q.covariances.shape != form:
            raise ValueError(
                f"the mixture was fitted with means {q.means.shape} and covariances {q.covariances.shape} and cannot go on with "
                f"{(K, D)} and {form}; fit anew with warm_start=False."
            )
        return q

    @property
    def posterior_(self) -> MixturePosterior:
        """The posterior over ``weights``, ``means`` and ``precisions``: `mean`, `sd` and `draws` by name."""
        check_is_fitted(self)
        return MixturePosterior(self._shape, self._parameters())

    def _log_joint(self, X: ArrayLike) -> Iterator[Array]:
        """Expected log joint densities of rows and components, (n_components, n) a chunk."""
        check_is_fitted(self)
        x = _validate(self, X, reset=False, dtype=[np.float64, np.float32])
        here = components(self._shape, self._parameters())
        return (log_joint(self._shape, np.ascontiguousarray(x[part].T, float), here) for part in chunks(len(x)))

    def score_samples(self, X: ArrayLike) -> Array:
        """Log density of each row (n_samples,), with expected log densities in the place of parameters, as in scikit-learn."""
        return np.concatenate([normalize(e) for e in self._log_joint(X)])

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The most probable component of each row (n_samples,)."""
        return np.concatenate([e.argmax(axis=0) for e in self._log_joint(X)])

    def predict_proba(self, X: ArrayLike) -> Array:
        """Probabilities of the components of each row (n_samples, n_components)."""

        def probabilities(e: Array) -> Array:
            normalize(e)
            return np.exp(e).T

        return np.concatenate([probabilities(e) for e in self._log_joint(X)])
