"""scikit-learn's own tests of its mixtures, with jensen's class in the place of scikit-learn's: what passes, and what fails why.

The tests are those of the installed package; the class is replaced in `sklearn.mixture` before they are collected. In the file
about `GaussianMixture` jensen's class takes that class's place, and scikit-learn's own Bayesian class is run beside it: what it
fails too is about `GaussianMixture` alone.

    python -m benchmarks.estimators_mixture_tests
"""

import json
import subprocess
import sys
from typing import Any

FILES = ("test_bayesian_mixture", "test_mixture", "test_gaussian_mixture")


class Outcomes:
    """Plugin of pytest that remembers how each test ended."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep the call's outcome, or a skip in setup."""
        if report.when == "call" or report.outcome != "passed":
            crash = getattr(report.longrepr, "reprcrash", None)
            name = report.nodeid.split("::", 1)[1]
            self.found[name] = [report.outcome, crash.message.splitlines()[0] if crash else ""]


def worker(file: str, whose: str) -> None:
    """Run one file; prints JSON."""
    import pytest
    import sklearn.mixture

    chosen = sklearn.mixture.BayesianGaussianMixture
    if whose == "jensen":
        from jensen.estimators.mixture import BayesianGaussianMixture as chosen

        sklearn.mixture.BayesianGaussianMixture = chosen
    if file == "test_gaussian_mixture":
        sklearn.mixture.GaussianMixture = chosen
    outcomes = Outcomes()
    options = ["-q", "-c", "/dev/null", "-p", "no:cacheprovider", "--pyargs", f"sklearn.mixture.tests.{file}"]
    pytest.main(options, plugins=[outcomes])
    print(json.dumps(outcomes.found))


def main() -> None:
    """Run all files with both classes and print the tables."""
    found = {}
    for file in FILES:
        for whose in ("jensen", "scikit-learn"):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.estimators_mixture_tests", file, whose]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[file, whose] = json.loads(done.stdout.strip().splitlines()[-1])
    print("| file | class | passed | failed | skipped |\n|---|---|---|---|---|")
    for (file, whose), outcomes in found.items():
        kinds = [outcome for outcome, _ in outcomes.values()]
        print(f"| {file} | {whose} | {kinds.count('passed')} | {kinds.count('failed')} | {kinds.count('skipped')} |")
    print("\n| test that does not end alike | jensen | scikit-learn |\n|---|---|---|")
    for file in FILES:
        theirs = found[file, "scikit-learn"]
        for name, (outcome, message) in found[file, "jensen"].items():
            if outcome != theirs[name][0]:
                print(f"| {name} | {outcome} {message[:120]} | {' '.join(theirs[name])[:120]} |")


if __name__ == "__main__":
    worker(*sys.argv[1:]) if sys.argv[1:] else main()
