"""Models in which at least one site must be found NOT conditionally conjugate, however close it looks.

`CONTROLS` names the site: any word but "exact" is right for it. A discrete site that cannot be enumerated is "refused".
"""

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro import plate, sample
from numpyro.contrib.control_flow import scan


def gamma_sd(y):
    mu = sample("mu", dist.Normal(0.0, 10.0))
    s = sample("s", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(mu, s), obs=y)


def gamma_shape(y):
    shape = sample("shape", dist.Gamma(2.0, 1.0))
    rate = sample("rate", dist.Gamma(2.0, 1.0))
    sample("y", dist.Gamma(shape, rate), obs=y)


def product(y):
    b = sample("b", dist.Normal(0.0, 1.0).expand([2]))
    tau = sample("tau", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(b[0] * b[1], 1 / jnp.sqrt(tau)), obs=y)


def exp_mean(y):
    b = sample("b", dist.Normal(0.0, 1.0))
    tau = sample("tau", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(jnp.exp(b), 1 / jnp.sqrt(tau)), obs=y)


def student(X, y):
    b = sample("b", dist.Normal(0.0, 5.0).expand([X.shape[1]]))
    tau = sample("tau", dist.Gamma(1.0, 1.0))
    sample("y", dist.StudentT(4.0, X @ b, 1 / jnp.sqrt(tau)), obs=y)


def marginalized_mixture(x, K):
    pi = sample("pi", dist.Dirichlet(jnp.ones(K)))
    mu = sample("mu", dist.Normal(0.0, 5.0).expand([K]))
    sample("x", dist.MixtureSameFamily(dist.Categorical(pi), dist.Normal(mu, 1.0)), obs=x)


def noncentered(y, g, groups):
    mu = sample("mu", dist.Normal(0.0, 10.0))
    tau_a = sample("tau_a", dist.Gamma(2.0, 1.0))
    with plate("groups", groups):
        e = sample("e", dist.Normal(0.0, 1.0))
    tau = sample("tau", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(mu + e[g] / jnp.sqrt(tau_a), 1 / jnp.sqrt(tau)), obs=y)


def precision_sum(y):
    mu = sample("mu", dist.Normal(0.0, 10.0))
    tau1 = sample("tau1", dist.Gamma(2.0, 1.0))
    tau2 = sample("tau2", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(mu, 1 / jnp.sqrt(tau1 + tau2)), obs=y)


def block_model(edges, K):
    pi = sample("pi", dist.Dirichlet(jnp.ones(K)))
    B = sample("B", dist.Beta(1.0, 1.0).expand([K, K]))
    with plate("nodes", edges.shape[0]):
        z = sample("z", dist.Categorical(pi))
    sample("edges", dist.Bernoulli(B[z[:, None], z]), obs=edges)


def second_order_chain(y, K):
    A = sample("A", dist.Dirichlet(jnp.ones(K)).expand([K, K]))
    mu = sample("mu", dist.Normal(0.0, 10.0).expand([K]))

    def step(before, y_t):
        z = sample("z", dist.Categorical(A[before[0], before[1]]))
        sample("y", dist.Normal(mu[z], 1.0), obs=y_t)
        return (before[1], z), None

    scan(step, (0, 0), y)


def two_views(x, K):
    mu = sample("mu", dist.Normal(0.0, 5.0).expand([K]))
    nu = sample("nu", dist.Normal(0.0, 5.0).expand([K]))
    with plate("rows", x.shape[0]):
        z = sample("z", dist.Categorical(jnp.ones(K) / K))
    sample("x", dist.Normal(mu[z] + nu[jnp.roll(z, 1)], 1.0), obs=x)


def swamped_prior(y):
    """The likelihood alone is conjugate for tau, and a million rows hide that the prior is not."""
    tau = sample("tau", dist.HalfNormal(1.0))
    sample("y", dist.Normal(1.0, 1 / jnp.sqrt(tau)), obs=y)
