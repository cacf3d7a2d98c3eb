"""The passes that fit topics: a start on a sample, then CVB0, minibatches of SCVB0, or variational Bayes with its lower bound.

The start takes a random sample of documents, some thousand words a topic. Each document begins with random proportions of
topics, and CVB0 forms topics in ten to thirty passes over the sample. What it leaves wrong is nearly always two topics in one
beside one topic twice, and moves mend that (`topics_moves.py`). All documents then meet topics that are in
place, and ten passes do.

Papers, and the updates in symbols: `kernels/topics.py`. Counts by word are (V, lanes), by document (documents, lanes), see
`kernels/topics_compile.py` for lanes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, gammaln

from jensen.estimators.topics_moves import moves
from jensen.estimators.topics_records import Assigned, Corpus, Priors, rows
from jensen.kernels import topics as kernels
from jensen.kernels.topics_compile import lanes

SAMPLE = 8_000
"""Words a topic in the documents of the start."""

LARGEST = 2**29
"""Most probabilities of topics held at once: 2 GiB in float32. The start takes half of it, and larger corpora do without."""

FORMED = 0.05
"""Moves make sense as soon as a pass of CVB0 changes documents' counts by less than this a word."""

SETTLED = 0.005
"""When no move is left, the sample's topics settle to this, and moves are tried again."""

UPDATES = 20
"""Updates of a new document's counts before its words count in a minibatch; where topics are in place, a quarter will do."""


def _assign(corpus: Corpus, priors: Priors, by_word: np.ndarray, by_doc: np.ndarray, scale: np.ndarray) -> Assigned:
    """Probabilities of topics given counts; the counts are replaced by their sums."""
    phi = np.empty((len(corpus.indices), by_word.shape[1]), np.float32)
    kernels.assigned(*corpus.arrays, phi, by_word, scale, by_doc, priors.alpha, priors.word)
    return Assigned(corpus, priors, phi, by_word, by_doc)


def _random(corpus: Corpus, priors: Priors, rng: np.random.RandomState) -> Assigned:
    """Every document has its own proportions of topics, uniform on the simplex, in all its words."""
    wide = lanes(priors.topics)
    by_doc = np.zeros((corpus.documents, wide), np.float32)
    by_doc[:, : priors.topics] = rng.standard_exponential((corpus.documents, priors.topics)) * 1e3
    return _assign(corpus, priors, np.ones((corpus.words, wide), np.float32), by_doc, np.ones(wide, np.float32))


def collapsed(fit: Assigned) -> float:
    """One pass of CVB0; how much it changed documents' counts, a word."""
    totals = fit.by_word.sum(0, dtype=np.float64)
    alpha, eta = fit.priors.alpha, fit.priors.word
    change = kernels.collapsed(
        *fit.corpus.arrays, fit.phi, fit.by_word, totals.astype(np.float32), fit.by_doc, alpha, eta
    )
    return change / max(totals.sum(), 1.0)


def _settle(fit: Assigned, change: float) -> None:
    for n in range(60):
        if collapsed(fit) < change and n:
            return


def _form(fit: Assigned, rng: np.random.RandomState) -> None:
    """CVB0 from a random start, and moves while they raise the joint density of the settled topics."""
    change, best = FORMED, -np.inf
    _settle(fit, change)
    while True:
        done, joint = moves(fit, rng)
        rising, best = joint > best, max(joint, best)
        if not done or not rising:
            if change == SETTLED:
                return
            change = SETTLED
        _settle(fit, change)


def start(corpus: Corpus, priors: Priors, rng: np.random.RandomState) -> Assigned:
    """Topics of a sample of documents, or of all."""
    lengths, order = corpus.lengths, rng.permutation(corpus.documents)
    entries = np.diff(corpus.indptr)[order].cumsum()
    enough = (lengths[order].cumsum() >= SAMPLE * priors.topics) | (entries >= LARGEST / 2 / lanes(priors.topics))
    few = np.flatnonzero(enough)[0] + 1 if enough.any() else corpus.documents
    sample = rows(corpus, order[:few]) if few < 0.7 * corpus.documents else corpus
    fit = _random(sample, priors, rng)
    _form(fit, rng)
    return fit


def _uniform(lengths: np.ndarray, priors: Priors) -> np.ndarray:
    by_doc = np.zeros((len(lengths), lanes(priors.topics)), np.float32)
    by_doc[:, : priors.topics] = (lengths / priors.topics)[:, None]
    return by_doc


def _read(
    corpus: Corpus, priors: Priors, by_word: np.ndarray, by_doc: np.ndarray, updates: int
) -> tuple[np.ndarray, float]:
    """Counts by word that documents add up to, given others; and the change of documents' counts, a word. `by_doc` follows."""
    found = np.zeros_like(by_word)
    docs = np.arange(corpus.documents)
    scale = priors.scale(by_word)
    change = kernels.stochastic(*corpus.arrays, docs, updates, by_word, scale, by_doc, priors.alpha, priors.word, found)
    return found, change / max(float(found.sum(dtype=np.float64)), 1.0)


class Pass(NamedTuple):
    """What a pass leaves: counts by word, and how much it changed documents' counts, a word."""

    by_word: np.ndarray
    change: float


def batch(corpus: Corpus, priors: Priors, rng: np.random.RandomState) -> Iterator[Pass]:
    """The start, then passes of CVB0 over all documents; without `phi`, and a little worse, where that would be too large."""
    fit = start(corpus, priors, rng)
    by_word, by_doc = fit.by_word, fit.by_doc
    yield Pass(by_word, np.inf)
    held = len(corpus.indices) * by_word.shape[1] <= LARGEST
    if fit.corpus is not corpus:
        ratio = corpus.lengths.sum() / max(fit.corpus.lengths.sum(), 1.0)
        by_doc = _uniform(corpus.lengths, priors)
        by_word, _ = _read(corpus, priors, by_word * np.float32(ratio), by_doc, UPDATES // 4)
        if held:
            fit = _assign(corpus, priors, by_word, by_doc, priors.scale(by_word))
    while held:
        yield Pass(fit.by_word, collapsed(fit))
    while True:
        by_word, change = _read(corpus, priors, by_word, by_doc, 1)
        yield Pass(by_word, change)


def learn(corpus: Corpus, priors: Priors, by_word: np.ndarray, weight: float, ratio: float, updates: int) -> None:
    """One minibatch of SCVB0, in place: N_wk <- (1 - weight) N_wk + weight ratio sum_i n_i phi_ik."""
    found, _ = _read(corpus, priors, by_word, _uniform(corpus.lengths, priors), updates)
    by_word *= np.float32(1 - weight)
    by_word += np.float32(weight * ratio) * found


def log_topics(by_word: np.ndarray, priors: Priors) -> np.ndarray:
    """E[log beta] of q(beta_k) = Dirichlet(eta + N_wk), float64 (V, topics)."""
    parameters = by_word[:, : priors.topics] + priors.word
    return digamma(parameters) - digamma(parameters.sum(0))


def infer(
    corpus: Corpus,
    priors: Priors,
    log_topic: np.ndarray,
    rounds: int,
    tolerance: float,
    gamma: np.ndarray | None = None,
    bound: bool = False,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Documents given topics, by variational Bayes.

    Parameters
    ----------
    log_topic
        float64 (V, topics): E[log beta].
    rounds, tolerance
        Of the updates of each document, see `kernels.topics.bayes`.
    gamma
        float64 (documents, lanes): where to start; by default, all topics alike.
    bound
        Also find the counts by word and the documents' part of the lower bound; without, both are empty.

    Returns
    -------
    gamma, by_word, bound
        float64 (documents, lanes), (V, lanes) and a number.
    """
    wide = lanes(priors.topics)
    alpha = np.zeros(wide)
    alpha[: priors.topics] = priors.doc
    if gamma is None:
        gamma = alpha + np.float64(_uniform(corpus.lengths, priors))
    # Rows relative to their largest entry: a word that is unlikely everywhere does not underflow.
    top = log_topic.max(1, initial=-np.inf)
    topic = np.zeros((len(log_topic), wide))
    topic[:, : priors.topics] = np.exp(log_topic - top[:, None])
    found, parts = np.zeros_like(topic) if bound else np.zeros((0, wide)), np.zeros(corpus.documents if bound else 0)
    kernels.bayes(*corpus.arrays, topic, gamma, alpha, rounds, tolerance, found, parts)
    logs = corpus.counts.astype(np.float64) @ top[corpus.indices] if bound else 0.0
    return gamma, found, float(parts.sum() + logs)


def topics_bound(by_word: np.ndarray, log_topic: np.ndarray, priors: Priors) -> float:
    """The topics' part of the lower bound, E[log p(beta) - log q(beta)]."""
    parameters, eta, words = by_word[:, : priors.topics] + priors.word, priors.word, len(by_word)
    kept = (
        gammaln(parameters).sum() - (by_word[:, : priors.topics] * log_topic).sum() - gammaln(parameters.sum(0)).sum()
    )
    return float(kept + priors.topics * (gammaln(words * eta) - words * gammaln(eta)))


def bayes(
    corpus: Corpus, priors: Priors, by_word: np.ndarray, rounds: int, tolerance: float
) -> Iterator[tuple[np.ndarray, float]]:
    """Passes of variational Bayes from given topics: counts by word, float64, and the lower bound, which never falls.

    The bound is that of the topics which entered the pass and the documents which came out of it; the counts are the next topics.
    """
    by_word, gamma = by_word.astype(np.float64), None
    while True:
        log_topic = log_topics(by_word, priors)
        gamma, found, part = infer(corpus, priors, log_topic, rounds, tolerance, gamma, bound=True)
        bound = part + topics_bound(by_word, log_topic, priors)
        by_word = found
        yield by_word, bound
