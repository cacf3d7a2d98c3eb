"""Site hooks: what pages take from elsewhere, and what a finished site must not have.

    [[names: fit density]]     entries of the reference; every public name must be on some page
    [[room: plots]]            entries of a package whose names are used through it, jensen.plots
    [[file: CONTRIBUTING.md]]  a file of the repository, with its links put right
    [[examples]]               the list of examples/, each of which becomes a page

Setups of code blocks (tests/test_docs.py runs them) are taken out. A page that would load anything from another host is an error.
"""

import importlib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

import jensen

ROOT = Path(__file__).parents[1]
_SHOWN: set[str] = set()
"""Public names that some page of the reference has shown in this build."""


def on_files(files: Any, config: Any) -> Any:
    """Examples become pages."""
    _SHOWN.clear()
    for path in _examples():
        files.append(File.generated(config, f"examples/{path.stem}.md", content=_page(path)))
        for figure in sorted((ROOT / "examples" / "figures").glob(f"{path.stem}_*")):
            files.append(File.generated(config, f"examples/figures/{figure.name}", abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what a page takes from elsewhere."""
    markdown = re.sub(r"^<!-- setup\n.*?^-->\n*", "", markdown, flags=re.M | re.S)
    markdown = re.sub(r"\[\[names: ([^]]+)\]\]", lambda match: _entries(match[1].split()), markdown)
    markdown = re.sub(r"\[\[room: ([\w.]+)\]\]", lambda match: _room(match[1]), markdown)
    markdown = re.sub(r"\[\[file: ([\w.]+)\]\]", lambda match: _file(match[1]), markdown)
    return markdown.replace("[[examples]]", _list())


def on_post_build(config: Any) -> None:
    """Refuse a site that is not whole: public names without an entry, or files from other hosts."""
    missing = sorted(set(jensen._HOMES) - _SHOWN)
    if missing:
        raise PluginError(f"public names that no page of the reference shows: {', '.join(missing)}")
    for path in sorted(Path(config.site_dir).rglob("*.*")):
        if path.suffix in (".html", ".css"):
            text = path.read_text("utf-8")
            loaded = re.findall(r"""(?:\bsrc=|<link[^>]*href=|url\(|@import\s)["']?(https?:)?//""", text)
            if loaded:
                raise PluginError(f"{path} loads something from another host")


def _entries(names: list[str]) -> str:
    _SHOWN.update(names)
    return "\n\n".join(_entry(f"{jensen._HOMES[name]}.{name}") for name in names)


def _entry(path: str) -> str:
    return f"::: {path}\n    options:\n      heading_level: 3"


def _room(name: str) -> str:
    """Entries of a package's public names, wherever inside it they live."""
    package = importlib.import_module(f"jensen.{name}")
    homes = getattr(package, "_HOMES", None)  # of names that are loaded when used: they may need other packages
    if homes is None:
        values = {word: getattr(package, word) for word in package.__all__}
        homes = {word: value.__module__ for word, value in values.items() if callable(value)}
    found = [f"{home}.{word}" for word, home in homes.items() if find_spec(home)]
    text = (package.__doc__ or "").replace("::", ":").strip()
    return "\n\n".join([text, *map(_entry, sorted(found, key=lambda path: path.rpartition(".")[2].lower()))])


def _file(name: str) -> str:
    """A file of the repository's root, whose links to docs/ become those of a page in docs/develop/."""
    text = (ROOT / name).read_text("utf-8")
    return re.sub(r"\]\(docs/develop/", "](", re.sub(r"\]\(docs/(?!develop/)", "](../", text))


def _examples() -> list[Path]:
    return sorted((ROOT / "examples").glob("[0-9]*_*.py"))


def _list() -> str:
    return "\n".join(f"- [{_title(path)}](examples/{path.stem}.md)" for path in _examples()) or "There are none yet."


def _title(path: Path) -> str:
    heading = re.search(r"^# # (.+)$", path.read_text("utf-8"), re.M)
    return heading[1] if heading else path.stem


def _cells(text: str) -> Iterator[tuple[bool, str]]:
    """(whether it is prose, its text) of every cell of a script; what comes before the first mark is dropped if empty."""
    parts = re.split(r"^# %%(.*)$", text, flags=re.M)
    for mark, body in [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]:
        prose = "[markdown]" in mark
        body = re.sub(r"^# ?", "", body, flags=re.M) if prose else body
        if body.strip():
            yield prose, body.strip("\n")


def _page(path: Path) -> str:
    """A page of an example: prose, code, and the figures that it makes after the cells that name them."""
    text = path.read_text("utf-8")
    figures = {figure.stem.removeprefix(f"{path.stem}_"): figure for figure in _figures(path)}
    parts = []
    for prose, body in _cells(text):
        parts.append(_formulas(body) if prose else f"```python\n{body}\n```")
        made = [] if prose else [name for name in figures if re.search(rf"^{name}\b.*=", body, re.M)]
        parts += [f"![{name}](figures/{figures.pop(name).name})" for name in made]
    parts += [f"![{name}](figures/{figure.name})" for name, figure in figures.items()]
    return "\n\n".join([*parts, f"This page is `examples/{path.name}` of the repository."])


def _figures(path: Path) -> list[Path]:
    return sorted((ROOT / "examples" / "figures").glob(f"{path.stem}_*"))


def _formulas(text: str) -> str:
    """TeX as code: pages are read without a network, and so without MathJax."""
    text = re.sub(r"\$\$(.+?)\$\$", lambda match: f"```text\n{match[1].strip()}\n```", text, flags=re.S)
    return re.sub(r"\$([^$\n]+)\$", r"`\1`", text)
