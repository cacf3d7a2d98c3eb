"""scikit-learn's own tests of latent Dirichlet allocation against ours; docs/estimators_topics.md explains what fails."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

INTERNAL = {"test_lda_preplexity_mismatch"}  # calls a private method of scikit-learn's class
LOGGED = {
    f"test_verbosity[{kind}-True-{n}]" for kind in ("csr_matrix", "csr_array") for n in ("0-3-0", "1-3-3", "2-3-1")
}  # logs, not prints
CHANCE = {
    f"test_lda_partial_fit_multi_jobs[{kind}]" for kind in ("csr_matrix", "csr_array")
}  # half of all seeds fail, theirs too
ROUNDED = {
    f"test_lda_numerical_consistency[42-{method}]" for method in ("batch", "online")
}  # a document's updates enlarge the rounding of float32 topics up to a thousand times; passes or fails by machine


@pytest.mark.slow
def test_installed_tests():
    root = Path(__file__).parents[2]
    code = f"import sys; sys.path[:0] = [{str(root)!r}]; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    arguments = [
        "-q",
        "-c",
        "/dev/null",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "tests.estimators.topics_substituted",
    ]
    arguments += ["-rA", "--tb=no", "-W", "ignore", "--pyargs", "sklearn.decomposition.tests.test_online_lda"]
    environment = os.environ | {"SKLEARN_RUN_FLOAT32_TESTS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, cwd=root, env=environment
    )
    failed = set(re.findall(r"^FAILED \S*::(\S+)", done.stdout, re.M))
    passed = set(re.findall(r"^PASSED \S*::(\S+)", done.stdout, re.M))
    assert failed <= INTERNAL | LOGGED | CHANCE | ROUNDED, done.stdout[-3000:]
    assert len(passed) >= 46, done.stdout[-3000:] + done.stderr[-2000:]
