"""The text table: digits follow the sd, plain numbers where they read better, and long tables are cut."""

import math

import numpy as np
import pytest

from jensen.export.table import number, render


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.mark.parametrize(
    ("mean", "sd", "written"),
    [
        (101.5482, 0.3771, ["101.548", "0.377"]),
        (0.02144, 0.00119, ["0.02144", "0.00119"]),
        (1234567.8, 1234.5, ["1234568", "1234"]),
        (-0.0001, 0.9996, ["0.00", "1.00"]),
        (0.0, 25.3, ["0.0", "25.3"]),
        (2.5, 0.0, ["2.50", "0"]),
        (3.1e-6, 1.2e-7, ["3.100e-06", "1.20e-07"]),
        (3.2e9, 1.1e6, ["3.20000e+09", "1100000"]),
        (math.nan, math.inf, ["nan", "inf"]),
    ],
)
def test_digits_follow_the_sd(mean, sd, written):
    row = cells(render(["x"], {"mean": [mean], "sd": [sd]}))[1]
    assert row == ["x", *written]


def test_quantiles_have_the_decimals_of_the_sd_and_other_columns_their_own():
    columns = {"sd": [0.5], "5%": [1.0], "95%": [10.123456], "ess": [812], "khat": [0.04321], "ok": [True]}
    assert cells(render(["x"], columns))[1] == ["x", "0.500", "1.000", "10.123", "812", "0.0432", "yes"]


def test_columns_line_up_and_no_line_ends_in_spaces():
    columns = {
        "mean": np.array([101.548, 0.0214]),
        "verdict": ["trusted", "means only"],
        "sd": np.array([0.377, 0.00119]),
    }
    lines = render(["mu", "a long name"], columns).splitlines()
    assert lines == [
        "                mean  verdict          sd",
        "mu           101.548  trusted       0.377",
        "a long name  0.02140  means only  0.00119",
    ]


def test_a_long_table_is_cut_and_says_so():
    names = [f"x[{i}]" for i in range(172)]
    lines = render(names, {"mean": np.arange(172.0)}).splitlines()
    assert len(lines) == 32
    assert lines[-1] == "... (142 more; posterior.summary() has all)"
    assert len(render(names, {"mean": np.arange(172.0)}, limit=None).splitlines()) == 173


def test_a_table_of_exactly_the_limit_is_not_cut():
    assert "more" not in render(["a", "b"], {"mean": [1.0, 2.0]}, limit=2)


def test_no_rows():
    assert render([], {"mean": []}).splitlines()[-1] == "(no scalar quantities)"


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.5, "0.500"), (12345.6, "12346"), (1e-5, "1.00e-05"), (7, "7"), (np.int64(-3), "-3"), (0.0, "0")],
)
def test_a_number_on_its_own(value, written):
    assert number(value) == written
