"""One process of several that make a fit together: ``python -m tests.processes_worker CASE INDEX COUNT PORT RESULT``.

The result is an npz file, or a text file with the error and the seconds after which it came. CASE:

- "fit", "groups";
- "nan": a row in the part of the last process has a NaN; "fails": the last process fails before it looks at any row;
- "parts": each process has rows of its own; "seeds": another seed in each;
- "early": a callback stops the fit in the last process only;
- "dies": the last process ends in the middle of a pass.
"""

import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import jensen as jn
from jensen.core import processes

ROWS = 25_003


def log_prior(p):
    return -0.5 * (p["b"] ** 2).sum()


def log_likelihood(p, data):
    eta = data["X"] @ p["b"]
    return data["y"] * eta - jnp.logaddexp(0.0, eta)


def arrays(seed=1):
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(ROWS), rng.normal(size=(ROWS, 2))])
    return {"X": X, "y": (rng.random(ROWS) < 1 / (1 + np.exp(-X @ [0.3, -1.0, 0.5]))).astype(float)}


GROUPS = 402


def in_groups():
    """Rows in groups, of which each has a value of its own: a Gaussian posterior."""
    rng = np.random.default_rng(2)
    x, group = rng.normal(size=3001), rng.integers(0, GROUPS, 3001)
    return {"x": x, "group": group, "y": 0.5 * x + 0.3 + rng.normal(0, 0.7, GROUPS)[group] + rng.normal(0, 0.5, 3001)}


def groups_log_prior(p):
    return -0.5 * (p["b"] ** 2).sum() - 0.5 * ((p["a"] - p["b"][1]) ** 2 / 0.49).sum()


def groups_log_likelihood(p, data):
    return -2.0 * (data["y"] - p["b"][0] * data["x"] - p["a"][data["group"]]) ** 2


class Stored:
    """Rows that are not in memory, and cannot all be read."""

    def __init__(self, rows, dies):
        self.rows, self.dies, self.shape, self.dtype = rows, dies, rows.shape, rows.dtype

    def __getitem__(self, rows):
        if self.dies and rows.start == ROWS // 2:  # where its part begins
            os._exit(3)  # as if killed
        return self.rows[rows]


def parts(posterior):
    return {
        "mean": posterior.mean["b"],
        "sd": posterior.sd["b"],
        "draws": np.asarray(posterior.draws(50)["b"]),
        "elbo": posterior.elbo.value,
        "story": np.array(posterior.story),
    }


def grouped():
    start = {"a": np.zeros(GROUPS), "b": np.zeros(2)}
    model = jn.density(groups_log_prior, start, log_likelihood=groups_log_likelihood)
    return parts(jn.fit(model, data=jn.table(**in_groups()), correct=False, progress=False))


def fit(case, index, count):
    if case == "groups":
        return grouped()
    data, options = arrays(), {}
    last = index == count - 1
    if case == "nan":
        data["X"][-1, 1] = np.nan
    if case in ("nan", "dies"):
        data = {name: Stored(array, case == "dies" and last) for name, array in data.items()}
    if case == "parts":
        data = {name: array[index::count] for name, array in data.items()}
    if case == "seeds":
        options["seed"] = index
    if case == "early" and last:
        options["callbacks"] = [lambda snapshot: snapshot.step == 2]
    model = jn.density(log_prior, {"b": np.zeros(3)}, log_likelihood=log_likelihood)
    if case == "fails" and last:
        options["seed"] = -1
    with processes.together():
        return parts(jn.fit(model, "fullrank", data=jn.table(**data), correct=False, progress=False, **options))


def main(case, index, count, port, path):
    index, count = int(index), int(count)
    if count > 1:
        waits = dict(initialization_timeout=60, heartbeat_timeout_seconds=10, shutdown_timeout_seconds=10)
        jax.distributed.initialize(f"localhost:{port}", count, index, **waits)
    begun = time.perf_counter()
    try:
        found = fit(case, index, count)
    except jn.JensenError as error:
        with open(path + ".txt", "w") as file:
            file.write(f"{time.perf_counter() - begun:.1f} {type(error).__name__}: {error}")
        raise
    np.savez(path + ".npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
