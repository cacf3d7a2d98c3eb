"""Multilevel logistic regressions with many rows: groups instead of rows, from memory and from a raw file.

    python -m benchmarks grouped [memory:100000x5000 file:1000000x20000 ...] [--no-reference]

y ~ Bernoulli(sigmoid(x b + a[group])), a ~ Normal(mu, s), three columns, float32. Each case is two processes: one calls `jn.fit`
twice (CPU seconds and peak memory with all checks), one makes the fit alone, with the passes over all rows and the gradients
(draws times passes) that it took, and then again with the same engine from its cold start on the same target ("cold"). Errors
are the largest in posterior sds, of q and of the answer: groups are integrated exactly given the globals (16 nodes around each
group's mode), the globals by importance sampling from a Gaussian at the mode of their marginal.
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import jensen as jn
from benchmarks.process import measure
from jensen import fitting_groups
from jensen.core.precision import scope
from jensen.core.threads import one_blas_thread
from jensen.fitting_large import read_streamed
from jensen.models import plates
from jensen.models.read import read
from jensen.run import run
from jensen.settings import Settings

CASES = ("memory:100000x5000", "file:1000000x20000")
COLUMNS = 3


def model(X: Any, y: Any, group: Any, groups: int) -> None:
    """Logistic regression with an intercept a group."""
    b = numpyro.sample("b", dist.Normal(0, 2).expand([COLUMNS]))
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("groups", groups):
        a: Any = numpyro.sample("a", dist.Normal(mu, s))
    numpyro.sample("y", dist.Bernoulli(logits=X @ b + a[group]), obs=y)


def made(rows: int, groups: int, folder: Path) -> None:
    """Rows in groups of random sizes, as a raw file of float32 and one of int32."""
    rng = np.random.default_rng(11)
    X, group = rng.normal(size=(rows, COLUMNS)), rng.integers(0, groups, rows)
    eta = X @ [0.5, -0.3, 0.8] + rng.normal(-0.5, 0.7, groups)[group]
    y = rng.random(rows) < 1 / (1 + np.exp(-eta))
    np.concatenate([X, y[:, None]], 1).astype("float32").tofile(folder / "rows")
    group.astype("int32").tofile(folder / "groups")


def given(kind: str, rows: int, groups: int, folder: Path) -> dict[str, Any]:
    """What `jn.fit` gets: arrays, or a table of the files."""
    raw = np.memmap(folder / "rows", "float32", mode="r", shape=(rows, COLUMNS + 1))
    number = np.memmap(folder / "groups", "int32", mode="r", shape=(rows,))
    arrays = {"X": raw[:, :COLUMNS], "y": raw[:, COLUMNS], "group": number}
    if kind == "file":
        return {"table": jn.table(**arrays), "groups": groups}
    return {**{name: np.array(array) for name, array in arrays.items()}, "groups": groups}


def memory() -> int:
    """Peak resident memory of this process, in MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def whole(*case: Any) -> dict[str, Any]:
    """`jn.fit` twice."""
    seconds, data, before, fit = [], given(*case), memory(), None
    for _ in range(2):
        begun = time.process_time()
        fit = jn.fit(model, data=data, progress=False)
        seconds.append(round(time.process_time() - begun, 2))
    assert fit is not None
    globals_ = [np.append(value["b"], [value["mu"], value["s"]]) for value in (fit.mean, fit.sd)]
    np.savez(Path(case[-1]) / "answer", mean=fit.mean["a"], sd=fit.sd["a"], globals=globals_)
    return {"seconds": seconds, "memory": [before, memory()], "verdict": fit.verdict.counts, "story": fit.story}


def alone(kind: str, rows: int, groups: int, folder: Path) -> dict[str, Any]:
    """The fit without checks, twice, and then from its cold start; q is left in the folder."""
    data, settings = given(kind, rows, groups, folder), Settings("auto", 0, "float64", True)
    quiet: dict[str, Any] = {"progress": False}
    found: dict[str, Any] = {}
    q = target = own = engine = None
    with scope("float64"), one_blas_thread():
        for name in ("first", "second"):
            begun = time.process_time()
            if kind == "file":
                record, plate, source = read_streamed(model, data, settings)
            else:
                record = read(model, data, "float64")
                plate, source = plates.find(record)[0], jn.table(**{name: data[name] for name in ("X", "y", "group")})
            prepared = fitting_groups._grouped(record, plate, source, settings)
            assert prepared is not None
            target, own = prepared
            q, engine, _ = fitting_groups._fitted(target, own, settings, quiet, lambda: None)
            found[name] = [round(time.process_time() - begun, 2), target.rows.passes, target.gradients, memory()]
        assert target is not None
        assert own is not None
        assert engine is not None
        passes, gradients, begun = target.rows.passes, target.gradients, time.process_time()
        cold, _ = run(replace(engine, start=None), target, seed=0, **quiet)
        spent = target.rows.passes - passes, target.gradients - gradients
        found["cold"] = [round(time.process_time() - begun, 2), *spent]
        move = float((np.abs(q.mean - cold.mean) / cold.sd).max())
        found["from cold"] = [round(move, 4), *(round(float(f(q.sd / cold.sd)), 3) for f in (np.min, np.max))]
    np.savez(folder / "q", mean=q.mean, sd=q.sd, cov=q.head @ q.head.T, shared=own.shared, own=own.own[:, 0])
    return found


def reference(rows: int, groups: int, folder: Path) -> dict[str, Any]:
    """Errors of q: largest |mean - exact| in sds and range of sd ratios, of the globals (b, mu, log s) and of the groups."""
    raw, group = np.fromfile(folder / "rows", "float32").reshape(rows, -1), np.fromfile(folder / "groups", "int32")
    nodes, weights = np.polynomial.hermite_e.hermegauss(16)
    with scope("float64"):
        X, y, k = jnp.asarray(raw[:, :COLUMNS], float), jnp.asarray(raw[:, COLUMNS], float), jnp.asarray(group)
        add = partial(jax.ops.segment_sum, segment_ids=k, num_segments=groups)

        def marginal(g: Any) -> Any:
            """Log density of the globals, groups integrated, with means and variances of the groups."""
            eta, mu, s = X @ g[:COLUMNS], g[COLUMNS], jnp.exp(g[COLUMNS + 1])

            def newton(_: Any, at: Any) -> Any:
                a, _ = at
                p = jax.nn.sigmoid(eta + a[k])
                precision = add(p * (1 - p)) + s**-2
                return a + jnp.clip((add(y - p) - (a - mu) / s**2) / precision, -1, 1), precision

            start = jnp.full(groups, mu), jnp.ones(groups)
            a, precision = jax.lax.stop_gradient(jax.lax.fori_loop(0, 8, newton, start))

            @jax.checkpoint
            def at_node(node: Any) -> Any:
                value = a + node / jnp.sqrt(precision)
                eta_a = eta + value[k]
                return add(y * eta_a - jnp.logaddexp(0.0, eta_a)) - 0.5 * ((value - mu) / s) ** 2 - jnp.log(s)

            logs = jax.lax.map(at_node, jnp.asarray(nodes)) + jnp.asarray(0.5 * nodes**2 + np.log(weights))[:, None]
            each = jax.nn.logsumexp(logs, 0) - 0.5 * jnp.log(precision)
            shares, values = jax.nn.softmax(logs, 0), a + jnp.asarray(nodes)[:, None] / jnp.sqrt(precision)
            mean = (shares * values).sum(0)
            prior = -0.5 * (g[: COLUMNS + 1] ** 2).sum() / 4 - 0.5 * s**2 + jnp.log(s)
            return prior + each.sum(), (mean, (shares * (values - mean) ** 2).sum(0))

        value, slope = jax.jit(marginal), jax.jit(jax.grad(lambda g: marginal(g)[0]))
        q = np.load(folder / "q.npz")
        # The globals are b, mu and log s, in this order: sites are by name.
        g, cov = q["mean"][q["shared"]], q["cov"]
        for _ in range(6):
            g = g + cov @ np.asarray(slope(g))
        step = 0.3 * np.sqrt(np.diag(cov))
        hessian = np.array([(slope(g + e) - slope(g - e)) for e in np.diag(step)]) / (2 * step[:, None])
        factor = np.linalg.cholesky(np.linalg.inv(-0.5 * (hessian + hessian.T)))
        e = np.random.default_rng(3).standard_normal((32, len(g)))
        e = np.concatenate([e, -e])
        e = np.linalg.solve(np.linalg.cholesky(e.T @ e / len(e)), e.T).T
        found = [value(g + factor @ row) for row in e]
        log_w = np.array([float(one[0]) for one in found]) + 0.5 * (e**2).sum(1)
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    points = g + e @ factor.T
    mean_g, mean_a = w @ points, w @ np.array([one[1][0] for one in found])
    var_a = w @ np.array([one[1][1] + (one[1][0] - mean_a) ** 2 for one in found])
    sd_g = np.sqrt(w @ (points - mean_g) ** 2)
    result: dict[str, Any] = {"var(log w)": round(float(log_w.var()), 4)}
    for name, at, mean, sd in (("globals", q["shared"], mean_g, sd_g), ("groups", q["own"], mean_a, np.sqrt(var_a))):
        error, ratio = np.abs(q["mean"][at] - mean) / sd, q["sd"][at] / sd
        result[f"q: {name}"] = [round(float(x), 4) for x in (error.max(), ratio.min(), ratio.max())]
    points[:, -1] = np.exp(points[:, -1])
    mean_g, answer = w @ points, np.load(folder / "answer.npz")
    sd_g = np.sqrt(w @ (points - mean_g) ** 2)
    both = (
        ("globals", *answer["globals"], mean_g, sd_g),
        ("groups", answer["mean"], answer["sd"], mean_a, np.sqrt(var_a)),
    )
    for name, ours, our_sd, mean, sd in both:
        found = (np.abs(ours - mean) / sd).max(), (our_sd / sd).min(), (our_sd / sd).max()
        result[f"answer: {name}"] = [round(float(x), 4) for x in found]
    return result


def main(arguments: list[str]) -> None:
    """All cases, a line each measurement."""
    if arguments[:1] == ["child"]:
        _, what, kind, rows, groups, folder = arguments
        print(json.dumps({"whole": whole, "alone": alone}[what](kind, int(rows), int(groups), Path(folder))))
        return
    for case in [word for word in arguments if ":" in word] or CASES:
        kind, size = case.split(":")
        rows, groups = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            made(rows, groups, Path(folder))
            print(f"\n{kind}, {rows:,} rows, {groups:,} groups")
            for what in ("whole", "alone"):
                found = measure("benchmarks.grouped", "child", what, kind, str(rows), str(groups), folder).result
                print("\n".join(f"  {name}: {value}" for name, value in found.items()))
            if "--no-reference" not in arguments:
                print("\n".join(f"  {name}: {value}" for name, value in reference(rows, groups, Path(folder)).items()))


if __name__ == "__main__":
    main(sys.argv[1:])
