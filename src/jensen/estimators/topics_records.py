"""What topics are fitted to, and what a fit holds while it runs."""

from typing import Any, NamedTuple

import numpy as np

from jensen.kernels.topics_compile import lanes


class Corpus(NamedTuple):
    """Documents as rows of a CSR matrix."""

    indptr: np.ndarray
    """int64 (documents + 1)"""
    indices: np.ndarray
    """int32 (words of documents)"""
    counts: np.ndarray
    """float32 (words of documents)"""
    words: int
    """V, with words that no document has."""

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first arguments of every kernel."""
        return self.indptr, self.indices, self.counts

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Sum of the counts of each document, float64."""
        return np.diff(np.concatenate([[0.0], self.counts.cumsum(dtype=np.float64)])[self.indptr])


class Priors(NamedTuple):
    """Number of topics, and the symmetric Dirichlet priors of documents over topics and of topics over words."""

    topics: int
    doc: float
    word: float

    @property
    def alpha(self) -> np.ndarray:
        """float32 (lanes): the documents' prior, zero in lanes without a topic."""
        alpha = np.zeros(lanes(self.topics), np.float32)
        alpha[: self.topics] = self.doc
        return alpha

    def scale(self, by_word: np.ndarray) -> np.ndarray:
        """float32 (lanes): 1 / (N_k + V eta)."""
        return (1 / (by_word.sum(0, dtype=np.float64) + len(by_word) * self.word)).astype(np.float32)


class Assigned(NamedTuple):
    """A corpus with probabilities of topics for every word, and their counts; changed in place."""

    corpus: Corpus
    priors: Priors
    phi: np.ndarray
    by_word: np.ndarray
    by_doc: np.ndarray


def read_corpus(X: Any) -> Corpus:
    """Corpus of a CSR matrix or an array (documents, V)."""
    from scipy.sparse import csr_array

    X = csr_array(X)
    counts, indices = (np.require(a, t, ["C", "W"]) for a, t in ((X.data, np.float32), (X.indices, np.int32)))
    return Corpus(X.indptr.astype(np.int64), indices, counts, X.shape[1])


def rows(corpus: Corpus, docs: np.ndarray) -> Corpus:
    """Some documents, in the order given."""
    sizes = np.diff(corpus.indptr)[docs]
    indptr = np.concatenate([[0], sizes.cumsum()])
    at = np.repeat(corpus.indptr[docs] - indptr[:-1], sizes) + np.arange(indptr[-1])
    return Corpus(indptr, corpus.indices[at], corpus.counts[at], corpus.words)
