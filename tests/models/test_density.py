"""The log-density front end."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import jensen as jn
from jensen.core.layout import flatten, unflatten
from jensen.core.precision import scope
from jensen.models.density import SUPPORTS, read
from jensen.models.model import total
from jensen.models.read import read as read_any

SHAPES = {
    "real": (2,),
    "positive": (2,),
    "unit_interval": (2,),
    "simplex": (3,),
    "ordered_vector": (3,),
    "positive_ordered_vector": (3,),
    "corr_cholesky": (3, 3),
}


def zero(p):
    return 0.0 * sum(value.sum() for value in p.values())


def test_every_support_has_a_case():
    assert set(SHAPES) == set(SUPPORTS)


def points(model, n=4):
    return np.random.default_rng(0).standard_normal((n, model.dim))


@pytest.mark.parametrize("support", [*SUPPORTS, (-1.0, 3.0), (0, 2), constraints.greater_than(2.0)], ids=str)
def test_supports_are_kept_and_transforms_are_bijections_with_their_jacobian(support):
    shape = SHAPES.get(support, (2,)) if isinstance(support, str) else (2,)
    init = np.eye(3) if shape == (3, 3) else np.full(shape, 1 / 3)
    model = read(jn.density(zero, {"x": init}, support={"x": support}))
    constraint = getattr(constraints, support) if isinstance(support, str) else support
    constraint = constraints.interval(*support) if isinstance(support, tuple) else constraint
    with scope():
        for z in points(model):
            free = unflatten(model.sites, jnp.asarray(z))
            values, derived = model.constrain(free, {})
            assert derived == {}
            assert values["x"].shape == shape
            assert np.all(constraint(values["x"]))
            np.testing.assert_allclose(flatten(model.sites, model.unconstrain(values, {})), z, atol=1e-8)
            if np.size(init) == model.dim:
                import jax

                jacobian = jax.jacobian(lambda z: model.constrain(unflatten(model.sites, z), {})[0]["x"].ravel())(z)
                exact = np.linalg.slogdet(np.asarray(jacobian))[1]
                np.testing.assert_allclose(total(model.factors(free, {})), exact, atol=1e-8)


def test_order_names_and_shapes_are_those_of_init():
    model = read(jn.density(zero, {"b": np.zeros((2, 3)), "a": 1, "c": [0.0, 0.0]}))
    assert [(site.name, site.shape) for site in model.sites] == [("b", (2, 3)), ("a", ()), ("c", (2,))]
    assert model.dim == 9
    assert model.language == "log density"
    assert model.likelihoods == ()
    assert model.predict is None


def test_values_of_init_do_not_matter():
    def log_density(p):
        return -0.5 * (p["x"] - 2) ** 2

    one, other = (jn.fit(jn.density(log_density, {"x": value})) for value in (0.0, 1e6))
    assert one.q.mean == other.q.mean


def test_dims_and_coords():
    described = jn.density(zero, {"x": np.zeros((2, 3))}, dims={"x": ("row", "column")}, coords={"row": ["a", "b"]})
    model = read(described)
    assert model.dims["x"] == ("row", "column")
    assert model.coords["row"] == ["a", "b"]


def test_data_are_replaced_by_name():
    described = jn.density(
        lambda p, d: -((p["x"] - d["y"]) ** 2).sum() * d["w"], {"x": 0.0}, data={"y": np.zeros(2), "w": np.array(1.0)}
    )
    one, other = read(described), read(described, {"y": np.ones(5)})
    assert one.data["y"].shape == (2,)
    assert other.data["y"].shape == (5,)
    np.testing.assert_array_equal(other.data["w"], 1.0)
    np.testing.assert_array_equal(described.data["y"], np.zeros(2))


def test_the_same_shapes_share_one_blueprint():
    described = jn.density(lambda p, d: -((p["x"] - d["y"]) ** 2).sum(), {"x": 0.0}, data={"y": np.zeros(2)})
    assert read(described).factors is read(described, {"y": np.ones(2)}).factors
    assert read(described).factors is not read(described, {"y": np.ones(3)}).factors


def test_two_densities_of_one_function_are_two_models():
    def log_density(p):
        return -0.5 * (p["x"] ** 2).sum()

    small, large = (jn.fit(jn.density(log_density, {"x": np.zeros(n)})) for n in (1, 3))
    assert small.mean["x"].shape == (1,)
    assert large.mean["x"].shape == (3,)


def test_integers_in_data_stay_integers():
    model = jn.density(
        lambda p, d: -0.5 * ((p["x"][d["group"]] - d["y"]) ** 2).sum() - 0.5 * (p["x"] ** 2).sum(),
        {"x": np.zeros(2)},
        data={"group": np.array([0, 1, 1]), "y": np.array([1.0, 2.0, 4.0])},
    )
    np.testing.assert_allclose(jn.fit(model).mean["x"], [0.5, 2.0], atol=1e-8)


def test_the_docstrings_example():
    model = jn.density(lambda p: -0.5 * (p["x"] ** 2).sum(), {"x": [0.0, 0.0]})
    np.testing.assert_array_equal(jn.fit(model).mean["x"].round(3) + 0.0, [0, 0])


def test_a_model_that_was_read_takes_other_data():
    """As one from a front end of the user's own does; an unknown name is refused."""
    described = jn.density(lambda p, d: -((p["x"] - d["y"]) ** 2).sum(), {"x": 0.0}, data={"y": np.zeros(2)})
    record = read(described)
    assert read_any(record) is record
    other = read_any(record, {"y": np.ones(2)})
    np.testing.assert_array_equal(other.data["y"], np.ones(2))
    assert other.factors is record.factors
    with pytest.raises(jn.DataError, match=r"no data \['z'\]"):
        read_any(record, {"z": np.ones(2)})
