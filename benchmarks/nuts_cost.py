"""The whole cost of the fifteen reference posteriors, by jensen and by NumPyro's NUTS (4 chains, 1,000 warm-up, 1,000 draws).

Every fit is a process of its own; CPU seconds from start to end of Python. Gradients of NUTS are the leapfrog steps of all
chains, warm-up included.

    python -m benchmarks.nuts_cost [NAME ...]
"""

import json
import sys
import time
import warnings
from typing import Any

import numpy as np

from benchmarks.process import measure


def fit_nuts(model: Any, data: dict[str, Any]) -> dict[str, Any]:
    """Means, sds and gradients of NUTS with NumPyro's defaults."""
    import jax
    import numpyro
    from numpyro.infer import MCMC, NUTS

    numpyro.enable_x64()
    sampler = MCMC(
        NUTS(model), num_warmup=1000, num_samples=1000, num_chains=4, progress_bar=False, chain_method="sequential"
    )
    sampler.warmup(jax.random.key(0), extra_fields=("num_steps",), collect_warmup=True, **data)
    gradients = int(np.asarray(sampler.get_extra_fields()["num_steps"]).sum())
    sampler.run(jax.random.key(1), extra_fields=("num_steps",), **data)
    gradients += int(np.asarray(sampler.get_extra_fields()["num_steps"]).sum())
    draws = sampler.get_samples()
    return {
        "mean": {name: np.mean(np.asarray(value), 0) for name, value in draws.items()},
        "sd": {name: np.std(np.asarray(value), 0) for name, value in draws.items()},
        "gradients": gradients,
    }


def worker(name: str, how: str) -> None:
    """One fit, scored; prints JSON."""
    from posteriors.load import load
    from posteriors.score import score

    model, data, reference = load(name)
    start = time.perf_counter()
    if how == "NUTS":
        fitted = fit_nuts(model, data)
    else:
        import jensen as jn

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jn.FitWarning)
            posterior = jn.fit(model, data=data)
        fitted = {"mean": posterior.mean, "sd": posterior.sd, "gradients": posterior.cost.gradients}
    scored = score(fitted["mean"], fitted["sd"], reference)
    light = ~scored.heavy
    print(
        json.dumps(
            {
                "error": float(np.abs(scored.mean_error)[light].max()),
                "low": float(scored.sd_ratio[light].min()),
                "high": float(scored.sd_ratio[light].max()),
                "gradients": fitted["gradients"],
                "seconds": time.perf_counter() - start,
            }
        )
    )


def main(chosen: list[str] | None = None) -> None:
    """One line a posterior, and the totals."""
    from posteriors.load import names

    total = {how: np.zeros(2) for how in ("jensen", "NUTS")}
    print("| posterior | jensen: error [sd ratios]; gradients; CPU s | NUTS |")
    print("|---|---|---|")
    for name in chosen or list(names()):
        cells = []
        for how in total:
            found = measure("benchmarks.nuts_cost", "--worker", name, how)
            result = found.result
            total[how] += result["gradients"], found.cpu
            errors = f"{result['error']:.2f} [{result['low']:.2f}, {result['high']:.2f}]"
            cells.append(f"{errors}; {result['gradients'] / 1000:.0f}k; {found.cpu:.1f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    ratio = total["jensen"] / total["NUTS"]
    print(f"\ntotals: jensen {total['jensen'][0] / 1e3:,.0f}k gradients, {total['jensen'][1]:.0f} CPU s; ", end="")
    print(
        f"NUTS {total['NUTS'][0] / 1e3:,.0f}k, {total['NUTS'][1]:.0f} CPU s; ratios {ratio[0]:.3f} and {ratio[1]:.3f}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main(sys.argv[1:])
