"""Run a NumPyro model under its own effect handlers: once on abstract values, later with given values substituted.

NumPyro's handlers do the work: ``seed`` and ``substitute`` give every latent site its value, ``trace`` collects the sites,
plates and deterministics. Bijections are derived inside the replay, because a support may depend on other sites. Discrete
latent sites take integers, zero where none are given.

Reference: Phan, Pradhan, Jankowiak (2019), Composable effects for flexible and accelerated probabilistic programming in
NumPyro, arXiv:1912.11554.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jensen.core.errors import DataError, UnsupportedError
from jensen.models.misfit import CONCRETIZATION, first_line, is_about_shapes, shapes

Trace = dict[str, Any]


def name_of(model: Callable[..., Any]) -> str:
    """What to call a model function in sentences."""
    model = getattr(model, "__wrapped__", model)
    return getattr(model, "__name__", None) or type(model).__name__


def is_factor(site: Mapping[str, Any]) -> bool:
    """`numpyro.factor` statements are sample sites with an auxiliary distribution and an empty value."""
    return bool(site["infer"].get("is_auxiliary")) or type(site["fn"]).__name__ == "Unit"


def is_scanned(site: Mapping[str, Any]) -> bool:
    """Whether the site is stacked along the time axis of a ``numpyro.contrib.control_flow.scan``."""
    return "_scan_current_index" in site["infer"]


def is_discrete(fn: Any) -> bool:
    """Whether a distribution has a discrete support."""
    return fn.support is not None and fn.support.is_discrete


def bare(fn: Any) -> tuple[Any, bool]:
    """The distribution inside the wrappers of plates and events, and whether a mask was among them."""
    from numpyro.distributions import ExpandedDistribution, Independent
    from numpyro.distributions.distribution import MaskedDistribution

    masked = False
    while isinstance(fn, ExpandedDistribution | Independent | MaskedDistribution):
        masked = masked or isinstance(fn, MaskedDistribution)
        fn = fn.base_dist
    return fn, masked


def levels(fn: Any) -> int | None:
    """Number of values of a scalar discrete distribution on 0 .. levels - 1; None for all others."""
    base, _ = bare(fn)
    if base.event_dim or not is_discrete(base):
        return None
    if type(base.support).__name__ == "_Boolean":
        return 2
    lower, upper = getattr(base.support, "lower_bound", None), getattr(base.support, "upper_bound", None)
    if lower is None or upper is None or isinstance(lower, Tracer) or isinstance(upper, Tracer):
        return None
    return int(np.max(upper)) + 1 if np.all(np.asarray(lower) == 0) and np.ptp(upper) == 0 else None


def words(constraint: Any) -> str:
    """A support in words."""
    base = getattr(constraint, "base_constraint", constraint)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(base).__name__.strip("_")).lower()


def bounds(constraint: Any) -> tuple[float, float] | None:
    """Ends of an interval, a half-line or the real line; None for other supports, and ends that are no single numbers."""
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    if type(constraint).__name__ == "_Real":
        return -np.inf, np.inf
    low, high = getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", np.inf)
    if low is None or isinstance(low, Tracer) or isinstance(high, Tracer) or np.ndim(low) or np.ndim(high):
        return None
    return float(low), float(high)


def unsummed(name: str, distribution: str) -> UnsupportedError:
    """The refusal of a discrete latent site, wherever one cannot be taken."""
    return UnsupportedError(
        f"site {name} is discrete ({distribution}), and gradients need continuous sites; sum it out by hand "
        "(numpyro.factor with logsumexp), or use a mixture distribution such as MixtureSameFamily."
    )


def abstract_trace(model: Callable[..., Any], inputs: Mapping[str, Any], static: Mapping[str, Any]) -> Trace:
    """Run the model once on abstract values; every latent site takes the image of zero.

    Sample sites get three entries besides NumPyro's own: ``support`` in words, ``levels`` (see `levels`), and, where they are
    latent and continuous, ``free_shape``, the shape in the unconstrained space.
    """
    from numpyro import handlers
    from numpyro.distributions.transforms import biject_to

    def substitute(site: Mapping[str, Any]) -> Any:
        _refuse(site)
        if site["type"] != "sample" or site["is_observed"] or is_factor(site):
            return None
        name, fn = site["name"], site["fn"]
        if is_discrete(fn):
            if levels(fn) is None:
                raise unsummed(name, type(fn).__name__)
            return jnp.zeros(_shape(site), int)
        try:
            transform = biject_to(fn.support)
        except NotImplementedError as error:
            raise UnsupportedError(
                f"site {name} has the support {words(fn.support)} ({type(fn).__name__}), for which there is no transform "
                "from the real line; write it as a function of sites on the real line, with numpyro.deterministic."
            ) from error
        free_shapes[name] = tuple(transform.inverse_shape(_shape(site)))
        return transform(jnp.zeros(free_shapes[name]))

    found: Trace = {}
    free_shapes: dict[str, tuple[int, ...]] = {}

    def run(inputs: Mapping[str, Any]) -> None:
        # Shapes and supports are taken here: they may depend on values, which are gone once the abstract trace has ended.
        seeded = handlers.seed(handlers.substitute(model, substitute_fn=substitute), jax.random.key(0))
        found.update(handlers.trace(seeded).get_trace(**inputs, **static))
        for name, site in found.items():
            if site["type"] != "sample" or is_factor(site):
                continue
            site["support"] = "discrete" if is_discrete(site["fn"]) else words(site["fn"].support)
            site["levels"] = levels(site["fn"])
            if name in free_shapes:
                # In a scan the handler saw one step of the sequence.
                steps = jnp.shape(site["value"])[:1] if is_scanned(site) else ()
                site["free_shape"] = (*steps, *free_shapes[name])

    try:
        jax.eval_shape(run, dict(inputs))
    except CONCRETIZATION:
        raise
    except (TypeError, ValueError, IndexError, AssertionError) as error:
        if isinstance(error, TypeError) and "argument" in first_line(error):
            raise DataError(
                f"the arguments do not fit the model {name_of(model)}: {first_line(error)}; data= must name the model's "
                "arguments."
            ) from error
        if not is_about_shapes(error) or not (inputs or static):
            raise
        raise DataError(
            f"shapes do not fit in the model {name_of(model)}: {first_line(error)}; the data have shapes "
            f"{shapes({**inputs, **static})}."
        ) from error
    return found


def _refuse(site: Mapping[str, Any]) -> None:
    """Statements that have no posterior."""
    if site["type"] in ("param", "mutable"):
        raise UnsupportedError(
            f"site {site['name']} is a numpyro.{site['type']}, which has no posterior; give it a prior with numpyro.sample "
            "or make it a constant."
        )


def _shape(site: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of a latent site's value; ``sample_shape`` of a statement adds to its distribution's."""
    return (*site["kwargs"].get("sample_shape", ()), *site["fn"].shape())


def replay(
    model: Callable[..., Any], static: Mapping[str, Any], values: Any, data: Mapping[str, Any], free: bool = True
) -> tuple[Trace, dict[str, Any]]:
    """Run the model with given site values (unconstrained if `free`); return its trace and the log Jacobians.

    Discrete latent sites take their integers from `values` as they are, and zeros where they are not there.
    """
    from numpyro import handlers
    from numpyro.distributions.transforms import biject_to

    def substitute(site: Mapping[str, Any]) -> Any:
        if site["type"] != "sample" or site["is_observed"]:
            return None
        name = site["name"]
        if is_discrete(site["fn"]):
            value = jnp.asarray(values[name]) if name in values else jnp.zeros(_shape(site), int)
            # As NumPyro draws them, so that a scan's carry keeps its dtype.
            return value.astype(int) if value.dtype.kind in "biu" else value
        if name not in values:
            return None
        value = jnp.asarray(values[name])
        return biject_to(site["fn"].support)(value) if free else value

    seeded = handlers.seed(handlers.substitute(model, substitute_fn=substitute), jax.random.key(0))
    trace = handlers.trace(seeded).get_trace(**data, **static)
    jacobian = {}
    for name, site in trace.items():
        if not free or site["type"] != "sample" or site["is_observed"] or name not in values or is_discrete(site["fn"]):
            continue
        transform = biject_to(site["fn"].support)
        if site["fn"].support.event_dim or type(transform).__name__ != "IdentityTransform":
            # Derived from the trace and not in the handler: within a scan the handler sees one step.
            jacobian[name] = jnp.asarray(transform.log_abs_det_jacobian(values[name], site["value"]))
    return trace, jacobian


def log_densities(trace: Trace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Log density of each sample site, batch-shaped and unscaled, and the scales of those that have one."""
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
    return log_prob, scale
