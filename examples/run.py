"""Run examples as scripts, and save their figures if asked.

python examples/run.py                 all of them, in the long mode
python examples/run.py 02 05 --figures these two, with their figures in examples/figures
python examples/run.py --quick         smaller sizes, as in the tests

An example makes figures and saves none; every matplotlib figure or animation among its names is saved under
<example>_<name>. Each of them also runs by itself (`python examples/02_hard_density.py`), or as a notebook.
"""

import argparse
import os
import runpy
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def examples(wanted: list[str] | None = None) -> list[Path]:
    """Files of the examples whose names begin with one of the words; all without them."""
    found = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    return [path for path in found if not wanted or any(path.name.startswith(word) for word in wanted)]


def run(path: Path) -> dict[str, Any]:
    """What an example has defined when it ends: its checks have held. matplotlib's settings are as before."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context():
        return runpy.run_path(str(path), run_name="__main__")


def figures(names: dict[str, Any]) -> dict[str, Any]:
    """Name -> figure or animation."""
    from matplotlib.animation import Animation
    from matplotlib.figure import Figure

    return {name: value for name, value in names.items() if isinstance(value, Figure | Animation)}


def save(name: str, figure: Any, stem: str, folder: Path) -> Path:
    """Write a figure as PNG, an animation as GIF."""
    folder.mkdir(exist_ok=True)
    if hasattr(figure, "savefig"):
        path = folder / f"{stem}_{name}.png"
        figure.savefig(path)
    else:
        path = folder / f"{stem}_{name}.gif"
        figure.save(path, writer="pillow")
    return path


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Run examples.")
    parser.add_argument("wanted", nargs="*", help="beginnings of names, such as 02")
    parser.add_argument("--figures", action="store_true", help="save them in examples/figures")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    asked = parser.parse_args()
    if asked.quick:
        os.environ["JENSEN_QUICK"] = "1"
    for path in examples(asked.wanted):
        print(f"== {path.name}", flush=True)
        begun = time.process_time()
        names = run(path)
        for name, figure in figures(names).items() if asked.figures else ():
            print(save(name, figure, path.stem, FOLDER / "figures"))
        print(f"== {path.name}: {time.process_time() - begun:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
