"""The exact posterior of a product whose largest block is Gaussian given all others, and these are few.

A linear model with groups has thousands of Gaussian coefficients and a few scales. Given the scales s the coefficients x are
Gaussian with known mean m(s) and precision P(s): the complete conditional that coordinate ascent uses. So the scales have the
density, for any number of coefficients,

    log p(s) = log p(s, m(s)) - log N(m(s); m(s), P(s)^-1) = energy at (s, m(s)) + entropy of the conditional - n / 2,

and the posterior is a mixture of these Gaussians over weighted points of the scales (few.py), which are looked for in log scales
(logits, for probabilities), starting from q's draws. A point costs about as much as a sweep of coordinate ascent for the block.

Requires: no discrete sites, one exactly Gaussian block, at most `LARGEST` other coordinates, each real, positive or in (0, 1).
Reference: Rue, Martino, Chopin (2009), Approximate Bayesian inference for latent Gaussian models by using integrated nested
Laplace approximations, JRSS B 71, of which this is the case without an approximation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit, logit

from jensen.conjugate import blocks
from jensen.conjugate.layout import GAUSSIAN
from jensen.conjugate.pieces import known
from jensen.conjugate.product import Product
from jensen.core import keys
from jensen.core.compilation import FAST_COMPILE, signature
from jensen.diagnostics.few import BLOCKS, POINTS, Few, integrate, matched
from jensen.diagnostics.integrated import Integrated, integrated
from jensen.diagnostics.quantities import Draws
from jensen.diagnostics.spaces import Own

_STARTS = 512
"""Draws of q that say where the others are."""
LARGEST = 8
"""Coordinates outside of the Gaussian block."""
_COPIES, _NUMBERS = 8, 20_000_000
"""Draws of the block at each point, and numbers of all of them together, at most."""
_BATCH = 32
"""Points a call."""
_POSITIVE = ("gamma", "inverse gamma")


def integrate_scales(q: Product, seed: int) -> Integrated | None:
    """The exact posterior, or None where q has no such block, or the weights are not good enough.

    Parameters
    ----------
    q
        The approximation.
    seed
        Randomness.
    """
    block = _gaussian(q)
    if block is None:
        return None
    rng = keys.generator(seed, "collapsed")
    collapsed = _Collapsed(q, block, rng)
    start = collapsed.coordinates(q.values(rng, _STARTS, only=collapsed.rest))
    covariance = np.cov(start.T).reshape(start.shape[1], -1)
    few = integrate(collapsed, start.mean(0), np.linalg.cholesky(covariance), rng)
    if few is None or not few.enough:
        return None
    values = collapsed.draws(few)
    derived = Own(q).derived(values)
    n = len(next(iter(values.values())))
    how = (
        f"an integral over {start.shape[1]} coordinates of {', '.join(collapsed.names)} at {len(few.weights)} points, worth "
        f"{few.share * len(few.weights):.0f}, at each of which {', '.join(q.plan.blocks[block])} are exactly Gaussian"
    )
    return integrated(q.model, few, Draws(np.zeros((n, 0)), np.full(n, np.nan), values, derived), how)


def _gaussian(q: Product) -> str | None:
    """The block that is Gaussian given all others, where these are few."""
    plan = q.plan
    roles = plan.layout.role  # type: ignore[union-attr]
    if plan.energy is None or plan.charts or plan.energy.discrete or set(q.families) != set(plan.blocks):
        return None
    if any(finding.update == "exact" and finding.reason for finding in plan.findings):
        return None  # auxiliary variables
    known = (*GAUSSIAN, "beta", *_POSITIVE)
    if any(roles[site] not in known for site in roles):
        return None
    nodes = blocks.nodes(plan)
    sizes = {b: sum(int(np.prod(nodes[site].shape)) for site in sites) for b, sites in plan.blocks.items()}
    exact = [b for b, sites in plan.blocks.items() if roles[sites[0]] == "gaussian" and b not in plan.damped]
    if not exact:
        return None
    best = max(exact, key=lambda block: sizes[block])
    return best if 0 < sum(sizes.values()) - sizes[best] <= LARGEST else None


class _Collapsed:
    """Log density of the coordinates outside of the Gaussian block, with the block's moments and a draw given them."""

    def __init__(self, q: Product, block: str, rng: np.random.Generator):
        self.q, self.block, self.rng, self.program = q, block, rng, None
        self.pairs = int(np.clip(_NUMBERS // (2 * BLOCKS * POINTS * q.families[block].pattern.n), 1, _COPIES // 2))
        self.known, self.nodes = known(q.plan.energy), blocks.nodes(q.plan)
        self.layout: Any = q.plan.layout
        self.roles = self.layout.role
        self.rest = tuple(name for name in q.plan.blocks if name != block)
        self.names = tuple(site for name in self.rest for site in q.plan.blocks[name])

    def coordinates(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Unconstrained coordinates (n, p) of values of the sites, draws first."""
        parts = []
        for site in self.names:
            x = np.asarray(values[site], float).reshape(len(values[site]), -1)
            if self.roles[site] in GAUSSIAN:
                x = self.layout.way(site).own(x)
            else:
                x = logit(x) if self.roles[site] == "beta" else np.log(x)
            parts.append(x)
        return np.concatenate(parts, 1)

    def sites(self, s: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Values of the sites at coordinates s (n, p), and the log volume (n,) of the map to them."""
        found, volume, start = {}, np.zeros(len(s)), 0
        for site in self.names:
            size = int(np.prod(self.nodes[site].shape))
            x, role = s[:, start : start + size], self.roles[site]
            start += size
            if role in GAUSSIAN:
                way = self.layout.way(site)
                volume += way.log_slope(x).sum(1)
                x = way.value(x)
            elif role == "beta":
                volume += (np.log(expit(x)) + np.log(expit(-x))).sum(1)
                x = expit(x)
            else:
                volume += x.sum(1)
                x = np.exp(x)
            found[site] = x.reshape(len(s), *self.nodes[site].shape)
        return found, volume

    def __call__(self, s: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Log density (n,) at coordinates s (n, p); the block's `mean` and `var` (n, k), and `steps` (n, pairs, k) from it."""
        values, volume = self.sites(s)
        parts = []
        for start in range(0, len(s), _BATCH):
            rows = np.minimum(np.arange(start, start + _BATCH), len(s) - 1)  # the last call is padded
            noise = self.q.families[self.block].noise(self.rng, _BATCH * self.pairs).reshape(_BATCH, self.pairs, -1)
            parts.append(jax.tree.map(np.asarray, self._call({site: x[rows] for site, x in values.items()}, noise)))
        found = {name: np.concatenate([part[name] for part in parts])[: len(s)] for name in parts[0]}
        return found.pop("log_p") + volume, found

    def _call(self, values: dict[str, np.ndarray], noise: np.ndarray) -> dict[str, Any]:
        q, rest, block = self.q, self.rest, self.block
        changing, back, shape = self.known
        args = changing, dict(q.families), values, noise

        def one(energy: Any, families: Any, values: Any, noise: Any) -> dict[str, Any]:
            own = {name: blocks.flat(q.plan, name, values) for name in rest}
            moments = {name: families[name].statistics(x) for name, x in own.items()}
            family = families[block]
            at = family.statistics(jnp.zeros(family.pattern.n))
            if block in energy.naturals:
                given = family.from_natural(*energy.naturals[block]({**moments, block: at}))
            else:
                slope = jax.grad(lambda some: energy.about(block)({**moments, block: some}))(at)
                given = family.from_gradient(slope, at)
            found = given.with_entropy()
            mean = found["mean"]
            joint = energy({**moments, block: family.statistics(mean)})
            log_p = joint + found["entropy"] - 0.5 * len(mean)
            return {
                "log_p": log_p,
                "mean": mean,
                "var": family.pattern.variances(found["cov"]),
                "steps": family.pattern.spread(noise, given.precision),
            }

        def all(changing: Any, families: Any, values: Any, noise: Any) -> dict[str, Any]:
            energy = back(changing)
            return jax.vmap(lambda values, noise: one(energy, families, values, noise))(values, noise)

        def build() -> Any:
            return jax.jit(all).lower(*args).compile(compiler_options=FAST_COMPILE)

        if self.program is None:
            self.program = q.plan.graph.remember(("collapsed", block, shape, signature(args)), build)
        return self.program(*args)

    def draws(self, few: Few) -> dict[str, np.ndarray]:
        """Draws of all sites, some at each point, with the means and sds of the mixture over all points."""
        mean, steps = few.more["mean"], few.more["steps"]
        x = matched(few, mean[:, None] + np.concatenate([steps, -steps], 1), mean, few.more["var"])
        s = np.repeat(few.points, 2 * self.pairs, 0)
        return self.sites(s)[0] | blocks.unflat(self.q.plan, self.block, x)
