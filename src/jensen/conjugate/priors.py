"""`Prior`: E[log p(x)] of a Gaussian site, or of one whose logarithm or logit is Gaussian, under a prior of another kind.

    E[log p(x_i)] = sum_k w_k log p(x(m_i + sd_i t_k)),      t_k, w_k of Gauss and Hermite, x() exp or the inverse logit

The density is that of the model's own distribution, element by element. Front ends replay the whole model to give it, so it is
traced once for a graph and only the operations that lead to this node are kept: the data of all other nodes would be constants
of every program that holds a prior, and cost seconds to compile.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jensen.conjugate.hermite import expected
from jensen.conjugate.pieces import POINT
from jensen.conjugate.places import static
from jensen.conjugate.terms import NotConjugate
from jensen.conjugate.ways import Way
from jensen.models.graph import Graph, Node


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Prior:
    """E[log p(x)] over the marginals of a site of which a function is Gaussian (without the Jacobian).

    Attributes
    ----------
    index
        Elements of the site in its block.
    inputs
        Arrays that the density reads besides the value.
    log_prob
        (value, *inputs) -> log density of every element, in the shape of the site.
    """

    index: Any
    inputs: tuple[Any, ...]
    log_prob: Callable[..., Any] = static()
    shape: tuple[int, ...] = static()
    block: str = static()
    way: Way = static()

    def __call__(self, moments: Any) -> Any:
        """The sum over elements."""
        own = moments[self.block]
        if POINT in own:
            return self.at(own["mean"][self.index]).sum()
        return expected(jax.vmap(self.at), own["mean"][self.index], own["cov"][self.index]).sum()

    def at(self, x: Any) -> Any:
        """Log density of every element (n,) at the block's own variable x (n,) there."""
        value = jnp.reshape(self.way.value(x), self.shape)
        return jnp.reshape(self.log_prob(value, *self.inputs), (-1,))


def prior(
    graph: Graph,
    node: Node,
    data: Mapping[str, Any],
    points: Mapping[str, Any],
    index: np.ndarray,
    block: str,
    way: Way,
) -> Prior:
    """The piece of a latent node whose prior has no rule.

    Parameters
    ----------
    graph, node, data
        The model, the node, and the model's arrays.
    points
        Latent node -> any value; the density depends on no other latent than its own.
    index, block, way
        Where the site is in which block, and what the block holds of it.

    Raises
    ------
    NotConjugate
        When the density does not come element by element.
    """
    log_prob, reads, fixed = graph.remember(
        ("prior", node.name), lambda: _traced(graph, node.name, dict(data), dict(points))
    )
    flat = jax.tree.leaves(dict(data))
    if jax.eval_shape(lambda value: log_prob(value, *fixed, *(flat[n] for n in reads)), points[node.name]).shape != (
        node.shape
    ):
        raise NotConjugate({node.name}, f"{node.name} is {node.distribution}, for which there is no exact expectation")
    return Prior(index, (*fixed, *(flat[n] for n in reads)), log_prob, node.shape, block, way)


def _traced(graph: Graph, name: str, data: Any, points: Any) -> tuple[Callable[..., Any], list[int], tuple[Any, ...]]:
    """The density as a function (value, *inputs), which leaves of the data these are, after constants of the model's own."""

    def log_prob(value: Any, data: Any) -> Any:
        return jnp.asarray(graph.leaves({**points, name: value}, data)[name]["log_prob"], float)

    function, reads, fixed = trimmed(log_prob, [points[name]], data)
    return lambda *given: function(*given)[0], reads, fixed


def trimmed(
    function: Callable[..., Any], values: Sequence[Any], data: Any
) -> tuple[Callable[..., Any], list[int], tuple[Any, ...]]:
    """``function(*values, data)`` as a list of outputs of (*values, *inputs), without what they do not need.

    Also which leaves of the data are inputs, after constants of the model's own, and these constants.
    """
    closed = jax.make_jaxpr(function)(*values, data)
    jaxpr = closed.jaxpr
    wanted, equations = {v for v in jaxpr.outvars if not hasattr(v, "val")}, []
    for equation in reversed(jaxpr.eqns):
        if wanted & set(equation.outvars):
            equations.append(equation)
            wanted |= {v for v in equation.invars if not hasattr(v, "val")}
    own, rest = jaxpr.invars[: len(values)], jaxpr.invars[len(values) :]
    reads = [n for n, variable in enumerate(rest) if variable in wanted]
    some = [n for n, variable in enumerate(jaxpr.constvars) if variable in wanted]
    inputs = [*own, *(jaxpr.constvars[n] for n in some), *(rest[n] for n in reads)]
    short = core.Jaxpr((), inputs, jaxpr.outvars, equations[::-1], debug_info=jaxpr.debug_info.with_unknown_names())
    return core.jaxpr_as_fun(core.ClosedJaxpr(short, ())), reads, tuple(closed.consts[n] for n in some)
