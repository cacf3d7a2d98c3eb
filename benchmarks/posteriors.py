"""Accuracy and cold cost on the fifteen reference posteriors, beside NumPyro's AutoNormal and AutoMultivariateNormal.

Every fit is a process of its own: CPU and wall seconds run from the start of Python to its end, imports and compilation
included. Errors are in reference sds: the largest error of a mean, and the smallest and largest ratio of sds.

    python -m benchmarks.posteriors [NAME ...]
"""

import json
import sys
import time
import warnings
from typing import Any

import numpy as np

from benchmarks.process import measure

METHODS = ("auto", "fullrank", "meanfield", "AutoNormal", "AutoMultivariateNormal")
ADAM_STEPS, ADAM_RATE = 20_000, 1e-2
GOOD_MEAN, GOOD_SD = 0.10, (0.90, 1.10)


def fit_jensen(model: Any, data: dict[str, Any], method: str) -> dict[str, Any]:
    """Fit by jensen; means, sds, verdicts and cost."""
    import jensen as jn

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jn.FitWarning)
        posterior = jn.fit(model, method, data=data)
    return {
        "mean": posterior.mean,
        "sd": posterior.sd,
        "words": dict(zip(posterior.verdict.names, posterior.verdict.words, strict=True)),
        "gradients": posterior.cost.gradients,
    }


def fit_numpyro(model: Any, data: dict[str, Any], guide_name: str) -> dict[str, Any]:
    """Fit by one of NumPyro's automatic guides with Adam, as its users do."""
    import jax
    import numpyro
    from numpyro.infer import SVI, Trace_ELBO, autoguide

    numpyro.enable_x64()
    guide = getattr(autoguide, guide_name)(model)
    svi = SVI(model, guide, numpyro.optim.Adam(ADAM_RATE), Trace_ELBO())
    result = svi.run(jax.random.key(0), ADAM_STEPS, progress_bar=False, **data)
    draws = guide.sample_posterior(jax.random.key(1), result.params, sample_shape=(4096,))
    found = numpyro.infer.Predictive(model, draws)(jax.random.key(2), **data)
    draws = {**{name: value for name, value in found.items() if name not in data}, **draws}
    return {
        "mean": {name: np.mean(np.asarray(value), 0) for name, value in draws.items()},
        "sd": {name: np.std(np.asarray(value), 0) for name, value in draws.items()},
        "words": None,
        "gradients": ADAM_STEPS,
    }


def worker(name: str, method: str) -> None:
    """One fit, scored; prints JSON."""
    from posteriors.load import load
    from posteriors.score import score

    model, data, reference = load(name)
    start = time.perf_counter()
    fitted = fit_numpyro(model, data, method) if method.startswith("Auto") else fit_jensen(model, data, method)
    seconds = time.perf_counter() - start
    scored = score(fitted["mean"], fitted["sd"], reference)
    light = ~scored.heavy
    words = None
    if fitted["words"] is not None:
        words = [fitted["words"][column.replace(",", ", ").replace(",  ", ", ")] for column in scored.columns]
    print(
        json.dumps(
            {
                "error": [abs(float(value)) for value in scored.mean_error[light]],
                "ratio": [float(value) for value in scored.sd_ratio[light]],
                "words": None if words is None else [word for word, keep in zip(words, light, strict=True) if keep],
                "gradients": fitted["gradients"],
                "seconds": seconds,
                "dim": len(light),
            }
        )
    )


def is_good(result: dict[str, Any]) -> bool:
    """Whether every mean and sd is within the limits."""
    return (
        max(result["error"]) <= GOOD_MEAN and GOOD_SD[0] <= min(result["ratio"]) and max(result["ratio"]) <= GOOD_SD[1]
    )


def main(chosen: list[str] | None = None) -> None:
    """Run everything and print the tables."""
    from posteriors.load import names

    chosen = chosen or list(names())
    good = dict.fromkeys(METHODS, 0)
    trusted = wrong = accurate = alarms = 0
    ratios = []
    print("| posterior | " + " | ".join(METHODS) + " |")
    print("|---|" + "---|" * len(METHODS))
    for name in chosen:
        cells, cpu = [], {}
        for method in METHODS:
            found = measure("benchmarks.posteriors", "--worker", name, method)
            result, cpu[method] = found.result, found.cpu
            error, ratio = np.array(result["error"]), np.array(result["ratio"])
            good[method] += is_good(result)
            cells.append(
                f"{'**' if is_good(result) else ''}{error.max():.2f} [{ratio.min():.2f}, {ratio.max():.2f}]"
                f"{'**' if is_good(result) else ''}; {result['gradients'] / 1000:.0f}k; {found.cpu:.1f} s"
            )
            if method == "auto":
                fine = (error <= GOOD_MEAN) & (ratio >= GOOD_SD[0]) & (ratio <= GOOD_SD[1])
                said = np.array([word == "trusted" for word in result["words"]])
                trusted += said.sum()
                wrong += (said & ((error > 0.30) | (ratio < 0.80) | (ratio > 1.25))).sum()
                accurate += fine.sum()
                alarms += (fine & ~said).sum()
        ratios.append(cpu["auto"] / cpu["AutoNormal"])
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(
        "\nlargest mean error in sds [smallest, largest sd ratio]; thousand gradients; CPU seconds of the whole process."
    )
    print(f"bold: mean error <= {GOOD_MEAN} and sd ratios in {list(GOOD_SD)}: {good} of {len(chosen)}")
    print(
        f"auto: {trusted} quantities trusted, {wrong} of them off by more than 0.30 sd or with an sd ratio outside [0.80, 1.25];"
    )
    print(
        f"      {accurate} accurate quantities, {alarms} of them not trusted ({100 * alarms / max(accurate, 1):.1f}%)"
    )
    print(f"CPU seconds of auto over AutoNormal's: median {np.median(ratios):.2f}, largest {max(ratios):.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main(sys.argv[1:])
