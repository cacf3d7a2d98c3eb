"""Gibbs sampling: every block in turn is drawn from its complete conditional.

    p(x_k | all others, data) = the member of the block's family with eta_k = dE / dmu_k at mu_j = t_j(x_j), all j

with E the energy E_q[log p] as a function of mean parameters: it is affine in every block, and at the statistics of one point
it is the log joint there, so the gradient that is coordinate ascent's update under averages is the conditional under draws.
Discrete sites come first in a sweep, then the others in the order of the model. A block is drawn jointly: Gaussian blocks by
their precision pattern, Markov chains by messages forward and draws backward. A positive site that is not conditionally
conjugate is moved by slice sampling of its logarithm, element by element: stepping out by 1, shrinking.

Every number is a function of (seed, chain, sweep, block), so that the length of a chunk or a pause changes nothing.

References: Geman and Geman (1984), IEEE PAMI 6; Gelfand and Smith (1990), JASA 85; Neal (2003), Slice sampling, Annals of
Statistics 31.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np

from jensen.conjugate import blocks
from jensen.conjugate.plan import Plan
from jensen.core import keys
from jensen.core.errors import OptionError, UnsupportedError
from jensen.engines.coordinate import order
from jensen.engines.engine import Ticks
from jensen.families.discrete import Categorical
from jensen.families.gaussian import Gaussian
from jensen.families.markov import MarkovChain

CHUNK = 64
"""Most kept sweeps of one call."""
CHUNK_SECONDS = 0.2
MOST_NUMBERS = 20_000_000
"""Numbers kept before discrete sites are kept as probabilities only."""
NARROWEST = 1e-12
"""A slice that has shrunk to this is given up, and the element stays."""


@dataclass(frozen=True, eq=False)
class Draws:
    """What the chains drew after warmup, in the model's own space.

    Attributes
    ----------
    values
        Site -> (chains, draws, *shape); levels of discrete sites are integers.
    probabilities
        Discrete site too large to be kept -> (chains, *shape, levels), how often it was at each level.
    log_joint
        (chains, draws), log p(values, data).
    """

    values: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]
    log_joint: np.ndarray


@dataclass(frozen=True, eq=False)
class State:
    """Values of all chains and what was kept of them.

    Attributes
    ----------
    families
        Block -> any member of its family.
    keys
        One a chain.
    values, counts
        Block -> (chains, ...) in the block's own variable; site -> (chains, *shape, levels) for those not kept.
    kept
        Chunks of (site -> (chains, chunk, *shape), log joint (chains, chunk)).
    step
        Number of steps done: a step of the warmup is one sweep, and one of the draws is `thin` sweeps.
    count
        Steps of the next chunk, at most.
    shapes
        Site -> (shape, dtype) of those kept.
    """

    families: Any
    keys: Any
    values: Any
    counts: Any
    shapes: dict[str, Any]
    kept: tuple[Any, ...] = ()
    step: int = 0
    count: int = 1
    done: bool = False


@dataclass(frozen=True)
class Gibbs:
    """Gibbs sampler.

    Attributes
    ----------
    warmup
        Sweeps before the first draw.
    draws
        Draws of each chain.
    chains
        Number of chains, which start apart.
    thin
        Sweeps between draws.

    Raises
    ------
    OptionError
        For numbers that are not whole or too small.
    """

    warmup: int = 500
    draws: int = 1000
    chains: int = 4
    thin: int = 1

    def __post_init__(self) -> None:
        for name, least in (("warmup", 0), ("draws", 1), ("chains", 1), ("thin", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise OptionError(f"{name} must be at least {least}; got {value!r}; give a whole number.")

    def init(self, target: Plan, seed: int) -> State:
        """First state; `UnsupportedError` if a site has no conditional that can be drawn from."""
        _check(target)
        chains = jnp.stack([keys.key(seed, "gibbs", chain) for chain in range(self.chains)])
        starts = [_start(target, keys.generator(seed, "gibbs start", chain)) for chain in range(self.chains)]
        values = {block: jnp.stack([start[block] for _, start in starts]) for block in target.blocks}
        known, counts, shapes = blocks.nodes(target), {}, {}
        room = MOST_NUMBERS - sum(self._numbers(node) for node in known.values() if node.levels is None)
        for node in sorted(known.values(), key=lambda node: (node.levels is not None, self._numbers(node))):
            room -= self._numbers(node) if node.levels is not None else 0
            if node.levels is not None and room < 0:
                counts[node.name] = jnp.zeros((self.chains, *node.shape, node.levels))
        for block, value in values.items():
            found = blocks.unflat(target, block, value)
            shapes |= {name: (part.shape[1:], part.dtype) for name, part in found.items() if name not in counts}
        return State(starts[0][0], chains, values, counts, shapes)

    def _numbers(self, node: Any) -> int:
        return self.chains * self.draws * int(np.prod(node.shape))

    def advance(self, state: State, target: Plan) -> tuple[State, Ticks]:
        """Up to `CHUNK` steps, all of the warmup or all after it."""
        begun = time.perf_counter()
        warm = state.step < self.warmup
        left = (self.warmup if warm else self.warmup + self.draws) - state.step
        count, stride = min(state.count, left), 1 if warm else self.thin
        sweeps = state.step if warm else self.warmup + self.thin * (state.step - self.warmup)
        kept = tuple(block for block, sites in target.blocks.items() if sites[0] in state.shapes)
        chunk = program(target, kept, min(CHUNK, self.draws))
        count = min(count, self.draws)
        values, counts, buffer, joint, fault = chunk(
            target.energy, state.families, state.keys, state.values, state.counts, sweeps, count, stride, not warm
        )
        joint = np.asarray(joint)[:count]
        if int(fault) >= 0:
            return state, Ticks(np.zeros(0), done=True, note=_fault(target, int(fault)))
        seconds = time.perf_counter() - begun
        faster = state.count if seconds > CHUNK_SECONDS else min(2 * state.count, CHUNK)
        step = state.step + count
        new = replace(state, values=values, counts=counts, step=step, count=faster)
        if not warm:
            found: dict[str, np.ndarray] = {}
            for block, drawn in buffer.items():
                found |= blocks.unflat(target, block, np.asarray(drawn)[:count].swapaxes(0, 1))
            sites = {name: np.asarray(value) for name, value in found.items()}
            new = replace(new, kept=(*state.kept, (sites, joint.T)), done=step >= self.warmup + self.draws)
        return new, Ticks(-joint.mean(1), done=new.done)

    def finish(self, state: State) -> Draws:
        """The draws so far."""
        values = {
            name: np.concatenate(
                [np.zeros((self.chains, 0, *shape), dtype), *(chunk[name] for chunk, _ in state.kept)], 1
            )
            for name, (shape, dtype) in state.shapes.items()
        }
        joint = np.concatenate([np.zeros((self.chains, 0)), *(joint for _, joint in state.kept)], 1)
        number = max(joint.shape[1], 1)
        return Draws(values, {name: np.asarray(count) / number for name, count in state.counts.items()}, joint)

    def converged(self, state: State) -> bool:
        """Whether all draws were taken; whether the chains agree is another question."""
        return state.done


def _check(target: Plan) -> None:
    """Refuse blocks without a conditional that can be drawn from."""
    if target.refusal:
        raise UnsupportedError(f"Gibbs sampling cannot run: {target.refusal}; use another engine.")
    for finding in target.findings:
        if finding.update == "natural gradient":
            raise UnsupportedError(
                f"{finding.site} has no complete conditional in closed form: {finding.reason}; use another engine."
            )
        if finding.update == "exact" and finding.reason:
            raise UnsupportedError(
                f"{finding.site} has a complete conditional only {finding.reason}, which Gibbs sampling does not draw; "
                "use coordinate ascent."
            )


def _fault(target: Plan, number: int) -> str:
    names = order(target)
    what = f"the complete conditional of {names[number]}" if number < len(names) else "the log joint"
    return f"{what} is not finite in some chain; the state before is kept"


def _start(target: Plan, rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    """Families, and the values at which a chain starts: random levels and Gaussians, the others at their means."""
    families, values = blocks.start(target, rng), {}
    for block, family in families.items():
        if isinstance(family, Gaussian):
            values[block] = jnp.asarray(rng.standard_normal(family.pattern.n))
        elif isinstance(family, Categorical | MarkovChain):
            logits = family.logits if isinstance(family, Categorical) else family.unary
            values[block] = jnp.asarray(rng.integers(0, logits.shape[-1], logits.shape[:-1]))
        else:
            values[block] = jnp.asarray(family.mean)
    return families, values


_PROGRAMS: WeakKeyDictionary[Plan, dict[Any, Any]] = WeakKeyDictionary()


def program(target: Plan, kept: tuple[str, ...], length: int) -> Any:
    """The compiled chunk.

    Parameters
    ----------
    target
        The plan.
    kept
        Blocks whose values are returned.
    length
        Steps there is room for.

    Returns
    -------
    callable
        (energy, families, chains, values, counts, sweep, count, stride, keep) -> (values, counts, values of the kept blocks
        (length, chains, ...), log joint (length, chains), block at fault or -1): `count` steps of `stride` sweeps from
        number `sweep` on, with a key a chain; counts grow if `keep`.
    """
    names, sliced = order(target), frozenset(target.damped)

    def chunk(
        energy: Any,
        families: Any,
        chains: Any,
        values: Any,
        counts: Any,
        sweep: Any,
        count: Any,
        stride: Any,
        keep: Any,
    ) -> Any:
        every = jax.vmap(partial(one_sweep, energy, families, names=names, sliced=sliced))
        joint = jax.vmap(partial(log_joint, energy, families, names))

        def step(number: Any, carry: Any) -> Any:
            def again(part: Any, carry: Any) -> Any:
                values, fault = carry
                here = jax.vmap(jax.random.fold_in, (0, None))(chains, sweep + number * stride + part)
                values, faults = every(values, here)
                return values, jnp.where(fault < 0, _first(faults, len(names)), fault)

            values, counts, buffer, joints, fault = carry
            values, fault = jax.lax.fori_loop(0, stride, again, (values, fault))
            logs = joint(values)
            fault = jnp.where((fault < 0) & ~jnp.isfinite(logs).all(), len(names), fault)
            counts = {
                name: total + keep * jax.vmap(partial(_indicators, families[name]))(values[name])
                for name, total in counts.items()
            }
            buffer = {block: drawn.at[number].set(values[block]) for block, drawn in buffer.items()}
            return values, counts, buffer, joints.at[number].set(logs), fault

        buffer = {block: jnp.zeros((length, *values[block].shape), values[block].dtype) for block in kept}
        carry = (values, counts, buffer, jnp.zeros((length, len(chains))), jnp.array(-1))
        return jax.lax.fori_loop(0, count, step, carry)

    programs = _PROGRAMS.setdefault(target, {})
    if (kept, length) not in programs:
        programs[kept, length] = jax.jit(chunk)
    return programs[kept, length]


def _first(faults: Any, none: int) -> Any:
    first = faults.min()
    return jnp.where(first == none, -1, first)


def _indicators(family: Any, x: Any) -> Any:
    """Of the levels of a discrete site, in the site's own order of axes."""
    found = family.statistics(x)["probs"]
    return jnp.moveaxis(found, -2, 0) if isinstance(family, MarkovChain) else found


def log_joint(energy: Any, families: Any, names: tuple[str, ...], values: Any) -> Any:
    """Log p(values, data) of one chain; log-Gaussian sites without the Jacobian."""
    return energy({block: families[block].statistics(values[block]) for block in names})


def one_sweep(
    energy: Any, families: Any, values: Any, key: Any, names: tuple[str, ...], sliced: frozenset[str]
) -> tuple[Any, Any]:
    """Draw every block of one chain once; also the number of the first block at fault, len(names) if there is none."""
    values, fault = dict(values), len(names)
    moments = {block: families[block].statistics(values[block]) for block in names}
    for number, block in enumerate(names):
        family, own = families[block], jax.random.fold_in(key, number)
        partly = partial(_given, energy, moments, block)
        if block in sliced:
            draw = slice_sweep(lambda x, f=family, p=partly: p(f.statistics(x)) + x.sum(), values[block], own)
            good = jnp.isfinite(draw).all()
        else:
            new = family.from_gradient(jax.grad(partly)(moments[block]), moments[block])
            draw = new.sample(own, 1)[0]
            # Logits may be -inf, and a level drawn from NaN is a number like any other.
            good = jnp.isfinite(draw).all() & ~_any_nan(new)
        values[block], moments[block] = draw, family.statistics(draw)
        fault = jnp.where(good, fault, jnp.minimum(fault, number))
    return values, fault


def _given(energy: Any, moments: Any, block: str, own: Any) -> Any:
    return energy({**moments, block: own})


def _any_nan(family: Any) -> Any:
    leaves = [leaf for leaf in jax.tree.leaves(family) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    return jnp.stack([jnp.isnan(leaf).any() for leaf in leaves]).any()


def slice_sweep(density: Any, x: Any, key: Any) -> Any:
    """Move every element of x (n,) once by slice sampling; `density` is the log density of x."""

    def element(index: Any, x: Any) -> Any:
        first, second, third = jax.random.split(jax.random.fold_in(key, index), 3)
        level = density(x) + jnp.log(jax.random.uniform(first, dtype=x.dtype, minval=jnp.finfo(x.dtype).tiny))

        def inside(move: Any) -> Any:
            return density(x.at[index].add(move)) > level

        left = -jax.random.uniform(second, dtype=x.dtype)
        right = jax.lax.while_loop(inside, lambda move: move + 1, left + 1)
        left = jax.lax.while_loop(inside, lambda move: move - 1, left)

        def outside(carry: Any) -> Any:
            _, left, right, move, _ = carry
            return ~inside(move) & (right - left > NARROWEST)

        def shrink(carry: Any) -> Any:
            number, left, right, move, _ = carry
            left, right = jnp.where(move < 0, move, left), jnp.where(move < 0, right, move)
            return number + 1, left, right, *propose(number, left, right)

        def propose(number: Any, left: Any, right: Any) -> tuple[Any, Any]:
            share = jax.random.uniform(jax.random.fold_in(third, number), dtype=x.dtype)
            return left + share * (right - left), right - left

        start = (1, left, right, *propose(0, left, right))
        _, left, right, move, _ = jax.lax.while_loop(outside, shrink, start)
        return x.at[index].add(jnp.where(right - left > NARROWEST, move, 0.0))

    return jax.lax.fori_loop(0, len(x), element, x)
