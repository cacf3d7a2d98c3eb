"""Free sites: the certificate holds for all others, and fits are the best of their families by quadrature over the posterior."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import sample
from scipy import optimize, stats
from tests.conjugacy.checks import make, passes, start, sweeps
from tests.conjugacy.zoo_controls import exp_mean
from tests.tiers import quick

import jensen as jn
from jensen.conjugate.hermite import standard
from jensen.conjugate.product import Product

RNG = np.random.default_rng(0)
Y = RNG.normal(2.0, 1.0, 60)
SHARES = RNG.beta(4.0, 8.0, 60)


def shapes(y):
    a = sample("a", dist.Gamma(2.0, 0.5))
    b = sample("b", dist.HalfNormal(10.0))
    sample("y", dist.Beta(a, b), obs=y)


def shape_sum(y):
    a = sample("a", dist.Gamma(2.0, 1.0))
    c = sample("c", dist.Gamma(2.0, 1.0))
    rate = sample("rate", dist.Gamma(2.0, 1.0))
    sample("y", dist.Gamma(a + c, rate), obs=y)


def latent_shares(n, k):
    a = sample("a", dist.Gamma(2.0, 0.5))
    b = sample("b", dist.Gamma(2.0, 0.5))
    share = sample("share", dist.Beta(a, b).expand([len(n)]))
    sample("k", dist.Binomial(n, share), obs=k)


def latent_probabilities(k):
    base = sample("base", dist.Normal(0.0, 1.0).expand([3]))
    p = sample("p", dist.Dirichlet(jnp.exp(base)).expand([len(k)]))
    sample("k", dist.Multinomial(10, p), obs=k)


def student(y):
    location = sample("location", dist.Normal(0.0, 5.0).expand([3]))
    sample("y", dist.StudentT(4.0, location[jnp.arange(60) % 3], 1.0), obs=y)


def sum_of_precisions(y):
    mu = sample("mu", dist.Normal(0.0, 10.0))
    one = sample("one", dist.Gamma(2.0, 1.0))
    two = sample("two", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(mu, 1 / jnp.sqrt(one + two)), obs=y)


CASES = {
    exp_mean: ({"y": Y}, {"b": "natural gradient", "tau": "exact"}),
    shapes: ({"y": SHARES}, {"a": "free", "b": "free"}),
    shape_sum: ({"y": np.exp(0.3 * Y)}, {"a": "free", "c": "free", "rate": "exact"}),
    latent_shares: (
        {"n": np.full(20, 9.0), "k": RNG.binomial(9, SHARES[:20]) * 1.0},
        {"a": "free", "b": "free", "share": "exact"},
    ),
    latent_probabilities: (
        {"k": RNG.multinomial(10, [0.2, 0.3, 0.5], 5) * 1.0},
        {"base": "natural gradient", "p": "exact"},
    ),
    student: ({"y": Y}, {"location": "natural gradient"}),
    sum_of_precisions: ({"y": Y}, {"mu": "exact", "one": "free", "two": "free"}),
}


@pytest.mark.parametrize("model", quick(CASES, exp_mean, latent_shares), ids=lambda model: model.__name__)
def test_the_rest_stays_exact(model):
    data, words = CASES[model]
    found = make(model, data)
    assert {finding.site: finding.update for finding in found.findings} == words
    assert passes(found, data)


def _best(model, data):
    found = make(model, data)
    families, elbos = sweeps(found, start(found), 40)
    assert np.diff(elbos).min() >= -1e-10 * np.abs(elbos).max()
    return Product(families, found, None), elbos[-1]  # type: ignore[arg-type]


def test_a_free_mean_against_quadrature():
    """q(b) q(tau) with the means of the posterior on a grid, tau integrated out."""
    q, elbo = _best(exp_mean, {"y": Y})
    b = np.linspace(0.2, 1.2, 4001)
    square = ((Y - np.exp(b)[:, None]) ** 2).sum(1)
    log_p = stats.norm.logpdf(b) - (2.0 + 30.0) * np.log(1.0 + 0.5 * square)
    p = np.exp(log_p - log_p.max())
    mean = (p * b).sum() / p.sum()
    sd = np.sqrt((p * (b - mean) ** 2).sum() / p.sum())
    assert abs(q.means["b"] - mean) < 0.02 * sd
    assert abs(q.sds["b"] / sd - 1) < 0.03


def test_a_student_likelihood_against_quadrature():
    """Three locations, each with a posterior of its own on a grid."""
    q, _ = _best(student, {"y": Y})
    x = np.linspace(-2.0, 6.0, 8001)
    for group in range(3):
        log_p = stats.norm.logpdf(x, 0, 5) + stats.t.logpdf(Y[group::3, None] - x, 4).sum(0)
        p = np.exp(log_p - log_p.max())
        mean = (p * x).sum() / p.sum()
        sd = np.sqrt((p * (x - mean) ** 2).sum() / p.sum())
        assert abs(q.means["location"][group] - mean) < 0.05 * sd
        assert abs(q.sds["location"][group] / sd - 1) < 0.05


def test_nodes_have_the_moments_of_a_normal():
    for size in (1, 2, 3, 20):
        x, w = standard(size)
        np.testing.assert_allclose(w @ x, 0.0, atol=1e-12)
        np.testing.assert_allclose((w[:, None] * x).T @ x, np.eye(size), atol=1e-12)


@pytest.mark.parametrize("count", [70])
def test_too_many_elements_are_refused(count):
    def many(y):
        sample("y", dist.StudentT(4.0, sample("x", dist.Normal(0.0, 1.0).expand([count])), 1.0), obs=y)

    assert "at most 64" in make(many, {"y": np.zeros(count)}).refusal


def slopes(x, g, y):
    mu = sample("mu", dist.Normal(0.0, 10.0))
    precision = sample("precision", dist.Gamma(2.0, 1.0))
    e = sample("e", dist.Normal(0.0, 1.0).expand([4]))
    tau = sample("tau", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(mu + precision**-0.5 * jnp.take(e, g) * x, tau**-0.5), obs=y)


def test_what_a_noncentered_scale_multiplies_stays_exact():
    """Gaussians given the moments of the scale, by the normal equations; the certificate has the model's densities."""
    g, x = np.arange(60) % 4, RNG.normal(size=60)
    data = {"x": x, "g": g, "y": Y + 0.5 * x * (g - 1.5)}
    found = make(slopes, data)
    words = {"mu": "exact", "precision": "free", "e": "exact", "tau": "exact"}
    assert {f.site: f.update for f in found.findings} == words
    assert passes(found, data)
    families, elbos = sweeps(found, start(found), 60, ("precision", "tau", "mu + e"))
    assert np.diff(elbos).min() >= -1e-10 * np.abs(elbos).max()
    q = Product(families, found, None)  # type: ignore[arg-type]
    variance = np.log1p((q.sds["precision"] / q.means["precision"]) ** 2)
    center = np.log(q.means["precision"]) - variance / 2
    root, inverse = (np.exp(p * center + 0.5 * p**2 * variance) for p in (-0.5, -1.0))
    columns = np.column_stack([np.ones(60), root * np.eye(4)[g] * x[:, None]])
    spread = np.column_stack([np.zeros(60), np.sqrt(inverse - root**2) * np.eye(4)[g] * x[:, None]])
    square = columns.T @ columns + spread.T @ spread
    precision = q.means["tau"] * square + np.diag([0.01, 1.0, 1.0, 1.0, 1.0])
    means = np.linalg.solve(precision, q.means["tau"] * columns.T @ data["y"])
    sds = np.sqrt(np.diag(np.linalg.inv(precision)))
    np.testing.assert_allclose(np.append(q.means["mu"], q.means["e"]), means, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.append(q.sds["mu"], q.sds["e"]), sds, rtol=1e-6)


def uniform_sd(y):
    mu = sample("mu", dist.Normal(0.0, 10.0))
    sigma = sample("sigma", dist.Uniform(0.0, 10.0))
    sample("y", dist.Normal(mu, sigma), obs=y)


def autoregression(lag, y):
    rho = sample("rho", dist.Beta(2.0, 2.0))
    tau = sample("tau", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(rho * lag, tau**-0.5), obs=y)


def test_an_sd_on_an_interval_has_the_best_logit_normal():
    """The ELBO of N(m, s^2) x logit-normal(a, b^2) in closed form and by quadrature, maximized by SciPy."""
    q, elbo = _best(uniform_sd, {"y": Y})
    x, w = np.polynomial.hermite_e.hermegauss(60)
    w = w / w.sum()

    def loss(parameters):
        m, log_s, a, log_b = parameters
        s, u = np.exp(log_s), a + np.exp(log_b) * x
        sigma = 10.0 / (1.0 + np.exp(-u))
        square = ((Y - m) ** 2).sum() + len(Y) * s**2
        rows = -len(Y) * (w @ np.log(sigma) + 0.5 * np.log(2 * np.pi)) - 0.5 * square * (w @ sigma**-2.0)
        prior = stats.norm.logpdf(m, 0, 10) - 0.5 * s**2 / 100
        volume = w @ (-np.logaddexp(0, -u) - np.logaddexp(0, u))  # log ds/du - log 10, which is the prior's
        return -(rows + prior + volume + log_s + log_b + np.log(2 * np.pi) + 1.0)

    found = optimize.minimize(loss, [2.0, -2.0, -2.0, -2.0], tol=1e-12)
    assert elbo == pytest.approx(-found.fun, rel=1e-9)
    m, _, a, log_b = found.x
    sigma = 10.0 / (1.0 + np.exp(-a - np.exp(log_b) * x))
    assert q.means["sigma"] == pytest.approx(w @ sigma, rel=1e-5)
    assert q.sds["sigma"] == pytest.approx(np.sqrt(w @ (sigma - w @ sigma) ** 2), rel=1e-3)
    assert q.means["mu"] == pytest.approx(m, rel=1e-5)
    # In the model's own space log q integrates to one, and log p is the model's.
    s = np.linspace(0.3, 3.0, 20_001)
    flat = {"sigma": s, "mu": np.full(len(s), 2.0)}
    log_q = q.log_prob_values(flat) - stats.norm.logpdf(2.0, q.means["mu"], q.sds["mu"])
    assert np.trapezoid(np.exp(log_q), s) == pytest.approx(1.0, abs=1e-5)
    true = stats.norm.logpdf(Y[:, None], 2.0, s[::5000]).sum(0) + stats.norm.logpdf(2.0, 0, 10) - np.log(10)
    np.testing.assert_allclose(q.log_joint({name: x[::5000] for name, x in flat.items()}), true, rtol=1e-10)


def uniform_scales(g, y):
    mu = sample("mu", dist.Normal(0.0, 10.0))
    tau = sample("tau", dist.Uniform(0.0, 5.0))
    sigma = sample("sigma", dist.Uniform(0.1, 10.0))
    e = sample("e", dist.Normal(0.0, 1.0).expand([12]).to_event(1))
    sample("y", dist.Normal(mu + tau * e[g], sigma), obs=y)


def _grouped():
    rng = np.random.default_rng(1)
    g = np.arange(60) % 12
    return {"g": g, "y": 1.0 + 0.7 * rng.normal(size=12)[g] + 0.5 * rng.normal(size=60)}


def test_scales_on_intervals_multiply_and_divide_in_closed_form():
    """The ELBO in closed form and by quadrature of its own; Gaussians by the normal equations, logits where it is flat."""
    data = _grouped()
    found = make(uniform_scales, data)
    words = [(f.site, f.update, f.family) for f in found.findings]
    assert words[1:3] == [("tau", "free", "logit-normal"), ("sigma", "free", "logit-normal")]
    assert {word[1] for word in words} == {"exact", "free"}
    assert passes(found, data)
    families, elbos = sweeps(found, start(found), 80, ("tau", "sigma", "mu + e"))
    assert np.diff(elbos).min() >= -1e-10 * np.abs(elbos).max()
    x, w = np.polynomial.hermite_e.hermegauss(60)
    w = w / w.sum()
    columns = np.eye(12)[data["g"]]

    def scale(own, ends):
        u = own[0] + np.exp(own[1]) * x
        volume = w @ (-np.logaddexp(0, -u) - np.logaddexp(0, u)) + own[1] + 0.5 * np.log(2 * np.pi) + 0.5
        return ends[0] + (ends[1] - ends[0]) / (1 + np.exp(-u)), volume  # the prior is minus the log of the length

    def elbo(own):
        (tau, more), (sigma, rest) = scale(own[:2], (0.0, 5.0)), scale(own[2:], (0.1, 10.0))
        weight, one, two = w @ sigma**-2.0, w @ tau, w @ tau**2
        design = np.column_stack([np.ones(60), one * columns])
        precision = weight * (design.T @ design + np.diag([0, *(two - one**2) * columns.sum(0)]))
        precision += np.diag([0.01, *np.ones(12)])
        mean = np.linalg.solve(precision, weight * design.T @ data["y"])
        fit = 0.5 * (weight * data["y"] @ data["y"] - mean @ precision @ mean) + 60 * (w @ np.log(sigma))
        constant = 0.5 * np.log(0.01) - 30 * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(precision)[1]
        return constant - fit + more + rest, mean, precision

    at = []
    for name in ("tau", "sigma"):
        family = families[name]
        precision = float(np.asarray(family.precision)[0])
        at += [float(np.asarray(family.h)[0]) / precision, -0.5 * np.log(precision)]
    value, mean, precision = elbo(np.array(at))
    assert elbos[-1] == pytest.approx(value, rel=1e-8)
    slope = optimize.approx_fprime(at, lambda own: elbo(own)[0], 1e-6)
    np.testing.assert_allclose(slope, 0.0, atol=1e-4)
    q = Product(families, found, None)  # type: ignore[arg-type]
    np.testing.assert_allclose(np.append(q.means["mu"], q.means["e"]), mean, rtol=1e-5, atol=1e-7)
    sds = np.sqrt(np.diag(np.linalg.inv(precision)))
    np.testing.assert_allclose(np.append(q.sds["mu"], q.sds["e"]), sds, rtol=1e-5)


@pytest.mark.slow
def test_integrals_and_gibbs_chains_over_scales_on_intervals_against_a_grid():
    """Twelve groups of five: sums of squares within and between groups say all about the two scales."""
    data = _grouped()
    tau, sigma = np.linspace(0.005, 3.0, 300), np.linspace(0.2, 1.0, 200)
    groups = data["y"].reshape(5, 12).mean(0)
    within, between = ((data["y"] - groups[data["g"]]) ** 2).sum(), 5 * ((groups - groups.mean()) ** 2).sum()
    log_p = 0.0
    for square, count, variance in (
        (within, 48, sigma**2),
        (between, 11, sigma**2 + 5 * tau[:, None] ** 2),
        (60 * groups.mean() ** 2, 1, sigma**2 + 5 * tau[:, None] ** 2 + 6000),
    ):
        log_p = log_p - 0.5 * square / variance - 0.5 * count * np.log(variance)
    p = np.exp(log_p - np.max(log_p)).sum(1)
    mean = (p * tau).sum() / p.sum()
    sd = np.sqrt((p * (tau - mean) ** 2).sum() / p.sum())
    for engine, error in ((jn.CoordinateAscent(), 0.1), (jn.Gibbs(), 0.2)):
        found = jn.fit(uniform_scales, engine=engine, data=data)
        assert abs(found.mean["tau"] - mean) < error * sd
        assert abs(found.sd["tau"] / sd - 1) < error


def _gamma(family):
    return float(family.concentration), 0.0, 1.0 / float(family.rate)


def blend(X, y):
    share = sample("share", dist.Dirichlet(jnp.array([2.0, 1.0, 3.0])))
    tau = sample("tau", dist.Gamma(2.0, 1.0))
    sample("y", dist.Normal(X @ share, tau**-0.5), obs=y)


def test_shares_in_a_regression_against_a_grid_of_the_simplex():
    X = RNG.normal(size=(60, 3))
    y = X @ np.array([0.2, 0.5, 0.3]) + 0.7 * RNG.normal(size=60)
    q, _ = _best(blend, {"X": X, "y": y})
    assert [(f.update, f.family) for f in q.plan.findings] == [
        ("natural gradient", "logistic-normal"),
        ("exact", "Gamma"),
    ]
    a, b = (np.indices((400, 400)).reshape(2, -1) + 0.5) / 400
    theta = np.stack([a, b, 1 - a - b], 1)[a + b < 1]
    square = ((y - theta @ X.T) ** 2).sum(1)
    log_p = stats.dirichlet([2.0, 1.0, 3.0]).logpdf(theta.T) - 32.0 * np.log(1.0 + 0.5 * square)
    p = np.exp(log_p - log_p.max())
    p = p / p.sum()
    sd = np.sqrt(p @ (theta - p @ theta) ** 2)
    np.testing.assert_allclose(q.means["share"], p @ theta, atol=0.05 * sd.min())
    np.testing.assert_allclose(q.sds["share"], sd, rtol=0.05)
    # In the model's own space log q integrates to one, and log p is the model's.
    values = {"share": theta, "tau": np.full(len(theta), 2.0)}
    log_q = q.log_prob_values(values) - stats.gamma.logpdf(2.0, *_gamma(q.families["tau"]))
    assert np.exp(log_q).sum() / 400**2 == pytest.approx(1.0, abs=1e-3)
    some = {name: x[::20_000] for name, x in values.items()}
    rows = stats.norm.logpdf(y, some["share"] @ X.T, 2.0**-0.5).sum(1) + stats.gamma.logpdf(2.0, 2.0)
    np.testing.assert_allclose(q.log_joint(some), rows + stats.dirichlet([2.0, 1.0, 3.0]).logpdf(some["share"].T))


def test_positive_coefficients_are_averaged_over_and_products_of_shares_with_them():
    def effects(X, k, y):
        share = sample("share", dist.Dirichlet(jnp.ones(3)).expand([4]))
        b = sample("b", dist.HalfNormal(2.0).expand([3]))
        tau = sample("tau", dist.Gamma(2.0, 1.0))
        sample("k", dist.Multinomial(20, share), obs=k)
        sample("y", dist.Normal(share @ b + X @ b, tau**-0.5), obs=y)

    data = {"X": RNG.normal(size=(4, 3)), "k": RNG.multinomial(20, [0.2, 0.3, 0.5], 4) * 1.0, "y": Y[:4]}
    found = make(effects, data)
    words = [(f.site, f.update, f.family) for f in found.findings]
    assert words == [
        ("share", "natural gradient", "logistic-normal"),
        ("b", "free", "log-normal"),
        ("tau", "exact", "Gamma"),
    ]
    assert passes(found, data)


def test_a_beta_that_is_read_otherwise_is_free_and_its_precision_exact():
    lag, y = Y[:-1] - 2.0, 0.6 * (Y[:-1] - 2.0) + 0.5 * Y[1:] - 1.0
    q, _ = _best(autoregression, {"lag": lag, "y": y})
    assert [(f.update, f.family) for f in q.plan.findings] == [("free", "logit-normal"), ("exact", "Gamma")]
    rho = np.linspace(1e-4, 1 - 1e-4, 4001)
    square = ((y - rho[:, None] * lag) ** 2).sum(1)
    log_p = stats.beta.logpdf(rho, 2, 2) - (2.0 + len(y) / 2) * np.log(1.0 + 0.5 * square)
    p = np.exp(log_p - log_p.max())
    mean = (p * rho).sum() / p.sum()
    sd = np.sqrt((p * (rho - mean) ** 2).sum() / p.sum())
    assert abs(q.means["rho"] - mean) < 0.03 * sd
    assert abs(q.sds["rho"] / sd - 1) < 0.03
    draws = q.values(np.random.default_rng(0), 4000)["rho"]
    assert abs(draws.mean() - mean) < 0.1 * sd
