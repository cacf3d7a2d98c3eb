"""`jn.fit` from outside: determinism, one program, every kind of site, honest verdicts."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import jensen as jn
from jensen.models.target import Target

quietly = pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")

SCHOOLS = {
    "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12]),
    "sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
}


def schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    with numpyro.plate("school", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def line(x, y=None, width=10.0):
    a = numpyro.sample("a", dist.Normal(0, width))
    b = numpyro.sample("b", dist.Normal(0, width))
    s = numpyro.sample("s", dist.HalfNormal(2))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(numpyro.deterministic("mu", a + b * x), s), obs=y)


X = np.linspace(-1, 2, 12)
Y = 1 + 2 * X + np.array([0.3, -0.2, 0.1, 0.4, -0.5, 0.2, 0.0, -0.3, 0.1, 0.2, -0.1, -0.2])
LINE = {"x": X, "y": Y}


def same(one, other) -> bool:
    """Bit for bit the same result, in everything a user can see."""
    draws = one.draws(100), other.draws(100)
    return (
        all(np.array_equal(one.q.params[name], other.q.params[name]) for name in one.q.params)
        and all(np.array_equal(one.history[name], other.history[name]) for name in one.history)
        and one.summary().equals(other.summary())
        and one.verdict.words == other.verdict.words
        and one.verdict.table.equals(other.verdict.table)
        and one.elbo == other.elbo
        and all(np.array_equal(draws[0][name], draws[1][name]) for name in draws[0])
        and one.cost.gradients == other.cost.gradients
    )


def silent(model, *arguments, **options):
    """Fit without warning, for fixtures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jn.FitWarning)
        return jn.fit(model, *arguments, **options)


def fitted_schools(**options):
    return silent(schools, data=SCHOOLS, **options)


@pytest.fixture(scope="module")
def corrected():
    """A fit that needs the chains: everything that is random takes part."""
    return fitted_schools()


# The same every time


def test_the_same_seed_gives_the_same_result(corrected):
    assert corrected.answer == "corrected"
    assert same(fitted_schools(), corrected)


def test_the_same_for_a_new_function_with_the_same_text(corrected):
    def again(y, sigma):
        schools(y, sigma)

    assert same(silent(again, data=SCHOOLS), corrected)


def test_another_seed_gives_another_result_of_the_same_meaning(corrected):
    other = fitted_schools(seed=1)
    assert not same(other, corrected)
    assert abs(other.mean["mu"] - corrected.mean["mu"]) / corrected.sd["mu"] < 0.2


def test_progress_changes_nothing(corrected, capsys):
    assert same(fitted_schools(progress=True), corrected)
    assert capsys.readouterr().out == ""


def test_callbacks_change_nothing_but_see_everything(corrected):
    seen = []
    assert same(fitted_schools(callbacks=[seen.append]), corrected)
    assert [snapshot.step for snapshot in seen] == list(range(1, len(seen) + 1))
    assert len(seen) >= 2
    np.testing.assert_array_equal(seen[-1].loss, corrected.history["loss"][: len(seen)])
    assert seen[0].q.mean.shape == (10,)


@pytest.mark.parametrize("setting", [True, False])
def test_the_callers_precision_changes_nothing_and_stays(corrected, setting):
    with jax.enable_x64(setting):
        posterior = fitted_schools()
        assert same(posterior, corrected)
        assert jax.config.jax_enable_x64 is setting
        posterior.sample(10, log_likelihood=True)
        posterior.predict(draws=5)
        assert jax.config.jax_enable_x64 is setting


def test_the_global_precision_setting_changes_nothing_and_stays(corrected):
    assert jax.config.jax_enable_x64 is False
    jax.config.update("jax_enable_x64", True)
    try:
        assert same(fitted_schools(), corrected)
        assert jax.config.jax_enable_x64 is True
    finally:
        jax.config.update("jax_enable_x64", False)


def test_an_error_leaves_the_precision_as_it_was():
    with pytest.raises(jn.JensenError):
        jn.fit(jn.density(lambda p: jnp.log(-1 - p["x"] ** 2), {"x": 0.0}))
    assert jax.config.jax_enable_x64 is False


def test_numpys_global_generator_is_left_alone(corrected):
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert same(fitted_schools(), corrected)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_the_callers_arrays_are_not_changed():
    data = {name: value.copy() for name, value in LINE.items()}
    jn.fit(line, data=data)
    for name, value in LINE.items():
        np.testing.assert_array_equal(data[name], value)


# One program


COMPILATIONS: list[str] = []


@pytest.fixture(scope="session")
def listener():
    """Tell `COMPILATIONS` of everything JAX compiles; a listener cannot be taken back, so there is one for all tests."""

    def count(name, *_, **__):
        if name.endswith("backend_compile_duration"):
            COMPILATIONS.append(name)

    jax.monitoring.register_event_duration_secs_listener(count)


@pytest.fixture
def compiled(listener):
    """What JAX compiled since the start of the test."""
    COMPILATIONS.clear()
    return COMPILATIONS


def test_new_data_of_the_same_shape_compile_nothing(compiled):
    def model(x, y):
        line(x, y)

    first = jn.fit(model, data=LINE)
    assert 1 <= len(compiled) <= 6
    compiled.clear()
    second = jn.fit(model, data={"x": X, "y": Y + 5})
    second.summary()
    second.sample(50)
    assert compiled == []
    assert second.mean["a"] - first.mean["a"] == pytest.approx(5, abs=0.1)
    assert second.mean["b"] == pytest.approx(first.mean["b"], abs=0.05)


@quietly
def test_seeds_methods_and_corrections_share_the_program(compiled):
    def model(y, sigma):
        schools(y, sigma)

    jn.fit(model, data=SCHOOLS)
    compiled.clear()
    jn.fit(model, data=SCHOOLS, seed=5)
    jn.fit(model, "meanfield", data=SCHOOLS).linear_response()
    jn.fit(model, "fullrank", data=SCHOOLS, correct=False).refine()
    assert compiled == []


def test_the_density_is_traced_once():
    model = jn.density(lambda p, d: -((p["x"] - d["y"]) ** 2).sum(), {"x": 0.0}, data={"y": np.ones(3)})
    posterior = jn.fit(model)
    program = Target(posterior.model)._program
    traces = program.traces
    assert traces <= 2  # one to measure the factors' shapes, one to compile, at most
    jn.fit(model, data={"y": np.full(3, 7.0)})
    assert Target(posterior.model)._program is program
    assert program.traces == traces


@quietly
def test_other_shapes_are_another_program_and_both_are_right():
    for rows in (12, 7, 12):
        posterior = jn.fit(line, "fullrank", data={"x": X[:rows], "y": Y[:rows]}, correct=False)
        assert posterior.mean["b"] == pytest.approx(np.polyfit(X[:rows], Y[:rows], 1)[0], abs=0.1)


def test_dtype_of_the_data_does_not_matter():
    whole = np.arange(12)
    one = jn.fit(line, "fullrank", data={"x": whole.astype(float), "y": Y})
    for kind in (int, np.int32, np.float32):
        other = jn.fit(line, "fullrank", data={"x": whole.astype(kind), "y": Y})
        np.testing.assert_allclose(other.q.mean, one.q.mean, rtol=1e-9)


def test_lists_frames_and_jax_arrays_are_data_too():
    pandas = pytest.importorskip("pandas")
    one = jn.fit(line, "fullrank", data=LINE)
    for wrap in (list, pandas.Series, lambda array: jnp.asarray(array, "float32")):
        other = jn.fit(line, "fullrank", data={name: wrap(value) for name, value in LINE.items()})
        np.testing.assert_allclose(other.q.mean, one.q.mean, atol=1e-5)


# Options


def test_float32():
    one = jn.fit(line, data=LINE)
    other = jn.fit(line, data=LINE, precision="float32")
    for name in one.mean:
        np.testing.assert_allclose((other.mean[name] - one.mean[name]) / one.sd[name], 0, atol=0.1)
        np.testing.assert_allclose(other.sd[name] / one.sd[name], 1, atol=0.1)
    assert other.settings.precision == "float32"
    assert jax.config.jax_enable_x64 is False


@pytest.mark.parametrize(
    ("options", "family"),
    [
        ({"method": "fullrank"}, "DenseGaussian"),
        ({"method": "meanfield"}, "DiagonalGaussian"),
        ({"family": jn.MeanField()}, "DiagonalGaussian"),
        ({"engine": jn.FixedDraws(jn.MeanField())}, "DiagonalGaussian"),
        ({"engine": jn.FixedDraws(jn.FullRank(), large=False)}, "DenseGaussian"),
        ({}, "DenseGaussian"),
    ],
)
@quietly
def test_methods_families_and_engines(options, family):
    posterior = jn.fit(line, data=LINE, **options)
    assert type(posterior.q).__name__ == family
    if "method" in options:
        assert posterior.answer == "q"
    assert posterior.mean["b"] == pytest.approx(2, abs=0.3)


@quietly
def test_correct_false_runs_no_chains():
    cheap, full = fitted_schools(correct=False), fitted_schools()
    assert cheap.answer == "q"
    assert cheap.cost.gradients < full.cost.gradients
    assert cheap.verdict.overall == "do not use"  # its weights are rough, and nobody looked further
    assert "no chains" in " ".join(cheap.verdict.reasons)


def test_a_start_is_used():
    seen = []
    values = {"a": 40.0, "b": np.float32(-30), "s": 0.5}
    posterior = jn.fit(line, data=LINE, start=values, callbacks=[seen.append])
    assert posterior.mean["b"] == pytest.approx(2, abs=0.3)
    first = seen[0].q.mean
    assert abs(first[0]) > 1  # still on the way from 40
    half = jn.fit(line, data=LINE, start={"a": 40.0})  # the others start in the middle of their support
    assert half.mean["b"] == pytest.approx(2, abs=0.3)


def test_a_start_decides_the_mode():
    model = jn.density(lambda p: -0.5 * ((jnp.abs(p["x"]) - 10) ** 2), {"x": 0.0})
    for value in (-10.0, 10.0):
        with pytest.warns(jn.FitWarning, match="these copies only"):
            posterior = jn.fit(model, "fullrank", start={"x": value})
        assert posterior.mean["x"] == pytest.approx(value, abs=0.1)


@quietly
def test_a_start_makes_a_narrow_support_findable():
    """Finite only where x > 5: from zero there is no way, from inside there is."""
    model = jn.density(lambda p: jnp.log(p["x"] - 5) * 9 - p["x"], {"x": 6.0})
    with pytest.raises(jn.NonFiniteError, match="start="):
        jn.fit(model)
    assert jn.fit(model, start={"x": 14.0}).mean["x"] == pytest.approx(15, abs=1.0)


@quietly
def test_one_step():
    posterior = fitted_schools(steps=1, correct=False)
    assert posterior.run.status == "stopped"
    assert posterior.run.steps == 1
    assert len(posterior.history["elbo"]) == 1
    assert posterior.verdict.overall == "do not use"


@quietly
def test_more_steps_than_needed_change_nothing():
    assert same(jn.fit(line, data=LINE, steps=1000), jn.fit(line, data=LINE))


@quietly
def test_no_budget_at_all_still_returns_something():
    posterior = fitted_schools(budget=1e-9)
    assert posterior.run.status == "budget"
    assert posterior.run.steps == 1
    assert posterior.verdict.overall == "do not use"
    assert np.isfinite(posterior.draws(10)["mu"]).all()


def test_a_large_budget_changes_nothing(corrected):
    assert same(fitted_schools(budget=1e6), corrected)


@quietly
def test_a_callback_stops_and_keeps():
    posterior = fitted_schools(callbacks=[lambda snapshot: snapshot.step == 3])
    assert posterior.run.status == "stopped"
    assert posterior.run.steps == 3
    assert np.isfinite(posterior.mean["mu"])


def test_the_warning_says_what_the_verdict_says():
    with pytest.warns(jn.FitWarning) as caught:
        posterior = jn.fit(schools, "meanfield", data=SCHOOLS)
    assert posterior.verdict.counts in str(caught[0].message)
    assert caught[0].filename == __file__  # the user's line, not jensen's


def test_cost_is_told(corrected):
    assert corrected.cost.gradients > 1000
    assert corrected.cost.seconds > 0


# Sites of every kind


def word(posterior, name):
    return dict(zip(posterior.verdict.names, posterior.verdict.words, strict=True))[name]


def close(posterior, name, mean, sd, tolerance=0.1):
    np.testing.assert_allclose((posterior.mean[name] - mean) / np.asarray(sd), 0, atol=tolerance)
    np.testing.assert_allclose(posterior.sd[name] / np.asarray(sd), 1, atol=tolerance)


@pytest.fixture(scope="module")
def zoo():
    """Independent sites with known moments, one of every kind, in one compilation."""

    def model():
        numpyro.sample("real", dist.Normal(3, 2))
        numpyro.sample("positive", dist.Gamma(4.0, 2.0))
        numpyro.sample("unit", dist.Beta(2, 3))
        numpyro.sample("interval", dist.Uniform(-1, 3))
        numpyro.sample("matrix", dist.Normal(jnp.arange(6.0).reshape(2, 3), 0.5).to_event(2))
        numpyro.sample("simplex", dist.Dirichlet(jnp.array([2.0, 3, 5])))
        numpyro.sample("cholesky", dist.LKJCholesky(2, 2.0))
        numpyro.sample("correlation", dist.LKJ(2, 2.0))
        numpyro.sample("vector", dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 0.8], [0.8, 1.0]])))
        ordered = numpyro.sample("ordered", dist.ImproperUniform(constraints.ordered_vector, (), (2,)))
        numpyro.factor("ordered_prior", dist.Normal(0, 1).log_prob(ordered).sum())
        numpyro.deterministic("twice", 2 * ordered)
        numpyro.deterministic("constant", jnp.asarray(3.7))

    return silent(model)


def test_moments_of_the_zoo(zoo):
    close(zoo, "real", 3, 2)
    close(zoo, "positive", 2, 1)
    close(zoo, "unit", 0.4, 0.2)
    close(zoo, "interval", 1, 4 / 12**0.5)
    close(zoo, "matrix", np.arange(6.0).reshape(2, 3), 0.5 * np.ones((2, 3)))
    concentration = np.array([0.2, 0.3, 0.5])
    close(zoo, "simplex", concentration, np.sqrt(concentration * (1 - concentration) / 11))
    close(zoo, "vector", np.zeros(2), np.ones(2))
    # Order statistics of two standard normals.
    close(zoo, "ordered", np.array([-1, 1]) / np.sqrt(np.pi), np.sqrt(1 - 1 / np.pi) * np.ones(2))
    # The correlation of an LKJ(2, eta) matrix is 2 Beta(eta, eta) - 1.
    np.testing.assert_allclose(zoo.mean["correlation"], np.eye(2), atol=0.05)
    assert zoo.sd["correlation"][0, 1] == pytest.approx(2 * (4 / 16 / 5) ** 0.5, rel=0.1)
    np.testing.assert_allclose(zoo.mean["twice"], 2 * zoo.mean["ordered"], rtol=1e-12)


def test_draws_of_the_zoo_stay_in_their_supports(zoo):
    draws = zoo.draws(500)
    assert (draws["positive"] > 0).all()
    assert ((draws["unit"] > 0) & (draws["unit"] < 1)).all()
    assert ((draws["interval"] > -1) & (draws["interval"] < 3)).all()
    np.testing.assert_allclose(draws["simplex"].sum(1), 1, rtol=1e-12)
    assert (draws["simplex"] > 0).all()
    assert (np.diff(draws["ordered"], axis=1) > 0).all()
    np.testing.assert_allclose((draws["cholesky"] ** 2).sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(draws["correlation"][:, 0, 1], draws["correlation"][:, 1, 0])


def test_shapes_and_dimension_of_the_zoo(zoo):
    shapes = {
        "real": (),
        "matrix": (2, 3),
        "simplex": (3,),
        "cholesky": (2, 2),
        "correlation": (2, 2),
        "ordered": (2,),
        "twice": (2,),
        "constant": (),
    }
    for name, shape in shapes.items():
        assert zoo.mean[name].shape == shape
        assert zoo.draws(7)[name].shape == (7, *shape)
    assert zoo.model.dim == 1 + 1 + 1 + 1 + 6 + 2 + 1 + 1 + 2 + 2


def test_constants_among_the_quantities_condemn_nothing(zoo):
    for name in ("constant", "cholesky[0, 0]", "cholesky[0, 1]", "correlation[0, 0]", "correlation[1, 1]"):
        assert word(zoo, name) == "trusted"
    assert zoo.verdict.overall == "trusted"


@quietly
@pytest.mark.parametrize("method", ["fullrank", "meanfield"])
def test_constants_condemn_nothing_under_a_named_method(method):
    def model(y):
        s = numpyro.sample("s", dist.HalfNormal(1))
        m = numpyro.sample("m", dist.Normal(0, 5))
        numpyro.deterministic("constants", jnp.array([0.3, 1 / 3, 1.1e5]) + 0 * m)
        numpyro.sample("y", dist.Normal(m, s), obs=y)

    posterior = jn.fit(model, method, data={"y": np.array([1.0, 2, 0.5])})
    assert {word(posterior, f"constants[{i}]") for i in range(3)} == {"trusted"}


def test_a_support_that_depends_on_another_site():
    def model():
        s = numpyro.sample("s", dist.Gamma(20.0, 10.0))
        numpyro.sample("u", dist.Uniform(0, s))

    posterior = jn.fit(model)
    draws = posterior.draws(1000)
    assert ((draws["u"] > 0) & (draws["u"] < draws["s"])).all()
    close(posterior, "s", 2, np.sqrt(0.2))
    close(posterior, "u", 1, np.sqrt((0.2 + 4) / 3 - 1))


def test_a_start_in_a_support_that_depends_on_another_site():
    def model():
        s = numpyro.sample("s", dist.Gamma(20.0, 10.0))
        numpyro.sample("u", dist.Uniform(0, s))

    assert jn.fit(model, start={"s": 3.0, "u": 2.5}).mean["u"] == pytest.approx(1, abs=0.1)
    with pytest.raises(jn.OptionError, match=r"start\['u'\]"):
        jn.fit(model, start={"s": 3.0, "u": 3.5})


def test_a_support_that_depends_on_data():
    def model(limit):
        numpyro.sample("u", dist.Uniform(0, limit))

    assert jn.fit(model, data={"limit": 4.0}).mean["u"] == pytest.approx(2, abs=0.1)
    assert jn.fit(model, data={"limit": 8.0}).mean["u"] == pytest.approx(4, abs=0.2)


def test_plates_with_dims():
    def model(y):
        with numpyro.plate("row", 4, dim=-2):
            row = numpyro.sample("row_effect", dist.Normal(0, 1))
            with numpyro.plate("column", 3, dim=-1):
                cell = numpyro.sample("cell", dist.Normal(row, 1))
                numpyro.sample("y", dist.Normal(cell, 1), obs=y)

    posterior = jn.fit(model, data={"y": np.arange(12.0).reshape(4, 3)})
    assert posterior.mean["cell"].shape == (4, 3)
    assert posterior.model.dims["cell"] == ("row", "column")
    # Per row: three observations with variance 2 about an effect with variance 1.
    np.testing.assert_allclose(
        posterior.mean["row_effect"][:, 0], np.arange(12.0).reshape(4, 3).mean(1) * 0.6, atol=1e-6
    )


def test_a_scan_in_the_model():
    def model(y):
        rho = numpyro.sample("rho", dist.Uniform(-1, 1))

        def step(level, value):
            return rho * level + 0 * value, level

        _, levels = jax.lax.scan(step, jnp.asarray(1.0) + 0 * rho, y)
        numpyro.sample("y", dist.Normal(levels, 0.1), obs=y)

    posterior = jn.fit(model, data={"y": 0.7 ** np.arange(6)})
    assert posterior.mean["rho"] == pytest.approx(0.7, abs=0.05)


def test_no_data_at_all():
    posterior = jn.fit(lambda: numpyro.sample("x", dist.Normal(2, 3)))
    close(posterior, "x", 2, 3, 1e-6)
    assert any("nothing is observed" in sentence for sentence in posterior.story)


def test_one_dimension():
    posterior = jn.fit(jn.density(lambda p: -0.5 * (p["x"] - 3) ** 2, {"x": 0.0}))
    assert posterior.cov.shape == (1, 1)
    assert posterior.mean["x"] == pytest.approx(3)
    assert posterior.verdict.overall == "trusted"


def test_partials_callables_and_methods_are_models():
    class Line:
        width = 10.0

        def __call__(self, x, y):
            line(x, y)

        def model(self, x, y):
            line(x, y, self.width)

    wanted = jn.fit(line, "fullrank", data=LINE).q.mean
    for model, data in [
        (partial(line, width=10.0), LINE),
        (partial(line, **LINE), None),
        (Line(), LINE),
        (Line().model, LINE),
    ]:
        np.testing.assert_allclose(jn.fit(model, "fullrank", data=data).q.mean, wanted, rtol=1e-9)


def test_two_partials_of_one_function_are_two_models():
    narrow = jn.fit(partial(line, width=0.1), "fullrank", data=LINE)
    wide = jn.fit(partial(line, width=10.0), "fullrank", data=LINE)
    assert abs(narrow.mean["b"]) < 0.5 * abs(wide.mean["b"])


def test_arguments_that_are_part_of_the_programs_shape():
    def model(y, degree=1, robust=False, name="normal", prior=None):
        beta = numpyro.sample("beta", dist.Normal(0, 10).expand([degree + 1]).to_event(1))
        mean = sum(beta[k] * X**k for k in range(degree + 1))
        kind = dist.StudentT(4.0, mean, 0.3) if robust else dist.Normal(mean, 0.3)
        numpyro.sample("y", kind, obs=y)

    for degree, robust in [(1, False), (2, False), (1, True), (1, False)]:
        posterior = jn.fit(model, "fullrank", data={"y": Y, "degree": degree, "robust": robust, "prior": None})
        assert posterior.mean["beta"].shape == (degree + 1,)
        assert posterior.mean["beta"][1] == pytest.approx(2, abs=0.6)


def test_density_functions_with_defaults_and_partials():
    def log_density(p, scale=2.0):
        return -0.5 * (p["x"] / scale) ** 2

    close(jn.fit(jn.density(log_density, {"x": 0.0})), "x", 0, 2, 1e-6)
    close(jn.fit(jn.density(partial(log_density, scale=3.0), {"x": 0.0})), "x", 0, 3, 1e-6)


@quietly
def test_in_high_dimension_independent_coordinates_are_groups_and_others_are_full_rank():
    """D = 450: without correlations every coordinate is a group of its own; with them the covariance is full."""
    dim = 450
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(dim) / np.sqrt(dim)
    model = jn.density(
        lambda p, d: -0.5 * ((p["x"] - 1) ** 2).sum() - 0.5 * d["strength"] * (d["direction"] @ (p["x"] - 1)) ** 2,
        {"x": np.zeros(dim)},
        data={"direction": direction, "strength": np.array(0.0)},
    )
    posterior = jn.fit(model)
    assert type(posterior.q).__name__ == "ArrowGaussian"
    assert posterior.verdict.overall == "trusted"
    np.testing.assert_allclose(posterior.mean["x"], 1, atol=1e-3)
    np.testing.assert_allclose(posterior.sd["x"], 1, atol=1e-3)
    strength = 200.0
    posterior = jn.fit(model, data={"strength": np.array(strength)})
    assert type(posterior.q).__name__ == "DenseGaussian"
    cov = np.eye(dim) - strength * np.outer(direction, direction) / (1 + strength * direction @ direction)
    sd = np.sqrt(np.diagonal(cov))
    trusted = np.array([word == "trusted" for word in posterior.verdict.words])
    assert (np.abs((posterior.mean["x"] - 1) / sd)[trusted] < 0.3).all()
    assert (np.abs(np.log(posterior.sd["x"] / sd))[trusted] < np.log(1.25)).all()


# Verdicts that must not be wrong


def honest(posterior, name, mean, sd):
    """Trusted means trusted: the limits of a false "trusted" in the project's own terms."""
    found = word(posterior, name)
    error = abs(float(posterior.mean[name]) - mean) / sd
    ratio = float(posterior.sd[name]) / sd
    assert found == "do not use" or error <= 0.30, (found, error, ratio)
    assert found != "trusted" or 0.80 <= ratio <= 1.25, (found, error, ratio)


TWO_MODES = jn.density(
    lambda p, d: jnp.logaddexp(
        jnp.log1p(-d["w"]) - 0.5 * p["x"] ** 2, jnp.log(d["w"]) - 0.5 * (p["x"] - d["apart"]) ** 2
    ),
    {"x": 0.0},
    data={"w": np.array(0.3), "apart": np.array(6.0)},
)


@quietly
def test_one_gaussian_for_two_modes_six_sds_apart_is_not_trusted():
    posterior = jn.fit(TWO_MODES, "fullrank")
    # Either the search names the other mode, or the chains hop there and say how far q is off.
    assert posterior.verdict.overall == "do not use"
    reasons = " ".join(posterior.verdict.reasons)
    assert "another mode" in reasons or "chains started from q move its mean" in reasons


@quietly
@pytest.mark.parametrize("seed", range(3))
def test_two_modes_six_sds_apart_are_not_called_one(seed):
    posterior = jn.fit(TWO_MODES, seed=seed)
    assert "mode" in " ".join(posterior.verdict.reasons)
    honest(posterior, "x", 1.8, np.sqrt(1 + 0.21 * 36))
    if posterior.verdict.overall == "trusted":
        assert (posterior.draws(2000)["x"] > 3).mean() == pytest.approx(0.3, abs=0.04)
        np.testing.assert_allclose(posterior.summary().loc["x", ["5%", "95%"]].astype(float), [-1.46, 6.95], atol=0.25)


@quietly
@pytest.mark.parametrize("method", ["auto", "fullrank"])
@pytest.mark.parametrize("weight", [0.02, 0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("apart", [3.0, 4.0, 5.0, 5.5, 6.0, 8.0, 20.0])
def test_two_modes_are_corrected_or_not_trusted(method, weight, apart):
    posterior = jn.fit(TWO_MODES, method, data={"w": np.array(weight), "apart": np.array(apart)})
    honest(posterior, "x", weight * apart, np.sqrt(1 + weight * (1 - weight) * apart**2))


@quietly
@pytest.mark.parametrize("dim", [5, 10, 30])
def test_two_modes_along_the_diagonal_are_corrected_or_not_trusted(dim):
    far = 6 / np.sqrt(dim)
    model = jn.density(
        lambda p: jnp.logaddexp(
            jnp.log(0.7) - 0.5 * (p["x"] ** 2).sum(), jnp.log(0.3) - 0.5 * ((p["x"] - far) ** 2).sum()
        ),
        {"x": np.zeros(dim)},
    )
    posterior = jn.fit(model)
    sd = np.sqrt(1 + 0.21 * far**2)
    # One mode alone is off by 0.3 * far / sd: 0.7 sd at D = 5, 0.3 at D = 30.
    error = np.abs(posterior.mean["x"] - 0.3 * far).max() / sd
    assert posterior.verdict.overall == "do not use" or error < 0.15


@quietly
def test_labels_that_can_swap_are_not_trusted_in_one_mode():
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-2, 1, 60), rng.normal(2, 1, 40)])

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5).expand([2]).to_event(1))
        weight = numpyro.sample("weight", dist.Beta(2, 2))
        one, other = (dist.Normal(mu[k], 1).log_prob(y) for k in range(2))
        numpyro.factor("likelihood", jnp.logaddexp(jnp.log(weight) + one, jnp.log1p(-weight) + other).sum())

    one = jn.fit(model, "fullrank", data={"y": y})
    assert word(one, "mu[0]") == word(one, "mu[1]") == "do not use"
    assert "order or constrain" in one.verdict.advice
    both = jn.fit(model, data={"y": y})
    if "do not use" not in both.verdict.words:
        # Exchangeable labels: the same distribution for both, two humps about two sds apart from their mean.
        assert both.mean["mu"][0] == pytest.approx(both.mean["mu"][1], abs=0.3)
        np.testing.assert_allclose(both.sd["mu"], 2, atol=0.3)
        assert both.mean["weight"] == pytest.approx(0.5, abs=0.02)


@quietly
@pytest.mark.parametrize("method", ["auto", "fullrank", "meanfield"])
def test_neals_funnel_is_never_trusted_wrongly(method, without_flow):
    def funnel():
        v = numpyro.sample("v", dist.Normal(0, 3))
        numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([9]).to_event(1))

    for seed in range(2):
        posterior = jn.fit(funnel, method, seed=seed)
        honest(posterior, "v", 0.0, 3.0)
        if method != "auto":
            assert word(posterior, "v") != "trusted"


def test_a_straightened_funnel_is_trusted():
    def funnel():
        v = numpyro.sample("v", dist.Normal(0, 3))
        numpyro.sample("z", dist.Normal(0, 1).expand([9]).to_event(1))
        numpyro.deterministic("half", v / 2)

    posterior = jn.fit(funnel)
    close(posterior, "v", 0, 3, 1e-6)
    assert posterior.verdict.overall == "trusted"


@quietly
@pytest.mark.parametrize("method", ["auto", "fullrank"])
def test_bananas_are_corrected_or_not_trusted(method):
    model = jn.density(lambda p: -0.5 * p["a"] ** 2 - 0.5 * ((p["b"] - p["a"] ** 2) / 0.3) ** 2, {"a": 0.0, "b": 0.0})
    posterior = jn.fit(model, method)
    honest(posterior, "a", 0.0, 1.0)
    honest(posterior, "b", 1.0, np.sqrt(2 + 0.09))


@quietly
@pytest.mark.parametrize("method", ["auto", "fullrank", "meanfield"])
def test_a_correlated_pair_is_never_trusted_in_mean_field(method):
    model = jn.density(
        lambda p: -0.5 * (p["a"] ** 2 - 1.9 * p["a"] * p["b"] + p["b"] ** 2) / (1 - 0.95**2), {"a": 0.0, "b": 0.0}
    )
    posterior = jn.fit(model, method)
    honest(posterior, "a", 0.0, 1.0)
    if method == "meanfield":
        assert "trusted" not in posterior.verdict.words
    else:
        assert posterior.verdict.overall == "trusted"


@quietly
@pytest.mark.parametrize("seed", range(3))
def test_eight_schools_is_never_trusted_wrongly_by_a_named_method(seed):
    for method in ("fullrank", "meanfield"):
        posterior = jn.fit(schools, method, data=SCHOOLS, seed=seed)
        honest(posterior, "tau", 3.6, 3.2)


@quietly
def test_a_spike_beside_a_slab_is_not_trusted_without_reason():
    """Half of the mass in a spike a hundredth as wide: q and chains see one of the two."""
    model = jn.density(
        lambda p: jnp.logaddexp(-0.5 * (p["x"] / 0.01) ** 2 - jnp.log(0.01), -0.5 * (p["x"] - 1) ** 2), {"x": 0.0}
    )
    honest(jn.fit(model), "x", 0.5, np.sqrt(0.5 * (1 + 1 + 1e-4) - 0.25))
