"""The scale layer: a Gaussian fit, bent where its residual scores say so, and fitted again in straightened coordinates.

    1  Gaussian of y on the target seen through the map so far        smoothed Newton, fixed_draws.py
    2  fresh draws: is the ELBO higher? where is the density bent?    one more layer of the map, bends.py; back to 1
    3  no more bends: all parameters together, skew included          L-BFGS on a larger design, polish.py; then 2 once more

The map starts as the identity, so that the first fit is the Gaussian itself (given as `start`, it is not fitted again). The best
approximation on fresh draws is kept at every turn, never the lowest objective on a design, which can be overfitted. Layers whose
fit breaks down are left out. Each step is a chunk: one Newton step, one look at fresh draws, or some L-BFGS steps.

Requires: a continuous unconstrained density with gradients; D up to 300.
Reference: Papaspiliopoulos, Roberts, Skold (2007), A general framework for the parametrization of hierarchical models, Statist.
Sci. 22.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jensen.core import keys
from jensen.core.errors import JensenError, OptionError, UnsupportedError
from jensen.engines.bends import find_layer
from jensen.engines.designs import Design, block_size, orthogonal
from jensen.engines.engine import Ticks
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.polish import TRIANGLE, polish, standardized
from jensen.families.fullrank import DenseGaussian
from jensen.families.layered import Layered
from jensen.families.maps import Map, unbent
from jensen.models.pulled_back import PulledBack

_LARGEST = 300
_FRESH = 4096
_LARGEST_DESIGN = 4096
_TOLERATED = 0.2
"""A layer may cost so many nats before it is polished."""
_CHUNK = 15
"""L-BFGS steps a chunk."""
_TIMES, _STILL = (4, 16, 128), (0.03, 0.03, 0.003)
"""Of the polish between layers and of the two last ones: size of the design; gain of a chunk, in nats, at which it ends."""
_LAST = len(_TIMES)
_GOOD = 0.03
"""Variance of the log weights below which there is nothing to gain."""
_ROUND = 25
"""Newton steps of a Gaussian in straightened coordinates: it starts close."""


@dataclass(frozen=True)
class _State:
    """Where the climb is; `best` is what counts, `map` and `inner` are what is being tried."""

    seed: int
    phase: str
    map: Map
    inner: Any
    best: Layered | None = None
    elbo: float = -np.inf
    variance: float = np.inf
    tried: Layered | None = None
    loss: float = np.inf
    layers: int = 0
    polished: int = 0
    steps: int = 0
    fitted: bool = False


@dataclass(frozen=True)
class ScaleLayer:
    """Engine: layers that straighten funnels and bends, one after the other, and skew.

    Parameters
    ----------
    start
        The fitted Gaussian, or a `Layered` whose map is kept and to which layers are added; None fits a Gaussian from
        N(0, 0.1^2).
    layers
        Largest number of layers that are found by the engine.
    steps
        Give up after so many steps.
    """

    start: DenseGaussian | Layered | None = None
    layers: int = 4
    steps: int = 300

    def init(self, target: Any, seed: int) -> _State:
        """The Gaussian's own first state, or a look at the one that was given.

        Raises
        ------
        UnsupportedError
            Above D = 300, or in one dimension.
        OptionError
            For a start of another kind, or another dimension.
        """
        if not 2 <= target.dim <= _LARGEST:
            raise UnsupportedError(
                f"the scale layer works in 2 to {_LARGEST} dimensions; this model has {target.dim}; use a Gaussian family."
            )
        if not isinstance(self.layers, int) or isinstance(self.layers, bool) or self.layers < 0:
            raise OptionError(f"layers must be a whole number, at least 0; got {self.layers!r}; 4 are usual.")
        if self.start is None:
            return _State(seed, "fit", unbent(target.dim), FixedDraws().init(target, seed))
        if not isinstance(self.start, DenseGaussian | Layered) or self.start.dim != target.dim:
            raise OptionError(
                f"the scale layer starts from a full-rank Gaussian or a layered approximation in {target.dim} dimensions; got "
                f"{type(self.start).__name__} in {getattr(self.start, 'dim', '?')}; fit one with method='fullrank'."
            )
        if isinstance(self.start, Layered):
            inner = _newton(self.start.base).init(PulledBack(target, self.start.map), seed)
            return _State(seed, "fit", self.start.map, inner, best=self.start)
        return _State(
            seed, "look", unbent(target.dim), None, tried=Layered(unbent(target.dim), self.start), fitted=True
        )

    def advance(self, state: _State, target: Any) -> tuple[_State, Ticks]:
        """One Newton step, one look at fresh draws, or some steps of the polish."""
        state = replace(state, steps=state.steps + 1)
        try:
            new, done = {"fit": self._fit, "look": self._look, "polish": self._polish}[state.phase](state, target)
        except JensenError:
            if state.best is None:
                raise
            # No Gaussian can be fitted in these coordinates: go on without them.
            state = replace(state, tried=state.best, layers=self.layers)
            new, done = (state, True) if state.polished > 1 else self._begin_polish(state, 2)
        loss = next((value for value in (new.loss, state.loss, -new.elbo) if np.isfinite(value)), np.inf)
        spent = not done and new.steps >= self.steps
        return new, Ticks(np.array([loss]), done=done or spent, spent=spent)

    def _fit(self, state: _State, target: Any) -> tuple[_State, bool]:
        """Newton on the Gaussian of y."""
        pulled = PulledBack(target, state.map)
        engine = FixedDraws() if state.map.depth == 0 and not state.layers else _newton(None)
        inner, ticks = engine.advance(state.inner, pulled)
        state = replace(state, inner=inner, loss=float(ticks.loss[-1]))
        if not ticks.done:
            return state, False
        tried = Layered(state.map, engine.finish(inner))
        fitted = engine.converged(inner) if state.layers == state.polished == 0 else state.fitted
        return replace(state, phase="look", tried=tried, inner=None, fitted=fitted), False

    def _look(self, state: _State, target: Any) -> tuple[_State, bool]:
        """Fresh draws of what was tried: keep it or not, and look for bends in it."""
        q = state.tried
        assert q is not None
        dim = target.dim
        count = target.affordable(_FRESH, 256) // 2
        half = keys.generator(state.seed, "layer fresh").standard_normal((count, dim))
        noise = np.stack([half, -half], 1).reshape(-1, dim)
        y, log_q = q.base.transport(noise)
        log_p, gradient = PulledBack(target, q.map)(y)
        if not (np.isfinite(log_p).all() and np.isfinite(gradient).all()):
            elbo, variance = -np.inf, np.inf
        else:
            elbo, variance = float((log_p - log_q).mean()), float((log_p - log_q).var())
        if not elbo > state.elbo - _TOLERATED:
            return self._after_layers(replace(state, tried=state.best, layers=self.layers), target)
        if state.best is None or elbo > state.elbo:
            state = replace(state, best=q, elbo=elbo, variance=variance)
        if state.layers < self.layers and np.isfinite(elbo):
            found = find_layer(q.base, q.map.linear, noise, gradient)
            if found is not None:
                longer = q.map.followed_by(found)
                if state.polished == 0 and longer.parents[-1] in q.map.parents:
                    return self._begin_polish(state, 1)  # the layer that is there may do when fitted better
                try:
                    return self._bent(replace(state, layers=state.layers + 1, polished=0), target, longer)
                except JensenError:  # not even a small Gaussian is finite there
                    return self._after_layers(replace(state, layers=self.layers), target)
        return self._after_layers(state, target)

    def _bent(self, state: _State, target: Any, bent: Map) -> tuple[_State, bool]:
        """Begin a Gaussian in the coordinates of one more layer."""
        start = DenseGaussian(np.zeros(target.dim), np.eye(target.dim))
        inner = _newton(start).init(PulledBack(target, bent), state.seed)
        return replace(state, phase="fit", map=bent, inner=inner), False

    def _after_layers(self, state: _State, target: Any) -> tuple[_State, bool]:
        """No more layers: polish, on a larger design and then on a larger one still, unless the fit is good already."""
        if state.polished >= _LAST or state.variance < _GOOD:
            return replace(state, inner=None), True
        if state.polished == _LAST - 1 and target.dim > TRIANGLE:
            # The polish has left the triangle alone: Newton's symmetric steps move it without fitting it to the design.
            assert state.tried is not None
            inner = _newton(state.tried.base).init(PulledBack(target, state.tried.map), state.seed)
            return replace(state, phase="fit", map=state.tried.map, inner=inner, polished=_LAST), False
        return self._begin_polish(state, max(state.polished + 1, 2))

    def _begin_polish(self, state: _State, how: int) -> tuple[_State, bool]:
        assert state.tried is not None
        begun = standardized(state.tried)
        return replace(state, phase="polish", tried=begun, inner=None, polished=how, loss=np.inf), False

    def _polish(self, state: _State, target: Any) -> tuple[_State, bool]:
        """L-BFGS on a larger design."""
        assert state.tried is not None
        design = _design(state.seed, target.dim, _TIMES[state.polished - 1])
        q, before, after = polish(target, design, state.tried, _CHUNK, skewed=state.polished > 1)
        state = replace(state, tried=q, loss=after if np.isfinite(after) else state.loss)
        if before - after > _STILL[state.polished - 1]:
            return state, False
        return replace(state, phase="look"), False

    def finish(self, state: _State) -> Any:
        """The best approximation so far."""
        if state.best is not None:
            return state.best
        if state.inner is None:
            return state.tried
        return Layered(state.map, FixedDraws().finish(state.inner))

    def converged(self, state: _State) -> bool:
        """Whether the first Gaussian converged, and the polish was done."""
        return state.fitted and (state.polished > 1 or state.variance < _GOOD)


def _newton(start: DenseGaussian | None) -> FixedDraws:
    return FixedDraws(start=start, steps=_ROUND)


def _design(seed: int, dim: int, times: int) -> Design:
    """A design so many times as large as the small one of a Gaussian fit."""
    from scipy.stats import chi

    small = block_size(dim) * -(-32 // block_size(dim))
    rng = keys.generator(seed, "layer design")
    blocks = max(min(times * small, _LARGEST_DESIGN), small) // block_size(dim)
    radii = chi.ppf((rng.permutation(blocks) + rng.uniform(size=blocks)) / blocks, dim)
    radii *= np.sqrt(dim / (radii**2).mean())
    points = [radius * orthogonal(rng, dim, 1).points / np.sqrt(dim) for radius in radii]
    return Design(np.concatenate(points), np.full(blocks * block_size(dim), 1 / (blocks * block_size(dim))))
