"""What engines that move Gaussians refuse, and where they begin: one place for the sentences.

A start is shrunk until the density is finite on all its draws; a density that does not change at all along some direction, or
along which q grows without end, has no approximation.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from jensen.core.errors import ImproperError, NonFiniteError, OptionError, UnsupportedError
from jensen.core.layout import coordinate_site
from jensen.families.fullrank import FullRank

_RUNAWAY, _LOG_RUNAWAY = 1e15, 150.0
_DENSE = 1500
"""Largest D whose combinations of coordinates are looked at."""
_RADII = 24


def begin(start: Any, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and factor (D, D) of `start`; N(0, 0.1^2) where it is None."""
    q: Any = FullRank().start(np.zeros(dim), 0.1) if start is None else start
    mean, factor = np.array(q.mean, float), np.array(q.scale, float)
    if mean.shape != (dim,):
        raise UnsupportedError(
            f"start has {len(mean)} coordinates and the model {dim}; fit the same model, or leave start out."
        )
    return mean, factor


def refuse_options(engine: Any, dim: int) -> None:
    """Refuse a start of another kind or size, and numbers of steps that are none."""
    steps, start = getattr(engine, "steps", 1), getattr(engine, "start", None)
    if not isinstance(steps, int | np.integer) or isinstance(steps, bool) or steps < 1:
        raise OptionError(
            f"steps must be a whole number, at least 1; got {steps!r}; leave it out to let the engine decide."
        )
    if start is not None and not (hasattr(start, "sd") and np.shape(getattr(start, "mean", 0.0)) == (dim,)):
        found = f"{start.dim} dimensions" if hasattr(start, "dim") else repr(start)
        raise OptionError(
            f"start= of an engine must be an approximation in the model's {dim} dimensions; got {found}; give posterior.q of "
            "the same model, or leave it out."
        )


def first_finite(target: Any, mean: np.ndarray, factor: np.ndarray, noise: np.ndarray) -> tuple[Any, ...]:
    """The factor shrunk until all of mean + factor noise is finite, with log p (n,) and gradient (n, D) there."""
    for attempt in range(_RADII):
        shrunk = factor * 4.0**-attempt
        log_p, gradient = target(mean + noise @ shrunk.T)
        if np.isfinite(log_p).all() and np.isfinite(gradient).all():
            return shrunk, log_p, gradient
    raise NonFiniteError(
        f"{target.blame(mean + noise @ (factor * 4.0 ** (1 - _RADII)).T)} is not finite at the start "
        f"({_RADII} radii around it were tried); check data and supports, or pass start=."
    )


def refuse_large(target: Any, engine: str, most: int) -> None:
    """Refuse more dimensions than a dense covariance is for."""
    if target.dim > most:
        raise UnsupportedError(
            f"{engine} keeps a {target.dim} x {target.dim} covariance and is meant for at most {most} dimensions; "
            "use method='meanfield'."
        )


def refuse_flat(target: Any, gradient: np.ndarray, further: Callable[[], np.ndarray] | None = None) -> None:
    """Refuse a density whose gradients (n, D), at points that spread in all directions, leave one direction out.

    `further` gives the gradients much further out, where a density made of straight pieces has its corners.
    """
    flat = _flat_coordinates(gradient)
    if flat.size and further is not None:
        there = further()
        if np.isfinite(there).all():
            flat = _flat_coordinates(np.concatenate([gradient, there]))
    _refuse_unchanging(target, flat)


def refuse_constant(target: Any, gradient: np.ndarray) -> None:
    """Refuse a density that does not change with some coordinate, from gradients (n, D) at any points."""
    _refuse_unchanging(target, np.flatnonzero((gradient == 0).all(0)))


def _refuse_unchanging(target: Any, coordinates: np.ndarray) -> None:
    """Refuse a direction made of some coordinates, if there are any."""
    if not coordinates.size:
        return
    names = list(dict.fromkeys(coordinate_site(target.model.sites, int(i)).name for i in coordinates))
    which = f"site {names[0]}" if len(names) == 1 else f"a combination of the sites {', '.join(names[:4])}"
    raise ImproperError(
        f"the posterior is improper: the log density does not change at all along {which}; give "
        f"{'it' if len(names) == 1 else 'one of them'} a proper prior, or remove what the data cannot tell apart."
    )


def _flat_coordinates(gradient: np.ndarray) -> np.ndarray:
    """Coordinates of a direction in which no gradient (n, D) has a part; none where there is no such direction."""
    norms, (n, dim) = np.linalg.norm(gradient, axis=0), gradient.shape
    flat = np.flatnonzero(norms == 0)
    if not flat.size and n >= 2 * dim and dim <= _DENSE:
        _, singular, right = np.linalg.svd(gradient / norms, full_matrices=False)
        if singular[-1] <= 1e-13 * singular[0]:
            weights = np.abs(right[-1])
            flat = np.flatnonzero(weights > 0.3 * weights.max())
    return flat


def reach(mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """How far q goes along each coordinate (D,): of a factor (D, D), or sds (D,)."""
    return np.maximum(np.abs(mean), np.sqrt((factor**2).sum(1)) if factor.ndim == 2 else factor)


def refuse_runaway(target: Any, far: np.ndarray) -> None:
    """Refuse when q has grown or gone beyond every scale, that is as far as `far` (D,) along the coordinates."""
    if not far.max() <= _RUNAWAY:
        refuse_improper(target, int(np.nan_to_num(far, nan=np.inf).argmax()))


def refuse_beyond(target: Any, mean: np.ndarray) -> None:
    """Refuse a mean (D,) where a search has ended at positive numbers that no units explain."""
    sites = target.model.sites
    logs = np.concatenate([np.full(site.size, site.support == "positive") for site in sites])
    if (np.abs(mean) * logs).max(initial=0.0) > _LOG_RUNAWAY:
        refuse_improper(target, int((np.abs(mean) * logs).argmax()))


def refuse_improper(target: Any, coordinate: int) -> NoReturn:
    """Refuse a density along one of whose coordinates q grew without end."""
    site = coordinate_site(target.model.sites, coordinate).name
    raise ImproperError(
        f"the posterior looks improper: q grew without end at site {site} and met no curvature there; give it a proper prior "
        "that rules out what the data do not."
    )
