"""The passes over words against the same updates written out in NumPy, a word at a time."""

import numpy as np
import pytest
from scipy.special import digamma, gammaln

from jensen.estimators.topics_records import Priors, read_corpus
from jensen.kernels import topics as kernels
from jensen.kernels import topics_moves as moving
from jensen.kernels.topics_compile import lanes

ALPHA, ETA, TOPICS = 0.3, 0.2, 5


@pytest.fixture
def made():
    """A corpus with fractional counts and an empty document, and probabilities of topics with the counts they add up to."""
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.7, (12, 17)) * rng.uniform(0.5, 2, (12, 17))
    dense[4] = 0
    corpus = read_corpus(dense)
    phi = np.zeros((len(corpus.indices), lanes(TOPICS)), np.float32)
    phi[:, :TOPICS] = rng.dirichlet(np.ones(TOPICS), len(phi))
    doc = np.repeat(np.arange(12), np.diff(corpus.indptr))
    by_word, by_doc = np.zeros((17, lanes(TOPICS)), np.float32), np.zeros((12, lanes(TOPICS)), np.float32)
    np.add.at(by_word, corpus.indices, corpus.counts[:, None] * phi)
    np.add.at(by_doc, doc, corpus.counts[:, None] * phi)
    return corpus, doc, phi, by_word, by_doc, Priors(TOPICS, ALPHA, ETA)


def test_collapsed_pass(made):
    corpus, doc, phi, by_word, by_doc, priors = made
    expected, words, docs = (a[:, :TOPICS].astype(float) for a in (phi, by_word, by_doc))
    before = docs.copy()
    for d in range(12):
        scale = 1 / (words.sum(0) + 17 * ETA)
        for i in np.flatnonzero(doc == d):
            w, n = corpus.indices[i], corpus.counts[i]
            new = (words[w] - n * expected[i] + ETA) * (docs[d] - n * expected[i] + ALPHA) * scale
            moved = n * (new / new.sum() - expected[i])
            expected[i] = new / new.sum()
            words[w] += moved
            docs[d] += moved
    totals = by_word.sum(0)
    change = kernels.collapsed(*corpus.arrays, phi, by_word, totals, by_doc, priors.alpha, ETA)
    np.testing.assert_allclose(phi[:, :TOPICS], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_word[:, :TOPICS], words, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(totals[:TOPICS], words.sum(0), rtol=1e-5)
    assert change == pytest.approx(np.abs(docs - before).sum(), rel=1e-4)
    assert not phi[:, TOPICS:].any()
    assert not by_word[:, TOPICS:].any()


def test_assigned(made):
    corpus, doc, phi, by_word, by_doc, priors = made
    scale = priors.scale(by_word)
    expected = (by_word[corpus.indices] + ETA) * (by_doc[doc] + priors.alpha) * scale
    expected /= expected.sum(1, keepdims=True)
    kernels.assigned(*corpus.arrays, phi, by_word, scale, by_doc, priors.alpha, ETA)
    np.testing.assert_allclose(phi, expected, rtol=1e-5)
    np.testing.assert_allclose(by_doc[1], (corpus.counts[:, None] * expected)[doc == 1].sum(0), rtol=1e-5)
    np.testing.assert_allclose(by_word.sum(), corpus.counts.sum(), rtol=1e-5)


def test_stochastic_pass(made):
    corpus, doc, _, by_word, by_doc, priors = made
    scale, found, docs = priors.scale(by_word), np.zeros_like(by_word), by_doc.astype(float)
    for _ in range(3):
        phi = (docs[doc] + priors.alpha) * (by_word[corpus.indices] + ETA) * scale
        phi *= corpus.counts[:, None] / phi.sum(1, keepdims=True)
        before, docs = docs, np.zeros_like(docs)
        np.add.at(docs, doc, phi)
    words = np.zeros(by_word.shape)
    np.add.at(words, corpus.indices, phi)
    change = kernels.stochastic(*corpus.arrays, np.arange(12), 3, by_word, scale, by_doc, priors.alpha, ETA, found)
    np.testing.assert_allclose(by_doc, docs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found, words, rtol=1e-4, atol=1e-6)
    assert change == pytest.approx(np.abs(docs - before).sum(), rel=1e-3)


def test_digamma():
    x = np.concatenate([np.geomspace(1e-6, 1e6, 200), [1.0]])
    np.testing.assert_allclose([kernels._psi(v) for v in x], digamma(x), rtol=1e-11, atol=1e-11)


def _joint(words, docs):
    total = (gammaln(words + ETA) - gammaln(ETA)).sum() + (gammaln(docs + ALPHA) - gammaln(ALPHA)).sum()
    return total - gammaln(words.sum() + len(words) * ETA) + gammaln(len(words) * ETA)


def test_joint_density():
    rng = np.random.default_rng(1)
    words, docs = rng.gamma(0.3, 20, (2, 900)).astype(np.float32), rng.gamma(0.3, 20, (2, 700)).astype(np.float32)
    total = words.sum(dtype=float)
    got = moving.joint(words[0], words[1], docs[0], docs[1], total, ALPHA, ETA)
    assert got == pytest.approx(_joint(words.sum(0).astype(float), docs.sum(0).astype(float)), rel=1e-5)


def test_halves_are_found_and_add_up():
    """Two planted vocabularies in one topic: documents use one or the other, and the list says nothing of which."""
    rng = np.random.default_rng(2)
    side = rng.integers(0, 2, 60)
    dense = np.zeros((60, 40))
    for d in range(60):
        dense[d, 20 * side[d] : 20 * side[d] + 20] = rng.poisson(1.0, 20)
    corpus = read_corpus(dense)
    phi, size = np.ones((len(corpus.indices), 8), np.float32), len(corpus.indices)
    first, doc, word = np.zeros(2, np.int64), np.empty(size, np.int32), np.empty(size, np.int32)
    mass, share = np.empty(size, np.float32), np.empty(size, np.float32)
    moving.holdings(*corpus.arrays, phi, 1, 0.05, first, doc, word, mass)
    np.testing.assert_array_equal(word, corpus.indices)
    assert first.tolist() == [0, size]
    by_word, by_doc = np.empty((2, 40), np.float32), np.empty((2, 60), np.float32)
    start = rng.uniform(size=60).astype(np.float32)
    moving.halves(doc, word, mass, start, 3, 3, ALPHA, ETA, share, by_word, by_doc)
    np.testing.assert_allclose(by_word.sum(0), dense.sum(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(by_doc.sum(0), dense.sum(1), rtol=1e-4, atol=1e-3)
    assert np.abs(by_word[0, :20].sum() - by_word[0, 20:].sum()) > 0.95 * dense.sum() / 2 * 0.8
