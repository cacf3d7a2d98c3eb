"""Rows of groups are counted and collected by several processes as by one; here threads stand for the processes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

import jensen as jn
from jensen.core import processes
from jensen.core.errors import DataError
from jensen.models.numbered import Numbers, collected, counted

N, G, SEVERAL = 103, 9, 3
RNG = np.random.default_rng(5)
ARRAYS = {
    "X": RNG.normal(size=(N, 2)).astype("float32"),
    "group": RNG.integers(0, G, N).astype("int32"),
    "y": RNG.random(N) < 0.5,
}
NUMBERS, SOME = Numbers("group", G, (("a", 0),)), np.array([2, 3, 7])


def rows(table, begin=0):
    return SimpleNamespace(source=table, begin=begin, block=10)


def in_threads(monkeypatch, work):
    """What each of `SEVERAL` processes finds, or its error."""
    own, barrier, parts = threading.local(), threading.Barrier(SEVERAL), [None] * SEVERAL

    def total(part, what, point):
        try:
            parts[own.index] = part()
        except DataError:
            barrier.abort()
            raise
        barrier.wait()
        found = parts[0]
        if isinstance(found, dict):
            found = {name: sum(part[name] for part in parts) for name in found}
        else:
            found = sum(parts)
        barrier.wait()
        return found

    def one(index):
        own.index = index
        table = jn.table(**ARRAYS)
        return work(rows(table.shard(index, SEVERAL), N * index // SEVERAL))

    monkeypatch.setattr(processes, "count", lambda: SEVERAL)
    monkeypatch.setattr(processes, "index", lambda: own.index)
    monkeypatch.setattr(processes, "total", total)
    with ThreadPoolExecutor(SEVERAL) as pool:
        return [future.exception() or future.result() for future in [pool.submit(one, k) for k in range(SEVERAL)]]


def test_rows_are_counted_and_collected(monkeypatch):
    kept = np.isin(ARRAYS["group"], SOME)
    alone = collected(rows(jn.table(**ARRAYS)), NUMBERS, SOME)
    for counts in in_threads(monkeypatch, lambda part: counted(part, NUMBERS)):
        np.testing.assert_array_equal(counts, np.bincount(ARRAYS["group"], minlength=G))
    for found in (alone, *in_threads(monkeypatch, lambda part: collected(part, NUMBERS, SOME))):
        for name, array in ARRAYS.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array[kept])


def test_a_bad_number_is_told_with_its_row(monkeypatch):
    monkeypatch.setitem(ARRAYS, "group", np.where(np.arange(N) == 97, G, ARRAYS["group"]))
    found = in_threads(monkeypatch, lambda part: counted(part, NUMBERS))
    with pytest.raises(DataError, match="it is 9 in row 97"):
        raise found[-1]
