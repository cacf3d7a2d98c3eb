"""Regressions, principal components and hidden Markov models behind scikit-learn's contract, beside their peers in one run.

    OMP_NUM_THREADS=1 python -m benchmarks estimators_regress [regressions logistic engine components chains]

CPU seconds (`time.process_time`), one BLAS thread, the smallest of three alternating runs after one to warm up.
"""

import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

ROUNDS = 3


def alternate(**fits: Callable[[], Any]) -> dict[str, tuple[float, Any]]:
    """Smallest CPU seconds and last result of each."""
    best: dict[str, tuple[float, Any]] = {}
    for turn in range(ROUNDS + 1):
        for name, fit in fits.items():
            begun = time.process_time()
            result = fit()
            seconds = time.process_time() - begun
            best[name] = (min(seconds, best[name][0]) if turn > 1 else seconds, result)
    return best


def say(title: str, results: dict[str, tuple[float, Any]], note: Callable[[Any], str]) -> None:
    first = next(iter(results.values()))[0]
    print(f"\n{title}")
    for name, (seconds, result) in results.items():
        print(f"  {name:28s} {seconds:9.4f} s  {seconds / first:7.2f} x   {note(result)}", flush=True)


def regressions() -> None:
    from sklearn.linear_model import ARDRegression as TheirARD
    from sklearn.linear_model import BayesianRidge

    from jensen.estimators import ARDRegression, BayesianLinearRegression

    for n, p in ((100_000, 100), (1_000, 20)):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(n, p))
        w = np.where(rng.random(p) < 0.3, rng.normal(size=p), 0.0)
        y = 3 + x @ w + rng.normal(size=n)

        def note(fit: Any, w: np.ndarray = w) -> str:
            error = np.sqrt(np.mean((fit.coef_ - w) ** 2))
            return f"{fit.n_iter_} sweeps, rms error of the weights {error:.5f}"

        ard = alternate(jensen=partial(ARDRegression().fit, x, y), scikit_learn=partial(TheirARD().fit, x, y))
        say(f"ARD regression, {n:,} x {p}", ard, note)
        ridge = alternate(
            jensen=partial(BayesianLinearRegression().fit, x, y), scikit_learn=partial(BayesianRidge().fit, x, y)
        )
        say(f"Bayesian ridge, {n:,} x {p}", ridge, note)


def logistic() -> None:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from jensen.estimators import BayesianLogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(100_000, 50))
    y = rng.random(100_000) < 1 / (1 + np.exp(-(x @ rng.normal(size=50)) / 5 - 0.5))
    iris, species = load_iris(return_X_y=True)
    iris = StandardScaler().fit_transform(iris)
    for title, rows, labels in (("Logistic regression, 100,000 x 50", x, y), ("Softmax, iris", iris, species)):
        fits = alternate(
            jensen=partial(BayesianLogisticRegression().fit, rows, labels),
            scikit_learn_mode=partial(LogisticRegression().fit, rows, labels),
        )
        say(title, fits, lambda fit: f"{np.max(fit.n_iter_)} sweeps")


def engine() -> None:
    """The general engine on the logistic regression above, with its prior: seconds of the first and of a second fit."""
    import numpyro
    import numpyro.distributions as dist

    import jensen as jn
    from jensen.estimators import BayesianLogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(100_000, 50))
    y = (rng.random(100_000) < 1 / (1 + np.exp(-(x @ rng.normal(size=50)) / 5 - 0.5))).astype(int)

    def model(x: Any, y: Any) -> None:
        lam = numpyro.sample("lam", dist.Gamma(1, 1))
        w = numpyro.sample("w", dist.Normal(0, 1).expand([x.shape[1]])) / lam**0.5
        b = numpyro.sample("b", dist.Normal(0, 100))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)

    ours = BayesianLogisticRegression().fit(x, y)
    for turn in ("first", "second"):
        begun = time.process_time()
        posterior = jn.fit(model, data={"x": x, "y": y}, method="fullrank")
        seconds = time.process_time() - begun
        draws = posterior.draws(4000)
        w = np.asarray(draws["w"]) / np.sqrt(np.asarray(draws["lam"]))[..., None]
        w = w.reshape(-1, 50)
        apart = np.abs(w.mean(0) - ours.coef_[0]) / np.sqrt(ours.sigma_[0].diagonal())
        print(f"  jn.fit, {turn:22s} {seconds:9.4f} s  means apart by at most {apart.max():.3f} sd", flush=True)


def components() -> None:
    from sklearn.decomposition import PCA

    from jensen.estimators import BayesianPCA

    rng = np.random.default_rng(0)
    x = rng.normal(size=(5_000, 5)) @ rng.normal(size=(5, 50)) + rng.normal(size=(5_000, 50))
    fits = alternate(jensen=lambda: BayesianPCA().fit(x), scikit_learn_mle=lambda: PCA("mle").fit(x))
    say("PCA, 5,000 x 50, 5 components", fits, lambda fit: f"{fit.n_components_} components found")


def chains() -> None:
    from hmmlearn.vhmm import VariationalGaussianHMM

    from jensen.estimators import GaussianHMM

    rng = np.random.default_rng(0)
    z = np.repeat(rng.integers(4, size=1_000), 20)
    x = 3 * rng.normal(size=(4, 3))[z] + rng.normal(size=(20_000, 3))
    kind = {"n_components": 4, "covariance_type": "full", "random_state": 0, "n_iter": 20, "tol": 1e-9}
    fits = alternate(
        jensen=lambda: GaussianHMM(**kind).fit(x),
        hmmlearn_log=lambda: VariationalGaussianHMM(**kind).fit(x),
        hmmlearn_scaling=lambda: VariationalGaussianHMM(**kind, implementation="scaling").fit(x),
    )
    constant = x.size / 2 * np.log(2 * np.pi)  # which hmmlearn leaves out

    def note(fit: Any) -> str:
        history = fit.elbo_ if hasattr(fit, "elbo_") else np.array(fit.monitor_.history) - constant
        return f"{len(history)} sweeps, ELBO {history[-1]:.1f} (own priors)"

    say("Gaussian HMM, 20,000 x 3, 4 states, full", fits, note)


PARTS = (regressions, logistic, engine, components, chains)

if __name__ == "__main__":
    wanted = sys.argv[1:] or [part.__name__ for part in PARTS]
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in PARTS:
            if part.__name__ in wanted:
                part()
