"""NumPyro front end: a model function and its arguments -> `Model`.

One abstract trace (no compilation, no search for valid initial values) finds the sites; after that, each evaluation replays
the model with its unconstrained values substituted. Bijections are derived inside the replay, because a support may depend
on other sites. ``numpyro.infer.initialize_model`` is not used: it compiles a search that costs more than small fits.

Reference: Phan, Pradhan, Jankowiak (2019), Composable effects for flexible and accelerated probabilistic programming in
NumPyro, arXiv:1912.11554.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.compilation import FAST_COMPILE, copied
from jensen.core.errors import ModelError
from jensen.core.keys import several
from jensen.core.layout import Derived, Site
from jensen.models.cache import remember
from jensen.models.graph import Graph
from jensen.models.misfit import CONCRETIZATION
from jensen.models.model import Factors, Model
from jensen.models.numpyro_rows import Resized, Unobserved
from jensen.models.numpyro_trace import abstract_trace, is_factor, log_densities, name_of, replay

_FEW = 1_000_000
"""Simulated numbers up to which optimizing the program costs more than it saves."""
_AT_ONCE = 50_000
"""Simulated numbers of one call, for each of which the model may hold thousands (the probabilities of words)."""


def read(
    model: Callable[..., Any], data: Mapping[str, Any] | None = None, lengths: Mapping[int, int] | None = None
) -> Model:
    """Read a NumPyro model function.

    Parameters
    ----------
    model
        A function with ``numpyro.sample`` statements; it is called as ``model(**data)``. Subsampled plates are read with all
        of their rows: minibatches are taken outside of the model.
    data
        Its keyword arguments. Arrays and floats become inputs of the compiled program; integers, strings, booleans and None
        are part of its shape.
    lengths
        Length of a plate -> number of its rows that `data` hold.

    Raises
    ------
    DataError
        When the arguments do not fit the function.
    UnsupportedError
        For discrete latent sites with infinitely many values, or an unsupported support.
    """
    return _read(model, dict(data or {}), dict(lengths or {}))


def _read(source: Callable[..., Any], data: dict[str, Any], lengths: Mapping[int, int]) -> Model:
    model = Resized(source, lengths)
    inputs = {name: _as_input(value) for name, value in data.items() if _is_input(value)}
    static = {name: _as_static(value) for name, value in data.items() if name not in inputs}
    shape = (
        tuple((name, value.shape, value.dtype.str) for name, value in inputs.items()),
        tuple((name, repr(value)) for name, value in static.items()),
        tuple(lengths.items()),
    )
    build = partial(_build, model, inputs, static)
    # Lists of arrays, dicts and objects are constants too, but their repr does not tell them apart: build anew.
    simple = all(isinstance(value, bool | str | int | type(None)) for value in static.values())
    try:
        blueprint = remember(source, shape, build) if simple else build()
    except CONCRETIZATION as error:
        # The model computes shapes or branches from values: make the integers constants first, then everything.
        integers = {name: value for name, value in inputs.items() if not np.issubdtype(value.dtype, np.floating)}
        for constants in (integers, inputs):
            rest = {name: value for name, value in inputs.items() if name not in constants}
            try:
                blueprint = _build(model, rest, static | constants)
            except CONCRETIZATION:
                continue
            inputs = rest
            note = f"{', '.join(constants)}: constants of the program, because the model computes with their values in Python"
            blueprint = replace(blueprint, notes=(*blueprint.notes, note))
            break
        else:
            raise ModelError(
                f"the model {name_of(model)} needs concrete values where JAX has tracers ({type(error).__name__}); "
                "use jax.lax.cond or jnp.where instead of Python branches on sampled values."
            ) from error
    resized = partial(_resized, source, static)
    return replace(blueprint, data=inputs, observed=_observed(blueprint, inputs), source=source, resized=resized)


def _resized(
    source: Callable[..., Any], static: dict[str, Any], data: Mapping[str, np.ndarray], lengths: Mapping[int, int]
) -> Model:
    return _read(source, {**static, **data}, lengths)


def _is_input(value: Any) -> bool:
    if isinstance(value, bool | str | int | type(None)):
        return False
    if isinstance(value, float | np.floating):
        return True
    try:
        array = np.asarray(value)
    except Exception:
        return False
    if array.dtype == object or array.dtype.kind in "USV":
        return False
    return array.ndim > 0 or np.issubdtype(array.dtype, np.floating)


def _as_input(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype == float:
        return copied(array)
    return array.astype(float) if np.issubdtype(array.dtype, np.floating) else array


def _as_static(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray | np.generic) and np.ndim(value) == 0 else value


def _build(model: Resized, inputs: Mapping[str, np.ndarray], static: Mapping[str, Any]) -> Model:
    trace = abstract_trace(model, inputs, static)
    sites, discrete, derived, likelihoods, dims, observed = [], [], [], [], {}, {}
    coords: dict[str, Any] = {}
    for name, site in trace.items():
        if site["type"] == "plate":
            continue
        names = _dims(site)
        if site["type"] == "deterministic":
            shape = jnp.shape(site["value"])
            derived.append(Derived(name, shape, names if len(names) == len(shape) else ()))
            dims[name] = derived[-1].dims
        elif site["type"] == "sample" and is_factor(site):
            continue
        elif site["type"] == "sample" and site["is_observed"]:
            likelihoods.append(name)
            shape = jnp.shape(site["value"])
            dims[name] = names if len(names) == len(shape) else ()
            observed[name] = site["value"]
        elif site["type"] == "sample" and site["support"] == "discrete":
            discrete.append(name)
            dims[name] = names if len(names) == jnp.ndim(site["value"]) else ()
        elif site["type"] == "sample":
            sites.append(_site(name, site, names))
            dims[name] = sites[-1].dims
    if not sites and not discrete:
        raise ModelError(
            f"the model {name_of(model)} has no latent site; every numpyro.sample statement has obs=...; remove one."
        )
    for name, site in trace.items():
        if site["type"] == "plate":
            coords[name] = np.arange(site["args"][1])
    if not likelihoods and not any(is_factor(site) for site in trace.values() if site["type"] == "sample"):
        notes = ("nothing is observed, so this is the prior; pass the observed values in data=",)
    else:
        notes = ()
    run = partial(replay, model, dict(static))
    structs = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in inputs.items()}
    return Model(
        name=name_of(model),
        language="NumPyro",
        sites=tuple(sites),
        data={},
        factors=partial(_factors, run),
        constrain=partial(_constrain, run, tuple(site.name for site in sites), tuple(d.name for d in derived)),
        unconstrain=partial(_unconstrain, run, tuple(site.name for site in sites)),
        likelihoods=tuple(likelihoods),
        derived=tuple(derived),
        coords={name: value for name, value in coords.items() if any(name in names for names in dims.values())},
        dims=dims,
        observed=observed,
        constants=(),
        predict=partial(_predict, model, dict(static), tuple(likelihoods), structs),
        source=model,
        batch_size=model.batch_size,
        notes=notes,
        discrete=tuple(discrete),
        # Kept, so that programs compiled for a graph's functions are found again.
        graph=lru_cache(maxsize=1)(partial(_graph, model, structs, dict(static))),
    )


def _graph(model: Callable[..., Any], inputs: Mapping[str, Any], static: Mapping[str, Any]) -> Graph:
    from jensen.models.numpyro_graph import graph

    return graph(model, inputs, static)


def _site(name: str, site: Mapping[str, Any], names: tuple[str, ...]) -> Site:
    shape = tuple(jnp.shape(site["value"]))
    return Site(name, shape, site["free_shape"], site["support"], names if len(names) == len(shape) else ())


def _dims(site: Mapping[str, Any]) -> tuple[str, ...]:
    """One name an axis, where plates and ``infer={"event_dims": [...]}`` say all of them."""
    if site["type"] == "deterministic":
        frames = site.get("cond_indep_stack", [])
        return tuple(frame.name for frame in sorted(frames, key=lambda frame: frame.dim))
    frames = sorted(site["cond_indep_stack"], key=lambda frame: frame.dim)
    return tuple(frame.name for frame in frames) + tuple(site["infer"].get("event_dims", ()))


def _factors(run: Callable[..., Any], free: Mapping[str, Any], data: Mapping[str, Any]) -> Factors:
    trace, jacobian = run(free, data)
    log_prob, scale = log_densities(trace)
    return Factors(log_prob, scale, jacobian)


def _constrain(
    run: Callable[..., Any], sites: tuple[str, ...], derived: tuple[str, ...], free: Any, data: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    trace, _ = run(free, data)
    return {name: trace[name]["value"] for name in sites}, {name: jnp.asarray(trace[name]["value"]) for name in derived}


def _unconstrain(run: Callable[..., Any], sites: tuple[str, ...], values: Any, data: Any) -> dict[str, Any]:
    from numpyro.distributions.transforms import biject_to

    values = {name: jnp.asarray(value) for name, value in values.items()}
    trace, _ = run(values, {name: jnp.asarray(value) for name, value in data.items()}, free=False)
    return {name: biject_to(trace[name]["fn"].support).inv(values[name]) for name in sites}


def _observed(model: Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Observed values, taken from the inputs of the same name or shape; abstract otherwise and then left out."""
    found = {}
    for name, value in model.observed.items():
        if name in inputs and inputs[name].shape == jnp.shape(value):
            found[name] = inputs[name]
        elif isinstance(value, np.ndarray):
            found[name] = value
    return found


def _predict(
    model: Resized,
    static: Mapping[str, Any],
    likelihoods: tuple[str, ...],
    inputs: Mapping[str, Any],
    values: dict[str, np.ndarray],
    data: dict[str, np.ndarray],
    seed: int,
) -> dict[str, np.ndarray]:
    """Simulate the observed variables, one simulation a draw; observed values in `data` are ignored."""
    from numpyro import handlers

    def simulate(rng: jax.Array, one: dict[str, jax.Array], data: dict[str, jax.Array]) -> dict[str, jax.Array]:
        seeded = handlers.seed(handlers.substitute(Unobserved(model, likelihoods), data=one), rng)
        trace = handlers.trace(seeded).get_trace(**data, **static)
        return {name: trace[name]["value"] for name in likelihoods}

    given = {name: value for name, value in data.items() if name not in static}
    model = model.for_rows(inputs, given)
    n = len(next(iter(values.values())))
    keys = several(seed, "predict", n)
    shapes = jax.eval_shape(simulate, keys[0], {name: value[0] for name, value in values.items()}, given)
    each = max(sum(shape.size for shape in shapes.values()), 1)
    count = max(1, _AT_ONCE // each)
    # Compiling the samplers of most distributions takes longer than running them.
    options = FAST_COMPILE if n * each <= _FEW else None
    program, parts = jax.jit(jax.vmap(simulate, in_axes=(0, 0, None)), compiler_options=options), []
    for first in range(0, n, count):  # the last rows are repeated to fill the last batch, which then compiles nothing
        rows = np.minimum(np.arange(first, first + min(count, n)), n - 1)
        some = program(keys[rows], {name: value[rows] for name, value in values.items()}, given)
        parts.append({name: np.asarray(value)[: n - first] for name, value in some.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in shapes}
