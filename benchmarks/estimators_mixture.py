"""`BayesianGaussianMixture` beside scikit-learn's: cost of an iteration at the same bounds, a univariate mixture, starts, memory.

CPU seconds of all threads, everything compiled; methods take turns, and medians are reported. scikit-learn runs on one BLAS
thread, as jensen does.

    python -m benchmarks.estimators_mixture [iteration] [univariate] [starts] [memory] [cold]
"""

import gc
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.mixture import BayesianGaussianMixture as Reference

from jensen.core.threads import one_blas_thread
from jensen.estimators.mixture import BayesianGaussianMixture

MEANS = (-5.7042636, 6.29803456, 8.79153551)
"""Of the note's univariate mixture."""


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of a call, without collections of garbage that others left."""
    gc.collect()
    gc.disable()
    start = time.process_time()
    work()
    taken = time.process_time() - start
    gc.enable()
    return taken


def groups(kind: str, n: int, D: int = 10, K: int = 20, seed: int = 1) -> np.ndarray:
    """Rows of K Gaussian groups with covariances of their own: far apart, close, or of uneven size."""
    random = np.random.default_rng(seed)
    means = random.normal(size=(K, D)) * {"apart": 3.0, "close": 1.2, "uneven": 2.5}[kind]
    shares = random.dirichlet(np.ones(K)) if kind == "uneven" else np.full(K, 1 / K)
    A = random.normal(size=(K, D, D)) * 0.7 / np.sqrt(D) + 0.6 * np.eye(D)
    z = random.choice(K, p=shares, size=n)
    x = random.normal(size=(n, D))
    for k in range(K):
        x[z == k] = means[k] + x[z == k] @ A[k].T
    return x


def iteration(n: int = 1_000_000, iterations: int = 2, rounds: int = 2) -> None:
    """Cost of an iteration, and bounds from the same start."""
    x = groups("apart", n)
    print("| covariances | CPU s an iteration | scikit-learn | ratio | largest relative difference of bounds |")
    print("|---|---|---|---|---|")
    for shape in ("full", "diag", "tied", "spherical"):
        settings = {"n_components": 20, "covariance_type": shape, "warm_start": True, "tol": 0.0}
        start = BayesianGaussianMixture(**settings, init_params="random_from_data", max_iter=0, random_state=0).fit(x)

        def run(make: Any, steps: int, start: Any = start, settings: Any = settings) -> tuple[float, np.ndarray]:
            mixture = make(**settings, max_iter=steps)
            for name, value in vars(start).items():
                if name.endswith("_"):
                    setattr(mixture, name, value)
            with one_blas_thread():
                taken = cpu(lambda: mixture.fit(x))
            return taken, np.ravel(mixture.lower_bounds_)

        costs: dict[Any, list[float]] = {BayesianGaussianMixture: [], Reference: []}
        bounds = {}
        for _ in range(rounds):
            for make, cost in costs.items():
                short, _ = run(make, 1)
                long, bounds[make] = run(make, 1 + iterations)
                cost.append((long - short) / (len(bounds[make]) - 1))
        ours, theirs = (float(np.median(cost)) for cost in costs.values())
        both = min(map(len, bounds.values()))  # single precision may end early, at a step of nothing but rounding
        one, other = (found[:both] for found in bounds.values())
        apart = np.abs(one / other - 1.0).max()
        print(f"| {shape} | {ours:.3f} | {theirs:.2f} | {theirs / ours:.1f} | {apart:.1e} |", flush=True)


def univariate(n: int = 999_999, seeds: int = 5) -> None:
    """Unit variances, equal weights, mu ~ N(0, 1): CPU ms of a whole fit, and its error in sds of the fixed point."""
    random = np.random.default_rng(9)
    x = np.concatenate([random.normal(mean, 1.0, n // 3) for mean in MEANS])
    m, s2, steps, start = np.array(MEANS), np.ones(3), 0, time.process_time()
    while True:
        e = np.outer(x, m) - 0.5 * (m**2 + s2)
        r = np.exp(e - e.max(axis=1, keepdims=True))
        r /= r.sum(axis=1, keepdims=True)
        s2 = 1.0 / (1.0 + r.sum(axis=0))
        old, m, steps = m, s2 * (x @ r), steps + 1
        if np.abs(m - old).max() < 1e-13:
            break
    hand = (time.process_time() - start) / steps
    print("| seed | CPU ms | error in sds | iterations |\n|---|---|---|---|")
    for seed in range(-1, seeds):
        mixture = BayesianGaussianMixture(
            n_components=3,
            weight_concentration_prior_type="dirichlet_distribution",
            weight_concentration_prior=1e10,
            mean_precision_prior=1.0,
            mean_prior=[0.0],
            degrees_of_freedom_prior=1e10,
            covariance_prior=[[1e10]],
            reg_covar=0.0,
            random_state=seed % 100,
        )
        times = [cpu(lambda mixture=mixture: mixture.fit(x[:, None])) for _ in range(3)]
        error = np.abs((np.sort(mixture.means_[:, 0]) - m) / np.sqrt(s2)).max()
        if seed >= 0:  # the first one compiles
            print(f"| {seed} | {1e3 * np.median(times):.0f} | {error:.3f} | {mixture.n_iter_} |")
    print(f"\nCoordinate ascent in NumPy: {1e3 * hand:.0f} ms an iteration.")


def starts(n: int = 200_000) -> None:
    """Passes over all rows until the bound is within 1e-4 of the best of this fit, default settings."""
    print("| groups | covariances | seed | passes to 1e-4 | passes in all | converged | CPU s | final bound |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in ("apart", "close", "uneven"):
        x = groups(kind, n)
        for shape in ("full", "diag"):
            for seed in (0, 1):
                mixture = BayesianGaussianMixture(n_components=20, covariance_type=shape, random_state=seed)
                taken = cpu(lambda mixture=mixture, x=x: mixture.fit(x))
                bounds = np.array(mixture.lower_bounds_)
                near = int(np.argmax(bounds > bounds.max() - 1e-4 * abs(bounds.max()))) + 1
                print(
                    f"| {kind} | {shape} | {seed} | {near} | {mixture.n_iter_} | {mixture.converged_} | {taken:.1f} | "
                    f"{mixture.lower_bound_:.0f} |",
                    flush=True,
                )


def memory(n: int = 1_000_000) -> None:
    """Largest extra memory of a fit, beside the data and beside a matrix of rows x components."""
    x = groups("apart", n)
    mixture = BayesianGaussianMixture(n_components=20, max_iter=2, random_state=0)
    mixture.fit(x[:30_000])
    tracemalloc.start()
    mixture.fit(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(
        f"data {x.nbytes / 1e6:.0f} MB, extra at most {peak / 1e6:.0f} MB, rows x components {n * 20 * 8 / 1e6:.0f} MB"
    )


def cold() -> None:
    """CPU seconds of a process that fits 30,000 rows: loops compiled anew, from the cache, and 10,000 rows without them."""
    import os
    import tempfile

    code = (
        "import time, numpy as np\nfrom jensen.estimators.mixture import BayesianGaussianMixture as B\n"
        "x = np.random.default_rng(0).normal(size=({}, 2))\nstart = time.process_time()\n"
        "B(n_components=2, max_iter=1, tol=1e9).fit(x)\nprint(time.process_time() - start, time.process_time())"
    )
    with tempfile.TemporaryDirectory() as folder:
        for label, rows in (("compiled anew", 30_000), ("from the cache", 30_000), ("10,000 rows", 10_000)):
            command = [sys.executable, "-W", "ignore", "-c", code.format(rows)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env={**os.environ, "NUMBA_CACHE_DIR": folder}
            )
            fit, whole = map(float, done.stdout.split())
            print(f"{label}: first fit {fit:.1f} CPU s, process {whole:.1f}")


PARTS = {"iteration": iteration, "univariate": univariate, "starts": starts, "memory": memory, "cold": cold}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for part in sys.argv[1:] or PARTS:
        print(f"\n{part}\n", flush=True)
        PARTS[part]()
