"""A saved fit: ONE netCDF4 file, readable by ``arviz.from_netcdf`` and by anything else that reads HDF5.

Beside ArviZ's groups it holds a group ``jensen``: named arrays (parameters of q, draws, evidence) and one JSON
attribute ``meta`` (format, settings, verdict words, ...). Only numbers and strings are stored: loading runs nothing
from the file.

A file appears under its name complete or not at all: it is written under a temporary name beside it and renamed.
"""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jensen import __version__
from jensen.core.errors import FileError

if TYPE_CHECKING:
    import xarray

FORMAT = 1
"""Version of the layout; a reader refuses what is newer than itself and reads all that is older."""

GROUP = "jensen"
_NAME = "jensen_name"


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `FileError` unless a file can be made at `path`; to be called before the work whose result goes there."""
    with _replacement(Path(path)) as temporary:
        temporary.touch(exist_ok=False)
        temporary.unlink()


def write(
    path: str | os.PathLike[str],
    groups: "Mapping[str, xarray.Dataset]",
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
) -> None:
    """Write a fit, replacing what was at `path`.

    Parameters
    ----------
    path
        The file; its folder must exist.
    groups
        ArviZ group -> dataset, as from `jensen.export.arviz.datasets`.
    arrays
        Name -> array of numbers, booleans or strings; the group ``jensen``.
    meta
        What JSON can hold (NumPy numbers and arrays become numbers and lists); format and version are added.

    Raises
    ------
    FileError
        When the folder is missing or cannot be written to, or the disk is full; what was at `path` is then untouched.
    """
    import xarray

    own = {
        name: ([f"{name}_dim_{axis}" for axis in range(np.ndim(array))], np.asarray(array))
        for name, array in arrays.items()
    }
    words = json.dumps({"format": FORMAT, "version": __version__, **meta}, default=_plain, ensure_ascii=False)
    parts = {**groups, GROUP: xarray.Dataset(own, attrs={"meta": words})}
    tree = xarray.DataTree.from_dict({name: _without_slashes(part) for name, part in parts.items()})
    # Made in memory first: when HDF5 itself meets a full disk, its open file can neither be closed nor forgotten, and
    # the process crashes some time later.
    content = tree.to_netcdf(engine="h5netcdf")
    with _replacement(Path(path)) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, replacing what was at `path`; it appears there complete or not at all.

    Raises
    ------
    FileError
        As `write`.
    """
    with _replacement(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read(path: str | os.PathLike[str]) -> "tuple[dict[str, xarray.Dataset], dict[str, np.ndarray], dict[str, Any]]":
    """Read what `write` wrote: groups, arrays and meta, all in memory.

    Raises
    ------
    FileError
        When there is no such file, or it is no saved fit, or a newer jensen wrote it.
    """
    import h5py
    import xarray

    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileError(f"{path} {what}, so no fit can be loaded from it; check the path.")
    try:
        # Opened once for nothing: what is no HDF5 makes h5netcdf stumble a second time, on stderr.
        h5py.File(path).close()
        with xarray.open_datatree(path, engine="h5netcdf") as tree:
            parts = {str(name): child.to_dataset().load() for name, child in tree.children.items()}
    except PermissionError as error:
        raise FileError(f"{path} may not be read by this user; change its permissions.") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise FileError(
            f"{path} is no netCDF4 file, or is damaged: {_reason(error)}; was it saved by jensen?"
        ) from error
    own = parts.pop(GROUP, xarray.Dataset())
    try:
        meta = json.loads(own.attrs["meta"])
        version = int(meta["format"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"{path} is a netCDF file without a saved fit: it has the groups {', '.join(parts) or '(none)'} and no "
            f"readable group {GROUP!r}; arviz.from_netcdf may read it."
        ) from error
    if version > FORMAT:
        raise FileError(
            f"{path} has format {version}, written by jensen {meta.get('version', '(unknown)')}, and this jensen "
            f"{__version__} reads formats up to {FORMAT}; update jensen."
        )
    arrays = {str(name): _array(variable.values) for name, variable in _with_slashes(own).variables.items()}
    return {name: _with_slashes(part) for name, part in parts.items()}, arrays, meta


@contextmanager
def _replacement(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; afterwards it takes its place, or on failure disappears."""
    path = path.expanduser()
    if path.is_dir():
        raise FileError(f"{path} is a folder, so no fit can be written there; give a file name inside it.")
    # A link stays a link: the file it points to is replaced.
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileError(
            f"the folder {path.parent} does not exist, so {path.name} cannot be written; make the folder first."
        )
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        if temporary.exists():
            os.replace(temporary, path)
    except OSError as error:
        raise FileError(
            f"{path} cannot be written: {_reason(error)}; free some space or choose another folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    text = os.strerror(number) if number else (str(error) or type(error).__name__)
    return " ".join(text.split()).rstrip(".")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"meta holds a {type(value).__name__}, which JSON cannot hold")


def _array(values: np.ndarray) -> np.ndarray:
    return values.astype(str) if values.dtype.kind in "OT" else values


def _without_slashes(part: "xarray.Dataset") -> "xarray.Dataset":
    """In HDF5 a slash in a name opens a group; scoped models have such names. The true name is kept as an attribute."""
    names = {str(name) for name in (*part.variables, *part.dims) if "/" in str(name)}
    if not names:
        return part
    safe, taken = {}, {str(name) for name in (*part.variables, *part.dims)}
    for name in sorted(names):
        word = name.replace("/", ".")
        while word in taken:
            word += "_"
        safe[name] = word
        taken.add(word)
    renamed = part.rename(safe)
    for name, word in safe.items():
        if word in renamed.variables:
            renamed[word].attrs[_NAME] = name
    return renamed


def _with_slashes(part: "xarray.Dataset") -> "xarray.Dataset":
    names = {name: variable.attrs.pop(_NAME) for name, variable in part.variables.items() if _NAME in variable.attrs}
    return part.rename(names) if names else part
