"""What is read of a fit, wherever it is from: variables with labels along their axes, draws, moments with Monte-Carlo errors.

draws of an approximation     n = 1 / sum(weights^2)
a corrected answer            standard errors that its chains have measured (in sds), where they are larger
Markov chains                 n = effective sample size, of means and of sds (ArviZ)

`compare` and the figures share it. It is below `Posterior`, because reports draw figures, and knows one by its parts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jensen.core import keys
from jensen.core.errors import DataError, OptionError
from jensen.diagnostics.quantities import resampled, weighted_quantiles

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


class Moments(NamedTuple):
    """Of K scalars: mean, its error, sd, error of log sd, each (K,), and quantiles (5, K) at `LEVELS`."""

    mean: np.ndarray
    error: np.ndarray
    sd: np.ndarray
    log_sd_error: np.ndarray
    quantiles: np.ndarray


@dataclass(frozen=True, eq=False)
class Fit:
    """One fit.

    Attributes
    ----------
    label
        What it is called by default.
    chains
        Whether its draws are Markov chains.
    variables
        Name -> labels along each axis.
    of
        (name, rows of its flat array) -> `Moments`.
    draws
        name -> equally likely draws of its flat array, (n, size).
    """

    label: str
    chains: bool
    variables: dict[str, list[list[str]]]
    of: Callable[[str, np.ndarray], Moments]
    draws: Callable[[str], np.ndarray]

    def moments(self, names: list[str], rows: list[np.ndarray]) -> Moments:
        """Moments of some elements of some variables, one after the other."""
        parts = [self.of(name, row) for name, row in zip(names, rows, strict=True)]
        return Moments(*(np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)))


def read_fit(fit: Any, number: int) -> Fit:
    """A posterior of jensen, or draws from elsewhere.

    Raises
    ------
    OptionError
        When it is neither.
    DataError
        When it has no draws.
    """
    if hasattr(fit, "kept") and hasattr(fit, "verdict"):
        return _own(fit)
    data = getattr(fit, "posterior", None)
    if data is not None and hasattr(data, "to_dataset") and not hasattr(data, "data_vars"):
        data = data.to_dataset()  # a group of a DataTree
    data = fit if data is None and hasattr(fit, "data_vars") and hasattr(fit, "dims") else data
    if data is None or not hasattr(data, "data_vars"):
        raise OptionError(
            f"fit {number + 1} is a {type(fit).__name__}; give a jensen Posterior or an ArviZ object, for example "
            "az.from_numpyro(mcmc)."
        )
    if data.sizes.get("chain", 0) * data.sizes.get("draw", 0) < 2:
        raise DataError(
            f"fit {number + 1} has dimensions {dict(data.sizes)}, and draws need the dimensions chain and draw; see ArviZ's "
            "convert_to_dataset."
        )
    return _elsewhere(data)


def _own(posterior: Any) -> Fit:
    model, kept, weights = posterior.model, posterior.kept, posterior.weights
    known = {**kept.values, **kept.derived}
    variables = {
        variable.name: _labels(variable.dims, variable.shape, model.coords)
        for variable in model.sites + model.derived
        if variable.name in known
    }
    table = posterior.verdict.columns
    places = {name: row for row, name in enumerate(posterior.verdict.names)}
    mean, sd = posterior.mean, posterior.sd
    size = 1 / (weights**2).sum()

    def of(name: str, rows: np.ndarray) -> Moments:
        x = np.asarray(known[name], float).reshape(len(weights), -1)[:, rows]
        center, width = mean[name].ravel()[rows], sd[name].ravel()[rows]
        error, log_error = width / np.sqrt(size), np.sqrt((_kurtosis(x, weights) - 1) / (4 * size))
        labels = scalars(name, variables[name])
        judged = np.array([places.get(labels[row], -1) for row in rows])
        for column, into in (("bulk ess", None), ("se of mean (sds)", 0), ("se of log sd", 1)):
            if column not in table or posterior.answer != "corrected":
                continue
            value = np.where(judged >= 0, np.asarray(table[column])[judged], np.nan)
            if into is None:
                factor = np.sqrt(size / np.where(np.isfinite(value) & (value > 0), value, size))
                error, log_error = error * factor, log_error * factor
            elif into == 0:
                error = np.fmax(error, width * value)
            else:
                log_error = np.fmax(log_error, value)
        return Moments(center, error, width, log_error, weighted_quantiles(x, weights, LEVELS))

    def draws(name: str) -> np.ndarray:
        x = np.asarray(known[name], float).reshape(len(weights), -1)
        return (
            x
            if np.ptp(weights) == 0
            else x[resampled(weights, keys.generator(posterior.settings.seed, "figure"), len(weights))]
        )

    method = posterior.settings.method
    by_chains = posterior.answer == "corrected" and "bulk ess" in table
    label = "NUTS" if posterior.verdict.about == "the NUTS chains" else method
    return Fit(label, by_chains, variables, of, draws)


def _elsewhere(data: Any) -> Fit:
    import arviz as az

    arrays = {
        str(name): array.transpose("chain", "draw", ...)
        for name, array in data.data_vars.items()
        if {"chain", "draw"} <= set(array.dims) and array.dtype.kind in "fiub"
    }
    variables = {
        name: _labels(
            array.dims[2:],
            array.shape[2:],
            {dim: array.coords[dim].values for dim in array.dims[2:] if dim in array.coords},
        )
        for name, array in arrays.items()
    }

    def of(name: str, rows: np.ndarray) -> Moments:
        x = np.asarray(arrays[name], float)
        x = x.reshape(*x.shape[:2], -1)[..., rows]
        flat = x.reshape(-1, x.shape[-1])
        mean, sd, n = flat.mean(0), flat.std(0), len(flat)
        wrapped: Any = az.convert_to_dataset({"x": x})
        sizes = [np.asarray(az.ess(wrapped, method=kind)["x"]) for kind in ("mean", "sd")]
        of_mean, of_sd = (np.where(np.isfinite(size), size, n) for size in sizes)
        kurtosis = _kurtosis(flat, np.full(n, 1 / n))
        quantiles = np.quantile(flat, LEVELS, axis=0)
        return Moments(mean, sd / np.sqrt(of_mean), sd, np.sqrt((kurtosis - 1) / (4 * of_sd)), quantiles)

    def draws(name: str) -> np.ndarray:
        x = np.asarray(arrays[name], float)
        return x.reshape(x.shape[0] * x.shape[1], -1)

    library = str(data.attrs.get("inference_library", "draws"))
    # What jensen exports is independent draws, unless they are of its own chains, which a copy does not know.
    return Fit(library, library != "jensen", variables, of, draws)


def _kurtosis(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Fourth standardized moment (K,); that of a constant is 1."""
    centered = x - weights @ x
    second, fourth = weights @ centered**2, weights @ centered**4
    return np.where(second > 0, fourth / np.where(second > 0, second, 1.0) ** 2, 1.0)


def _labels(dims: Any, shape: tuple[int, ...], coords: Any) -> list[list[str]]:
    """Labels along each axis: coordinates where they have the right length, else 0, 1, ..."""
    found = []
    for axis, length in enumerate(shape):
        values = coords.get(dims[axis]) if axis < len(dims) else None
        found.append(list(map(str, range(length) if values is None or len(values) != length else values)))
    return found


def scalars(name: str, axes: list[list[str]]) -> list[str]:
    """Names of a variable's scalars, from labels along its axes."""
    from itertools import product

    return [f"{name}[{', '.join(index)}]" if index else name for index in product(*axes)]
