"""NumPyro's AutoNormal and PyMC's ADVI as their users run them, until a budget of CPU seconds after compilation is spent."""

import os
import time
from typing import Any

import numpy as np

from benchmarks.large_data import Case, Moments, log_normal


def cpu() -> float:
    """CPU seconds of this process, its threads and its finished children."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def said(moments: Moments) -> dict[str, Any]:
    """Moments for JSON."""
    return {name: [np.ravel(mean).tolist(), np.ravel(sd).tolist()] for name, (mean, sd) in moments.items()}


def autonormal(case: Case, budget: float, batch: int | None) -> dict[str, Any]:
    """AutoNormal with Adam until the budget is spent."""
    import jax
    import numpyro
    from numpyro.handlers import substitute
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    numpyro.enable_x64()
    begun = cpu()
    model, data = case.numpyro(batch), {name: jax.numpy.asarray(array) for name, array in case.data.items()}
    guide: Any = AutoNormal(model)
    n, chunk = len(next(reversed(case.data.values()))), 500 if batch else 20
    if batch:

        def with_rows(function):
            return lambda rows, **data: substitute(function, data={"N": rows})(**data)

        model, guide = with_rows(model), with_rows(guide)
    svi = SVI(model, guide, numpyro.optim.Adam(1e-2), Trace_ELBO())
    state = svi.init(jax.random.key(0), *((jax.numpy.arange(batch),) if batch else ()), **data)

    def steps(state, key, data):
        def step(state, key):
            rows = (jax.random.randint(key, (batch,), 0, n),) if batch else ()
            return svi.update(state, *rows, **data)

        return jax.lax.scan(step, state, jax.random.split(key, chunk))

    run = jax.jit(steps).lower(state, jax.random.key(1), data).compile()
    compiled, done = cpu(), 0
    while cpu() - compiled < budget:
        state, loss = run(state, jax.random.key(2 + done), data)
        loss.block_until_ready()
        done += chunk
    end = cpu()
    found = {name: np.asarray(value) for name, value in svi.get_params(state).items()}
    moments = {}
    for name in (name.removesuffix("_auto_loc") for name in found if name.endswith("_auto_loc")):
        pair = found[f"{name}_auto_loc"], found[f"{name}_auto_scale"]
        moments[name] = log_normal(*pair) if name in case.positive else pair
    passes = done * (batch or n) / n
    return {
        "seconds": [end - begun, end - compiled],
        "moments": said(moments),
        "passes": f"{passes:.0f}",
        "steps": done,
    }


def advi(case: Case, budget: float, batch: int) -> dict[str, Any]:
    """ADVI until the budget is spent."""
    import pymc as pm

    begun = cpu()
    compiled, done = 0.0, 0

    def stop(_approximation, _losses, step):
        nonlocal compiled, done
        compiled, done = compiled or cpu(), step
        if cpu() - compiled > budget:
            raise StopIteration

    with case.pymc(batch):
        approximation = pm.fit(10**7, method="advi", callbacks=[stop], progressbar=False, random_seed=0)
    end = cpu()
    mean, sd = approximation.mean.eval(), approximation.std.eval()
    moments = {}
    for name, (_, place, *_) in approximation.ordering.items():
        pair = mean[place], sd[place]
        moments[name.removesuffix("_log__")] = log_normal(*pair) if name.endswith("_log__") else pair
    n = len(next(reversed(case.data.values())))
    return {
        "seconds": [end - begun, end - compiled],
        "moments": said(moments),
        "passes": f"{done * batch / n:.0f}",
        "steps": done,
    }
