"""Where draws of a posterior come from and how they are evaluated: one class for each kind of approximation.

Approximations like Gaussians live on the flat unconstrained vector of a `Target`; products of exponential families live in the
model's own space and may have discrete sites. Densities of draws are log p and log q in the space the draws were made in: their
difference, the log importance weight, is the same in both.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jensen.core.errors import OptionError
from jensen.diagnostics.quantities import Draws
from jensen.engines.engine import limited
from jensen.engines.gradient import Gradient
from jensen.families.flat import has_density, is_flat
from jensen.models.grouped import GroupedTarget
from jensen.models.large import LargeTarget
from jensen.models.model import Model
from jensen.models.target import Target
from jensen.run import Run, run

if TYPE_CHECKING:
    from jensen.conjugate.product import Product  # which Gaussian fits leave unloaded

Near = LargeTarget | GroupedTarget
"""Targets of many rows that stay with a posterior."""
UNFINISHED = ("stopped", "budget", "interrupted")
"""Ends of a run that can go on where it was."""


@dataclass(frozen=True, eq=False)
class Flat:
    """Draws of an approximation on the flat vector."""

    target: Target | Near
    q: Any

    def go_on(self, engine: Any, record: Run, **loop: Any) -> tuple[Any, Run]:
        """More steps of an engine: from its last state where it was stopped there, else from this q; `loop` goes to `run`."""
        if record.state is not None and (record.status in UNFINISHED or isinstance(engine, Gradient)):
            if isinstance(engine, Gradient):
                return self._more_gradients(engine, record, **loop)
            return run(_with_room(engine, record.state), self.target, state=record.state, **loop)
        if not hasattr(engine, "start"):
            raise OptionError(
                f"{type(engine).__name__} chooses its own starts and has ended; fit again with another seed=, or use "
                "method='fullrank'."
            )
        start = self.q
        if hasattr(engine, "family"):
            plain = engine.family.start(self.q.mean, self.q.sd)
            start = start if type(start) is type(plain) else plain  # linear response has left the family
        return run(replace(engine, start=start), self.target, **loop)

    def _more_gradients(self, engine: Gradient, record: Run, **loop: Any) -> tuple[Any, Run]:
        steps, taken = loop.get("steps"), getattr(record.state, "step", 0)  # a warm-up has taken none yet
        engine = limited(engine, None if steps is None else taken + steps)
        q, more = run(engine, self.target, state=record.state, **loop)
        if isinstance(self.target, LargeTarget):
            self.target.correct_at(q)
        return q, more

    def fresh(self, rng: np.random.Generator, n: int) -> Draws:
        """Independent draws of q."""
        z = np.asarray(self.q.sample(rng, n))
        values, derived = self.target.constrain(z)
        return Draws(z, self.target(z)[0], values, derived)

    def log_p(self, draws: Draws) -> np.ndarray:
        """Log joint density (n,)."""
        return self.target(draws.z)[0]

    def factors(self, draws: Draws) -> dict[str, np.ndarray]:
        """Log density of every factor, unscaled, draws first."""
        return self.target.factors(draws.z)


@dataclass(frozen=True, eq=False)
class Own:
    """Draws of a product of exponential families, in the model's own space; `Draws.z` is empty."""

    q: "Product"
    target = None

    def go_on(self, engine: Any, record: Run, **loop: Any) -> tuple[Any, Run]:
        """More sweeps from these families; `loop` goes to `run`."""
        families, more = run(replace(engine, start=self.q.families), self.q.plan, **loop)
        return replace(self.q, families=families), more

    def fresh(self, rng: np.random.Generator, n: int) -> Draws:
        """Independent draws of q."""
        values = self.q.values(rng, n)
        return Draws(np.zeros((n, 0)), np.full(n, np.nan), values, self.derived(values))

    def derived(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Deterministic quantities of values of the sites, draws first."""
        model = self.q.model
        if not model.derived:
            return {}
        found = _derived_program(model.unconstrain, model.constrain)(values, dict(model.data))
        return {name: np.asarray(value) for name, value in found.items()}

    def log_p(self, draws: Draws) -> np.ndarray:
        """Log joint density (n,); NaN where a large discrete site was not kept."""
        complete = all(name in draws.values for names in self.q.plan.blocks.values() for name in names)
        return self.q.log_joint(draws.values) if complete else np.full(len(draws.log_p), np.nan)

    def factors(self, draws: Draws) -> dict[str, np.ndarray]:
        """Log density of every node at the draws, given the draws of the discrete sites."""
        call = jax.jit(jax.vmap(self.q.plan.graph.densities, in_axes=(0, None)))
        found = call(dict(draws.values), dict(self.q.model.data))
        return {name: np.asarray(value) for name, value in found.items()}


@lru_cache(maxsize=16)
def _derived_program(unconstrain: Callable[..., Any], constrain: Callable[..., Any]) -> Callable[..., Any]:
    def one(values: dict[str, Any], data: dict[str, Any]) -> Any:
        discrete = {name: value for name, value in values.items() if not np.issubdtype(value.dtype, np.floating)}
        return constrain(unconstrain(values, data) | discrete, data)[1]

    return jax.jit(jax.vmap(one, in_axes=(0, None)))


def _with_room(engine: Any, state: Any) -> Any:
    """The engine with its number of steps once more, where it has used them up."""
    taken, most = getattr(state, "step", getattr(state, "steps", 0)), getattr(engine, "steps", None)
    return engine if most is None or taken < most else replace(engine, steps=taken + most)


def space_of(q: Any, model: Model, precision: str, near: Near | None = None) -> Flat | Own:
    """The space of an approximation; `near` is the target of a large fit."""
    return Flat(near or Target(model, precision), q) if is_flat(q) else Own(q)


def log_q(q: Any, draws: Draws) -> np.ndarray | None:
    """Log density of an approximation at draws (n,), in the space they were made in; None where it has no code."""
    if is_flat(q):
        return np.asarray(q.log_prob(draws.z)) if has_density(q) else None
    from jensen.conjugate.product import StoredProduct

    return None if isinstance(q, StoredProduct) else q.log_prob_values(draws.values)
