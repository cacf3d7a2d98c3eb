"""From evidence to words: each rule alone, on evidence made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from jensen.diagnostics import verdict
from jensen.diagnostics.correct import Correction
from jensen.diagnostics.modes import Mode
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.settled import Settled
from jensen.diagnostics.verdict import Verdict
from jensen.families.fullrank import DenseGaussian

NAMES = ["a", "b", "c"]
EVEN = np.zeros(500)
ROUGH = np.random.default_rng(0).standard_normal(500)
NO_SHIFT = np.zeros(3)
FAR = Mode(DenseGaussian(np.full(3, 9.0), np.eye(3)), 0.25)


def evidence(**changes):
    values = {
        "mean": np.array([0.0, 10.0, -5.0]),
        "sd": np.array([1.0, 2.0, 0.1]),
        "between": np.full(3, 0.07),
        "se": np.full(3, 0.02),
        "sel": np.full(3, 0.02),
        "drift_mean": np.full(3, -0.01),
        "drift_sd": np.full(3, -0.01),
    }
    return Settled(**values | changes)


def correction(**changes):
    draws = Draws(np.zeros((4, 3)), np.zeros(4), {}, {})
    ok = np.ones(3, bool)
    return replace(Correction(draws, np.full(4, 0.25), evidence(), ok, ok, 0.8, 2, 1.0, ""), **changes)


def sentences(found: Verdict):
    for text in (*found.reasons, found.advice):
        assert text == text.strip()
        assert "\n" not in text
    assert found.reasons
    assert found.advice


def test_constant_weights_and_one_mode_are_trusted():
    found = verdict.judge_by_weights(NAMES, EVEN, (), NO_SHIFT)
    sentences(found)
    assert found.words == ("trusted",) * 3
    assert found.overall == "trusted"
    assert found.about == "q"
    assert found.advice == "Use it."


def test_rough_weights_without_chains_are_not():
    found = verdict.judge_by_weights(NAMES, ROUGH, (), NO_SHIFT)
    sentences(found)
    assert found.overall == "do not use"
    assert "no chains were run" in found.reasons[0]


def test_a_draw_of_density_zero_is_infinitely_rough():
    assert verdict.spread(np.array([0.0, -np.inf, 0.0])) == np.inf
    assert verdict.spread(np.array([0.0, np.nan])) == np.inf
    assert verdict.judge_by_weights(NAMES, np.array([0.0, -np.inf]), (), NO_SHIFT).overall == "do not use"


def test_another_mode_counts_against_what_it_moves():
    shifts = verdict.mode_shifts(np.zeros(3), np.ones(3), (FAR,), [np.array([9.0, 0.1, 0.0])])
    np.testing.assert_allclose(shifts, [0.25 * 9, 0.025, 0])
    found = verdict.judge_by_weights(NAMES, EVEN, (FAR,), shifts)
    sentences(found)
    assert found.words == ("do not use", "trusted", "trusted")
    assert found.overall == "do not use"
    assert any("25.0% of the posterior mass" in reason for reason in found.reasons)
    assert "modes" in found.advice


def test_modes_of_constants_shift_nothing_and_divide_by_nothing():
    assert verdict.mode_shifts(np.ones(1), np.zeros(1), (FAR,), [np.ones(1)]) == [0]


def judge_fit(q_mean=None, q_sd=None, **changes):
    given = evidence()
    q_mean = given.mean if q_mean is None else q_mean
    q_sd = given.sd if q_sd is None else q_sd
    found = verdict.judge_fit(NAMES, q_mean, q_sd, correction(**changes), ROUGH, (), NO_SHIFT)
    sentences(found)
    return found


def test_a_fit_the_chains_do_not_move_is_trusted():
    assert judge_fit().words == ("trusted",) * 3


def test_a_mean_the_chains_move_is_not():
    found = judge_fit(q_mean=np.array([0.0, 10.6, -5.0]))
    assert found.words == ("trusted", "do not use", "trusted")
    assert "b: chains started from q move its mean by 0.30 sd" in found.reasons[0]
    assert "method='auto'" in found.advice


def test_an_sd_that_is_too_small_leaves_the_mean():
    found = judge_fit(q_sd=np.array([0.4, 2.0, 0.1]))
    assert found.words == ("means only", "trusted", "trusted")
    assert found.overall == "means only"


def test_unsettled_chains_know_nothing():
    found = judge_fit(evidence=evidence(between=np.array([0.07, 0.45, 0.07])))
    assert found.words == ("trusted", "do not use", "trusted")


def test_lost_chains_condemn_everything():
    given = evidence(between=np.array([0.9, 0.07, 0.07]), mean=np.array([3.0, 10.0, -5.0]))
    found = judge_fit(q_mean=np.array([0.0, 10.0, -5.0]), evidence=given)
    assert found.words == ("do not use",) * 3
    assert any("far from settled" in reason for reason in found.reasons)


def test_chains_that_hardly_move_know_nothing():
    assert judge_fit(acceptance=0.1).words == ("do not use",) * 3


@pytest.mark.parametrize("noise", [0.0, 1e-16, 3e-14])
def test_constants_are_not_condemned_for_their_last_digits(noise):
    given = evidence(mean=np.array([0.3, 10.0, 1e5]), sd=np.array([noise, 2.0, 1e5 * noise]))
    q_mean, q_sd = given.mean * (1 + np.array([3 * noise, 0, -3 * noise])), np.array([0.0, 2.0, 2e5 * noise])
    assert judge_fit(q_mean, q_sd, evidence=given).words == ("trusted",) * 3


def judge_corrected(modes=(), shifts=NO_SHIFT, **changes):
    found = verdict.judge_corrected(NAMES, correction(**changes), ROUGH, modes, shifts)
    sentences(found)
    return found


def test_a_settled_correction_is_trusted():
    found = judge_corrected()
    assert found.words == ("trusted",) * 3
    assert found.about == "the corrected answer"
    assert found.advice == "Use it."
    assert "2 stages of short chains" in found.reasons[0]


def test_refused_sds_and_means_are_told_apart():
    found = judge_corrected(mean_ok=np.array([True, True, False]), sd_ok=np.array([True, False, True]))
    assert found.words == ("trusted", "means only", "do not use")
    assert found.counts == "1 trusted, 1 means only, 1 do not use"
    assert found.overall == "do not use"


def test_the_advice_names_the_worst_quantity():
    given = evidence(between=np.array([0.5, 0.8, 0.1]))
    found = judge_corrected(evidence=given, mean_ok=np.array([False, False, True]), guard="the chains have not settled")
    assert "at b" in " ".join(found.reasons)
    assert "b" in found.advice.split()[1]
    assert found.reasons[1].startswith("the chains have not settled")


def test_modes_count_against_a_settled_correction_too():
    found = judge_corrected(modes=(FAR,), shifts=np.array([2.0, 0.0, 0.01]))
    assert found.words == ("do not use", "trusted", "trusted")


def test_unfinished_is_not_to_be_used():
    found = verdict.unfinished(NAMES, "the fit was interrupted", EVEN)
    sentences(found)
    assert found.words == ("do not use",) * 3
    assert found.reasons == ("the fit was interrupted",)
    assert "refine" in found.advice


def test_the_table_has_a_row_a_quantity():
    table = judge_corrected(mean_ok=np.array([True, True, False])).table
    assert list(table.index) == NAMES
    assert list(table["verdict"]) == ["trusted", "trusted", "do not use"]
    assert {dtype.name for dtype in table.drop(columns="verdict").dtypes} == {"float64"}


def test_in_words_it_says_within_the_modes_found():
    text = str(judge_corrected())
    assert "trusted" in text
    assert "within the modes found" in text
    assert text.splitlines()[-1].strip() == "-> Use it."


LAST_DIGITS = np.where(ROUGH > 0, 0.9189385332046727, np.nextafter(0.9189385332046727, 1))


@pytest.mark.parametrize(
    "weights", [EVEN, LAST_DIGITS, 1e-14 * ROUGH, ROUGH, np.where(np.arange(500) % 7, ROUGH, -np.inf)]
)
def test_khat_is_a_number_and_never_warns(weights):
    """Under `filterwarnings = error`: nothing of ArviZ's inner divisions reaches the user."""
    assert isinstance(verdict.judge_by_weights(NAMES, weights, (), NO_SHIFT).khat, float)


def test_khat_tells_light_from_heavy_weights():
    rng = np.random.default_rng(0)
    light = np.log(rng.uniform(size=2000))
    heavy = 1.2 * rng.standard_exponential(2000)  # weights with a Pareto tail of index 1.2
    khats = [verdict.judge_by_weights(NAMES, weights, (), NO_SHIFT).khat for weights in (light, heavy)]
    assert khats[0] < 0.3
    assert 0.7 < khats[1] < 1.7
