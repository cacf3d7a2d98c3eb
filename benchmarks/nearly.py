"""The quadratic through few points where it can be checked: a normal hierarchy, whose scale has an exact posterior on a grid.

    python -m benchmarks nearly

y_i ~ N(z_i, 1), z_i ~ N(m, exp(t)) for many groups i, twenty data sets of each size; from a q whose sd of t is 0.85 of a rough
one. A line each: on how many the quadratic is taken, the mean skewness of t, and where it is taken the largest error of the mean
of t, in sds, and the range of sd ratios.
"""

import numpy as np

from jensen.diagnostics import nested
from jensen.diagnostics.few import weighted
from jensen.families.structured import ArrowGaussian, plates_of

SEEDS = 20


class Normals:
    """Log density and gradient at points (n, 2 + G) of m, t and z."""

    batch = 8

    def __init__(self, y: np.ndarray):
        self.y = y

    def __call__(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat in m and t."""
        m, t, own = z[:, :1], z[:, 1:2], z[:, 2:]
        away, left = (own - m) * np.exp(-2 * t), self.y - own
        log_p = (-0.5 * away * (own - m) - t - 0.5 * left**2).sum(1)
        up = np.stack([away.sum(1), (away * (own - m) - 1).sum(1)], 1)
        return log_p, np.concatenate([up, left - away], 1)


def one(groups: int, scale: float, seed: int) -> tuple[float, tuple[float, float] | None]:
    """Skewness of t, and error of its mean and ratio of its sds where the quadratic is taken."""
    y = np.random.default_rng(seed).normal(0.5, np.sqrt(1 + scale**2), groups)
    m, t = y.mean(), 0.5 * np.log(max(y.var() - 1, 0.01))
    s2 = np.exp(2 * t)
    share, sds = s2 / (1 + s2), np.array([np.sqrt((1 + s2) / groups), (1 + s2) / s2 / np.sqrt(2 * groups)])
    slopes = np.stack([np.full(groups, 1 - share), 2 * share * (1 - share) * (y - m)], 1)[:, None]
    head, mean = np.diag([1.0, 0.85] * sds), np.append([m, t], m + share * (y - m))
    plates = plates_of(np.arange(2), 2 + np.arange(groups)[:, None])
    q = ArrowGaussian(mean, head, slopes @ head, np.full((groups, 1, 1), np.sqrt(share)), plates)
    found = nested._nearly(nested.Nested(Normals(y), q), np.random.default_rng(seed), 6000)
    ts = t + sds[1] * np.linspace(-9, 7, 401)
    wide = 1 + np.exp(2 * ts)
    logs = -0.5 * (groups - 1) * np.log(wide) - 0.5 * groups * y.var() / wide
    w = np.exp(logs - logs.max())
    w /= w.sum()
    center = w @ ts
    spread = np.sqrt(w @ (ts - center) ** 2)
    skewness = float(w @ (ts - center) ** 3 / spread**3)
    if found is None:
        return skewness, None
    mean, sd, _, _ = weighted(found, found.points, np.zeros_like(found.points))
    return skewness, (abs(mean[1] - center) / spread, sd[1] / spread)


def main() -> None:
    """All sizes and scales."""
    print(
        "| groups | scale | taken | skewness | largest error of the mean, sds | sd ratios |\n|---|---|---|---|---|---|"
    )
    for groups in (300, 1000, 3000, 10_000, 30_000):
        for scale in (0.3, 1.0):
            skewness, found = zip(*(one(groups, scale, seed) for seed in range(SEEDS)), strict=True)
            taken = [each for each in found if each is not None]
            errors, ratios = np.array(taken).T if taken else (np.full(1, np.nan), np.full(1, np.nan))
            print(
                f"| {groups:,} | {scale} | {len(taken)} | {np.mean(skewness):.2f} | {errors.max():.3f} | "
                f"{ratios.min():.3f}-{ratios.max():.3f} |"
            )


if __name__ == "__main__":
    main()
