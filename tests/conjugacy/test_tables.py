"""Tables under discrete sites against sums over rows and levels in NumPy, whether or not a stat counts the levels."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import plate, sample
from scipy.special import digamma
from tests.conjugacy.checks import make

from jensen.core.precision import scope
from jensen.families.exponential import Dirichlet
from jensen.families.gaussian import Gaussian

RNG = np.random.default_rng(0)
X, PROBS = RNG.normal(0, 3, 20), RNG.dirichlet(np.ones(3), 20)


def mixture(x: jnp.ndarray, scale: jnp.ndarray) -> None:
    pi = sample("pi", dist.Dirichlet(jnp.ones(3)))
    with plate("levels", 3):
        mu = sample("mu", dist.Normal(0.0, 10.0))
    with plate("rows", len(x)):
        z = sample("z", dist.Categorical(pi))
        sample("x", dist.Normal(mu[z], scale), obs=x)


@pytest.mark.parametrize("scale", [np.full(20, 0.7), RNG.uniform(0.5, 2, 20)], ids=["alike", "by row"])
def test_a_mixture(scale):
    plan = make(mixture, {"x": X, "scale": scale})
    (part,) = plan.energy.tables["x"].parts
    assert (part.alike is not None) == (np.ptp(scale) == 0)
    mean, variance, concentration = np.array([-3.0, 0.5, 4.0]), np.array([0.1, 0.2, 0.3]), np.array([2.0, 3.0, 4.0])
    with scope("float64"):
        pattern = plan.layout.pattern["mu"]
        moments: Mapping = {
            "pi": Dirichlet(jnp.asarray(concentration)).moments(),
            "mu": Gaussian.point(pattern, mean, variance).moments(),
            "z": {"probs": jnp.asarray(PROBS)},
        }
        found = {name: float(value) for name, value in plan.energy.nodes(moments).items()}
    square = (X[:, None] - mean) ** 2 + variance
    each = -0.5 * square / scale[:, None] ** 2 - np.log(scale)[:, None] - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found["x"], (PROBS * each).sum())
    np.testing.assert_allclose(found["z"], PROBS.sum(0) @ (digamma(concentration) - digamma(concentration.sum())))
