"""NUTS that begins where a fit has ended, beside NumPyro's own NUTS: gradients until every parameter has a bulk ESS of 400.

Both run four chains of the same model in float64; NumPyro's has its default warm-up of 1,000 and a diagonal mass matrix, ours
100 transitions. Draws count from the first one in steps of 50, until the smallest bulk effective sample size of any scalar
(sites and deterministics) is at least 400; "not" where 4,000 draws a chain do not reach it. Gradients are leapfrog steps of all
chains, as the samplers count them, scores for the metric included.

    python -m benchmarks.warm_nuts [NAME ...]
"""

import sys
import warnings
from typing import Any

import numpy as np

NAMES = ("radon_mn_slope_noncentered", "eight_schools_centered", "irt_2pl", "rats")
ENOUGH, STEP, CHAINS, WARMUP = 400, 50, 4, 1000
LENGTHS = (500, 1000, 2000, 4000)
FITS: dict[str, dict[str, Any]] = {"auto": {}, "full rank, unchecked": {"method": "fullrank", "correct": False}}


def mixed(x: np.ndarray) -> tuple[float, float]:
    """Smallest bulk ESS and largest R-hat of quantities x (chains, draws, K)."""
    import arviz as az

    data = az.convert_to_dataset({"x": x[..., np.ptp(x, (0, 1)) > 0]})
    return float(az.ess(data, method="bulk")["x"].min()), float(az.rhat(data)["x"].max())


def first_enough(x: np.ndarray, leapfrogs: np.ndarray) -> tuple[int, int, float, float] | None:
    """Draws a chain, gradients, ESS and R-hat at the first length that is enough; x (chains, draws, K), None if none is."""
    for length in range(STEP, x.shape[1] + 1, STEP):
        ess, rhat = mixed(x[:, :length])
        if ess >= ENOUGH:
            return length, int(leapfrogs[:, :length].sum()), ess, rhat
    return None


def flat(draws: dict[str, Any]) -> np.ndarray:
    """Name -> (chains, draws, ...) as (chains, draws, K)."""
    return np.concatenate([np.asarray(value, float).reshape(*value.shape[:2], -1) for value in draws.values()], -1)


def from_fit(model: Any, data: dict[str, Any], options: dict[str, Any]) -> tuple[int, int, Any, Any]:
    """Gradients of the fit and of the warm-up, what `first_enough` says, and the run itself."""
    import jensen as jn
    from jensen.core.precision import scope
    from jensen.diagnostics.nuts import WARMUP, begin
    from jensen.diagnostics.quantities import matrix
    from jensen.engines.nuts import Nuts
    from jensen.models.target import Target
    from jensen.run import run

    posterior = jn.fit(model, data=data, **options)
    with scope():
        for length in LENGTHS:
            target = Target(posterior.model)
            start = begin(target, posterior.kept.z, posterior.weights, CHAINS, 0, getattr(posterior.q, "map", None))
            spent = target.gradients
            found, _ = run(Nuts(length, CHAINS, WARMUP, start), target, seed=0, progress=False)
            values, derived = target.constrain(found.z.swapaxes(0, 1).reshape(-1, target.dim))
            x = matrix(target.model, values, derived).reshape(CHAINS, length, -1)
            reached = first_enough(x, found.leapfrogs.T)
            if reached is not None:
                break
    return posterior.cost.gradients, spent + found.warm, reached, found


def from_scratch(model: Any, data: dict[str, Any]) -> tuple[int, int, Any, int]:
    """NumPyro's NUTS: gradients of the warm-up, what `first_enough` says, and divergences."""
    import jax
    from numpyro.infer import MCMC, NUTS

    from jensen.core.precision import scope

    with scope():
        for length in LENGTHS[1:]:
            chains = MCMC(
                NUTS(model),
                num_warmup=WARMUP,
                num_samples=length,
                num_chains=CHAINS,
                chain_method="vectorized",
                progress_bar=False,
            )
            fields = ("num_steps", "diverging")
            chains.warmup(jax.random.key(0), **data, extra_fields=fields, collect_warmup=True)
            warm = int(np.asarray(chains.get_extra_fields()["num_steps"]).sum())
            chains.run(jax.random.key(1), **data, extra_fields=fields)
            extra = chains.get_extra_fields(group_by_chain=True)
            reached = first_enough(flat(chains.get_samples(group_by_chain=True)), np.asarray(extra["num_steps"]))
            if reached is not None:
                break
    return warm, reached, int(np.asarray(extra["diverging"]).sum())


def main(names: list[str]) -> None:
    """Print the table."""
    print(
        "| posterior | NUTS | fit | warm-up | draws | total without / with fit | length | least ESS | R-hat | divergences |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in names:
        from posteriors.load import load

        model, data, _ = load(name)
        warm, reached, diverged = from_scratch(model, data)
        base = row(name, "NumPyro's", 0, warm, reached, diverged, None)
        for word, options in FITS.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fitted, warm, reached, found = from_fit(model, data, options)
            row(name, f"from {word}", fitted, warm, reached, found.divergences, base)


def row(name: str, how: str, fitted: int, warm: int, reached: Any, diverged: int, base: int | None) -> int | None:
    """Print a row; gradients without those of the fit."""
    if reached is None:
        print(f"| {name} | {how} | {fitted:,} | {warm:,} | not | | | | | {diverged} |", flush=True)
        return None
    length, gradients, ess, rhat = reached
    total = warm + gradients
    share = "" if base is None else f" ({total / base:.2f} / {(total + fitted) / base:.2f} of NumPyro's)"
    totals = f"{total:,} / {total + fitted:,}{share}"
    cells = f"{fitted:,} | {warm:,} | {gradients:,} | {totals} | {length} | {ess:.0f} | {rhat:.3f} | {diverged}"
    print(f"| {name} | {how} | {cells} |", flush=True)
    return total


if __name__ == "__main__":
    main(sys.argv[1:] or list(NAMES))
