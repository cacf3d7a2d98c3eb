"""Gaussian hidden Markov models by variational Bayes, with hmmlearn's conventions.

    z_1 ~ Categorical(pi),   z_t+1 | z_t ~ Categorical(A[z_t]),   x_t | z_t = k ~ Normal(mu_k, L_k^-1)
    pi, A[i] ~ Dirichlet;   (mu_k, L_k) Normal-Wishart or Normal-Gamma, see `emissions.py`
    q = q(z) q(pi) prod_i q(A[i]) prod_k q(mu_k, L_k)

A sweep is forward-backward on exp E log pi, exp E log A and exp E log N(x_t | k), which gives q(z) exactly, then the conjugate
updates from its expected counts. The ELBO is log Z of the chain minus the divergences of the parameters' posteriors from their
priors.

References: MacKay (1997), Ensemble learning for hidden Markov models; Beal (2003), Variational algorithms for approximate
Bayesian inference, chapter 3; Gruhl & Sick (2016), Variational Bayesian inference for hidden Markov models with multivariate
Gaussian output distributions, arXiv:1605.08618 (hmmlearn's).
"""

from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import digamma, gammaln
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from jensen.estimators.base import warn_unsettled
from jensen.estimators.emissions import TYPES, Gaussians
from jensen.kernels.chains import SPREAD, Smoothed, likeliest_path, smooth, spread

_SMALL = 1e-3  # prior scale of covariances, in units of the variances of the columns
_ROUNDING = 16 * np.finfo(float).eps
_POSITIVE = {"startprob_prior", "transmat_prior", "beta_prior", "dof_prior"}


class _Posterior(NamedTuple):
    """q of everything but the states, or the prior."""

    start: np.ndarray  # Dirichlet concentrations (K,)
    steps: np.ndarray  # (K, K)
    emissions: Gaussians

    def update(self, x: np.ndarray, first: np.ndarray, probs: np.ndarray, steps: np.ndarray) -> "_Posterior":
        """The posterior, with this as the prior."""
        return _Posterior(self.start + probs[first].sum(0), self.steps + steps, self.emissions.update(x, probs))

    def smooth(self, x: np.ndarray, first: np.ndarray) -> Smoothed:
        """Q of the states."""
        return _smooth(self.emissions.expected(x), _expected_log(self.start), _expected_log(self.steps), first)

    def divergence(self, prior: "_Posterior") -> float:
        """KL divergence from the prior, in nats."""
        chain = _dirichlet_divergence(self.start, prior.start) + _dirichlet_divergence(self.steps, prior.steps).sum()
        return float(chain + self.emissions.divergence(prior.emissions))


def _expected_log(concentration: np.ndarray) -> np.ndarray:
    """E log of a Dirichlet over the last axis."""
    return digamma(concentration) - digamma(concentration.sum(-1, keepdims=True))


def _dirichlet_divergence(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KL(Dirichlet(a) || Dirichlet(b)) over the last axis."""
    norms = gammaln(a.sum(-1)) - gammaln(b.sum(-1)) - (gammaln(a) - gammaln(b)).sum(-1)
    return norms + ((a - b) * _expected_log(a)).sum(-1)


def _unary(levels: np.ndarray, start: np.ndarray, first: np.ndarray) -> np.ndarray:
    return levels + np.where(first[:, None], start, 0.0)


def _smooth(levels: np.ndarray, start: np.ndarray, steps: np.ndarray, first: np.ndarray) -> Smoothed:
    """Forward-backward over sequences that begin where `first` is true; potentials are logarithms."""
    unary = _unary(levels, start, first)
    if spread(steps) < SPREAD:
        return smooth(unary, steps, first)
    # Transitions that are next to impossible need recursions on logarithms, and a compiler.
    import jax.numpy as jnp

    from jensen.core import precision
    from jensen.families.markov import MarkovChain

    with precision.scope():
        chain = MarkovChain(jnp.asarray(unary), jnp.where(first[1:, None, None], 0.0, steps))
        moments = chain.moments()
        pairs = jnp.where(first[1:, None, None], 0.0, moments["pairs"]).sum(0)
        return Smoothed(np.asarray(moments["probs"]), np.asarray(pairs), float(chain.log_partition()))


def _firsts(lengths: Any, n: int) -> np.ndarray:
    """Whether a sequence begins at each of n rows."""
    first = np.zeros(n, bool)
    if lengths is None:
        first[0] = True
        return first
    each = np.asarray(lengths)
    if each.ndim != 1 or not np.issubdtype(each.dtype, np.integer) or (each < 1).any() or each.sum() != n:
        raise ValueError(f"lengths must be positive integers that sum to the number of rows, {n}; got {lengths!r}.")
    first[np.r_[0, np.cumsum(each)[:-1]]] = True
    return first


class GaussianHMM(BaseEstimator):
    """Hidden Markov model with Gaussian emissions and posteriors of all its parameters.

    The interface is hmmlearn's. Unlike its ``GaussianHMM`` the fit is variational; unlike its ``VariationalGaussianHMM``
    diagonal and spherical covariances have their own conjugate priors, the prior scale follows the data's units, and the
    ELBO is complete. States that the data do not need stay empty, so that `n_components` is an upper limit.

    Parameters
    ----------
    n_components
        Number of states, K.
    covariance_type
        ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
    startprob_prior, transmat_prior
        Concentrations of the Dirichlet priors, numbers or (K,) and (K, K); None for 1 / K.
    means_prior, beta_prior
        Prior means, a number, (P,) or (K, P), None for the mean of the rows; and how many rows they are worth, a number or
        (K,).
    dof_prior, scale_prior
        Degrees of freedom and scale of the priors of the covariances: Wishart with this rate matrix if full or tied, Gamma
        with half of both if diagonal or spherical; shapes as those of `covars_` before they are filled up. None for P, or 1
        if diagonal or spherical, and for 0.001 times the variances of the columns.
    algorithm
        What `predict` returns: ``"viterbi"``, the likeliest path, or ``"map"``, the likeliest state at each time.
    random_state
        Of the start (k-means), and of `sample`.
    n_iter
        Largest number of sweeps.
    tol
        Sweeps end when one raises the ELBO by less than this, in nats.

    Attributes
    ----------
    startprob_, transmat_, means_
        Posterior means, (K,), (K, K) and (K, P).
    covars_
        Inverses of the posterior mean precisions, always (K, P, P).
    startprob_posterior_, transmat_posterior_, beta_posterior_, dof_posterior_, scale_posterior_
        Parameters of the posteriors, named as their priors.
    elbo_
        The ELBO before each update of the parameters, in nats.
    converged_, n_iter_
        Whether the ELBO settled, and the number of sweeps.
    n_features_in_, feature_names_in_
        As everywhere in scikit-learn.

    Notes
    -----
    Sequences are laid end to end; their lengths are passed by name, ``fit(X, lengths=[...])``: the second argument is the
    ``y`` of scikit-learn's contract, which is ignored. ``score`` and ``predict_proba`` return what hmmlearn's
    ``score_samples`` does. Densities, paths and probabilities of new rows are those at the posterior means, as in hmmlearn.
    The ELBO has local optima; the start is k-means.

    References
    ----------
    Beal (2003), Variational algorithms for approximate Bayesian inference, chapter 3.

    Examples
    --------
    >>> import numpy as np
    >>> from jensen.estimators import GaussianHMM
    >>> rng = np.random.default_rng(0)
    >>> z = np.repeat([0, 1, 0, 1], 50)
    >>> X = 4 * z[:, None] + rng.normal(size=(200, 1))
    >>> GaussianHMM(n_components=2, random_state=0).fit(X).means_.round(0)
    array([[0.],
           [4.]])
    """

    _parameter_constraints: dict[str, Any] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(TYPES))],
        "startprob_prior": [Interval(Real, 0, None, closed="neither"), "array-like", None],
        "transmat_prior": [Interval(Real, 0, None, closed="neither"), "array-like", None],
        "means_prior": [Real, "array-like", None],
        "beta_prior": [Interval(Real, 0, None, closed="neither"), "array-like"],
        "dof_prior": [Interval(Real, 0, None, closed="neither"), "array-like", None],
        "scale_prior": [Interval(Real, 0, None, closed="neither"), "array-like", None],
        "algorithm": [StrOptions({"viterbi", "map"})],
        "random_state": ["random_state"],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        n_components: int = 1,
        covariance_type: str = "diag",
        *,
        startprob_prior: Any = None,
        transmat_prior: Any = None,
        means_prior: Any = None,
        beta_prior: Any = 1.0,
        dof_prior: Any = None,
        scale_prior: Any = None,
        algorithm: str = "viterbi",
        random_state: Any = None,
        n_iter: int = 500,
        tol: float = 1e-3,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.startprob_prior = startprob_prior
        self.transmat_prior = transmat_prior
        self.means_prior = means_prior
        self.beta_prior = beta_prior
        self.dof_prior = dof_prior
        self.scale_prior = scale_prior
        self.algorithm = algorithm
        self.random_state = random_state
        self.n_iter = n_iter
        self.tol = tol

    def _prior(self, x: np.ndarray) -> _Posterior:
        k, dim = self.n_components, x.shape[1]
        variances = x.var(0)
        variances = np.where(variances > (_ROUNDING * np.abs(x).max(0)) ** 2, variances, 1.0)
        matrix = self.covariance_type in ("full", "tied")
        shapes = {"full": (k, dim, dim), "tied": (dim, dim), "diag": (k, dim), "spherical": (k,)}
        small = {
            "full": np.diag(variances),
            "tied": np.diag(variances),
            "diag": variances,
            "spherical": variances.mean(),
        }

        def filled(name: str, default: Any, shape: tuple[int, ...]) -> np.ndarray:
            value = getattr(self, name)
            try:
                full = np.broadcast_to(np.asarray(default if value is None else value, float), shape).copy()
            except ValueError:
                raise ValueError(f"{name} must fill the shape {shape}; got {value!r}.") from None
            if not np.isfinite(full).all() or (name in _POSITIVE and (full <= 0).any()):
                raise ValueError(f"{name} must be finite{' and positive' if name in _POSITIVE else ''}; got {value!r}.")
            return full

        dof = filled("dof_prior", dim if matrix else 1, () if self.covariance_type == "tied" else (k,))
        if matrix and (dof <= dim - 1).any():
            raise ValueError(
                f"dof_prior must exceed the number of columns less one, {dim - 1}; got {self.dof_prior!r}."
            )
        scale = filled("scale_prior", _SMALL * small[self.covariance_type], shapes[self.covariance_type])
        if matrix and (np.linalg.eigvalsh(scale) <= 0).any():
            raise ValueError(f"scale_prior must be positive definite; got {self.scale_prior!r}.")
        mean, beta = filled("means_prior", x.mean(0), (k, dim)), filled("beta_prior", 1.0, (k,))
        start, steps = filled("startprob_prior", 1 / k, (k,)), filled("transmat_prior", 1 / k, (k, k))
        return _Posterior(start, steps, TYPES[self.covariance_type](mean, beta, dof, scale))

    def _begin(self, x: np.ndarray, first: np.ndarray, prior: _Posterior) -> _Posterior:
        """The posterior if k-means' labels were the states."""
        k = self.n_components
        means: Any = KMeans(k, n_init=10, random_state=self.random_state)  # pyright: ignore[reportArgumentType]
        labels = means.fit_predict(x) if k > 1 else np.zeros(len(x), int)
        probs, steps = np.eye(k)[labels], np.zeros((k, k))
        inside = ~first[1:]
        np.add.at(steps, (labels[:-1][inside], labels[1:][inside]), 1.0)
        return prior.update(x, first, probs, steps)

    def fit(self, X: Any, y: Any = None, lengths: Any = None) -> Self:
        """Fit to rows X (N, P), sequences of the given lengths laid end to end; y is ignored."""
        self._validate_params()
        X = validate_data(self, X, dtype=np.float64)
        _refuse_lengths(y, lengths, len(X))
        first = _firsts(lengths, len(X))
        if len(X) < self.n_components:
            raise ValueError(f"n_components={self.n_components} states need as many rows; got n_samples = {len(X)}.")
        prior = self._prior(X)
        q = self._begin(X, first, prior)
        history: list[float] = []
        while len(history) < self.n_iter:
            states = q.smooth(X, first)
            history.append(states.log_z - q.divergence(prior))
            q = prior.update(X, first, states.probs, states.steps)
            if len(history) > 1 and history[-1] - history[-2] < self.tol:
                break
        self.elbo_, self.n_iter_ = np.array(history), len(history)
        self.converged_ = len(history) > 1 and history[-1] - history[-2] < self.tol
        if not self.converged_:
            warn_unsettled(self, "n_iter")
        self.startprob_posterior_, self.transmat_posterior_ = q.start, q.steps
        self.startprob_ = q.start / q.start.sum()
        self.transmat_ = q.steps / q.steps.sum(1, keepdims=True)
        self.means_, self.covars_ = q.emissions.mean, q.emissions.covariances()
        self.beta_posterior_, self.dof_posterior_, self.scale_posterior_ = (
            q.emissions.beta,
            q.emissions.dof,
            q.emissions.scale,
        )
        return self

    def _potentials(self, X: Any, lengths: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Arguments of `_smooth`, at the posterior means."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with np.errstate(divide="ignore"):
            start, steps = np.log(self.startprob_), np.log(self.transmat_)
        return _log_densities(X, self.means_, self.covars_), start, steps, _firsts(lengths, len(X))

    def score(self, X: Any, y: Any = None, lengths: Any = None) -> float:
        """Log density of rows X (N, P), summed; y is ignored."""
        _refuse_lengths(y, lengths, len(X))
        return _smooth(*self._potentials(X, lengths)).log_z

    def predict_proba(self, X: Any, lengths: Any = None) -> np.ndarray:
        """Probabilities of the states at rows X (N, P): (N, K)."""
        return _smooth(*self._potentials(X, lengths)).probs

    def decode(self, X: Any, lengths: Any = None, algorithm: str | None = None) -> tuple[float, np.ndarray]:
        """Log joint density of the likeliest path and the path (N,), or the sum of the states' probabilities with ``"map"``."""
        algorithm = algorithm or self.algorithm
        if algorithm not in ("viterbi", "map"):
            raise ValueError(f"algorithm must be 'viterbi' or 'map'; got {algorithm!r}.")
        levels, start, steps, first = self._potentials(X, lengths)
        if algorithm == "map":
            probs = _smooth(levels, start, steps, first).probs
            return float(probs.max(1).sum()), probs.argmax(1)
        path, log_prob = likeliest_path(_unary(levels, start, first), steps, first)
        return log_prob, path

    def predict(self, X: Any, lengths: Any = None) -> np.ndarray:
        """States of rows X (N, P): (N,)."""
        return self.decode(X, lengths)[1]

    def sample(
        self, n_samples: int = 1, random_state: Any = None, currstate: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a sequence at the posterior means: rows (N, P) and states (N,); it begins in `currstate` if that is given."""
        check_is_fitted(self)
        rng = check_random_state(self.random_state if random_state is None else random_state)
        states = np.empty(n_samples, int)
        chance = self.startprob_ if currstate is None else np.eye(self.n_components)[currstate]
        for t in range(n_samples):
            states[t] = rng.choice(self.n_components, p=chance)
            chance = self.transmat_[states[t]]
        roots = np.linalg.cholesky(self.covars_)
        noise = rng.standard_normal((n_samples, self.means_.shape[1], 1))
        return self.means_[states] + (roots[states] @ noise)[..., 0], states


def _refuse_lengths(y: Any, lengths: Any, n: int) -> None:
    """Hmmlearn's second argument is the lengths, scikit-learn's is y."""
    if y is not None and lengths is None and np.size(y) != n:
        raise ValueError(
            f"The second argument is y, which is ignored; got {np.size(y)} values for {n} rows; lengths=... goes by name."
        )


def _log_densities(x: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Log density of each row under each Gaussian, (N, K)."""
    roots = np.linalg.cholesky(covariances)
    far = np.stack(
        [(solve_triangular(root, (x - m).T, lower=True) ** 2).sum(0) for m, root in zip(means, roots, strict=True)], 1
    )
    log_det = 2 * np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(1)
    return -0.5 * (far + log_det + x.shape[1] * np.log(2 * np.pi))
