"""Several starts, compared on fresh draws: a stationary q certifies the optimizer, not the basin.

The first start, N(0, 0.1^2), is fitted to the end. A second one elsewhere is fitted on the small design until it comes home to
the first one's q, or finds a higher ELBO on the same fresh draws: then it is finished and taken. Further starts follow only
while fewer than two converge. The fixed-draw objective never chooses: a design can be overfitted.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import JensenError
from jensen.engines.fixed_draws import FixedDraws
from jensen.families.meanfield import DiagonalGaussian
from jensen.objectives.elbo import Elbo, on_draws
from jensen.run import Run, run

_SPREADS = ((1.0, 1.0), (2.0, 1.0), (0.0, 1.0), (0.5, 0.01))
"""Half-width of the uniform start of the mean, and start of the sds."""
_FRESH = 1024
_HOME, _AS_WIDE = 2.0, 0.1
"""Sds from another q, and nats a dimension of divergence from it, within which a start walks on to the same optimum."""


def fit_from_starts(
    target: Any,
    engine: FixedDraws,
    *,
    seed: int,
    label: str = "start",
    near: Any = None,
    enough: int = 2,
    **loop: Any,
) -> tuple[Any, Run]:
    """Best q over several starts of the engine, with its run; `loop` goes to `run`.

    The first begins at `near`, if given, and others follow until `enough` of them have converged. In a checkpoint the runs have
    the labels "start 0", "start 1" (on the small design), "start 1 finished", ...
    """
    begin = engine if near is None else replace(engine, start=near)
    q, record = run(begin, target, seed=seed, label=f"{label} 0", **loop)
    ended = record.status in ("interrupted", "budget", "stopped") or (record.status == "converged" and enough == 1)
    if engine.start is not None or ended:
        return q, record
    try:
        return _compared(target, engine, q, record, seed, label, enough, loop)
    except KeyboardInterrupt:
        return q, replace(
            record, status="interrupted", notes=(*record.notes, "interrupted while other starts were tried")
        )


def _compared(
    target: Any, engine: FixedDraws, q: Any, record: Run, seed: int, label: str, enough: int, loop: dict[str, Any]
) -> tuple[Any, Run]:
    elbo = fresh_elbo(target, q, seed)
    converged, tried = int(record.status == "converged"), 1
    quiet = {"progress": False, "checkpoint": loop.get("checkpoint")}
    for number, (spread, width) in enumerate(_SPREADS):
        if converged >= enough:
            break
        location = keys.generator(seed, "start", number).uniform(-1, 1, target.dim) * spread
        other = replace(engine, start=engine.family.start(location, width))
        name = f"{label} {number + 1}"
        try:
            stop = {**quiet, "callbacks": (lambda snapshot, q=q: _is_home(snapshot.q, q),), "label": name}
            other_q, other_record = _completed(replace(other, large=False), target, seed, stop)
            tried += 1
            if _is_home(other_q, q):
                converged += 1
                continue
            converged += other_record.status == "converged"
            if fresh_elbo(target, other_q, seed).value <= elbo.value + 2 * elbo.error:
                continue
            other_q, other_record = _completed(
                replace(engine, start=other_q), target, seed, {**loop, "label": f"{name} finished"}
            )
        except JensenError:
            continue
        other_elbo = fresh_elbo(target, other_q, seed)
        if other_elbo.value > elbo.value:
            q, record, elbo = other_q, other_record, other_elbo
    note = f"{tried} starts, {converged} converged; the best ELBO on fresh draws is kept"
    return q, replace(record, notes=(*record.notes, note))


def _is_home(other: Any, q: Any) -> bool:
    """Whether a Gaussian is so near another one that Newton steps would take it there."""
    apart = np.asarray(other.mean) - np.asarray(q.mean)
    if isinstance(q, DiagonalGaussian):
        ratio = np.asarray(other.sd) / np.asarray(q.sd)
        squared, excess = ((apart / np.asarray(q.sd)) ** 2).sum(), 0.5 * (ratio**2 - 1).sum() - np.log(ratio).sum()
    else:
        squared = (np.linalg.solve(np.asarray(q.scale), apart) ** 2).sum()
        if not squared < _HOME**2:
            return False
        ratio = np.linalg.solve(np.asarray(q.scale), np.asarray(other.scale))
        excess = 0.5 * ((ratio**2).sum() - q.dim) - np.linalg.slogdet(ratio)[1]
    return bool(squared < _HOME**2 and 0.5 * squared + excess < _AS_WIDE * q.dim)


def _completed(engine: FixedDraws, target: Any, seed: int, loop: dict[str, Any]) -> tuple[Any, Run]:
    """A run whose Ctrl-C ends the whole fit, not this start."""
    q, record = run(engine, target, seed=seed, **loop)
    if record.status == "interrupted":
        raise KeyboardInterrupt
    return q, record


def fresh_elbo(target: Any, q: Any, seed: int) -> Elbo:
    """ELBO on fresh draws, the same noise for every q."""
    z, log_q = q.transport(q.noise(keys.generator(seed, "fresh"), target.affordable(_FRESH, 256)))
    log_p, _ = target(z)
    if not np.isfinite(log_p).all():
        return Elbo(-np.inf, 0.0)
    return on_draws(log_p, log_q)
