"""Saved fits: everything round-trips, a failed write leaves what was there, and a bad file is told in one sentence."""

import json
import os
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pytest
import xarray

from jensen.core.errors import FileError
from jensen.export.files import FORMAT, check_writable, read, write


@pytest.fixture
def groups():
    rng = np.random.default_rng(0)
    posterior = {
        "mu": (("chain", "draw"), rng.normal(size=(1, 7))),
        "eff": (("chain", "draw", "school"), rng.normal(size=(1, 7, 2))),
        "count": (("chain", "draw"), np.arange(7)[None]),
        "flag": (("chain", "draw"), (np.arange(7) > 3)[None]),
        "single": (("chain", "draw"), np.arange(7, dtype=np.float32)[None]),
        "odd": (("chain", "draw"), np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-320, 1e308]])),
    }
    coords = {"chain": [0], "draw": np.arange(7), "school": ["Ä school", "b"]}
    when = np.array(["2020-01-01", "2020-02-01"], "datetime64[ns]")
    return {
        "posterior": xarray.Dataset(posterior, coords, {"inference_library": "jensen", "seed": 3}),
        "observed_data": xarray.Dataset({"y": ("date", [1.5, 2.5])}, {"date": when}),
    }


ARRAYS = {
    "q.loc": np.arange(3.0),
    "z": np.ones((5, 3)),
    "verdict": np.array(["trusted", "means only", ""]),
    "settled": np.array([True, False]),
    "rows": np.arange(4),
    "nothing": np.zeros((0, 3)),
    "number": np.float64(2.5),
}
META = {"method": "auto", "reasons": ["a", "ü"], "nan": float("nan"), "shape": [1, 2], "deep": {"x": None, "ok": True}}


def sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


def test_everything_round_trips(tmp_path, groups):
    write(tmp_path / "fit.nc", groups, ARRAYS, META)
    found, arrays, meta = read(tmp_path / "fit.nc")
    assert set(found) == set(groups)
    for name, group in groups.items():
        xarray.testing.assert_identical(found[name], group)
        for variable in group.variables:
            assert found[name][variable].dtype.kind == group[variable].dtype.kind
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype.kind == array.dtype.kind
    assert np.isnan(meta.pop("nan"))
    assert meta.pop("format") == FORMAT
    assert meta.pop("version")
    assert meta == {name: value for name, value in META.items() if name != "nan"}


def test_names_with_slashes(tmp_path):
    variables = {
        "school/mu": (("chain", "draw", "school/row"), np.ones((1, 2, 2))),
        "school.mu": (("chain", "draw"), np.zeros((1, 2))),
    }
    group = xarray.Dataset(variables, {"school/row": ["a", "b"]})
    write(tmp_path / "fit.nc", {"posterior": group}, {"q/loc": np.arange(2)}, {})
    found, arrays, _ = read(tmp_path / "fit.nc")
    xarray.testing.assert_identical(found["posterior"], group)
    assert list(arrays) == ["q/loc"]


def test_numpy_values_in_meta_become_plain_and_others_are_refused(tmp_path):
    write(tmp_path / "fit.nc", {}, {}, {"a": np.arange(2), "b": np.float32(0.5)})
    assert read(tmp_path / "fit.nc")[2]["a"] == [0, 1]
    with pytest.raises(TypeError, match="JSON cannot hold"):
        write(tmp_path / "fit.nc", {}, {}, {"a": object()})
    assert os.listdir(tmp_path) == ["fit.nc"]


def test_large_meta(tmp_path):
    words = ["x" * 10] * 50_000
    write(tmp_path / "fit.nc", {}, {}, {"words": words})
    assert read(tmp_path / "fit.nc")[2]["words"] == words


def test_arviz_reads_it(tmp_path, groups):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        az = pytest.importorskip("arviz")
    write(tmp_path / "fit.nc", groups, ARRAYS, META)
    found = az.from_netcdf(tmp_path / "fit.nc")
    assert list(found.posterior["eff"]["school"].values) == ["Ä school", "b"]
    np.testing.assert_array_equal(found.posterior["mu"].values, groups["posterior"]["mu"].values)


def test_an_old_file_is_replaced_and_a_link_stays_a_link(tmp_path):
    write(tmp_path / "real.nc", {}, {}, {"n": 1})
    (tmp_path / "link.nc").symlink_to("real.nc")
    write(tmp_path / "link.nc", {}, {}, {"n": 2})
    assert (tmp_path / "link.nc").is_symlink()
    assert read(tmp_path / "real.nc")[2]["n"] == 2
    assert sorted(os.listdir(tmp_path)) == ["link.nc", "real.nc"]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    write(tmp_path / "fit.nc", {}, {}, {"n": 1})
    code = (
        "import resource, sys, numpy as np\n"
        "from jensen.export.files import FileError, write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "for _ in range(2):\n"
        "    try: write(sys.argv[1], {}, {'z': np.ones(100_000)}, {})\n"
        "    except FileError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "fit.nc"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fit.nc cannot be written") == 2
    assert os.listdir(tmp_path) == ["fit.nc"]
    assert read(tmp_path / "fit.nc")[2]["n"] == 1


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(old, new):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "fit.nc", {}, {}, {})
    assert os.listdir(tmp_path) == []


def test_writable_says_no_before_the_work(tmp_path):
    check_writable(tmp_path / "fit.nc")
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileError) as error:
        check_writable(tmp_path / "none" / "fit.nc")
    assert "make the folder first" in sentence(error)
    with pytest.raises(FileError) as error:
        check_writable(tmp_path)
    assert "is a folder" in sentence(error)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_a_folder_without_write_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(FileError) as error:
            check_writable(tmp_path / "fit.nc")
    finally:
        tmp_path.chmod(0o700)
    assert "Permission denied" in sentence(error)


def test_what_is_no_saved_fit(tmp_path):
    with pytest.raises(FileError) as error:
        read(tmp_path / "none.nc")
    assert "does not exist" in sentence(error)
    with pytest.raises(FileError) as error:
        read(tmp_path)
    assert "is a folder" in sentence(error)

    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(FileError) as error:
        read(tmp_path / "text.nc")
    assert "no netCDF4 file" in sentence(error)

    xarray.Dataset({"x": ("i", [1.0])}).to_netcdf(tmp_path / "other.nc", group="posterior", engine="h5netcdf")
    with pytest.raises(FileError) as error:
        read(tmp_path / "other.nc")
    assert "groups posterior and no readable group 'jensen'" in sentence(error)


def test_a_damaged_file(tmp_path, groups):
    write(tmp_path / "fit.nc", groups, ARRAYS, META)
    content = (tmp_path / "fit.nc").read_bytes()
    (tmp_path / "fit.nc").write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError) as error:
        read(tmp_path / "fit.nc")
    assert "fit.nc" in sentence(error)


def test_a_newer_format_is_refused_and_named(tmp_path):
    write(tmp_path / "fit.nc", {}, {}, {"format": FORMAT + 1, "version": "9.9"})
    with pytest.raises(FileError) as error:
        read(tmp_path / "fit.nc")
    assert "written by jensen 9.9" in sentence(error)


@pytest.mark.parametrize("meta", ["not json", "[]", json.dumps({"format": "one"}), "{}"])
def test_a_broken_meta_is_no_saved_fit(tmp_path, meta):
    write(tmp_path / "fit.nc", {}, {}, {})
    with h5py.File(tmp_path / "fit.nc", "a") as file:
        file["jensen"].attrs["meta"] = meta
    with pytest.raises(FileError) as error:
        read(tmp_path / "fit.nc")
    assert "no readable group 'jensen'" in sentence(error)
