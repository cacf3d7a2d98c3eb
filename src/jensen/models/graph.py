"""The `Graph` of a model: every random variable with the *parameters* of its distribution, for conjugacy.

`Model.factors` gives log densities as numbers; here they stay distributions: for each node the name of its distribution and
its leaves, the arrays its density is a function of. A leaf is a black box (a traced function of the values of the other
nodes and of the data); conjugacy finds out by numerical probes how it depends on them. Discrete latent variables are
nodes like all others.

Kinds and their leaves (every node also has the leaf ``value``):

    Normal                      loc, scale
    MultivariateNormal          loc, and one of precision, covariance, scale_tril
    Gamma, InverseGamma         concentration, rate          (Exponential is Gamma with concentration 1)
    Beta                        a, b                         (Uniform on (0, 1) is Beta with a = b = 1)
    Dirichlet                   concentration
    Bernoulli, Categorical      probs or logits
    Binomial, Multinomial       total_count, and probs or logits
    Poisson                     rate
    Wishart                     df, rate                     (mean df * inverse(rate))
    InverseWishart              df, scale                    (mean scale / (df - dim - 1))
    Flat                        none                         (log density zero on the support, which is real)
    whole                       log_prob                     (one density for all elements of a row)
    other                       log_prob                     (whatever the distribution is: of every element where it is a
                                                             product over them, else batch-shaped)
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

Leaves = dict[str, dict[str, Any]]

KEPT = 32
"""Programs that are kept of a graph."""


@dataclass(frozen=True, slots=True)
class Node:
    """One random variable, latent or observed.

    Attributes
    ----------
    name
        As in the user's model.
    kind
        One of the kinds above.
    distribution
        The name of the distribution in the user's language, for tables: ``"HalfNormal"``, ``"StudentT"``, ...
    latent
        Whether it is inferred.
    shape
        Of its value: batch axes first, then event axes.
    event_dim
        Number of event axes.
    support
        In words: ``"real"``, ``"positive"``, ``"unit interval"``, ``"simplex"``, ``"discrete"``, ...
    levels
        Number of values of a discrete latent node, 0 .. levels - 1; None for continuous nodes and infinite supports.
    bounds
        Of a latent node on an interval, where they are two numbers.
    """

    name: str
    kind: str
    distribution: str
    latent: bool
    shape: tuple[int, ...]
    event_dim: int = 0
    support: str = "real"
    levels: int | None = None
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Graph:
    """The nodes of a model and the functions of their leaves.

    Attributes
    ----------
    nodes
        In the order of the model: a node's parents come first.
    leaves
        Pure JAX function ``(values, data) -> {node: {leaf: array}}`` with ``values`` = latent node -> array in the model's
        own space. A leaf keeps the shape in which the model computes it: it need only broadcast against the node's shape.
        A discrete latent may come in *collapsed* shape, every axis of length 1, and leaves must then keep the length-1
        axes instead of being spread over the plate (this is how levels are enumerated without a row for each).
    densities
        Pure JAX function ``(values, data) -> {node: log density}``, batch-shaped and unscaled, computed by the
        distributions themselves and not from the leaves: what the certificate is checked against. A node outside the list
        of observed and latent variables (a ``numpyro.factor``, a ``pm.Potential``) is of kind ``other``.
    combined
        Pure JAX function ``(values, terms, data) -> log density`` with ``terms`` = node -> an array in the place of its log
        density. Given where the nodes were recorded while a log density of the user's own ran, which need not be their sum; None
        where the model is its nodes.
    programs
        What was traced and compiled for this graph and does not depend on the data: see `remember`. A second fit with new data
        of the same shape meets the same graph, and proves everything anew with the programs it finds.
    """

    nodes: tuple[Node, ...]
    leaves: Callable[[Mapping[str, Any], Mapping[str, Any]], Leaves]
    densities: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
    combined: Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], Any] | None = None
    programs: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def remember(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """What `build()` gave the last time for this key; of more than `KEPT` keys the oldest are built anew."""
        found = self.programs.pop(key) if key in self.programs else build()
        self.programs[key] = found
        while len(self.programs) > KEPT:
            del self.programs[next(iter(self.programs))]
        return found
