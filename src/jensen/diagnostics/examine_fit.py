"""Which examination a fit gets: by what its q is.

A product of conditionals is judged by Gibbs chains and needs no target; particles have no density, so they are held against
the answer of a Gaussian; everything else has log weights.
"""

from typing import Any

from jensen.diagnostics.examine import Examination, examine
from jensen.families.flat import has_density
from jensen.run import Run
from jensen.settings import Settings


def examine_fit(target: Any, q: Any, run: Run, settings: Settings, budget: float | None, **known: Any) -> Examination:
    """Judge q, and correct it where the settings ask for that.

    Parameters
    ----------
    target, q, run
        The log density (None: q is a product), the fit, and its record.
    settings
        How the fit was asked for.
    budget
        Seconds that it may take.
    **known
        What was found before: chains (`known`), other `modes`.
    """
    report_q = settings.method != "auto"
    asked: dict[str, Any] = {"seed": settings.seed, "correcting": settings.correct, "budget": budget}
    if target is None:
        from jensen.diagnostics.examine_product import examine_product

        return examine_product(q, run, precision=settings.precision, report_q=report_q, **asked)
    if not has_density(q):
        from jensen.diagnostics.examine_particles import examine_particles

        return examine_particles(target, q, run, **asked)
    return examine(target, q, run, report_q=report_q, **known, **asked)
