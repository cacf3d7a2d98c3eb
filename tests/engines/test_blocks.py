"""Block-diagonal Gaussians by site."""

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.engines.blocks import BlockDraws
from jensen.families.blocks import Blocks
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


def _gaussian(p, data):
    z = jnp.concatenate([p["a"], p["b"], p["c"]]) - data["mean"]
    return -0.5 * z @ data["precision"] @ z


def _case(seed=0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((7, 8))
    data = {"mean": 5 * rng.standard_normal(7), "precision": root @ root.T}
    return jn.density(_gaussian, {"a": np.zeros(2), "b": np.zeros(2), "c": np.zeros(3)}, data=data), data


def fitted(model, engine):
    with scope():
        return run(engine, Target(read(model)), seed=0, progress=False)


@pytest.mark.parametrize(
    ("family", "blocks"),
    [
        (Blocks(), [[0, 1], [2, 3], [4, 5, 6]]),
        (Blocks(("a", "c")), [[0, 1, 4, 5, 6], [2, 3]]),
        (Blocks(("a", "b", "c")), [[0, 1, 2, 3, 4, 5, 6]]),
    ],
)
def test_means_are_exact_and_blocks_are_conditionals(family, blocks):
    """The KL optimum of a Gaussian: covariances of blocks are inverses of the precision's diagonal blocks."""
    model, data = _case()
    q, record = fitted(model, BlockDraws(family))
    assert record.status == "converged"
    np.testing.assert_allclose(q.mean, data["mean"], atol=1e-5)
    expected = np.zeros((7, 7))
    for block in blocks:
        expected[np.ix_(block, block)] = np.linalg.inv(data["precision"][np.ix_(block, block)])
    np.testing.assert_allclose(q.cov, expected, atol=1e-5 * np.abs(expected).max())
    assert (q.cov[expected == 0] == 0).all()
    again, more = fitted(model, BlockDraws(family, start=q))
    assert more.steps <= record.steps
    np.testing.assert_allclose(again.mean, q.mean, atol=1e-5)


def test_one_block_is_full_rank():
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((40, 3)), rng.uniform(size=40) < 0.5

    def log_density(p, data):
        eta = data["X"] @ p["w"] + p["c"]
        return (data["y"] * eta - jnp.logaddexp(0, eta)).sum() - 0.5 * (p["w"] ** 2).sum() - 0.5 * p["c"] ** 2

    model = jn.density(log_density, {"w": np.zeros(3), "c": 0.0}, data={"X": X, "y": y.astype(float)})
    q, _ = fitted(model, BlockDraws(Blocks(("w", "c"))))
    full, _ = fitted(model, jn.FixedDraws())
    np.testing.assert_allclose(q.mean, full.mean, atol=1e-3)
    np.testing.assert_allclose(q.cov, full.cov, atol=1e-3)


def test_refusals():
    model, _ = _case()
    with pytest.raises(jn.OptionError, match="Blocks names d, which is no site"):
        fitted(model, BlockDraws(Blocks(("a", "d"))))
    wide = jn.density(lambda p: -0.5 * (p["x"] ** 2).sum(), {"x": np.zeros(1600)})
    with pytest.raises(jn.UnsupportedError, match="1600"):
        fitted(wide, BlockDraws())
    flat = jn.density(lambda p: -0.5 * p["a"] ** 2 + 0 * p["b"], {"a": 0.0, "b": 0.0})
    with pytest.raises(jn.ImproperError, match="site b"):
        fitted(flat, BlockDraws())
