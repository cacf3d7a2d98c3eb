"""The terms of a log density that was traced while its calls of distributions were recorded, wherever these calls are.

`sow` leaves the equation  r = term(r, leaves)  in the jaxpr: the identity on a log density r, beside the parameters and the
value it is of. `gather` runs that jaxpr and takes the terms out as arrays that exist outside of all loops,

    jax.vmap      one axis more, in front of r and of the leaves (length one where a leaf is the same along it)
    lax.scan      the same, with r and leaves stacked along the steps
    jit, remat    opened

and, where answers are given, with these in the place of r: the density as a function of its terms. Terms inside of a
``lax.cond`` or ``lax.while_loop`` are counted an unknown number of times, and refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, jaxprs_in_params
from jax.interpreters import ad, batching

from jensen.core.errors import UnsupportedError
from jensen.models.graph import Node

_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_MATRICES = ("precision", "covariance", "scale_tril")
_VECTORS = {
    "MultivariateNormal": ("loc",),
    "Dirichlet": ("concentration",),
    "Categorical": ("probs", "logits"),
    "Multinomial": ("probs", "logits"),
}


@dataclass(frozen=True, slots=True)
class Law:
    """What is known of a term without its numbers.

    Attributes
    ----------
    node
        As if it were latent; its name is empty.
    ends
        Of its support, as two numbers, perhaps infinite; None where it has none.
    leaves
        Names of the leaves, ``"value"`` first.
    ranks
        Number of axes of each, when it has all of the node's.
    """

    node: Node
    ends: tuple[float, float] | None
    leaves: tuple[str, ...]
    ranks: tuple[int, ...]

    def along(self, length: int) -> "Law":
        """The law of so many of them, along a new first axis."""
        shape = (length, *self.node.shape)
        return replace(self, node=replace(self.node, shape=shape), ranks=tuple(rank + 1 for rank in self.ranks))


class Term(NamedTuple):
    """A term: its law, its leaves, and its log density, batch-shaped."""

    law: Law
    leaves: dict[str, Any]
    result: Any


def sow(fn: Any, value: Any, result: Any) -> Any:
    """The log density that NumPyro's distribution gave of a value, as a term of what is being traced."""
    from jensen.models.numpyro_graph import leaves, node
    from jensen.models.numpyro_trace import bare, bounds, is_discrete, words

    value = jnp.asarray(value)
    support = "discrete" if is_discrete(fn) else words(fn.support)
    site = {"fn": fn, "value": value, "scale": None, "infer": {}, "support": support, "levels": None}
    own = node("", {**site, "is_observed": False})
    found = {name: jnp.asarray(leaf) for name, leaf in leaves({"": own.kind}, {"": site})[""].items()}
    event = 0 if own.kind == "Normal" else bare(fn)[0].event_dim
    rows = len(own.shape) - event
    ranks = tuple(rows + (event if name == "value" else _event(own.kind, name)) for name in found)
    return _term.bind(jnp.asarray(result), *found.values(), law=Law(own, bounds(fn.support), tuple(found), ranks))


def _event(kind: str, leaf: str) -> int:
    """Axes of one row of a leaf."""
    if leaf in _MATRICES or (kind, leaf) in (("Wishart", "rate"), ("InverseWishart", "scale")):
        return 2
    return int(leaf in _VECTORS.get(kind, ()))


def gather(
    function: Callable[..., Any], *args: Any, answers: Sequence[Any] | None = None
) -> tuple[list[Term], list[Any]]:
    """Run a function, and take out the terms that are sown in it.

    Parameters
    ----------
    function, args
        Traceable by JAX; call it while recording.
    answers
        Arrays in the place of the terms' log densities, in their order; None for their own.

    Returns
    -------
    terms, outputs
        The outputs flat.

    Raises
    ------
    UnsupportedError
        When a term is inside of a branch or of a loop whose number of steps is not known.
    """
    closed = jax.make_jaxpr(function)(*args)
    flat = [jnp.asarray(leaf) for leaf in jax.tree.leaves(args)]
    return _run(closed.jaxpr, closed.consts, flat, answers)


def sown(jaxpr: Any) -> int:
    """Number of terms in a jaxpr, those within loops counted once."""
    inner = (sown(some) for equation in jaxpr.eqns for some in jaxprs_in_params(equation.params))
    return sum(equation.primitive is _term for equation in jaxpr.eqns) + sum(inner)


def body(equation: Any) -> Any:
    """The jaxpr that an equation does nothing but run on its inputs; None when it is of another kind."""
    for word in _BODIES if equation.primitive.name != "scan" else ():
        inner = equation.params.get(word)
        plain = getattr(inner, "jaxpr", inner)
        if plain is not None and hasattr(plain, "eqns") and len(plain.invars) == len(equation.invars):
            return inner
    return None


# -- the equation ---------------------------------------------------------------------------------------------------------------

_term = Primitive("term")
_term.def_impl(lambda result, *_, law: result)
_term.def_abstract_eval(lambda result, *_, law: result)
# Slopes of a term are no term; a density that takes them is then more than the sum of what is found, and refused.
ad.primitive_jvps[_term] = lambda primals, tangents, law: (primals[0], tangents[0])


def _batched(args: Sequence[Any], dims: Sequence[int | None], law: Law) -> tuple[Any, int]:
    length = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
    result, *leaves = (_first(x, d) for x, d in zip(args, dims, strict=True))
    result = jnp.broadcast_to(result, (length, *result.shape[1:]))
    leaves = (_spread(x, rank) for x, rank in zip(leaves, law.ranks, strict=True))
    return _term.bind(result, *leaves, law=law.along(length)), 0


def _first(x: Any, axis: int | None) -> Any:
    # What is in front stays the same array: a site is then known to be the value of its prior.
    return x[None] if axis is None else jnp.moveaxis(x, axis, 0) if axis else x


batching.primitive_batchers[_term] = _batched


def _spread(leaf: Any, rank: int) -> Any:
    """A leaf with all of a row's axes behind its first."""
    missing = rank + 1 - leaf.ndim
    return leaf.reshape(leaf.shape[0], *(1,) * missing, *leaf.shape[1:]) if missing > 0 else leaf


# -- its interpreter ------------------------------------------------------------------------------------------------------------


def _run(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], answers: Any) -> tuple[list[Term], list[Any]]:
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    terms: list[Term] = []

    def of(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else known[atom]

    for equation in jaxpr.eqns:
        given, primitive = [of(atom) for atom in equation.invars], equation.primitive
        inner = body(equation)
        count = sum(sown(some) for some in jaxprs_in_params(equation.params))
        own = answers if answers is None else answers[len(terms) :][:count]
        found: list[Term] = []
        if primitive is _term:
            result, *leaves = given
            law = equation.params["law"]
            outs = [result if answers is None else jnp.asarray(answers[len(terms)], result.dtype)]
            found = [Term(law, dict(zip(law.leaves, leaves, strict=True)), result)]
        elif not count:
            outs = primitive.bind(*given, **primitive.get_bind_params(equation.params))
            outs = outs if primitive.multiple_results else [outs]
        elif primitive.name == "scan":
            found, outs = _scanned(equation.params, given, own)
        elif inner is not None:
            found, outs = _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given, own)
        else:
            raise UnsupportedError(
                f"the log density calls distributions inside of a lax.{primitive.name}, and how often is not known before it "
                "runs; call them outside, on whole arrays, under jax.vmap or in a lax.scan, or use method='auto'."
            )
        terms += found
        known |= zip(equation.outvars, outs, strict=True)
    return terms, [of(atom) for atom in jaxpr.outvars]


def _scanned(params: Any, given: Sequence[Any], answers: Any) -> tuple[list[Term], list[Any]]:
    """A scan with the terms of all its steps, beside its own results."""
    closed, first, length = params["jaxpr"], params["num_consts"], params["length"]
    last = first + params["num_carry"]
    consts, start, rows = given[:first], given[first:last], given[last:]
    seen: list[tuple[Law, list[int | None]]] = []

    def step(carry: Any, row: Any) -> Any:
        some, own = row
        inside = [*consts, *carry, *some]
        terms, outs = _run(closed.jaxpr, closed.consts, inside, own)
        made = []
        seen.clear()
        for term in terms:
            origin = [next((n for n, x in enumerate(inside) if x is leaf), None) for leaf in term.leaves.values()]
            # What is read as it comes need not be stacked, and stays what it is outside: data, or a site under its prior.
            origin = [n if n is None or n < first or n >= last else None for n in origin]
            seen.append((term.law, origin))
            made.append([leaf for leaf, n in zip(term.leaves.values(), origin, strict=True) if n is None])
        return outs[: last - first], (outs[last - first :], [term.result for term in terms], made)

    carry, (outs, results, made) = jax.lax.scan(step, start, (rows, answers), length, params["reverse"])
    terms = []
    for (law, origin), result, stacked in zip(seen, results, made, strict=True):
        new = iter(stacked)
        leaves = (next(new) if n is None else given[n] if n >= last else given[n][None] for n in origin)
        spread = [_spread(leaf, rank) for leaf, rank in zip(leaves, law.ranks, strict=True)]
        terms.append(Term(law.along(length), dict(zip(law.leaves, spread, strict=True)), result))
    return terms, [*carry, *outs]
