"""Posterior predictive draws through a model's own simulation: what may be asked, and words for what goes wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jensen.core import precision as precisions
from jensen.core.errors import DataError, OptionError
from jensen.models.misfit import first_line, shapes
from jensen.models.model import Model
from jensen.models.read import checked


def predicted(
    model: Model, values: Mapping[str, np.ndarray], data: Mapping[str, Any] | None, seed: int, precision: str
) -> dict[str, np.ndarray]:
    """Simulate the observed variables once a draw, (draws, *shape).

    Parameters
    ----------
    model, values
        The model, and draws of its sites in its own space, draws first.
    data
        Replaces data of the same name; None: the rows of the fit.
    seed, precision
        Of the fit.

    Raises
    ------
    OptionError
        When the model cannot be simulated from.
    DataError
        When the data do not fit.
    """
    if model.predict is None:
        raise OptionError(
            f"{model.name} ({model.language}, or with pm.Minibatch) cannot be simulated from; use "
            "posterior.draws() and your own simulation, or write the model with its full data."
        )
    if data is not None:  # the levels of old rows say nothing about new ones, which draw their own
        values = {name: value for name, value in values.items() if name not in model.discrete}
    data = {**model.data, **checked(model, {} if data is None else data)}
    try:
        with precisions.scope(precision):
            return model.predict(dict(values), data, seed)
    except (TypeError, ValueError, IndexError, AssertionError) as error:
        raise DataError(
            f"{model.name} cannot be simulated with these data: {first_line(error)}; they have shapes {shapes(data)}."
        ) from error
