"""Short Gibbs chains from a product of families judge, and correct, what coordinate ascent cannot express.

A product leaves out the dependence between its blocks. The complete conditionals that gave its updates also move draws: chains
started at independent draws of q forget q, sweep by sweep, and arrive at the posterior. Their evidence per quantity is that of
the gradient chains (settled.py), at the cost of a few sweeps each, discrete sites included.

Reference: Gelfand and Smith (1990), Sampling-based approaches to calculating marginal densities, JASA 85.
"""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jensen.conjugate import blocks
from jensen.conjugate.documents import mixed
from jensen.conjugate.pieces import POINT, known
from jensen.conjugate.product import Product
from jensen.core import keys
from jensen.core.compilation import FAST_COMPILE, LONG_RUNNING, signature
from jensen.diagnostics import quantities
from jensen.diagnostics.correct import Correction
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.settled import GROUPS, LIMITS, against, coupled, means_settled, measure, sds_settled
from jensen.diagnostics.spaces import Own
from jensen.engines.coordinate import order
from jensen.engines.gibbs import host_noise, one_sweep
from jensen.families.gaussian import Gaussian

CHAINS = 128
FEWEST = 64
"""Chains of a model with many sites: with fewer, the largest of thousands of sampling errors would look like a wrong mean."""
NUMBERS = 320_000
"""Chains times dimensions, beyond which fewer chains do."""
KEPT = 16
"""Transitions kept of every stage."""
THINNING = (1, 2, 4, 8, 16, 32)
"""Sweeps a transition, stage by stage: slow chains need long stages, and fast ones never get there."""
JUDGING_STAGES = 4
_BATCH = 16
AT_ONCE = 0.15
"""Share of the variance between chains of one stage below which they forget where they began within a few sweeps (independent
draws have 1/16, an autocorrelation of 0.4 has 0.15): then a second stage, eight times that long, would tell the same."""
MOST_NUMBERS = 30_000_000
MOST_IN_A_SWEEP = 5_000_000
"""Numbers all chains together work on in a sweep; more would take minutes."""
OPTIMIZED = 100_000
"""Numbers in a sweep from which on its program is compiled with all optimizations, which takes twice as long."""
LONGEST_STAGE = 30.0
"""Seconds; a stage that would take longer is not begun."""


def possible(q: Product) -> str:
    """Why chains cannot judge this q; empty when they can."""
    energy = q.plan.energy
    assert energy is not None
    for finding in q.plan.findings:
        if finding.update == "natural gradient" or (finding.update == "exact" and finding.reason):
            return f"{finding.site} has no complete conditional to draw from"
    if energy.averaged:
        return "its free sites can only be sliced, one element after the other"
    for site in mixed(energy):
        return (
            f"the levels of {site} (topics) can be exchanged, group by group, and have many optima between which chains wander: "
            "all is said within the optimum that was found"
        )
    if _chains(q) < GROUPS or set(q.families) != set(q.plan.blocks):
        return "the model is too large for chains"
    return ""


def _chains(q: Product) -> int:
    """As many chains as memory allows: levels of discrete sites are one-hot rows in a sweep."""
    per_sweep = _numbers(q)
    kept = KEPT * (q.model.dim + sum(int(np.prod(derived.shape)) for derived in q.model.derived))
    affordable = min(MOST_IN_A_SWEEP // max(per_sweep, 1), MOST_NUMBERS // max(kept, 1))
    enough = max(FEWEST, NUMBERS // max(q.model.dim, 1))
    return min(CHAINS, min(affordable, enough) // GROUPS * GROUPS)


def _numbers(q: Product) -> int:
    """Numbers one chain works on in a sweep."""
    return sum(int(np.prod(node.shape)) * (node.levels or 1) for node in blocks.nodes(q.plan).values())


def correct(q: Product, draws: Draws, *, seed: int, judging: bool = False, deadline: float | None = None) -> Correction:
    """Run the chains from q.

    Parameters
    ----------
    q
        What they judge, and the plan whose conditionals they use.
    draws
        Independent draws of q, where they start, as many as there are.
    seed
        Randomness.
    judging
        Only judge q: fewer stages, and no more once the chains mix.
    deadline
        `time.perf_counter()` value after which no further stage is begun.
    """
    count = min(_chains(q), len(draws.log_p) // GROUPS * GROUPS)
    values = _flat(q, draws, count)
    chains = _Sweeps(q, count, seed)
    evidence, pool, sweeps = None, [], 0
    stages = THINNING[:JUDGING_STAGES] if judging else THINNING
    for number, thin in enumerate(stages):
        begun = time.perf_counter()
        values, history = chains.stage(values, sweeps, thin)
        seconds = time.perf_counter() - begun
        sweeps += KEPT * thin
        draws = _draws(q, history)
        x = quantities.matrix(q.model, draws.values, draws.derived)
        before, evidence = evidence, measure(x.reshape(KEPT, count, -1), evidence)
        settled = means_settled(evidence) & sds_settled(evidence)
        pool = [*pool, (draws, x)] if before is not None and settled.all() else [(draws, x)]
        mix, forget = (evidence.between.max(initial=0.0) < limit for limit in (LIMITS["between"], AT_ONCE))
        if (settled.all() and (number >= 1 or forget)) or (number >= 1 and judging and mix):
            break
        if 2 * seconds > LONGEST_STAGE or (deadline is not None and time.perf_counter() > deadline):
            break
    assert evidence is not None
    return _concluded(evidence, pool, number + 1)


def _concluded(evidence: Any, pool: list[Any], stages: int) -> Correction:
    mean_ok, sd_ok, guard = means_settled(evidence), sds_settled(evidence), ""
    unsettled = evidence.between > LIMITS["unsettled"]
    if unsettled.any():
        blocked = coupled(pool[-1][1], unsettled)
        mean_ok, sd_ok, guard = mean_ok & ~blocked, sd_ok & ~blocked, "the chains have not settled"
    x = np.concatenate([part for _, part in pool])
    weights = np.full(len(x), 1 / len(x))
    pooled = against(evidence, x, weights)
    draws = [part for part, _ in pool]
    joined = Draws(
        np.zeros((len(x), 0)),
        np.full(len(x), np.nan),
        {name: np.concatenate([part.values[name] for part in draws]) for name in draws[0].values},
        {name: np.concatenate([part.derived[name] for part in draws]) for name in draws[0].derived},
    )
    return Correction(joined, weights, evidence, mean_ok & pooled[0], sd_ok & pooled[1], 1.0, stages, np.inf, guard)


def _flat(q: Product, draws: Draws, count: int) -> dict[str, Any]:
    """The blocks' own variables at the first draws, chains first."""
    values, plan = {name: value[:count] for name, value in draws.values.items()}, replace(q.plan, energy=None)

    def flat(values: dict[str, Any]) -> dict[str, Any]:
        return {block: jax.vmap(partial(blocks.flat, plan, block))(values) for block in plan.blocks}

    return _quickly(q, "flat", flat, values)


def log_weights(q: Product, draws: Draws) -> np.ndarray:
    """Log p(x, data) - log q(x) (n,) at draws of a q without discrete sites."""
    plan = replace(q.plan, energy=None)
    changing, back, shape = known(q.plan.energy)

    def one(changing: Any, families: Any, values: Any) -> Any:
        energy = back(changing)
        own = {block: blocks.flat(plan, block, values) for block in plan.blocks}
        log_q = sum(families[block].log_prob(x) for block, x in own.items())
        moments = {block: families[block].statistics(x) for block, x in own.items()}
        for block, part in moments.items():
            if isinstance(families[block], Gaussian):
                part[POINT] = ()
        # What is log-Gaussian is a density of the logarithm in q, and of the site in the joint.
        return energy(moments) + sum(energy.volume(block, part) for block, part in moments.items()) - log_q

    def all(changing: Any, families: Any, values: Any) -> Any:
        return jax.lax.map(lambda some: one(changing, families, some), values, batch_size=_BATCH)

    found = _quickly(q, f"weights {shape}", all, changing, q.families, dict(draws.values))
    return np.asarray(found)


def _quickly(q: Product, word: str, function: Any, *args: Any) -> Any:
    """The function of the plan at these arguments, as one program instead of one an operation.

    Programs outlive fits: the function must hold no energy, which has data, and no q.
    """
    key = word, tuple(q.plan.blocks.items()), signature(args)
    program = q.plan.graph.remember(key, lambda: jax.jit(function, compiler_options=FAST_COMPILE))
    return program(*args)


def _draws(q: Product, history: dict[str, Any]) -> Draws:
    """Draws (transitions x chains) of the sites, from the blocks' own variables (transitions, chains, ...)."""
    values: dict[str, np.ndarray] = {}
    for block, x in history.items():
        rows = np.asarray(x).reshape(-1, *x.shape[2:])
        values |= {name: np.asarray(value) for name, value in blocks.unflat(q.plan, block, rows).items()}
    n = len(next(iter(values.values())))
    return Draws(np.zeros((n, 0)), np.full(n, np.nan), values, Own(q).derived(values))


def _kept(q: Product, count: int) -> tuple[str, ...]:
    """Blocks whose draws are kept: not the large discrete ones."""
    nodes = blocks.nodes(q.plan)
    return tuple(
        block
        for block, sites in q.plan.blocks.items()
        if nodes[sites[0]].levels is None or KEPT * count * int(np.prod(nodes[sites[0]].shape)) <= MOST_NUMBERS
    )


class _Sweeps:
    """One sweep of all chains, compiled; the host counts them.

    A loop over sweeps inside of the program can hang on CPU: XLA's runtime loses track of LAPACK calls in nested loops.
    """

    def __init__(self, q: Product, count: int, seed: int):
        self.q, self.count, self.seed, self.kept, self.compiled = q, count, seed, _kept(q, count), None
        self.large = count * _numbers(q) > OPTIMIZED

    def stage(self, values: Any, number: int, thin: int) -> tuple[Any, dict[str, np.ndarray]]:
        """`KEPT` transitions of `thin` sweeps, from sweep `number` on: the last values, and the kept blocks' history."""
        history: dict[str, list[np.ndarray]] = {block: [] for block in self.kept}
        for sweep in range(KEPT * thin):
            values = self._sweep(values, number + sweep)
            if (sweep + 1) % thin == 0:
                for block in self.kept:
                    history[block].append(np.asarray(values[block]))
        return values, {block: np.stack(draws) for block, draws in history.items()}

    def _sweep(self, values: Any, number: int) -> Any:
        plan = self.q.plan
        noise = host_noise(plan, self.q.families, keys.generator(self.seed, "gibbs chains", number), self.count)
        if self.compiled is None:
            self.changing, back, shape = known(plan.energy)
            args = (self.changing, self.q.families, values, noise)
            names, sliced = order(plan), frozenset(plan.damped)

            def sweep(changing: Any, families: Any, values: Any, noise: Any) -> Any:
                energy = back(changing)

                def one(values: Any, noise: Any) -> Any:
                    return one_sweep(energy, families, values, noise, names, sliced)[0]

                return jax.vmap(one)(values, noise)

            def build() -> Any:
                options = LONG_RUNNING if self.large else FAST_COMPILE
                return jax.jit(sweep).lower(*args).compile(compiler_options=options)

            self.compiled = plan.graph.remember(("chains", shape, names, sliced, self.large, signature(args)), build)
        return self.compiled(self.changing, self.q.families, values, noise)
