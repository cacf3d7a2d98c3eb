"""The verdict's record: how often is "trusted" wrong, and how often is an accurate quantity refused?

On the reference posteriors with several seeds, and on small posteriors with known moments that are far from Gaussian.

    python -m benchmarks.record [seeds]
"""

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

WRONG_MEAN, WRONG_SD = 0.30, (0.80, 1.25)
FINE_MEAN, FINE_SD = 0.10, (0.90, 1.10)


def reference_posteriors(seeds: int) -> None:
    """One row a seed."""
    import jensen as jn
    from posteriors.load import load, names
    from posteriors.score import score

    print("| seed | posteriors all accurate | trusted but wrong | accurate but not trusted | not |")
    print("|---|---|---|---|---|")
    for seed in range(seeds):
        whole = wrong = alarms = accurate = 0
        missed = []
        for name in names():
            model, data, reference = load(name)
            posterior = jn.fit(model, data=data, seed=seed)
            scored = score(posterior.mean, posterior.sd, reference)
            error, ratio = np.abs(scored.mean_error), scored.sd_ratio
            words = dict(zip(posterior.verdict.names, posterior.verdict.words, strict=True))
            said = np.array([words[c.replace(", ", ",").replace(",", ", ")] == "trusted" for c in scored.columns])
            fine = (error <= FINE_MEAN) & (ratio >= FINE_SD[0]) & (ratio <= FINE_SD[1])
            wrong += int((said & ((error > WRONG_MEAN) | (ratio < WRONG_SD[0]) | (ratio > WRONG_SD[1]))).sum())
            alarms += int((fine & ~said).sum())
            accurate += int(fine.sum())
            whole += bool(fine.all())
            missed += [] if fine.all() else [name]
        print(
            f"| {seed} | {whole} of {len(names())} | {wrong} | {alarms} of {accurate} | {', '.join(missed)} |",
            flush=True,
        )


def odd_posteriors() -> Iterator[tuple[str, Any, float, float]]:
    """Name, density of x, mean and sd of its first coordinate."""
    import jax.numpy as jnp

    import jensen as jn

    def two_modes(weight: float, apart: float) -> Any:
        return lambda p: jnp.logaddexp(
            jnp.log(1 - weight) - 0.5 * p["x"] ** 2, jnp.log(weight) - 0.5 * (p["x"] - apart) ** 2
        )

    for weight in (0.02, 0.05, 0.1, 0.3, 0.5):
        for apart in (3.0, 4.0, 5.0, 6.0, 8.0):
            sd = float(np.sqrt(1 + weight * (1 - weight) * apart**2))
            yield f"two modes, {weight}, {apart}", jn.density(two_modes(weight, apart), {"x": 0.0}), weight * apart, sd
    for freedom in (3, 5):

        def student(p: Any, freedom: float = freedom) -> Any:
            return -0.5 * (freedom + 1) * jnp.log1p(p["x"] ** 2 / freedom).sum()

        yield (
            f"Student-t({freedom})",
            jn.density(student, {"x": np.zeros(3)}),
            0.0,
            float(np.sqrt(freedom / (freedom - 2))),
        )

    def inverse_gamma(p: Any) -> Any:
        return -4 * jnp.log(p["x"]) - 2 / p["x"]

    yield "inverse gamma(3)", jn.density(inverse_gamma, {"x": 1.0}, support={"x": "positive"}), 1.0, 1.0

    def spike_and_slab(p: Any) -> Any:
        return jnp.logaddexp(-0.5 * (p["x"] / 0.1) ** 2 - jnp.log(0.1), -0.5 * (p["x"] / 2) ** 2 - jnp.log(2.0))

    yield "spike and slab", jn.density(spike_and_slab, {"x": 0.0}), 0.0, float(np.sqrt(0.5 * 0.01 + 0.5 * 4))


def main(seeds: int = 4) -> None:
    """Print both tables."""
    import jensen as jn

    warnings.simplefilter("ignore")
    reference_posteriors(seeds)
    print("\n| method | posteriors | trusted | of them mean off by > 0.2 sd or sd ratio outside 0.80-1.25 |")
    print("|---|---|---|---|")
    for method in ("auto", "fullrank", "meanfield"):
        trusted = wrong = total = 0
        for _, model, mean, sd in odd_posteriors():
            posterior = jn.fit(model, method)
            total += 1
            if posterior.verdict.words[0] != "trusted":
                continue
            trusted += 1
            off, ratio = abs(np.ravel(posterior.mean["x"])[0] - mean) / sd, np.ravel(posterior.sd["x"])[0] / sd
            wrong += bool(off > 0.2 or not 0.80 < ratio < 1.25)
        print(f"| {method} | {total} | {trusted} | {wrong} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
