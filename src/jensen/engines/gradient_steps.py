"""Compiled loops of stochastic gradient steps on the ELBO; the engine around them is gradient.py.

`plain`: reparameterized gradient, z = m + S eps, entropy in closed form, any optax optimizer,

    F(m, S) = -mean_n log p(z_n) - log|det S| - D/2 log(2 pi e).

`natural`: the same gradient with a control variate, in coordinates where the posterior is round. With a reference curvature
Lambda (W'Lambda W = I) and all data's gradient s at an anchor b, and g the gradient on a batch,

    r_n = g(z_n) - g(b) + Lambda (z_n - b)                     small where the posterior is Gaussian and the batch typical
    E_q grad log p      = s - Lambda (m - b) + E r
    E_q grad log p eps' =   - Lambda S       + E r eps'        both exact in expectation for any Lambda and b

so that a step knows the linear part exactly, and noise is third order in q's width, or a batch's deviation in curvature times the
distance from the anchor. Steps go along W for the mean, m = b + W a, and along R for the scale, S = R c, with the entropy's
part of the step in proximal form, which keeps c positive:

    a <- a + rho W'(s - Lambda (m - b) + mean r)
    c <- prox[c + rho (tril mean R' r eps' - R'Lambda R c)]    prox: c_ii -> (c_ii + sqrt(c_ii^2 + 4 rho)) / 2

References: Kucukelbir et al. (2017), Automatic differentiation variational inference, JMLR 18; Johnson, Zhang (2013),
Accelerating stochastic gradient descent using predictive variance reduction; Miller et al. (2017), Reducing reparameterization
gradient variance; Domke (2020), Provable smoothness guarantees for black-box variational inference (proximal steps).
"""

from collections.abc import Callable
from functools import lru_cache
from math import log, pi
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jensen.core.layout import Site, unflatten
from jensen.families.fullrank import DenseGaussian
from jensen.families.meanfield import DiagonalGaussian
from jensen.models.minibatch import block_of, working_precision
from jensen.models.model import total

WINDOWS = 16
"""Parts of a stage whose means are kept apart."""
_TURN = 2.0
"""By how much a step of a value of a row is longer in its turn: as turns are rare, at most by as much."""
_SLOW = 0.25
"""By how much steps of scales are shorter there: a diagonal Lambda leaves noise in them, and with it a bias of its length."""
_LONGEST = 1.0
"""Largest change of a coordinate of a or c in a step."""


class Frame(NamedTuple):
    """Of a fit: `white` W, `curvature` Lambda and `factor` R, (D, D) or diagonals (D,); `sd` (D,) of the posterior."""

    white: Any
    curvature: Any
    factor: Any
    sd: Any


class Anchor(NamedTuple):
    """A point b (D,), and value and gradient s (D,) of the log density of all data there."""

    point: Any
    value: Any
    slope: Any


class Place(NamedTuple):
    """Where q is: a (D,), and c (D, D) lower triangular or (D,)."""

    a: Any
    c: Any


class Tally(NamedTuple):
    """Sums over a stage: of (m - b) / sd and log c_ii, and of their squares, by window (WINDOWS, 2 D); of late places."""

    sums: Any
    squares: Any
    places: Place


class Stage(NamedTuple):
    """Steps `begin` to `begin` + `length` of length `rho`."""

    begin: int
    length: int
    rho: float


def empty_tally(place: Place) -> Tally:
    """Nothing summed yet."""
    zero = jnp.zeros((WINDOWS, 2 * len(place.a)))
    return Tally(zero, zero, Place(jnp.zeros_like(place.a), jnp.zeros_like(place.c)))


def q_of(params: dict[str, Any]) -> Any:
    """The approximation of the parameters of `plain`."""
    if "log_sd" in params:
        return DiagonalGaussian(params["mean"], params["log_sd"])
    xp = params["mean"].__array_namespace__()
    return DenseGaussian(params["mean"], xp.tril(params["lower"], -1) + xp.diag(xp.exp(params["log_diagonal"])))


def params_of(q: Any) -> dict[str, Any]:
    """Inverse of `q_of`."""
    if isinstance(q, DiagonalGaussian):
        return {"mean": jnp.asarray(q.mean, float), "log_sd": jnp.asarray(q.log_sd, float)}
    scale = jnp.asarray(q.scale, float)
    return {
        "mean": jnp.asarray(q.mean, float),
        "lower": jnp.tril(scale, -1),
        "log_diagonal": jnp.log(jnp.diagonal(scale)),
    }


@lru_cache(maxsize=8)
def adam(rate: float, steps: int) -> Any:
    """Adam whose rate falls to zero within so many steps."""
    import optax

    return optax.adam(optax.cosine_decay_schedule(rate, steps))


@lru_cache(maxsize=32)
def plain(factors: Any, sites: tuple[Site, ...], optimizer: Any, draws: int, average: bool) -> Callable[..., Any]:
    """Program of steps of an optax optimizer.

    The program is ``(count, noise, step, shrink, params, memory, mean, rest, blocks, index)`` to ``(done, params, memory, mean,
    losses, z)``: `done` < `count` where a step was not finite, at points z; the rest is as it was before it. `mean` is an
    average that gives late iterates more weight (Shamir, Zhang 2013).
    """
    density = _density(factors, sites)

    def loss_at(params: Any, eps: jax.Array, data: Any) -> tuple[jax.Array, jax.Array]:
        z, _ = q_of(params).transport(eps)
        # One draw alone is a product with a vector, which is faster than with a matrix of one column.
        value = density(z[0], data) if draws == 1 else jax.vmap(density, in_axes=(0, None))(z, data).mean()
        return -value - q_of(params).entropy(), z

    def step(i: Any, carry: Any, fixed: Any) -> Any:
        params, memory, mean = carry
        noise, first, shrink, rest, blocks, index = fixed
        eps = _draws(noise[i], draws, params["mean"].dtype)
        (loss, z), slope = jax.value_and_grad(loss_at, has_aux=True)(params, eps, block_of(rest, blocks, index[i]))
        updates, memory = optimizer.update(slope, memory, params)
        params = jax.tree.map(lambda old, update: old + (shrink * update).astype(old.dtype), params, updates)
        if average:
            share = jnp.minimum(1.0, 9.0 / (first + i + 9.0))
            mean = jax.tree.map(lambda old, new: old + share * (new - old), mean, params)
        new = params, memory, mean
        return loss, z, new, lambda fine: jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, carry)

    def program(
        count: Any, noise: Any, first: Any, shrink: Any, params: Any, memory: Any, mean: Any, *data: Any
    ) -> Any:
        shape = (draws, len(params["mean"]))
        done, (params, memory, mean), losses, z = _loop(
            step, count, (params, memory, mean), (noise, first, shrink, *data), len(data[2]), shape
        )
        return done, params, memory, mean, losses, z

    return jax.jit(program)


@lru_cache(maxsize=32)
def natural(factors: Any, sites: tuple[Site, ...], draws: int, batched: bool, reach: Any = None) -> Callable[..., Any]:
    """Program of preconditioned steps with a control variate.

    The program is ``(count, noise, step, stage, frame, anchor, place, tally, rest, blocks, index)`` to ``(done, place, tally,
    losses, z)``. With `reach` (models/crossed.py) coordinates move in turn, when a batch reaches them: Lambda must be diagonal.
    """
    density = jax.value_and_grad(_density(factors, sites))

    def step(i: Any, carry: Any, fixed: Any) -> Any:
        place, tally = carry
        noise, first, stage, frame, anchor, rest, blocks, index = fixed
        white, curvature, factor, sd = frame
        eps = _draws(noise[i], draws, place.a.dtype)
        away = _times(white, place.a)
        spread = _times(factor, _times(place.c, eps.T)).T
        z = anchor.point + away + spread
        points = jnp.concatenate([z, anchor.point[None]]) if batched else z
        batch = block_of(rest, blocks, index[i])
        value, slope = jax.vmap(density, in_axes=(0, None))(points, batch)
        there, value_there = (slope[draws], value[draws]) if batched else (anchor.slope, anchor.value)
        linear, known = _times(curvature, (z - anchor.point).T).T, anchor.slope - _times(curvature, away)
        there, turn, rate, slow = slope[:draws] - there, jnp.asarray(1.0), stage.rho, stage.rho
        if (
            reach is not None
        ):  # only what the batch reaches moves, by its own gradient and not by the batch's weight times it
            turn, weight = reach({**batch[0], **batch[1]})
            linear, known, there = turn * linear, turn * known, there / weight
            rate = stage.rho * jnp.minimum(_TURN, weight)
            slow = _SLOW * rate
        residual = there + linear
        a = place.a + _step(rate, _times(white.T, known + residual.mean(0)))
        if factor.ndim == 2:
            push = jnp.tril(_times(factor.T, residual.T) @ eps / draws) - (
                place.c if reach is None else turn[:, None] * place.c
            )
            c = place.c + _step(slow, push)
            own = jnp.diagonal(c)
            new = _prox(own, slow * turn)
            c = c + jnp.diag(new - own)
        else:
            own = curvature if curvature.ndim == 1 else jnp.diagonal(curvature)
            push = factor * (residual * eps).mean(0) - turn * factor**2 * own * place.c
            new = c = _prox(place.c + _step(slow, push), slow * turn)
        old = jnp.diagonal(place.c) if factor.ndim == 2 else place.c
        volume = jnp.log(old).sum() + jnp.log(jnp.diagonal(factor) if factor.ndim == 2 else factor).sum()
        loss = value_there - anchor.value - value[:draws].mean() - volume - 0.5 * len(a) * (1 + log(2 * pi))
        window = (first + i - stage.begin) * WINDOWS // stage.length
        late = jnp.where(window >= WINDOWS // 2, 1.0, 0.0)
        seen = jnp.concatenate([_times(white, a) / sd, jnp.log(new)])

        def kept(fine: jax.Array) -> tuple[Place, Tally]:
            """The tally is added to where it is: a choice between two of them would copy all windows in every step."""
            here, by, late_by = jnp.where(fine, seen, 0.0), jnp.where(fine, seen**2, 0.0), jnp.where(fine, late, 0.0)
            place = Place(jnp.where(fine, a, carry[0].a), jnp.where(fine, c, carry[0].c))
            sums, squares = tally.sums.at[window].add(here), tally.squares.at[window].add(by)
            return place, Tally(
                sums, squares, Place(tally.places.a + late_by * place.a, tally.places.c + late_by * place.c)
            )

        return loss, z, Place(a, c), kept

    def program(
        count: Any, noise: Any, first: Any, stage: Any, frame: Any, anchor: Any, place: Any, tally: Any, *data: Any
    ) -> Any:
        shape = (draws, len(place.a))
        done, (place, tally), losses, z = _loop(
            step, count, (place, tally), (noise, first, stage, frame, anchor, *data), len(data[2]), shape
        )
        return done, place, tally, losses, z

    return jax.jit(program)


def _loop(step: Any, count: Any, carry: Any, fixed: Any, most: int, shape: tuple[int, int]) -> Any:
    """Up to `count` of `most` steps; a step that is not finite is not taken, and is the last.

    A step returns its loss, its draws, what must be finite, and a function of whether it is, to what is carried on.
    """

    def good(state: Any) -> Any:
        i, fine, *_ = state
        return (i < count) & fine

    def body(state: Any) -> Any:
        i, _, carry, losses, _ = state
        loss, z, new, kept = step(i, carry, fixed)
        leaves = [leaf for leaf in jax.tree.leaves(new) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        fine = jnp.isfinite(loss)
        for leaf in leaves:
            fine &= jnp.isfinite(leaf).all()
        return i + fine, fine, kept(fine), losses.at[i].set(loss), z

    begin = (jnp.asarray(0, jnp.int32), jnp.asarray(True), carry, jnp.zeros(most), jnp.zeros(shape))
    done, _, carry, losses, z = jax.lax.while_loop(good, body, begin)
    return done, carry, losses, z


def _density(factors: Any, sites: tuple[Site, ...]) -> Callable[[jax.Array, Any], jax.Array]:
    def density(z: jax.Array, data: Any) -> jax.Array:
        rest, block = data
        if not block:
            return total(factors(unflatten(sites, z), rest))
        dtype = working_precision(block)
        data = {
            name: value.astype(dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value
            for name, value in {**rest, **block}.items()
        }
        return total(factors(unflatten(sites, z.astype(dtype)), data)).astype(z.dtype)

    return density


def _draws(made: jax.Array, draws: int, dtype: Any) -> jax.Array:
    """Standard normal draws (draws, D); in antithetic pairs where their number is even."""
    made = made.astype(dtype)
    return made if draws % 2 else jnp.concatenate([made, -made])


def _times(matrix: Any, vectors: Any) -> Any:
    """Product with a matrix, or with a diagonal; of one vector (D,) or of many (D, n)."""
    if matrix.ndim == 2:
        return matrix @ vectors
    return matrix * vectors if vectors.ndim == 1 else matrix[:, None] * vectors


def _step(rate: Any, move: jax.Array) -> jax.Array:
    """A step of length `rate` along `move` (D,) or (D, D), shorter where a coordinate would go too far.

    With rates (D,), of rows that have nothing to do with each other, each coordinate is shortened by itself.
    """
    if jnp.ndim(rate):
        return jnp.clip((rate if move.ndim == 1 else rate[:, None]) * move, -_LONGEST, _LONGEST)
    return rate * move * jnp.minimum(1.0, _LONGEST / (rate * jnp.abs(move).max() + 1e-300))


def _prox(c: jax.Array, rho: Any) -> jax.Array:
    return 0.5 * (c + jnp.sqrt(c**2 + 4 * rho))
