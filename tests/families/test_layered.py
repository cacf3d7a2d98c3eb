"""Maps of funnels, bends and skew, and the approximations made with them; what every family obeys is in tests/laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.core.precision import scope
from jensen.core.records import decode, encode
from jensen.families.fullrank import from_factor
from jensen.families.layered import Layered
from jensen.families.maps import Map, unbent
from jensen.models.pulled_back import PulledBack
from jensen.models.read import read
from jensen.models.target import Target

DIM, DEPTH = 4, 2


def bent(seed=0, skewed=True):
    rng = np.random.default_rng(seed)
    own = np.ones(DIM)
    own[0] = 0.0
    return Map(
        center=rng.standard_normal((DEPTH, DIM)),
        factor=rng.standard_normal((DEPTH, DIM, DIM)) + 2 * np.eye(DIM),
        bound=np.array([8.0, 4.0]),
        slope=0.3 * rng.standard_normal((DEPTH, DIM)) * own,
        bend=0.3 * rng.standard_normal((DEPTH, DIM)) * own,
        exponents=0.4 * rng.standard_normal((DEPTH, DIM)) * own,
        location=rng.standard_normal(DIM),
        width=rng.uniform(0.5, 2, DIM),
        skew=0.5 * rng.standard_normal(DIM) * skewed,
    )


def layered(seed=0):
    rng = np.random.default_rng(seed + 100)
    base = from_factor(0.3 * rng.standard_normal(DIM), 0.3 * rng.standard_normal((DIM, DIM)) + np.eye(DIM))
    return Layered(bent(seed), base)


def _quartic(p):
    x = p["x"]
    return -0.5 * (x**2).sum() - 0.1 * (x[0] - x[1]) ** 4 + jnp.sin(x).sum()


@pytest.fixture(scope="module")
def target():
    with scope():
        return Target(read(jn.density(_quartic, {"x": np.zeros(DIM)})))


by_skew = pytest.mark.parametrize("skewed", [True, False])


@by_skew
def test_the_map_is_a_bijection(skewed):
    m = bent(skewed=skewed)
    y = 2 * np.random.default_rng(1).standard_normal((30, DIM))
    np.testing.assert_allclose(m.into(m.out(y)[0]), y, rtol=1e-8, atol=1e-8)
    far = 30 * np.random.default_rng(2).standard_normal((30, DIM))
    np.testing.assert_allclose(m.into(m.out(far)[0]), far, rtol=1e-5, atol=1e-5)


@by_skew
def test_log_volume_is_that_of_the_jacobian(skewed):
    y = np.random.default_rng(3).standard_normal((6, DIM))
    with jax.enable_x64(True):
        m = jax.tree.map(jnp.asarray, bent(skewed=skewed))
        jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda one: m.out(one[None])[0][0])))(jnp.asarray(y))
    wanted = np.linalg.slogdet(np.asarray(jacobians))[1]
    np.testing.assert_allclose(bent(skewed=skewed).out(y)[1], wanted, rtol=1e-10)


@by_skew
def test_pullbacks_by_hand_are_those_of_autodiff(skewed):
    """With respect to y, and to bends, exponents and skew."""
    m = bent(skewed=skewed)
    y, weights = np.random.default_rng(4).standard_normal((5, DIM)), np.array([0.1, 0.3, 0.2, 0.15, 0.25])
    with scope():

        def loss(y, free):
            other = Map(**{**vars(jax.tree.map(jnp.asarray, m)), **free})
            z, volume, _ = other.out(y)
            return (jnp.asarray(weights) * (jax.vmap(lambda x: _quartic({"x": x}))(z) + volume)).sum()

        free = {name: jnp.asarray(getattr(m, name)) for name in ("bend", "exponents", "skew")}
        to_y, to_free = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(y), free)
        z, _, tape = m.out(y)
        gradient = np.asarray(jax.jit(jax.vmap(jax.grad(lambda x: _quartic({"x": x}))))(jnp.asarray(z)))
    back, slopes = m.slopes(tape, gradient, weights)
    np.testing.assert_allclose(back * weights[:, None], to_y, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(m.back(y, tape, gradient), back, rtol=1e-12)
    for name in ("bend", "exponents"):
        np.testing.assert_allclose(slopes[name][:, 1:], to_free[name][:, 1:], rtol=1e-8, atol=1e-10)
        assert not slopes[name][:, 0].any()  # a parent's own are no parameters
    np.testing.assert_allclose(slopes["skew"], to_free["skew"], rtol=1e-8, atol=1e-10)


def test_skew_has_linear_tails():
    m = unbent(1)
    m = Map(**{**vars(m), "skew": np.array([0.7])})
    z = m.out(np.array([[-2e6], [-1e6], [1e6], [2e6]]))[0][:, 0]
    np.testing.assert_allclose(z[3] - z[2], 1e6 * np.exp(0.7) / np.cosh(0.7), rtol=1e-6)
    np.testing.assert_allclose(z[1] - z[0], 1e6 * np.exp(-0.7) / np.cosh(0.7), rtol=1e-6)


def test_a_pulled_back_target_is_the_density_of_y(target):
    m = bent()
    pulled = PulledBack(target, m)
    y = np.random.default_rng(5).standard_normal((4, DIM))
    with scope():
        before = target.gradients
        value, gradient = pulled(y)
        assert pulled.gradients == target.gradients == before + 4
        np.testing.assert_allclose(value, target(m.out(y)[0])[0] + m.out(y)[1], rtol=1e-12)
        for i in range(DIM):
            bump = 1e-6 * np.eye(DIM)[i]
            slope = (pulled(y + bump)[0] - pulled(y - bump)[0]) / 2e-6
            np.testing.assert_allclose(gradient[:, i], slope, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(pulled.constrain(y)[0]["x"], m.out(y)[0])
    assert (pulled.dim, pulled.batch, pulled.model) == (target.dim, target.batch, target.model)


def test_an_overflow_of_the_map_is_not_finite_and_no_warning(target):
    with scope():
        value, _ = PulledBack(target, bent())(np.full((1, DIM), 1e200))
    assert not np.isfinite(value).any()


def test_log_prob_agrees_with_transport():
    q = layered()
    z, log_q = q.transport(q.noise(np.random.default_rng(6), 50))
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-9, atol=1e-9)


def test_density_of_one_bent_dimension_integrates_to_one():
    """A sinh-arcsinh of a Gaussian, against quadrature."""
    m = Map(**{**vars(unbent(1)), "skew": np.array([0.8]), "width": np.array([2.0])})
    q = Layered(m, from_factor(np.array([0.3]), np.array([[0.9]])))
    grid = np.linspace(-30, 60, 200_001)[:, None]
    density = np.exp(q.log_prob(grid))
    assert np.trapezoid(density, grid[:, 0]) == pytest.approx(1, abs=1e-8)
    mean = np.trapezoid(density * grid[:, 0], grid[:, 0])
    sd = np.sqrt(np.trapezoid(density * (grid[:, 0] - mean) ** 2, grid[:, 0]))
    assert abs(q.mean[0] - mean) < 0.06 * sd
    assert q.sd[0] == pytest.approx(sd, rel=0.06)


def test_a_funnel_with_the_right_exponents_is_exact():
    """Neal's funnel is a layer of itself inside of the bound."""
    one = {"center": np.zeros((1, 3)), "factor": np.diag([3.0, 1, 1])[None], "bound": np.array([1e6])}
    exponents = np.array([[0, 1.5, 1.5]])
    m = Map(**{**vars(unbent(3)), **one, "slope": 0 * exponents, "bend": 0 * exponents, "exponents": exponents})
    q = Layered(m, from_factor(np.zeros(3), np.eye(3)))
    z = q.sample(np.random.default_rng(7), 100)
    from scipy.stats import norm

    wanted = norm(0, 3).logpdf(z[:, 0]) + norm(0, np.exp(z[:, :1] / 2)).logpdf(z[:, 1:]).sum(1)
    np.testing.assert_allclose(q.log_prob(z), wanted, rtol=1e-8)
    assert m.parents.tolist() == [0]


def test_moments_are_those_of_draws_and_agree_among_each_other():
    q = layered()
    z = q.sample(np.random.default_rng(8), 100_000)
    assert (np.abs(q.mean - z.mean(0)) < 0.1 * q.sd).all()
    np.testing.assert_allclose(q.sd, z.std(0), rtol=0.15)
    np.testing.assert_allclose(np.diagonal(q.cov) ** 0.5, q.sd, rtol=1e-10)
    np.testing.assert_array_equal(q.scale, np.tril(q.scale))


def test_without_bends_it_is_its_base_exactly():
    base = layered().base
    q = Layered(unbent(DIM), base)
    np.testing.assert_array_equal(q.mean, base.mean)
    np.testing.assert_array_equal(q.cov, base.cov)
    z = base.sample(np.random.default_rng(9), 5)
    np.testing.assert_allclose(q.log_prob(z), base.log_prob(z), rtol=1e-12)


def test_parameters_there_and_back():
    q = layered()
    z = q.sample(np.random.default_rng(10), 5)
    same = Layered.from_params({name: np.array(value) for name, value in q.params.items()})
    np.testing.assert_array_equal(same.log_prob(z), q.log_prob(z))
    again = decode(*encode(q))
    np.testing.assert_array_equal(again.log_prob(z), q.log_prob(z))
    leaves, structure = jax.tree.flatten(q)
    assert len(leaves) == len(q.params)
    np.testing.assert_array_equal(jax.tree.unflatten(structure, leaves).log_prob(z), q.log_prob(z))


def test_numpy_and_compiled_code_give_the_same_numbers():
    q = layered()
    noise = np.random.default_rng(11).standard_normal((5, DIM))
    with jax.enable_x64(True):
        z, log_q = jax.jit(lambda q, noise: q.transport(noise))(jax.tree.map(jnp.asarray, q), noise)
        back = jax.jit(lambda q, z: q.log_prob(z))(jax.tree.map(jnp.asarray, q), z)
    here, log_here = q.transport(noise)
    np.testing.assert_allclose(z, here, rtol=1e-10)
    np.testing.assert_allclose(log_q, log_here, rtol=1e-10)
    np.testing.assert_allclose(back, log_here, rtol=1e-7)
