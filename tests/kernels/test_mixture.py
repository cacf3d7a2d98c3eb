"""Passes over rows of a Gaussian mixture, against sums written out over all rows and components."""

import numpy as np
import pytest
from scipy.special import logsumexp

from jensen.kernels import mixture, mixture_fused
from jensen.kernels.mixture import Components, Moments, merged

SHAPES = ("full", "tied", "diag", "spherical")
K = 4


def example(shape, D, rows=3000, far=0.0):
    """Rows, weights, and components that fit them roughly."""
    random = np.random.default_rng(3)
    means = 2.0 * random.normal(size=(K, D)) + far
    x = means[random.integers(K, size=rows)] + random.normal(size=(rows, D)) * np.linspace(0.5, 2.0, D)
    factors = {
        "full": np.triu(0.3 * random.normal(size=(K, D, D))) + np.eye(D),
        "tied": np.triu(0.3 * random.normal(size=(D, D))) + np.eye(D),
        "diag": random.uniform(0.5, 1.5, size=(K, D)),
        "spherical": random.uniform(0.5, 1.5, size=K),
    }[shape]
    return x, random.uniform(0.1, 3.0, size=rows), Components(random.normal(size=K), means + 0.3, factors)


def written_out(shape, x, weight, components):
    """The same moments with a matrix of rows x components."""
    D = x.shape[1]
    A = {
        "full": lambda: components.factors,
        "tied": lambda: np.repeat(components.factors[None], K, axis=0),
        "diag": lambda: np.einsum("kd,de->kde", components.factors, np.eye(D)),
        "spherical": lambda: np.einsum("k,de->kde", components.factors, np.eye(D)),
    }[shape]()
    y = np.einsum("nkd,kde->nke", x[:, None] - components.means, A)
    e = components.offset - 0.5 * (y**2).sum(axis=2)
    log_r = e - logsumexp(e, axis=1, keepdims=True)
    r = np.exp(log_r) * weight[:, None]
    counts = r.sum(axis=0)
    means = r.T @ x / counts[:, None]
    d = x[:, None] - means
    scatters = np.einsum("nk,nkd,nke->kde", r, d, d)
    scatters = {
        "full": lambda: scatters / counts[:, None, None],
        "tied": lambda: scatters.sum(axis=0) / counts.sum(),
        "diag": lambda: np.diagonal(scatters, axis1=1, axis2=2) / counts[:, None],
        "spherical": lambda: np.trace(scatters, axis1=1, axis2=2) / D / counts,
    }[shape]()
    return Moments(counts, means, scatters, -float((r * log_r).sum()))


def agree(found, expected, rtol, atol):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("D", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_double_precision(shape, D):
    x, weight, components = example(shape, D)
    agree(mixture.moments(shape, x, weight, components), written_out(shape, x, weight, components), 1e-10, 1e-10)
    agree(mixture.moments(shape, x, None, components), written_out(shape, x, np.ones(len(x)), components), 1e-10, 1e-10)


@pytest.mark.parametrize("D", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_single_precision(shape, D):
    """Chunks, a ragged last one, and the entropy without a second pass."""
    x, weight, components = example(shape, D)
    for w in (weight, None):
        found = mixture_fused.moments(shape, mixture_fused.prepare(shape, x, w), components)
        assert found is not None
        moments, rounding = found
        assert rounding < mixture_fused.ACCEPTED
        agree(moments, written_out(shape, x, np.ones(len(x)) if w is None else w, components), 6e-5, 6e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_ranges_in_threads_are_one_pass(shape, monkeypatch):
    x, weight, components = example(shape, 3)
    rows = mixture_fused.prepare(shape, x, weight)
    whole, _ = mixture_fused.moments(shape, rows, components)
    monkeypatch.setattr(mixture_fused, "RANGE", 1)
    agree(mixture_fused.moments(shape, rows, components)[0], whole, 1e-12, 1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_can_be_taken(shape):
    x, weight, components = example(shape, 2)
    index = np.arange(0, len(x), 3)
    found, _ = mixture_fused.moments(
        shape, mixture_fused.taken(mixture_fused.prepare(shape, x, weight), index), components
    )
    agree(found, written_out(shape, x[index], weight[index], components), 2e-5, 2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_merging_is_adding_sums(shape):
    x, weight, components = example(shape, 3)
    one = mixture.moments(shape, x[:1000], weight[:1000], components)
    other = mixture.moments(shape, x[1000:], weight[1000:], components)
    both = mixture.scaled(merged(shape, one, other, 0.5), 2.0)
    agree(both, mixture.moments(shape, x, weight, components), 1e-10, 1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_offset_of_the_data_changes_nothing(shape):
    x, weight, components = example(shape, 2)
    far, moved = 1e4, components._replace(means=components.means + 1e4)
    near = mixture.moments(shape, x, weight, components)
    for found in (
        mixture.moments(shape, x + far, weight, moved),
        mixture_fused.moments(shape, mixture_fused.prepare(shape, x + far, weight), moved)[0],
    ):
        agree(found, near._replace(means=near.means + far), 2e-5, 2e-5)


def test_narrow_components_far_apart_are_refused():
    """1 and 1e5 apart in sds: single precision cannot tell where in a component a row is."""
    components = Components(np.zeros(2), np.array([[0.0], [1e5]]), np.ones((2, 1)))
    x = np.concatenate([np.random.default_rng(0).normal(size=(500, 1)) + m for m in (0.0, 1e5)])
    assert mixture_fused.moments("diag", mixture_fused.prepare("diag", x, None), components) is None


@pytest.mark.parametrize("D", [1, 2])
def test_exponents_that_overflow_are_told_apart(D):
    """Both exponents are beyond 2^127; without subtracting the largest, half of each row would go to either."""
    x = np.zeros((1500, D))
    x[::2] = 1.0
    components = Components(np.array([1000.0, 1003.0]), np.zeros((2, D)), np.ones((2, D)))
    found, _ = mixture_fused.moments("diag", mixture_fused.prepare("diag", x, None), components)
    np.testing.assert_allclose(found.counts / 1500, np.array([1.0, np.exp(3.0)]) / (1.0 + np.exp(3.0)), rtol=2e-4)


def test_a_component_without_rows_has_finite_moments():
    x, weight, components = example("full", 2)
    empty = components._replace(offset=np.array([0.0, 0.0, 0.0, -1e4]))
    for found in (
        mixture.moments("full", x, weight, empty),
        mixture_fused.moments("full", mixture_fused.prepare("full", x, weight), empty)[0],
    ):
        assert found.counts[3] < 1e-10
        assert all(np.isfinite(part).all() for part in found)
