"""Many rows: `auto` beside NumPy, NumPyro and PyMC on four data sets, 20 million rows from files, and 10 million of a line.

    python -m benchmarks.large [w06 w07b w08 w11b stream line] [--rows 2000000] [--budget 8] [--repeats 3]

Every fit is a process of its own; seconds are CPU seconds of all its threads and children, after the imports that a model needs.
First call: with reading the model and compiling (for PyMC also C code, in an empty folder); second call: again in the same
process. The peers have no stop of their own: they get a budget after compilation, so that their first call is
compilation and budget, their second the budget. NumPyro: AutoNormal, Adam 1e-2, float64, on all rows and on batches drawn
by one randint a step; PyMC: ADVI with pm.Minibatch and default settings. NumPy: Newton's method and sufficient statistics,
on one thread. Errors are in sds of the posterior (benchmarks/large_data.py); a gradient of a batch is its share of a pass.

"stream": logistic regression, 20 columns, float32, from a raw file and from uncompressed Parquet with groups of 125,000 rows,
both written into a temporary folder; memory is that of a process that only fits. Up to 128 MiB of rows (1.6 million) stay in
memory, and the table of passes then has no reading in it. "line": w08 with more rows, half of --rows.
"""

import argparse
import json
import re
import resource
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.large_data import CASES, STREAMED, Case, Moments, line, logistic_model, logistic_moments
from benchmarks.large_peers import advi, autonormal, cpu, said
from benchmarks.process import measure

METHODS = ("auto", "numpy", "numpyro", "numpyro-minibatch", "pymc-minibatch")
STEADY = ("auto", "numpy")
"""Methods that are repeated: the others spend a given budget."""
PARTS = (*CASES, "stream", "line")
GROUP = 125_000


def peak() -> float:
    """Peak resident memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def auto(model: Any, data: Any) -> dict[str, Any]:
    """Two calls of `jensen.fit`."""
    import jensen as jn

    fit, seconds, before = jn.fit, [], peak()
    for _ in range(2):
        begun = cpu()
        posterior = fit(model, data=data)
        seconds.append(cpu() - begun)
    story = " ".join(posterior.story)
    passes = re.findall(r"([\d.,]+) pass(?:es)?\b", story)
    return {
        "seconds": seconds,
        "moments": said(
            {site.name: (posterior.mean[site.name], posterior.sd[site.name]) for site in posterior.model.sites}
        ),
        "verdict": posterior.verdict.overall,
        "passes": passes[-1] if passes else f"{posterior.run.steps} steps",
        "story": posterior.story,
        "memory": [before, peak()],
    }


def least(case: Case) -> dict[str, Any]:
    """Two calls of the least work in NumPy."""
    from jensen.core.threads import one_blas_thread

    seconds = []
    with one_blas_thread():
        for _ in range(2):
            begun = cpu()
            moments = case.floor()
            seconds.append(cpu() - begun)
    return {"seconds": seconds, "moments": said(moments)}


def fitted(name: str, method: str, budget: float, rows: int) -> dict[str, Any]:
    """One method on one data set."""
    case = line(rows) if name == "line" else CASES[name]()
    if method == "reference":
        return {"moments": said(case.reference())}
    if method == "auto":
        return auto(case.numpyro(None), case.data)
    if method == "numpy":
        return least(case)
    if method == "passes":
        return passes(case.numpyro(None), case.data)
    if method.startswith("numpyro"):
        return autonormal(case, budget, case.batch if method.endswith("minibatch") else None)
    return advi(case, budget, case.batch)


def passes(model: Any, data: Any) -> dict[str, Any]:
    """CPU seconds of one pass over all rows: a gradient, and values at 16 points; medians of three after one that compiles."""
    from jensen.core.precision import scope
    from jensen.data.build import table
    from jensen.data.table import Table
    from jensen.fitting_large import read_streamed
    from jensen.models import plates
    from jensen.models.large import LargeTarget
    from jensen.models.read import read
    from jensen.settings import Settings

    with scope("float64"):
        if isinstance(data, Table):
            record, plate, source = read_streamed(model, data, Settings())
        else:
            record = read(model, data)
            plate = plates.find(record)[0]
            source = table(**{name: record.data[name] for name, _ in plate.data})
        target = LargeTarget(record, plate, source, seed=0)
        calls = {
            "gradient": lambda: target.rows.gradient(np.zeros(record.dim)),
            "values": lambda: target.rows.values(np.zeros((16, record.dim))),
        }
        found = {}
        for what, call in calls.items():
            times = []
            for _ in range(4):
                begun = cpu()
                call()
                times.append(cpu() - begun)
            found[what] = float(np.median(times[1:]))
    return found


def write(folder: Path, rows: int) -> None:
    """The raw file and the Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(3)
    beta = rng.normal(size=STREAMED) * 0.4
    names = [*(f"x{j}" for j in range(STREAMED)), "y"]
    schema = pa.schema([(name, pa.float32()) for name in names])
    with (
        open(folder / "rows.f32", "wb") as raw,
        pq.ParquetWriter(folder / "rows.parquet", schema, compression="NONE", use_dictionary=False) as parquet,
    ):
        for start in range(0, rows, GROUP):
            X = rng.standard_normal((min(GROUP, rows - start), STREAMED)).astype("f4")
            y = rng.random(len(X)) < 1 / (1 + np.exp(0.3 - X @ beta))
            block = np.column_stack([X, y]).astype("f4")
            raw.write(block.tobytes())
            columns = [pa.array(np.ascontiguousarray(column)) for column in block.T]
            parquet.write_table(pa.table(columns, schema=schema), row_group_size=GROUP)


def streamed_reference(folder: Path) -> dict[str, Any]:
    """Newton's method in float64 on the first 200,000 rows, then on all."""
    from jensen.core.threads import one_blas_thread

    def blocks(most: int):
        with open(folder / "rows.f32", "rb") as file:
            for _ in range(0, most, 50_000):
                block = np.fromfile(file, "f4", 50_000 * (STREAMED + 1)).reshape(-1, STREAMED + 1).astype(float)
                if not len(block):
                    break
                yield block[:, :-1], block[:, -1]

    with one_blas_thread():
        some = logistic_moments(lambda: blocks(200_000), STREAMED, third=False)
        start = np.r_[some["b0"][0], some["b"][0]]
        return {"moments": said(logistic_moments(lambda: blocks(10**12), STREAMED, start))}


def bare(folder: Path, way: str) -> dict[str, Any]:
    """CPU seconds of reading a whole file, and nothing else; medians of three."""
    times = []
    for _ in range(3):
        begun = cpu()
        if way == "raw":
            buffer = bytearray(1 << 20)
            with open(folder / "rows.f32", "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
        else:
            import pyarrow.parquet as pq

            with pq.ParquetFile(folder / "rows.parquet") as file:
                for _ in file.iter_batches(8192, use_threads=False):
                    pass
        times.append(cpu() - begun)
    return {"read": float(np.median(times))}


def streamed(folder: Path, way: str, method: str) -> dict[str, Any]:
    """Fit, passes or bare reading of one of the files."""
    import jensen as jn

    if method == "bare":
        return bare(folder, way)
    if way == "raw":
        n = (folder / "rows.f32").stat().st_size // (4 * (STREAMED + 1))
        rows = np.memmap(folder / "rows.f32", np.float32, mode="r", shape=(n, STREAMED + 1))
        table = jn.table(rows, X=slice(0, STREAMED), y=STREAMED)
    else:
        table = jn.table(folder / "rows.parquet", X=[f"x{j}" for j in range(STREAMED)], y="y")
    model = logistic_model(0, STREAMED)
    return passes(model, table) if method == "passes" else auto(model, table)


def cells(result: dict[str, Any], reference: Moments) -> str:
    """Cells of a table: seconds, error and ratios in reference sds."""
    first, second = result["seconds"]
    errors, ratios = [], []
    for name, (mean, sd) in reference.items():
        found_mean, found_sd = result["moments"][name]
        errors.append(np.abs((np.array(found_mean) - mean) / np.array(sd)).max())
        ratio = np.array(found_sd) / sd
        ratios += [ratio.min(), ratio.max()]
    return f"{first:.2f} | {second:.3f} | {max(errors):.4f} | {min(ratios):.3f} to {max(ratios):.3f}"


def run(*arguments: Any) -> dict[str, Any]:
    """What one worker found."""
    with TemporaryDirectory() as fresh:
        return measure("benchmarks.large", "--worker", *map(str, arguments), pytensor=fresh).result


def middle(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The last of several results, with the median of their seconds."""
    return {**results[-1], "seconds": np.median([result["seconds"] for result in results], 0)}


def compare(name: str, budget: float, repeats: int) -> None:
    """Print the table of one data set."""
    reference = run(name, "reference", budget, 0)["moments"]
    print("| data | method | first call, CPU s | second | largest mean error, sds | sd ratios | verdict | passes |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    stories: list[str] = []
    for method in METHODS:
        one = middle([run(name, method, budget, 0) for _ in range(repeats if method in STEADY else 1)])
        row = f"| {name} | {method} | {cells(one, reference)} | {one.get('verdict', '')} | {one.get('passes', '')} |"
        print(row, flush=True)
        stories += one.get("story", [])
    print("", *stories, "", sep="\n", flush=True)


def stream(rows: int, repeats: int) -> None:
    """Print the tables of the streamed rows."""
    with TemporaryDirectory() as name:
        run("stream", "write", name, rows)
        reference = run("stream", "reference", name, 0)["moments"]
        print(f"{rows:,} rows x {STREAMED} from files, {4 * (STREAMED + 1) * rows / 1e9:.2f} GB\n")
        print(
            "| file | first call, CPU s | second | largest mean error, sds | sd ratios | verdict | peak MB | before the fit |"
        )
        print("|---|---|---|---|---|---|---|---|")
        stories, speeds = [], []
        for way in ("raw", "parquet"):
            fits = [run("stream", "auto", name, way) for _ in range(repeats)]
            one, memory = middle(fits), np.max([fit["memory"] for fit in fits], 0)
            print(
                f"| {way} | {cells(one, reference)} | {one['verdict']} | {memory[1]:.0f} | {memory[0]:.0f} |",
                flush=True,
            )
            stories += [f"{way}: {sentence}" for sentence in one["story"]]
            pass_, read = run("stream", "passes", name, way), run("stream", "bare", name, way)["read"]
            speed = [rows / seconds / 1e6 for seconds in (pass_["gradient"], pass_["values"], read)]
            speeds.append(f"| {way} | " + " | ".join(f"{one:.1f}" for one in speed) + f" | {speed[0] / speed[2]:.3f} |")
    print(
        "\n| million rows a CPU second | one pass: gradient | values at 16 points | bare reading | gradient of reading |"
    )
    print("|---|---|---|---|---|", *speeds, "", *stories, "", sep="\n")


def long_line(rows: int, repeats: int) -> None:
    """Print the tables of the long line."""
    reference = run("line", "reference", 0, rows)["moments"]
    results: dict[str, list[dict[str, Any]]] = {"auto": [], "numpy": []}
    for _ in range(repeats):
        for method, found in results.items():
            found.append(run("line", method, 0, rows))
    print(f"{rows:,} rows of the line, in memory\n")
    print("| method | first call, CPU s | second | largest mean error, sds | sd ratios | verdict |")
    print("|---|---|---|---|---|---|")
    for method, found in results.items():
        one = middle(found)
        print(f"| {method} | {cells(one, reference)} | {one.get('verdict', '')} |")
    pass_ = run("line", "passes", 0, rows)
    second = middle(results["auto"])["seconds"][1]
    print(
        f"\none pass: gradient {pass_['gradient']:.3f} CPU s, values at 16 points {pass_['values']:.3f}; the second call is "
        f"{second / pass_['gradient']:.1f} gradients or {second / pass_['values']:.1f} times 16 values\n"
    )
    print(*results["auto"][-1]["story"], sep="\n")


def worker(name: str, method: str, third: str, fourth: str) -> None:
    """One process; prints JSON."""
    found: dict[str, Any] = {}
    if name != "stream":
        found = fitted(name, method, float(third), int(fourth))
    elif method == "write":
        write(Path(third), int(fourth))
    elif method == "reference":
        found = streamed_reference(Path(third))
    else:
        found = streamed(Path(third), fourth, method)
    print(json.dumps(found))


def main(arguments: list[str] | None = None) -> None:
    """Print the tables of the parts asked for."""
    parser = argparse.ArgumentParser("python -m benchmarks large")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rows", type=int, default=20_000_000, help="of the files; the line has half as many")
    parser.add_argument("--budget", type=float, default=8.0, help="CPU seconds of the peers")
    parser.add_argument("--repeats", type=int, default=3, help="processes of which medians are taken")
    asked = parser.parse_args(arguments or [])
    parts = asked.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for name in CASES:
        if name in parts:
            compare(name, asked.budget, asked.repeats)
    if "stream" in parts:
        stream(asked.rows, asked.repeats)
    if "line" in parts:
        long_line(asked.rows // 2, asked.repeats)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        main(sys.argv[1:])
