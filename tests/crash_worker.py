"""A fit in a process of its own, there to be killed: ``python -m tests.crash_worker KIND CHECKPOINT RESULT [STEPS]``.

It says "running" when the loop begins, writes a checkpoint after every chunk, and puts the result into an npz file. KIND:
"scan", two runs of a compiled engine with callbacks; "starts", Newton on fixed draws from several starts; "fit", `jensen.fit`;
"groups", the same of rows in groups from a table.
"""

import os
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from tests.scan_engine import ScanEngine, data

import jensen as jn
from jensen import checkpoint
from jensen.callbacks import ParameterConvergence, Tracker
from jensen.checkpoint import Checkpoint
from jensen.core.precision import scope
from jensen.core.threads import one_blas_thread
from jensen.diagnostics.starts import fit_from_starts
from jensen.engines.fixed_draws import FixedDraws
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


def density(p):
    """A ridge with a bend: some ten steps from every start."""
    x, y = p["x"], p["y"]
    return -0.5 * (x**2).sum() - 0.5 * ((y - x**2) ** 2 / 0.3).sum() - 0.1 * (y**4).sum()


def model():
    return jn.density(density, {"x": np.zeros(4), "y": np.zeros(4)})


def parts(name, q, record):
    """What must not depend on kills."""
    return {f"{name} q {key}": np.asarray(value) for key, value in q.params.items()} | {
        f"{name} loss": record.history["loss"],
        f"{name} notes": np.array(record.notes, dtype=str),
        f"{name} status": np.array([record.status, str(record.steps)]),
    }


def scan_fit(path, steps):
    rows, tracker = data(2000, 20), Tracker(mean=lambda s: s.q.mean, loss=lambda s: s.loss[-1])
    callbacks, kept = [tracker, ParameterConvergence(every=300, tolerance=1e-9)], Checkpoint(path, {"kind": "scan"})
    found = {}
    for label, batch in (("first", 50), ("second", 100)):
        loop = dict(callbacks=callbacks, progress=False, checkpoint=kept, label=label)
        found |= parts(label, *run(ScanEngine(total=steps // 2, batch=batch), rows, seed=batch, **loop))
    return found | {"steps": tracker.steps, "mean": tracker["mean"], "losses": tracker["loss"]}


def starts_fit(path, steps):
    with scope("float64"), one_blas_thread():
        target = Target(read(model(), None, "float64"))
        q, record = fit_from_starts(
            target, FixedDraws(), seed=0, progress=False, checkpoint=Checkpoint(path, {"kind": "starts"})
        )
    return parts("starts", q, record)


def multilevel(x, y, group):
    b = numpyro.sample("b", dist.Normal(0, 2))
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("groups", 410):
        a = numpyro.sample("a", dist.Normal(0, s))
    numpyro.sample("y", dist.Bernoulli(logits=x * b + a[group]), obs=y)


def groups_fit(path, steps):
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=4000), rng.integers(0, 410, 4000)
    y = (rng.random(4000) < 1 / (1 + np.exp(-x - rng.normal(0, 0.7, 410)[group]))).astype(float)
    return fitted(multilevel, path, data=jn.table(x=x, y=y, group=group))


def whole_fit(path, steps):
    return fitted(model(), path)


def fitted(model, path, **options):
    posterior = jn.fit(model, progress=False, checkpoint=path, **options)
    draws = {f"draws {name}": value for name, value in posterior.draws(100).items()}
    return parts("fit", posterior.q, posterior.run) | draws | {"verdict": np.array(posterior.verdict.words)}


def main(kind, path, result, steps="2000"):
    checkpoint.INTERVAL, checkpoint.SHARE = 0.0, np.inf
    jnp.zeros(1).block_until_ready()
    print("running", flush=True)
    found = {"scan": scan_fit, "starts": starts_fit, "fit": whole_fit, "groups": groups_fit}[kind](path, int(steps))
    part = Path(result).with_suffix(".part.npz")
    np.savez(part, **found)
    os.replace(part, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
