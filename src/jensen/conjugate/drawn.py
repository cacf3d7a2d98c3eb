"""Free sites: parameters that are any function of them, by quadrature or reparameterized draws inside of the same ELBO.

Where a parameter of a node is no monomial of its sites (exp(b) as a mean, sums of precisions, shapes of a Beta, a Student-t
likelihood), these sites f become Gaussian, or Gaussian on their logarithm, and the node's expected log density is

    sum_m w_m [a(f_m) + sum_j c_j(f_m) E[s_j]],     f_m = mean + L eps_m,  LL' = covariance of f under q,

with s_j what the other sites enter with: their log, a product of their powers, a squared residual. Nodes x, f -> a + sum_j c_j s_j:

    Normal                -1/2 p (x - loc)^2 + 1/2 log p        free loc, or free precision p
    Gamma, inverse Gamma  a log r - lgamma(a) + (+-a - 1) log x - r x^(+-1)     free shape a, perhaps free rate r
    Beta                  (a - 1) log x + (b - 1) log(1 - x) - log B(a, b)
    Dirichlet             sum_k (a_k - 1) log x_k - lgamma(a_k) + lgamma(sum_k a_k)
    any other             log p(x | f), every site of the node free

so that the other sites keep exact updates, and the certificate proves it. Nodes eps_m of Gauss and Hermite for one or two free
elements, else points of Sobol in pairs +-eps, whose mean is 0 and covariance 1 exactly; they are the same in every sweep.

Reference: Kingma & Welling (2014), Auto-encoding variational Bayes, for the reparameterization.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.scipy.special import betaln, gammaln

from jensen.conjugate.layout import Layout
from jensen.conjugate.pieces import Read, few_powers, static
from jensen.conjugate.priors import NODES, WEIGHTS
from jensen.conjugate.rules import log_probability
from jensen.conjugate.slots import Affine, Slot, fit
from jensen.conjugate.special import Linear, linear
from jensen.conjugate.terms import Drawn, Factor, NotConjugate, Reader
from jensen.models.graph import Graph, Node

Found = tuple[str, frozenset[str], tuple[tuple[str, Affine], ...]]
"""Rule, free sites, and what else enters: see `Held`."""

MOST = 64
"""Free elements of one node; draws of more say too little."""
PAIRS = 64
"""Fewest pairs of draws."""


# -- which parameters of a node are free --------------------------------------------------------------------------------------


def free_factor(node: Node, reader: Reader, why: NotConjugate) -> Factor:
    """The factor of a node that has no rule.

    Parameters
    ----------
    node
        Of any kind.
    reader
        What its leaves read.
    why
        The rule's refusal.

    Raises
    ------
    NotConjugate
        The same when free sites do not help.
    """
    leaves = reader.probe.parents[node.name]
    names = frozenset().union(*leaves.values()) - {node.name}
    if node.levels is not None or any(reader.latents[name].levels is not None for name in names):
        raise why
    if any(reader.latents[name].kind == "Flat" for name in names | ({node.name} if node.latent else set())):
        raise why
    found = _RULES.get(node.kind, _density)(node, reader)
    if found is None:
        raise why
    rule, free, factors = found
    sites = tuple(name for name in reader.latents if name in free)
    size = sum(int(np.prod(reader.latents[name].shape)) for name in sites)
    if not sites or any(reader.latents[name].support not in ("real", "positive") for name in sites):
        raise why
    if size > MOST:
        raise NotConjugate(
            why.blame, f"{why.reason}, and {node.name} reads {size} elements so, of which at most {MOST} can be drawn"
        )
    normal = -0.5 * np.log(2 * np.pi) if rule in ("loc", "scale") else 0.0
    return Factor(node, (), False, (Drawn(rule, sites, factors, why.reason),), np.array(normal))


def _try(reader: Reader, node: Node, leaf: str, transform: str = "id") -> Affine | None:
    try:
        return reader.affine(node, leaf, transform)
    except NotConjugate:
        return None


def _reads(node: Node, reader: Reader, leaf: str) -> frozenset[str]:
    return reader.probe.parents[node.name].get(leaf, frozenset())


def _density(node: Node, reader: Reader) -> Found:
    names = frozenset().union(*reader.probe.parents[node.name].values())
    return "density", names | ({node.name} if node.latent else set()), ()


def _normal(node: Node, reader: Reader) -> Found | None:
    scale, loc, value = _try(reader, node, "scale", "log"), _try(reader, node, "loc"), _try(reader, node, "value")
    held = reader.reading(node, "loc", "id")
    if scale is not None and not (held is not None and held.held):
        free = _reads(node, reader, "loc") | ({node.name} if node.latent else set())
        if not free & scale.sites:
            return "loc", free, (("mean", scale.times(-2.0)), ("log", scale.times(-1.0)))
    if scale is None and loc is not None and value is not None:
        residual = value + -loc
        free = _reads(node, reader, "scale")
        if not free & residual.sites and all(reader.probe.coordinate[name] == "real" for name in residual.sites):
            return "scale", free, (("square", residual),)
    if (
        held is not None and held.held
    ):  # non-centered: real sites are Gaussian given the others, which draws would not use
        return None
    return _density(node, reader)


def _value(node: Node, reader: Reader) -> Affine:
    if node.latent:
        return reader.affine(node, "value", "log")
    with np.errstate(divide="ignore"):
        return Affine(np.log(reader.affine(node, "value").constant), ())


def _gamma(node: Node, reader: Reader) -> Found:
    sign = 1.0 if node.kind == "Gamma" else -1.0
    value, rate = _value(node, reader), _try(reader, node, "rate", "log")
    free, own = _reads(node, reader, "concentration"), frozenset(value.sites)
    if rate is not None and not rate.sites & free and not {"real"} & {reader.probe.coordinate[n] for n in rate.sites}:
        x = value.times(sign)
        return "shape", free, (("log", rate + x), ("log", value), ("mean", rate + x))
    free = free | _reads(node, reader, "rate")
    if free & own:
        return _density(node, reader)
    return "shape and rate", free, (("log", value.times(sign)), ("log", value), ("mean", value.times(sign)))


def _beta(node: Node, reader: Reader) -> Found:
    log_p, log_q = log_probability(node, "value", reader)
    return "beta", _reads(node, reader, "a") | _reads(node, reader, "b"), (("log", log_p), ("log", log_q))


def _dirichlet(node: Node, reader: Reader) -> Found:
    return "dirichlet", _reads(node, reader, "concentration"), (("log", _value(node, reader)),)


_RULES: dict[str, Callable[[Node, Reader], Any]] = {
    "Normal": _normal,
    "Gamma": _gamma,
    "InverseGamma": _gamma,
    "Beta": _beta,
    "Dirichlet": _dirichlet,
}


# -- what the free parts are, at draws of the free sites: a, (c_1, c_2, ...) ----------------------------------------------------


class _Parts(NamedTuple):
    leaves: tuple[str, ...]
    at: Callable[..., tuple[Any, tuple[Any, ...]]]


def _loc(value: Any, loc: Any) -> Any:
    return 0.0, (-0.5 * (value - loc) ** 2, 1.0)


def _scale(scale: Any) -> Any:
    return -jnp.log(scale), (-0.5 / scale**2,)


def _shape(concentration: Any) -> Any:
    return -gammaln(concentration), (concentration, -1.0, -1.0)


def _shape_and_rate(concentration: Any, rate: Any) -> Any:
    return concentration * jnp.log(rate) - gammaln(concentration), (concentration, -1.0, -rate)


def _shapes(a: Any, b: Any) -> Any:
    return -betaln(a, b), (a - 1.0, b - 1.0)


def _concentrations(concentration: Any) -> Any:
    total = concentration.sum(-1, keepdims=True)
    return gammaln(total) / concentration.shape[-1] - gammaln(concentration), (concentration - 1.0,)


_PARTS = {
    "loc": _Parts(("value", "loc"), _loc),
    "scale": _Parts(("scale",), _scale),
    "shape": _Parts(("concentration",), _shape),
    "shape and rate": _Parts(("concentration", "rate"), _shape_and_rate),
    "beta": _Parts(("a", "b"), _shapes),
    "dirichlet": _Parts(("concentration",), _concentrations),
    "density": _Parts(("density",), lambda density: (density, ())),
}
"""The gamma rules' second factor, log x, has no free coefficient: it is the base measure; so has the log precision's half."""


# -- the piece ------------------------------------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Held:
    """The expectation s_j of what the free sites do not enter: "log" and "mean" of reads with a constant, or "square" of rows."""

    constant: Any
    reads: tuple[Read, ...] = ()
    rows: Linear | None = None
    kind: str = static(default="log")

    def __call__(self, moments: Any) -> Any:
        """It, compact (*rows)."""
        if self.rows is not None:
            mean, variance = self.rows(moments)
            return mean**2 + variance
        if self.kind == "log":
            return sum((read.log(moments) for read in self.reads), self.constant)
        total = self.constant
        for read in self.reads:
            total = total * read.mean(moments)
        return total


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Draws:
    """Nodes (M, d) and weights (M,) of the free elements; for each of their blocks the elements and the covariances' places."""

    nodes: Any
    weights: Any
    index: tuple[Any, ...]
    position: tuple[Any, ...]
    blocks: tuple[str, ...] = static()

    def __call__(self, moments: Any) -> Any:
        """(M, d): the blocks' own variables."""
        parts, start = [], 0
        for block, index, position in zip(self.blocks, self.index, self.position, strict=True):
            mean, cov = moments[block]["mean"][index], moments[block]["cov"][position]
            noise, start = self.nodes[:, start : start + len(index)], start + len(index)
            # A point mass has draws too; its root must have a derivative.
            cov = cov + 1e-300 * jnp.eye(len(index))
            root = jnp.sqrt(cov) if len(index) == 1 else jnp.linalg.cholesky(cov)
            parts.append(mean + noise @ root.T)
        return jnp.concatenate(parts, 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Free:
    """The expected log density of a node with free sites."""

    draws: Draws
    inputs: tuple[Any, ...]
    held: tuple[Held, ...]
    leaves: Callable[..., Any] = static()
    rule: str = static()
    shape: tuple[int, ...] = static()
    sites: tuple[tuple[str, tuple[int, ...], bool], ...] = static()

    @property
    def blocks(self) -> tuple[str, ...]:
        """Of the free sites."""
        return self.draws.blocks

    def __call__(self, moments: Any) -> Any:
        """The sum over rows, a scalar."""
        free, coefficients = jax.vmap(self._parts)(self.draws(moments))
        weights = jnp.asarray(self.draws.weights)
        total = (weights @ free.reshape(len(free), -1)).sum()
        for coefficient, held in zip(coefficients, self.held, strict=True):
            mean = jnp.tensordot(weights, coefficient, 1)
            total = total + (mean * jnp.broadcast_to(held(moments), self.shape)).sum()
        return total

    def _parts(self, x: Any) -> Any:
        values, start = [], 0
        for _, shape, positive in self.sites:
            size = int(np.prod(shape))
            part = x[start : start + size].reshape(shape)
            values.append(jnp.exp(part) if positive else part)
            start += size
        free, coefficients = _PARTS[self.rule].at(*self.leaves(*values, *self.inputs))
        full = self.shape if self.rule != "density" else jnp.shape(free)
        spread = tuple(jnp.broadcast_to(jnp.asarray(c, float), self.shape) for c in coefficients)
        return jnp.broadcast_to(jnp.asarray(free, float), full), spread


def free(
    term: Drawn, graph: Graph, node: Node, data: Mapping[str, Any], points: Mapping[str, Any], layout: Layout
) -> Free:
    """The piece of a drawn term.

    Parameters
    ----------
    term, node
        The node's.
    graph, data
        The model, and its arrays.
    points
        Latent node -> any value, for those that the free parameters do not depend on.
    layout
        Where the sites are.
    """
    latents = {one.name: one for one in graph.nodes if one.latent}
    order = sorted(term.sites, key=lambda name: (layout.block[name], layout.offset[name]))
    by_block: dict[str, list[np.ndarray]] = {}
    for name in order:
        index = layout.offset[name] + np.arange(int(np.prod(latents[name].shape)))
        by_block.setdefault(layout.block[name], []).append(index)
    index = tuple(np.concatenate(some) for some in by_block.values())
    position = tuple(layout.position(b, i[:, None], i[None]) for b, i in zip(by_block, index, strict=True))
    nodes, weights = _nodes(sum(map(len, index)))
    key = ("free", node.name, term.rule, tuple(order))
    leaves, reads, fixed = graph.remember(
        key, lambda: _traced(graph, node.name, _PARTS[term.rule].leaves, order, dict(data), dict(points))
    )
    flat = jax.tree.leaves(dict(data))
    sites = tuple((name, latents[name].shape, layout.role[name] == "log gaussian") for name in order)
    held = tuple(_held(kind, affine, node.shape, layout) for kind, affine in term.factors)
    draws = Draws(nodes, weights, index, position, tuple(by_block))
    return Free(draws, (*fixed, *(flat[n] for n in reads)), held, leaves, term.rule, node.shape, sites)


def _held(kind: str, affine: Affine, shape: tuple[int, ...], layout: Layout) -> Held:
    axes = len(shape)
    if kind == "square":
        rows = Affine(
            np.broadcast_to(fit(affine.constant, axes), (1, *shape))[0],
            tuple(
                slot._replace(index=fit(slot.index, axes)[0], weight=fit(slot.weight, axes)[0]) for slot in affine.slots
            ),
        )
        return Held(np.zeros(()), (), linear(rows, layout), "square")
    reads = []
    for slot in affine.slots:
        name, role = layout.reading(slot.site)
        index, power = fit(slot.index, axes)[0], fit(slot.weight, axes)[0]
        index = index + layout.offset.get(name, 0) if role == "log gaussian" else index
        reads.append(Read(index, power, layout.block[name], role, few_powers(power)))
    constant = fit(np.asarray(affine.constant, float), axes)[0]
    return Held(np.exp(constant) if kind == "mean" else constant, tuple(reads), None, kind)


@cache
def _nodes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (M, size) and weights (M,) with which polynomials of a standard normal vector have the right expectation."""
    if size == 1:
        return NODES[:, None], WEIGHTS
    if size == 2:
        some, weights = np.polynomial.hermite_e.hermegauss(15)
        weights = weights / weights.sum()
        return np.stack([np.repeat(some, 15), np.tile(some, 15)], 1), np.outer(weights, weights).reshape(-1)
    from scipy.special import ndtri
    from scipy.stats import qmc

    pairs = max(PAIRS, 2 ** int(np.ceil(np.log2(2 * size))))
    points = ndtri(qmc.Sobol(size, seed=0).random(pairs))
    both = np.concatenate([points, -points])
    root = np.linalg.cholesky(both.T @ both / len(both))
    return np.linalg.solve(root, both.T).T, np.full(len(both), 1 / len(both))


def _traced(
    graph: Graph, name: str, leaves: Sequence[str], sites: Sequence[str], data: Any, points: Any
) -> tuple[Callable[..., Any], list[int], tuple[Any, ...]]:
    """Leaves as functions (*values, *inputs); which leaves of the data the inputs are, after constants of the model's own."""

    def evaluate(values: Any, data: Any) -> Any:
        whole = {**points, **dict(zip(sites, values, strict=True))}
        if leaves == ("density",):
            return [jnp.asarray(graph.densities(whole, data)[name], float)]
        found = graph.leaves(whole, data)[name]
        return [jnp.asarray(found[leaf], float) if leaf in found else whole[name] for leaf in leaves]

    closed = jax.make_jaxpr(evaluate)([jnp.asarray(points[site], float) for site in sites], data)
    jaxpr = closed.jaxpr
    wanted, equations = {v for v in jaxpr.outvars if not hasattr(v, "val")}, []
    for equation in reversed(jaxpr.eqns):
        if wanted & set(equation.outvars):
            equations.append(equation)
            wanted |= {v for v in equation.invars if not hasattr(v, "val")}
    values, rest = jaxpr.invars[: len(sites)], jaxpr.invars[len(sites) :]
    reads = [n for n, variable in enumerate(rest) if variable in wanted]
    some = [n for n, variable in enumerate(jaxpr.constvars) if variable in wanted]
    inputs = [*values, *(jaxpr.constvars[n] for n in some), *(rest[n] for n in reads)]
    short = core.Jaxpr((), inputs, jaxpr.outvars, equations[::-1], debug_info=jaxpr.debug_info.with_unknown_names())
    return core.jaxpr_as_fun(core.ClosedJaxpr(short, ())), reads, tuple(closed.consts[n] for n in some)


def meetings(term: Drawn, latents: Mapping[str, Node]) -> tuple[Slot, ...]:
    """All elements of the free sites, as if a row read them: draws are joint, and need all covariances."""
    one = np.ones((1, 1))
    counts = {name: int(np.prod(latents[name].shape)) for name in term.sites}
    return tuple(Slot(name, np.full((1, 1), k), one) for name, count in counts.items() for k in range(count))
