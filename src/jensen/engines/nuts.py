"""The no-U-turn sampler, begun where a fit has ended: its draws are the starts, their covariance is the metric.

Chains move in coordinates x in which the fit says that the posterior is round,

    y = center + S (I + V diag(c) V') x       S = diag(scale), V (D, K) orthonormal, c + 1 = square roots of eigenvalues
    z = y, or map(y)                          a map of families/maps.py that straightens funnels
    U(x) = -log p(z) - log|map'(y)|           leapfrogs with unit mass

so that the mass matrix is known before the first step and the warm-up has one number left to find: the step size, common to all
chains, by dual averaging of their mean acceptance. That takes tens of transitions, where a sampler that has to find places,
scales and correlations by itself takes a thousand, at short steps.

Trees are NumPyro's. All chains advance together in one compiled program, with the data as arguments; every transition draws from
a key of its own number, so that the length of a chunk changes nothing.

Requires: a continuous unconstrained density with gradients, all rows in memory.
References: Hoffman and Gelman (2014), The no-U-turn sampler, JMLR 15; Betancourt (2017), A conceptual introduction to Hamiltonian
Monte Carlo, arXiv:1701.02434; Phan, Pradhan, Jankowiak (2019), arXiv:1912.11554; Seyboldt, Carlson, Carpenter (2026),
Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence, arXiv:2603.18845 (of the metric: nuts_metric.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core import keys
from jensen.core.errors import NonFiniteError, OptionError
from jensen.core.layout import Site, unflatten
from jensen.engines.engine import Ticks
from jensen.models.model import total

CHUNK = 50
"""Transitions of a call of the compiled loop; it changes no result."""
ACCEPTANCE, ACCEPTANCE_MAPPED = 0.8, 0.95
"""Mean acceptance of the step size; where a map was needed, what it leaves over needs shorter steps."""
_DEPTH = 10
"""Trees have at most 2^10 leaves."""


class Frame(NamedTuple):
    """Where the posterior is round: center and scale (D,), directions (D, K), stretch (K,); see the head of the file."""

    center: Any
    scale: Any
    directions: Any
    stretch: Any

    def out(self, x: Any) -> Any:
        """X (..., D) -> z."""
        return self.center + self.scale * (x + ((x @ self.directions) * self.stretch) @ self.directions.T)

    def into(self, z: Any) -> Any:
        """Z (..., D) -> x."""
        x = (z - self.center) / self.scale
        return x - ((x @ self.directions) * (self.stretch / (1 + self.stretch))) @ self.directions.T


class Begin(NamedTuple):
    """A frame, places (chains, D) in z where chains begin, taken in turn, and a `jensen.families.maps.Map` after the frame."""

    frame: Frame
    places: Any
    map: Any = None


@dataclass(frozen=True, eq=False)
class Chains:
    """What the chains drew after warm-up.

    Attributes
    ----------
    z
        (draws, chains, D), unconstrained.
    log_p
        (draws, chains), log density there.
    leapfrogs
        (draws, chains), gradients of each transition.
    warm
        Gradients of the warm-up.
    divergences
        Trajectories after warm-up that left the level set.
    step
        Step size.
    acceptance
        Mean over the draws.
    """

    z: np.ndarray
    log_p: np.ndarray
    leapfrogs: np.ndarray
    warm: int
    divergences: int
    step: float
    acceptance: float


class Place(NamedTuple):
    """Positions x (chains, D), and potential energy (chains,) and its slope (chains, D) there."""

    x: Any
    potential: Any
    slope: Any


class Pace(NamedTuple):
    """Dual averaging: log step of the next transition and averaged, averaged shortfall of acceptance, count, center."""

    now: Any
    average: Any
    shortfall: Any
    count: Any
    center: Any


@dataclass(frozen=True, eq=False)
class State:
    """Chains, and what was kept of them: chunks of (z, log p, leapfrogs, divergences, acceptance), transitions first."""

    seed: int
    frame: Frame
    map: Any
    place: Place
    pace: Pace
    step: int = 0
    warm: int = 0
    kept: tuple[Any, ...] = ()
    done: bool = False


@dataclass(frozen=True)
class Nuts:
    """Engine: the no-U-turn sampler.

    Attributes
    ----------
    draws
        Draws of each chain.
    chains
        Number of chains.
    warmup
        Transitions before the first draw, in which the step size is found.
    start
        A `Begin`, or an approximation q: its moments are the frame, draws of it the places. None: N(0, 0.1^2).

    Raises
    ------
    OptionError
        For numbers that are not whole or too small.
    """

    draws: int = 1000
    chains: int = 4
    warmup: int = 100
    start: Any = None

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("chains", 1), ("warmup", 10)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise OptionError(f"{name} must be at least {least}; got {value!r}; give a whole number.")

    def init(self, target: Any, seed: int) -> State:
        """First state; `NonFiniteError` where a chain cannot begin."""
        frame, places, bent = self._begin(target, seed)
        places = np.asarray(places, float)[np.arange(self.chains) % len(places)]
        log_p, gradient = target(places)
        bad = ~(np.isfinite(log_p) & np.isfinite(gradient).all(1))
        if bad.any():
            raise NonFiniteError(
                f"{int(bad.sum())} of {self.chains} chains cannot begin: {target.blame(places[bad])} is not finite there; begin "
                "them at draws of a fit."
            )
        x = frame.into(places if bent is None else bent.into(places))
        place = _value_and_slope(target.model.factors, target.model.sites)(frame, bent, x, target.data)
        target.gradients += self.chains
        first = np.log(target.dim**-0.25)
        return State(seed, frame, bent, place, Pace(*map(np.float64, (first, first, 0.0, 0.0, first + np.log(2.0)))))

    def _begin(self, target: Any, seed: int) -> Begin:
        start = self.start
        if isinstance(start, Begin):
            return start
        dim, rng = target.dim, keys.generator(seed, "nuts start")
        if start is None:
            frame = Frame(np.zeros(dim), np.ones(dim), np.zeros((dim, 0)), np.zeros(0))
            return Begin(frame, 0.1 * rng.standard_normal((self.chains, dim)))
        return Begin(frame_of(np.asarray(start.mean), np.asarray(start.cov)), start.sample(rng, self.chains))

    def advance(self, state: State, target: Any) -> tuple[State, Ticks]:
        """Up to `CHUNK` transitions, all of the warm-up or all after it."""
        warm = state.step < self.warmup
        count = min(CHUNK, (self.warmup if warm else self.warmup + self.draws) - state.step)
        program = _program(target.model.factors, target.model.sites)
        key = keys.key(state.seed, "nuts")
        fixed = state.frame, state.map
        place, pace, records = program(key, state.step, count, warm, *fixed, state.place, state.pace, target.data)
        z, log_p, leaps, diverged, accepted = (np.asarray(record)[:count] for record in records)
        target.gradients += int(leaps.sum())
        step = state.step + count
        new = replace(state, place=place, pace=pace, step=step, done=step >= self.warmup + self.draws)
        if warm:
            new = replace(new, warm=state.warm + int(leaps.sum()))
        else:
            kept = (z, log_p, leaps, int(diverged.sum()), float(accepted.sum()))
            new = replace(new, kept=(*state.kept, kept))
        return new, Ticks(-log_p.mean(1), done=new.done)

    def finish(self, state: State) -> Chains:
        """The draws so far."""
        chains, dim = np.shape(state.place.x)
        z = np.concatenate([np.zeros((0, chains, dim)), *(kept[0] for kept in state.kept)])
        log_p = np.concatenate([np.zeros((0, chains)), *(kept[1] for kept in state.kept)])
        leapfrogs = np.concatenate([np.zeros((0, chains), int), *(kept[2] for kept in state.kept)])
        divergences, accepted = (sum(kept[i] for kept in state.kept) for i in (3, 4))
        step = float(np.exp(state.pace.average))
        return Chains(z, log_p, leapfrogs, state.warm, divergences, step, accepted / max(log_p.size, 1))

    def converged(self, state: State) -> bool:
        """Whether all draws were taken; whether the chains agree is another question."""
        return state.done


def frame_of(mean: np.ndarray, cov: np.ndarray) -> Frame:
    """The frame of a Gaussian: mean (D,) and covariance (D, D), or variances (D,)."""
    if cov.ndim == 1:
        return Frame(mean, np.sqrt(cov), np.zeros((len(mean), 0)), np.zeros(0))
    scale = np.sqrt(np.diagonal(cov))
    w, v = np.linalg.eigh(cov / np.outer(scale, scale))
    return Frame(mean, scale, v, np.sqrt(np.maximum(w, 1e-10)) - 1)


def _z(frame: Frame, bent: Any, x: Any) -> tuple[Any, Any]:
    """Z (n, D), and log volume of the map (n,), at x (n, D)."""
    y = frame.out(x)
    if bent is None:
        return y, jnp.zeros(len(y))
    return bent.out(y)[:2]


def _potential(
    factors: Callable[..., Any], sites: tuple[Site, ...], frame: Frame, bent: Any, data: Any
) -> Callable[..., Any]:
    def potential(x: Any) -> Any:
        z, volume = _z(frame, bent, x[None])
        return -total(factors(unflatten(sites, z[0]), data)) - volume[0]

    return potential


@lru_cache(maxsize=16)
def _value_and_slope(factors: Callable[..., Any], sites: tuple[Site, ...]) -> Callable[..., Place]:
    @jax.jit
    def program(frame: Frame, bent: Any, x: Any, data: Any) -> Place:
        value, slope = jax.vmap(jax.value_and_grad(_potential(factors, sites, frame, bent, data)))(x)
        return Place(x, value, slope)

    return program


@lru_cache(maxsize=16)
def _program(factors: Callable[..., Any], sites: tuple[Site, ...]) -> Callable[..., Any]:
    """The compiled loop: `count` transitions of all chains, of which transition `first` is the first."""
    from numpyro.infer.hmc_util import IntegratorState, build_tree, euclidean_kinetic_energy, velocity_verlet

    def chain(key: Any, place: Place, step: Any, potential: Callable[..., Any]) -> tuple[Place, Any, Any, Any]:
        momentum_key, tree_key = jax.random.split(key)
        mass = jnp.ones_like(place.x)
        momentum = jax.random.normal(momentum_key, place.x.shape, place.x.dtype)
        here = IntegratorState(place.x, momentum, place.potential, place.slope)
        move = velocity_verlet(potential, euclidean_kinetic_energy)[1]
        tree = build_tree(move, euclidean_kinetic_energy, here, mass, step, tree_key, max_tree_depth=_DEPTH)
        there = Place(tree.z_proposal, tree.z_proposal_pe, tree.z_proposal_grad)
        return there, tree.num_proposals, tree.diverging, tree.sum_accept_probs / tree.num_proposals

    @jax.jit
    def program(
        key: Any, first: Any, count: Any, warm: Any, frame: Frame, bent: Any, place: Place, pace: Pace, data: Any
    ) -> Any:
        potential = _potential(factors, sites, frame, bent, data)
        chains, dim = place.x.shape
        empty = jnp.zeros((CHUNK, chains))
        records = (jnp.zeros((CHUNK, chains, dim)), empty, empty.astype(int), empty.astype(bool), empty)

        def transition(number: Any, carry: Any) -> Any:
            place, pace, records = carry
            streams = jax.random.split(jax.random.fold_in(key, first + number), chains)
            step = jnp.exp(jnp.where(warm, pace.now, pace.average))
            place, leaps, diverged, accepted = jax.vmap(chain, (0, 0, None, None))(streams, place, step, potential)
            z, volume = _z(frame, bent, place.x)
            new = z, -place.potential - volume, leaps, diverged, accepted
            records = tuple(old.at[number].set(value) for old, value in zip(records, new, strict=True))
            goal = ACCEPTANCE if bent is None else ACCEPTANCE_MAPPED
            return place, _paced(pace, goal - accepted.mean(), warm), records

        return jax.lax.fori_loop(0, count, transition, (place, pace, records))

    return program


def _paced(pace: Pace, missing: Any, warm: Any) -> Pace:
    """Dual averaging with the usual constants (Hoffman and Gelman, section 3.2)."""
    count = pace.count + 1
    shortfall = pace.shortfall + (missing - pace.shortfall) / (count + 10)
    now = pace.center - jnp.sqrt(count) / 0.05 * shortfall
    average = pace.average + count**-0.75 * (now - pace.average)
    return jax.tree.map(
        lambda new, old: jnp.where(warm, new, old), Pace(now, average, shortfall, count, pace.center), pace
    )
