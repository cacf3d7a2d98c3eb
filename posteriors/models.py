"""The posteriors as NumPyro models, one function a posterior; `posteriors.load.load` pairs each with its data.

Flat priors are improper, as in the originals, so these models have no prior draws.
The README says what is hard about each.
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro import deterministic, factor, plate, sample
from numpyro.distributions import constraints


def _flat(support=constraints.real, *shape: int) -> dist.ImproperUniform:
    """Constant density on `support`, one event of the given shape."""
    return dist.ImproperUniform(support, batch_shape=(), event_shape=shape)


def _line(name: str, mean, sd, value) -> None:
    """Observe `value` with independent Gaussian errors."""
    sample(name, dist.Normal(mean, sd), obs=value)


def arK(y):
    """Autoregression of order 5 on 200 points."""
    order = 5
    alpha = sample("alpha", dist.Normal(0, 10))
    beta = sample("beta", dist.Normal(0, 10).expand([order]).to_event(1))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    past = [beta[lag - 1] * y[order - lag : y.shape[0] - lag] for lag in range(1, order + 1)]
    _line("y", alpha + sum(past), sigma, y[order:])


def earn_height(earn, height):
    """Earnings in dollars on height in inches: coefficients of order 1e4 under flat priors."""
    beta = sample("beta", _flat(constraints.real, 2))
    sigma = sample("sigma", _flat(constraints.positive))
    _line("earn", beta[0] + beta[1] * height, sigma, earn)


def eight_schools_centered(y, sigma):
    """Eight schools, centered: a funnel between tau and theta."""
    mu = sample("mu", dist.Normal(0, 5))
    tau = sample("tau", dist.HalfCauchy(5))
    with plate("school", len(y)):
        theta = sample("theta", dist.Normal(mu, tau))
        _line("y", theta, sigma, y)


def garch11(y, sigma1):
    """GARCH(1, 1), flat on the triangle alpha1 + beta1 < 1; beta1 is latent as a fraction of what alpha1 leaves."""
    mu = sample("mu", _flat())
    alpha0 = sample("alpha0", _flat(constraints.positive))
    alpha1 = sample("alpha1", dist.Uniform(0, 1))
    rest = 1 - alpha1
    beta1 = deterministic("beta1", rest * sample("beta1_frac", dist.Uniform(0, 1)))
    factor("triangle", jnp.log(rest))  # Jacobian of beta1 in its fraction
    first = jnp.square(sigma1) + jnp.zeros_like(mu)

    def advance(variance, shock):
        variance = alpha0 + alpha1 * shock + beta1 * variance
        return variance, variance

    _, later = jax.lax.scan(advance, first, jnp.square(y[:-1] - mu))
    _line("y", mu, jnp.sqrt(jnp.append(first, later)), y)


def gp_regr(x, y):
    """Gaussian-process regression with the function integrated out; sigma is a variance, as in the original."""
    rho = sample("rho", dist.Gamma(25, 4))
    alpha = sample("alpha", dist.HalfNormal(2))
    sigma = sample("sigma", dist.HalfNormal(1))
    distance = (x[:, None] - x) / rho
    covariance = jnp.square(alpha) * jnp.exp(-jnp.square(distance) / 2) + sigma * jnp.eye(len(x))
    sample("y", dist.MultivariateNormal(jnp.zeros(len(x)), covariance), obs=y)


def hmm_example(y):
    """Hidden Markov chain with two states and unit-variance Gaussian output; the states are summed out."""
    rows = [sample(name, dist.Dirichlet(jnp.ones(2))) for name in ("theta1", "theta2")]
    mu = sample("mu", _flat(constraints.positive_ordered_vector, 2))
    factor("mu_prior", dist.Normal(jnp.array([3.0, 10.0]), 1).log_prob(mu).sum())
    log_transition = jnp.log(jnp.stack(rows))
    emission = dist.Normal(mu, 1).log_prob(y[:, None])

    def forward(message, output):
        return jax.nn.logsumexp(message[:, None] + log_transition, axis=0) + output, None

    message, _ = jax.lax.scan(forward, emission[0], emission[1:])
    factor("y", jax.nn.logsumexp(message))


def irt_2pl(y):
    """Two-parameter item response model, 20 items by 100 persons, with hierarchical scales."""
    n_items, n_persons = y.shape
    sigma_theta = sample("sigma_theta", dist.HalfCauchy(2))
    sigma_a = sample("sigma_a", dist.HalfCauchy(2))
    mu_b = sample("mu_b", dist.Normal(0, 5))
    sigma_b = sample("sigma_b", dist.HalfCauchy(2))
    items, persons = plate("item", n_items, dim=-2), plate("person", n_persons, dim=-1)
    theta = sample("theta", dist.Normal(0, sigma_theta).expand([n_persons]).to_event(1))
    a = sample("a", dist.LogNormal(0, sigma_a).expand([n_items]).to_event(1))
    b = sample("b", dist.Normal(mu_b, sigma_b).expand([n_items]).to_event(1))
    with items, persons:
        sample("y", dist.Bernoulli(logits=a[:, None] * (theta - b[:, None])), obs=y)


def kidscore_momiq(kid_score, mom_iq):
    """Child test score on mother's IQ, uncentered: intercept and slope are almost collinear."""
    beta = sample("beta", _flat(constraints.real, 2))
    sigma = sample("sigma", dist.HalfCauchy(2.5))
    _line("kid_score", beta[0] + beta[1] * mom_iq, sigma, kid_score)


def logearn_interaction_z(earn, height, male):
    """Log earnings on standardized height, sex and their product."""
    beta = sample("beta", _flat(constraints.real, 4))
    sigma = sample("sigma", _flat(constraints.positive))
    z = (height - height.mean()) / height.std(ddof=1)
    _line("log_earn", beta[0] + beta[1] * z + (beta[2] + beta[3] * z) * male, sigma, jnp.log(earn))


def low_dim_gauss_mix(y):
    """Two-component Gaussian mixture with ordered means, 1000 points; the components are summed out."""
    mu = sample("mu", _flat(constraints.ordered_vector, 2))
    factor("mu_prior", dist.Normal(0, 2).log_prob(mu).sum())
    sigma = sample("sigma", dist.HalfNormal(2).expand([2]).to_event(1))
    theta = sample("theta", dist.Beta(5, 5))
    component = dist.Normal(mu, sigma).log_prob(y[:, None])
    factor("y", jnp.logaddexp(jnp.log(theta) + component[:, 0], jnp.log1p(-theta) + component[:, 1]).sum())


def nes1972(partyid7, real_ideo, race_adj, educ1, gender, income, age_discrete):
    """Party identification on ideology, race, age group, education, gender and income; 1,330 voters."""
    beta = sample("beta", _flat(constraints.real, 9))
    sigma = sample("sigma", _flat(constraints.positive))
    groups = [1.0 * (age_discrete == group) for group in (2, 3, 4)]
    columns = [jnp.ones(len(partyid7)), real_ideo, race_adj, *groups, educ1, gender, income]
    _line("partyid7", jnp.stack(columns, axis=1) @ beta, sigma, partyid7)


def radon_mn_slope_noncentered(county, floor, log_radon):
    """Radon in 85 Minnesota counties: varying intercepts and slopes, non-centered."""
    scales = [sample(f"sigma_{name}", dist.HalfNormal(1)) for name in ("y", "alpha", "beta")]
    means = [sample(f"mu_{name}", dist.Normal(0, 10)) for name in ("alpha", "beta")]
    with plate("counties", 85):
        raw = [sample(f"{name}_raw", dist.Normal(0, 1)) for name in ("alpha", "beta")]
    alpha, beta = (mean + scale * value for mean, scale, value in zip(means, scales[1:], raw, strict=True))
    _line("log_radon", alpha[county] + beta[county] * floor, scales[0], log_radon)


def rats(rat, x, y, xbar):
    """Growth of 30 rats: random intercepts and slopes, centered, flat on the scales."""
    means = [sample(f"mu_{name}", dist.Normal(0, 100)) for name in ("alpha", "beta")]
    noise, *scales = (sample(f"sigma_{name}", _flat(constraints.positive)) for name in ("y", "alpha", "beta"))
    with plate("rats", 30):
        alpha = sample("alpha", dist.Normal(means[0], scales[0]))
        beta = sample("beta", dist.Normal(means[1], scales[1]))
    _line("y", alpha[rat] + beta[rat] * (x - xbar), noise, y)


def seeds_centered(n, N, x1, x2):
    """Seed germination: binomial with a logit link and 21 plate effects recentered to mean zero."""
    alpha0, alpha1, alpha2, alpha12 = (sample(f"alpha{k}", dist.Normal(0, 1)) for k in ("0", "1", "2", "12"))
    sigma = sample("sigma", dist.HalfCauchy(1))
    c = sample("c", dist.Normal(0, sigma).expand([len(n)]).to_event(1))
    logits = alpha0 + alpha1 * x1 + (alpha2 + alpha12 * x1) * x2 + c - jnp.mean(c)
    sample("n", dist.Binomial(N, logits=logits), obs=n)


def wells_interaction_c(switched, dist_m, arsenic):
    """Logistic regression of well switching on centered distance, arsenic and their product; flat priors."""
    distance = (dist_m - dist_m.mean()) / 100
    level = arsenic - arsenic.mean()
    alpha = sample("alpha", _flat())
    beta = sample("beta", _flat(constraints.real, 3))
    logits = alpha + jnp.stack([distance, level, distance * level], axis=1) @ beta
    sample("switched", dist.Bernoulli(logits=logits), obs=switched)
