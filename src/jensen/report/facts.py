"""What all sections of a report read: the posterior, its table, draws of equal weight, and the fit it is held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jensen.comparison import Comparison, compare, matched
from jensen.comparison_fits import Fit, read_fit
from jensen.core import keys
from jensen.core.errors import DataError
from jensen.core.precision import scope
from jensen.diagnostics.spaces import space_of
from jensen.diagnostics.verdict import DO_NOT_USE, MEANS_ONLY, TRUSTED
from jensen.families.flat import is_flat

WORDS = (DO_NOT_USE, MEANS_ONLY, TRUSTED, "not judged")
"""Of quantities, the worst first."""
_NUMBERS, _MOST_DRAWS, _LEAST_DRAWS = 20_000_000, 4000, 200
_COMPARED = 2000
"""Scalars that are compared with another fit; `jensen.compare` takes them all."""


@dataclass(frozen=True, eq=False)
class Facts:
    """A posterior, read once.

    Attributes
    ----------
    posterior
        `jensen.posterior.Posterior`.
    names, words
        Of the K scalars of sites and deterministics, and their verdicts.
    columns
        ``mean``, ``sd``, ``5%``, ``50%``, ``95%`` -> (K,).
    against
        Another fit: a posterior or an ArviZ object, or None.
    """

    posterior: Any
    names: tuple[str, ...]
    words: tuple[str, ...]
    columns: dict[str, np.ndarray]
    against: Any = None

    @property
    def variables(self) -> tuple[Any, ...]:
        """Sites, then deterministics, in the order of the scalars."""
        return self.posterior.model.sites + self.posterior.model.derived

    @cached_property
    def starts(self) -> np.ndarray:
        """Row of every variable's first scalar, and K at the end."""
        return np.cumsum([0, *(int(np.prod(variable.shape)) for variable in self.variables)])

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """Variable -> draws of equal weight (n, size); fewer where there are very many scalars."""
        n = int(np.clip(_NUMBERS // max(len(self.names), 1), _LEAST_DRAWS, _MOST_DRAWS))
        draws = self.posterior.draws(n)
        return {each.name: np.asarray(draws[each.name], float).reshape(n, -1) for each in self.variables}

    def column(self, row: int) -> np.ndarray:
        """Draws (n,) of one scalar."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.draws[self.variables[number].name][:, row - self.starts[number]]

    def support(self, row: int) -> str:
        """In words, of the variable that a scalar belongs to; empty for deterministics."""
        variable = self.variables[int(np.searchsorted(self.starts, row, side="right")) - 1]
        return getattr(variable, "support", "")

    def spread_over(self, rows: Sequence[int] | np.ndarray, count: int) -> list[int]:
        """Some of the rows: of every variable the least trusted scalar, then the next ones, in the order of the table."""
        rank = {row: WORDS.index(self.words[row]) for row in rows}
        queues = []
        for number in range(len(self.variables)):
            own = [row for row in rows if self.starts[number] <= row < self.starts[number + 1]]
            queues.append(sorted(own, key=rank.__getitem__))
        found: list[int] = []
        for turn in range(max(map(len, queues), default=0)):
            found += [queue[turn] for queue in queues if turn < len(queue)]
            if len(found) >= count:
                break
        return sorted(found[:count])

    @cached_property
    def second(self) -> "Second | None":
        """What to look at beside the answer: q where it is a corrected one, and the chains that judged q where it is q's."""
        posterior = self.posterior
        if posterior.answer == "q":
            chains = posterior.chains
            if chains is None:
                return None
            known = {**chains.draws.values, **chains.draws.derived}
            return Second("the short chains that judged it", known, chains.weights)
        if posterior.model.source is None:
            return None
        n = len(next(iter(self.draws.values())))
        rng = keys.generator(posterior.settings.seed, "report")
        with scope(posterior.settings.precision):
            space: Any = space_of(posterior.q, posterior.model, posterior.settings.precision, posterior.near)
            if is_flat(posterior.q):
                values, derived = space.target.constrain(np.asarray(posterior.q.sample(rng, n)))
            else:
                drawn = space.fresh(rng, n)
                values, derived = drawn.values, drawn.derived
        return Second("q, the approximation alone", {**values, **derived}, np.full(n, 1 / n))

    def of_second(self, row: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Draws and weights (n,) of a scalar by `second`."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        name = self.variables[number].name
        if self.second is None or name not in self.second.values:
            return None
        x = np.asarray(self.second.values[name]).reshape(len(self.second.weights), -1)
        return np.asarray(x[:, row - self.starts[number]], float), self.second.weights

    @cached_property
    def other(self) -> "Other | None":
        """The fit it is held against."""
        return None if self.against is None else _other(self)


@dataclass(frozen=True, eq=False)
class Second:
    """Draws from another part of the same fit: what they are, by variable (n, *shape), and their weights (n,)."""

    label: str
    values: dict[str, np.ndarray]
    weights: np.ndarray


@dataclass(frozen=True, eq=False)
class Other:
    """Another fit of the model.

    Attributes
    ----------
    label
        What it is called.
    comparison
        As by `jensen.compare`.
    places
        Name of a scalar -> variable and row in the other fit.
    note
        What was left out, or "".
    """

    label: str
    fit: Fit
    comparison: Comparison
    places: dict[str, tuple[str, int]]
    note: str

    def column(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Draws and weights (n,) of a scalar; None where the other fit has none."""
        if name not in self.places:
            return None
        variable, row = self.places[name]
        x = self.fit.draws(variable)[:, row]
        return x, np.full(len(x), 1 / len(x))


def _other(facts: Facts) -> Other:
    own, fit = read_fit(facts.posterior, 0), read_fit(facts.against, 1)
    label = fit.label if fit.label != own.label else f"the other {fit.label}"
    labels = ("This fit", label)
    sizes = dict(zip((each.name for each in facts.variables), np.diff(facts.starts), strict=True))
    common = [name for name in own.variables if name in fit.variables]
    wanted, total = [], 0
    for name in common:
        if total + sizes[name] <= _COMPARED:
            wanted.append(name)
            total += sizes[name]
    if common and not wanted:
        raise DataError(
            f"against= shares only variables of more than {_COMPARED:,} scalars with this fit, which are too many for a report; "
            "jn.compare(posterior, other) takes them."
        )
    fits = {label: facts.against, "This fit": facts.posterior}  # the first is the reference where neither is by chains
    comparison = compare(fits, var_names=wanted or None)
    scalars, picks = matched((own, fit), labels, wanted)
    rows = [(name, int(row)) for name, pick in zip(wanted, picks, strict=True) for row in pick[1]]
    missing = [name for name in (each.name for each in facts.variables) if name not in wanted]
    note = f"Not compared: {', '.join(missing)}." if missing else ""
    return Other(label, fit, comparison, dict(zip(scalars, rows, strict=True)), note)
