"""A structured fit that several files look at."""

import pytest

from benchmarks.structured import MODELS, data
from jensen.core.precision import scope
from jensen.engines.structured import Structured
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


@pytest.fixture(scope="package")
def bernoulli():
    """150 groups of about 20 Bernoulli rows, target and q: no Gaussian with an arrow lets a group's width follow sigma_a."""
    inputs = data("bernoulli", 150)
    with scope():
        target = Target(read(MODELS["bernoulli"], inputs))
        q, _ = run(Structured(), target, seed=0, progress=False)
    return inputs, target, q
