"""Stein variational gradient descent: n particles move together until they stand for the posterior.

    1. frame     a Gaussian fit (given, or the small design of fixed_draws.py) whitens the coordinates: z = m + L x
    2. anneal    8n points go from a wide base to the posterior, with weights and resampling (tempering.py), once more in
                 their own coordinates where they turn out twice as wide as the Gaussian; n are kept
    3. flow      x_i <- x_i + rho phi_i, kernel of median width, no learning rate (stein_steps.py)
    4. stop      when in 25 steps no mean and no sd moved by more than 0.002 sds, and particles by 0.02

Step 2 gives modes their mass, which the flow alone cannot change; step 3 evens out the chance of it. Without annealing particles
start as draws of the Gaussian.

The loss is the kernel Stein discrepancy in whitened coordinates: of particles to the posterior, zero only when they agree in the
limit of many. It knows as little as any score about the masses of modes that are far apart.

Requires: a continuous unconstrained density with gradients, on all data. A minibatch has one error for all particles, which moves
the whole cloud by more than its width where batches are small, and weights of the annealing need whole densities: large data
are better served by a corrected subsample (models/large.py), which is an ordinary density. Amortized particles (a sampler
trained on phi instead of on the ELBO) are left out: at draws of a q with a density phi is a smoothed, biased form of the path
gradient of the ELBO, at n^2 its cost.
A step takes n gradients and O(n^2 D) work; what is stored of n x n is bounded.
References: heads of stein_steps.py and tempering.py.
"""

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import NonFiniteError, OptionError
from jensen.engines import stein_steps, tempering
from jensen.engines.engine import Ticks
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.stein_steps import Flow
from jensen.engines.tempering import Cloud
from jensen.families.fullrank import DenseGaussian
from jensen.families.particles import Particles

_WORK = 2**28
"""Kernel elements a call of the compiled loop may make, so that Ctrl-C and time budgets are heard."""
_MORE, _FEWEST, _ENOUGH = 8, 2000, 8000
"""Points a particle while annealing; at least and at most so many, and never fewer than particles. The mass of a mode with a
fifth of it has an error of 0.008 with 4,000 points, 0.004 with 8,000."""
_ANNEALED = 30
"""Up to this D particles are annealed unless the caller says otherwise: stages grow with its square root, and need more moves."""
_STILL, _CALM = 0.002, 0.02
_TOO_NARROW = 2.0
"""Sds of the Gaussian fit that the annealed cloud is wide, from which on it is annealed again in its own coordinates."""
_MOST_STAGES = 400
_MOST = 100_000
"""Particles beyond which one step, of n^2 kernel elements, takes minutes."""
_COPIES = 24
"""Arrays of the size of all points that exist at once, in float64: annealing, flow, program, kept states."""
_SHARE = 0.5
"""Share of the machine's memory that they may have."""


@dataclass(frozen=True)
class _State:
    seed: int
    mean: np.ndarray
    scale: np.ndarray
    cloud: Any
    flow: Any = None
    stage: int = 0
    frames: int = 1
    step: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Stein:
    """Engine: Stein variational gradient descent.

    Parameters
    ----------
    particles
        Number of points.
    start
        An approximation with ``mean`` (D,) and ``scale`` (D, D), whose coordinates the kernel works in and around which the
        particles begin; None fits a Gaussian first.
    annealing
        Begin with a cloud annealed from a wide base, which finds modes and their masses; False begins with draws of the Gaussian;
        None anneals in up to 30 dimensions.
    steps
        Most steps of the flow.

    Raises
    ------
    OptionError
        When an option makes no sense.
    """

    particles: int = 1000
    start: Any = None
    annealing: bool | None = None
    steps: int = 500

    def __post_init__(self) -> None:
        if self.annealing not in (None, True, False):
            raise OptionError(f"annealing must be True, False or None; got {self.annealing!r}; None decides by D.")
        for name, least in (("particles", 2), ("steps", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
                raise OptionError(
                    f"{name} must be a whole number, at least {least}; got {value!r}; for example {name}=1000."
                )

    def init(self, target: Any, seed: int) -> _State:
        """Frame the coordinates and lay out the first points.

        Raises
        ------
        OptionError
            When the particles are too many, or do not fit into memory.
        NonFiniteError
            When the density is finite at none of them.
        """
        self._refuse_too_many(target.dim)
        q = self.start if self.start is not None else _gaussian(target, seed)
        mean, scale = np.asarray(q.mean, float), np.asarray(q.scale, float)
        if not self._annealed(target.dim):
            x = keys.generator(seed, "particles").standard_normal((self.particles, target.dim))
            _refuse_nowhere_finite(target, mean + x @ scale.T, target(mean + x @ scale.T)[0])
            return _State(seed, mean, scale, None, stein_steps.begin(x))
        cloud = self._wide(target, seed, DenseGaussian(mean, scale), 0)
        _refuse_nowhere_finite(target, mean + cloud.x @ scale.T, cloud.log_p)
        return _State(seed, mean, scale, cloud)

    def advance(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        """One stage of the annealing, or up to `_CHUNK` steps of the flow."""
        return self._anneal(state, target) if state.flow is None else self._flow(state, target)

    def _anneal(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        density = _whitened(target, state.mean, state.scale)
        rng = keys.generator(state.seed, "anneal", state.stage)
        cloud = tempering.anneal(density, rng, state.cloud)
        state = replace(state, cloud=cloud, stage=state.stage + 1)
        nothing = np.zeros(0)
        if cloud.t < 1:
            stuck = state.stage >= _MOST_STAGES
            return state, Ticks(nothing, done=stuck, note=_stuck(cloud, state.stage) if stuck else "")
        if state.frames == 1 and 4 * target.dim < len(cloud.x) and _widest(cloud.x) > _TOO_NARROW:
            return self._reframed(state, target), Ticks(nothing)
        flow = stein_steps.begin(tempering.thinned(cloud, self.particles).x)
        return replace(state, cloud=None, flow=flow), Ticks(nothing, note=f"annealed in {state.stage} stages")

    def _reframed(self, state: _State, target: Any) -> _State:
        """Begin again in coordinates that the cloud whitens: a base around too narrow a Gaussian hardly reaches the tails."""
        q = Particles(state.mean + state.cloud.x @ state.scale.T)
        cloud = self._wide(target, state.seed, q, 1)
        return replace(state, mean=q.mean, scale=q.scale, cloud=cloud, frames=2)

    def _wide(self, target: Any, seed: int, q: Any, number: int) -> Cloud:
        rng = keys.generator(seed, "particles", number)
        return tempering.wide(_whitened(target, q.mean, q.scale), rng, self._points, target.dim)

    def _flow(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        before = np.asarray(state.flow.x)
        count = max(1, min(stein_steps.MOST, self.steps - state.step, _WORK // self.particles**2))
        program = stein_steps.flow(target.model.factors, target.model.sites, 8 * target.batch)
        flow, loss = program(count, state.flow, stein_steps.bandwidth(before), state.mean, state.scale, target.data)
        flow, loss = Flow(*map(np.asarray, flow)), np.asarray(loss, float)[:count]
        target.gradients += count * self.particles
        moved, wandered = _movement(before, flow.x)
        # A chunk that was cut short tells less; per step the limits are the same.
        finished = max(moved / _STILL, wandered / _CALM) < count / stein_steps.MOST
        state = replace(state, flow=flow, step=state.step + count, finished=finished)
        spent = not finished and state.step >= self.steps
        return state, Ticks(loss, done=finished or spent, error=moved, spent=spent)

    def finish(self, state: _State) -> Particles:
        """The particles of the state; in the flow those of one step before, where the density is known to be finite."""
        x = state.cloud.x[: self.particles] if state.flow is None else np.asarray(state.flow.x_before)
        return Particles(state.mean + x @ state.scale.T)

    def converged(self, state: _State) -> bool:
        """Whether the particles stand still."""
        return state.finished

    def _annealed(self, dim: int) -> bool:
        return dim <= _ANNEALED if self.annealing is None else self.annealing

    @property
    def _points(self) -> int:
        return max(self.particles, min(max(_MORE * self.particles, _FEWEST), _ENOUGH))

    def _refuse_too_many(self, dim: int) -> None:
        needed, there = 8 * _COPIES * dim * (self._points if self._annealed(dim) else self.particles), _memory()
        if there and needed > _SHARE * there:
            raise OptionError(
                f"particles={self.particles:,} in {dim:,} dimensions need about {needed / 2**30:.3g} GB, and this machine has "
                f"{there / 2**30:.3g} GB; use particles={min(int(self.particles * _SHARE * there / needed), _MOST):,} or fewer."
            )
        if self.particles > _MOST:
            raise OptionError(
                f"particles={self.particles:,} would make {float(self.particles) ** 2:.1g} kernel elements a step, which takes "
                f"minutes or hours; use at most particles={_MOST:,}, of which 1,000 are usual."
            )


def _memory() -> int:
    """Bytes of memory of this machine; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _gaussian(target: Any, seed: int) -> Any:
    """A Gaussian fit on the small design, converged or not: it only has to frame the coordinates."""
    engine = FixedDraws(large=False)
    state, done = engine.init(target, seed), False
    while not done:
        state, ticks = engine.advance(state, target)
        done = ticks.done
    return engine.finish(state)


def _whitened(target: Any, mean: np.ndarray, scale: np.ndarray) -> Any:
    """Log density and gradient in whitened coordinates; minus infinity, and no slope, where they are not finite."""

    def density(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_p, gradient = target(mean + x @ scale.T)
        fine = np.isfinite(log_p) & np.isfinite(gradient).all(1)
        return np.where(fine, log_p, -np.inf), np.where(fine[:, None], gradient, 0.0) @ scale

    return density


def _refuse_nowhere_finite(target: Any, z: np.ndarray, log_p: np.ndarray) -> None:
    if not np.isfinite(log_p).any():
        raise NonFiniteError(
            f"{target.blame(z)} is not finite at any of the particles' starts; check data and supports, or pass start=."
        )


def _widest(x: np.ndarray) -> float:
    """Sd of points along their first principal axis."""
    centered = x - x.mean(0)
    return float(np.sqrt(np.linalg.eigvalsh(centered.T @ centered / len(x))[-1]))


def _movement(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Largest move of a mean or an sd, and root mean square move of particles, in the particles' own sds."""
    sd = np.maximum(after.std(0), 1e-300)
    moments = np.maximum(np.abs(after.mean(0) - before.mean(0)), np.abs(after.std(0) - before.std(0))) / sd
    return float(moments.max()), float(np.sqrt((((after - before) / sd) ** 2).mean()))


def _stuck(cloud: Cloud, stages: int) -> str:
    return f"annealing reached {cloud.t:.2g} of 1 in {stages} stages; the posterior is too far from a Gaussian to be annealed to"
