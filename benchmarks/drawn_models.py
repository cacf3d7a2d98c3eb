"""The second and the third blind set: models drawn at random from a small grammar, with truths that are exact or sums over grids.

Three rules, one stream of random numbers, no model chosen by hand:

    multilevel   Gaussian rows in groups: number and sizes of groups, spread, prior of the scale, (non-)centered, known noise
    rows         two parameters, one of eight likelihoods, priors and few rows: sums over a 2-D grid, densities by SciPy
    shapes       images of normal draws: funnels, bananas, skewed and heavy-tailed axes, two modes; rotated; by exact draws

Truths know nothing of jensen, and were computed and committed before any fit.

    python -m benchmarks.drawn_models [again]    computes them again: benchmarks/drawn_truth.json, drawn_again_truth.json
"""

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from benchmarks.blind_models import Entry

SEED, AGAIN = 20261130, 20261201
"""Of the second set, and of the third."""
TRUTHS = {SEED: Path(__file__).with_name("drawn_truth.json"), AGAIN: Path(__file__).with_name("drawn_again_truth.json")}
COUNTS = {"multilevel": 18, "rows": 16, "shapes": 16}
Moments = dict[str, dict[str, np.ndarray]]


class Drawn(NamedTuple):
    """A model, its data, and what computes its moments."""

    name: str
    kind: str
    model: Any
    data: dict[str, Any]
    truth: Callable[[], Moments]


def drawn(seed: int = SEED) -> Iterator[Drawn]:
    """All of a set, in order."""
    rules = {"multilevel": _multilevel, "rows": _rows, "shapes": _shapes}
    for kind, count in COUNTS.items():
        for number in range(count):
            rng = np.random.default_rng([seed, len(kind), number])
            yield rules[kind](f"{kind}_{number}", rng)


def models(seed: int = SEED) -> Iterator[Entry]:
    """Every model with its truth, as `benchmarks.blind` scores it."""
    truths = json.loads(TRUTHS[seed].read_text(encoding="utf-8"))
    for each in drawn(seed):
        mean, sd = ({k: np.asarray(v) for k, v in truths[each.name][key].items()} for key in ("mean", "sd"))
        yield Entry(each.name, each.kind, each.model, each.data, mean, sd, "grid", 0.01)


# ------------------------------------------------------------------------------------------------------------ multilevel
def _multilevel(name: str, rng: np.random.Generator) -> Drawn:
    import numpyro
    import numpyro.distributions as dist

    groups, width = int(rng.integers(4, 13)), float(rng.choice([0.5, 1.0, 2.0, 5.0]))
    sizes, spread = rng.integers(1, 9, groups), float(rng.choice([0.0, 0.1, 0.5, 1.0, 3.0]))
    prior, centered = str(rng.choice(["halfnormal", "halfcauchy", "exponential", "variance"])), bool(rng.integers(2))
    noisy, slope = bool(rng.integers(2)), bool(rng.integers(2))
    of, scale = np.repeat(np.arange(groups), sizes), float(rng.choice([0.5, 1.0, 2.0]))
    x = rng.standard_normal(len(of))
    y = 1.0 + spread * rng.standard_normal(groups)[of] + 0.5 * slope * x + scale * rng.standard_normal(len(of))

    def model(x, y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        if prior == "variance":
            tau = numpyro.sample("variance", dist.InverseGamma(2.0, width)) ** 0.5
        else:
            found = {"halfnormal": dist.HalfNormal(width), "halfcauchy": dist.HalfCauchy(width)}
            tau = numpyro.sample("tau", found.get(prior, dist.Exponential(1 / width)))
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0)) if noisy else scale
        beta = numpyro.sample("beta", dist.Normal(0, 1)) if slope else 0.0
        with numpyro.plate("groups", groups):
            each = numpyro.sample("each", dist.Normal(mu, tau) if centered else dist.Normal(0, 1))
        place: Any = each if centered else mu + tau * each
        numpyro.sample("y", dist.Normal(place[of] + beta * x, sigma), obs=y)

    def truth() -> Moments:
        t = np.linspace(-12, 5, 171)
        s = np.linspace(-3, 2.5, 56) if noisy else np.array([np.log(scale)])
        tau, sigma = np.exp(t), np.exp(s)
        prior_tau = {
            "halfnormal": lambda: stats.halfnorm.logpdf(tau, scale=width) + t,
            "halfcauchy": lambda: stats.halfcauchy.logpdf(tau, scale=width) + t,
            "exponential": lambda: stats.expon.logpdf(tau, scale=width) + t,
            "variance": lambda: stats.invgamma.logpdf(tau**2, 2.0, scale=width) + 2 * t,
        }[prior]()
        prior_sigma = stats.halfnorm.logpdf(sigma, scale=2.0) + s if noisy else np.zeros(1)
        logs, means, variances = [], [], []
        for log_s, one in zip(prior_sigma, sigma, strict=True):
            for log_t, at in zip(prior_tau, tau, strict=True):
                found = _given(at, one, of, groups, x if slope else None, y, centered)
                logs.append(found[0] + log_t + log_s)
                means.append(np.append([at**2 if prior == "variance" else at, one], found[1]))
                variances.append(np.append([0.0, 0.0], found[2]))
        mean, sd = _summed(np.array(logs), np.array(means), np.array(variances))
        names = ["variance" if prior == "variance" else "tau", "sigma", "mu", *["beta"] * slope]
        result = {key: {n: part[i] for i, n in enumerate(names)} for key, part in (("mean", mean), ("sd", sd))}
        for key, part in (("mean", mean), ("sd", sd)):
            result[key]["each"] = part[len(names) :]
            if not noisy:
                del result[key]["sigma"]
        return result

    return Drawn(name, "multilevel", model, {"x": x, "y": y}, truth)


def _given(
    tau: float, sigma: float, of: np.ndarray, groups: int, x: np.ndarray | None, y: np.ndarray, centered: bool
) -> tuple[float, np.ndarray, np.ndarray]:
    """Log evidence given the scales, and means and variances of (mu, [beta], each): w ~ N(0, S), y = X w + noise."""
    design = [np.ones(len(y))] + ([] if x is None else [x])
    fixed = len(design)
    one = (of[:, None] == np.arange(groups)) * tau  # of the non-centered effects
    full = np.column_stack([*design, one])
    prior = np.append([25.0, 1.0][:fixed], np.ones(groups))
    cov_y = (full * prior) @ full.T + sigma**2 * np.eye(len(y))
    root = np.linalg.cholesky(cov_y)
    white = np.linalg.solve(root, np.column_stack([y, full * prior]))
    log_p = -0.5 * white[:, 0] @ white[:, 0] - np.log(np.diag(root)).sum()
    mean = white[:, 1:].T @ white[:, 0]
    cov = np.diag(prior) - white[:, 1:].T @ white[:, 1:]
    if centered:  # theta = mu + tau w
        turn = np.eye(len(prior))
        turn[fixed:, fixed:] *= tau
        turn[fixed:, 0] = 1.0
        mean, cov = turn @ mean, turn @ cov @ turn.T
    return float(log_p), mean, np.diag(cov)


def _summed(log_p: np.ndarray, means: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    w = np.exp(log_p - log_p.max())
    w /= w.sum()
    mean = w @ means
    return mean, np.sqrt(w @ (variances + (means - mean) ** 2))


# ------------------------------------------------------------------------------------------------------------------ rows
def _rows(name: str, rng: np.random.Generator) -> Drawn:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    which = ["poisson", "logit", "normal", "student", "gamma", "weibull", "negbin", "beta"][int(rng.integers(8))]
    n, width = int(rng.integers(4, 31)), float(rng.choice([1.0, 3.0]))
    x = rng.standard_normal(n) * float(rng.choice([0.5, 1.0, 2.0]))
    a, b = rng.normal(0, 0.7, 2)
    shape = float(np.exp(rng.normal(0, 0.5)))
    y = {
        "poisson": lambda: rng.poisson(np.exp(a + b * x)),
        "logit": lambda: (rng.uniform(size=n) < 1 / (1 + np.exp(-a - b * x))).astype(int),
        "normal": lambda: rng.normal(a, shape, n),
        "student": lambda: a + shape * rng.standard_t(4, n),
        "gamma": lambda: rng.gamma(shape, np.exp(a) / shape, n),
        "weibull": lambda: np.exp(a) * rng.weibull(shape, n),
        "negbin": lambda: rng.negative_binomial(shape, shape / (shape + np.exp(a + 1)), n),
        "beta": lambda: np.clip(rng.beta(shape / (1 + np.exp(-a)), shape / (1 + np.exp(a)), n), 1e-6, 1 - 1e-6),
    }[which]()
    regression = which in ("poisson", "logit")

    def model(x, y):
        a: Any = numpyro.sample("a", dist.Normal(0, width))
        if regression:
            b = numpyro.sample("b", dist.Normal(0, width))
            eta: Any = a + b * x
            numpyro.sample("y", dist.Poisson(jnp.exp(eta)) if which == "poisson" else dist.Bernoulli(logits=eta), obs=y)
            return
        s = numpyro.sample("s", dist.Gamma(2.0, 1.0))
        share = 1 / (1 + jnp.exp(-a))
        found = {
            "normal": lambda: dist.Normal(a, s),
            "student": lambda: dist.StudentT(4.0, a, s),
            "gamma": lambda: dist.Gamma(s, s / jnp.exp(a)),
            "weibull": lambda: dist.Weibull(jnp.exp(a), s),
            "negbin": lambda: dist.NegativeBinomial2(jnp.exp(a), s),
            "beta": lambda: dist.Beta(s * share, s * (1 - share)),
        }[which]()
        with numpyro.plate("rows", n):
            numpyro.sample("y", found, obs=y)

    def rows_at(at: float, second: np.ndarray) -> np.ndarray:
        if regression:
            eta = at + second[:, None] * x
            rows = stats.poisson.logpmf(y, np.exp(eta)) if which == "poisson" else y * eta - np.logaddexp(0, eta)
            return rows.sum(1) + stats.norm.logpdf(second, scale=width) + stats.norm.logpdf(at, scale=width)
        s, share = np.exp(second)[:, None], 1 / (1 + np.exp(-at))
        rows = {
            "normal": lambda: stats.norm.logpdf(y, at, s),
            "student": lambda: stats.t.logpdf(y, 4, at, s),
            "gamma": lambda: stats.gamma.logpdf(y, s, scale=np.exp(at) / s),
            "weibull": lambda: stats.weibull_min.logpdf(y, s, scale=np.exp(at)),
            "negbin": lambda: stats.nbinom.logpmf(y, s, s / (s + np.exp(at))),
            "beta": lambda: stats.beta.logpdf(y, s * share, s * (1 - share)),
        }[which]()
        return rows.sum(1) + stats.gamma.logpdf(s[:, 0], 2.0) + second + stats.norm.logpdf(at, scale=width)

    def truth() -> Moments:
        low, high = np.full(2, -5.0 * width), np.full(2, 5.0 * width)
        if not regression:
            low[1], high[1] = -7, 5
        for _ in range(4):  # the grid closes in on the posterior
            first, second = (np.linspace(low[k], high[k], 161) for k in range(2))
            log_p = np.stack([rows_at(at, second) for at in first])
            flat = np.where(np.isnan(log_p), -np.inf, log_p).ravel()
            place = np.stack(np.meshgrid(first, second, indexing="ij"), -1).reshape(-1, 2)
            mean, sd = _summed(flat, place, np.zeros_like(place))
            reach = 10 * np.maximum(sd, (high - low) / 320)
            low, high = np.maximum(low, mean - reach), np.minimum(high, mean + reach)
        if not regression:
            place[:, 1] = np.exp(place[:, 1])
        mean, sd = _summed(flat, place, np.zeros_like(place))
        names = ("a", "b" if regression else "s")
        return {key: dict(zip(names, part, strict=True)) for key, part in (("mean", mean), ("sd", sd))}

    return Drawn(name, "rows", model, {"x": x, "y": y}, truth)


# ---------------------------------------------------------------------------------------------------------------- shapes
def _shapes(name: str, rng: np.random.Generator) -> Drawn:
    import jax.numpy as jnp

    import jensen as jn

    which = ["funnel", "banana", "skewed", "tails", "modes", "widths"][int(rng.integers(6))]
    dim, size = int(rng.integers(2, 11)), float(rng.uniform(0.5, 1.5))
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0] if rng.integers(2) else np.eye(dim)
    scales, skews = np.exp(rng.normal(0, 1, dim)), rng.uniform(-1, 1, dim)
    freedom, weight = float(rng.choice([5, 8, 15])), float(rng.uniform(0.1, 0.9))
    apart = rng.standard_normal(dim)
    apart *= rng.uniform(3, 8) / np.linalg.norm(apart)

    def sample(noise: np.random.Generator, n: int) -> np.ndarray:
        z = noise.standard_normal((n, dim))
        first = z[:, :1]
        if which == "funnel":
            z[:, 1:] *= np.exp(size * first)
        elif which == "banana":
            z[:, 1:] += size * (first**2 - 1)
        elif which == "skewed":
            z = np.sinh(np.arcsinh(z) + skews)
        elif which == "tails":
            z /= np.sqrt(noise.chisquare(freedom, (n, 1)) / freedom)
        elif which == "modes":
            z += np.where(noise.uniform(size=(n, 1)) < weight, apart, 0.0)
        else:
            z[:, 1:] /= 1 + size * first**2
        return (z @ turn.T) * scales

    def log_density(p):
        z = (p["z"] / scales) @ turn
        first, rest = z[0], z[1:]
        if which == "funnel":
            return -0.5 * first**2 - 0.5 * (rest**2).sum() * jnp.exp(-2 * size * first) - (dim - 1) * size * first
        if which == "banana":
            return -0.5 * first**2 - 0.5 * ((rest - size * (first**2 - 1)) ** 2).sum()
        if which == "skewed":
            w = jnp.sinh(jnp.arcsinh(z) - skews)
            return (-0.5 * w**2 + 0.5 * jnp.log1p(w**2) - 0.5 * jnp.log1p(z**2)).sum()
        if which == "tails":
            return -0.5 * (freedom + dim) * jnp.log1p((z**2).sum() / freedom)
        if which == "modes":
            one, other = -0.5 * (z**2).sum(), -0.5 * ((z - apart) ** 2).sum()
            return jnp.logaddexp(jnp.log(1 - weight) + one, jnp.log(weight) + other)
        w = 1 + size * first**2
        return -0.5 * first**2 - 0.5 * (rest**2).sum() * w**2 + (dim - 1) * jnp.log(w)

    def truth() -> Moments:
        noise = np.random.default_rng([SEED, 1, dim])
        parts = [sample(noise, 500_000) for _ in range(3)]
        mean = np.mean([part.mean(0) for part in parts], axis=0)
        sd = np.sqrt(np.mean([((part - mean) ** 2).mean(0) for part in parts], axis=0))
        return {"mean": {"z": mean}, "sd": {"z": sd}}

    return Drawn(name, "shapes", jn.density(log_density, {"z": np.zeros(dim)}), {}, truth)


def _of(seed: int, number: int) -> tuple[str, Moments]:
    each = list(drawn(seed))[number]
    parts = {key: {k: np.asarray(v).tolist() for k, v in part.items()} for key, part in each.truth().items()}
    return each.name, parts


def main(seed: int) -> None:
    """Compute all truths of a set."""
    with ProcessPoolExecutor(4) as pool:
        found = dict(pool.map(partial(_of, seed), range(sum(COUNTS.values()))))
    TRUTHS[seed].write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(AGAIN if sys.argv[1:] == ["again"] else SEED)
