"""scikit-learn's own checks, and what they leave out."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

import jensen.estimators as estimators

OURS = ("ARDRegression", "BayesianLinearRegression", "BayesianLogisticRegression", "BayesianPCA", "GaussianHMM")


def rows(n=60, p=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, p))
    return x, (x[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(int)


# Some of the checks' data interpolate, and some stop the sweeps early; both are said by warnings, tested elsewhere.
@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", OURS)
def test_check_estimator(name):
    results = check_estimator(getattr(estimators, name)(), on_skip=None)
    assert len(results) > 35
    # Array-API input is checked only where an environment variable asks for it.
    assert {r["check_name"] for r in results if r["status"] != "passed"} <= {"check_array_api_input"}


@pytest.mark.parametrize("name", OURS)
def test_pickle_clone_and_feature_names(name):
    import pandas as pd

    x, y = rows()
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    fitted = getattr(estimators, name)().fit(frame, y)
    assert list(fitted.feature_names_in_) == ["a", "b", "c"]
    method = "transform" if name == "BayesianPCA" else "predict"
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(getattr(again, method)(frame), getattr(fitted, method)(frame))
    assert not hasattr(clone(fitted), "elbo_")
    with pytest.raises(ValueError, match="NaN"):
        clone(fitted).fit(frame.mask(frame > 1), y)


def test_pca_returns_frames():
    import pandas as pd

    rng = np.random.default_rng(0)
    x = pd.DataFrame(
        rng.normal(size=(100, 1)) @ rng.normal(size=(1, 4)) + 0.1 * rng.normal(size=(100, 4)), columns=list("abcd")
    )
    out = estimators.BayesianPCA().set_output(transform="pandas").fit_transform(x)
    assert list(out.columns) == ["bayesianpca0"]


def test_names_load_when_used():
    code = (
        "import sys, jensen.estimators as e; heavy = ('numba', 'sklearn', 'jax', 'jensen.estimators.linear')\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
        "import numpy as np; e.ARDRegression().fit(np.eye(3), [0.0, 1.0, 1.0])\n"
        "assert 'jax' not in sys.modules and 'numba' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        estimators.Nothing  # noqa: B018
    assert set(OURS) <= set(dir(estimators))
