"""Rows in groups with latent variables of their own, from tables: right against closed forms, few passes, bad numbers refused."""

from contextlib import suppress
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from tests.test_fit_checkpoint import Died, outcome, same

import jensen as jn
from jensen import checkpoint, fitting_groups
from jensen.checkpoint import Checkpoint
from jensen.core.errors import DataError, OptionError, UnsupportedError
from jensen.core.precision import scope
from jensen.fitting_large import read_streamed
from jensen.models import numbered, plates
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run
from jensen.settings import Settings

N, G = 4000, 320  # below 400 dimensions rows could be left out as well
MORE = 420
RNG = np.random.default_rng(4)
X, GROUP = RNG.normal(size=(N, 2)), RNG.integers(20, G, N)  # the first twenty groups have no rows
A, SD, NOISE = RNG.normal(0, 0.7, G), 0.7, 0.5
Y = X @ [0.5, -1.0] + 0.3 + A[GROUP] + RNG.normal(0, NOISE, N)
QUIET = {"progress": False}


def linear(X, y, group):
    """All sds known, so that the posterior is Gaussian; the groups are drawn as one vector."""
    b = numpyro.sample("b", dist.Normal(0, 2).expand([2]))
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    a = numpyro.sample("a", dist.Normal(mu, SD).expand([G]).to_event(1))
    numpyro.deterministic("first", a[0] - mu)
    numpyro.sample("y", dist.Normal(X @ b + a[group], NOISE), obs=y)


def logistic(X, y, group):
    b = numpyro.sample("b", dist.Normal(0, 2).expand([2]))
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("groups", G):
        a = numpyro.sample("a", dist.Normal(0, s))
    group = group.astype(int)
    numpyro.sample("y", dist.Bernoulli(logits=X @ b + a[group]), obs=y)


def gaussian_posterior():
    """Mean and sd of (b, mu, a) by the normal equations."""
    design = np.zeros((N, 3 + G))
    design[:, :2], design[np.arange(N), 3 + GROUP] = X, 1
    prior = np.zeros((3 + G, 3 + G))
    prior[:3, :3] = np.diag([0.25, 0.25, 0.25 + G / SD**2])
    prior[3:, 3:] = np.eye(G) / SD**2
    prior[2, 3:] = prior[3:, 2] = -1 / SD**2
    cov = np.linalg.inv(prior + design.T @ design / NOISE**2)
    return cov @ design.T @ Y / NOISE**2, np.sqrt(np.diag(cov))


def fitted(**options):
    return jn.fit(linear, data=jn.table(X=X, y=Y, group=GROUP), **QUIET, **options)


@pytest.fixture(scope="module")
def streamed():
    return fitted()


def test_gaussian_groups_of_a_table_are_exact(streamed):
    mean, sd = gaussian_posterior()
    for name, part in (("b", slice(0, 2)), ("mu", 2), ("a", slice(3, None))):
        np.testing.assert_allclose(streamed.mean[name], mean[part], atol=1e-6)
        np.testing.assert_allclose(streamed.sd[name], sd[part], rtol=1e-5)
    np.testing.assert_allclose(streamed.sd["first"], SD, rtol=1e-5)
    assert streamed.verdict.overall == "trusted"


def test_it_says_what_it_did(streamed):
    told = "; ".join(streamed.story)
    assert "320 groups of a, and 3 globals" in told
    assert "passes over 4,000 rows" in told
    assert "20 of the groups have no rows" in told
    assert "fitted in" in told  # the sample of groups


def test_a_fit_that_dies_after_every_write_is_the_one_that_never_died(streamed, tmp_path, monkeypatch):
    expected, real, labels, found = outcome(lambda: streamed), Checkpoint._write, [], None

    def dying(self):
        real(self)
        labels.append(list(self._runs)[-1])
        raise Died

    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", np.inf)
    monkeypatch.setattr(Checkpoint, "_write", dying)
    while found is None:
        with suppress(Died):
            found = outcome(fitted, checkpoint=tmp_path / "c")
    assert list(dict.fromkeys(labels)) == ["sample of groups", "places of groups", "groups"]
    same(found, expected)


def test_what_needs_rows_is_asked_for_block_by_block(streamed):
    block = jn.table(X=X, y=Y, group=GROUP).read(0, 50)
    with pytest.raises(OptionError, match="block by block"):
        streamed.log_likelihood(10)
    found = streamed.log_likelihood(10, data=block)["y"]
    draws = streamed.draws(10)
    eta = draws["b"] @ block["X"].T + draws["a"][:, block["group"]]
    np.testing.assert_allclose(found, -0.5 * ((block["y"] - eta) / NOISE) ** 2 - np.log(NOISE * np.sqrt(2 * np.pi)))
    with pytest.raises(OptionError, match="block by block"):
        streamed.predict()
    assert streamed.predict(data=block, draws=20)["y"].shape == (20, 50)
    with pytest.raises(UnsupportedError, match="NUTS needs rows in memory"):
        streamed.nuts(draws=10, progress=False)


def test_a_sample_of_groups_saves_passes():
    y = (RNG.random(N) < 1 / (1 + np.exp(-(X @ [0.5, -1.0] + A[GROUP])))).astype(float)
    settings = Settings("auto", 0, "float64", True)
    with scope("float64"):
        record = read(logistic, {"X": X, "y": y, "group": GROUP}, "float64")
        rows = jn.table(X=X, y=y, group=GROUP)
        target, alone = fitting_groups._grouped(record, plates.find(record)[0], rows, settings)
        z = RNG.normal(0, 0.3, (3, target.dim))
        for ours, plain in zip(target(z), Target(record)(z), strict=True):
            np.testing.assert_allclose(ours, plain, rtol=1e-10, atol=1e-9)
        q, engine, _ = fitting_groups._fitted(target, alone, settings, QUIET, lambda: None)
        warm, target.rows.passes = target.rows.passes, 0
        cold, _ = run(replace(engine, start=None), target, seed=0, progress=False)
    assert warm < target.rows.passes
    assert (np.abs(q.mean - cold.mean) / cold.sd).max() < 0.1
    np.testing.assert_allclose(q.sd, cold.sd, rtol=0.05)


def crossed(X, y, group, other):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([MORE]))
    numpyro.sample("y", dist.Normal(X @ jnp.ones(2) + a[group] - a[other], 1), obs=y)


def unnumbered(X, y):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([MORE]))
    numpyro.sample("y", dist.Normal(a[(jnp.abs(X[:, 0]) * 100).astype(int) % MORE], 1), obs=y)


def coupled(X, y, group):
    a = numpyro.sample("a", dist.GaussianRandomWalk(1.0, num_steps=MORE))
    numpyro.sample("y", dist.Normal(a[group], 1), obs=y)


def with_number(value, row=3000):
    group = GROUP.astype(float)
    group[row] = value
    return group


@pytest.mark.parametrize(
    ("model", "arrays", "error", "match"),
    [
        (
            logistic,
            {"group": with_number(G)},
            DataError,
            "group must hold whole numbers from 0 to 319.*it is 320.0 in row 3,000",
        ),
        (logistic, {"group": with_number(-1)}, DataError, "it is -1.0 in row 3,000"),
        (logistic, {"group": with_number(3.5)}, DataError, "it is 3.5 in row 3,000"),
        (linear, {"group": GROUP.astype(float)}, DataError, "real numbers as an index.*group"),
        (crossed, {"group": GROUP, "other": np.roll(GROUP, 1)}, UnsupportedError, "reads 2 values of a.*crossed"),
        (unnumbered, {}, UnsupportedError, "no array of the rows .X, y. has its number"),
        (coupled, {"group": GROUP}, UnsupportedError, "group numbers groups of a, which must be independent"),
    ],
)
def test_bad_groups_are_refused(model, arrays, error, match):
    with pytest.raises(error, match=match):
        jn.fit(model, data=jn.table(X=X, y=(Y > 0).astype(float), **arrays), **QUIET)


def test_rows_are_left_out_where_groups_cannot_be_used():
    """Crossed groups, few enough coordinates for a subsample: nothing is refused."""
    settings = Settings("auto", 0, "float64", True)

    def few(X, y, group, other):
        a = numpyro.sample("a", dist.Normal(0, 1).expand([G]))
        numpyro.sample("y", dist.Normal(X @ jnp.ones(2) + a[group] - a[other], 1), obs=y)

    with scope("float64"):
        record, plate, rows = read_streamed(few, jn.table(X=X, y=Y, group=GROUP, other=np.roll(GROUP, 1)), settings)
        how = (record, plate, rows, settings, QUIET, lambda: None)
        assert fitting_groups.fit_groups(*how, or_rows=True) is None
        with pytest.raises(UnsupportedError, match="crossed"):
            fitting_groups.fit_groups(*how)
        plain = read(linear_only, {"X": X, "y": Y}, "float64")
        assert not numbered.possible(plain, plates.find(plain)[0])


def linear_only(X, y):
    b = numpyro.sample("b", dist.Normal(0, 2).expand([50]))
    numpyro.sample("y", dist.Normal(X @ b[:2], NOISE), obs=y)
