"""Groups of rows with level probabilities of their own: chunks, what settles in them, and topics beside scikit-learn's."""

import jax
import numpy as np
import pytest
from scipy.special import digamma, softmax
from sklearn.decomposition import LatentDirichletAllocation
from tests.conjugacy.checks import make
from tests.conjugacy.zoo_data import tokens
from tests.conjugacy.zoo_models import lda

from jensen.conjugate import blocks, documents
from jensen.conjugate.chunks import split
from jensen.core.precision import scope
from jensen.engines.large import LargeCoordinateAscent
from jensen.engines.natural import NaturalGradient
from jensen.families.exponential import Dirichlet
from jensen.run import run

K, V, D = 4, 60, 80


@pytest.fixture(scope="module")
def found():
    data = tokens(N=6000, K=K, V=V, documents=D)
    data = {name: data[name] for name in ("word", "doc")}
    return make(lda, data, K=K, V=V, documents=D), data


def test_chunks_hold_whole_documents_that_settle_by_hand(found):
    plan, data = found
    rng = np.random.default_rng(0)
    with scope("float64"):
        energy, (local,), (order,) = split(plan, 10, 256, rng)
        families = blocks.start(plan, rng)
        groups = documents.groups(local, energy, families)
        assert groups is not None
        assert groups.block == "theta"
        np.testing.assert_allclose(groups.prior, 0.5)
        members = [set(some[some < D].tolist()) for some in groups.members]
        assert len(members) > 5
        assert sum(map(len, members)) == D == len(set.union(*members))
        assert local.multiplicities.sum() == 6000
        assert len(order) == local.count

        @jax.jit
        def settled(groups, local, families):
            moments = {name: families[name].moments() for name in ("phi", "theta")}
            return documents.settle(groups, local, moments, families["theta"], 2, 3, False).concentration

        changed = np.asarray(settled(groups, local, families))
        gamma, phi = np.array(families["theta"].concentration), np.asarray(families["phi"].concentration)
        log_phi = digamma(phi) - digamma(phi.sum(1, keepdims=True))
    for d in range(D):
        if d not in members[2]:
            np.testing.assert_array_equal(changed[d], gamma[d])
            continue
        own = data["word"][data["doc"] == d]
        for _ in range(3):
            log_theta = digamma(gamma[d]) - digamma(gamma[d].sum())
            gamma[d] = 0.5 + softmax(log_theta + log_phi[:, own].T, 1).sum(0)
        np.testing.assert_allclose(changed[d], gamma[d], rtol=1e-10)


def _likelihood(topics, data):
    """Log likelihood of the words, every document with its best proportions under the topics (expectation maximization)."""
    topics = topics / topics.sum(1, keepdims=True)
    counts = np.zeros((D, V))
    np.add.at(counts, (data["doc"], data["word"]), 1.0)
    theta = np.full((D, K), 1 / K)
    for _ in range(200):
        theta *= (counts / (theta @ topics)) @ topics.T
        theta /= theta.sum(1, keepdims=True)
    return (counts * np.log(theta @ topics)).sum()


def test_topics_are_no_worse_than_those_of_scikit_learn(found):
    plan, data = found
    counts = np.zeros((D, V))
    np.add.at(counts, (data["doc"], data["word"]), 1.0)
    theirs = LatentDirichletAllocation(K, doc_topic_prior=0.5, topic_word_prior=0.1, max_iter=60, random_state=0).fit(
        counts
    )
    limit = _likelihood(theirs.components_, data)
    ends = {}
    with scope("float64"):
        for engine in (LargeCoordinateAscent(smallest=10), NaturalGradient(batch_size=100, passes=20)):
            families, fitted = run(engine, plan, seed=0)
            assert isinstance(families["phi"], Dirichlet)
            assert fitted.status == "converged"
            assert _likelihood(np.asarray(families["phi"].concentration), data) > limit - 1e-3 * abs(limit)
            ends[type(engine)] = fitted.history["elbo"][-1]
    one, other = ends.values()
    assert abs(one - other) < 5e-3 * abs(one)
