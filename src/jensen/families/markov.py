"""Discrete Markov chains: the exact q of a hidden Markov model's states.

    q(z_1, ..., z_T) = exp(sum_t u_t[z_t] + sum_t v_t[z_t, z_t+1] - log Z)

The statistics are the indicators of each z_t and of each pair (z_t, z_t+1); u and v are their natural parameters, so a model
whose energy is affine in those indicators gives u and v as its gradient. Means come from the forward and the backward
messages,

    f_t+1[j] = e_t+1[j] sum_i f_t[i] P_t[i, j],   b_t[i] = e_t[i] sum_j P_t[i, j] b_t+1[j],   e = exp u,  P = exp v,

each scaled to sum 1, so that the length of the chain does not matter. Where v is the same at all steps, it is kept once, and of
the pairs only the sum over the steps is asked for; nothing of size T K^2 is made then,

    c_t = P b_t+1,    q(z_t) = f_t c_t / n_t,    sum_t q(z_t, z_t+1) = P sum_t (f_t / n_t) b_t+1',    n_t = sum f_t c_t.

Products of probabilities underflow when potentials at
one place differ by hundreds of nats. Where only u does (an outlier), levels that many nats below the best one are raised to a
floor that still leaves them no probability; where v does, the recursions run on logarithms, two to three times slower.

References: Baum, Petrie, Soules & Weiss (1970), Ann. Math. Stat. 41; Rabiner (1989), Proc. IEEE 77; Chib (1996), J.
Econometrics 75 (draws).
"""

from dataclasses import dataclass
from functools import partial
from math import log
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import entr, logsumexp

from jensen.families.discrete import level_mean, level_sd, levels_at, tops_finite

Moments = dict[str, Any]


def _time_first(unary: Any, pairwise: Any) -> tuple[Any, Any]:
    return jnp.moveaxis(unary, -2, 0), jnp.moveaxis(pairwise, -3, 0)


def _spread(potentials: Any, axes: tuple[int, ...]) -> Any:
    """Largest difference of potentials at one place."""
    return jnp.max(jnp.max(potentials, axes) - jnp.min(potentials, axes), initial=0.0)


def _unit(weights: Any, axes: int | tuple[int, ...] = -1) -> Any:
    return weights / weights.sum(axes, keepdims=True)


# The steps of the scans are module-level functions so that JAX finds them compiled when it is called without jit.


def _both_ways(messages: Any, matrices: Any) -> tuple[Any, Any]:
    messages = _unit((messages[..., :, None] * matrices).sum(-2))
    return messages, messages


def _steady_both_ways(messages: Any, local: Any, matrices: Any) -> tuple[Any, Any]:
    reached = (messages[..., :, None] * matrices).sum(-2)
    return _unit(local * reached), reached


def _log_forward(message: Any, step: Any) -> tuple[Any, Any]:
    matrix, here = step
    message = logsumexp(message[..., :, None] + matrix, -2) + here
    scale = logsumexp(message, -1)
    message = message - scale[..., None]
    return message, (message, scale)


def _log_both_ways(messages: Any, step: Any) -> tuple[Any, Any]:
    matrices, local = step
    reached = logsumexp(messages[..., :, None] + matrices, -2)
    return jax.nn.log_softmax(local + reached), reached


def _draw_backward(after: Any, step: Any) -> tuple[Any, Any]:
    chance, message, matrix = step
    into = jnp.moveaxis(matrix, -1, -2)  # (..., to, from)
    column = jnp.take_along_axis(into[None], after[..., None, None], -2)[..., 0, :]
    draw = levels_at(message + column, chance)
    return draw, draw


def _direct_moments(unary: Any, pairwise: Any) -> tuple[Any, Any]:
    """Probabilities of levels and pairs, time first, by products of probabilities; both messages in one loop."""
    e = jnp.exp(unary - unary.max(-1, keepdims=True))
    transition = jnp.exp(pairwise - pairwise.max((-1, -2), keepdims=True))
    back = jnp.swapaxes(transition * e[:-1, ..., :, None], -1, -2)[::-1]
    matrices = jnp.stack([transition * e[1:, ..., None, :], back], 1)
    ends = jnp.stack([_unit(e[0]), _unit(e[-1])])
    messages = lax.scan(_both_ways, ends, matrices)[1]
    f = jnp.concatenate([ends[:1], messages[:, 0]])
    b = jnp.concatenate([messages[::-1, 1], ends[1:]])
    # Time last: loops over it run in vector registers, loops over few levels do not.
    e, f, b, transition = (jnp.moveaxis(x, 0, -1) for x in (e, f, b, transition))
    probs = _unit(f * b / e, -2)
    pairs = _unit(f[..., :, None, :-1] * transition * b[..., None, :, 1:], (-2, -3))
    return jnp.moveaxis(probs, -1, 0), jnp.moveaxis(pairs, -1, 0)


def _steady_moments(unary: Any, pairwise: Any) -> tuple[Any, Any, Any]:
    """Probabilities of levels, time first, the sum of those of pairs, and the entropy, where all steps are alike."""
    e = jnp.exp(unary - unary.max(-1, keepdims=True))
    transition = jnp.exp(pairwise[0] - pairwise[0].max((-1, -2), keepdims=True))
    matrices = jnp.stack([transition, jnp.swapaxes(transition, -1, -2)])
    local = jnp.stack([e[1:], e[-2::-1]], 1)
    ends = jnp.stack([_unit(e[0]), _unit(e[-1])])
    reached = lax.scan(partial(_steady_both_ways, matrices=matrices), ends, local)[1]
    # Time last: loops over it run in vector registers, loops over few levels do not.
    e, ahead, c = (jnp.moveaxis(x, 0, -1) for x in (e, reached[:, 0], reached[::-1, 1]))
    f = _unit(jnp.concatenate([e[..., :1], e[..., 1:] * ahead], -1), -2)
    after = _unit(jnp.concatenate([e[..., 1:-1] * c[..., 1:], e[..., -1:]], -1), -2)
    scaled = f[..., :-1] / (f[..., :-1] * c).sum(-2, keepdims=True)
    probs = jnp.concatenate([scaled * c, f[..., -1:]], -1)
    total = transition * jnp.einsum("...it,...jt->...ij", scaled, after)
    pairs = scaled[..., :, None, :] * transition[..., None] * after[..., None, :, :]
    return jnp.moveaxis(probs, -1, 0), total, entr(pairs).sum() - entr(probs[..., 1:-1]).sum()


def _log_messages(unary: Any, pairwise: Any) -> tuple[Any, Any]:
    """Logarithms of the scaled forward messages, time first, and the logarithms of their scales, which sum to log Z."""
    scale = logsumexp(unary[0], -1)
    first = unary[0] - scale[..., None]
    messages, scales = lax.scan(_log_forward, first, (pairwise, unary[1:]))[1]
    return jnp.concatenate([first[None], messages]), jnp.concatenate([scale[None], scales])


def _log_moments(unary: Any, pairwise: Any) -> tuple[Any, Any]:
    """The same as `_direct_moments` by logarithms; the backward message leaves out u_t, which may be -inf."""
    matrices = jnp.stack([pairwise, jnp.swapaxes(pairwise, -1, -2)[::-1]], 1)
    ends, local = jax.nn.log_softmax(jnp.stack([unary[0], unary[-1]])), jnp.stack([unary[1:], unary[-2::-1]], 1)
    reached = lax.scan(_log_both_ways, ends, (matrices, local))[1]
    f = jax.nn.log_softmax(jnp.concatenate([unary[:1], unary[1:] + reached[:, 0]]))
    b = jnp.concatenate([reached[::-1, 1], jnp.zeros_like(unary[:1])])
    pairs = f[:-1, ..., :, None] + pairwise + (unary + b)[1:, ..., None, :]
    return jax.nn.softmax(f + b), jax.nn.softmax(pairs, (-1, -2))


def entropy(moments: Moments) -> Any:
    """Entropy of Markov chains with these moments, in nats, summed over the batch.

    Parameters
    ----------
    moments
        ``{"probs": (..., T, K), "pairs": (..., T - 1, K, K)}``, as `MarkovChain.moments` gives them.

    Notes
    -----
    The sum of H(z_1) and of H(z_t+1 | z_t) = H(z_t, z_t+1) - H(z_t): no difference of numbers that grow with the potentials.
    """
    levels = entr(moments["probs"])
    if levels.shape[-2] == 1:
        return levels.sum()
    return entr(moments["pairs"]).sum() - levels[..., 1:-1, :].sum()


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class MarkovChain:
    """Discrete Markov chains of one length; moments ``{"probs": (..., T, K), "pairs": (..., T - 1, K, K)}``.

    The contract is that of `jensen.families.exponential`. Potentials need not be normalized, and may be -inf for a level or
    a transition that is impossible, as long as some path is possible.

    Attributes
    ----------
    unary
        u (..., T, K); the axes in front are independent chains.
    pairwise
        v (..., T - 1, K, K): ``pairwise[..., t, i, j]`` belongs to the step from i at t to j at t + 1. With an axis of length one
        in the place of T - 1, all steps have these potentials, and the moment ``pairs`` is summed over them.
    """

    unary: Any
    pairwise: Any

    @property
    def steady(self) -> bool:
        """Whether potentials of steps are kept once for all."""
        return self.pairwise.shape[-3] == 1 and self.unary.shape[-2] > 2

    def _time_first(self) -> tuple[Any, Any]:
        """Potentials of levels (T, ..., K) and of all steps (T - 1, ..., K, K)."""
        unary, pairwise = _time_first(self.unary, self.pairwise)
        return unary, jnp.broadcast_to(pairwise, (len(unary) - 1, *pairwise.shape[1:]))

    def moments(self) -> Moments:
        """Mean parameters: probabilities of levels (..., T, K) and of pairs (..., T - 1, K, K)."""
        found = self.with_entropy()
        return {"probs": found["probs"], "pairs": found["pairs"]}

    def with_entropy(self) -> Moments:
        """The moments, with ``entropy`` beside them."""
        unary, pairwise = _time_first(self.unary, self.pairwise)
        numbers = jnp.finfo(unary.dtype)
        # A product in the direct recursions is at least exp(-2 range), range = that of u + that of v, times a power of K.
        limit = -0.45 * log(numbers.tiny)
        levels, steps = _spread(unary, (-1,)), _spread(pairwise, (-1, -2))
        # Level k has at most exp(u[k] - max u + 2 steps) of the probability of the best: a floor under u at max u - floor,
        # floor > 2 steps + margin, changes probabilities by less than exp(-margin) = eps^1.5. Exact zeros are kept.
        floor = limit - steps
        harmless = (floor > 2 * steps - 1.5 * log(numbers.eps)) & (levels < jnp.inf)
        raised = jnp.maximum(unary, unary.max(-1, keepdims=True) - floor)
        direct = (levels < floor) | harmless
        unary = jnp.where(direct, raised, unary)
        steady = self.steady
        found = _steady_moments(unary, pairwise) if steady else _direct_moments(unary, pairwise)

        def by_logarithms(carry: Any) -> Any:
            probs, pairs = _log_moments(unary, jnp.broadcast_to(pairwise, (len(unary) - 1, *pairwise.shape[1:])))
            if not steady:
                return jnp.array(True), jnp.moveaxis(probs, 0, -1), jnp.moveaxis(pairs, 0, -1)
            left = entr(pairs).sum() - entr(probs[1:-1]).sum()
            return jnp.array(True), jnp.moveaxis(probs, 0, -1), pairs.sum(0), left

        # A loop of no or one turn and not a branch, which would copy all that goes in and out.
        probs, pairs, *rest = found
        start = direct, jnp.moveaxis(probs, 0, -1), pairs if steady else jnp.moveaxis(pairs, 0, -1), *rest
        _, probs, pairs, *rest = lax.while_loop(lambda carry: ~carry[0], by_logarithms, start)
        pairs = pairs[..., None, :, :] if steady else jnp.moveaxis(pairs, -1, -3)
        found = {"probs": jnp.swapaxes(probs, -1, -2), "pairs": pairs}
        return found | {"entropy": rest[0] if steady else entropy(found)}

    def statistics(self, z: Any) -> Moments:
        """Indicators (..., T, K) and (..., T - 1, K, K) of integer paths z (..., T)."""
        unary = jnp.asarray(self.unary)
        levels = jax.nn.one_hot(z, unary.shape[-1], dtype=unary.dtype)
        if self.steady:
            return {
                "probs": levels,
                "pairs": jnp.einsum("...ti,...tj->...ij", levels[..., :-1, :], levels[..., 1:, :])[..., None, :, :],
            }
        return {"probs": levels, "pairs": levels[..., :-1, :, None] * levels[..., 1:, None, :]}

    def from_gradient(self, gradient: Moments, moments: Moments) -> Self:
        """The chains with these natural parameters."""
        return type(self)(gradient["probs"], gradient["pairs"])

    def valid(self) -> Any:
        """Whether nothing is NaN or +inf and every variable and every step has a possible level."""
        return tops_finite(self.unary, -1) & tops_finite(self.pairwise, (-1, -2))

    def log_partition(self) -> Any:
        """Log Z of each chain (...)."""
        return _log_messages(*self._time_first())[1].sum(0)

    def entropy(self) -> Any:
        """Entropy, in nats."""
        return self.with_entropy()["entropy"]

    def log_prob(self, z: Any) -> Any:
        """Log probability of integer paths z (..., T)."""
        unary, pairwise = self._time_first()
        path = jnp.moveaxis(jnp.asarray(z), -1, 0)[..., None]
        rows = jnp.take_along_axis(pairwise, path[:-1, ..., None], -2)[..., 0, :]
        terms = jnp.take_along_axis(unary, path, -1)[..., 0] - _log_messages(unary, pairwise)[1]
        # Scaled step by step: summing potentials and log Z apart would lose their common digits.
        return terms[0].sum() + (terms[1:] + jnp.take_along_axis(rows, path[1:], -1)[..., 0]).sum()

    def noise(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """What n paths are made of: uniform numbers (n, ..., T) in (0, 1]."""
        return 1.0 - rng.random((n, *np.shape(self.unary)[:-1]))

    def at(self, noise: Any) -> Any:
        """Independent paths (n, ..., T), integers, made of `noise`: messages forward, draws backward."""
        unary, pairwise = self._time_first()
        f, _ = _log_messages(unary, pairwise)
        chance = jnp.moveaxis(noise, -1, 0)
        end = levels_at(f[-1][None], chance[-1])
        path = lax.scan(_draw_backward, end, (chance[:-1], f[:-1], pairwise), reverse=True)[1]
        return jnp.moveaxis(jnp.concatenate([path, end[None]]), 0, -1)

    @property
    def mean(self) -> Any:
        """Mean level (..., T)."""
        return level_mean(self.moments()["probs"])

    @property
    def sd(self) -> Any:
        """Standard deviation of the level (..., T)."""
        return level_sd(self.moments()["probs"])
