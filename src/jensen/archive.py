"""A `Posterior` to and from a file: which of its parts go where. The format itself is export/files.py's."""

import os
from dataclasses import asdict
from typing import Any

import numpy as np

from jensen.core.errors import FileError, OptionError
from jensen.core.layout import Derived, Site
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.spaces import log_q
from jensen.diagnostics.verdict import Verdict
from jensen.export import files
from jensen.export.arviz import datasets
from jensen.families.flat import approximation, is_flat
from jensen.models.model import Model
from jensen.objectives.elbo import Elbo
from jensen.run import Run
from jensen.settings import Cost, Settings


def save(posterior: Any, draws: Draws, path: str | os.PathLike[str]) -> None:
    """Write a posterior: `draws`, of equal weight, as ArviZ groups; the kept draws with their weights beside q."""
    kept, verdict = posterior.kept, posterior.verdict
    groups = datasets(
        posterior.model,
        draws.values,
        draws.derived,
        log_p=draws.log_p,
        log_q=log_q(posterior.q, draws),
        attrs={"verdict": verdict.overall, "answer": posterior.answer},
    )
    arrays = {
        **{f"q/{name}": value for name, value in posterior.q.params.items()},
        **_exact_moments(posterior.q),
        **{f"history/{name}": value for name, value in posterior.history.items()},
        **{f"verdict/{name}": value for name, value in verdict.columns.items()},
        **{f"values/{name}": value for name, value in kept.values.items()},
        **{f"derived/{name}": value for name, value in kept.derived.items()},
        "log_weights": verdict.log_weights,
        "z": kept.z,
        "log_p": kept.log_p,
        "weights": posterior.weights,
    }
    model, run = posterior.model, posterior.run
    meta = {
        "model": {
            "name": model.name,
            "language": model.language,
            "sites": [asdict(site) for site in model.sites],
            "derived": [asdict(derived) for derived in model.derived],
            "coords": {name: list(map(_plain, values)) for name, values in model.coords.items() if values is not None},
            "dims": model.dims,
        },
        "family": type(posterior.q).__name__,
        "run": {"status": run.status, "steps": run.steps, "seconds": run.seconds, "notes": run.notes},
        "rungs": [asdict(rung) for rung in run.rungs],
        "verdict": {
            "names": verdict.names,
            "words": verdict.words,
            "reasons": verdict.reasons,
            "advice": verdict.advice,
            "about": verdict.about,
        },
        "elbo": list(posterior.elbo),
        "answer": posterior.answer,
        "settings": asdict(posterior.settings),
        "cost": asdict(posterior.cost),
        "story": posterior.story,
    }
    files.write(path, groups, arrays, meta)


def load(path: str | os.PathLike[str], own: type | None = None) -> dict[str, Any]:
    """Read the parts of a posterior; its model has no code, and what needs it refuses in one sentence.

    `own` is the class of the approximation where it is not one of jensen's: a file does not say what is imported.
    """
    groups, arrays, meta = files.read(path)
    try:
        verdict, run = meta["verdict"], meta["run"]
        observed = (
            {str(name): value.values for name, value in groups["observed_data"].items()}
            if "observed_data" in groups
            else {}
        )
        return dict(
            model=_model(meta["model"], observed),
            q=_approximation(path, meta["family"], arrays, own),
            run=Run(
                run["status"],
                _under(arrays, "history/"),
                run["steps"],
                run["seconds"],
                tuple(run["notes"]),
                rungs=_rungs(meta.get("rungs", ())),
            ),
            verdict=Verdict(
                tuple(verdict["names"]),
                tuple(verdict["words"]),
                _under(arrays, "verdict/"),
                tuple(verdict["reasons"]),
                verdict["advice"],
                arrays["log_weights"],
                verdict["about"],
            ),
            elbo=Elbo(*meta["elbo"]),
            answer=meta["answer"],
            kept=Draws(arrays["z"], arrays["log_p"], _under(arrays, "values/"), _under(arrays, "derived/")),
            weights=arrays["weights"],
            settings=Settings(**meta["settings"]),
            cost=Cost(**meta["cost"]),
            story=tuple(meta["story"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"{path} is a saved fit with parts missing or damaged ({error}); fit the model again."
        ) from error


def _rungs(kept: Any) -> tuple[Any, ...]:
    """The ladder's rungs; files written before they were kept have none."""
    if not kept:
        return ()
    from jensen.diagnostics.ladder import Rung

    return tuple(Rung(**{**rung, "elbo": Elbo(*rung["elbo"])}) for rung in kept)


def _exact_moments(q: Any) -> dict[str, np.ndarray]:
    """Moments of a product of families, which draws would only estimate."""
    if is_flat(q):
        return {}
    return {f"q mean/{name}": value for name, value in q.means.items()} | {
        f"q sd/{name}": value for name, value in q.sds.items()
    }


def _approximation(path: Any, family: str, arrays: dict[str, np.ndarray], own: type | None) -> Any:
    params = _under(arrays, "q/")
    if family in ("Product", "StoredProduct"):
        from jensen.conjugate.product import StoredProduct

        return StoredProduct(params, _under(arrays, "q mean/"), _under(arrays, "q sd/"))
    try:
        return approximation(family, params, own)
    except KeyError as error:
        raise FileError(
            f"{path} holds an approximation of the class {family}, which is not one of jensen's; import that class and say "
            f"jensen.load(..., approximation={family})."
        ) from error


def _model(meta: dict[str, Any], observed: dict[str, np.ndarray]) -> Model:
    def absent(*_: Any) -> Any:
        raise OptionError("this fit was loaded from a file, without the model's code; fit the model again for this.")

    def tuples(entry: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}

    return Model(
        name=meta["name"],
        language=meta["language"],
        sites=tuple(Site(**tuples(site)) for site in meta["sites"]),
        data={},
        factors=absent,
        constrain=absent,
        unconstrain=absent,
        derived=tuple(Derived(**tuples(derived)) for derived in meta["derived"]),
        coords=meta["coords"],
        dims={name: tuple(dims) for name, dims in meta["dims"].items()},
        observed=observed,
    )


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _plain(value: Any) -> Any:
    return (
        value.item()
        if isinstance(value, np.generic)
        else str(value)
        if not isinstance(value, int | float | str)
        else value
    )
