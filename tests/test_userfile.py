"""The user's model file and data file: what is found in them, and how each mistake is told."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from jensen.core.errors import DataError, JensenError, ModelError, OptionError
from jensen.userfile import load, place, sentence

MODELS = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from functools import partial
import jensen as jn


def line(x, y=None):
    a = numpyro.sample("a", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(a * x, 1), obs=y)


def anything(**data):
    a = numpyro.sample("a", dist.Normal(0, 10))


def density(x):
    return jn.density(lambda p, data: -((p["a"] - data["x"]) ** 2).sum(), {"a": 0.0}, data={"x": x})


def broken(x):
    return undefined


def promised(x) -> "jn.models.Density":
    return undefined


ready = density(jnp.zeros(2))
bound = partial(line, y=jnp.zeros(3))
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "xy.json").write_text(json.dumps({"x": [1.0, 2.0, 3.0], "y": [1, 2, 3]}))
    (tmp_path / "x.csv").write_text("id,x\np,1.5\nq,2.5\n")
    np.savez(tmp_path / "x.npz", x=np.arange(3.0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def get(name, data=None):
    return load(f"models.py:{name}", None if data is None else Path(data))


def test_a_numpyro_function_with_json(folder):
    model, data, unused = get("line", "xy.json")
    assert model.__name__ == "line"
    np.testing.assert_array_equal(data["x"], [1.0, 2.0, 3.0])
    assert data["y"].dtype.kind == "i"
    assert unused == []


def test_a_function_that_returns_a_density_is_called_with_the_data(folder):
    model, data, _ = get("density", "x.npz")
    assert type(model).__name__ == "Density"
    assert data is None
    np.testing.assert_array_equal(model.data["x"], np.arange(3.0))


def test_a_model_object_and_a_partial_function_are_taken_as_they_are(folder):
    model, data, _ = get("ready")
    assert type(model).__name__ == "Density"
    assert data is None
    model, data, _ = get("bound", "x.npz")
    assert callable(model)
    assert list(data) == ["x"]


def test_columns_of_a_table_that_no_argument_wants_are_told(folder):
    model, data, unused = get("line", "x.csv")
    assert list(data) == ["x"]
    assert unused == ["id"]
    _, data, unused = get("ready", "x.csv")
    assert list(data) == ["x"]
    _, data, unused = get("anything", "x.csv")
    assert list(data) == ["id", "x"]
    assert data["id"].dtype.kind == "U"
    assert unused == []


def test_a_function_that_returns_a_pymc_model(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("pymc")
    (folder / "models.py").write_text(
        "import pymc as pm\n"
        "def line(x):\n"
        "    with pm.Model() as model:\n"
        "        pm.Normal('y', pm.Normal('a'), observed=x)\n"
        "    return model\n"
        "with pm.Model() as ready:\n"
        "    pm.Data('x', [1.0])\n"
    )
    model, data, _ = get("line", "x.npz")
    assert type(model).__name__ == "Model"
    assert data is None
    model, data, unused = get("ready", "x.csv")
    assert list(data) == ["x"]
    assert unused == ["id"]


@pytest.mark.parametrize(
    ("name", "data", "kind", "words"),
    [
        ("nothing", None, ModelError, "it has line, anything, density, broken, promised, ready"),
        ("line", None, DataError, "missing a required argument: 'x'; the data have no names"),
        ("density", "xy.json", DataError, "unexpected keyword argument 'y'; the data have x, y"),
        ("line", "none.json", DataError, "no data file none.json"),
        ("line", "models.py", DataError, "come as .json, .npz or .csv"),
    ],
)
def test_mistakes(folder, name, data, kind, words):
    with pytest.raises(kind) as error:
        get(name, data)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("bad.json", "{"),
        ("bad.json", "[1, 2]"),
        ("bad.json", '{"x": [1, null]}'),
        ("bad.json", '{"x": {"y": 1}}'),
        ("bad.json", '{"x": [[1, 2], [3]]}'),
        ("bad.json", b"\xff\xfe"),
        ("bad.npz", "hello"),
        ("bad.npz", b"PK\x03\x04 no archive"),
        ("bad.csv", ""),
        ("bad.csv", 'a,b\n1,2\n1,2,3,4\n"'),
    ],
)
def test_data_files_that_cannot_be_read(folder, file, content):
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        get("line", file)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_pickles_are_not_opened(folder):
    np.savez(folder / "bad.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"bad\.npz cannot be read"):
        get("line", "bad.npz")


@pytest.mark.parametrize("where", ["models.py", ":line", "models.py:", "models.py:a b", "none.py:line"])
def test_what_is_no_file_and_name(folder, where):
    with pytest.raises(OptionError):
        load(where, None)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("x = 1\ndef f(:\n", "models.py, line 2: SyntaxError"),
        ("import no_such_module\n", "models.py, line 1: ModuleNotFoundError"),
        ("\n\n1 / 0\n", "models.py, line 3: ZeroDivisionError: division by zero"),
        ("def f(x):\n    raise ValueError('first.\\nsecond')\n", "models.py, line 2: ValueError: first"),
    ],
)
def test_errors_in_the_users_file_have_its_line(folder, monkeypatch, content, told):
    monkeypatch.delitem(sys.modules, "numpyro", raising=False)  # as in a fresh process: the file imports no NumPyro
    (folder / "models.py").write_text(content)
    with pytest.raises(Exception) as error:  # noqa: PT011
        get("f", "x.npz")
    assert not isinstance(error.value, JensenError)
    assert f"{place(error.value, Path('models.py'))}: {sentence(error.value)}".startswith(told)


def test_an_error_elsewhere_has_no_place(folder):
    with pytest.raises(ValueError, match="invalid literal") as error:
        int("x")
    assert place(error.value, folder / "models.py") is None


def test_a_file_that_ends_python(folder):
    (folder / "models.py").write_text("raise SystemExit(3)")
    with pytest.raises(ModelError, match="ends Python"):
        get("f")


def test_a_promised_model_that_fails_is_not_taken_for_a_numpyro_function(folder):
    assert get("broken", "x.npz")[0].__name__ == "broken"
    with pytest.raises(NameError):
        get("promised", "x.npz")


def test_neighbors_of_the_file_can_be_imported(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "neighbor_of_test.py").write_text("def f(): return None\n")
    (folder / "sub" / "models.py").write_text("from neighbor_of_test import f\n")
    assert load("sub/models.py:f", None)[0].__name__ == "f"
