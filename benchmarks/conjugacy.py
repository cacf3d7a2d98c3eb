"""Coordinate ascent found automatically, beside hand-written JAX sweeps and BayesPy, in one run.

    python -m benchmarks conjugacy                   # or with names of cases: ... conjugacy bpca hmm "random walk (1e5)"

For every model: CPU seconds from the user's function to the first sweep (trace, probe, certificate, compilation as in a fit,
without optimizations); those of compiling a sweep with its ELBO for long use, as a fit does when it gets long; milliseconds a
sweep of the same updates inside of a loop of 64 (ours alternating with the hand-written one, fastest of several, both compiled
by JAX's defaults), the same with the ELBO that our fits compute after every sweep and compiled as they do, and BayesPy's time for
an update of all nodes. Topics are timed in the passes that a fit takes, with the ELBO, which the hand-written sweep has as well.
"""

import sys
import time
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from tests.conjugacy import bayespy_oracle, zoo_data
from tests.conjugacy.hand import HAND
from tests.conjugacy.zoo import example

from benchmarks.conjugacy_hand import BOUNDS, SIZES, make
from jensen.conjugate import blocks
from jensen.conjugate.certificate import certify
from jensen.conjugate.chunks import ROWS, candidates
from jensen.conjugate.pieces import known
from jensen.conjugate.plan import make_plan
from jensen.core.compilation import LONG_RUNNING, on_device
from jensen.core.precision import scope
from jensen.core.threads import one_blas_thread
from jensen.engines import large
from jensen.engines.coordinate import elbo, moments_of, one_sweep, order, program
from jensen.models.read import read

LARGE = {
    "gmm (3e5)": ("gmm", partial(zoo_data.mixture, N=300_000, K=3)),
    "regression (5e4 x 50)": ("regression", partial(zoo_data.linear, N=50_000, D=50)),
    "multilevel (1e5)": ("multilevel", partial(zoo_data.grouped, N=100_000, groups=500)),
    "random walk (1e5)": ("random_walk", partial(zoo_data.walk, T=100_000)),
}
LOOP = large.STEPS


def _ours(name: str, arguments: dict[str, Any]) -> tuple[float, float, Any, Any]:
    """CPU seconds until the first sweep, and of optimizing; two loops of sweeps: updates alone, and with the ELBO.

    Where a fit would take passes that store no probabilities, these are what is timed; they have the ELBO in them.
    """
    model = example(name)
    begun = time.process_time()
    record = read(model.model, arguments)
    plan = make_plan(record.graph(), record.data, blocks=())
    certify(plan, record.data)
    if candidates(plan):
        state = large.begin(plan, 0, None, None, ROWS)
        whole, state = large.full(state.locals), replace(state, groups=())
        large.steps(state, plan, whole, 1)
        first, begun = time.process_time() - begun, time.process_time()
        optimized = replace(state, passes=np.inf)
        large.steps(optimized, plan, whole, 1)
        passes = partial(large.steps, optimized, plan, whole, large.STEPS)
        return first, time.process_time() - begun, passes, passes
    families = on_device(blocks.start(plan, np.random.default_rng(0)))
    names = tuple(site for site in model.order if site in plan.blocks)

    jax.block_until_ready(program(plan)(families, 1, 0))
    first = time.process_time() - begun
    changing, back, _ = known(plan.energy)
    changing = on_device(changing)  # Once, as in a fit, and as the hand-written sweeps' data are.

    def loop(changing: Any, families: Any, bound: bool) -> Any:
        energy = back(changing)

        def once(_: Any, carry: Any) -> Any:
            state, total = carry
            state = one_sweep(energy, *state, names, frozenset())
            return state, total + (elbo(energy, *state) if bound else 0.0)

        (families, _), total = jax.lax.fori_loop(0, LOOP, once, ((families, moments_of(families)), 0.0))
        return families, total

    plain = jax.jit(partial(loop, bound=False)).lower(changing, families).compile()
    begun = time.process_time()
    both = jax.jit(partial(loop, bound=True)).lower(changing, families).compile(compiler_options=LONG_RUNNING)
    optimizing = time.process_time() - begun
    assert order(plan)
    return first, optimizing, partial(plain, changing, families), partial(both, changing, families)


def _hand(name: str, arguments: dict[str, Any]) -> Any:
    """A loop of hand-written sweeps; one that does nothing where there is none."""
    if name not in SIZES:
        return lambda: np.nan
    state, sweep = make(name, arguments)
    program, statistics = sweep.func, sweep.args[0]

    bound = BOUNDS.get(name, lambda statistics, state: 0.0)

    @jax.jit
    def loop(statistics: Any, state: Any) -> Any:
        def once(_: Any, carry: Any) -> Any:
            state, total = carry
            return program(statistics, state), total + bound(statistics, state)

        return jax.lax.fori_loop(0, LOOP, once, (state, 0.0))

    return partial(loop, statistics, state)


def _bayespy(name: str, arguments: dict[str, Any], sweeps: int = 3) -> float:
    """Milliseconds of one BayesPy update of all nodes; NaN where there is no BayesPy version or it takes too long."""
    try:
        state = HAND[name].start(arguments, np.random.default_rng(0))
        run = partial(bayespy_oracle.run, name, arguments, state, example(name).order)
        run(1)
        begun = time.process_time()
        run(1)
        once = time.process_time() - begun
        begun = time.process_time()
        run(1 + sweeps)
        return 1e3 * (time.process_time() - begun - once) / sweeps
    except (KeyError, ImportError, NotImplementedError):
        return float("nan")


def _ended(found: Any) -> None:
    jax.block_until_ready(jax.tree.map(lambda leaf: leaf if hasattr(leaf, "shape") else 0.0, found))


def _alternating(*calls: Any, rounds: int = 7) -> list[float]:
    """Milliseconds a sweep of each, the fastest of several rounds taken in turn."""
    best = [np.inf] * len(calls)
    for call in calls:
        _ended(call())
    for _ in range(rounds):
        for number, call in enumerate(calls):
            begun = time.perf_counter()
            _ended(call())
            best[number] = min(best[number], time.perf_counter() - begun)
    return [1e3 * seconds / LOOP for seconds in best]


def main() -> None:
    print(
        "| model | to the first sweep, CPU s | optimizing, CPU s | sweep, ms | hand JAX, ms | ratio | with ELBO, ms "
        "| BayesPy, ms | BayesPy / ours |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    cases = {name: (name, sizes) for name, sizes in SIZES.items()} | LARGE
    wanted = sys.argv[1:] or list(cases)
    if unknown := [title for title in wanted if title not in cases]:
        sys.exit(f"no case {unknown[0]!r}; there are {', '.join(cases)}")
    with scope("float64"), one_blas_thread():
        for title in wanted:
            name, sizes = cases[title]
            arguments = sizes()
            seconds, optimizing, plain, both = _ours(name, arguments)
            ours, hand, bound = _alternating(plain, _hand(name, arguments), both)
            hand = hand if name in SIZES else np.nan
            bayespy = _bayespy(name, arguments) if title in SIZES else float("nan")
            print(
                f"| {title} | {seconds:.2f} | {optimizing:.2f} | {ours:.4f} | {hand:.4f} | {ours / hand:.2f} | {bound:.4f} "
                f"| {bayespy:.1f} | "
                f"{bayespy / ours:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
