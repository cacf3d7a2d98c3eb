"""Anchored rounds on a target in NumPy: they contract, enlarge, give up, go on, and never stop where all rows disagree."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from tests.models.large_models import PRIOR, likelihood, posterior, rows

from jensen.core.precision import scope
from jensen.engines.anchored import STOP, Anchored
from jensen.engines.fixed_draws import FixedDraws
from jensen.families.fullrank import FullRank, from_factor
from jensen.families.meanfield import MeanField
from jensen.models.sufficient import Sufficient
from jensen.models.weighted import CURVATURE, OFFSET, POINT, SLOPE, WEIGHTS
from jensen.run import run


class Rows:
    """Counts passes."""

    passes = 0


class Logistic:
    """What `LargeTarget` does, for logistic regression in NumPy; `curved` whether it offers curvatures."""

    def __init__(self, X, y, size, curved=True, subsample=None, exact=False):
        self.X, self.y, self.dim, self.curved, self.exact = X, y, X.shape[1], curved, exact
        self.rows, self.sizes, self.curvatures = Rows(), [], []
        self._subsample = subsample or (lambda n: np.random.default_rng(n).choice(len(y), n, replace=False))
        self.anchored, self.most = {}, len(y) // 2
        self.size = 0
        self.resize(size)

    def resize(self, size):
        if size != self.size:
            self.size, self.kept, self.anchored = size, self._subsample(size), {}
            self.sizes.append(size)

    def move_to(self, anchor):
        self.anchored = dict(anchor)

    def some(self, z):
        weights = self.anchored.get(WEIGHTS, np.full(self.size, len(self.y) / self.size))
        return likelihood(self.X[self.kept], self.y[self.kept], z, weights)

    def all(self, z):
        self.rows.passes += 1
        return likelihood(self.X, self.y, z)

    def __call__(self, z):
        X, y = self.X[self.kept], self.y[self.kept]
        weights = self.anchored.get(WEIGHTS, np.full(self.size, len(self.y) / self.size))
        eta = z @ X.T
        values = (y * eta - np.logaddexp(0, eta)) @ weights - (z**2).sum(1) / (2 * PRIOR**2)
        gradients = ((y - expit(eta)) * weights) @ X - z / PRIOR**2
        if POINT in self.anchored:
            step, slope = z - self.anchored[POINT], self.anchored[SLOPE]
            bent = step @ self.anchored.get(CURVATURE, np.zeros((self.dim, self.dim)))
            values = values + self.anchored[OFFSET] + step @ slope + 0.5 * (bent * step).sum(1)
            gradients = gradients + slope + bent
        return values, gradients

    def anchor(self, point, curvature):
        self.move_to({})
        (value, gradient, _), (near, slope, _) = self.all(point), self.some(point)
        found = {POINT: point, OFFSET: value - near, SLOPE: gradient - slope}
        self.move_to(found if curvature is None else {**found, CURVATURE: curvature})
        return self.anchored

    def curvature(self, point, *, rough=False):
        if not self.curved:
            return None
        self.curvatures.append(self.size)
        self.move_to({})
        return self.all(point)[2] - self.some(point)[2]

    def nearer(self, q):
        return q.mean

    def sufficient(self, center, factor):
        return None


N = 10_000
X, Y = rows(N, 4, seed=3)
MEAN, SD = posterior(X, Y)


def fitted(target, family=None, seed=0, **options):
    """Rounds after a fit of the subsample."""
    family = family or FullRank()
    with scope():
        q, _ = run(FixedDraws(family, large=False), target, seed=seed, progress=False)
        return run(Anchored(family, q), target, seed=seed, progress=False, **options)


def error(q):
    return (np.abs(q.mean - MEAN) / SD).max()


@pytest.mark.parametrize("curved", [True, False])
def test_few_passes_give_the_posterior_of_all_rows(curved):
    target = Logistic(X, Y, 500, curved)
    with scope():
        alone, _ = run(FixedDraws(large=False), target, seed=0, progress=False)
    q, record = fitted(Logistic(X, Y, 500, curved))
    assert error(alone) > 1  # what the subsample knows
    assert record.status == "converged"
    assert error(q) < 0.02
    if curved:
        np.testing.assert_allclose(q.sd, SD, rtol=5e-3)


@pytest.mark.parametrize("seed", range(4))
def test_no_seed_stops_too_early(seed):
    target = Logistic(X, Y, 200, curved=False, subsample=lambda n: np.random.default_rng(seed).choice(N, n, False))
    q, record = fitted(target, seed=seed)
    assert record.status == "converged"
    assert error(q) < STOP
    assert record.state.moves[-1] < STOP


def test_mean_field_rounds():
    q, record = fitted(Logistic(X, Y, 500), MeanField())
    assert record.status == "converged"
    assert error(q) < 0.03


def lopsided(n):
    """Rows that know little of one direction, until there are many of them."""
    order = np.argsort(np.abs(X[:, 1]), kind="stable")
    return order[:n] if n < 2000 else np.random.default_rng(n).choice(N, n, replace=False)


def test_moves_that_do_not_halve_take_more_rows():
    target = Logistic(X, Y, 1000, curved=False, subsample=lopsided)
    q, record = fitted(target)
    assert target.sizes[:2] == [1000, 2000]
    assert record.state.rows >= 2000
    assert record.status == "converged"
    assert error(q) < 0.03


def test_more_rows_get_a_curvature_of_their_own():
    class Misled(Logistic):
        def curvature(self, point, *, rough=False):
            found = super().curvature(point)
            return found if self.size > 1000 else 0.7 * found  # so that the first subsample does not contract

    target = Misled(X, Y, 1000, subsample=lopsided)
    q, record = fitted(target)
    assert record.status == "converged"
    assert target.sizes[:2] == [1000, 2000]
    assert target.curvatures[:2] == [1000, 2000]
    np.testing.assert_allclose(q.sd, SD, rtol=5e-3)


def test_rounds_that_never_contract_are_stuck():
    target = Logistic(X, Y, 1000, curved=False, subsample=lambda n: np.argsort(np.abs(X[:, 1]), kind="stable")[:n])
    target.most = 1500
    _, record = fitted(target)
    assert record.status == "stuck"
    assert "still move the mean" in record.notes[-1]


def test_near_rounds_begin_with_all_rows():
    cov = np.linalg.inv(np.eye(4) / PRIOR**2 - likelihood(X, Y, MEAN)[2])
    target = Logistic(X, Y, 500)
    start = from_factor(MEAN, np.linalg.cholesky(cov))
    with scope():
        q, record = run(Anchored(FullRank(), start, near=True), target, seed=0, progress=False)
    assert record.status == "converged"
    assert len(record.state.moves) == 1
    assert target.rows.passes == 2  # gradient and curvature
    assert error(q) < 0.01
    np.testing.assert_allclose(q.sd, SD, rtol=2e-3)


def test_exact_weights_end_the_rounds():
    class Compressed(Logistic):
        def sufficient(self, center, factor):
            self.move_to({WEIGHTS: np.ones(self.size)})
            return Sufficient(np.ones(self.size), 5, 1e-10)

    target = Compressed(X[:2000], Y[:2000], 2000)
    q, record = fitted(target)
    assert (record.status, target.rows.passes) == ("converged", 0)
    assert "5 sufficient statistics" in record.notes[-1]
    mean, sd = posterior(X[:2000], Y[:2000])
    assert (np.abs(q.mean - mean) / sd).max() < 0.02


@pytest.mark.parametrize("steps", [1, 2, 4, 6])
def test_rounds_go_on_where_they_were_stopped(steps):
    q, whole = fitted(Logistic(X, Y, 200, curved=False))
    target = Logistic(X, Y, 200, curved=False)
    _, first = fitted(target, steps=steps)
    assert first.status == ("stopped" if steps < whole.steps else "converged")
    other = Logistic(X, Y, 1000, curved=False)  # as another process has it: elsewhere
    engine = Anchored(FullRank(), first.state and FixedDraws().finish(first.state.inner))
    with scope():
        again, second = run(engine, other, seed=0, progress=False, state=first.state)
    np.testing.assert_array_equal(again.mean, q.mean)
    np.testing.assert_array_equal(again.scale, q.scale)
    assert first.steps + second.steps == whole.steps


def test_states_are_values():
    target = Logistic(X, Y, 200, curved=False)
    with scope():
        engine = Anchored(FullRank(), from_factor(MEAN, np.diag(SD)))
        state = engine.init(target, 0)
        once = [engine.advance(state, target)[0] for _ in range(2)]
        for _ in range(3):
            engine.advance(once[0], target)
        again = engine.advance(replace(state), target)[0]
    np.testing.assert_array_equal(engine.finish(again).mean, engine.finish(once[1]).mean)
