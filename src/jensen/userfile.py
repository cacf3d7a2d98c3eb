"""What the command line is given: a Python file with a model in it, and a file with data."""

import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np

from jensen.core.errors import DataError, ModelError, OptionError


def load(where: str, source: Path | None) -> tuple[Any, dict[str, Any] | None, list[str]]:
    """Load a model and its data.

    Parameters
    ----------
    where
        ``FILE.py:NAME``. NAME is a NumPyro model function, a PyMC model, a `jensen.density`, or a function that returns
        one of the latter two when it is called with the data. Which kind of function it is, is decided by calling it.
    source
        A ``.json``, ``.npz`` or ``.csv`` file with named arrays (of a table, its columns), or None.

    Returns
    -------
    model, data, unused
        What `jensen.fit` takes, data None where the model has taken them in; and the columns the model has no use for.

    Raises
    ------
    JensenError
        When a file or name is missing, or the data do not fit the function's arguments. Exceptions of the user's own
        code come as they are: see `place`.
    """
    file, colon, name = where.rpartition(":")
    if not colon or not name.isidentifier():
        raise OptionError(f"a model is given as FILE.py:NAME; got {where!r}; for example model.py:model.")
    data, unused = _data(source), []
    module = _module(Path(file))
    if not hasattr(module, name):
        found = [word for word, value in vars(module).items() if _may_be_model(word, value, module)]
        raise ModelError(f"{file} has no {name!r}; it has {', '.join(found) or 'nothing that could be a model'}.")
    model = getattr(module, name)
    wanted = _wanted(model)
    if source is not None and source.suffix == ".csv" and wanted is not None:
        # A table usually has more columns than a model needs; in the other formats an unknown name is a mistake.
        unused = [column for column in data if column not in wanted]
        data = {column: value for column, value in data.items() if column in wanted}
    if _is_model(model) or not callable(model):
        return model, data or None, unused
    signature = inspect.signature(model)
    try:
        signature.bind(**data)
    except TypeError as error:
        raise DataError(
            f"the data do not fit {name}{signature}: {error}; the data have {', '.join(data) or 'no names'} and need "
            "the names of the model's arguments."
        ) from error
    built = _built(model, data)
    return (model, data, unused) if built is None else (built, None, unused)


def _module(file: Path) -> Any:
    """Run the user's file; its folder is searched for what it imports, as when Python runs it."""
    import importlib.util

    if not file.is_file():
        raise OptionError(f"there is no file {file}; a model is given as FILE.py:NAME, relative to this folder.")
    spec = importlib.util.spec_from_file_location(f"_jensen_model_{file.stem}", file.resolve())
    if spec is None or spec.loader is None:
        raise OptionError(f"{file} is no Python file; a model is given as FILE.py:NAME.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        raise ModelError(
            f'{file} ends Python when it is run; put that part under `if __name__ == "__main__":`.'
        ) from error
    return module


def _may_be_model(word: str, value: Any, module: Any) -> bool:
    own = inspect.isfunction(value) and value.__module__ == module.__name__
    return not word.startswith("_") and (own or _is_model(value))


def _is_model(value: Any) -> bool:
    """Whether it is a model object, of a library that is already imported."""
    homes = (
        ("pymc", "Model"),
        ("bambi", "Model"),
        ("jensen.models.density", "Density"),
        ("jensen.models.model", "Model"),
    )
    return any(home in sys.modules and isinstance(value, getattr(sys.modules[home], name, ())) for home, name in homes)


def _wanted(model: Any) -> set[str] | None:
    """Names of the data a model takes, or None if it takes any."""
    if callable(model) and not _is_model(model):
        parameters = inspect.signature(model).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return None
        return {parameter.name for parameter in parameters}
    if isinstance(getattr(model, "data", None), dict):
        return set(model.data)
    return {variable.name for variable in getattr(model, "data_vars", ())}


def _built(function: Callable[..., Any], data: dict[str, Any]) -> Any:
    """The model object a function returns, or None: then it is a NumPyro model.

    Called outside of NumPyro's handlers, a NumPyro function fails at its first latent site, before any work is done.
    """
    try:
        result = function(**data)
    except Exception:
        promised = str(getattr(function, "__annotations__", {}).get("return", ""))
        if "numpyro" not in sys.modules or promised.strip("'>").endswith(("Model", "Density")):
            raise
        return None
    return result if _is_model(result) else None


def _data(file: Path | None) -> dict[str, Any]:
    """Read named arrays; single numbers and words stay what they are."""
    if file is None:
        return {}
    if not file.is_file():
        raise DataError(f"there is no data file {file}; give the path of a .json, .npz or .csv file.")
    try:
        if file.suffix == ".json":
            import json

            content = json.loads(file.read_text("utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"it holds a {type(content).__name__} instead of an object, name -> array")
            data = {name: np.asarray(value) if isinstance(value, list) else value for name, value in content.items()}
        elif file.suffix == ".npz":
            if not is_zipfile(file):
                raise ValueError("it is no archive of arrays as numpy.savez writes it")
            with np.load(file, allow_pickle=False) as content:
                data = dict(content)
        elif file.suffix == ".csv":
            import pandas

            data = {str(name): column.to_numpy() for name, column in pandas.read_csv(file).items()}
            return {name: value.astype(str) if value.dtype.kind == "O" else value for name, value in data.items()}
        else:
            raise DataError(f"data come as .json, .npz or .csv; got {file}; convert it to one of these.")
    except (ValueError, OSError, EOFError, TypeError, BadZipFile) as error:
        # Broken JSON, encoding, CSV are ValueErrors; archives have their own ways.
        raise DataError(f"{file} cannot be read: {_message(error)}; data are named arrays of numbers.") from error
    odd = [name for name, value in data.items() if isinstance(value, dict) or np.asarray(value).dtype.kind == "O"]
    odd = [name for name in odd if data[name] is not None]
    if odd:
        raise DataError(
            f"{odd[0]!r} in {file} is no array of numbers; lists with null and nested objects cannot be data."
        )
    return data


def place(error: BaseException, file: Path) -> str | None:
    """The user's file and line where an error arose; None if it did not arise there."""
    found, chain = None, error
    while chain is not None and found is None:
        lines = [frame.lineno for frame in traceback.extract_tb(chain.__traceback__) if _same(frame.filename, file)]
        if isinstance(chain, SyntaxError) and chain.filename and _same(chain.filename, file):
            lines.append(chain.lineno)
        found = f"{file}, line {lines[-1]}" if lines else None
        chain = chain.__cause__ or chain.__context__
    return found


def _same(name: str, file: Path) -> bool:
    return bool(file.name) and os.path.realpath(name) == os.path.realpath(file)


def sentence(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {_message(error)}"


def _message(error: BaseException) -> str:
    """What it says; a library's long explanation is cut after its first line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return next((line.strip().rstrip(".") for line in text.splitlines() if line.strip()), "(without a message)")
