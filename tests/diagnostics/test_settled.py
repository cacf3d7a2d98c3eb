"""Evidence on synthetic chains whose answer is known."""

import numpy as np
import pytest

from jensen.diagnostics.settled import LIMITS, Settled, coupled, means_settled, measure, sds_settled, winsorize

STEPS, CHAINS = 16, 128


def rng(seed=0):
    return np.random.default_rng(seed)


def mixed(seed=0, quantities=3):
    return rng(seed).standard_normal((STEPS, CHAINS, quantities))


def verdicts(x, before=None):
    evidence = measure(x, before)
    return means_settled(evidence), sds_settled(evidence), evidence


@pytest.mark.parametrize("seed", range(5))
def test_well_mixed_chains_pass(seed):
    before = measure(mixed(100 + seed), None)
    means, sds, evidence = verdicts(mixed(seed), before)
    assert means.all()
    assert sds.all()
    np.testing.assert_allclose(evidence.between, 1 / STEPS, atol=0.03)
    np.testing.assert_allclose(evidence.se, 1 / np.sqrt(STEPS * CHAINS), rtol=0.3)
    np.testing.assert_allclose(evidence.sel, 1 / np.sqrt(2 * STEPS * CHAINS), rtol=0.6)


def test_location_and_scale_do_not_matter():
    x = mixed()
    one, other = measure(x, None), measure(1e6 + 1e-3 * x, None)
    for name in ("between", "se", "sel", "drift_mean", "drift_sd"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-4, atol=1e-6)


def test_chains_that_do_not_move_fail():
    x = np.repeat(rng().standard_normal((1, CHAINS, 2)), STEPS, 0)
    means, sds, evidence = verdicts(x)
    assert not means.any()
    assert not sds.any()
    np.testing.assert_allclose(evidence.between, 1, rtol=1e-12)


def test_chains_that_drift_together_fail_although_they_overlap():
    x = mixed() + np.linspace(0, 1.5, STEPS)[:, None, None]
    means, _, evidence = verdicts(x)
    assert not means.any()
    assert (evidence.between < LIMITS["between"]).all()  # only the drift sees it


def test_a_drift_between_stages_is_seen():
    before = measure(mixed(1) - 0.4, None)
    means, _, _ = verdicts(mixed(2), before)
    assert not means.any()


def test_widening_chains_fail_in_their_sds_only():
    x = mixed() * np.linspace(0.5, 2, STEPS)[:, None, None]
    means, sds, _ = verdicts(x)
    assert means.all()
    assert not sds.any()


def test_an_sd_that_changed_since_the_last_stage_is_seen():
    before = measure(0.7 * mixed(1), None)
    means, sds, _ = verdicts(mixed(2), before)
    assert means.all()
    assert not sds.any()


def test_two_groups_of_chains_that_disagree_fail():
    x = mixed()
    x[:, : CHAINS // 2] += 6
    means, sds, _ = verdicts(x)
    assert not means.any()
    assert not sds.any()


def test_quantities_are_judged_one_by_one():
    x = mixed()
    x[..., 1] = x[0, :, 1]
    means, sds, _ = verdicts(x)
    assert means.tolist() == [True, False, True]
    assert sds.tolist() == [True, False, True]


def test_slowly_mixing_chains_are_not_known_well_enough():
    """Autocorrelation 0.9: sixteen transitions are about one effective draw a chain."""
    noise, x = mixed(quantities=1), np.empty((STEPS, CHAINS, 1))
    x[0] = noise[0]
    for t in range(1, STEPS):
        x[t] = 0.9 * x[t - 1] + np.sqrt(1 - 0.81) * noise[t]
    means, _, evidence = verdicts(x)
    assert evidence.between[0] > LIMITS["between"]
    assert not means.any()


def test_constants_pass_and_give_no_warning():
    means, sds, evidence = verdicts(np.full((STEPS, CHAINS, 1), 3.7))
    assert means.all()
    assert sds.all()
    assert evidence.sd[0] == 0


def test_what_is_not_finite_fails():
    x = mixed()
    x[..., 0] = np.inf
    x[3, 5, 1] = np.nan
    with np.errstate(invalid="ignore"):
        means, sds, _ = verdicts(x)
    assert means.tolist() == [False, False, True]
    assert sds.tolist() == [False, False, True]


def test_moments_are_those_of_the_pooled_draws():
    x = 5 + 2 * mixed()
    evidence = measure(x, None)
    np.testing.assert_allclose(evidence.mean, x.mean((0, 1)))
    np.testing.assert_allclose(evidence.sd, x.std((0, 1)))


def test_winsorize_leaves_normal_draws_alone_and_pulls_heavy_tails_in():
    x = mixed(quantities=2)
    np.testing.assert_array_equal(winsorize(x), x)
    wild = x.copy()
    wild[3, :64, 0] = 1e9  # a tail that half of the chains visit
    wild[4, 64:, 0] = -np.inf
    given = wild.copy()
    pulled = winsorize(wild)
    assert pulled[..., 0].max() < 9
    assert pulled[..., 0].min() > -9
    np.testing.assert_array_equal(pulled[..., 1], x[..., 1])
    np.testing.assert_array_equal(wild, given)


def test_winsorize_always_pulls_draws_without_chains_in():
    x = mixed(quantities=1).reshape(-1, 1)
    x[0, 0] = 1e9
    assert winsorize(x)[0, 0] == pytest.approx(6, abs=0.5)


def test_a_lost_chain_is_no_heavy_tail():
    """One chain far out counts in full: it was not pulled in, and the quantity fails."""
    x = mixed(quantities=1)
    x[:, 0] += 200
    means, _, _ = verdicts(x)
    assert not means.any()


def test_half_cauchy_tails_do_not_decide():
    x = np.abs(rng().standard_cauchy((STEPS, CHAINS, 1)))
    means, _, evidence = verdicts(x)
    assert np.isfinite(evidence.sd[0])
    assert means.all()


def _pairs():
    a = rng(7).standard_normal((4000, 6))
    x = a.copy()
    x[:, 1] = 0.8 * a[:, 0] + 0.6 * a[:, 1]  # correlated with 0
    x[:, 2] = a[:, 2] * np.exp(a[:, 0])  # uncorrelated with 0, but its width follows it
    x[:, 3] = a[:, 0] ** 2 + 0.3 * a[:, 3]  # moves with the square of 0
    return x


def test_coupling_is_seen_in_values_and_in_squares():
    x = _pairs()
    found = coupled(x, np.array([True, False, False, False, False, False]))
    assert found.tolist() == [True, True, True, True, False, False]


def test_nothing_unsettled_nothing_coupled():
    assert not coupled(_pairs(), np.zeros(6, bool)).any()


def test_unsettled_constants_count_as_themselves_only():
    x = np.concatenate([np.ones((100, 1)), rng().standard_normal((100, 1))], axis=1)
    assert coupled(x, np.array([True, False])).tolist() == [True, False]


def test_evidence_is_a_record_of_arrays():
    evidence = measure(mixed(), None)
    assert isinstance(evidence, Settled)
    assert {np.shape(value) for value in vars(evidence).values()} == {(3,)}


def slow(seed, quantities, share=0.9):
    """Settled chains with autocorrelation: x_t = share x_(t - 1) + noise."""
    x = np.empty((60, CHAINS, quantities))
    x[0] = rng(seed).standard_normal(x[0].shape)
    for t, noise in enumerate(rng(seed + 1).standard_normal(x[1:].shape), 1):
        x[t] = share * x[t - 1] + np.sqrt(1 - share**2) * noise
    return x


def test_of_hundreds_of_settled_quantities_none_is_refused_by_chance():
    x = slow(0, 400)
    means, sds, _ = verdicts(x)
    alone = [measure(x[..., [k]], None).drift_mean[0] for k in range(x.shape[-1])]
    assert max(alone) > LIMITS["drift"]  # which would be refused if it were alone
    assert means.all()
    assert sds.all()
    x[30:, :, 7] += 0.6
    means, _, _ = verdicts(x)
    assert list(np.flatnonzero(~means)) == [7]
