"""Real posteriors with published references: one setting for all, seed 0.

The two large ones are marked slow.
"""

import warnings
from functools import cache

import numpy as np
import pytest
from tests.tiers import quick

import jensen as jn
from posteriors.load import load, names
from posteriors.score import score

LARGE = ("irt_2pl", "radon_mn_slope_noncentered")
TWINS = ("arK", "eight_schools_centered", "gp_regr", "kidscore_momiq", "low_dim_gauss_mix", "nes1972", "rats")
MEANS, SDS = 0.10, (0.90, 1.10)
FALSE_MEANS, FALSE_SDS = 0.30, (0.80, 1.25)
RIGHT_BASIN = 1.5


@cache
def fitted(name, method="auto"):
    model, data, reference = load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jn.FitWarning)
        posterior = jn.fit(model, method, data=data)
    return posterior, score(posterior.mean, posterior.sd, reference)


def words(posterior, scored):
    by_name = dict(zip(posterior.verdict.names, posterior.verdict.words, strict=True))
    return np.array([by_name[column] for column in scored.columns])


def inside(values, limits):
    return (values >= limits[0]) & (values <= limits[1])


def check(name):
    posterior, scored = fitted(name)
    verdict = words(posterior, scored)
    light = ~scored.heavy
    trusted = (verdict == "trusted") & light
    # What is called trusted is within the limits of accuracy, and so is the mean of what has a trusted mean.
    assert np.abs(scored.mean_error[trusted]).max(initial=0) <= MEANS
    # A few sds of irt_2pl's 144 are those of heavy tails, which 128 chains know to a tenth: 1.13 to 1.21 by seed and machine.
    limits = FALSE_SDS if name in LARGE else SDS
    assert inside(scored.sd_ratio[trusted], limits).all(), dict(zip(scored.columns, scored.sd_ratio, strict=True))
    means_only = (verdict == "means only") & light
    assert np.abs(scored.mean_error[means_only]).max(initial=0) <= FALSE_MEANS
    # And the verdict is no cheap refusal: at most a fifth of the accurate quantities are refused.
    accurate = (np.abs(scored.mean_error) <= MEANS) & inside(scored.sd_ratio, SDS) & light
    assert (verdict[accurate] == "trusted").mean() >= 0.8
    assert np.isfinite(posterior.elbo.value)


@pytest.mark.parametrize("name", quick(names(), *(name for name in names() if name not in LARGE)))
def test_default_fit(name):
    check(name)


@pytest.mark.parametrize(
    "name",
    quick(
        ["kidscore_momiq", "nes1972", "arK", "logearn_interaction_z", "wells_interaction_c"],
        "kidscore_momiq",
    ),
)
def test_linear_response_repairs_mean_field(name):
    """Sds of 0.1 to 0.9 of the truth become right to a few percent."""
    model, data, reference = load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jn.FitWarning)
        plain = jn.fit(model, "meanfield", data=data)
    repaired = plain.linear_response()
    before, after = (score(p.mean, p.sd, reference) for p in (plain, repaired))
    assert before.sd_ratio.min() < 0.95
    assert inside(after.sd_ratio, SDS).all()
    assert after.worst_mean[1] <= MEANS


def test_linear_response_widens_what_mean_field_makes_too_narrow_in_eight_schools():
    model, data, reference = load("eight_schools_centered")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jn.FitWarning)
        plain = jn.fit(model, "meanfield", data=data)
        repaired = plain.linear_response()
    known = reference.by_site(reference.sd)
    for site in ("mu", "tau"):
        before, after = (abs(np.log(p.sd[site] / known[site])) for p in (plain, repaired))
        assert after < 0.7 * before
    # The funnel stays what it is: neither fit is trusted for it.
    for posterior in (plain, repaired):
        assert dict(zip(posterior.verdict.names, posterior.verdict.words, strict=True))["tau"] != "trusted"


def test_no_seed_is_trusted_and_wrong():
    """The limits of a false "trusted", on the posterior with the hardest funnel."""
    model, data, reference = load("eight_schools_centered")
    for seed in range(1, 4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jn.FitWarning)
            posterior = jn.fit(model, data=data, seed=seed)
        scored = score(posterior.mean, posterior.sd, reference)
        trusted = words(posterior, scored) == "trusted"
        assert np.abs(scored.mean_error[trusted]).max(initial=0) <= FALSE_MEANS
        assert inside(scored.sd_ratio[trusted], FALSE_SDS).all()


@pytest.mark.slow
def test_pure_full_rank_fits():
    """Right where the posterior is nearly Gaussian, in the right basin elsewhere, and nothing trusted that is wrong.

    Three of the nine that a Gaussian can do, three of the six that it cannot; `benchmarks posteriors` has all fifteen.
    """
    good = set()
    for name in (
        "kidscore_momiq",
        "nes1972",
        "wells_interaction_c",
        "eight_schools_centered",
        "seeds_centered",
        "rats",
    ):
        posterior, scored = fitted(name, "fullrank")
        assert posterior.answer == "q"
        light = ~scored.heavy
        assert np.abs(scored.mean_error[light]).max() < RIGHT_BASIN, name
        if (np.abs(scored.mean_error[light]) <= MEANS).all() and inside(scored.sd_ratio[light], SDS).all():
            good.add(name)
        trusted = (words(posterior, scored) == "trusted") & light
        assert np.abs(scored.mean_error[trusted]).max(initial=0) <= FALSE_MEANS, name
        assert inside(scored.sd_ratio[trusted], FALSE_SDS).all(), name
    assert good >= {"kidscore_momiq", "nes1972", "wells_interaction_c"}


@pytest.mark.parametrize("name", quick(TWINS, "eight_schools_centered", "gp_regr", "kidscore_momiq", "rats"))
def test_the_pymc_twin_gives_the_same_answer(name):
    pytest.importorskip("pymc")
    from posteriors import models_pymc

    _, data, reference = load(name)
    here, _ = fitted(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jn.FitWarning)
        there = jn.fit(getattr(models_pymc, name)(**data))
    for site in reference.latent:
        unit = here.sd[site]
        assert there.mean[site].shape == here.mean[site].shape
        assert np.abs((there.mean[site] - here.mean[site]) / unit).max() < 0.15, site
        assert np.abs(np.log(there.sd[site] / unit)).max() < 0.15, site
    assert set(there.verdict.names) >= {name for name in here.verdict.names if name.split("[")[0] in reference.latent}
