"""PyMC's optimizers, as optax transformations with PyMC's defaults, and the space in which they work.

``adam(learning_rate=0.01)`` is an optimizer, and so is ``adam`` itself, with its defaults. The rules are those of optax where it
has them with the same meaning; `adagrad_window` sums the squares of the last `n_win` gradients,

    theta <- theta - lr g / sqrt(sum_{k < n_win} g_{t-k}^2 + epsilon).

Steps are taken in PyMC's parameters, mu and rho with sd = log(1 + exp(rho)) (also of the diagonal of a full-rank factor), while
the engine has log sd: `pymc_space` carries gradients over, d/d rho = d/d log sd * sigmoid(rho) / sd, and steps back.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jensen.core.errors import OptionError


class _Window(NamedTuple):
    count: Any
    squares: Any


@lru_cache
def sgd(learning_rate: float = 1e-3) -> optax.GradientTransformation:
    """Plain steps."""
    return optax.sgd(learning_rate)


@lru_cache
def momentum(learning_rate: float = 1e-3, momentum: float = 0.9) -> optax.GradientTransformation:
    """Steps with momentum."""
    return optax.sgd(learning_rate, momentum)


@lru_cache
def nesterov_momentum(learning_rate: float = 1e-3, momentum: float = 0.9) -> optax.GradientTransformation:
    """Steps with Nesterov's momentum."""
    return optax.sgd(learning_rate, momentum, nesterov=True)


@lru_cache
def adagrad(learning_rate: float = 1.0, epsilon: float = 1e-6) -> optax.GradientTransformation:
    """Steps over the root of the sum of all squared gradients."""
    return optax.adagrad(learning_rate, initial_accumulator_value=0.0, eps=epsilon)


@lru_cache
def adagrad_window(learning_rate: float = 0.001, epsilon: float = 0.1, n_win: int = 10) -> optax.GradientTransformation:
    """Steps over the root of the sum of the last `n_win` squared gradients."""

    def init(params: Any) -> _Window:
        return _Window(jnp.asarray(0), jax.tree.map(lambda p: jnp.zeros((n_win, *p.shape), p.dtype), params))

    def update(slope: Any, state: _Window, params: Any = None) -> tuple[Any, _Window]:
        at = state.count % n_win
        squares = jax.tree.map(lambda kept, g: kept.at[at].set(g**2), state.squares, slope)
        steps = jax.tree.map(lambda g, kept: -learning_rate * g / jnp.sqrt(kept.sum(0) + epsilon), slope, squares)
        return steps, _Window(state.count + 1, squares)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


@lru_cache
def rmsprop(learning_rate: float = 1.0, rho: float = 0.9, epsilon: float = 1e-6) -> optax.GradientTransformation:
    """Steps over the root of a moving average of squared gradients."""
    return optax.rmsprop(learning_rate, rho, epsilon)


@lru_cache
def adadelta(learning_rate: float = 1.0, rho: float = 0.95, epsilon: float = 1e-6) -> optax.GradientTransformation:
    """Steps scaled by the ratio of moving averages of steps and gradients."""
    return optax.adadelta(learning_rate, rho, epsilon)


@lru_cache
def adam(
    learning_rate: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """Adam."""
    return optax.adam(learning_rate, beta1, beta2, epsilon)


@lru_cache
def adamax(
    learning_rate: float = 0.002, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """Adam with the largest gradient in place of the root mean square."""
    return optax.adamax(learning_rate, beta1, beta2, epsilon)


_OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov_momentum": nesterov_momentum,
    "adagrad": adagrad,
    "adagrad_window": adagrad_window,
    "rmsprop": rmsprop,
    "adadelta": adadelta,
    "adam": adam,
    "adamax": adamax,
}


def optimizer_of(given: Any) -> optax.GradientTransformation:
    """The optax transformation that an ``obj_optimizer`` means: one of this file or of optax, called or not, or PyMC's own.

    Raises
    ------
    OptionError
        When it is none of them.
    """
    if given is None:
        return adagrad_window()
    if hasattr(given, "init") and hasattr(given, "update"):
        return given
    function, options = (given.func, given.keywords) if isinstance(given, partial) else (given, {})
    name = getattr(function, "__name__", "")
    ours = getattr(function, "__module__", "") in (__name__, "pymc.variational.updates")
    if not ours or name not in _OPTIMIZERS:
        raise OptionError(
            f"obj_optimizer must be one of {', '.join(_OPTIMIZERS)}, or an optax optimizer; got {given!r}; for example "
            "adam(learning_rate=0.01)."
        )
    options = {key: value for key, value in options.items() if key not in ("loss_or_grads", "params")}
    return _OPTIMIZERS[name](**options)


class Kept(NamedTuple):
    """Memory in PyMC's space: the optimizer's own, steps so far, and the last parameters (rows, P), a ring by step."""

    inner: Any
    count: Any
    ring: Any


@lru_cache(maxsize=32)
def pymc_space(
    optimizer: optax.GradientTransformation, scale: float, longest: float | None, rows: int
) -> optax.GradientTransformation:
    """The optimizer, working in PyMC's parameters.

    Parameters
    ----------
    optimizer
        Of ``{"mu": ..., "rho": ...}``, with ``"lower"`` beside them in full rank.
    scale
        Gradients are divided by it.
    longest
        Largest norm of all gradients together; None for any.
    rows
        How many of the last parameters are remembered.
    """

    def init(params: Any) -> Kept:
        free = _free(params)
        return Kept(optimizer.init(free), jnp.asarray(0), jnp.zeros((rows, len(_flat(free)))))

    def update(slope: Any, state: Kept, params: Any = None) -> tuple[Any, Kept]:
        free, name = _free(params), _width(params)
        sd = jnp.exp(params[name])
        gradient = {"mu": slope["mean"], "rho": slope[name] * -jnp.expm1(-sd) / sd}  # sigmoid(rho) = 1 - exp(-sd)
        if "lower" in params:
            gradient["lower"] = slope["lower"]
        gradient = jax.tree.map(lambda g: g / scale, gradient)
        if longest is not None:
            norm = jnp.sqrt(sum((g**2).sum() for g in gradient.values()))
            gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, cast(float, longest) / (norm + 1e-300)), gradient)
        steps, inner = cast(tuple[dict[str, Any], Any], optimizer.update(gradient, state.inner, free))
        new = jax.tree.map(lambda old, step: old + step, free, steps)
        moved = {"mean": steps["mu"], name: jnp.log(jax.nn.softplus(new["rho"])) - params[name]}
        if "lower" in params:
            moved["lower"] = steps["lower"]
        ring = state.ring.at[state.count % rows].set(_flat(new)) if rows else state.ring
        return moved, Kept(inner, state.count + 1, ring)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def rho_of(sd: Any) -> Any:
    """Inverse of sd = log(1 + exp(rho))."""
    xp = np if isinstance(sd, np.ndarray | float) else jnp
    return sd + xp.log(-xp.expm1(-sd))


def _width(params: Any) -> str:
    return "log_diagonal" if "lower" in params else "log_sd"


def _free(params: Any) -> dict[str, Any]:
    free = {"mu": params["mean"], "rho": rho_of(jnp.exp(params[_width(params)]))}
    return free | ({"lower": params["lower"]} if "lower" in params else {})


def _flat(free: Any) -> Any:
    """PyMC's parameters in one vector: mu, rho; or mu, L_tril."""
    if "lower" not in free:
        return jnp.concatenate([free["mu"], free["rho"]])
    lower = free["lower"] + jnp.diag(free["rho"])
    return jnp.concatenate([free["mu"], lower[np.tril_indices(len(free["mu"]))]])
