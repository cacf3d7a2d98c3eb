"""The two callbacks that everybody writes."""

import time

import numpy as np
import pytest
from tests.scan_engine import ScanEngine, data

import jensen as jn
from jensen.callbacks import ParameterConvergence, Snapshot, Tracker
from jensen.families.fullrank import DenseGaussian
from jensen.families.meanfield import DiagonalGaussian
from jensen.run import run


def snapshot(step, q=None, loss=(1.0,)):
    return Snapshot(step, np.asarray(loss), lambda: q, 0.1 * step)


def test_tracker_stacks_what_it_saw():
    tracker = Tracker(mean=lambda s: s.q.mean, loss=lambda s: s.loss[-1], now=time.time, four=lambda: 4)
    _, record = run(ScanEngine(chunk=10), data(100, 3), seed=0, steps=50, callbacks=[tracker], progress=False)
    np.testing.assert_array_equal(tracker.steps, [10, 20, 30, 40, 50])
    assert tracker["mean"].shape == (5, 3)
    np.testing.assert_array_equal(tracker["loss"], record.history["loss"][9::10])
    assert (np.diff(tracker["now"]) >= 0).all()
    np.testing.assert_array_equal(tracker["four"], [4] * 5)
    assert repr(tracker) == "Tracker(mean, loss, now, four; 5 calls)"
    tracker.clear()
    assert tracker.steps.shape == tracker["mean"].shape == (0,)


def test_tracker_of_ragged_or_odd_values():
    tracker = Tracker(loss=lambda s: s.loss, q=lambda s: s.q)
    tracker(snapshot(1, "a", [1.0]))
    tracker(snapshot(2, "b", [1.0, 2.0]))
    assert [len(loss) for loss in tracker["loss"]] == [1, 2]
    assert list(tracker["q"]) == ["a", "b"]


def test_tracker_prefers_nothing_where_defaults_allow_both():
    tracker = Tracker(twice=lambda factor=2: factor * 21)
    tracker(snapshot(1))
    assert tracker["twice"] == [42]


@pytest.mark.parametrize("wrong", [3, lambda one, two: 0, None], ids=["number", "two", "none"])
def test_a_statistic_is_a_function_of_one_thing_or_none(wrong):
    with pytest.raises(jn.OptionError, match="mean must be a function of a Snapshot"):
        Tracker(mean=wrong)


def test_an_unknown_statistic():
    with pytest.raises(KeyError, match="'sd' is not tracked; there are mean"):
        Tracker(mean=lambda s: 0)["sd"]


def test_a_failing_statistic_leaves_the_records_even():
    tracker = Tracker(step=lambda s: s.step, broken=lambda s: 1 / (s.step - 20))
    with pytest.warns(jn.FitWarning, match="Tracker failed at step 20 .ZeroDivisionError.*test_callbacks.py"):
        _, record = run(ScanEngine(chunk=10), data(100, 3), seed=0, callbacks=[tracker], progress=False)
    assert record.steps == 20
    assert len(tracker["step"]) == len(tracker["broken"]) == len(tracker.steps) == 1


def test_what_is_checkpointed_comes_back():
    functions = {"mean": lambda s: s.q.mean, "loss": lambda s: s.loss, "last": lambda s: s.loss[-1]}
    tracker, other, another = Tracker(**functions), Tracker(**functions), Tracker(sd=lambda s: 0)
    for step in (1, 2):
        tracker(snapshot(step, DiagonalGaussian(np.full(2, step), np.zeros(2)), np.ones(step)))
    other.checkpointed = another.checkpointed = tracker.checkpointed
    for each in (tracker, other):
        each(snapshot(3, DiagonalGaussian(np.full(2, 3.0), np.zeros(2)), [0.5]))
    for name in ("mean", "last"):
        assert other[name].dtype == np.float64
        np.testing.assert_array_equal(other[name], tracker[name])
    assert [len(loss) for loss in other["loss"]] == [1, 2, 1]
    assert len(another.steps) == 0


def gaussian(*mean, width=1.0):
    return DenseGaussian(np.array(mean), width * np.eye(len(mean)))


@pytest.mark.parametrize(
    ("diff", "norm"), [("relative", np.inf), ("absolute", np.inf), ("relative", 2), ("absolute", 1)]
)
@pytest.mark.parametrize("size", [1e-2, 1e-3, 1e-4])
def test_stops_where_pymc_would(diff, norm, size):
    """Parameters far from zero: PyMC adds 1e-6 to the change, too, and never stops for those that are zero."""
    from pymc.variational import callbacks as pymc

    rng = np.random.default_rng(int(1 / size))
    old = rng.uniform(1, 9, 5), rng.uniform(1, 9, 5)
    new = [part * (1 + size * rng.uniform(-1, 1, 5)) for part in old]
    theirs = np.linalg.norm(getattr(pymc, diff)(np.concatenate(new), np.concatenate(old)), norm)
    for tolerance, stops in ((theirs * 1.01, True), (theirs * 0.98, False)):
        ours = ParameterConvergence(every=10, tolerance=tolerance, diff=diff, norm=norm)
        assert ours(snapshot(1, DiagonalGaussian(*old))) is False
        assert ours(snapshot(11, DiagonalGaussian(*new))) is stops


def test_every_counts_steps_not_calls_and_q_is_looked_at_only_then():
    looked = []
    check = ParameterConvergence(every=100, tolerance=1e-6)
    for step in range(30, 600, 30):
        check(Snapshot(step, np.ones(1), lambda step=step: looked.append(step) or gaussian(step), 0.0))
    assert looked == [30, 150, 270, 390, 510]


def test_all_parameters_count_not_only_means():
    check = ParameterConvergence(every=1)
    assert not check(snapshot(1, gaussian(1.0, 2.0)))
    assert not check(snapshot(2, gaussian(1.0, 2.0, width=1.1)))
    assert check(snapshot(3, gaussian(1.0, 2.0, width=1.1)))  # zeros off the diagonal are no obstacle


def test_another_start_begins_anew():
    check = ParameterConvergence(every=10)
    assert not check(snapshot(100, gaussian(1.0)))
    assert not check(snapshot(5, gaussian(1.0)))
    assert not check(snapshot(10, gaussian(1.0)))
    assert check(snapshot(15, gaussian(1.0)))


def test_families_by_block_have_parameters_too():
    check = ParameterConvergence(every=1)
    assert not check(snapshot(1, {"a": gaussian(1.0), "b": gaussian(2.0)}))
    assert not check(snapshot(2, {"a": gaussian(1.0), "b": gaussian(3.0)}))
    assert check(snapshot(3, {"a": gaussian(1.0), "b": gaussian(3.0)}))


def test_it_stops_a_fit():
    check = ParameterConvergence(every=50, tolerance=0.02, diff="absolute")
    _, record = run(ScanEngine(total=10**6), data(1000, 3), seed=0, callbacks=[check], progress=False)
    assert record.status == "stopped"
    assert record.steps % 50 == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": 0}, "every must be a whole number of steps"),
        ({"every": 1.5}, "every"),
        ({"tolerance": 0.0}, "tolerance must be a positive number"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"diff": "both"}, "diff must be 'relative' or 'absolute'; got 'both'"),
        ({"norm": "fro"}, "norm must be"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(jn.OptionError, match=said):
        ParameterConvergence(**options)
