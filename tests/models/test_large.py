"""The corrected subsample: right to second order at the anchor, a function of its correction alone."""

import numpy as np
import pytest
from tests.models.large_models import PRIOR, density, likelihood, rows

from jensen.core.errors import UnsupportedError
from jensen.core.precision import scope
from jensen.data.build import table
from jensen.families.fullrank import from_factor
from jensen.models import large, weighted
from jensen.models.large import LEAST, MOST, LargeTarget, subsample_size
from jensen.models.plates import find
from jensen.models.read import read

N = 20_000
X, Y = rows(N)
AT = np.array([-0.9, 0.1, 1.05])


def made(model=None, X=X, **options):
    record = read(model or density(X, Y))
    return LargeTarget(record, find(record)[0], table(X=X, y=Y), seed=0, **options)


@pytest.fixture
def target():
    with scope():
        yield made()


def everything(z):
    """Log density, gradient and Hessian with all rows."""
    value, gradient, hessian = likelihood(X, Y, z)
    return value - (z @ z) / (2 * PRIOR**2), gradient - z / PRIOR**2, hessian - np.eye(3) / PRIOR**2


def slopes(target, z, h=1e-4):
    """Hessian by differences of the target's gradients."""
    return np.stack([(target(z[None] + h * e)[1][0] - target(z[None] - h * e)[1][0]) / (2 * h) for e in np.eye(3)])


def test_the_anchor_has_value_and_gradient_of_all_rows(target):
    target.anchor(AT, None)
    value, gradient = target(AT[None])
    wanted = everything(AT)
    np.testing.assert_allclose(value[0], wanted[0], rtol=1e-12)
    np.testing.assert_allclose(gradient[0], wanted[1], atol=1e-7)
    assert np.abs(slopes(target, AT) / wanted[2] - 1).max() > 1e-3  # the curvature is still the subsample's
    assert target.rows.passes == 1


def test_with_a_curvature_the_hessian_is_right_too(target):
    target.anchor(AT, target.curvature(AT))
    wanted = everything(AT)
    np.testing.assert_allclose(target(AT[None])[1][0], wanted[1], atol=1e-7)
    np.testing.assert_allclose(slopes(target, AT), wanted[2], rtol=1e-5, atol=1e-3)
    assert target.rows.passes == 1
    there = AT + 0.05
    target.anchor(there, None)  # another point is another pass
    np.testing.assert_allclose(target(there[None])[1][0], everything(there)[1], atol=1e-7)
    assert target.rows.passes == 2


def test_looks_at_more_rows_come_nearer_to_the_mode_of_all(target, monkeypatch):
    mode = AT.copy()
    for _ in range(8):
        _, gradient, hessian = everything(mode)
        mode = mode - np.linalg.solve(hessian, gradient)
    sds = np.sqrt(np.diag(np.linalg.inv(-hessian)))
    alone = from_factor(mode + 12 * sds, 0.05 * np.eye(3))
    np.testing.assert_array_equal(target.nearer(alone), alone.mean)  # there are not many more rows
    monkeypatch.setattr(large, "_ROUGH", 8192)
    found = target.nearer(alone)
    assert np.abs((found - mode) / sds).max() < 3
    assert target.rows.passes == 0
    assert not target.holds_at(alone)  # nothing was corrected


def test_a_condensed_subsample_is_exact_and_can_be_restored():
    levels = np.column_stack([np.ones(N), X[:, 1] > 0, X[:, 2] > 1]).astype(float)
    with scope():
        target = made(density(levels, Y), levels)
        z = AT + np.random.default_rng(0).normal(size=(5, 3))
        before, size = target(z)[0], target.size
        assert target.condense()
        assert target.size < size / 2
        np.testing.assert_allclose(target(z)[0], before, rtol=1e-10)
        target.restore()
        assert target.size == size
        np.testing.assert_array_equal(target(z)[0], before)


def test_a_correction_leaves_nothing_of_the_one_before(target):
    z = AT + 0.1 * np.random.default_rng(0).normal(size=(4, 3))
    plain = target(z)[0]
    first = target.anchor(AT, target.curvature(AT))
    once = target(z)[0]
    second = target.anchor(AT + 0.2, None)
    alone = made()
    alone.anchor(AT + 0.2, None)
    np.testing.assert_array_equal(target(z)[0], alone(z)[0])
    target.move_to({weighted.WEIGHTS: np.ones(target.size)})
    target.move_to(first)
    np.testing.assert_array_equal(target(z)[0], once)
    target.move_to({})
    np.testing.assert_array_equal(target(z)[0], plain)
    assert set(second) == {weighted.POINT, weighted.OFFSET, weighted.SLOPE}


def test_another_size_takes_other_rows_and_forgets_the_correction(target):
    target.anchor(AT, None)
    size, paid = target.size, target.gradients
    target.resize(2 * size)
    assert target.size == 2 * size
    assert target.gradients >= paid
    assert abs(target(AT[None])[0][0] - everything(AT)[0]) > 1e-3
    fresh = made(size=2 * size)
    np.testing.assert_array_equal(target(AT[None])[0], fresh(AT[None])[0])
    target.resize(size)
    np.testing.assert_array_equal(target(AT[None])[0], made()(AT[None])[0])


def test_the_subsample_is_random_and_weighs_as_much_as_all(target):
    weights = target._weights
    assert weights.sum() == pytest.approx(N)
    order = np.argsort(Y, kind="stable")
    with scope():
        record = read(density(X[order], Y[order]))
        other = LargeTarget(record, find(record)[0], table(X=X[order], y=Y[order]), seed=0)
    assert 0.2 < other._arrays["y"].mean() < 0.8


def test_the_discrepancy_is_that_of_numpy(target):
    q = from_factor(AT, 0.02 * np.eye(3))
    target.anchor(AT, None)
    shift, spread, draws = target.discrepancy(q, seed=3)

    class Spy:
        def sample(self, rng, n):
            self.z = q.sample(rng, n)
            return self.z

    spy = Spy()
    assert target.discrepancy(spy, seed=3) == (shift, spread, draws)
    found = [everything(z)[0] for z in np.asarray(spy.z)] - target(np.asarray(spy.z))[0]
    assert shift == pytest.approx(found.mean(), abs=1e-7)
    assert spread == pytest.approx(found.std(ddof=1), rel=1e-5)


def test_sufficient_statistics_take_effect_and_are_forgotten():
    model = density(X, Y)
    levels = np.column_stack([np.ones(N), X[:, 1] > 0, X[:, 2] > 1]).astype(float)
    with scope():
        target = made(density(levels, Y), levels)
        found = target.sufficient(AT, 0.02 * np.eye(3))
        assert found is not None
        assert found.error < 1e-8
        assert target.rows.passes == 1
        far = np.array([3.0, -4.0, 2.0])
        wanted = likelihood(levels, Y, far)[0] - (far @ far) / (2 * PRIOR**2)
        assert target(far[None])[0][0] == pytest.approx(wanted, abs=1e-7)
        assert target.discrepancy(from_factor(AT, 0.02 * np.eye(3)), 0)[1] < 1e-8
        target.move_to({})
        assert abs(target(far[None])[0][0] - wanted) > 1e-3
        assert made(model).sufficient(AT, 0.02 * np.eye(3)) is None


def test_rows_that_cannot_be_taken_out_are_refused():
    import jensen as jn

    model = jn.density(
        lambda p: -(p["b"] ** 2).sum(),
        {"b": np.zeros(3)},
        data={"X": X, "y": Y},
        log_likelihood=lambda p, data: -0.5 * (data["y"] - (data["X"] - data["X"].mean(0)) @ p["b"]) ** 2,
    )
    with scope(), pytest.raises(UnsupportedError, match="depend on each other"):
        made(model)


@pytest.mark.parametrize(("count", "dim"), [(20_000, 2), (10**6, 30), (10**9, 5), (10**6, 200), (10**6, 5000)])
def test_the_size_of_a_subsample_has_bounds(count, dim):
    assert LEAST <= subsample_size(count, dim) <= MOST
    assert subsample_size(10 * count, dim) >= subsample_size(count, dim)
