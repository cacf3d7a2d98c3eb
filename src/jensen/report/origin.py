"""Sections: what the fit cost, and how to get it again."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jensen import __version__
from jensen.core.html import Html, element, table
from jensen.models.simulate import static_arguments
from jensen.report.facts import Facts

_PACKAGES = {"PyMC": ("pymc", "pytensor"), "NumPyro": ("numpyro",)}
_LONGEST = 300


def cost(facts: Facts) -> list[Html]:
    """Gradients, seconds, steps."""
    posterior = facts.posterior
    run = posterior.run
    rows = [
        ("gradients of the log density", f"{posterior.cost.gradients:,}"),
        ("seconds, all together", f"{posterior.cost.seconds:.1f}"),
        ("seconds of the steps alone", f"{run.seconds:.1f}"),
        ("steps", f"{run.steps:,} ({run.status})"),
    ]
    if posterior.chains is not None:
        rows.append(
            ("stages of short chains", f"{posterior.chains.stages} (acceptance {posterior.chains.acceptance:.2f})")
        )
    return [table(("", ""), rows, words=(1,), class_="facts")]


def again(facts: Facts) -> list[Html]:
    """The call, settings and versions."""
    posterior = facts.posterior
    settings, model = posterior.settings, posterior.model
    loaded = model.source is None
    rows = [
        ("call", element("code", _call(posterior))),
        ("method", settings.method),
        ("seed", str(settings.seed)),
        ("precision", settings.precision),
        ("answer", "that of q" if posterior.answer == "q" else "corrected (draws and moments are better than q's)"),
        ("approximation", type(posterior.q).__name__),
    ]
    if posterior.engine is not None:
        rows.append(("engine", element("code", _engine(posterior.engine))))
    rows.append(("versions" + " of this page" * loaded, ", ".join(_versions(model.language))))
    note = "This fit was read from a file, which does not say with which versions it was made." if loaded else None
    parts = [table(("", ""), rows, words=(1,), class_="facts")]
    return [*parts, element("p", note, class_="soft")] if note else parts


def _call(posterior: Any) -> str:
    """The call that makes this fit, as far as the posterior knows it."""
    settings, model = posterior.settings, posterior.model
    name = model.name if model.name.isidentifier() else "model"
    given = [f'"{key}": ...' for key in model.data]
    if model.language == "NumPyro" and model.source is not None:
        given += [f'"{key}": {_cut(repr(value))}' for key, value in static_arguments(model).items()]
    data = f", data={{{', '.join(given)}}}" if given and model.language != "PyMC" else ""
    method = "" if settings.method == "auto" else f', "{settings.method}"'
    if posterior.verdict.about == "the NUTS chains":
        method = ', "nuts"'
    precision = "" if settings.precision == "float64" else f', precision="{settings.precision}"'
    correct = "" if settings.correct else ", correct=False"
    return f"jn.fit({name}{method}{data}, seed={settings.seed}{precision}{correct})"


def _versions(language: str) -> list[str]:
    found = [f"jensen {__version__}", f"Python {platform.python_version()}"]
    for package in ("jax", "numpy", *_PACKAGES.get(language, ())):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return [*found, f"{platform.system()} {platform.machine()}"]


def _engine(engine: Any) -> str:
    """An engine with the settings that can be read; a start is hundreds of numbers."""
    known = [f"{name}={value!r}" for name, value in vars(engine).items()] if hasattr(engine, "__dict__") else []
    return (
        f"{type(engine).__name__}({', '.join(words for words in known if len(words) <= 60 and '=None' not in words)})"
    )


def _cut(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"
