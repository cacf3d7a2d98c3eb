"""Learned non-centering against closed forms: conditionally Gaussian hierarchies, and the neck of eight schools by quadrature."""

import jax.numpy as jnp
import numpy as np
import pytest

import jensen as jn
from jensen.diagnostics import centering, turning

ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])


def _schools(z, power=1.0):
    """Gradient of the centered eight schools at z (n, 10) = (mu, t, theta), tau = exp(power t)."""
    mu, t, theta = z[:, :1], z[:, 1], z[:, 2:]
    tau2 = np.exp(2 * power * t)
    square = ((theta - mu) ** 2).sum(1)
    gradient = np.empty_like(z)
    gradient[:, 0] = -mu[:, 0] / 25 + (theta - mu).sum(1) / tau2
    gradient[:, 1] = power * (1 - 2 * (tau2 / 25) / (1 + tau2 / 25) - 8 + square / tau2)
    gradient[:, 2:] = -(theta - mu) / tau2[:, None] + (EFFECTS - theta) / ERRORS**2
    return gradient


def _draws(seed=0, n=2200):
    """Of no posterior: scores are what counts."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 10)) * np.append([4.0, 0.7], np.full(8, 5.0)) + np.append(
        [4.0, 1.6], np.full(8, 4.0)
    )


class _Same:
    """No map."""

    into = staticmethod(lambda z: z)
    out = staticmethod(lambda y: (y, 0.0, None))
    back = staticmethod(lambda y, tape, gradient: gradient)


@pytest.mark.parametrize("power", [1.0, 0.5, -0.5])
def test_a_hierarchy_is_taken_apart_exactly_also_where_no_draw_has_been(power):
    z = _draws()
    z[:, 1] /= power
    found = centering.learn(z, _schools(z, power))
    assert found.parents.tolist() == [1]
    layer = found.layers[0]
    assert layer.exponent == pytest.approx(power, abs=2e-3)
    share = np.sort(layer.share)
    assert share[0] == 0  # the common mean
    assert share[1] > 0.1
    # Far down the neck, and far out: what is left of the score is that of N(0, 1).
    y = np.random.default_rng(1).standard_normal((500, 10))
    y[:, 1] = np.linspace(-4, 4, 500) / power
    out, _, tape = found.out(y)
    pulled = found.back(y, tape, _schools(out, power))
    np.testing.assert_allclose(np.delete(pulled, 1, 1), -np.delete(y, 1, 1), atol=0.03)


def test_the_map_is_inverted_and_pulled_back():
    z = _draws()
    found = centering.learn(z, _schools(z))
    y = found.into(z[:40])
    back, _, tape = found.out(y)
    np.testing.assert_allclose(back, z[:40], rtol=1e-9, atol=1e-9)

    def density(z):
        mu, t, theta = z[:, :1], z[:, 1], z[:, 2:]
        prior = -0.5 * mu[:, 0] ** 2 / 25 + t - np.log1p(np.exp(2 * t) / 25)
        middle = -0.5 * ((theta - mu) ** 2).sum(1) * np.exp(-2 * t) - 8 * t
        return prior + middle - 0.5 * (((EFFECTS - theta) / ERRORS) ** 2).sum(1)

    pulled = found.back(y, tape, _schools(back))
    for j in range(10):
        step = 1e-5 * (np.arange(10) == j)
        (up, more, _), (down, less, _) = found.out(y + step), found.out(y - step)
        slope = (density(up) + more - density(down) - less) / 2e-5
        np.testing.assert_allclose(pulled[:, j], slope, rtol=1e-5, atol=1e-5)


def test_two_parents_have_a_layer_each():
    def score(z):
        s, t, a, b = z[:, 0], z[:, 1], z[:, 2:6], z[:, 6:]
        return np.column_stack(
            [
                -s - 4 + (a**2).sum(1) * np.exp(-2 * s),
                -t - 4 + (b**2).sum(1) * np.exp(-2 * t),
                -a * np.exp(-2 * s)[:, None] - (a - 1),
                -b * np.exp(-2 * t)[:, None] - (b + 1),
            ]
        )

    z = np.random.default_rng(0).standard_normal((2200, 10)) * np.append([0.6, 0.6], np.full(8, 0.8))
    found = centering.learn(z, score(z))
    assert sorted(found.parents.tolist()) == [0, 1]
    assert [each.exponent for each in found.layers] == pytest.approx([1, 1], abs=0.2)  # each is noise to the other


def test_a_scale_that_is_no_coordinate_is_found_and_its_map_is_inverted():
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((10, 10)))[0] * np.linspace(0.5, 2, 10)[:, None]
    z = _draws() @ turn.T

    def score(z):
        return _schools(np.linalg.solve(turn, z.T).T) @ np.linalg.inv(turn)

    assert centering.learn(z, score(z)) is None
    found = turning.learn(z, score(z))
    along = np.linalg.solve(found.matrix, turn)[0]  # what its first coordinate is made of
    assert abs(along[1]) > 1e3 * np.abs(np.delete(along, 1)).max()
    y = found.into(z[:40])
    back, _, tape = found.out(y)
    np.testing.assert_allclose(back, z[:40], rtol=1e-8, atol=1e-8)
    pulled = found.back(y, tape, score(back))
    assert turning.bent(found, z, score(z)) < 0.5 * turning.bent(_Same(), z, score(z))
    rest = np.setdiff1d(np.arange(10), found.parents)
    assert np.sqrt(((pulled + y)[:, rest] ** 2).mean()) < 0.05


def test_where_nothing_is_scaled_nothing_is_found():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2200, 8))
    scale = rng.standard_normal((8, 8))
    assert turning.learn(z @ scale.T, -z @ np.linalg.inv(scale)) is None
    assert turning.learn(z, -z - 0.3 * rng.standard_normal(z.shape)) is None
    assert turning.learn(z, -np.sinh(z)) is None  # skew and tails, each coordinate by itself
    few = _draws(n=60)
    assert turning.learn(few, _schools(few)) is None  # too few to tell
    assert turning.learn(z[:, :1], -z[:, :1]) is None


def test_draws_outside_of_the_support_do_not_count():
    z = _draws()
    gradient = _schools(z)
    gradient[::7] = np.nan
    assert centering.learn(z, gradient).parents.tolist() == [1]


def test_the_neck_of_eight_schools_is_reached():
    """Lower tail of log tau against quadrature: without the map 0.000 to 0.005 of the draws lie below its 5% quantile."""
    model = jn.density(
        lambda p: (
            -0.5 * (p["mu"] / 5) ** 2
            - jnp.log1p((p["tau"] / 5) ** 2)
            - 0.5 * (((p["theta"] - p["mu"]) / p["tau"]) ** 2).sum()
            - 8 * jnp.log(p["tau"])
            - 0.5 * (((EFFECTS - p["theta"]) / ERRORS) ** 2).sum()
        ),
        {"mu": 0.0, "tau": 1.0, "theta": np.zeros(8)},
        support={"tau": "positive"},
    )
    t = np.linspace(-12, 8, 4001)
    variance = ERRORS**2 + np.exp(2 * t)[:, None]
    a, b, c = (1 / variance).sum(1), (EFFECTS / variance).sum(1), (EFFECTS**2 / variance).sum(1)
    log_p = t - np.log1p(np.exp(2 * t) / 25) - 0.5 * (np.log(variance).sum(1) + np.log1p(25 * a) + c)
    log_p += 12.5 * b**2 / (1 + 25 * a)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    posterior = jn.fit(model)
    assert posterior.verdict.overall == "trusted"
    draws = np.log(np.ravel(posterior.kept.values["tau"]))
    for level, slack in ((0.01, 0.006), (0.05, 0.015), (0.25, 0.03), (0.95, 0.015)):
        at = np.interp(level, np.cumsum(p), t)
        assert posterior.weights[draws < at].sum() == pytest.approx(level, abs=slack)
    mean = p @ t
    assert posterior.weights @ draws == pytest.approx(mean, abs=0.1 * np.sqrt(p @ (t - mean) ** 2))
