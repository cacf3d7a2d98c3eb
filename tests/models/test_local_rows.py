"""Batches of rows that have latent variables of their own: unbiased, and fitted to the closed form."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pymc as pm
import pytest

import jensen as jn
from jensen.core.layout import unflatten
from jensen.core.precision import scope
from jensen.data.build import table
from jensen.models import plates
from jensen.models.local_rows import by_number
from jensen.models.minibatch import Batches
from jensen.models.model import total
from jensen.models.read import read

N = 300
Y = np.random.default_rng(0).normal(1.5, 1.2, N)


def scales(y):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("rows", N):
        r = numpyro.sample("r", dist.Gamma(3.0, 1.0))
        numpyro.sample("y", dist.Normal(mu, r**-0.5), obs=y)


def scales_in_pymc():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10)
        r = pm.Gamma("r", 3.0, 1.0, shape=N)
        pm.Normal("y", mu, r**-0.5, observed=Y)
    return model


@pytest.mark.parametrize("model", [scales, scales_in_pymc])
def test_batches_of_an_epoch_sum_to_the_whole(model):
    record = read(model, {"y": Y}) if model is scales else read(model())
    with scope("float64"):
        (plate,) = plates.find(record)
        assert plate.sites == (("r", 0),)
        numbered, seen = by_number(record, plate)
        plates.prove(numbered, seen, plates.rows_of(numbered.data, seen, np.arange(20)))
        batches = Batches(numbered, seen, table(**{name: numbered.data[name] for name, _ in seen.data}), 70)
        part = batches.part(0, 0, batches.epoch)
        z = np.random.default_rng(1).normal(0, 0.3, record.dim)
        density = jax.value_and_grad(lambda z, data: total(batches.factors(unflatten(record.sites, z), data)))
        values, slopes = [], []
        for number in part.index[: part.count]:
            block = {name: array[number] for name, array in part.blocks.items()}
            value, slope = density(z, {**batches.rest, **block})
            values.append(value)
            slopes.append(slope)
        whole = jax.value_and_grad(lambda z: total(record.factors(unflatten(record.sites, z), record.data)))(z)
    np.testing.assert_allclose(np.mean(values), whole[0], rtol=1e-12)
    np.testing.assert_allclose(np.mean(slopes, 0), whole[1], rtol=1e-10, atol=1e-10)


def test_a_fit_by_batches_finds_the_posterior_means():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        with numpyro.plate("rows", N):
            z = numpyro.sample("z", dist.Normal(mu, 1))
            numpyro.sample("y", dist.Normal(z, 0.5), obs=y)

    with pytest.warns(jn.FitWarning, match="log weights"):  # mean-field is not the posterior here
        found = jn.fit(model, "advi", data={"y": Y}, batch_size=60, steps=4000, correct=False, progress=False)
    mean = Y.mean() / (1 + 1.25 / N / 100)  # the optimum of a mean-field Gaussian has the means of the posterior
    np.testing.assert_allclose(found.mean["mu"], mean, atol=0.1 * np.sqrt(1.25 / N))
    np.testing.assert_allclose(found.mean["z"], (4 * Y + mean) / 5, atol=0.1 * np.sqrt(0.2))
    np.testing.assert_allclose(found.sd["z"].mean(), np.sqrt(0.2), rtol=0.05)
    assert any("latent variables of their own" in line for line in found.story)
