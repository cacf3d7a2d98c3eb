"""PyMC models with fewer rows: factors of sliced data are slices of the factors; minibatches and total sizes."""

import warnings

import jax
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from scipy import stats
from tests.tiers import quick

from jensen.core.errors import ModelError, UnsupportedError
from jensen.core.precision import scope
from jensen.models.model import Factors, total
from jensen.models.pymc import read
from jensen.models.pymc_minibatch import Batch, batches
from jensen.models.pymc_roots import roots

RNG = np.random.default_rng(8)
N, D, G, ITEMS = 37, 3, 5, 23
X = RNG.normal(size=(N, D))
Y = X @ [1.0, -2.0, 0.5] + RNG.normal(size=N)
GROUP = RNG.integers(0, G, N)
COUNTS = RNG.poisson(3, N)
BINARY = RNG.integers(0, 2, N)
LEVELS = RNG.integers(0, 4, N)
ROWS = {N: np.array([30, 2, 17, 5, 11, 36, 8, 21, 4, 14, 0])}


def linear():
    pm.Normal("y", pm.math.dot(X, pm.Normal("b", shape=D)) + pm.Normal("a"), pm.HalfNormal("s"), observed=Y)


def logistic():
    pm.Bernoulli("y", logit_p=X @ pm.Normal("b", shape=D), observed=BINARY)


def columns():
    b = pm.Normal("b", shape=2)
    pm.Normal("y", b[0] * pt.as_tensor(X)[:, 0] + b[1] * X[:, 1] ** 2, 1, observed=Y, shape=N)


def poisson():
    pm.Poisson("y", pm.math.exp(pm.Normal("a") + X[:, 0] * pm.Normal("b")), observed=COUNTS)


def student():
    pm.StudentT("y", nu=pm.Gamma("nu", 2, 0.1), mu=pm.Normal("m"), sigma=1, observed=Y)


def mixture():
    w = pm.Dirichlet("w", np.ones(2))
    m = pm.Normal("m", shape=2, transform=pm.distributions.transforms.ordered, initval=[-1.0, 1.0])
    pm.NormalMixture("y", w, m, pm.HalfNormal("s"), observed=Y)


def mixture_of_rows():
    parts = [pm.Normal.dist(X @ pm.Normal("b", shape=D), 1), pm.StudentT.dist(3, mu=0, sigma=2, shape=N)]
    pm.Mixture("y", pm.Dirichlet("w", np.ones(2)), parts, observed=Y)


def mixture_weights_by_row():
    share = pm.math.sigmoid(X[:, 0] * pm.Normal("b"))
    parts = [pm.Normal.dist(-1, 1), pm.Normal.dist(2, 0.5)]
    pm.Mixture("y", pm.math.stack([share, 1 - share], axis=-1), parts, observed=Y)


def ordered_logistic():
    ordered = pm.distributions.transforms.ordered
    cuts = pm.Normal("c", shape=3, transform=ordered, initval=[-1.0, 0.0, 1.0])
    pm.OrderedLogistic("y", X @ pm.Normal("b", shape=D), cuts, observed=LEVELS)


def categorical():
    pm.Categorical("y", logit_p=X @ pm.Normal("b", shape=(D, 4)), observed=LEVELS)


def vectors():
    packed, _, _ = pm.LKJCholeskyCov("L", n=D, eta=2, sd_dist=pm.HalfNormal.dist(1, shape=D))
    pm.MvNormal("y", pm.Normal("m", shape=D), chol=packed, observed=X)


def dirichlet_rows():
    pm.Dirichlet("y", pm.Gamma("a", 2, 1, shape=D), observed=np.exp(X) / np.exp(X).sum(1, keepdims=True))


def multinomial_rows():
    counts = RNG.multinomial(5, [0.2, 0.3, 0.5], N)
    pm.Multinomial("y", 5, pm.Dirichlet("p", np.ones(3)), observed=counts)


def truncated():
    mu = X @ pm.Normal("b", shape=D)
    pm.Truncated("y", pm.Normal.dist(mu, 1), lower=-9.0, observed=Y)


def truncated_by_rejection():
    pm.Truncated("y", pm.StudentT.dist(4, mu=X @ pm.Normal("b", shape=D), sigma=1), lower=-9.0, upper=9.0, observed=Y)


def truncated_gamma():
    pm.Truncated("y", pm.Gamma.dist(pm.HalfNormal("a"), 1), upper=20.0, observed=np.abs(Y) + 0.1)


def censored():
    pm.Censored("y", pm.Normal.dist(X @ pm.Normal("b", shape=D), 1), None, 1.0, observed=np.minimum(Y, 1.0))


def zero_inflated():
    pm.ZeroInflatedPoisson("y", pm.Beta("p", 1, 1), pm.math.exp(X[:, 0] * pm.Normal("b")), observed=COUNTS)


def hurdle():
    pm.HurdlePoisson("y", 0.7, pm.math.exp(X[:, 0] * pm.Normal("b")), observed=COUNTS)


def negative_binomial():
    mu = pm.math.exp(pm.Normal("a", shape=G)[GROUP])
    pm.NegativeBinomial("y", mu=mu, alpha=pm.HalfNormal("k"), observed=COUNTS)


def groups():
    tau = pm.HalfNormal("tau")
    pm.Normal("y", pm.Normal("a", 0, tau, shape=G)[GROUP], 1, observed=Y)


def custom():
    def logp(value, mu, sigma):
        return -((value - mu) ** 2) / sigma**2 - pt.log(sigma)

    pm.CustomDist("y", X @ pm.Normal("b", shape=D), pm.HalfNormal("s"), logp=logp, observed=Y)


def custom_generative():
    def dist(mu, sigma, size):
        return pm.Normal.dist(mu, sigma, size=size) ** 3

    pm.CustomDist("y", X @ pm.Normal("b", shape=D), pm.HalfNormal("s"), dist=dist, observed=Y**3)


def potential():
    b = pm.Normal("b", shape=D)
    pm.Potential("p", pm.logp(pm.Normal.dist(X @ b, 1), Y))


def deterministic():
    mu = pm.Deterministic("mu", X @ pm.Normal("b", shape=D) + pt.zeros(N))
    pm.Normal("y", mu, 1, observed=Y)


def switch():
    b = pm.Normal("b", shape=2)
    pm.Normal("y", pt.switch(X[:, 0] > 0, b[0], b[1]), 1, observed=Y)


def local():
    z = pm.HalfNormal("z", pm.HalfNormal("tau"), shape=N)
    pm.Poisson("y", z * np.exp(X[:, 0]), observed=COUNTS)


def local_vectors():
    z = pm.Normal("z", 0, 1, shape=(N, 2))
    w = pm.Normal("w", 0, 1, shape=(2, D))
    pm.Normal("y", z @ w, 1, observed=X)


def local_simplex():
    z = pm.Dirichlet("z", np.ones(D), shape=(N, D))
    pm.Normal("y", (z * pm.Normal("m", shape=D)).sum(-1), 1, observed=Y)


def reshaped():
    b = pm.Normal("b", shape=D)
    mu = pt.specify_shape(pt.reshape(X @ b, (N, 1)), (N, 1)) + pt.zeros((N, 2)) + pt.alloc(1.0, N, 1)
    pm.Normal("y", mu, 1, observed=X[:, :2])


def sliced():
    b = pm.Normal("b", shape=(N + D, 2))[:2].sum(0)
    pm.Normal("y", (pt.as_tensor(X)[:N, :2] * b).sum(1), 1, observed=Y)


MODELS = [
    *(linear, logistic, columns, poisson, student, mixture, mixture_of_rows, mixture_weights_by_row, ordered_logistic),
    *(categorical, vectors, dirichlet_rows, multinomial_rows, truncated, truncated_by_rejection, truncated_gamma),
    *(censored, zero_inflated, hurdle, negative_binomial, groups, custom, custom_generative, potential),
    *(deterministic, switch, local, local_vectors, local_simplex, reshaped, sliced),
]


def made(write, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pm.Model(**options) as model:
            write()
    return model


def evaluate(record, free, data=None):
    data = record.data if data is None else data
    with scope("float64"):
        parts, derived = jax.jit(
            lambda free, data: (tuple(record.factors(free, data)), record.constrain(free, data)[1])
        )(free, data)
    numbers = [{name: np.asarray(value) for name, value in part.items()} for part in (*parts, derived)]
    return Factors(*numbers[:3]), numbers[3]


def cut(values, rows):
    """Every array of a mapping with the chosen rows of every axis that has them."""
    result = {}
    for name, value in values.items():
        for axis, length in enumerate(np.shape(value)):
            if length in rows:
                value = np.take(value, rows[length], axis)
        result[name] = value
    return result


def point(record):
    return {site.name: RNG.normal(size=site.free_shape) / 2 for site in record.sites}


def agree(record, rows):
    """The model for some rows has the factors, deterministics and Jacobians of those rows."""
    free = point(record)
    lengths = {old: len(chosen) for old, chosen in rows.items()}
    small = record.resized(cut(record.data, rows), lengths)
    assert {site.name: site.free_shape for site in small.sites} == {
        name: value.shape for name, value in cut(free, rows).items()
    }
    full, derived = evaluate(record, free)
    part, part_derived = evaluate(small, cut(free, rows))
    assert part.scale == full.scale
    for got, want in [(part.log_prob, full.log_prob), (part.jacobian, full.jacobian), (part_derived, derived)]:
        want = cut(want, rows)
        assert list(got) == list(want)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, 1e-12, 1e-12, err_msg=name)
    assert {item.name: item.shape for item in small.derived} == {
        name: value.shape for name, value in part_derived.items()
    }
    for name, value in cut(record.observed, rows).items():
        np.testing.assert_array_equal(small.observed[name], value)
    with scope("float64"):
        back = jax.jit(lambda free, data: small.unconstrain(small.constrain(free, data)[0], data))(
            cut(free, rows), small.data
        )
    for name, value in cut(free, rows).items():
        np.testing.assert_allclose(back[name], value, 1e-9, 1e-9)
    return small


QUICK = [
    write for write in MODELS if write not in (mixture, mixture_of_rows, local_simplex, truncated_by_rejection, student)
]


@pytest.mark.parametrize("write", quick(MODELS, *QUICK), ids=lambda write: write.__name__)
def test_factors_of_some_rows_are_rows_of_the_factors(write):
    agree(read(made(write)), ROWS)


def containers():
    x = pm.Data("x", X, dims=("obs", "feature"))
    g = pm.Data("g", GROUP, dims="obs")
    z = pm.Normal("z", dims="obs")
    a = pm.Normal("a", dims="group")
    mu = pm.Deterministic("mu", x @ pm.Normal("b", dims="feature") + a[g] + z, dims="obs")
    pm.Normal("y", mu, 1, observed=pm.Data("y_data", Y, dims="obs"), dims="obs")


COORDS = {"obs": [f"row {i}" for i in range(N)], "feature": list("abc"), "group": range(G)}


def test_dimensions_follow_and_lose_their_labels():
    small = agree(read(made(containers, coords=COORDS)), ROWS)
    assert set(small.coords) == {"feature", "group"}
    assert small.dims["mu"] == ("obs",)
    assert small.predict is None


def test_dimensions_of_no_container():
    def write():
        z = pm.Gamma("z", 2, 1, dims="obs")
        pm.Poisson("y", z, observed=COUNTS, dims="obs")
        pm.Deterministic("double", 2 * z, dims="obs")

    agree(read(made(write, coords=COORDS)), ROWS)


def test_groups_and_rows():
    chosen = np.flatnonzero(np.isin(GROUP, [1, 3, 4]))
    record = read(made(containers, coords=COORDS))
    free = point(record)
    rows = {N: chosen, G: np.array([1, 3, 4])}
    data = cut(record.data, {N: chosen})
    data["g"] = np.searchsorted(rows[G], data["g"])
    small = record.resized(data, {N: len(chosen), G: 3})
    full, part = evaluate(record, free)[0], evaluate(small, cut(free, rows), data)[0]
    for name, value in cut(full.log_prob, rows).items():
        np.testing.assert_allclose(part.log_prob[name], value, 1e-12, 1e-12)


def test_two_axes():
    ratings = RNG.normal(size=(N, ITEMS))

    def write():
        u, v = pm.Normal("u", shape=(N, 2)), pm.HalfNormal("v", shape=(ITEMS, 2))
        pm.Normal("y", u @ v.T + pm.Normal("w", dims="item"), 1, observed=ratings, dims=("user", "item"))

    record = read(made(write, coords={"user": range(N), "item": range(ITEMS)}))
    agree(record, {**ROWS, ITEMS: np.array([3, 1, 20, 9])})
    agree(record, {ITEMS: np.array([22, 1, 0])})


def test_more_rows_and_one_row():
    record = read(made(local_vectors))
    free = point(record)
    for chosen in (np.arange(3 * N) % N, np.array([4])):
        data, rows = cut(record.data, {N: chosen}), {N: chosen}
        part = evaluate(record.resized(data, {N: len(chosen)}), cut(free, rows), data)[0]
        for name, value in cut(evaluate(record, free)[0].log_prob, rows).items():
            np.testing.assert_allclose(part.log_prob[name], value, 1e-12, 1e-12)


def test_numbers_of_the_density_stay():
    def write():
        pm.Normal("y", pm.Normal("m", 0, N, shape=N) * N, N, observed=Y)

    agree(read(made(write)), ROWS)


def test_the_number_of_rows_in_a_density_stays():
    """A prior scale of 1/sqrt(number of rows) is not that of some rows; written with a dimension, a shape, or its mean."""

    def write():
        x = pm.Data("x", X, dims=("obs", "feature"))
        tau = pm.HalfNormal("tau", 1 / pt.sqrt(x.shape[0].astype(float)))
        rows = pm.modelcontext(None).dim_lengths["obs"]
        b = pm.Normal("b", 0, tau, shape=x.shape[1])
        c = pm.Normal("c", rows, 1.0)
        mu = x @ b + c + pt.zeros(x.shape[0]) + pt.ones((rows, 1)).sum(1)
        pm.Normal("y", mu * pt.constant(X).shape[0], 1, observed=Y)

    agree(read(made(write, coords=COORDS)), ROWS)


@pytest.mark.parametrize(
    "write",
    [
        *(linear, mixture, mixture_of_rows, mixture_weights_by_row, truncated_by_rejection, custom_generative),
        *(groups, categorical, zero_inflated, deterministic),
    ],
    ids=lambda write: write.__name__,
)
def test_containers_of_unknown_length(write, monkeypatch):
    def contained():
        for name in ("X", "Y", "GROUP", "COUNTS", "LEVELS"):
            monkeypatch.setitem(globals(), name, pm.Data(f"data {name}", kept[name]))
        write()

    kept = {name: globals()[name] for name in ("X", "Y", "GROUP", "COUNTS", "LEVELS")}
    model = made(contained)
    monkeypatch.undo()
    agree(read(model), ROWS)


def test_same_shapes_same_functions():
    record = read(made(containers, coords=COORDS))
    other = {N: np.arange(11)}
    one, two = (record.resized(cut(record.data, rows), {N: 11}) for rows in (ROWS, other))
    assert (one.factors, one.constrain, one.sites) == (two.factors, two.constrain, two.sites)
    np.testing.assert_array_equal(two.data["x"], X[:11])
    single = {name: value.astype("f4") if value.dtype == float else value for name, value in one.data.items()}
    single = record.resized(single, {N: 11})
    assert single.factors is one.factors
    assert record.resized(one.data, {N: 11}).factors is not record.factors
    again = one.resized(cut(record.data, {N: np.arange(6)}), {N: 6})
    assert again.sites[0].shape == (6,)


def test_a_length_that_cannot_follow_is_refused():
    def write():
        pm.Normal("y", pt.concatenate([pm.Normal("z", shape=N - 1), pt.zeros(1)]), 1, observed=Y)

    record = read(made(write))
    with pytest.raises(UnsupportedError, match=r"cannot be read with other lengths \(37 -> 11\)"):
        record.resized(cut(record.data, ROWS), {N: 11})


BATCH = 5


def batched(total_size=N, **options):
    def write():
        x, y = pm.Minibatch(X, Y, batch_size=BATCH)
        pm.Normal("y", x @ pm.Normal("b", shape=D), 1, observed=y, total_size=total_size, **options)

    return write


def batched_rows(total_size):
    def write():
        y = pm.Minibatch(X, batch_size=BATCH)
        pm.Normal("y", pm.Normal("m", shape=D), 1, observed=y, total_size=total_size)

    return write


def whole():
    pm.Normal("y", X @ pm.Normal("b", shape=D), 1, observed=Y)


def whole_rows():
    pm.Normal("y", pm.Normal("m", shape=D), 1, observed=X)


@pytest.mark.parametrize(
    ("write", "full"),
    [
        (batched(), whole),
        (batched((N,)), whole),
        (batched(Y.shape), whole),
        (batched([N]), whole),
        (batched(shape=BATCH), whole),
        (batched_rows(N), whole_rows),
        (batched_rows((N, None)), whole_rows),
        (batched_rows((N, ...)), whole_rows),
        (batched_rows([N, D]), whole_rows),
        (batched_rows(X.shape), whole_rows),
    ],
)
def test_minibatches_are_read_as_the_full_data(write, full):
    record, plain = read(made(write)), read(made(full))
    free = point(record)
    got, want = evaluate(record, free)[0], evaluate(plain, free)[0]
    np.testing.assert_allclose(got.log_prob["y"], want.log_prob["y"], 1e-12)
    assert got.scale == {"y": 1.0}
    assert record.notes == ("pm.Minibatch is set aside: the full data are used.",)
    agree(record, ROWS)


@pytest.mark.parametrize(
    ("total_size", "scale"),
    [(74, 2), ((74,), 2), ([74, 6], 4), ((74, None), 2), ((74, ...), 2), ((..., 6), 2), ((N, D), 1)],
)
def test_a_slice_with_total_size_keeps_its_weight(total_size, scale):
    observed = Y if total_size == (74,) else X
    record = read(made(lambda: pm.Normal("y", pm.Normal("m"), 1, observed=observed, total_size=total_size)))
    assert evaluate(record, point(record))[0].scale == {"y": scale}
    agree(record, ROWS)


def test_minibatch_agrees_with_pymc_on_average():
    """The mean of PyMC's own scaled densities over a partition of the rows into batches is ours of all rows."""
    mean = np.linspace(-1, 1, D)
    sums = []
    for start in range(0, N - N % 6, 6):
        rows = np.arange(start, start + 6)
        with pm.Model() as model:
            pm.Normal("y", pm.Normal("m", shape=D), 1, observed=X[rows], total_size=(36, D))
        sums.append(model.compile_logp(sum=False)({"m": mean})[1].sum())
    record = read(made(lambda: pm.Normal("y", pm.Normal("m", shape=D), 1, observed=X[:36])))
    prior = stats.norm.logpdf(mean).sum()
    np.testing.assert_allclose(np.mean(sums), total(evaluate(record, {"m": mean})[0]) - prior, 1e-12)


def batched_container():
    pm.Normal("y", pm.Normal("m"), 1, observed=pm.Minibatch(pm.Data("y_data", Y), batch_size=BATCH))


def refusal(write, match):
    with pytest.raises(ModelError, match=match):
        read(made(write))


def test_minibatch_without_total_size_is_refused():
    sentence = "y is observed through pm.Minibatch of 5 of 37 rows without total_size, so .* 7.4 times too little"
    refusal(batched(None), sentence + ".* write total_size=37")
    refusal(batched_rows((None, D)), sentence + ".* write total_size=37")
    refusal(batched_container, sentence)
    refusal(batched(BATCH), "5 of 37 rows with total_size=5, so")


def test_a_potential_of_a_minibatch_is_refused():
    def write():
        x, y = pm.Minibatch(X, Y, batch_size=BATCH)
        mu = pm.Deterministic("mu", x @ pm.Normal("b", shape=D))
        pm.Potential("energy", -((y - mu) ** 2).sum())

    refusal(write, "the potential energy reads pm.Minibatch of 5 of 37 rows")


def test_a_prior_as_potential_beside_a_minibatch():
    def write():
        x, y = pm.Minibatch(X, Y, batch_size=BATCH)
        b = pm.Normal("b", shape=D)
        pm.Potential("energy", -(b**2).sum())
        pm.Normal("y", x @ b, 1, observed=y, total_size=N)

    agree(read(made(write)), ROWS)


def test_another_total_size_is_a_scale_and_a_note():
    record = read(made(batched(3 * N)))
    assert evaluate(record, point(record))[0].scale == {"y": 3.0}
    assert record.notes[1:] == (
        "y has total_size=111 and data of shape (37,), so its likelihood counts 3 times, as in PyMC.",
    )
    agree(record, ROWS)


def test_minibatches_drawn_apart_are_noted():
    def write():
        x = pm.Minibatch(pt.constant(X, name="covariates"), batch_size=BATCH)
        y = pm.Minibatch(Y, batch_size=BATCH)
        pm.Normal("y", x @ pm.Normal("b", shape=D), 1, observed=y, total_size=N)

    record = read(made(write))
    assert "covariates and y meet in y but come from two calls of pm.Minibatch" in record.notes[1]


def test_minibatch_of_containers_indices_and_local_variables():
    def write():
        pm.Data("x", X)
        pm.Data("rows", np.arange(N))
        model = pm.modelcontext(None)
        x, rows, y = pm.Minibatch(model["x"], model["rows"], COUNTS.astype(float), batch_size=BATCH)
        z = pm.Normal("z", shape=N)
        pm.Poisson("y", pm.math.exp(x @ pm.Normal("b", shape=D) + z[rows]), observed=y, total_size=N)

    def full():
        z = pm.Normal("z", shape=N)
        pm.Poisson("y", pm.math.exp(X @ pm.Normal("b", shape=D) + z), observed=COUNTS)

    record, plain = read(made(write)), read(made(full))
    free = point(record)
    np.testing.assert_allclose(total(evaluate(record, free)[0]), total(evaluate(plain, free)[0]), 1e-12)
    data = {**cut(record.data, ROWS), "rows": np.arange(11)}
    small = record.resized(data, {N: 11})
    np.testing.assert_allclose(
        evaluate(small, cut(free, ROWS))[0].log_prob["y"], evaluate(record, free)[0].log_prob["y"][ROWS[N]], 1e-12
    )


def test_longer_data_of_a_minibatch_keep_their_weight():
    def write():
        x, y = pm.Minibatch(pm.Data("x", X), pm.Data("y_data", Y), batch_size=BATCH)
        pm.Normal("y", x @ pm.Normal("b", shape=D), 1, observed=y, total_size=N)

    model = made(write)
    twice = read(model, {"x": np.tile(X, (2, 1)), "y_data": np.tile(Y, 2)})
    assert evaluate(twice, point(twice))[0].scale == {"y": 1.0}
    assert len(twice.notes) == 1


def test_batches():
    with pm.Model() as model:
        x, y = pm.Minibatch(pm.Data("x", X), Y, batch_size=BATCH)
        pm.Normal("y", x @ pm.Normal("b", shape=D), 1, observed=y, total_size=N)
    found = roots(model)
    record = read(model)
    assert batches(model, found, record.data) == (Batch(BATCH, N, ("x", "y")),)
