"""Coupling flow by path gradients: the rung above Gaussians, for posteriors that no affine map of a normal can follow.

With x = T(eps; w) of the flow (families/flow.py) and z = m + L x, the ELBO is E[log p(z) - log q(z)], and its path gradient is

    d ELBO / dw = E[(dx / dw)' (L' grad log p(z) - grad_x log q(x))]

where q's own parameters are held fixed in log q: the part of the gradient that is left out has mean zero, and what is left
vanishes draw by draw as q approaches p ("sticking the landing"), so that late steps are all but free of noise. Draws are
antithetic; steps are Adam's on gradients of bounded norm, of constant length until the ELBO no longer gains, then
decreasing like a cosine to zero over two thirds as many steps again.

    gain    mean ELBO of the last three chunks of 100 steps, minus that of the three before, on the steps' own fresh draws
    decay   from when the gain is below its error or 0.005 nats, twice in a row; at the latest at 60% of the steps

The weights with the best ELBO on fresh draws are kept. A step that is not finite is not taken, and counted.
log p and its gradient come from the target's compiled program, in NumPy: nothing is compiled for the model, and the flow's two
programs belong to its architecture.

Requires: a continuous unconstrained density with gradients, D <= 500; a Gaussian that has found the bulk: a flow on a collapsed
base stays bad. Without a start one is fitted (fixed_draws.py).
References: Roeder, Wu, Duvenaud (2017), Sticking the landing, NeurIPS; Vaitl, Nicoli, Nakajima, Kessel (2022), Gradients should
stay on path, Mach. Learn.: Sci. Technol. 3; Kingma, Ba (2015), Adam, ICLR.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core import keys, precision
from jensen.core.errors import NonFiniteError, OptionError, UnsupportedError
from jensen.engines.engine import Ticks
from jensen.engines.fixed_draws import FixedDraws
from jensen.families.flow import Flow, FlowMap, doubled, log_normal, programs, whitened_flow

LARGEST_DIM = 500
CHUNK = 100
"""Steps between looks at the ELBO."""
_RATE, _WARM = 0.01, 50
"""Largest step length, reached in so many steps."""
_CLIP = 5.0
"""Largest norm of a gradient."""
_CONSTANT = 0.6
"""Part of the steps that is taken before the step length decreases."""
_GAIN, _STILL = 0.005, 0.05
"""Gains in nats over three chunks below which decay begins, and below which a fit whose steps are used up has converged."""


@dataclass(frozen=True)
class _Looks:
    """Mean ELBO and variance of its error, one entry a chunk; infinite where no step was finite."""

    elbo: tuple[float, ...] = ()
    variance: tuple[float, ...] = ()

    def quiet(self, least: float, times: int) -> bool:
        """Whether the last three chunks gained less than `least`, or their error, over the three before; so many times."""
        if times == 0:
            return True
        if len(self.elbo) < 6:
            return False
        gain = (sum(self.elbo[-3:]) - sum(self.elbo[-6:-3])) / 3
        error = sum(self.variance[-6:]) ** 0.5 / 3
        return gain < max(least, error) and _Looks(self.elbo[:-1], self.variance[:-1]).quiet(least, times - 1)


@dataclass(frozen=True)
class _State:
    seed: int
    map: FlowMap
    memory: Any
    best: FlowMap
    looks: _Looks = _Looks()
    step: int = 0
    skipped: int = 0
    decay: int = 0
    end: int = 0
    calm: bool = False


@dataclass(frozen=True)
class CouplingFlow:
    """Engine: a coupling flow on a whitened base, by path gradients.

    Parameters
    ----------
    start
        The Gaussian to begin at, with ``mean`` (D,) and ``scale`` (D, D); None fits one first.
    layers, width
        Of the flow: number of couplings, and hidden units of their networks.
    draws
        Of q a step, in antithetic pairs; even.
    steps
        Most steps; fits that no longer gain stop before.

    Raises
    ------
    OptionError
        When an option makes no sense.
    """

    start: Any = None
    layers: int = 6
    width: int = 24
    draws: int = 128
    steps: int = 2000

    def __post_init__(self) -> None:
        for name, least in (("layers", 2), ("width", 1), ("draws", 2), ("steps", 1)):
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least
            if not whole or (name == "draws" and value % 2):
                kind = "an even number" if name == "draws" else "a whole number"
                raise OptionError(
                    f"{name} must be {kind}, at least {least}; got {value!r}; leave it out for {getattr(CouplingFlow, name)}."
                )

    def init(self, target: Any, seed: int) -> _State:
        """The flow that is still the Gaussian."""
        if target.dim > LARGEST_DIM:
            raise UnsupportedError(
                f"A flow is for at most {LARGEST_DIM} dimensions; this model has {target.dim}; use a Gaussian, full rank or "
                "mean-field."
            )
        start = self.start if self.start is not None else _fitted(target, seed)
        if len(start.mean) != target.dim:
            raise OptionError(
                f"start has {len(start.mean)} dimensions; the model has {target.dim}; give an approximation of the same model."
            )
        flow = whitened_flow(start, self.layers, self.width, keys.generator(seed, "flow weights"))
        points, _ = flow.transport(flow.noise(keys.generator(seed, "flow start"), self.draws))
        log_p, gradient = target(points)
        if not (np.isfinite(log_p).any() and np.isfinite(gradient).all(1).any()):
            raise NonFiniteError(
                f"{target.blame(points)} is not finite at the start; check data and supports, or pass start=."
            )
        optimizer, _ = _update(target.dim, self.layers, self.width)
        with precision.scope():
            memory = jax.device_get(optimizer.init(jnp.asarray(flow.map.weights)))
        return _State(seed, flow.map, memory, flow.map)

    def advance(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        """Up to `CHUNK` steps."""
        if state.end and state.step >= state.end:  # it was stopped there, and is to go on: at full length again
            state = replace(state, decay=0, end=0, calm=False)
        center, factor, order = state.map.center, state.map.factor, state.map.order
        forward = programs(target.dim, self.layers, self.width).forward
        _, update = _update(target.dim, self.layers, self.width)
        weights, memory = state.map.weights, state.memory
        volume, pairs = np.log(np.diagonal(factor)).sum(), self.draws // 2
        stream = keys.generator(state.seed, "flow draws", len(state.looks.elbo))
        half = stream.standard_normal((CHUNK, pairs, target.dim))
        losses, variances, count = [], [], min(CHUNK, (state.end or self.steps) - state.step)
        for i in range(count):
            eps = np.concatenate([half[i], -half[i]])
            x, log_det = forward(weights, order, eps)
            log_p, gradient = target(center + np.asarray(x) @ factor.T)
            log_w = log_p + np.asarray(log_det) + volume - log_normal(eps)
            if not np.isfinite(log_w).all():
                continue
            rate = self._rate(state, state.step + i)
            weights, memory, fine = update(weights, memory, order, eps, gradient @ factor, rate)
            if fine:
                both = 0.5 * (log_w[:pairs] + log_w[pairs:])
                losses.append(-both.mean())
                variances.append(both.var() / max(pairs - 1, 1))
        taken, now = len(losses), replace(state.map, weights=np.asarray(weights))
        elbo, variance = (-np.mean(losses), np.mean(variances) / taken) if taken else (-inf, inf)
        better = taken > 0 and elbo >= max(state.looks.elbo, default=-inf)
        state = replace(
            state,
            map=now,
            memory=jax.device_get(memory),
            best=now if better else state.best,
            looks=_Looks((*state.looks.elbo, float(elbo)), (*state.looks.variance, float(variance))),
            step=state.step + count,
            skipped=state.skipped + count - taken,
        )
        return self._looked(state, np.array(losses), taken < 0.5 * count)

    def _rate(self, state: _State, step: int) -> float:
        """Step length."""
        rate = _RATE * min(1.0, (step + 1) / _WARM)
        if not state.end:
            return rate
        return rate * 0.5 * (1 + np.cos(np.pi * (step - state.decay) / (state.end - state.decay)))

    def _looked(self, state: _State, losses: np.ndarray, lost: bool) -> tuple[_State, Ticks]:
        """Whether to go on, to begin to decay, or to stop."""
        if lost:
            note = f"{state.skipped} of {state.step} steps were not finite; the best weights before are kept"
            return replace(state, calm=False), Ticks(losses, done=True, note=note)
        if not state.end and state.looks.quiet(_GAIN, 2):
            end = min(self.steps, state.step + max(CHUNK, round(state.step * (1 / _CONSTANT - 1))))
            state = replace(state, decay=state.step, end=end, calm=True)
        elif not state.end and state.step >= _CONSTANT * self.steps:
            state = replace(state, decay=state.step, end=self.steps)
        if state.step < (state.end or self.steps):
            return state, Ticks(losses)
        calm = state.calm or state.looks.quiet(_STILL, 1)
        note = f"{state.skipped} of {state.step} steps were not finite and not taken" if state.skipped else ""
        return replace(state, calm=calm), Ticks(losses, done=True, note=note, spent=not calm)

    def finish(self, state: _State) -> Flow:
        """The flow with the best ELBO so far."""
        return Flow(state.best)

    def converged(self, state: _State) -> bool:
        """The ELBO no longer gained before the steps were used up."""
        return bool(state.end) and state.step >= state.end and state.calm


def _fitted(target: Any, seed: int) -> Any:
    """A Gaussian on the small design: what a flow can begin at."""
    engine = FixedDraws(large=False)
    state, done = engine.init(target, seed), False
    while not done:
        state, ticks = engine.advance(state, target)
        done = ticks.done
    return engine.finish(state)


@lru_cache(maxsize=32)
def _update(dim: int, layers: int, width: int) -> tuple[Any, Any]:
    """The optimizer, and the compiled step ``(weights, memory, order, eps, score, rate)`` to ``(weights, memory, taken)``."""
    import optax

    optimizer = optax.chain(optax.clip_by_global_norm(_CLIP), optax.scale_by_adam(b2=0.99, eps=1e-6))
    path = programs(dim, layers, width).path

    def step(weights: Any, memory: Any, order: Any, eps: Any, score: Any, rate: Any) -> Any:
        slope = path(weights, order, eps, score)
        move, new = optimizer.update(slope, memory, weights)
        fine = jnp.isfinite(slope).all()
        memory = jax.tree.map(lambda new, old: jnp.where(fine, new, old), new, memory)
        return jnp.where(fine, weights - rate * move, weights), memory, fine

    return optimizer, doubled(step)
