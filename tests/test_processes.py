"""Fits by several processes and on several devices; each case runs tests/processes_worker.py in processes of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.processes_worker import ROWS, arrays

from jensen.core import processes
from jensen.core.errors import DataError

ROOT = Path(__file__).parents[1]
PATIENCE = 300.0
"""Seconds for one case, on a machine that is busy with other things."""


def started(case, path, *, index=0, count=1, port=0, devices=1):
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment["JAX_PLATFORMS"] = "cpu"
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "tests.processes_worker", case, str(index), str(count), str(port), str(path)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ended(running):
    """Exit codes; whoever takes too long is killed."""
    until = time.monotonic() + PATIENCE
    try:
        return [process.wait(max(until - time.monotonic(), 0.1)) for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()


def two(case, folder):
    """Exit codes of two processes, and the paths of their results."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    paths = [folder / f"{case}{k}" for k in range(2)]
    return ended([started(case, paths[k], index=k, count=2, port=port) for k in range(2)]), paths


def said(path):
    """Seconds after which a process gave up, and its error."""
    seconds, error = Path(f"{path}.txt").read_text().split(" ", 1)
    return float(seconds), error


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone") / "fit"
    assert ended([started("fit", path)]) == [0]
    return np.load(f"{path}.npz")


def assert_alike(found, wanted):
    for name in ("mean", "sd", "draws", "elbo"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-10, atol=1e-10, err_msg=name)
    assert found["story"].tolist()[:3] == wanted["story"].tolist()[:3]


def test_one_process_is_right(alone):
    X, y = arrays().values()
    b = np.zeros(X.shape[1])
    for _ in range(20):
        p = 1 / (1 + np.exp(-X @ b))
        hessian = (X.T * (p * (1 - p))) @ X + np.eye(len(b))
        b = b + np.linalg.solve(hessian, X.T @ (y - p) - b)
    sd = np.sqrt(np.diag(np.linalg.inv(hessian)))
    assert np.abs((alone["mean"] - b) / sd).max() < 0.05
    np.testing.assert_allclose(alone["sd"], sd, rtol=0.02)


def test_two_processes_give_the_fit_of_one(alone, tmp_path):
    assert ROWS % 2
    codes, paths = two("fit", tmp_path)
    assert codes == [0, 0]
    first, second = (np.load(f"{path}.npz") for path in paths)
    for name in first:
        assert first[name].tobytes() == second[name].tobytes(), name
    assert_alike(first, alone)


@pytest.mark.slow
def test_three_devices_give_the_fit_of_one(alone, tmp_path):
    assert ended([started("fit", tmp_path / "fit", devices=3)]) == [0]
    assert_alike(np.load(tmp_path / "fit.npz"), alone)


@pytest.mark.slow
def test_rows_in_groups_give_the_fit_of_one(tmp_path):
    codes, paths = two("groups", tmp_path)
    alone, devices = tmp_path / "alone", tmp_path / "devices"
    codes += ended([started("groups", alone), started("groups", devices, devices=3)])
    assert codes == [0, 0, 0, 0]
    first, second, alone, devices = (np.load(f"{path}.npz") for path in (*paths, alone, devices))
    for name in first:
        assert first[name].tobytes() == second[name].tobytes(), name
    for several in (first, devices):
        assert_alike(several, alone)
        assert several["story"].tolist() == alone["story"].tolist()


@pytest.mark.slow
def test_a_row_that_is_not_finite_ends_both(tmp_path):
    codes, paths = two("nan", tmp_path)
    assert codes == [1, 1]
    assert f"nan in row {ROWS - 1}" in said(paths[1])[1]
    assert said(paths[0])[1].startswith("JensenError: the fit failed in process 1 of 2")


@pytest.mark.slow
def test_a_process_that_fails_before_the_first_pass_ends_both(tmp_path):
    codes, paths = two("fails", tmp_path)
    assert codes == [1, 1]
    assert said(paths[1])[1].startswith("OptionError: seed must be")
    assert said(paths[0])[1].startswith("JensenError: the fit failed in process 1 of 2")


@pytest.mark.slow
def test_rows_of_its_own_in_every_process_are_refused(tmp_path):
    codes, paths = two("parts", tmp_path)
    assert codes == [1, 1]
    for path in paths:
        assert said(path)[1].startswith("DataError: every process must be given the same table of all rows")


@pytest.mark.slow
def test_a_process_that_is_done_early_does_not_leave_the_other_waiting(tmp_path):
    codes, paths = two("early", tmp_path)
    assert codes == [1, 1]
    for path in paths:
        assert said(path)[1].startswith("JensenError: process 1 is not where process 0 is")


def test_a_process_that_dies_does_not_leave_the_other_waiting(tmp_path):
    codes, _ = two("dies", tmp_path)
    assert codes[1] == 3
    assert codes[0] not in (0, -signal.SIGKILL)  # by an error, or ended by JAX after the heartbeat's 10 seconds


def test_one_process_meets_nobody():
    def part():
        return 1.0, np.ones(2)

    assert processes.count() == 1
    assert processes.index() == 0
    assert processes.total(part, "sum", np.zeros(2))[0] == 1.0
    processes.check_same_rows(3, {"x": np.zeros(3)})
    with pytest.raises(DataError), processes.together():
        raise DataError("as it was")


def test_numbers_keep_their_precision():
    exact = np.array([1 + 2.0**-50, 1e300])
    assert processes.gathered(exact).tolist() == [exact.tolist()]  # also where JAX's own precision is float32
