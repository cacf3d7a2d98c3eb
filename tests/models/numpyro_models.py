"""Small NumPyro models for the tests of the graph: conjugate ones, chains and walks by scan, and what is none of these.

`MODELS` gives each one's data, and the name and kind of each of its nodes.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers, sample
from numpyro.contrib.control_flow import scan

RNG = np.random.default_rng(0)
Y = RNG.normal(size=7)
X = RNG.normal(size=(7, 2))
GROUP = np.array([0, 0, 1, 2, 2, 2, 1])
COUNTS = np.array([3, 0, 1, 4, 2, 2, 5])


def mixture(y):
    pi = sample("pi", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("component", 3):
        mu = sample("mu", dist.Normal(0, 10))
        tau = sample("tau", dist.Gamma(2, 1))
    with numpyro.plate("row", len(y)):
        z = sample("z", dist.Categorical(pi))
        sample("y", dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])), obs=y)


def diagonal_mixture(x):
    with numpyro.plate("component", 3):
        mu = sample("mu", dist.Normal(0, 10).expand([2]).to_event(1))
        tau = sample("tau", dist.Gamma(2, 1).expand([2]).to_event(1))
    with numpyro.plate("row", len(x)):
        z = sample("z", dist.Categorical(logits=jnp.zeros(3)))
        sample("x", dist.Normal(mu[z], tau[z] ** -0.5).to_event(1), obs=x)


def full_mixture(x):
    with numpyro.plate("component", 3):
        mu = sample("mu", dist.MultivariateNormal(jnp.zeros(2), covariance_matrix=4 * jnp.eye(2)))
        precision = sample("precision", dist.Wishart(5.0, rate_matrix=2 * jnp.eye(2)))
    with numpyro.plate("row", len(x)):
        z = sample("z", dist.Categorical(jnp.ones(3) / 3))
        sample("x", dist.MultivariateNormal(mu[z], precision_matrix=precision[z]), obs=x)


def covariances(x):
    wishart = sample("wishart", dist.Wishart(4.0, scale_tril=jnp.array([[1.0, 0], [0.5, 2]])))
    sigma = sample("sigma", dist.InverseWishart(5.0, rate_matrix=jnp.linalg.inv(3 * jnp.eye(2)) + 0 * wishart))
    mu = sample("mu", dist.MultivariateNormal(jnp.zeros(2), scale_tril=2 * jnp.eye(2)))
    with numpyro.plate("row", len(x)):
        sample("x", dist.MultivariateNormal(mu, covariance_matrix=sigma), obs=x)


def multilevel(X, y, group):
    mu = sample("mu", dist.Normal(0, 10))
    v = sample("v", dist.InverseGamma(3, 2))
    b = sample("b", dist.Normal(jnp.zeros(2), 5).to_event(1))
    with numpyro.plate("g", 3):
        a = sample("a", dist.Normal(mu, jnp.sqrt(v)))
    tau = sample("tau", dist.Exponential(0.5))
    sample("y", dist.Normal(a[group] + X @ b, 1 / jnp.sqrt(tau)), obs=y)


def topics(word, doc):
    with numpyro.plate("topic", 3):
        phi = sample("phi", dist.Dirichlet(0.5 * jnp.ones(5)))
    with numpyro.plate("document", 3):
        theta = sample("theta", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("token", len(word)):
        z = sample("z", dist.Categorical(theta[doc]))
        sample("word", dist.Categorical(phi[z]), obs=word)


def hidden_markov(y):
    pi = sample("pi", dist.Dirichlet(jnp.ones(3)))
    A = sample("A", dist.Dirichlet(jnp.ones((3, 3))).to_event(1))
    mu = sample("mu", dist.Normal(0, 10).expand([3]).to_event(1))

    def step(before, now):
        t, y_t = now
        z = sample("z", dist.Categorical(jnp.where(t == 0, pi, A[before])))
        sample("y", dist.Normal(mu[z], 1.0), obs=y_t)
        return z, None

    scan(step, 0, (jnp.arange(len(y)), y))


def hidden_markov_rows(x):
    """Two sequences side by side in a plate, with the first states outside of the scan."""
    A = sample("A", dist.Dirichlet(jnp.ones(3)).expand([3]))
    mu = sample("mu", dist.Normal(0, 10).expand([3]))
    with numpyro.plate("first", 2):
        z_0 = sample("z_0", dist.Categorical(jnp.ones(3) / 3))

    def step(before, x_t):
        with numpyro.plate("sequence", 2):
            z = sample("z", dist.Categorical(A[before]))
            sample("x", dist.Normal(mu[z], 1.0), obs=x_t)
        return z, None

    scan(step, z_0, x)


def factorial(y):
    A = sample("A", dist.Dirichlet(jnp.ones(2)).expand([2]))
    B = sample("B", dist.Dirichlet(jnp.ones(3)).expand([3]))
    tau = sample("tau", dist.Chi2(3))

    def step(before, y_t):
        u = sample("u", dist.Categorical(A[before[0]]))
        v = sample("v", dist.Categorical(B[before[1]]))
        sample("y", dist.Normal(1.0 * u - v, 1 / jnp.sqrt(tau)), obs=y_t)
        return (u, v), None

    scan(step, (0, 0), y)


def walks(y):
    scale = sample("scale", dist.HalfNormal(1))
    whole = sample("whole", dist.GaussianRandomWalk(scale, num_steps=7))

    def step(before, y_t):
        x = sample("x", dist.Normal(before, scale))
        s = sample("s", dist.Gamma(2, 1))
        with numpyro.plate("pair", 2):
            sample("two", dist.Normal(0.0, 1.0))
            sample("bounded", dist.Uniform(0, 1))
        return x, sample("y", dist.Normal(x, s), obs=y_t)

    scan(step, 0.0, y)
    before = 0.0
    for t in range(3):
        before = sample(f"x_{t}", dist.Normal(before, scale))
    sample("end", dist.Normal(before + whole[-1], 1), obs=0.5)


def components(x):
    with numpyro.plate("factor", 2):
        alpha = sample("alpha", dist.Gamma(1, 1))
        with numpyro.plate("column", 2):
            W = sample("W", dist.Normal(0, alpha**-0.5))
    h = sample("h", dist.Normal(0, 1).expand([7, 2]).to_event(2))
    sample("x", dist.Normal(h @ W.T, 0.5), obs=x)


def counts(count, group, coin):
    rate = sample("rate", dist.Gamma(2, 1))
    with numpyro.plate("g", 3):
        lam = sample("lam", dist.Gamma(3, rate))
    with numpyro.plate("row", len(count)):
        sample("count", dist.Poisson(lam[group]), obs=count)
    p = sample("p", dist.Beta(2, 3))
    q = sample("q", dist.Uniform(0, 1))
    sample("coin", dist.Bernoulli(p), obs=coin)
    sample("logit", dist.Bernoulli(logits=rate - 2), obs=coin)
    sample("tries", dist.Binomial(9, q), obs=count)
    theta = sample("theta", dist.Dirichlet(jnp.ones(7)))
    sample("table", dist.Multinomial(count.sum(), theta), obs=count)
    on = sample("on", dist.Bernoulli(q))
    how_many = sample("how_many", dist.Binomial(4, p))
    sample("level", dist.Normal(on + how_many, 1), obs=0.3)


def others(X, y):
    b = sample("b", dist.Normal(0, 5).expand([2]))
    sigma = sample("sigma", dist.HalfNormal(1))
    sample("shape", dist.LogNormal(0, 1))
    sample("interval", dist.Uniform(-1, 2).expand([3]).to_event(1))
    sample("moved", dist.TransformedDistribution(dist.HalfNormal(1), dist.transforms.AffineTransform(b[0], 2.0)))
    with numpyro.plate("row", len(y)):
        sample("y", dist.StudentT(4, X @ b, sigma), obs=y)
        with handlers.mask(mask=np.arange(7) > 2):
            sample("masked", dist.Normal(b[0], 1), obs=y)
    numpyro.factor("penalty", -(b**2))


TOKENS = {"word": np.array([0, 1, 2, 3, 4, 4, 0]), "doc": GROUP}
MODELS = {
    mixture: ({"y": Y}, "pi Dirichlet | mu Normal | tau Gamma | z Categorical | y Normal"),
    diagonal_mixture: ({"x": X}, "mu Normal | tau Gamma | z Categorical | x Normal"),
    full_mixture: ({"x": X}, "mu MultivariateNormal | precision Wishart | z Categorical | x MultivariateNormal"),
    covariances: (
        {"x": X},
        "wishart Wishart | sigma InverseWishart | mu MultivariateNormal | x MultivariateNormal",
    ),
    multilevel: (
        {"X": X, "y": Y, "group": GROUP},
        "mu Normal | v InverseGamma | b Normal | a Normal | tau Gamma | y Normal",
    ),
    topics: (TOKENS, "phi Dirichlet | theta Dirichlet | z Categorical | word Categorical"),
    hidden_markov: ({"y": Y}, "pi Dirichlet | A Dirichlet | mu Normal | z Categorical | y Normal"),
    hidden_markov_rows: ({"x": X}, "A Dirichlet | mu Normal | z_0 Categorical | z Categorical | x Normal"),
    factorial: ({"y": Y}, "A Dirichlet | B Dirichlet | tau Gamma | u Categorical | v Categorical | y Normal"),
    walks: (
        {"y": Y},
        "scale other | whole Normal | x Normal | s Gamma | two Normal | bounded other | y Normal | x_0 Normal | x_1 Normal | "
        "x_2 Normal | end Normal",
    ),
    components: ({"x": X}, "alpha Gamma | W Normal | h Normal | x Normal"),
    counts: (
        {"count": COUNTS, "group": GROUP, "coin": COUNTS % 2},
        "rate Gamma | lam Gamma | count Poisson | p Beta | q Beta | coin Bernoulli | logit Bernoulli | tries Binomial | "
        "theta Dirichlet | table Multinomial | on Bernoulli | how_many Binomial | level Normal",
    ),
    others: (
        {"X": X, "y": Y},
        "b Normal | sigma other | shape other | interval other | moved other | y other | masked other | penalty other",
    ),
}
