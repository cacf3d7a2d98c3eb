"""Blocked forward-backward and Viterbi against enumeration of all paths and hmmlearn's recursions."""

from itertools import product

import numpy as np
import pytest
from hmmlearn import _hmmc

from jensen.kernels.chains import likeliest_path, smooth


def chain(n, k, starts, width=1.0):
    rng = np.random.default_rng(n)
    first = np.isin(np.arange(n), starts)
    return width * rng.normal(size=(n, k)), np.log(rng.dirichlet(np.ones(k), k)), first


@pytest.mark.parametrize(("n", "k", "starts"), [(1, 3, [0]), (2, 2, [0]), (6, 2, [0, 2, 3]), (5, 3, [0]), (4, 1, [0])])
def test_enumeration(n, k, starts):
    u, v, first = chain(n, k, starts)
    paths = np.array(list(product(range(k), repeat=n)))
    inside = np.flatnonzero(~first)
    logs = u[np.arange(n), paths].sum(1) + v[paths[:, inside - 1], paths[:, inside]].sum(1)
    weight = np.exp(logs)
    got = smooth(u, v, first)
    assert got.log_z == pytest.approx(np.log(weight.sum()), abs=1e-12)
    probs = np.stack([weight @ (paths == level) for level in range(k)], 1) / weight.sum()
    np.testing.assert_allclose(got.probs, probs, atol=1e-12)
    steps = np.zeros((k, k))
    for t in inside:
        np.add.at(steps, (paths[:, t - 1], paths[:, t]), weight / weight.sum())
    np.testing.assert_allclose(got.steps, steps, atol=1e-12)
    path, best = likeliest_path(u, v, first)
    np.testing.assert_array_equal(path, paths[logs.argmax()])
    assert best == pytest.approx(logs.max(), abs=1e-12)


@pytest.mark.parametrize("width", [1.0, 30.0, 2000.0])
def test_long_chains(width):
    u, v, first = chain(3000, 4, [0], width)
    got = smooth(u, v, first)
    start, matrix = np.ones(4), np.exp(v)
    log_z, forward = _hmmc.forward_log(start, matrix, u)
    backward = _hmmc.backward_log(start, matrix, u)
    assert got.log_z == pytest.approx(log_z, rel=1e-11)
    np.testing.assert_allclose(got.probs, np.exp(forward + backward - log_z), atol=1e-7)
    assert got.steps.sum() == pytest.approx(2999, rel=1e-9)
    best, path = _hmmc.viterbi(start, matrix, u)
    ours, value = likeliest_path(u, v, first)
    np.testing.assert_array_equal(ours, path)
    assert value == pytest.approx(best, rel=1e-11)
