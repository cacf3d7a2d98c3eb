"""``jensen demo``: does the drug work? A clinical trial, by jensen and by NUTS side by side.

Kruschke (2013), Bayesian estimation supersedes the t test, Journal of Experimental Psychology: General 142(2), 573-603:
IQ scores of 47 persons who took a "smart drug" and of 42 who took a placebo. The numbers are invented, the question is
not: two groups with their own means and sds, and tails that outliers may need.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# fmt: off
DRUG = np.array([
    101, 100, 102, 104, 102, 97, 105, 105, 98, 101, 100, 123, 105, 103, 100, 95, 102, 106, 109, 102, 82, 102, 100, 102,
    102, 101, 102, 102, 103, 103, 97, 97, 103, 101, 97, 104, 96, 103, 124, 101, 101, 100, 101, 101, 104, 100, 101,
], float)
PLACEBO = np.array([
    99, 101, 100, 101, 102, 100, 97, 101, 104, 101, 102, 102, 100, 105, 88, 101, 100, 104, 100, 100, 100, 101, 102, 103,
    97, 101, 101, 100, 101, 99, 101, 100, 100, 101, 100, 99, 101, 100, 102, 99, 100, 99,
], float)
# fmt: on

CENTER, SPREAD = np.r_[DRUG, PLACEBO].mean(), np.r_[DRUG, PLACEBO].std(ddof=1)
"""Of all scores together: the scale on which the priors are vague."""

QUANTITIES = ("mean_drug", "mean_placebo", "sd_drug", "sd_placebo", "nu", "diff_of_means", "diff_of_sds", "effect_size")
PICTURE = "jensen-demo.png"


def trial(drug: Any, placebo: Any) -> None:
    """Model of the paper: two means, two scales, one number of degrees of freedom; priors as vague as there."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    mean_drug: Any = numpyro.sample("mean_drug", dist.Normal(CENTER, 1000 * SPREAD))
    mean_placebo = numpyro.sample("mean_placebo", dist.Normal(CENTER, 1000 * SPREAD))
    sd_drug: Any = numpyro.sample("sd_drug", dist.Uniform(SPREAD / 1000, 1000 * SPREAD))
    sd_placebo = numpyro.sample("sd_placebo", dist.Uniform(SPREAD / 1000, 1000 * SPREAD))
    nu = numpyro.deterministic("nu", 1 + numpyro.sample("nu_minus_one", dist.Exponential(1 / 29)))
    difference = numpyro.deterministic("diff_of_means", mean_drug - mean_placebo)
    numpyro.deterministic("diff_of_sds", sd_drug - sd_placebo)
    numpyro.deterministic("effect_size", difference / jnp.sqrt((sd_drug**2 + sd_placebo**2) / 2))
    numpyro.sample("drug", dist.StudentT(nu, mean_drug, sd_drug), obs=drug)
    numpyro.sample("placebo", dist.StudentT(nu, mean_placebo, sd_placebo), obs=placebo)


def run(out: Path, say: Callable[[str], None]) -> None:
    """Fit the trial twice, tell the comparison and write ``jensen-demo.png``.

    Parameters
    ----------
    out
        Folder of the picture.
    say
        Called with what there is to read, as soon as it is known: ``print``, for example.

    Raises
    ------
    FileError
        When the picture cannot be written there; found out before anything is fitted.
    """
    import numpyro.infer  # noqa: F401  (imported before the clocks start, as jensen is)

    import jensen
    from jensen.export.files import check_writable
    from jensen.export.table import render

    picture = Path(out) / PICTURE
    check_writable(picture)
    say(f"Does the drug raise IQ? {len(DRUG)} persons with the drug, {len(PLACEBO)} with a placebo (Kruschke 2013)\n")
    data = {"drug": DRUG, "placebo": PLACEBO}
    start = time.perf_counter()
    posterior = jensen.fit(trial, data=data)
    ours = posterior.draws(4000)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    theirs = nuts(data)
    nuts_seconds = time.perf_counter() - start

    mean = np.array([float(posterior.mean[name]) for name in QUANTITIES])
    sd = np.array([float(posterior.sd[name]) for name in QUANTITIES])
    nuts_mean = np.array([theirs[name].mean() for name in QUANTITIES])
    nuts_sd = np.array([theirs[name].std(ddof=1) for name in QUANTITIES])
    columns = {
        "jensen mean": mean,
        "jensen sd": sd,
        "NUTS mean": nuts_mean,
        "NUTS sd": nuts_sd,
        "apart, in sds": [f"{value:+13.2f}" for value in (mean - nuts_mean) / nuts_sd],
        "sd ratio": [f"{value:8.2f}" for value in sd / nuts_sd],
        "verdict": list(posterior.verdict.table.loc[list(QUANTITIES), "verdict"]),
    }
    say(render(QUANTITIES, columns))
    say(f"\nP(mean_drug > mean_placebo)   jensen {works(ours):.3f}   NUTS {works(theirs):.3f}")
    say(f"seconds from model to draws   jensen {seconds:.1f}     NUTS {nuts_seconds:.1f}")
    say(
        "(NUTS: NumPyro, 4 chains of 1000 draws after 1000 to warm up; both compile, or reuse what an earlier run kept)"
    )
    say(f"verdict: {posterior.verdict.overall}. {posterior.verdict.advice}".rstrip())
    draw(picture, posterior.history["elbo"], ours, theirs)
    say(f"picture: {picture}")


def works(draws: dict[str, np.ndarray]) -> float:
    """Posterior probability that the drug raises the mean."""
    return float((draws["mean_drug"] > draws["mean_placebo"]).mean())


def nuts(data: dict[str, np.ndarray], chains: int = 4, draws: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws of the same model by NumPyro's NUTS, all chains in one program."""
    import jax
    from numpyro.infer import MCMC, NUTS

    from jensen.core import precision

    with precision.scope("float64"):
        sampler = MCMC(
            NUTS(trial),
            num_warmup=draws,
            num_samples=draws,
            num_chains=chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        sampler.run(jax.random.key(seed), **data)
        return {name: np.asarray(value) for name, value in sampler.get_samples().items()}


def draw(picture: Path, elbo: np.ndarray, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Draw the ELBO over the steps, and the marginals of what was asked, jensen's over those of NUTS."""
    from jensen.plots.elbo import curve
    from jensen.plots.look import figure
    from jensen.plots.marginals import panel

    made, panels = figure(2, 2, (10.5, 6.6))
    panels = panels.ravel()
    labels = {
        "diff_of_means": "difference of means (IQ)",
        "diff_of_sds": "difference of sds (IQ)",
        "effect_size": "effect size",
    }
    curve(panels[0], elbo)
    panels[0].set_title(f"the bound that is maximized: {elbo[-1]:.2f} at the end")
    for axes, (name, label) in zip(panels[1:], labels.items(), strict=True):
        panel(axes, ours[name], theirs[name], label)
    panels[1].legend(frameon=False, loc="upper right", fontsize=10)
    panels[1].set_title(f"P(drug works) = {works(ours):.3f}, by NUTS {works(theirs):.3f}")
    made.suptitle("Does the drug raise IQ? Two groups, Student-t, by jensen and by NUTS", fontsize=13)
    made.savefig(picture, dpi=150)
