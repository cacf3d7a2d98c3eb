"""The proof that a log density is the sum of the terms that were recorded while it ran.

With r_k in the place of the log densities of its calls, a density that calls distributions is a function f(theta, r). It is
sum r + constant, whatever the size of the data, if and only if

    df/dr_k = 1  elementwise, and  df/dtheta = 0    at all theta and r.

Both are tested at random points, as derivatives: a term of one's own cannot hide behind a million rows.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jensen.conjugate.certificate import draw
from jensen.core import keys
from jensen.core.compilation import FAST_COMPILE, signature
from jensen.core.errors import UnsupportedError
from jensen.models.density_graph import FLAT
from jensen.models.graph import Graph

_LIMIT = 1e-9
_STEPS = (0.0,) * 8
"""Points without terms, at which what is left must be one number: steps have no derivative."""


def constant_beside(graph: Graph, data: Mapping[str, Any], seed: int = 0) -> float:
    """What a recorded log density adds to the sum of its terms, a constant; refused where it is more than that.

    Parameters
    ----------
    graph
        Of any model; only those with `Graph.combined` are tested.
    data
        The model's arrays. Use float64.
    seed
        Of the random points.

    Returns
    -------
    float
        Zero for models that are no recorded densities.

    Raises
    ------
    UnsupportedError
        With what is not a sum.
    """
    if graph.combined is None:
        return 0.0
    combined, rng = graph.combined, keys.generator(seed, "sum of terms")
    latents = {node.name: node for node in graph.nodes if node.latent}
    arrays, laws = dict(data), {node.name: node.distribution for node in graph.nodes if node.distribution != FLAT}
    shapes = jax.eval_shape(graph.densities, {name: draw(node, rng) for name, node in latents.items()}, arrays)

    def at(scale: float) -> Any:
        values = {name: draw(node, rng) for name, node in latents.items()}
        terms = {name: scale * rng.standard_normal(shapes[name].shape) for name in laws}

        def build() -> Any:
            program = jax.jit(jax.value_and_grad(combined, (0, 1)))
            return program.lower(values, terms, arrays).compile(compiler_options=FAST_COMPILE)

        compiled = graph.remember(("sum of terms", signature((values, terms, arrays))), build)
        return jax.device_get(compiled(values, terms, arrays))

    found = [at(scale) for scale in (1.0, 1.0, *_STEPS)]
    for name, law in laws.items():
        slopes = np.array([by_term[name] for _, (_, by_term) in found[:2]])
        if not np.abs(slopes - 1.0).max(initial=0.0) < _LIMIT:
            times = "in another way than by a sum" if not np.ptp(slopes) < _LIMIT else f"{slopes.flat[0]:g} times"
            raise UnsupportedError(
                f"the log density takes the term {name} ({law}) {times}, and conjugacy is known of plain sums; add .sum() of "
                "every log_prob once (terms that are added as arrays are repeated), write states that are summed out by "
                "logsumexp as discrete sites of a NumPyro or PyMC model, or use method='auto'."
            )
    for _, (by_value, _) in found:
        for name, slope in by_value.items():
            if not np.abs(slope).max(initial=0.0) < _LIMIT:
                raise _own_terms(f" in {name}")
    constants = [float(total) for total, _ in found[2:]]
    if not np.ptp(constants) <= _LIMIT * (1.0 + abs(constants[0])):
        raise _own_terms("")
    return constants[0]


def _own_terms(about: str) -> UnsupportedError:
    return UnsupportedError(
        f"the log density has terms{about} outside of distributions, of whose conjugacy nothing is known; write them with "
        "log_prob of a NumPyro distribution or with jax.scipy.stats, or use method='auto'."
    )
