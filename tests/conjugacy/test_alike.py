"""Blocks of one site that share a precision: where that is so, where it is not, and that nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from tests.conjugacy import zoo_data
from tests.conjugacy.checks import make, plan

from jensen.conjugate.certificate import certify
from jensen.core.precision import scope
from jensen.families.gaussian import Gaussian
from jensen.families.patterns_alike import Alike
from jensen.families.patterns_blocks import Blocks

N, D, K = 12, 5, 2
X = zoo_data.factors(N=N, D=D, K=K)["x"]
ROWS, COLUMNS = (index.reshape(-1) for index in np.indices((N, D)))


def across(x):
    """Loadings with the factors first."""
    W = numpyro.sample("W", dist.Normal(0.0, 1.0).expand([K, x.shape[1]]))
    h = numpyro.sample("h", dist.Normal(0.0, 1.0).expand([x.shape[0], K]))
    tau = numpyro.sample("tau", dist.Gamma(1.0, 1.0))
    numpyro.sample("x", dist.Normal(h @ W, 1 / jnp.sqrt(tau)), obs=x)


def noises(x):
    """A noise for every column."""
    W = numpyro.sample("W", dist.Normal(0.0, 1.0).expand([x.shape[1], K]))
    h = numpyro.sample("h", dist.Normal(0.0, 1.0).expand([x.shape[0], K]))
    tau = numpyro.sample("tau", dist.Gamma(1.0, 1.0).expand([x.shape[1]]))
    numpyro.sample("x", dist.Normal(h @ W.T, 1 / jnp.sqrt(tau)), obs=x)


def listed(i, j, x):
    """Entries one by one, so that some may be missing."""
    W = numpyro.sample("W", dist.Normal(0.0, 1.0).expand([D, K]))
    h = numpyro.sample("h", dist.Normal(0.0, 1.0).expand([N, K]))
    tau = numpyro.sample("tau", dist.Gamma(1.0, 1.0))
    numpyro.sample("x", dist.Normal((h[i] * W[j]).sum(-1), 1 / jnp.sqrt(tau)), obs=x)


def groups(g, y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0).expand([3]))
    tau = numpyro.sample("tau", dist.Gamma(1.0, 1.0))
    numpyro.sample("y", dist.Normal(a[g], 1 / jnp.sqrt(tau)), obs=y)


def some(count):
    return {"i": ROWS[:count], "j": COLUMNS[:count], "x": X.reshape(-1)[:count]}


CASES = {
    "loadings across": (across, {"x": X}, {"W": Alike(D, K, across=True), "h": Alike(N, K)}),
    "a noise a column": (noises, {"x": X}, {"W": Blocks(D, K), "h": Alike(N, K)}),
    "listed": (listed, some(N * D), {"W": Alike(D, K), "h": Alike(N, K)}),
    "missing": (listed, some(N * D - 3), {"W": Blocks(D, K), "h": Blocks(N, K)}),
    "equal groups": (groups, {"g": np.arange(9) % 3, "y": X[0, 0] + np.arange(9.0)}, {"a": Alike(3, 1)}),
    "unequal groups": (groups, {"g": np.arange(8) % 3, "y": X[0, 0] + np.arange(8.0)}, {"a": Blocks(3, 1)}),
}


@pytest.mark.parametrize("name", CASES)
def test_where_blocks_are_alike(name):
    model, data, wanted = CASES[name]
    found = make(model, data)
    assert {site: (type(p), vars(p)) for site, p in found.layout.pattern.items()} == {
        site: (type(p), vars(p)) for site, p in wanted.items()
    }
    if name == "loadings across":
        with scope("float64"):
            certificate = certify(found, data)
        assert max(*certificate.density.values(), *certificate.affine.values()) < 1e-12


def test_zoo():
    alike = {site for site, pattern in plan("bpca").layout.pattern.items() if isinstance(pattern, Alike)}
    assert alike == {"W", "h", "m"}


@jax.jit
def numbers(q, noise, x):
    found = q.with_entropy()
    return found["mean"], q.sd(), found["entropy"], q.at(noise), q.log_prob(x)


@pytest.mark.parametrize(("width", "across"), [(3, True), (6, False)])
def test_algebra_is_that_of_separate_blocks(width, across):
    rng = np.random.default_rng(0)
    one, all_ = Alike(4, width, across), Blocks(4, width)
    root = rng.normal(size=(width, width + 2))
    i, j = np.concatenate([np.stack([np.arange(width)] * 2, 1), one.one.pairs]).T
    matrix = root @ root.T
    entries, n = matrix[i, j], one.n
    order = one.split(np.arange(n)).reshape(-1)  # the blocks' elements side by side
    h, noise = rng.normal(size=n), rng.normal(size=(2, n))
    with scope("float64"):
        below = np.repeat(matrix[np.tril_indices(width, -1)], 4)
        separate = np.concatenate([np.tile(np.diag(matrix), 4), below])
        mine = numbers(Gaussian(h, entries, one), noise, h)
        theirs = numbers(Gaussian(h[order], separate, all_), noise[:, order], h[order])
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(np.asarray(a)[..., order] if np.shape(a) else a, b, rtol=1e-9)
        double = np.concatenate([entries[:width], 2 * entries[width:]])
        square = jax.jit(one.square)(double, h, np.linalg.inv(matrix)[i, j])
        blocks = h[order].reshape(4, width)
        # <P, P^-1> is the number of elements
        np.testing.assert_allclose(square, np.einsum("bi,ij,bj->", blocks, matrix, blocks) + n, rtol=1e-10)
