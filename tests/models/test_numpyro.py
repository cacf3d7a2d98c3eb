"""The NumPyro front end: the same density as NumPyro's own, its parts kept apart, names and shapes as in the model."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from numpyro.infer.util import potential_energy
from tests.tiers import quick

import jensen as jn
from jensen.core.layout import flatten, unflatten
from jensen.core.precision import scope
from jensen.models.model import total
from jensen.models.numpyro import read
from jensen.models.target import Target
from posteriors.load import load, names

Y = np.array([1.0, 2.5, -0.5, 3.0])


def plain(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    numpyro.deterministic("ratio", mu / sigma)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def supports(y):
    numpyro.sample("unit", dist.Beta(2, 3))
    numpyro.sample("interval", dist.Uniform(-2, 5))
    numpyro.sample("simplex", dist.Dirichlet(jnp.ones(4)))
    numpyro.sample("cholesky", dist.LKJCholesky(3, 2.0))
    numpyro.sample("ordered", dist.ImproperUniform(constraints.ordered_vector, (), (3,)))
    numpyro.sample("lower", dist.Pareto(1.5, 3.0))
    scale = numpyro.sample("scale", dist.Gamma(2, 1).expand([2]).to_event(1))
    numpyro.sample("child", dist.Uniform(-scale[0], scale[1]))
    numpyro.sample("truncated", dist.TruncatedNormal(0, 1, low=-scale[0], high=2.0))
    numpyro.sample("heavy", dist.TransformedDistribution(dist.Normal(0, 1), dist.transforms.ExpTransform()))
    numpyro.sample("y", dist.Normal(0, scale[0]), obs=y)


def scaled(y):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    with numpyro.handlers.scale(scale=2.5), numpyro.handlers.mask(mask=np.array([True, False, True, True])):
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)
    numpyro.factor("penalty", -0.3 * mu**4)


def scanned(y):
    rho = numpyro.sample("rho", dist.Uniform(-1, 1))
    _, levels = jax.lax.scan(lambda level, _: (rho * level, level), 1.0 + 0 * rho, None, length=len(y))
    numpyro.sample("y", dist.Normal(levels, 1), obs=y)


def reparametrized(y):
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.handlers.reparam(config={"theta": numpyro.infer.reparam.LocScaleReparam(0)}), numpyro.plate("g", 4):
        theta = numpyro.sample("theta", dist.Normal(1.0, tau))
    numpyro.sample("y", dist.Normal(theta, 1), obs=y)


MODELS = {model.__name__: model for model in (plain, supports, scaled, scanned, reparametrized)}


def points(model, n=3, seed=0):
    return 0.7 * np.random.default_rng(seed).standard_normal((n, model.dim))


def theirs(function, data, model, z):
    free = {name: jnp.asarray(value) for name, value in unflatten(model.sites, z).items()}
    return -np.asarray(jax.jit(jax.vmap(lambda free: potential_energy(function, (), data, free)))(free))


@pytest.mark.parametrize("name", MODELS)
def test_the_density_is_numpyros(name):
    with scope():
        model = read(MODELS[name], {"y": Y})
        z = points(model)
        ours, gradient = Target(model)(z)
        assert np.isfinite(gradient).all()
        np.testing.assert_allclose(ours, theirs(MODELS[name], {"y": Y}, model, z), rtol=1e-10)


@pytest.mark.parametrize("name", quick(names(), "eight_schools_centered", "garch11", "hmm_example", "earn_height"))
def test_the_density_of_real_models_is_numpyros(name):
    function, data, _ = load(name)
    with scope():
        model = read(function, data)
        z = 0.3 * points(model, 1)[0]
        data = {key: value if value.ndim else value.item() for key, value in data.items()}
        ours = total(model.factors(unflatten(model.sites, z), model.data))
        np.testing.assert_allclose(ours, theirs(function, data, model, z[None])[0], rtol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_constrain_and_unconstrain_are_inverse(name):
    with scope():
        model = read(MODELS[name], {"y": Y})
        there_and_back = jax.jit(lambda free: model.unconstrain(model.constrain(free, model.data)[0], model.data))
        for z in points(model):
            back = flatten(model.sites, there_and_back(unflatten(model.sites, z)))
            np.testing.assert_allclose(back, z, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_derivatives(name):
    with scope():
        target = Target(read(MODELS[name], {"y": Y}))
        z = points(target.model, 1)
        _, gradient = target(z)
        bumps = 1e-6 * np.eye(target.dim)
        ends = [target(z + sign * bumps)[0] for sign in (1, -1)]
        np.testing.assert_allclose(gradient[0], (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-6)


def test_what_is_found_in_a_model():
    model = read(plain, {"y": Y})
    assert model.name == "plain"
    assert model.language == "NumPyro"
    assert [(site.name, site.shape, site.support) for site in model.sites] == [
        ("mu", (), "real"),
        ("sigma", (), "positive"),
    ]
    assert [(derived.name, derived.shape) for derived in model.derived] == [("ratio", ())]
    assert model.likelihoods == ("y",)
    assert model.dim == 2
    assert model.dims["y"] == ("row",)
    np.testing.assert_array_equal(model.coords["row"], np.arange(4))
    np.testing.assert_array_equal(model.observed["y"], Y)
    np.testing.assert_array_equal(model.data["y"], Y)
    assert model.source is plain


def test_free_shapes_of_supports_with_fewer_coordinates():
    model = read(supports, {"y": Y})
    free = {site.name: site.free_shape for site in model.sites}
    assert free["simplex"] == (3,)
    assert free["cholesky"] == (3,)
    assert free["ordered"] == (3,)
    assert free["child"] == ()
    assert [site.name for site in model.sites] == [
        "unit",
        "interval",
        "simplex",
        "cholesky",
        "ordered",
        "lower",
        "scale",
        "child",
        "truncated",
        "heavy",
    ]


def test_factors_are_per_site_batch_shaped_and_unscaled():
    with scope():
        model = read(scaled, {"y": Y})
        factors = model.factors({"mu": jnp.asarray(0.4)}, model.data)
    by_hand = -0.5 * (Y - 0.4) ** 2 - 0.5 * np.log(2 * np.pi)
    assert set(factors.log_prob) == {"mu", "y", "penalty"}
    np.testing.assert_allclose(factors.log_prob["y"], by_hand * [1, 0, 1, 1], rtol=1e-12)
    np.testing.assert_allclose(factors.log_prob["penalty"], -0.3 * 0.4**4)
    assert factors.scale == {"y": 2.5}
    assert model.likelihoods == ("y",)  # the penalty is no observed variable


def test_jacobians_are_kept_apart():
    with scope():
        model = read(plain, {"y": Y})
        factors = model.factors({"mu": jnp.asarray(0.0), "sigma": jnp.asarray(0.7)}, model.data)
    assert set(factors.jacobian) == {"sigma"}  # the identity needs none
    np.testing.assert_allclose(factors.jacobian["sigma"], 0.7)


def test_data_are_arguments_of_the_program():
    with scope():
        model = read(plain, {"y": Y})
        free = unflatten(model.sites, points(model, 1)[0])
        one, other = (total(model.factors(free, {"y": y})) for y in (Y, Y + 1))
        assert one != other
        lowered = jax.jit(model.factors).lower(free, model.data).as_text()
    assert "2.5" not in lowered  # no data value is a constant of the program


def test_dims_of_nested_plates_and_events():
    def model(y):
        with numpyro.plate("a", 3, dim=-2), numpyro.plate("b", 4, dim=-1):
            numpyro.sample("cell", dist.Normal(0, 1).expand([2]).to_event(1), infer={"event_dims": ["k"]})
            numpyro.sample("unnamed", dist.Normal(0, 1).expand([2]).to_event(1))
            z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z.sum(), 1), obs=y)

    found = read(model, {"y": Y})
    assert found.dims["cell"] == ("a", "b", "k")
    assert found.dims["unnamed"] == ()
    assert found.dims["z"] == ("a", "b")
    assert {site.name: site.shape for site in found.sites} == {"cell": (3, 4, 2), "unnamed": (3, 4, 2), "z": (3, 4)}


def test_several_observed_variables():
    def model(y, counts):
        rate = numpyro.sample("rate", dist.Gamma(2, 1))
        numpyro.sample("y", dist.Normal(rate, 1), obs=y)
        numpyro.sample("counts", dist.Poisson(rate), obs=counts)

    found = read(model, {"y": Y, "counts": np.array([1, 2, 0])})
    assert found.likelihoods == ("y", "counts")
    assert found.observed["counts"].dtype.kind == "i"


def test_integers_that_index_stay_integers():
    def model(group, y):
        effect = numpyro.sample("effect", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(effect[group], 1), obs=y)

    posterior = jn.fit(model, data={"group": np.array([0, 1, 1, 2]), "y": Y})
    # Conjugate: n observations with variance one under a standard normal prior.
    np.testing.assert_allclose(posterior.mean["effect"], [1 / 2, 2 / 3, 3 / 2], atol=1e-8)
    np.testing.assert_allclose(posterior.sd["effect"] ** 2, [1 / 2, 1 / 3, 1 / 2], rtol=1e-8)


def test_array_values_used_in_python_become_constants_and_it_is_said():
    def model(sizes, y):
        effect = numpyro.sample("effect", dist.Normal(0, 1).expand([int(sizes.max())]).to_event(1))
        numpyro.sample("y", dist.Normal(effect.sum(), 1), obs=y)

    found = read(model, {"sizes": np.array([2, 3]), "y": Y})
    assert found.sites[0].shape == (3,)
    assert any("sizes" in note and "constants" in note for note in found.notes)
    assert set(found.data) == {"y"}
    posterior = jn.fit(model, data={"sizes": np.array([2, 3]), "y": Y})
    assert any("sizes" in sentence for sentence in posterior.story)


def test_nothing_observed_is_told():
    def model():
        numpyro.sample("x", dist.Normal(0, 1))

    assert any("nothing is observed" in note for note in read(model).notes)
    assert not any("nothing is observed" in note for note in read(plain, {"y": Y}).notes)
    assert not any("nothing is observed" in note for note in read(scaled, {"y": Y}).notes)


def test_random_streams_of_the_model_do_not_depend_on_jensen():
    """A model that samples inside `handlers.seed` of its own reads the same twice."""
    one, other = read(plain, {"y": Y}), read(plain, {"y": Y + 1})
    assert one.factors is other.factors  # one blueprint, so one program


def test_reading_never_calls_the_models_code_with_numbers():
    """Shapes come from an abstract trace: no operation runs, so reading a large model costs nothing."""
    seen = []

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        seen.append(type(mu))
        numpyro.sample("y", dist.Normal(mu, 1), obs=y)

    read(model, {"y": Y})
    assert seen
    assert not any(issubclass(kind, np.ndarray) for kind in seen)
    assert all("Tracer" in kind.__name__ for kind in seen)


def test_predictions_ignore_the_observed_values():
    posterior = jn.fit(plain, data={"y": Y})
    simulated = posterior.predict(draws=300)["y"]
    assert simulated.shape == (300, 4)
    assert np.abs(simulated - Y).min(0).max() < 1
    assert simulated.std(0).min() > 0.3


def test_predictions_of_counts_are_integers():
    def model(x, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("y", dist.Poisson(jnp.exp(a * x)), obs=y)

    posterior = jn.fit(model, data={"x": np.ones(4), "y": np.array([1, 2, 0, 3])})
    simulated = posterior.predict(draws=50)["y"]
    assert simulated.dtype.kind == "i"
    assert (simulated >= 0).all()
    new = {"x": np.ones(7), "y": None}  # as a model with y=None is called
    assert posterior.predict(new, draws=50)["y"].shape == (50, 7)


def test_new_values_in_a_list_of_arrays_are_new_data():
    """Such data are no plain input; they must not be mistaken for those of an earlier fit."""

    def model(parts):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        for number, part in enumerate(parts):
            numpyro.sample(f"y{number}", dist.Normal(mu, 1), obs=part)

    for level in (0.0, 4.5):
        posterior = jn.fit(model, data={"parts": [np.full(3, level), np.full(1200, level)]})
        assert posterior.mean["mu"] == pytest.approx(level, abs=1e-2)


def test_predictions_in_batches_are_those_of_one_call(monkeypatch):
    from jensen.models import numpyro as front

    def line(x, y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 10.0))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(a * x, 1.0), obs=y)

    data = {"x": np.arange(7.0), "y": np.arange(7.0)}
    record = front.read(line, data)
    values = {"a": np.linspace(-1.0, 1.0, 10)}
    whole = record.predict(values, record.data, 0)["y"]
    monkeypatch.setattr(front, "_AT_ONCE", 21)  # three draws a call, and one in the last
    np.testing.assert_array_equal(record.predict(values, record.data, 0)["y"], whole)
    assert whole.shape == (10, 7)
    assert abs((whole - values["a"][:, None] * data["x"]).std() - 1) < 0.3
