"""The certificate: what is right passes by many orders of magnitude, and what is forced through is caught."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import sample
from tests.conjugacy.checks import make, passes, plan, zoo_certificate
from tests.conjugacy.zoo import CONTROLS, MODELS, example
from tests.tiers import quick

from jensen.conjugate import plan as planning
from jensen.conjugate.certificate import LIMIT, certify
from jensen.core.precision import scope
from jensen.models.numpyro_graph import graph

RIGHT = 1e-10
AUGMENTED = {entry.name for entry in MODELS if entry.augmentation}


SLOW = {"hmm_split", "factorial_hmm", "factor_analysis", "varying_slopes", "mixture_of_regressions", "gmm_diagonal"}


@pytest.mark.parametrize(
    "entry", quick(MODELS, *(entry for entry in MODELS if entry.name not in SLOW)), ids=lambda entry: entry.name
)
def test_models_pass(entry):
    found = zoo_certificate(entry.name)
    nodes = {node.name for node in plan(entry.name, joint=True).graph.nodes}
    assert set(found.density) == nodes
    # A bound by auxiliary variables, or quadrature over a Gaussian, is the density itself only at the other nodes.
    assert max(error for name, error in found.density.items() if name != "y" or entry.name not in AUGMENTED) < RIGHT
    assert all(error < RIGHT for error in found.affine.values())
    exact = {
        block
        for block, sites in plan(entry.name, joint=True).blocks.items()
        if all(entry.sites[site] == "exact" for site in sites)
    }
    assert set(found.affine) <= exact
    assert set(found.affine) == exact or entry.augmentation


@pytest.mark.parametrize(
    "name",
    [entry.name for entry in CONTROLS if "refused" not in entry.sites.values() and entry.name != "swamped_prior"],
)
def test_controls_with_an_energy_pass(name):
    found = plan(name, joint=True)
    if found.energy is not None:
        assert passes(found, example(name).data)


@pytest.mark.parametrize("name", [entry.name for entry in CONTROLS if "refused" in entry.sites.values()])
def test_discrete_sites_that_cannot_be_enumerated_do_not_pass(name):
    found = plan(name)
    if found.energy is None:
        return
    with scope("float64"):
        certificate = certify(found, example(name).data)
    assert certificate.failed
    assert max(certificate.density.values()) > 1e3 * LIMIT


Y = 1.0 + 0.8 * np.random.default_rng(0).standard_normal(20)


def _gamma_sd(y):
    mu = sample("mu", dist.Normal(0.0, 10.0))
    s = sample("s", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(mu, s), obs=y)


def _inverse_gamma_precision(y):
    s = sample("s", dist.InverseGamma(2.0, 1.0))
    sample("y", dist.Normal(0.0, s**-0.5), obs=y)


def _squared_precision(y):
    s = sample("s", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(0.0, 1 / s), obs=y)


@pytest.mark.parametrize("model", [_gamma_sd, _inverse_gamma_precision, _squared_precision])
def test_role_forced_through_is_caught(model, monkeypatch):
    """Without the check of powers, E[s] stands for E[s^p]."""
    monkeypatch.setattr(planning, "_check_roles", lambda *_: None)
    found = make(model, {"y": Y})
    assert {finding.site: finding.update for finding in found.findings}["s"] == "exact"
    with scope("float64"):
        certificate = certify(found, {"y": Y})
    assert "y" in certificate.failed
    assert certificate.density["y"] > 1e3 * LIMIT


def test_statistic_forced_through_is_caught_by_affinity(monkeypatch):
    """With E[s]^p for E[s^p] every point mass is right, and the energy is bent."""
    from jensen.conjugate.pieces import Read

    honest = Read.mean

    def plug_in(self, moments):
        return honest(self, moments) ** jnp.asarray(self.power) if self.role == "gamma" else honest(self, moments)

    monkeypatch.setattr(planning, "_check_roles", lambda *_: None)
    monkeypatch.setattr(Read, "mean", plug_in)
    found = make(lambda y: _gamma_sd(y), {"y": Y})  # a model of its own, whose certificate is not compiled yet
    with scope("float64"):
        certificate = certify(found, {"y": Y})
    assert "s" in certificate.bent
    assert certificate.affine["s"] > 1e3 * LIMIT


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_half_normal_as_gamma_is_caught(rate):
    """A front end that says Gamma of a HalfNormal: its density is not the one of the leaves."""

    def model(y):
        tau = sample("tau", dist.HalfNormal(1.0))
        sample("y", dist.Normal(1.0, tau**-0.5), obs=y)

    with scope("float64"):
        honest = graph(model, {"y": Y}, {})
        nodes = tuple(replace(node, kind="Gamma") if node.name == "tau" else node for node in honest.nodes)

        def leaves(values, data):
            known = honest.leaves(values, data)
            gamma = {"value": known["tau"]["value"], "concentration": jnp.ones(()), "rate": jnp.full((), rate)}
            return known | {"tau": gamma}

        found = planning.make_plan(replace(honest, nodes=nodes, leaves=leaves), {"y": Y})
        assert found.findings[0].update == "exact"
        certificate = certify(found, {"y": Y})
    assert certificate.failed == ("tau",)


@pytest.mark.parametrize("leaf", ["loc", "scale"])
def test_wrong_leaf_is_caught(leaf):
    """A front end that gives a leaf with a factor wrong."""

    def model(y):
        mu = sample("mu", dist.Normal(0.0, 1.0))
        tau = sample("tau", dist.Gamma(2.0, 1.0))
        sample("y", dist.Normal(mu, tau**-0.5), obs=y)

    with scope("float64"):
        honest = graph(model, {"y": Y}, {})

        def leaves(values, data):
            known = honest.leaves(values, data)
            return known | {"y": known["y"] | {leaf: known["y"][leaf] * 1.001}}

        certificate = certify(planning.make_plan(replace(honest, leaves=leaves), {"y": Y}), {"y": Y})
    assert certificate.failed == ("y",)


def test_other_data_than_those_of_the_plan_are_caught():
    found = plan("regression")
    data = dict(example("regression").data)
    data["y"] = data["y"] + 1e-3
    with scope("float64"):
        assert certify(found, data).failed == ("y",)


@pytest.mark.parametrize("name", ["gmm", "multilevel", "hmm"])
def test_seed_does_not_matter(name):
    with scope("float64"):
        found = certify(plan(name), example(name).data, seed=5)
    assert max(*found.density.values(), *found.affine.values()) < RIGHT
