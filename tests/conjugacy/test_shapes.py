"""Shape parameters that are sites, against quadrature with all other sites integrated out."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import plate, sample
from scipy.special import gammaln, logsumexp
from scipy.stats import expon, gamma
from tests.conjugacy.checks import all_moments

import jensen as jn
from jensen.conjugate.plan import make_plan
from jensen.core.precision import scope
from jensen.engines.coordinate import CoordinateAscent
from jensen.engines.gibbs import Gibbs
from jensen.models.numpyro_graph import graph
from jensen.run import run

# Gaver and O'Muircheartaigh (1987): failures of ten pumps of a nuclear power plant, and thousands of hours.
FAILURES = np.array([5, 1, 5, 14, 3, 19, 1, 1, 4, 22])
HOURS = np.array([94.3, 15.7, 62.9, 126.0, 5.24, 31.4, 1.05, 1.05, 2.1, 10.5])
RNG = np.random.default_rng(0)
COUNTS = np.array([RNG.multinomial(30, row) for row in RNG.dirichlet(np.full(5, 2.0), 40)])


def pumps(x, t):
    alpha = sample("alpha", dist.Exponential(1.0))
    beta = sample("beta", dist.Gamma(0.1, 1.0))
    with plate("pumps", x.shape[0]):
        theta = sample("theta", dist.Gamma(alpha, beta))
        sample("x", dist.Poisson(theta * t), obs=x)


def counts_of_rows(counts):
    rows, levels = counts.shape
    a = sample("a", dist.Gamma(2.0, 1.0))
    with plate("rows", rows):
        theta = sample("theta", dist.Dirichlet(a * jnp.ones(levels)))
        sample("counts", dist.Multinomial(probs=theta, total_count=counts.sum(-1)), obs=counts)


def _moments(log_density, axes):
    """Log integral over a rectangular grid, and mean and sd of each axis's variable."""
    weights = np.exp(log_density - log_density.max())
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    total = logsumexp(log_density) + np.log(cell)
    weights /= weights.sum()
    found = []
    for number, axis in enumerate(axes):
        marginal = weights.sum(tuple(n for n in range(len(axes)) if n != number))
        mean = marginal @ axis
        found.append((mean, np.sqrt(marginal @ (axis - mean) ** 2)))
    return total, found


def _pumps():
    a, b = np.linspace(0.01, 4, 400), np.linspace(0.005, 8, 800)
    alpha, beta = np.meshgrid(a, b, indexing="ij")
    log = expon.logpdf(alpha) + gamma.logpdf(beta, 0.1)
    for x, t in zip(FAILURES, HOURS, strict=True):
        log += gammaln(alpha + x) - gammaln(alpha) - gammaln(x + 1) + x * np.log(t)
        log += alpha * np.log(beta) - (alpha + x) * np.log(beta + t)
    log_z, (shape, rate) = _moments(log, (a, b))
    return log_z, {"alpha": shape, "beta": rate}


def _rows():
    a = np.linspace(0.2, 9, 4000)
    log, n, levels = gamma.logpdf(a, 2.0), COUNTS.sum(1), COUNTS.shape[1]
    for row, total in zip(COUNTS, n, strict=True):
        log += gammaln(total + 1) - gammaln(row + 1).sum() + gammaln(levels * a) - gammaln(levels * a + total)
        log += (gammaln(a[:, None] + row) - gammaln(a[:, None])).sum(1)
    log_z, (shape,) = _moments(log, (a,))
    return log_z, {"a": shape}


CASES = {
    "gamma": (pumps, {"x": FAILURES, "t": HOURS}, _pumps, "alpha"),
    "dirichlet": (counts_of_rows, {"counts": COUNTS}, _rows, "a"),
}


@pytest.mark.parametrize("case", CASES)
def test_shape_is_free_and_all_else_exact(case):
    model, data, _, shape = CASES[case]
    found = jn.conjugacy(model, data=data)
    assert found.runs
    assert max(found.certificate.density.values()) < 1e-12
    words = {finding.site: finding.update for finding in found.findings}
    assert words.pop(shape) == "free"
    assert set(words.values()) == {"exact"}
    assert "shape parameter of theta" in repr(found)


def _fitted(case):
    model, data, truth, shape = CASES[case]
    with scope("float64"):
        target = make_plan(graph(model, data, {}), data)
        families, record = run(CoordinateAscent(), target, seed=0, progress=False)
        center = float(np.exp(all_moments(families)[shape]["mean"][0]))
    assert record.status == "converged"
    return target, families, record.history["elbo"], center, *truth()


@pytest.mark.parametrize("case", CASES)
def test_bound_agrees_with_quadrature(case):
    _, _, bounds, center, log_z, moments = _fitted(case)
    mean, sd = moments[CASES[case][3]]
    assert np.all(np.diff(bounds) > -1e-9)
    assert log_z - 1.0 < bounds[-1] < log_z  # what independence of the shape and its rows costs
    assert abs(center - mean) < 0.4 * sd


def test_gibbs_agrees_with_quadrature():
    target, families, *_, moments = _fitted("gamma")
    with scope("float64"):
        draws, _ = run(Gibbs(warmup=50, draws=400, start=families), target, seed=0, progress=False)
    for site, (mean, sd) in moments.items():
        assert abs(draws.values[site].mean() - mean) < 0.2 * sd
        assert abs(draws.values[site].std() / sd - 1) < 0.2
