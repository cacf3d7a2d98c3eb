"""The command line: ``jensen fit``, ``jensen check``, ``jensen report``, ``jensen demo``.

    jensen fit    FILE.py:NAME [--data FILE] [--method auto] [--seed 0] [--budget S] [--out fit.nc] [--report fit.html]
    jensen check  FILE.py:NAME [--data FILE]
    jensen report FILE.nc [--out fit.html]
    jensen demo   [--out FOLDER]

NAME is a NumPyro model function, a PyMC model, a `jensen.density`, or a function that returns one of the latter two
when it is called with the data (see `jensen.userfile`).

Exit codes: 0 a fit (also one that should not be used: the verdict is printed), 1 ``check`` found a density that is not
finite, 2 an error of the user's, told in one line on stderr, 130 interrupted by Ctrl-C (what was fitted is kept).
"""

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jensen import __version__
from jensen.core.errors import FitWarning, JensenError
from jensen.userfile import load, place, sentence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    with warnings.catch_warnings(), _kept_programs():
        # The verdict is printed; the warning that repeats it would come first.
        warnings.simplefilter("ignore", FitWarning)
        try:
            return arguments.run(arguments)
        except JensenError as error:
            return _complain(str(error))
        except BrokenPipeError:
            # `jensen fit ... | head` closed the pipe; the interpreter must not stumble over it again at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            return _complain("interrupted before there was a fit to keep.", 130)
        except Exception as error:
            where = place(error, Path(getattr(arguments, "model", "").rpartition(":")[0]))
            if where is None:
                raise
            return _complain(f"{where}: {sentence(error)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("jensen", description="Variational inference with a verdict on every fit.")
    parser.add_argument("--version", action="version", version=f"jensen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    fit = commands.add_parser("fit", help="fit a model and say how far the result can be trusted")
    fit.set_defaults(run=_fit)
    _add_model(fit)
    fit.add_argument("--method", default="auto", help="auto, fullrank, meanfield, ... (default: %(default)s)")
    fit.add_argument("--seed", type=int, default=0, help="all randomness derives from it (default: %(default)s)")
    fit.add_argument("--budget", type=float, metavar="S", help="stop moving the approximation after S seconds")
    fit.add_argument("--out", type=Path, metavar="FILE.nc", help="save the fit as netCDF, for jensen.load and ArviZ")
    fit.add_argument("--report", type=Path, metavar="FILE.html", help="write a page about the fit, for a browser")

    check = commands.add_parser("check", help="show what is found in a model, without fitting it")
    check.set_defaults(run=_check)
    _add_model(check)

    report = commands.add_parser("report", help="write a page about a saved fit, for a browser")
    report.set_defaults(run=_report)
    report.add_argument("fit", type=Path, metavar="FILE.nc", help="a fit saved by jensen fit --out, or posterior.save")
    report.add_argument("--out", type=Path, metavar="FILE.html", help="the page (default: beside the fit)")

    demo = commands.add_parser("demo", help="a clinical trial, by jensen and by NUTS side by side")
    demo.set_defaults(run=_demo)
    demo.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="where the picture goes (default: here)"
    )
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="FILE.py:NAME", help="a Python file and the name of the model in it")
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="the model's data: .json, .npz or .csv, name -> array"
    )
    parser.add_argument("--precision", default="float64", choices=("float64", "float32"), help="default: %(default)s")


def _fit(arguments: argparse.Namespace) -> int:
    # Whatever would be told after the fit is told before it.
    if arguments.report is not None:
        from jensen.report.page import refuse_without_engine

        refuse_without_engine()
    for path in filter(None, (arguments.out, arguments.report)):
        from jensen.export.files import check_writable

        check_writable(path)
    model, data = _load(arguments)

    import jensen

    options = {"seed": arguments.seed, "budget": arguments.budget, "precision": arguments.precision}
    with _noted_interrupts() as interrupts:
        posterior = jensen.fit(model, arguments.method, data=data, **options)
    print(posterior)
    if posterior.verdict.overall == "do not use":
        print("\nDO NOT USE this fit: reasons and advice are above.")
    if arguments.out is not None:
        posterior.save(arguments.out)
        print(f"\nsaved: {arguments.out}, for jensen.load and arviz.from_netcdf")
    if arguments.report is not None:
        posterior.report(arguments.report)
        print(f"\nreport: {arguments.report}")
    if interrupts:
        return _complain("interrupted; above is the fit as far as it came.", 130)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from jensen.conjugate.explain import certified, explain
    from jensen.core import precision
    from jensen.core.errors import UnsupportedError
    from jensen.models.read import read
    from jensen.models.target import Target

    model, data = _load(arguments)
    with precision.scope(arguments.precision):
        record = read(model, data)
        print(_description(record))
        if record.graph is not None:
            try:
                print(f"\n{explain(record, *certified(record))}\n")
            except (
                UnsupportedError
            ) as error:  # a log density that is more than its distributions; gradients do not mind
                print(f"\nConjugacy of {record.name}: {error}\n")
        if record.discrete:
            return 0
        target = Target(record, arguments.precision)
        origin = np.zeros((1, record.dim))
        value, gradient = target(origin)
        if np.isfinite(value).all() and np.isfinite(gradient).all():
            print(f"log density at the origin of the unconstrained space: {value[0]:.6g}, its gradient is finite")
            return 0
        print(f"log density at the origin of the unconstrained space: {target.blame(origin)} is not finite")
        return 1


def _report(arguments: argparse.Namespace) -> int:
    import jensen

    page = arguments.fit.with_suffix(".html") if arguments.out is None else arguments.out
    jensen.load(arguments.fit).report(page)
    print(f"report: {page}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from jensen.demo import run

    run(arguments.out, lambda text: print(text, flush=True))
    return 0


def _load(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any] | None]:
    model, data, unused = load(arguments.model, arguments.data)
    if unused:
        print(f"columns not used: {', '.join(unused)}", file=sys.stderr)
    return model, data


def _description(model: Any) -> str:
    """What a front end found in a model, as tables."""
    import jax

    free = {site.name: jax.ShapeDtypeStruct(site.free_shape, float) for site in model.sites}
    factors = jax.eval_shape(lambda free, data: model.factors(free, data).log_prob, free, model.data)
    sites = {site.name for site in model.sites}
    others = [name for name in factors if name not in sites and name not in model.likelihoods]
    dims = {name: ", ".join(str(dim) for dim in names) for name, names in model.dims.items()}
    tables = {
        "latent": [
            (
                site.name,
                {"shape": site.shape, "free": site.size, "support": site.support, "dims": dims.get(site.name, "")},
            )
            for site in model.sites
        ],
        "observed": [(name, {"factor": factors[name].shape, "dims": dims.get(name, "")}) for name in model.likelihoods],
        "other terms": [(name, {"factor": factors[name].shape}) for name in others],
        "deterministic": [
            (quantity.name, {"shape": quantity.shape, "dims": dims.get(quantity.name, "")})
            for quantity in model.derived
        ],
        "data": [(name, {"shape": value.shape, "dtype": value.dtype}) for name, value in model.data.items()],
    }
    parts = [f"{model.name}: a {model.language} model with D = {model.dim} unconstrained coordinates"]
    parts += [_table(title, rows) for title, rows in tables.items() if rows]
    if not model.likelihoods and not others:
        parts.append("nothing is observed: a fit would return the prior; does the data lack an argument of the model?")
    return "\n\n".join([*parts, *(f"note: {note}" for note in model.notes)]) + "\n"


def _table(title: str, rows: list[tuple[str, dict[str, Any]]]) -> str:
    from jensen.export.table import render

    columns = {header: [str(row[header]) for _, row in rows] for header in rows[0][1]}
    columns = {header: words for header, words in columns.items() if any(words)}
    return title + "\n" + render([f"  {name}" for name, _ in rows], columns, limit=None)


def _complain(text: str, code: int = 2) -> int:
    print(f"jensen: error: {text}", file=sys.stderr)
    return code


@contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """Count Ctrl-C while it does what it always does: an interrupted fit returns, and the exit code must tell."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGINT, note)
    except ValueError:  # Not the main thread: signals do not arrive here.
        yield seen
        return
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _kept_programs() -> Iterator[None]:
    """Keep compiled programs between runs: the command line is an application, so JAX's settings are its own.

    They go to the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another place.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        yield
        return
    import jax

    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    ours = {
        "jax_compilation_cache_dir": os.path.join(home, "jensen", "programs"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in ours}
    for name, value in ours.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


if __name__ == "__main__":
    sys.exit(main())
