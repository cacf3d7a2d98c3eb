"""How far an approximation is from a reference, column by column, in units of the reference's posterior sd."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from posteriors.load import Reference

NORMAL_90 = 3.2897  # width of the central 90 % of a standard normal
HEAVY = 1.5


@dataclass(frozen=True, eq=False)
class Score:
    """One entry a column of the reference for which moments were given.

    Attributes
    ----------
    columns
        Names of the scalars.
    mean_error
        (mean - reference mean) / reference sd, signed.
    sd_ratio
        sd / reference sd.
    heavy
        True where tails are so heavy that mean and sd say little: the reference sd is more than 1.5 times that of a
        normal with the same central 90 %.
    """

    columns: tuple[str, ...]
    mean_error: np.ndarray
    sd_ratio: np.ndarray
    heavy: np.ndarray

    @property
    def worst_mean(self) -> tuple[str, float]:
        """Column with the largest absolute mean error, and that error; heavy columns left out."""
        size = np.where(self.heavy, -1.0, np.abs(np.nan_to_num(self.mean_error, nan=np.inf)))
        return self.columns[int(size.argmax())], float(size.max())

    @property
    def worst_sd(self) -> tuple[str, float]:
        """Column whose sd ratio is farthest from one (on the log scale), and that ratio; heavy columns left out."""
        with np.errstate(divide="ignore"):
            size = np.abs(np.nan_to_num(np.log(self.sd_ratio), nan=np.inf))
        worst = int(np.where(self.heavy, -1.0, size).argmax())
        return self.columns[worst], float(self.sd_ratio[worst])


def heavy(reference: Reference) -> np.ndarray:
    """Mask (C,) of heavy-tailed columns."""
    low, high = reference.quantiles[0], reference.quantiles[-1]
    return reference.sd > HEAVY * (high - low) / NORMAL_90


def score(mean: Mapping[str, ArrayLike], sd: Mapping[str, ArrayLike], reference: Reference) -> Score:
    """Compare moments with a reference.

    Parameters
    ----------
    mean, sd
        Site -> array of the site's shape, in the constrained space. Every latent site is needed; derived quantities of
        the reference are scored when given; other names are ignored.
    reference
        Third value of `posteriors.load.load`.

    Raises
    ------
    KeyError
        If a latent site is missing.
    ValueError
        If an array does not have its site's shape.
    """
    missing = [site for site in reference.latent if site not in mean or site not in sd]
    if missing:
        raise KeyError(f"{reference.name}: no moments for {', '.join(missing)}")
    wanted = {site: shape for site, shape in reference.sites if site in mean and site in sd}
    for site, shape in wanted.items():
        for given in (mean[site], sd[site]):
            if np.shape(given) != shape:
                raise ValueError(f"{reference.name}: {site} has shape {shape}; got {np.shape(given)}")
    site_of = np.concatenate([np.full(int(np.prod(shape)), site) for site, shape in reference.sites])
    kept = np.isin(site_of, list(wanted))
    flat_mean, flat_sd = (
        np.concatenate([np.asarray(values[site], float).ravel() for site in wanted]) for values in (mean, sd)
    )
    return Score(
        columns=tuple(np.asarray(reference.columns)[kept].tolist()),
        mean_error=(flat_mean - reference.mean[kept]) / reference.sd[kept],
        sd_ratio=flat_sd / reference.sd[kept],
        heavy=heavy(reference)[kept],
    )
