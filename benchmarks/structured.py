"""Structured Gaussians on multilevel regressions: 20 rows a group, normal or Bernoulli, from 1,250 to 10,000 groups.

    python -m benchmarks.structured [normal|bernoulli] [GROUPS ...] [--peer]

Errors of means are in posterior sds; the reference integrates the groups exactly given the globals (closed form, or quadrature
for Bernoulli rows), and the globals by importance sampling from the fit's own global block. With --peer NumPyro's AutoNormal
(Adam, 0.01) runs beside it. The words are those of the verdict by block (diagnostics/by_block.py). CPU seconds are of this
process, JAX's compilation included.
"""

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from jensen.core.precision import scope
from jensen.core.threads import one_blas_thread
from jensen.diagnostics.by_block import misfits, words_by_coordinate
from jensen.engines.structured import Structured
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run

ROWS = 20
GROUPS = (1250, 2500, 5000, 10_000)


def normal(group: Any, x: Any, y: Any, groups: int) -> None:
    """y = a_group + b x + noise."""
    eta, sigma = _predictor(group, x, groups), numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("N", len(y)):
        numpyro.sample("y", dist.Normal(eta, sigma), obs=y)


def bernoulli(group: Any, x: Any, y: Any, groups: int) -> None:
    """Logistic regression with the same predictor."""
    eta = _predictor(group, x, groups)
    with numpyro.plate("N", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=eta), obs=y)


def _predictor(group: Any, x: Any, groups: int) -> Any:
    mu_a = numpyro.sample("mu_a", dist.Normal(0.0, 5.0))
    sigma_a = numpyro.sample("sigma_a", dist.HalfNormal(2.0))
    b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    with numpyro.plate("groups", groups):
        a = numpyro.sample("a", dist.Normal(mu_a, sigma_a))
    return a[group] + b * x


MODELS = {"normal": normal, "bernoulli": bernoulli}


def data(kind: str, groups: int, seed: int = 11) -> dict[str, Any]:
    """Rows in groups of random sizes."""
    rng = np.random.default_rng(seed)
    group, x = rng.integers(0, groups, ROWS * groups), rng.normal(size=ROWS * groups)
    eta = rng.normal(1.0, 0.5, groups)[group] + 0.7 * x
    noisy = eta + rng.normal(size=len(eta)) if kind == "normal" else rng.uniform(size=len(eta)) < 1 / (1 + np.exp(-eta))
    return {"group": group, "x": x, "y": noisy.astype(float), "groups": groups}


def conditional(kind: str, inputs: dict[str, Any], g: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Log posterior of the globals with groups integrated out; means and variances of the groups given the globals.

    `g` is (mu_a, log sigma_a, b[, log sigma]).
    """
    group, groups = inputs["group"], inputs["groups"]
    mu, s, b = g[0], np.exp(g[1]), g[2]
    prior = -0.5 * (mu**2 + b**2) / 25 - 0.5 * s**2 / 4 + g[1]
    rest = inputs["y"] - b * inputs["x"]
    if kind == "normal":
        sigma = np.exp(g[3])
        count, total = np.bincount(group, minlength=groups), np.bincount(group, rest, groups)
        precision = count / sigma**2 + 1 / s**2
        h = total / sigma**2 + mu / s**2
        fixed = -len(rest) * g[3] - 0.5 * (rest**2).sum() / sigma**2 - groups * (np.log(s) + 0.5 * (mu / s) ** 2)
        log_p = fixed + 0.5 * (h**2 / precision - np.log(precision)).sum()
        return prior - 0.5 * sigma**2 / 4 + g[3] + log_p, h / precision, 1 / precision
    # Adaptive Gauss-Hermite quadrature around every group's own mode.
    x, y = b * inputs["x"], inputs["y"]
    a = np.full(groups, mu)
    for _ in range(12):
        p = 1 / (1 + np.exp(-(a[group] + x)))
        precision = np.bincount(group, p * (1 - p), groups) + 1 / s**2
        a = a + np.clip((np.bincount(group, y - p, groups) - (a - mu) / s**2) / precision, -1, 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(16)
    values = a[:, None] + nodes / np.sqrt(precision)[:, None]
    logs = np.empty_like(values)
    for k in range(len(nodes)):
        eta = values[group, k] + x
        logs[:, k] = np.bincount(group, y * eta - np.logaddexp(0, eta), groups)
    logs += -0.5 * ((values - mu) / s) ** 2 - np.log(s) + 0.5 * nodes**2 + np.log(weights)
    top = logs.max(1)
    shares = np.exp(logs - top[:, None])
    each, shares = top + np.log(shares.sum(1)) - 0.5 * np.log(precision), shares / shares.sum(1)[:, None]
    mean = (shares * values).sum(1)
    return prior + each.sum(), mean, (shares * (values - mean[:, None]) ** 2).sum(1)


def reference(kind: str, inputs: dict[str, Any], q: Any, names: list[str], draws: int) -> dict[str, Any]:
    """Means and sds of the globals and groups, by importance sampling of the globals."""
    order = [names.index(name) for name in ("mu_a", "sigma_a", "b", "sigma")[: len(names)]]
    center, cov = q.mean[list(q.plates.shared)][order], (q.head @ q.head.T)[np.ix_(order, order)]
    factor, rng = np.linalg.cholesky(cov), np.random.default_rng(3)
    e = rng.standard_normal((draws // 2, len(order)))
    e = np.concatenate([e, -e])
    wide = 1.1
    found = [conditional(kind, inputs, center + wide * factor @ row) for row in e]
    log_w = np.array([one[0] for one in found]) + 0.5 * (e**2).sum(1)
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    g = center + wide * e @ factor.T
    mean_g, mean_a = w @ g, w @ np.array([one[1] for one in found])
    variance_a = w @ np.array([one[2] + (one[1] - mean_a) ** 2 for one in found])
    return {
        "order": order,
        "ess": 1 / (w**2).sum(),
        "g": (mean_g, np.sqrt(w @ (g - mean_g) ** 2)),
        "a": (mean_a, np.sqrt(variance_a)),
    }


def peer(kind: str, inputs: dict[str, Any], truth: dict[str, Any], limit: int = 9000) -> list[tuple[int, float, float]]:
    """AutoNormal's worst group mean by steps and CPU seconds."""
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    begun = time.process_time()
    guide = AutoNormal(MODELS[kind])
    svi = SVI(MODELS[kind], guide, numpyro.optim.Adam(0.01), Trace_ELBO())
    fixed, arrays = {"groups": inputs["groups"]}, {k: jnp.asarray(v) for k, v in inputs.items() if k != "groups"}
    state = svi.init(jax.random.key(0), **arrays, **fixed)

    @jax.jit
    def chunk(state: Any, arrays: Any) -> Any:
        return jax.lax.fori_loop(0, 300, lambda _, state: svi.update(state, **arrays, **fixed)[0], state)

    story = []
    for step in range(300, limit + 1, 300):
        state = chunk(state, arrays)
        means = np.asarray(svi.get_params(state)["a_auto_loc"])
        story.append((step, time.process_time() - begun, float(np.abs((means - truth["a"][0]) / truth["a"][1]).max())))
    return story


def report(kind: str, groups: int, beside: bool) -> None:
    """One line of the table, and the peer's."""
    inputs = data(kind, groups)
    begun = time.process_time()
    with scope(), one_blas_thread():
        target = Target(read(MODELS[kind], inputs))
        engine = Structured()
        target(np.zeros((1, target.dim)))
        compiled = time.process_time() - begun
        q, record = run(engine, target, seed=0, progress=False)
        seconds = time.process_time() - begun
        z = np.asarray(q.sample(np.random.default_rng(0), 512))
        globals, groups_off = misfits(q, z, target(z)[1])
        place = words_by_coordinate(q, globals, groups_off)
    ends = np.cumsum([0] + [site.size for site in target.model.sites])
    shared = list(q.plates.shared)
    names = [s.name for s, start in zip(target.model.sites, ends[:-1], strict=True) if start in shared]
    truth = reference(kind, inputs, q, names, 2000 if kind == "normal" else 120)
    own, at = np.array(q.plates.own)[:, 0], np.array(shared)[truth["order"]]
    words = ("trusted", "means only", "do not use")
    said = ", ".join(f"{names[i]} {words[place[j]]}" for i, j in zip(truth["order"], at, strict=True))
    said += "".join(
        f", {(place[own] == k).sum()} groups {word}" for k, word in enumerate(words) if (place[own] == k).any()
    )
    error_a, ratio_a = np.abs((q.mean[own] - truth["a"][0]) / truth["a"][1]), q.sd[own] / truth["a"][1]
    error_g, ratio_g = np.abs((q.mean[at] - truth["g"][0]) / truth["g"][1]), q.sd[at] / truth["g"][1]
    print(
        f"{kind} | {groups} groups | {record.status}, {record.steps} steps, {target.gradients} gradients, "
        f"{compiled:.1f} + {seconds - compiled:.1f} CPU s | group means {error_a.max():.3f}, sds {ratio_a.min():.3f}-"
        f"{ratio_a.max():.3f} | globals {np.round(error_g, 3)}, sds {np.round(ratio_g, 3)} | {said} | "
        f"reference ESS {truth['ess']:.0f}",
        flush=True,
    )
    if beside:
        story = peer(kind, inputs, truth)
        reached = [(step, cpu) for step, cpu, worst in story if worst <= 1.7]
        first = f"1.7 sd after {reached[0][0]} steps, {reached[0][1]:.1f} CPU s" if reached else "1.7 sd never reached"
        best = min(story, key=lambda row: row[2])
        print(
            f"AutoNormal | {groups} groups | {first}; best {best[2]:.2f} sd after {best[1]:.1f} CPU s; "
            f"after {story[-1][0]} steps, {story[-1][1]:.1f} CPU s: {story[-1][2]:.2f} sd",
            flush=True,
        )


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--peer"]
    kinds = [word for word in words if word in MODELS] or list(MODELS)
    sizes = [int(word) for word in words if word.isdigit()] or GROUPS
    for kind in kinds:
        for groups in sizes:
            report(kind, groups, "--peer" in sys.argv)
