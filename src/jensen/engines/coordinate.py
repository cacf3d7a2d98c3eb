"""Coordinate ascent: every block of q in turn takes the exact optimum given the others.

    eta_k <- dE / dmu_k            conjugate blocks: E is affine in mu_k, and the gradient is the natural parameter
    eta_k <- (1 - rho) eta_k + rho dE / dmu_k        other blocks: rho = 1, 1/2, 1/4, ... until the ELBO does not fall

with E the energy E_q[log p] as a function of mean parameters and ELBO = E + sum of entropies, which never decreases. Discrete
sites come first in a sweep, then the others in the order of the model. A chunk of sweeps is one call of one compiled program.

Requires a model whose plan has an energy (`jensen.conjugate`). Each of several restarts runs the same program.

References: Wainwright and Jordan (2008), Graphical models, exponential families, and variational inference; Khan and Rue (2023),
The Bayesian learning rule, JMLR 24(281), for the steps with rho < 1.
"""

from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate import starts
from jensen.conjugate.pieces import ZERO, known
from jensen.conjugate.plan import Plan
from jensen.core import keys
from jensen.core.compilation import FAST_COMPILE, LONG_RUNNING, Compiled, on_device
from jensen.core.errors import OptionError
from jensen.engines.engine import Ticks
from jensen.families.gaussian import Gaussian

CHUNK = 64
"""Most sweeps of one call."""
CHUNK_SECONDS = 0.2
WORTH_OPTIMIZING = 1.0
"""Seconds of running after which a program is compiled with all optimizations."""
_CALL, _NUMBER = 5e-5, 2e-8
"""Seconds that a sweep is taken to last: for itself, and for each number that it reads. No clock is asked: what a fit does must
not depend on how busy the machine is, and a fit that was killed must go on as it would have."""
CHEAP = 1e-2
"""Seconds of a sweep up to which one more in every call is less than its compilation twice."""
STILL = 1e-10
"""A sweep that raises the ELBO by less than this, relatively, is a still one; two in a row end the fit."""
SHORTEN = 0.5
SHORTEST = 1e-3


@dataclass(frozen=True)
class State:
    """Families by block, the ELBO after the last sweep, what decides when to stop, for how long levels are held, sweeps."""

    families: Any
    elbo: float = -np.inf
    count: int = 1
    still: int = 0
    held: int = 0
    broken: str = ""
    swept: int = 0


@dataclass(frozen=True)
class CoordinateAscent:
    """Coordinate ascent variational inference.

    Attributes
    ----------
    start
        Families to start from; None: from the data, by the seed. Then discrete sites are held for the first sweeps.
    tolerance
        Relative increase of the ELBO below which a sweep counts as still.
    chunk
        Most sweeps between two looks of callbacks: 1 shows them every sweep.
    """

    start: Any = None
    tolerance: float = STILL
    chunk: int = CHUNK

    def __post_init__(self) -> None:
        if not isinstance(self.chunk, Integral) or not 1 <= self.chunk <= CHUNK:
            raise OptionError(
                f"chunk of CoordinateAscent must be a whole number from 1 to {CHUNK}; got {self.chunk!r}."
            )

    def init(self, target: Plan, seed: int) -> State:
        """First state."""
        return State(self.start) if self.start is not None else first(target, seed)

    def advance(self, state: State, target: Plan) -> tuple[State, Ticks]:
        """Up to `chunk` sweeps."""
        optimized = state.swept * seconds(target) > WORTH_OPTIMIZING
        families, elbos, good = program(target)(state.families, state.count, state.held, optimized=optimized)
        elbos = np.asarray(elbos)[: state.count]
        if not good:
            return self._broken(state, target, elbos)
        gains = np.diff(np.concatenate([[state.elbo], elbos]))
        still = state.still
        for number, (gain, elbo) in enumerate(zip(gains, elbos, strict=True)):
            still = still + 1 if number >= state.held and gain <= self.tolerance * (1.0 + abs(elbo)) else 0
        count, held = min(longer(state.count, seconds(target)), self.chunk), max(state.held - state.count, 0)
        swept = state.swept + state.count
        new = replace(state, families=families, elbo=float(elbos[-1]), count=count, still=still, held=held, swept=swept)
        return new, Ticks(-elbos, done=still >= 2)

    def _broken(self, state: State, target: Plan, elbos: np.ndarray) -> tuple[State, Ticks]:
        """Something was not finite: the families before the chunk are kept, and the factor is named."""
        values = jax.tree.map(float, jax.jit(_nodes)(target.energy, state.families))
        names = [name for name, value in values.items() if not np.isfinite(value)]
        note = f"the expected log density of {', '.join(names) or 'no single factor'} is not finite; the state before is kept"
        finite = elbos[np.isfinite(elbos)]
        return replace(state, broken=note), Ticks(-finite, done=True, note=note)

    def finish(self, state: State) -> Any:
        """Families by block."""
        return state.families

    def converged(self, state: State) -> bool:
        """Whether two sweeps in a row changed nothing."""
        return state.still >= 2 and not state.broken


def seconds(target: Plan) -> float:
    """About how long a sweep lasts."""
    numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(target.energy))
    return _CALL + _NUMBER * (numbers + sum(each.numbers for each in target.energy.predictors))  # type: ignore[union-attr]


def longer(count: int, each: float) -> int:
    """Number of sweeps of the next chunk, each of which lasts `each` seconds."""
    return min(2 * count, CHUNK) if 2 * count * each <= CHUNK_SECONDS else count


def first(target: Plan, seed: int, number: int = 0) -> State:
    """The state of start `number` of a seed: levels from the data, which are held while the other blocks move to them."""
    families = starts.start(target, keys.generator(seed, "coordinate ascent", number))
    return State(families, held=starts.HELD if discrete(target) else 0)


def discrete(target: Plan) -> tuple[str, ...]:
    """Blocks of discrete sites."""
    role = target.layout.role  # type: ignore[union-attr]
    return tuple(b for b, sites in target.blocks.items() if role[sites[0]] in ("categorical", "chain"))


def order(target: Plan) -> tuple[str, ...]:
    """Blocks in the order of a sweep: discrete sites first."""
    some = discrete(target)
    return some + tuple(b for b in target.blocks if b not in some)


_PROGRAMS: WeakKeyDictionary[Plan, Any] = WeakKeyDictionary()


def program(target: Plan) -> Any:
    """The compiled chunk: (families, count, held) -> (families, ELBO a sweep (CHUNK,), whether all is finite).

    Discrete sites keep their families in the first `held` sweeps.
    """
    if target not in _PROGRAMS:
        changing, back, shape = known(target.energy)
        damped, names, levels = frozenset(target.damped), order(target), discrete(target)
        found = target.graph.remember(
            ("coordinate", shape, damped, names),
            lambda: Compiled(_chunk(back, names, damped, levels, seconds(target) < CHEAP)),
        )
        _PROGRAMS[target] = partial(_run, found, jax.device_put(changing))
    return _PROGRAMS[target]


def _run(found: Compiled, changing: Any, families: Any, *numbers: int, optimized: bool = False) -> Any:
    """Compiled quickly, and again with all optimizations where it is run for long."""
    options = LONG_RUNNING if optimized else FAST_COMPILE
    return found(options, changing, *on_device((families, *numbers)))


def _chunk(
    back: Any, names: tuple[str, ...], damped: frozenset[str], levels: tuple[str, ...], cheap: bool = True
) -> Any:
    def chunk(changing: Any, families: Any, count: Any, held: Any) -> Any:
        energy = back(changing)

        def sweep(number: Any, carry: Any) -> Any:
            old, elbos, good = carry
            families, moments = old
            new = one_sweep(energy, families, moments, names, damped, levels, number <= held, number == 0)
            value = elbo(energy, *new)
            good = (number == 0) | (good & jnp.isfinite(value))
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old), elbos.at[number].set(value), good

        # Moments are carried along: those of a Gaussian are an inverse, which every sweep would compute anew. Where a sweep is
        # cheap, a first turn in which nothing moves finds those at the start: code in two places takes longer to compile.
        if cheap:
            moments = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(moments_of, families))
        else:
            moments = moments_of(families)
        start = (families, moments), jnp.full(CHUNK + 1, jnp.nan), jnp.array(True)
        (families, _), elbos, good = jax.lax.fori_loop(0 if cheap else 1, count + 1, sweep, start)
        return families, elbos[1:], good

    return chunk


def moments_of(families: Any) -> Any:
    """Mean parameters of all blocks."""
    return {block: measured(family) for block, family in families.items()}


@jax.jit
def measured(family: Any) -> Any:
    """A family's mean parameters, with its entropy beside them: the one is half of the work for the other."""
    return family.with_entropy()


def one_sweep(
    energy: Any,
    families: Any,
    moments: Any,
    names: tuple[str, ...],
    damped: frozenset[str],
    levels: tuple[str, ...] = (),
    held: Any = False,
    still: Any = False,
) -> tuple[Any, Any]:
    """Update every block once, but none of `levels` when `held`, and none at all when `still`; return families and moments."""
    families, moments = dict(families), dict(moments)
    for block in names:
        step = damped_update if block in damped else update
        old, new = families[block], step(energy, families, moments, block)
        stays = held if block in levels else still
        if stays is not False:
            new = jax.tree.map(lambda a, b, stays=stays: jnp.where(stays, a, b), old, new)
        families[block], moments[block] = new, measured(new)
    return families, moments


def update(energy: Any, families: Any, moments: Any, block: str) -> Any:
    """The block's coordinate optimum."""
    if block in energy.naturals:
        return families[block].from_natural(*energy.naturals[block](moments))
    partly = energy.about(block)
    slope = jax.grad(lambda own: partly(moments | {block: own}) + _volume(energy, block, own))
    if isinstance(families[block], Gaussian) and energy.quadratic(block):
        return families[block].from_slope(slope(jax.tree.map(jnp.zeros_like, moments[block]) | {ZERO: ()}))
    return families[block].from_gradient(slope(moments[block]), moments[block])


def damped_update(energy: Any, families: Any, moments: Any, block: str) -> Any:
    """The longest of the steps 1, 1/2, 1/4, ... towards the gradient that does not lower the ELBO; none if all do."""
    old, about = families[block], energy.about(block)
    given = about.given(moments, block)

    def weigh(own: Any) -> Any:
        partly = about(moments | {block: own}) if given is None else given(own)
        return partly + _volume(energy, block, own)

    def value(family: Any, own: Any) -> Any:
        return weigh(own) + (own["entropy"] if "entropy" in own else family.entropy())

    full = old.from_gradient(jax.grad(weigh)(moments[block]), moments[block])

    def moved(rho: Any) -> Any:
        return jax.tree.map(lambda a, b: a + rho * (b - a) if jnp.issubdtype(a.dtype, jnp.floating) else a, old, full)

    def height(family: Any) -> Any:
        return value(family, measured(family))

    return _search_each(moved, height, old, value(old, moments[block])) if given is None else _search_all(moved, height)


def _least(before: Any) -> Any:
    """What does not count as a fall."""
    return before - 1e-12 * (1.0 + jnp.abs(before))


def _search_each(moved: Any, height: Any, old: Any, before: Any) -> Any:
    """One step after the other: where a trial costs as much as a sweep."""

    def trial(rho: Any) -> tuple[Any, Any]:
        new = moved(rho)
        return new, height(new)

    def worse(carry: Any) -> Any:
        rho, _, after = carry
        return ~(after >= _least(before)) & (rho > SHORTEST)

    def shorter(carry: Any) -> Any:
        rho = SHORTEN * carry[0]
        return rho, *trial(rho)

    one = jnp.ones(())
    _, new, after = jax.lax.while_loop(worse, shorter, (one, *trial(one)))
    return jax.tree.map(lambda a, b: jnp.where(after >= _least(before), a, b), new, old)


def _search_all(moved: Any, height: Any) -> Any:
    """All steps at once, none among them: where a trial costs nothing, and loops cost compilation."""
    steps = SHORTEN ** np.arange(int(np.log(SHORTEST) / np.log(SHORTEN)) + 2.0)
    after, before = jnp.split(jax.vmap(lambda rho: height(moved(rho)))(np.append(steps, 0.0)), [len(steps)])
    good = after >= _least(before)
    return moved(jnp.where(good.any(), jnp.asarray(steps)[jnp.argmax(good)], 0.0))


def elbo(energy: Any, families: Any, moments: Any) -> Any:
    """E_q[log p] + entropy."""
    total = energy(moments)
    for block, family in families.items():
        known = moments[block].get("entropy")
        total = total + (family.entropy() if known is None else known)
        total = total + _volume(energy, block, moments[block])
    return total


def _volume(energy: Any, block: str, moments: Any) -> Any:
    """What the entropy of exp(x), or of a place in an interval, has more than that of x."""
    return energy.volume(block, moments)


def bound(target: Plan, families: Any) -> float:
    """ELBO of families one sweep on, by the compiled program: that of converged families."""
    return float(program(target)(families, 1, 0)[1][0])


def _nodes(energy: Any, families: Any) -> Any:
    return energy.nodes(moments_of(families))
