"""What a fit returns: draws, moments, tables, exports, predictions, files."""

import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import jensen as jn

SCHOOLS = {
    "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
    "sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
}
RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(20), RNG.standard_normal((20, 2))])
Y = X @ [1.0, 2.0, -1.0] + 0.5 * RNG.standard_normal(20)


def schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def regression(X, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 10).expand([X.shape[1]]).to_event(1), infer={"event_dims": ["term"]})
    s = numpyro.sample("s", dist.HalfNormal(2))
    with numpyro.plate("row", X.shape[0]):
        mean = numpyro.deterministic("mean", X @ beta)
        numpyro.sample("y", dist.Normal(mean, s), obs=y)


def silent(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jn.FitWarning)
        return jn.fit(*arguments, **options)


@pytest.fixture(scope="module")
def plain():
    """q is the answer."""
    return silent(regression, "fullrank", data={"X": X, "y": Y})


@pytest.fixture(scope="module")
def corrected():
    """An integral over the schools is the answer."""
    found = silent(schools, data=SCHOOLS)
    assert found.answer == "corrected"
    return found


@pytest.fixture(scope="module")
def density():
    """A log density: no observed variable, nothing to simulate."""
    model = jn.density(
        lambda p: -0.5 * ((p["x"] - jnp.arange(3.0)) ** 2).sum() - 0.5 * p["y"] ** 2,
        {"x": np.zeros(3), "y": 0.0},
        dims={"x": ("place",)},
        coords={"place": ["left", "middle", "right"]},
    )
    return silent(model)


@pytest.fixture(scope="module")
def az():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0.23 announces version 1 once a day
        return pytest.importorskip("arviz")


every = pytest.mark.parametrize("which", ["plain", "corrected", "density"])


@pytest.fixture
def posterior(which, request):
    return request.getfixturevalue(which)


def flat(posterior, draws):
    names = [variable.name for variable in posterior.model.sites + posterior.model.derived]
    return np.concatenate([draws[name].reshape(len(draws[name]), -1) for name in names], axis=1)


# Draws and moments


@every
@pytest.mark.parametrize("n", [1, 7, 1000, 10_000])
def test_draws_have_their_sites_shape_draws_first(posterior, n):
    draws = posterior.draws(n)
    for variable in posterior.model.sites + posterior.model.derived:
        assert draws[variable.name].shape == (n, *variable.shape)
        assert isinstance(draws[variable.name], np.ndarray)
        assert np.isfinite(draws[variable.name]).all()
    assert set(draws) == {variable.name for variable in posterior.model.sites + posterior.model.derived}


@every
def test_no_draws_are_refused(posterior):
    for n in (0, -1):
        with pytest.raises(jn.OptionError, match="at least 1"):
            posterior.draws(n)


@every
def test_draws_are_the_same_every_time_and_fresh_arrays(posterior):
    one = posterior.draws(50)
    for values in one.values():
        values[...] = 0
    other, again = posterior.draws(50), posterior.draws(50)
    for name, values in other.items():
        np.testing.assert_array_equal(values, again[name])
        assert np.abs(values).max() > 0


@every
def test_moments_agree_with_draws(posterior):
    draws = flat(posterior, posterior.draws(20_000))
    table = posterior.summary()
    sd = np.where(table["sd"] > 0, table["sd"], 1)
    np.testing.assert_allclose((draws.mean(0) - table["mean"]) / sd, 0, atol=0.06)
    np.testing.assert_allclose(draws.std(0) / sd, 1, atol=0.08)
    low, middle, high = np.quantile(draws, (0.05, 0.5, 0.95), axis=0)
    for level, found in (("5%", low), ("50%", middle), ("95%", high)):
        np.testing.assert_allclose((table[level] - found) / sd, 0, atol=0.12)


@every
def test_mean_and_sd_are_the_summary_by_site(posterior):
    table = posterior.summary()
    for column, by_site in (("mean", posterior.mean), ("sd", posterior.sd)):
        values = np.concatenate([np.ravel(value) for value in by_site.values()])
        np.testing.assert_array_equal(values, table[column])
    for variable in posterior.model.sites + posterior.model.derived:
        assert posterior.mean[variable.name].shape == variable.shape
        assert posterior.sd[variable.name].dtype == float


@every
def test_cov_has_the_sds_of_the_sites_on_its_diagonal(posterior):
    cov = posterior.cov
    sds = np.concatenate([np.ravel(posterior.sd[site.name]) for site in posterior.model.sites])
    assert cov.shape == (len(sds), len(sds))
    np.testing.assert_allclose(np.sqrt(np.diagonal(cov)), sds, rtol=1e-10)
    np.testing.assert_allclose(cov, cov.T, rtol=1e-12, atol=1e-12)
    assert np.linalg.eigvalsh(cov).min() > 0


def test_sites_on_the_real_line_have_qs_moments_exactly(plain):
    np.testing.assert_allclose(plain.mean["beta"], plain.q.mean[:3], rtol=1e-10)
    np.testing.assert_allclose(plain.sd["beta"], plain.q.sd[:3], rtol=1e-10)
    np.testing.assert_allclose(plain.cov[:3, :3], plain.q.cov[:3, :3], rtol=1e-8)


def test_deterministics_are_functions_of_the_sites_draw_by_draw(plain):
    draws = plain.draws(100)
    np.testing.assert_allclose(draws["mean"], draws["beta"] @ X.T, rtol=1e-10)
    np.testing.assert_allclose(plain.mean["mean"], X @ plain.mean["beta"], rtol=1e-10)


def test_q_is_the_approximation_on_the_unconstrained_space(corrected):
    assert corrected.q.dim == 10
    z = corrected.q.sample(np.random.default_rng(0), 5)
    assert z.shape == (5, 10)
    assert np.isfinite(corrected.q.log_prob(z)).all()
    assert abs(corrected.q.mean[0] - corrected.mean["mu"]) < 3  # near, but not the answer itself
    assert not np.allclose(corrected.q.sd[0], corrected.sd["mu"], rtol=1e-3)


def test_weights_are_positive_and_sum_to_one(corrected, plain):
    for posterior in (corrected, plain):
        assert posterior.weights.shape == (len(posterior.kept.z),)
        assert (posterior.weights >= 0).all()
        assert posterior.weights.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(plain.weights, plain.weights[0])


# Tables


@every
def test_summary_columns(posterior):
    table = posterior.summary()
    assert list(table.columns) == ["mean", "sd", "5%", "50%", "95%", "verdict"]
    assert set(table["verdict"]) <= {"trusted", "means only", "do not use"}
    assert list(table["verdict"]) == list(posterior.verdict.words)
    assert list(table.index) == list(posterior.verdict.names)
    assert table.index.is_unique
    assert (table["5%"] <= table["50%"]).all()
    assert (table["50%"] <= table["95%"]).all()


def test_rows_are_named_by_place_or_coordinate(density, plain):
    assert list(density.summary().index) == ["x[left]", "x[middle]", "x[right]", "y"]
    assert list(plain.summary().index)[:4] == ["beta[0]", "beta[1]", "beta[2]", "s"]


def test_the_verdict_table_has_the_numbers_behind_it(corrected):
    table = corrected.verdict.table
    assert list(table.index) == list(corrected.verdict.names)
    assert "se of mean (sds)" in table.columns
    assert np.isfinite(table.drop(columns="verdict").to_numpy(float)).all()


@every
def test_repr_contains_table_verdict_advice_and_cost(posterior):
    text = repr(posterior)
    assert posterior.model.name in text
    for word in ("mean", "sd", "5%", "95%", "verdict", "ELBO", "gradients"):
        assert word in text
    assert posterior.verdict.overall in text
    assert posterior.verdict.advice in text
    assert all(reason in text for reason in posterior.verdict.reasons)
    assert "within the modes found" in text
    assert f"{posterior.summary().index[0]} " in text


def test_repr_of_many_quantities_is_short():
    model = jn.density(lambda p: -0.5 * (p["x"] ** 2).sum(), {"x": np.zeros(100)})
    text = repr(jn.fit(model))
    assert len(text.splitlines()) < 50
    assert "70 more" in text


@every
def test_khat_is_a_number(posterior):
    assert isinstance(posterior.verdict.khat, float)


@every
def test_history_has_an_entry_a_step(posterior):
    assert len(posterior.history["elbo"]) == posterior.run.steps
    np.testing.assert_array_equal(posterior.history["elbo"], -posterior.history["loss"])


@every
def test_elbo_and_its_error(posterior):
    assert np.isfinite(posterior.elbo.value)
    assert 0 <= posterior.elbo.error < 1
    # The last design's estimate is about the same bound.
    assert posterior.elbo.value == pytest.approx(posterior.history["elbo"][-1], abs=1.0)


@every
def test_the_story_is_told_in_sentences(posterior):
    assert posterior.story
    assert all(isinstance(line, str) and line for line in posterior.story)
    assert str(posterior.run.steps) in posterior.story[0]


# ArviZ


@every
def test_sample_is_an_arviz_object(posterior, az):
    data = posterior.sample(40)
    group = data.posterior
    assert group.sizes["chain"] == 1
    assert group.sizes["draw"] == 40
    draws = posterior.draws(40)
    for name, values in draws.items():
        np.testing.assert_array_equal(group[name].values[0], values)
    stats = data.sample_stats
    assert set(stats.data_vars) == {"lp", "log_q"}
    assert np.isfinite(stats["lp"].values).all()
    assert group.attrs["inference_library"] == "jensen"
    assert group.attrs["verdict"] == posterior.verdict.overall
    assert len(az.summary(data, kind="stats")) == len(posterior.summary())


def test_dims_and_coords(plain, density):
    group = plain.sample(5).posterior
    assert group["beta"].dims == ("chain", "draw", "term")
    assert group["mean"].dims == ("chain", "draw", "row")
    assert plain.sample(5).observed_data["y"].dims == ("row",)
    np.testing.assert_array_equal(plain.sample(5).observed_data["y"].values, Y)
    group = density.sample(5).posterior
    assert list(group["place"].values) == ["left", "middle", "right"]
    np.testing.assert_allclose(group["x"].sel(place="right").mean(), 2, atol=2)


def test_lp_and_log_q_are_densities_at_the_draws(density):
    stats, draws = density.sample(30).sample_stats, density.draws(30)
    by_hand = -0.5 * ((draws["x"] - np.arange(3)) ** 2).sum(1) - 0.5 * draws["y"] ** 2
    np.testing.assert_allclose(stats["lp"].values[0], by_hand, rtol=1e-9)
    np.testing.assert_allclose(stats["log_q"].values[0], by_hand - 2 * np.log(2 * np.pi), rtol=1e-9)


def test_loo_works_on_the_sample(plain, az):
    data = plain.sample(500, log_likelihood=True)
    assert data.log_likelihood["y"].shape == (1, 500, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        loo = az.loo(data)
    exact = dist_log_prob(plain, data)
    assert loo.elpd_loo == pytest.approx(exact, abs=8)


def dist_log_prob(posterior, data):
    """In-sample log predictive density: an upper bound, and close for 4 parameters."""
    log_likelihood = data.log_likelihood["y"].values[0]
    top = log_likelihood.max(0)
    return float((top + np.log(np.exp(log_likelihood - top).mean(0))).sum())


@every
def test_pointwise_log_likelihood(posterior, which):
    if which == "density":
        with pytest.raises(jn.OptionError, match="no observed variable"):
            posterior.log_likelihood()
        return
    draws = posterior.draws(25)
    if which == "plain":
        mean, sd, y = draws["mean"], draws["s"][:, None], Y
    else:
        mean, sd, y = draws["theta"], SCHOOLS["sigma"], SCHOOLS["y"]
    by_hand = -0.5 * ((y - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(posterior.log_likelihood(25)["y"], by_hand, rtol=1e-9, atol=1e-9)


# Predictions


def test_predictions_on_the_same_data(plain):
    predicted = plain.predict(draws=4000)
    assert set(predicted) == {"y"}
    assert predicted["y"].shape == (4000, 20)
    np.testing.assert_allclose(predicted["y"].mean(0), X @ plain.mean["beta"], atol=0.08)
    total = np.sqrt(plain.sd["mean"] ** 2 + (plain.mean["s"] ** 2 + plain.sd["s"] ** 2))
    np.testing.assert_allclose(predicted["y"].std(0), total, rtol=0.1)
    np.testing.assert_array_equal(predicted["y"], plain.predict(draws=4000)["y"])


@pytest.mark.parametrize("rows", [1, 5, 60])
def test_predictions_on_new_rows(plain, rows):
    new = np.column_stack([np.ones(rows), np.random.default_rng(1).standard_normal((rows, 2))])
    for data in ({"X": new, "y": np.zeros(rows)}, {"X": new}):
        predicted = plain.predict(data=data, draws=2000)
        assert predicted["y"].shape == (2000, rows)
        np.testing.assert_allclose(predicted["y"].mean(0), new @ plain.mean["beta"], atol=0.15)


def test_predictions_use_the_corrected_answer(corrected):
    predicted = corrected.predict(draws=4000)["y"]
    np.testing.assert_allclose(predicted.mean(0), corrected.mean["theta"], atol=1.5)


def test_the_data_of_a_fit_stay_what_they_were(plain):
    plain.predict(data={"X": np.zeros((3, 3)), "y": np.zeros(3)}, draws=5)
    np.testing.assert_array_equal(plain.model.data["X"], X)
    assert plain.predict(draws=5)["y"].shape == (5, 20)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"Z": X}, "no data ['Z']"),
        ({"X": np.full((2, 3), np.nan)}, "NaN"),
        ({"X": np.ones((5, 2))}, "shape"),
        ([1.0], "dict"),
    ],
)
def test_predictions_on_data_that_do_not_fit(plain, data, words):
    with pytest.raises(jn.JensenError) as caught:
        plain.predict(data=data, draws=5)
    assert words in str(caught.value)


def test_a_density_cannot_be_simulated_from(density):
    with pytest.raises(jn.OptionError, match="cannot be simulated from"):
        density.predict()


# Going on


def test_refine_goes_on_and_history_with_it(plain):
    refined = plain.refine(steps=2)
    assert refined.run.steps > plain.run.steps
    np.testing.assert_array_equal(refined.history["elbo"][: plain.run.steps], plain.history["elbo"])
    assert len(refined.history["elbo"]) == refined.run.steps
    np.testing.assert_allclose(refined.q.mean, plain.q.mean, atol=0.01)
    assert refined.settings == plain.settings
    assert refined.answer == "q"


def test_refine_finishes_what_was_stopped_early():
    early = silent(regression, "fullrank", data={"X": X, "y": Y}, steps=2)
    assert early.run.status == "stopped"
    late = early.refine()
    assert late.run.status == "converged"
    assert late.verdict.overall != "do not use"
    wanted = silent(regression, "fullrank", data={"X": X, "y": Y})
    np.testing.assert_allclose(late.q.mean, wanted.q.mean, atol=0.02)


def test_refine_after_linear_response_stays_in_its_family():
    fitted = silent(regression, "meanfield", data={"X": X, "y": Y})
    repaired = fitted.linear_response()
    assert repaired.answer == "q"
    np.testing.assert_array_equal(repaired.q.mean, fitted.q.mean)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jn.FitWarning)
        again = repaired.refine()
    assert type(again.q) is type(fitted.q)  # the engine is mean-field's


def test_linear_response_needs_a_mean_field_fit(plain):
    with pytest.raises(jn.OptionError, match="full covariance already"):
        plain.linear_response()


def test_replace_makes_a_new_one(plain):
    other = plain.replace(answer="corrected")
    assert other is not plain
    assert plain.answer == "q"


# Nothing changes


@every
def test_attributes_cannot_be_set(posterior):
    with pytest.raises(dataclasses.FrozenInstanceError):
        posterior.answer = "q"
    with pytest.raises(dataclasses.FrozenInstanceError):
        posterior.verdict.words = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        posterior.q.mean = np.zeros(3)


HANDED_OUT = {
    "mean": lambda posterior: posterior.mean["x"],
    "sd": lambda posterior: posterior.sd["x"],
    "cov": lambda posterior: posterior.cov,
    "draws": lambda posterior: posterior.draws(10)["x"],
    "history": lambda posterior: posterior.history["elbo"],
    "summary": lambda posterior: posterior.summary()["mean"].to_numpy(),
    "q": lambda posterior: posterior.q.mean,
}


@pytest.mark.parametrize("what", HANDED_OUT)
def test_what_is_handed_out_does_not_change_the_posterior(what):
    """Writing into a returned array is an error or is lost; the posterior stays as it was."""
    posterior = jn.fit(jn.density(lambda p: -0.5 * (p["x"] ** 2).sum(), {"x": np.zeros(2)}))
    before, history, q = posterior.summary(), posterior.history["elbo"].copy(), posterior.q.mean.copy()
    try:
        HANDED_OUT[what](posterior)[...] = 99.0
    except ValueError as error:
        assert "read-only" in str(error)  # noqa: PT017
    after = posterior.summary()
    np.testing.assert_array_equal(posterior.history["elbo"], history)
    np.testing.assert_array_equal(posterior.q.mean, q)
    assert after.equals(before)


# Files


@every
def test_saved_and_loaded(posterior, tmp_path):
    posterior.save(tmp_path / "fit.nc")
    loaded = jn.load(tmp_path / "fit.nc")
    assert loaded.summary().equals(posterior.summary())
    assert loaded.verdict.overall == posterior.verdict.overall
    assert loaded.verdict.words == posterior.verdict.words
    assert loaded.verdict.reasons == posterior.verdict.reasons
    assert loaded.verdict.advice == posterior.verdict.advice
    assert loaded.verdict.table.equals(posterior.verdict.table)
    np.testing.assert_equal(loaded.verdict.khat, posterior.verdict.khat)
    assert loaded.elbo == posterior.elbo
    assert loaded.answer == posterior.answer
    assert loaded.story == posterior.story
    assert loaded.cost == posterior.cost
    assert loaded.settings == posterior.settings
    np.testing.assert_array_equal(loaded.cov, posterior.cov)
    np.testing.assert_array_equal(loaded.weights, posterior.weights)
    for name, values in posterior.history.items():
        np.testing.assert_array_equal(loaded.history[name], values)
    assert repr(loaded) == repr(posterior)


@every
def test_draws_are_the_same_after_loading(posterior, tmp_path):
    posterior.save(tmp_path / "fit.nc")
    loaded = jn.load(tmp_path / "fit.nc")
    here, there = posterior.draws(50), loaded.draws(50)
    for name, values in here.items():
        np.testing.assert_array_equal(there[name], values)


@every
def test_a_loaded_fit_samples_with_dims_and_coords(posterior, tmp_path, az):
    posterior.save(tmp_path / "fit.nc")
    loaded = jn.load(tmp_path / "fit.nc")
    here, there = posterior.sample(20), loaded.sample(20)
    for name in here.posterior.data_vars:
        assert there.posterior[name].dims == here.posterior[name].dims
        for dim in here.posterior[name].dims:
            np.testing.assert_array_equal(there.posterior[dim].values, here.posterior[dim].values)
    assert len(az.summary(there, kind="stats")) == len(posterior.summary())


def test_a_loaded_fit_can_be_saved_again(corrected, tmp_path):
    corrected.save(tmp_path / "one.nc")
    jn.load(tmp_path / "one.nc").save(tmp_path / "two.nc")
    assert repr(jn.load(tmp_path / "two.nc")) == repr(corrected)


def test_arviz_reads_the_file(corrected, tmp_path, az):
    corrected.save(tmp_path / "fit.nc")
    data = az.from_netcdf(tmp_path / "fit.nc")
    assert data.posterior["theta"].dims == ("chain", "draw", "school")
    assert data.posterior["mu"].mean() == pytest.approx(float(corrected.mean["mu"]), abs=0.5)


@pytest.mark.parametrize(
    "ask",
    [
        lambda fit: fit.predict(),
        lambda fit: fit.log_likelihood(),
        lambda fit: fit.sample(10, log_likelihood=True),
        lambda fit: fit.refine(),
        lambda fit: fit.linear_response(),
    ],
    ids=["predict", "log_likelihood", "sample with log_likelihood", "refine", "linear_response"],
)
def test_what_needs_the_models_code_is_refused_after_loading(plain, tmp_path, ask):
    plain.save(tmp_path / "fit.nc")
    with pytest.raises(jn.OptionError, match="from a file"):
        ask(jn.load(tmp_path / "fit.nc"))


def test_a_path_as_text_and_an_old_file_replaced(plain, corrected, tmp_path):
    path = str(tmp_path / "fit.nc")
    plain.save(path)
    corrected.save(path)
    assert jn.load(path).model.name == "schools"
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit.nc"]


def test_awkward_names_survive(tmp_path):
    def model():
        numpyro.sample("a/b", dist.Normal(0, 1))
        numpyro.sample("draw", dist.Normal(1, 1))
        with numpyro.plate("chain", 2):
            numpyro.sample("z", dist.Normal(2, 1))

    posterior = jn.fit(model)
    posterior.save(tmp_path / "fit.nc")
    loaded = jn.load(tmp_path / "fit.nc")
    assert list(loaded.mean) == ["a/b", "draw", "z"]
    assert loaded.mean["z"].shape == (2,)
    assert loaded.mean["draw"] == pytest.approx(1)
    assert loaded.sample(5).posterior.sizes["draw"] == 5
