"""`Posterior`: what a fit returns. Immutable; every public method returns NumPy, pandas or ArviZ objects.

It holds the model, q, the run, the examination and the kept draws. Under ``method="auto"`` the answer is the corrected one
when chains were needed, under a named method it is q; `answer` says which. Moments and quantiles come from the kept draws,
which for q have matched moments (sites on the real line are exact) and for the correction carry calibrated weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from jensen import archive
from jensen.core import keys, layout, precision
from jensen.core.errors import OptionError
from jensen.core.threads import one_blas_thread
from jensen.diagnostics.correct import Correction
from jensen.diagnostics.examine import Examination
from jensen.diagnostics.examine_fit import examine_fit
from jensen.diagnostics.linear_response import linear_response
from jensen.diagnostics.modes import Mode
from jensen.diagnostics.quantities import Draws, by_variable, columns, moments, resampled
from jensen.diagnostics.spaces import Near, log_q, space_of
from jensen.diagnostics.verdict import Verdict
from jensen.families.flat import is_flat
from jensen.models.model import Model
from jensen.models.plates import with_rows
from jensen.models.predicted import predicted
from jensen.models.read import checked
from jensen.models.target import Target
from jensen.objectives.elbo import Elbo
from jensen.report import brief
from jensen.run import Run
from jensen.settings import Cost, Settings


@dataclass(frozen=True, eq=False)
class Posterior:
    """An approximate posterior with its verdict; made by `jensen.fit`.

    Attributes
    ----------
    model
        What was inferred.
    q
        The approximation itself, on the unconstrained space: ``mean``, ``cov``, ``log_prob(z)``, ``sample(rng, n)``.
    run
        The record of the fit: status, history, steps.
    verdict
        May I believe this? Per quantity and overall.
    elbo
        ``.value`` and ``.error``, in nats, on fresh draws of q.
    answer
        ``"corrected"`` when draws and moments are those of the short chains, an integral or a mixture of modes, ``"q"`` when
        they are q's.
    cost
        Gradients and seconds.
    story
        What happened, in a few sentences.
    chains
        The short chains that judged or corrected the fit, where they ran: evidence, draws, number of stages.
    near
        The corrected subsample that stood for all rows where there were many, or what sums them up along groups.
    modes
        Other modes that were found, and that the answer does not reach.
    """

    model: Model
    q: Any
    run: Run
    verdict: Verdict
    elbo: Elbo
    answer: str
    kept: Draws = field(repr=False)
    weights: np.ndarray = field(repr=False)
    settings: Settings
    cost: Cost
    story: tuple[str, ...] = ()
    engine: Any = field(default=None, repr=False)
    chains: Correction | None = field(default=None, repr=False)
    near: Near | None = field(default=None, repr=False)
    modes: tuple[Mode, ...] = field(default=(), repr=False)

    def __post_init__(self):
        # What is stored is handed out as it is: writing into it would change the posterior.
        stored = [*self.q.params.values(), *self.run.history.values(), self.weights, self.kept.z, self.kept.log_p]
        for array in (*stored, *self.kept.values.values(), *self.kept.derived.values()):
            if isinstance(array, np.ndarray):
                array.flags.writeable = False

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Name -> array, one entry a step: ``"elbo"`` and ``"loss"`` on the fixed design."""
        return self.run.history

    @cached_property
    def _moments(self) -> dict[str, np.ndarray]:
        """Mean, sd and quantiles of every scalar of sites and deterministics, under the weights."""
        found = moments(columns(self.kept, self._variables), self.weights)
        if not is_flat(self.q) and self.answer == "q":
            from jensen.diagnostics.examine_product import moments as exact

            found["mean"], found["sd"] = exact(self.q, self.model, found["mean"], found["sd"])
        return found

    @property
    def _variables(self) -> tuple[Any, ...]:
        return self.model.sites + self.model.derived

    @property
    def mean(self) -> dict[str, np.ndarray]:
        """Posterior means by site and deterministic, in the model's own space."""
        return by_variable(self._variables, self._moments["mean"])

    @property
    def sd(self) -> dict[str, np.ndarray]:
        """Posterior standard deviations, like `mean`."""
        return by_variable(self._variables, self._moments["sd"])

    @property
    def cov(self) -> np.ndarray:
        """Covariance of all scalars of the sites (not the deterministics), in the order of `summary`."""
        x = columns(self.kept, self.model.sites)
        centered = x - self.weights @ x
        return (centered * self.weights[:, None]).T @ centered

    def summary(self) -> Any:
        """Data frame, one row a scalar: mean, sd, 5%, 50%, 95% and verdict."""
        import pandas as pd

        return pd.DataFrame({**self._moments, "verdict": self._words()}, index=self._names())

    def _names(self) -> list[str]:
        return [name for variable in self._variables for name in layout.scalar_names(variable, self.model.coords)]

    def _words(self) -> list[str]:
        """Verdict a row; large deterministics are not judged one by one."""
        return self.verdict.of(self._names())

    def draws(self, n: int = 1000) -> dict[str, np.ndarray]:
        """Draws by site and deterministic, in random order, draws first: each (n, *shape)."""
        draws = self._draws(n)
        return {**draws.values, **draws.derived}

    def _draws(self, n: int) -> Draws:
        if not isinstance(n, Integral) or n < 1:
            raise OptionError(f"the number of draws must be at least 1; got {n!r}; give a whole number.")
        rng = keys.generator(self.settings.seed, "draws")
        if n > len(self.weights) and self.answer == "q" and self._has_code:
            with precision.scope(self.settings.precision):
                return self._space().fresh(rng, n)
        return self.kept.take(resampled(self.weights, rng, n))

    def _with_density(self, draws: Draws) -> Draws:
        """Fill in log p where the fit did not need it."""
        if not np.isnan(draws.log_p).any() or not self._has_code:
            return draws
        with precision.scope(self.settings.precision):
            return replace(draws, log_p=self._space().log_p(draws))

    def sample(self, n: int = 1000, *, log_likelihood: bool = False) -> Any:
        """Draws as an ArviZ object (one chain), with dims, coords, deterministics and observed data.

        Parameters
        ----------
        n
            Number of draws.
        log_likelihood
            Add the pointwise log-likelihood, for ``az.loo``.
        """
        from jensen.export.arviz import to_arviz

        draws = self._with_density(self._draws(n))
        with precision.scope(self.settings.precision):
            density = log_q(self.q, draws)
        return to_arviz(
            self.model,
            draws.values,
            draws.derived,
            log_p=draws.log_p,
            log_q=density,
            log_likelihood=self._log_likelihood(draws) if log_likelihood else None,
            attrs={"verdict": self.verdict.overall, "answer": self.answer},
        )

    def log_likelihood(self, n: int = 1000, data: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Pointwise, unscaled log-likelihood of the observed variables at n draws (those of `draws`): (n, *batch).

        Parameters
        ----------
        n
            Number of draws.
        data
            Other rows instead of the model's: held-out ones, or a block of streamed ones.
        """
        return self._log_likelihood(self._draws(n), data)

    def _log_likelihood(self, draws: Draws, data: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        self._refuse_without_code()
        if not self.model.likelihoods:
            raise OptionError(
                f"{self.model.name} has no observed variable, so it has no pointwise log-likelihood; observe the data "
                "with obs= (NumPyro) or observed= (PyMC) instead of adding a factor."
            )
        with precision.scope(self.settings.precision):
            factors = (self._space() if data is None else self._at(data)).factors(draws)
        return {name: np.asarray(factors[name]) for name in self.model.likelihoods}

    def predict(self, data: Mapping[str, Any] | None = None, draws: int = 1000) -> dict[str, np.ndarray]:
        """Posterior predictive draws of the observed variables, (draws, *shape).

        Parameters
        ----------
        data
            Replaces data of the same name; the others stay. New rows may be more or fewer.
        draws
            Number of draws; each is simulated once.
        """
        self._refuse_without_code()
        return predicted(self.model, self._draws(draws).values, data, self.settings.seed, self.settings.precision)

    def refine(self, steps: int | None = None, *, progress: bool | None = None) -> "Posterior":
        """Go on from this q: the same engine, started here; checks and correction are made anew."""
        if self.engine is None:
            raise OptionError("this fit has no engine to go on with (it was loaded from a file); fit the model again.")
        with precision.scope(self.settings.precision), one_blas_thread():
            space = self._space()
            q, record = space.go_on(self.engine, self.run, seed=self.settings.seed, steps=steps, progress=progress)
            history = {name: np.concatenate([self.history[name], record.history[name]]) for name in record.history}
            record = replace(record, history=history, steps=self.run.steps + record.steps)
            return conclude(space.target, q, record, engine=self.engine, settings=self.settings)

    def linear_response(self) -> "Posterior":
        """The same mean with the covariance of linear response: correlations and sds that mean-field leaves out."""
        with precision.scope(self.settings.precision), one_blas_thread():
            target = self._space().target
            if target is None:
                raise OptionError(
                    "linear response is for mean-field Gaussians; for coordinate ascent, join sites with "
                    "family=jn.Blocks(...), or use method='auto' for the corrected answer."
                )
            q = linear_response(target, self.q, seed=self.settings.seed)
            settings = replace(self.settings, method="linear response")
            return conclude(
                target, q, replace(self.run, state=None), engine=self.engine, settings=settings, known=self.chains
            )

    def nuts(
        self, draws: int = 1000, chains: int = 4, *, seed: int | None = None, progress: bool | None = None
    ) -> "Posterior":
        """Long chains of the no-U-turn sampler that begin here: at draws of this posterior, in its metric.

        Parameters
        ----------
        draws, chains
            Draws of each chain, after a short warm-up, and number of chains.
        seed, progress
            By default the seed of the fit; show a progress line.

        Returns
        -------
        Posterior
            With the chains' draws, moments and verdict (R-hat, effective sample sizes); q and its ELBO stay.
        """
        from jensen.diagnostics.nuts import sample_nuts

        return sample_nuts(self, draws, chains, seed, progress)

    def replace(self, **changes: Any) -> "Posterior":
        """A copy with some attributes changed."""
        return replace(self, **changes)

    def save(self, path: str | Path, draws: int = 1000) -> None:
        """Write everything but the model's code to one netCDF file; see `jensen.load`.

        Parameters
        ----------
        path
            Of the file, which ``arviz.from_netcdf`` reads too.
        draws
            How many draws it shows to ArviZ.

        Raises
        ------
        FileError
            When it cannot be written; nothing half-written is left behind.
        """
        whole = replace(self, kept=self._with_density(self.kept))
        archive.save(whole, whole._with_density(whole._draws(draws)), path)

    @property
    def _has_code(self) -> bool:
        return self.model.source is not None

    def _refuse_without_code(self) -> None:
        if not self._has_code:
            raise OptionError("this fit comes from a file, without the model's code; fit the model again for this.")

    def _space(self) -> Any:
        self._refuse_without_code()
        return space_of(self.q, self.model, self.settings.precision, self.near)

    def _at(self, data: Mapping[str, Any]) -> Any:
        """The space of the model with other rows."""
        if not is_flat(self.q):
            raise OptionError("a fit by coordinate ascent can be evaluated on its own rows only; leave data= out.")
        other = with_rows(self.model, checked(self.model, data), self.near.total if self.near else None)
        return space_of(self.q, other, self.settings.precision)

    def report(self, path: str | Path, against: Any = None) -> None:
        """Write one self-contained HTML page: verdict, quantities, marginals, model, how the fit went, checks, how to repeat it.

        Parameters
        ----------
        path
            Of the file; its folder must exist.
        against
            Another fit of the model to show beside this one: a `Posterior`, or an ArviZ object with chains.

        Raises
        ------
        JensenError
            When jinja2 is not installed, `against` is no fit of this model, or the file cannot be written.
        """
        from jensen.report.page import write_report

        write_report(self, path, against)

    def __repr__(self) -> str:
        return brief.text(self, self._names(), {**self._moments, "verdict": self._words()})

    def _repr_html_(self) -> str:
        return brief.html(self, self._names(), {**self._moments, "verdict": self._words()})


def conclude(
    target: Target | Near | None,
    q: Any,
    record: Run,
    *,
    engine: Any,
    settings: Settings,
    budget: float | None = None,
    **already: Any,
) -> Posterior:
    """Examine a fitted q and put everything together; a product needs no target; `already` known: chains, other modes."""
    found = examine_fit(target, q, record, settings, budget, **already)
    if target is None:
        return together(q.model, q, record, found, engine=engine, settings=settings)
    posterior = together(target.model, q, record, found, engine=engine, settings=settings, gradients=target.gradients)
    return posterior if isinstance(target, Target) else posterior.replace(near=target)


def together(
    model: Model, q: Any, record: Run, found: Examination, *, engine: Any, settings: Settings, gradients: int = 0
) -> Posterior:
    """A posterior from a fit and its examination."""
    story = (f"{record.steps} steps of the fit: {record.status}", *record.notes, *model.notes, found.note)
    return Posterior(
        model=model,
        q=q if found.q is None else found.q,
        run=record,
        verdict=found.verdict,
        elbo=found.elbo,
        answer="corrected" if found.corrected else "q",
        kept=found.kept,
        weights=found.weights,
        settings=settings,
        cost=Cost(gradients, record.seconds),
        story=tuple(filter(None, story)),
        engine=engine,
        chains=found.correction,
        modes=found.modes,
    )


def load(path: str | Path, *, approximation: type | None = None) -> Posterior:
    """Read a fit written by `Posterior.save`. Nothing in the file is executed, and the model's code is not needed.

    Parameters
    ----------
    path, approximation
        The file; the class of q, where it is one of your own.

    Raises
    ------
    FileError
        When the file is missing, damaged, or no saved fit, or q is of a class that is not known.
    """
    return Posterior(**archive.load(path, approximation))
