"""Topics: held-out perplexity against CPU seconds, beside scikit-learn's and gensim's, on two synthetic corpora and a real one.

    python -m benchmarks.estimators_topics [w10a] [w10b] [k50] [cold]

w10a: 4,500 documents, 5,000 words, 20 topics. k50: 5,400 documents, 50 topics. w10b: 270 Australian news texts that come with
gensim, 10 topics. One document in ten is held out. Every method hands over topics; one evaluator infers proportions from half of
each held-out document's words, and scores the other half. Priors are alpha 0.1 and eta 0.05 for all. CPU seconds are of all
threads, after one small fit that compiles. Rows "fit" are of the whole of `fit`, with the perplexity of the training documents in
`bound_`; rows "passes" are of the passes inside. cold: a first fit, in processes with an empty and a filled cache.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import digamma

ALPHA, ETA = 0.1, 0.05
SEEDS = range(5)


def synthetic(topics: int, documents: int, words: int = 5000) -> tuple[csr_matrix, np.ndarray]:
    """About 100 words a document, sampled from the model itself."""
    rng = np.random.default_rng(10)
    beta = rng.dirichlet(np.full(words, ETA), topics)
    found = []
    for length in rng.poisson(100, documents):
        p = rng.dirichlet(np.full(topics, ALPHA)) @ beta
        found.append(csr_matrix(rng.multinomial(length, p / p.sum()).astype(np.int32)))
    from scipy.sparse import vstack

    return csr_matrix(vstack(found)), beta


def lee() -> csr_matrix:
    """News texts; words of three letters or more that 3 to 150 texts have and that are no stop words."""
    try:
        from gensim.parsing.preprocessing import STOPWORDS
        from gensim.test.utils import datapath
    except ModuleNotFoundError:
        sys.exit(
            "w10b reads texts that come with gensim, which is not installed; pip install gensim, or name other corpora."
        )
    with open(datapath("lee_background.cor"), encoding="utf-8") as file:
        texts = [[w for w in re.findall("[a-z]{3,}", line.lower()) if w not in STOPWORDS] for line in file]
    known, times = np.unique([w for text in texts for w in set(text)], return_counts=True)
    column = {w: j for j, w in enumerate(known[(times >= 3) & (times <= 150)])}
    counts = np.zeros((len(texts), len(column)), np.int32)
    for i, text in enumerate(texts):
        for w in text:
            if w in column:
                counts[i, column[w]] += 1
    return csr_matrix(counts)


def split(X: csr_matrix) -> tuple[csr_matrix, csr_matrix, csr_matrix]:
    """Documents to learn from; the read and the scored halves of the others."""
    held = np.arange(X.shape[0]) % 10 == 9
    rest = X[held].toarray()
    read = np.random.default_rng(0).binomial(rest, 0.5)
    return X[~held], csr_matrix(read.astype(float)), csr_matrix((rest - read).astype(float))


def perplexity(topics: np.ndarray, read: csr_matrix, scored: csr_matrix) -> float:
    """Of held-out words, given (K, V) topics that need not be normalized; sixty updates of the proportions."""
    beta = np.maximum(topics / topics.sum(1, keepdims=True), 1e-12)
    beta = (beta / beta.sum(1, keepdims=True)).T
    entries, score = read.tocoo(), scored.tocoo()
    at = csr_matrix((np.ones(entries.nnz), (entries.row, np.arange(entries.nnz))), (read.shape[0], entries.nnz))
    words, gamma = beta[entries.col], np.ones((read.shape[0], beta.shape[1]))
    for _ in range(60):
        theta = np.exp(digamma(gamma) - digamma(gamma.sum(1, keepdims=True)))
        per_word = entries.data / (theta[entries.row] * words).sum(1)
        gamma = ALPHA + theta * (at @ (per_word[:, None] * words))
    theta = gamma / gamma.sum(1, keepdims=True)
    likelihood = (theta[score.row] * beta[score.col]).sum(1)
    return float(np.exp(-(score.data * np.log(likelihood)).sum() / score.data.sum()))


def curve(train: csr_matrix, topics: int, seed: int) -> Iterator[tuple[float, np.ndarray]]:
    """CPU seconds so far and topics after the start and after each pass of ours; what is done with them is not timed."""
    from jensen.estimators.topics_passes import batch
    from jensen.estimators.topics_records import Priors, read_corpus

    begun = time.process_time()
    passes, spent = batch(read_corpus(train), Priors(topics, ALPHA, ETA), np.random.RandomState(seed)), 0.0
    for step in passes:
        spent += time.process_time() - begun
        yield spent, step.by_word[:, :topics].T + ETA
        if step.change < 1e-3:
            return
        begun = time.process_time()


def ours(train: csr_matrix, topics: int, seed: int, **options: Any) -> np.ndarray:
    from jensen.estimators.topics import LatentDirichletAllocation

    model = LatentDirichletAllocation(topics, doc_topic_prior=ALPHA, topic_word_prior=ETA, random_state=seed, **options)
    return model.fit(train).components_


def theirs(train: csr_matrix, topics: int, seed: int, **options: Any) -> np.ndarray:
    from sklearn.decomposition import LatentDirichletAllocation

    model = LatentDirichletAllocation(topics, doc_topic_prior=ALPHA, topic_word_prior=ETA, random_state=seed, **options)
    return model.fit(train).components_


def gensim(train: csr_matrix, topics: int, seed: int, passes: int) -> np.ndarray:
    try:
        from gensim.matutils import Sparse2Corpus
        from gensim.models import LdaModel
    except ModuleNotFoundError:
        sys.exit("The rows of gensim need gensim, which is not installed; pip install gensim.")
    corpus = Sparse2Corpus(train, documents_columns=False)
    names = {j: str(j) for j in range(train.shape[1])}
    priors = {"alpha": np.full(topics, ALPHA), "eta": ETA}
    return LdaModel(corpus, topics, names, passes=passes, random_state=seed, **priors).get_topics()


def compare(name: str, X: csr_matrix, topics: int, marks: tuple[int, ...], peers: tuple[int, int]) -> None:
    """The table of one corpus."""
    train, read, scored = split(X)
    print(f"\n{name}: {train.shape[0]} documents, {topics} topics, {train.nnz} counts, {train.sum()} words\n")
    print("| method | seed | CPU s | held-out perplexity |\n|---|---|---|---|")
    for seed in SEEDS:
        inside = [(spent, perplexity(beta, read, scored)) for spent, beta in curve(train, topics, seed)]
        first = {goal: next((f"{t:.2f}" for t, p in inside if p <= goal), "never") for goal in marks}
        goals = ", ".join(f"<= {goal} at {when} s" for goal, when in first.items())
        print(f"| ours, passes: {goals} | {seed} | {inside[-1][0]:.2f} | {inside[-1][1]:.0f} |", flush=True)
    batch, passes = peers
    rows = [(f"ours, {m}, fit", ours, {"learning_method": m}, SEEDS) for m in ("batch", "online")]
    rows += [("ours, batch, then 10 passes of VB, fit", ours, {"bound_iter": 10}, SEEDS[:1])]
    rows += [(f"scikit-learn batch, {batch} passes", theirs, {"max_iter": batch}, SEEDS[:1])]
    rows += [
        (f"scikit-learn online, {batch} passes", theirs, {"max_iter": batch, "learning_method": "online"}, SEEDS[:1])
    ]
    rows += [(f"gensim LdaModel, {passes} passes", gensim, {"passes": passes}, SEEDS[:1])]
    for label, method, options, seeds in rows:
        for seed in seeds:
            begun = time.process_time()
            beta = method(train, topics, seed, **options)
            spent = time.process_time() - begun
            print(f"| {label} | {seed} | {spent:.2f} | {perplexity(beta, read, scored):.0f} |", flush=True)


COLD = """
import time
begun = time.process_time()
import numpy as np
from jensen.estimators.topics import LatentDirichletAllocation
imported = time.process_time()
X = np.random.default_rng(0).poisson(0.3, (200, 100))
LatentDirichletAllocation(8, random_state=0).fit(X)
first = time.process_time()
LatentDirichletAllocation(21, random_state=0).fit(X)
print(f"| {imported - begun:.2f} | {first - imported:.2f} | {time.process_time() - first:.2f} |")
"""


def cold() -> None:
    """CPU seconds of import, of a first fit and of one with another number of topics."""
    print("\n| Numba's cache | import | first fit | another number of topics |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for cache in ("empty", "filled"):
            done = subprocess.run(
                [sys.executable, "-c", COLD],
                env=os.environ | {"NUMBA_CACHE_DIR": folder},
                capture_output=True,
                text=True,
                check=True,
            )
            print(f"| {cache} {done.stdout.strip()}", flush=True)


def main(wanted: list[str]) -> None:
    unknown = set(wanted) - {"w10a", "w10b", "k50", "cold"}
    if unknown:
        sys.exit(f"no corpus {sorted(unknown)[0]!r}; there are w10a, w10b, k50, and cold.")
    small = csr_matrix(np.random.default_rng(0).poisson(0.3, (60, 40)))
    for method in ("batch", "online"):
        ours(small, 4, 0, learning_method=method)
    for name in wanted or ["w10a", "w10b", "k50", "cold"]:
        if name == "w10a":
            X, beta = synthetic(20, 5000)
            print("\ntrue topics:", round(perplexity(beta, *split(X)[1:]), 3))
            compare(name, X, 20, (1425, 1415), (10, 10))
        elif name == "w10b":
            compare(name, lee(), 10, (1015,), (50, 10))
        elif name == "k50":
            X, beta = synthetic(50, 6000)
            print("\ntrue topics:", round(perplexity(beta, *split(X)[1:]), 3))
            compare(name, X, 50, (2700, 2665), (10, 10))
        else:
            cold()


if __name__ == "__main__":
    main(sys.argv[1:])
