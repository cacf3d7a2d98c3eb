"""Laws of the house that no linter knows: the source is parsed, nothing is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "jensen"
FILES = sorted(SOURCE.rglob("*.py"))
MAY_PRINT = {"cli.py", "demo.py"}  # the command line
MAY_SET_JAX = {"core/precision.py", "cli.py"}  # restores the caller's setting; is the caller
HOST_CALLBACKS = {"io_callback", "pure_callback", "jax.debug.print", "jax.debug.callback", "host_callback"}
LINES = 400

by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())


def _calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Dotted name and line of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


@by_file
def test_file(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    name = path.relative_to(SOURCE).as_posix()
    wrong = []
    if len(text.splitlines()) > LINES:
        wrong.append(f"the file has more than {LINES} lines")
    for call, line in _calls(tree):
        if call == "print" and path.name not in MAY_PRINT:
            wrong.append(f"line {line}: library code does not print")
        if call.endswith("config.update") and name not in MAY_SET_JAX:
            wrong.append(f"line {line}: jax.config belongs to the caller")
        if any(call == callback or call.endswith("." + callback) for callback in HOST_CALLBACKS):
            wrong.append(f"line {line}: no host callback in compiled code")
        if call in ("os.putenv", "os.environ.update", "os.environ.setdefault"):
            wrong.append(f"line {line}: environment variables belong to the caller")
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and "environ" in ast.unparse(node.value):
            wrong.append(f"line {node.lineno}: environment variables belong to the caller")
    assert not wrong, f"{name}: " + "; ".join(wrong)
