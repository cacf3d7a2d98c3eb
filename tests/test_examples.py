"""Every example runs in its quick mode, where its own checks must hold, and opens as a notebook."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from tests.tiers import quick

pytest.importorskip("pymc")

FOLDER = Path(__file__).parents[1] / "examples"
_spec = spec_from_file_location("examples_run", FOLDER / "run.py")
assert _spec is not None
assert _spec.loader is not None
runner = module_from_spec(_spec)
sys.modules[_spec.name] = runner
_spec.loader.exec_module(runner)

EXAMPLES = runner.examples()
by_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
LONG = (
    "05_bimodal_mixture",
    "06_minibatch",
    "08_draws_or_chains",
    "09_green_blob",
    "20_mean_field_guide",
    "24_topics",
    "25_natural_gradients",
    "26_conjugate_models",
)
"""Whose methods other examples and tests run, too."""


@pytest.mark.parametrize(
    "path", quick(EXAMPLES, *(path for path in EXAMPLES if path.stem not in LONG)), ids=lambda path: path.stem
)
@pytest.mark.filterwarnings("ignore::jensen.core.errors.FitWarning")  # some fits are meant to be warned of
@pytest.mark.filterwarnings("ignore:PyTensor could not link to a BLAS")
@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")  # ArviZ 0.23 beside matplotlib 3.11
def test_example(path, monkeypatch, tmp_path):
    import matplotlib.pyplot as plt

    monkeypatch.setenv("JENSEN_QUICK", "1")
    try:
        figures = runner.figures(runner.run(path))
        moving = {name: figure for name, figure in figures.items() if not hasattr(figure, "savefig")}
        for name, figure in moving.items():
            assert runner.save(name, figure, path.stem, tmp_path).read_bytes().startswith(b"GIF")
    finally:
        plt.close("all")
    assert figures


@by_example
def test_cells(path):
    """Percent format: a title first, prose in comments, checks at the end."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# %% [markdown]\n# # ")
    cells = text.split("# %%")[1:]
    for cell in cells:
        head, _, body = cell.partition("\n")
        assert head in ("", " [markdown]")
        if head:
            assert all(line.startswith("#") or not line for line in body.splitlines())
    assert "assert" in cells[-1]
    assert "plt.show" not in text


def test_readme_lists_them():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES if f"`{path.name}`" not in text] == []
