"""The `Model` record: what every front end produces and everything downstream reads.

A model is a log density on R^D, kept in its parts: for each site or observed variable a *factor* (batch-shaped, unscaled
log density), for each factor a *scale* (1, or total size over batch size), and for each constrained site the log Jacobian
of its transform. The sum is

    log p(z, data) = sum_f scale_f * sum(factor_f) + sum_s jacobian_s.

ELBO, pointwise log-likelihood, error messages and (later) minibatch scaling and conjugacy all read these parts; there is no
second source of log densities. Data are always an argument: never closed over, so that programs stay small and a second
fit with new data of the same shape compiles nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jensen.core import layout
from jensen.core.layout import Derived, Site
from jensen.models.graph import Graph

Arrays = Mapping[str, Any]
MANY_ROWS = 20_000


class Factors(NamedTuple):
    """The parts of a log density at one point.

    Attributes
    ----------
    log_prob
        Factor name -> batch-shaped, unscaled log density in the constrained space.
    scale
        Factor name -> what `log_prob` is multiplied by, a number or an array that broadcasts with it; factors not named have
        scale 1.
    jacobian
        Site name -> log determinant of the transform from unconstrained to constrained values.
    """

    log_prob: dict[str, Any]
    scale: dict[str, Any]
    jacobian: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Model:
    """What is inferred: sites, factors, data, and the way back to the user's model.

    Attributes
    ----------
    name
        For people.
    language
        ``"PyMC"``, ``"NumPyro"`` or ``"log density"``.
    sites
        Latent variables, in the order of the flat vector.
    data
        Name -> NumPy array: the inputs of every function below.
    factors
        Pure JAX function ``(free, data) -> Factors`` with ``free`` = site name -> unconstrained array.
    constrain
        Pure JAX function ``(free, data) -> (values, derived)``: constrained sites, deterministics.
    unconstrain
        Function ``(values, data) -> free``, the inverse for the sites.
    likelihoods
        Names of the factors that belong to observed variables, as opposed to priors and potentials.
    derived
        Deterministic quantities, in order.
    coords, dims
        Coordinate values by dimension; dimension names by variable (sites, deterministics, observed, data).
    observed
        Observed variable -> array, for the export.
    constants
        Names of `data` that are not observed values (covariates), for the export.
    predict
        Host function ``(values, data, seed) -> {name: (draws, ...)}`` with ``values`` = constrained site draws, draws
        first; None where the front end cannot simulate.
    source
        The user's own object.
    notes
        Sentences worth telling (an argument that had to be static, for example).
    discrete
        Names of the discrete latent variables, in the order of the model. They have no place in the flat vector; `factors`
        and `constrain` take their integers in `free` as they are, and zeros where they are not given.
    graph
        Makes the `Graph` of the model when called, the same one each time, in the precision in which the model was read;
        None where the front end has none.
    resized
        Function ``(data, lengths) -> Model``: the same model for other rows. `data` has every array of the record, some of
        them longer or shorter; `lengths` maps the old length of what changed to the new one, for plates, dimensions and
        shapes whose length is written in the model. Factors are scaled as in the full model, whatever the number of rows.
        Called again with the same shapes it returns the same functions. None where the front end cannot.
    batch_size
        Rows of a minibatch, where the model says so itself (``pm.Minibatch``, ``subsample_size=``); plate -> rows for several.
    """

    name: str
    language: str
    sites: tuple[Site, ...]
    data: dict[str, np.ndarray]
    factors: Callable[[Arrays, Arrays], Factors]
    constrain: Callable[[Arrays, Arrays], tuple[dict[str, Any], dict[str, Any]]]
    unconstrain: Callable[[Arrays, Arrays], dict[str, Any]]
    likelihoods: tuple[str, ...] = ()
    derived: tuple[Derived, ...] = ()
    coords: dict[str, Any] = field(default_factory=dict)
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict)
    observed: dict[str, np.ndarray] = field(default_factory=dict)
    constants: tuple[str, ...] = ()
    predict: Callable[[dict[str, np.ndarray], dict[str, np.ndarray], int], dict[str, np.ndarray]] | None = None
    source: Any = None
    notes: tuple[str, ...] = ()
    discrete: tuple[str, ...] = ()
    graph: Callable[[], Graph] | None = None
    resized: Callable[[Mapping[str, np.ndarray], Mapping[int, int]], "Model"] | None = None
    batch_size: int | Mapping[str, int] | None = None

    @property
    def dim(self) -> int:
        """Number D of unconstrained coordinates."""
        return layout.dim(self.sites)

    @property
    def many_rows(self) -> bool:
        """Whether some array of the data is so long that it pays not to look at all of it again and again."""
        return any(max(value.shape, default=0) >= MANY_ROWS for value in self.data.values())


def total(factors: Factors) -> Any:
    """The log density: every factor scaled and summed, and the Jacobians; a scale may be one number or one a row."""
    parts = []
    for name, value in factors.log_prob.items():
        scale = factors.scale.get(name)
        by_row = scale is not None and jnp.ndim(scale) > 0
        value = (value * scale).sum() if by_row else value.sum() if value.ndim else value
        parts.append(value if by_row or scale is None else value * scale)
    parts += [value.sum() if value.ndim else value for value in factors.jacobian.values()]
    return sum(parts[1:], parts[0])
