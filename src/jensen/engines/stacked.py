"""Stacked Gaussians: full-rank fits from many starts, and the weights that maximize the ELBO of their mixture.

Reverse KL keeps one Gaussian at one mode, so the modes are found first: the fit from zero (or from `start`), the end points of
quenches all around it (quench.py), and jittered starts. Each is fitted by smoothed Newton on a small design (fixed_draws.py);
one that comes within a Mahalanobis unit of a known component is given up, another is finished on the large design and joins.
With draws z_kn of the components and log p there, stored once, the mixture's ELBO is concave in the weights pi,

    ELBO(pi) = sum_k pi_k a_k(pi),     a_k = mean_n [log p(z_kn) - log sum_j pi_j q_j(z_kn)],     pi_k <- pi_k exp(a_k) / const

(mirror ascent; exact in one step where components do not overlap: pi_k ~ exp(ELBO_k)) and costs no evaluation. Where components
are no Gaussians their shares of the mass are not pi: importance weights of draws from the mixture correct that.

Requires: a continuous unconstrained density with gradients; D up to 1,500.
Reference: Yao, Vehtari, Gelman (2022), Stacking for non-mixing Bayesian computations, JMLR 23 (where the weights are predictive).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jensen.core import keys
from jensen.core.errors import JensenError, OptionError
from jensen.engines.engine import Ticks
from jensen.engines.fixed_draws import FixedDraws
from jensen.engines.guards import refuse_large
from jensen.engines.population import improve
from jensen.engines.quench import distinct, peak, quench
from jensen.families.fullrank import DenseGaussian, FullRank
from jensen.families.mixture import GaussianMixture, mixture_of

_LARGEST = 1500
_QUENCHED = 60
"""Largest D with quenches: beyond, their end points are corners of one mode rather than modes."""
_MOST = 30
_DRAWS = 512
_APART = 1.0
_STEPS = 30
_AT_PEAK, _JITTERED = 0.3, 1.0
"""Widths of starts at end points of quenches, and of the others, as shares of the first fit's median sd."""
_WIDE = 3.0
_NEGLIGIBLE = 1e-3
_GAP = 1e-6
_POPULATION, _ROUNDS = 2048, 5
_RELIABLE = 0.2
"""Effective share of the sample below which a few draws decide what EM does."""
_FIRST_TRIES = 4
_ROUGH, _FINE = 0, 1


class State(NamedTuple):
    """Components so far, with what is known at their draws, and the fit that is running.

    `inner` is a state of `FixedDraws`, and None between fits; `phase` says whether it is on the small design, and `spare` is what
    joins if it comes to nothing; `queue` (m, D) are the starts still to be tried, first so many `peaks`; `tried` counts the fits;
    `typical` is the median sd of the first.
    """

    seed: int
    inner: Any
    spare: DenseGaussian | None
    phase: int
    tried: int
    queue: np.ndarray
    peaks: int
    typical: float
    components: tuple[DenseGaussian, ...]
    draws: np.ndarray
    log_p: np.ndarray
    weights: np.ndarray
    loss: float
    better: GaussianMixture | None
    ended: bool


@dataclass(frozen=True)
class Stacked:
    """Engine: a mixture of Gaussians fitted from many starts.

    Parameters
    ----------
    starts
        Number of jittered starts, beside the first fit and the end points of the quenches; 0 leaves them out.
    start
        The Gaussian that the first fit starts from; None is N(0, 0.1^2).
    """

    starts: int = 8
    start: Any = None

    def init(self, target: Any, seed: int) -> State:
        """Begin the first fit."""
        if isinstance(self.starts, bool) or not isinstance(self.starts, int) or self.starts < 0:
            raise OptionError(f"starts must be a whole number, at least 0; got {self.starts!r}; for example starts=8.")
        refuse_large(target, "Stacked", _LARGEST)
        inner = FixedDraws(start=self.start).init(target, seed)
        nothing = np.empty((0, target.dim))
        return State(
            seed=seed, inner=inner, spare=None, phase=_FINE, tried=1, queue=nothing, peaks=0, typical=1.0, components=(),
            draws=np.empty((0, _DRAWS, target.dim)), log_p=np.empty((0, _DRAWS)), weights=np.empty(0),
            loss=float(inner.point.loss), better=None, ended=False,
        )  # fmt: skip

    def advance(self, state: State, target: Any) -> tuple[State, Ticks]:
        """One step of the running fit; where that ends, its component joins, and the next fit begins."""
        if state.inner is None:
            state = self._next(state, target)
        else:
            state = self._step(state, target)
        return state, Ticks(np.array([state.loss]), done=state.ended)

    def _step(self, state: State, target: Any) -> State:
        first = not state.components
        engine = FixedDraws() if first else FixedDraws(steps=_STEPS, large=state.phase == _FINE)
        try:
            inner, ticks = engine.advance(state.inner, target)
        except JensenError:
            if first:
                raise
            return self._given_up(state, target)
        q = engine.finish(inner)
        if not first and any(_same(q, known) for known in state.components):
            return self._given_up(state, target)
        if not ticks.done:
            return state._replace(inner=inner, loss=float(ticks.loss[-1]) if first else state.loss)
        if not engine.converged(inner):
            if not first:
                return self._given_up(state, target)
            if (
                state.tried < _FIRST_TRIES
            ):  # as between modes, where by symmetry nothing pulls: the quenches would be misled
                return self._again(state, target)
        if state.phase == _ROUGH:
            return self._begin(state, target, q, _FINE)
        state = _joined(state._replace(inner=None), target, q)
        return self._filled(state, target, q) if first else state

    def _given_up(self, state: State, target: Any) -> State:
        """Without this fit: but a dip that was seen stays one, and then the peak's own curvature has to do."""
        state = state._replace(inner=None)
        if state.spare is None or any(_same(state.spare, known) for known in state.components):
            return state
        return _joined(state, target, state.spare)

    def _next(self, state: State, target: Any) -> State:
        if not len(state.queue) or len(state.components) >= _MOST:
            return self._improved(state, target)
        at_peak = state.peaks > 0
        start = FullRank().start(state.queue[0], state.typical * (_AT_PEAK if at_peak else _JITTERED))
        state = state._replace(queue=state.queue[1:], peaks=max(state.peaks - 1, 0), tried=state.tried + 1, spare=None)
        state = self._begin(state, target, start, _ROUGH)
        if at_peak and state.inner is not None:
            state = state._replace(spare=peak(state.inner.point))
        return state

    def _improved(self, state: State, target: Any) -> State:
        """The end: EM on the mixture's own draws, kept where both the ELBO and the weights of the draws get better."""
        q, loss = self.finish(state), state.loss
        if len(q.weights) > 1:
            rng = keys.generator(state.seed, "stacked population")
            size = target.affordable(_POPULATION, 512)
            before = improve(target, q, rng, size, 0)
            after = improve(target, q, rng, size, _ROUNDS)
            if after.share > _RELIABLE and after.elbo > before.elbo:
                q, loss = after.q, -after.elbo
        return state._replace(better=q, loss=loss, ended=True)

    def _again(self, state: State, target: Any) -> State:
        location = keys.generator(state.seed, "stacked first", state.tried).uniform(-1, 1, target.dim)
        try:
            inner = FixedDraws(start=FullRank().start(location, 1.0)).init(target, state.seed)
        except JensenError:
            inner = state.inner
        return state._replace(inner=inner, tried=state.tried + 1)

    def _begin(self, state: State, target: Any, start: DenseGaussian, phase: int) -> State:
        try:
            inner = FixedDraws(start=start, steps=_STEPS, large=phase == _FINE).init(target, state.seed)
        except JensenError:
            return state._replace(inner=None)
        return state._replace(inner=inner, phase=phase)

    def _filled(self, state: State, target: Any, q: DenseGaussian) -> State:
        """The queue: end points of quenches, best first, then jittered starts around q and around zero."""
        rng = keys.generator(state.seed, "stacked starts")
        peaks = np.empty((0, q.dim))
        if q.dim <= _QUENCHED:
            peaks = np.array(distinct(target, q, quench(target, q, rng), _MOST - 1)).reshape(-1, q.dim)
        wide = q.transport(_WIDE * q.noise(rng, (self.starts + 1) // 2))[0]
        around = np.concatenate([wide, rng.uniform(-2, 2, (self.starts // 2, q.dim))])
        return state._replace(queue=np.concatenate([peaks, around]), peaks=len(peaks), typical=float(np.median(q.sd)))

    def finish(self, state: State) -> GaussianMixture:
        """The mixture, without components that hardly count."""
        if state.better is not None:
            return state.better
        if not state.components:
            return mixture_of([FixedDraws().finish(state.inner)], np.ones(1))
        kept = np.flatnonzero(state.weights >= min(_NEGLIGIBLE, state.weights.max()))
        return mixture_of([state.components[k] for k in kept], state.weights[kept])

    def converged(self, state: State) -> bool:
        """Whether all starts have been tried."""
        return state.ended


def _joined(state: State, target: Any, q: DenseGaussian) -> State:
    """The state with a component more, and new weights."""
    number = len(state.components)
    rng = keys.generator(state.seed, "stacked draws", number)
    half = q.noise(rng, _DRAWS // 2)
    z = np.asarray(q.transport(np.concatenate([half, -half]))[0])
    log_p, _ = target(z)
    if not np.isfinite(log_p).all() and number:
        return state
    components = (*state.components, q)
    draws, log_p = np.concatenate([state.draws, z[None]]), np.concatenate([state.log_p, log_p[None]])
    weights, elbo = stack(components, draws, log_p)
    return state._replace(components=components, draws=draws, log_p=log_p, weights=weights, loss=-elbo)


def stack(
    components: tuple[DenseGaussian, ...], draws: np.ndarray, log_p: np.ndarray, rounds: int = 200
) -> tuple[np.ndarray, float]:
    """Weights (K,) that maximize the ELBO of the mixture of K Gaussians, and that ELBO.

    Parameters
    ----------
    components
        The K Gaussians.
    draws, log_p
        (K, N, D) and (K, N): draws of each, and the log density there.
    rounds
        Largest number of mirror ascent steps.
    """
    number, size, dim = draws.shape
    flat = draws.reshape(-1, dim)
    log_q = np.stack([each.log_prob(flat) for each in components]).reshape(number, number, size)  # j, k, n
    log_weights = np.full(number, -np.log(number))
    for _ in range(rounds + 1):
        weights = np.exp(log_weights)
        gains = (log_p - np.logaddexp.reduce(log_weights[:, None, None] + log_q, axis=0)).mean(1)
        elbo = float(weights @ gains)
        if gains.max() - elbo < _GAP:  # the ELBO is concave: no weights gain more than this
            break
        log_weights = log_weights + gains - gains.max()
        log_weights = np.maximum(log_weights - np.logaddexp.reduce(log_weights), -700.0)
    return weights, elbo


def _same(one: DenseGaussian, other: DenseGaussian) -> bool:
    """Whether each of two Gaussians sees the other's mean within a Mahalanobis unit of its own."""
    apart = one.mean - other.mean
    return max(float(np.linalg.norm(np.linalg.solve(q.scale, apart))) for q in (one, other)) < _APART
