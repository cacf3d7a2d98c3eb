"""A plain text table of scalar quantities for terminals, from NumPy alone: printing a fit should cost nothing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LOCATIONS = ("mean", "sd", "median", "mode")
"""Last words of columns in the quantity's unit; their digits, and those of quantiles ("5%"), follow the row's sd."""

_DIGITS = 3
_SMALLEST = 1e-4
_LARGEST = 1e9
"""Between these two, a plain number reads better than powers of ten."""


def render(names: Sequence[str], columns: Mapping[str, Sequence[Any] | np.ndarray], limit: int | None = 30) -> str:
    """Lay out a table.

    Parameters
    ----------
    names
        One a row.
    columns
        Header -> one value a row: numbers, aligned right, or words, aligned left. In a row, the first column ``sd`` or
        ``... sd`` has three significant digits, and other sds, ``mean``, ``median``, ``mode`` and quantiles such as
        ``5%`` as many decimals as it; all other numbers have three significant digits of their own.
    limit
        Most rows shown; None shows all.

    Returns
    -------
    str
        Lines without trailing spaces and without a final newline.

    Examples
    --------
    >>> columns = {"mean": [101.548, 0.0214], "sd": [0.3771, 0.00119], "verdict": ["trusted", "means only"]}
    >>> print(render(["mu", "tau"], columns))
            mean       sd  verdict
    mu   101.548    0.377  trusted
    tau  0.02140  0.00119  means only
    """
    names = [str(name) for name in names]
    shown = len(names) if limit is None or len(names) <= limit else max(limit, 1)
    cells, left = [["", *names[:shown]]], [True]
    for header, column in texts(columns, shown).items():
        cells.append([header, *column])
        left.append(any(isinstance(value, str) for value in columns[header][:shown]))
    widths = [max(map(len, column)) for column in cells]
    lines = [
        "  ".join(
            text.ljust(width) if to_left else text.rjust(width)
            for text, width, to_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in zip(*cells, strict=True)
    ]
    if not names:
        lines.append("(no scalar quantities)")
    elif shown < len(names):
        lines.append(f"... ({len(names) - shown} more; posterior.summary() has all)")
    return "\n".join(lines)


def texts(columns: Mapping[str, Sequence[Any] | np.ndarray], rows: int) -> dict[str, list[str]]:
    """The first rows of columns as text, with the digits that `render` gives them."""
    spread = next((values for header, values in columns.items() if _last_word(header) == "sd"), [math.nan] * rows)
    decimals = [_decimals(value) for value in spread[:rows]]
    found = {}
    for header, values in columns.items():
        follows = _last_word(header) in LOCATIONS or header.endswith("%")
        found[header] = [
            str(value) if isinstance(value, str) else number(value, places if follows else None)
            for value, places in zip(values[:rows], decimals, strict=True)
        ]
    return found


def number(value: Any, decimals: int | None = None) -> str:
    """Write one number: with `decimals` decimals, or three significant digits; without powers of ten where it can be.

    Parameters
    ----------
    value
        A number; NaN and infinities are written ``nan``, ``inf``, ``-inf``.
    decimals
        None leaves it to the number's own size.
    """
    if isinstance(value, float) and decimals is not None and 0 <= decimals <= 8 and _SMALLEST <= abs(value) < _LARGEST:
        return f"{round(float(value), decimals) + 0.0:.{decimals}f}"  # most numbers of a large table
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer) and decimals is None and abs(value) < _LARGEST:
        return str(value)
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    if decimals is None:
        decimals = _decimals(value) or 0
    size = abs(value)
    if size >= _LARGEST or (0 < size < _SMALLEST and round(value, decimals) != 0):
        # As many digits as the decimals asked for, between three and eight.
        digits = min(max(math.floor(math.log10(size)) + decimals, _DIGITS - 1), 7)
        return f"{value:.{digits}e}"
    # Near-zero numbers round to zero, which has no sign.
    return f"{round(value, min(max(decimals, 0), 8)) + 0.0:.{min(max(decimals, 0), 8)}f}"


def _last_word(header: str) -> str:
    return header.rpartition(" ")[2]


def _decimals(value: Any) -> int | None:
    """Decimals that show three significant digits of a number; None for zero and what is no number."""
    value = abs(float(value))
    if not math.isfinite(value) or value == 0:
        return None
    # Rounding first: 0.9996 becomes 1.00, not 1.000.
    return _DIGITS - 1 - math.floor(math.log10(float(f"{value:.{_DIGITS - 1}e}")))
