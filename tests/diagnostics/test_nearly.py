"""A quadratic through few points: exact for a normal density, right for one that is all but normal, refused where it is not."""

import numpy as np
import pytest
from scipy.special import digamma, polygamma

from jensen.diagnostics import nested
from jensen.diagnostics.few import weighted
from jensen.diagnostics.nearly import nearly_normal, points
from jensen.diagnostics.nested import Nested
from jensen.families.structured import ArrowGaussian, plates_of

P, G = 3, 3000
TURN = np.array([[1.0, 0.3, 0.0], [0.0, 0.7, -0.4], [0.2, 0.0, 1.5]])
PRECISION = TURN @ TURN.T
MEAN = np.array([0.3, -0.2, 0.1])


def rng():
    return np.random.default_rng(0)


def moments(found):
    return found.weights @ found.points, np.cov(found.points.T, bias=True)


def test_a_normal_density_and_quadratics_of_it_are_exact():
    asked = []

    def density(x):
        asked.append(len(x))
        away = x - MEAN
        return 7 - 0.5 * ((away @ PRECISION) * away).sum(1), {"square": x[:, :1] * x[:, 1:]}

    found = nearly_normal(density, np.zeros(P), np.eye(P), rng())
    mean, cov = moments(found)
    assert asked == [points(P)] == [16]
    np.testing.assert_allclose(mean, MEAN, atol=1e-9)
    np.testing.assert_allclose(cov, np.linalg.inv(PRECISION), atol=1e-9)
    np.testing.assert_allclose(found.more["square"], found.points[:, :1] * found.points[:, 1:], atol=1e-9)


def log_gamma(k):
    """Logs of Gamma variables, turned, with their sds and a factor that is a little too small."""
    mean = np.linalg.solve(TURN, np.full(P, digamma(k) - np.log(k)))
    cov = polygamma(1, k) * np.linalg.inv(TURN) @ np.linalg.inv(TURN).T

    def density(x):
        y = x @ TURN.T
        return (k * y - k * np.exp(y)).sum(1), {}

    return density, mean, cov


def test_what_is_all_but_normal_is_known_and_what_is_not_is_refused():
    density, mean, cov = log_gamma(3000.0)
    root = np.linalg.cholesky(cov)
    found = nearly_normal(density, mean + 0.1 * root.sum(1), 0.9 * root, rng())
    center, spread = moments(found)
    sd = np.sqrt(np.diag(cov))
    assert (np.abs(center - mean) / sd).max() < 0.05
    np.testing.assert_allclose(np.sqrt(np.diag(spread)) / sd, 1.0, atol=0.03)
    density, mean, cov = log_gamma(20.0)
    assert nearly_normal(density, mean, np.linalg.cholesky(cov), rng()) is None


@pytest.mark.parametrize(
    "density", [lambda x: (-(x[:, 0] ** 2) / 50, {}), lambda x: (np.log(x[:, 0]), {}), lambda x: None]
)
def test_far_from_q_or_not_finite_there_is_nothing(density):
    with np.errstate(invalid="ignore"):
        assert nearly_normal(density, np.zeros(1), np.eye(1), rng()) is None


class Normals:
    """y_i ~ N(z_i, 1), z_i ~ N(m, exp(t)), flat m and t; coordinates m, t, z."""

    batch = 8

    def __init__(self, y):
        self.y = y

    def __call__(self, z):
        m, t, own = z[:, :1], z[:, 1:2], z[:, 2:]
        away, left = (own - m) * np.exp(-2 * t), self.y - own
        log_p = (-0.5 * away * (own - m) - t - 0.5 * left**2).sum(1)
        up = np.stack([away.sum(1), (away * (own - m) - 1).sum(1)], 1)
        return log_p, np.concatenate([up, left - away], 1)


def test_thousands_of_groups_are_integrated_at_few_points():
    y = np.random.default_rng(1).normal(0.5, np.sqrt(1 + 0.8**2), G)
    m, t = y.mean(), 0.5 * np.log(y.var() - 1)
    s2 = np.exp(2 * t)
    share, sds = s2 / (1 + s2), np.array([np.sqrt((1 + s2) / G), (1 + s2) / s2 / np.sqrt(2 * G)])
    slopes = np.stack([np.full(G, 1 - share), 2 * share * (1 - share) * (y - m)], 1)[:, None]
    head, own = np.diag(0.9 * sds), m + share * (y - m)
    plates = plates_of(np.arange(2), 2 + np.arange(G)[:, None])
    q = ArrowGaussian(np.append([m, t], own), head, slopes @ head, np.full((G, 1, 1), np.sqrt(share)), plates)
    inner = Nested(Normals(y), q)
    found = nested._nearly(inner, rng(), 6000)
    # Given t everything is normal.
    ts = t + sds[1] * np.linspace(-6, 6, 201)
    wide = 1 + np.exp(2 * ts)
    log_p = -0.5 * (G - 1) * np.log(wide) - 0.5 * G * y.var() / wide
    w = np.exp(log_p - log_p.max())
    w /= w.sum()
    exact_t = np.sqrt(w @ (ts - w @ ts) ** 2)
    center, sd, _, _ = weighted(found, found.points, np.zeros_like(found.points))
    assert abs(center[1] - w @ ts) < 0.05 * exact_t
    np.testing.assert_allclose(sd, [np.sqrt(w @ wide / G), exact_t], rtol=0.03)
    shares = (wide - 1) / wide
    mean, spread, _, _ = weighted(found, found.more["mean"][..., 0], found.more["cov"][..., 0, 0])
    exact = m + (w @ shares) * (y - m)
    np.testing.assert_allclose((mean - exact) / spread, 0.0, atol=2e-3)
    assert nested._nearly(inner, rng(), 10) is None
