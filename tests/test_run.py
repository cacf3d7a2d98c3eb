"""The one loop, with engines small enough to see through."""

import io
from dataclasses import dataclass

import numpy as np
import pytest

import jensen as jn
from jensen.engines.engine import Ticks
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


def test_an_error_in_a_callback_is_the_callers():
    def broken(snapshot):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run(Countdown(), None, seed=0, callbacks=[broken], progress=False)


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
