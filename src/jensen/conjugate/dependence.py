"""Which outputs of a traced function depend on which inputs: a forward walk over its jaxpr.

Dependence is structural (an input multiplied by zero counts). Calls are walked through, `scan` by a fixed point over its
carry, which is what keeps two chains that advance in one scan apart; every other primitive spreads all its inputs to all
its outputs, which is safe.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jensen.models.harvest import body


def dependence(function: Callable[..., Any], values: Mapping[str, Any], *rest: Any) -> Any:
    """For every output leaf of ``function(values, *rest)`` the names in `values` it depends on.

    Parameters
    ----------
    function
        Traceable by JAX.
    values
        Name -> array (or shape); one name is one input, whatever its shape.
    rest
        Further arguments, whose influence is not followed.

    Returns
    -------
    The output's tree with a frozenset of names at each leaf.
    """
    traced = jax.make_jaxpr(function, return_shape=True)(dict(values), *rest)
    closed, shapes = traced
    names = sorted(values)  # the order in which JAX flattens a dict
    sets = [frozenset({name}) for name in names]
    sets += [frozenset()] * (len(closed.jaxpr.invars) - len(names))
    outs = _walk(closed.jaxpr, sets)
    return jax.tree.unflatten(jax.tree.structure(shapes), outs)


def _walk(jaxpr: Any, inputs: list[frozenset[str]]) -> list[frozenset[str]]:
    known: dict[Any, frozenset[str]] = dict(zip(jaxpr.invars, inputs, strict=True))

    def of(atom: Any) -> frozenset[str]:
        return frozenset() if hasattr(atom, "val") else known.get(atom, frozenset())

    for equation in jaxpr.eqns:
        sets = [of(atom) for atom in equation.invars]
        for variable, found in zip(equation.outvars, _through(equation, sets), strict=True):
            known[variable] = found
    return [of(atom) for atom in jaxpr.outvars]


def _through(equation: Any, sets: list[frozenset[str]]) -> list[frozenset[str]]:
    params = equation.params
    if equation.primitive.name == "scan":
        return _through_scan(params, sets)
    inner = body(equation)
    if inner is not None:
        return _walk(getattr(inner, "jaxpr", inner), sets)
    return [frozenset().union(*sets)] * len(equation.outvars)


def _through_scan(params: Mapping[str, Any], sets: list[frozenset[str]]) -> list[frozenset[str]]:
    body = params["jaxpr"].jaxpr
    constants, carries = params["num_consts"], params["num_carry"]
    carry = sets[constants : constants + carries]
    while True:
        outs = _walk(body, [*sets[:constants], *carry, *sets[constants + carries :]])
        grown = [old | new for old, new in zip(carry, outs[:carries], strict=True)]
        if grown == carry:
            return [*carry, *outs[carries:]]
        carry = grown
