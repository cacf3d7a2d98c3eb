"""NumPyro front end: a model function and its arguments -> `Model`.

One abstract trace (no compilation, no search for valid initial values) finds the sites; after that, each evaluation replays
the model with its unconstrained values substituted. Bijections are derived inside the replay, because a support may depend
on other sites. ``numpyro.infer.initialize_model`` is not used: it compiles a search that costs more than small fits.

Reference: Phan, Pradhan, Jankowiak (2019), Composable effects for flexible and accelerated probabilistic programming in
NumPyro, arXiv:1912.11554.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.errors import DataError, ModelError, UnsupportedError
from jensen.core.keys import key
from jensen.core.layout import Derived, Site
from jensen.models.cache import remember
from jensen.models.misfit import CONCRETIZATION, first_line, is_about_shapes, shapes
from jensen.models.model import Factors, Model


def read(model: Callable[..., Any], data: Mapping[str, Any] | None = None) -> Model:
    """Read a NumPyro model function.

    Parameters
    ----------
    model
        A function with ``numpyro.sample`` statements; it is called as ``model(**data)``.
    data
        Its keyword arguments. Arrays and floats become inputs of the compiled program; integers, strings, booleans and None
        are part of its shape.

    Raises
    ------
    DataError
        When the arguments do not fit the function.
    UnsupportedError
        For discrete latent sites, or an unsupported support.
    """
    data = dict(data or {})
    inputs = {name: _as_input(value) for name, value in data.items() if _is_input(value)}
    static = {name: _as_static(value) for name, value in data.items() if name not in inputs}
    shape = (
        tuple((name, value.shape, value.dtype.str) for name, value in inputs.items()),
        tuple((name, repr(value)) for name, value in static.items()),
    )
    build = partial(_build, model, inputs, static)
    # Lists of arrays, dicts and objects are constants too, but their repr does not tell them apart: build anew.
    simple = all(isinstance(value, bool | str | int | type(None)) for value in static.values())
    try:
        blueprint = remember(model, shape, build) if simple else build()
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
                f"the model {_name(model)} needs concrete values where JAX has tracers ({type(error).__name__}); "
                "use jax.lax.cond or jnp.where instead of Python branches on sampled values."
            ) from error
    return replace(blueprint, data=inputs, observed=_observed(blueprint, inputs))


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
    return array.astype(float) if np.issubdtype(array.dtype, np.floating) else array


def _as_static(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray | np.generic) and np.ndim(value) == 0 else value


def _name(model: Callable[..., Any]) -> str:
    return getattr(model, "__name__", None) or type(model).__name__


def _build(model: Callable[..., Any], inputs: Mapping[str, np.ndarray], static: Mapping[str, Any]) -> Model:
    trace = _abstract_trace(model, inputs, static)
    sites, derived, likelihoods, dims, observed = [], [], [], {}, {}
    coords: dict[str, Any] = {}
    for name, site in trace.items():
        if site["type"] == "plate":
            continue
        names = _dims(site)
        if site["type"] == "deterministic":
            shape = jnp.shape(site["value"])
            derived.append(Derived(name, shape, names if len(names) == len(shape) else ()))
            dims[name] = derived[-1].dims
        elif site["type"] == "sample" and _is_factor(site):
            continue
        elif site["type"] == "sample" and site["is_observed"]:
            likelihoods.append(name)
            shape = jnp.shape(site["value"])
            dims[name] = names if len(names) == len(shape) else ()
            observed[name] = site["value"]
        elif site["type"] == "sample":
            sites.append(_site(name, site, names))
            dims[name] = sites[-1].dims
    if not sites:
        raise ModelError(
            f"the model {_name(model)} has no latent site; every numpyro.sample statement has obs=...; remove one."
        )
    for name, site in trace.items():
        if site["type"] == "plate":
            coords[name] = np.arange(site["args"][0])
    if not likelihoods and not any(_is_factor(site) for site in trace.values() if site["type"] == "sample"):
        notes = ("nothing is observed, so this is the prior; pass the observed values in data=",)
    else:
        notes = ()
    replay = partial(_replay, model, dict(static))
    return Model(
        name=_name(model),
        language="NumPyro",
        sites=tuple(sites),
        data={},
        factors=partial(_factors, replay),
        constrain=partial(_constrain, replay, tuple(site.name for site in sites), tuple(d.name for d in derived)),
        unconstrain=partial(_unconstrain, replay, tuple(site.name for site in sites)),
        likelihoods=tuple(likelihoods),
        derived=tuple(derived),
        coords={name: value for name, value in coords.items() if any(name in names for names in dims.values())},
        dims=dims,
        observed=observed,
        constants=(),
        predict=partial(_predict, model, dict(static), tuple(likelihoods)),
        source=model,
        notes=notes,
    )


def _is_factor(site: Mapping[str, Any]) -> bool:
    """`numpyro.factor` statements are sample sites with an auxiliary distribution and an empty value."""
    return bool(site["infer"].get("is_auxiliary")) or type(site["fn"]).__name__ == "Unit"


def _abstract_trace(
    model: Callable[..., Any], inputs: Mapping[str, np.ndarray], static: Mapping[str, Any]
) -> dict[str, Any]:
    """Run the model once on abstract values; every latent site takes the image of zero."""
    from numpyro import handlers
    from numpyro.distributions.transforms import biject_to

    def substitute(site: Mapping[str, Any]) -> Any:
        _refuse(site)
        if site["type"] != "sample" or site["is_observed"] or _is_factor(site):
            return None
        name, fn = site["name"], site["fn"]
        if fn.support is not None and fn.support.is_discrete:
            raise UnsupportedError(
                f"site {name} is discrete ({type(fn).__name__}), and gradients need continuous sites; sum it out by hand "
                "(numpyro.factor with logsumexp), or use a mixture distribution such as MixtureSameFamily."
            )
        try:
            transform = biject_to(fn.support)
        except NotImplementedError as error:
            raise UnsupportedError(
                f"site {name} has the support {_support(fn.support)} ({type(fn).__name__}), for which there is no transform "
                "from the real line; write it as a function of sites on the real line, with numpyro.deterministic."
            ) from error
        free_shapes[name] = tuple(transform.inverse_shape(fn.shape()))
        return transform(jnp.zeros(free_shapes[name]))

    found: dict[str, Any] = {}
    free_shapes: dict[str, tuple[int, ...]] = {}

    def run(inputs: Mapping[str, Any]) -> None:
        # Shapes are taken here: a support may depend on values, which are gone once the abstract trace has ended.
        seeded = handlers.seed(handlers.substitute(model, substitute_fn=substitute), jax.random.key(0))
        found.update(handlers.trace(seeded).get_trace(**inputs, **static))
        for name, shape in free_shapes.items():
            found[name]["free_shape"] = shape

    try:
        jax.eval_shape(run, dict(inputs))
    except CONCRETIZATION:
        raise
    except (TypeError, ValueError, IndexError, AssertionError) as error:
        if isinstance(error, TypeError) and "argument" in first_line(error):
            raise DataError(
                f"the arguments do not fit the model {_name(model)}: {first_line(error)}; data= must name the model's "
                "arguments."
            ) from error
        if not is_about_shapes(error) or not (inputs or static):
            raise
        raise DataError(
            f"shapes do not fit in the model {_name(model)}: {first_line(error)}; the data have shapes "
            f"{shapes({**inputs, **static})}."
        ) from error
    return found


def _refuse(site: Mapping[str, Any]) -> None:
    """Statements that have no posterior, or would give that of a part of the data."""
    if site["type"] in ("param", "mutable"):
        raise UnsupportedError(
            f"site {site['name']} is a numpyro.{site['type']}, which has no posterior; give it a prior with numpyro.sample "
            "or make it a constant."
        )
    if site["type"] == "plate":
        size, subsample_size = site["args"]
        if subsample_size not in (None, size):
            raise UnsupportedError(
                f"plate {site['name']} has subsample_size {subsample_size} of {size}, and a fit would see those rows only; "
                "leave subsample_size out."
            )


def _site(name: str, site: Mapping[str, Any], names: tuple[str, ...]) -> Site:
    shape = tuple(site["fn"].shape())
    support = _support(site["fn"].support)
    return Site(name, shape, site["free_shape"], support, names if len(names) == len(shape) else ())


def _support(constraint: Any) -> str:
    base = getattr(constraint, "base_constraint", constraint)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(base).__name__.strip("_")).lower()


def _dims(site: Mapping[str, Any]) -> tuple[str, ...]:
    """One name an axis, where plates and ``infer={"event_dims": [...]}`` say all of them."""
    if site["type"] == "deterministic":
        frames = site.get("cond_indep_stack", [])
        return tuple(frame.name for frame in sorted(frames, key=lambda frame: frame.dim))
    frames = sorted(site["cond_indep_stack"], key=lambda frame: frame.dim)
    return tuple(frame.name for frame in frames) + tuple(site["infer"].get("event_dims", ()))


def _replay(
    model: Callable[..., Any], static: Mapping[str, Any], values: Any, data: Mapping[str, Any], free: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the model with given site values (unconstrained if `free`); return its trace and the log Jacobians."""
    from numpyro import handlers
    from numpyro.distributions.transforms import biject_to

    jacobian = {}

    def substitute(site: Mapping[str, Any]) -> Any:
        if site["type"] != "sample" or site["name"] not in values:
            return None
        if not free:
            return values[site["name"]]
        transform = biject_to(site["fn"].support)
        z = values[site["name"]]
        x = transform(z)
        if site["fn"].support.event_dim or type(transform).__name__ != "IdentityTransform":
            jacobian[site["name"]] = jnp.asarray(transform.log_abs_det_jacobian(z, x))
        return x

    seeded = handlers.seed(handlers.substitute(model, substitute_fn=substitute), jax.random.key(0))
    trace = handlers.trace(seeded).get_trace(**data, **static)
    return trace, jacobian


def _factors(replay: Callable[..., Any], free: Mapping[str, Any], data: Mapping[str, Any]) -> Factors:
    trace, jacobian = replay(free, data)
    log_prob, scale = {}, {}
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        value, intermediates = site["value"], site["intermediates"]
        try:
            fn = site["fn"]
            log_prob[name] = jnp.asarray(fn.log_prob(value, intermediates) if intermediates else fn.log_prob(value))
        except (TypeError, ValueError) as error:
            text = str(error).split("\n")[0].rstrip(".")
            raise DataError(
                f"the value of site {name}, of shape {jnp.shape(value)}, does not fit its distribution, of shape "
                f"{tuple(site['fn'].shape())}: {text}; check the shapes of the data."
            ) from error
        if site["scale"] is not None:
            scale[name] = site["scale"]
    return Factors(log_prob, scale, jacobian)


def _constrain(
    replay: Callable[..., Any], sites: tuple[str, ...], derived: tuple[str, ...], free: Any, data: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    trace, _ = replay(free, data)
    return {name: trace[name]["value"] for name in sites}, {name: jnp.asarray(trace[name]["value"]) for name in derived}


def _unconstrain(replay: Callable[..., Any], sites: tuple[str, ...], values: Any, data: Any) -> dict[str, Any]:
    from numpyro.distributions.transforms import biject_to

    values = {name: jnp.asarray(value) for name, value in values.items()}
    trace, _ = replay(values, {name: jnp.asarray(value) for name, value in data.items()}, free=False)
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
    model: Callable[..., Any],
    static: Mapping[str, Any],
    likelihoods: tuple[str, ...],
    values: dict[str, np.ndarray],
    data: dict[str, np.ndarray],
    seed: int,
) -> dict[str, np.ndarray]:
    """Simulate the observed variables, one simulation a draw; observed values in `data` are ignored."""
    from numpyro import handlers
    from numpyro.primitives import Messenger

    class Unobserve(Messenger):
        def process_message(self, msg: dict[str, Any]) -> None:
            if msg["type"] == "sample" and msg["name"] in likelihoods:
                msg["is_observed"], msg["value"] = False, None

    def simulate(rng: jax.Array, one: dict[str, jax.Array], data: dict[str, jax.Array]) -> dict[str, jax.Array]:
        seeded = handlers.seed(handlers.substitute(Unobserve(model), data=one), rng)
        trace = handlers.trace(seeded).get_trace(**data, **static)
        return {name: trace[name]["value"] for name in likelihoods}

    inputs = {name: value for name, value in data.items() if name not in static}
    n = len(next(iter(values.values())))
    keys = jax.random.split(key(seed, "predict"), n)
    simulated = jax.jit(jax.vmap(simulate, in_axes=(0, 0, None)))(keys, values, inputs)
    return {name: np.asarray(value) for name, value in simulated.items()}
