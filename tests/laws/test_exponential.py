"""Laws of exponential families in natural parameters; a new family is one more line in `FAMILIES`.

The density is exp(<eta, t(x)> - A(eta)) with a constant base measure, so for every legal eta and every x in the support
    d log q(x) / d eta = t(x) - E t            (the moments are the gradient of A)
    H(q) + log q(x)    = <eta, t(x) - E t>
and both hold exactly, with `log_prob`, `entropy`, `moments`, `statistics` and `from_gradient` on different sides.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jensen.core import precision
from jensen.families.discrete import Categorical
from jensen.families.exponential import Beta, Dirichlet, Gamma, InverseGamma
from jensen.families.markov import MarkovChain
from jensen.families.wishart import InverseWishart, Wishart


def spd(rng, batch, p):
    root = rng.standard_normal((batch, p, p + 2))
    return root @ np.swapaxes(root, -1, -2)


# Name: (random member, its natural parameters).
FAMILIES = {
    "gamma": (
        lambda rng: Gamma(0.5 + rng.gamma(1.0, 3, 4), 0.5 + rng.gamma(2.0, 1, 4)),
        lambda q: {"log": q.concentration - 1, "value": -q.rate},
    ),
    "inverse gamma": (
        lambda rng: InverseGamma(0.5 + rng.gamma(1.0, 3, 4), 0.5 + rng.gamma(2.0, 1, 4)),
        lambda q: {"log": -q.concentration - 1, "inverse": -q.rate},
    ),
    "beta": (
        lambda rng: Beta(0.5 + rng.gamma(1.0, 3, 4), 0.5 + rng.gamma(1.0, 3, 4)),
        lambda q: {"log": q.a - 1, "log1m": q.b - 1},
    ),
    "dirichlet": (lambda rng: Dirichlet(0.5 + rng.gamma(1.0, 3, (4, 3))), lambda q: {"log": q.concentration - 1}),
    "categorical": (lambda rng: Categorical(2 * rng.standard_normal((4, 3))), lambda q: {"probs": q.logits}),
    "wishart": (
        lambda rng: Wishart(3 + rng.gamma(1.0, 3, 4), spd(rng, 4, 3)),
        lambda q: {"logdet": (q.df - 4) / 2, "value": -q.rate / 2},
    ),
    "inverse wishart": (
        lambda rng: InverseWishart(3 + rng.gamma(1.0, 3, 4), spd(rng, 4, 3)),
        lambda q: {"logdet": -(q.df + 4) / 2, "inverse": -q.scale / 2},
    ),
    "markov chain": (
        lambda rng: MarkovChain(rng.standard_normal((4, 6, 3)), rng.standard_normal((4, 5, 3, 3))),
        lambda q: {"probs": q.unary, "pairs": q.pairwise},
    ),
}
by_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def float64():
    with precision.scope("float64"):
        yield


N = 20_000
RHO = 0.3


@cache
def known(family):
    """All that the laws are about, in one compiled program a family: compilation is what these tests cost."""
    make, natural = FAMILIES[family]

    def program(q, other, noise):
        mu, eta, end = q.moments(), natural(q), natural(other)
        draws = q.at(noise)
        x = draws[0]
        broken = []
        for k, leaf in enumerate(jax.tree.leaves(q)):
            for bad in (jnp.nan, jnp.inf):
                leaves = jax.tree.leaves(q)
                leaves[k] = leaf.at[(1,) * leaf.ndim].set(bad)
                broken.append(jax.tree.unflatten(jax.tree.structure(q), leaves).valid())
        return {
            "eta": eta,
            "moments": mu,
            "statistics": jax.vmap(q.statistics)(draws),
            "draws": draws,
            "mean": q.mean,
            "sd": q.sd,
            "entropy": q.entropy(),
            "log_prob": q.log_prob(x),
            "score": jax.grad(lambda eta: q.from_gradient(eta, mu).log_prob(x))(eta),
            "back": q.from_gradient(eta, mu),
            "step": q.from_gradient(jax.tree.map(lambda a, b: (1 - RHO) * a + RHO * b, eta, end), mu),
            "each": jax.vmap(lambda q: {"moments": q.moments(), "entropy": q.entropy(), "valid": q.valid()})(q),
            "valid": q.valid(),
            "broken": jnp.stack(broken),
        }

    q, other = (jax.tree.map(jnp.asarray, make(np.random.default_rng(seed))) for seed in (0, 1))
    return q, other, jax.device_get(jax.jit(program)(q, other, q.noise(np.random.default_rng(7), N)))


def close(one, other, **tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, **tolerance)


@by_family
def test_the_gradient_of_the_natural_parameters_gives_them_back(family):
    q, _, got = known(family)
    close(got["back"], q, rtol=1e-14, atol=1e-14)


@by_family
def test_leaves_are_affine_in_the_natural_parameters(family):
    q, other, got = known(family)
    close(got["step"], jax.tree.map(lambda a, b: (1 - RHO) * a + RHO * b, q, other), rtol=1e-13)


@by_family
def test_moments_are_the_gradient_of_the_log_partition(family):
    _, _, got = known(family)
    gap = jax.tree.map(lambda t, mu: t[0] - mu, got["statistics"], got["moments"])
    close(got["score"], gap, rtol=1e-9, atol=1e-9)


@by_family
def test_entropy_and_log_prob_meet(family):
    _, _, got = known(family)
    terms = jax.tree.map(lambda eta, t, mu: (eta * (t[0] - mu)).sum(), got["eta"], got["statistics"], got["moments"])
    assert got["entropy"].shape == got["log_prob"].shape == ()
    np.testing.assert_allclose(got["entropy"] + got["log_prob"], sum(terms.values()), rtol=1e-10, atol=1e-10)


@by_family
def test_draws_have_the_moments(family):
    _, _, got = known(family)
    assert got["draws"].shape[1:] == got["mean"].shape == got["sd"].shape

    def agree(values, expected):
        error = values.std(0) / np.sqrt(N) + 1e-12
        np.testing.assert_array_less(abs(values.mean(0) - expected) / error, 6)

    jax.tree.map(agree, got["statistics"], got["moments"])
    # The tails of an inverse are too heavy for standard errors of its own mean.
    if not family.startswith("inverse"):
        agree(got["draws"], got["mean"])
        np.testing.assert_allclose(got["draws"].std(0), got["sd"], rtol=0.1)


@by_family
def test_the_batch_is_independent_under_vmap(family):
    _, _, got = known(family)
    close(got["each"]["moments"], got["moments"], rtol=1e-12)
    np.testing.assert_allclose(got["each"]["entropy"].sum(), got["entropy"], rtol=1e-12)
    assert got["each"]["valid"].shape == (4,)


@by_family
def test_one_bad_number_is_not_valid(family):
    _, _, got = known(family)
    assert got["valid"]
    assert not got["broken"].any()
