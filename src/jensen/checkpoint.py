"""Checkpoints: a run that was killed goes on where it was, and ends as if nothing had happened.

One file holds the runs of one fit by label, finished or not: the state of the engine, the history, the notes. It is replaced
as a whole, so that it is complete at any moment: written beside under another name, flushed to the disk, renamed; the one
before stays as ``<path>.previous``. A sum over its content tells whether it is what was written.

    "jensen checkpoint 1", end of line | length of the JSON | JSON | arrays, one after the other | CRC-32 of all before

The JSON has the fingerprint of the fit (engine, model, data, seed), the trees of the runs (core/records.py) and dtype, shape
and order of the arrays. Nothing in the file is ever executed.
"""

import json
import math
import os
import re
import struct
import time
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jensen import __version__
from jensen.core import keys, processes, records
from jensen.core.errors import FileError, FitWarning, OptionError, UnsupportedError

INTERVAL = 2.0
"""Least number of seconds between two writes, but for those at the end of a run."""
SHARE = 0.05
"""Largest share of the time that writing may take."""
_MAGIC = b"jensen checkpoint 1\n"
_LONG = 60
"""Characters of a value that a message shows."""


@dataclass(frozen=True, eq=False)
class Saved:
    """What is kept of a run.

    Attributes
    ----------
    state, loss, notes
        Of the engine; one loss a step; sentences.
    seconds
        Wall time used.
    status, ended
        Of the run, and why the loop ended; empty while it goes on.
    callbacks
        Type and ``checkpointed`` of every callback, None for those without.
    """

    state: Any
    loss: np.ndarray
    notes: tuple[str, ...]
    seconds: float
    status: str = ""
    ended: str = ""
    callbacks: tuple[Any, ...] = ()


def fingerprint(
    engine: Any, model: Any, *, seed: int, precision: str, log_density: float | None = None
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be of this fit.

    Parameters
    ----------
    engine
        Of the fit; compared by its options, functions in them by their names.
    model
        The `Model`: name, sites, and the shapes and contents of its data are compared.
    seed, precision
        Of the fit.
    log_density
        That of the model at `reference`, which tells when the model's code was changed; None where it costs too much.
    """
    found: dict[str, Any] = {"jensen": __version__, "engine": _words(engine), "model": f"{model.language} {model.name}"}
    try:
        tree, arrays = records.encode(engine)
        found["numbers of the engine"] = _sum([json.dumps(tree).encode(), *map(records.packed, arrays)])
    except UnsupportedError:  # it holds functions, and its words are all there is
        pass
    found["sites"] = [f"{site.name} {site.shape} {site.support}" for site in model.sites]
    for name, value in model.data.items():
        array = np.asarray(value)
        plain = array.dtype.kind in "biufc"
        found[f"data {name}"] = f"{array.dtype} {array.shape}" + (
            f" with sum {_sum([records.packed(array)])}" if plain else ""
        )
    found |= {"seed": int(seed), "precision": precision}
    if log_density is not None:
        found["log density"] = float(log_density)
    return found


def reference(dim: int) -> np.ndarray:
    """A point (D,) near the origin at which models are compared, always the same."""
    return 0.1 * keys.generator(0, "fingerprint").standard_normal(dim)


class Checkpoint:
    """The file of a fit.

    Parameters
    ----------
    path
        Of the file; its folder must exist.
    identity
        What the file must be of, as by `fingerprint`: numbers, strings and lists of them by name.

    Raises
    ------
    FileError
        When nothing can be written there, or the file is something else.
    OptionError
        When it is the checkpoint of another fit, or `path` is no path.

    Warns
    -----
    FitWarning
        When the file is damaged: the one before it serves, or else the fit starts anew. Also, once, when a write fails; the fit
        goes on, and the file is as it was.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any]):
        if not isinstance(path, str | os.PathLike):
            raise OptionError(f"checkpoint must be the path of a file; got {path!r}; for example 'fit.checkpoint'.")
        path = Path(path).expanduser()
        if path.is_dir():
            raise FileError(f"{path} is a folder, so no checkpoint can be written there; give a file name inside it.")
        self.path = Path(os.path.realpath(path))
        self.previous = self.path.with_name(self.path.name + ".previous")
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._link = self.path.with_name(f".{self.path.name}.link")
        self._identity = json.loads(json.dumps(dict(identity)))
        self._writes = processes.index() == 0  # the others, which make the same fit, only read
        if self._writes:
            self._check_folder()
        self._off = self._warned = False
        self._sound = True  # whether the file there is worth keeping as the previous one
        self._runs = self._found()
        self._next = time.perf_counter() + INTERVAL

    def load(self, label: str) -> Saved | None:
        """What is kept of a run, to be called in the precision of the fit; None where there is nothing."""
        if label not in self._runs:
            return None
        try:
            return records.decode(*self._runs[label])
        except FileError as error:
            _warn(f"the checkpoint {self.path} cannot be used for {label}: {error}")
            return None

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.perf_counter() >= self._next

    def save(self, label: str, saved: Saved) -> None:
        """Keep a run, in the place of what was kept of it before; a write that fails is a warning."""
        if self._off or not self._writes:
            return
        begun = time.perf_counter()
        try:
            self._runs[label] = self._encoded(saved)
        except UnsupportedError as error:
            self._off = True
            _warn(f"the fit goes on without checkpoints: {error}")
            return
        try:
            self._write()
        except OSError as error:
            if not self._warned:
                self._warned = True
                reason = os.strerror(error.errno) if error.errno else str(error)
                _warn(
                    f"the checkpoint {self.path} could not be written: {reason}; the fit goes on, what was written before is "
                    "kept, and further writes are tried."
                )
        now = time.perf_counter()
        self._next = now + max(INTERVAL, (now - begun) / SHARE)

    def _encoded(self, saved: Saved) -> tuple[Any, list[np.ndarray]]:
        try:
            return records.encode(saved, "the fit")
        except UnsupportedError as error:
            bare = records.encode(
                replace(saved, callbacks=()), "the fit"
            )  # the state itself, or whatever the callbacks hold?
            if not self._warned:
                self._warned = True
                _warn(f"what the callbacks recorded is not in the checkpoint: {error}")
            return bare

    def _write(self) -> None:
        """Put all runs into the file."""
        arrays = [array for _, some in self._runs.values() for array in some]
        trees = {label: [tree, len(some)] for label, (tree, some) in self._runs.items()}
        head = json.dumps(
            {"identity": self._identity, "runs": trees, "arrays": list(map(records.described, arrays))}
        ).encode()
        try:
            with open(self._part, "wb") as file:
                total = 0
                for piece in (_MAGIC, struct.pack("<Q", len(head)), head, *map(records.packed, arrays)):
                    file.write(piece)
                    total = zlib.crc32(piece, total)
                file.write(struct.pack("<I", total))
                file.flush()
                os.fsync(file.fileno())
            self._keep()
            os.replace(self._part, self.path)
            self._sound = True
        finally:
            self._part.unlink(missing_ok=True)
        _flush_folder(self.path.parent)

    def _keep(self) -> None:
        """Make the file there the previous one, without a moment in which there is none."""
        if not (self._sound and self.path.exists()):
            return
        try:
            self._link.unlink(missing_ok=True)
            os.link(self.path, self._link)
            os.replace(self._link, self.previous)
        except OSError:  # a file system without links
            os.replace(self.path, self.previous)
        finally:
            self._link.unlink(missing_ok=True)  # of two names of one file, replacing removes none

    def _check_folder(self) -> None:
        folder = self.path.parent
        if not folder.is_dir():
            raise FileError(
                f"the folder {folder} does not exist, so no checkpoint can be written; make the folder first."
            )
        try:
            for left in (self._part, self._link):  # by a process that was killed while it wrote
                left.unlink(missing_ok=True)
            self._part.touch()
            self._part.unlink()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise FileError(f"no checkpoint can be written to {folder}: {reason}; choose another folder.") from error

    def _found(self) -> dict[str, tuple[Any, list[np.ndarray]]]:
        """The runs in the file, or in the one before it."""
        damage = []
        for path in (self.path, self.previous):
            if not path.exists():
                continue
            try:
                head, arrays = _read(path)
            except _Damaged as error:
                damage.append(f"{path} is damaged ({error})")
                self._sound = self._sound and path != self.path
                continue
            except OSError as error:
                raise FileError(f"the checkpoint {path} cannot be read: {error}; choose another path.") from error
            self._refuse_another(path, head["identity"])
            if damage:
                _warn(f"{damage[0]}; the checkpoint before it, {path.name}, serves.")
            runs, start = {}, 0
            for label, (tree, count) in head["runs"].items():
                runs[label] = tree, arrays[start : start + count]
                start += count
            return runs
        if damage:
            _warn(f"{', and '.join(damage)}; the fit starts anew.")
        return {}

    def _refuse_another(self, path: Path, there: dict[str, Any]) -> None:
        here = self._identity
        names = [name for name in dict.fromkeys([*there, *here]) if not _same(there.get(name), here.get(name))]
        if "engine" in names:  # says more than its numbers
            names = [name for name in names if name != "numbers of the engine"]
        differences = [
            "{} was {} and is now {}".format(name, *_short(there.get(name), here.get(name))) for name in names
        ]
        if differences:
            raise OptionError(
                f"{path} is the checkpoint of another fit: {'; '.join(differences)}; give another path, or delete the file "
                "to start anew."
            )


class _Damaged(Exception):
    """A file that is not what was written."""


def _read(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Head and arrays of a file."""
    content = path.read_bytes()
    begin = content[: len(_MAGIC)]
    # After a loss of power a file can be empty, short, or zeros; anything else there is somebody's, and stays.
    if begin != _MAGIC[: len(begin)] and begin.strip(b"\0"):
        raise FileError(f"{path} is no checkpoint of this version of jensen, and is not replaced; give another path.")
    if len(content) < len(_MAGIC) + 12:
        raise _Damaged(f"it has {len(content)} bytes")
    if zlib.crc32(memoryview(content)[:-4]) != struct.unpack("<I", content[-4:])[0]:
        raise _Damaged("its content does not have the sum that was written with it")
    place = len(_MAGIC) + 8
    (length,) = struct.unpack("<Q", content[place - 8 : place])
    head = json.loads(content[place : place + length])
    place += length
    arrays = []
    for shape in head["arrays"]:
        array, place = records.unpacked(shape, content, place)
        arrays.append(array)
    return head, arrays


def _sum(pieces: list[Any]) -> int:
    total = 0
    for piece in pieces:
        total = zlib.crc32(piece, total)
    return total


def _words(engine: Any) -> str:
    """Its repr, without where in memory its functions are."""
    return " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(engine)).split())


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):  # compilers may round differently
        return one == other or math.isclose(one, other, rel_tol=1e-6) or (math.isnan(one) and math.isnan(other))
    return one == other


def _short(one: Any, other: Any) -> tuple[str, str]:
    """Two values in few words, from shortly before the place where they begin to differ."""
    words = ["absent" if value is None else str(value) for value in (one, other)]
    same = len(os.path.commonprefix(words))
    begin = 0 if max(map(len, words)) <= _LONG else max(0, same - _LONG // 2)

    def part(text: str) -> str:
        end = begin + _LONG
        return f"{'...' if begin else ''}{text[begin:end]}{'...' if len(text) > end else ''}"

    return part(words[0]), part(words[1])


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a loss of power, where the system can."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(number)
    except OSError:
        pass
    finally:
        os.close(number)


def _warn(words: str) -> None:
    warnings.warn(words, FitWarning, stacklevel=3)
