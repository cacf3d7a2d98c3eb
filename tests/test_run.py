"""The one loop, with engines small enough to see through."""

import io
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
from tests.scan_engine import ScanEngine
from tests.scan_engine import data as scan_data

import jensen as jn
from jensen.core import precision
from jensen.engines.engine import Ticks
from jensen.engines.fixed_draws import FixedDraws
from jensen.models.read import read
from jensen.models.target import Target
from jensen.progress import Progress
from jensen.run import run


@dataclass(frozen=True)
class Countdown:
    """Loss 10, 9, 8, ...; done at zero. `chunk` steps at a time."""

    chunk: int = 1
    raises_at: int | None = None
    error: type[BaseException] = KeyboardInterrupt
    ends_well: bool = True
    note: str = ""

    def init(self, target, seed):
        return 10

    def advance(self, state, target):
        if self.raises_at is not None and state <= self.raises_at:
            raise self.error
        loss = np.arange(state, max(state - self.chunk, 0), -1.0)
        state -= len(loss)
        return state, Ticks(loss, done=state == 0, note=self.note)

    def finish(self, state):
        return f"q at {state}"

    def converged(self, state):
        return self.ends_well


def test_runs_until_the_engine_is_done():
    q, record = run(Countdown(), None, seed=0, progress=False)
    assert q == "q at 0"
    assert record.status == "converged"
    assert record.steps == 10
    np.testing.assert_array_equal(record.history["loss"], np.arange(10, 0, -1))
    np.testing.assert_array_equal(record.history["elbo"], -np.arange(10, 0, -1))
    assert record.notes == ()
    assert record.seconds > 0


def test_done_without_convergence_is_stuck():
    _, record = run(Countdown(ends_well=False, note="no way down"), None, seed=0, progress=False)
    assert record.status == "stuck"
    assert set(record.notes) == {"no way down"}


@pytest.mark.parametrize("chunk", [1, 2, 3, 10, 99])
def test_chunk_length_changes_nothing_in_history_and_answer(chunk):
    q, record = run(Countdown(chunk), None, seed=0, progress=False)
    assert (q, record.status, record.steps) == ("q at 0", "converged", 10)
    np.testing.assert_array_equal(record.history["loss"], np.arange(10, 0, -1))


def test_steps_stop_the_run():
    q, record = run(Countdown(), None, seed=0, steps=4, progress=False)
    assert (q, record.status, record.steps) == ("q at 6", "stopped", 4)


def test_one_step_is_enough():
    _, record = run(Countdown(), None, seed=0, steps=1, progress=False)
    assert record.steps == 1


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(steps):
    with pytest.raises(jn.OptionError, match=f"steps must be at least 1; got {steps}"):
        run(Countdown(), None, seed=0, steps=steps)


def test_no_time_left_stops_after_a_chunk():
    q, record = run(Countdown(), None, seed=0, budget=0.0, progress=False)
    assert (q, record.status, record.steps) == ("q at 9", "budget", 1)


def test_ctrl_c_keeps_the_last_complete_step():
    q, record = run(Countdown(raises_at=7), None, seed=0, progress=False)
    assert (q, record.status, record.steps) == ("q at 7", "interrupted", 3)
    assert any("Ctrl-C" in note for note in record.notes)
    np.testing.assert_array_equal(record.history["loss"], [10, 9, 8])


def test_ctrl_c_in_the_first_step_leaves_an_empty_history():
    q, record = run(Countdown(raises_at=99), None, seed=0, progress=False)
    assert (q, record.status, record.steps) == ("q at 10", "interrupted", 0)
    assert record.history["elbo"].shape == (0,)


def test_an_engine_error_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        run(Countdown(raises_at=7, error=ZeroDivisionError), None, seed=0, progress=False)


def test_callbacks_see_every_chunk_and_change_nothing():
    seen = []
    q, record = run(Countdown(), None, seed=0, callbacks=[seen.append], progress=False)
    assert (q, record.status) == ("q at 0", "converged")
    # The engine's last word is not asked about any more.
    assert [snapshot.step for snapshot in seen] == list(range(1, 10))
    assert seen[2].q == "q at 7"
    np.testing.assert_array_equal(seen[2].loss, [10, 9, 8])
    assert all(one.seconds <= other.seconds for one, other in zip(seen, seen[1:], strict=False))


def test_a_true_callback_stops_and_keeps_the_fit():
    q, record = run(Countdown(), None, seed=0, callbacks=[lambda snapshot: snapshot.step == 3], progress=False)
    assert (q, record.status, record.steps) == ("q at 7", "stopped", 3)


def test_truthy_is_not_true():
    # A callback that happens to return something (a list, a number) does not stop the fit.
    _, record = run(Countdown(), None, seed=0, callbacks=[lambda snapshot: 1, lambda snapshot: "stop"], progress=False)
    assert record.status == "converged"


def test_stop_iteration_stops_and_keeps_the_fit():
    def stop(snapshot):
        raise StopIteration

    q, record = run(Countdown(), None, seed=0, callbacks=[stop], progress=False)
    assert (q, record.status) == ("q at 9", "stopped")


def test_every_callback_is_asked_although_one_stops():
    asked = []
    callbacks = [lambda snapshot: True, lambda snapshot: asked.append(snapshot.step)]
    run(Countdown(), None, seed=0, callbacks=callbacks, progress=False)
    assert asked == [1]


def test_ctrl_c_in_a_callback_keeps_the_fit():
    def press(snapshot):
        if snapshot.step == 2:
            raise KeyboardInterrupt

    q, record = run(Countdown(), None, seed=0, callbacks=[press], progress=False)
    assert (q, record.status, record.steps) == ("q at 8", "interrupted", 2)


def test_an_error_in_a_callback_stops_and_keeps_the_fit():
    def broken(snapshot):
        if snapshot.step == 3:
            raise ValueError("mine")

    asked = []
    callbacks = [broken, lambda snapshot: asked.append(snapshot.step)]
    with pytest.warns(jn.FitWarning, match="broken failed at step 3 .ValueError: mine, .*test_run.py"):
        q, record = run(Countdown(), None, seed=0, callbacks=callbacks, progress=False)
    assert (q, record.status, record.steps) == ("q at 7", "stopped", 3)
    assert "ValueError: mine" in record.notes[-1]
    assert asked == [1, 2, 3]


def test_a_numpy_true_is_true():
    _, record = run(Countdown(), None, seed=0, callbacks=[lambda s: s.loss[-1] < 7.5], progress=False)
    assert (record.status, record.steps) == ("stopped", 4)


def test_others_are_asked_although_one_raises_stop_iteration():
    def stop(snapshot):
        raise StopIteration

    asked = []
    run(Countdown(), None, seed=0, callbacks=[stop, lambda snapshot: asked.append(snapshot.step)], progress=False)
    assert asked == [1]


def test_q_is_made_only_for_callbacks_that_look_at_it():
    finished = []

    class Costly(Countdown):
        def finish(self, state):
            finished.append(state)
            return super().finish(state)

    callbacks = [lambda s: s.loss[-1] < 0, lambda s: s.q == s.q and s.step == 2 and s.q == ""]
    run(Costly(), None, seed=0, callbacks=callbacks[:1], progress=False)
    assert finished == [0]
    run(Costly(), None, seed=0, callbacks=callbacks, progress=False)
    assert finished == [0, *range(9, 0, -1), 0]  # once a chunk


def test_callbacks_cannot_write_into_the_history():
    def scribble(snapshot):
        with pytest.raises(ValueError, match="read-only"):
            snapshot.loss[0] = 0.0

    run(Countdown(), None, seed=0, callbacks=[scribble], progress=False)


def test_a_long_history_is_whole_and_old_snapshots_keep_theirs():
    engine = Countdown(chunk=700)
    seen = []

    class Long:
        init, finish, converged = staticmethod(lambda target, seed: 5000), engine.finish, engine.converged
        advance = engine.advance

    _, record = run(Long(), None, seed=0, callbacks=[seen.append], progress=False)
    np.testing.assert_array_equal(record.history["loss"], np.arange(5000, 0, -1))
    for snapshot in seen:
        np.testing.assert_array_equal(snapshot.loss, np.arange(5000, 5000 - snapshot.step, -1))


@pytest.mark.parametrize("first", [50, 100, 150])
def test_a_compiled_engine_goes_on_from_a_state_as_if_it_had_not_stopped(first):
    data = scan_data(500, 3)
    whole, record = run(ScanEngine(chunk=10), data, seed=1, steps=200, progress=False)
    _, begun = run(ScanEngine(chunk=10), data, seed=1, steps=first, progress=False)
    q, rest = run(ScanEngine(chunk=10), data, seed=1, steps=200 - first, progress=False, state=begun.state)
    np.testing.assert_array_equal(q.mean, whole.mean)
    loss = np.concatenate([begun.history["loss"], rest.history["loss"]])
    np.testing.assert_array_equal(loss, record.history["loss"])
    assert rest.steps == 200 - first


def test_fixed_draws_go_on_from_a_state_as_if_they_had_not_stopped():
    def quartic(p):
        return -(p["x"] ** 4).sum() - 0.5 * ((p["x"] - 2) ** 2).sum() - jnp.logaddexp(p["y"], -3 * p["y"])

    with precision.scope("float64"):
        target = Target(read(jn.density(quartic, {"x": np.zeros(3), "y": 0.0}), None, "float64"))
        engine = FixedDraws()
        whole, record = run(engine, target, seed=0, steps=8, progress=False)
        _, begun = run(engine, target, seed=0, steps=4, progress=False)
        q, rest = run(engine, target, seed=0, steps=4, progress=False, state=begun.state)
    assert record.steps == 8
    np.testing.assert_array_equal(q.mean, whole.mean)
    np.testing.assert_array_equal(q.scale, whole.scale)
    np.testing.assert_array_equal([*begun.history["loss"], *rest.history["loss"]], record.history["loss"])


def test_the_line_says_steps_elbo_error_and_time_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    bar = Progress(False, steps=1000)
    assert bar.line() == "fitting, 0 s"
    now[0] = 110.0  # the first chunk compiles
    bar.show(100, -1234.567)
    assert bar.line() == "fitting: step 100 of 1,000, ELBO -1,234.57, 10 s"
    now[0] = 130.0
    bar.show(300, -34.5, 0.0123)
    assert bar.line() == "fitting: step 300 of 1,000, ELBO -34.50, error 0.012 sd, 30 s, at most 1:10 min left"
    budgeted = Progress(False, steps=1000, budget=7500.0, seconds=100.0)
    budgeted.show(10, 1.0)
    assert budgeted.line() == "fitting: step 10 of 1,000, ELBO 1.00, 1:40 min, at most 2:03 h left"


def test_no_progress_line_unless_on_a_terminal(capsys):
    run(Countdown(), None, seed=0)
    out = capsys.readouterr()
    assert (out.out, out.err) == ("", "")


def test_progress_goes_to_the_terminal_and_not_to_stdout(capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    q, _ = run(Countdown(), None, seed=0)
    assert "fitting" in terminal.getvalue()
    assert capsys.readouterr().out == ""
    assert q == "q at 0"
