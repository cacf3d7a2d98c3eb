"""Stochastic gradients of the ELBO: for streams, for models that only this can fit, and with any optax optimizer.

With an optimizer: automatic differentiation variational inference as in the literature. Plain iterates from the start, on all
data or on minibatches, until the steps are used up or a callback stops them.

Without one there is nothing to tune:

    1. warm up   smoothed Newton on fixed draws (fixed_draws.py), of a subsample where there are batches: the posterior's shape
    2. stages    preconditioned steps of one length rho, with a control variate and anchored at one pass over all data (SVRG;
                 gradient_steps.py); the average of the second half is the next anchor
    3. next      half the step length and twice the steps, once the iterates no longer drift
    4. stop      when the average has a Monte-Carlo error below 0.02 posterior sds and moved by less than 0.05 since the stage
                 before, which had twice the step length

Where rows are read by number (models/crossed.py: batches along two axes, rows with latent variables of their own), no subsample
can stand for all of them: the warm-up is Adam on batches, and the shape is the diagonal of the Hessian, by one pass.

A step that is not finite is not taken: the fit goes back to the last good place with half the step, at most `_TRIES` times.

Requires: a continuous unconstrained density with gradients; for batches, rows that are conditionally independent.
References: heads of gradient_steps.py and averaging.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core import keys
from jensen.core.compilation import on_device
from jensen.core.errors import OptionError
from jensen.engines import averaging, gradient_steps
from jensen.engines.engine import Ticks
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.gradient_ahead import Ahead
from jensen.engines.gradient_frame import begun_near, diagonal_frame, frame_of
from jensen.engines.gradient_noise import noise
from jensen.engines.gradient_states import Kept, Natural, Plain, Warm, Where, average, by_number, own
from jensen.engines.gradient_steps import Anchor, Frame, Place, Stage
from jensen.families.fullrank import DenseGaussian, FullRank
from jensen.families.meanfield import DiagonalGaussian, MeanField
from jensen.models.large import LEAST
from jensen.models.minibatch import batches

CHUNK = 200
"""Steps of a call of a compiled loop; it changes no result."""
_NUMBERS = 2**24
"""Most numbers of the draws of a call."""
_KEEP = 200
"""Every so many steps of a user's optimizer the place may become the one that a failure goes back to."""
_TRIES = 8
_RHO = 0.25
"""Length of the first steps: the part of the way to the optimum that a step goes."""
_NEAR, _APPROACH = 0.5, 3
"""A stage that moved by more posterior sds than this was not close; at most so many such stages are repeated as they are."""
_LONGER = 8
"""By how much the next stage is longer, at most."""
_LENGTH, _LONGEST = 192, 1024
"""Steps of the first stage: whole epochs of about so many steps; of longer epochs, a part."""
_STEPS = 10_000, 200_000
_ATTEMPTS = 6
"""Designs on which the warm-up is tried."""
_VISITS = 48
"""Epochs of the first stage where rows are read by number: their values move in their turns only."""
_RATE, _TURNS, _LEAST_APPROACH, _MOST_APPROACH = 0.05, 100, 10, 100
"""First learning rate of the warm-up where rows are read by number, turns of a row, and least and most times `_KEEP` steps."""
_PER_DIMENSION = 5
"""Rows of the warm-up a dimension: the shape that it finds only has to make steps of all directions alike."""


@dataclass(frozen=True)
class Gradient:
    """Engine: stochastic gradients.

    Parameters
    ----------
    family
        `MeanField` or `FullRank`.
    optimizer
        An optax ``GradientTransformation``; None: natural steps of decreasing length, averaged, which stop by themselves.
    draws
        Of q a step; an even number is drawn in antithetic pairs.
    batch_size
        Rows a step, or name of an axis -> rows along it; None: all data in every step.
    start
        The approximation to start from; None is N(0, 0.1^2).
    steps
        Most steps; None: 10,000 of an optimizer, 200,000 without one.
    average
        With an optimizer: return an average of the iterates, in which late ones count more, instead of the last one.

    Raises
    ------
    OptionError
        When an option makes no sense.
    """

    family: MeanField | FullRank = MeanField()
    optimizer: Any = None
    draws: int = 2
    batch_size: int | Mapping[str, int] | None = None
    start: DenseGaussian | DiagonalGaussian | None = None
    steps: int | None = None
    average: bool = False

    def __post_init__(self) -> None:
        for name in ("draws", "steps"):
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= 1
            if not whole and not (name == "steps" and value is None):
                raise OptionError(f"{name} must be a whole number, at least 1; got {value!r}; for example {name}=2.")
        if self.optimizer is not None and not (hasattr(self.optimizer, "init") and hasattr(self.optimizer, "update")):
            raise OptionError(
                f"optimizer must be an optax optimizer; got {self.optimizer!r}; for example optimizer=optax.adam(1e-2)."
            )

    def init(self, target: Any, seed: int) -> Any:
        """First state."""
        rows = 0
        if self.batch_size is not None:
            self._batches(target)
            rows = 0 if by_number(target) else min(target.size, max(LEAST, _PER_DIMENSION * target.dim))
        if self.optimizer is None and not by_number(target):
            warm_up = begun_near(self._warm_up, target, seed, rows) if rows else self._warm_up
            return Warm(warm_up.init(target, seed), seed, rows)
        q = self.start or self.family.start(np.zeros(target.dim), 0.1)
        params = gradient_steps.params_of(q)
        kept = Kept(params, self._optimizer(target).init(params), params)
        return Plain(seed, kept, kept)

    @property
    def _warm_up(self) -> FixedDraws:
        return FixedDraws(self.family, self.start, large=False)

    def _batches(self, target: Any) -> Any:
        if by_number(target):
            return target
        if not hasattr(target, "rows"):
            raise OptionError(
                f"batch_size={self.batch_size} needs a model with rows of data; leave it out to use all data in every step "
                "(a fit by batches of rows with values of their own is not gone on with: fit it again)."
            )
        return batches(target, self.batch_size)  # type: ignore[arg-type]

    def _data(self, target: Any, seed: int, step: int, most: int) -> tuple[tuple[Any, ...], int]:
        """Arrays of the next steps (what is not in rows, blocks of rows, the block of each step), and for how many they last."""
        if self.batch_size is None:
            return (target.data, (), np.zeros((_chunk(target), 0), np.int32)), most
        all_of_them = self._batches(target)
        part = all_of_them.part(seed, step, _chunk(target))
        return (all_of_them.rest, part.blocks, part.index), min(most, part.count)

    def _factors(self, target: Any) -> Any:
        return target.model.factors if self.batch_size is None else self._batches(target).factors

    def advance(self, state: Any, target: Any) -> tuple[Any, Ticks]:
        """A step of the warm-up, or up to `CHUNK` stochastic ones."""
        if isinstance(state, Warm):
            return self._warm(state, target)
        if isinstance(state, Plain) and self.optimizer is None and state.step >= _approach(target):
            state = self._framed(state, target)
        return self._natural(state, target) if isinstance(state, Natural) else self._plain(state, target)

    def _warm(self, state: Warm, target: Any) -> tuple[Any, Ticks]:
        if state.rows:
            target.resize(state.rows)
        inner, ticks = self._warm_up.advance(state.inner, target)
        if not ticks.done:
            return replace(state, inner=inner), ticks
        point = inner.point if state.best is None or inner.point.loss < state.best.loss else state.best
        if not self._warm_up.converged(inner) and state.attempt + 1 < _ATTEMPTS:
            # A design on which nothing helps any more: other draws may not be as unlucky.
            other = int(keys.generator(state.seed, "warm-up", state.attempt).integers(2**31))
            inner = self._warm_up.init(target, other)
            return replace(state, inner=inner, best=point, attempt=state.attempt + 1), Ticks(
                ticks.loss, note=ticks.note
            )
        return self._begun(state.seed, *frame_of(point), point.mean, 0, target), Ticks(ticks.loss, note=ticks.note)

    def _framed(self, state: Plain, target: Any) -> Natural:
        """Natural steps from where the optimizer of the warm-up has come to."""
        q = self.finish(state)
        return self._begun(state.seed, *self._shape(state.seed, q, target), q.mean, state.step, target)

    def _shape(self, seed: int, q: Any, target: Any) -> tuple[Frame, Place]:
        return diagonal_frame(target.curvature(q, seed), q, dense=isinstance(self.family, FullRank))

    def _begun(self, seed: int, frame: Any, place: Place, mean: np.ndarray, step: int, target: Any) -> Natural:
        return Natural(
            seed=seed,
            frame=frame,
            anchor=self._anchor(target, mean),
            place=place,
            tally=gradient_steps.empty_tally(place),
            stage=Stage(step, self._first_length(target), _RHO),
            average=Where(mean, place.c),
            step=step,
        )

    def _first_length(self, target: Any) -> int:
        if self.batch_size is None:
            return _LENGTH
        epoch = self._batches(target).epoch
        length = epoch * max(1, round(_LENGTH / epoch)) if epoch <= _LONGEST else _LONGEST
        if by_number(target):
            length = epoch * max(_VISITS, round(_LENGTH / epoch))
        windows = gradient_steps.WINDOWS
        return max(length, windows)

    def _anchor(self, target: Any, point: np.ndarray) -> Anchor:
        """Value and gradient of the log density of all data at a point."""
        point = np.asarray(point, float)
        if self.batch_size is None:
            value, slope = target(point[None])
            return Anchor(on_device(point), on_device(value[0]), on_device(slope[0]))
        if by_number(target):
            value, slope = target.gradient(point)
            return Anchor(on_device(point), on_device(value), on_device(slope))
        value, slope = target.rows.gradient(point)
        prior, prior_slope = self._batches(target).prior(point)
        return Anchor(on_device(point), on_device(value + prior), on_device(slope + prior_slope))

    def _natural(self, state: Natural, target: Any) -> tuple[Natural, Ticks]:
        most, (done, place, tally, losses, z) = _AHEAD.take(self, state, target) or self._naturally(state, target)
        later = replace(state, step=state.step + most, place=place, tally=tally)
        within = later.step < state.stage.begin + state.stage.length
        call = self._naturally(later, target) if within and not self._used_up(later.step) else None
        done = int(done)
        loss = np.asarray(losses)[:done]
        if done < most:
            return self._back(replace(later, step=state.step + done), target, np.asarray(z), loss)
        if not within:
            return self._next_stage(later, target, loss)
        _AHEAD.put(call, self, later, target)
        return later, Ticks(loss, done=self._used_up(later.step), error=state.error, spent=True)

    def _naturally(self, state: Natural, target: Any) -> tuple[int, Any]:
        """A chunk of steps, begun: how many, and what they will give."""
        stage = state.stage
        most = self._most(target, state.step, stage.begin + stage.length - state.step)
        data, most = self._data(target, state.seed, state.step, most)
        factors, sites, reach = self._factors(target), target.model.sites, getattr(target, "reach", None)
        program = gradient_steps.natural(factors, sites, self.draws, self.batch_size is not None, reach)
        eps = noise(state.seed, state.step, _chunk(target), self.draws, target.dim)
        return most, program(most, eps, state.step, stage, state.frame, state.anchor, state.place, state.tally, *data)

    def _next_stage(self, state: Natural, target: Any, loss: np.ndarray) -> tuple[Natural, Ticks]:
        """Average the stage; stop, or go on from the average."""
        stage, frame = state.stage, state.frame
        local = np.tile(target.local, 2) if by_number(target) else None
        settled = averaging.settling(np.asarray(state.tally.sums), np.asarray(state.tally.squares), stage.length, local)
        mean, c = average(state)
        before = state.average
        widths = np.log(own(c) / own(before.c))
        moves = np.concatenate([(mean - before.mean) / np.asarray(frame.sd), widths])
        move = averaging.worst(np.abs(moves), local)
        calm = settled.wander < averaging.WANDER
        # Far from the anchor a batch is noise; where it led to is then a better anchor, and no reason for shorter steps.
        nearer = self.batch_size is not None and move > 2 * settled.wander and state.stages < _APPROACH
        if not calm and not nearer:
            shorter = 2 ** int(np.clip(np.ceil(2 * np.log2(settled.wander / averaging.WANDER)), 1, 4))
            # As many times longer: in less time than steps need to forget where they began, anything looks settled.
            again = Stage(state.step, shorter * stage.length, stage.rho / shorter)
            return self._restart(state, target, again), Ticks(
                loss, done=self._used_up(state.step), error=state.error, spent=True
            )
        error = max(settled.mcse, move)
        good = calm and settled.mcse < averaging.STOP and settled.stationary
        finished = good and move < averaging.MOVE and stage.rho <= 0.5 * state.rho
        state = replace(
            state, average=Where(mean, c), rho=stage.rho, stages=state.stages + 1, error=error, finished=finished
        )
        if finished:
            note = f"{state.stages} stages, {state.step:,} steps; Monte-Carlo error {settled.mcse:.2g} sds, last move {move:.2g}"
            return state, Ticks(loss, done=True, note=note, error=error)
        length, rho = stage.length, stage.rho
        if good:
            length, rho = 2 * length, 0.5 * rho
        elif (
            move < _NEAR or state.stages > _APPROACH
        ):  # else the next anchor does more for the noise than a longer stage
            longer = np.clip((settled.mcse / averaging.STOP) ** 2, 2, _LONGER) if settled.stationary else 2
            length = int(longer) * length
        return self._restart(state, target, Stage(state.step, length, rho)), Ticks(
            loss, done=self._used_up(state.step), error=error, spent=True
        )

    def _restart(self, state: Natural, target: Any, stage: Stage) -> Natural:
        """A stage from the last average, anchored there; where rows are read by number, with the shape that they have there."""
        frame, place = state.frame, Place(jnp.zeros_like(state.place.a), on_device(state.average.c))
        if by_number(target) and target.local.any():
            frame, place = self._shape(state.seed, self.finish(state), target)
        return replace(
            state,
            stage=stage,
            frame=frame,
            average=Where(state.average.mean, np.asarray(place.c)),
            place=place,
            anchor=self._anchor(target, state.average.mean),
            tally=gradient_steps.empty_tally(place),
        )

    def _back(self, state: Natural, target: Any, z: np.ndarray, loss: np.ndarray) -> tuple[Natural, Ticks]:
        """After a step that was not finite: begin the stage again with half the step length."""
        tries = state.tries + 1
        note = f"{target.blame(z)} was not finite at step {state.step + 1:,}"
        if tries > _TRIES:
            return replace(state, tries=tries), Ticks(
                loss, done=True, note=f"{note}; {_TRIES} shorter steps did not help"
            )
        stage = Stage(state.step + 1, state.stage.length, 0.5 * state.stage.rho)
        state = replace(state, step=state.step + 1, tries=tries)
        return self._restart(state, target, stage), Ticks(loss, note=f"{note}; steps are half as long from there")

    def _plain(self, state: Plain, target: Any) -> tuple[Plain, Ticks]:
        most, (done, params, memory, mean, losses, z) = _AHEAD.take(self, state, target) or self._plainly(state, target)
        now, end = Kept(params, memory, mean), state.step + most
        going = not self._used_up(end) and not (self.optimizer is None and end >= _approach(target))
        call = self._plainly(replace(state, step=end, now=now), target) if going else None
        done = int(done)
        loss = np.asarray(losses)[:done]
        state = replace(state, step=state.step + done, now=now, total=sum(loss.tolist(), state.total))
        if done < most:
            note = f"{target.blame(np.asarray(z))} was not finite at step {state.step + 1:,}"
            state = replace(
                state, step=state.step + 1, tries=state.tries + 1, now=state.good, total=0.0, shrink=0.5 * state.shrink
            )
            if state.tries > _TRIES:
                return state, Ticks(loss, done=True, note=f"{note}; {_TRIES} shorter steps did not help")
            return state, Ticks(loss, note=f"{note}; steps are half as long from there")
        if state.step % _KEEP == 0:
            if state.total <= state.lowest:
                state = replace(state, good=state.now, lowest=state.total)
            state = replace(state, total=0.0)
        spent = self._used_up(state.step)
        _AHEAD.put(call, self, state, target)
        return state, Ticks(loss, done=spent, spent=spent)

    def _plainly(self, state: Plain, target: Any) -> tuple[int, Any]:
        """A chunk of steps, begun: how many, and what they will give."""
        most = self._most(target, state.step, _KEEP - state.step % _KEEP)
        data, most = self._data(target, state.seed, state.step, most)
        program = gradient_steps.plain(
            self._factors(target), target.model.sites, self._optimizer(target), self.draws, self._averages
        )
        eps = noise(state.seed, state.step, _chunk(target), self.draws, target.dim)
        return most, program(most, eps, state.step, state.shrink, *state.now, *data)

    def _most(self, target: Any, step: int, most: int) -> int:
        return min(_chunk(target), most, max(self._limit - step, 1))

    def _used_up(self, step: int) -> bool:
        return step >= self._limit

    @property
    def _averages(self) -> bool:
        return self.average or self.optimizer is None

    def _optimizer(self, target: Any) -> Any:
        return self.optimizer or gradient_steps.adam(_RATE, _approach(target))

    @property
    def _limit(self) -> int:
        return self.steps or _STEPS[self.optimizer is None]

    def finish(self, state: Any) -> Any:
        """Q of the state: without an optimizer the average of the last whole stage."""
        if isinstance(state, Warm):
            return self._warm_up.finish(state.inner)
        if isinstance(state, Plain):
            return gradient_steps.q_of(jax.tree.map(np.asarray, state.now.mean if self._averages else state.now.params))
        mean, c = state.average
        factor = np.asarray(state.frame.factor)
        if isinstance(self.family, FullRank):
            return DenseGaussian(mean, factor @ np.asarray(c))
        return DiagonalGaussian(mean, np.log(factor * np.asarray(c)))

    def converged(self, state: Any) -> bool:
        """Whether the average of the iterates has settled; never with an optimizer."""
        return isinstance(state, Natural) and state.finished


def _chunk(target: Any) -> int:
    """Steps of a call of a compiled loop: fewer where the draws of so many take much memory."""
    return max(1, min(CHUNK, _NUMBERS // target.dim))


def _approach(target: Any) -> int:
    """Steps of the warm-up where rows are read by number: so many that each of them has had its turns."""
    return _KEEP * min(max(_LEAST_APPROACH, -(-_TURNS * target.epoch // _KEEP)), _MOST_APPROACH)


_AHEAD = Ahead()
