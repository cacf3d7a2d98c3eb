"""Gaussian hidden Markov models against hmmlearn, closed forms, and the chains of families/markov.py."""

import numpy as np
import pytest
from hmmlearn import _hmmc, hmm, vhmm
from scipy import stats
from scipy.special import gammaln
from sklearn.exceptions import ConvergenceWarning

from jensen.estimators import GaussianHMM
from jensen.estimators.emissions import TYPES
from jensen.estimators.hmm import _firsts, _smooth
from jensen.kernels.chains import smooth

ALL = pytest.mark.parametrize("kind", list(TYPES))
LENGTHS = [60, 140]


def rows(n=200, k=3, p=2, seed=0, apart=3.0):
    rng = np.random.default_rng(seed)
    z, means = [0], apart * rng.normal(size=(k, p))
    for _ in range(n - 1):
        z.append(z[-1] if rng.random() < 0.9 else int(rng.integers(k)))
    return means[z] + rng.normal(size=(n, p)), np.array(z)


# With one column all four types are the same model but for the tie, and hmmlearn's Wishart is our Gamma.
@pytest.mark.parametrize(("kind", "p"), [("full", 2), ("tied", 2), ("diag", 1), ("spherical", 1)])
def test_elbo_is_hmmlearns_at_every_sweep(kind, p):
    x, _ = rows(p=p)
    ours = GaussianHMM(3, kind, random_state=0, n_iter=15, tol=1e-12)
    with pytest.warns(ConvergenceWarning):
        ours.fit(x, lengths=LENGTHS)
    first = _firsts(LENGTHS, len(x))
    prior = ours._prior(x)
    q = ours._begin(x, first, prior)
    theirs = vhmm.VariationalGaussianHMM(3, "tied" if kind == "tied" else "full", n_iter=15, tol=1e-12, init_params="")
    number = float if kind == "tied" else np.array
    for name, record in (("prior", prior), ("posterior", q)):
        scale = record.emissions.scale
        setattr(theirs, f"startprob_{name}_", record.start)
        setattr(theirs, f"transmat_{name}_", record.steps)
        setattr(theirs, f"means_{name}_", record.emissions.mean)
        setattr(theirs, f"beta_{name}_", record.emissions.beta)
        setattr(theirs, f"dof_{name}_", number(record.emissions.dof))
        setattr(theirs, f"scale_{name}_", scale if kind in ("full", "tied") else scale.reshape(3, 1, 1))
    theirs.n_features = p
    theirs.fit(x, LENGTHS)
    theirs_elbo = np.array(theirs.monitor_.history) - len(x) * p / 2 * np.log(2 * np.pi)  # which they leave out
    np.testing.assert_allclose(ours.elbo_[: len(theirs_elbo)], theirs_elbo, rtol=1e-11)


@ALL
def test_one_state_has_the_exact_evidence(kind):
    """With one state the posterior is exact, and the ELBO is a product of Student-t predictive densities."""
    x, _ = rows(25, p=2)
    fit = GaussianHMM(1, kind).fit(x)
    prior = fit._prior(x).emissions
    post = prior.update(x, np.ones((len(x), 1)))
    n, p = x.shape
    means = p / 2 * np.log(prior.beta[0] / post.beta[0]) - n * p / 2 * np.log(2 * np.pi)
    if kind in ("full", "tied"):
        from scipy.special import multigammaln

        def norm(dof, scale):
            return (
                multigammaln(float(np.squeeze(dof)) / 2, p)
                - float(np.squeeze(dof)) / 2 * np.linalg.slogdet(scale / 2)[1]
            )

        scales = [np.reshape(r.scale, (p, p)) for r in (post, prior)]
        precisions = norm(post.dof, scales[0]) - norm(prior.dof, scales[1])
    else:
        a, a0 = np.squeeze(post.dof) / 2, np.squeeze(prior.dof) / 2
        each = gammaln(a) - gammaln(a0) + a0 * np.log(prior.scale / 2) - a * np.log(post.scale / 2)
        precisions = each.sum()
    assert fit.elbo_[-1] == pytest.approx(means + precisions, abs=1e-9)


@ALL
def test_elbo_never_falls_and_states_are_found(kind):
    x, z = rows(seed=1)
    fit = GaussianHMM(3, kind, random_state=0).fit(x, lengths=LENGTHS)
    assert fit.converged_
    assert (np.diff(fit.elbo_) >= -1e-9).all()
    path = fit.predict(x, LENGTHS)
    # Each found state is one true state.
    assert sum(np.bincount(z[path == k]).max() for k in np.unique(path)) > 0.95 * len(z)


@ALL
def test_scores_and_paths_are_hmmlearns(kind):
    x, _ = rows()
    fit = GaussianHMM(3, kind, random_state=0).fit(x, lengths=LENGTHS)
    theirs = hmm.GaussianHMM(3, "full")
    theirs.n_features = 2
    theirs.startprob_, theirs.transmat_, theirs.means_, theirs.covars_ = (
        fit.startprob_,
        fit.transmat_,
        fit.means_,
        fit.covars_,
    )
    assert fit.score(x, lengths=LENGTHS) == pytest.approx(theirs.score(x, LENGTHS), rel=1e-12)
    np.testing.assert_allclose(fit.predict_proba(x, LENGTHS), theirs.predict_proba(x, LENGTHS), atol=1e-10)
    for algorithm in ("viterbi", "map"):
        ours, path = fit.decode(x, LENGTHS, algorithm)
        want, want_path = theirs.decode(x, LENGTHS, algorithm)
        assert ours == pytest.approx(want, rel=1e-11)
        np.testing.assert_array_equal(path, want_path)


def test_impossible_transitions_go_through_logarithms():
    rng = np.random.default_rng(0)
    levels, first = rng.normal(size=(12, 2)), _firsts([5, 7], 12)
    start, steps = np.log([0.5, 0.5]), np.log([[0.9, 0.1], [0.2, 0.8]])
    direct = smooth(levels + np.where(first[:, None], start, 0), steps, first)
    steps[0, 1] = -800.0
    levels[8] = -1000.0, 0.0  # which leaves no other way than through that transition, or from level 1 on
    got = _smooth(levels, start, steps, first)
    log_z, probs = 0.0, []
    for part in np.split(levels, [5]):
        z, forward = _hmmc.forward_log(np.exp(start), np.exp(steps), part)
        log_z += z
        probs.append(np.exp(forward + _hmmc.backward_log(np.exp(start), np.exp(steps), part) - z))
    np.testing.assert_allclose(got.probs, np.concatenate(probs), atol=1e-12)
    assert got.log_z == pytest.approx(log_z, rel=1e-12)
    assert got.steps.sum() == pytest.approx(direct.steps.sum())


def test_samples_and_odd_data():
    x, _ = rows()
    fit = GaussianHMM(3, "full", random_state=0).fit(x)
    drawn, states = fit.sample(4000, random_state=0, currstate=1)
    assert states[0] == 1
    for k in range(3):
        own = drawn[states == k]
        np.testing.assert_allclose(own.mean(0), fit.means_[k], atol=5 * np.sqrt(fit.covars_[k].max() / len(own)))
    moved = GaussianHMM(3, "full", random_state=0).fit(1e6 + 1e3 * x)
    np.testing.assert_array_equal(moved.predict(1e6 + 1e3 * x), fit.predict(x))
    odd = np.c_[x, x[:, 0], np.ones(len(x))]
    assert np.isfinite(GaussianHMM(2, "full", random_state=0).fit(odd).elbo_).all()
    assert np.isfinite(GaussianHMM(1, "full").fit(np.random.default_rng(0).normal(size=(4, 9))).elbo_).all()
    # Emissions are Gaussian: with one state the score is the density of independent rows.
    one = GaussianHMM(1, "diag").fit(x)
    assert one.score(x) == pytest.approx(stats.multivariate_normal(one.means_[0], one.covars_[0]).logpdf(x).sum())


def test_refusals():
    x, _ = rows()
    with pytest.raises(ValueError, match="lengths=... goes by name"):
        GaussianHMM(2).fit(x, LENGTHS)
    with pytest.raises(ValueError, match="sum to the number of rows"):
        GaussianHMM(2).fit(x, lengths=[10, 20])
    with pytest.raises(ValueError, match="as many rows"):
        GaussianHMM(5).fit(x[:3])
    with pytest.raises(ValueError, match="dof_prior must exceed"):
        GaussianHMM(2, "full", dof_prior=0.5).fit(x)
    with pytest.raises(ValueError, match="transmat_prior must fill"):
        GaussianHMM(2, transmat_prior=np.ones(3)).fit(x)
