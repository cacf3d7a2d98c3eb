"""The plan: which sites get exact updates, in which blocks, and why others do not.

Every continuous site starts with the role its own prior suggests. Each node's density is then taken apart into terms; where that
fails, the sites to blame lose their role: a positive site becomes Gaussian on its logarithm ("free", with closed expectations of
its powers), one on an interval is Gaussian on its logit, a site with no such way out leaves the model outside of coordinate
ascent.
Gaussian sites that share rows form joint blocks unless the user says otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from jensen.conjugate.bounded import freed
from jensen.conjugate.charts import Chart, charts, loosened
from jensen.conjugate.coordinates import base
from jensen.conjugate.drawn import free_factor
from jensen.conjugate.energy import Energy, assemble
from jensen.conjugate.joint import lay_out
from jensen.conjugate.layout import GAUSSIAN, POSITIVE, Layout
from jensen.conjugate.probe import Probe, probe
from jensen.conjugate.rules import factor
from jensen.conjugate.slots import Slot
from jensen.conjugate.special import EXACT
from jensen.conjugate.terms import (
    ONE_MINUS,
    Curved,
    Drawn,
    Factor,
    Mean,
    MeanLog,
    NotConjugate,
    Predicted,
    Quadratic,
    Reader,
    Sampled,
)
from jensen.core.errors import DataError, OptionError
from jensen.models.graph import Graph, Node

_ROLES = {
    "Flat": "gaussian",
    "Normal": "gaussian",
    "MultivariateNormal": "gaussian",
    "Gamma": "gamma",
    "InverseGamma": "inverse gamma",
    "Beta": "beta",
    "Dirichlet": "dirichlet",
    "Wishart": "wishart",
    "InverseWishart": "inverse wishart",
    "Categorical": "categorical",
    "Bernoulli": "categorical",
}


@dataclass(frozen=True)
class Finding:
    """What was found about a site.

    Attributes
    ----------
    site
        Its name.
    update
        "exact", "natural gradient" (Gaussian, stepwise) or "free" (Gaussian on the logarithm, or no update at all).
    family
        Of its q, in words.
    reason
        Why it is not exact, and what could be changed; empty for exact ones, or the auxiliary variables they need.
    """

    site: str
    update: str
    family: str
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything coordinate ascent needs to know about a model.

    Attributes
    ----------
    graph
        Of the model.
    findings
        One a site.
    blocks
        Block -> its sites, in the order of the model.
    layout
        Where the sites are; None when a site has no update.
    energy
        E_q[log p]; None when a site has no update.
    refusal
        Why coordinate ascent cannot run; empty when it can.
    charts
        Sites whose elements bind each other, and in which coordinates they are Gaussian.
    scales
        Sites that multiply real ones (non-centered scales), on which a product has too small an sd.
    """

    graph: Graph
    findings: tuple[Finding, ...]
    blocks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    layout: Layout | None = None
    energy: Energy | None = None
    refusal: str = ""
    scales: frozenset[str] = frozenset()
    charts: Mapping[str, Chart] = field(default_factory=dict)

    @property
    def damped(self) -> tuple[str, ...]:
        """Blocks that are not updated exactly."""
        inexact = {finding.site for finding in self.findings if finding.update in ("free", "natural gradient")}
        return tuple(block for block, sites in self.blocks.items() if inexact & set(sites))


def make_plan(
    graph: Graph, data: Mapping[str, Any], blocks: Sequence[Sequence[str]] | None = None, seed: int = 0
) -> Plan:
    """Find out how coordinate ascent can run on a model.

    Parameters
    ----------
    graph, data
        The model and its arrays. Use float64.
    blocks
        Groups of Gaussian sites that are one block; every other site is alone. None: as the model's rows suggest.
    seed
        Of the probe's random points.

    Raises
    ------
    DataError
        For data that are not finite, or that an observed node's distribution cannot take.
    OptionError
        When `blocks` does not fit the model.
    """
    for name, array in data.items():
        array = np.asarray(array)
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            raise DataError(f"{name} has NaN or infinite values; drop or impute those rows.")
    latents = {node.name: node for node in graph.nodes if node.latent}
    _check_blocks(blocks, latents)
    free: frozenset[str] = frozenset()
    first = plan = _planned(graph, data, blocks, seed, free)
    while plan.refusal:
        lost = {finding.site for finding in plan.findings if finding.family == "-"}
        more = {name for name in lost if latents[name].kind == "Beta" or latents[name].support == "simplex"} - free
        if not more:
            return first
        free = free | more
        plan = _planned(graph, data, blocks, seed, free)
    return plan


def _planned(model: Graph, data: Mapping[str, Any], blocks: Any, seed: int, free: frozenset[str]) -> Plan:
    """The plan in which some Beta sites and some on simplexes are free."""
    bound = charts({node.name: node for node in model.nodes if node.latent}, free)
    graph = loosened(freed(model, free.difference(bound)), bound)
    latents = {node.name: node for node in graph.nodes if node.latent}
    found = probe(graph, data, seed)
    reader = Reader(found, latents)
    roles, reasons = _first_roles(latents, found)
    factors, lost = _factors(graph, reader, roles, reasons)
    findings = tuple(_finding(node, roles, reasons, factors, lost) for node in latents.values())
    findings = tuple(
        replace(f, family=bound[f.site].word) if f.site in bound and f.family != "-" else f for f in findings
    )
    scales = _scales(found, latents)
    drawn = {site for one in factors for term in one.terms if isinstance(term, Drawn) for site in term.sites}
    findings = tuple(
        replace(f, reason=scales[f.site]) if f.site in scales.keys() - drawn and f.update == "free" else f
        for f in findings
    )
    if lost:
        name, reason = next(iter(lost.items()))
        return Plan(model, findings, refusal=f"{name} has no coordinate update: {reason}")
    grouping, layout = lay_out(latents, roles, factors, blocks)
    layout = replace(layout, bounds={n: node.bounds for n, node in latents.items() if _on_interval(node)})
    points = {name: base(node) if node.levels is None else np.zeros(node.shape, int) for name, node in latents.items()}
    try:
        energy = assemble(factors, graph, data, layout, points)
    except NotConjugate as error:
        findings = tuple(
            replace(f, update="free", family="-", reason=error.reason) if f.site in error.blame else f for f in findings
        )
        blamed = "".join(f"{name} has no coordinate update: " for name in sorted(error.blame)[:1])
        return Plan(model, findings, refusal=blamed + error.reason)
    return Plan(model, findings, grouping, layout, energy, scales=frozenset(scales), charts=bound)


def _scales(found: Probe, latents: Mapping[str, Node]) -> dict[str, str]:
    """Sites that scale others -> what to say of them."""
    scales = {}
    for view, reading in found.readings.items():
        for part in () if reading.scaled is None else reading.scaled.parts:
            names = ", ".join(name for name in latents if name in part.affine.sites) or "a column"
            scales[part.site] = (
                f"{view.leaf} of {view.node} multiplies {names} by it; centered, and with a Gamma prior on the precision, it "
                "would be conjugate"
            )
    return scales


def _on_interval(node: Node) -> bool:
    """Whether a site can only be Gaussian on its logit."""
    return node.bounds is not None and node.kind != "Beta"


def _first_roles(latents: Mapping[str, Node], found: Probe) -> tuple[dict[str, str], dict[str, str]]:
    roles, reasons = {}, {}
    for name, node in latents.items():
        if name in found.spread:
            roles[name] = "chain"
        elif node.kind in _ROLES and (node.levels is not None or name in found.coordinate):
            roles[name] = _ROLES[node.kind]
        elif _on_interval(node):
            # Where the interval is not positive, nodes that read the site are averaged over it: it may share a block.
            roles[name] = "logit gaussian" if found.coordinate.get(name) == "log" else "gaussian"
            reasons[name] = f"its prior is {node.distribution}, on an interval"
        elif found.coordinate.get(name) == "real":
            roles[name] = "gaussian"
            reasons[name] = f"its prior is {node.distribution}, not Normal"
        elif found.coordinate.get(name) == "log" and node.support == "positive":
            roles[name] = "log gaussian"
            reasons[name] = (
                f"its prior is {node.distribution}; a Gamma prior on the precision (or rate) would be conjugate"
            )
        else:
            roles[name] = "none"
    return roles, reasons


def _factors(
    graph: Graph, reader: Reader, roles: dict[str, str], reasons: dict[str, str]
) -> tuple[list[Factor], dict[str, str]]:
    """Factors of all nodes that have one; sites that are lost, with the reason. Changes roles and reasons."""
    factors, lost = [], {name: "its support has no conjugate family" for name, role in roles.items() if role == "none"}
    for node in graph.nodes:
        try:
            try:
                one = factor(node, reader)
                _check_roles(one, roles, reasons)
            except NotConjugate as error:
                one = free_factor(node, reader, error)
                _check_roles(one, roles, reasons)
            factors.append(one)
        except NotConjugate as error:
            blamed = error.blame or {next(iter(roles))}
            lost |= {name: error.reason for name in blamed if name not in lost}
    return factors, lost


def _check_roles(one: Factor, roles: dict[str, str], reasons: dict[str, str]) -> None:
    """Powers that the sites' families have no expectation for: positive sites change role, others are to blame."""
    for term in one.terms:
        if isinstance(term, Curved) and roles[term.read.site] != "log gaussian":
            roles[term.read.site] = "log gaussian"
            reasons[term.read.site] = f"it is a shape parameter of {one.node.name} ({one.node.distribution})"
        if isinstance(term, Drawn):
            _free(one, term, roles, reasons)
        reads = _means(term)
        for one_slot, other in combinations(reads, 2):
            if one_slot.site == other.site and ((one_slot.weight != 0) & (other.weight != 0)).any():
                name = one_slot.site.removeprefix(ONE_MINUS)
                raise NotConjugate({name}, f"{one.node.name} ({one.node.distribution}) multiplies elements of {name}")
        for slot in reads:
            name, role = slot.site, roles.get(slot.site, "")
            power = {"gamma": 1.0, "inverse gamma": -1.0}.get(role)
            if role in POSITIVE or (power is not None and np.isin(slot.weight, (0.0, power)).all()):
                continue
            where = f"{one.node.name} ({one.node.distribution}) needs E[{name}^{_power(slot)}]"
            if power is None:
                raise NotConjugate(
                    {name.removeprefix(ONE_MINUS)}, f"{where}, which is no statistic of its {role} family"
                )
            roles[name] = "log gaussian"
            word = "Gamma" if role == "gamma" else "InverseGamma"
            reasons[name] = f"{where}, and a {word} has E[{name}{'' if role == 'gamma' else '^-1'}]; {_ADVICE[role]}"


def _means(term: Any) -> tuple[Slot, ...]:
    """The reads whose powers have expectations in a term."""
    if isinstance(term, Drawn):
        return tuple(slot for kind, affine in term.factors for slot in affine.slots if kind == "mean")
    return term.reads if isinstance(term, Mean | MeanLog | Quadratic) else ()


def _free(one: Factor, term: Drawn, roles: dict[str, str], reasons: dict[str, str]) -> None:
    """Free sites are Gaussian, or Gaussian on their logarithm."""
    where = f"{one.node.name} ({one.node.distribution}) is averaged over it: {term.why}"
    for name in term.sites:
        if roles[name] not in GAUSSIAN:
            roles[name] = "log gaussian"
        reasons[name] = where


_ADVICE = {
    "gamma": "put the Gamma prior on the precision, with sd = precision^-0.5",
    "inverse gamma": "put the InverseGamma prior on the variance, with sd = variance^0.5",
}


def _power(slot: Slot) -> str:
    powers = np.unique(slot.weight[slot.weight != 0])
    return f"{powers[0]:g}" if len(powers) == 1 else "..."


_WORDS = {
    "gaussian": "Gaussian",
    "log gaussian": "log-normal",
    "logit gaussian": "logit-normal",
    "gamma": "Gamma",
    "inverse gamma": "inverse Gamma",
    "beta": "Beta",
    "dirichlet": "Dirichlet",
    "wishart": "Wishart",
    "inverse wishart": "inverse Wishart",
    "categorical": "Categorical",
    "chain": "Markov chain",
    "none": "-",
}


def _finding(
    node: Node, roles: Mapping[str, str], reasons: Mapping[str, str], factors: Sequence[Factor], lost: Mapping[str, str]
) -> Finding:
    name, role = node.name, roles[node.name]
    word = _WORDS["logit gaussian" if _on_interval(node) else role]
    if name in lost:
        return Finding(name, "free", "-", lost[name])
    if role in POSITIVE:
        return Finding(name, "free", word, reasons.get(name, ""))
    auxiliary = ""
    for one in factors:
        for term in one.terms:
            if isinstance(term, Drawn) and name in term.sites:
                return Finding(name, "natural gradient", word, reasons[name])
            if isinstance(term, Sampled) and term.site == name:
                return Finding(name, "natural gradient", word, reasons[name])
            if not isinstance(term, Predicted):
                continue
            if term.rule == "poisson sum":
                sites = {slot.site for pair in term.data["pairs"] for slot in (pair.x, pair.y)}  # type: ignore[union-attr]
                auxiliary = f"with auxiliary counts for {one.node.name}" if name in sites else auxiliary
            elif name in term.predictor.sites and term.rule in EXACT:
                auxiliary = f"with auxiliary Gaussians for {one.node.name}"
            elif name in term.predictor.sites:
                reason = f"{one.node.name} ({one.node.distribution}) is not quadratic in it"
                return Finding(name, "natural gradient", word, reason)
    return Finding(name, "exact", word, auxiliary)


def _check_blocks(blocks: Any, latents: Mapping[str, Node]) -> None:
    seen: set[str] = set()
    for group in blocks or ():
        for name in group:
            if name not in latents:
                raise OptionError(
                    f"jn.Blocks names {name}, which is no site of the model; its sites are {', '.join(latents)}."
                )
            if name in seen:
                raise OptionError(f"jn.Blocks names {name} twice; a site is in one block.")
            seen.add(name)
