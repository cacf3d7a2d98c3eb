"""Several processes that make the same fit: each reads its part of the rows, and what the parts sum to is added up.

The user starts the processes and calls ``jax.distributed.initialize`` in each of them; from then on JAX knows how many there are.
All of them take the same steps from the same seed, on their own, and meet at the end of every pass over the rows:

    compare   what was summed, at which point, and whether a part failed      a few numbers of every process to all
    add       S = sum over processes k of S_k, in float64                     one all-reduce of as many numbers as S has

The first is what makes the second safe: a process that has gone astray, or that stops at a row with a NaN, would otherwise leave
the others waiting or, worse, be added to something else. An all-reduce gives all processes the same bits.

With one process nothing of this is called.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jensen.core.errors import DataError, JensenError
from jensen.core.precision import scope

_END, _ROWS = -1, -2
_parted = False
"""Whether the last meeting told every process that the fit is over: nobody would come to another one."""


def count() -> int:
    """Number of processes; 1 before ``jax.distributed.initialize``."""
    return jax.process_count()


def index() -> int:
    """Which of them this is, from 0."""
    return jax.process_index()


def total(part: Callable[[], Any], what: str, point: np.ndarray) -> Any:
    """``part()`` of all processes together.

    Parameters
    ----------
    part
        Makes a tree of numbers and float arrays, of the same shapes in every process.
    what, point
        Name of the sum, and where it is taken; they must be the same in every process.

    Returns
    -------
    tree
        Sums over the processes, the same bits in all of them; with one process ``part()`` itself.

    Raises
    ------
    JensenError
        In every process, when `part` failed in one (there with its own error), when processes are not at the same point, or
        when one was lost.
    """
    if count() == 1:
        return part()
    found, error = None, None
    try:
        found = part()
    except BaseException as caught:  # Ctrl-C too: the others must hear of it
        error = caught
    try:
        _meet(_sum_of(what.encode(), np.asarray(point).tobytes()), failed=error is not None)
    except JensenError:
        if error is None:
            raise
    if error is not None:
        raise error
    leaves, tree = jax.tree.flatten(found)
    shapes = [np.shape(leaf) for leaf in leaves]
    flat = _all_reduced(np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in leaves]))
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]
    return jax.tree.unflatten(tree, parts)


@contextmanager
def together() -> Iterator[None]:
    """A fit that all processes make: whoever leaves it, by an error or early, tells those that still wait at the end of a pass.

    Raises
    ------
    JensenError
        When the body has ended here and not in another process.
    """
    global _parted
    _parted = False
    try:
        yield
    except BaseException:
        if count() > 1 and not _parted:
            with suppress(JensenError):
                _meet(_END, failed=True)
        raise
    if count() > 1:
        _meet(_END)


def check_same_rows(size: int, some: Mapping[str, np.ndarray]) -> None:
    """Make sure that every process was given all rows, by their number and by the same random ones of them.

    Raises
    ------
    DataError
        In every process, when they were not.
    """
    if count() == 1:
        return
    pieces = (piece for name in sorted(some) for piece in (name.encode(), np.ascontiguousarray(some[name]).tobytes()))
    seen = _meet(_ROWS, size, _sum_of(*pieces))
    other = np.flatnonzero((seen != seen[0]).any(1))
    if len(other):
        k = other[0]
        raise DataError(
            "every process must be given the same table of all rows, of which it reads its part, and the same seed; process "
            f"{k} has {seen[k, 0]:.0f} rows and process 0 has {seen[0, 0]:.0f}, and samples of them differ; put the rows where "
            "all processes can read them."
        )


def _meet(place: int, first: int = 0, second: int = 0, *, failed: bool = False) -> np.ndarray:
    """Come together with the other processes, and raise where one has failed or is at another place.

    Always of one form, so that processes that are at different places can meet. Returns `first` and `second` of all (P, 2).
    """
    global _parted
    _parted = True  # unless all goes well
    seen = gathered(np.array([failed, place, first, second], float))
    broken, places = np.flatnonzero(seen[:, 0]), seen[:, 1]
    if len(broken):
        raise JensenError(f"the fit failed in process {broken[0]} of {len(seen)}; its own message says why.")
    if (places != places[0]).any():
        astray = np.flatnonzero(places != places[0])[0]
        raise JensenError(
            f"process {astray} is not where process 0 is, so their sums cannot be added; all must make the same call with the "
            "same data, options and seed, on the same versions and kind of machine, and neither a time budget nor a callback may "
            "stop some of them."
        )
    _parted = False
    return seen[:, 2:]


def gathered(numbers: np.ndarray) -> np.ndarray:
    """`numbers` (n,) of every process, in all of them: (P, n), float64."""
    return _collective(numbers, adding=False)


def _all_reduced(numbers: np.ndarray) -> np.ndarray:
    """Sum over the processes of `numbers` (n,), float64."""
    return _collective(numbers, adding=True)


def _collective(numbers: np.ndarray, *, adding: bool) -> np.ndarray:
    first = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([first[k] for k in sorted(first)]), ("processes",))
    with scope("float64"):  # whatever the precision of the fit
        rows = NamedSharding(mesh, PartitionSpec("processes"))
        stacked = jax.make_array_from_process_local_data(rows, numbers[None], (mesh.size, *numbers.shape))
        try:
            return np.array(_program(mesh, adding)(stacked))
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            _lost(error)


@lru_cache(maxsize=4)
def _program(mesh: Mesh, adding: bool) -> Any:
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit((lambda rows: rows.sum(0)) if adding else (lambda rows: rows), out_shardings=everywhere)


def _lost(error: Exception) -> NoReturn:
    global _parted
    _parted = True
    reason = str(error).splitlines()[0]
    raise JensenError(
        f"process {index()} of {count()} could not reach the others ({reason}); start all of them again, with the same "
        "checkpoint where there is one."
    ) from error


def _sum_of(*pieces: bytes) -> int:
    found = 0
    for piece in pieces:
        found = zlib.crc32(piece, found)
    return found
