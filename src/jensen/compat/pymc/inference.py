"""PyMC's inference objects and `fit`: n steps of an optimizer on the ELBO, or of particles, with callbacks after every step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jensen.compat.pymc.approximations import Approximation, Empirical, FullRank, MeanField
from jensen.compat.pymc.arrays import aside
from jensen.compat.pymc.base import PRECISION
from jensen.compat.pymc.steps import Last, Open, Replay, batched, rows_of
from jensen.compat.pymc.updates import optimizer_of, pymc_space
from jensen.core import keys
from jensen.core.errors import OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.core.threads import one_blas_thread
from jensen.engines.gradient import Gradient
from jensen.engines.stein import Stein
from jensen.families import fullrank, meanfield
from jensen.run import run

_NO_EFFECT = ("test_optimizer", "tf_n_mc", "compile_kwargs", "fn_kwargs", "score")
_ABSENT = ("more_obj_params", "more_tf_params", "more_updates", "more_replacements")


class Inference(ABC):
    """What all inference objects have.

    Attributes
    ----------
    approx
        The approximation, also before the fit.
    hist
        (steps,), the loss after every step.
    """

    def __init__(self, approx: Approximation):
        self.approx = approx
        self._fits = 0

    @property
    def hist(self) -> np.ndarray:
        """Losses of all steps so far."""
        return self.approx.hist

    def fit(
        self,
        n: int = 10000,
        score: bool | None = None,
        callbacks: Sequence[Callable[..., Any]] | None = None,
        progressbar: bool = True,
        progressbar_theme: Any = None,
        *,
        obj_optimizer: Any = None,
        obj_n_mc: int | None = None,
        total_grad_norm_constraint: float | None = None,
        **kwargs: Any,
    ) -> Approximation:
        """Take n steps from where the approximation is.

        Parameters
        ----------
        n
            Steps.
        callbacks
            Called as ``callback(approx, losses, i)`` after every step; StopIteration stops the fit and keeps it.
        progressbar
            Show progress, in terminals and notebooks.
        obj_optimizer
            One of this package's optimizers, of PyMC's or of optax; `adagrad_window` by default.
        obj_n_mc
            Draws a step; 1 by default.
        total_grad_norm_constraint
            Largest norm of the gradient.
        score, progressbar_theme, **kwargs
            For PyMC: `test_optimizer`, `tf_n_mc` and `compile_kwargs` have no effect here.

        Returns
        -------
        Approximation

        Raises
        ------
        OptionError, UnsupportedError
            When an argument makes no sense, or has no counterpart.
        """
        for name, value in kwargs.items():
            if name not in (*_NO_EFFECT, *_ABSENT):
                raise OptionError(f"fit() has no argument {name!r}; check the spelling.")
            if name in _ABSENT and value is not None:
                raise UnsupportedError(f"{name} changes PyTensor graphs, which there are none of here; leave it out.")
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 0:
            raise OptionError(f"n must be a number of steps; got {n!r}; for example n=10000.")
        if n == 0:
            return self.approx
        callbacks = list(callbacks or ())
        seed = int(keys.generator(self.approx.seed, "fit", self._fits).integers(2**31))
        self._fits += 1
        with scope(PRECISION), one_blas_thread():
            engine, target, scale = self._engine(
                int(n), len(callbacks) > 0, obj_optimizer, obj_n_mc or 1, total_grad_norm_constraint
            )
            last = Last(engine, target, seed, callbacks, scale, np.zeros(0))
            self._go(last, int(n), progressbar)
        return self.approx

    def refine(self, n: int, progressbar: bool = True, progressbar_theme: Any = None) -> None:
        """Take n more steps, with the callbacks and the optimizer of the last fit, as if it had not ended.

        Raises
        ------
        UnsupportedError
            When there was no fit.
        """
        last = self.approx.last
        if last is None:
            raise UnsupportedError("refine() goes on from a fit, and there was none; call fit() first.")
        with scope(PRECISION), one_blas_thread():
            last.engine = replace(last.engine, steps=last.state.step + int(n))
            self._go(last, int(n), progressbar)

    def _go(self, last: Last, n: int, progressbar: bool) -> None:
        approx, before = self.approx, self.approx.hist
        rows = None
        if last.callbacks and isinstance(last.engine, Gradient):
            rows = rows_of(approx)
        engine, replay = Open(last.engine, rows), Replay(approx, last)
        state, found = run(
            engine,
            last.target,
            seed=last.seed,
            steps=n if isinstance(last.engine, Gradient) else None,
            callbacks=(replay,) if last.callbacks else (),
            progress=None if progressbar else False,
            state=last.state,
        )
        loss = found.history["loss"]
        for note in (note for note in found.notes if "not finite" in note):
            aside(note)
        if last.callbacks and replay.count < len(loss):  # a callback had enough in the middle of a chunk
            loss = loss[: replay.count]
            begin = replay.before if replay.before is not None else engine.init(last.target, last.seed)
            state, _ = engine.until(begin.step + replay.count - replay.kept).advance(begin, last.target)
        approx.set_q(last.engine.finish(state))
        last.state, last.run = state, replace(found, history={"loss": loss, "elbo": -loss}, steps=len(loss), state=None)
        last.losses = np.concatenate([last.losses, loss / last.scale])
        approx.hist = np.concatenate([before, loss / last.scale])
        approx.last = last

    @abstractmethod
    def _engine(
        self, n: int, recorded: bool, optimizer: Any, draws: int, longest: float | None
    ) -> tuple[Any, Any, float]:
        """Engine, target, and what losses are divided by."""


class _Gaussian(Inference, ABC):
    """A Gaussian by stochastic gradients."""

    def _engine(
        self, n: int, recorded: bool, optimizer: Any, draws: int, longest: float | None
    ) -> tuple[Any, Any, float]:
        approx = self.approx
        optimizer = optimizer_of(optimizer)
        size, target = approx.record.batch_size, None
        if size is not None:
            target = batched(approx)
        scale = target.plate.size / size if target is not None and approx.scale_cost_to_minibatch else 1.0
        family = fullrank.FullRank() if isinstance(approx, FullRank) else meanfield.MeanField()
        engine = Gradient(
            family,
            pymc_space(optimizer, float(scale), longest, rows_of(approx) if recorded else 0),
            draws=int(draws),
            batch_size=None if target is None else size,
            start=approx.q,
            steps=n,
        )
        return engine, approx.target if target is None else target, scale


class KLqp(_Gaussian):
    """Inference of an approximation by the ELBO; `beta` must be 1."""

    def __init__(self, approx: Approximation, beta: float = 1.0):
        if beta != 1 or not approx.has_logq:
            raise UnsupportedError("KLqp fits MeanField and FullRank approximations with beta=1 here; write that.")
        super().__init__(approx)


class ADVI(_Gaussian):
    """Independent Gaussians by stochastic gradients of the ELBO; ``fit``, ``refine``, ``approx``, ``hist``."""

    def __init__(self, *, model: Any = None, random_seed: Any = None, start: Any = None, start_sigma: Any = None):
        super().__init__(MeanField(model, random_seed, start, start_sigma))


class FullRankADVI(_Gaussian):
    """A Gaussian with full covariance by stochastic gradients of the ELBO; ``fit``, ``refine``, ``approx``, ``hist``."""

    def __init__(self, *, model: Any = None, random_seed: Any = None, start: Any = None):
        super().__init__(FullRank(model, random_seed, start))


class SVGD(Inference):
    """Particles by Stein variational gradient descent, with jensen's kernel and step lengths.

    Parameters
    ----------
    n_particles
        Number of points.
    jitter, start
        Where a `start` is given, particles begin around it with this sd; else they are annealed from a wide base.
    model, random_seed
        As everywhere.
    estimator, kernel, temperature
        For PyMC; they must be left as they are.
    """

    def __init__(
        self,
        n_particles: int = 100,
        jitter: float = 1,
        model: Any = None,
        start: Any = None,
        random_seed: Any = None,
        estimator: Any = None,
        kernel: Any = None,
        temperature: float = 1,
    ):
        if estimator is not None or kernel is not None or temperature != 1:
            raise UnsupportedError(
                "SVGD has one kernel here, at temperature 1; leave estimator, kernel and temperature out."
            )
        super().__init__(Empirical(size=n_particles, jitter=jitter, model=model, random_seed=random_seed, start=start))
        self._begin = None if start is None else fullrank.FullRank().start(self.approx._place(start), float(jitter))

    def _engine(
        self, n: int, recorded: bool, optimizer: Any, draws: int, longest: float | None
    ) -> tuple[Any, Any, float]:
        optimizer_of(optimizer)
        begin, size = self._begin, len(self.approx.values["histogram"])
        if self.approx.last is not None:
            q = self.approx.q
            begin = fullrank.from_factor(q.mean, (np.asarray(q.points) - q.mean).T / len(q.points) ** 0.5)
        annealing = None if begin is None else False
        return Stein(particles=size, start=begin, annealing=annealing, steps=n), self.approx.target, 1.0


def ASVGD(approx: Any = None, **kwargs: Any) -> SVGD:  # noqa: N802
    """SVGD, with a warning: a sampler trained on Stein's direction is a smoothed, biased form of gradients of the ELBO."""
    aside(
        "ASVGD is SVGD here, as amortized particles estimate with a bias what FullRankADVI does without; write that instead."
    )
    return SVGD(**{name: value for name, value in kwargs.items() if value is not None})
