"""Fits side by side: moments, Monte-Carlo errors, labels, and what is refused."""

import warnings

import numpy as np
import pytest

import jensen as jn
from jensen.comparison import compare

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az

SD = np.array([1.0, 2.0, 0.5])


def gaussian_draws(rng, shape, mean=0.0, sd=1.0):
    return mean + sd * SD * rng.standard_normal((*shape, 3))


def chains(rng, mean=0.0, sd=1.0, coords=None, extra=None, correlation=0.0):
    x = gaussian_draws(rng, (4, 1000))
    for draw in range(1, 1000):
        x[:, draw] = correlation * x[:, draw - 1] + np.sqrt(1 - correlation**2) * x[:, draw]
    posterior = {"x": mean + sd * x, **(extra or {})}
    return az.from_dict(posterior=posterior, coords=coords, dims={"x": ["row"]} if coords else None)


@pytest.fixture(scope="module")
def posterior():
    model = jn.density(lambda p: -0.5 * (p["x"] ** 2 / SD**2).sum() - 0.5 * p["y"] ** 2, {"x": np.zeros(3), "y": 0.0})
    return jn.fit(model, progress=False)


def test_a_fit_and_long_chains_agree_within_their_errors(posterior):
    mcmc = chains(np.random.default_rng(0))
    found = compare(posterior, mcmc, names=["vi", "mcmc"])
    assert found.reference == "mcmc"
    assert found.names == ("x[0]", "x[1]", "x[2]")
    assert (np.abs(found.difference["vi"]) < 4 * found.difference_error["vi"]).all()
    assert (np.abs(found.log_sd_ratio["vi"]) < 4 * found.log_sd_ratio_error["vi"]).all()
    np.testing.assert_allclose(found.mean["mcmc"], mcmc.posterior["x"].mean(("chain", "draw")))
    table = found.table
    assert list(table.index) == list(found.names)
    assert table.loc["x[1]", "vi sd"] == pytest.approx(2.0, rel=1e-3)
    assert "y (vi)" in found.left_out


def test_wrong_moments_are_found_and_come_first():
    rng = np.random.default_rng(1)
    good = chains(rng)
    bad = chains(rng, extra=None)
    bad.posterior["x"][..., 2] = 0.5 + 0.5 * bad.posterior["x"][..., 2]
    found = compare({"good": good, "bad": bad})
    assert found.difference["bad"][2] == pytest.approx(1.0, abs=0.1)
    assert np.exp(found.log_sd_ratio["bad"][2]) == pytest.approx(0.5, rel=0.06)
    assert found.names[found.worst_first[0]] == "x[2]"
    text = repr(found)
    assert text.splitlines()[1].startswith("x[2]")
    assert "bad agrees with good in 2 of 3 quantities" in text


def test_errors_of_means_are_those_of_correlated_chains():
    """Errors against ArviZ's own, and against the spread over repetitions."""
    rng = np.random.default_rng(2)
    fits = [chains(rng, correlation=0.8) for _ in range(12)]
    found = compare(*fits)
    assert found.labels[0] == "draws 1"
    off = np.array([found.mean[label] for label in found.labels]) / SD
    sds = np.log(np.array([found.sd[label] for label in found.labels]) / SD)
    label = found.labels[1]
    own = found.difference_error[label] / np.sqrt(2)
    expected = np.sqrt(1.8 / 0.2 / 4000)
    np.testing.assert_allclose(own, expected, rtol=0.3)
    assert off.std() == pytest.approx(expected, rel=0.4)
    assert sds.std() == pytest.approx(found.log_sd_ratio_error[label].mean() / np.sqrt(2), rel=0.4)
    mcse = az.mcse(fits[0])["x"].values / found.sd[found.labels[0]]
    np.testing.assert_allclose(own, mcse, rtol=0.3)


def test_coordinates_match_by_label_not_by_place():
    rng = np.random.default_rng(3)
    first = chains(rng, coords={"row": ["a", "b", "c"]})
    second = chains(rng, coords={"row": ["a", "b", "c"]})
    turned = second.isel(row=[2, 0, 1])
    same, other = compare(first, second), compare(first, turned)
    assert other.names == ("x[a]", "x[b]", "x[c]")
    for label in same.labels:
        np.testing.assert_allclose(other.mean[label], same.mean[label])
    fewer = compare(first, second.isel(row=[2, 0]))
    assert fewer.names == ("x[a]", "x[c]")
    unnamed = compare(first, chains(rng))  # coordinates from elsewhere are often left out
    assert unnamed.names == ("x[a]", "x[b]", "x[c]")


def test_datasets_and_constants():
    rng = np.random.default_rng(4)
    first, second = (chains(rng, extra={"k": np.ones((4, 1000))}).posterior for _ in range(2))
    found = compare(first, second)
    row = found.names.index("k")
    label = found.labels[1]
    assert found.difference[label][row] == found.log_sd_ratio[label][row] == 0
    assert compare(first, second, var_names=["k"]).names == ("k",)


@pytest.mark.parametrize("size", [5, 60, 400])
def test_figure(size):
    rng = np.random.default_rng(5)
    fits = {word: az.from_dict(posterior={"x": rng.standard_normal((2, 50, size))}) for word in ("a", "b", "c")}
    figure = compare(fits).plot()
    figure.canvas.draw()
    labels = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert len(labels) == min(size, 120)
    assert all(label.startswith("x[") for label in labels)


def test_refusals(posterior):
    rng = np.random.default_rng(6)
    mcmc = chains(rng)
    with pytest.raises(jn.OptionError, match="at least two fits"):
        compare(mcmc)
    with pytest.raises(jn.OptionError, match="one label for each of the 2 fits"):
        compare(mcmc, mcmc, names=["a"])
    with pytest.raises(jn.OptionError, match="labels must differ"):
        compare(mcmc, mcmc, names=["a", "a"])
    with pytest.raises(jn.OptionError, match="fit 2 is a dict"):
        compare(mcmc, {"x": 1})
    with pytest.raises(jn.OptionError, match="var_names has"):
        compare(mcmc, mcmc, var_names=["z"])
    with pytest.raises(jn.DataError, match="no variable in common"):
        compare(mcmc, az.from_dict(posterior={"u": np.zeros((2, 10))}))
    with pytest.raises(jn.DataError, match="other shapes"):
        compare(posterior, az.from_dict(posterior={"x": rng.standard_normal((2, 10, 4))}))
    with pytest.raises(jn.DataError, match="other shapes"):
        compare(posterior, az.from_dict(posterior={"x": rng.standard_normal((2, 10))}))
    with pytest.raises(jn.DataError, match="chain and draw"):
        compare(posterior, mcmc.posterior.mean(("chain", "draw")))
