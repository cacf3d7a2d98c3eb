"""The quick ones of scikit-learn's own tests, with our class in the place of theirs.

All of them: ``python -m benchmarks.estimators_mixture_tests``; the outcome is in docs/estimators_mixture.md.
"""

import warnings

import pytest
from sklearn.mixture.tests import test_bayesian_mixture as theirs

from jensen.estimators.mixture import BayesianGaussianMixture

QUICK = (
    "test_bayesian_mixture_weights_prior_initialisation",
    "test_bayesian_mixture_mean_prior_initialisation",
    "test_bayesian_mixture_precisions_prior_initialisation",
    "test_bayesian_mixture_check_is_fitted",
    "test_bayesian_mixture_weights",
    "test_bayesian_mixture_predict_predict_proba",
)


@pytest.mark.parametrize("name", QUICK)
def test_of_scikit_learn(name, monkeypatch):
    monkeypatch.setattr(theirs, "BayesianGaussianMixture", BayesianGaussianMixture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(theirs, name)()
