"""`LatentDirichletAllocation`: scikit-learn's estimator, with topics that do not depend on a lucky start.

The constructor, the fitted attributes and their meaning are scikit-learn's. Fitting is not: topics are found by collapsed
passes and by moves that split and merge (`topics_passes.py`). `score` and `perplexity` are the variational lower bound, as there.
"""

import logging
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from jensen.estimators import topics_passes as passes
from jensen.estimators.topics_records import Corpus, Priors, read_corpus, rows
from jensen.kernels.topics_compile import lanes

STEADY = 1e-3
"""Passes end when one changes documents' counts by less than this a word."""

_log = logging.getLogger(__name__)


class LatentDirichletAllocation(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Topics of documents given as counts of words.

    Parameters
    ----------
    n_components
        Number of topics.
    doc_topic_prior, topic_word_prior
        Dirichlet priors alpha and eta, at least 1e-8; by default 1 / n_components.
    learning_method
        "batch": CVB0, which holds a probability for each topic and each word of a document (up to 2 GiB; larger corpora are
        passed over without, and end a little worse). "online": SCVB0 on minibatches, which holds the topics only.
    learning_decay, learning_offset
        Minibatch t has weight (learning_offset + t) ** -learning_decay; in [0, 1] and at least 1.
    max_iter
        Most passes over all documents after the start, which has passes of its own over a sample of
        them. They end earlier when one changes little.
    batch_size
        Documents a minibatch.
    evaluate_every
        Every so many passes, find the perplexity of the documents and stop when it changes by less than `perp_tol`;
        0 or less: never.
    total_samples
        Documents there are, for `partial_fit` and for `perplexity(sub_sampling=True)`.
    perp_tol
        See `evaluate_every`.
    mean_change_tol, max_doc_update_iter
        A document's topics are found when an update changes them by less on average, or after so many updates.
        In minibatches, 20 at most.
    bound_iter
        Passes of variational Bayes at the end. Each raises the lower bound (`lower_bounds_`), and usually makes the
        prediction of held-out words a little worse.
    n_jobs
        Accepted for compatibility; everything runs on one thread.
    verbose
        If positive, log each pass at level INFO to the logger ``jensen.estimators.topics``.
    random_state
        Seed, generator or None.

    Attributes
    ----------
    components_
        (n_components, n_features): Dirichlet parameters of topics over words, the prior plus expected counts.
    exp_dirichlet_component_
        Same shape: exp of the expected log probabilities.
    bound_
        Perplexity of the documents after `fit`: exp of minus the lower bound a word; NaN if there are no words.
    lower_bounds_
        The lower bound at each of the `bound_iter` passes; empty without.
    n_iter_, n_batch_iter_
        Passes over all documents after the start; updates of the topics, and the number of the next minibatch.
    doc_topic_prior_, topic_word_prior_, random_state_
        What was used.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    References
    ----------
    Asuncion, Welling, Smyth, Teh 2009, "On smoothing and inference for topic models"; Foulds et al. 2013, "Stochastic collapsed
    variational Bayesian inference for latent Dirichlet allocation"; Blei, Ng, Jordan 2003, "Latent Dirichlet allocation".

    Notes
    -----
    Counts need not be integers. A document without words is given the prior; a word that no document has keeps the prior in
    every topic. Negative counts and NaN are refused. The first fit on a machine compiles its passes, which takes seconds.
    """

    def __init__(
        self,
        n_components: int = 10,
        *,
        doc_topic_prior: float | None = None,
        topic_word_prior: float | None = None,
        learning_method: str = "batch",
        learning_decay: float = 0.7,
        learning_offset: float = 10.0,
        max_iter: int = 10,
        batch_size: int = 128,
        evaluate_every: int = -1,
        total_samples: float = 1e6,
        perp_tol: float = 1e-1,
        mean_change_tol: float = 1e-3,
        max_doc_update_iter: int = 100,
        bound_iter: int = 0,
        n_jobs: int | None = None,
        verbose: int = 0,
        random_state: Any = None,
    ):
        self.n_components = n_components
        self.doc_topic_prior = doc_topic_prior
        self.topic_word_prior = topic_word_prior
        self.learning_method = learning_method
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.evaluate_every = evaluate_every
        self.total_samples = total_samples
        self.perp_tol = perp_tol
        self.mean_change_tol = mean_change_tol
        self.max_doc_update_iter = max_doc_update_iter
        self.bound_iter = bound_iter
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the topics of X (n_samples, n_features), counts of words as an array or a sparse matrix; y is ignored."""
        self._check_options()
        X = self._counts(X, "fit", reset=True)
        corpus = self._begin(X)
        if self.learning_method == "batch":
            trail = passes.batch(corpus, self._priors, self.random_state_)
        else:
            trail = self._minibatches(corpus)
        by_word, last = next(trail).by_word, np.inf
        for n in range(1, self.max_iter + 1):
            by_word, change = next(trail)
            self.n_iter_ = n
            if self.learning_method == "batch":
                self.n_batch_iter_ += 1
            perplexity = np.nan
            if self.evaluate_every > 0 and n % self.evaluate_every == 0:
                perplexity = self._perplexity(corpus, by_word.astype(np.float64))
            if self.verbose:
                _log.info("pass %d of %d: change %.2g, perplexity %.4f", n, self.max_iter, change, perplexity)
            if change < STEADY or abs(last - perplexity) < self.perp_tol:
                break
            last = last if np.isnan(perplexity) else perplexity
        by_word = by_word.astype(np.float64)
        vb = passes.bayes(corpus, self._priors, by_word, self.max_doc_update_iter, self.mean_change_tol)
        bounds = []
        for _ in range(self.bound_iter):
            by_word, bound = next(vb)
            bounds.append(bound)
        self.lower_bounds_ = np.array(bounds)
        self._keep(by_word, X.dtype)
        self.bound_ = self._perplexity(corpus, self._by_word())
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Update the topics with minibatches of X, which stand for `total_samples` documents; y is ignored."""
        self._check_options()
        first = not hasattr(self, "components_")
        X = self._counts(X, "partial_fit", reset=first)
        if first:
            corpus = self._begin(X)
            by_word = np.zeros((corpus.words, lanes(self.n_components)), np.float32)
            by_word[:, : self.n_components] = self.random_state_.gamma(100.0, 0.01, (corpus.words, self.n_components))
            by_word *= corpus.lengths.mean() * self.total_samples / (corpus.words * self.n_components)
        else:
            corpus, by_word = read_corpus(X), self._by_word().astype(np.float32)
        self._learn(corpus, by_word, self.total_samples, np.arange(corpus.documents))
        self._keep(by_word, X.dtype if first else self.components_.dtype)
        return self

    def transform(self, X: Any, *, normalize: bool = True) -> np.ndarray:
        """Topics of documents, (n_samples, n_components): proportions, or Dirichlet parameters with ``normalize=False``."""
        check_is_fitted(self)
        X = self._counts(X, "transform", reset=False)
        gamma, _, _ = self._infer(
            read_corpus(X), np.log(np.maximum(self.exp_dirichlet_component_.T, 1e-300)), bound=False
        )
        topics = gamma[:, : self._priors.topics]
        if normalize:
            topics = topics / topics.sum(1, keepdims=True)
        return topics.astype(self.components_.dtype, copy=False)

    def fit_transform(self, X: Any, y: Any = None, *, normalize: bool = True) -> np.ndarray:
        """`fit`, then `transform`."""
        return self.fit(X, y).transform(X, normalize=normalize)

    def score(self, X: Any, y: Any = None) -> float:
        """Variational lower bound of log p(X), with the topics' own part: a bound however they were fitted."""
        check_is_fitted(self)
        return self._bound(read_corpus(self._counts(X, "score", reset=False)), self._by_word())

    def perplexity(self, X: Any, sub_sampling: bool = False) -> float:
        """exp(-score(X) / words of X); with `sub_sampling`, X stands for `total_samples` documents. NaN without words."""
        check_is_fitted(self)
        corpus = read_corpus(self._counts(X, "perplexity", reset=False))
        ratio = self.total_samples / corpus.documents if sub_sampling else 1.0
        return self._perplexity(corpus, self._by_word(), ratio)

    # What the methods share

    def _check_options(self) -> None:
        whole = {"n_components": 1, "batch_size": 1, "max_iter": 0, "max_doc_update_iter": 0, "bound_iter": 0}
        for name, least in whole.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(
                    f"{name} must be an integer of at least {least}; got {value!r}; for example {max(least, 10)}."
                )
        real = {
            "learning_decay": (0.0, 1.0),
            "learning_offset": (1.0, np.inf),
            "total_samples": (np.finfo(float).tiny, np.inf),
            "perp_tol": (0.0, np.inf),
            "mean_change_tol": (0.0, np.inf),
            "doc_topic_prior": (1e-8, np.inf),
            "topic_word_prior": (1e-8, np.inf),
        }
        for name, (low, high) in real.items():
            value = getattr(self, name)
            if value is None and name.endswith("_prior"):
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high or value == np.inf:
                raise ValueError(
                    f"{name} must be a number from {low:g} to {high:g}; got {value!r}; see the documentation."
                )
        if self.learning_method not in ("batch", "online"):
            raise ValueError(f"learning_method must be 'batch' or 'online'; got {self.learning_method!r}; try 'batch'.")

    def _counts(self, X: Any, whom: str, reset: bool) -> Any:
        dtype = [np.float64, np.float32] if reset else self.components_.dtype
        X = validate_data(self, X, reset=reset, accept_sparse="csr", dtype=dtype)
        check_non_negative(X, f"LatentDirichletAllocation.{whom}")
        return X

    def _begin(self, X: Any) -> Corpus:
        self.random_state_ = check_random_state(self.random_state)
        self.doc_topic_prior_ = 1 / self.n_components if self.doc_topic_prior is None else self.doc_topic_prior
        self.topic_word_prior_ = 1 / self.n_components if self.topic_word_prior is None else self.topic_word_prior
        self.n_iter_, self.n_batch_iter_ = 0, 1
        return read_corpus(X)

    @property
    def _priors(self) -> Priors:
        topics = self.components_.shape[0] if hasattr(self, "components_") else self.n_components
        return Priors(int(topics), float(self.doc_topic_prior_), float(self.topic_word_prior_))

    def _minibatches(self, corpus: Corpus) -> Iterator[passes.Pass]:
        """The start, which counts as minibatches too, then passes of minibatches in random order."""
        fit = passes.start(corpus, self._priors, self.random_state_)
        by_word = fit.by_word * np.float32(corpus.documents / fit.corpus.documents)
        self.n_batch_iter_ += -(-fit.corpus.documents // self.batch_size)
        while True:
            yield passes.Pass(by_word, np.inf)
            self._learn(corpus, by_word, corpus.documents, self.random_state_.permutation(corpus.documents))

    def _learn(self, corpus: Corpus, by_word: np.ndarray, total: float, order: np.ndarray) -> None:
        updates = max(1, min(passes.UPDATES, self.max_doc_update_iter))
        for first in range(0, len(order), self.batch_size):
            docs = order[first : first + self.batch_size]
            weight = (self.learning_offset + self.n_batch_iter_) ** -self.learning_decay
            passes.learn(rows(corpus, docs), self._priors, by_word, weight, total / len(docs), updates)
            self.n_batch_iter_ += 1

    def _keep(self, by_word: np.ndarray, dtype: Any) -> None:
        parameters = np.maximum(by_word[:, : self.n_components].T.astype(np.float64), 0) + self.topic_word_prior_
        self.components_ = np.ascontiguousarray(parameters, dtype)
        logs = passes.log_topics(self._by_word(), self._priors)
        self.exp_dirichlet_component_ = np.ascontiguousarray(np.exp(logs).T, dtype)

    def _by_word(self) -> np.ndarray:
        by_word = np.zeros((self.components_.shape[1], lanes(self.components_.shape[0])))
        by_word[:, : self.components_.shape[0]] = np.maximum(self.components_.T - np.float64(self.topic_word_prior_), 0)
        return by_word

    def _infer(self, corpus: Corpus, log_topic: np.ndarray, bound: bool) -> tuple[np.ndarray, np.ndarray, float]:
        log_topic = np.ascontiguousarray(log_topic, np.float64)
        return passes.infer(
            corpus, self._priors, log_topic, self.max_doc_update_iter, self.mean_change_tol, bound=bound
        )

    def _bound(self, corpus: Corpus, by_word: np.ndarray, ratio: float = 1.0) -> float:
        logs = passes.log_topics(by_word, self._priors)
        return ratio * self._infer(corpus, logs, bound=True)[2] + passes.topics_bound(by_word, logs, self._priors)

    def _perplexity(self, corpus: Corpus, by_word: np.ndarray, ratio: float = 1.0) -> float:
        words = ratio * corpus.lengths.sum()
        return float(np.exp(-self._bound(corpus, by_word, ratio) / words)) if words else float("nan")

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float32", "float64"]
        return tags
