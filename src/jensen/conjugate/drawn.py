"""Free sites: parameters that are any function of them, by quadrature or reparameterized draws inside of the same ELBO.

Where a parameter of a node is no monomial of its sites (exp(b) as a mean, sums of precisions, shapes of a Beta, a Student-t
likelihood), these sites f become Gaussian, or Gaussian on their logarithm or logit, and the node's expected log density is

    sum_m w_m [a(f_m) + sum_j c_j(f_m) E[s_j]],     f_m = mean + L eps_m,  LL' = covariance of f under q,

with s_j what the other sites enter with: their log, a product of their powers, a squared residual. For a node x:

    Normal                -1/2 p (x - loc)^2 + 1/2 log p        free loc, or free precision p
    Gamma, inverse Gamma  a log r - lgamma(a) + (+-a - 1) log x - r x^(+-1)     free shape a, perhaps free rate r
    Beta                  (a - 1) log x + (b - 1) log(1 - x) - log B(a, b)
    Dirichlet             sum_k (a_k - 1) log x_k - lgamma(a_k) + lgamma(sum_k a_k)
    any other             log p(x | f), every site of the node free

so that the other sites keep exact updates, and the certificate proves it. The nodes are in `jensen.conjugate.free`.
"""

from collections.abc import Callable, Mapping

import numpy as np

from jensen.conjugate.rules import log_probability
from jensen.conjugate.slots import Affine, Slot
from jensen.conjugate.terms import Drawn, Factor, NotConjugate, Reader
from jensen.models.graph import Node

Found = tuple[str, frozenset[str], tuple[tuple[str, Affine], ...]]
"""Rule, free sites, and what else enters: "log", "mean" or "square" of affine arrays, see `jensen.conjugate.free.Held`."""

STATEMENTS = ("factor", "Potential")
"""Nodes that are no distributions: nobody can tell whether the posterior is proper."""
MOST = 64
"""Free elements of one node; draws of more say too little."""


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
    own = node.latent and node.levels is not None
    levels = tuple(name for name in reader.latents if name in names and reader.latents[name].levels is not None)
    if reader.probe.spread & {node.name, *levels} or (own and levels):
        raise why
    if node.distribution in STATEMENTS or any(
        reader.latents[name].kind == "Flat" for name in names | ({node.name} if node.latent else set())
    ):
        raise why
    leveled = own or bool(levels)
    found = (_RULES.get(node.kind, _density) if not leveled or node.kind == "Normal" else _density)(node, reader)
    if found is None or (leveled and found[0] == "scale"):
        raise why
    rule, free, factors = found
    free = free - {*levels, *({node.name} if own else ())}
    sites = tuple(name for name in reader.latents if name in free)
    size = sum(int(np.prod(reader.latents[name].shape)) for name in sites)
    some = [reader.latents[name] for name in sites]
    if size > MOST and all(one.support == "simplex" or _has_way(one) for one in some):
        raise NotConjugate(
            why.blame, f"{why.reason}, and {node.name} reads {size} elements so, of which at most {MOST} can be drawn"
        )
    if not sites or not all(map(_has_way, some)):
        raise why
    normal = -0.5 * np.log(2 * np.pi) if rule in ("loc", "scale") else 0.0
    value = _try(reader, node, "value") if levels and not node.latent else None
    seen = None if value is None or value.slots else value.constant
    return Factor(node, levels, own, (Drawn(rule, sites, factors, why.reason, seen),), np.array(normal))


def _has_way(node: Node) -> bool:
    """Whether a site can be Gaussian, or Gaussian on its logarithm or logit."""
    return node.support in ("real", "positive") or (node.bounds is not None and node.kind != "Beta")


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
    found = reader.reading(node, "loc", "id")
    # Real sites that others scale are Gaussian given these, which draws would not use.
    real = any(reader.probe.coordinate.get(name) == "real" for name in _reads(node, reader, "loc"))
    held = found is not None and found.held and real
    if scale is not None and not held:
        free = _reads(node, reader, "loc") | ({node.name} if node.latent else set())
        if not free & scale.sites:
            return "loc", free, (("mean", scale.times(-2.0)), ("log", scale.times(-1.0)))
    if scale is None and loc is not None and value is not None:
        residual = value + -loc
        free = _reads(node, reader, "scale")
        if not free & residual.sites and all(reader.probe.coordinate[name] == "real" for name in residual.sites):
            return "scale", free, (("square", residual),)
    return None if held else _density(node, reader)


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


_RULES: dict[str, Callable[[Node, Reader], Found | None]] = {
    "Normal": _normal,
    "Gamma": _gamma,
    "InverseGamma": _gamma,
    "Beta": _beta,
    "Dirichlet": _dirichlet,
}


def meetings(term: Drawn, latents: Mapping[str, Node]) -> tuple[Slot, ...]:
    """All elements of the free sites, as if a row read them: draws are joint, and need all covariances."""
    one = np.ones((1, 1))
    counts = {name: int(np.prod(latents[name].shape)) for name in term.sites}
    return tuple(Slot(name, np.full((1, 1), k), one) for name, count in counts.items() for k in range(count))
