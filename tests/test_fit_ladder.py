"""What should break the ladder: every method and engine either works, says so in its verdict, or refuses in one sentence."""

import sys

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from tests.tiers import quick

import jensen as jn
from jensen.engines.fixed_draws import FixedDraws

METHODS = ("lowrank", "structured", "layered", "flow", "mixture", "svgd", "batchmatch", "laplace", "pathfinder", "nuts")
CHEAP = tuple(method for method in METHODS if method not in ("flow", "nuts"))
"""Methods whose own programs compile in no time."""
LADDER = METHODS[:-1]


def but_particles(*methods):
    """Quickly all but "svgd", whose steps take longer than its compilation."""
    return quick(methods, *(method for method in methods if method != "svgd"))


def _normal(p, data):
    return -0.5 * ((p["x"] - 1) ** 2).sum()


def _multilevel(p, data):
    return (
        -0.5 * (p["mu"] / 5) ** 2
        - 0.5 * ((p["a"] - p["mu"]) ** 2).sum()
        - 0.5 * ((data["y"] - p["a"][:, None]) ** 2).sum()
    )


def _funnel(p, data):
    return -0.5 * (p["v"] / 3) ** 2 - 0.5 * (p["x"] ** 2).sum() * jnp.exp(-p["v"]) - 0.5 * len(p["x"]) * p["v"]


def _convex(p, data):
    return (p["x"] ** 2).sum()


def _steep(p, data):
    return -jnp.exp(jnp.exp(p["x"])).sum() - 0.5 * (p["x"] ** 2).sum()


def _flat(p, data):
    return -0.5 * p["x"][0] ** 2 + 0 * p["x"][1]


def _nowhere(p, data):
    return jnp.nan * p["x"].sum()


NORMAL = jn.density(_normal, {"x": np.zeros(2)})
ONE = jn.density(_normal, {"x": 0.0})
FUNNEL = jn.density(_funnel, {"v": 0.0, "x": np.zeros(3)})
MULTILEVEL = jn.density(
    _multilevel, {"mu": 0.0, "a": np.zeros(6)}, data={"y": np.random.default_rng(0).normal(1, 1, (6, 4))}
)


def fit(model, method="auto", **options):
    return jn.fit(model, method, progress=False, **options)


def refused(call, *words):
    with pytest.raises(jn.JensenError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 420
    assert all(word in text for word in words), text


def interrupting(after):
    """A callback that is Ctrl-C after so many calls."""
    calls = []

    def callback(snapshot):
        calls.append(snapshot.step)
        if len(calls) >= after:
            raise KeyboardInterrupt

    return callback


def same(one, other):
    return all(np.array_equal(one.q.params[name], other.q.params[name]) for name in one.q.params)


# Targets


@pytest.mark.parametrize("method", [m for m in CHEAP if m not in ("structured", "layered")])
def test_one_dimension(method):
    assert fit(ONE, method).verdict.overall == "trusted"


def test_one_dimension_where_there_is_nothing_to_bend_or_to_group():
    refused(lambda: fit(ONE, "layered"), "2 to 300")
    refused(lambda: fit(ONE, "structured"), "no groups")


@pytest.mark.parametrize("dim", [2, 200])
def test_groups_without_anything_that_they_share(dim):
    posterior = fit(jn.density(_normal, {"x": np.zeros(dim)}), "structured")
    assert posterior.verdict.overall == "trusted"
    np.testing.assert_allclose(posterior.mean["x"], 1, atol=1e-6)


@pytest.mark.parametrize("method", LADDER)
@pytest.mark.parametrize(("density", "kind"), [(_flat, jn.ImproperError), (_nowhere, jn.NonFiniteError)])
def test_densities_that_are_none_are_refused(method, density, kind):
    with pytest.raises(kind):
        fit(jn.density(density, {"x": np.zeros(2)}), method)


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", [m for m in CHEAP if m != "svgd"])
def test_a_density_without_a_bound_is_refused_or_not_to_be_used(method):
    try:
        posterior = fit(jn.density(_convex, {"x": np.zeros(2)}), method)
    except jn.JensenError:
        return
    assert posterior.verdict.overall == "do not use"


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", [m for m in CHEAP if m != "svgd"])
def test_tails_that_overflow(method):
    posterior = fit(jn.density(_steep, {"x": np.zeros(2)}), method)
    assert np.isfinite(posterior.mean["x"]).all()


@pytest.mark.parametrize("method", LADDER)
def test_discrete_sites_are_refused_by_name(method):
    def model():
        k = numpyro.sample("k", dist.Bernoulli(0.3))
        numpyro.sample("x", dist.Normal(k, 1.0))

    refused(lambda: fit(model, method), "site k", "Bernoulli")


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", but_particles("lowrank", "structured", "mixture", "svgd", "pathfinder"))
def test_constraints_hold_for_every_draw(method):
    def model():
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
        factor = numpyro.sample("L", dist.LKJCholesky(3, 2.0))
        b = numpyro.sample("b", dist.Uniform(-1, 2))
        numpyro.sample("y", dist.Normal(b * w[0] + factor[1, 0], 1.0), obs=0.3)

    draws = fit(model, method, correct=False).draws(2500)
    np.testing.assert_allclose(draws["w"].sum(1), 1, atol=1e-9)
    np.testing.assert_allclose((draws["L"] ** 2).sum(-1), 1, atol=1e-9)
    assert ((draws["b"] >= -1) & (draws["b"] <= 2)).all()


# Ends


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", CHEAP)
def test_ends_that_come_too_early_keep_a_finite_answer(method):
    for options in ({"budget": 1e-3}, {"steps": 1}):
        posterior = fit(MULTILEVEL, method, **options)
        assert posterior.run.status in ("budget", "stopped", "converged")
        assert all(np.isfinite(value).all() for value in posterior.mean.values())
        assert all(np.isfinite(value).all() for value in posterior.sd.values())


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_ctrl_c_is_the_end_and_says_so(method):
    posterior = fit(
        FUNNEL if method in ("auto", "nuts", "layered") else MULTILEVEL, method, callbacks=[interrupting(1)]
    )
    assert posterior.run.status == "interrupted"
    assert posterior.verdict.overall == "do not use"


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("engine", [jn.ScaleLayer(), jn.CouplingFlow(), jn.Descent()], ids=lambda e: type(e).__name__)
def test_ctrl_c_in_the_gaussian_that_comes_first_ends_the_whole_fit(engine, monkeypatch):
    advance, calls = FixedDraws.advance, []

    def interrupted(self, state, target):
        calls.append(state)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return advance(self, state, target)

    with monkeypatch.context() as patch:
        patch.setattr(FixedDraws, "advance", interrupted)
        posterior = fit(MULTILEVEL, engine=engine)
    assert posterior.run.status == "interrupted"
    assert posterior.run.steps == 1
    assert posterior.verdict.overall == "do not use"
    if not isinstance(engine, jn.CouplingFlow):
        assert posterior.refine(progress=False).run.status == "converged"


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", CHEAP)
def test_a_killed_fit_goes_on_to_the_same_bits(method, tmp_path):
    whole, path = fit(MULTILEVEL, method), tmp_path / "fit"
    fit(MULTILEVEL, method, callbacks=[interrupting(2)], checkpoint=path)
    resumed = fit(MULTILEVEL, method, checkpoint=path)
    assert same(resumed, whole)
    np.testing.assert_array_equal(resumed.history["loss"], whole.history["loss"])


def test_a_checkpoint_of_another_method_is_refused(tmp_path):
    fit(NORMAL, "laplace", checkpoint=tmp_path / "fit")
    refused(lambda: fit(NORMAL, "batchmatch", checkpoint=tmp_path / "fit"))


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
def test_particles_take_no_more_steps_than_were_asked_for_and_refine_takes_as_many_again():
    posterior = fit(NORMAL, engine=jn.Stein(particles=50), steps=30)
    assert posterior.run.steps == 30
    posterior = fit(NORMAL, engine=jn.Stein(particles=50, steps=7))
    assert posterior.run.steps == 7
    assert posterior.refine(progress=False).run.steps == 14


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
def test_a_flow_that_was_stopped_goes_on():
    posterior = fit(FUNNEL, engine=jn.CouplingFlow(layers=2, width=4, steps=200), correct=False)
    refined = posterior.refine(progress=False)
    assert posterior.run.steps == 200
    assert refined.run.steps > 200
    assert np.isfinite(refined.history["loss"]).all()


# What comes out


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", but_particles(*CHEAP))
def test_everything_a_posterior_offers(method, tmp_path):
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 5))
        with numpyro.plate("groups", 6):
            a = numpyro.sample("a", dist.Normal(mu, 1.0))
            numpyro.sample("y", dist.Normal(a, 1.0), obs=y)

    posterior = fit(model, method, data={"y": np.arange(6.0)}, correct=False)
    assert "mu" in repr(posterior)
    assert len(posterior.summary()) == 7
    assert posterior.draws(5000)["a"].shape == (5000, 6)
    assert posterior.sample(50, log_likelihood=True).posterior["a"].shape == (1, 50, 6)
    assert posterior.log_likelihood(50)["y"].shape == (50, 6)
    assert posterior.predict(draws=20)["y"].shape == (20, 6)
    refused(posterior.linear_response, "mean-field")
    posterior.save(tmp_path / "fit.nc")
    loaded = jn.load(tmp_path / "fit.nc")
    assert type(loaded.q) is type(posterior.q)
    assert same(loaded, posterior)
    assert repr(loaded) == repr(posterior)
    refused(loaded.refine, "loaded from a file")
    refused(loaded.nuts, "without the model's code")
    if method == "pathfinder":
        refused(posterior.refine, "its own starts")
    else:
        assert posterior.refine(progress=False).run.steps > posterior.run.steps


@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.parametrize("method", but_particles(*CHEAP))
def test_single_precision(method):
    single, double = fit(MULTILEVEL, method, precision="float32"), fit(MULTILEVEL, method)
    np.testing.assert_allclose(single.mean["a"], double.mean["a"], atol=0.05)


# Options


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: jn.Stein(particles=10**7), "particles=100,000"),
        (lambda: jn.Stein(particles=10**9, annealing=False), "particles=100,000"),
        (lambda: jn.Stein(particles=1), "particles"),
        (lambda: jn.Stein(annealing="yes"), "annealing"),
        (lambda: jn.Stein(start="x"), "start="),
        (lambda: jn.CouplingFlow(draws=3), "draws"),
        (lambda: jn.CouplingFlow(steps=2.5), "steps"),
        (lambda: jn.CouplingFlow(start=3), "start="),
        (lambda: jn.ScaleLayer(layers=-1), "layers"),
        (lambda: jn.ScaleLayer(steps=0), "steps"),
        (lambda: jn.ScaleLayer(start=jn.MeanField().start(np.zeros(2), 0.1)), "full-rank"),
        (lambda: jn.Stacked(starts=-1), "starts"),
        (lambda: jn.Stacked(start=jn.FullRank().start(np.zeros(3), 0.1)), "3 dimensions"),
        (lambda: jn.Structured(start=jn.FullRank().start(np.zeros(3), 0.1)), "3 dimensions"),
        (lambda: jn.BatchMatch(steps=0), "steps"),
        (lambda: jn.BatchMatch(start=3), "start="),
        (lambda: jn.Laplace(steps="many"), "steps"),
        (lambda: jn.Laplace(start=jn.FullRank().start(np.zeros(3), 0.1)), "3 dimensions"),
        (lambda: jn.Pathfinder(paths=0), "paths"),
        (lambda: jn.Pathfinder(draws=3), "draws"),
        (lambda: jn.Descent(objective=3), "objective"),
        (lambda: jn.Descent(objective=jn.LogRatio), "objective"),
        (lambda: jn.Descent(family=3), "family"),
        (lambda: jn.Descent(objective=jn.Renyi(2.0)), "alpha"),
        (lambda: jn.LowRankDraws(jn.LowRank(9)), "rank"),
        (lambda: jn.LowRankDraws(jn.FullRank()), "family"),
    ],
)
def test_options_that_make_no_sense(make, word):
    refused(lambda: fit(NORMAL, engine=make()), word)


def test_paths_have_no_start_of_the_users():
    refused(lambda: fit(NORMAL, "pathfinder", start={"x": np.ones(2)}), "its own starts")


def test_a_flow_without_flowjax_says_what_to_install(monkeypatch):
    from jensen.families import flow

    flow.programs.cache_clear()
    monkeypatch.setitem(sys.modules, "flowjax", None)
    monkeypatch.setitem(sys.modules, "flowjax.bijections", None)
    refused(lambda: fit(jn.density(_normal, {"x": np.zeros(5)}), "flow"), "pip install")
