"""Measure a whole Python process: wall and CPU seconds from start to exit, and what it printed as JSON."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Measured(NamedTuple):
    """One process: seconds, and the last line of its output as JSON."""

    wall: float
    cpu: float
    result: Any


def measure(module: str, *arguments: str, pytensor: str | None = None) -> Measured:
    """Run ``python -m module arguments`` in a fresh process, without JAX's cache, and PyTensor's in the folder given."""
    # Modules compiled by Python are kept, as an installation keeps them: else every process compiles them anew (0.3 s).
    skipped = ("JAX_COMPILATION", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(skipped)}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    if pytensor is not None:
        environment["PYTENSOR_FLAGS"] = f"base_compiledir={pytensor}"
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return Measured(wall, cpu, json.loads(done.stdout.strip().splitlines()[-1]))
