"""What the documents say is run: README.md and docs/, page by page.

- A ```python block is run in the order of its page, in the page's own namespace, in an empty folder. ``<!-- setup ... -->`` is
  run where it stands and not shown (docs/hooks.py takes it out of the site).
- A ```text block right after a block that prints is its output. Numbers are not compared, words and the shape of tables are;
  ``...`` stands for anything.
- Commands must be there: those of ``jensen`` with their options, targets of make, and what ``python -m benchmarks`` is given.
- Links lead somewhere, and every page is in the site's navigation.
"""

import ast
import contextlib
import io
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from tests.tiers import quick

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SHOWN = {"text", "bash", "yaml", ""}
"""Languages of blocks that are looked at, and not run."""
_BLOCK = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->$|^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A piece of a page: "setup", "python", "text", ...; where it stands; and whether it follows the one before directly."""

    kind: str
    code: str
    line: int
    follows: bool


def blocks(text: str) -> list[Block]:
    """All blocks of a page, in order."""
    found, end = [], 0
    for match in _BLOCK.finditer(text):
        kind = "setup" if match["setup"] is not None else match["language"].strip()
        start = match.start("setup" if kind == "setup" else "code")
        follows = not text[end : match.start()].strip()
        found.append(Block(kind, match["setup"] or match["code"] or "", text.count("\n", 0, start), follows))
        end = match.end()
    return found


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


RUN = [page for page in PAGES if any(block.kind == "python" for block in blocks(page.read_text("utf-8")))]
by_page = pytest.mark.parametrize("page", PAGES, ids=name)


LONG = ("docs/minibatches.md", "docs/estimators_topics.md")
"""Whose methods have tests of their own."""


@pytest.mark.parametrize("page", quick(RUN, *(page for page in RUN if name(page) not in LONG)), ids=name)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page_" + re.sub(r"\W", "_", name(page)))
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses and pickles look there
    monkeypatch.setattr(sys, "argv", ["page"])
    printed = ""
    for block in blocks(page.read_text("utf-8")):
        if block.kind in ("python", "setup"):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile("\n" * block.line + block.code, name(page), "exec"), vars(module))
            printed = out.getvalue()
        elif block.kind == "text" and block.follows and printed:
            assert _like(block.code, printed), f"{name(page)}:{block.line} shows\n{block.code}\nand there is\n{printed}"


def _like(shown: str, printed: str) -> bool:
    """Whether a text is the shown one but for numbers, spaces, and what `...` leaves out."""
    shown, printed = (re.sub(r"\s+", " ", _NUMBER.sub("0", text)).strip() for text in (shown, printed))
    return re.fullmatch(r"\s*.*\s*".join(re.escape(part.strip()) for part in shown.split("...")), printed) is not None


@by_page
def test_every_block_is_run_or_of_a_kind_that_is_only_shown(page):
    kinds = {block.kind for block in blocks(page.read_text("utf-8"))}
    assert kinds <= {"python", "setup"} | SHOWN


@by_page
def test_commands_are_there(page):
    from jensen.cli import _parser

    text = page.read_text("utf-8")
    shown = "\n".join(block.code for block in blocks(text) if block.kind in ("bash", "text", ""))
    inline = "\n".join(re.sub(r"\s+", " ", match) for match in re.findall(r"`([^`]+)`", _BLOCK.sub("", text)))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for line in f"{shown}\n{inline}".splitlines():
        words = shlex.split(line.split("#")[0], posix=False) if "'" not in line else []
        words = [word for word in words if word not in ("|", "&&")]
        if words[:1] == ["make"]:
            assert {word for word in words[1:2] if word.isalpha()} <= targets, line
        if words[:1] == ["jensen"] and block_of_options(words):
            _parser().parse_args(words[1:])
        if words[:2] in (["python", "-m"], [".venv/bin/python", "-m"]) and words[2:3] and "benchmarks" in words[2]:
            home = (words[2].partition(".")[2] or "".join(words[3:4])).strip('"')
            assert not home or home.isupper() or _benchmark(home), line


def block_of_options(words: list[str]) -> bool:
    """Whether a line is a command to type and not a synopsis with brackets."""
    return len(words) > 1 and not any(set(word) & set("[]|") for word in words)


def _benchmark(word: str) -> bool:
    return (ROOT / "benchmarks" / f"{word}.py").is_file()


@by_page
def test_links_lead_somewhere(page):
    text = _BLOCK.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "mailto:", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_every_page_is_in_the_navigation():
    shown = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert shown == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")}


@pytest.mark.parametrize(
    ("shown", "printed", "alike"),
    [
        ("tau 1.5 trusted\n", "tau   1.482  trusted\n", True),
        ("tau 1.5 trusted\n", "tau 1.5 do not use\n", False),
        ("head\n...\ntail\n", "head\na\nb\ntail\n", True),
        ("head\n...\ntail\n", "head\na\n", False),
    ],
)
def test_output_is_compared_by_its_words(shown, printed, alike):
    assert _like(shown, printed) is alike


def test_setups_are_python_and_do_not_hide_the_lesson():
    """They make data and models; a fit that a page is about stands in its text."""
    for page in RUN:
        for block in blocks(page.read_text("utf-8")):
            if block.kind == "setup":
                assert len(ast.parse(block.code).body) <= 12, f"{name(page)}:{block.line} hides too much"
