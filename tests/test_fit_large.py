"""Fits of many rows, whole: right against closed forms and Newton's method, the same from every front end and source."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pymc as pm
import pytest
from tests.models.large_models import density, posterior, rows

import jensen as jn
from jensen.core.errors import DataError, FitWarning, ImproperError, UnsupportedError
from jensen.diagnostics.modes import search_far

N, D = 20_000, 4
X, Y = rows(N, D, seed=6)
MEAN, SD = posterior(X, Y)
QUIET = {"progress": False}


def in_numpyro(X, y):
    b = numpyro.sample("b", dist.Normal(0, 2).expand([D]))
    numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)


def rounds(fit):
    """What the fit says about its rows; "" where all of them were used."""
    return next((line for line in fit.story if "stand for all" in line), "")


def right(fit, mean=MEAN, sd=SD, name="b", by=0.01, within=0.01):
    assert fit.verdict.overall == "trusted"
    assert (np.abs(fit.mean[name] - mean) / sd).max() < by
    np.testing.assert_allclose(fit.sd[name], sd, rtol=within)


@pytest.fixture(scope="module")
def fit():
    return jn.fit(in_numpyro, data={"X": X, "y": Y}, **QUIET)


def test_logistic_regression_is_that_of_newton(fit):
    right(fit)
    assert "passes over 20,000 rows" in rounds(fit)
    assert fit.run.status == "converged"
    assert fit.elbo.error < 0.05


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_every_seed_is_right(seed):
    right(jn.fit(in_numpyro, data={"X": X, "y": Y}, seed=seed, **QUIET))


def test_front_ends_agree(fit):
    fits = [jn.fit(density(X, Y), **QUIET)]
    with pm.Model():
        b = pm.Normal("b", 0, 2, shape=D)
        pm.Bernoulli("y", logit_p=pm.math.dot(X, b), observed=Y)
        fits.append(jn.fit(**QUIET))
    for other in fits:
        assert rounds(other) == rounds(fit)
        np.testing.assert_allclose(other.mean["b"], fit.mean["b"], rtol=1e-6)
        np.testing.assert_allclose(other.sd["b"], fit.sd["b"], rtol=1e-6)


def test_tables_give_what_arrays_give(fit):
    again = jn.fit(in_numpyro, data=jn.table(X=X, y=Y), **QUIET)
    np.testing.assert_allclose(again.mean["b"], fit.mean["b"], rtol=1e-9)
    np.testing.assert_allclose(again.sd["b"], fit.sd["b"], rtol=1e-9)
    assert again.elbo.value == pytest.approx(fit.elbo.value, abs=1e-6)


def test_rows_of_a_file_are_streamed(tmp_path):
    both = np.column_stack([X, Y]).astype("float32")
    both.tofile(tmp_path / "rows.f32")
    mapped = np.memmap(tmp_path / "rows.f32", "float32", "r", shape=both.shape)
    found = jn.fit(in_numpyro, data=jn.table(mapped, X=slice(0, D), y=D), **QUIET)
    right(found, *posterior(both[:, :D].astype(float), Y))
    with pytest.raises(jn.OptionError, match="block by block"):
        found.predict(draws=10)
    table = jn.table(mapped, X=slice(0, D), y=D)
    simulated = found.predict(data=table.read(0, 3000), draws=100)["y"]
    np.testing.assert_allclose(simulated.mean(), Y[:3000].mean(), atol=0.03)


@pytest.mark.slow
def test_long_chains_run_on_the_rows_that_stand_for_all():
    found = jn.fit(in_numpyro, data=jn.table(X=X, y=Y), **QUIET).nuts(draws=500, chains=4, progress=False)
    right(found, *posterior(X, Y), by=0.15, within=0.15)
    assert "stand for" in found.story[-1]


def test_sorted_rows_are_no_other_rows():
    order = np.lexsort((X[:, 1], Y))
    right(jn.fit(in_numpyro, data={"X": X[order], "y": Y[order]}, **QUIET))


def test_a_line_is_exact_by_sufficient_statistics(monkeypatch):
    slopes = []

    def search(target, q, rng, alone):
        with target.plain():
            slopes.extend(np.linalg.norm(target(one.mean[None])[1] @ one.scale) for one in (alone, q))
        return search_far(target, q, rng, alone)

    monkeypatch.setattr("jensen.fitting_large.search_far", search)
    y = X @ np.arange(D) + np.random.default_rng(0).normal(size=N)

    def line(X, y):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([D]))
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)

    cov = np.linalg.inv(X.T @ X + 0.01 * np.eye(D))
    found = jn.fit(line, data={"X": X, "y": y}, **QUIET)
    right(found, cov @ X.T @ y, np.sqrt(np.diag(cov)), by=1e-4, within=1e-4)
    assert any("sufficient statistics" in line for line in found.story)
    # Climbers on the rows that are left, as they are, come home to the mode of these.
    assert slopes[0] < 0.1 < slopes[1]
    # The evidence of a conjugate model in closed form is the ELBO of its exact posterior.
    residual = y - X @ (cov @ X.T @ y)
    b = cov @ X.T @ y
    evidence = -0.5 * (residual @ residual + 0.01 * b @ b + N * np.log(2 * np.pi))
    evidence += 0.5 * (np.linalg.slogdet(cov)[1] + D * np.log(0.01))
    assert found.elbo.value == pytest.approx(evidence, abs=1e-3)


def test_a_first_start_in_a_mode_without_mass_is_left():
    """From zero, m^3 - 3 m rises to 2 at -1, which is 90,000 nats below where it is 5."""
    y = 5 + np.random.default_rng(0).normal(size=N)

    def cubic(y):
        m = numpyro.sample("m", dist.Normal(0, 5))
        numpyro.sample("y", dist.Normal(m**3 - 3 * m, 1.0), obs=y)

    found = jn.fit(cubic, data={"y": y}, **QUIET)
    root = max(np.roots([1, 0, -3, -y.mean()]).real)
    right(found, root, 1 / (3 * root**2 - 3) / np.sqrt(N), name="m", by=0.1, within=0.02)


def test_a_dummy_of_three_rows():
    dummy = np.zeros(N)
    dummy[[5, 700, N - 1]] = 1
    design = np.column_stack([X[:, :3], dummy])
    y = design @ np.ones(D) + np.random.default_rng(0).normal(size=N)

    def line(X, y):
        b = numpyro.sample("b", dist.Normal(0, 10).expand([D]))
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)

    cov = np.linalg.inv(design.T @ design + 0.01 * np.eye(D))
    found = jn.fit(line, data={"X": design, "y": y}, **QUIET)
    right(found, cov @ design.T @ y, np.sqrt(np.diag(cov)), by=1e-3, within=1e-3)


def knows_its_length(X, y):
    b = numpyro.sample("b", dist.Normal(0, len(X) ** -0.5).expand([D - 1]))
    numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def test_rows_that_cannot_be_taken_out_are_all_used_or_refused():
    design = X[:, 1:]
    y = design @ np.ones(D - 1) + np.random.default_rng(0).normal(size=N)
    found = jn.fit(knows_its_length, data={"X": design, "y": y}, **QUIET)
    cov = np.linalg.inv(design.T @ design + N * np.eye(D - 1))
    right(found, cov @ design.T @ y, np.sqrt(np.diag(cov)), by=1e-3, within=1e-3)
    assert not rounds(found)
    with pytest.raises(UnsupportedError, match="how many there are"):
        jn.fit(knows_its_length, data=jn.table(X=design, y=y), **QUIET)


@pytest.mark.slow
def test_rows_beside_an_array_of_the_model_itself_are_all_used():
    """The model has the groups of its rows in its own code, so that it has a value for all rows only."""
    group = np.arange(N) % D
    y = group + np.random.default_rng(0).normal(size=N)

    def grouped(y):
        a = numpyro.sample("a", dist.Normal(0, 10).expand([D]))
        numpyro.sample("y", dist.Normal(a[group], 1.0), obs=y)

    found = jn.fit(grouped, data={"y": y}, **QUIET)
    precision = N / D + 0.01
    right(found, y.reshape(-1, D).sum(0) / precision, np.full(D, precision**-0.5), name="a", by=1e-3, within=1e-3)
    assert not rounds(found)


def test_quantities_of_every_row_are_left_out_and_said_to_be():
    def model(X, y):
        b = numpyro.sample("b", dist.Normal(0, 2).expand([D]))
        numpyro.deterministic("first", b[0])
        eta = numpyro.deterministic("eta", X @ b)
        numpyro.sample("y", dist.Bernoulli(logits=eta), obs=y)

    found = jn.fit(model, data={"X": X, "y": Y}, **QUIET)
    right(found)
    assert len(found.summary()) == D + 1
    assert found.mean["first"] == pytest.approx(found.mean["b"][0])
    assert any("left out" in line and "eta" in line for line in found.story)


def test_rows_with_variables_of_their_own_are_refused_from_tables():
    def model(y):
        with numpyro.plate("people", len(y)):
            z = numpyro.sample("z", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(UnsupportedError, match="latent variables of their own"):
        jn.fit(model, data=jn.table(y=X[:, 1]), **QUIET)


def test_a_bad_last_row_is_named():
    bad = X.copy()
    bad[-1, 2] = np.nan
    with pytest.raises(DataError, match="19999"):
        jn.fit(in_numpyro, data=jn.table(X=bad, y=Y), **QUIET)


@pytest.mark.slow
def test_separable_rows_without_a_prior_are_refused(without_flow):
    def flat(X, y):
        b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), (2,)))
        numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)

    rows = np.random.default_rng(0).normal(size=(N, 2))
    with pytest.raises((ImproperError, FitWarning)):
        jn.fit(flat, data={"X": rows, "y": (rows.sum(1) > 0).astype(float)}, **QUIET)


def test_going_on_ends_where_it_was(fit):
    again = fit.refine(progress=False)
    right(again)
    assert again.elbo.value == pytest.approx(fit.elbo.value, abs=0.01)


@pytest.mark.slow
def test_both_modes_of_a_square_are_seen(without_flow):
    y = 4 + np.random.default_rng(0).normal(size=N)

    def square(y):
        m = numpyro.sample("m", dist.Normal(0, 20))
        numpyro.sample("y", dist.Normal(jnp.square(m), 1.0), obs=y)

    found = jn.fit(square, data={"y": y}, **QUIET)
    assert found.verdict.overall == "do not use" or found.sd["m"] > 1.9


@pytest.mark.parametrize("steps", [1, 3])
def test_fits_cut_short_are_never_trusted(steps):
    with pytest.warns(FitWarning):
        found = jn.fit(in_numpyro, data={"X": X, "y": Y}, steps=steps, **QUIET)
    assert found.verdict.overall == "do not use"


@pytest.mark.slow
def test_half_of_the_mass_is_not_missed():
    y = np.random.default_rng(0).normal(5, 0.3, N)
    y[1::2] = -y[::2]

    def clusters(y):
        m = numpyro.sample("m", dist.Normal(0, 20))
        numpyro.sample("y", dist.StudentT(1.0, m, 0.3), obs=y)

    with pytest.warns(FitWarning):
        found = jn.fit(clusters, data={"y": y}, method="fullrank", correct=False, **QUIET)
    assert found.verdict.overall == "do not use"
