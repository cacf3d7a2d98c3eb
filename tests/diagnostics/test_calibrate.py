"""Calibrated weights: Stein's identities hold on the sample, and moments get better, never worse."""

import numpy as np
import pytest

from jensen.diagnostics.calibrate import weights

DIM = 3
FACTOR = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [-0.5, 0.2, 2.0]])
MEAN = np.array([1.0, -2.0, 30.0])
COV = FACTOR @ FACTOR.T


def gaussian(n, seed):
    z = MEAN + np.random.default_rng(seed).standard_normal((n, DIM)) @ FACTOR.T
    return z, -(z - MEAN) @ np.linalg.inv(COV)


@pytest.mark.parametrize("n", [30, 100, 600, 4000])
def test_weights_are_positive_and_sum_to_one(n):
    w = weights(*gaussian(n, 0))
    assert w.shape == (n,)
    assert (w > 0).all()
    assert w.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_steins_identities_hold_under_the_weights(seed):
    z, gradient = gaussian(2000, seed)
    w = weights(z, gradient)
    assert np.abs(z.mean(0) - MEAN).max() > 1e-3  # the sample alone does not obey them
    np.testing.assert_allclose(w @ gradient, 0, atol=1e-3)
    np.testing.assert_allclose((w @ z - MEAN) / np.sqrt(np.diagonal(COV)), 0, atol=1e-3)


def test_errors_of_means_and_sds_fall_for_a_gaussian():
    plain, calibrated, plain_sd, calibrated_sd = [], [], [], []
    for seed in range(20):
        z, gradient = gaussian(1000, seed)
        w = weights(z, gradient)
        sd = np.sqrt(np.diagonal(COV))
        plain.append((z.mean(0) - MEAN) / sd)
        calibrated.append((w @ z - MEAN) / sd)
        plain_sd.append(z.std(0) / sd - 1)
        calibrated_sd.append(np.sqrt(w @ (z - w @ z) ** 2) / sd - 1)
    assert np.abs(calibrated).mean() < 0.1 * np.abs(plain).mean()
    assert np.abs(calibrated_sd).mean() < 0.4 * np.abs(plain_sd).mean()


def test_errors_fall_for_a_skewed_target():
    """Gamma(6), on the log scale as the engine sees it."""
    plain, calibrated = [], []
    for seed in range(40):
        z = np.log(np.random.default_rng(seed).gamma(6, size=(500, 1)))
        w = weights(z, 6 - np.exp(z))
        plain.append(np.exp(z).mean() - 6)
        calibrated.append(w @ np.exp(z[:, 0]) - 6)
    assert np.abs(calibrated).mean() < 0.7 * np.abs(plain).mean()


def test_few_draws_for_the_dimension_get_equal_weights():
    rng = np.random.default_rng(0)
    w = weights(rng.standard_normal((100, 20)), rng.standard_normal((100, 20)))
    np.testing.assert_array_equal(w, 1 / 100)


def test_degenerate_draws_get_equal_weights():
    z = np.zeros((100, 2))
    np.testing.assert_array_equal(weights(z, np.zeros((100, 2))), 1 / 100)


def test_no_force_gives_equal_weights():
    z = np.random.default_rng(0).standard_normal((500, 2))
    np.testing.assert_allclose(weights(z, np.zeros((500, 2))).sum(), 1)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_scale_does_not_matter(scale):
    z, gradient = gaussian(1000, 0)
    np.testing.assert_allclose(weights(scale * z, gradient / scale), weights(z, gradient), rtol=1e-6)


@pytest.mark.parametrize("cut", [0.5, 1.0, 2.0])
def test_a_density_that_jumps_to_zero_does_not_obey_stein_and_is_left_alone(cut):
    """N(0, 1) on (-cut, infinity): E[grad log p] is the density at the jump, not zero; forcing it to zero moves the mean."""
    from scipy.stats import truncnorm

    exact = truncnorm(-cut, np.inf)
    for seed in range(3):
        z = exact.rvs(size=(2000, 1), random_state=seed)
        w = weights(z, -z)
        mean = w @ z[:, 0]
        sd = np.sqrt(w @ (z[:, 0] - mean) ** 2)
        assert abs(mean - exact.mean()) / exact.std() < 0.1
        assert sd / exact.std() == pytest.approx(1, abs=0.1)
