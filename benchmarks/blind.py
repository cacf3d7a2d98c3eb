"""The verdict's record on models that nobody had looked at: 56 of them, with truths that jensen had no part in (blind_truth.py).

The rule was frozen, then scored here once. "Wrong": off by more than 0.3 sd, or sd ratio outside 0.80-1.25. "Accurate": within
0.1 sd, and sd ratio within 0.90-1.10. Errors up to 0.02 sd may be the truth's own.

    python -m benchmarks.blind [METHOD ...]
    python -m benchmarks.blind drawn [METHOD ...]     the second set, drawn at random: drawn_models.py
    python -m benchmarks.blind again [METHOD ...]     the third set, drawn again by the same rules
"""

import sys
import time
import warnings
from functools import partial
from typing import Any

import numpy as np

from benchmarks.blind_models import Entry, models

METHODS = ("auto", "fullrank", "meanfield", "laplace")
WRONG_MEAN, WRONG_SD = 0.30, (0.80, 1.25)
FINE_MEAN, FINE_SD = 0.10, (0.90, 1.10)


def scored(entry: Entry, posterior: Any) -> dict[str, np.ndarray]:
    """Mean errors in sds, sd ratios and words of all scalars that are not constant."""
    words = dict(zip(posterior.verdict.names, posterior.verdict.words, strict=True))
    names = [name for name in posterior.summary().index if name.split("[")[0] in entry.mean]
    order = [site for site in posterior.mean if site in entry.mean]
    parts = {
        "truth": np.concatenate([np.ravel(entry.mean[site]) for site in order]),
        "unit": np.concatenate([np.ravel(entry.sd[site]) for site in order]),
        "mean": np.concatenate([np.ravel(posterior.mean[site]) for site in order]),
        "sd": np.concatenate([np.ravel(posterior.sd[site]) for site in order]),
    }
    kept = parts["unit"] > 0
    unit = np.where(kept, parts["unit"], 1.0)
    return {
        "error": (np.abs(parts["mean"] - parts["truth"]) / unit)[kept],
        "ratio": (parts["sd"] / unit)[kept],
        "word": np.array([words[name] for name in names])[kept],
        "name": np.array(names)[kept],
    }


def main(methods: list[str]) -> None:
    """A line a model and method, then a table a method."""
    import jensen as jn

    warnings.simplefilter("ignore")
    entries = models
    if methods[:1] in (["drawn"], ["again"]):
        from benchmarks import drawn_models

        seed = drawn_models.AGAIN if methods[0] == "again" else drawn_models.SEED
        methods, entries = methods[1:] or ["auto"], partial(drawn_models.models, seed)
    for method in methods or METHODS:
        tally: dict[str, np.ndarray] = {}
        misses = []
        print(
            f"\n{method}\n| model | kind | worst mean error [sd ratios] | trusted | means only | do not use | gradients | s |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for entry in entries():
            begun = time.perf_counter()
            try:
                posterior = jn.fit(entry.model, method, data=entry.data or None, progress=False)
            except jn.JensenError as error:
                print(f"| {entry.name} | {entry.kind} | refused: {error} |", flush=True)
                continue
            seconds = time.perf_counter() - begun
            found = scored(entry, posterior)
            error, ratio, word = found["error"], found["ratio"], found["word"]
            trusted, means = word == "trusted", word == "means only"
            bad_mean, bad_sd = error > WRONG_MEAN, (ratio < WRONG_SD[0]) | (ratio > WRONG_SD[1])
            fine = (error <= FINE_MEAN) & (ratio >= FINE_SD[0]) & (ratio <= FINE_SD[1])
            missed = (trusted & (bad_mean | bad_sd)) | (means & bad_mean)
            misses += [
                f"{entry.name} {name}: {text}, mean off by {off:.2f} sd, sd ratio {part:.2f}"
                for name, text, off, part in zip(
                    *(found[k][missed] for k in ("name", "word", "error", "ratio")), strict=True
                )
            ]
            row = [1, len(word), trusted.sum(), (trusted & bad_mean).sum(), (trusted & bad_sd).sum(), means.sum(),
                   (means & bad_mean).sum(), fine.sum(), (fine & ~trusted).sum(), (~trusted).all(), fine.all()]  # fmt: skip
            tally[entry.kind] = tally.get(entry.kind, np.zeros(len(row), int)) + np.array(row, int)
            print(
                f"| {entry.name} | {entry.kind} | {error.max():.2f} [{ratio.min():.2f}, {ratio.max():.2f}] | {trusted.sum()} | "
                f"{means.sum()} | {(word == 'do not use').sum()} | {posterior.cost.gradients:,} | {seconds:.1f} |",
                flush=True,
            )
        print(f"\n{method}: missed\n" + ("\n".join(misses) or "nothing"))
        print(
            "\n| kind | models | quantities | trusted | mean off > 0.3 sd | sd ratio outside 0.80-1.25 | means only | "
            "mean off > 0.3 sd | accurate | of them not trusted | models without any trusted | models all accurate |"
        )
        print("|" + "---|" * 12)
        for kind, row in {**tally, "all": sum(tally.values(), np.zeros(11, int))}.items():
            print(f"| {kind} | " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
