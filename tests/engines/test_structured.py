"""Groups found from gradients, and smoothed Newton with arrow curvature."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.engines.designs import along_plates
from jensen.engines.structured import Structured
from jensen.families.structured import ArrowGaussian
from jensen.models.groups import find
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


def fitted(model, data=None, engine=None, seed=0):
    with scope():
        target = Target(read(model, data))
        q, record = run(engine or Structured(), target, seed=seed, progress=False)
    return q, record, target


def found(model, data=None):
    with scope():
        target = Target(read(model, data))
        return find(target), target.gradients


def arrow_precision(p, groups, own, seed=0):
    """A positive definite arrow (globals first) and a mean."""
    rng = np.random.default_rng(seed)
    dim = p + groups * own
    P = np.zeros((dim, dim))
    for i in range(groups):
        block = [*range(p), *range(p + i * own, p + (i + 1) * own)]
        root = rng.standard_normal((p + own, p + own + 1)) * np.exp(rng.uniform(-1, 1))
        P[np.ix_(block, block)] += root @ root.T
    return P, 3 * rng.standard_normal(dim)


def _arrow(p, data):
    z = jnp.concatenate([p["g"], p["z"].reshape(-1)]) - data["mean"]
    return -0.5 * z @ data["precision"] @ z


@pytest.mark.parametrize(("p", "groups", "own"), [(3, 5, 2), (1, 12, 1)])
def test_an_arrow_gaussian_is_recovered_exactly(p, groups, own):
    P, mean = arrow_precision(p, groups, own)
    model = jn.density(_arrow, {"g": np.zeros(p), "z": np.zeros((groups, own))}, data={"mean": mean, "precision": P})
    q, record, _ = fitted(model)
    cov = np.linalg.inv(P)
    sd = np.sqrt(np.diagonal(cov))
    assert record.status == "converged"
    assert isinstance(q, ArrowGaussian)
    assert np.abs((q.mean - mean) / sd).max() < 1e-6
    assert np.abs((q.cov - cov) / np.outer(sd, sd)).max() < 1e-6


def test_the_design_follows_the_plates():
    head, tails = along_plates(np.random.default_rng(0), 3, 50, 2, 16)
    assert head.shape == (16, 3)
    assert tails.shape == (16, 50, 2)
    for i in range(50):
        together = np.column_stack([head, tails[:, i]])
        np.testing.assert_allclose(together.T @ together / 16, np.eye(5), atol=1e-12)
        np.testing.assert_allclose(together.mean(0), 0, atol=1e-14)
    assert len(along_plates(np.random.default_rng(0), 10, 2, 4, 8)[0]) == 28  # no fewer than 2 (p + d)


def regression(kind, groups, rows, seed=0):
    """A multilevel model in NumPyro, with data."""
    rng = np.random.default_rng(seed)
    group, x = np.arange(groups * rows) % groups, rng.normal(size=groups * rows)
    eta = rng.normal(1, 0.5, groups)[group] + 0.7 * x
    y = eta + rng.normal(size=len(eta)) if kind == "normal" else rng.uniform(size=len(eta)) < 1 / (1 + np.exp(-eta))

    def model(group, x, y):
        mu_a = numpyro.sample("mu_a", dist.Normal(0, 5))
        b = numpyro.sample("b", dist.Normal(0, 5))
        sigma_a = numpyro.sample("sigma_a", dist.HalfNormal(2))
        with numpyro.plate("groups", groups):
            a = numpyro.sample("a", dist.Normal(mu_a, sigma_a))
        eta = a[group] + b * x
        if kind == "normal":
            numpyro.sample("y", dist.Normal(eta, numpyro.sample("sigma", dist.HalfNormal(2))), obs=y)
        else:
            numpyro.sample("y", dist.Bernoulli(logits=eta), obs=y)

    return model, {"group": group, "x": x, "y": np.asarray(y, float)}


def test_a_multilevel_regression_against_exact_integrals_of_the_groups():
    from benchmarks.structured import conditional

    model, data = regression("normal", 150, 12)
    q, record, target = fitted(model, data)
    assert record.status == "converged"
    names = [site.name for site in target.model.sites if site.name != "a"]
    order = [names.index(name) for name in ("mu_a", "sigma_a", "b", "sigma")]
    at, own = np.array(q.plates.shared)[order], np.array(q.plates.own)[:, 0]
    cov = (q.head @ q.head.T)[np.ix_(order, order)]
    e = np.random.default_rng(1).standard_normal((1500, 4))
    e = np.concatenate([e, -e])
    g = q.mean[at] + e @ np.linalg.cholesky(1.3 * cov).T
    parts = [conditional("normal", data | {"groups": 150}, row) for row in g]
    log_w = np.array([part[0] for part in parts]) + 0.5 * (e**2).sum(1)
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    mean_g, mean_a = w @ g, w @ np.array([part[1] for part in parts])
    sd_g = np.sqrt(w @ (g - mean_g) ** 2)
    sd_a = np.sqrt(w @ np.array([part[2] + (part[1] - mean_a) ** 2 for part in parts]))
    assert np.abs((q.mean[own] - mean_a) / sd_a).max() < 0.03
    assert np.abs((q.mean[at] - mean_g) / sd_g).max() < 0.1
    np.testing.assert_allclose(q.sd[own] / sd_a, 1, atol=0.02)
    np.testing.assert_allclose(q.sd[at] / sd_g, 1, atol=0.08)


def test_gradients_do_not_grow_with_the_number_of_groups():
    counts = [fitted(*regression("bernoulli", groups, 20))[2].gradients for groups in (40, 160)]
    assert counts[1] < 1.6 * counts[0]


def test_bit_for_bit_the_same_again_and_start_at_the_answer_stays():
    model, data = regression("normal", 30, 8)
    q, record, _ = fitted(model, data)
    again, _, _ = fitted(model, data)
    for name, value in q.params.items():
        np.testing.assert_array_equal(again.params[name], value)
    more, second, _ = fitted(model, data, Structured(start=q))
    assert second.steps < record.steps
    assert np.abs((more.mean - q.mean) / q.sd).max() < 0.01


def test_a_dense_start_lends_means_and_sds():
    model, data = regression("normal", 10, 8)
    start = jn.FullRank().start(np.full(14, 0.3), 0.05)
    q, record, _ = fitted(model, data, Structured(start=start))
    assert record.status == "converged"
    np.testing.assert_allclose(q.mean, fitted(model, data)[0].mean, atol=0.02 * q.sd.max())


def test_a_flat_site_and_a_density_that_is_nowhere_finite_are_refused():
    flat = jn.density(lambda p: -0.5 * (p["z"] ** 2).sum() + 0 * p["b"], {"z": np.zeros(5), "b": 0.0})
    with pytest.raises(jn.ImproperError, match="site b"):
        fitted(flat)
    with pytest.raises(jn.NonFiniteError, match="not finite"):
        fitted(jn.density(lambda p: jnp.log(-1 - p["z"] ** 2).sum(), {"z": np.zeros(5)}))


def test_groups_of_a_plain_density_on_any_axis():
    def log_density(p):
        middle = ((p["u"] - p["mu"]) ** 2).sum() + (p["u"].sum(0) * p["v"]).sum() ** 0 * (p["v"] ** 2).sum()
        return -0.5 * middle - 0.5 * p["mu"] ** 2 - 0.1 * ((p["u"].T * p["v"][:, None]) ** 2).sum()

    groups, gradients = found(jn.density(log_density, {"mu": 0.0, "u": np.zeros((3, 7)), "v": np.zeros(7)}))
    assert groups.sites == ("u", "v")
    assert groups.own.shape == (7, 4)
    np.testing.assert_array_equal(groups.shared, [0])
    np.testing.assert_array_equal(groups.own[2], [3, 10, 17, 24])
    assert gradients < 10


def test_a_chain_is_no_group_but_what_hangs_on_it_is():
    def log_density(p):
        return -0.5 * (jnp.diff(p["x"]) ** 2).sum() - 0.5 * ((p["y"] - p["x"]) ** 2).sum() - 0.5 * (p["x"] ** 2).sum()

    groups, _ = found(jn.density(log_density, {"x": np.zeros(9), "y": np.zeros(9)}))
    assert groups.sites == ("y",)
    np.testing.assert_array_equal(groups.shared, np.arange(9))


def test_of_crossed_groups_the_larger_is_local():
    rng = np.random.default_rng(0)
    y = (rng.uniform(size=(40, 6)) < 0.5).astype(float)

    def log_density(p, data):
        eta = p["person"][:, None] - p["item"]
        return (data["y"] * eta - jnp.logaddexp(0, eta)).sum() - 0.5 * (p["person"] ** 2).sum() - (p["item"] ** 2).sum()

    groups, _ = found(jn.density(log_density, {"person": np.zeros(40), "item": np.zeros(6)}, data={"y": y}))
    assert groups.sites == ("person",)
    assert len(groups.shared) == 6
    # And with as many items as persons, which share no axis but its length.
    square = jn.density(log_density, {"person": np.zeros(6), "item": np.zeros(6)}, data={"y": y[:6]})
    assert len(found(square)[0].sites) == 1


def test_models_without_groups_and_with_too_many_globals_are_refused():
    one = jn.density(lambda p: -0.5 * (p["x"] ** 2).sum() - p["x"].sum() ** 2, {"x": np.zeros(5)})
    with pytest.raises(jn.UnsupportedError, match="no groups were found: none of the sites x"):
        found(one)
    crossed = jn.density(
        lambda p: -0.5 * (p["u"] ** 2).sum() - 0.5 * (p["v"] ** 2).sum() - p["u"].sum() ** 2 * (p["v"].sum()) ** 2,
        {"u": np.zeros(400), "v": np.zeros((500, 2))},
    )
    with pytest.raises(jn.UnsupportedError, match="no groups"):
        found(crossed)
    large = jn.density(
        lambda p: -0.5 * (p["u"] ** 2).sum() - p["u"].sum() ** 2 - 0.5 * ((p["v"] - p["u"].sum()) ** 2).sum(),
        {"u": np.zeros(400), "v": np.zeros(500)},
    )
    with pytest.raises(jn.UnsupportedError, match="400 coordinates"):
        found(large)


def test_pymc_models_have_groups():
    pm = pytest.importorskip("pymc")
    rng = np.random.default_rng(0)
    group, y = np.arange(60) % 12, rng.normal(size=60)
    with pm.Model(coords={"school": range(12)}) as model:
        tau = pm.HalfNormal("tau", 1.0)
        theta = pm.Normal("theta", 0.0, tau, dims="school")
        pm.Normal("y", theta[group], 1.0, observed=y)
    groups, _ = found(model)
    assert groups.sites == ("theta",)
    assert groups.own.shape == (12, 1)
