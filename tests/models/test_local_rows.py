"""Batches of rows that have latent variables of their own, and along two axes: unbiased, and fitted to closed forms."""

import warnings

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pymc as pm
import pytest

import jensen as jn
from jensen.core.layout import unflatten
from jensen.core.precision import scope
from jensen.families.meanfield import DiagonalGaussian
from jensen.models.crossed import Crossed, named
from jensen.models.minibatch import block_of
from jensen.models.model import total
from jensen.models.read import read

N = 300
Y = np.random.default_rng(0).normal(1.5, 1.2, N)


def scales(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("rows", N):
        r = numpyro.sample("r", dist.Gamma(3.0, 1.0))
        numpyro.sample("y", dist.Normal(mu, r**-0.5), obs=y)


def sparse():
    """Rows that read their values by a number that is drawn with them."""
    with pm.Model() as model:
        mu, r = pm.Normal("mu", 0, 10), pm.Gamma("r", 3.0, 1.0, shape=N)
        rows, y = pm.Minibatch(np.arange(N), Y, batch_size=70)
        pm.Normal("y", mu, r[rows] ** -0.5, observed=y, total_size=N)
    return model


def ratings(Y):
    """Users and items, both subsampled, with an offset for every entry."""
    users = numpyro.plate("users", 20, subsample_size=6, dim=-2)
    items = numpyro.plate("items", 13, subsample_size=5, dim=-1)
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with users as i:
        u = numpyro.sample("u", dist.HalfNormal(1).expand([2]).to_event(1))
    with items as j:
        v = numpyro.sample("v", dist.Normal(0, 1).expand([2]).to_event(1))
    with users, items:
        scale = numpyro.sample("scale", dist.HalfNormal(2.0))
        numpyro.sample("Y", dist.Normal((u * v).sum(-1), s + scale), obs=Y[i][:, j])


def ratings_in_pymc(total_size):
    with pm.Model(coords={"users": range(20), "items": range(13)}) as model:
        s, u, v = pm.HalfNormal("s", 1), pm.HalfNormal("u", 1, shape=(20, 2)), pm.Normal("v", shape=(13, 2))
        rows, some = pm.Minibatch(np.arange(20), RATINGS, batch_size=6)
        pm.Normal("Y", u[rows] @ v.T, s, observed=some, total_size=total_size, dims=("users", "items"))
    return model


RATINGS = np.random.default_rng(5).normal(size=(20, 13))
AXES = {"users": 6, "items": 5}


def density(record):
    return lambda z, data: total(record.factors(unflatten(record.sites, z), data))


@pytest.mark.parametrize("model", [scales, sparse, ratings, ratings_in_pymc], ids=lambda m: m.__name__)
def test_batches_of_an_epoch_average_to_the_whole(model):
    """The mean of the scaled densities of all batches, and of their gradients, is that of all data."""
    written = {sparse: sparse, ratings_in_pymc: lambda: ratings_in_pymc((20, 13))}.get(model, lambda: model)()
    record = read(written, {scales: {"y": Y}, ratings: {"Y": RATINGS}}.get(model))
    assert record.batch_size == {ratings: AXES, ratings_in_pymc: 6, sparse: 70}.get(model)
    sizes = AXES if model in (ratings, ratings_in_pymc) else {"rows": 70}
    with scope("float64"):
        batches = Crossed(record, named(record, sizes), tuple(sizes.values()), seed=0)
        z = np.random.default_rng(1).normal(0, 0.3, record.dim)
        value, slope = batches.gradient(z)
        part = batches.part(0, 3, 5)
        blocks = [block_of(batches.rest, part.blocks, number)[1] for number in part.index]
        turn, weight = jax.vmap(batches.reach)(jax.tree.map(lambda *leaves: np.stack(leaves), *blocks))
        whole = jax.jit(jax.value_and_grad(density(record)))(z, record.data)
    assert batches.epoch == (12 if len(sizes) > 1 else 5)
    np.testing.assert_allclose(value, whole[0], rtol=1e-12)
    np.testing.assert_allclose(slope, whole[1], rtol=1e-10, atol=1e-10)
    assert set(np.unique(turn)) == {0.0, 1.0}
    assert set(np.unique(weight)) == (
        {1.0, 3.0, 4.0, 12.0} if model is ratings else {1.0, 3.0, 4.0} if len(sizes) > 1 else {1.0, 5.0}
    )


def test_curvature_by_products_with_vectors():
    record = read(ratings, {"Y": RATINGS})
    with scope("float64"):
        batches = Crossed(record, named(record, AXES), tuple(AXES.values()), seed=0)
        z = np.random.default_rng(1).normal(0, 0.3, record.dim)
        hessian = jax.jit(jax.hessian(density(record)))(z, record.data)
        found = batches.curvature(DiagonalGaussian(z, np.full(record.dim, -50.0)), 0)
    np.testing.assert_allclose(found, -np.diagonal(hessian), rtol=1e-9)


@pytest.mark.parametrize(
    ("model", "data", "sizes", "error", "match"),
    [
        (
            lambda: ratings_in_pymc((20, 13)),
            None,
            {"users": 6, "item": 5},
            jn.OptionError,
            "'item'.*there are users, items",
        ),
        (lambda: ratings_in_pymc((20, 13)), None, {"users": 21}, jn.OptionError, "1 to 20; got 21"),
        (lambda: sums_inside, {"Y": RATINGS}, {"rows": 10, "columns": 7}, jn.UnsupportedError, "not unbiased for Y"),
        (lambda: mixed_up, {"y": Y}, {"rows": 30}, jn.UnsupportedError, "not unbiased for y"),
    ],
    ids=["name", "size", "mean of all", "numbers in another order"],
)
def test_what_is_checked_before_the_first_step(model, data, sizes, error, match):
    options = dict(data=data, batch_size=sizes, steps=1, correct=False, progress=False)
    with pytest.raises(error, match=match):
        jn.fit(model(), "advi", **options)


def sums_inside(Y):
    b = numpyro.sample("b", dist.Normal(0, 1))
    numpyro.sample("Y", dist.Normal(b * Y.mean(1, keepdims=True), 1), obs=Y)


def mixed_up(y):
    with numpyro.plate("rows", N):
        z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(z[::-1], 1), obs=y)


def fitted(model, y, batch_size):
    """A fit without the question whether a mean-field q is the posterior: it is not, here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jn.FitWarning)
        return jn.fit(model, "advi", data={"y": y}, batch_size=batch_size, correct=False, progress=False)


@pytest.mark.slow
def test_a_matrix_in_batches_of_both_axes():
    """Against coordinate ascent written down for y ~ N(u v', 1/4): a factor a user and an item, standard normal."""
    rng = np.random.default_rng(2)
    n, m = 24, 15
    u, v = rng.normal(size=n), 1 + rng.normal(size=m)
    y = np.outer(u, v) + rng.normal(0, 0.5, (n, m))

    def model(y):
        users, items = numpyro.plate("users", n, dim=-2), numpyro.plate("items", m, dim=-1)
        with users:
            u = numpyro.sample("u", dist.Normal(0, 1))
        with items:
            v = numpyro.sample("v", dist.Normal(1, 1))
        with users, items:
            numpyro.sample("y", dist.Normal(u * v, 0.5), obs=y)

    sizes = {"users": 12, "items": 8}
    found = fitted(model, y, sizes)
    mv, sv = np.ones(m), np.ones(m)
    for _ in range(2000):
        su = 1 / (1 + 4 * (mv**2 + sv).sum())
        mu = su * 4 * (y @ mv)
        sv = 1 / (1 + 4 * (mu**2 + su).sum()) * np.ones(m)
        mv = sv * (1 + 4 * (y.T @ mu))
    assert found.run.status == "converged"
    np.testing.assert_allclose(found.mean["u"].ravel(), mu, atol=0.3 * np.sqrt(su))
    np.testing.assert_allclose(found.mean["v"], mv, atol=0.3 * np.sqrt(sv[0]))
    np.testing.assert_allclose(found.sd["u"].mean(), np.sqrt(su), rtol=0.05)
    np.testing.assert_allclose(found.sd["v"].mean(), np.sqrt(sv[0]), rtol=0.05)


def test_a_fit_by_batches_finds_the_optimum_and_stops():
    """In closed form: log r of a row is N(log(3.5 / b) - 1/7, 1/3.5), b = 1 + E (y - mu)^2 / 2."""
    found = fitted(scales, Y, 60)
    mu, v = Y.mean(), 0.0
    for _ in range(200):
        r = 3.5 / (1 + 0.5 * ((Y - mu) ** 2 + v))
        v = 1 / (r.sum() + 0.01)
        mu = v * (r * Y).sum()
    assert found.run.status == "converged"
    assert abs(found.mean["mu"] - mu) < 0.1 * np.sqrt(v)
    np.testing.assert_allclose(found.sd["mu"], np.sqrt(v), rtol=0.05)
    mean, sd = found.q.mean[1:], found.q.sd[1:]
    error = (mean - (np.log(r) - 1 / 7)) * np.sqrt(3.5)
    assert np.sqrt((error**2).mean()) < 0.04
    assert np.abs(error).max() < 0.2
    np.testing.assert_allclose(sd, np.sqrt(1 / 3.5), rtol=0.08)
