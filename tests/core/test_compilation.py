"""What is asked of the compiler, and copies that it reads where they are."""

import numpy as np
import pytest

from jensen.core import compilation


def test_options_that_a_newer_compiler_has_no_more_are_left_out(monkeypatch):
    asked = {"xla_backend_optimization_level": 0, "xla_an_option_that_went": True}
    assert compilation._known(**asked) == asked
    monkeypatch.setattr(compilation, "_TRIED", (0, 0, 0))
    assert compilation._known(**asked) == {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, bool])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (300_000, 2)])
def test_copies_are_equal_and_their_own(kind, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(kind)
    copy = compilation.copied(array)
    np.testing.assert_array_equal(copy, array)
    assert copy.dtype == array.dtype
    assert not np.shares_memory(copy, array)


def test_copies_of_slices_and_on_the_device():
    array = np.arange(600_000.0).reshape(300_000, 2)[::2]
    found = compilation.on_device({"x": array})["x"]
    array[:] = 0
    np.testing.assert_array_equal(np.asarray(found)[:, 0], np.arange(0.0, 600_000, 4))
