"""Observed values that their distribution cannot take: found before any rule takes their logarithm or factorial."""

import numpy as np

from jensen.conjugate.terms import Reader
from jensen.core.errors import DataError
from jensen.models.graph import Node

COUNTS = ("Bernoulli", "Binomial", "Categorical", "Multinomial", "Poisson")
POSITIVE = ("Gamma", "InverseGamma")


def check(node: Node, reader: Reader) -> None:
    """Refuse values of an observed node that are outside of its support.

    Raises
    ------
    DataError
        Naming the node and the first bad value.
    """
    found = reader.reading(node, "value", "id")
    if found is None or reader.probe.parents[node.name]["value"]:
        return
    if found.affine is None:  # the probe believes in finite numbers only
        raise DataError(f"{node.name} ({node.distribution}) has NaN or infinite values; drop or impute those rows.")
    value = np.asarray(reader.constant(node, "value"), float)
    if node.kind in COUNTS:
        _refuse(node, value, (value != np.rint(value)) | (value < 0), "a whole number >= 0", "recode the data")
    if node.kind == "Bernoulli":
        _refuse(node, value, value > 1, "0 or 1", "use a Binomial for counts")
    elif node.kind == "Binomial":
        total = _total(node, reader)
        if total is not None:
            _refuse(node, value, value > total, "at most total_count", "correct one of the two")
    elif node.kind == "Multinomial":
        total, row = _total(node, reader), value.sum(-1)
        if total is not None and total.shape[1] == 1:  # padded in front to the axes of the value
            _refuse(node, row, row != total[:, 0], "its total_count", "let it be the sum of each row", "a row of sum")
    elif node.kind in POSITIVE:
        _refuse(node, value, value <= 0, "a number > 0", "drop or shift those values")
    elif node.kind == "Beta":
        _refuse(node, value, (value <= 0) | (value >= 1), "a number between 0 and 1", "move such values inside")
    elif node.kind == "Dirichlet":
        _refuse(node, value, value <= 0, "a number > 0", "move zeros inside the simplex")
        row = value.sum(-1)
        _refuse(node, row, np.abs(row - 1) > 1e-5, "a sum of 1", "divide each row by its sum", "a row of sum")


def _total(node: Node, reader: Reader) -> np.ndarray | None:
    found = reader.reading(node, "total_count", "id")
    known = found is not None and found.affine is not None and not reader.probe.parents[node.name]["total_count"]
    return reader.constant(node, "total_count") if known else None


def _refuse(node: Node, value: np.ndarray, bad: np.ndarray, wanted: str, advice: str, what: str = "the value") -> None:
    bad = np.broadcast_to(bad, value.shape)
    if bad.any():
        raise DataError(
            f"{node.name} ({node.distribution}) has {what} {value[bad][0]:g}, where {wanted} is needed; {advice}."
        )
