"""Gibbs sampling against coordinate ascent, where mean field is nearly exact, and against NUTS."""

from functools import cache

import arviz
import jax
import numpy as np
import pytest
from tests.conjugacy.checks import all_moments
from tests.conjugacy.zoo import example

from jensen.conjugate import blocks
from jensen.conjugate.plan import make_plan
from jensen.core.precision import scope
from jensen.engines.coordinate import CoordinateAscent
from jensen.engines.gibbs import Gibbs
from jensen.families.gaussian import Gaussian
from jensen.models.numpyro_graph import graph
from jensen.run import run


@cache
def plan(name):
    entry = example(name)
    with scope("float64"):
        return make_plan(graph(entry.model, entry.data, entry.static), entry.data)


def _errors(x):
    """Sd and Monte Carlo standard error of each element of draws (chains, draws, ...)."""
    sd = x.std((0, 1))
    ess = np.asarray(arviz.ess(arviz.convert_to_dataset({"x": x}))["x"])
    return sd, sd / np.sqrt(ess)


def _gibbs(target, **options):
    with scope("float64"):
        draws, record = run(Gibbs(**options), target, seed=0, progress=False)
    assert record.status == "converged"
    return draws.values


def _means(target):
    """Of every site under q."""
    found = {}
    with scope("float64"):
        q, record = run(CoordinateAscent(), target, seed=0, progress=False)
        assert record.status == "converged"
        known = all_moments(q)
        for block, family in q.items():
            mean = known[block]["mean"] if isinstance(family, Gaussian) else family.mean
            found |= blocks.unflat(target, block, np.asarray(mean)[None])
    return {site: np.asarray(value)[0] for site, value in found.items()}


def _compare(values, means, bias):
    for site, x in values.items():
        sd, error = _errors(x)
        worst = np.max((np.abs(x.mean((0, 1)) - means[site]) - bias * sd) / error)
        assert worst < 4.5, (site, worst)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "bias"),
    [
        ("dirichlet_multinomial", 0.0),
        pytest.param("regression", 0.05, marks=slow),
        pytest.param("multilevel", 0.1, marks=slow),
        pytest.param("student_mixture", 0.2, marks=slow),
        pytest.param("random_walk", 0.2, marks=slow),
    ],
)
def test_means_are_those_of_coordinate_ascent(name, bias):
    """`bias`: what mean field itself may be wrong by, in posterior sds."""
    target = plan(name)
    _compare(_gibbs(target, warmup=200, draws=600), _means(target), bias)


@pytest.mark.parametrize("name", ["gmm", pytest.param("hmm", marks=slow)])
def test_components_in_the_order_of_their_means(name):
    """Chains may end in any labeling."""
    target = plan(name)
    values, means = _gibbs(target, warmup=200, draws=600), _means(target)
    order, wanted = np.argsort(values["mu"], -1), np.argsort(means["mu"])
    sites = [site for site in ("mu", "pi", "tau") if site in values and (name != "hmm" or site != "pi")]
    by_label = {site: np.take_along_axis(values[site], order, -1) for site in sites}
    _compare(by_label, {site: means[site][wanted] for site in sites}, 0.1)


@slow
def test_nuts_finds_the_same():
    from numpyro.infer import MCMC, NUTS

    record = example("half_normal")
    with scope("float64"):
        chains = MCMC(
            NUTS(record.model),
            num_warmup=300,
            num_samples=600,
            num_chains=2,
            chain_method="vectorized",
            progress_bar=False,
        )
        chains.run(jax.random.key(1), **record.arguments)
        other = {site: np.asarray(x) for site, x in chains.get_samples(group_by_chain=True).items()}
    values = _gibbs(plan("half_normal"), warmup=200, draws=600)
    for site, x in values.items():
        for ours, theirs in ((x, other[site]), (x**2, other[site] ** 2)):
            error = np.hypot(_errors(ours)[1], _errors(theirs)[1])
            assert np.max(np.abs(ours.mean((0, 1)) - theirs.mean((0, 1))) / error) < 4.5, site
