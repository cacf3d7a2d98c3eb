"""Conjugate models as a NumPyro user writes them: plates and ordinary code, no annotation, proper priors.

Each function takes arrays, and integers for sizes that no array shows. `zoo` says what is expected of each.
"""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import ndtr
from jax.scipy.stats import norm
from numpyro import plate, sample
from numpyro.contrib.control_flow import scan

# -- mixtures and topics -----------------------------------------------------------------------------------------------


def ugmm(x, K):
    with plate("components", K):
        mu = sample("mu", dist.Normal(0.0, 5.0))
    with plate("rows", x.shape[0]):
        z = sample("z", dist.Categorical(jnp.ones(K) / K))
        sample("x", dist.Normal(mu[z], 1.0), obs=x)


def gmm(x, K):
    pi = sample("pi", dist.Dirichlet(jnp.ones(K)))
    with plate("components", K):
        mu = sample("mu", dist.Normal(0.0, 10.0))
        tau = sample("tau", dist.Gamma(2.0, 1.0))
    with plate("rows", x.shape[0]):
        z = sample("z", dist.Categorical(pi))
        sample("x", dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])), obs=x)


def gmm_diagonal(x, K):
    N, D = x.shape
    pi = sample("pi", dist.Dirichlet(jnp.ones(K)))
    with plate("components", K):
        mu = sample("mu", dist.Normal(0.0, 10.0).expand([D]).to_event(1))
        tau = sample("tau", dist.Gamma(2.0, 1.0).expand([D]).to_event(1))
    with plate("rows", N):
        z = sample("z", dist.Categorical(pi))
        sample("x", dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])).to_event(1), obs=x)


def gmm_full(x, K):
    N, D = x.shape
    pi = sample("pi", dist.Dirichlet(2.0 * jnp.ones(K)))
    with plate("components", K):
        mu = sample("mu", dist.MultivariateNormal(jnp.zeros(D), precision_matrix=0.01 * jnp.eye(D)))
        L = sample("L", dist.Wishart(D + 2.0, rate_matrix=2.0 * jnp.eye(D)))
    with plate("rows", N):
        z = sample("z", dist.Categorical(pi))
        sample("x", dist.MultivariateNormal(mu[z], precision_matrix=L[z]), obs=x)


def mixture_of_regressions(X, y, K):
    N, D = X.shape
    pi = sample("pi", dist.Dirichlet(jnp.ones(K)))
    with plate("components", K):
        b = sample("b", dist.Normal(0.0, 5.0).expand([D]).to_event(1))
        tau = sample("tau", dist.Gamma(2.0, 1.0))
    with plate("rows", N):
        z = sample("z", dist.Categorical(pi))
        sample("y", dist.Normal((X * b[z]).sum(-1), 1 / jnp.sqrt(tau[z])), obs=y)


def lda(word, doc, K, V, documents):
    with plate("topics", K):
        phi = sample("phi", dist.Dirichlet(0.1 * jnp.ones(V)))
    with plate("documents", documents):
        theta = sample("theta", dist.Dirichlet(0.5 * jnp.ones(K)))
    with plate("tokens", word.shape[0]):
        z = sample("z", dist.Categorical(theta[doc]))
        sample("word", dist.Categorical(phi[z]), obs=word)


# -- regressions -------------------------------------------------------------------------------------------------------


def regression(X, y):
    with plate("columns", X.shape[1]):
        alpha = sample("alpha", dist.Gamma(1.0, 1.0))
        b = sample("b", dist.Normal(0.0, 1 / jnp.sqrt(alpha)))
    tau = sample("tau", dist.Gamma(1.0, 1.0))
    with plate("rows", X.shape[0]):
        sample("y", dist.Normal(X @ b, 1 / jnp.sqrt(tau)), obs=y)


def inverse_gamma(X, y):
    v = sample("v", dist.InverseGamma(2.0, 1.0))
    b = sample("b", dist.Normal(0.0, 5.0).expand([X.shape[1]]))
    sample("y", dist.Normal(X @ b, jnp.sqrt(v)), obs=y)


def half_normal(X, y):
    b = sample("b", dist.Normal(0.0, 5.0).expand([X.shape[1]]))
    sigma = sample("sigma", dist.HalfNormal(2.0))
    with plate("rows", X.shape[0]):
        sample("y", dist.Normal(X @ b, sigma), obs=y)


def student_mixture(X, y):
    b = sample("b", dist.Normal(0.0, 5.0).expand([X.shape[1]]))
    tau = sample("tau", dist.Gamma(1.0, 1.0))
    with plate("rows", X.shape[0]):
        u = sample("u", dist.Gamma(2.0, 2.0))
        sample("y", dist.Normal(X @ b, (tau * u) ** -0.5), obs=y)


def probit(X, y):
    b = sample("b", dist.Normal(0.0, 2.0).expand([X.shape[1]]))
    with plate("rows", X.shape[0]):
        sample("y", dist.Bernoulli(probs=norm.cdf(X @ b)), obs=y)


def probit_ndtr(X, y):
    b = sample("b", dist.Normal(0.0, 2.0).expand([X.shape[1]]))
    sample("y", dist.Bernoulli(ndtr(X @ b)), obs=y)


def logistic(X, y):
    alpha = sample("alpha", dist.Gamma(2.0, 1.0))
    b = sample("b", dist.Normal(0.0, 1 / jnp.sqrt(alpha)).expand([X.shape[1]]))
    with plate("rows", X.shape[0]):
        sample("y", dist.Bernoulli(logits=X @ b), obs=y)


def multilevel(X, g, y, groups):
    mu = sample("mu", dist.Normal(0.0, 10.0))
    tau_a = sample("tau_a", dist.Gamma(1.0, 1.0))
    b = sample("b", dist.Normal(0.0, 10.0).expand([X.shape[1]]))
    with plate("groups", groups):
        a = sample("a", dist.Normal(mu, 1 / jnp.sqrt(tau_a)))
    tau = sample("tau", dist.Gamma(1.0, 1.0))
    with plate("rows", X.shape[0]):
        sample("y", dist.Normal(a[g] + X @ b, 1 / jnp.sqrt(tau)), obs=y)


def varying_slopes(X, g, y, groups):
    with plate("columns", X.shape[1]):
        mu = sample("mu", dist.Normal(0.0, 10.0))
        tau_b = sample("tau_b", dist.Gamma(1.0, 1.0))
        with plate("groups", groups):
            b = sample("b", dist.Normal(mu, 1 / jnp.sqrt(tau_b)))
    tau = sample("tau", dist.Gamma(1.0, 1.0))
    with plate("rows", X.shape[0]):
        sample("y", dist.Normal((X * b[g]).sum(-1), 1 / jnp.sqrt(tau)), obs=y)


# -- chains ------------------------------------------------------------------------------------------------------------


def hmm(y, K):
    pi = sample("pi", dist.Dirichlet(jnp.ones(K)))
    with plate("states", K):
        A = sample("A", dist.Dirichlet(jnp.ones(K)))
        mu = sample("mu", dist.Normal(0.0, 10.0))
        tau = sample("tau", dist.Gamma(2.0, 1.0))

    def step(before, now):
        t, y_t = now
        z = sample("z", dist.Categorical(jnp.where(t == 0, pi, A[before])))
        sample("y", dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])), obs=y_t)
        return z, None

    scan(step, 0, (jnp.arange(y.shape[0]), y))


def hmm_split(y, K):
    """The same with the first state outside of the scan: two sites, so mean field cuts the chain between them."""
    pi = sample("pi", dist.Dirichlet(jnp.ones(K)))
    with plate("states", K):
        A = sample("A", dist.Dirichlet(jnp.ones(K)))
        mu = sample("mu", dist.Normal(0.0, 10.0))
        tau = sample("tau", dist.Gamma(2.0, 1.0))
    z_0 = sample("z_0", dist.Categorical(pi))
    sample("y_0", dist.Normal(mu[z_0], 1 / jnp.sqrt(tau[z_0])), obs=y[0])

    def step(before, y_t):
        z = sample("z", dist.Categorical(A[before]))
        sample("y", dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])), obs=y_t)
        return z, None

    scan(step, z_0, y[1:])


def factorial_hmm(y):
    with plate("states_1", 2):
        A1 = sample("A1", dist.Dirichlet(jnp.ones(2)))
        m1 = sample("m1", dist.Normal(0.0, 5.0))
    with plate("states_2", 3):
        A2 = sample("A2", dist.Dirichlet(jnp.ones(3)))
        m2 = sample("m2", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.Gamma(2.0, 1.0))

    def step(before, y_t):
        z1 = sample("z1", dist.Categorical(A1[before[0]]))
        z2 = sample("z2", dist.Categorical(A2[before[1]]))
        sample("y", dist.Normal(m1[z1] + m2[z2], 1 / jnp.sqrt(tau)), obs=y_t)
        return (z1, z2), None

    scan(step, (0, 0), y)


def random_walk(y):
    q = sample("q", dist.Gamma(2.0, 0.1))
    r = sample("r", dist.Gamma(2.0, 1.0))

    def step(before, y_t):
        x = sample("x", dist.Normal(before, 1 / jnp.sqrt(q)))
        sample("y", dist.Normal(x, 1 / jnp.sqrt(r)), obs=y_t)
        return x, None

    scan(step, 0.0, y)


def random_walk_fixed(y):
    def step(before, y_t):
        x = sample("x", dist.Normal(before, 0.25))
        sample("y", dist.Normal(x, 0.5), obs=y_t)
        return x, None

    scan(step, 0.0, y)


# -- factor models -----------------------------------------------------------------------------------------------------


def bpca(x, K):
    N, D = x.shape
    with plate("factors", K):
        alpha = sample("alpha", dist.Gamma(1.0, 1.0))
    m = sample("m", dist.Normal(0.0, 10.0).expand([D]))
    W = sample("W", dist.Normal(0.0, 1 / jnp.sqrt(alpha)).expand([D, K]))
    tau = sample("tau", dist.Gamma(1.0, 1.0))
    h = sample("h", dist.Normal(0.0, 1.0).expand([N, K]))
    sample("x", dist.Normal(h @ W.T + m, 1 / jnp.sqrt(tau)), obs=x)


def factor_analysis(x, K):
    N, D = x.shape
    with plate("factors", K):
        alpha = sample("alpha", dist.Gamma(1.0, 1.0))
    with plate("columns", D):
        m = sample("m", dist.Normal(0.0, 10.0))
        W = sample("W", dist.Normal(0.0, 1 / jnp.sqrt(alpha)).to_event(1))
        tau = sample("tau", dist.Gamma(1.0, 1.0))
    with plate("rows", N):
        h = sample("h", dist.Normal(0.0, 1.0).expand([K]).to_event(1))
        sample("x", dist.Normal(h @ W.T + m, 1 / jnp.sqrt(tau)).to_event(1), obs=x)


def poisson_factorization(y, K):
    N, D = y.shape
    with plate("rows", N):
        theta = sample("theta", dist.Gamma(0.5, 1.0).expand([K]).to_event(1))
    with plate("columns", D):
        beta = sample("beta", dist.Gamma(0.5, 0.5).expand([K]).to_event(1))
    sample("y", dist.Poisson(theta @ beta.T), obs=y)


# -- counts ------------------------------------------------------------------------------------------------------------


def beta_bernoulli(y):
    p = sample("p", dist.Beta(2.0, 3.0))
    with plate("rows", y.shape[0]):
        sample("y", dist.Bernoulli(p), obs=y)


def gamma_poisson(y, g, groups):
    beta = sample("beta", dist.Gamma(2.0, 1.0))
    with plate("groups", groups):
        lam = sample("lam", dist.Gamma(3.0, beta))
    with plate("rows", y.shape[0]):
        sample("y", dist.Poisson(lam[g]), obs=y)


def dirichlet_multinomial(counts):
    N, V = counts.shape
    with plate("rows", N):
        theta = sample("theta", dist.Dirichlet(0.5 * jnp.ones(V)))
        sample("counts", dist.Multinomial(probs=theta, total_count=counts.sum(-1)), obs=counts)


def dirichlet_multinomial_shared(counts):
    theta = numpyro.sample("theta", dist.Dirichlet(0.5 * jnp.ones(counts.shape[1])))
    with numpyro.plate("rows", counts.shape[0]):
        numpyro.sample("counts", dist.Multinomial(counts.sum(-1), theta), obs=counts)
