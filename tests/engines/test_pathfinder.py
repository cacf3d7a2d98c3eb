"""What is special to Pathfinder and its L-BFGS; what every engine obeys is in tests/laws."""

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.engines.lbfgs import begin, inverse, update
from jensen.engines.pathfinder import Pathfinder, _local
from jensen.families.fullrank import DenseGaussian
from jensen.families.mixture import GaussianMixture
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run


def fitted(model, data=None, engine=None, seed=0):
    with scope():
        target = Target(read(model, data))
        q, record = run(engine or Pathfinder(), target, seed=seed, progress=False)
    return q, record, target


def _gaussian(p, data):
    centered = p["x"] - data["mean"]
    return -0.5 * centered @ data["precision"] @ centered


@pytest.fixture(scope="module")
def gaussian():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    variances, mean = np.logspace(-2, 2, 5), 3 * rng.standard_normal(5)
    data = {"mean": mean, "precision": (rotation / variances) @ rotation.T}
    return jn.density(_gaussian, {"x": np.zeros(5)}, data=data), mean, (rotation * variances) @ rotation.T


def _rosenbrock(x):
    first, second = x[..., :-1], x[..., 1:]
    value = (100 * (second - first**2) ** 2 + (1 - first) ** 2).sum(-1)
    gradient = np.zeros_like(x)
    gradient[..., :-1] = -400 * first * (second - first**2) - 2 * (1 - first)
    gradient[..., 1:] += 200 * (second - first**2)
    return value, gradient


def test_lockstep_paths_find_the_minimum_of_rosenbrock():
    from scipy.optimize import minimize

    starts = np.random.default_rng(0).uniform(-2, 2, (4, 6))
    paths, rounds = begin(starts, *_rosenbrock(starts), 20), 0
    while paths.gain.max() > 1e-16 and rounds < 400:
        paths, _ = update(paths, *_rosenbrock(paths.tried))
        rounds += 1
    peer = [
        minimize(lambda x: _rosenbrock(x), start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15})
        for start in starts
    ]
    np.testing.assert_allclose(paths.value, [answer.fun for answer in peer], atol=1e-8)
    assert rounds < 3 * max(answer.nfev for answer in peer)


def test_the_inverse_is_that_of_dense_bfgs_updates():
    """The compact form against the textbook recursion, with the first diagonal held."""
    rng = np.random.default_rng(1)
    dim, pairs = 5, 3
    hessian = np.diag(np.logspace(-1, 1, dim))
    s = rng.standard_normal((1, pairs, dim))
    y = s @ hessian
    alpha = rng.uniform(0.5, 2, (1, dim))
    paths = begin(np.zeros((1, dim)), np.zeros(1), np.ones((1, dim)), pairs)
    object.__setattr__(paths, "s", s)
    object.__setattr__(paths, "y", y)
    object.__setattr__(paths, "alpha", alpha)
    object.__setattr__(paths, "pairs", np.array([pairs]))
    h = np.diag(alpha[0])
    for step, change in zip(s[0], y[0], strict=True):
        rho = 1 / (step @ change)
        left = np.eye(dim) - rho * np.outer(step, change)
        h = left @ h @ left.T + rho * np.outer(step, step)
    found = inverse(paths, 0)
    np.testing.assert_allclose(np.diag(found.alpha) + found.beta @ found.gamma @ found.beta.T, h, atol=1e-12)
    vector = rng.standard_normal(dim)
    np.testing.assert_allclose(found.times(vector), h @ vector, atol=1e-12)
    local = _local(paths, 0)
    np.testing.assert_allclose(local.factor @ local.factor.T, h, atol=1e-12)
    noise = rng.standard_normal((7, dim))
    z, log_q = local.draws(noise)
    np.testing.assert_allclose(z, local.mean + noise @ local.factor.T, atol=1e-12)
    from scipy.stats import multivariate_normal

    np.testing.assert_allclose(log_q, multivariate_normal(local.mean, h).logpdf(z), atol=1e-9)


def test_infinite_values_are_passed_by():
    def walled(x):
        value, gradient = 0.5 * ((x - 3) ** 2).sum(1), x - 3
        out = (x > 3.5).any(1) | (x < -1).any(1)
        return np.where(out, np.nan, value), np.where(out[:, None], np.nan, gradient)

    paths = begin(np.zeros((2, 3)), *walled(np.zeros((2, 3))), 5)
    for _ in range(60):
        paths, _ = update(paths, *walled(paths.tried))
    np.testing.assert_allclose(paths.x, 3, atol=1e-6)


def test_one_path_gives_a_gaussian_close_to_a_gaussian(gaussian):
    model, mean, cov = gaussian
    q, record, target = fitted(model, engine=Pathfinder(paths=1))
    sd = np.sqrt(np.diagonal(cov))
    assert isinstance(q, DenseGaussian)
    assert record.status == "converged"
    assert np.abs((q.mean - mean) / sd).max() < 0.01
    np.testing.assert_allclose(q.cov / np.outer(sd, sd), cov / np.outer(sd, sd), atol=0.1)
    assert target._program.traces == 1


def test_several_paths_give_a_mixture_that_is_as_good(gaussian):
    model, mean, cov = gaussian
    q, record, _ = fitted(model)
    sd = np.sqrt(np.diagonal(cov))
    assert isinstance(q, GaussianMixture)
    assert record.status == "converged"
    assert np.abs((q.mean - mean) / sd).max() < 0.05
    np.testing.assert_allclose(q.sd, sd, rtol=0.1)


def test_two_modes_get_their_masses():
    """Weights .3 and .7, widths 1 and .5, seen from both sides: the balance heuristic finds the masses."""

    def two(p):
        x = p["x"]
        left = jnp.log(0.3) - 0.5 * ((x + 4) ** 2).sum()
        return jnp.logaddexp(left, jnp.log(0.7) - 0.5 * ((x - 4) ** 2).sum() / 0.25 - 2 * jnp.log(0.5))

    q, _, _ = fitted(jn.density(two, {"x": np.zeros(2)}))
    left = q.weights[q.means[:, 0] < 0].sum()
    assert left == pytest.approx(0.3, abs=0.02)
    np.testing.assert_allclose(q.mean, 0.7 * 4 - 0.3 * 4, atol=0.2)


def test_the_path_comes_by_the_mass_of_a_funnel():
    """Where the density is unbounded the walk ends in the neck; what is kept is from before."""

    def funnel(p):
        return -0.5 * (p["v"] / 1.5) ** 2 + (-0.5 * p["x"] ** 2 * jnp.exp(-p["v"]) - 0.5 * p["v"]).sum()

    q, _, target = fitted(jn.density(funnel, {"v": 0.0, "x": np.zeros(9)}))
    with scope():
        z = q.sample(np.random.default_rng(0), 500)
        log_w = target(z)[0] - q.log_prob(z)
    mode = np.array([-4.5 * 2.25, *np.zeros(9)])  # of the joint density
    assert q.mean[0] > mode[0] + 3
    assert log_w.mean() > -5.0  # of the exact 0.5 log(2 pi 2.25) + 4.5 log(2 pi) = 9.6


def test_same_seed_same_bits(gaussian):
    one, _, _ = fitted(gaussian[0])
    same, _, _ = fitted(gaussian[0])
    other, _, _ = fitted(gaussian[0], seed=1)
    for name, value in one.params.items():
        np.testing.assert_array_equal(same.params[name], value)
    assert np.abs(one.mean - other.mean).max() > 0


def test_bad_input_is_refused(gaussian):
    with pytest.raises(jn.OptionError, match="paths must be at least 1"):
        fitted(gaussian[0], engine=Pathfinder(paths=0))
    with pytest.raises(jn.OptionError, match="even number"):
        fitted(gaussian[0], engine=Pathfinder(draws=5))
    flat = jn.density(lambda p: -0.5 * p["a"] ** 2 + 0 * p["b"], {"a": 0.0, "b": 0.0})
    with pytest.raises(jn.ImproperError, match="site b"):
        fitted(flat)
    nowhere = jn.density(lambda p: jnp.log(-1 - p["a"] ** 2), {"a": 0.0})
    with pytest.raises(jn.NonFiniteError, match="not finite at the start"):
        fitted(nowhere)


def test_the_state_is_a_q_at_every_step(gaussian):
    engine = Pathfinder(paths=3)
    with scope():
        target = Target(read(gaussian[0]))
        state, done = engine.init(target, 0), False
        while not done:
            q = engine.finish(state)
            assert np.isfinite(q.log_prob(q.sample(np.random.default_rng(0), 5))).all()
            state, ticks = engine.advance(state, target)
            done = ticks.done
