"""Which distributions a log density calls, and on which values: recorded while it is traced.

    log p(theta, data) = sum_k log p_k(x_k | parameters_k) + constant

Users of plain densities write the terms by calling distributions: ``log_prob`` of NumPyro's, or functions of ``jax.scipy.stats``.
Within `recording` these are wrapped, so that each outermost call of the recording thread leaves a term in the program that is
traced (`jensen.models.harvest`); calls inside of other calls (a mixture's components) are that call's own business.

The wrappers are taken off at the end of the block, whatever happens in it; other threads call through them unrecorded. JAX keeps
programs with terms apart from those without.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import jax

from jensen.models.harvest import sow


class _Recorder(threading.local):
    on: bool = False
    depth: int = 0


_recorder = _Recorder()
_traces = jax.make_user_context()
_lock = threading.Lock()
_users = 0
_replaced: list[tuple[Any, str, Any]] = []


@contextmanager
def recording() -> Iterator[None]:
    """Sow the calls of this thread until the block ends."""
    global _users
    before = vars(_recorder).copy()
    with _lock:
        if not _users:
            _install()
        _users += 1
    _recorder.on, _recorder.depth = True, 0
    try:
        with _traces(True):
            yield
    finally:
        vars(_recorder).clear()
        vars(_recorder).update(before)
        with _lock:
            _users -= 1
            if not _users:
                while _replaced:
                    setattr(*_replaced.pop())


def _install() -> None:
    if "numpyro.distributions" in sys.modules:
        for cls in _classes(sys.modules["numpyro.distributions"].Distribution):
            if "log_prob" in vars(cls):
                _replace(cls, "log_prob", lambda original: _method(original))
    for name, (function, build) in _SCIPY.items():
        module = sys.modules.get(f"jax.scipy.stats.{name}")
        if module is not None:
            _replace(module, function, lambda original, build=build: _function(original, build))


def _classes(cls: type) -> set[type]:
    return {cls}.union(*map(_classes, cls.__subclasses__()))


def _replace(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    original = vars(owner)[name]
    _replaced.append((owner, name, original))
    setattr(owner, name, wrapper(original))


def _method(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def log_prob(self: Any, value: Any, *args: Any, **options: Any) -> Any:
        return _called(lambda: (self, value), lambda: original(self, value, *args, **options))

    return log_prob


def _function(original: Callable[..., Any], build: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def log_density(x: Any, *args: Any, **options: Any) -> Any:
        return _called(lambda: (build(*args, **options), x), lambda: original(x, *args, **options))

    return log_density


def _called(described: Callable[[], tuple[Any, Any]], compute: Callable[[], Any]) -> Any:
    """The result of a call, sown if it is an outermost one of a thread that records."""
    own = _recorder
    if not own.on or own.depth:
        return compute()
    own.depth += 1
    try:
        (fn, value), result = described(), compute()
        return result if fn is None else sow(fn, value, result)
    finally:
        own.depth -= 1


# -- jax.scipy.stats as NumPyro's distributions; None where there is no such distribution -------------------------------------


def _norm(loc: Any = 0.0, scale: Any = 1.0) -> Any:
    from numpyro.distributions import Normal

    return Normal(loc, scale)


def _gamma(a: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
    from numpyro.distributions import Gamma

    return Gamma(a, 1 / scale) if _zero(loc) else None


def _beta(a: Any, b: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
    from numpyro.distributions import Beta

    return Beta(a, b) if _zero(loc) and isinstance(scale, int | float) and scale == 1 else None


def _expon(loc: Any = 0.0, scale: Any = 1.0) -> Any:
    from numpyro.distributions import Exponential

    return Exponential(1 / scale) if _zero(loc) else None


def _poisson(mu: Any, loc: Any = 0.0) -> Any:
    from numpyro.distributions import Poisson

    return Poisson(mu) if _zero(loc) else None


def _bernoulli(p: Any, loc: Any = 0.0) -> Any:
    from numpyro.distributions import BernoulliProbs

    return BernoulliProbs(p) if _zero(loc) else None


def _multivariate_normal(mean: Any, cov: Any, allow_singular: None = None) -> Any:
    import jax.numpy as jnp
    from numpyro.distributions import MultivariateNormal

    return MultivariateNormal(mean, covariance_matrix=cov) if jnp.ndim(cov) >= 2 else None


def _t(df: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
    from numpyro.distributions import StudentT

    return StudentT(df, loc, scale)


def _zero(loc: Any) -> bool:
    return isinstance(loc, int | float) and loc == 0


_SCIPY = {
    "norm": ("logpdf", _norm),
    "gamma": ("logpdf", _gamma),
    "beta": ("logpdf", _beta),
    "expon": ("logpdf", _expon),
    "poisson": ("logpmf", _poisson),
    "bernoulli": ("logpmf", _bernoulli),
    "multivariate_normal": ("logpdf", _multivariate_normal),
    "t": ("logpdf", _t),
}
