"""Gibbs sampling: every block in turn is drawn from its complete conditional.

    p(x_k | all others, data) = the member of the block's family with eta_k = dE / dmu_k at mu_j = t_j(x_j), all j

with E the energy E_q[log p] as a function of mean parameters: it is affine in every block, and at the statistics of one point
it is the log joint there, so the gradient that is coordinate ascent's update under averages is the conditional under draws.
Discrete sites come first in a sweep, then the others in the order of the model. A block is drawn jointly: Gaussian blocks by
their precision pattern, Markov chains by messages forward and draws backward. A positive site that is not conditionally
conjugate is moved by slice sampling of its logarithm, or of its logit in an interval, element by element (slices.py).

Every number is a function of (seed, sweep), so that the length of a chunk or a pause changes nothing. One sweep of all chains is
one compiled program, and the host counts them: a loop over sweeps inside of the program can hang on CPU, where XLA's runtime
loses track of LAPACK calls in nested loops. NumPy makes the noise: generators of random numbers take seconds to compile.

References: Geman and Geman (1984), IEEE PAMI 6; Gelfand and Smith (1990), JASA 85.
"""

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
from jensen.core.compilation import FAST_COMPILE
from jensen.core.errors import OptionError, UnsupportedError
from jensen.engines.coordinate import longer, order, seconds
from jensen.engines.engine import Ticks
from jensen.engines.slices import CHANCES, slice_all, slice_sweep
from jensen.families.discrete import Categorical
from jensen.families.gaussian import Gaussian
from jensen.families.markov import MarkovChain

WIDTH = 3.0
"""Standard deviations of the block's family that a slice is first taken to be wide."""
MOST_NUMBERS = 20_000_000
"""Numbers kept before discrete sites are kept as probabilities only."""


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
    seed
        Of all noise.
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
    seed: int
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
    start
        Families by block, such as coordinate ascent's: chains start at draws of them. None: at random levels and Gaussians.

    Raises
    ------
    OptionError
        For numbers that are not whole or too small.
    """

    warmup: int = 500
    draws: int = 1000
    chains: int = 4
    thin: int = 1
    start: Any = None

    def __post_init__(self) -> None:
        for name, least in (("warmup", 0), ("draws", 1), ("chains", 1), ("thin", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise OptionError(f"{name} must be at least {least}; got {value!r}; give a whole number.")

    def init(self, target: Plan, seed: int) -> State:
        """First state; `UnsupportedError` if a site has no conditional that can be drawn from."""
        _check(target)
        families, values = self._start(target, seed)
        known, counts, shapes = blocks.nodes(target), {}, {}
        room = MOST_NUMBERS - sum(self._numbers(node) for node in known.values() if node.levels is None)
        for node in sorted(known.values(), key=lambda node: (node.levels is not None, self._numbers(node))):
            room -= self._numbers(node) if node.levels is not None else 0
            if node.levels is not None and room < 0:
                counts[node.name] = jnp.zeros((self.chains, *node.shape, node.levels))
        for block, value in values.items():
            found = blocks.unflat(target, block, value)
            shapes |= {name: (part.shape[1:], part.dtype) for name, part in found.items() if name not in counts}
        return State(families, seed, values, counts, shapes)

    def _start(self, target: Plan, seed: int) -> tuple[Any, dict[str, Any]]:
        """Families, and values of every block (chains, ...)."""
        if self.start is None:
            starts = [_apart(target, keys.generator(seed, "gibbs start", chain)) for chain in range(self.chains)]
            return starts[0][0], {block: jnp.stack([start[block] for _, start in starts]) for block in target.blocks}
        if set(self.start) != set(target.blocks):
            raise OptionError(
                f"start must have a family for each of {', '.join(target.blocks)}; got {', '.join(self.start) or 'none'}; "
                "take the families of coordinate ascent on this plan."
            )
        rng = keys.generator(seed, "gibbs start")
        noise = {block: self.start[block].noise(rng, self.chains) for block in target.blocks}
        draw = jax.jit(_draw, compiler_options=FAST_COMPILE)
        return self.start, draw({block: self.start[block] for block in target.blocks}, noise)

    def _numbers(self, node: Any) -> int:
        return self.chains * self.draws * int(np.prod(node.shape))

    def advance(self, state: State, target: Plan) -> tuple[State, Ticks]:
        """A chunk of steps, all of the warmup or all after it."""
        warm = state.step < self.warmup
        count = min(state.count, (self.warmup if warm else self.warmup + self.draws) - state.step)
        stride = 1 if warm else self.thin
        first = state.step if warm else self.warmup + self.thin * (state.step - self.warmup)
        sweep, fixed = program(target), (target.energy.at_points(), state.families)  # type: ignore[union-attr]
        values, counts = state.values, state.counts
        drawn: dict[str, list[np.ndarray]] = {
            block: [] for block, sites in target.blocks.items() if sites[0] in state.shapes
        }
        joints = []
        for number in range(count * stride):
            last = (number + 1) % stride == 0
            noise = host_noise(target, state.families, keys.generator(state.seed, "gibbs", first + number), self.chains)
            values, counts, joint, fault = sweep(*fixed, values, counts, noise, last and not warm)
            if int(fault) >= 0:
                return state, Ticks(np.zeros(0), done=True, note=_fault(target, int(fault)))
            if last:
                joints.append(np.asarray(joint))
            if last and not warm:
                for block, draws in drawn.items():
                    draws.append(np.asarray(values[block]))
        step, log_joint = state.step + count, np.stack(joints, 1)
        new = replace(
            state, values=values, counts=counts, step=step, count=longer(state.count, stride * seconds(target))
        )
        if not warm:
            sites: dict[str, np.ndarray] = {}
            for block, draws in drawn.items():
                found = blocks.unflat(target, block, np.stack(draws, 1))
                sites |= {name: np.asarray(value) for name, value in found.items()}
            new = replace(new, kept=(*state.kept, (sites, log_joint)), done=step >= self.warmup + self.draws)
        return new, Ticks(-log_joint.mean(0), done=new.done)

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


def _apart(target: Plan, rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
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


def _draw(families: Any, noise: Any) -> dict[str, Any]:
    """Draws of every block."""
    return {block: family.at(noise[block]) for block, family in families.items()}


_PROGRAMS: WeakKeyDictionary[Plan, Any] = WeakKeyDictionary()


def program(target: Plan) -> Any:
    """One compiled sweep of all chains; counts grow if `keep`.

    (energy, families, values, counts, noise, keep) -> (values, counts, log joint (chains,), block at fault or -1)
    """
    if target not in _PROGRAMS:
        names, sliced = order(target), frozenset(target.damped)

        def sweep(
            energy: Any, families: Any, values: Any, counts: Any, noise: Any, keep: Any
        ) -> tuple[Any, Any, Any, Any]:
            values, faults = jax.vmap(partial(one_sweep, energy, families, names=names, sliced=sliced))(values, noise)
            joint = jax.vmap(partial(log_joint, energy, families, names))(values)
            fault = faults.min()
            fault = jnp.where((fault == len(names)) & jnp.isfinite(joint).all(), -1, fault)
            counts = {
                name: total + keep * jax.vmap(partial(_indicators, families[name]))(values[name])
                for name, total in counts.items()
            }
            return values, counts, joint, fault

        _PROGRAMS[target] = jax.jit(sweep)
    return _PROGRAMS[target]


def _indicators(family: Any, x: Any) -> Any:
    """Of the levels of a discrete site, in the site's own order of axes."""
    found = family.statistics(x)["probs"]
    return jnp.moveaxis(found, -2, 0) if isinstance(family, MarkovChain) else found


def log_joint(energy: Any, families: Any, names: tuple[str, ...], values: Any) -> Any:
    """Log p(values, data) of one chain; positive sites without the Jacobian."""
    return energy({block: families[block].statistics(values[block]) for block in names})


def one_sweep(
    energy: Any, families: Any, values: Any, noise: Any, names: tuple[str, ...], sliced: frozenset[str]
) -> tuple[Any, Any]:
    """Draw every block of one chain once; also the number of the first block at fault, len(names) if there is none.

    `noise` is one chain's of `host_noise`.
    """
    values, fault = dict(values), len(names)
    moments = {block: families[block].statistics(values[block]) for block in names}
    for number, block in enumerate(names):
        family, x = families[block], values[block]
        about = energy.about(block)
        partly = partial(_given, about, moments, block)
        given = about.given(moments, block) if block in sliced else None
        if given is not None:
            slope = partial(energy.log_slope, block)
            draw = slice_all(lambda x, g=given, slope=slope: g.at(x) + slope(x), x, WIDTH * family.sd(), noise[block])
            good = jnp.isfinite(draw).all()
        elif block in sliced:
            volume = partial(energy.volume, block)

            def density(x: Any, f: Any = family, p: Any = partly, v: Any = volume) -> Any:
                own = f.statistics(x)
                return p(own) + v(own)

            draw = slice_sweep(density, x, noise[block])
            good = jnp.isfinite(draw).all()
        else:
            if block in energy.naturals:
                new = family.from_natural(*energy.naturals[block](moments))
            else:
                new = family.from_gradient(jax.grad(partly)(moments[block]), moments[block])
            draw = new.at(jax.tree.map(lambda z: z[None], noise[block]))[0]
            # Logits may be -inf, and a level drawn from NaN is a number like any other.
            good = jnp.isfinite(draw).all() & ~_any_nan(new)
        values[block], moments[block] = draw, family.statistics(draw)
        fault = jnp.where(good, fault, jnp.minimum(fault, number))
    return values, fault


def host_noise(target: Plan, families: Any, rng: np.random.Generator, chains: int) -> dict[str, Any]:
    """What a sweep of all chains makes its draws of, by block, chains first."""
    return {
        block: 1.0 - rng.random((chains, CHANCES, family.pattern.n))
        if block in target.damped
        else family.noise(rng, chains)
        for block, family in ((block, families[block]) for block in order(target))
    }


def _given(energy: Any, moments: Any, block: str, own: Any) -> Any:
    return energy({**moments, block: own})


def _any_nan(family: Any) -> Any:
    leaves = [leaf for leaf in jax.tree.leaves(family) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    return jnp.stack([jnp.isnan(leaf).any() for leaf in leaves]).any()
