"""Numbers and short statements for the models of adversarial tests."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import plate, sample

N = 12
RNG = np.random.default_rng(0)
Y = 1.0 + RNG.standard_normal(N)
TABLE = RNG.standard_normal((3, 4))
G = np.arange(N) % 3
H = np.arange(N) // 4
COUNTS = np.array([0, 1, 2, 1, 2])
X = RNG.standard_normal((40, 3))
R = X @ np.array([1.0, -1.0, 0.5]) + 0.3 * RNG.standard_normal(40)


def normal(name, *shape):
    return sample(name, dist.Normal(0.0, 1.0).expand(shape))


def gamma(name, *shape):
    return sample(name, dist.Gamma(2.0, 1.0).expand(shape))


def seen(y, loc, scale=1.0):
    sample("y", dist.Normal(loc, scale), obs=y)


def levels(name, size, *probs):
    with plate(f"{name}_rows", size):
        return sample(name, dist.Categorical(jnp.array(probs)))
