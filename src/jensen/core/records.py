"""The state of a run as plain parts, and back: a tree that JSON can hold, and a list of NumPy arrays.

    value  <->  (tree, arrays)        None, bool, int, float, str, dict, list, tuple, dtype; NumPy and JAX arrays and
                                      scalars; JAX keys; dataclasses and NamedTuples of jensen and optax

Values come back bit for bit, with their type, dtype and order in memory: products of matrices round by all three. Nothing is
pickled and nothing stored is run. A type is looked up by its import path, below ``jensen`` and ``optax`` only, and must be a
dataclass or a NamedTuple; its fields are set as they were, without calling it. Functions, targets and whatever else is no
value are refused when they are to be stored.
"""

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jensen.core.errors import FileError, UnsupportedError

_ROOTS = ("jensen.", "optax.")
_PLAIN = (type(None), bool, int, float, str)


def encode(value: Any, name: str = "state") -> tuple[Any, list[np.ndarray]]:
    """Tree and arrays of a value; an array that occurs twice is stored once.

    Parameters
    ----------
    value
        See the head of this file.
    name
        What the value is called in errors.

    Raises
    ------
    UnsupportedError
        For anything else; the message names the place in `value`.
    """
    arrays: list[np.ndarray] = []
    places: dict[
        int, tuple[int, Any]
    ] = {}  # by id, with the object, whose id must not be given to another one meanwhile

    def stored(key: Any, array: np.ndarray, where: str) -> int:
        if not _numeric(array.dtype):
            raise _refused(where, f"an array of dtype {array.dtype}")
        if id(key) not in places:
            places[id(key)] = len(arrays), key
            arrays.append(array)
        return places[id(key)][0]

    def walk(value: Any, where: str) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in (list, tuple):
            return [kind.__name__, [walk(part, f"{where}[{i}]") for i, part in enumerate(value)]]
        if kind is dict:
            pairs = value.items()
            return ["dict", [[walk(key, f"a key of {where}"), walk(part, f"{where}[{key!r}]")] for key, part in pairs]]
        if kind is np.ndarray:
            return ["array", stored(value, value, where)]
        if isinstance(value, np.generic):
            return ["scalar", stored(value, np.asarray(value), where)]
        if isinstance(value, np.dtype) and _numeric(value):
            return ["dtype", _name(value)]
        if isinstance(value, Tracer):
            raise _refused(where, "a traced array")
        if isinstance(value, jax.Array):
            return _jax(value, where)
        if is_dataclass(kind):
            parts = {field.name: walk(getattr(value, field.name), f"{where}.{field.name}") for field in fields(kind)}
            return ["dataclass", _path(kind, where), parts]
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            parts = {part: walk(getattr(value, part), f"{where}.{part}") for part in value._fields}  # type: ignore
            return ["namedtuple", _path(kind, where), parts]
        raise _refused(where, f"a {kind.__module__}.{kind.__qualname__}")

    def _jax(value: jax.Array, where: str) -> Any:
        if not value.is_fully_addressable:
            raise _refused(where, "an array that is spread over several processes")
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            data = np.asarray(jax.random.key_data(value))
            return ["key", stored(value, data, where), str(jax.random.key_impl(value))]
        return ["jax", stored(value, np.asarray(value), where), bool(value.weak_type)]

    return walk(value, name), arrays


def decode(tree: Any, arrays: list[np.ndarray]) -> Any:
    """The value of a tree and its arrays; to be called in the precision in which it was stored.

    Raises
    ------
    FileError
        When a type or a field no longer exists, or is none that may be made.
    """
    makers: dict[str, Callable[..., Any]] = {
        "list": lambda parts: [back(part) for part in parts],
        "tuple": lambda parts: tuple(back(part) for part in parts),
        "dict": lambda pairs: {back(key): back(part) for key, part in pairs},
        "array": lambda place: arrays[place],
        "scalar": lambda place: arrays[place][()],
        "dtype": np.dtype,
        "jax": lambda place, weak: _array(arrays[place], weak),
        "key": lambda place, implementation: jax.random.wrap_key_data(_array(arrays[place]), impl=implementation),
        "dataclass": lambda path, parts: made(_type(path), parts),
        "namedtuple": lambda path, parts: made(_type(path), parts),
    }

    def made(kind: Any, parts: dict[str, Any]) -> Any:
        named = issubclass(kind, tuple)
        names = kind._fields if named else [field.name for field in fields(kind)]  # type: ignore
        if set(names) != set(parts):
            raise FileError(
                f"a stored {kind.__qualname__} has the fields {', '.join(parts)}, and now it has {', '.join(names)}; it was "
                "written by another version of the package."
            )
        values = {name: back(part) for name, part in parts.items()}
        if named:
            return kind(**values)
        new = object.__new__(kind)
        for name, value in values.items():
            object.__setattr__(new, name, value)  # frozen, and already checked when it was made first
        return new

    def back(tree: Any) -> Any:
        return makers[tree[0]](*tree[1:]) if isinstance(tree, list) else tree

    try:
        return back(tree)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"a stored state cannot be read: {type(error).__name__} {error}; start anew.") from error


def described(array: np.ndarray) -> list[Any]:
    """Dtype, shape and order of an array, for `unpacked`."""
    return [_name(array.dtype), list(array.shape), "F" if _by_columns(array) else "C"]


def packed(array: np.ndarray) -> memoryview:
    """Content of an array in its order in memory."""
    return np.ascontiguousarray(array.T if _by_columns(array) else array).reshape(-1).view(np.uint8).data


def unpacked(description: list[Any], content: bytes, place: int) -> tuple[np.ndarray, int]:
    """An array from bytes that begin at `place`, and where the next one begins."""
    name, shape, order = description
    dtype, count = np.dtype(name), math.prod(shape)
    flat = np.frombuffer(content, dtype, count, place) if count else np.zeros(0, dtype)
    return flat.reshape(shape, order=order).copy(order=order), place + count * dtype.itemsize


def _by_columns(array: np.ndarray) -> bool:
    return array.flags.f_contiguous and not array.flags.c_contiguous


def _name(dtype: np.dtype) -> str:
    """What `numpy.dtype` reads back: with byte order, or the name for types that NumPy does not have itself."""
    return dtype.name if dtype.kind == "V" else dtype.str


def _numeric(dtype: np.dtype) -> bool:
    # ml_dtypes (bfloat16, ...) have kind V, as have structured arrays.
    return dtype.kind in "biufc" or (dtype.kind == "V" and dtype.type is not np.void)


def _array(array: np.ndarray, weak: bool = False) -> jax.Array:
    possible = jax.dtypes.canonicalize_dtype(array.dtype)
    if possible != array.dtype:
        raise FileError(
            f"a stored array has dtype {array.dtype}, and JAX would make {possible} of it in this precision."
        )
    made = jnp.array(array)  # a copy: JAX must not share memory with what is written again later
    if weak:
        from jax.extend.core.primitives import convert_element_type_p  # loads much that is rarely needed

        made = convert_element_type_p.bind(made, new_dtype=made.dtype, weak_type=True, sharding=None)
    return made


def _path(kind: type, where: str) -> str:
    """Import path of a type that `_type` would accept."""
    path = f"{kind.__module__}:{kind.__qualname__}"
    try:
        found = _type(path)
    except FileError as error:
        raise _refused(where, f"a {kind.__module__}.{kind.__qualname__}") from error
    if found is not kind:
        raise _refused(where, f"a {kind.__qualname__} that is not the one in {kind.__module__}")
    return path


def _type(path: str) -> type:
    module, _, name = path.partition(":")
    found: Any = None
    if module.startswith(_ROOTS):
        try:
            found = import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise FileError(f"a stored state needs {path}, which does not exist here; start anew.") from error
    named = isinstance(found, type) and issubclass(found, tuple) and hasattr(found, "_fields")
    if not (isinstance(found, type) and (is_dataclass(found) or named)):
        raise FileError(f"a stored state names {path}, which is no dataclass or NamedTuple of jensen or optax.")
    return found


def _refused(where: str, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{where} is {what}, which cannot be stored; states are made of numbers, arrays, containers, and dataclasses and "
        "NamedTuples of jensen and optax."
    )
