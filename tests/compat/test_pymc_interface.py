"""jensen.compat.pymc beside PyMC: optimizers step as PyMC's do, parameters mean the same, and its defects are not there."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jensen.compat.pymc as vi
from jensen.compat.pymc.updates import optimizer_of, pymc_space, rho_of
from jensen.core.errors import FitWarning, OptionError, UnsupportedError
from jensen.core.precision import scope

pm = pytest.importorskip("pymc")
NAMES = "sgd momentum nesterov_momentum adagrad adagrad_window rmsprop adadelta adam adamax".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def pytensor_without_blas():
    """PyTensor says once a process that it found no BLAS."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PyTensor could not link to a BLAS")
        yield


@pytest.fixture(scope="module")
def model():
    y = np.random.default_rng(0).normal(2.0, 1.5, size=(40, 2))
    with pm.Model(coords={"side": ["left", "right"]}) as model:
        mu = pm.Normal("mu", 0, 5, dims="side")
        sigma = pm.HalfNormal("sigma", 3)
        pm.Normal("y", mu, sigma, observed=y)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_optimizer_steps_as_pymc_does(name):
    import pytensor

    start, pull = np.array([1.0, -2.0, 0.3]), np.array([1.0, 4.0, 0.01])
    theta = pytensor.shared(start.copy())
    theirs = getattr(pm, name)((pull * theta**2).sum(), [theta])
    step = pytensor.function([], [], updates=theirs, mode="FAST_COMPILE")
    with scope("float64"):
        ours = optimizer_of(getattr(pm, name))
        assert optimizer_of(getattr(pm, name)()) is optimizer_of(getattr(pm, name)())
        assert ours is optimizer_of(getattr(vi, name)) is getattr(vi, name)()
        params = jnp.asarray(start)
        memory = ours.init(params)
        for _ in range(15):
            step()
            updates, memory = ours.update(2 * pull * params, memory, params)
            params = params + updates
        np.testing.assert_allclose(params, theta.get_value(), rtol=2e-5)


@pytest.mark.parametrize("full", [False, True])
def test_steps_are_taken_in_mu_and_rho(full):
    """Plain gradient steps through log sd are those of automatic differentiation by rho."""
    with scope("float64"):
        rho, mu, lower = jnp.array([-1.0, 0.5]), jnp.array([1.0, 2.0]), jnp.array([[0.0, 0.0], [0.7, 0.0]])

        def loss(mu, rho, lower):
            scale = lower + jnp.diag(jax.nn.softplus(rho))
            return jnp.sin(mu).sum() + (scale**3).sum() - jnp.log(jnp.diagonal(scale)).sum()

        width = "log_diagonal" if full else "log_sd"
        lower = lower if full else jnp.zeros((2, 2))
        params = {"mean": mu, width: jnp.log(jax.nn.softplus(rho))} | ({"lower": lower} if full else {})

        def engine(p):
            return loss(p["mean"], rho_of(jnp.exp(p[width])), p.get("lower", lower))

        space = pymc_space(vi.sgd(0.1), 4.0, None, 3)
        updates, memory = space.update(jax.grad(engine)(params), space.init(params), params)
        slopes = jax.grad(loss, (0, 1, 2))(mu, rho, lower)
        new = mu - 0.025 * slopes[0], rho - 0.025 * slopes[1], lower - 0.025 * slopes[2]
        np.testing.assert_allclose(updates["mean"] + mu, new[0])
        np.testing.assert_allclose(rho_of(jnp.exp(params[width] + updates[width])), new[1])
        if full:
            np.testing.assert_allclose(params["lower"] + updates["lower"], new[2])
            expected = np.r_[new[0], (new[2] + np.diag(new[1]))[np.tril_indices(2)]]
        else:
            expected = np.r_[new[0], new[1]]
        np.testing.assert_allclose(memory.ring[0], expected)
        assert not memory.ring[1:].any()


def test_start_and_moments_are_pymcs(model):
    theirs = pm.MeanField(model=model, start={"mu": [1.0, 2.0], "sigma": 0.5}, start_sigma={"sigma_log__": 0.1})
    ours = vi.MeanField(model, start={"mu": [1.0, 2.0], "sigma": 0.5}, start_sigma={"sigma": 0.1})
    for name in ("mean", "std", "cov"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name).eval())
        np.testing.assert_allclose(getattr(ours, name).eval(), getattr(theirs, name).eval())
    for mine, their in zip(ours.params, theirs.params, strict=True):
        np.testing.assert_allclose(mine.get_value(), their.get_value())
    assert {name: (*entry,) for name, entry in ours.ordering.items()} == dict(theirs.ordering)
    assert ours.mean_data.equals(theirs.mean_data)
    assert ours.std_data["sigma_log__"].item() == pytest.approx(0.1)
    by_value = vi.ADVI(model=model, start={"sigma_log__": 0.3}, start_sigma={"sigma_log__": 0.1}).approx
    assert by_value.mean[2] == pytest.approx(0.3)
    dense, pymcs = vi.FullRank(model), pm.FullRank(model=model)
    np.testing.assert_allclose(dense.cov, pymcs.cov.eval())
    np.testing.assert_allclose(dense.params_dict["L_tril"].get_value(), pymcs.params_dict["L_tril"].get_value())
    with pytest.raises(OptionError, match="start_sigma names"):
        vi.ADVI(model=model, start_sigma={"tau": 1.0})


def test_parameters_can_be_set(model):
    approx = vi.FullRank(model)
    lower = np.array([0.3, 0.1, 0.2, -0.4, 0.5, 1.0])
    approx.params_dict["L_tril"].set_value(lower)
    theirs = pm.FullRank(model=model)
    theirs.params_dict["L_tril"].set_value(lower)
    np.testing.assert_allclose(approx.cov, theirs.cov.eval())
    with pytest.raises(OptionError, match="shape"):
        approx.params[0].set_value(np.zeros(7))


def test_seeds_fix_everything(model):
    for method in ("advi", "svgd"):
        one, two = (vi.fit(60, method, model, random_seed=7, progressbar=False) for _ in range(2))
        np.testing.assert_array_equal(one.mean, two.mean)
        for _ in range(2):  # the second draws are others, and the same of both
            a, b = one.sample(20).posterior["mu"], two.sample(20).posterior["mu"]
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, one.sample(20, random_seed=1).posterior["mu"])
    other = vi.fit(60, "advi", model, progressbar=False)
    assert not np.array_equal(other.mean, vi.fit(60, "advi", model, progressbar=False).mean)


def test_fit_agrees_with_the_closed_form():
    y = np.random.default_rng(1).normal(3.0, 1.0, 50)
    with pm.Model():
        mu = pm.Normal("mu", 0, 10)
        pm.Normal("y", mu, 1.0, observed=y)
        approx = vi.fit(6000, obj_optimizer=pm.adam(learning_rate=0.02), obj_n_mc=10, random_seed=1, progressbar=False)
    exact = stats.norm(y.sum() / 50.01, 50.01**-0.5)
    assert approx.mean[0] == pytest.approx(exact.mean(), abs=0.3 * exact.std())
    assert approx.std[0] == pytest.approx(exact.std(), rel=0.1)
    evidence = stats.multivariate_normal(np.zeros(50), np.eye(50) + 100).logpdf(y)
    assert -approx.hist[-1000:].mean() == pytest.approx(evidence, abs=0.1)
    posterior = approx.posterior()
    assert posterior.verdict.overall == "trusted"


def test_pymcs_own_callbacks(model):
    tracker = pm.callbacks.Tracker(loss=lambda approx, hist, i: (i, len(hist), hist[-1]))
    inference = vi.ADVI(model=model, random_seed=1)
    stop = pm.callbacks.CheckParametersConvergence(every=100, diff="absolute", tolerance=0.5)
    inference.fit(1000, callbacks=[tracker, stop], progressbar=False)
    steps = len(inference.hist)
    assert steps in range(100, 1001, 100)
    assert [entry[:2] for entry in tracker["loss"]] == [(i, i) for i in range(1, steps + 1)]
    np.testing.assert_array_equal([entry[2] for entry in tracker["loss"]], inference.hist)


def test_stop_in_the_middle_of_a_chunk_and_going_on(model):
    seen = []

    def stop(approx, hist, i):
        seen.append(approx.params[0].get_value())
        if i == 333:
            raise StopIteration

    inference = vi.FullRankADVI(model=model, random_seed=1)
    inference.fit(1000, callbacks=[stop], progressbar=False)
    assert len(inference.hist) == 333
    np.testing.assert_allclose(inference.approx.mean, seen[-1], rtol=1e-12)
    inference.refine(67, progressbar=False)
    assert len(inference.hist) == len(inference.approx.hist) == len(seen) == 400
    straight = vi.FullRankADVI(model=model, random_seed=1)
    straight.fit(400, progressbar=False)
    np.testing.assert_array_equal(straight.hist, inference.hist)


def test_tracker_tries_without_arguments_first():
    tracker = vi.Tracker(one=lambda: 1, three=lambda approx, hist, i: i, fallback=lambda approx=None: 5)
    tracker(None, None, 3)
    assert (tracker["one"], tracker["three"], tracker["fallback"]) == ([1], [3], [5])
    tracker.clear()
    assert tracker["one"] == []


def test_a_callback_that_fails_ends_the_fit(model):
    def broken(approx, hist, i):
        if i == 5:
            raise ValueError("no")

    with pytest.warns(FitWarning, match="failed"):
        approx = vi.fit(50, model=model, callbacks=[broken], random_seed=1, progressbar=False)
    assert len(approx.hist) == 5


@pytest.mark.parametrize("total", ["int", "none", "shape"])
def test_total_size(total):
    data = np.random.default_rng(0).normal(1.0, 2.0, size=(3000, 8))
    batch = pm.Minibatch(data, batch_size=100)
    with pm.Model():
        mu = pm.Normal("mu", 0, 10, shape=8)
        pm.Normal(
            "y", mu, 2.0, observed=batch, total_size={"int": 3000, "none": (3000, None), "shape": data.shape}[total]
        )
        inference = vi.ADVI(random_seed=1)
        approx = inference.fit(1500, obj_optimizer=vi.adam(learning_rate=0.01), progressbar=False)
    np.testing.assert_allclose(approx.mean, data.mean(0), atol=0.15)
    # A loss is that of 100 rows, whatever total_size looks like.
    row = stats.norm(data.mean(0), 2.0).logpdf(data).sum(1).mean()
    assert approx.hist[-300:].mean() == pytest.approx(-100 * row, rel=0.03)


def test_sample_node_with_other_data():
    X = np.random.default_rng(0).normal(size=(400, 2))  # noqa: N806
    y = X @ [1.0, -2.0]
    Xb, yb = pm.Minibatch(X, y, batch_size=50)  # noqa: N806
    with pm.Model():
        beta = pm.Normal("beta", 0, 1, shape=2)
        mean = pm.math.dot(Xb, beta)
        pm.Normal("y", mean, 0.5, observed=yb, total_size=400)
        approx = vi.fit(2000, obj_optimizer=vi.adam(learning_rate=0.01), random_seed=1, progressbar=False)
    new = np.resize([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], (50, 2))  # PyMC keeps the length of a batch
    values = approx.sample_node(mean, size=300, more_replacements={Xb: pm.math.constant(new)}).eval()
    assert values.shape == (300, 50)
    np.testing.assert_allclose(values.mean(0)[:3], [1.0, -2.0, -1.0], atol=0.1)


def test_svgd_and_asvgd(model):
    with pytest.warns(FitWarning, match="ASVGD is SVGD"):
        approx = vi.fit(50, "ASVGD", model, random_seed=1, progressbar=False)
    assert approx.params_dict["histogram"].get_value().shape == (100, 3)
    assert approx.sample_node(model["mu"], size=10).eval().shape == (10, 2)
    calls = []
    svgd = vi.SVGD(n_particles=60, jitter=0.5, start={"mu": [1.0, 1.0]}, model=model, random_seed=1)
    svgd.fit(30, callbacks=[lambda approx, hist, i: calls.append((hist, i))], progressbar=False)
    assert calls[-1] == (None, len(svgd.hist))
    before = len(svgd.hist)
    svgd.refine(30, progressbar=False)
    assert len(svgd.hist) > before
    y = model.observed_RVs and np.asarray(model.rvs_to_values[model["y"]].data)
    np.testing.assert_allclose(svgd.approx.mean[:2], y.mean(0), atol=0.1)


def test_draws_as_multitrace(model):
    trace = vi.fit(10, model=model, random_seed=1, progressbar=False).sample(7, return_inferencedata=False)
    assert trace["mu"].shape == (7, 2)
    np.testing.assert_allclose(np.log(trace["sigma"]), trace["sigma_log__"])


def test_what_is_refused(model):
    inference = vi.ADVI(model=model)
    with pytest.raises(UnsupportedError, match="fit"):
        inference.refine(10)
    with pytest.raises(OptionError, match="method must be one of"):
        vi.fit(10, "nfvi", model)
    with pytest.raises(OptionError, match="obj_optimizer"):
        inference.fit(10, obj_optimizer="adam")
    with pytest.raises(UnsupportedError, match="more_replacements"):
        inference.fit(10, more_replacements={1: 2})
    with pytest.raises(OptionError, match="spelling"):
        inference.fit(10, calbacks=[])
    with pytest.raises(OptionError, match="start_sigma"):
        vi.fit(10, "fullrank_advi", model, start_sigma={"mu": 1.0})
    with pytest.warns(FitWarning, match="no effect"):
        vi.fit(10, inference, random_seed=3, progressbar=False)
    assert vi.fit(0, model=model).hist.shape == (0,)


def test_ctrl_c_keeps_what_was_fitted(model):
    def interrupt(approx, hist, i):
        if i == 7:
            raise KeyboardInterrupt

    inference = vi.ADVI(model=model, random_seed=1)
    inference.fit(500, callbacks=[interrupt], progressbar=False)
    assert len(inference.hist) == 7
    other = vi.ADVI(model=model, random_seed=1)
    other.fit(7, progressbar=False)
    np.testing.assert_allclose(inference.approx.mean, other.approx.mean, rtol=1e-12)


def test_steps_that_are_not_finite_are_not_taken():
    with pm.Model():
        x = pm.Normal("x", 0, 1)
        pm.Potential("edge", pm.math.log(x + 2.0))  # NaN below -2, where q of the start has 0.2 %
        calls = []
        track = [lambda approx, hist, i: calls.append(i)]
        with pytest.warns(FitWarning, match="edge was not finite"):
            approx = vi.fit(2000, callbacks=track, obj_optimizer=vi.adam(0.01), random_seed=1, progressbar=False)
    assert np.isfinite(approx.hist).all()
    assert 1900 < len(approx.hist) < 2000  # some steps were not taken
    assert calls == sorted(calls)
    grid = np.linspace(-2, 6, 4001)
    density = (grid + 2) * np.exp(-(grid**2) / 2)
    mean = (grid * density).sum() / density.sum()
    assert approx.mean[0] == pytest.approx(mean, abs=0.3)


def test_rows_with_latent_variables_of_their_own_use_all_rows():
    y = np.random.default_rng(4).normal(size=120)
    yb, index = pm.Minibatch(y, np.arange(120), batch_size=20)
    with pm.Model():
        theta = pm.Normal("theta", 0, 1, shape=120)
        pm.Normal("y", theta[index], 0.5, observed=yb, total_size=120)
        approx = vi.fit(3000, obj_optimizer=vi.adam(learning_rate=0.01), random_seed=1, progressbar=False)
    np.testing.assert_allclose(approx.mean, y * 4 / 5, atol=0.15)
    np.testing.assert_allclose(approx.std, 5**-0.5, rtol=0.2)
