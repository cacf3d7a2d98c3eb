"""What several processes and several devices cost: passes, all-reduces, and a whole fit, beside one process on one device.

Logistic regression on float32 rows in a raw file. All processes are on this machine, so nothing gets faster here: the table says
what a pass and an all-reduce cost, from which docs/scale.md estimates larger runs, and that the answers agree.

    python -m benchmarks.distributed [rows]
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 20
LENGTHS = (COLUMNS + 1, 2500, 100_000)


def write(path: str, n: int) -> None:
    """Rows of X (20 columns) and y."""
    rng = np.random.default_rng(3)
    b = 0.4 * rng.normal(size=COLUMNS)
    with open(path, "wb") as file:
        for start in range(0, n, 100_000):
            X = rng.standard_normal((min(100_000, n - start), COLUMNS)).astype("f4")
            y = rng.random(len(X)) < 1 / (1 + np.exp(0.3 - X @ b))
            file.write(np.column_stack([X, y]).astype("f4").tobytes())


def clock(call: Any, times: int) -> tuple[float, float]:
    """Median wall and CPU milliseconds of a call, after one that compiles."""
    call()
    found = []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = 1000 * np.median(found, 0)
    return float(wall), float(cpu)


def worker(path: str, n: int, index: int, count: int, port: int) -> None:
    """One of the processes; the last line that it prints is what it found."""
    import jax
    import jax.numpy as jnp

    begun = time.perf_counter()
    if count > 1:
        jax.distributed.initialize(f"localhost:{port}", count, index, heartbeat_timeout_seconds=30)
    jax.devices()
    start = time.perf_counter() - begun

    import jensen as jn
    from jensen.core import processes
    from jensen.core.precision import scope
    from jensen.fitting_large import read_streamed
    from jensen.models.large import LargeTarget
    from jensen.posterior import Settings

    def log_prior(p: Any) -> Any:
        return -0.5 * (p["b"] ** 2).sum() - 0.5 * p["a"] ** 2

    def log_likelihood(p: Any, data: Any) -> Any:
        eta = data["X"] @ p["b"] + p["a"]
        return data["y"] * eta - jnp.logaddexp(0.0, eta)

    model = jn.density(log_prior, {"a": 0.0, "b": np.zeros(COLUMNS)}, log_likelihood=log_likelihood)
    rows = np.memmap(path, "float32", mode="r", shape=(n, COLUMNS + 1))
    table = jn.table(rows, X=slice(0, COLUMNS), y=COLUMNS)
    found: dict[str, Any] = {"start": start}
    with scope("float64"):
        record, plate, source = read_streamed(model, table, Settings("fullrank", 0, "float64", False))
        target = LargeTarget(record, plate, source, seed=0)
        z = np.zeros(record.dim)
        found["gradient"] = clock(lambda: target.rows.gradient(z), 9)
        found["Hessian"] = clock(lambda: target.rows.hessian(z), 5)
        found["16 values"] = clock(lambda: target.rows.values(np.zeros((16, record.dim))), 5)
        if count > 1:
            found["gather"] = clock(lambda: processes.gathered(np.zeros(4)), 100)
            for length in LENGTHS:
                found[f"all-reduce {length}"] = clock(lambda n=length: processes._all_reduced(np.zeros(n)), 50)

    calls: list[int] = []
    collective = processes._collective

    def counted(numbers: np.ndarray, *, adding: bool) -> np.ndarray:
        calls.append(numbers.size if adding else 0)
        return collective(numbers, adding=adding)

    processes._collective = counted
    for _ in range(2):  # the second call compiles nothing
        calls.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        posterior = jn.fit(model, "fullrank", data=table, correct=False, progress=False)
        found["fit"] = 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)
    found["collectives"] = list(calls)
    found["story"] = posterior.story[-1]
    found["mean"] = [float(posterior.mean["a"]), *map(float, posterior.mean["b"])]
    print(json.dumps(found))


def together(path: str, n: int, count: int, devices: int) -> list[dict[str, Any]]:
    """What `count` processes with so many devices each found."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "benchmarks.distributed", "worker", path, str(n)]
    running = [
        subprocess.Popen(
            [*command, str(k), str(count), str(port)], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for k in range(count)
    ]
    try:
        return [json.loads(process.communicate(timeout=600)[0].strip().splitlines()[-1]) for process in running]
    finally:
        for process in running:
            process.kill()


def main(n: int = 1_000_003) -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.f32")
        write(path, n)
        ways = {(1, 1): "1 process", (1, 2): "1 process, 2 devices", (2, 1): "2 processes"}
        found = {way: together(path, n, *way) for way in ways}
    print(f"{n:,} rows of {4 * (COLUMNS + 1)} bytes; milliseconds, wall / CPU of process 0, second call\n")
    print("| | gradient pass | Hessian pass | pass at 16 points | fit | largest difference of means |")
    print("|---|---|---|---|---|---|")
    for way, name in ways.items():
        first = found[way][0]
        cells = [f"{first[what][0]:.1f} / {first[what][1]:.1f}" for what in ("gradient", "Hessian", "16 values", "fit")]
        off = np.abs(np.subtract(first["mean"], found[1, 1][0]["mean"])).max()
        print(f"| {name} | {' | '.join(cells)} | {off:.0e} |")
    first, second = found[2, 1]
    print(f"\nequal in both processes: {first['mean'] == second['mean']}; {first['story']}")
    print(f"collectives of the fit (0: a gather of 4 numbers, else numbers added): {first['collectives']}")
    print(
        f"start of 2 processes: {first['start']:.1f} s\n\n| collective, 2 processes | wall ms | CPU ms |\n|---|---|---|"
    )
    for what, times in first.items():
        if what.startswith(("gather", "all-reduce")):
            print(f"| {what} | {times[0]:.2f} | {times[1]:.2f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main(*map(int, sys.argv[1:]))
