"""Draws as ArviZ sees them: groups, dims and coords survive, and ArviZ's and PyMC's own functions take the result."""

import warnings

import numpy as np
import pytest
import xarray

from jensen.core.layout import Derived, Site
from jensen.export.arviz import datasets, to_arviz, wrap
from jensen.models.model import Model

N = 50


@pytest.fixture(scope="module")
def az():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ 0.23 announces version 1 once a day
        return pytest.importorskip("arviz")


def record(sites=(), derived=(), **fields):
    """A model of which only the names matter."""
    for site in (*sites, *derived):
        fields.setdefault("dims", {}).setdefault(site.name, site.dims)
    fields = {"data": {}, "factors": None, "constrain": None, "unconstrain": None} | fields
    return Model("m", "NumPyro", tuple(sites), derived=tuple(derived), **fields)


def drawn(quantities, seed=0):
    rng = np.random.default_rng(seed)
    return {quantity.name: rng.normal(size=(N, *quantity.shape)) for quantity in quantities}


def export(model, **more):
    stats = {"log_p": np.arange(N, dtype=float), "log_q": np.ones(N)} | more
    return datasets(model, drawn(model.sites), drawn(model.derived, 1), **stats)


def test_groups_names_dims_coords_and_values():
    model = record(
        [Site("mu", (), ()), Site("a", (3,), (3,), dims=("school",))],
        [Derived("eff", (3, 2), ("school", "time"))],
        coords={"school": ("x", "y", "z"), "time": None, "unused": [1, 2]},
        data={"x": np.arange(4.0), "y": np.arange(4)},
        observed={"y": np.arange(4)},
        constants=("x",),
        dims={"x": ("row",), "y": ("row",)},
    )
    groups = export(model, log_likelihood={"y": np.zeros((N, 4))}, attrs={"seed": 3})
    assert set(groups) == {"posterior", "log_likelihood", "sample_stats", "observed_data", "constant_data"}
    posterior = groups["posterior"]
    assert posterior["mu"].dims == ("chain", "draw")
    assert posterior["a"].dims == ("chain", "draw", "school")
    assert posterior["eff"].dims == ("chain", "draw", "school", "time")
    assert posterior.sizes["chain"] == 1
    assert posterior.sizes["draw"] == N
    assert list(posterior["school"].values) == ["x", "y", "z"]
    assert list(posterior["time"].values) == [0, 1]
    assert "unused" not in posterior.coords
    np.testing.assert_array_equal(posterior["a"].values[0], drawn(model.sites)["a"])
    np.testing.assert_array_equal(groups["sample_stats"]["lp"].values[0], np.arange(N))
    assert set(groups["sample_stats"]) == {"lp", "log_q"}
    assert groups["log_likelihood"]["y"].dims == ("chain", "draw", "row")
    assert groups["observed_data"]["y"].dims == groups["constant_data"]["x"].dims == ("row",)
    assert posterior.attrs["inference_library"] == "jensen"
    assert posterior.attrs["seed"] == 3


def test_what_is_not_there_is_left_out():
    groups = export(record([Site("mu", (), ())]), log_q=None)
    assert set(groups) == {"posterior", "sample_stats"}
    assert set(groups["sample_stats"]) == {"lp"}


def test_axes_without_names_are_called_as_arviz_calls_them():
    posterior = export(record([Site("w", (2, 3), (2, 3))]))["posterior"]
    assert posterior["w"].dims == ("chain", "draw", "w_dim_0", "w_dim_1")


def test_a_name_that_is_dim_and_variable():
    model = record([Site("school", (3,), (3,), dims=("school",))], coords={"school": list("abc")})
    posterior = export(model)["posterior"]
    assert posterior["school"].dims == ("chain", "draw", "school_dim")
    assert list(posterior["school_dim"].values) == ["a", "b", "c"]


def test_a_dim_that_is_a_variable_of_another_group_has_one_name_in_all():
    model = record(
        [Site("a", (3,), (3,), dims=("x",))],
        data={"x": np.zeros(3)},
        constants=("x",),
        dims={"x": ("x",)},
        coords={"x": list("abc")},
    )
    groups = export(model)
    assert groups["posterior"]["a"].dims[-1] == groups["constant_data"]["x"].dims[-1] == "x_dim"


@pytest.mark.parametrize("name", ["chain", "draw"])
def test_variables_and_dims_called_chain_or_draw(name):
    posterior = export(record([Site(name, (), ()), Site("a", (3,), (3,), dims=(name,))]))["posterior"]
    assert set(posterior) == {f"{name}_variable", "a"}
    assert posterior["a"].dims == ("chain", "draw", f"{name}_dim")


def test_a_dim_used_twice_keeps_its_labels_on_both_axes():
    model = record([Site("cov", (2, 2), (3,), dims=("item", "item"))], coords={"item": ["p", "q"]})
    posterior = export(model)["posterior"]
    assert posterior["cov"].dims == ("chain", "draw", "item", "item_bis")
    assert list(posterior["item_bis"].values) == ["p", "q"]


def test_coords_of_another_length_become_a_range_and_odd_axes_get_their_own_name():
    sites = [
        Site("a", (3,), (3,), dims=("row",)),
        Site("b", (1,), (1,), dims=("row",)),
        Site("c", (2,), (2,), dims=("col",)),
    ]
    posterior = export(record(sites, coords={"row": list("abc"), "col": list("vwxyz")}))["posterior"]
    assert list(posterior["row"].values) == ["a", "b", "c"]
    assert posterior["b"].dims[-1] == "b_dim_0"
    assert posterior["c"].dims[-1] == "col"
    assert list(posterior["col"].values) == [0, 1]


def test_a_factor_with_fewer_axes_than_its_variable_takes_the_leading_dims():
    model = record([Site("a", (), ())], observed={"y": np.zeros((4, 2))}, dims={"y": ("row", "item")})
    groups = export(model, log_likelihood={"y": np.zeros((N, 4)), "series": np.zeros(N)})
    assert groups["log_likelihood"]["y"].dims == ("chain", "draw", "row")
    assert groups["log_likelihood"]["series"].dims == ("chain", "draw")


def test_labels_of_every_kind():
    pandas = pytest.importorskip("pandas")
    labels = {
        "date": pandas.date_range("2020-01-01", periods=2),
        "stamps": tuple(pandas.date_range("2020-01-01", periods=2)),
        "mixed": [1, "a"],
        "tuples": [("a", 1), ("b", 2)],
        "flags": [True, False],
        "years": np.array([1990, 1995]),
    }
    sites = [Site(f"x_{dim}", (2,), (2,), dims=(dim,)) for dim in labels]
    posterior = export(record(sites, coords=labels))["posterior"]
    assert posterior["date"].dtype.kind == posterior["stamps"].dtype.kind == "M"
    assert list(posterior["mixed"].values) == ["1", "a"]
    assert list(posterior["tuples"].values) == ["('a', 1)", "('b', 2)"]
    assert list(posterior["years"].values) == [1990, 1995]


@pytest.mark.filterwarnings("ignore")  # of ArviZ about matplotlib
def test_arviz_takes_it(az):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    model = record(
        [Site("mu", (), ()), Site("a", (3,), (3,), dims=("school",))],
        observed={"y": np.zeros(4)},
        coords={"school": list("xyz")},
    )
    rng = np.random.default_rng(0)
    stats = {"log_p": np.zeros(N), "log_q": np.zeros(N), "log_likelihood": {"y": -0.5 + 0.01 * rng.normal(size=(N, 4))}}
    found = to_arviz(model, drawn(model.sites), {}, **stats)
    assert list(az.summary(found).index) == ["mu", "a[x]", "a[y]", "a[z]"]
    assert az.loo(found).n_data_points == 4
    axes = az.plot_trace(found)
    assert axes.shape == (2, 2)
    matplotlib.pyplot.close("all")


def test_the_installed_version_decides_the_kind_of_object(az, monkeypatch):
    import importlib.metadata

    groups = export(record([Site("mu", (), ())]))
    assert type(wrap(groups)).__name__ == ("InferenceData" if hasattr(az, "InferenceData") else "DataTree")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0.0")
    tree = wrap(groups)
    assert isinstance(tree, xarray.DataTree)
    assert tree["posterior/mu"].dims == ("chain", "draw")


def test_pymc_simulates_from_it(az):
    pm = pytest.importorskip("pymc")
    rng = np.random.default_rng(0)
    with pm.Model(coords={"group": ["p", "q"]}) as source:
        x = pm.Data("x", np.arange(6.0), dims="row")
        level = pm.Normal("level", 0, 10, dims="group")
        slope = pm.Deterministic("slope", level[1] - level[0])
        pm.Normal("y", level[0] + slope * x, 0.01, observed=np.zeros(6), dims="row")
    sites, derived = [Site("level", (2,), (2,), dims=("group",))], [Derived("slope", ())]
    names = {"coords": {"group": ("p", "q")}, "dims": {"x": ("row",), "y": ("row",)}}
    values = {"data": {"x": np.arange(6.0)}, "constants": ("x",), "observed": {"y": np.zeros(6)}}
    model = record(sites, derived, **names, **values)
    level = np.tile([100.0, 101.0], (N, 1)) + 0.001 * rng.normal(size=(N, 2))
    stats = {"log_p": np.zeros(N), "log_q": np.zeros(N)}
    found = to_arviz(model, {"level": level}, {"slope": level[:, 1] - level[:, 0]}, **stats)
    assert found.posterior["level"].dims == ("chain", "draw", "group")
    simulated = pm.sample_posterior_predictive(found, source, random_seed=0, progressbar=False)
    y = simulated.posterior_predictive["y"]
    assert y.dims == ("chain", "draw", "row")
    # Had PyMC drawn `level` anew from its prior, these would be tens away.
    np.testing.assert_allclose(y.mean(("chain", "draw")).values, 100 + np.arange(6), atol=0.05)
