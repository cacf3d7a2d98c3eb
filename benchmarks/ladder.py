"""What the rungs of the ladder give on posteriors that no Gaussian describes: ELBO, log weights, errors, verdicts.

python -m benchmarks.ladder [NAME ...]
"""

import sys
import warnings
from typing import Any, NamedTuple

import numpy as np

METHODS = ("fullrank", "layered", "flow", "auto")


class Odd(NamedTuple):
    """A target with known means and sds of its scalars, in the order of its sites."""

    model: Any
    data: dict[str, Any] | None
    mean: np.ndarray
    sd: np.ndarray


def funnel(depth: float) -> Odd:
    """Neal's funnel in ten dimensions: v ~ N(0, depth^2), x_i ~ N(0, e^v)."""
    import jax.numpy as jnp

    import jensen as jn

    def density(p: Any) -> Any:
        v, x = p["v"], p["x"]
        return -0.5 * (v / depth) ** 2 - 0.5 * (x**2).sum() * jnp.exp(-v) - 4.5 * v

    sd = np.concatenate([[depth], np.full(9, np.exp(depth**2 / 4))])
    return Odd(jn.density(density, {"v": 0.0, "x": np.zeros(9)}), None, np.zeros(10), sd)


def ring() -> Odd:
    """Eight equal modes on a circle of radius 6, 6.6 sds apart, in the first two of eight dimensions."""
    import jax.numpy as jnp

    import jensen as jn

    angles = 2 * np.pi * np.arange(8) / 8
    centers, width = 6 * np.stack([np.cos(angles), np.sin(angles)], 1), 0.7

    def density(p: Any) -> Any:
        x = p["x"]
        apart = ((x[:2] - centers) ** 2).sum(1) / width**2
        return jnp.log(jnp.exp(-0.5 * (apart - apart.min())).sum()) - 0.5 * apart.min() - 0.5 * (x[2:] ** 2).sum()

    sd = np.concatenate([np.full(2, np.sqrt(18 + width**2)), np.ones(6)])
    return Odd(jn.density(density, {"x": np.zeros(8)}), None, np.zeros(8), sd)


def banana() -> Odd:
    """Haario's twisted Gaussian in fifty dimensions: x_1 ~ N(0, 10^2), x_2 bends by 0.03 (x_1^2 - 100)."""
    import jensen as jn

    def density(p: Any) -> Any:
        x = p["x"]
        straight = x[1] - 0.03 * (x[0] ** 2 - 100)
        return -0.5 * (x[0] / 10) ** 2 - 0.5 * straight**2 - 0.5 * (x[2:] ** 2).sum()

    sd = np.concatenate([[10.0, np.sqrt(1 + 2 * 9)], np.ones(48)])
    return Odd(jn.density(density, {"x": np.zeros(50)}), None, np.zeros(50), sd)


ODD = {
    "funnel 1": lambda: funnel(1.0),
    "funnel 1.5": lambda: funnel(1.5),
    "funnel 3": lambda: funnel(3.0),
    "ring": ring,
    "banana": banana,
}
NAMED = ("eight_schools_centered", "seeds_centered", "irt_2pl", "radon_mn_slope_noncentered")


def errors(name: str, posterior: Any, odd: Odd | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean errors in sds, sd ratios, and whether each scalar is trusted."""
    words = dict(zip(posterior.verdict.names, posterior.verdict.words, strict=True))
    if odd is not None:
        mean = np.concatenate([np.ravel(value) for value in posterior.mean.values()])
        sd = np.concatenate([np.ravel(value) for value in posterior.sd.values()])
        said = np.array([word == "trusted" for word in posterior.verdict.words])
        return np.abs(mean - odd.mean) / odd.sd, sd / odd.sd, said
    from posteriors.load import load
    from posteriors.score import score

    scored = score(posterior.mean, posterior.sd, load(name)[2])
    said = np.array([words[column.replace(", ", ",").replace(",", ", ")] == "trusted" for column in scored.columns])
    light = ~scored.heavy
    return np.abs(scored.mean_error)[light], scored.sd_ratio[light], said[light]


def main(chosen: list[str] | None = None, seed: int = 0) -> None:
    """One line a target and method, then the story of the climb."""
    import jensen as jn
    from posteriors.load import load

    warnings.simplefilter("ignore")
    for name in chosen or [*ODD, *NAMED]:
        odd = ODD[name]() if name in ODD else None
        model, data = (odd.model, odd.data) if odd is not None else load(name)[:2]
        print(
            f"\n{name}\n| method | ELBO | var(log w) of q | mean error [sd ratios] | trusted | of them wrong | gradients | s |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for method in METHODS:
            try:
                posterior = jn.fit(model, method, data=data, seed=seed)
            except jn.JensenError as error:
                print(f"| {method} | {error} |")
                continue
            error, ratio, said = errors(name, posterior, odd)
            wrong = said & ((error > 0.3) | (ratio < 0.8) | (ratio > 1.25))
            spread = float(np.var(posterior.verdict.log_weights))
            print(
                f"| {method} | {posterior.elbo} | {spread:.3g} | {error.max():.2f} [{ratio.min():.2f}, {ratio.max():.2f}] | "
                f"{said.sum()} of {len(said)} | {wrong.sum()} | {posterior.cost.gradients:,} | {posterior.cost.seconds:.1f} |",
                flush=True,
            )
        for line in posterior.story:
            print(f"    {line}")


if __name__ == "__main__":
    main(sys.argv[1:])
