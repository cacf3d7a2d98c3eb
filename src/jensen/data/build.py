"""`table`: from what the user has to a `Table`."""

import operator
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jensen.core.errors import DataError, OptionError
from jensen.data.arrays import Blocks, Memory
from jensen.data.parquet import listed, parquet
from jensen.data.rawfile import raw_file, root
from jensen.data.source import Column, Source, merged
from jensen.data.table import Table


def table(source: Any = None, /, **columns: Any) -> Table:
    """Rows of several named arrays, in memory or on disk, to be read in blocks.

    Parameters
    ----------
    source
        None, or where the columns are:

        - a pandas or polars frame,
        - a 2-D array (NumPy, memory map, Zarr, ...),
        - a Zarr or HDF5 group, or another mapping of names to arrays,
        - a path: ``.parquet`` (also a folder of such files), ``.npy`` or ``.zarr``.
    **columns
        Name of each array ->

        - without `source` the array itself, rows first: anything with ``.shape``, ``.dtype`` and ``[start:stop]``;
        - of a frame, group or Parquet file the name of a column (the array has shape (N,)) or a list of k names (N, k);
        - of a 2-D array the number of a column (N,), a slice or a list of k numbers (N, k).

    Returns
    -------
    Table
        Nothing is read yet but shapes and types. Dtypes stay as they are; columns of several dtypes side by side get the
        one NumPy promotes them to.

    Raises
    ------
    DataError
        When lengths differ, there are no rows, a column is missing, not numeric or holds nulls, or a path is not one of
        the above. NaN and infinite numbers are found when they are read.
    OptionError
        When `columns` do not say what to read.

    Examples
    --------
    >>> jn.table(X=X, y=y)                                                              # doctest: +SKIP
    >>> jn.table("rows.parquet", X=["age", "income"], y="label")                        # doctest: +SKIP
    >>> jn.table(frame, X=["age", "income"], y="label")                                 # doctest: +SKIP
    >>> jn.table(np.memmap("rows.f32", "float32", shape=(n, 21)), X=slice(0, 20), y=20) # doctest: +SKIP

    Memory maps are read through their file, so that no pages pile up in memory. Rows that are kept elsewhere need three
    lines:

    >>> class Rows:
    ...     shape, dtype = (1000, 3), np.dtype("float32")
    ...     def __getitem__(self, rows):  # rows is slice(start, stop)
    ...         return np.zeros((rows.stop - rows.start, 3), "float32")
    >>> table(X=Rows())
    Table(1000 rows: X float32[3])
    """
    if not columns:
        raise OptionError(
            "table() must be told which arrays to make; got none; name them, for example jn.table(X=X, y=y) or "
            'jn.table("rows.parquet", X=["x0", "x1"], y="label").'
        )
    if isinstance(source, str | PathLike):
        source = _open(Path(source), columns)
        if isinstance(source, Table):
            return source
    if source is None:
        return _table([_column(name, array, f"array {name!r}") for name, array in columns.items()])
    if hasattr(source, "to_numpy") and hasattr(source, "columns"):
        return _table(_named(source, "the frame", list(source.columns), columns))
    if hasattr(source, "keys") and not hasattr(source, "shape"):
        return _table(_named(source, "the group", list(source.keys()), columns))
    if len(getattr(source, "shape", ())) == 2:
        return _table(_numbered(source, columns))
    if isinstance(source, Iterator):
        raise _once("source", source)
    raise DataError(
        f"source must be a path, a frame, a group of arrays or a 2-D array; got {type(source).__name__}"
        f"{_shape_text(source)}; pass arrays by name, for example jn.table(X=X, y=y)."
    )


def _open(path: Path, columns: dict[str, Any]) -> Any:
    """A `Table` of Parquet files, or the array or group at `path`."""
    if not path.exists():
        raise DataError(f"The path {str(path)!r} must exist; there is nothing; correct it.")
    folder = path.is_dir()
    try:
        if path.suffix in (".parquet", ".pq") or (folder and any(path.rglob("*.parquet"))):
            names = {name: _labels(chosen) for name, chosen in columns.items()}
            single = {name for name, chosen in columns.items() if _is_one(chosen)}
            return _joined([parquet(path, names, single)])
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r")
        if folder and (path.suffix == ".zarr" or (path / "zarr.json").exists()):
            import zarr

            return zarr.open(path, mode="r")
    except ModuleNotFoundError as error:
        raise OptionError(
            f"Reading {str(path)!r} needs the package {error.name}; it is not installed; pip install 'jensen[data]'."
        ) from None
    except (ValueError, OSError) as error:
        raise DataError(
            f"{str(path)!r} must be what its name says; opening it failed ({error}); write it anew."
        ) from None
    raise DataError(
        f"{str(path)!r} must end in .parquet, .npy or .zarr, or be a folder of such; it {'is a folder' if folder else 'ends in '}"
        f"{'' if folder else repr(path.suffix)}; open it yourself, raw numbers for example as "
        "np.memmap(path, dtype, mode='r', shape=(rows, columns))."
    )


def _named(source: Any, what: str, known: list[Any], columns: dict[str, Any]) -> list[Column]:
    """Columns of a frame or group."""
    found = []
    for name, chosen in columns.items():
        one = _is_one(chosen)
        for place, label in enumerate(_labels(chosen)):
            if label not in known:
                raise DataError(
                    f"{what} has no column {label!r}, asked for as {name!r}; it has {listed(known)}; name one of these."
                )
            found.append(_column(name, source[label], f"column {label!r}", place=None if one else place))
            if not one and found[-1].spec.shape != ():
                raise DataError(
                    f"column {label!r}, one of a list for {name!r}, must be 1-D; each of its rows has shape "
                    f"{found[-1].spec.shape}; name it alone."
                )
    return found


def _numbered(source: Any, columns: dict[str, Any]) -> list[Column]:
    """Columns of a 2-D array."""
    width = source.shape[1]
    found = []
    for name, chosen in columns.items():
        label = f"array {name!r}"
        if isinstance(chosen, slice):
            if not range(*chosen.indices(width)):
                raise OptionError(
                    f"{label} must have columns; {chosen} of {width} columns are none; correct the slice."
                )
            found.append(_column(name, source, label, pick=chosen))
            continue
        one = _is_one(chosen)
        for place, number in enumerate(_labels(chosen)):
            try:
                k = -width - 1 if isinstance(number, bool) else operator.index(number)
            except TypeError:
                k = -width - 1
            if not -width <= k < width:
                raise OptionError(
                    f"{label} must name columns 0 to {width - 1} of the 2-D array; got {number!r}; pass numbers or a slice."
                )
            found.append(_column(name, source, label, pick=k, place=None if one else place))
    return found


def _column(name: str, array: Any, label: str, pick: int | slice | None = None, place: int | None = None) -> Column:
    """One column, in NumPy where that copies nothing, with `pick` applied where that makes a view."""
    if hasattr(array, "to_numpy"):
        array = _series(array, label)
    elif hasattr(array, "__array_namespace__") and not isinstance(array, np.ndarray):
        array = np.asarray(array)
    if isinstance(array, np.ma.MaskedArray):
        raise DataError(f"{label} must have no masked rows; it is a masked array; remove or fill what is masked.")
    if isinstance(array, Iterator):
        raise _once(label, array)
    if not (hasattr(array, "shape") and hasattr(array, "dtype") and hasattr(array, "__getitem__")):
        raise OptionError(
            f"{label} must be an array with rows (.shape, .dtype and [start:stop]); got {type(array).__name__}; use "
            f"np.asarray, or name a source of columns first."
        )
    if not array.shape:
        raise DataError(f"{label} must have rows; it is a single number; leave it out.")
    if isinstance(array, np.ndarray) and pick is not None:
        array, pick = array[:, pick], None
    return Column(name, array, label, pick, place)


def _series(series: Any, label: str) -> np.ndarray:
    """The numbers of a pandas or polars column (or frame), without a copy where they have no nulls."""
    values = np.asarray(series.to_numpy())
    nulls = None
    if values.ndim == 1 and hasattr(series, "is_null"):
        nulls = series.is_null()
    elif values.ndim == 1 and values.dtype == object and hasattr(series, "isna"):
        nulls = series.isna()
    if nulls is not None and nulls.any():
        row = int(np.argmax(np.asarray(nulls.to_numpy(), bool)))
        raise DataError(
            f"{label} must have a number in every row; row {row} is null; remove such rows or fill them in."
        )
    return values


def _table(columns: list[Column]) -> Table:
    """The table of `columns`, sorted by the way they are read."""
    by_name: dict[str, list[Column]] = {}
    for column in columns:
        by_name.setdefault(column.name, []).append(column)
    kinds: dict[str, list[Column]] = {}
    for mine in by_name.values():
        ways = {_way(column) for column in mine}
        kinds.setdefault(ways.pop() if len(ways) == 1 else "blocks", []).extend(mine)
    lengths = {column.label: int(column.array.shape[0]) for column in columns}
    if len(set(lengths.values())) > 1:
        seen = ", ".join(f"{label} has {length}" for label, length in list(lengths.items())[:10])
        raise DataError(f"All arrays of a table must have equally many rows; {seen}; pass matching ones.")
    size = next(iter(lengths.values()))
    sources: list[Source] = []
    for way, mine in kinds.items():
        specs = merged(mine)
        if way == "memory":
            sources.append(Memory(size, specs, tuple(mine)))
        elif way == "raw":
            sources.append(raw_file(size, specs, mine))
        else:
            sources.append(Blocks(size, specs, tuple(mine)))
    return _joined(sources)


def _way(column: Column) -> str:
    array = column.array
    if not isinstance(array, np.ndarray):
        return "blocks"
    mapped = root(array) is not None and array.size and min(array.strides) > 0
    return "raw" if mapped else "memory"


def _joined(sources: list[Source]) -> Table:
    """A table, unless it is empty."""
    size = sources[0].size
    specs = {name: spec for source in sources for name, spec in source.specs.items()}
    if size == 0:
        raise DataError(f"A table must have rows; {listed(specs)} have none; check what was read.")
    for name, spec in specs.items():
        if 0 in spec.shape:
            raise DataError(f"array {name!r} must have columns; its rows have shape {spec.shape}; leave it out.")
    return Table(tuple(sources), 0, size)


def _is_one(chosen: Any) -> bool:
    return isinstance(chosen, str) or not isinstance(chosen, Iterable)


def _labels(chosen: Any) -> tuple[Any, ...]:
    """The columns named by a word or number, or by several."""
    labels = (chosen,) if _is_one(chosen) else tuple(chosen)
    if not labels or any(isinstance(label, slice) or label is None for label in labels):
        raise OptionError(f"columns must be a name or a list of names; got {chosen!r}; name at least one.")
    return labels


def _shape_text(source: Any) -> str:
    shape = getattr(source, "shape", None)
    return "" if shape is None else f" of shape {tuple(shape)}"


def _once(label: str, source: Any) -> DataError:
    return DataError(
        f"{label} is a {type(source).__name__}, which can be read only once, and a fit makes several passes; write its rows to a "
        "file for jn.table, or into an array."
    )
