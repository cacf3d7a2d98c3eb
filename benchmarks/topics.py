"""Topics from an ordinary NumPyro model: held-out perplexity against CPU seconds, beside scikit-learn's variational Bayes.

    python -m benchmarks topics

The corpus and the evaluator are those of `estimators_topics` (w10a: 4,500 documents, 5,000 words, 20 topics). CPU seconds are of
all threads. Those of jensen begin with the user's function and hold reading, proof and compilation; scikit-learn's hold its fit.
"""

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import plate, sample
from scipy.sparse import csr_matrix

from benchmarks.estimators_topics import ALPHA, ETA, perplexity, split, synthetic, theirs
from jensen.conjugate.plan import make_plan
from jensen.core.precision import scope
from jensen.engines.large import LargeCoordinateAscent
from jensen.engines.natural import NaturalGradient
from jensen.models.read import read

TOPICS = 20
SECONDS = 30.0


def model(word, doc, V, documents):
    with plate("topics", TOPICS):
        phi = sample("phi", dist.Dirichlet(ETA * jnp.ones(V)))
    with plate("documents", documents):
        theta = sample("theta", dist.Dirichlet(ALPHA * jnp.ones(TOPICS)))
    with plate("words", word.shape[0]):
        z = sample("z", dist.Categorical(theta[doc]))
        sample("word", dist.Categorical(phi[z]), obs=word)


def words(counts: csr_matrix) -> dict[str, np.ndarray]:
    """One row a word of a document."""
    entries = counts.tocoo()
    times = entries.data.astype(int)
    return {"word": np.repeat(entries.col, times), "doc": np.repeat(entries.row, times)}


def ours(train: csr_matrix, engine: Any, seed: int) -> Iterator[tuple[float, np.ndarray]]:
    """CPU seconds and topics at every return of the engine."""
    begun = time.process_time()
    with scope("float64"):
        record = read(partial(model, V=train.shape[1], documents=train.shape[0]), words(train))
        plan = make_plan(record.graph(), record.data)
        state, done = engine.init(plan, seed), False
        spent = time.process_time() - begun
        while not done and spent < SECONDS:
            begun = time.process_time()
            state, ticks = engine.advance(state, plan)
            spent, done = spent + time.process_time() - begun, ticks.done
            yield spent, np.asarray(engine.finish(state)["phi"].concentration)


def main() -> None:
    X, _ = synthetic(TOPICS, 5000)
    train, read_half, scored = split(X)
    print("| method | CPU s | held-out perplexity |\n|---|---|---|")
    seeds = range(1 if "quick" in sys.argv else 3)
    for name, engine in (("cavi", LargeCoordinateAscent()), ("svi", NaturalGradient())):
        for seed in seeds:
            marks = iter((8.0, 12.0, 16.0, 20.0, 25.0, SECONDS))
            mark = next(marks)
            for spent, topics in ours(train, engine, seed):
                if spent >= mark:
                    print(
                        f"| {name}, seed {seed} | {spent:.1f} | {perplexity(topics, read_half, scored):.0f} |",
                        flush=True,
                    )
                    mark = next((later for later in marks if later > spent), np.inf)
    for passes in (4, 10):
        begun = time.process_time()
        topics = theirs(train, TOPICS, 0, max_iter=passes)
        spent = time.process_time() - begun
        print(
            f"| scikit-learn batch, {passes} passes | {spent:.1f} | {perplexity(topics, read_half, scored):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
