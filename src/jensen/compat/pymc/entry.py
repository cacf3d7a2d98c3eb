"""`fit`: one call, as `pm.fit`."""

from collections.abc import Callable
from typing import Any

from jensen.compat.pymc.arrays import aside
from jensen.compat.pymc.base import Approximation
from jensen.compat.pymc.inference import ADVI, ASVGD, SVGD, FullRankADVI, Inference
from jensen.core.errors import OptionError

_METHODS: dict[str, Callable[..., Inference]] = {
    "advi": ADVI,
    "fullrank_advi": FullRankADVI,
    "svgd": SVGD,
    "asvgd": ASVGD,
}


def fit(
    n: int = 10000,
    method: str | Inference = "advi",
    model: Any = None,
    random_seed: Any = None,
    start: Any = None,
    start_sigma: Any = None,
    inf_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Approximation:
    """`pm.fit` on jensen's engines.

    Parameters
    ----------
    n
        Steps.
    method
        ``"advi"``, ``"fullrank_advi"``, ``"svgd"``, ``"asvgd"``, or an inference object.
    model
        A PyMC model; None inside ``with pm.Model():``.
    random_seed
        Fixes all chance; None is fresh chance.
    start, start_sigma
        Name -> value in the variable's own space, and name -> sd of the unconstrained value (of "advi").
    inf_kwargs
        More arguments of the inference class, such as ``n_particles``.
    **kwargs
        Of `Inference.fit`: `callbacks`, `progressbar`, `obj_optimizer`, `obj_n_mc`, ...

    Returns
    -------
    Approximation

    Raises
    ------
    JensenError
        When model or options cannot work.
    """
    given = {"start": start, "start_sigma": start_sigma, "random_seed": random_seed}
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(method, Inference):
        if given or inf_kwargs:
            aside(
                f"{', '.join([*given, *(inf_kwargs or {})])} of fit() has no effect on an inference object; give it to that."
            )
        return method.fit(n, **kwargs)
    name = str(method).lower()
    if name not in _METHODS:
        raise OptionError(f"method must be one of {', '.join(_METHODS)} or an inference object; got {method!r}.")
    if start_sigma is not None and name != "advi":
        raise OptionError(f"start_sigma is an option of method='advi'; got method={method!r}; leave it out.")
    return _METHODS[name](model=model, **given, **(inf_kwargs or {})).fit(n, **kwargs)
