"""Cold start: a whole process, from `python` to a printed summary, side by side with NumPyro and PyMC.

What a user waits for: imports, reading the model, compilation, fit, checks, correction, table. NumPyro: AutoNormal with
20,000 Adam steps; PyMC: ``pm.fit(20000)``; each prints means and sds. No compilation cache, for PyTensor's C code neither;
``pymc_cached`` keeps it between repeats. Medians over repeats taken in turn.

    python -m benchmarks.cold_start [repeats]
"""

import json
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np

from benchmarks.process import measure

STEPS = 20_000
PEERS = ("jensen", "numpyro")
PYMC_PEERS = ("jensen_on_pymc", "pymc", "pymc_cached")


def trial() -> tuple[Any, dict[str, Any]]:
    """NumPyro model and data of the clinical trial."""
    from jensen import demo

    return demo.trial, {"drug": demo.DRUG, "placebo": demo.PLACEBO}


def kidscore() -> tuple[Any, dict[str, Any]]:
    """NumPyro model and data of kidscore_momiq."""
    from posteriors.load import load

    model, data, _ = load("kidscore_momiq")
    return model, data


def pymc_trial() -> Any:
    """The clinical trial in PyMC."""
    import pymc as pm

    from jensen import demo

    drug, placebo = np.asarray(demo.DRUG, float), np.asarray(demo.PLACEBO, float)
    both = np.concatenate([drug, placebo])
    with pm.Model() as model:
        mu = pm.Normal("mu", both.mean(), 2 * both.std(), shape=2)
        sigma = pm.Uniform("sigma", 1.0, 10.0, shape=2)
        nu = pm.Exponential("nu_minus_one", 1 / 29) + 1
        pm.StudentT("drug", nu=nu, mu=mu[0], sigma=sigma[0], observed=drug)
        pm.StudentT("placebo", nu=nu, mu=mu[1], sigma=sigma[1], observed=placebo)
        pm.Deterministic("difference", mu[0] - mu[1])
    return model


def pymc_kidscore() -> Any:
    """kidscore_momiq in PyMC."""
    from posteriors.load import load
    from posteriors.models_pymc import kidscore_momiq as build

    return build(**load("kidscore_momiq")[1])


CASES = {"kidscore_momiq": (kidscore, pymc_kidscore), "clinical_trial": (trial, pymc_trial)}


def worker(case: str, peer: str) -> None:
    """One process: fit and print."""
    if peer == "jensen":
        import jensen as jn

        model, data = CASES[case][0]()
        print(jn.fit(model, data=data))
    elif peer == "jensen_on_pymc":
        import jensen as jn

        print(jn.fit(CASES[case][1]()))
    elif peer == "numpyro":
        import jax
        import numpyro
        from numpyro.infer import SVI, Trace_ELBO, autoguide

        model, data = CASES[case][0]()
        guide = autoguide.AutoNormal(model)
        svi = SVI(model, guide, numpyro.optim.Adam(1e-2), Trace_ELBO())
        result = svi.run(jax.random.key(0), STEPS, progress_bar=False, **data)
        for name, value in guide.sample_posterior(jax.random.key(1), result.params, sample_shape=(1000,)).items():
            print(name, np.mean(np.asarray(value), 0), np.std(np.asarray(value), 0))
    else:
        import pymc as pm

        with CASES[case][1](), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            approximation = pm.fit(STEPS, progressbar=False, random_seed=0)
        posterior = approximation.sample(1000).posterior
        for name in posterior:
            print(name, posterior[name].mean(("chain", "draw")).values, posterior[name].std(("chain", "draw")).values)
    print(json.dumps({}))


def imports() -> dict[str, float]:
    """Median wall seconds of importing jensen and JAX alone, in turn."""
    seconds: dict[str, list[float]] = {"jensen": [], "jax": []}
    for _ in range(7):
        for name in seconds:
            seconds[name].append(measure("benchmarks.cold_start", "--import", name).wall)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def main(repeats: int = 3) -> None:
    """Print the table."""
    print("| model | process | wall s | CPU s | wall ratio to the peer | CPU ratio |")
    print("|---|---|---|---|---|---|")
    kept = str(Path(gettempdir()) / "jensen-benchmark-pytensor")
    for case in CASES:
        measure("benchmarks.cold_start", "--worker", case, "pymc_cached", pytensor=kept)
        seconds: dict[str, list[tuple[float, float]]] = {peer: [] for peer in (*PEERS, *PYMC_PEERS)}
        for _ in range(repeats):
            for peer, found in seconds.items():
                with TemporaryDirectory() as fresh:
                    folder = kept if peer == "pymc_cached" else fresh
                    measured = measure("benchmarks.cold_start", "--worker", case, peer, pytensor=folder)
                found.append((measured.wall, measured.cpu))
        medians = {peer: np.median(np.array(found), axis=0) for peer, found in seconds.items()}
        pairs = (("jensen", "numpyro"), ("jensen_on_pymc", "pymc"), ("jensen_on_pymc", "pymc_cached"))
        for ours, theirs in pairs:
            wall, cpu = medians[ours]
            ratio = medians[ours] / medians[theirs]
            print(f"| {case} | {ours} | {wall:.2f} | {cpu:.2f} | {ratio[0]:.2f} of {theirs} | {ratio[1]:.2f} |")
        for peer in ("numpyro", "pymc", "pymc_cached"):
            print(f"| {case} | {peer} | {medians[peer][0]:.2f} | {medians[peer][1]:.2f} | | |", flush=True)
    seconds = imports()
    print(
        f"\nimport jensen {seconds['jensen']:.2f} s, import jax {seconds['jax']:.2f} s: {seconds['jensen'] / seconds['jax']:.2f}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    elif sys.argv[1:2] == ["--import"]:
        __import__(sys.argv[2])
        print("{}")
    else:
        main(*map(int, sys.argv[1:]))
