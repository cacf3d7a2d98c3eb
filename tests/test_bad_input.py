"""Bad input ends in one sentence of a `JensenError`: the site or file, what was seen, what to do. Nothing half-written."""

import os
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

import jensen as jn
from jensen.models.target import Target


def sentence(caught, *words) -> str:
    """The message, checked for its form, and for the words that must be in it."""
    text = str(caught.value)
    assert isinstance(caught.value, jn.JensenError)
    assert "\n" not in text
    assert text.endswith((".", "?")), text
    assert not text[:-1].endswith("."), text
    assert len(text) < 400, text
    for word in words:
        assert word in text, f"{word!r} is not in: {text}"
    return text


def refused(kind, model, *words, **options):
    with pytest.raises(kind) as caught:
        jn.fit(model, **options)
    return sentence(caught, *words)


def line(x, y):
    slope = numpyro.sample("slope", dist.Normal(0, 10))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(slope * x, 1), obs=y)


X, Y = np.arange(6.0), np.array([0.0, 1, 2, 2, 4, 6])


def normal(p, data):
    return -0.5 * ((p["x"] - data["y"]) ** 2).sum()


# Data


@pytest.mark.parametrize("language", ["NumPyro", "density"])
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_data_that_is_not_finite(language, value, word):
    broken = Y.copy()
    broken[3] = value
    if language == "NumPyro":
        refused(jn.DataError, line, "'y'", f"1 {word} value", "row 3", "drop or impute", data={"x": X, "y": broken})
    else:
        model = jn.density(normal, {"x": 0.0}, data={"y": broken})
        refused(jn.DataError, model, "'y'", f"1 {word} value", "row 3", "drop or impute")


def test_infinite_bounds_of_rows_that_are_not_censored_are_data():
    """Weibull times with covariates, against SciPy: infinite bounds, as users write them, and large ones."""
    pm = pytest.importorskip("pymc")
    rng = np.random.default_rng(5)
    x, end = rng.normal(size=60), rng.exponential(6, 60)
    time = np.exp(1 + x / 2) * rng.weibull(1.5, 60)
    seen = time < end
    fits = []
    for beyond in (np.inf, 1e6):
        with pm.Model() as model:
            a, b = pm.HalfNormal("a", 2), pm.Normal("b", 0, 2, shape=2)
            lasts = pm.Weibull.dist(a, pm.math.exp(b[0] + b[1] * x))
            upper = np.where(seen, beyond, end)
            pm.Censored("time", lasts, lower=None, upper=upper, observed=np.minimum(time, end))
        fits.append(jn.fit(model, progress=False))

    def log_density(a, b):
        shape = stats.weibull_min(a, scale=np.exp(b[0] + b[1] * x))
        rows = np.where(seen, shape.logpdf(time), shape.logsf(end))
        return rows.sum() + stats.halfnorm(scale=2).logpdf(a) + stats.norm(0, 2).logpdf(b).sum()

    z = fits[0].q.sample(np.random.default_rng(0), 50)
    log_p = [log_density(np.exp(one[0]), one[1:]) + one[0] for one in z]
    assert np.std(log_p - fits[0].q.log_prob(z)) < 0.5
    np.testing.assert_allclose(fits[0].mean["b"], fits[1].mean["b"], atol=1e-6)


def test_new_data_with_infinite_values_are_refused():
    posterior = jn.fit(line, data={"x": X, "y": Y}, progress=False)
    with pytest.raises(jn.DataError) as caught:
        posterior.predict({"x": np.r_[X, np.inf]})
    sentence(caught, "'x'", "1 infinite value", "drop or impute")


def test_many_rows_that_are_not_finite_are_counted_and_a_few_named():
    text = refused(jn.DataError, line, "6 NaN values", "...", data={"x": X, "y": np.full(6, np.nan)})
    assert len(text) < 200


def test_lists_and_frames_are_looked_at_too():
    refused(jn.DataError, line, "'y'", "NaN", "row 1", data={"x": X, "y": [0.0, float("nan"), 1, 1, 1, 1]})
    pandas = pytest.importorskip("pandas")
    series = pandas.Series([0.0, 1, None, 1, 1, 1])
    refused(jn.DataError, line, "'y'", "NaN", "row 2", data={"x": X, "y": series})


def test_masked_arrays_do_not_lose_their_mask():
    """The mask says that values are missing; fitting what lies under it would be silently wrong."""
    masked = np.ma.masked_array(Y, mask=[False, False, True, False, False, False])
    refused(jn.DataError, line, "'y'", "mask", data={"x": X, "y": masked})


@pytest.mark.parametrize(
    "value", [["a"] * 6, np.array([None] * 6), np.array([1 + 2j] * 6)], ids=["words", "objects", "complex"]
)
def test_data_that_are_no_real_numbers(value):
    refused(jn.DataError, line, "y", data={"x": X, "y": value})


def test_data_must_be_a_dict():
    refused(jn.OptionError, line, "dict", "list", data=[X, Y])


def test_shapes_that_do_not_fit():
    refused(jn.DataError, line, "shape", "x (6,)", "y (5,)", data={"x": X, "y": Y[:5]})


def test_shapes_that_do_not_fit_in_a_density():
    model = jn.density(normal, {"x": np.zeros(3)}, data={"y": Y})
    refused(jn.DataError, model, "shape", "y (6,)")


def test_a_matrix_that_does_not_fit_its_coefficients():
    def model(X, y):
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ beta, 1), obs=y)

    refused(jn.DataError, model, "shape", "X (6, 2)", data={"X": np.ones((6, 2)), "y": Y})


def test_too_few_axes():
    def model(X, y):
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
        numpyro.sample("y", dist.Normal(X @ beta, 1), obs=y)

    refused(jn.DataError, model, "X (6,)", data={"X": X, "y": Y})


def test_no_rows():
    refused(jn.DataError, line, "y (0,)", data={"x": X[:0], "y": Y[:0]})


def test_an_unknown_name():
    refused(jn.DataError, line, "line", "'z'", "data=", data={"x": X, "y": Y, "z": X})


def test_a_missing_name():
    refused(jn.DataError, line, "line", "'y'", "data=", data={"x": X})


def test_an_unknown_name_of_a_density():
    refused(jn.DataError, jn.density(normal, {"x": 0.0}, data={"y": Y}), "'z'", "'y'", data={"z": Y})


def test_data_for_a_density_that_takes_none():
    refused(jn.DataError, jn.density(lambda p: -(p["x"] ** 2), {"x": 0.0}), "'z'", data={"z": Y})


def test_a_density_whose_data_are_missing():
    refused(jn.DataError, jn.density(normal, {"x": 0.0}), "y")


def test_a_broken_array_closed_over_is_found_at_the_start():
    broken = jnp.asarray(Y).at[2].set(jnp.nan)

    def model():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("heights", dist.Normal(mu, 1), obs=broken)

    refused(jn.NonFiniteError, model, "heights", "not finite")


# Models


@pytest.mark.parametrize(
    ("distribution", "name"),
    [
        (dist.Bernoulli(0.3), "Bernoulli"),
        (dist.Poisson(3.0), "Poisson"),
        (dist.Categorical(jnp.ones(3) / 3), "Categorical"),
        (dist.DiscreteUniform(0, 4), "DiscreteUniform"),
    ],
)
def test_discrete_sites(distribution, name):
    def model(y):
        z = numpyro.sample("state", distribution)
        numpyro.sample("y", dist.Normal(z, 1), obs=y)

    refused(jn.UnsupportedError, model, "state", "discrete", name, "sum it out", data={"y": Y}, method="fullrank")


def test_a_support_without_a_transform():
    def model():
        numpyro.sample("direction", dist.ProjectedNormal(jnp.ones(2)))

    refused(jn.UnsupportedError, model, "direction", "sphere")


def test_numpyro_param_has_no_posterior():
    def model():
        numpyro.sample("x", dist.Normal(numpyro.param("location", 0.0), 1))

    refused(jn.UnsupportedError, model, "location", "numpyro.param", "prior")


def test_nothing_to_infer():
    def model(y):
        numpyro.sample("y", dist.Normal(0, 1), obs=y)

    refused(jn.ModelError, model, "model", "no latent site", data={"y": Y})


def test_branches_on_sampled_values():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        if x > 0:
            numpyro.sample("y", dist.Normal(x, 1))

    refused(jn.ModelError, model, "model", "jnp.where")


@pytest.mark.parametrize("model", [None, "model.stan", 3.0, np.zeros(3)])
def test_what_is_no_model(model):
    refused(jn.OptionError, model, "model")


def test_a_density_that_is_not_scalar():
    refused(jn.ModelError, jn.density(lambda p: -(p["x"] ** 2), {"x": np.zeros(3)}), "scalar", "(3,)", "sum")


def test_a_density_that_returns_nothing():
    refused(jn.ModelError, jn.density(lambda p: None, {"x": 0.0}), "scalar", "None")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"log_density": 3, "init": {"x": 0.0}}, ["log_density", "function"]),
        ({"log_density": normal, "init": {}}, ["init", "non-empty"]),
        ({"log_density": normal, "init": {"x": "a"}}, ["init['x']"]),
        ({"log_density": normal, "init": {"x": True}}, ["init['x']", "bool"]),
        ({"log_density": normal, "init": {"x": 0.0}, "support": {"z": "real"}}, ["support", "'z'", "'x'"]),
        ({"log_density": normal, "init": {"x": 0.0}, "support": {"x": "positiv"}}, ["support of x", "'positiv'"]),
    ],
)
def test_arguments_of_density(arguments, words):
    with pytest.raises(jn.OptionError) as caught:
        jn.density(**arguments)
    sentence(caught, *words)


def test_a_shape_its_support_cannot_have():
    model = jn.density(lambda p: p["x"].sum(), {"x": 0.0}, support={"x": "simplex"})
    refused(jn.OptionError, model, "init['x']", "shape ()")


def test_dims_of_a_density_name_every_axis():
    model = jn.density(lambda p: -(p["x"] ** 2).sum(), {"x": np.zeros((2, 3))}, dims={"x": ("row",)})
    refused(jn.OptionError, model, "dims of x", "2 axes")


# Densities that are not finite, or not proper


def test_a_density_that_is_finite_nowhere():
    refused(jn.NonFiniteError, jn.density(lambda p: jnp.log(-1 - p["x"] ** 2), {"x": 0.0}), "not finite", "start")


def test_observations_outside_the_support():
    def model(y):
        rate = numpyro.sample("rate", dist.HalfNormal(1))
        numpyro.sample("waiting_time", dist.Gamma(2.0, rate), obs=y)

    refused(jn.NonFiniteError, model, "waiting_time", "not finite", "check data", data={"y": Y - 3})


def test_a_flat_site():
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("idle", dist.ImproperUniform(constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    refused(jn.ImproperError, model, "site idle", "improper", "proper prior", data={"y": Y})


@pytest.mark.parametrize("method", ["auto", "fullrank", "meanfield"])
def test_a_flat_combination(method):
    def model(y):
        flat = dist.ImproperUniform(constraints.real, (), ())
        a, b = numpyro.sample("a", flat), numpyro.sample("b", flat)
        scale = numpyro.sample("scale", dist.HalfNormal(1))
        numpyro.sample("y", dist.Normal(a + b, scale), obs=y)

    text = refused(jn.ImproperError, model, "combination", "a", "b", "proper prior", method=method, data={"y": Y})
    assert "scale" not in text


def test_more_columns_than_rows():
    def model(X, y):
        beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real, (), (4,)))
        numpyro.sample("y", dist.Normal(X @ beta, 1), obs=y)

    rng = np.random.default_rng(0)
    refused(jn.ImproperError, model, "beta", "improper", data={"X": rng.standard_normal((3, 4)), "y": Y[:3]})


def test_a_density_that_rises_forever():
    refused(jn.ImproperError, jn.density(lambda p: p["x"] - p["a"] ** 2, {"a": 0.0, "x": 0.0}), "site x", "prior")


FLAT_SCALES = {
    "no density at all": lambda s: 0.0,
    "1/s": lambda s: -jnp.log(s),
    "1/s^2, flat towards zero": lambda s: -2 * jnp.log(s),
    "likelihood of spread 3 that never rules infinity out": lambda s: -0.5 * 9 / s**2,
    "likelihood that never rules zero out": lambda s: -jnp.log(s) - s,
}


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", ["auto", "fullrank"])
@pytest.mark.parametrize("name", FLAT_SCALES)
def test_a_scale_whose_density_stays_flat(name, method):
    log_density = FLAT_SCALES[name]
    model = jn.density(
        lambda p: log_density(p["spread"]) - 0.5 * p["a"] ** 2,
        {"a": 0.0, "spread": 1.0},
        support={"spread": "positive"},
    )
    refused(jn.ImproperError, model, "spread", "improper", "proper prior", method=method)


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
def test_an_improper_scale_prior_without_data():
    def model():
        numpyro.sample("spread", dist.ImproperUniform(constraints.positive, (), ()))
        numpyro.sample("mu", dist.Normal(0, 1))

    refused(jn.ImproperError, model, "spread", "improper", "proper prior")


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
def test_perfect_separation_under_flat_coefficients():
    def model(x, y):
        slope = numpyro.sample("slope", dist.ImproperUniform(constraints.real, (), ()))
        numpyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)

    refused(jn.ImproperError, model, "slope", "improper", data={"x": X - 2.5, "y": (X > 2.5).astype(int)})


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.slow
def test_two_groups_do_not_tell_a_flat_group_scale(without_flow):
    """Improper, although every conditional is proper: at least it is never trusted."""

    def model(y):
        mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
        tau = numpyro.sample("tau", dist.ImproperUniform(constraints.positive, (), ()))
        with numpyro.plate("groups", 2):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, 1), obs=y)

    try:
        posterior = jn.fit(model, data={"y": np.array([1.0, -1.0])})
    except jn.ImproperError:
        return
    words = dict(zip(posterior.verdict.names, posterior.verdict.words, strict=True))
    assert words["tau"] == "do not use"
    assert words["mu"] == "do not use"


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", ["auto", "fullrank"])
def test_one_over_tau_in_a_hierarchical_model_is_never_trusted(method):
    """The textbook trap: p(tau) = 1 / tau above centered effects has infinite mass at tau = 0."""

    def model(y):
        tau = numpyro.sample("tau", dist.ImproperUniform(constraints.positive, (), ()))
        numpyro.factor("prior", -jnp.log(tau))
        with numpyro.plate("groups", 4):
            theta = numpyro.sample("theta", dist.Normal(0, tau))
            numpyro.sample("y", dist.Normal(theta, 1), obs=y)

    try:
        posterior = jn.fit(model, method, data={"y": np.array([1.0, -1.0, 0.5, 0.3])})
    except jn.ImproperError:
        return
    assert set(posterior.verdict.words) == {"do not use"}
    if method == "auto":
        assert "proper prior" in posterior.verdict.advice


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "advi2"}, ["method", "'advi2'", "fullrank"]),
        ({"family": "fullrank"}, ["family", "jn.FullRank()"]),
        ({"family": jn.FullRank}, ["family", "jn.FullRank()"]),
        ({"engine": jn.FixedDraws}, ["engine", "jn.FixedDraws()"]),
        ({"method": "fullrank", "family": jn.MeanField()}, ["method='fullrank'", "leave one of them out"]),
        ({"engine": jn.FixedDraws(jn.FullRank()), "family": jn.MeanField()}, ["engine", "family"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": 1.5}, ["seed", "1.5"]),
        ({"seed": True}, ["seed", "True"]),
        ({"seed": None}, ["seed", "None"]),
        ({"precision": "float16"}, ["precision", "'float16'", "float32"]),
        ({"correct": "maybe"}, ["correct", "'maybe'"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"steps": 2.5}, ["steps", "2.5"]),
        ({"budget": -1.0}, ["budget", "-1"]),
        ({"budget": float("nan")}, ["budget", "nan"]),
        ({"callbacks": print}, ["callbacks"]),
        ({"callbacks": [3]}, ["callbacks", "3"]),
        ({"start": {"nope": 0.0}}, ["start", "'nope'", "slope"]),
        ({"start": {"slope": np.zeros(2)}}, ["start['slope']", "(2,)", "()"]),
        ({"start": {"slope": np.nan}}, ["start['slope']"]),
        ({"start": {"slope": "zero"}}, ["start['slope']"]),
        ({"start": [0.0]}, ["start", "dict"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_make_no_sense(options, words):
    refused(jn.OptionError, line, *words, data={"x": X, "y": Y}, **options)


def test_a_start_outside_the_support():
    model = jn.density(lambda p: -p["s"], {"s": 1.0}, support={"s": "positive"})
    refused(jn.OptionError, model, "start['s']", "support", "positive", start={"s": -1.0})


# Files


@pytest.fixture(scope="module")
def posterior():
    return jn.fit(line, data={"x": X, "y": Y})


@pytest.mark.parametrize("place", ["missing/fit.nc", "."])
def test_paths_that_cannot_be_written(posterior, tmp_path, place):
    with pytest.raises(jn.FileError) as caught:
        posterior.save(tmp_path / place)
    sentence(caught, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_path_below_a_file(posterior, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(jn.FileError) as caught:
        posterior.save(tmp_path / "file" / "fit.nc")
    sentence(caught, "fit.nc")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(posterior, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(jn.FileError) as caught:
            posterior.save(tmp_path / "fit.nc")
        sentence(caught, "fit.nc", "ermission")
    finally:
        tmp_path.chmod(0o700)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(posterior, tmp_path, monkeypatch):
    path = tmp_path / "fit.nc"
    posterior.save(path)
    before = path.read_bytes()

    def full(self, content):
        Path(self).touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(jn.FileError) as caught:
        posterior.save(path)
    sentence(caught, "fit.nc", "o space left")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit.nc"]


class Trap:
    """Leaves a mark when unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


FILES = {
    "text": lambda path, trap: path.write_text("posterior\n"),
    "empty": lambda path, trap: path.touch(),
    "pickle": lambda path, trap: path.write_bytes(pickle.dumps(trap)),
    "npy with objects": lambda path, trap: np.save(path.open("wb"), np.array([trap], object), allow_pickle=True),
    "npz": lambda path, trap: np.savez(path.open("wb"), z=np.zeros(3)),
    "other HDF5": lambda path, trap: h5py.File(path, "w").close(),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_files_that_are_no_fits(kind, tmp_path):
    path, mark = tmp_path / "fit.nc", tmp_path / "executed"
    FILES[kind](path, Trap(str(mark)))
    with pytest.raises(jn.FileError) as caught:
        jn.load(path)
    sentence(caught, "fit.nc")
    assert not mark.exists()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(jn.FileError) as caught:
        jn.load(tmp_path / "nowhere.nc")
    sentence(caught, "nowhere.nc", "does not exist")


def test_half_a_file(posterior, tmp_path):
    path = tmp_path / "fit.nc"
    posterior.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(jn.FileError) as caught:
        jn.load(path)
    sentence(caught, "fit.nc", "damaged")


def _without_weights(file):
    del file["jensen"]["weights"]


def _without_q(file):
    for name in list(file["jensen"]):
        if name.startswith("q.mean"):
            del file["jensen"][name]


def _foreign_class(file):
    file["jensen"].attrs["meta"] = file["jensen"].attrs["meta"].replace('"DenseGaussian"', '"os.system"')


def _no_meta(file):
    file["jensen"].attrs["meta"] = "[1, 2]"


def _extra_field(file):
    file["jensen"].attrs["meta"] = file["jensen"].attrs["meta"].replace('"free_shape"', '"run_me"')


@pytest.mark.parametrize("damage", [_without_weights, _without_q, _foreign_class, _no_meta, _extra_field])
def test_a_fit_with_parts_missing(posterior, tmp_path, damage):
    path = tmp_path / "fit.nc"
    posterior.save(path)
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(jn.FileError) as caught:
        jn.load(path)
    sentence(caught, "fit.nc")


# Ctrl-C


def _schools(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("schools", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, 12.0), obs=y)
    return theta


def _coupled(y):
    """Schools that are no groups, which would be integrated: chains are needed."""
    numpyro.sample("mean", dist.Normal(_schools(y).mean(), 50.0), obs=0.0)


EFFECTS = {"y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12])}


@pytest.fixture(scope="module")
def schools():
    return _coupled, EFFECTS


def interrupted(schools, **options):
    model, data = schools
    try:
        with pytest.warns(jn.FitWarning):
            posterior = jn.fit(model, data=data, **options)
    except KeyboardInterrupt:  # would end the whole test run
        pytest.fail("Ctrl-C left jn.fit without a posterior")
    assert posterior.verdict.overall == "do not use"
    assert set(posterior.verdict.words) == {"do not use"}
    assert "interrupted" in " ".join(posterior.verdict.reasons)
    assert posterior.summary().shape[0] == 10
    assert np.isfinite(posterior.draws(20)["theta"]).all()
    assert "interrupted" in repr(posterior)
    return posterior


def press_at(step):
    def press(snapshot):
        if snapshot.step == step:
            raise KeyboardInterrupt

    return press


@pytest.mark.parametrize("step", [1, 5])
def test_ctrl_c_during_the_fit(schools, step):
    posterior = interrupted(schools, callbacks=[press_at(step)])
    assert posterior.run.status == "interrupted"
    assert posterior.run.steps == step
    assert posterior.answer == "q"


def press_in(monkeypatch, where, call, schools):
    """Ctrl-C in the `call`-th evaluation of the density after `where` was entered for the first time."""
    evaluate, entered, calls = Target.__call__, [], []

    def counting(self, z):
        if entered:
            calls.append(1)
            if len(calls) == call:
                raise KeyboardInterrupt
        return evaluate(self, z)

    inner = getattr(*where)

    def entering(*arguments, **options):
        entered.append(1)
        return inner(*arguments, **options)

    monkeypatch.setattr(*where, entering)
    monkeypatch.setattr(Target, "__call__", counting)
    return interrupted(schools), len(calls)


PLACES = {
    "fresh ELBO": ("jensen.diagnostics.starts", "fresh_elbo", 1),
    "second start": ("jensen.diagnostics.starts", "fresh_elbo", 4),
    "log weights": ("jensen.diagnostics.examine", "_log_weights", 1),
    "search for modes": ("jensen.diagnostics.modes", "search", 5),
    "chains": ("jensen.diagnostics.chains", "stage", 30),
}


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_after_the_fit(schools, monkeypatch, place):
    """Wherever it is pressed, once there is a q it is returned, marked unfinished, and nothing else is begun."""
    from importlib import import_module

    module, name, call = PLACES[place]
    posterior, calls = press_in(monkeypatch, (import_module(module), name), call, schools)
    assert posterior.answer == "q"
    assert calls <= call + 200  # the draws that are returned, no further search, start or stage


def test_ctrl_c_in_the_integral_keeps_q(monkeypatch):
    from jensen.diagnostics import nested

    posterior, calls = press_in(monkeypatch, (nested, "integrate"), 2, (_schools, EFFECTS))
    assert posterior.answer == "q"
    assert calls <= 200


def test_ctrl_c_in_the_fit_at_another_mode_ends_the_whole_fit(monkeypatch):
    """The fit there has a loop of its own, which must not swallow it."""
    from jensen.diagnostics import modes

    def density(p):
        return jnp.logaddexp(jnp.log(0.7) - 0.5 * p["x"] ** 2, jnp.log(0.3) - 0.5 * (p["x"] - 8) ** 2)

    def pressed(engine, target, **options):
        q, record = run(engine, target, **options)
        return q, replace(record, status="interrupted")

    run, called = modes.run, []
    monkeypatch.setattr(modes, "run", lambda *given, **options: called.append(1) or pressed(*given, **options))
    with pytest.warns(jn.FitWarning):
        posterior = jn.fit(jn.density(density, {"x": 0.0}))
    assert len(called) == 1
    assert posterior.verdict.words == ("do not use",)


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
def test_an_interrupted_fit_goes_on_with_refine(schools):
    model, data = schools
    posterior = jn.fit(model, data=data, callbacks=[press_at(3)])
    refined = posterior.refine()
    assert refined.run.status == "converged"
    assert "interrupted" not in " ".join(refined.verdict.reasons)
    assert refined.run.steps > 3


def test_a_fit_without_trouble_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jn.fit(line, data={"x": X, "y": Y})
