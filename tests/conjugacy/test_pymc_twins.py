"""A model written in PyMC has the plan of its NumPyro twin, passes, and climbs the same ELBO."""

from functools import cache

import numpy as np
import pytest

pytest.importorskip("pymc")

from tests.conjugacy import zoo_pymc
from tests.conjugacy.checks import plan, start, sweeps
from tests.conjugacy.zoo import example

from jensen.conjugate.certificate import certify
from jensen.conjugate.plan import make_plan
from jensen.core.precision import scope
from jensen.models.pymc import read


@cache
def _twin(name: str):
    """The plan of the PyMC model, every site a block of its own, and its data."""
    with scope("float64"):
        model = read(zoo_pymc.build(name))
        return make_plan(model.graph(), model.data, ()), model.data


@pytest.mark.parametrize("name", zoo_pymc.MODELS)
def test_plan_of_the_twin(name):
    found, data = _twin(name)
    expected = plan(name)
    words = {finding.site: (finding.update, finding.family) for finding in found.findings}
    assert words == {finding.site: (finding.update, finding.family) for finding in expected.findings}
    assert found.blocks == expected.blocks
    for block, pattern in expected.layout.pattern.items():
        np.testing.assert_array_equal(found.layout.pattern[block].pairs, pattern.pairs)
    with scope("float64"):
        certificate = certify(found, data)
    assert max(*certificate.density.values(), *certificate.affine.values()) < 1e-10


@pytest.mark.parametrize("name", zoo_pymc.MODELS)
def test_elbo_of_the_twin(name):
    found, expected = _twin(name)[0], plan(name)
    order = example(name).order or tuple(expected.blocks)
    _, ours = sweeps(expected, start(expected), 20, order)
    _, theirs = sweeps(found, start(found), 20, order)
    np.testing.assert_allclose(theirs, ours, rtol=1e-10)
