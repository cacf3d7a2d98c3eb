"""The demonstration: the data are those of the paper, and what is printed and drawn is there."""

import numpy as np
import pytest

from jensen.core.errors import FileError
from jensen.demo import DRUG, PICTURE, PLACEBO, QUANTITIES, draw, run, works


def test_the_data_are_those_of_the_paper():
    assert (len(DRUG), len(PLACEBO)) == (47, 42)
    # Sums of the published numbers: one mistyped score would change them.
    assert (DRUG.sum(), PLACEBO.sum()) == (4790, 4215)


def test_the_picture(tmp_path):
    rng = np.random.default_rng(0)
    draws = {name: rng.normal(size=200) for name in QUANTITIES}
    draw(tmp_path / PICTURE, -1 / np.arange(1, 20), draws, draws)
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")
    assert 0.3 < works(draws) < 0.7


def test_a_folder_that_is_missing_is_told_before_anything_is_fitted(tmp_path):
    said = []
    with pytest.raises(FileError, match="make the folder first"):
        run(tmp_path / "none", said.append)
    assert not said


@pytest.mark.slow
def test_jensen_and_nuts_agree(tmp_path):
    said = []
    run(tmp_path, said.append)
    text = "\n".join(said)
    assert (tmp_path / PICTURE).exists()
    rows = {
        line.split()[0]: line.split()
        for line in text.splitlines()
        if line.split()[:1] and line.split()[0] in QUANTITIES
    }
    assert set(rows) == set(QUANTITIES)
    for row in rows.values():
        assert abs(float(row[5])) < 0.2
        assert 0.8 < float(row[6]) < 1.25
    assert "P(mean_drug > mean_placebo)" in text
