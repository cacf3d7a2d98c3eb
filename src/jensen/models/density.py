"""Log-density front end: ``jn.density(log_density, init, ...)`` -> `Model`.

The user's function is log p(params[, data]) up to a constant, written in JAX; `support` names the constraint of each
parameter, and the transform to the real line, with its Jacobian, is NumPyro's.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.errors import DataError, ModelError, OptionError
from jensen.core.layout import Site
from jensen.models.cache import remember
from jensen.models.graph import Graph
from jensen.models.harvest import sown
from jensen.models.misfit import CONCRETIZATION, first_line, is_about_shapes, shapes
from jensen.models.model import Factors, Model
from jensen.models.recorded import recording

SUPPORTS = (
    "real",
    "positive",
    "unit_interval",
    "simplex",
    "ordered_vector",
    "positive_ordered_vector",
    "corr_cholesky",
)


@dataclass(frozen=True, eq=False)
class Density:
    """A log density with the shapes and supports of its parameters; made by `density`."""

    log_density: Callable[..., Any]
    init: dict[str, np.ndarray]
    support: dict[str, Any]
    data: dict[str, Any] | None
    log_likelihood: Callable[..., Any] | None = None
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict)
    coords: dict[str, Any] = field(default_factory=dict)


def density(
    log_density: Callable[..., Any],
    init: Mapping[str, Any],
    *,
    support: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    log_likelihood: Callable[..., Any] | None = None,
    dims: Mapping[str, tuple[str, ...]] | None = None,
    coords: Mapping[str, Any] | None = None,
) -> Density:
    """Describe a model by its log density.

    Parameters
    ----------
    log_density
        JAX function of ``(params)`` or ``(params, data)`` -> scalar: the log joint density, up to a constant, in the
        parameters' own space. ``params`` is a dict of arrays.
    init
        Example parameters; they say names, shapes and the order. Their values are not used.
    support
        Parameter -> one of ``"real"`` (default), ``"positive"``, ``"unit_interval"``, ``"simplex"``, ``"ordered_vector"``,
        ``"positive_ordered_vector"``, ``"corr_cholesky"``, a pair ``(low, high)``, or a NumPyro constraint.
    data
        Arrays handed to `log_density` as its second argument; never close over large arrays instead.
    log_likelihood
        JAX function of ``(params, data)`` -> (N,): the log likelihood of every row, which is added to `log_density` (then the
        log prior, of ``(params)``). It makes large data cheap: rows can be subsampled and read in blocks.
    dims, coords
        Names of the axes of a parameter, and values along named axes, as in ArviZ.

    Examples
    --------
    >>> import jensen as jn
    >>> model = jn.density(lambda p: -0.5 * (p["x"] ** 2).sum(), {"x": [0.0, 0.0]})
    >>> jn.fit(model).mean["x"].round(3)
    array([0., 0.])
    """
    if log_likelihood is not None and not callable(log_likelihood):
        raise OptionError(
            f"log_likelihood must be a function of (params, data); got {type(log_likelihood).__name__}; leave it out where "
            "log_density has everything."
        )
    if not callable(log_density):
        raise OptionError(f"log_density must be a function of (params[, data]); got {type(log_density).__name__}.")
    if not isinstance(init, Mapping) or not init:
        raise OptionError("init must be a non-empty dict, parameter name -> example array; for example {'x': 0.0}.")
    unknown = set(support or {}) - set(init)
    if unknown:
        raise OptionError(f"support names {sorted(unknown)}, but the parameters are {list(init)}.")
    for name, value in (support or {}).items():
        if isinstance(value, str) and value not in SUPPORTS:
            raise OptionError(
                f"support of {name} is {value!r}; use one of {', '.join(SUPPORTS)}, a pair, or a constraint."
            )
    arrays = {}
    for name, value in init.items():
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise OptionError(f"init[{name!r}] has dtype {array.dtype}; parameters are real arrays.")
        arrays[name] = array.astype(float)
    return Density(
        log_density,
        arrays,
        dict(support or {}),
        None if data is None else dict(data),
        log_likelihood,
        {name: tuple(value) for name, value in (dims or {}).items()},
        dict(coords or {}),
    )


def read(described: Density, data: Mapping[str, Any] | None = None) -> Model:
    """Turn a `Density` into a `Model`; `data` replaces arrays of the same name.

    Raises
    ------
    DataError
        For a name the density has no data for.
    ModelError
        When the function does not return a scalar.
    """
    arrays = dict(described.data or {})
    for name, value in (data or {}).items():
        if described.data is not None and name not in arrays:
            raise DataError(f"the density has no data {name!r}; it has {sorted(arrays)}; check data=.")
        arrays[name] = np.asarray(value)
    signature = tuple((name, value.shape, value.dtype.str) for name, value in arrays.items())
    return replace(remember(described, signature, partial(_build, described, arrays)), data=arrays)


def _build(described: Density, arrays: dict[str, np.ndarray]) -> Model:
    log_density, log_likelihood = described.log_density, described.log_likelihood
    parameters = list(inspect.signature(log_density).parameters.values())
    required = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    with_data = len(required) > 1 or (bool(arrays) and len(parameters) > 1)
    if arrays and not with_data and described.log_likelihood is None:
        raise DataError(f"data {sorted(arrays)} were given, but log_density takes params only; add a second argument.")
    transforms = {name: _transform(described.support.get(name, "real")) for name in described.init}
    sites = []
    for name, value in described.init.items():
        try:
            free_shape = tuple(transforms[name].inverse_shape(value.shape))
        except Exception as error:
            raise OptionError(
                f"init[{name!r}] has shape {value.shape}, which its support cannot have: {error}."
            ) from error
        dims = described.dims.get(name, ())
        if dims and len(dims) != value.ndim:
            raise OptionError(f"dims of {name} are {dims}, but it has {value.ndim} axes; name each axis once.")
        sites.append(Site(name, value.shape, free_shape, _word(described.support.get(name, "real")), dims))

    def constrain(free: Any, data: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return {name: transform(free[name]) for name, transform in transforms.items()}, {}

    def factors(free: Any, data: Any) -> Factors:
        values, _ = constrain(free, data)
        log_prob = log_density(values, data) if with_data else log_density(values)
        if not isinstance(log_prob, float | int | np.generic | np.ndarray | jax.Array):
            raise ModelError(
                f"log_density must return a scalar; it returned {type(log_prob).__name__}; return the sum of its terms."
            )
        jacobian = {
            name: jnp.asarray(transform.log_abs_det_jacobian(free[name], values[name]))
            for name, transform in transforms.items()
            if described.support.get(name, "real") != "real"
        }
        parts = {"log_density": jnp.asarray(log_prob)}
        if log_likelihood is not None:
            parts["log_likelihood"] = jnp.asarray(log_likelihood(values, data))
        return Factors(parts, {}, jacobian)

    def unconstrain(values: Any, data: Any) -> dict[str, Any]:
        return {name: transform.inv(jnp.asarray(values[name])) for name, transform in transforms.items()}

    free = {site.name: jax.ShapeDtypeStruct(site.free_shape, float) for site in sites}
    with recording():
        parts, terms = _traced(factors, free, described.init, arrays)
    shape = parts["log_density"].shape
    if shape != ():
        raise ModelError(f"log_density must return a scalar; it returned shape {shape}; sum over the rows.")
    if "log_likelihood" in parts and len(parts["log_likelihood"].shape) == 0:
        raise ModelError("log_likelihood must return one number a row; it returned a scalar; leave the sum out.")

    def evaluate(values: Any, data: Any) -> Any:
        prior = log_density(values, data) if with_data else log_density(values)
        return prior if log_likelihood is None else prior + log_likelihood(values, data).sum()

    name = getattr(log_density, "__name__", "log density")
    return Model(
        name=name,
        language="log density",
        sites=tuple(sites),
        data={},
        factors=factors,
        constrain=constrain,
        unconstrain=unconstrain,
        coords=described.coords,
        dims={site.name: site.dims for site in sites},
        likelihoods=tuple(name for name in parts if name == "log_likelihood"),
        constants=tuple(arrays),
        source=described,
        resized=partial(_resized, described),
        graph=lru_cache(maxsize=1)(partial(_graph, evaluate, name, tuple(sites), _structs(arrays))) if terms else None,
    )


def _structs(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in arrays.items()}


def _graph(evaluate: Callable[..., Any], name: str, sites: tuple[Site, ...], data: dict[str, Any]) -> Graph:
    from jensen.models.density_graph import graph

    return graph(evaluate, name, sites, data)


def _resized(described: Density, data: Mapping[str, np.ndarray], lengths: Mapping[int, int]) -> Model:
    """The same density for other rows; its functions take arrays of any length."""
    return read(described, data)


def _traced(
    factors: Callable[..., Factors], free: dict[str, Any], init: dict[str, np.ndarray], arrays: dict[str, np.ndarray]
) -> tuple[dict[str, Any], int]:
    """The factors as shapes, and the number of terms; what goes wrong is told in the words of the density's arguments."""
    try:
        closed, parts = jax.make_jaxpr(lambda free, data: factors(free, data).log_prob, return_shape=True)(free, arrays)
        return parts, sown(closed.jaxpr)
    except CONCRETIZATION as error:
        raise ModelError(
            f"log_density needs concrete values where JAX has tracers ({type(error).__name__}); use jax.numpy and "
            "jnp.where instead of NumPy and Python branches."
        ) from error
    except KeyError as error:
        raise DataError(
            f"log_density looks up {error}, but the parameters are {list(init)} and the data {list(arrays)}; "
            "add what is missing to data= or init."
        ) from error
    except (TypeError, ValueError, IndexError) as error:
        if not is_about_shapes(error):
            raise
        raise DataError(
            f"shapes do not fit in log_density: {first_line(error)}; the parameters have shapes {shapes(init)} and the "
            f"data {shapes(arrays)}; change one of them."
        ) from error


def _transform(support: Any) -> Any:
    if isinstance(support, str) and support == "real":
        return _Identity()
    from numpyro.distributions import constraints
    from numpyro.distributions.transforms import biject_to

    if isinstance(support, str):
        support = getattr(constraints, support)
    elif isinstance(support, tuple):
        support = constraints.interval(*support)
    return biject_to(support)


class _Identity:
    """The transform of an unconstrained parameter, without importing NumPyro for it."""

    def __call__(self, x: Any) -> Any:
        return x

    def inv(self, x: Any) -> Any:
        return x

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape


def _word(support: Any) -> str:
    if isinstance(support, str):
        return support
    return f"({support[0]}, {support[1]})" if isinstance(support, tuple) else type(support).__name__.strip("_").lower()
