"""Plans of the zoo: the word for every site, the blocks and patterns of q, and reasons that name the node."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from tests.conjugacy.checks import make, plan
from tests.conjugacy.zoo import CONTROLS, MODELS, example

from jensen.core.errors import OptionError

REFUSED = tuple(entry.name for entry in CONTROLS if "refused" in entry.sites.values())

JOINT = {
    "multilevel": ("mu", "b", "a"),
    "multilevel_correlated": ("mu", "b", "a"),
    "factorial_hmm": ("m1", "m2"),
    "varying_slopes": ("mu", "b"),
}
"""Gaussian sites that share rows and are not multiplied with each other."""

REASONS = {
    ("half_normal", "sigma"): "HalfNormal",
    ("logistic", "b"): "y (Bernoulli)",
    ("gamma_sd", "s"): "y (Normal) needs E[s^-2]",
    ("gamma_shape", "shape"): "shape parameter of y (Gamma)",
    ("product", "b"): "loc of y (Normal)",
    ("exp_mean", "b"): "loc of y (Normal)",
    ("student", "tau"): "y is StudentT",
    ("marginalized_mixture", "mu"): "x is MixtureSameFamily",
    ("noncentered", "tau_a"): "loc of y multiplies e by it",
    ("precision_sum", "tau1"): "scale of y (Normal)",
    ("swamped_prior", "tau"): "HalfNormal",
}


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_words(entry):
    found = plan(entry.name)
    assert {finding.site: finding.update for finding in found.findings} == entry.sites
    assert found.energy is not None
    assert not found.refusal
    assert set(found.damped) == {site for site, word in entry.sites.items() if word != "exact"}
    assert all((finding.reason == "") or finding.update != "exact" or entry.augmentation for finding in found.findings)


@pytest.mark.parametrize("entry", [entry for entry in CONTROLS if entry.name not in REFUSED], ids=lambda e: e.name)
def test_words_of_controls(entry):
    found = {finding.site: finding.update for finding in plan(entry.name).findings}
    for site, word in entry.sites.items():
        assert (found[site] == "exact") == (word == "exact"), (site, found[site])


@pytest.mark.parametrize("where", REASONS, ids=" ".join)
def test_reasons_name_the_node(where):
    name, site = where
    reason = {finding.site: finding.reason for finding in plan(name).findings}[site]
    assert REASONS[where] in reason


def test_refusal_names_a_site():
    def ordered(y):
        cut = numpyro.sample("cut", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
        numpyro.sample("y", dist.OrderedLogistic(0.0, cut), obs=y)

    found = make(ordered, {"y": np.arange(3)})
    assert found.energy is None
    assert any(found.refusal.startswith(f"{finding.site} has no coordinate update") for finding in found.findings)


def test_augmentation_is_said():
    for entry in MODELS:
        reasons = [finding.reason for finding in plan(entry.name).findings if finding.update == "exact"]
        assert any("auxiliary" in reason for reason in reasons) == bool(entry.augmentation)


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_default_blocks(entry):
    found = plan(entry.name, joint=True)
    joint = {sites for sites in found.blocks.values() if len(sites) > 1}
    assert joint == ({JOINT[entry.name]} if entry.name in JOINT else set())
    assert [site for sites in plan(entry.name).blocks.values() for site in sites] == list(entry.sites)


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.name)
def test_patterns_are_the_factors(entry):
    """Which elements of a Gaussian site are correlated in q: none, those of a row, neighbors in time, or all."""
    found = plan(entry.name)
    shapes = {node.name: node.shape for node in found.graph.nodes}
    for site, pattern in found.layout.pattern.items():
        size = int(np.prod(shapes[site]))
        row = {"elements": 1, "rows": (shapes[site] or (1,))[-1], "block": size, "chain": None}[entry.factors[site]]
        seen = {(max(i, j), min(i, j)) for i, j in np.asarray(pattern.pairs).reshape(-1, 2).tolist()}
        if row is None:
            wanted = {(i + 1, i) for i in range(size - 1)}
        else:
            wanted = {(i, j) for i in range(size) for j in range(i) if i // row == j // row}
        assert seen == wanted, site
    assert type(found.layout.pattern.get("x")).__name__ == ("Band" if "walk" in entry.name else "NoneType")


def test_blocks_are_checked():
    data, static = example("multilevel").data, example("multilevel").static
    model = example("multilevel").model
    with pytest.raises(OptionError, match="no site of the model"):
        make(model, data, [("mu", "nothing")], **static)
    with pytest.raises(OptionError, match="twice"):
        make(model, data, [("mu", "a"), ("a", "b")], **static)
    with pytest.raises(OptionError, match="tau_a"):
        make(model, data, [("mu", "tau_a")], **static)
    found = make(model, data, [("a", "b")], **static)
    assert set(found.blocks.values()) == {("mu",), ("tau_a",), ("b", "a"), ("tau",)}


def test_seed_does_not_matter():
    from jensen.conjugate.plan import make_plan
    from jensen.core.precision import scope

    first = plan("multilevel")
    with scope("float64"):
        for seed in (1, 2):
            again = make_plan(first.graph, example("multilevel").data, (), seed)
            assert again.findings == first.findings
            assert again.blocks == first.blocks
