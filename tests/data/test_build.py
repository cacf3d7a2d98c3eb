"""What `table` refuses, and that it says which name, what was seen and what to do."""

import builtins
import subprocess
import sys

import numpy as np
import pytest

from jensen.core.errors import DataError, OptionError
from jensen.data.build import table

X, Y = np.zeros((10, 2)), np.zeros(10)


def _refused(kind, match, *args, **columns):
    with pytest.raises(kind, match=match) as caught:
        table(*args, **columns)
    assert str(caught.value).count(";") >= 2


def test_lengths_must_agree():
    _refused(DataError, "array 'X' has 10, array 'y' has 9", X=X, y=Y[:9])


def test_there_must_be_rows():
    _refused(DataError, "'X', 'y' have none", X=X[:0], y=Y[:0])
    _refused(DataError, "array 'X' must have columns", X=X[:, :0])
    _refused(DataError, "array 'X' must have rows; it is a single number", X=np.float64(3))


def test_columns_must_be_named():
    _refused(OptionError, "got none")
    _refused(OptionError, "got none", X)
    _refused(OptionError, "got list", X=[1.0, 2.0])
    _refused(OptionError, "got str", X="x0")
    _refused(DataError, "got ndarray of shape \\(10,\\)", Y, X=0)
    _refused(DataError, "got int", 3, X=0)


@pytest.mark.parametrize("chosen", [2, -3, "x0", [0, 5], [True, False], 1.0])
def test_numbers_of_columns(chosen):
    _refused(OptionError, "must name columns 0 to 1", X, X=chosen)


@pytest.mark.parametrize("chosen", [slice(2, 5), []])
def test_no_columns(chosen):
    _refused(OptionError, "must be|must have", X, X=chosen)


@pytest.mark.parametrize(
    "values", [np.array(["a"] * 10), np.zeros(10, complex), np.zeros(10, object), np.zeros(10, "M8[s]")]
)
def test_columns_must_be_numbers(values):
    _refused(DataError, "array 'y' must hold numbers", X=X, y=values)


def test_masked_arrays():
    _refused(DataError, "masked", X=np.ma.masked_invalid([1.0, np.nan]))


def test_frames():
    for package in ("pandas", "polars"):
        library = pytest.importorskip(package)
        frame = library.DataFrame({"a": [1.0, 2.0], "word": ["u", "v"], "gap": [1, None]})
        _refused(DataError, "no column 'b', asked for as 'X'; it has 'a', 'word', 'gap'", frame, X=["a", "b"])
        _refused(DataError, "column 'word' must hold numbers", frame, X="word")
        if package == "polars":
            _refused(DataError, "row 1 is null", frame, X="gap")
            _refused(DataError, "LazyFrame", frame.lazy(), X="a")
        else:
            _refused(DataError, "row 1 is null", frame.astype({"gap": object}), X="gap")
            with pytest.raises(DataError, match="gap|X must be finite in every row; it is nan in row 1"):
                table(frame.convert_dtypes(), X="gap").read(0, 2)


def test_paths(tmp_path):
    _refused(DataError, "there is nothing", tmp_path / "no.parquet", X="x")
    (tmp_path / "rows.csv").write_text("x\n1\n")
    _refused(DataError, "it ends in '.csv'", tmp_path / "rows.csv", X="x")
    _refused(DataError, "it is a folder", tmp_path, X="x")
    (tmp_path / "bad.npy").write_text("x")
    _refused(DataError, "opening it failed", tmp_path / "bad.npy", X=0)


def test_parquet(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    values = np.arange(1000.0)
    pq.write_table(
        pa.table({"x": values, "word": ["w"] * 1000, "gap": pa.array([None if k == 817 else k for k in range(1000)])}),
        path,
        row_group_size=300,
    )
    _refused(DataError, "has no column 'z'; it has 'x', 'word', 'gap'", path, X=["x", "z"])
    _refused(DataError, "column 'word' must hold numbers .* its type is string", path, X="word")
    rows = table(path, g=["x", "gap"])
    with pytest.raises(DataError, match="column 'gap' must have a number in every row; row 817 is null"):
        list(rows.blocks(50))
    with pytest.raises(DataError, match="row 817 is null"):
        rows.take(np.array([810, 999]))
    (tmp_path / "broken.parquet").write_bytes(path.read_bytes()[:1000])
    _refused(DataError, "must be a Parquet file", tmp_path / "broken.parquet", X="x")
    folder = tmp_path / "folder"
    folder.mkdir()
    pq.write_table(pa.table({"x": values}), folder / "0.parquet")
    pq.write_table(pa.table({"x": values.astype(np.float32)}), folder / "1.parquet")
    _refused(DataError, "double in .* and float in", folder, X="x")
    pq.write_table(pa.table({"x": values[:0]}), tmp_path / "empty.parquet")
    _refused(DataError, "'X' have none", tmp_path / "empty.parquet", X="x")
    rows = table(path, x="x")
    pq.write_table(pa.table({"x": values[:400]}), path)
    with pytest.raises(DataError, match="must have 1000 rows"):
        list(rows.blocks(100))


def test_groups(tmp_path):
    _refused(DataError, "the group has no column 'z'", {"a": X}, X="z")
    _refused(DataError, "one of a list for 'X', must be 1-D", {"a": X}, X=["a"])
    rows = table({"a": Y, "b": Y.astype(np.float32) + 1}, X=["b", "a"])
    assert rows.specs["X"] == ((2,), np.float64)
    np.testing.assert_array_equal(rows.read(0, 2)["X"], [[1, 0], [1, 0]])


def test_a_file_shorter_than_its_shape(tmp_path):
    np.zeros((1000, 3)).tofile(tmp_path / "rows")
    for columns in ({"X": slice(0, 3)}, {"X": slice(0, 2), "y": 2}):
        rows = table(np.memmap(tmp_path / "rows", np.float64, "r+", shape=(1000, 3)), **columns)
        with open(tmp_path / "rows", "r+b") as file:
            file.truncate(500 * 24)
        rows.read(0, 500)
        with pytest.raises(DataError, match="it ends after 12000; "):
            rows.read(0, 501)
        np.zeros((1000, 3)).tofile(tmp_path / "rows")


def test_a_file_that_is_gone(tmp_path):
    np.zeros((1000, 3)).tofile(tmp_path / "rows")
    rows = table(X=np.memmap(tmp_path / "rows", np.float64, "r", shape=(1000, 3)))
    (tmp_path / "rows").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        rows.read(0, 1)


def test_objects_that_lie_about_their_shape():
    class Short:
        shape, dtype = (10, 2), np.dtype(float)

        def __getitem__(self, rows):
            return np.zeros((3, 2))

    with pytest.raises(DataError, match="it gave shape \\(3, 2\\)"):
        table(X=Short()).read(0, 10)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "rows.parquet").touch()
    real = builtins.__import__

    def without(name, *args, **options):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    _refused(OptionError, "needs the package pyarrow", tmp_path / "rows.parquet", X="x")


def test_nothing_is_imported_that_is_not_used():
    code = (
        "import sys, numpy as np; from jensen.data.build import table; table(X=np.zeros((3, 2))).read(0, 3)\n"
        "found = {'jax', 'pandas', 'polars', 'pyarrow', 'zarr'} & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_can_be_read_only_once_is_refused():
    for make in (lambda once: table(y=once), lambda once: table(once, y=0)):
        with pytest.raises(DataError, match="a generator, which can be read only once, and a fit makes several passes"):
            make(row for row in np.ones((4, 2)))
