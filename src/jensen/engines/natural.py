"""Stochastic variational inference: natural-gradient steps on minibatches of rows.

A step takes a batch B of the N rows, gives its discrete sites their best phi, and moves every other block towards the optimum
that it would have if all rows were like these,

    eta_k <- (1 - rho_t) eta_k + rho_t dE_B / dmu_k,    rho_t = (t + tau)^-kappa,
    E_B = E_rest + N / |B| sum of <phi_n, e_n> over the rows n of B.

Batches are chunks of rows that were shuffled once (gathering rows in every step takes several times longer), in a new order in
every pass. The steps run inside of compiled loops. The last step is a whole pass of coordinate ascent, which gives the exact
ELBO; before it the history has the noisy ones of the batches. Blocks that have a parameter for every few rows (the topic
proportions of documents) move by the same rule and need more passes than others.

Reference: Hoffman, Blei, Wang & Paisley (2013), Stochastic variational inference, JMLR 14.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen.conjugate import chunks
from jensen.conjugate.plan import Plan
from jensen.core import keys
from jensen.core.errors import OptionError, UnsupportedError
from jensen.engines import large
from jensen.engines.engine import Ticks
from jensen.engines.large import Schedule, State


@dataclass(frozen=True)
class NaturalGradient:
    """Stochastic variational inference.

    Attributes
    ----------
    batch_size
        Rows of a step.
    kappa, tau
        Step t = 0, 1, ... has length (t + tau)^-kappa; 0.5 < kappa <= 1 and tau >= 1.
    passes
        Most passes over the rows.
    tolerance
        A pass whose mean ELBO is within this of that of the pass before, relatively, is the last.
    start
        Families to start from, without those of the large sites; None: from some of the rows, by the seed.
    """

    batch_size: int = chunks.ROWS
    kappa: float = 0.7
    tau: float = 10.0
    passes: int = 4
    tolerance: float = 1e-8
    start: Any = None

    def __post_init__(self) -> None:
        for name, good, hint in (
            ("batch_size", self.batch_size >= 1, "give a number of rows"),
            ("kappa", 0.5 < self.kappa <= 1, "give a number above 0.5, at most 1"),
            ("tau", self.tau >= 1, "give a number that is at least 1"),
            ("passes", self.passes >= 1, "give a whole number that is at least 1"),
        ):
            if not good:
                raise OptionError(f"{name} of NaturalGradient makes no steps; got {getattr(self, name)!r}; {hint}.")

    def init(self, target: Plan, seed: int) -> "Stochastic":
        """First state."""
        state = large.begin(target, seed, self.start, 2 * self.batch_size, min(self.batch_size, chunks.ROWS))
        if not state.locals:
            raise UnsupportedError(
                "the model has no rows to take batches of: no independent discrete site with "
                f"{2 * self.batch_size} rows or more was seen; use coordinate ascent, or a smaller batch_size."
            )
        return Stochastic(state, seed)

    def advance(self, state: "Stochastic", target: Plan) -> tuple["Stochastic", Ticks]:
        """Up to `large.STEPS` batches, or the last pass."""
        inner = state.inner
        if state.ending:
            inner, elbos = large.steps(inner, target, large.full(inner.locals), 1)
            note = "the ELBO of the last pass is not finite; the state before is kept" if inner.broken else ""
            return replace(state, inner=inner, ended=True), Ticks(-elbos, done=True, note=note)
        batches = _batches(inner, self.batch_size)
        count = min(large.STEPS, batches - state.batch)
        schedule = self._schedule(state, batches)
        inner, elbos = large.steps(inner, target, schedule, count)
        if inner.broken:
            note = "the ELBO of a batch is not finite; the state before is kept"
            return replace(state, inner=inner), Ticks(-elbos, done=True, note=note)
        state = replace(state, inner=inner, batch=state.batch + count, seen=(*state.seen, *elbos))
        if state.batch == batches:
            mean, old = float(np.mean(state.seen)), state.mean
            settled = abs(mean - old) <= self.tolerance * (1.0 + abs(mean))
            ending = settled or state.epoch + 1 == self.passes
            state = replace(state, epoch=state.epoch + 1, batch=0, seen=(), mean=mean, ending=ending)
        return state, Ticks(-elbos)

    def _schedule(self, state: "Stochastic", batches: int) -> Schedule:
        """The next batches of this pass."""
        inner, rng = state.inner, keys.generator(state.seed, "batches", state.epoch)
        orders: list[Any] = []
        low: list[Any] = []
        high: list[Any] = []
        times: list[Any] = []
        number = state.batch + np.arange(large.STEPS)
        for local in inner.locals:
            orders.append(rng.permutation(local.chunks))
            first = np.minimum(number * local.chunks // batches, local.chunks - 1)
            low.append(first)
            high.append(np.clip((number + 1) * local.chunks // batches, first + 1, local.chunks))
            rows = np.concatenate([[0.0], np.cumsum(local.multiplicities[orders[-1]])])
            times.append(rows[-1] / (rows[high[-1]] - rows[low[-1]]))
        t = inner.taken + np.arange(large.STEPS)
        rho = (t + self.tau) ** -self.kappa
        plain = large.STEPS if state.epoch == 0 and inner.groups else 0
        return Schedule(tuple(orders), np.array(low), np.array(high), np.array(times), rho, plain=plain)

    def finish(self, state: "Stochastic") -> Any:
        """Families by block, without those of the discrete sites whose rows were batched."""
        return state.inner.families

    def converged(self, state: "Stochastic") -> bool:
        """Whether all passes were made, or the ELBO settled before."""
        return state.ended and not state.inner.broken


@dataclass(frozen=True)
class Stochastic:
    """The state of the problem; pass, batch and ELBOs of this pass; the mean ELBO of the pass before; and how far the fit is."""

    inner: State
    seed: int
    epoch: int = 0
    batch: int = 0
    seen: tuple[float, ...] = ()
    mean: float = -np.inf
    ending: bool = False
    ended: bool = False


def _batches(state: State, size: int) -> int:
    """Batches of a pass: chunks are not split."""
    local = max(state.locals, key=lambda one: one.chunks)
    return -(-local.chunks // max(1, round(size / local.columns.shape[-1])))
