"""The Gaussian of high dimension: chosen on fresh draws, and walked in by chains at its own cost."""

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.diagnostics import chains, dimension
from jensen.diagnostics.chains import CHAINS, Metric, relearn, stage
from jensen.diagnostics.factors import ArrowFactor, LowRankFactor, factor_of
from jensen.families.lowrank import LowRankGaussian
from jensen.families.structured import ArrowGaussian, plates_of
from jensen.models.read import read
from jensen.models.target import Target


def arrow(p, groups, own, seed=0):
    rng = np.random.default_rng(seed)
    order = rng.permutation(p + groups * own)
    lower = np.tril(0.3 * rng.standard_normal((groups, own, own)), -1) + np.eye(own) * rng.uniform(
        0.5, 2, (groups, own, 1)
    )
    head = np.tril(0.3 * rng.standard_normal((p, p)), -1) + np.diag(rng.uniform(0.5, 2, p))
    reach = rng.standard_normal((groups, own, p))
    plates = plates_of(order[:p], order[p:].reshape(groups, own))
    return ArrowGaussian(rng.standard_normal(len(order)), head, reach, lower, plates)


def low_rank(dim, rank, seed=0):
    rng = np.random.default_rng(seed)
    v = np.linalg.qr(rng.standard_normal((dim, rank)))[0]
    return LowRankGaussian(rng.standard_normal(dim), 0.3 * rng.standard_normal(dim), v, rng.uniform(-1, 1, rank))


def made(q):
    """The factor of q, whatever its dimension."""
    if isinstance(q, ArrowGaussian):
        return ArrowFactor(q)
    return LowRankFactor(np.exp(q.log_diagonal), q.directions, q.log_stretch, np.ones(q.dim))


SMALL = {
    "arrow": arrow(3, 6, 2),
    "one a group": arrow(2, 9, 1),
    "no globals": arrow(0, 5, 2),
    "low rank": low_rank(12, 3),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("again", [False, True])
def test_a_factor_is_the_root_that_a_dense_matrix_would_be(name, again):
    q, rng = SMALL[name], np.random.default_rng(1)
    factor = made(q)
    dense = factor.out(np.eye(q.dim)).T
    np.testing.assert_allclose(dense @ dense.T, q.cov, atol=1e-12)
    if again:
        x = rng.standard_normal((500, q.dim)) * rng.uniform(0.5, 2, q.dim)
        factor = factor.relearnt(x)
        dense, before = factor.out(np.eye(q.dim)).T, dense
        moved = np.linalg.solve(dense, before @ x.T)
        np.testing.assert_allclose((moved**2).mean(1), 1, atol=0.15)
    rows = rng.standard_normal((7, q.dim))
    np.testing.assert_allclose(factor.out(rows), rows @ dense.T, atol=1e-12)
    np.testing.assert_allclose(factor.back(rows), rows @ dense, atol=1e-12)
    np.testing.assert_allclose(factor.whiten(rows), np.linalg.solve(dense, rows.T).T, atol=1e-10)


@pytest.mark.parametrize("name", SMALL)
def test_chains_in_such_a_metric_leave_the_posterior_invariant(name):
    q = SMALL[name]
    precision, root = np.linalg.inv(q.cov), np.linalg.cholesky(q.cov)

    def target(z):
        force = -(z - q.mean) @ precision
        return 0.5 * (force * (z - q.mean)).sum(1), force

    metric, found = Metric(np.asarray(q.mean), made(q)), []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        start = q.mean + rng.standard_normal((CHAINS, q.dim)) @ root.T
        one = stage(target, start, metric, rng, leapfrogs=8, step=0.4)
        metric = relearn(metric, one)
        found.append(one.z.reshape(-1, q.dim))
    white = np.linalg.solve(root, (np.concatenate(found) - q.mean).T).T
    np.testing.assert_allclose(white.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(np.cov(white.T), np.eye(q.dim), atol=0.15)
    assert not isinstance(metric.factor, np.ndarray)


def test_large_arrows_and_low_ranks_are_never_made_dense():
    big = arrow(4, 5000, 1)
    assert isinstance(factor_of(big), ArrowFactor)
    assert isinstance(factor_of(low_rank(3000, 5)), LowRankFactor)
    assert factor_of(SMALL["arrow"]).shape == (15, 15)
    factor = factor_of(big)
    rows = np.random.default_rng(0).standard_normal((20, big.dim))
    np.testing.assert_allclose(factor.relearnt(factor.whiten(rows)).whiten(rows).shape, rows.shape)
    np.testing.assert_allclose(factor.whiten(factor.out(rows)), rows, atol=1e-9)


def wide(model, data=None, **options):
    with scope():
        target = Target(read(model, data))
        return dimension.fit_wide(target, seed=0, progress=False, **options), target


def coupled(dim, seed=0):
    """A Gaussian without groups: a chain, whose precision has no arrow with few globals."""
    return jn.density(
        lambda p: -0.5 * (p["x"] ** 2).sum() - 0.5 * (p["x"].sum() ** 2) / dim - 2 * (jnp.diff(p["x"]) ** 2).sum(),
        {"x": np.zeros(dim)},
    )


def plated(groups, seed=0):
    y = np.random.default_rng(seed).normal(size=groups)
    return jn.density(
        lambda p, data: -0.5 * ((p["a"] - p["mu"]) ** 2 + (data["y"] - p["a"]) ** 2).sum() - 0.5 * p["mu"] ** 2,
        {"mu": 0.0, "a": np.zeros(groups)},
        data={"y": y},
    )


def test_groups_make_an_arrow_and_the_rest_full_rank():
    found, _ = wide(plated(600))
    assert found.name == "structured"
    assert abs(found.gap) < 0.5
    found, _ = wide(coupled(430))
    assert found.name == "full rank"
    assert "nats above" in found.run.notes[-1]


def test_up_to_400_dimensions_only_the_gap_is_measured():
    found, target = wide(plated(150))
    assert found.name == "full rank"
    assert len([note for note in found.run.notes if "fresh draws, its" in note]) == 1
    assert wide(plated(150), groups_only=True)[0].name == "structured"
    assert wide(coupled(430), groups_only=True)[0] is None


def test_beyond_dense_matrices_low_rank_and_mean_field_are_compared():
    found, _ = wide(coupled(1501))
    assert found.name in ("low rank", "mean-field")
    assert sum("on fresh draws, its" in note for note in found.run.notes) == 2


def test_a_large_gap_asks_for_a_larger_design(monkeypatch):
    monkeypatch.setattr(dimension, "_GAP", -100.0)
    monkeypatch.setattr(dimension, "_GAP_SLOPE", 0.0)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 110))
    model = jn.density(
        lambda p, data: (
            (data["y"] * (data["X"] @ p["b"]) - jnp.logaddexp(0, data["X"] @ p["b"])).sum() - 0.5 * (p["b"] ** 2).sum()
        ),
        {"b": np.zeros(110)},
        data={"X": X, "y": (rng.uniform(size=120) < 0.5).astype(float)},
    )
    found, target = wide(model)
    told = " ".join(found.run.notes)
    assert found.name == "full rank"
    assert "fitted again on" in told
    assert "mean-field: ELBO" in told
    with scope():
        first = dimension._judged("", *_first(target), target, 0)
    assert found.elbo.value > first.elbo.value
    assert found.gap < first.gap


def _first(target):
    engine = dimension.FixedDraws()
    return (*dimension.fit_from_starts(target, engine, seed=0, progress=False), engine)


def test_chains_that_cost_too_much_are_left_out_and_the_verdict_says_so(monkeypatch):
    model = jn.density(lambda p: -(p["x"] ** 4).sum(), {"x": np.zeros(101)})
    monkeypatch.setattr("jensen.diagnostics.chains.PATIENCE", 0.0)
    with pytest.warns(jn.FitWarning):
        posterior = jn.fit(model, progress=False)
    assert posterior.chains is None
    assert "were left out" in posterior.verdict.reasons[-1]
    monkeypatch.undo()
    assert jn.fit(model, progress=False).chains is not None


def test_what_chains_cost_follows_rows_and_dimensions():
    with scope():
        small, large = (Target(read(plated(groups))) for groups in (100, 10_000))
        assert 50 < chains.seconds(large) / chains.seconds(small) < 150
        assert chains.seconds(lambda z: None) == 0.0
        assert chains.affordable_stages(small) == chains.MOST_STAGES
        assert chains.affordable_stages(Target(read(plated(40_000)))) < chains.MOST_STAGES


def test_a_structured_fit_of_many_groups_forms_no_matrix():
    posterior = jn.fit(plated(4000), "structured", progress=False)
    assert posterior.verdict.overall == "trusted"
    assert isinstance(posterior.q, ArrowGaussian)
