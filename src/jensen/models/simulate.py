"""Parameters from the prior of a model, and data simulated from them, many at a time.

    theta_i ~ p(theta),   y_i ~ p(y | theta_i)      the joint distribution of which log p(z, data) is the density

NumPyro models are run forward under their own handlers, in one compiled program; PyMC models are drawn by PyMC. What is drawn is
matched with the arrays of `Model.data` that hold the observed values, so that a fit of simulated data is a fit of the same
functions with other arrays, and compiles nothing.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jensen.core import keys
from jensen.core.errors import UnsupportedError
from jensen.models.model import Model

Drawn = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def simulate(model: Model, n: int, seed: int) -> Drawn:
    """Draw parameters and data.

    Parameters
    ----------
    model
        With observed variables that are arrays of its data.
    n
        How many; draws come first.
    seed
        Randomness.

    Returns
    -------
    dict, dict
        Site or deterministic -> (n, *shape) in the model's own space; name in `Model.data` -> (n, *shape), of the same type.

    Raises
    ------
    UnsupportedError
        When the model cannot be simulated from: a log density, an improper prior, a factor or potential, observed values that
        are no argument or container of their own.
    """
    if model.language == "NumPyro":
        parameters, observed, places = _from_numpyro(model, n, seed)
    elif model.language == "PyMC":
        parameters, observed, places = _from_pymc(model, n, seed)
    else:
        raise UnsupportedError(
            f"{model.name} is a {model.language}, from which nothing can be drawn; give simulate=, a function of a NumPy "
            "generator that returns parameters and data."
        )
    if not observed:
        raise UnsupportedError(
            f"{model.name} observes nothing, so there are no data to simulate; pass the observed values."
        )
    return parameters, {place: like(model.data[place], observed[name], place) for name, place in places.items()}


def like(old: np.ndarray, new: np.ndarray, name: str) -> np.ndarray:
    """Simulated values (n, *shape) in the type of the data whose place they take.

    Raises
    ------
    UnsupportedError
        When they do not fit there.
    """
    new = np.asarray(new)
    if new.shape[1:] != old.shape:
        raise UnsupportedError(
            f"simulated {name} has shape {new.shape[1:]}, and the data have {old.shape}; simulate data of the same shape."
        )
    if old.dtype.kind in "iub" and new.dtype.kind == "f" and not (new == np.floor(new)).all():
        raise UnsupportedError(f"simulated {name} has fractions, and the data are {old.dtype}; pass them as floats.")
    return new.astype(old.dtype)


def _from_numpyro(model: Model, n: int, seed: int) -> tuple[Any, Any, dict[str, str]]:
    from numpyro import handlers

    from jensen.models.numpyro_rows import Resized, Unobserved
    from jensen.models.numpyro_trace import is_factor

    static = static_arguments(model)
    source = Resized(model.source, {})
    plain = handlers.trace(handlers.seed(Resized(model.source, {}), jax.random.key(0)))
    improper, names = [], [site.name for site in (*model.sites, *model.derived)]

    def forward(key: Any, data: Any) -> Any:
        trace = handlers.trace(handlers.seed(Unobserved(source, model.likelihoods), key)).get_trace(**data, **static)
        improper.extend(name for name, site in trace.items() if site["type"] == "sample" and is_factor(site))
        return {name: trace[name]["value"] for name in (*names, *model.likelihoods)}

    streams = keys.several(seed, "prior", n)
    try:
        drawn = jax.jit(jax.vmap(forward, (0, None)))(streams, dict(model.data))
    except NotImplementedError as error:
        raise _improper(model) from error
    if improper:
        raise UnsupportedError(
            f"{improper[0]} is a factor of {model.name}, which draws from the prior leave out; give simulate=, which knows it."
        )
    seen = plain.get_trace(**model.data, **static)
    places = {name: _place(model, name, seen[name]["value"]) for name in model.likelihoods}
    drawn = {name: np.asarray(value) for name, value in drawn.items()}
    return {name: drawn[name] for name in names}, {name: drawn[name] for name in places}, places


def static_arguments(model: Model) -> Mapping[str, Any]:
    """Arguments of a NumPyro model that are part of its shape, such as a number of components."""
    return model.resized.args[1] if model.resized is not None else {}  # type: ignore[attr-defined]


def _from_pymc(model: Model, n: int, seed: int) -> tuple[Any, Any, dict[str, str]]:
    import pymc
    from pytensor.compile.mode import FAST_COMPILE

    source = model.source if hasattr(model.source, "free_RVs") else model.source.backend.model
    if source.potentials:
        raise UnsupportedError(
            f"{source.potentials[0].name} is a potential of {model.name}, which draws from the prior leave out; give simulate=, "
            "which knows it."
        )
    places = {name: _place(model, name, model.observed[name]) for name in model.likelihoods}
    wanted = [site.name for site in (*model.sites, *model.derived)] + list(model.likelihoods)
    before = {variable: variable.get_value(borrow=True) for variable in source.data_vars}
    try:
        for variable in before:
            variable.set_value(np.asarray(model.data[variable.name], variable.type.dtype))
        random = int(keys.generator(seed, "prior").integers(2**31))
        found = pymc.draw([source[name] for name in wanted], draws=n, random_seed=random, mode=FAST_COMPILE)
    except NotImplementedError as error:
        raise _improper(model) from error
    finally:
        for variable, value in before.items():
            variable.set_value(value, borrow=True)
    drawn = {
        name: np.asarray(value).reshape(n, *np.shape(value)[1:]) for name, value in zip(wanted, found, strict=True)
    }
    observed = {name: drawn.pop(name) for name in model.likelihoods}
    return drawn, observed, places


def _place(model: Model, name: str, value: Any) -> str:
    """Name of the data that are the observed values of a variable."""
    same = [key for key, array in model.data.items() if array is value]
    if not same:
        value = np.asarray(value)
        fitting = [key for key, array in model.data.items() if array.shape == value.shape]
        same = [key for key in fitting if np.array_equal(model.data[key], value)]
        same = [name] if name in same else same
    if len(same) != 1:
        how = "a container of its own (pm.Data)" if model.language == "PyMC" else "an argument of the model"
        raise UnsupportedError(
            f"the observed values of {name} are not one of the arrays in the model's data ({', '.join(model.data) or 'none'}), "
            f"so simulated ones cannot take their place; make them {how}."
        )
    return same[0]


def _improper(model: Model) -> UnsupportedError:
    return UnsupportedError(
        f"{model.name} has a prior from which nothing can be drawn (flat or improper); give it proper ones, or give simulate=."
    )
