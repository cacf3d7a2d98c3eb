"""The PyMC front end beside the densities: data, dimensions, deterministics, predictions, errors, caches, settings."""

import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pymc as pm
import pytensor
import pytensor.sparse
import pytensor.tensor as pt
import pytest
import scipy.sparse
import scipy.special
from pytensor.compile.ops import wrap_py
from scipy import stats
from tests.tiers import quick

from jensen.core.errors import DataError, ModelError, UnsupportedError
from jensen.core.layout import unflatten
from jensen.core.precision import scope
from jensen.models.cache import remember
from jensen.models.model import Factors, total
from jensen.models.pymc import current, read
from jensen.models.pymc_ops import clip, erfcx
from jensen.models.target import Target

RNG = np.random.default_rng(11)
X = RNG.normal(size=(30, 2))
Y = X @ [1.0, -2.0] + RNG.normal(size=30)
ROWS = [f"row {i}" for i in range(30)]


def regression(dims=True, observed=None):
    """Linear regression whose data are containers; 30 rows."""
    coords = {"obs": ROWS, "feature": ["a", "b"]} if dims else {}
    with pm.Model(coords=coords, name="") as model:
        x = pm.Data("x", X, dims=("obs", "feature") if dims else None)
        y = pm.Data("y", Y, dims="obs" if dims else None) if observed is None else observed
        beta = pm.Normal("beta", 0, 1, **({"dims": "feature"} if dims else {"shape": 2}))
        sigma = pm.HalfNormal("sigma", 1)
        mu = pm.Deterministic("mu", x @ beta, **({"dims": "obs"} if dims else {}))
        pm.Normal("like", mu, sigma, observed=y, **({"dims": "obs"} if dims else {"shape": mu.shape}))
    return model


def evaluate(record, free, data=None):
    with scope("float64"):
        parts = record.factors(free, data or record.data)
        return Factors(*({name: np.asarray(value) for name, value in part.items()} for part in parts))


POINT = {"beta": np.array([0.3, -1.0]), "sigma": np.array(0.2)}


def test_record():
    model = regression()
    record = read(model)
    assert (record.language, record.source) == ("PyMC", model)
    assert [(s.name, s.shape, s.free_shape, s.support, s.dims) for s in record.sites] == [
        ("beta", (2,), (2,), "real", ("feature",)),
        ("sigma", (), (), "positive", ()),
    ]
    assert [(d.name, d.shape, d.dims) for d in record.derived] == [("mu", (30,), ("obs",))]
    assert record.likelihoods == ("like",)
    assert record.constants == ("x",)
    assert set(record.data) == {"x", "y"}
    assert record.dims == {
        "x": ("obs", "feature"),
        "y": ("obs",),
        "beta": ("feature",),
        "mu": ("obs",),
        "like": ("obs",),
    }
    assert list(record.coords["obs"]) == ROWS
    assert list(record.coords["feature"]) == ["a", "b"]
    np.testing.assert_array_equal(record.observed["like"], Y)
    assert record.notes == ()


def test_factors_are_unscaled_and_in_the_constrained_space():
    factors = evaluate(read(regression()), POINT)
    sigma = np.exp(0.2)
    assert list(factors.log_prob) == ["beta", "sigma", "like"]
    np.testing.assert_allclose(factors.log_prob["beta"], stats.norm.logpdf(POINT["beta"]))
    np.testing.assert_allclose(factors.log_prob["sigma"], stats.halfnorm.logpdf(sigma))
    np.testing.assert_allclose(factors.log_prob["like"], stats.norm.logpdf(Y, X @ POINT["beta"], sigma))
    assert factors.scale == {}
    assert list(factors.jacobian) == ["sigma"]
    np.testing.assert_allclose(factors.jacobian["sigma"], 0.2)


def test_constrain_and_back():
    record = read(regression())
    with scope("float64"):
        values, derived = record.constrain(POINT, record.data)
        free = record.unconstrain(values, record.data)
        np.testing.assert_allclose(values["sigma"], np.exp(0.2))
        np.testing.assert_allclose(derived["mu"], X @ POINT["beta"])
        for name, value in POINT.items():
            np.testing.assert_allclose(free[name], value)
        batch = {name: jnp.stack([value, value + 1]) for name, value in POINT.items()}
        values, derived = jax.jit(jax.vmap(record.constrain, in_axes=(0, None)))(batch, record.data)
        np.testing.assert_allclose(derived["mu"], [X @ POINT["beta"], X @ (POINT["beta"] + 1)])
        gradient = jax.grad(lambda sigma: record.constrain(POINT | {"sigma": sigma}, record.data)[0]["sigma"])(0.2)
        np.testing.assert_allclose(gradient, np.exp(0.2))


def test_data_are_arguments():
    """New rows of the same shape are passed to the same functions, and the model keeps its own."""
    model = regression()
    record = read(model)
    other = read(model, {"x": X[::-1], "y": Y + 1})
    assert other.factors is record.factors
    assert other.constrain is record.constrain
    assert other.unconstrain is record.unconstrain
    factors = evaluate(other, POINT)
    np.testing.assert_allclose(factors.log_prob["like"], stats.norm.logpdf(Y + 1, X[::-1] @ POINT["beta"], np.exp(0.2)))
    np.testing.assert_array_equal(other.observed["like"], Y + 1)
    np.testing.assert_array_equal(model["y"].get_value(), Y)


def test_a_second_fit_compiles_nothing():
    model = regression()
    with scope("float64"):
        z = np.zeros((3, 3))
        first = Target(read(model))
        first(z)
        second = Target(read(model, {"y": Y + 1}))
        second(z)
        assert second._program is first._program
        assert second._program.traces == 1


def test_data_of_another_length():
    model = regression()
    record = read(model, {"x": X[:7], "y": Y[:7]})
    assert evaluate(record, POINT).log_prob["like"].shape == (7,)
    assert record.derived[0].shape == (7,)
    assert "obs" not in record.coords
    assert model.dim_lengths["obs"].get_value() == 30


def test_set_data_is_seen():
    model = regression()
    record = read(model)
    with model:
        pm.set_data({"x": X + 1})
    again = read(model)
    np.testing.assert_array_equal(again.data["x"], X + 1)
    assert again.factors is record.factors


def test_a_variable_added_after_the_first_read_is_seen():
    model = regression()
    read(model)
    with model:
        extra = pm.Normal("extra")
        pm.Deterministic("twice", 2 * extra)
    record = read(model)
    assert [site.name for site in record.sites] == ["beta", "sigma", "extra"]
    assert [d.name for d in record.derived] == ["mu", "twice"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"z": Y}, r"no data container 'z'; its containers are: x, y"),
        ({"y": Y[:, None]}, r"'y' has 2 dimensions \(30, 1\), and its container has 1"),
        ({"y": Y[:7]}, r"dimension 'obs' has length 30 in data 'x' and 7 in 'y'"),
        ({"y": np.array(["a"] * 30)}, r"'y' has type <U1"),
    ],
)
def test_data_that_do_not_fit(data, message):
    with pytest.raises(DataError, match=message):
        read(regression(), data)


def test_data_that_do_not_fit_without_dimension_names():
    with pytest.raises(DataError, match=r"new data do not fit the model.*y \(7,\)"):
        read(regression(dims=False), {"y": Y[:7]})


def test_integer_containers_take_integers():
    with pm.Model() as model:
        group = pm.Data("group", np.arange(30) % 3)
        pm.Normal("y", pm.Normal("a", shape=3)[group], observed=Y)
    assert read(model, {"group": np.zeros(30)}).data["group"].dtype.kind == "i"
    with pytest.raises(DataError, match="'group' has fractions"):
        read(model, {"group": np.full(30, 0.5)})


def test_data_that_decide_a_shape_are_constants():
    with pm.Model() as model:
        n = pm.Data("n", np.array(3))
        a = pm.Normal("a", shape=n)
        pm.Normal("y", a.sum(), observed=Y)
    record, other = read(model), read(model, {"n": 4})
    assert record.sites[0].shape == (3,)
    assert other.sites[0].shape == (4,)
    assert record.notes == ("constant in the program, because the shape of a variable depends on it: n.",)


def test_large_constants_are_inputs():
    with pm.Model() as model:
        beta = pm.Normal("beta", shape=2)
        pm.Normal("y", pm.math.dot(X, beta), 1, observed=Y)
    record = read(model)
    assert list(record.data) == ["y", "constant_0"]
    assert record.constants == ()
    factors = evaluate(record, {"beta": np.ones(2)}, {"y": Y, "constant_0": 2 * X})
    np.testing.assert_allclose(factors.log_prob["y"], stats.norm.logpdf(Y, 2 * X.sum(1)))


def test_names_that_look_like_types():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("f8") + pm.Data("int32", Y), 1, observed=Y)
    assert set(read(model).data) == {"int32", "y"}


def test_initial_values_do_not_matter():
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("a", initval=3.0), 1, observed=Y)
    assert read(model).dim == 1


def test_potentials_are_factors():
    with pm.Model() as model:
        a = pm.Normal("a", shape=2)
        pm.Potential("penalty", -(a**2))
    record = read(model)
    factors = evaluate(record, {"a": np.array([1.0, 2.0])})
    np.testing.assert_allclose(factors.log_prob["penalty"], [-1, -4])
    assert record.likelihoods == ()


@pytest.mark.parametrize(
    ("shape", "total_size", "scale"),
    [((30,), 300, 10), ((10, 3), (50, None), 5), ((10, 3), (50, 6), 10), ((10, 3), (..., 6), 2)],
)
def test_total_size_is_a_scale(shape, total_size, scale):
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.Normal("y", mu, 1, observed=Y.reshape(shape), total_size=total_size)
    factors = evaluate(read(model), {"mu": np.array(0.5)})
    np.testing.assert_allclose(factors.log_prob["y"], stats.norm.logpdf(Y.reshape(shape), 0.5))
    assert factors.scale == {"y": pytest.approx(scale)}
    expected = model.compile_logp(mode="FAST_COMPILE")({"mu": np.array(0.5)})
    np.testing.assert_allclose(total(factors), expected)


def test_minibatch_is_replaced_by_the_full_data():
    x, y = pm.Minibatch(X, Y, batch_size=5)
    with pm.Model() as model:
        beta = pm.Normal("beta", shape=2)
        pm.Normal("y", x @ beta, 1, observed=y, total_size=30)
    record = read(model)
    factors = evaluate(record, {"beta": np.ones(2)})
    np.testing.assert_allclose(factors.log_prob["y"], stats.norm.logpdf(Y, X.sum(1)))
    assert factors.scale == {"y": 1.0}
    np.testing.assert_array_equal(record.observed["y"], Y)
    assert record.predict is None
    assert "pm.Minibatch" in record.notes[0]


def test_missing_values_are_sites():
    values = Y.copy()
    values[[3, 4]] = np.nan
    with pm.Model(coords={"obs": ROWS}) as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mu = pm.Normal("mu")
        pm.Normal("y", mu, 1, observed=values, dims="obs")
    record = read(model)
    assert [site.name for site in record.sites] == ["mu", "y_unobserved"]
    assert record.likelihoods == ("y_observed",)
    np.testing.assert_array_equal(record.observed["y_observed"], np.delete(Y, [3, 4]))
    free = {"mu": np.array(0.0), "y_unobserved": np.array([7.0, 8.0])}
    with scope("float64"):
        filled = np.asarray(record.constrain(free, record.data)[1]["y"])
    np.testing.assert_array_equal(filled[[3, 4]], [7, 8])
    np.testing.assert_array_equal(np.delete(filled, [3, 4]), np.delete(Y, [3, 4]))


def test_missing_counts_are_refused():
    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pm.Poisson("y", pm.HalfNormal("mu"), observed=np.array([1.0, np.nan, 2.0]))
    with pytest.raises(UnsupportedError, match="site y_unobserved is discrete.*drop their rows"):
        read(model)


def test_sparse_data_are_refused():
    with pm.Model() as model:
        a = pm.Normal("a", shape=(2, 1))
        x = pytensor.shared(scipy.sparse.csr_matrix(X), "x")
        pm.Normal("y", pytensor.sparse.dot(x, a)[:, 0], 1, observed=Y)
    with pytest.raises(UnsupportedError, match="'x' is a csr_matrix"):
        read(model)


def test_logit_normal_is_transformed():
    """PyMC leaves it on (0, 1) without a transform."""
    with pm.Model() as model:
        pm.LogitNormal("p", 0.0, 1.0)
    record = read(model)
    assert record.sites[0].support == "unit interval"
    z = np.array(-1.3)
    np.testing.assert_allclose(total(evaluate(record, {"p": z})), stats.norm.logpdf(z))


def test_checks_that_can_fail_become_minus_infinity():
    with pm.Model() as model:
        a = pm.Normal("a")
        pm.Poisson("y", mu=a, observed=np.zeros(3, int))
    record = read(model)
    assert evaluate(record, {"a": np.array(-1.0)}).log_prob["y"].tolist() == [-np.inf] * 3
    np.testing.assert_allclose(evaluate(record, {"a": np.array(1.0)}).log_prob["y"], -1)


def test_checks_that_cannot_fail_are_gone():
    with scope("float64"):
        record = read(regression())
        text = str(jax.make_jaxpr(record.factors)(POINT, record.data))
    assert "select_n" not in text
    assert "gt" not in text
    assert "inf" not in text


@pytest.mark.parametrize(
    "prior",
    [
        lambda: pm.HalfNormal("x", pm.Exponential("s", 2.0)),
        lambda: pm.HalfCauchy("x", pm.InverseGamma("s", 2, 1)),
        lambda: pm.Uniform("x", 1, 2),
        lambda: pm.Beta("x", 1 + pm.HalfNormal("s"), 2),
        lambda: pm.StudentT("x", nu=2 + pm.Gamma("n", 2, 1), mu=0, sigma=pm.math.sqrt(pm.HalfNormal("s"))),
        lambda: pm.LogNormal("x", 0, pm.math.exp(pm.Normal("s") / 2)),
        lambda: pm.Weibull("x", pm.LogNormal("a"), pm.HalfCauchy("b", 1) ** 2),
    ],
)
def test_positive_parameters_are_not_checked(prior):
    with pm.Model() as model:
        prior()
    record = read(model)
    free = {site.name: np.zeros(site.free_shape) for site in record.sites}
    with scope("float64"):
        text = str(jax.make_jaxpr(lambda free: record.factors(free, {}).log_prob)(free))
    assert " gt " not in text
    assert " ge " not in text
    assert "inf" not in text


@pytest.mark.parametrize(
    ("point", "finite"), [({"a": 0.5, "b": 1.0}, False), ({"a": 2.0, "b": 1.0}, True), ({"a": -3.0, "b": 1.0}, False)]
)
def test_a_difference_is_checked(point, finite):
    with pm.Model() as model:
        a, b = pm.Normal("a"), pm.Normal("b")
        pm.Gamma("y", a - b, 1.0, observed=np.ones(20))
    factors = evaluate(read(model), {name: np.array(value) for name, value in point.items()})
    assert np.isfinite(factors.log_prob["y"]).all() == finite
    assert not np.isnan(factors.log_prob["y"]).any()


def test_scaled_complementary_error_function():
    x = np.concatenate([np.linspace(-20, 40, 4001), np.linspace(26.5, 26.7, 41), np.geomspace(50, 1e6, 50)])
    with scope("float64"):
        value, slope = (np.asarray(part) for part in jax.vmap(jax.value_and_grad(erfcx))(jnp.asarray(x)))
    exact = scipy.special.erfcx(x)
    np.testing.assert_allclose(value, exact, rtol=1e-14)
    near = x < 20
    np.testing.assert_allclose(slope[near], (2 * x * exact - 2 / np.sqrt(np.pi))[near], rtol=1e-11)
    np.testing.assert_allclose(slope[x > 1e3], -1 / np.sqrt(np.pi) / x[x > 1e3] ** 2, rtol=1e-5)
    with scope("float32"):
        single = np.asarray(erfcx(jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(single[x > -9], exact[x > -9], rtol=2e-5)


def test_the_slope_of_a_clip_does_not_hang_on_rounding():
    """Distances of points from themselves are zero but for rounding, and lie on either side of a bound at zero."""
    x = np.array([-1.0, -1e-16, 0.0, 1e-16, 0.5, 2.0])
    with scope("float64"):
        slope = jax.grad(lambda x, low, high: clip(x, low, high).sum(), (0, 1, 2))(jnp.asarray(x), 0.0, 1.0)
        value = np.asarray(clip(x, 0.0, 1.0))
    np.testing.assert_array_equal(value, np.clip(x, 0, 1))
    np.testing.assert_array_equal(slope[0], [0, 1, 1, 1, 1, 0])
    assert (float(slope[1]), float(slope[2])) == (1, 1)
    np.testing.assert_array_equal(clip(np.arange(5), 1, 3), [1, 1, 2, 3, 3])


def test_a_length_scale_has_the_slope_that_the_density_has():
    """The gradient of a Gaussian process, which cancels on the diagonal, in every way of compiling it."""
    with pm.Model() as model:
        length = pm.Gamma("length", 2.0, 2.0)
        latent = pm.gp.Latent(cov_func=pm.gp.cov.Matern52(1, ls=length))
        f = latent.prior("f", X=np.linspace(0, 1, 12)[:, None])
        pm.Normal("y", f, 1.0, observed=np.zeros(12))
    record = read(model)
    points = 0.5 * np.random.default_rng(3).normal(size=(8, record.dim))
    steps = 1e-5 * np.eye(record.dim)[:1]
    with scope("float64"):
        density = jax.vmap(
            jax.value_and_grad(lambda z, data: total(record.factors(unflatten(record.sites, z), data))), (0, None)
        )
        program = jax.jit(density).lower(points, dict(record.data))
        for options in ({}, {"xla_cpu_use_fusion_emitters": False}):
            compiled = program.compile(compiler_options=options)
            up, down = (np.asarray(compiled(points + sign * steps, dict(record.data))[0]) for sign in (1, -1))
            slope = np.asarray(compiled(points, dict(record.data))[1])[:, 0]
            np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-4, atol=1e-4)


def test_data_are_not_closed_over():
    record = read(regression())
    with scope("float64"):
        constants = jax.make_jaxpr(record.factors)(POINT, record.data).consts
    assert all(np.size(constant) < 16 for constant in constants)


def test_softplus_has_a_gradient_far_out():
    """PyTensor's own JAX form overflows here."""
    with pm.Model() as model:
        a = pm.Normal("a", 0, 1000)
        pm.Potential("p", pt.softplus(a))
    record = read(model)
    with scope("float64"):
        gradient = float(jax.grad(lambda a: record.factors({"a": a}, {}).log_prob["p"])(800.0))
    assert gradient == 1


# Predictions


def draws(n=50):
    return {"beta": np.tile([1.0, -2.0], (n, 1)), "sigma": np.full(n, 1e-3)}


@pytest.mark.parametrize("dims", [True, False])
def test_predict_on_the_same_and_on_new_data(dims):
    model = regression(dims)
    record = read(model)
    same = record.predict(draws(), record.data, 0)
    assert list(same) == ["like"]
    np.testing.assert_allclose(same["like"], np.tile(X @ [1, -2], (50, 1)), atol=0.01)
    new = record.predict(draws(), {"x": X[:7] + 1}, 0)["like"]
    np.testing.assert_allclose(new, np.tile((X[:7] + 1) @ [1, -2], (50, 1)), atol=0.01)
    np.testing.assert_array_equal(new, record.predict(draws(), {"x": X[:7] + 1}, 0)["like"])
    assert not np.array_equal(new, record.predict(draws(), {"x": X[:7] + 1}, 1)["like"])
    np.testing.assert_array_equal(model["x"].get_value(), X)
    np.testing.assert_array_equal(model["y"].get_value(), Y)
    if dims:
        assert list(model.coords["obs"]) == ROWS
        assert model.dim_lengths["obs"].get_value() == 30


def test_predict_after_a_fit_on_other_data():
    """The draws belong to the data of the fit, not to those the model holds."""
    model = regression()
    record = read(model, {"x": X[:7], "y": Y[:7]})
    np.testing.assert_allclose(record.predict(draws(), {}, 0)["like"][0], X[:7] @ [1, -2], atol=0.01)
    assert len(model["x"].get_value()) == 30


def test_predict_restores_the_model_when_it_fails():
    model = regression(dims=False, observed=Y)
    with model:
        pm.Normal("other", model["x"][:, 0] + np.zeros(30), 1, observed=Y)
    record = read(model)
    with pytest.raises(DataError, match="cannot simulate on these data"):
        record.predict(draws(), {"x": X[:7]}, 0)
    np.testing.assert_array_equal(model["x"].get_value(), X)


def test_predict_refuses_unknown_data():
    with pytest.raises(DataError, match="no data container 'z'"):
        read(regression()).predict(draws(), {"z": X}, 0)
    record = read(regression(observed=Y))
    with pytest.raises(DataError, match="'like' is a constant of the model"):
        record.predict(draws(), {"like": Y + 1}, 0)


def test_predict_is_quiet(capfd):
    model = regression()
    with model:
        pm.Potential("penalty", -(model["sigma"] ** 2))
    read(model).predict(draws(5), {}, 0)
    assert capfd.readouterr() == ("", "")


def test_latent_variables_keep_their_draws():
    """Those that depend on data are not drawn anew as long as the data stay."""
    with pm.Model() as model:
        x = pm.Data("x", X[:, 0])
        a = pm.Normal("a", x, 1.0, shape=30)
        pm.Normal("y", a, 1e-3, observed=Y)
    record = read(model)
    values = {"a": np.tile(np.arange(30.0), (5, 1))}
    np.testing.assert_allclose(record.predict(values, record.data, 0)["y"], values["a"], atol=0.01)


def test_predict_where_values_are_missing():
    values = Y.copy()
    values[[3, 4]] = np.nan
    with pm.Model() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pm.Normal("y", pm.Normal("mu"), 1e-3, observed=values)
    record = read(model)
    simulated = record.predict({"mu": np.ones(5), "y_unobserved": np.zeros((5, 2))}, {}, 0)
    np.testing.assert_allclose(simulated["y_observed"], np.ones((5, 28)), atol=0.01)


def test_predict_needs_something_to_simulate():
    with pm.Model() as model:
        pm.CustomDist("y", pm.Normal("a"), logp=lambda value, a: -((value - a) ** 2), observed=Y)
    with pytest.raises(UnsupportedError, match="random="):
        read(model).predict({"a": np.zeros(2)}, {}, 0)


# Errors


def test_discrete_sites_are_refused_by_name():
    with pm.Model() as model:
        k = pm.Poisson("k", 3)
        pm.Normal("y", k, 1, observed=Y)
    with pytest.raises(UnsupportedError, match=r"site k is discrete \(Poisson\).*marginalize"):
        read(model)


def test_a_model_without_latent_variables():
    with pm.Model() as model:
        pm.Normal("y", 0, 1, observed=Y)
    with pytest.raises(ModelError, match="no latent variable"):
        read(model)


@wrap_py(itypes=[pt.dvector], otypes=[pt.dvector])
def black_box(x):
    return x**2


def test_operations_without_jax_form_are_named():
    with pm.Model() as model:
        a = pm.Normal("a", shape=30)
        pm.Normal("y", black_box(a), 1, observed=Y)
    with pytest.raises(UnsupportedError, match=r"^y uses the operation FromFunctionOp\{black_box\}"):
        read(model)


def test_operations_without_jax_form_work_on_constants():
    with pm.Model() as model:
        a = pm.Normal("a")
        pm.Normal("y", a + black_box(pt.constant(Y)), 1, observed=Y)
    factors = evaluate(read(model), {"a": np.array(0.3)})
    np.testing.assert_allclose(factors.log_prob["y"], stats.norm.logpdf(Y, 0.3 + Y**2))


def test_polya_gamma_is_refused_by_name():
    with pm.Model() as model:
        pm.PolyaGamma("w", h=1.0, z=0.5)
    with pytest.raises(UnsupportedError, match=r"^w uses the operation _PolyaGamma"):
        read(model)


def test_simulators_are_refused():
    with pm.Model() as model:
        a = pm.Normal("a")
        pm.Simulator("s", lambda rng, a, size: rng.normal(a, 1, size=size), a, observed=Y)
    with pytest.raises(UnsupportedError, match="s draws random numbers"):
        read(model)


# Context, cache, JAX's settings


def test_current_model():
    assert current() is None
    with regression() as model:
        assert current() is model
        record = read(current())
        record.predict(draws(2), {}, 0)
    assert record.source is model


def test_remember_keeps_a_bounded_number():
    sources, built = [object() for _ in range(20)], []
    for source in sources:
        remember(source, "key", lambda: built.append(1))
    assert len(built) == 20
    remember(sources[-1], "key", lambda: built.append(1))
    assert len(built) == 20
    remember(sources[0], "key", lambda: built.append(1))
    assert len(built) == 21


def test_float32():
    record = read(regression())
    with scope("float32"):
        value, gradient = Target(record, "float32")(np.zeros((2, 3)))
    with scope("float64"):
        exact, _ = Target(record)(np.zeros((2, 3)))
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("inside", quick(["", "with scope('float64'): "], "with scope('float64'): "))
def test_settings_stay_the_callers(inside):
    """Precision, devices and environment are as before, also where the front end is loaded inside a scope."""
    code = (
        "import os, jax, pymc as pm; variables = dict(os.environ)\n"
        "from jensen.models.pymc import read; from jensen.core.precision import scope\n"
        "with pm.Model() as model: pm.Normal('a')\n"
        f"{inside}read(model)\n"
        "assert not jax.config.jax_enable_x64\n"
        "assert len(jax.devices()) == 1\n"
        "assert dict(os.environ) == variables\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_bambi():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bambi = pytest.importorskip("bambi", exc_type=ImportError)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"y": Y, "x": X[:, 0], "g": np.arange(30) % 5})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = bambi.Model("y ~ x + (1|g)", frame)
        record = read(model)
        point = model.backend.model.initial_point(0)
        expected = model.backend.model.compile_logp(mode="FAST_COMPILE")(point)
    assert record.source is model
    values = model.backend.model.rvs_to_values
    free = {rv.name: point[values[rv].name] for rv in model.backend.model.free_RVs}
    np.testing.assert_allclose(total(evaluate(record, free)), expected)
    assert "g__factor_dim" in record.coords
