"""The command line, run in this process: what it prints, its exit codes, and that no mistake ends in a traceback."""

import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jensen
from jensen.cli import main

MODELS = """
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def line(x, y=None):
    a = numpyro.sample("a", dist.Normal(0, 10))
    s = numpyro.sample("s", dist.HalfNormal(5))
    numpyro.deterministic("twice", 2 * a)
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(a * x, s), obs=y)


def broken(x, y):
    a = numpyro.sample("a", dist.Normal(0, 10))
    return jnp.no_such_function(a)


def infinite(x, y):
    a = numpyro.sample("a", dist.Normal(0, 10))
    numpyro.sample("y", dist.Exponential(1.0), obs=a - jnp.abs(y) - 1)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    # With a cache folder of the user's own choice, the command line leaves JAX's settings alone.
    monkeypatch.setenv(
        "JAX_COMPILATION_CACHE_DIR", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    rng = np.random.default_rng(0)
    x = rng.normal(size=20)
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "d.json").write_text(json.dumps({"x": x.tolist(), "y": (2 * x + rng.normal(size=20)).tolist()}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Posterior:
    """Stands for a fit: what the command line asks of one."""

    def __init__(self, overall="trusted"):
        self.verdict = SimpleNamespace(overall=overall)
        self.saved = self.reported = None

    def report(self, path):
        self.reported = path

    def __str__(self):
        return "the table"

    def save(self, path):
        self.saved = path


@pytest.fixture
def fit(monkeypatch):
    """Replace `jensen.fit`; what it was called with is in `.calls`."""

    def fake(model, method, **options):
        fake.calls.append((model, method, options))
        if fake.interrupt:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                if fake.interrupt == "hard":
                    raise
        return fake.posterior

    fake.calls, fake.interrupt, fake.posterior = [], "", Posterior()
    monkeypatch.setitem(vars(jensen), "fit", fake)
    return fake


def complaint(capsys) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("jensen: error: ")
    return lines[0]


def test_version_and_help(capsys):
    for argument in ("--version", "--help"):
        with pytest.raises(SystemExit) as end:
            main([argument])
        assert end.value.code == 0
    assert jensen.__version__ in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["fit"], ["fit", "m.py:m", "--seed", "x"]])
def test_arguments_that_make_no_sense(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_check_tells_what_is_in_the_model(capsys):
    assert main(["check", "models.py:line", "--data", "d.json"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("line: a NumPyro model with D = 2 unconstrained coordinates\n")
    words = [line.split() for line in text.splitlines()]
    assert ["s", "()", "1", "positive"] in words
    assert ["y", "(20,)", "rows"] in words
    assert ["twice", "()"] in words
    assert ["x", "(20,)", "float64"] in words
    assert words[-1][-4:] == ["its", "gradient", "is", "finite"]


def test_check_in_single_precision_leaves_the_setting(capsys):
    assert main(["check", "models.py:line", "--data", "d.json", "--precision", "float32"]) == 0


def test_check_tells_that_nothing_is_observed(folder, capsys):
    (folder / "x.json").write_text('{"x": [1.0, 2.0]}')
    assert main(["check", "models.py:line", "--data", "x.json"]) == 0
    assert "nothing is observed" in capsys.readouterr().out


def test_check_names_what_is_not_finite(capsys):
    assert main(["check", "models.py:infinite", "--data", "d.json"]) == 1
    assert "the log density of y is not finite" in capsys.readouterr().out


def test_unused_columns_are_told(folder, capsys):
    (folder / "t.csv").write_text("id,x,y\np,1.0,2.0\nq,2.0,4.0\n")
    assert main(["check", "models.py:line", "--data", "t.csv"]) == 0
    assert capsys.readouterr().err == "columns not used: id\n"


def test_an_error_in_the_users_file_is_one_line_with_its_place(capsys):
    assert main(["check", "models.py:broken", "--data", "d.json"]) == 2
    assert "models.py, line 17: AttributeError: " in complaint(capsys)


def test_an_error_of_jensen_is_not_hidden(monkeypatch, fit):
    monkeypatch.setitem(vars(jensen), "fit", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["fit", "models.py:line", "--data", "d.json"])


def test_fit_passes_its_options_on_and_prints_the_fit(fit, capsys):
    options = ["--method", "fullrank", "--seed", "3", "--budget", "2.5", "--precision", "float32"]
    assert main(["fit", "models.py:line", "--data", "d.json", *options]) == 0
    model, method, given = fit.calls[0]
    assert model.__name__ == "line"
    assert method == "fullrank"
    assert set(given.pop("data")) == {"x", "y"}
    assert given == {"seed": 3, "budget": 2.5, "precision": "float32"}
    assert capsys.readouterr().out == "the table\n"
    assert fit.posterior.saved is None


def test_fit_saves(fit, capsys):
    assert main(["fit", "models.py:line", "--data", "d.json", "--out", "fit.nc"]) == 0
    assert fit.posterior.saved == Path("fit.nc")
    assert "saved: fit.nc" in capsys.readouterr().out


def test_fit_reports(fit, capsys):
    assert main(["fit", "models.py:line", "--data", "d.json", "--report", "fit.html"]) == 0
    assert fit.posterior.reported == Path("fit.html")
    assert "report: fit.html" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_refused_before_the_fit(fit, capsys, monkeypatch):
    assert main(["fit", "models.py:line", "--data", "d.json", "--report", "no/fit.html"]) == 2
    assert "make the folder first" in complaint(capsys)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["fit", "models.py:line", "--data", "d.json", "--report", "fit.html"]) == 2
    assert "jinja2" in complaint(capsys)
    assert not fit.calls


def test_report_of_a_saved_fit(monkeypatch, capsys):
    posterior = Posterior()
    monkeypatch.setitem(vars(jensen), "load", lambda path: posterior if path == Path("a/fit.nc") else None)
    assert main(["report", "a/fit.nc"]) == 0
    assert posterior.reported == Path("a/fit.html")
    assert main(["report", "a/fit.nc", "--out", "other.html"]) == 0
    assert posterior.reported == Path("other.html")
    assert capsys.readouterr().out.splitlines() == ["report: a/fit.html", "report: other.html"]


def test_report_of_what_is_no_fit(capsys):
    assert main(["report", "none.nc"]) == 2
    assert "does not exist" in complaint(capsys)


@pytest.mark.parametrize("out", ["no/such/folder/fit.nc", "."])
def test_a_path_that_cannot_be_written_is_refused_before_the_fit(fit, capsys, out):
    assert main(["fit", "models.py:line", "--data", "d.json", "--out", out]) == 2
    assert out.split("/")[0] in complaint(capsys)
    assert not fit.calls


def test_do_not_use_is_printed_and_is_no_error(fit, capsys):
    fit.posterior = Posterior("do not use")
    assert main(["fit", "models.py:line", "--data", "d.json"]) == 0
    assert "DO NOT USE" in capsys.readouterr().out


def test_an_interrupted_fit_is_kept_and_the_exit_code_tells(fit, capsys):
    fit.interrupt = "soft"
    before = signal.getsignal(signal.SIGINT)
    assert main(["fit", "models.py:line", "--data", "d.json", "--out", "fit.nc"]) == 130
    assert fit.posterior.saved == Path("fit.nc")
    assert capsys.readouterr().out.startswith("the table")
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_with_nothing_to_keep(fit, capsys):
    fit.interrupt = "hard"
    assert main(["fit", "models.py:line", "--data", "d.json", "--out", "fit.nc"]) == 130
    assert "interrupted" in complaint(capsys)
    assert not Path("fit.nc").exists()


def test_compiled_programs_are_kept_in_the_users_cache_and_the_settings_put_back(folder, monkeypatch, capsys):
    from jax.experimental.compilation_cache import compilation_cache

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "mine"))
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.reset_cache()
    try:
        assert main(["check", "models.py:line", "--data", "d.json"]) == 0
    finally:
        compilation_cache.reset_cache()
    assert any((folder / "mine" / "jensen" / "programs").iterdir())
    assert jax.config.jax_compilation_cache_dir == before


def test_a_real_fit_from_file_to_file(capsys):
    assert main(["fit", "models.py:line", "--data", "d.json", "--out", "fit.nc"]) == 0
    assert "trusted" in capsys.readouterr().out
    posterior = jensen.load("fit.nc")
    assert posterior.draws(200)["a"].shape == (200,)
    assert abs(float(posterior.mean["a"]) - 2) < 1
