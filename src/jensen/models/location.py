"""A user's start values, checked, as a point of the flat unconstrained space."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jensen.core import layout
from jensen.core.errors import OptionError
from jensen.models.model import Model


def location(model: Model, start: Mapping[str, Any]) -> np.ndarray:
    """Flat unconstrained vector of start values; sites that are not named start at zero."""
    if not isinstance(start, Mapping):
        raise OptionError(f"start must be a dict, site -> value; got {type(start).__name__}.")
    unknown = set(start) - {site.name for site in model.sites}
    if unknown:
        names = ", ".join(site.name for site in model.sites)
        raise OptionError(f"start names {sorted(unknown)}, which are no sites of the model; its sites are {names}.")
    data = model.data
    z = np.zeros(model.dim)
    zero = layout.unflatten(model.sites, z)
    middle, _ = model.constrain(zero, data)
    values = {}
    for site in model.sites:
        try:
            value = np.asarray(start.get(site.name, middle[site.name]), float)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"start[{site.name!r}] is {start[site.name]!r}, which is no array of numbers of shape {site.shape}."
            ) from error
        if not np.isfinite(value).all():
            raise OptionError(f"start[{site.name!r}] has NaN or infinite values; start at finite ones.")
        if value.shape != site.shape:
            raise OptionError(f"start[{site.name!r}] has shape {value.shape}; the site has shape {site.shape}.")
        values[site.name] = value
    z = layout.flatten(model.sites, model.unconstrain(values, data))
    if not np.isfinite(z).all():
        site = layout.coordinate_site(model.sites, int(np.argmin(np.isfinite(z))))
        raise OptionError(f"start[{site.name!r}] lies outside the support ({site.support}) of the site.")
    return z
