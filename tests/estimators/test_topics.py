"""`LatentDirichletAllocation` against scikit-learn, planted topics and the contract of estimators."""

import logging
import pickle

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array, csr_matrix
from sklearn.decomposition import LatentDirichletAllocation as Reference
from sklearn.utils.estimator_checks import check_estimator

from jensen.estimators import topics_passes as passes
from jensen.estimators.topics import LatentDirichletAllocation
from jensen.estimators.topics_moves import moves
from jensen.estimators.topics_records import Priors, read_corpus, rows

PRIORS = {"doc_topic_prior": 0.1, "topic_word_prior": 0.05}


def _planted(topics, documents, words, seed):
    rng = np.random.default_rng(seed)
    beta = rng.dirichlet(np.full(words, 0.05), topics)
    counts = [rng.multinomial(60, p / p.sum()) for p in rng.dirichlet(np.full(topics, 0.1), documents) @ beta]
    return csr_matrix(np.array(counts)), beta


@pytest.fixture(scope="module")
def planted():
    return _planted(8, 800, 300, 3)


def _distances(components, beta):
    """Total variation of each true topic to the topic it is matched with."""
    found = components / components.sum(1, keepdims=True)
    cost = 0.5 * np.abs(found[:, None] - beta).sum(2)
    return cost[linear_sum_assignment(cost)]


def test_contract_of_scikit_learn():
    check_estimator(LatentDirichletAllocation(), on_skip=None)


@pytest.mark.parametrize("method", ["batch", "online"])
@pytest.mark.parametrize("seed", range(3))
def test_planted_topics_are_found(planted, method, seed):
    X, beta = planted
    model = LatentDirichletAllocation(8, learning_method=method, random_state=seed, **PRIORS).fit(X)
    assert _distances(model.components_, beta).max() < 0.25


def test_moves_mend_two_topics_in_one(planted):
    """Topics 0 and 1 are put together and topic 2 is cut in two at random: one move undoes both."""
    X, beta = planted
    corpus, priors, rng = read_corpus(X), Priors(8, 0.1, 0.05), np.random.RandomState(0)
    fit = passes.start(corpus, priors, rng)
    fit.phi[:, 0] += fit.phi[:, 1]
    cut = rng.uniform(0.3, 0.7, len(fit.phi)).astype(np.float32) * fit.phi[:, 2]
    fit.phi[:, 1] = cut
    fit.phi[:, 2] -= cut
    doc = np.repeat(np.arange(corpus.documents), np.diff(corpus.indptr))
    for table, at in ((fit.by_word, corpus.indices), (fit.by_doc, doc)):
        table[:] = 0
        np.add.at(table, at, corpus.counts[:, None] * fit.phi)
    assert _distances(fit.by_word[:, :8].T + 0.05, beta).max() > 0.4
    done, broken = moves(fit, rng)
    for _ in range(5):
        passes.collapsed(fit)
    assert done == 1
    assert _distances(fit.by_word[:, :8].T + 0.05, beta).max() < 0.25
    left, mended = moves(fit, rng)
    assert left == 0
    assert mended > broken


def test_a_sample_starts_what_all_documents_finish(planted, monkeypatch):
    X, beta = planted
    monkeypatch.setattr(passes, "SAMPLE", 3000)
    assert passes.start(read_corpus(X), Priors(8, 0.1, 0.05), np.random.RandomState(0)).corpus.documents < 500
    held = LatentDirichletAllocation(8, random_state=0, **PRIORS).fit(X)
    assert _distances(held.components_, beta).max() < 0.25
    monkeypatch.setattr(passes, "LARGEST", 8 * X.nnz - 1)
    unheld = LatentDirichletAllocation(8, random_state=0, **PRIORS).fit(X)
    assert _distances(unheld.components_, beta).max() < 0.25


def test_bound_and_documents_are_those_of_scikit_learn(planted):
    X, _ = planted
    model = LatentDirichletAllocation(8, random_state=0, **PRIORS).fit(X)
    theirs = Reference(8, max_iter=1, total_samples=5000, **PRIORS).fit(X[:5])
    theirs.components_, theirs.exp_dirichlet_component_ = model.components_, model.exp_dirichlet_component_
    some = X[:80].astype(float)
    np.testing.assert_allclose(model.transform(some), theirs.transform(some), atol=1e-5)
    assert model.score(some) == pytest.approx(theirs.score(some), rel=1e-6)
    assert model.perplexity(some) == pytest.approx(theirs.perplexity(some), rel=1e-6)
    model.set_params(total_samples=5000)
    assert model.perplexity(some, sub_sampling=True) == pytest.approx(
        theirs.perplexity(some, sub_sampling=True), rel=1e-6
    )
    assert model.bound_ == pytest.approx(model.perplexity(X), rel=1e-9)


def test_bound_rises_with_every_pass(planted):
    X, _ = planted
    model = LatentDirichletAllocation(8, random_state=0, bound_iter=8, **PRIORS).fit(X)
    rise = np.diff(model.lower_bounds_)
    assert len(rise) == 7
    assert (rise > -1e-9 * abs(model.lower_bounds_[0])).all()
    assert model.score(X) > LatentDirichletAllocation(8, random_state=0, **PRIORS).fit(X).score(X)


def test_partial_fit_goes_on(planted):
    X, beta = planted
    model = LatentDirichletAllocation(8, random_state=0, total_samples=X.shape[0], **PRIORS)
    for _ in range(3):
        for first in range(0, 800, 100):
            model.partial_fit(X[first : first + 100])
    assert model.n_batch_iter_ == 25
    early = np.median(_distances(model.components_, beta))
    fitted = (
        LatentDirichletAllocation(8, random_state=0, total_samples=X.shape[0], **PRIORS).fit(X).partial_fit(X[:100])
    )
    assert np.median(_distances(fitted.components_, beta)) < 0.3
    assert early < 0.5


def test_frames_pickles_and_names(planted):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(planted[0][:50].toarray(), columns=[f"word{j}" for j in range(300)])
    model = LatentDirichletAllocation(4, random_state=0).set_output(transform="pandas").fit(X)
    table = model.transform(X)
    assert list(table.columns) == [f"latentdirichletallocation{k}" for k in range(4)]
    assert list(model.feature_names_in_) == list(X.columns)
    pandas.testing.assert_frame_equal(pickle.loads(pickle.dumps(model)).transform(X), table)


@pytest.mark.parametrize("method", ["batch", "online"])
def test_corners(method):
    """No words at all, empty documents, words nobody has, fewer documents than topics, fractions, both sparse classes."""
    make = LatentDirichletAllocation(6, learning_method=method, random_state=0)
    nothing = make.fit(np.zeros((4, 3)))
    np.testing.assert_allclose(nothing.components_, 1 / 6)
    np.testing.assert_allclose(nothing.transform(np.zeros((2, 3))), 1 / 6)
    assert np.isnan(nothing.bound_)
    X = np.zeros((3, 9))
    X[0, :4], X[1, 3:7] = 1.5, 0.25
    few = make.fit(X)
    assert np.isfinite(few.components_).all()
    np.testing.assert_allclose(few.components_[:, 7:], 1 / 6)
    np.testing.assert_allclose(few.transform(X)[2], 1 / 6)
    np.testing.assert_array_equal(few.components_, make.fit(csr_array(X)).components_)


def test_passes_are_logged(planted, caplog):
    with caplog.at_level(logging.INFO, "jensen.estimators.topics"):
        LatentDirichletAllocation(4, verbose=1, max_iter=2, evaluate_every=1, random_state=0).fit(planted[0][:60])
    assert "pass 1 of 2" in caplog.text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_components": 0}, "n_components must be an integer of at least 1; got 0"),
        ({"n_components": 2.0}, "n_components must be an integer"),
        ({"doc_topic_prior": 0.0}, "doc_topic_prior must be a number"),
        ({"topic_word_prior": float("nan")}, "topic_word_prior must be a number"),
        ({"learning_method": "gibbs"}, "learning_method must be 'batch' or 'online'; got 'gibbs'"),
        ({"learning_offset": 0.5}, "learning_offset must be a number from 1"),
        ({"batch_size": 0}, "batch_size must be an integer"),
    ],
)
def test_options_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        LatentDirichletAllocation(**options).fit(np.ones((3, 3)))


@pytest.mark.parametrize(("X", "named"), [(-np.ones((3, 3)), "Negative values"), (np.full((3, 3), np.nan), "NaN")])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_counts_are_refused(X, named, method):
    with pytest.raises(ValueError, match=named):
        getattr(LatentDirichletAllocation(), method)(X)


def test_rows_of_a_corpus():
    X = np.arange(12.0).reshape(4, 3)
    some = rows(read_corpus(X), np.array([2, 0]))
    np.testing.assert_array_equal(csr_array((some.counts, some.indices, some.indptr), (2, 3)).toarray(), X[[2, 0]])
