"""The `Graph` of a NumPyro model: replay it with given latent values, and read the parameters off its distributions.

For a sample site x ~ p(x | theta) with theta = f(values, data), NumPyro's trace holds the distribution object, wrapped by
plates (``ExpandedDistribution``) and events (``Independent``). The object inside the wrappers was made by the model's own
code, so its parameters are theta in the shape in which the model computes them: mu[z] has one row where z came in with one
row. Wrappers only repeat them. That is all that conjugacy needs, and no expression is ever parsed.

Inside ``numpyro.contrib.control_flow.scan`` sites are stacked along time, values and parameters alike.

Reference: Phan, Pradhan, Jankowiak (2019), Composable effects for flexible and accelerated probabilistic programming in
NumPyro, arXiv:1912.11554.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jensen.core.errors import UnsupportedError
from jensen.models.graph import Graph, Leaves, Node
from jensen.models.numpyro_trace import (
    Trace,
    abstract_trace,
    bare,
    bounds,
    is_factor,
    is_scanned,
    log_densities,
    replay,
)


def graph(model: Callable[..., Any], data: Mapping[str, Any], static: Mapping[str, Any]) -> Graph:
    """The graph of a NumPyro model function.

    Parameters
    ----------
    model
        A function with ``numpyro.sample`` statements; it is called as ``model(**data, **static)``.
    data
        Argument -> array, or anything with a shape and a dtype: the inputs of the graph's functions.
    static
        Argument -> value that is a constant of the program.

    Raises
    ------
    UnsupportedError
        For a scaled site (``numpyro.handlers.scale``, subsampled plates), ``numpyro.param``, and discrete latent sites with
        infinitely many values.
    """
    shapes = {
        name: jax.ShapeDtypeStruct(np.shape(value), jax.dtypes.canonicalize_dtype(_dtype(value)))
        for name, value in data.items()
    }
    trace = abstract_trace(model, shapes, static)
    nodes = tuple(node(name, site) for name, site in trace.items() if site["type"] == "sample")
    lengths = {
        name: jnp.shape(site["value"])[0]
        for name, site in trace.items()
        if site["type"] == "sample" and is_scanned(site) and not site["is_observed"]
    }
    kinds = {one.name: one.kind for one in nodes}
    return Graph(
        nodes,
        partial(_leaves, model, dict(static), kinds, lengths),
        partial(_densities, model, dict(static), lengths),
    )


def _dtype(value: Any) -> Any:
    return value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype


def node(name: str, site: Mapping[str, Any]) -> Node:
    """The node of a sample site of an abstract trace (see `jensen.models.numpyro_trace.abstract_trace`)."""
    fn = site["fn"]
    scale = site["scale"]
    if scale is not None and not (_is_concrete(scale) and np.all(np.asarray(scale) == 1)):
        raise UnsupportedError(
            f"site {name} is scaled (numpyro.handlers.scale), and conjugate updates would need its rows one by one; leave the "
            "scale out."
        )
    if is_factor(site):
        return Node(name, "other", "factor", False, tuple(fn.batch_shape))
    # An observed value may be larger than its distribution, or smaller: the density then has the axes of both.
    rows = jnp.shape(site["value"])[: jnp.ndim(site["value"]) - fn.event_dim]
    shape = (*np.broadcast_shapes(rows, tuple(fn.batch_shape)), *fn.event_shape)
    base, masked = bare(fn)
    kind = "other" if masked else _kind(base)
    latent = not site["is_observed"]
    ends = bounds(fn.support) if latent and site["levels"] is None and site["support"] != "discrete" else None
    support = "unit interval" if kind == "Beta" else "positive" if ends == (0.0, np.inf) else site["support"]
    return Node(
        name,
        kind,
        _title(base),
        latent,
        shape,
        fn.event_dim,
        support,
        site["levels"] if latent else None,
        ends if ends is not None and np.isfinite(ends).all() else None,
    )


def _is_concrete(value: Any) -> bool:
    return not isinstance(value, Tracer)


_KINDS = {
    "Normal": "Normal",
    "GaussianRandomWalk": "Normal",
    "MultivariateNormal": "MultivariateNormal",
    "Gamma": "Gamma",
    "Chi2": "Gamma",
    "Exponential": "Gamma",
    "InverseGamma": "InverseGamma",
    "Beta": "Beta",
    "BetaProportion": "Beta",
    "Dirichlet": "Dirichlet",
    "BernoulliProbs": "Bernoulli",
    "BernoulliLogits": "Bernoulli",
    "CategoricalProbs": "Categorical",
    "CategoricalLogits": "Categorical",
    "BinomialProbs": "Binomial",
    "BinomialLogits": "Binomial",
    "MultinomialProbs": "Multinomial",
    "MultinomialLogits": "Multinomial",
    "Poisson": "Poisson",
    "Wishart": "Wishart",
    "InverseWishart": "InverseWishart",
}


def _kind(fn: Any) -> str:
    """The kind of a distribution without wrappers; subclasses that the user wrote are other."""
    name = type(fn).__name__
    if not type(fn).__module__.startswith("numpyro."):
        return "other"
    if name == "Uniform":
        unit = _is_concrete(fn.low) and _is_concrete(fn.high) and np.all(fn.low == 0) and np.all(fn.high == 1)
        return "Beta" if unit else "other"
    if name == "ImproperUniform":
        return "Flat" if _is_real(fn.support) else "other"
    return _KINDS.get(name, "other")


def _is_real(support: Any) -> bool:
    """Whether a support is the whole real line, in any number of event axes."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return type(support).__name__ == "_Real"


def _title(fn: Any) -> str:
    name = type(fn).__name__
    return name.removesuffix("Probs").removesuffix("Logits") if name in _KINDS else name


def _trace(
    model: Callable[..., Any], static: Mapping[str, Any], lengths: Mapping[str, int], values: Any, data: Any
) -> Trace:
    """Replay with latent values in the model's own space; a collapsed sequence is spread over its time axis."""
    from numpyro.distributions.distribution import validation_enabled

    values = {name: jnp.asarray(value) for name, value in values.items()}
    for name, length in lengths.items():
        if name in values and values[name].shape[0] == 1:
            values[name] = jnp.broadcast_to(values[name], (length, *values[name].shape[1:]))
    # Plug-in points may give parameters that NumPyro would refuse (probabilities whose sum is below one). Only making the
    # distributions is unchecked: their log densities are still -inf outside of the support, as the model means them.
    with validation_enabled(False):
        return replay(model, static, values, data, free=False)[0]


def _leaves(
    model: Callable[..., Any],
    static: Mapping[str, Any],
    kinds: Mapping[str, str],
    lengths: Mapping[str, int],
    values: Mapping[str, Any],
    data: Mapping[str, Any],
) -> Leaves:
    return leaves(kinds, _trace(model, static, lengths, values, data))


def leaves(kinds: Mapping[str, str], trace: Trace) -> Leaves:
    """The leaves of every node, by the name of its kind, read off a trace."""
    with _quiet():
        return {
            name: {"value": trace[name]["value"], **_parameters(kind, trace[name]["fn"], trace[name]["value"])}
            for name, kind in kinds.items()
        }


def _densities(
    model: Callable[..., Any],
    static: Mapping[str, Any],
    lengths: Mapping[str, int],
    values: Mapping[str, Any],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    trace = _trace(model, static, lengths, values, data)
    with _quiet():
        return log_densities(trace)[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Outside of jit NumPyro warns of values outside of the support; -inf says the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Out-of-support", UserWarning)
        yield


def _parameters(kind: str, fn: Any, value: Any) -> dict[str, Any]:
    if kind == "other":
        return {"log_prob": _log_prob(fn, value)}
    if kind == "Flat":
        return {}
    fn, _ = bare(fn)
    name = type(fn).__name__
    if name == "GaussianRandomWalk":
        before = jnp.concatenate([jnp.zeros_like(value[..., :1]), value[..., :-1]], -1)
        return {"loc": before, "scale": jnp.asarray(fn.scale)[..., None]}
    if name == "Exponential":
        return {"concentration": jnp.ones(()), "rate": jnp.asarray(fn.rate)}
    if name == "Uniform":
        return {"a": jnp.ones(()), "b": jnp.ones(())}
    if kind == "Beta":
        return {"a": jnp.asarray(fn.concentration1), "b": jnp.asarray(fn.concentration0)}
    if kind == "MultivariateNormal":
        given, matrix = _matrix(fn, precision_matrix="precision", covariance_matrix="covariance")
        return {"loc": jnp.asarray(fn.loc), given: matrix}
    if kind in ("Wishart", "InverseWishart"):
        return _wishart(kind, fn.base_dist)
    if kind in ("Bernoulli", "Categorical", "Binomial", "Multinomial"):
        leaf = "logits" if name.endswith("Logits") else "probs"
        count = {"total_count": jnp.asarray(fn.total_count)} if kind in ("Binomial", "Multinomial") else {}
        return {leaf: jnp.asarray(getattr(fn, leaf)), **count}
    names = {
        "Normal": ("loc", "scale"),
        "Gamma": ("concentration", "rate"),
        "InverseGamma": ("concentration", "rate"),
        "Dirichlet": ("concentration",),
        "Poisson": ("rate",),
    }[kind]
    return {leaf: jnp.asarray(getattr(fn, leaf)) for leaf in names}


def _matrix(fn: Any, **names: str) -> tuple[str, Any]:
    """The matrix that the model gave, under our name for it; NumPyro always adds the Cholesky factor of the covariance."""
    for attribute, name in names.items():
        if attribute in vars(fn):
            return name, getattr(fn, attribute)
    return "scale_tril", fn.scale_tril


def _wishart(kind: str, fn: Any) -> dict[str, Any]:
    """Degrees of freedom and the matrix of (inverse) Wishart: rate of the one, scale of the other, both 'per observation'.

    In NumPyro, rate_matrix is the inverse of scale_matrix for both of them.
    """
    wanted, inverse = ("rate_matrix", "scale_matrix") if kind == "Wishart" else ("scale_matrix", "rate_matrix")
    if wanted in vars(fn):
        matrix = getattr(fn, wanted)
    elif inverse in vars(fn):
        matrix = jnp.linalg.inv(getattr(fn, inverse))
    else:
        scale = fn.scale_tril @ jnp.swapaxes(fn.scale_tril, -1, -2)
        matrix = jnp.linalg.inv(scale) if kind == "Wishart" else scale
    return {"df": jnp.asarray(fn.concentration), wanted.removesuffix("_matrix"): matrix}


def _log_prob(fn: Any, value: Any) -> Any:
    """Log density, not spread over plates along which nothing varies; by element in events of independent elements."""
    from numpyro.distributions import ExpandedDistribution, Independent

    if isinstance(fn, ExpandedDistribution | Independent):
        return _log_prob(fn.base_dist, value)
    return jnp.asarray(fn.log_prob(value))
