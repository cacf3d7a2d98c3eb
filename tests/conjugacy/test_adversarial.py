"""Models made to break conjugacy: each is exact, or refused in clean words, or fails the certificate.

Never may a wrong energy pass. What passes is compared with E_q[log p] by Monte Carlo over the model's own densities.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import plate, sample
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density
from tests.conjugacy.checks import expectation, make, monte_carlo, passes, random_start
from tests.conjugacy.sites import COUNTS, TABLE, G, H, N, Y, gamma, levels, normal, seen

from jensen.core.precision import scope

# -- what is conjugate, however odd ---------------------------------------------------------------------------------------


def twice_same(y):
    x = normal("x", 3)
    seen(y, x[G] + x[G])


def twice_other(y):
    x = normal("x", 3)
    seen(y, x[G] - x[H])


def cancels(y):
    x = normal("x", 3)
    seen(y, x[G] - x[G])


def product_of_sites(y):
    u, v, tau = normal("u", 3), normal("v", 4), gamma("tau")
    seen(y, u[:, None] * v + 0.5, tau**-0.5)


def product_plus_one_of_its_sites(y):
    x, w = normal("x"), normal("w")
    seen(y, x * w + x - 2 * w)


def products_plus_their_sites(y):
    x, w = normal("x", 3), normal("w", 4)
    seen(y, x[:, None] * w + 2 * x[::-1][:, None] - w)


def crossed(y):
    with plate("a", 3, dim=-2):
        u = sample("u", dist.Normal(0.0, 1.0))
    with plate("b", 4):
        v, tau = sample("v", dist.Normal(0.0, 1.0)), gamma("tau")
    seen(y, u + v, tau**-0.5)


def sometimes_precision(y):
    tau = gamma("tau")
    seen(y, 0.0, jnp.where(G == 0, tau**-0.5, 1.0))


def gamma_chain(y):
    a = gamma("a")
    b = sample("b", dist.Gamma(3.0, a))
    v = sample("v", dist.InverseGamma(3.0, b))
    seen(y, 0.0, v**0.5)


def half_cauchy(y):
    a = sample("a", dist.InverseGamma(0.5, 1.0))
    v = sample("v", dist.InverseGamma(0.5, 1 / a))
    seen(y, 0.0, v**0.5)


def scalar_level(y):
    mu = normal("mu", 3)
    z = sample("z", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
    seen(y, mu[z])


def level_in_a_plate_of_one(y):
    mu = normal("mu", 2)
    seen(y, mu[levels("z", 1, 0.3, 0.7)])


def levels_of_rows(y):
    mu = normal("mu", 2)
    with plate("a", 3, dim=-2):
        z = sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
    seen(y, mu[z])


def levels_of_columns(y):
    mu = normal("mu", 2, 4)
    seen(y, mu[levels("z", 4, 0.3, 0.7), jnp.arange(4)])


def levels_of_cells(y):
    mu, tau = normal("mu", 2), gamma("tau", 3, 1)
    with plate("a", 3, dim=-2), plate("b", 4):
        z = sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
    seen(y, mu[z], tau**-0.5)


def two_sites_of_levels(y):
    mu, nu = normal("mu", 2), normal("nu", 3)
    seen(y, mu[levels("z", N, 0.3, 0.7)] + nu[levels("w", N, 0.3, 0.4, 0.3)])


def levels_given_levels(y):
    A, mu = sample("A", dist.Dirichlet(jnp.ones(3)).expand([2])), normal("mu", 3)
    z = levels("z", N, 0.3, 0.7)
    with plate("rows", N):
        w = sample("w", dist.Categorical(A[z]))
    seen(y, mu[w])


def spike_and_slab(y):
    p, tau = sample("p", dist.Beta(1.0, 1.0)), gamma("tau")
    with plate("rows", N):
        b, z = sample("b", dist.Normal(0.0, 1.0)), sample("z", dist.Bernoulli(1 - p))
    seen(y, b * z, tau**-0.5)


def binary_levels(y):
    mu = normal("mu", 2)
    with plate("rows", N):
        z = sample("z", dist.Bernoulli(logits=jnp.linspace(-1.0, 1.0, N)))
        w = sample("w", dist.Bernoulli(jnp.array([0.2, 0.9])[z]))
    seen(y, mu[z] + w)


def picked_probabilities(y):
    p = sample("p", dist.Beta(2.0, 1.0).expand([2]))
    sample("y", dist.Bernoulli(jnp.stack([p[0], 1 - p[1], p[1], p[0], p[0]])), obs=y)


def reversed_simplex(y):
    p = sample("p", dist.Dirichlet(jnp.arange(1.0, 4.0)))
    sample("y", dist.Categorical(p[::-1]), obs=y)


CONJUGATE = (
    (twice_same, Y),
    (twice_other, Y),
    (cancels, Y),
    (product_of_sites, TABLE),
    (product_plus_one_of_its_sites, Y),
    (products_plus_their_sites, TABLE),
    (crossed, TABLE),
    (sometimes_precision, Y),
    (gamma_chain, Y),
    (half_cauchy, Y),
    (scalar_level, Y),
    (level_in_a_plate_of_one, Y),
    (levels_of_rows, TABLE),
    (levels_of_columns, TABLE),
    (levels_of_cells, TABLE),
    (two_sites_of_levels, Y),
    (levels_given_levels, Y),
    (spike_and_slab, Y),
    (binary_levels, Y),
    (picked_probabilities, COUNTS % 2),
    (reversed_simplex, COUNTS),
)


SLOW = (two_sites_of_levels, spike_and_slab, levels_of_cells, picked_probabilities, product_of_sites, levels_of_columns)


@pytest.mark.parametrize(
    ("model", "y"),
    [pytest.param(*case, marks=pytest.mark.slow if case[0] in SLOW else ()) for case in CONJUGATE],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_exact(model, y):
    found = make(model, {"y": y})
    assert {finding.update for finding in found.findings} == {"exact"}
    assert passes(found, {"y": y})
    q = random_start(found)
    mean, error = monte_carlo(found, {"y": y}, q)
    assert abs(expectation(found, q) - mean) < 5 * error


# -- what is not ----------------------------------------------------------------------------------------------------------


def sum_of_precisions(y):
    seen(y, 0.0, (gamma("t") + gamma("u")) ** -0.5)


def product_within_precisions(y):
    t = gamma("t", 2)
    seen(y, 0.0, (t[0] * t[1]) ** -0.5)


def product_within_a_site(y):
    b = normal("b", 2)
    seen(y, b[0] * b[1])


def square(y):
    x = normal("x")
    seen(y, x * x)


def product_and_square(y):
    x, w = normal("x"), normal("w")
    seen(y, x * w + x * x)


def outer_square(y):
    u = normal("u", 3)
    seen(y, (u[:, None] * u)[:, :1] + jnp.zeros(4))


def three_factors(y):
    seen(y, normal("x") * normal("w") * normal("v"))


def mean_and_scale(y):
    x = normal("x")
    seen(y, x, jnp.exp(x))


def scale_of_a_gaussian(y):
    seen(y, normal("m"), jnp.exp(normal("x")))


def positive_mean_and_scale(y):
    x = gamma("x")
    seen(y, x, x**-0.5)


def gamma_shape_site(y):
    seen(y, 0.0, sample("t", dist.Gamma(1.0 + gamma("a"), 1.0)) ** -0.5)


def mixed_probabilities(y):
    p, r = (sample(name, dist.Dirichlet(jnp.ones(3))) for name in "pr")
    sample("y", dist.Categorical(0.5 * p + 0.5 * r), obs=y)


def normalized_gammas(y):
    p = gamma("p", 3)
    sample("y", dist.Categorical(p / p.sum()), obs=y)


def unnormalized_gammas(y):
    sample("y", dist.Categorical(gamma("p", 3)), obs=y)


def product_of_probabilities(y):
    p, r = (sample(name, dist.Beta(2.0, 1.0)) for name in "pr")
    sample("y", dist.Bernoulli(p * r), obs=y % 2)


def half_probability(y):
    sample("y", dist.Bernoulli(0.5 * sample("p", dist.Beta(2.0, 1.0))), obs=y % 2)


def sum_of_rates(y):
    sample("y", dist.Poisson(gamma("a") + gamma("b")), obs=y)


def factor_statement(y):
    m = normal("m")
    numpyro.factor("f", -0.5 * m**2)
    seen(y, m)


def masked(y):
    sample("y", dist.Normal(normal("m"), 1.0).mask(jnp.arange(N) < 6), obs=y)


def levels_by_group(y):
    mu = normal("mu", 2)
    seen(y, mu[levels("z", 3, 0.3, 0.7)[G]])


def levels_transposed(y):
    mu = normal("mu", 2)
    with plate("a", 3, dim=-2), plate("b", 4):
        z = sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
    seen(y.T, mu[z].T)


def levels_of_both_axes(y):
    mu = normal("mu", 2, 3)
    with plate("a", 3, dim=-2):
        z = sample("z", dist.Categorical(jnp.array([0.3, 0.7])))
    seen(y, mu[z, levels("w", 4, 0.3, 0.4, 0.3)])


FREE = (
    *((model, Y) for model in (sum_of_precisions, product_within_a_site, square, product_and_square, three_factors)),
    *((model, Y) for model in (mean_and_scale, positive_mean_and_scale, gamma_shape_site, masked)),
    *((model, COUNTS) for model in (normalized_gammas, unnormalized_gammas, sum_of_rates)),
    *((model, COUNTS) for model in (product_of_probabilities, half_probability, mixed_probabilities)),
    (outer_square, TABLE),
)
NOT_CONJUGATE = (
    *((model, Y) for model in (scale_of_a_gaussian, product_within_precisions)),
    *((model, Y) for model in (factor_statement, levels_by_group)),
    *((model, TABLE) for model in (levels_transposed, levels_of_both_axes)),
)


@pytest.mark.parametrize(("model", "y"), FREE, ids=lambda value: getattr(value, "__name__", ""))
def test_free_in_words(model, y):
    found = make(model, {"y": y})
    assert found.energy is not None
    assert found.damped
    assert any("averaged over it" in finding.reason for finding in found.findings)


def test_the_energy_of_a_masked_node_is_that_of_the_model():
    """At a point mass; what the certificate compares with are the distributions' own densities, masked or not."""
    found = make(masked, {"y": Y})
    with scope("float64"):
        assert found.energy is not None
        moments = {"m": {"mean": jnp.full(1, 0.3), "cov": jnp.zeros(1)}}
        energy = float(jax.jit(lambda energy: energy(moments))(found.energy))
        expected = float(log_density(masked, (Y,), {}, {"m": jnp.array(0.3)})[0])
    np.testing.assert_allclose(energy, expected, rtol=1e-10)


@pytest.mark.parametrize(("model", "y"), NOT_CONJUGATE, ids=lambda value: getattr(value, "__name__", ""))
def test_refused_in_words(model, y):
    found = make(model, {"y": y})
    assert found.energy is None
    assert any(node.name in found.refusal for node in found.graph.nodes)


def test_sites_that_are_multiplied_share_no_block():
    found = make(product_of_sites, {"y": TABLE}, [("u", "v")])
    assert found.energy is None
    assert "u and v" in found.refusal


# -- what only the certificate sees ---------------------------------------------------------------------------------------


def level_sum(y):
    mu = normal("mu", N + 1)
    with plate("rows", N):
        z = sample("z", dist.Bernoulli(0.4))
    seen(y, mu[jnp.cumsum(z)])


def reversed_levels(y):
    seen(y, normal("mu", 2)[levels("z", N, 0.3, 0.7)[::-1]])


def permuted_levels(y):
    seen(y, normal("mu", 2)[levels("z", N, 0.3, 0.7)[np.roll(np.arange(N), 3)]])


def rolled_levels(y):
    z = levels("z", N, 0.3, 0.7)
    seen(y, normal("mu", 2)[z] + normal("nu", 2)[jnp.roll(z, 1)])


def two_reads_of_levels(y):
    mu, z = normal("mu", 2), levels("z", N, 0.3, 0.7)
    seen(y, mu[z[G]] + mu[z[H]])


def levels_of_the_other_axis(y):
    seen(y, normal("mu", 2)[levels("z", 3, 0.3, 0.7)][:, None] + jnp.zeros((3, 3)))


def block_model(y):
    z = levels("z", 3, 0.4, 0.6)
    seen(y, normal("B", 2, 2)[z[:, None], z])


def second_order_chain(y):
    A, mu = sample("A", dist.Dirichlet(jnp.ones(2)).expand([2, 2])), normal("mu", 2)

    def step(before, y_t):
        z = sample("z", dist.Categorical(A[before[0], before[1]]))
        seen(y_t, mu[z])
        return (before[1], z), None

    scan(step, (0, 0), y)


def chain_read_late(y):
    A, mu, nu = sample("A", dist.Dirichlet(jnp.ones(2)).expand([2])), normal("mu", 2), normal("nu", 2)

    def step(before, y_t):
        z = sample("z", dist.Categorical(A[before]))
        seen(y_t, mu[z] + nu[before])
        return z, None

    scan(step, 0, y)


CAUGHT = (
    *(
        (model, Y)
        for model in (reversed_levels, permuted_levels, rolled_levels, two_reads_of_levels, second_order_chain)
    ),
    (chain_read_late, Y),
    (level_sum, Y),
    *((model, TABLE[:, :3]) for model in (levels_of_the_other_axis, block_model)),
)


@pytest.mark.parametrize(("model", "y"), CAUGHT, ids=lambda value: getattr(value, "__name__", ""))
def test_refused_or_caught(model, y):
    assert not passes(make(model, {"y": y}), {"y": y})
