"""The oracles themselves: models agree with their PyMC twins, with their references, and the scorer with both."""

import inspect
from dataclasses import replace

import jax
import numpy as np
import pytest
from numpyro.infer.util import log_density

from posteriors import models
from posteriors.load import PROBS, load, names, reference
from posteriors.score import heavy, score

TWINS = (
    "arK",
    "eight_schools_centered",
    "gp_regr",
    "kidscore_momiq",
    "low_dim_gauss_mix",
    "nes1972",
    "rats",
)


@pytest.mark.parametrize("name", names())
def test_model_and_reference_fit_together(name):
    model, data, known = load(name)
    assert model.__doc__
    values = known.by_site(known.mean)
    with jax.enable_x64(True):
        latent = {site: values[site] for site in known.latent}
        log_prob, trace = log_density(model, (), data, latent)
        sampled = {
            site for site, message in trace.items() if message["type"] == "sample" and not message["is_observed"]
        }
        assert sampled == set(known.latent)
        assert {site: np.shape(trace[site]["value"]) for site, _ in known.sites} == dict(known.sites)
        assert np.isfinite(log_prob)
    assert len(known.columns) == len(known.mean) == sum(int(np.prod(shape)) for _, shape in known.sites)
    assert np.all(known.sd > 0)
    assert known.quantiles.shape == (len(PROBS), len(known.mean))
    assert np.all(np.diff(known.quantiles, axis=0) > 0)
    if known.cov is not None:
        np.testing.assert_allclose(np.sqrt(np.diag(known.cov)), known.sd, rtol=1e-3)


def test_every_model_has_a_reference():
    public = [
        name for name, value in inspect.getmembers(models, inspect.isfunction) if value.__module__ == models.__name__
    ]
    assert sorted(name for name in public if not name.startswith("_")) == names()
    assert len(names()) == 15


@pytest.mark.parametrize("name", TWINS)
def test_pymc_twin_has_the_same_density(name):
    pytest.importorskip("pymc")
    from pymc.pytensorf import compile as compile_pytensor

    from posteriors import models_pymc

    model, data, known = load(name)
    twin = getattr(models_pymc, name)(**data)
    assert {variable.name for variable in twin.free_RVs} == set(known.latent)
    # Constrained values of the free variables and their log density, without Jacobians, at unconstrained points.
    backward = []
    for variable in twin.free_RVs:
        value, transform = twin.rvs_to_values[variable], twin.rvs_to_transforms[variable]
        backward.append(value if transform is None else transform.backward(value, *variable.owner.inputs))
    at = compile_pytensor(twin.value_vars, [twin.logp(jacobian=False), *backward], mode="FAST_COMPILE")
    start = twin.initial_point(random_seed=0)
    random = np.random.default_rng(0)
    gaps, sizes = [], []
    for _ in range(4):
        point = [np.asarray(start[v.name] + 0.5 * random.standard_normal(start[v.name].shape)) for v in twin.value_vars]
        here, *constrained = at(*point)
        values = {rv.name: value for rv, value in zip(twin.free_RVs, constrained, strict=True)}
        with jax.enable_x64(True):
            there = float(log_density(model, (), data, values)[0])
        gaps.append(float(here) - there)
        sizes.append(abs(there))
    assert np.ptp(sizes) > 1
    assert np.ptp(gaps) < 1e-11 * max(sizes) + 1e-9


def test_score_of_the_reference_itself():
    for name in names():
        known = reference(name)
        result = score(known.by_site(known.mean), known.by_site(known.sd), known)
        assert result.columns == known.columns
        np.testing.assert_array_equal(result.mean_error, 0)
        np.testing.assert_array_equal(result.sd_ratio, 1)
        assert result.worst_mean[1] == 0


def test_score_finds_the_wrong_column_and_skips_derived_ones():
    known = reference("garch11")
    mean, sd = known.by_site(known.mean.copy()), known.by_site(known.sd.copy())
    mean["alpha0"] = mean["alpha0"] + 0.5 * sd["alpha0"]
    sd["mu"] = sd["mu"] / 2
    del mean["beta1"]
    result = score(mean, sd, known)
    assert "beta1" not in result.columns
    assert result.worst_mean[0] == "alpha0"
    assert result.worst_mean[1] == pytest.approx(0.5)
    assert result.worst_sd == ("mu", pytest.approx(0.5))


def test_score_does_not_hide_what_is_not_finite():
    known = reference("arK")
    mean, sd = known.by_site(known.mean.copy()), known.by_site(known.sd.copy())
    mean["sigma"] = np.asarray(np.nan)
    assert score(mean, sd, known).worst_mean == ("sigma", np.inf)


def test_score_refuses_missing_sites_and_wrong_shapes():
    known = reference("arK")
    mean, sd = known.by_site(known.mean), known.by_site(known.sd)
    with pytest.raises(KeyError, match="sigma"):
        score({site: value for site, value in mean.items() if site != "sigma"}, sd, known)
    with pytest.raises(ValueError, match="beta has shape"):
        score(mean | {"beta": np.zeros(4)}, sd, known)


def test_heavy_columns_are_marked_and_left_out():
    assert not any(heavy(reference(name)).any() for name in names())
    known = reference("arK")
    wide = replace(known, sd=known.sd * np.where(np.asarray(known.columns) == "sigma", 2.0, 1.0))
    mean = known.by_site(known.mean + np.where(np.asarray(known.columns) == "sigma", 1.0, 1e-4))
    result = score(mean, known.by_site(known.sd), wide)
    assert np.asarray(result.columns)[result.heavy].tolist() == ["sigma"]
    assert result.worst_mean[0] != "sigma"
