"""The `Graph` of a plain log density that is written by calling distributions.

    log p(theta, data) = sum_k log p_k(x_k | parameters_k) + constant

A call whose value is a parameter itself is the parameter's prior (the first one is), every other call a factor of its own, named
after the data that are its value. A real parameter without a prior is flat. Whether the density is the sum of these calls is
proved where the data are known (`jensen.conjugate.summed`).

The calls are recorded anew whenever a function of the graph runs (`jensen.models.recorded`, `jensen.models.harvest`), so that
parameters of distributions stay the user's own code; calls under jax.vmap or in a scan are one term with an axis more. From then
on everything is as for a model in NumPyro.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jensen.core.errors import UnsupportedError
from jensen.core.layout import Site
from jensen.models.graph import Graph, Leaves, Node
from jensen.models.harvest import Law, Term, gather
from jensen.models.recorded import recording

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
        When a call is inside of a branch or of a loop of unknown length, a parameter's prior has another support than was
        declared, or a parameter that is not real has no prior.
    """
    structs = {key: jax.ShapeDtypeStruct(np.shape(array), np.result_type(array)) for key, array in data.items()}
    real = jax.dtypes.canonicalize_dtype(np.float64)
    values = {site.name: jax.ShapeDtypeStruct(site.shape, real) for site in sites}
    laws: list[Law] = []

    def run(values: Any, data: Any) -> list[Any]:
        terms, _ = _terms(evaluate, values, data)
        laws.extend(term.law for term in terms)
        return [term.leaves["value"] for term in terms]

    closed = jax.make_jaxpr(run)(values, structs)
    keys = [*((key, True) for key in sorted(values)), *((key, False) for key in sorted(structs))]
    own = {id(variable): key for variable, key in zip(closed.jaxpr.invars, keys, strict=True)}
    names, priors = _names([own.get(id(variable)) for variable in closed.jaxpr.outvars], laws, sites)
    nodes = []
    for site in sites:
        number = priors.get(site.name)
        if number is None:
            nodes.append(_flat(site))
        else:
            nodes.append(replace(laws[number].node, name=site.name))
            _check_support(site, laws[number])
    for number, one in enumerate(names):
        if number not in priors.values():
            nodes.append(replace(laws[number].node, name=one, latent=False, bounds=None))
    flat = tuple(node for node in nodes if node.name not in names)
    return Graph(
        tuple(nodes),
        partial(_leaves, evaluate, names, flat),
        partial(_densities, evaluate, names, flat),
        partial(_combined, evaluate, names),
    )


def _terms(evaluate: Evaluate, values: Any, data: Any, answers: Any = None) -> tuple[list[Term], Any]:
    from numpyro.distributions.distribution import validation_enabled

    with validation_enabled(False), recording():
        terms, outputs = gather(evaluate, dict(values), dict(data), answers=answers)
    return terms, outputs[0]


def _names(
    origins: Sequence[tuple[str, bool] | None], laws: Sequence[Law], sites: Sequence[Site]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """A name for every term, and the numbers of those that are priors."""
    shapes = {site.name: site.shape for site in sites}
    priors: dict[str, int] = {}
    for number, origin in enumerate(origins):
        # A scalar under a prior of many rows is counted once a row: that is a factor.
        if origin and origin[1] and origin[0] not in priors and laws[number].node.shape == shapes[origin[0]]:
            priors[origin[0]] = number
    names = {number: name for name, number in priors.items()}
    for number, origin in enumerate(origins):
        if number not in names:
            wanted = origin[0] if origin else f"term {number + 1}"
            taken = {*names.values(), *shapes}
            names[number] = wanted if wanted not in taken else f"{wanted} (term {number + 1})"
    return tuple(names[number] for number in range(len(origins))), priors


def _flat(site: Site) -> Node:
    if site.support != "real":
        raise UnsupportedError(
            f"{site.name} is declared {site.support}, and no distribution that the density calls has it as its value, so its "
            "prior is not known; call one, such as Gamma or HalfNormal, or use method='auto'."
        )
    return Node(site.name, "Flat", FLAT, True, site.shape, len(site.shape))


def _check_support(site: Site, law: Law) -> None:
    """The declared support and the prior's must be one: else the density is that of a truncated prior, or minus infinity."""
    declared, node = site.support.replace("_", " "), law.node
    if declared.replace(" ", "") == node.support.replace(" ", ""):
        return
    one, other = _interval(site.support), law.ends
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


def _leaves(
    evaluate: Evaluate, names: Sequence[str], flat: Sequence[Node], values: Mapping[str, Any], data: Mapping[str, Any]
) -> Leaves:
    terms, _ = _terms(evaluate, values, data)
    found = {name: term.leaves for name, term in zip(names, terms, strict=True)}
    return {**found, **{node.name: {"value": jnp.asarray(values[node.name])} for node in flat}}


def _densities(
    evaluate: Evaluate, names: Sequence[str], flat: Sequence[Node], values: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, Any]:
    terms, _ = _terms(evaluate, values, data)
    found = {name: term.result for name, term in zip(names, terms, strict=True)}
    return {**found, **{node.name: jnp.zeros(()) for node in flat}}


def _combined(
    evaluate: Evaluate,
    names: Sequence[str],
    values: Mapping[str, Any],
    results: Mapping[str, Any],
    data: Mapping[str, Any],
) -> Any:
    _, total = _terms(evaluate, values, data, [results[name] for name in names])
    return jnp.asarray(total, float)
