"""Row sources against plain NumPy slicing: the same rows, whatever they are kept in and however they are asked for."""

import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

from jensen.core.errors import DataError, OptionError
from jensen.data.build import table
from jensen.data.parquet import _array, _numbers
from jensen.data.table import RING

N, K = 1037, 5
RNG = np.random.default_rng(0)
MATRIX = np.concatenate([RNG.standard_normal((N, K)), np.arange(N)[:, None]], 1).astype(np.float32)
X, Y = MATRIX[:, :K], MATRIX[:, K]
NAMES = [f"x{k}" for k in range(K)]


class Protocol:
    """The three lines of the documentation."""

    def __init__(self, array):
        self.shape, self.dtype, self._array = array.shape, array.dtype, array

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        assert rows.step is None
        return self._array[rows]


def _memory(path):
    return table(X=np.ascontiguousarray(X), y=Y.copy())


def _strided(path):
    return table(MATRIX, X=slice(0, K), y=K)


def _listed(path):
    return table(MATRIX, X=[0, 1, 2, 3, 4], y=-1)


def _column_major(path):
    return table(X=np.asfortranarray(X), y=Y)


def _swapped(path):
    return table(X=X.astype(">f4"), y=Y)


def _mapped(path):
    MATRIX.tofile(path / "rows.f32")
    return np.memmap(path / "rows.f32", np.float32, "r", shape=MATRIX.shape)


def _raw(path):
    return table(_mapped(path), X=slice(0, K), y=K)


def _raw_two(path):
    np.save(path / "X.npy", X)
    np.save(path / "y.npy", Y)
    return table(X=np.load(path / "X.npy", mmap_mode="r"), y=np.load(path / "y.npy", mmap_mode="r"))


def _raw_views(path):
    padded = np.concatenate([np.full((7, K + 1), np.nan, np.float32), MATRIX])
    np.save(path / "padded.npy", padded)
    rows = np.asarray(np.load(path / "padded.npy", mmap_mode="r"))[7:]
    return table(X=rows[:, :K], y=rows[:, K])


def _raw_column_major(path):
    np.save(path / "f.npy", np.asfortranarray(MATRIX))
    return table(path / "f.npy", X=slice(0, K), y=K)


def _raw_records(path):
    records = np.zeros(N, [("skip", "i1"), ("X", ">f4", (K,)), ("y", "f4")])
    records["X"], records["y"] = X, Y
    records.tofile(path / "records")
    rows = np.memmap(path / "records", records.dtype, "r")
    return table(X=rows["X"], y=rows["y"])


def _mixed(path):
    return table(X=_mapped(path)[:, :K], y=Y)


def _protocol(path):
    return table(X=Protocol(X), y=Protocol(Y))


def _protocol_matrix(path):
    return table(Protocol(MATRIX), X=slice(0, K), y=K)


def _jax(path):
    import jax.numpy as jnp

    return table(X=jnp.asarray(X), y=jnp.asarray(Y))


def _columns():
    return {name: MATRIX[:, k].copy() for k, name in enumerate([*NAMES, "y"])}


def _pandas(path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(_columns(), index=np.arange(N)[::-1] / 2)
    return table(frame, X=frame.columns[:K], y="y")


def _pandas_series(path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(_columns())
    return table(X=frame[NAMES], y=frame["y"])


def _polars(path):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(_columns())
    return table(polars.concat([frame[:100], frame[100:]], rechunk=False), X=NAMES, y="y")


def _parquet(path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"other": ["word"] * N, **_columns()}), path / "rows.parquet", row_group_size=100)
    return table(path / "rows.parquet", X=NAMES, y="y")


def _parquet_folder(path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    whole = pa.table(_columns())
    for k, (low, high) in enumerate([(0, 300), (300, 300), (300, 301), (301, N)]):
        pq.write_table(whole.slice(low, high - low), path / f"part-{k}.parquet", row_group_size=170)
    return table(str(path), X=NAMES, y="y")


def _zarr(path):
    zarr = pytest.importorskip("zarr")
    group = zarr.create_group(path / "rows.zarr")
    group.create_array("X", shape=X.shape, chunks=(100, K), dtype=X.dtype)[:] = X
    group.create_array("y", shape=Y.shape, chunks=(64,), dtype=Y.dtype)[:] = Y
    return table(group, X="X", y="y")


def _zarr_path(path):
    _zarr(path)
    return table(path / "rows.zarr", X="X", y="y")


def _zarr_matrix(path):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(path / "matrix.zarr", shape=MATRIX.shape, chunks=(128, 2), dtype=MATRIX.dtype)
    array[:] = MATRIX
    return table(path / "matrix.zarr", X=[0, 1, 2, 3, 4], y=K)


MAKERS = [
    _memory,
    _strided,
    _listed,
    _column_major,
    _swapped,
    _raw,
    _raw_two,
    _raw_views,
    _raw_column_major,
    _raw_records,
    _mixed,
    _protocol,
    _protocol_matrix,
    _jax,
    _pandas,
    _pandas_series,
    _polars,
    _parquet,
    _parquet_folder,
    _zarr,
    _zarr_path,
    _zarr_matrix,
]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__[1:])
def rows(request, tmp_path):
    return request.param(tmp_path)


def _same(found, numbers):
    assert list(found) == ["X", "y"]
    assert found["X"].flags.c_contiguous
    assert found["X"].dtype == found["y"].dtype == np.float32
    assert found["X"].dtype.isnative
    np.testing.assert_array_equal(found["X"], X[numbers])
    np.testing.assert_array_equal(found["y"], Y[numbers])


def test_shapes(rows):
    assert rows.size == N
    assert rows.names == ("X", "y")
    assert rows.specs == {"X": ((K,), np.float32), "y": ((), np.float32)}
    assert repr(rows) == f"Table({N} rows: X float32[{K}], y float32[])"


def test_read(rows):
    kept = [rows.read(low, high) for low, high in [(0, N), (0, 1), (513, 700), (99, 101), (N - 1, N), (5, 5)]]
    for found, (low, high) in zip(kept, [(0, N), (0, 1), (513, 700), (99, 101), (N - 1, N), (5, 5)], strict=True):
        _same(found, slice(low, high))


@pytest.mark.parametrize("size", [1, 64, 256, 5000])
def test_blocks(rows, size):
    next_start, before = 0, None
    for start, block in rows.blocks(size) if size > 1 else rows.shard(0, 30).blocks(1):
        assert start == next_start
        assert len(block["y"]) == min(size, rows.size - start) or size == 1
        _same(block, slice(start, start + len(block["y"])))
        if before is not None:
            _same(before[1], slice(before[0], start))  # valid until the next but one
        before, next_start = (start, block), start + len(block["y"])
    assert next_start == (N if size > 1 else N // 30)


def test_two_passes_at_once(rows):
    for (start, one), (_, two) in zip(rows.blocks(200), rows.shard(0, 1).blocks(200), strict=True):
        _same(one, slice(start, start + 200))
        _same(two, slice(start, start + 200))


def test_a_pass_cut_short_leaves_no_thread(rows):
    before = threading.active_count()
    for _ in rows.blocks(50):
        break
    assert sum(thread.name.startswith("jensen-rows") for thread in threading.enumerate()) == 0
    assert threading.active_count() <= before + 2  # Zarr keeps its own


def test_take(rows):
    numbers = np.random.default_rng(1).integers(0, N, 300)
    _same(rows.take(numbers), numbers)
    _same(rows.take(np.array([], np.int64)), [])


@pytest.mark.parametrize("n", [1, 300, N])
def test_sample(rows, n):
    found = rows.sample(np.random.default_rng(n), n)
    numbers = found["y"].astype(int)
    assert len(np.unique(numbers)) == n
    _same(found, numbers)
    if 25 < n < N:
        assert numbers[: n // 2].max() > 0.8 * N
        assert numbers[: n // 2].min() < 0.2 * N


def test_sample_again_is_the_same(rows):
    one, two = (rows.sample(np.random.default_rng(4), 70) for _ in range(2))
    np.testing.assert_array_equal(one["y"], two["y"])


@pytest.mark.parametrize("size", [10, 700, N])
def test_shuffled_takes_each_row_once(rows, size):
    batches = list(rows.shuffled(np.random.default_rng(size), size))
    assert len(batches) == N // size
    numbers = np.concatenate([batch["y"] for batch in batches]).astype(int)
    for k, batch in enumerate(batches):
        assert len(batch["y"]) == size
        _same(batch, numbers[k * size : (k + 1) * size])
    assert len(np.unique(numbers)) == len(numbers)
    if size == 10:
        assert abs(np.corrcoef(numbers, np.arange(len(numbers)))[0, 1]) < 0.5


@pytest.mark.parametrize("count", [1, 3, 7])
def test_shards_partition(rows, count):
    shards = [rows.shard(index, count) for index in range(count)]
    sizes = [shard.size for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    found = np.concatenate([block["y"].copy() for shard in shards for _, block in shard.blocks(50)])
    np.testing.assert_array_equal(found, Y)
    last = shards[-1]
    numbers = N - last.size + np.array([3, 0, last.size - 1])
    _same(last.take(np.array([3, 0, last.size - 1])), numbers)
    epoch = np.concatenate([batch["y"] for batch in last.shuffled(np.random.default_rng(0), 1)])
    np.testing.assert_array_equal(np.sort(epoch), Y[N - last.size :])
    assert last.sample(np.random.default_rng(0), 20)["y"].min() >= N - last.size
    inner = last.shard(1, 2)
    np.testing.assert_array_equal(inner.read(0, inner.size)["y"], Y[N - inner.size :])


def test_contiguous_arrays_are_not_copied():
    array = np.ascontiguousarray(X)
    for _, block in table(X=array).blocks(100):
        assert np.shares_memory(block["X"], array)
        assert not block["X"].flags.writeable
    assert array.flags.writeable


def test_buffers_are_aligned_and_few(tmp_path):
    seen = {block["X"].ctypes.data for _, block in _raw(tmp_path).blocks(50)}
    assert len(seen) == RING
    assert all(address % 64 == 0 for address in seen)


def test_chunks_are_decoded_once():
    """A pass in blocks that do not match the chunks, gathering and shuffling read every chunk once."""
    reads = []

    class Chunked(Protocol):
        chunks = (100, K)

        def __getitem__(self, rows):
            reads.extend(range(rows.start // 100, -(-rows.stop // 100)))
            return super().__getitem__(rows)

    rows = table(X=Chunked(X))
    for way in (
        lambda: list(rows.blocks(64)),
        lambda: list(rows.blocks(256)),
        lambda: rows.sample(np.random.default_rng(0), 800),
        lambda: list(rows.shuffled(np.random.default_rng(0), 30)),
    ):
        reads.clear()
        way()
        assert sorted(reads) == list(range(11))


def test_parquet_is_decoded_once(tmp_path, monkeypatch):
    rows = _parquet(tmp_path)
    decoded = []
    numbers = "jensen.data.parquet._numbers"
    monkeypatch.setattr("jensen.data.parquet.BATCH", 1)  # 256 rows
    monkeypatch.setattr(numbers, lambda batch, row, old=_numbers: (decoded.append(batch.num_rows), old(batch, row))[1])
    list(rows.blocks(64))
    assert sum(decoded) == N
    decoded.clear()
    rows.take(np.array([990, 905, 950]))
    assert sum(decoded) <= 256


def test_samples_of_files_are_uniform(tmp_path):
    rows = _raw(tmp_path)
    rng = np.random.default_rng(0)
    counts = np.zeros(N)
    for _ in range(600):
        counts[rows.sample(rng, 95)["y"].astype(int)] += 1
    # Binomial(600, 95 / N): mean 55, sd 7.1; blocks come together, so look at blocks.
    expected = 600 * 95 / N
    by_block = counts[: N // 10 * 10].reshape(-1, 10).mean(1)
    assert np.abs(by_block - expected).max() < 4.5 * np.sqrt(expected)
    assert abs(counts[N // 10 * 10 :].mean() - expected) < 4.5 * np.sqrt(expected)


def test_shuffling_mixes_many_places(tmp_path, monkeypatch):
    monkeypatch.setattr("jensen.data.table.BLOCK", 20 * 24)  # 20 rows
    monkeypatch.setattr("jensen.data.table.MIXED", 8)
    for batch in _raw(tmp_path).shuffled(np.random.default_rng(2), 40):
        assert 4 <= len(np.unique(batch["y"] // 20)) <= 16
    first, second = (next(_raw(tmp_path).shuffled(np.random.default_rng(k), 40))["y"] for k in range(2))
    assert set(first) != set(second)


def test_dtypes_are_kept(tmp_path):
    columns = {
        "a": np.arange(9, dtype=np.int16),
        "b": np.arange(9) > 4,
        "c": np.arange(9.0),
        "d": np.arange(9, dtype="u4"),
    }
    kept = table(**columns).read(2, 5)
    for name, values in columns.items():
        assert kept[name].dtype == values.dtype
        np.testing.assert_array_equal(kept[name], values[2:5])
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = table(tmp_path / "t.parquet", **{name: name for name in columns}, both=["a", "c"]).read(2, 5)
    for name, values in columns.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values[2:5])
    np.testing.assert_array_equal(found["both"], np.stack([columns["a"], columns["c"]], 1)[2:5])


def test_rows_of_more_axes(tmp_path):
    images = RNG.standard_normal((50, 3, 4))
    np.save(tmp_path / "a.npy", images)
    mapped = table(
        image=np.load(tmp_path / "a.npy", mmap_mode="r"), part=np.load(tmp_path / "a.npy", mmap_mode="r")[:, 1:, ::2]
    )
    found = mapped.read(7, 20)
    np.testing.assert_array_equal(found["image"], images[7:20])
    np.testing.assert_array_equal(found["part"], images[7:20, 1:, ::2])
    np.testing.assert_array_equal(table(image=images).take(np.array([4, 2]))["image"], images[[4, 2]])


def test_assigned_memory_maps_are_read_as_assigned(tmp_path):
    _mapped(tmp_path)
    for mode in ("r+", "c"):
        mapped = np.memmap(tmp_path / "rows.f32", np.float32, mode, shape=MATRIX.shape)
        mapped[3, 0] = 42
        assert table(mapped, X=0).read(3, 4)["X"] == 42


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named(tmp_path, bad):
    wrong = MATRIX.copy()
    wrong[777, 3] = bad
    wrong.tofile(tmp_path / "wrong.f32")
    mapped = np.memmap(tmp_path / "wrong.f32", np.float32, "r", shape=wrong.shape)
    for rows in (
        table(wrong, X=slice(0, K)),
        table(mapped, X=slice(0, K)),
        table(X=Protocol(wrong[:, :K])).shard(0, 1),
    ):
        rows.read(0, 777)
        for way in (
            lambda rows: list(rows.blocks(100)),
            lambda rows: list(rows.shard(1, 2).blocks(100)),
            lambda rows: rows.take(np.array([5, 777, 3])),
            lambda rows: rows.sample(np.random.default_rng(0), N),
            lambda rows: list(rows.shuffled(np.random.default_rng(0), 17)),
        ):
            with pytest.raises(DataError, match=rf"X\[:, 3\] must be finite in every row; it is {bad} in row 777"):
                way(rows)


def test_huge_finite_numbers_pass():
    table(X=np.full((100, 2), np.finfo(np.float32).max)).read(0, 100)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rows: rows.read(-1, 4),
        lambda rows: rows.read(0, N + 1),
        lambda rows: rows.take(np.array([0, N])),
        lambda rows: rows.take(np.array([-1])),
        lambda rows: rows.take(np.ones(N, bool)),
        lambda rows: rows.sample(np.random.default_rng(0), N + 1),
        lambda rows: rows.sample(np.random.default_rng(0), 0),
        lambda rows: rows.blocks(0),
        lambda rows: rows.blocks(2.5),
        lambda rows: rows.shuffled(np.random.default_rng(0), N + 1),
        lambda rows: rows.shard(2, 2),
        lambda rows: rows.shard(0, N + 1),
    ],
)
def test_wrong_requests(wrong):
    with pytest.raises(OptionError, match=";.*;"):
        wrong(_memory(None))


@pytest.mark.parametrize("way", ["blocks(20000)", "shuffled(np.random.default_rng(0), 1000)", "sample"])
def test_memory_is_bounded(tmp_path, way):
    """200 MB are read with less than 60 MB on top, where mapped pages would count in full."""
    code = f"""
        import resource, numpy as np
        from jensen.data.build import table

        rows = np.memmap({str(tmp_path / "big.f32")!r}, np.float32, "r", shape=(2_500_000, 20))
        rows = table(rows, X=slice(0, 19), y=19)
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        list(rows.shard(0, 1000).blocks(100))
        before = peak()
        if {way!r} == "sample":
            rows.sample(np.random.default_rng(0), 50_000)
        else:
            for _ in rows.{way.replace("sample", "size")}:
                pass
        assert peak() - before < 60, (before, peak())
    """
    with open(tmp_path / "big.f32", "wb") as file:
        file.truncate(2_500_000 * 20 * 4)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", ["float32", "int16", "bool"])
def test_columns_of_parquet_are_views_without_pandas(dtype):
    pa = pytest.importorskip("pyarrow")
    values = np.random.default_rng(0).integers(0, 2, 100).astype(dtype)
    column = pa.array(values)[13:77]
    found = _array(column)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values[13:77])
