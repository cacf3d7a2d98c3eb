"""The verdict by block: what it trusts is right against quadrature, and what is wrong it refuses."""

import numpy as np
import pytest

import jensen as jn
from benchmarks.structured import MODELS, conditional, data
from jensen.core.precision import scope
from jensen.diagnostics import chains, nested, quantities
from jensen.diagnostics.by_block import judge_blocks, misfits, words_by_coordinate
from jensen.diagnostics.verdict import DO_NOT_USE, MEANS_ONLY, TRUSTED
from jensen.families.structured import ArrowGaussian, plates_of


def test_groups_are_trusted_and_a_scale_that_widens_them_is_not(bernoulli):
    inputs, target, q = bernoulli
    with scope():
        z = np.asarray(q.sample(np.random.default_rng(0), 512))
        log_p, gradient = target(z)
    scores, log_w = (z, gradient), log_p - np.asarray(q.log_prob(z))
    names = quantities.names(target.model)
    verdict = judge_blocks(names, target.model, q, scores, log_w, "why")
    words = dict(zip(verdict.names, verdict.words, strict=True))
    assert np.var(log_w) > 0.1  # by weights alone nothing would be trusted
    assert words["sigma_a"] == DO_NOT_USE
    assert words["mu_a"] == words["b"] == words["a[0]"] == words["a[149]"] == TRUSTED
    # Group means given the globals at q's mean, by quadrature: the groups' own shape is all that can be wrong there.
    at = q.mean[[names.index("mu_a"), names.index("sigma_a"), names.index("b")]]
    _, mean, variance = conditional("bernoulli", inputs, at)
    own = np.array(q.plates.own)[:, 0]
    np.testing.assert_allclose(q.mean[own], mean, atol=0.1 * np.sqrt(variance.min()))


def test_misfits_are_zero_on_the_posterior_itself_and_found_in_the_block_that_is_off():
    rng = np.random.default_rng(0)
    tails = np.broadcast_to(np.eye(2), (3, 2, 2)).copy()
    plates = plates_of([0, 1], np.arange(2, 8).reshape(3, 2))
    p = ArrowGaussian(np.zeros(8), np.array([[1.0, 0.0], [0.0, 2.0]]), np.full((3, 2, 2), 0.3), tails, plates)
    precision = np.linalg.inv(p.cov)

    def of(q):
        z = np.asarray(q.sample(rng, 4000))
        return misfits(q, z, -z @ precision)

    globals, groups = of(p)
    np.testing.assert_allclose(globals, 0.0, atol=1e-20)
    np.testing.assert_allclose(groups, 0.0, atol=1e-20)
    wide = tails.copy()
    wide[1] *= 2  # r = e - 4 e: E|r|^2 = 2 * 9
    q = ArrowGaussian(p.mean, p.head, p.reach, wide, plates)
    globals, groups = of(q)
    assert groups[1] == pytest.approx(18, rel=0.1)
    np.testing.assert_allclose(groups[[0, 2]], 0.0, atol=1e-20)
    place = words_by_coordinate(q, np.diag([0.0, 0.0]), groups)
    np.testing.assert_array_equal(place, [0, 0, 0, 0, 2, 2, 0, 0])
    # A global direction that is off spoils what takes much of its variance from it.
    place = words_by_coordinate(p, np.diag([0.0, 1.0]), 0 * groups)
    assert list(place[:2]) == [0, 2]
    assert set(place[2:]) == {1}


def test_fits_too_large_for_chains_and_integrals_are_judged_by_block(monkeypatch):
    monkeypatch.setattr(chains, "PATIENCE", 0.0)
    monkeypatch.setattr(nested, "LARGEST", 0)
    with pytest.warns(jn.FitWarning, match="do not use"):
        posterior = jn.fit(MODELS["bernoulli"], "structured", data=data("bernoulli", 150), progress=False)
    assert "given the globals" in posterior.verdict.reasons[0]
    assert posterior.verdict.words.count(TRUSTED) == 152
    assert MEANS_ONLY not in posterior.verdict.words
