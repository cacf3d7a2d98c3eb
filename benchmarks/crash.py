"""Crash test: fits that are killed (SIGKILL) at random moments, each followed by the same call; no result may be lost or changed.

A process fits with a checkpoint after every chunk (tests/crash_worker.py), is killed, and is started again until it ends; its
result is compared with that of a process that was never killed, bit for bit. "scan": two runs of a compiled stochastic engine
with Tracker and ParameterConvergence; "starts": Newton on fixed draws from several starts; "fit": `jensen.fit`; "groups": the
same of rows in groups from a table. Then the file is cut at random places, and the disk is full: a tiny tmpfs where this user
may mount one, else a limit on file sizes.

    python -m benchmarks.crash [kills] [kind ...]
"""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STEPS = "3000"
SHARES = {"scan": 0.5, "starts": 0.15, "fit": 0.15, "groups": 0.2}
"""Of the kills."""


def start(kind: str, path: Path, result: Path, before: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
    """A process that fits."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.crash_worker", kind, str(path), str(result), STEPS]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment, preexec_fn=before
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    """What a process said on stderr; it must end well."""
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors.decode()[-2000:])
    return errors.decode()


def differing(one: Path, other: Path) -> list[str]:
    """Names of arrays that are not the same, bit for bit."""
    a, b = np.load(one), np.load(other)
    names = sorted({*a, *b})
    return [
        n for n in names if n not in a or n not in b or a[n].dtype != b[n].dtype or a[n].tobytes() != b[n].tobytes()
    ]


def kill_once(kind: str, path: Path, result: Path, moment: float, from_start: bool) -> float | None:
    """Start, wait, kill; the seconds the fit took when it was done before."""
    process = start(kind, path, result)
    assert process.stdout is not None
    if not from_start:
        process.stdout.readline()
    begun = time.perf_counter()
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return None
    finish(process)
    return time.perf_counter() - begun


def kills(kind: str, wanted: int, folder: Path, calm: Path, length: float, rng: np.random.Generator) -> None:
    """Fit after fit, until so many kills; moments are spread over the fastest fit seen."""
    done = fits = changed = lost = leftovers = early = 0
    while done < wanted:
        fits += 1
        path, result = folder / f"{kind}-{fits}.checkpoint", folder / f"{kind}-{fits}.npz"
        for _ in range(int(rng.integers(1, 6))):
            from_start = rng.random() < 0.1  # also while it imports, and reads the checkpoint
            moment = rng.uniform(0, 1.5) if from_start else rng.uniform(0, length)
            took = kill_once(kind, path, result, moment, from_start) if done < wanted else 0.0
            if took is not None:
                length = length if from_start or not took else min(length, took)
                break
            done, early = done + 1, early + from_start
        said = "" if result.exists() else finish(start(kind, path, result))
        changed += bool(differing(calm, result))
        lost += "Warning" in said
        leftovers += len(list(folder.glob(f".{path.name}*")))
    print(f"| {kind} | {done} ({early} before the loop) | {fits} | {changed} | {lost} | {leftovers} |", flush=True)


def cuts(folder: Path, calm: Path, rng: np.random.Generator, number: int = 5) -> str:
    """A killed fit whose file is then cut at random places."""
    changed = warned = 0
    for i in range(number):
        path, result = folder / f"cut-{i}.checkpoint", folder / f"cut-{i}.npz"
        process = start("starts", path, result)
        finish(process)
        result.unlink()
        content = path.read_bytes()
        path.write_bytes(content[: int(rng.integers(len(content)))])
        warned += "serves" in finish(start("starts", path, result))
        changed += bool(differing(calm, result))
    return f"file cut: {number} times, {warned} warned that the one before serves, {changed} results changed"


def full_disk(folder: Path, calm: Path) -> str:
    """A fit whose disk is full from some moment on, and the same call with space again."""
    disk, result = folder / "disk", folder / "full.npz"
    disk.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)], capture_output=True).returncode
        == 0
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    try:
        said = finish(start("scan", disk / "c", result, None if mounted else limit))
        warnings = said.count("could not be written")
        first = differing(calm, result)
        left = sorted(path.name for path in disk.iterdir())
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        result.unlink()
        finish(start("scan", disk / "c", result))
        then = differing(calm, result)
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)
    how = "tmpfs of 96 kB" if mounted else "limit on file sizes"
    return f"full disk ({how}): {warnings} warning, files {left}, differing {first}; the same call with space: differing {then}"


def main(number: int = 100, *kinds: str) -> None:
    """Print what happened; with `kinds` so many kills of each of these."""
    rng = np.random.default_rng()
    shares = dict.fromkeys(kinds, 1.0) or SHARES
    with TemporaryDirectory() as name:
        folder = Path(name)
        print("| kind | kills | fits | results changed | warnings | temporary files left |")
        print("|---|---|---|---|---|---|")
        calm = {}
        for kind, share in shares.items():
            calm[kind] = folder / f"{kind}.npz"
            process = start(kind, folder / f"{kind}.checkpoint", calm[kind])
            assert process.stdout is not None
            process.stdout.readline()
            begun = time.perf_counter()
            finish(process)
            kills(kind, round(number * share), folder, calm[kind], time.perf_counter() - begun, rng)
        print()
        if kinds:
            return
        print(cuts(folder, calm["starts"], rng))
        print(full_disk(folder, calm["scan"]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 100, *sys.argv[2:])
