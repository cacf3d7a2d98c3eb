"""Other objectives than the ELBO, and the engine that descends them."""

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.engines.descent import Descent, _design, _value
from jensen.families.fullrank import DenseGaussian
from jensen.models.read import read
from jensen.models.target import Target
from jensen.objectives.log_ratio import LogRatio, half_variance
from jensen.objectives.renyi import Renyi, renyi_bound
from jensen.run import run

OBJECTIVES = {"elbo": Renyi(1.0), "renyi 0.5": Renyi(0.5), "renyi 0.2": Renyi(0.2), "log ratio": LogRatio()}
by_objective = pytest.mark.parametrize("objective", OBJECTIVES)
GRID = np.linspace(-30, 30, 12_001)


def fitted(model, data=None, engine=None, seed=0):
    with scope():
        target = Target(read(model, data))
        q, record = run(engine or Descent(), target, seed=seed, progress=False)
    return q, record, target


def _gaussian(p, data):
    centered = p["x"] - data["mean"]
    return -0.5 * centered @ data["precision"] @ centered


def _skew(p):
    return (2 * p["x"] - jnp.exp(p["x"])).sum()


def _bimodal(p):
    x = p["x"]
    return jnp.logaddexp(jnp.log(0.3) - 0.5 * ((x + 1.2) / 0.8) ** 2, jnp.log(0.7) - 0.5 * (x - 1.2) ** 2).sum()


@pytest.fixture(scope="module")
def gaussian():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    variances, mean = np.logspace(-3, 3, 4), 10 * rng.standard_normal(4)
    data = {"mean": mean, "precision": (rotation / variances) @ rotation.T}
    return jn.density(_gaussian, {"x": np.zeros(4)}, data=data), mean, (rotation * variances) @ rotation.T


@pytest.fixture(scope="module")
def models():
    return {"skewed": jn.density(_skew, {"x": 0.0}), "bimodal": jn.density(_bimodal, {"x": 0.0})}


def _quadrature(log_p, objective, mean, sd):
    """Mean and sd of the best Gaussian, by a fine grid and Nelder-Mead."""
    from scipy.optimize import minimize

    step = GRID[1] - GRID[0]

    def value(parameters):
        m, s = parameters[0], np.exp(parameters[1])
        log_q = -0.5 * ((GRID - m) / s) ** 2 - np.log(s * np.sqrt(2 * np.pi))
        q, log_w = step * np.exp(log_q), np.maximum(log_p, -1e5) - log_q
        if isinstance(objective, LogRatio):
            return q @ (log_w - q @ log_w) ** 2
        if objective.alpha == 1:
            return -q @ log_w
        mixed = objective.alpha * log_q + (1 - objective.alpha) * log_p
        return -np.log(step * np.exp(mixed - mixed.max()).sum()) / (1 - objective.alpha) - mixed.max() / (
            1 - objective.alpha
        )

    found = minimize(value, [mean, np.log(sd)], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-13}).x
    return found[0], np.exp(found[1])


@by_objective
@pytest.mark.parametrize("kind", ["skewed", "bimodal"])
def test_the_optimum_is_that_of_quadrature(models, kind, objective):
    q, record, _ = fitted(models[kind], engine=Descent(objective=OBJECTIVES[objective]))
    with np.errstate(over="ignore"):
        log_p = np.asarray({"skewed": lambda x: 2 * x - np.exp(x), "bimodal": _numpy_bimodal}[kind](GRID))
    mean, sd = _quadrature(log_p, OBJECTIVES[objective], q.mean[0], q.sd[0])
    assert record.status == "converged"
    assert q.mean[0] == pytest.approx(mean, abs=1e-4)
    assert q.sd[0] == pytest.approx(sd, abs=1e-4)


def _numpy_bimodal(x):
    return np.logaddexp(np.log(0.3) - 0.5 * ((x + 1.2) / 0.8) ** 2, np.log(0.7) - 0.5 * (x - 1.2) ** 2)


@by_objective
def test_a_gaussian_is_recovered_by_every_objective(gaussian, objective):
    model, mean, cov = gaussian
    sd = np.sqrt(np.diagonal(cov))
    factor = np.linalg.cholesky(cov)
    # On a fixed design the truth is stationary for every alpha, but for a small one it is no maximum: luck beats it.
    off = DenseGaussian(mean + 0.1 * factor.sum(1), 1.1 * factor) if objective != "renyi 0.2" else None
    for start in (None, off):
        q, record, target = fitted(model, engine=Descent(objective=OBJECTIVES[objective], start=start))
        assert record.status == "converged"
        assert np.abs((q.mean - mean) / sd).max() < 1e-6
        assert np.abs((q.cov - cov) / np.outer(sd, sd)).max() < 1e-6
    assert target._program.traces == 1


def test_mean_field_elbo_is_the_one_of_fixed_draws(gaussian):
    model, mean, _ = gaussian
    q, record, _ = fitted(model, engine=Descent(jn.MeanField()))
    assert record.status == "converged"
    precision = np.diagonal(read(model).data["precision"])
    np.testing.assert_allclose(q.sd, precision**-0.5, rtol=1e-5)
    np.testing.assert_allclose(q.mean, mean, rtol=1e-5)


@by_objective
@pytest.mark.parametrize("family", ["full rank", "mean-field"])
def test_the_gradient_is_the_derivative_of_the_value(models, objective, family):
    rng = np.random.default_rng(2)
    model = jn.density(_skew, {"x": np.zeros(3)})
    factor = np.array([0.5, 1.0, 0.7])
    factor = np.diag(factor) + 0.2 * np.tril(np.ones((3, 3)), -1) if family == "full rank" else factor
    parameters = 0.1 * rng.standard_normal(9 if family == "full rank" else 6)
    design = _design(3, 0, 0)
    with scope():
        target = Target(read(model))

        def at(p):
            return _value(target, OBJECTIVES[objective], np.full(3, 0.4), factor, design, p)

        _, gradient = at(parameters)
        for i, bump in enumerate(1e-5 * np.eye(len(parameters))):
            slope = (at(parameters + bump)[0] - at(parameters - bump)[0]) / 2e-5
            assert gradient[i] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_variance_with_draws_held_has_the_gradient_of_the_elbo():
    """The identity of Richter et al.: -Cov(log w, score of q) = -d ELBO, for a Gaussian on a skewed target."""
    nodes, shares = np.polynomial.hermite_e.hermegauss(80)
    shares = shares / shares.sum()
    m, s = 0.3, 0.6
    z = m + s * nodes
    log_w = 2 * z - np.exp(z) + 0.5 * nodes**2 + np.log(s)
    _, c = half_variance(log_w, shares)
    held = -c @ nodes / s, -c @ (nodes**2 - 1)  # scores with respect to m and log s
    g = 2 - np.exp(z)
    elbo = shares @ g, shares @ (g * s * nodes) + 1
    np.testing.assert_allclose(held, [-elbo[0], -elbo[1]], atol=1e-10)


def test_renyi_bound_falls_in_alpha_and_ends_at_the_elbo():
    rng = np.random.default_rng(0)
    log_w, weights = rng.standard_normal(500), rng.uniform(0.5, 1, 500)
    weights /= weights.sum()
    bounds = [renyi_bound(log_w, weights, alpha)[0] for alpha in (1e-6, 0.2, 0.5, 0.9, 1 - 1e-7, 1)]
    assert (np.diff(bounds) < 0).all()
    assert bounds[-2] == pytest.approx(weights @ log_w, abs=1e-6)
    # The importance-weighted bound on all draws.
    assert bounds[0] == pytest.approx(np.log(weights @ np.exp(log_w)), abs=1e-5)
    for alpha in (0.2, 1):
        assert renyi_bound(log_w, weights, alpha)[1].sum() == pytest.approx(1)


def test_smaller_alpha_covers_more(models):
    sds = [fitted(models["skewed"], engine=Descent(objective=Renyi(a)))[0].sd[0] for a in (1.0, 0.5, 0.2)]
    assert (np.diff(sds) > 0.01).all()


def test_designs_have_the_second_moments_of_a_normal():
    for dim in (1, 2, 7):
        points, weights = _design(dim, 0, 0)
        np.testing.assert_allclose((points.T * weights) @ points, np.eye(dim), atol=1e-12)
        np.testing.assert_allclose(weights @ points, 0, atol=1e-12)
        # Fourth moments, of which the radii decide: E |e|^4 = D (D + 2).
        assert weights @ (points**2).sum(1) ** 2 == pytest.approx(dim * (dim + 2), rel=0.02)


def test_an_overfitted_design_is_noticed():
    """Heavy-tailed weights in twelve dimensions: the design's bound rises without end, the second one does not follow."""

    def heavy(p):
        return (-3 * jnp.log1p(p["x"] ** 2 / 5)).sum()

    model = jn.density(heavy, {"x": np.zeros(12)})
    q, record, _ = fitted(model, engine=Descent(objective=Renyi(0.1), steps=60))
    elbo, _, _ = fitted(model, engine=Descent())
    assert any("second one" in note for note in record.notes)
    assert (np.asarray(q.sd) < 2 * elbo.sd).all()


def test_same_seed_same_bits(models):
    engine = Descent(objective=Renyi(0.5))
    one, first, _ = fitted(models["skewed"], engine=engine)
    same, again, _ = fitted(models["skewed"], engine=engine)
    np.testing.assert_array_equal(one.mean, same.mean)
    np.testing.assert_array_equal(one.scale, same.scale)
    np.testing.assert_array_equal(first.history["loss"], again.history["loss"])
    assert (np.diff(first.history["loss"]) <= 0).all()


@pytest.mark.parametrize("alpha", [0, -1, 1.5, np.inf, "half", True])
def test_bad_alpha_is_refused(alpha):
    with pytest.raises(jn.OptionError, match="alpha must be above 0 and at most 1"):
        Renyi(alpha)


def test_bad_targets_are_refused():
    flat = jn.density(lambda p: -0.5 * p["a"] ** 2 + 0 * p["b"], {"a": 0.0, "b": 0.0})
    with pytest.raises(jn.ImproperError, match="site b"):
        fitted(flat)
    start = jn.FullRank().start(np.zeros(1), 100.0)
    wall = jn.density(lambda p: jnp.log(5.0 - p["a"]), {"a": 0.0})
    with pytest.raises(jn.NonFiniteError, match="start's own draws"):
        fitted(wall, engine=Descent(start=start))
    with pytest.raises(jn.UnsupportedError, match="2 coordinates and the model 1"):
        fitted(wall, engine=Descent(start=jn.FullRank().start(np.zeros(2), 1.0)))
