"""The `Graph` of a plain log density that is written by calling distributions.

    log p(theta, data) = sum_k log p_k(x_k | parameters_k) + constant

A call whose value is a parameter itself is the parameter's prior (the first one is), every other call a factor of its own, named
after the data that are its value. A real parameter without a prior is flat. Whether the density is the sum of these calls is
proved where the data are known (`jensen.conjugate.summed`).

The calls are recorded anew whenever a function of the graph runs (`jensen.models.recorded`), so that parameters of distributions
stay the user's own code. From then on everything is as for a model in NumPyro.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.errors import UnsupportedError
from jensen.core.layout import Site
from jensen.models.graph import Graph, Leaves, Node
from jensen.models.recorded import Call, recording

FLAT = "flat"
"""What a parameter without a prior has in the place of a distribution's name."""
_INTERVALS = {"real": (-np.inf, np.inf), "positive": (0.0, np.inf), "unit interval": (0.0, 1.0)}

Evaluate = Callable[[Mapping[str, Any], Any], Any]


def graph(evaluate: Evaluate, name: str, sites: Sequence[Site], data: Mapping[str, Any]) -> Graph:
    """The graph of a log density.

    Parameters
    ----------
    evaluate
        ``(values, data) -> log density``, a scalar, with the values in the density's own space.
    name
        Of the density, for messages.
    sites
        Its parameters, with their supports as declared.
    data
        Name -> array, or anything with a shape and a dtype.

    Raises
    ------
    UnsupportedError
        When a call is inside of a ``jax.vmap``, ``jax.jit`` or ``lax.scan``, a parameter's prior has another support than was
        declared, or a parameter that is not real has no prior.
    """
    structs = {key: jax.ShapeDtypeStruct(np.shape(array), np.result_type(array)) for key, array in data.items()}
    real = jax.dtypes.canonicalize_dtype(np.float64)
    values = {site.name: jax.ShapeDtypeStruct(site.shape, real) for site in sites}
    found: list[Any] = []

    def run(values: Any, data: Any) -> list[Any]:
        calls, _ = _calls(evaluate, values, data)
        _refuse_inside(calls, name)
        # Shapes and supports are taken here: they may depend on values, which are gone once the trace has ended.
        found.extend((_pseudo(call), call.fn.support, jnp.shape(call.value)) for call in calls)
        return [jnp.asarray(call.value) for call in calls]

    closed = jax.make_jaxpr(run)(values, structs)
    keys = [*((key, True) for key in sorted(values)), *((key, False) for key in sorted(structs))]
    own = {id(variable): key for variable, key in zip(closed.jaxpr.invars, keys, strict=True)}
    names, priors = _names([own.get(id(variable)) for variable in closed.jaxpr.outvars], found, sites)
    nodes = []
    for site in sites:
        number = priors.get(site.name)
        if number is None:
            nodes.append(_flat(site))
        else:
            nodes.append(_node(site.name, found[number], latent=True))
            _check_support(site, nodes[-1], found[number][1])
    nodes += [_node(one, found[k], latent=False) for k, one in enumerate(names) if k not in priors.values()]
    kinds = {node.name: node.kind for node in nodes if node.name in names}
    flat = tuple(node for node in nodes if node.name not in names)
    return Graph(
        tuple(nodes),
        partial(_leaves, evaluate, names, kinds, flat),
        partial(_densities, evaluate, names, flat),
        partial(_combined, evaluate, names),
    )


def _calls(evaluate: Evaluate, values: Any, data: Any, answers: Any = None) -> tuple[list[Call], Any]:
    from numpyro.distributions.distribution import validation_enabled

    values = {key: jnp.asarray(value) for key, value in values.items()}
    with validation_enabled(False), recording(answers) as calls:
        total = evaluate(values, data)
    return calls, total


def _refuse_inside(calls: Sequence[Call], name: str) -> None:
    for call in calls:
        if call.inside:
            raise UnsupportedError(
                f"{name} calls {_title(call)} inside of a jax.vmap, jax.jit or scan of its own, where its parameters cannot be "
                "looked at; call it once on whole arrays, or use method='auto'."
            )


def _title(call: Call) -> str:
    from jensen.models.numpyro_trace import bare

    return type(bare(call.fn)[0]).__name__


def _pseudo(call: Call) -> dict[str, Any]:
    """The call as a sample site of NumPyro's."""
    from jensen.models.numpyro_trace import is_discrete, words

    support = "discrete" if is_discrete(call.fn) else words(call.fn.support)
    return {
        "type": "sample",
        "fn": call.fn,
        "value": call.value,
        "scale": None,
        "infer": {},
        "support": support,
        "levels": None,
        "intermediates": [],
    }


def _node(name: str, found: Any, latent: bool) -> Node:
    from jensen.models.numpyro_graph import node

    return node(name, {**found[0], "is_observed": not latent})


def _names(
    origins: Sequence[tuple[str, bool] | None], found: Sequence[Any], sites: Sequence[Site]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """A name for every call, and the numbers of those that are priors."""
    shapes = {site.name: site.shape for site in sites}
    priors: dict[str, int] = {}
    for number, origin in enumerate(origins):
        # A scalar under a prior of many rows is counted once a row: that is a factor.
        if origin and origin[1] and origin[0] not in priors and _shape(found[number]) == shapes[origin[0]]:
            priors[origin[0]] = number
    names = {number: name for name, number in priors.items()}
    for number, origin in enumerate(origins):
        if number not in names:
            wanted = origin[0] if origin else f"term {number + 1}"
            taken = {*names.values(), *shapes}
            names[number] = wanted if wanted not in taken else f"{wanted} (term {number + 1})"
    return tuple(names[number] for number in range(len(origins))), priors


def _shape(found: Any) -> tuple[int, ...]:
    site, _, shape = found
    fn = site["fn"]
    rows = shape[: len(shape) - fn.event_dim]
    return (*np.broadcast_shapes(rows, tuple(fn.batch_shape)), *fn.event_shape)


def _flat(site: Site) -> Node:
    if site.support != "real":
        raise UnsupportedError(
            f"{site.name} is declared {site.support}, and no distribution that the density calls has it as its value, so its "
            "prior is not known; call one, such as Gamma or HalfNormal, or use method='auto'."
        )
    return Node(site.name, "Flat", FLAT, True, site.shape, len(site.shape))


def _check_support(site: Site, node: Node, support: Any) -> None:
    """The declared support and the prior's must be one: else the density is that of a truncated prior, or minus infinity."""
    from jensen.models.numpyro_trace import bounds

    declared = site.support.replace("_", " ")
    if declared.replace(" ", "") == node.support.replace(" ", ""):
        return
    one, other = _interval(site.support), bounds(support)
    if one is None or other is None or one != other:
        prior = node.support if other is None or node.support in _INTERVALS else f"{node.support} {other}"
        raise UnsupportedError(
            f"{site.name} is declared {declared}, but its prior {node.distribution} is on the support {prior}; make them the "
            "same in support= of jn.density, or take a prior on the declared one (such as HalfNormal or TruncatedNormal)."
        )


def _interval(word: str) -> tuple[float, float] | None:
    """Bounds of a support as a density's site has it in words."""
    if word.startswith("("):
        low, high = word.strip("()").split(", ")
        return float(low), float(high)
    return _INTERVALS.get(word.replace("_", " "))


def _trace(evaluate: Evaluate, names: Sequence[str], values: Any, data: Any) -> dict[str, Any]:
    calls, _ = _calls(evaluate, values, data)
    return {name: {"fn": call.fn, "value": call.value} for name, call in zip(names, calls, strict=True)}


def _leaves(
    evaluate: Evaluate,
    names: Sequence[str],
    kinds: Mapping[str, str],
    flat: Sequence[Node],
    values: Mapping[str, Any],
    data: Mapping[str, Any],
) -> Leaves:
    from jensen.models.numpyro_graph import leaves

    found = leaves(kinds, _trace(evaluate, names, values, data))
    return {**found, **{node.name: {"value": jnp.asarray(values[node.name])} for node in flat}}


def _densities(
    evaluate: Evaluate, names: Sequence[str], flat: Sequence[Node], values: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, Any]:
    calls, _ = _calls(evaluate, values, data)
    found = {name: jnp.asarray(call.result) for name, call in zip(names, calls, strict=True)}
    return {**found, **{node.name: jnp.zeros(()) for node in flat}}


def _combined(
    evaluate: Evaluate,
    names: Sequence[str],
    values: Mapping[str, Any],
    terms: Mapping[str, Any],
    data: Mapping[str, Any],
) -> Any:
    calls, total = _calls(evaluate, values, data, [terms[name] for name in names])
    assert len(calls) == len(names)
    return jnp.asarray(total, float)
