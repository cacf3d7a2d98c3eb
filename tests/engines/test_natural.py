"""Stochastic variational inference reaches the bound of coordinate ascent, and refuses what makes no sense."""

import numpy as np
import pytest
from tests.conjugacy.checks import make, plan
from tests.conjugacy.zoo_data import mixture
from tests.conjugacy.zoo_models import gmm

from jensen.core.errors import OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.engines.large import LargeCoordinateAscent
from jensen.engines.natural import NaturalGradient
from jensen.run import run

ROWS = 20_010  # no multiple of anything


@pytest.fixture(scope="module")
def found():
    return make(gmm, {"x": mixture(N=ROWS)["x"]}, K=3)


def fitted(engine, found, **loop):
    with scope("float64"):
        return run(engine, found, seed=0, progress=False, **loop)


@pytest.mark.parametrize("batch_size", [256, 5000])
def test_four_passes_come_close_to_coordinate_ascent(found, batch_size):
    exact, record = fitted(LargeCoordinateAscent(smallest=1000), found)
    best = record.history["elbo"][-1]
    q, stochastic = fitted(NaturalGradient(batch_size=batch_size), found)
    elbos = stochastic.history["elbo"]
    assert stochastic.status == "converged"
    assert best >= elbos[-1] - 1e-6
    assert abs(elbos[-1] - best) < 1e-4 * abs(best)
    # The noisy bounds are estimates of the bound, and there is one a batch.
    assert abs(elbos[:-1].mean() - best) < 0.02 * abs(best)
    assert 3 * (ROWS // batch_size) <= len(elbos) <= 4 * (ROWS // batch_size + 1) + 1
    with scope("float64"):
        means = [np.sort(np.asarray(some["mu"].moments()["mean"])) for some in (q, exact)]
        np.testing.assert_allclose(*means, atol=0.01)


def test_it_moves_away_from_a_wrong_start(found):
    exact, record = fitted(LargeCoordinateAscent(smallest=1000), found)
    with scope("float64"):
        wrong = dict(exact)
        wrong["mu"] = type(exact["mu"])(exact["mu"].h + 1.0 * exact["mu"].precision[:3], *_rest(exact["mu"]))
    _, stochastic = fitted(NaturalGradient(batch_size=256, start=wrong), found)
    elbos, best = stochastic.history["elbo"], record.history["elbo"][-1]
    assert abs(elbos[-1] - best) < 1e-4 * abs(best)
    assert elbos[0] < best - 0.01 * abs(best)


def _rest(q):
    return q.precision, q.pattern


def test_same_seed_same_numbers(found):
    first, second = (fitted(NaturalGradient(batch_size=5000, passes=1), found)[1].history["elbo"] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("options", [{"kappa": 0.4}, {"kappa": 1.1}, {"tau": 0.0}, {"batch_size": 0}, {"passes": 0}])
def test_options_that_make_no_sense(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        NaturalGradient(**options)


def test_models_without_rows_are_refused():
    with pytest.raises(UnsupportedError, match="no rows to take batches of"):
        fitted(NaturalGradient(batch_size=10), plan("regression"))
