"""Truths of the blind set: computes ``benchmarks/blind_truth.json``.

    python -m benchmarks.blind_truth [names]     recomputes all (about ten minutes), or those named

Nothing of jensen's inference is used: closed forms; sums over grids on which NumPyro's density is evaluated; grids over scales
given which everything else is Gaussian; exact draws; or NumPyro's NUTS, 4 chains, on well-parametrized twins. Every grid is
laid twice, with other widths and spacings; the difference is stored as the error, and so is NUTS's Monte Carlo error.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy import special, stats

from benchmarks import blind_hierarchies as h
from benchmarks import blind_regressions as r
from benchmarks.blind_geometries import geometries
from benchmarks.blind_grids import by_grid, named, on_grid, ordered_mixture, shapes_of
from benchmarks.blind_models import TRUTH, sources
from jensen.core.precision import scope


# ---------------------------------------------------------------------------------------------- Gaussian given the scales
def conditional(scales: dict[str, Any], linear: dict[str, int], given: Callable, y: np.ndarray) -> dict[str, Any]:
    """Scales on a grid of their logs; given them a Gaussian, y = X w + noise, w ~ N(m, P^-1).

    `scales`: name -> its prior (SciPy); `linear`: site -> length (0: a scalar), in the order of w;
    `given(s)`: scales (d,) -> P (K, K), m (K,), X (N, K), variances (N,) of the noise.
    """

    def at_one(t):
        s = np.exp(t)
        P, m, X, noise = given(s)
        A = P + X.T @ (X / noise[:, None])
        b = P @ m + X.T @ (y / noise)
        L = np.linalg.cholesky(A)
        mean = np.linalg.solve(A, b)
        log_p = sum(prior.logpdf(value) for prior, value in zip(scales.values(), s, strict=True)) + t.sum()
        log_p += -0.5 * np.log(noise).sum() - 0.5 * (y**2 / noise).sum() + 0.5 * np.linalg.slogdet(P)[1]
        log_p += -0.5 * m @ P @ m + 0.5 * b @ mean - np.log(np.diag(L)).sum()
        inverse = np.linalg.inv(L)
        return log_p, np.concatenate([s, mean]), np.concatenate([np.zeros(len(s)), (inverse**2).sum(axis=0)])

    def evaluate(t):
        return tuple(np.stack(part) for part in zip(*(at_one(one) for one in t), strict=True))

    d = len(scales)
    moments = on_grid(evaluate, np.full(d, -0.7), 0.5 * np.eye(d), scales=True)
    sites = {name: () for name in scales} | {name: (n,) if n else () for name, n in linear.items()}
    return named("conditional", sites, *moments)


def half_normal(width: float) -> Any:
    return stats.halfnorm(scale=width)


def linear_model(X, y, width, sigma) -> dict[str, Any]:
    """Known prior sds `width` of the coefficients, unknown sigma."""
    K = X.shape[1]
    P, m = np.diag(np.ones(K) / np.asarray(width) ** 2), np.zeros(K)
    return conditional({"sigma": sigma}, {"beta": K}, lambda s: (P, m, X, np.full(len(y), s[0] ** 2)), y)


def ridge(X, y) -> dict[str, Any]:
    K = X.shape[1]

    def given(s):
        return np.eye(K) / s[0] ** 2, np.zeros(K), X, np.full(len(y), s[1] ** 2)

    return conditional({"tau": half_normal(1.0), "sigma": stats.expon()}, {"beta": K}, given, y)


def local_level(y) -> dict[str, Any]:
    n = len(y)
    step = np.eye(n) - np.eye(n, k=-1)

    def given(s):
        return step.T @ step / s[0] ** 2, np.zeros(n), np.eye(n), np.full(n, s[1] ** 2)

    return conditional({"tau": half_normal(1.0), "sigma": half_normal(1.0)}, {"level": n}, given, y)


def centred(J: int, tau: float) -> np.ndarray:
    """Precision of (mu, theta) with mu ~ N(0, 5^2), theta | mu ~ N(mu, tau^2)."""
    D = np.hstack([-np.ones((J, 1)), np.eye(J)])
    P = D.T @ D / tau**2
    P[0, 0] += 1.0 / 25.0
    return P


def groups_centred(y, error, width) -> dict[str, Any]:
    J = len(y)
    X = np.hstack([np.zeros((J, 1)), np.eye(J)])
    linear = {"mu": 0, "theta": J}
    return conditional(
        {"tau": half_normal(width)}, linear, lambda s: (centred(J, s[0]), np.zeros(J + 1), X, error**2), y
    )


def groups_noncentred(y, error, width) -> dict[str, Any]:
    J = len(y)
    P = np.diag([1.0 / 25.0] + [1.0] * J)

    def given(s):
        return P, np.zeros(J + 1), np.hstack([np.ones((J, 1)), s[0] * np.eye(J)]), error**2

    return conditional({"tau": half_normal(width)}, {"mu": 0, "raw": J}, given, y)


def many_strong(y) -> dict[str, Any]:
    rows, J = y.shape
    X = np.hstack([np.zeros((rows * J, 1)), np.tile(np.eye(J), (rows, 1))])

    def given(s):
        return centred(J, s[0]), np.zeros(J + 1), X, np.full(rows * J, s[1] ** 2)

    scales = {"tau": half_normal(2.0), "sigma": half_normal(2.0)}
    return conditional(scales, {"mu": 0, "theta": J}, given, y.ravel())


def crossed(y) -> dict[str, Any]:
    A, B = y.shape
    X = np.hstack([np.ones((A * B, 1)), np.repeat(np.eye(A), B, axis=0), np.tile(np.eye(B), (A, 1))])

    def given(s):
        P = np.diag(np.concatenate([[1.0 / 9.0], np.full(A, s[0] ** -2), np.full(B, s[1] ** -2)]))
        return P, np.zeros(1 + A + B), X, np.full(A * B, s[2] ** 2)

    scales = {name: half_normal(1.0) for name in ("tau_a", "tau_b", "sigma")}
    return conditional(scales, {"mu": 0, "a": A, "b": B}, given, y.ravel())


# ------------------------------------------------------------------------------------------------------------ closed forms
def pumps(hours, y) -> dict[str, Any]:
    """Rates are gamma given (a, b), which are on a grid."""

    def evaluate(t):
        a, b = np.exp(t[:, :1]), np.exp(t[:, 1:])
        log_p = (a * np.log(b) - special.gammaln(a) + special.gammaln(a + y) - (a + y) * np.log(b + hours)).sum(axis=1)
        log_p += (-a - b)[:, 0] + t.sum(axis=1)
        mean, var = (a + y) / (b + hours), (a + y) / (b + hours) ** 2
        return log_p, np.hstack([a, b, mean]), np.hstack([np.zeros_like(t), var])

    sites = {"a": (), "b": (), "rate": (len(y),)}
    return named("grid", sites, *on_grid(evaluate, np.zeros(2), 0.5 * np.eye(2)))


def ar1(y) -> dict[str, Any]:
    """mu is Gaussian given (phi, sigma), which are on a grid of (-artanh, log): the long tails are on the left."""

    def evaluate(t):
        phi, sigma = np.tanh(-t[:, :1]), np.exp(t[:, 1])
        first, log_first = np.sqrt(1.0 - phi**2), np.log1p(-(phi[:, 0] ** 2))
        x = np.hstack([first, np.repeat(1.0 - phi, len(y) - 1, axis=1)])
        rest = np.hstack([first * y[0], y[1:] - phi * y[:-1]])
        A, b = 0.25 + (x**2).sum(axis=1) / sigma**2, (x * rest).sum(axis=1) / sigma**2
        log_p = 0.5 * log_first - len(y) * t[:, 1] - 0.5 * (rest**2).sum(axis=1) / sigma**2 + 0.5 * b**2 / A
        log_p += -0.5 * np.log(A) - sigma**2 / 8.0 + log_first + t[:, 1]
        mean = np.stack([b / A, phi[:, 0], sigma], axis=1)
        return log_p, mean, np.stack([1.0 / A, 0.0 * A, 0.0 * A], axis=1)

    return named(
        "grid", {"mu": (), "phi": (), "sigma": ()}, *on_grid(evaluate, np.array([-1.0, 0.0]), 0.5 * np.eye(2), True)
    )


def change_point(y) -> dict[str, Any]:
    k = np.arange(1, len(y))
    total = np.cumsum(y)[:-1]
    counts, lengths = np.stack([total, y.sum() - total]) + 2.0, np.stack([k, len(y) - k]) + 0.5
    log_w = (special.gammaln(counts) - counts * np.log(lengths)).sum(axis=0)
    w = special.softmax(log_w)
    mean, square = (counts / lengths) @ w, (counts * (counts + 1.0) / lengths**2) @ w
    return named("exact", {"early": (), "late": ()}, mean, np.sqrt(square - mean**2), 0.0)


def shares(y) -> dict[str, Any]:
    p = stats.dirichlet(y + 0.7)
    return named("exact", {"p": (len(y),)}, p.mean(), np.sqrt(p.var()), 0.0)


def piled_up(y, error) -> dict[str, Any]:
    level = stats.truncnorm((0.0 - y) / error, (1.0 - y) / error, loc=y, scale=error)
    return named("exact", {"level": (len(y),)}, level.mean(), level.std(), 0.0)


def rising(y, error) -> dict[str, Any]:
    rng = np.random.default_rng(79001)
    x = y + error * rng.normal(size=(8_000_000, len(y)))
    x = x[(np.diff(x, axis=1) > 0).all(axis=1)]
    return named("draws", {"level": (len(y),)}, x.mean(axis=0), x.std(axis=0), 1.0 / np.sqrt(len(x)), draws=len(x))


# -------------------------------------------------------------------------------------------------------------------- NUTS
def nuts(model: Any, data: dict[str, Any], twin: Any = None, draws: int = 4000, accept: float = 0.9) -> dict[str, Any]:
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
    from numpyro.infer import MCMC, NUTS

    sites = shapes_of(model, data)
    kernel = NUTS(twin or model, target_accept_prob=accept)
    chains = MCMC(
        kernel, num_warmup=1000, num_samples=draws, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    chains.run(jax.random.key(79002), extra_fields=("diverging",), **data)
    found = chains.get_samples(group_by_chain=True)
    x = np.concatenate([np.asarray(found[name]).reshape(4, draws, -1) for name in sites], axis=2)
    mean, sd = x.mean(axis=(0, 1)), x.std(axis=(0, 1))
    moving = sd > 1e-12
    x, square = x[:, :, moving], (x[:, :, moving] - mean[moving]) ** 2
    ess, ess_square = effective_sample_size(x), effective_sample_size(square)
    of_mean, of_sd = 1.0 / np.sqrt(ess), square.std(axis=(0, 1)) / (2.0 * sd[moving] ** 2 * np.sqrt(ess_square))
    more = {
        "ess": float(min(ess.min(), ess_square.min())),
        "rhat": float(split_gelman_rubin(x).max()),
        "divergences": int(np.sum(chains.get_extra_fields()["diverging"])),
        "draws": 4 * draws,
    }
    return named("nuts", sites, mean, np.where(moving, sd, 0.0), max(of_mean.max(), of_sd.max()), **more)


# ----------------------------------------------------------------------------------------------------------------- recipes
ON_GRID = {"logit_separated", "logit_near", "probit", "poisson_exposure", "gp_hyper"}
ON_GRID |= {"weibull", "zero_inflated", "truncated", "correlation"}
BY_NUTS = {  # name -> twin, draws a chain, target of the acceptance rate
    "sparse": (None, 8000, 0.98),
    "negbin": (None, 4000, 0.9),
    "robust": (None, 4000, 0.9),
    "ordinal": (None, 4000, 0.9),
    "heteroscedastic": (None, 4000, 0.9),
    "volatility": (r.volatility_twin, 6000, 0.9),
    "count_walk": (None, 6000, 0.9),
    "slopes": (h.slopes_twin, 6000, 0.95),
    "many_counts": (h.many_counts_twin, 8000, 0.9),
}
BY_HAND: dict[str, Callable[..., dict[str, Any]]] = {
    "lm_plain": partial(linear_model, width=np.full(4, 3.0), sigma=half_normal(2.0)),
    "lm_collinear": partial(linear_model, width=np.full(3, 5.0), sigma=half_normal(1.0)),
    "lm_scales": partial(linear_model, sigma=half_normal(1.0)),
    "few_centred": groups_centred,
    "weak_centred": groups_centred,
    "no_variance": groups_centred,
    "strong_noncentred": groups_noncentred,
    "few_noncentred_pymc": partial(groups_noncentred, **h.few_weak()),
    "mixture_labels": lambda **data: by_grid(h.mixture_labels, data, start=(0.0, 1.0)),
    "michaelis_menten": lambda: by_grid(r.michaelis_menten_twin, {"x": r.CONCENTRATION, "y": r.RATE}),
    "cure_pymc": lambda: by_grid(h.cure_twin, h.cure_data()),
    "overdispersed_pymc": lambda: by_grid(h.overdispersed_twin, h.overdispersed_data()),
    "hospitals_pymc": lambda: nuts(h.hospitals_twin, h.hospital_data(), draws=8000),
    "mixture_ordered": lambda y: named("grid", {"center": (2,), "sigma": (), "weight": ()}, *ordered_mixture(y)),
    "rising": partial(rising, **h.RISING),
}
for recipe in (ridge, local_level, many_strong, crossed, ar1, pumps, change_point, shares, piled_up):
    BY_HAND[recipe.__name__] = recipe


def truth(name: str, model: Any, data: dict[str, Any]) -> dict[str, Any]:
    if name in BY_HAND:
        return BY_HAND[name](**data)
    if name in ON_GRID:
        return by_grid(model, data)
    twin, draws, accept = BY_NUTS[name]
    return nuts(model, data, twin, draws, accept)


def main(wanted: list[str]) -> None:
    stored = json.loads(TRUTH.read_text(encoding="utf-8")) if TRUTH.exists() else {}
    for geometry in geometries():
        moments = {key: {k: v.tolist() for k, v in getattr(geometry, key).items()} for key in ("mean", "sd")}
        stored[geometry.name] = {"how": "exact", "error": 0.0, **moments}
    for name, kind, model, data in sources():
        if kind != "geometry" and (name in wanted or not wanted):
            with scope("float64"):
                stored[name] = found = truth(name, model, data)
            about = {key: value for key, value in found.items() if key not in ("mean", "sd")}
            print(name, about, flush=True)
            TRUTH.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
