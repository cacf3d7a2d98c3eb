"""`jensen.conjugacy`: what coordinate ascent can do with a model, as a table a person can read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jensen.conjugate.certificate import Certificate, certify
from jensen.conjugate.plan import Finding, Plan, make_plan
from jensen.conjugate.proper import check_proper
from jensen.conjugate.summed import constant_beside
from jensen.core.errors import UnsupportedError
from jensen.core.html import Html, element, for_notebook, joined, table
from jensen.core.precision import scope
from jensen.families.blocks import Blocks
from jensen.models.model import Model
from jensen.models.read import read


@dataclass(frozen=True, eq=False)
class Conjugacy:
    """How every site of a model would be updated, and why some are not exact.

    Attributes
    ----------
    model
        Its name.
    findings
        One a site, in the order of the model.
    blocks
        Blocks of q: name -> sites.
    refusal
        Why coordinate ascent cannot run on the model; empty when it can.
    certificate
        Largest relative errors of the proof; None when it was not reached.
    """

    model: str
    findings: tuple[Finding, ...]
    blocks: dict[str, tuple[str, ...]]
    refusal: str
    certificate: Certificate | None

    @property
    def runs(self) -> bool:
        """Whether ``jensen.fit(model, method="cavi")`` works."""
        return not self.refusal

    @property
    def table(self) -> Any:
        """Data frame, one row a site: update, family, block and reason."""
        import pandas as pd

        rows = [self._row(finding) for finding in self.findings]
        columns = ("update", "family", "block", "why")
        return pd.DataFrame(rows, index=[finding.site for finding in self.findings], columns=list(columns))

    def _row(self, finding: Finding) -> tuple[str, str, str, str]:
        block = next((name for name, sites in self.blocks.items() if finding.site in sites), "-")
        return finding.update, finding.family, block, finding.reason

    def __repr__(self) -> str:
        rows = [("site", "update", "family", "block", "why")]
        rows += [(finding.site, *self._row(finding)) for finding in self.findings]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
        ]
        lines = [line.rstrip() for line in lines] + (["", self._end] if self._end else [])
        return "\n".join([f"Conjugacy of {self.model}", *lines])

    @property
    def _end(self) -> str:
        """Why coordinate ascent cannot run, or how good the proof is."""
        if self.refusal:
            return f"coordinate ascent cannot run: {self.refusal}"
        if self.certificate is None:
            return ""
        worst = max([*self.certificate.density.values(), *self.certificate.affine.values()], default=0.0)
        return f"certificate: log density and affinity hold to {worst:.0e} at random points"

    @property
    def html(self) -> Html:
        """The table and the line below it."""
        rows = [(finding.site, *self._row(finding)) for finding in self.findings]
        head = ("site", "update", "family", "block", "why")
        return joined([table(head, rows, words=range(1, 5)), element("p", self._end) if self._end else None])

    def _repr_html_(self) -> str:
        return for_notebook(element("p", element("b", f"Conjugacy of {self.model}")), self.html)


def conjugacy(model: Any = None, data: Mapping[str, Any] | None = None, blocks: Blocks | None = None) -> Conjugacy:
    """Find out, site by site, what coordinate ascent can do with a model.

    Parameters
    ----------
    model, data
        As for `jensen.fit`.
    blocks
        Which Gaussian sites share a block; None: those whose rows say so.

    Returns
    -------
    Conjugacy
        Prints as a table: site, update ("exact", "natural gradient", "free", "refused"), family of q, block, and why a site
        is not exact.

    Raises
    ------
    JensenError
        When the model or its data cannot be read.
    """
    record = read(model, data)
    return explain(record, *certified(record, blocks))


def explain(model: Model, plan: Plan, certificate: Certificate | None) -> Conjugacy:
    """The table of a plan."""
    return Conjugacy(model.name, plan.findings, plan.blocks, plan.refusal, certificate)


def certified(
    model: Model, blocks: Blocks | None = None, seed: int = 0, worth: Callable[[Plan], bool] | None = None
) -> tuple[Plan, Certificate | None]:
    """The plan of a model, refused where its certificate fails; always in float64.

    Parameters
    ----------
    model
        Read in float64.
    blocks
        Which Gaussian sites share a block.
    seed
        Of the random points.
    worth
        Whether a plan is of use at all; one that is not is returned without a certificate, and must not be run. None: all are.
    """
    if model.graph is None:
        raise UnsupportedError(
            f"{model.name} calls no distributions to look at, so nothing is known about its conjugacy; write its terms with "
            "log_prob of NumPyro's distributions, or use method='auto'."
        )
    with scope("float64"), np.errstate(all="ignore"):  # what is not finite is not conjugate, and said in words
        graph, data = model.graph(), jax.device_put(dict(model.data))  # once for all programs, which end in here
        constant = constant_beside(graph, data, seed)
        plan = make_plan(graph, data, None if blocks is None else blocks.groups, seed)
        if plan.energy is None or (worth is not None and not worth(plan)):
            return plan, None
        certificate = certify(plan, data, seed)
        check_proper(plan, seed)
    if certificate.failed or certificate.bent:
        return _refused(plan, certificate), certificate
    if constant:
        # Not a node of the graph, so it is added when all nodes are proved.
        constants = {**plan.energy.constant, "constant": np.array(constant)}
        plan = replace(plan, energy=replace(plan.energy, constant=constants))
    return plan, certificate


def _refused(plan: Plan, certificate: Certificate) -> Plan:
    """The plan without an energy, and with the sites to blame."""
    assert plan.energy is not None
    findings = {finding.site: finding for finding in plan.findings}
    if certificate.failed:
        node = certificate.failed[0]
        tables = plan.energy.tables.get(node)
        blame = tables.sites if tables else [node] if node in findings else list(findings)
        reason = f"{node} does not have the density its leaves suggest"
        if tables:
            reason = f"{node} reads the discrete site {tables.sites[0]} at other rows than its own, or in a way that is no chain"
    else:
        blame = plan.blocks[certificate.bent[0]]
        reason = f"the expected log density is not affine in {', '.join(blame)}"
    for site in blame:
        word = "refused" if plan.layout.role[site] in ("categorical", "chain") else "free"  # type: ignore[union-attr]
        findings[site] = Finding(site, word, "-", reason)
    return replace(plan, findings=tuple(findings.values()), blocks={}, layout=None, energy=None, refusal=reason)
