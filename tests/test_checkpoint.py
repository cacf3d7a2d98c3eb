"""Checkpoints: whatever happens to a run or to its file, the result is that of the run to which nothing happened."""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from tests import crash_worker
from tests.scan_engine import ScanEngine, data

import jensen as jn
from jensen import checkpoint as module
from jensen.callbacks import ParameterConvergence, Tracker
from jensen.checkpoint import Checkpoint, Saved, fingerprint, reference
from jensen.core.precision import scope
from jensen.diagnostics.starts import fit_from_starts
from jensen.engines.fixed_draws import FixedDraws
from jensen.models.read import read
from jensen.models.target import Target
from jensen.run import run

ROWS = data(300, 4)
ENGINE = ScanEngine(total=400, chunk=20, batch=50)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Write after every chunk."""
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    monkeypatch.setattr(module, "SHARE", np.inf)


@dataclass(frozen=True)
class Killed:
    """An engine whose process would have died in the call in which its state has taken so many steps."""

    inner: ScanEngine
    at: int

    def init(self, target, seed):
        return self.inner.init(target, seed)

    def advance(self, state, target):
        if state["taken"] >= self.at:
            raise MemoryError
        return self.inner.advance(state, target)

    def finish(self, state):
        return self.inner.finish(state)

    def converged(self, state):
        return self.inner.converged(state)


class Untouched:
    """An engine that must not be asked for anything but q."""

    finish = staticmethod(ENGINE.finish)


def fit(path, engine=ENGINE, *, identity=(("seed", 0),), **loop):
    kept = None if path is None else Checkpoint(path, dict(identity))
    return run(engine, ROWS, seed=0, progress=False, checkpoint=kept, **loop)


def killed(path, at=200, **loop):
    with pytest.raises(MemoryError):
        fit(path, Killed(ENGINE, at), **loop)


@pytest.fixture(scope="module")
def whole():
    return fit(None)


def same(one, other):
    """Bit for bit, but for seconds."""
    (q, record), (other_q, other_record) = one, other
    np.testing.assert_array_equal(q.mean, other_q.mean)
    assert (record.status, record.steps, record.notes) == (other_record.status, other_record.steps, other_record.notes)
    np.testing.assert_array_equal(record.history["loss"], other_record.history["loss"])
    return True


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_with_checkpoints_is_the_run_without(tmp_path, whole):
    assert same(fit(tmp_path / "c"), whole)
    assert files(tmp_path) == ["c", "c.previous"]


@pytest.mark.parametrize("at", [20, 200, 380])
def test_a_killed_run_goes_on(tmp_path, whole, at):
    killed(tmp_path / "c", at)
    taken = []
    assert same(fit(tmp_path / "c", callbacks=[lambda s: taken.append(s.step)]), whole)
    assert taken[:1] == ([at + 20] if at < 380 else [])


def test_a_finished_run_is_returned_at_once(tmp_path, whole):
    fit(tmp_path / "c")
    assert same(fit(tmp_path / "c", Untouched()), whole)


def test_several_runs_live_in_one_file(tmp_path, whole):
    path, other = tmp_path / "c", replace(ENGINE, batch=20)
    first, second = fit(path, label="a"), fit(path, other, label="b")
    assert not np.array_equal(first[0].mean, second[0].mean)
    assert same(fit(path, Untouched(), label="a"), first)
    assert same(fit(path, Untouched(), label="b"), second)


def test_limits_and_ctrl_c_cut_a_run_short_and_the_next_call_goes_on(tmp_path, whole):
    def press(snapshot):
        if snapshot.step == 240:
            raise KeyboardInterrupt

    path = tmp_path / "c"
    assert fit(path, steps=100)[1].steps == 100
    assert fit(path, steps=100)[1].steps == 100  # at once
    assert fit(path, steps=160)[1].steps == 160
    assert fit(path, budget=1e-9)[1].steps == 180
    _, record = fit(path, callbacks=[press])
    assert (record.steps, record.status) == (240, "interrupted")
    assert fit(path, callbacks=[lambda s: s.step == 300])[1].steps == 300
    assert fit(path, callbacks=[lambda s: s.step == 300])[1].status == "stopped"
    assert fit(path, steps=320)[1].steps == 320  # the callback that stopped it is not there any more
    with pytest.warns(jn.FitWarning, match="failed at step 340"):
        fit(path, callbacks=[lambda s: 1 / 0])
    assert same(fit(path), whole)


def test_callbacks_remember_across_a_kill(tmp_path):
    def callbacks():
        return [Tracker(mean=lambda s: s.q.mean), ParameterConvergence(every=60, tolerance=0.12, diff="absolute")]

    calm, shaken = callbacks(), callbacks()
    expected = fit(None, callbacks=calm)
    assert expected[1].status == "stopped"
    killed(tmp_path / "c", 80, callbacks=callbacks())
    assert same(fit(tmp_path / "c", callbacks=shaken), expected)
    np.testing.assert_array_equal(shaken[0].steps, calm[0].steps)
    np.testing.assert_array_equal(shaken[0]["mean"], calm[0]["mean"])
    again = callbacks()
    assert same(fit(tmp_path / "c", Untouched(), callbacks=again), expected)
    np.testing.assert_array_equal(again[0]["mean"], calm[0]["mean"])


def test_what_callbacks_hold_does_not_stand_in_the_way(tmp_path, whole):
    path = tmp_path / "c"
    with pytest.warns(jn.FitWarning, match="what the callbacks recorded is not in the checkpoint.*function") as seen:
        killed(path, callbacks=[Tracker(odd=lambda s: fit)])
    assert len(seen) == 1
    assert same(fit(path), whole)


def test_a_state_that_cannot_be_kept_turns_checkpoints_off(tmp_path):
    class Odd:
        init, converged = (
            staticmethod(lambda *_: {"density": np.exp, "inner": ENGINE.init(ROWS, 0)}),
            staticmethod(lambda _: True),
        )

        def advance(self, state, target):
            inner, ticks = ENGINE.advance(state["inner"], target)
            return {**state, "inner": inner}, ticks

        def finish(self, state):
            return ENGINE.finish(state["inner"])

    with pytest.warns(jn.FitWarning, match=r"without checkpoints: the fit.state\['density'\] is a numpy.ufunc") as seen:
        _, record = fit(tmp_path / "c", Odd())
    assert (len(seen), record.steps) == (1, 400)
    assert files(tmp_path) == []


# What can happen to the file.


@pytest.mark.parametrize("damage", ["empty", "short", "shorter", "zeros", "flipped", "longer"])
@pytest.mark.parametrize("both", [False, True], ids=["one", "both"])
def test_a_damaged_file(tmp_path, whole, damage, both):
    path = tmp_path / "c"
    killed(path)
    for file in (path, tmp_path / "c.previous")[: 1 + both]:
        content = file.read_bytes()
        middle = len(content) // 2
        file.write_bytes(
            {
                "empty": b"",
                "short": content[:-1],
                "shorter": content[:10],
                "zeros": bytes(len(content)),
                "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "longer": content + b"\0",
            }[damage]
        )
    first = []
    with pytest.warns(jn.FitWarning, match="the fit starts anew" if both else "c.previous, serves") as seen:
        assert same(fit(path, callbacks=[lambda s: first.append(s.step)]), whole)
    assert len(seen) == 1
    assert first[0] == (20 if both else 200)
    assert same(fit(path, Untouched()), whole)  # what was damaged has been replaced


def test_a_kill_between_two_renames_leaves_the_previous_one(tmp_path, whole):
    killed(tmp_path / "c")
    (tmp_path / "c").unlink()
    assert same(fit(tmp_path / "c"), whole)


def test_a_damaged_file_does_not_push_out_the_good_one(tmp_path, monkeypatch, whole):
    path = tmp_path / "c"
    killed(path)
    path.write_bytes(b"")
    replaced, good = os.replace, (tmp_path / "c.previous").read_bytes()

    def dying(source, to):
        if Path(to) == path:
            raise SystemExit
        replaced(source, to)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.warns(jn.FitWarning, match="serves"), pytest.raises(SystemExit):
        fit(path)
    assert (tmp_path / "c.previous").read_bytes() == good


def test_leftovers_of_a_killed_write_are_removed(tmp_path):
    for name in (".c.part", ".c.link"):
        (tmp_path / name).write_text("half")
    fit(tmp_path / "c")
    assert files(tmp_path) == ["c", "c.previous"]


def test_a_file_system_without_links(tmp_path, monkeypatch, whole):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    killed(tmp_path / "c")
    assert files(tmp_path) == ["c", "c.previous"]
    assert same(fit(tmp_path / "c"), whole)


def test_somebody_elses_file_is_left_alone(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(jn.FileError, match="results.csv is no checkpoint"):
        fit(path)
    assert path.read_text() == "a,b\n1,2\n"


def test_folders_in_which_nothing_can_be_written(tmp_path, monkeypatch):
    with pytest.raises(jn.FileError, match="is a folder"):
        Checkpoint(tmp_path, {})
    with pytest.raises(jn.FileError, match="does not exist, so no checkpoint can be written"):
        Checkpoint(tmp_path / "no" / "c", {})

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(jn.FileError, match="Permission denied; choose another folder"):
        Checkpoint(tmp_path / "c", {})


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limits on file sizes")
def test_a_full_disk_costs_a_warning(tmp_path, whole):
    """The kernel refuses bytes beyond a limit, in the middle of a file."""
    path = tmp_path / "c"
    killed(path, 100)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.warns(jn.FitWarning, match="could not be written: File too large; the fit goes on") as seen:
            found = fit(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(seen) == 1
    assert same(found, whole)
    assert files(tmp_path) == ["c", "c.previous"]
    assert path.read_bytes() == before
    assert same(fit(path), whole)


def test_space_that_comes_back_is_used(tmp_path, monkeypatch, whole):
    path, writes, real = tmp_path / "c", [], os.fsync

    def failing(number):
        writes.append(1)
        if len(writes) < 5:
            raise OSError(28, "No space left on device")
        real(number)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.warns(jn.FitWarning, match="No space left on device"):
        assert same(fit(path), whole)
    assert same(fit(path, Untouched()), whole)


def test_ctrl_c_in_the_last_write_keeps_the_fit(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(module, "INTERVAL", 1e9)

    def press(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", press)
        q, record = fit(tmp_path / "c")
    np.testing.assert_array_equal(q.mean, whole[0].mean)
    assert (record.status, record.steps) == ("interrupted", 400)
    assert files(tmp_path) == []


def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 2.0)
    monkeypatch.setattr(module, "SHARE", 0.05)
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    kept = Checkpoint(tmp_path / "c", {})
    monkeypatch.setattr(Checkpoint, "_write", lambda self: now.__setitem__(0, now[0] + 1.0))
    dues = []
    for _ in range(300):
        now[0] += 0.5
        if kept.due():
            dues.append(now[0])
            kept.save("fit", Saved(None, np.zeros(0), (), 0.0))
    assert dues[0] == 2.0
    assert set(np.diff(dues)) == {21.0}  # one second of every twenty-one


def test_order_and_dtype_of_arrays_survive(tmp_path):
    rng = np.random.default_rng(0)
    state = [
        rng.random((3, 4)).T,
        rng.random((2, 3, 4)),
        np.float32(0.1),
        np.zeros((0, 3)),
        np.array(True),
        np.arange(3, dtype=">i2"),
    ]
    Checkpoint(tmp_path / "c", {}).save("fit", Saved(state, np.zeros(0), (), 0.0))
    found = Checkpoint(tmp_path / "c", {}).load("fit").state
    for one, other in zip(found, state, strict=True):
        np.testing.assert_array_equal(one, other)
        assert (one.dtype, one.shape, one.strides) == (other.dtype, other.shape, other.strides)


def test_a_checkpoint_of_a_state_that_is_no_longer_known_starts_anew(tmp_path, whole):
    path = tmp_path / "c"
    killed(path)
    kept = Checkpoint(path, {"seed": 0})
    tree, arrays = kept._runs["fit"]
    tree[2]["more"] = 1
    kept._write()
    with pytest.warns(jn.FitWarning, match="cannot be used for fit: a stored Saved has the fields"):
        assert same(fit(path), whole)


# Whose checkpoint is it?


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    killed(tmp_path / "c", identity=(("seed", 0), ("data x", "float64 (3,) with sum 1"), ("old", 1)))
    content = (tmp_path / "c").read_bytes()
    with pytest.raises(jn.OptionError) as error:
        fit(tmp_path / "c", identity=(("seed", 1), ("data x", "float64 (4,) with sum 2"), ("new", [2])))
    for words in (
        "seed was 0 and is now 1",
        "data x was float64 (3,) with",
        "old was 1 and is now absent",
        "new was absent",
    ):
        assert words in str(error.value)
    assert (tmp_path / "c").read_bytes() == content


def test_a_fingerprint_knows_engine_model_data_seed_and_precision():
    def density(p, data):
        return -((p["a"] - data["x"][0]) ** 2).sum()

    def made(engine=None, x=(1.0, 2.0), a=0.0, **options):
        model = read(jn.density(density, {"a": a}), {"x": np.array(x)}, "float64")
        return fingerprint(engine or FixedDraws(), model, **{"seed": 0, "precision": "float64"} | options)

    base = made(log_density=-1.0)
    assert made(log_density=-1.0 - 1e-12) != base

    def differing(other):
        return {name for name in {*base, *other} if not module._same(base.get(name), other.get(name))}

    assert differing(made(log_density=-1.0 - 1e-12)) == set()
    assert differing(made(log_density=-1.1)) == {"log density"}
    assert differing(made(log_density=-1.0, x=(1.0, 2.5))) == {"data x"}
    assert differing(made(log_density=-1.0, x=(1.0, 2.0, 3.0))) == {"data x"}
    assert differing(made(log_density=-1.0, a=np.zeros(2))) == {"sites"}
    assert differing(made(log_density=-1.0, seed=1)) == {"seed"}
    assert differing(made(log_density=-1.0, precision="float32")) == {"precision"}
    assert differing(made(FixedDraws(steps=10), log_density=-1.0)) == {"engine", "numbers of the engine"}
    starts = [FixedDraws(start=FixedDraws().family.start(np.arange(2000.0) + 1 + shift, 0.1)) for shift in (0, 1e-12)]
    assert repr(starts[0]) == repr(starts[1])
    assert made(starts[0])["numbers of the engine"] != made(starts[1])["numbers of the engine"]


def test_functions_in_an_engine_are_known_by_their_names():
    @dataclass(frozen=True)
    class WithFunction:
        rule: object

    model = read(jn.density(lambda p: -(p["a"] ** 2), {"a": 0.0}), None, "float64")
    rules = [(lambda: number) for number in range(2)]  # noqa: B023
    made = [fingerprint(WithFunction(rule), model, seed=0, precision="float64") for rule in rules]
    assert made[0] == made[1]
    assert " at 0x" not in made[0]["engine"]


def test_the_reference_point_is_always_the_same():
    np.testing.assert_array_equal(reference(3), reference(5)[:3])
    assert np.abs(reference(1000)).max() < 0.5


# Starts, and true kills.


def test_starts_go_on_where_they_were(tmp_path, monkeypatch):
    """The process dies after each write in turn."""

    class Died(BaseException):
        pass

    def starts(checkpoint):
        target = Target(read(crash_worker.model(), None, "float64"))
        q, record = fit_from_starts(target, FixedDraws(), seed=0, progress=False, checkpoint=checkpoint)
        return target.gradients, q, record

    real, writes = Checkpoint._write, []

    def dying(self):
        real(self)
        writes.append(1)
        if len(writes) % 2 == 0:
            raise Died

    with scope("float64"):
        needed, q, record = starts(None)
        monkeypatch.setattr(Checkpoint, "_write", dying)
        deaths, again = 0, None
        while again is None:
            try:
                again = starts(Checkpoint(tmp_path / "c", {}))
            except Died:
                deaths += 1
        found = set(Checkpoint(tmp_path / "c", {})._runs)
        repeated = starts(Checkpoint(tmp_path / "c", {}))
    assert deaths >= 3
    assert found >= {"start 0", "start 1"}
    assert repeated[0] < needed / 2  # only what compares the starts
    for _, other_q, other in (again, repeated):
        np.testing.assert_array_equal(other_q.scale, q.scale)
        assert same((other_q, other), (q, record))


@pytest.mark.slow  # a whole fit is killed in test_fit_checkpoint.py
def test_kills_at_random_moments_change_nothing(tmp_path):
    def start(name):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
        arguments = ["scan", tmp_path / f"{name}.checkpoint", tmp_path / f"{name}.npz", "2000"]
        command = [sys.executable, "-m", "tests.crash_worker", *map(str, arguments)]
        root = Path(__file__).parents[1]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root, env=environment)
        return process, process.stdout.readline()

    calm, _ = start("calm")
    begun = time.perf_counter()
    assert calm.wait() == 0, calm.stderr.read().decode()
    length, rng = time.perf_counter() - begun, np.random.default_rng()
    kills, done = 0, tmp_path / "shaken.npz"
    while kills < 5 and not (kills and done.exists()):
        if done.exists():  # it was too fast to be killed
            length /= 2
            for path in tmp_path.glob("shaken*"):
                path.unlink()
        process, _ = start("shaken")
        try:
            process.wait(rng.uniform(0.1, 0.6) * length)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        for stream in (process.stdout, process.stderr):
            stream.close()
    last, _ = start("shaken")
    errors = last.stderr.read().decode()
    assert last.wait() == 0, errors
    assert errors == ""
    for stream in (calm.stdout, calm.stderr, last.stdout, last.stderr):
        stream.close()
    expected, found = np.load(tmp_path / "calm.npz"), np.load(tmp_path / "shaken.npz")
    assert set(expected) == set(found)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{name} after {kills} kills")
    assert kills >= 1
    assert not list(tmp_path.glob(".*"))
