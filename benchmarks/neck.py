"""Does a fit reach the neck of a funnel? Centered eight schools on simulated data, against quadrature.

Given tau everything is Gaussian, so that the posterior of tau is one sum over a grid for every data set: stronger than ranks.

    python -m benchmarks.neck [METHOD [SETS]]
"""

import sys
import warnings

import numpy as np

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.95)
_GRID = np.linspace(-14, 9, 4001)


def simulated(number: int, errors: np.ndarray) -> np.ndarray:
    """One set of effects, from the prior."""
    rng = np.random.default_rng([77, number])
    mu, tau = rng.normal(0, 5), abs(5 * rng.standard_cauchy())
    return rng.normal(rng.normal(mu, tau, len(errors)), errors)


def exact(y: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Posterior probabilities of log tau on the grid."""
    variance = errors**2 + np.exp(2 * _GRID)[:, None]
    a, b, c = (1 / variance).sum(1), (y / variance).sum(1), (y**2 / variance).sum(1)
    log_p = _GRID - np.log1p(np.exp(2 * _GRID) / 25) - 0.5 * (np.log(variance).sum(1) + np.log1p(25 * a) + c)
    log_p += 12.5 * b**2 / (1 + 25 * a)
    p = np.exp(log_p - log_p.max())
    return p / p.sum()


def main(method: str = "auto", sets: int = 40) -> None:
    """A line a data set, then the means."""
    import jensen as jn
    from posteriors.load import load

    warnings.simplefilter("ignore")
    model, data, _ = load("eight_schools_centered")
    errors, rows = np.asarray(data["sigma"], float), []
    print(
        f"share of draws below the true quantiles {LEVELS}; (mean - truth) / sd and sd ratio of tau, of log tau; gradients"
    )
    for number in range(sets):
        y = simulated(number, errors)
        p = exact(y, errors)
        posterior = jn.fit(model, method, data={**data, "y": y}, progress=False)
        draws, weights = np.log(np.ravel(posterior.kept.values["tau"])), posterior.weights
        below = [weights[draws < at].sum() for at in np.interp(LEVELS, np.cumsum(p), _GRID)]
        moments = []
        for x, grid in ((np.exp(draws), np.exp(_GRID)), (draws, _GRID)):
            mean, truth = weights @ x, p @ grid
            sd = np.sqrt(p @ (grid - truth) ** 2)
            moments += [(mean - truth) / sd, np.sqrt(weights @ (x - mean) ** 2) / sd]
        word = posterior.verdict.words[posterior.verdict.names.index("tau")]
        rows.append([*below, *moments, posterior.cost.gradients])
        print(number, word, np.round(rows[-1], 3), flush=True)
    print("mean", np.round(np.mean(rows, 0), 4), "largest error of a mean", np.abs(rows)[:, [5, 7]].max(0).round(3))


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "auto", int(sys.argv[2]) if sys.argv[2:] else 40)
