"""Merges and splits of topics: which of them raise the collapsed joint density, and making them.

Each move merges two topics and splits a third one, so that their number stays. Changes of the joint density
(`kernels/topics_moves.py`) are of the counts as they are, before other topics have adapted.
"""

import numpy as np

from jensen.core.threads import one_blas_thread
from jensen.estimators.topics_records import Assigned
from jensen.kernels import topics_moves as kernels

LEAST = 0.05
"""Share of a word below which a topic's hold on it is left out of a split."""

NEAREST = 10
"""Topics with which a merge is tried, for each topic."""

DOC_PASSES, WORD_PASSES = 2, 2
"""Passes by which halves are found, by whole documents and by words: enough to tell which topics have two parts."""


class _Halves:
    """Lists of what every topic holds, and the halves of one topic at a time."""

    def __init__(self, fit: Assigned, rng: np.random.RandomState):
        corpus, topics = fit.corpus, fit.priors.topics
        self._fit = fit
        self._start = rng.uniform(size=corpus.documents).astype(np.float32)
        self._first, size = np.zeros(topics + 1, np.int64), len(fit.phi)
        while True:
            self._lists = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.float32)
            kernels.holdings(*corpus.arrays, fit.phi, topics, LEAST, self._first, *self._lists)
            if self._first[-1] <= size:
                break
            size = self._first[-1]
        self._share = np.empty(size, np.float32)
        self.by_word = np.empty((2, corpus.words), np.float32)
        self.by_doc = np.empty((2, corpus.documents), np.float32)

    def find(self, topic: int) -> float:
        """Leave the halves of a topic in `by_word` and `by_doc`; what the joint density gains."""
        _, alpha, eta = self._fit.priors
        part = slice(self._first[topic], self._first[topic + 1])
        doc, word, mass = (values[part] for values in self._lists)
        kernels.halves(
            doc,
            word,
            mass,
            self._start,
            DOC_PASSES,
            WORD_PASSES,
            alpha,
            eta,
            self._share[part],
            self.by_word,
            self.by_doc,
        )
        (a, b), (c, d), totals = self.by_word, self.by_doc, self.by_word.sum(1, dtype=np.float64)
        none, nowhere = np.zeros_like(a), np.zeros_like(c)
        gain = kernels.joint(a, none, c, nowhere, totals[0], alpha, eta)
        gain += kernels.joint(b, none, d, nowhere, totals[1], alpha, eta)
        return gain - kernels.joint(a, b, c, d, totals.sum(), alpha, eta)

    def move(self, merged: int, freed: int, topic: int) -> None:
        """Give `freed`'s words to `merged`, and half of `topic`'s to `freed`."""
        fit = self._fit
        self.find(topic)
        half = self._share[self._first[topic] : self._first[topic + 1]]
        at = np.flatnonzero(fit.phi[:, topic] > np.float32(LEAST))
        for table, given in ((fit.by_word, self.by_word[0]), (fit.by_doc, self.by_doc[0])):
            table[:, merged] += table[:, freed]
            table[:, freed] = given
            table[:, topic] -= given
        fit.phi[:, merged] += fit.phi[:, freed]
        fit.phi[:, freed] = 0
        fit.phi[at, freed] = fit.phi[at, topic] * half
        fit.phi[at, topic] -= fit.phi[at, freed]


def _candidates(by_word: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of topics (topics, V) worth merging: each topic with those nearest to it, by the cosine of the roots of counts."""
    roots = np.sqrt(np.maximum(by_word, 0))
    roots /= np.linalg.norm(roots, axis=1, keepdims=True) + 1e-30
    with one_blas_thread():
        near = np.argsort(-(roots @ roots.T), axis=1)[:, : NEAREST + 1]
    return sorted({(max(k, j), min(k, j)) for k, row in enumerate(near.tolist()) for j in row if j != k})


def moves(fit: Assigned, rng: np.random.RandomState) -> tuple[int, float]:
    """Make the moves that raise the joint density, best merges first, each topic in one move at most.

    Returns
    -------
    done
        Number of moves.
    joint
        The joint density before them, up to a constant of the corpus.
    """
    topics, alpha, eta = fit.priors
    words = np.ascontiguousarray(fit.by_word[:, :topics].T)
    docs = np.ascontiguousarray(fit.by_doc[:, :topics].T)
    totals = words.sum(1, dtype=np.float64)
    none, nowhere = np.zeros_like(words[0]), np.zeros_like(docs[0])
    alone = [kernels.joint(words[k], none, docs[k], nowhere, totals[k], alpha, eta) for k in range(topics)]

    def merge(k: int, j: int) -> float:
        return (
            kernels.joint(words[k], words[j], docs[k], docs[j], totals[k] + totals[j], alpha, eta) - alone[k] - alone[j]
        )

    merges = sorted(((merge(k, j), k, j) for k, j in _candidates(words)), reverse=True)
    halves = _Halves(fit, rng)
    splits = [halves.find(k) for k in range(topics)]
    free, done = set(range(topics)), 0
    for gain, k, j in merges:
        if k in free and j in free and len(free) > 2:
            best = max(free - {k, j}, key=lambda topic: splits[topic])
            if gain + splits[best] <= 0:
                break
            halves.move(k, j, best)
            free -= {k, j, best}
            done += 1
    return done, sum(alone)
