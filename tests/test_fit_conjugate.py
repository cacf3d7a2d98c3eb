"""jn.fit and jn.conjugacy on conditionally conjugate models: the way from a user's function to a judged posterior."""

import gc
import weakref

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from tests.conjugacy.zoo import CONTROLS, example

import jensen as jn
import jensen.posterior
from jensen.engines.structured import Structured
from jensen.families.gaussian import Gaussian
from jensen.fitting_conjugate import fit_conjugate
from jensen.models.read import read
from jensen.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::jensen.FitWarning")


@pytest.fixture(scope="module")
def mixture():
    one = example("gmm")
    return jn.fit(one.model, "cavi", data=one.arguments)


def test_a_mixture_by_coordinate_ascent(mixture):
    assert mixture.run.status == "converged"
    assert np.all(np.diff(mixture.history["elbo"]) > -1e-9 * abs(mixture.elbo.value))
    assert mixture.verdict.overall == "trusted"
    assert mixture.elbo.error == 0.0
    np.testing.assert_allclose(np.sort(mixture.mean["mu"]), [-6, 0, 6], atol=0.3)
    assert "trusted" in repr(mixture)


@pytest.mark.parametrize("conjugate", [True, False])
def test_a_product_of_many_dimensions_is_judged_by_its_weights(conjugate):
    """Log weights against the evidence by quadrature over the precision of each column; the fit leaves nothing of its data."""
    rows, columns = 3000, 50
    x = np.random.default_rng(0).normal(np.linspace(-2, 2, columns), 1.5, (rows, columns))

    def model(x):
        with numpyro.plate("columns", columns):
            mu = numpyro.sample("mu", dist.Normal(0, 3))
            if conjugate:
                tau = numpyro.sample("tau", dist.Gamma(2, 1))
            else:
                tau = numpyro.sample("sd", dist.HalfNormal(2)) ** -2.0
            with numpyro.plate("rows", rows):
                numpyro.sample("x", dist.Normal(mu, tau**-0.5), obs=x)

    found = jn.fit(model, "cavi", data={"x": x})
    assert found.verdict.overall == "trusted"
    assert found.chains is None
    log_w = found.verdict.log_weights
    assert np.var(log_w) < 0.1
    tau = np.exp(np.log(1.5**-2) + np.linspace(-0.4, 0.4, 4001))[:, None]
    mean, square = x.mean(0), ((x - x.mean(0)) ** 2).sum(0)
    sd_prior = stats.halfnorm.logpdf(tau**-0.5, scale=2) + np.log(0.5 * tau**-1.5)
    log_p = stats.gamma.logpdf(tau, 2) if conjugate else sd_prior
    log_p = log_p + rows / 2 * np.log(tau / (2 * np.pi)) - tau * square / 2
    log_p += stats.norm.logpdf(mean, 0, np.sqrt(1 / (rows * tau) + 9)) + 0.5 * np.log(2 * np.pi / (rows * tau))
    evidence = np.log(np.trapezoid(np.exp(log_p - log_p.max(0)), tau[:, 0], axis=0)) + log_p.max(0)
    assert log_w.mean() + np.var(log_w) / 2 == pytest.approx(evidence.sum(), abs=0.05)
    data = weakref.ref(found.model.data["x"])
    del found
    gc.collect()
    assert data() is None


def test_levels_are_in_order_and_probabilities_belong_to_rows(mixture):
    order = np.argsort(mixture.mean["mu"])
    assert np.array_equal(order, np.arange(3))
    probs = mixture.q.probs("z")
    x = example("gmm").arguments["x"]
    nearest = np.abs(x[:, None] - mixture.mean["mu"]).argmin(1)
    assert probs.shape == (len(x), 3)
    assert (probs.argmax(1) == nearest).mean() > 0.95


def test_draws_hold_discrete_sites_and_reach_arviz(mixture):
    draws = mixture.draws(50)
    assert draws["z"].shape == (50, 300)
    assert np.issubdtype(draws["z"].dtype, np.integer)
    data = mixture.sample(50, log_likelihood=True)
    assert data.posterior["z"].dims == ("chain", "draw", "rows")
    assert np.isfinite(data.sample_stats["lp"]).all()
    assert data.log_likelihood["x"].shape == (1, 50, 300)
    assert mixture.predict(draws=3)["x"].shape == (3, 300)
    new = mixture.predict(data={"x": np.zeros(7)}, draws=500)["x"]
    assert new.shape == (500, 7)
    assert new.std() > 3  # of the whole mixture: new rows draw their own levels


def test_q_is_a_density_on_the_flat_vector(mixture):
    z = mixture.q.sample(np.random.default_rng(0), 2000)
    assert z.shape == (2000, mixture.model.dim)
    # E_q[log q] is minus the entropy: in the model's own space it is known, and the Jacobian is the same for all of q.
    assert np.isfinite(mixture.q.log_prob(z)).all()


def test_saving_and_refining(mixture, tmp_path):
    mixture.save(tmp_path / "fit.nc")
    loaded = jensen.posterior.load(tmp_path / "fit.nc")
    np.testing.assert_array_equal(loaded.mean["mu"], mixture.mean["mu"])
    assert loaded.verdict.words == mixture.verdict.words
    assert loaded.sample(10).posterior.sizes["draw"] == 10
    more = mixture.refine(steps=2)
    assert more.elbo.value >= mixture.elbo.value - 1e-9
    with pytest.raises(jn.OptionError, match="linear response"):
        mixture.linear_response()


def test_auto_takes_discrete_models_and_says_so():
    one = example("ugmm")
    posterior = jn.fit(one.model, data=one.arguments)
    assert any("coordinate ascent" in line for line in posterior.story)
    assert posterior.answer == "q"  # the chains confirm it
    assert posterior.verdict.overall == "trusted"


def test_gibbs_agrees_with_coordinate_ascent(mixture):
    one = example("gmm")
    chains = jn.fit(one.model, engine=jn.Gibbs(warmup=100, draws=400), data=one.arguments)
    assert chains.answer == "corrected"
    np.testing.assert_allclose(chains.mean["mu"], mixture.mean["mu"], atol=0.05)
    assert "r-hat" in chains.verdict.table.columns


def test_stochastic_steps_arrive_where_passes_do():
    one = example("ugmm")
    data = one.simulate(N=20_000)
    stochastic = jn.fit(one.model, "svi", data=data, correct=False)
    passes = jn.fit(one.model, "cavi", data=data, correct=False)
    assert abs(stochastic.elbo.value - passes.elbo.value) < 1e-4 * abs(passes.elbo.value)
    assert passes.verdict.overall == "means only"


@pytest.mark.slow
def test_blocks_decide_the_factorization():
    one = example("multilevel_correlated")
    joint = jn.fit(one.model, "cavi", data=one.arguments, correct=False)
    apart = jn.fit(one.model, "cavi", data=one.arguments, family=jn.Blocks(), correct=False)
    some = jn.fit(one.model, data=one.arguments, family=jn.Blocks(("mu", "a")), correct=False)
    assert joint.elbo.value > some.elbo.value > apart.elbo.value
    assert isinstance(joint.q.families["mu + b + a"], Gaussian)
    assert apart.sd["a"].mean() < 0.9 * joint.sd["a"].mean()
    with pytest.raises(jn.OptionError, match="no site of the model"):
        jn.fit(one.model, "cavi", data=one.arguments, family=jn.Blocks(("mu", "nothing")))
    with pytest.raises(jn.OptionError, match="twice"):
        jn.Blocks(("mu",), ("mu", "a"))


@pytest.mark.parametrize("name", ["gmm", "random_walk_fixed"])
def test_a_fit_that_was_cut_short_is_not_to_be_used(name):
    one = example(name)  # the second is one exact block: one sweep would have been the posterior
    cut = jn.fit(one.model, "cavi", data=one.arguments, budget=1e-6, correct=False)
    assert cut.run.status == "budget"
    assert cut.verdict.overall == "do not use"


def test_chains_that_were_cut_short_are_not_to_be_used():
    one = example("beta_bernoulli")
    short = jn.fit(one.model, engine=jn.Gibbs(warmup=0, draws=3), data=one.arguments)
    assert short.verdict.overall == "do not use"
    none = jn.fit(one.model, engine=jn.Gibbs(warmup=5000), data=one.arguments, callbacks=[_second_run()])
    assert none.verdict.overall == "do not use"


def _second_run():
    """A callback that stops the sampler, which starts to count again after the ascent."""
    seen = []

    def stop(snapshot):
        again = bool(seen) and snapshot.step < seen[-1]
        seen.append(snapshot.step)
        return again or bool(seen) and len(seen) > 50

    return stop


def test_conjugacy_explains():
    one = example("half_normal")
    found = jn.conjugacy(one.model, data=one.arguments)
    assert found.runs
    assert found.table.loc["sigma", "update"] == "free"
    assert "HalfNormal" in repr(found)
    assert found.table.loc["b", "update"] == "exact"


@pytest.mark.parametrize("name", ["block_model", "two_views"])
def test_what_coordinate_ascent_cannot_do_is_refused_with_the_table(name):
    one = next(control for control in CONTROLS if control.name == name)
    with pytest.raises(jn.UnsupportedError, match="Conjugacy of"):
        jn.fit(one.model, "cavi", data=one.arguments)
    assert not jn.conjugacy(one.model, data=one.arguments).runs


def test_auto_falls_through_to_what_works():
    one = next(control for control in CONTROLS if control.name == "noncentered")
    posterior = jn.fit(one.model, data=one.arguments, correct=False)
    assert posterior.run.status == "converged"
    assert not any("coordinate ascent" in line for line in posterior.story)
    views = next(control for control in CONTROLS if control.name == "two_views")
    with pytest.raises(jn.UnsupportedError, match="z is discrete"):
        jn.fit(views.model, data=views.arguments)


def test_a_large_conjugate_model_keeps_its_correlations_under_auto():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(500), 4)
    y = 1.0 + rng.normal(size=500)[groups] + rng.normal(size=2000)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        tau = numpyro.sample("tau", dist.Gamma(2, 1))
        with numpyro.plate("group", 500):
            a = numpyro.sample("a", dist.Normal(mu, tau**-0.5))
        numpyro.sample("y", dist.Normal(a[groups], 1.0), obs=y)

    posterior = jn.fit(model, data={"y": y}, correct=False)
    assert any("coordinate ascent" in line for line in posterior.story)
    # Given tau, the posterior of mu is known: precision of 500 group means with variance 1 / tau + 1 / 4.
    tau = posterior.mean["tau"]
    np.testing.assert_allclose(posterior.sd["mu"], np.sqrt((1 / tau + 0.25) / 500), rtol=0.02)


def test_groups_of_many_rows_that_nothing_sums_up_get_a_structured_gaussian():
    """Sweeps would go through all rows, and leave the dependence on the groups' scale out."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(100), 200)
    y = rng.poisson(np.exp(0.5 * rng.normal(size=100)[groups])).astype(float)

    def model(y):
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        with numpyro.plate("group", 100):
            a = numpyro.sample("a", dist.Normal(0, sigma))
        numpyro.sample("y", dist.Poisson(jnp.exp(a[groups])), obs=y)

    record = read(model, {"y": y}, "float64")
    found = fit_conjugate(record, None, None, None, Settings("auto"), {}, lambda: None, asked=False)
    assert isinstance(found, Structured)


def test_options_that_do_not_fit():
    one = example("gmm")
    for start, words in (
        ({"mu": np.zeros(2)}, "shape"),
        ({"nu": 0.0}, "no site"),
        ({"z": 0}, "discrete"),
        ({"tau": -1.0}, "positive"),
    ):
        with pytest.raises(jn.OptionError, match=words):
            jn.fit(one.model, "cavi", data=one.arguments, start=start)
    with pytest.raises(jn.OptionError, match="already says"):
        jn.fit(one.model, "cavi", data=one.arguments, family=jn.MeanField())
    with pytest.raises(jn.UnsupportedError, match="calls no distributions"):
        jn.fit(jn.density(lambda p: -(p["x"] ** 2), {"x": 0.0}), "cavi")


def test_a_fit_starts_where_the_user_says():
    """At the other order of the levels, whose optimum has the same bound; the fit sorts them again."""
    one = example("gmm")
    plain = jn.fit(one.model, "cavi", data=one.arguments, correct=False)
    start = {name: np.asarray(plain.mean[name])[::-1] for name in ("mu", "tau", "pi")}
    again = jn.fit(one.model, "cavi", data=one.arguments, correct=False, start=start)
    assert len(again.run.history["elbo"]) < len(plain.run.history["elbo"])
    np.testing.assert_allclose(again.run.history["elbo"][0], plain.run.history["elbo"][-1], rtol=1e-6)
    np.testing.assert_allclose(again.mean["mu"], plain.mean["mu"], atol=1e-3)


def test_callbacks_see_the_product_after_every_sweep():
    x = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, 0.8], [0.0, 0.6]]
    y = x @ [1.0, -1.0] + np.random.default_rng(1).normal(size=60)

    def line(x, y):
        a, b = (numpyro.sample(name, dist.Normal(0.0, 10.0)) for name in "ab")
        numpyro.sample("y", dist.Normal(a * x[:, 0] + b * x[:, 1], 1.0), obs=y)

    tracker = jn.Tracker(a=lambda s: s.q.means["a"], b=lambda s: s.q.means["b"])
    fit = jn.fit(
        line,
        family=jn.Blocks(),
        engine=jn.CoordinateAscent(chunk=1),
        data={"x": x, "y": y},
        callbacks=[tracker],
        correct=False,
    )
    np.testing.assert_array_equal(tracker.steps, np.arange(1, fit.run.steps))
    # Each sweep takes b to its conditional mean given a: the updates by hand.
    precision = x.T @ x + np.eye(2) / 100
    mean = np.linalg.solve(precision, x.T @ y)
    expected = mean[1] - precision[0, 1] / precision[1, 1] * (tracker["a"] - mean[0])
    np.testing.assert_allclose(tracker["b"], expected, atol=1e-10)
    with pytest.raises(jn.OptionError, match="chunk"):
        jn.CoordinateAscent(chunk=0)
